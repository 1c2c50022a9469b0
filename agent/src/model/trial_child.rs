//! The process that tries a model: `quorate model-trial`, which nobody calls by hand.
//!
//! Owns: its own limits, and the measuring. Must not: write a file, or open one but `/proc/self/status`.

use std::{
    fs,
    io::{self, Read as _, Write},
};

use quorate_models::{
    Bundle, Runner, RunnerError,
    package::{PACKAGE_BYTES_MAX, Parts},
};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::trial::{Answer, Measured, Refusal};
use crate::{clock::Stopwatch, outcome::Outcome};

/// Inferences that are measured.
const RUNS: usize = 1_000;
/// Measuring ends after this time, in microseconds, with at least one run of each golden vector.
const RUNS_US_MAX: u64 = 2_000_000;

/// Tries the bundle on standard input and answers on standard output.
///
/// # Errors
/// Status 1 when the limits cannot be set or the answer cannot be written.
pub fn run(memory_bytes: u64, cpu_s: u64, output: &mut impl Write) -> Result<(), Outcome> {
    for (resource, most) in [
        (Resource::As, memory_bytes),
        (Resource::Cpu, cpu_s),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most.saturating_add(1)),
        };
        setrlimit(resource, limit).map_err(Outcome::failed)?;
    }
    let mut framed = Vec::new();
    io::stdin()
        .lock()
        .take(PACKAGE_BYTES_MAX)
        .read_to_end(&mut framed)
        .map_err(Outcome::failed)?;
    let answer = match Parts::from_framed(&framed) {
        None => refusal("truncated", "what came is no bundle"),
        Some(parts) => match parts.bundle() {
            Err(error) => refusal("wrong-part", error),
            Ok(bundle) => measure(&bundle)
                .map_or_else(|error| refusal(cause(&error), error), Answer::Measured),
        },
    };
    let text = serde_json::to_string(&answer).map_err(Outcome::failed)?;
    writeln!(output, "{text}").map_err(Outcome::failed)
}

fn refusal(cause: &str, detail: impl ToString) -> Answer {
    Answer::Refused(Refusal {
        cause: cause.to_owned(),
        detail: detail.to_string(),
    })
}

fn cause(error: &RunnerError) -> &'static str {
    match error {
        RunnerError::Operator(_) => "operator",
        RunnerError::Golden { .. } | RunnerError::GoldenRun { .. } => "golden",
        // The runtime panics where its own allocation fails, and aborts where one of Rust's does.
        RunnerError::Panicked { message, .. } if message.starts_with("failed to allocate") => {
            "out-of-memory"
        }
        RunnerError::Panicked { .. } => "panicked",
        RunnerError::Model { .. } => "cannot-load",
        _ => "failed",
    }
}

fn measure(bundle: &Bundle) -> Result<Measured, RunnerError> {
    let before = status_bytes("VmRSS:");
    let whole = Stopwatch::start();
    let mut runner = Runner::load(bundle)?;
    let load_us = whole.elapsed_us();
    let mut times = Vec::with_capacity(RUNS);
    let vectors = bundle.golden().vectors();
    let loop_time = Stopwatch::start();
    for vector in vectors.iter().cycle().take(RUNS.max(vectors.len())) {
        if times.len() >= vectors.len() && loop_time.elapsed_us() > RUNS_US_MAX {
            break;
        }
        let one = Stopwatch::start();
        runner.run(&vector.input)?;
        times.push(one.elapsed_us());
    }
    times.sort_unstable();
    let rank = (times.len() * 99).div_ceil(100).saturating_sub(1);
    let peak = status_bytes("VmHWM:");
    Ok(Measured {
        load_ms: load_us.div_ceil(1_000),
        p99_us: times.get(rank).copied().unwrap_or(0),
        memory_bytes: peak
            .zip(before)
            .map(|(peak, before)| peak.saturating_sub(before)),
        inferences: u64::try_from(times.len()).unwrap_or(u64::MAX),
    })
}

/// A line of this process's status, in bytes.
fn status_bytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}
