//! Drift: whether what a model sees and says is still distributed as it was, for data whose neighbours resemble one another.
//!
//! Owns: one monitor for each input and output of a model, and when it speaks. Must not: know models, quantities or records.
//!
//! How (docs/drift.md has the measurements): values are averaged over blocks, long enough that neighbouring blocks are
//! independent, which each monitor finds out by itself (`block.rs`). The mean and the cube root of the variance of each
//! block (which is near to normal: Wilson and Hilferty 1931) go through a self-starting, two-sided CUSUM (Hawkins 1987), whose limit follows from the time between false alarms
//! that the user accepts (`cusum.rs`). Beside it the values are counted into the ten classes of the bundle's reference, so
//! that the audit can say how far they are from it (`sketch.rs`).
//!
//! Invariants: a monitor has a fixed size, at most 8 KiB; it allocates nothing after it was made; every number that it
//! keeps is finite.

use alloc::vec::Vec;

use crate::units::Mono;

mod block;
mod cusum;
mod sketch;
#[cfg(test)]
mod tests;

use block::{Block, Blocks};
use cusum::{Cusum, limit_of};
use sketch::Sketch;
pub use sketch::{CLASSES, Reference};

/// Blocks without an alarm after which a channel counts as steady again.
const STEADY_BLOCKS: u32 = 32;
/// Two statistics, each in two directions: each may alarm that much more seldom.
const CHARTS: f64 = 4.0;
/// Largest magnitude that is taken: beyond it a square is not finite.
const VALUE_MAX: f64 = 1e100;

/// What of a channel moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Its mean.
    Mean,
    /// Its scatter.
    Scatter,
}

impl Moved {
    /// The word used in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Scatter => "scatter",
        }
    }
}

/// An alarm of one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alarm {
    /// What moved.
    pub moved: Moved,
    /// Up or down.
    pub up: bool,
    /// Where the movement began, as far as the monitor can tell.
    pub since: Mono,
    /// The mean of the block that raised it, or its deviation where the scatter moved.
    pub found: f64,
    /// The same as it was learned.
    pub learned: f64,
    /// It was steady before: worth an event.
    pub is_new: bool,
}

/// One channel.
#[derive(Clone, Debug)]
pub struct Monitor {
    blocks: Blocks,
    mean: Cusum,
    scatter: Cusum,
    sketch: Sketch,
    rows_between: f64,
    alarms: u64,
    last: Option<Alarm>,
    quiet_blocks: u32,
}

const _: () = assert!(
    size_of::<Monitor>() <= 8 * 1024,
    "a channel takes at most 8 KiB"
);

impl Monitor {
    /// `rows_between`: rows between two false alarms that are accepted, on average; above 1. `reference`: of the bundle.
    #[must_use]
    pub fn new(rows_between: f64, reference: Option<Reference>) -> Self {
        Self {
            blocks: Blocks::new(),
            mean: Cusum::default(),
            scatter: Cusum::default(),
            sketch: Sketch::new(reference),
            rows_between: if rows_between.is_finite() {
                rows_between.max(1.0)
            } else {
                f64::MAX
            },
            alarms: 0,
            last: None,
            quiet_blocks: 0,
        }
    }

    /// One value of one row. Values that are not finite are left out.
    pub fn take(&mut self, now: Mono, value: f64) -> Option<Alarm> {
        // Also false for what is not a number.
        if value.abs() > VALUE_MAX || value.is_nan() {
            return None;
        }
        self.sketch.take(value);
        let block = self.blocks.take(now, value)?;
        self.judge(&block)
    }

    fn judge(&mut self, block: &Block) -> Option<Alarm> {
        let blocks_between = self.rows_between / block.rows * CHARTS;
        let limit = limit_of(blocks_between);
        let learns = !self.is_drifting();
        let learned = (self.mean.center(), self.scatter.center());
        let mean = self
            .mean
            .take(block.since, block.mean, limit, learns, block.spread);
        // A block without scatter, of a value that stands still, says nothing about it.
        let scatter = (block.variance > 0.0)
            .then(|| {
                self.scatter
                    .take(block.since, libm::cbrt(block.variance), limit, learns, 1.0)
            })
            .flatten();
        let found = mean
            .map(|found| (Moved::Mean, found))
            .or(scatter.map(|found| (Moved::Scatter, found)));
        let Some((moved, (up, since))) = found else {
            self.quiet_blocks = self.quiet_blocks.saturating_add(1);
            return None;
        };
        let (found, learned) = match moved {
            Moved::Mean => (block.mean, learned.0),
            // What is learned is the cube root of a variance.
            Moved::Scatter => (
                libm::sqrt(block.variance),
                libm::sqrt(learned.1 * learned.1 * learned.1),
            ),
        };
        let alarm = Alarm {
            moved,
            up,
            since,
            found,
            learned,
            is_new: !self.is_drifting(),
        };
        self.quiet_blocks = 0;
        self.alarms += 1;
        self.last = Some(alarm);
        Some(alarm)
    }

