//! Tests of the breakers: one bus with devices, asked once a second.

use alloc::{vec, vec::Vec};

use super::{BUS, FLAPPING_MS, Guards, LASTING_MS, PERMANENT, Subject, TRANSIENT, UNANSWERED_MS};
use crate::{
    config::{BusConfig, GuardConfig, PartConfig},
    event::{ProbeFault, Reach},
    units::{BusId, Mono, SensorId},
};

const fn fault(cause: &'static str, reach: Reach) -> ProbeFault {
    ProbeFault {
        cause,
        permanent: false,
        reach,
    }
}

const SILENT: ProbeFault = fault("no-acknowledge", Reach::Device);
const STUCK: ProbeFault = fault("timeout", Reach::Bus);
const OPEN: ProbeFault = fault("open-circuit", Reach::Value);
const PENDING: ProbeFault = fault("not-ready", Reach::Pending);
const MISSING: ProbeFault = ProbeFault {
    permanent: true,
    ..fault("missing", Reach::Device)
};

struct Bench {
    guards: Guards,
    random: fastrand::Rng,
    now: Mono,
}

/// Devices with so many channels each, on one bus.
fn bench(channels: &[u16], recover: bool) -> Bench {
    let mut next = 0;
    let parts = channels.iter().map(|count| {
        let sensors = (next..next + count).map(SensorId).collect();
        next += count;
        PartConfig {
            id: "part".into(),
            bus: BusId(0),
            sensors,
        }
    });
    let config = GuardConfig {
        parts: parts.collect(),
        buses: vec![BusConfig {
            id: "i2c1".into(),
            remedy: "power it off and on".into(),
            recover,
        }],
    };
    Bench {
        guards: Guards::new(&config, usize::from(next) + 1, Mono(0)),
        random: fastrand::Rng::with_seed(3),
        now: Mono(0),
    }
}

impl Bench {
    fn ask(&mut self, sensor: u16) -> bool {
        self.guards
            .admit(self.now, SensorId(sensor), &mut self.random)
    }

    fn answer(&mut self, sensor: u16, outcome: Result<(), ProbeFault>) {
        self.guards
            .answer(self.now, SensorId(sensor), outcome, &mut self.random);
    }

    /// Asks and answers where that is allowed.
    fn round(&mut self, sensor: u16, outcome: Result<(), ProbeFault>) -> bool {
        let asked = self.ask(sensor);
        if asked {
            self.answer(sensor, outcome);
        }
        asked
    }

    /// How often it is asked in so many seconds, once a second.
    fn asked(&mut self, sensor: u16, outcome: Result<(), ProbeFault>, seconds: u64) -> u64 {
        let mut count = 0;
        for _ in 0..seconds {
            self.now = self.now.plus_ms(1_000);
            count += u64::from(self.round(sensor, outcome));
        }
        count
    }

    fn told(&mut self) -> Vec<(Subject, &'static str, bool)> {
        let turns = self.guards.take_turns();
        turns
            .into_iter()
            .map(|turn| (turn.subject, turn.to, turn.lasting))
            .collect()
    }
}

#[test]
fn the_channels_of_one_chip_fail_together_and_once() {
    // All of them were asked before the first answer came.
    let mut bench = bench(&[8, 1], false);
    for _ in 0..3 {
        bench.now = bench.now.plus_ms(1_000);
        let asked: Vec<u16> = (0..8).filter(|sensor| bench.ask(*sensor)).collect();
        for sensor in asked {
            bench.answer(sensor, Err(SILENT));
        }
    }
    assert_eq!(bench.told(), [(PART, "open", false)]);
    let retry = bench.guards.of(SensorId(0)).and_then(|(_, retry)| retry);
    let pause_ms = retry.map(|retry| retry.since_ms(bench.now));
    assert!(
        pause_ms.is_some_and(|pause_ms| pause_ms <= TRANSIENT.backoff_ms_min),
        "{pause_ms:?} ms"
    );
}

