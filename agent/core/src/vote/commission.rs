//! Commissioning: what each channel's offset, noise and wander are, and which channel was wrong from the start.
//!
//! Owns: the first phase (every channel against the median), the refinement of offsets after it, and newcomers.
//! Must not: learn an offset as normal that the siblings do not bear out.

use super::channel::{Channel, Standing};
use super::statistics::{DEVIATIONS_PER_MEDIAN_DEVIATION, limited, root, square};
use super::voter::{Tick, Voter};
use super::{Reason, VoterConfig};

/// Ticks of the first phase (prototype).
const WARMING_TICKS: u32 = 32;
/// Ticks until offsets are no longer refined (prototype).
const REFINING_TICKS: u32 = 1000;
/// Samples from which a channel's offset is refined (prototype).
const REFINING_SAMPLES_MIN: u32 = 64;
/// An offset beyond this many robust spreads at start is a fault (prototype).
const OFFSET_SPREADS_MAX: f64 = 6.0;
/// The accuracy assumed when none is given, in robust spreads (prototype).
const ACCURACY_SPREADS: f64 = 3.0;
/// A residual beyond this many typical ones does not enter the first phase's statistics (prototype).
const RESIDUALS_MAX: f64 = 10.0;

/// What commissioning learned of the quantity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commission {
    /// Mean of the median distance from the reference in the first phase.
    typical_residual: f64,
    /// An offset beyond this is a fault; unlimited until the first phase has ended.
    offset_max: f64,
    /// The absolute accuracy, given or learned.
    accuracy_absolute: f64,
}

impl Commission {
    pub(super) fn new(config: &VoterConfig) -> Self {
        Self {
            typical_residual: 0.0,
            offset_max: f64::MAX,
            accuracy_absolute: config.accuracy_absolute.unwrap_or(0.0),
        }
    }

    pub(super) fn warming(&self, ticks: u32) -> bool {
        ticks <= WARMING_TICKS
    }

    pub(super) fn refining(&self, ticks: u32) -> bool {
        ticks <= REFINING_TICKS
    }

    /// Half-width within which no channel is blamed at this value.
    pub(super) fn accuracy(&self, config: &VoterConfig, reference: f64) -> f64 {
        self.accuracy_absolute + config.accuracy_relative * reference.abs()
    }

    /// The accuracy that sets a floor to the variances.
    pub(super) fn accuracy_least(&self, config: &VoterConfig, reference: f64) -> f64 {
        self.accuracy(config, reference)
    }

    /// Residual that enters the first phase's statistics at most.
    pub(super) fn residual_max(&self, tick: &Tick) -> f64 {
        (RESIDUALS_MAX * self.typical_residual).max(tick.accuracy)
    }
}

impl Voter {
    /// One tick of the first phase.
    pub(super) fn commission(&mut self, tick: &mut Tick) {
        let present = self.channels.iter().filter(|channel| channel.candidate);
        self.sorted
            .refill(present.map(|channel| channel.residual.abs()));
        if self.sorted.len() > 1 {
            self.commission.typical_residual +=
                (self.sorted.median() - self.commission.typical_residual) / f64::from(self.ticks);
        }
        let limit = self.commission.residual_max(tick);
        if tick.candidates >= 2 {
            for channel in self
                .channels
                .iter_mut()
                .filter(|channel| channel.candidate && channel.fresh)
            {
                channel.average(limit);
            }
        }
        if self.ticks == WARMING_TICKS {
            self.end_first_phase(tick);
        }
    }