    /// There was an alarm, and no long time of quiet after it.
    #[must_use]
    pub fn is_drifting(&self) -> bool {
        self.last.is_some() && self.quiet_blocks < STEADY_BLOCKS
    }

    /// The newest alarm, also when it counts as steady again.
    #[must_use]
    pub fn last(&self) -> Option<&Alarm> {
        self.last.as_ref()
    }

    /// What it has seen.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let (rows, mean, deviation) = self.sketch.moments();
        Seen {
            state: match (self.blocks.rows(), self.is_drifting()) {
                (None, _) => "learning",
                (Some(_), false) => "watching",
                (Some(_), true) => "drifting",
            },
            rows,
            mean,
            deviation,
            block_rows: self.blocks.rows(),
            alarms: self.alarms,
            stability_index: self.sketch.stability_index(),
        }
    }
}

/// What a monitor has seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// `learning` (how long its blocks must be), `watching` or `drifting`.
    pub state: &'static str,
    /// Rows that were taken.
    pub rows: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// Rows in a block, once that is known.
    pub block_rows: Option<u64>,
    /// Alarms since the start.
    pub alarms: u64,
    /// Population stability index against the bundle's reference; no alarm hangs on it.
    pub stability_index: Option<f64>,
}

/// The monitors of one model.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    inputs: Vec<Monitor>,
    outputs: Vec<Monitor>,
}

/// Which channel of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// An input, by its place.
    Input(usize),
    /// An output, by its place.
    Output(usize),
}

impl Watch {
    /// `rows_between`: for the whole model; each channel alarms as much more seldom as there are channels.
    #[must_use]
    pub fn new(
        rows_between: f64,
        inputs: &[Option<Reference>],
        outputs: &[Option<Reference>],
    ) -> Self {
        let channels = u32::try_from(inputs.len() + outputs.len()).unwrap_or(u32::MAX);
        let each = rows_between * f64::from(channels);
        let monitors = |references: &[Option<Reference>]| {
            references
                .iter()
                .map(|reference| Monitor::new(each, *reference))
                .collect()
        };
        Self {
            inputs: monitors(inputs),
            outputs: monitors(outputs),
        }
    }

    /// The same inputs of another file: what was learned of them stays.
    #[must_use]
    pub fn with_inputs_of(self, other: Self) -> Self {
        Self {
            inputs: other.inputs,
            ..self
        }
    }

    /// A row of inputs; what has no value is left out. Gives the channels that began to drift.
    pub fn take_inputs(
        &mut self,
        now: Mono,
        values: impl IntoIterator<Item = Option<f64>>,
    ) -> Vec<(Channel, Alarm)> {
        let values = values.into_iter();
        take(&mut self.inputs, now, values, Channel::Input)
    }

    /// The outputs for one window. Gives the channels that began to drift.
    pub fn take_outputs(&mut self, now: Mono, values: &[f32]) -> Vec<(Channel, Alarm)> {
        let values = values.iter().map(|value| Some(f64::from(*value)));
        take(&mut self.outputs, now, values, Channel::Output)
    }

    /// Every monitor with its place.
    pub fn monitors(&self) -> impl Iterator<Item = (Channel, &Monitor)> {
        let inputs = self.inputs.iter().enumerate();
        let outputs = self.outputs.iter().enumerate();
        inputs
            .map(|(index, monitor)| (Channel::Input(index), monitor))
            .chain(outputs.map(|(index, monitor)| (Channel::Output(index), monitor)))
    }
}

fn take(
    monitors: &mut [Monitor],
    now: Mono,
    values: impl Iterator<Item = Option<f64>>,
    place: fn(usize) -> Channel,
) -> Vec<(Channel, Alarm)> {
    let mut began = Vec::new();
    for (index, (monitor, value)) in monitors.iter_mut().zip(values).enumerate() {
        let alarm = value.and_then(|value| monitor.take(now, value));
        let new = alarm.filter(|alarm| alarm.is_new);
        began.extend(new.map(|alarm| (place(index), alarm)));
    }
    began
}