#[test]
fn one_lost_transfer_of_many_channels_is_one_failure_of_the_bus() {
    let mut bench = bench(&[8], false);
    bench.now = bench.now.plus_ms(1_000);
    let asked: Vec<u16> = (0..8).filter(|sensor| bench.ask(*sensor)).collect();
    assert_eq!(asked.len(), 8);
    for sensor in asked {
        bench.answer(sensor, Err(STUCK));
    }
    assert_eq!(bench.told(), [], "neither the chip nor the bus");
}

const PART: Subject = Subject::Part(0);
const WIRE: Subject = Subject::Bus(0);

#[test]
fn a_device_that_refuses_is_asked_less_and_less_and_comes_back() {
    let mut bench = bench(&[1, 1], false);
    assert_eq!(bench.asked(0, Err(SILENT), 3), 3);
    assert_eq!(bench.told(), [(PART, "open", false)]);
    let asked = bench.asked(0, Err(SILENT), 120);
    assert!((4..=12).contains(&asked), "{asked} times in two minutes");
    assert_eq!(bench.told(), []);
    // Its neighbour is never held up, and the bus is not blamed.
    assert_eq!(bench.asked(1, Ok(()), 30), 30);
    assert_eq!(bench.guards.health()[0].state, "closed");
    bench.asked(0, Ok(()), TRANSIENT.backoff_ms_max / 1_000 + 1);
    assert_eq!(bench.told(), [(PART, "closed", false)]);
    assert_eq!(bench.asked(0, Ok(()), 10), 10);
}

#[test]
fn what_is_permanent_by_cause_or_by_history_is_told_and_asked_rarely() {
    let mut bench = bench(&[1, 1], false);
    assert_eq!(bench.asked(0, Err(MISSING), 1), 1);
    assert_eq!(bench.told(), [(PART, "open", true)]);
    let mut bench = self::bench(&[1, 1], false);
    bench.asked(0, Err(SILENT), 3);
    bench.told();
    bench.asked(0, Err(SILENT), LASTING_MS / 1_000 + 60);
    assert_eq!(bench.told(), [(PART, "open", true)]);
    // A device that is plugged in is found within the longest back-off.
    let mut waited_s = 0;
    while bench.asked(0, Ok(()), 1) == 0 {
        waited_s += 1;
    }
    assert!(waited_s * 1_000 <= PERMANENT.backoff_ms_max, "{waited_s} s");
}

#[test]
fn a_loose_contact_goes_on_with_its_back_off() {
    let mut bench = bench(&[1, 1], false);
    let mut longest_ms = 0;
    for _ in 0..4 {
        while bench.guards.of(SensorId(0)).map(|(state, _)| state) == Some("closed") {
            bench.asked(0, Err(SILENT), 1);
        }
        let (_, retry) = bench.guards.of(SensorId(0)).expect("it is guarded");
        longest_ms = retry.expect("it is open").since_ms(bench.now);
        while bench.asked(0, Ok(()), 1) == 0 {}
    }
    assert!(longest_ms >= 4 * TRANSIENT.backoff_ms_min, "{longest_ms}");
    bench.asked(0, Ok(()), FLAPPING_MS / 1_000 + 1);
    bench.asked(0, Err(SILENT), 3);
    let (_, retry) = bench.guards.of(SensorId(0)).expect("it is guarded");
    let fresh_ms = retry.expect("it is open").since_ms(bench.now);
    assert!(fresh_ms <= TRANSIENT.backoff_ms_min, "{fresh_ms}");
}

#[test]
fn a_value_that_cannot_be_used_opens_nothing() {
    let mut bench = bench(&[1, 1], false);
    for outcome in [Err(OPEN), Err(PENDING)] {
        assert_eq!(bench.asked(0, outcome, 100), 100);
    }
    assert_eq!(bench.told(), []);
}

