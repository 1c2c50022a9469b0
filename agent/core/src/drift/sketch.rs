//! What was seen, against the bundle's reference: moments, and counts in the classes between the reference's quantiles.

use super::block::real;

/// Classes between the nine quantiles of a reference.
pub const CLASSES: usize = 10;
/// The share of each class where all is well: quantiles 1, 5, 10, 25, 50, 75, 90, 95 and 99 %.
const SHARES: [f64; CLASSES] = [0.01, 0.04, 0.05, 0.15, 0.25, 0.25, 0.15, 0.05, 0.04, 0.01];
/// A share counts as at least so much: the logarithm of an empty class is not finite.
const SHARE_MIN: f64 = 1e-4;

/// How a channel is distributed where all is well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reference {
    /// Its mean.
    pub mean: f64,
    /// Its standard deviation, above 0.
    pub deviation: f64,
    /// Its quantiles at 1, 5, 10, 25, 50, 75, 90, 95 and 99 %; they do not fall.
    pub quantiles: [f64; CLASSES - 1],
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sketch {
    reference: Option<Reference>,
    counts: [u64; CLASSES],
    rows: u64,
    mean: f64,
    squares: f64,
}

impl Sketch {
    pub(super) fn new(reference: Option<Reference>) -> Self {
        Self {
            reference,
            counts: [0; CLASSES],
            rows: 0,
            mean: 0.0,
            squares: 0.0,
        }
    }

    pub(super) fn take(&mut self, value: f64) {
        self.rows += 1;
        let from_mean = value - self.mean;
        self.mean += from_mean / real(self.rows);
        self.squares += from_mean * (value - self.mean);
        if let Some(reference) = &self.reference {
            let class = reference
                .quantiles
                .partition_point(|quantile| *quantile < value);
            self.counts[class] += 1;
        }
    }

    /// Rows, mean, standard deviation.
    pub(super) fn moments(&self) -> (u64, f64, f64) {
        let deviation = libm::sqrt(self.squares / real(self.rows.max(2) - 1));
        (self.rows, self.mean, deviation)
    }

    /// Population stability index: the sum of (found - expected) ln(found / expected) over the classes.
    pub(super) fn stability_index(&self) -> Option<f64> {
        self.reference?;
        if self.rows == 0 {
            return None;
        }
        let part = |(count, expected): (&u64, &f64)| {
            let found = (real(*count) / real(self.rows)).max(SHARE_MIN);
            (found - expected) * libm::log(found / expected)
        };
        Some(self.counts.iter().zip(&SHARES).map(part).sum())
    }
}
