#![expect(clippy::unwrap_used, reason = "a test may panic")]

use alloc::{vec, vec::Vec};

use super::*;

/// Gaussian autoregression of unit variance (Box and Muller).
struct Series {
    random: fastrand::Rng,
    coefficient: f64,
    value: f64,
}

impl Series {
    fn new(seed: u64, coefficient: f64) -> Self {
        let mut series = Self {
            random: fastrand::Rng::with_seed(seed),
            coefficient,
            value: 0.0,
        };
        series.value = series.normal();
        series
    }

    fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.random.f64()));
        radius * libm::cos(core::f64::consts::TAU * self.random.f64())
    }

    fn next(&mut self) -> f64 {
        let innovation = libm::sqrt(1.0 - self.coefficient * self.coefficient) * self.normal();
        self.value = self.coefficient * self.value + innovation;
        self.value
    }
}

fn reference() -> Reference {
    Reference {
        mean: 0.0,
        deviation: 1.0,
        quantiles: [
            -2.326, -1.645, -1.282, -0.674, 0.0, 0.674, 1.282, 1.645, 2.326,
        ],
    }
}

/// Rows between two alarms: all rows after learning, over all alarms, of many monitors.
fn rows_between_alarms(coefficient: f64, setting: f64, replicas: u64) -> (f64, f64) {
    let (mut rows, mut alarms) = (0.0, 0.0);
    for seed in 0..replicas {
        let mut series = Series::new(1_000 + seed, coefficient);
        let mut monitor = Monitor::new(setting, None);
        let mut watched = 0.0;
        let mut at = 0;
        while watched < 10.0 * setting {
            at += 1;
            let alarm = monitor.take(Mono(at), series.next());
            if monitor.blocks.rows().is_some() {
                watched += 1.0;
            }
            alarms += f64::from(u8::from(alarm.is_some()));
        }
        rows += watched;
    }
    (rows / alarms, alarms)
}

/// The promise of docs/drift.md, in small: 0.75 to 1.25 of the setting for every autocorrelation. With `DRIFT_TABLE=1` the
/// whole table, which takes many minutes.
#[test]
fn false_alarms_come_as_seldom_as_was_set() {
    extern crate std;
    if std::env::var_os("DRIFT_TABLE").is_some() {
        drift_table();
    }
    for coefficient in [0.0, 0.5, 0.9, 0.95, 0.98] {
        let setting = 300_000.0;
        let (found, alarms) = rows_between_alarms(coefficient, setting, 30);
        assert!(alarms > 200.0, "{alarms} alarms say little");
        let share = found / setting;
        assert!(
            (0.75..=1.25).contains(&share),
            "AR({coefficient}): {share:.2} of the setting"
        );
    }
}

/// The table of docs/drift.md: `DRIFT_TABLE=1 cargo test --release -p quorate-core drift::tests::false -- --nocapture`.
#[expect(clippy::print_stdout, reason = "it is a table for people")]
fn drift_table() {
    extern crate std;
    for setting in [604_800.0, 100_000.0] {
        for coefficient in [0.9, 0.0, 0.5, 0.95, 0.98] {
            let replicas = if setting > 2e5 { 20 } else { 100 };
            let (found, alarms) = rows_between_alarms(coefficient, setting, replicas);
            std::println!(
                "| {setting} | {coefficient} | {found:.0} | {:.2} | {alarms} |",
                found / setting
            );
        }
    }
    for coefficient in [0.0, 0.5, 0.9, 0.95, 0.98] {
        for shift in [0.25, 0.5, 1.0] {
            let delays: Vec<f64> = (0..40)
                .filter_map(|seed| delay(seed, coefficient, shift, 2_592_000.0))
                .collect();
            let mut sorted = delays.clone();
            sorted.sort_by(f64::total_cmp);
            std::println!(
                "| shift {shift} | AR({coefficient}) | median {:.0} rows | {} of 40 |",
                sorted[sorted.len() / 2],
                sorted.len()
            );
        }
    }
}

/// Rows from a shift of the mean to its alarm, after a million rows without.
fn delay(seed: u64, coefficient: f64, shift: f64, setting: f64) -> Option<f64> {
    let mut series = Series::new(9_000 + seed, coefficient);
    let mut monitor = Monitor::new(setting, None);
    let mut at = 0;
    for _ in 0..1_000_000 {
        at += 1;
        monitor.take(Mono(at), series.next());
    }
    for row in 1..1_000_000_u32 {
        at += 1;
        if monitor
            .take(Mono(at), series.next() + shift)
            .is_some_and(|alarm| alarm.up)
        {
            return Some(f64::from(row));
        }
    }
    None
}

