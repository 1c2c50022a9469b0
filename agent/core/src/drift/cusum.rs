//! A self-starting CUSUM of both directions, and its limit.
//!
//! Owns: mean and deviation that were learned, and the two sums. Source: Hawkins 1987, "Self-starting CUSUM charts for
//! location and scale"; the normal score of Student's t by Wallace 1959; the run length by Siegmund 1985.
//!
//! Each statistic is compared with all before it, so there is no separate time of learning whose error would go on: the
//! score of the n-th is exactly normal when the statistics are. From [`LEARNED_MAX`] statistics on nothing more is learned,
//! so that a slow drift is not taken for the normal state; nor is anything learned while a channel drifts.

use crate::units::Mono;

/// Statistics after which nothing more is learned.
const LEARNED_MAX: f64 = 4_096.0;
/// Statistics before the first is judged.
const LEARNED_MIN: f64 = 64.0;
/// Half of the shift that is looked for, in deviations of a block.
const SLACK: f64 = 0.5;
/// A single score counts as this at most: one block of a machine that stood still is not a drift.
const SCORE_MAX: f64 = 4.0;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cusum {
    count: f64,
    mean: f64,
    squares: f64,
    up: Sum,
    down: Sum,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    value: f64,
    since: Option<Mono>,
}

impl Sum {
    /// Adds; gives where it began, and begins anew, when it passes the limit.
    fn add(&mut self, since: Mono, score: f64, limit: f64) -> Option<Mono> {
        self.value = (self.value + score - SLACK).max(0.0);
        if self.value == 0.0 {
            self.since = None;
            return None;
        }
        let began = *self.since.get_or_insert(since);
        (self.value > limit).then(|| {
            *self = Self::default();
            began
        })
    }
}

impl Cusum {
    /// The mean that was learned.
    pub(super) fn center(&self) -> f64 {
        self.mean
    }

    /// One statistic of the block that began at `since`: the direction and the beginning of a shift, when it is one.
    /// `learns`: it may be taken for the normal state. `spread`: of [`super::block::Block`], 1 for independent statistics.
    pub(super) fn take(
        &mut self,
        since: Mono,
        value: f64,
        limit: f64,
        learns: bool,
        spread: f64,
    ) -> Option<(bool, Mono)> {
        let found = self
            .score(value)
            .map(|score| score / spread)
            .and_then(|score| {
                let up = self.up.add(since, score, limit).map(|since| (true, since));
                let down = self
                    .down
                    .add(since, -score, limit)
                    .map(|since| (false, since));
                up.or(down)
            });
        if learns && self.count < LEARNED_MAX {
            self.count += 1.0;
            let from_mean = value - self.mean;
            self.mean += from_mean / self.count;
            self.squares += from_mean * (value - self.mean);
        }
        found
    }

    /// The normal score of a statistic among those before it.
    fn score(&self, value: f64) -> Option<f64> {
        let freedom = self.count - 1.0;
        let variance = self.squares / freedom;
        if self.count < LEARNED_MIN || variance <= 0.0 {
            return None;
        }
        let t = (value - self.mean) / libm::sqrt(variance * (1.0 + 1.0 / self.count));
        let magnitude = libm::sqrt(freedom * libm::log1p(t * t / freedom));
        let score = magnitude * (8.0 * freedom + 1.0) / (8.0 * freedom + 3.0);
        Some(libm::copysign(score.min(SCORE_MAX), t))
    }
}

/// The limit at which one direction alarms once in so many statistics (Siegmund's approximation, within a few percent).
pub(super) fn limit_of(statistics: f64) -> f64 {
    let run_length = |limit: f64| {
        let exponent = 2.0 * SLACK * (limit + 1.166);
        (libm::exp(exponent) - exponent - 1.0) / (2.0 * SLACK * SLACK)
    };
    let (mut low, mut high) = (0.0, 64.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if run_length(middle) < statistics {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}
