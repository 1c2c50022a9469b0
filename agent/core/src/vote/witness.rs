//! The witness: a quarantined channel whose deviation was steady can still say which of a pair moved.
//!
//! Owns: the mean and spread of an isolated channel's deviation from an agreeing pair.
//! Must not: bring the channel's value into the vote.

use super::statistics::square;

/// Memory of the deviation, in samples (prototype).
const MEMORY: f64 = 64.0;
/// Samples before it may speak (prototype).
const SAMPLES_MIN: u32 = 32;
/// Its spread may be at most this many times the pair's variance (prototype).
const SPREAD_MAX: f64 = 9.0;

/// What an isolated channel says of a pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witness {
    mean: f64,
    variance: f64,
    samples: u32,
}

impl Witness {
    pub(super) const fn new() -> Self {
        Self {
            mean: 0.0,
            variance: 0.0,
            samples: 0,
        }
    }

    /// Learns its deviation from a pair that agrees.
    pub(super) fn watch(&mut self, deviation: f64) {
        self.samples = self.samples.saturating_add(1);
        let gain = 1.0 / f64::from(self.samples).min(MEMORY);
        let innovation = deviation - self.mean;
        self.mean += gain * innovation;
        self.variance += gain * (square(innovation) - self.variance);
    }

    /// Its deviation and the variance of it, where it was steady enough to be heard.
    pub(super) fn testimony(&self, pair_variance: f64) -> Option<(f64, f64)> {
        (self.samples >= SAMPLES_MIN && self.variance < SPREAD_MAX * pair_variance)
            .then_some((self.mean, self.variance))
    }
}
