//! Where the quantity was heading: which of two channels left the path when they part.
//!
//! Owns: a handful of simple forecasts of the agreed value, each with its learned error. Must not: know channels.
//!
//! The forecasts are the last value, two exponential means and Holt's linear trend (Holt 1957); the one that has erred
//! least speaks. A quantity that is slow against its noise is foreseen by a mean, a smooth one by the trend.

use super::statistics::{VARIANCE_FLOOR, square};

/// Number of forecasts.
const FORECASTS: usize = 4;
/// Gains of the levels: the last value, two means, and the level of the trend.
const GAINS: [f64; FORECASTS] = [1.0, 0.3, 0.08, 0.5];
/// Gain of the trend's slope.
const SLOPE_GAIN: f64 = 0.15;
/// Memory of the forecasts' errors, in ticks.
const MEMORY: f64 = 256.0;
/// Kurtosis before anything is known: heavy tails.
const KURTOSIS_START: f64 = 12.0;
/// A squared error over the usual counts as this at most.
const FOURTH_POWER_ROOT_MAX: f64 = 36.0;
/// Memory of the kurtosis.
const TAIL_MEMORY: f64 = 512.0;
/// Fewest and most degrees of freedom.
const FREEDOM_MIN: f64 = 3.0;
const FREEDOM_MAX: f64 = 12.0;
/// Gain of the level that the quantity keeps to in the long run.
const LONG_GAIN: f64 = 1.0 / 512.0;
/// Memory of the distance from it.
const LONG_MEMORY: f64 = 1024.0;
/// Ticks before the long run is known.
const LONG_TICKS_MIN: f64 = 512.0;

/// The forecasts of one quantity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    levels: [f64; FORECASTS],
    slope: f64,
    variances: [f64; FORECASTS],
    best: usize,
    /// Mean fourth power of the errors over the usual squared: 3 for a normal distribution, more for heavy tails.
    kurtosis: f64,
    ticks: f64,
    long_level: f64,
    long_variance: f64,
}

impl Path {
    pub(super) const fn new() -> Self {
        Self {
            levels: [0.0; FORECASTS],
            slope: 0.0,
            variances: [0.0; FORECASTS],
            best: 0,
            kurtosis: KURTOSIS_START,
            ticks: 0.0,
            long_level: 0.0,
            long_variance: 0.0,
        }
    }

    fn forecasts(&self) -> [f64; FORECASTS] {
        let [last, fast, slow, level] = self.levels;
        [last, fast, slow, level + self.slope]
    }

    /// What the path foresaw for this tick.
    pub(super) fn forecast(&self) -> f64 {
        self.forecasts()[self.best]
    }

    /// Variance of the mean of `count` samples against the forecast made before the first of them: their noise
    /// averages out, what the quantity does meanwhile does not (a random walk of which the gain tells the steps).
    pub(super) fn variance_of_mean(&self, noise: f64, count: f64) -> f64 {
        let variance = self.variances[self.best].max(noise) + VARIANCE_FLOOR;
        variance * (1.0 / count + square(GAINS[self.best]) * (count - 1.0) / 3.0).min(1.0 + count)
    }

    /// Logarithm of the Student density of a squared error over the usual, up to a constant. The degrees of freedom are
    /// those whose kurtosis, 3 + 6 / (n - 4), is the one seen.
    pub(super) fn log_likelihood(&self, deviation_squared: f64) -> f64 {
        let freedom = (4.0 + 6.0 / (self.kurtosis - 3.0).max(0.1)).clamp(FREEDOM_MIN, FREEDOM_MAX);
        -0.5 * (freedom + 1.0) * libm::log(1.0 + deviation_squared / freedom)
    }

    /// The same against where the quantity stays in the long run; none while that is not known.
    pub(super) fn long_surprise(&self, value: f64, noise: f64) -> f64 {
        if self.ticks < LONG_TICKS_MIN {
            return 0.0;
        }
        square(value - self.long_level) / (self.long_variance.max(noise) + VARIANCE_FLOOR)
    }

    /// Takes the agreed value of one tick, and what the two channels said.
    pub(super) fn follow(&mut self, value: f64, first: f64, second: f64) {
        if self.ticks == 0.0 {
            self.levels = [value; FORECASTS];
            self.long_level = value;
            self.ticks = 1.0;
            return;
        }
        self.ticks += 1.0;
        let gain = 1.0 / self.ticks.min(MEMORY);
        let forecasts = self.forecasts();
        let mut best = 0;
        let mut errors = [0.0; FORECASTS];
        for index in 0..FORECASTS {
            let forecast = forecasts[index];
            let error = 0.5 * (square(first - forecast) + square(second - forecast));
            errors[index] = error;
            let variance = &mut self.variances[index];
            let most = if self.ticks < 16.0 {
                f64::MAX
            } else {
                16.0 * *variance
            };
            *variance += gain * (error.min(most) - *variance);
            self.levels[index] = forecast + GAINS[index] * (value - forecast);
            if self.variances[index] < self.variances[best] {
                best = index;
            }
        }
        let usual = self.variances[self.best] + VARIANCE_FLOOR;
        let fourth = square((errors[self.best] / usual).min(FOURTH_POWER_ROOT_MAX));
        self.kurtosis += (fourth - self.kurtosis) / TAIL_MEMORY;
        self.slope += SLOPE_GAIN * GAINS[3] * (value - forecasts[3]);
        self.best = best;
        let away = square(value - self.long_level);
        self.long_variance += (away - self.long_variance) / self.ticks.min(LONG_MEMORY);
        self.long_level += LONG_GAIN.max(1.0 / self.ticks) * (value - self.long_level);
    }
}
