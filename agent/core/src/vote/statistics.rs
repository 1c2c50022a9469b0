//! Small robust statistics on a fixed buffer.
//!
//! Owns: the sorted scratch of a voter and a few formulas. Must not: know channels, or allocate after construction.

use alloc::boxed::Box;
use alloc::vec;

/// Added to variances so that nothing is divided by zero; far below any physical variance, far above underflow.
pub(super) const VARIANCE_FLOOR: f64 = 1e-150;

/// Ratio of the standard deviation of a normal spread to its median absolute deviation.
pub(super) const DEVIATIONS_PER_MEDIAN_DEVIATION: f64 = 1.4826;

/// A sorted list with room for every channel; insertion keeps it sorted, which is fastest for a handful of values.
#[derive(Clone, Debug)]
pub(super) struct Sorted {
    /// Room for every channel; the first `count` are in use. Not a growing vector: a clone of one loses its room.
    values: Box<[f64]>,
    count: usize,
}

impl Sorted {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            values: vec![0.0; capacity].into_boxed_slice(),
            count: 0,
        }
    }

    /// Replaces the contents; keeps at most as many values as there is room for.
    pub(super) fn refill(&mut self, values: impl Iterator<Item = f64>) {
        self.count = 0;
        for value in values.take(self.values.len()) {
            let mut place = self.count;
            while place > 0 && self.values[place - 1] > value {
                self.values[place] = self.values[place - 1];
                place -= 1;
            }
            self.values[place] = value;
            self.count += 1;
        }
    }

    pub(super) fn iter(&self) -> core::slice::Iter<'_, f64> {
        self.values[..self.count].iter()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Mean of the middle two of an even number; 0 when empty.
    pub(super) fn median(&self) -> f64 {
        let count = self.count;
        if count == 0 {
            0.0
        } else if count % 2 == 1 {
            self.values[count / 2]
        } else {
            0.5 * (self.values[count / 2 - 1] + self.values[count / 2])
        }
    }

    /// 0 when empty.
    pub(super) fn lowest(&self) -> f64 {
        self.values[..self.count].first().copied().unwrap_or(0.0)
    }

    /// 0 when empty.
    pub(super) fn highest(&self) -> f64 {
        self.values[..self.count].last().copied().unwrap_or(0.0)
    }
}

pub(super) fn square(value: f64) -> f64 {
    value * value
}

pub(super) fn root(value: f64) -> f64 {
    libm::sqrt(value)
}

/// `value` moved to within `limit` of zero.
pub(super) fn limited(value: f64, limit: f64) -> f64 {
    value.max(-limit).min(limit)
}

/// `value` moved to within `spreads` standard deviations of zero; the root is taken only where it matters.
pub(super) fn limited_by_variance(value: f64, spreads: f64, variance: f64) -> f64 {
    if beyond(value, spreads, variance) {
        limited(value, spreads * root(variance))
    } else {
        value
    }
}

/// Whether `value` is more than `spreads` standard deviations from zero, without taking a root.
pub(super) fn beyond(value: f64, spreads: f64, variance: f64) -> bool {
    square(value) > square(spreads) * variance
}

/// Logarithm of the Student density with three degrees of freedom, up to a constant: it forgives outliers.
pub(super) fn log_likelihood(deviation_squared: f64) -> f64 {
    -2.0 * libm::log(1.0 + deviation_squared / 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_any_order() {
        let mut sorted = Sorted::with_capacity(5);
        sorted.refill([3.0, 1.0, 5.0, 2.0, 4.0].into_iter());
        assert_eq!(
            (sorted.median(), sorted.lowest(), sorted.highest()),
            (3.0, 1.0, 5.0)
        );
        sorted.refill([4.0, 1.0].into_iter());
        assert_eq!((sorted.median(), sorted.len()), (2.5, 2));
        sorted.refill(core::iter::empty());
        assert_eq!(sorted.median(), 0.0);
    }

    #[test]
    fn limits_agree_with_and_without_a_root() {
        assert_eq!(limited_by_variance(10.0, 2.0, 4.0), 4.0);
        assert_eq!(limited_by_variance(-3.0, 2.0, 4.0), -3.0);
        assert!(beyond(-4.1, 2.0, 4.0) && !beyond(4.0, 2.0, 4.0));
    }
}