    /// Offsets, the accuracy where none was given, and the channels that were wrong from the start.
    fn end_first_phase(&mut self, tick: &Tick) {
        let learned = || self.channels.iter().filter(|channel| channel.samples > 0);
        self.sorted.refill(learned().map(|channel| channel.slow));
        let middle = self.sorted.median();
        self.sorted
            .refill(learned().map(|channel| (channel.slow - middle).abs()));
        let offset_spread = if self.sorted.len() > 2 {
            DEVIATIONS_PER_MEDIAN_DEVIATION * self.sorted.median()
        } else {
            self.sorted.highest()
        };
        self.sorted.refill(learned().map(|channel| channel.noise));
        let noise = self.sorted.median();
        let spread = root(noise + square(offset_spread));
        if self.config.accuracy_absolute.is_none() {
            self.commission.accuracy_absolute = ACCURACY_SPREADS * spread;
        }
        let accuracy = self.commission.accuracy(&self.config, tick.reference);
        let given = self.config.accuracy_absolute.unwrap_or(0.0);
        self.commission.offset_max = (OFFSET_SPREADS_MAX * spread).max(2.0 * given);
        let limit = self.commission.offset_max;
        let few = self.channels.len() < 3;
        let borne_out = |channel: &Channel| {
            channel.samples > 0 && (few || (channel.slow - middle).abs() <= limit)
        };
        let believed = self.channels.iter().filter(|channel| borne_out(channel));
        let (sum, count) = believed.fold((0.0, 0_u32), |(sum, count), channel| {
            (sum + channel.slow, count + 1)
        });
        let mean = sum / f64::from(count.max(1));
        for channel in &mut self.channels {
            if borne_out(channel) {
                channel.offset = channel.slow - mean;
            } else {
                channel.noise = noise;
                if channel.samples > 0 {
                    channel.standing = Standing::Isolated;
                    channel.reason = Some(Reason::BootOffset);
                } else {
                    channel.standing = Standing::Newcomer;
                }
            }
            channel.fast = 0.0;
            channel.slow = 0.0;
            if few {
                channel.noise *= 2.0;
            }
            channel.wander = square(accuracy / 3.0).max(channel.noise);
        }
    }

    /// Channels that arrived later are learned against those that are there, outside the vote.
    pub(super) fn commission_newcomers(&mut self, tick: &Tick) {
        if tick.last_resort {
            for channel in &mut self.channels {
                // Nobody to be learned against: the first comer starts the vote.
                if channel.standing == Standing::Newcomer && channel.usable {
                    channel.standing = Standing::Trusted;
                }
            }
            return;
        }
        let limit = self.commission.offset_max;
        for channel in &mut self.channels {
            if channel.standing != Standing::Newcomer || !channel.fresh {
                continue;
            }
            channel.average(f64::MAX);
            if channel.samples < WARMING_TICKS {
                continue;
            }
            let offset = channel.slow;
            channel.slow = 0.0;
            channel.wander = channel.wander.max(channel.noise);
            if offset.abs() <= limit {
                channel.offset = offset;
                channel.readmit(0.0);
            } else {
                channel.noise = tick.typical_variance;
                channel.standing = Standing::Isolated;
                channel.reason = Some(Reason::BootOffset);
            }
        }
    }

    /// Moves what is lasting in each residual into the channel's offset, and keeps the mean of all offsets at zero.
    pub(super) fn refine_offsets(&mut self) {
        let limit = self.commission.offset_max;
        for channel in &mut self.channels {
            if channel.candidate
                && channel.fresh
                && !channel.gross
                && channel.samples > REFINING_SAMPLES_MIN
            {
                let lasting = limited(channel.slow, 3.0 * root(channel.variance)) * 2.0
                    / f64::from(channel.samples);
                if (channel.offset + lasting).abs() <= limit {
                    channel.offset += lasting;
                    channel.slow -= lasting;
                    channel.fast -= lasting;
                }
            }
        }
        if self
            .channels
            .iter()
            .all(|channel| channel.standing == Standing::Trusted)
        {
            let count = f64::from(u32::try_from(self.channels.len()).unwrap_or(1).max(1));
            let mean = self
                .channels
                .iter()
                .map(|channel| channel.offset)
                .sum::<f64>()
                / count;
            for channel in &mut self.channels {
                channel.offset -= mean;
            }
        }
    }
}

impl Channel {
    /// Running mean (in `slow`) and variance (in `noise`) of the residual, limited to `limit`.
    fn average(&mut self, limit: f64) {
        self.samples = self.samples.saturating_add(1);
        let count = f64::from(self.samples);
        let residual = limited(self.residual, limit);
        let before = residual - self.slow;
        self.slow += before / count;
        self.noise += (before * (residual - self.slow) - self.noise) / count;
    }
}