#[test]
fn one_round_over_a_chip_is_one_failure() {
    let mut bench = bench(&[4, 1], false);
    for _ in 0..2 {
        for sensor in 0..4 {
            assert!(bench.round(sensor, Err(SILENT)));
        }
    }
    assert_eq!(bench.told(), []);
    bench.round(0, Err(SILENT));
    assert_eq!(bench.told(), [(PART, "open", false)]);
    assert!(!bench.ask(1), "a chip is shut out as a whole");
}

#[test]
fn a_stuck_bus_is_told_apart_from_a_device_that_is_slow() {
    let mut bench = bench(&[1, 1], true);
    // One device that times out beside one that answers: no fault of the bus.
    for _ in 0..40 {
        bench.asked(0, Err(STUCK), 1);
        bench.asked(1, Ok(()), 1);
    }
    assert!(bench.told().iter().all(|(subject, _, _)| *subject == PART));
    assert!(bench.guards.take_recoveries().is_empty());
    let mut bench = self::bench(&[1, 1], true);
    for _ in 0..BUS.failures_max {
        bench.round(0, Err(STUCK));
        bench.round(1, Err(STUCK));
    }
    let opened = bench.told();
    assert!(opened.contains(&(WIRE, "open", false)), "{opened:?}");
    assert_eq!(bench.guards.take_recoveries(), [BusId(0)]);
    assert!(!bench.ask(0) && !bench.ask(1));
    // The trial of the bus is one question; its answer lets everybody through.
    bench.now = bench.now.plus_ms(BUS.backoff_ms_min);
    assert!(bench.ask(1) && !bench.ask(0));
    bench.answer(1, Ok(()));
    assert!(bench.ask(0), "the other device is tried at once");
    bench.answer(0, Ok(()));
    let closed = bench.told();
    assert!(closed.contains(&(WIRE, "closed", false)), "{closed:?}");
    assert_eq!(bench.guards.health()[0].openings, 1);
}

#[test]
fn a_bus_that_is_reset_is_tried_at_once() {
    let mut bench = bench(&[1], true);
    for _ in 0..20 {
        bench.asked(0, Err(STUCK), 1);
    }
    assert_eq!(bench.guards.health()[0].state, "open");
    assert!(!bench.guards.take_recoveries().is_empty());
    bench.guards.recovered(bench.now, BusId(0), Ok(()));
    assert!(bench.ask(0));
    assert_eq!(bench.guards.health()[0].recovery, Some("reset"));
    bench.guards.recovered(bench.now, BusId(9), Ok(()));
}

#[test]
fn a_bus_that_hangs_is_asked_no_more_and_no_trial_is_waited_for_for_ever() {
    let mut bench = bench(&[1, 1], false);
    assert!(bench.ask(0) && bench.ask(1));
    bench.now = bench.now.plus_ms(UNANSWERED_MS);
    assert!(!bench.ask(0));
    assert_eq!(bench.told(), [(WIRE, "open", false)]);
    assert_eq!(bench.guards.health()[0].cause, Some("unanswered"));
    let mut trials = 0;
    for _ in 0..600 {
        bench.now = bench.now.plus_ms(1_000);
        trials += u64::from(bench.ask(0));
    }
    assert!(
        (10..=30).contains(&trials),
        "{trials} trials in ten minutes"
    );
    // The thread comes to itself: its late answer closes the breaker.
    bench.answer(0, Ok(()));
    assert!(bench.ask(0) && bench.ask(1));
}

#[test]
fn a_trial_whose_question_was_dropped_is_made_again() {
    let mut bench = bench(&[1, 1], false);
    bench.asked(0, Err(SILENT), 3);
    let mut trials = 0;
    for _ in 0..60 {
        bench.now = bench.now.plus_ms(1_000);
        trials += u64::from(bench.ask(0));
        bench.round(1, Ok(()));
    }
    assert!(trials >= 2, "{trials}");
}

#[test]
fn a_sensor_of_no_device_is_always_asked() {
    let mut bench = bench(&[1, 1], false);
    assert_eq!(bench.asked(2, Err(STUCK), 50), 50);
    assert_eq!(bench.guards.of(SensorId(2)), None);
    assert_eq!(bench.told(), []);
}
