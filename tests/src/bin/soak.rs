//! The soak: the simulated world, an hour of chaos a seed, for so many simulated days or so many minutes of real time.
//!
//! `soak [--days N] [--minutes N] [--first SEED]`; each property that did not hold is named with its seed, and the
//! status is then 1.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use quorate_tests::world::{self, Options, Outcome};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Every so many seeds one is run twice and the runs are compared.
const TWICE_EVERY: u64 = 20;

#[derive(Debug)]
struct Limits {
    days: Option<u64>,
    minutes: Option<u64>,
    first: u64,
}

impl Limits {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut limits = Self {
            days: None,
            minutes: None,
            first: 0,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().and_then(|value| value.parse().ok());
            let value = value.ok_or_else(|| format!("`{name}` expects a whole number"))?;
            match name.as_str() {
                "--days" => limits.days = Some(value),
                "--minutes" => limits.minutes = Some(value),
                "--first" => limits.first = value,
                _ => return Err(format!("unknown option `{name}`")),
            }
        }
        if limits.days.is_none() && limits.minutes.is_none() {
            limits.days = Some(10);
        }
        Ok(limits)
    }

    fn reached(&self, device_ms: u64, spent: Duration) -> bool {
        self.days
            .is_some_and(|days| device_ms >= days.saturating_mul(DAY_MS))
            || self
                .minutes
                .is_some_and(|minutes| spent.as_secs() >= minutes.saturating_mul(60))
    }
}

fn add(total: &mut Outcome, one: &Outcome) {
    total.device_ms += one.device_ms;
    total.events += one.events;
    total.actions += one.actions;
    total.power_cuts += one.power_cuts;
    total.watchdog_restarts += one.watchdog_restarts;
    total.taken += one.taken;
    total.repeats += one.repeats;
    total.discarded += one.discarded;
    total.dropped += one.dropped;
    total.votes_judged += one.votes_judged;
}

fn report(seeds: u64, total: &Outcome, spent: Duration) -> String {
    let spent_ms = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX).max(1);
    format!(
        "{seeds} seeds, {} device-hours, {} events, {} actions, {} power cuts, {} watchdog restarts, \
         {} records taken, {} of them again, {} discarded, {} dropped, {} votes judged, {} s, {} times real time",
        total.device_ms / HOUR_MS,
        total.events,
        total.actions,
        total.power_cuts,
        total.watchdog_restarts,
        total.taken,
        total.repeats,
        total.discarded,
        total.dropped,
        total.votes_judged,
        spent_ms / 1000,
        total.device_ms / spent_ms,
    )
}

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let limits = match Limits::parse(std::env::args().skip(1)) {
        Ok(limits) => limits,
        Err(message) => {
            // Nothing is left to do when even the message cannot be written.
            let _ = writeln!(out, "soak: {message}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let mut total = Outcome::default();
    let (mut seeds, mut failures) = (0, 0);
    while !limits.reached(total.device_ms, began.elapsed()) {
        let seed = limits.first + seeds;
        let run = if seed % TWICE_EVERY == 0 {
            world::run_twice
        } else {
            world::run
        };
        match run(Options::hour(seed)) {
            Ok(outcome) => add(&mut total, &outcome),
            Err(failure) => {
                failures += 1;
                let _ = writeln!(out, "{failure}\n(an hour of chaos: soak --first {seed})");
                // Its time counts, or a world in which every seed fails would never end.
                total.device_ms += failure.at_ms;
            }
        }
        seeds += 1;
        if seeds % 100 == 0 {
            let _ = writeln!(out, "{}", report(seeds, &total, began.elapsed()));
        }
    }
    let _ = writeln!(
        out,
        "{}, {failures} seeds failed",
        report(seeds, &total, began.elapsed())
    );
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
