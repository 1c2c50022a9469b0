//! Runs the golden vectors of bundles and prints, as JSON, how far each output is from the expected one and how long a run
//! takes. Where a golden vector would refuse a bundle this says by how much; `tests/rigs/third_party.py` and
//! `tests/rigs/model_latency.py` read it.
//!
//! usage: vectors RUNS FOLDER...      RUNS: timed runs of each bundle; 0 measures no time.

use std::io::{self, Write};
use std::time::Instant;

use quorate_models::{Bundle, Runner};

/// Most runs before time is taken.
const WARM_UP: usize = 200;
/// Outputs below this are nothing: the largest of a vector counts as at least so much.
const LARGEST_MIN: f64 = 1e-3;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let runs = arguments
        .next()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(0);
    let mut output = io::stdout().lock();
    for folder in arguments {
        let said = match examine(&folder, runs) {
            Ok(found) => found,
            Err(error) => serde_json::json!({ "folder": folder, "error": error }),
        };
        writeln!(output, "{said}")?;
        output.flush()?;
    }
    Ok(())
}

fn examine(folder: &str, runs: usize) -> Result<serde_json::Value, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let bundle = Bundle::open(folder).map_err(|error| text(&error))?;
    let mut runner = Runner::load(&bundle).map_err(|error| text(&error))?;
    let vectors = bundle.golden().vectors();
    // Of the largest output of the same vector, and of each output itself.
    let (mut of_largest, mut of_each) = (0.0_f64, 0.0_f64);
    for vector in vectors {
        let got = runner.run(&vector.input).map_err(|error| text(&error))?;
        let magnitude = |numbers: &[f32]| {
            numbers
                .iter()
                .fold(0.0_f64, |most, number| most.max(f64::from(*number).abs()))
        };
        let largest = magnitude(&vector.outputs).max(LARGEST_MIN);
        for (got, expected) in got.iter().zip(&vector.outputs) {
            let (got, expected) = (f64::from(*got), f64::from(*expected));
            let distance = (got - expected).abs();
            of_largest = of_largest.max(distance / largest);
            if distance > 0.0 {
                of_each = of_each.max(distance / expected.abs().max(LARGEST_MIN));
            }
        }
    }
    let mut times_ns = Vec::with_capacity(runs);
    for (index, vector) in vectors
        .iter()
        .cycle()
        .take(runs + WARM_UP.min(runs))
        .enumerate()
    {
        let start = Instant::now();
        runner.run(&vector.input).map_err(|error| text(&error))?;
        if index >= WARM_UP.min(runs) {
            times_ns.push(start.elapsed().as_nanos());
        }
    }
    times_ns.sort_unstable();
    let quantile = |percent: usize| {
        let index = (times_ns.len() * percent / 100).min(times_ns.len().saturating_sub(1));
        let nanoseconds = times_ns
            .get(index)
            .and_then(|time| u32::try_from(*time).ok())?;
        Some(f64::from(nanoseconds) / 1_000.0)
    };
    Ok(serde_json::json!({
        "folder": folder, "vectors": vectors.len(), "of_largest": of_largest, "of_each": of_each, "runs": runs,
        "p50_us": quantile(50), "p99_us": quantile(99),
    }))
}
