//! One look at a channel: the robust offset and noise of a few samples against the siblings, and whether they are of
//! one kind throughout.
//!
//! Owns: the statistics of a look. Must not: decide what becomes of the channel.

use super::statistics::{DEVIATIONS_PER_MEDIAN_DEVIATION, Sorted, root, square};

/// Samples of one look at a channel (prototype).
pub(super) const LOOK_SAMPLES: usize = 32;
/// A sample beyond this many deviations of its look does not belong to it.
const STRAY_DEVIATIONS: f64 = 6.0;
/// Strays are looked for with a variance of at most this many times that of the middle half and of the steps.
const STRAY_NOISE_SHARES: f64 = 2.0;
/// Strays that a steady look may have: a tenth of it.
const STRAYS_MAX: usize = 3;
/// The halves of a steady look differ by at most this many deviations of one sample.
const HALVES_DEVIATIONS_MAX: f64 = 3.0;
/// Samples of a look that enter its variance: nine tenths.
const LOOK_KEPT: usize = 29;
/// Variance of the middle nine tenths of a normal distribution, as a share of the whole.
const KEPT_VARIANCE_SHARE: f64 = 0.62;

/// What one look found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) offset: f64,
    pub(super) noise: f64,
    pub(super) steady: bool,
}

impl Look {
    /// Robust offset and noise of the first `count` residuals, and whether they are of one kind throughout.
    pub(super) fn at(
        sorted: &mut Sorted,
        residuals: &[f64; LOOK_SAMPLES],
        count: u32,
        accuracy: f64,
    ) -> Self {
        let count = usize::try_from(count).unwrap_or(0).min(LOOK_SAMPLES);
        let all = &residuals[..count];
        let (early, late) = all.split_at(count / 2);
        sorted.refill(early.iter().copied());
        let early = sorted.median();
        sorted.refill(late.iter().copied());
        let late = sorted.median();
        sorted.refill(all.iter().copied());
        let offset = sorted.median();
        sorted.refill(all.iter().map(|residual| (residual - offset).abs()));
        let spread = DEVIATIONS_PER_MEDIAN_DEVIATION * sorted.median();
        let kept = count.min(LOOK_KEPT);
        let squares: f64 = sorted.iter().take(kept).map(|value| square(*value)).sum();
        let kept = f64::from(u32::try_from(kept.max(1)).unwrap_or(1));
        let mut noise = squares / kept / KEPT_VARIANCE_SHARE;
        sorted.refill(all.windows(2).map(|two| (two[1] - two[0]).abs()));
        let step = DEVIATIONS_PER_MEDIAN_DEVIATION * sorted.median() / core::f64::consts::SQRT_2;
        // Where strays make up most of the variance, the noise is what the middle and the steps say.
        let core = square(spread).max(square(step));
        if core > 0.0 && noise > 9.0 * core {
            noise = core;
        }
        // One stray more than are left out of the variance would widen it until no stray is seen.
        let bounded = if core > 0.0 {
            noise.min(STRAY_NOISE_SHARES * core)
        } else {
            noise
        };
        let deviation = root(bounded);
        let stray = (STRAY_DEVIATIONS * deviation).max(accuracy);
        let strays = all
            .iter()
            .filter(|residual| (**residual - offset).abs() > stray)
            .count();
        let apart = (late - early).abs();
        Self {
            offset,
            noise,
            steady: strays <= STRAYS_MAX
                && apart <= (HALVES_DEVIATIONS_MAX * step.max(0.2 * deviation)).max(accuracy),
        }
    }
}
