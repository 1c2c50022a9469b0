//! The simulated world in continuous integration: many seeds, and a broken world for every checker.
//!
//! `SEED=7 cargo test -p quorate-tests --test world one_seed -- --nocapture` replays one seed; `TRACE=1` shows every
//! event and action. `SEEDS=1000` runs more.

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

    use std::{
        collections::BTreeMap,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
        thread,
    };

    use quorate_tests::{
        checkers::Checker,
        world::{self, Options, Outcome, Sabotage},
    };

    /// Seeds of one run, unless `SEEDS` says otherwise.
    const SEEDS: u64 = 200;
    /// Every so many seeds one is run twice and compared.
    const TWICE_EVERY: u64 = 20;
    /// Within so many seeds each sabotage must be caught.
    const CANARY_SEEDS: u64 = 40;
    /// How long faults happen in a seed here; the soak runs an hour.
    const CHAOS_MS: u64 = 1_200_000;
    /// How long the world has to get well here: the longest hang, back-off and kill, and the backlog.
    const HEAL_MS: u64 = 420_000;

    fn number(name: &str) -> Option<u64> {
        std::env::var(name).ok()?.parse().ok()
    }

    fn options(seed: u64) -> Options {
        Options {
            chaos_ms: CHAOS_MS,
            heal_ms: HEAL_MS,
            ..Options::hour(seed)
        }
    }

    /// Runs the seeds on two threads; the failures by seed.
    fn run_all(seeds: u64) -> (BTreeMap<u64, String>, Vec<Outcome>) {
        let next = AtomicU64::new(0);
        let failures = Mutex::new(BTreeMap::new());
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds {
                            return;
                        }
                        let run = if seed.is_multiple_of(TWICE_EVERY) {
                            world::run_twice
                        } else {
                            world::run
                        };
                        match run(options(seed)) {
                            Ok(outcome) => outcomes.lock().unwrap().push(outcome),
                            Err(failure) => {
                                failures.lock().unwrap().insert(seed, failure.to_string());
                            }
                        }
                    }
                });
            }
        });
        (
            failures.into_inner().unwrap(),
            outcomes.into_inner().unwrap(),
        )
    }

    /// Defects that the world has found and that are not mended yet, each with its checker; docs/simulation.md says what
    /// is known of them. The list may only shrink: a seed that passes again must be taken off it.
    const OPEN_DEFECTS: [(u64, &str); 0] = [];

    #[test]
    fn many_seeds() {
        let seeds = number("SEEDS").unwrap_or(SEEDS);
        eprintln!("seeds 0 to {}", seeds - 1);
        let (mut failures, outcomes) = run_all(seeds);
        for (seed, checker) in OPEN_DEFECTS {
            if seed < seeds {
                let found = failures.remove(&seed);
                let still = found.is_some_and(|text| text.contains(checker));
                assert!(
                    still,
                    "seed {seed} no longer fails {checker}: take it off the list"
                );
            }
        }
        let total = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
        eprintln!(
            "{} seeds, {} device-hours, {} events, {} power cuts, {} watchdog restarts, {} records taken, {} again, \
             {} discarded, {} votes judged",
            outcomes.len(),
            total(|outcome| outcome.device_ms) / 3_600_000,
            total(|outcome| outcome.events),
            total(|outcome| outcome.power_cuts),
            total(|outcome| outcome.watchdog_restarts),
            total(|outcome| outcome.taken),
            total(|outcome| outcome.repeats),
            total(|outcome| outcome.discarded),
            total(|outcome| outcome.votes_judged),
        );
        let texts: Vec<&str> = failures.values().map(String::as_str).collect();
        assert!(
            failures.is_empty(),
            "{} seeds failed:\n{}",
            failures.len(),
            texts.join("\n")
        );
        // A world without faults would prove nothing.
        assert!(total(|outcome| outcome.power_cuts) >= seeds / 2);
        assert!(total(|outcome| outcome.repeats) >= seeds);
        assert!(total(|outcome| outcome.discarded) >= seeds / 20);
        assert!(total(|outcome| outcome.votes_judged) >= seeds * 100);
    }

    #[test]
    fn one_seed() {
        let seed = number("SEED").unwrap_or(0);
        eprintln!("seed {seed}");
        let trace = std::env::var_os("TRACE").is_some();
        let outcome = world::run_twice(Options {
            trace,
            ..options(seed)
        });
        match outcome {
            Ok(outcome) => eprintln!("{outcome:?}"),
            Err(failure) => panic!("{failure}"),
        }
    }

    /// The first seed whose world breaks, and by whom it was caught.
    fn caught(sabotage: Sabotage) -> Option<(u64, Checker, String)> {
        (0..CANARY_SEEDS).find_map(|seed| {
            let options = Options {
                sabotage,
                ..options(seed)
            };
            let failure = if sabotage == Sabotage::Nondeterministic {
                world::run_twice(options)
            } else {
                world::run(options)
            }
            .err()?;
            Some((seed, failure.violation.checker, failure.violation.message))
        })
    }

    #[test]
    fn every_sabotage_is_caught_by_its_checker() {
        for (sabotage, checker) in Sabotage::ALL {
            let caught = caught(sabotage);
            eprintln!("{sabotage:?}: {caught:?}");
            let by = caught.as_ref().map(|(_, by, _)| *by);
            assert_eq!(by, Some(checker), "{sabotage:?}: {caught:?}");
        }
    }

    #[test]
    fn every_checker_has_a_sabotage() {
        let mut proven: Vec<Checker> = Sabotage::ALL.iter().map(|(_, checker)| *checker).collect();
        proven.sort();
        proven.dedup();
        assert_eq!(proven.len(), Checker::ALL.len(), "{proven:?}");
    }
}