#[test]
fn a_shift_is_found_and_dated() {
    for (coefficient, rows_max) in [(0.0, 5_000.0), (0.9, 30_000.0), (0.98, 200_000.0)] {
        let found: Vec<f64> = (0..10)
            .filter_map(|seed| delay(seed, coefficient, 1.0, 2_592_000.0))
            .collect();
        assert!(
            found.len() >= 9 && found.iter().filter(|rows| **rows <= rows_max).count() >= 8,
            "AR({coefficient}): {found:?}"
        );
    }
}

#[test]
fn a_change_of_scatter_alone_is_found() {
    let mut series = Series::new(5, 0.5);
    let mut monitor = Monitor::new(1e9, None);
    let mut alarms = Vec::new();
    for row in 0..400_000_u64 {
        let gain = if row < 200_000 { 1.0 } else { 1.5 };
        alarms.extend(monitor.take(Mono(row), gain * series.next()));
    }
    let of_scatter = |alarm: &&Alarm| alarm.moved == Moved::Scatter;
    let alarm = alarms.iter().find(of_scatter).unwrap();
    assert!(alarm.up);
    assert!((195_000..205_000).contains(&alarm.since.0), "{alarm:?}");
    assert!(alarms.first().unwrap().is_new);
    assert!(
        alarms.iter().skip(1).all(|alarm| !alarm.is_new),
        "one event for one drift"
    );
    assert!(monitor.is_drifting());
}

#[test]
fn the_audit_tells_what_was_seen() {
    let mut series = Series::new(7, 0.5);
    let mut monitor = Monitor::new(1e9, Some(reference()));
    assert_eq!(monitor.seen().stability_index, None);
    for row in 0..50_000 {
        monitor.take(Mono(row), series.next());
    }
    let seen = monitor.seen();
    assert_eq!(
        (seen.state, seen.rows, seen.alarms),
        ("watching", 50_000, 0)
    );
    assert!(
        seen.mean.abs() < 0.05 && (seen.deviation - 1.0).abs() < 0.05,
        "{seen:?}"
    );
    assert!(seen.stability_index.unwrap() < 0.01, "{seen:?}");
    for row in 50_000..100_000 {
        monitor.take(Mono(row), 3.0 + series.next());
    }
    let seen = monitor.seen();
    assert_eq!(seen.state, "drifting");
    assert!(seen.stability_index.unwrap() > 0.5, "{seen:?}");
}

#[test]
fn nothing_breaks_it() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut monitor = Monitor::new(f64::NAN, Some(reference()));
    let odd = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        1e99,
        -1e99,
        0.0,
        1e-310,
    ];
    for row in 0..100_000 {
        monitor.take(Mono(row), odd[random.usize(0..odd.len())]);
    }
    let seen = monitor.seen();
    assert!(
        seen.mean.is_finite() && seen.deviation.is_finite(),
        "{seen:?}"
    );
    // A value that stands still never alarms.
    let mut still = Monitor::new(1.0, None);
    assert!((0..100_000).all(|row| still.take(Mono(row), 5.0).is_none()));
}

#[test]
fn a_model_speaks_once_for_each_channel() {
    let mut watch = Watch::new(1e9, &[None, Some(reference())], &[None]);
    let mut series = [Series::new(1, 0.5), Series::new(2, 0.9)];
    let mut began = vec![];
    for row in 0..300_000_u64 {
        let shift = if row < 150_000 { 0.0 } else { 4.0 };
        let values = [
            Some(series[0].next()),
            (row % 7 != 0).then(|| series[1].next() + shift),
        ];
        began.extend(
            watch
                .take_inputs(Mono(row), values)
                .into_iter()
                .filter(|_| row >= 150_000),
        );
        watch.take_outputs(Mono(row), &[f32::NAN]);
    }
    assert!(
        matches!(
            began[..],
            [(
                Channel::Input(1),
                Alarm {
                    moved: Moved::Mean,
                    up: true,
                    ..
                }
            )]
        ),
        "{began:?}"
    );
    assert_eq!(watch.monitors().count(), 3);
    assert_eq!(
        size_of::<Monitor>().max(2_000),
        2_000,
        "{} bytes",
        size_of::<Monitor>()
    );
}
