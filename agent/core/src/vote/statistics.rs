//! Small robust statistics on a fixed buffer.
//!
//! Owns: the sorted scratch of a voter and a few formulas. Must not: know channels, or allocate after construction.

use alloc::boxed::Box;
use alloc::vec;

/// Added to variances so that nothing is divided by zero; far below any physical variance, far above underflow.
pub(super) const VARIANCE_FLOOR: f64 = 1e-150;

/// Ratio of the standard deviation of a normal spread to its median absolute deviation.
pub(super) const DEVIATIONS_PER_MEDIAN_DEVIATION: f64 = 1.4826;

/// A sorted list with room for every channel.
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
        for (place, value) in self.values.iter_mut().zip(values) {
            *place = value;
            self.count += 1;
        }
        let used = &mut self.values[..self.count];
        match used {
            [] | [_] => {}
            [a, b] => order(a, b),
            [a, b, c] => {
                order(a, b);
                order(b, c);
                order(a, b);
            }
            [a, b, c, d] => {
                order(a, b);
                order(c, d);
                order(a, c);
                order(b, d);
                order(b, c);
            }
            // Nine exchanges, the fewest possible (Knuth, The Art of Computer Programming, volume 3, 5.3.4).
            [a, b, c, d, e] => {
                order(a, b);
                order(d, e);
                order(c, e);
                order(c, d);
                order(a, d);
                order(a, c);
                order(b, e);
                order(b, d);
                order(b, c);
            }
            more => more.sort_unstable_by(f64::total_cmp),
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

/// The share of one sample in a mean of `count`, or of `memory` where that is less; no division once it is full.
pub(super) fn share(count: u32, memory: u32) -> f64 {
    if count >= memory {
        // The compiler turns this into a constant.
        1.0 / f64::from(memory)
    } else {
        1.0 / f64::from(count.max(1))
    }
}

pub(super) fn square(value: f64) -> f64 {
    value * value
}

/// Puts two values in order without a branch.
fn order(low: &mut f64, high: &mut f64) {
    let (one, other) = (*low, *high);
    let swap = other < one;
    *low = if swap { other } else { one };
    *high = if swap { one } else { other };
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
        let mut random = fastrand::Rng::with_seed(1);
        for count in 0..=8 {
            let mut sorted = Sorted::with_capacity(8);
            for _ in 0..200 {
                let values: alloc::vec::Vec<f64> =
                    (0..count).map(|_| f64::from(random.u8(0..9))).collect();
                sorted.refill(values.iter().copied());
                assert_eq!(sorted.iter().sum::<f64>(), values.iter().sum::<f64>());
                assert!(sorted.iter().is_sorted(), "{values:?}");
            }
        }
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
