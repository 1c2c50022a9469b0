//! Blocks of values, as long as the data need: neighbouring blocks must not resemble one another.
//!
//! Owns: how long a block is. Values are averaged over 1, 2, 4 ... rows at the same time; for each length the correlation of
//! neighbouring averages is kept. The first length at which it is small, found over enough averages, is taken four times
//! (the correlation of neighbouring means of an autoregression falls as one over the length), and stays.

use crate::units::Mono;

/// Lengths that are tried: 2^0 to 2^23 rows, 97 days at one a second.
const LEVELS: usize = 24;
/// Shortest block: its mean must be near to normal.
const LEVEL_MIN: usize = 6;
/// Averages of a length before it is judged.
const AVERAGES_MIN: f64 = 400.0;
/// Largest correlation of neighbouring averages at the length that is taken four times.
const CORRELATION_MAX: f64 = 0.08;
/// Two doublings more.
const LEVELS_MORE: usize = 2;

/// A complete block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Block {
    /// When it began.
    pub(super) since: Mono,
    pub(super) rows: f64,
    pub(super) mean: f64,
    /// Of the single values around the mean.
    pub(super) variance: f64,
    /// How much wider than by its own deviation a sum of such means scatters: above 1 where neighbours still correlate.
    pub(super) spread: f64,
}

/// Running moments of averages of one length, and the product of neighbours (Welford's form).
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// The first of two averages that make one of the next length.
    half: Option<f64>,
    before: f64,
    count: f64,
    mean: f64,
    squares: f64,
    products: f64,
}

impl Level {
    fn take(&mut self, value: f64) {
        if self.count == 0.0 {
            // The first value as the origin, so that a large offset costs no digits.
            self.mean = value;
        }
        let from_mean = value - self.mean;
        if self.count > 0.0 {
            self.products += from_mean * (self.before - self.mean);
        }
        self.count += 1.0;
        self.mean += from_mean / self.count;
        self.squares += from_mean * (value - self.mean);
        self.before = value;
    }

    /// Correlation of neighbours; none before there are enough, or where nothing varies.
    fn correlation(&self) -> Option<f64> {
        (self.count >= AVERAGES_MIN && self.squares > 0.0).then(|| self.products / self.squares)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Blocks {
    levels: [Level; LEVELS],
    /// Rows of a block, once it is decided.
    rows: Option<u64>,
    spread: f64,
    since: Mono,
    count: u64,
    mean: f64,
    squares: f64,
}

impl Blocks {
    pub(super) fn new() -> Self {
        Self {
            levels: [Level::default(); LEVELS],
            rows: None,
            spread: 1.0,
            since: Mono(0),
            count: 0,
            mean: 0.0,
            squares: 0.0,
        }
    }

    /// Rows of a block, once it is decided.
    pub(super) fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// The block that this value completes.
    pub(super) fn take(&mut self, now: Mono, value: f64) -> Option<Block> {
        let Some(rows) = self.rows else {
            self.learn(value);
            return None;
        };
        if self.count == 0 {
            (self.since, self.mean, self.squares) = (now, 0.0, 0.0);
        }
        self.count += 1;
        let count = real(self.count);
        let from_mean = value - self.mean;
        self.mean += from_mean / count;
        self.squares += from_mean * (value - self.mean);
        if self.count < rows {
            return None;
        }
        self.count = 0;
        Some(Block {
            since: self.since,
            rows: count,
            mean: self.mean,
            variance: self.squares / (count - 1.0),
            spread: self.spread,
        })
    }

    fn learn(&mut self, value: f64) {
        let mut average = value;
        for level in 0..LEVELS {
            self.levels[level].take(average);
            match self.levels[level].half.take() {
                None => {
                    self.levels[level].half = Some(average);
                    break;
                }
                Some(half) => average = f64::midpoint(half, average),
            }
        }
        let is_independent = |level: &Level| {
            level
                .correlation()
                .is_some_and(|correlation| correlation < CORRELATION_MAX)
        };
        // Only a length that just got an average can have changed; looking at all is as cheap, and simpler.
        let lengths = LEVEL_MIN - LEVELS_MORE..LEVELS - LEVELS_MORE;
        let found = lengths
            .into_iter()
            .find(|level| is_independent(&self.levels[*level]));
        let Some(level) = found else { return };
        self.rows = Some(1 << (level + LEVELS_MORE));
        // What is left of the correlation after the doublings; a sum of many has (1 + 2 r) times the variance.
        let left =
            self.levels[level].correlation().unwrap_or(0.0).max(0.0) / real(1 << LEVELS_MORE);
        self.spread = libm::sqrt(1.0 + 2.0 * left);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count of rows stays far below 2^53"
)]
pub(super) fn real(count: u64) -> f64 {
    count as f64
}
