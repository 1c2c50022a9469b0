//! How punctual the buses are: histograms that a bus thread fills and the endpoint reads.
//!
//! Owns: the counting. Must not: read a clock. Invariant: counting takes no lock and waits for nobody.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets in microseconds; one more bucket has no bound.
pub const BOUNDS_US: [u64; 14] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl Histogram {
    /// Counts a duration in microseconds.
    pub fn count(&self, duration_us: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < duration_us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(duration_us, Ordering::Relaxed);
        self.max_us.fetch_max(duration_us, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn view(&self) -> HistogramView {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        HistogramView {
            buckets: self.buckets.each_ref().map(load),
            sum_us: load(&self.sum_us),
            max_us: load(&self.max_us),
        }
    }
}

/// What a histogram held at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramView {
    /// Durations up to each of [`BOUNDS_US`] and above the one before; the last ones are longer than all.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// Sum in microseconds.
    pub sum_us: u64,
    /// The longest in microseconds.
    pub max_us: u64,
}

impl HistogramView {
    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// A duration in microseconds that so many in a thousand do not exceed: the bound of their bucket, or the longest
    /// of all where that is shorter.
    #[must_use]
    pub fn quantile_us(&self, in_thousand: u64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = (u128::from(count) * u128::from(in_thousand)).div_ceil(1_000);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|number| {
            seen += u128::from(*number);
            seen >= wanted
        })?;
        let bound_us = BOUNDS_US.get(bucket).copied().unwrap_or(self.max_us);
        Some(bound_us.min(self.max_us))
    }
}

/// How punctual one bus is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusTiming {
    /// Its name.
    pub bus: String,
    /// From when a sample is due to when its transfer begins.
    pub lateness: HistogramView,
    /// How long a sample takes.
    pub transfer: HistogramView,
}

#[cfg(test)]
mod tests {
    use super::{BOUNDS_US, Histogram};

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let histogram = Histogram::default();
        assert_eq!(histogram.view().quantile_us(990), None);
        for _ in 0..989 {
            histogram.count(BOUNDS_US[0]);
        }
        for duration_us in [51, 999, 1_000, 1_001, 5_000_000] {
            histogram.count(duration_us);
        }
        let view = histogram.view();
        assert_eq!((view.count(), view.max_us), (994, 5_000_000));
        assert_eq!(view.buckets[0], 989);
        assert_eq!(view.quantile_us(500), Some(50));
        assert_eq!(view.quantile_us(995), Some(100));
        assert_eq!(view.quantile_us(997), Some(1_000));
        assert_eq!(view.quantile_us(998), Some(2_000));
        assert_eq!(view.quantile_us(999), Some(5_000_000));
        assert_eq!(view.quantile_us(1_000), Some(5_000_000));
    }
}
