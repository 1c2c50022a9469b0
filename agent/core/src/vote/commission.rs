//! Commissioning: what each channel's offset and noise are, and which channel was wrong from the start.
//!
//! Owns: the first phase (every channel against the median) and the refinement of offsets after it.
//! Must not: learn an offset as normal that was not steady, or that the siblings or the given accuracy do not bear out.

use alloc::vec;
use alloc::vec::Vec;

use super::channel::{Channel, Standing};
use super::look::{LOOK_SAMPLES, Look};
use super::statistics::{
    DEVIATIONS_PER_MEDIAN_DEVIATION, Sorted, VARIANCE_FLOOR, limited, root, square,
};
use super::voter::{Tick, Voter};
use super::{Reason, VoterConfig};

/// The same, as a count of samples.
pub(super) const LOOK_COUNT: u32 = 32;
/// Looks at all channels together before the vote goes on with what there is.
const FIRST_LOOKS_MAX: u32 = 4;
/// Ticks without an isolation after which channels that were not steady at first are taken as settled.
const SETTLING_TICKS: u32 = 256;
/// Ticks until offsets are no longer refined (prototype).
const REFINING_TICKS: u32 = 1000;
/// Samples from which a channel's offset is refined (prototype).
const REFINING_SAMPLES_MIN: u32 = 64;
/// An offset beyond this many robust spreads at start is a fault (prototype).
const OFFSET_SPREADS_MAX: f64 = 6.0;
/// Times the given accuracy that two healthy channels differ by at most.
const DIFFERENCE_ACCURACIES: f64 = 1.5;
/// An offset beyond this many times the difference that the accuracy allows is a fault, unless noise alone may explain it.
const OFFSET_ACCURACIES_MAX: f64 = 2.7;
/// Noise beyond this many times the difference that the accuracy allows is a fault, unless the siblings are noisy too.
const NOISE_ACCURACIES_MAX: f64 = 2.0;
/// A pair's difference at start beyond this many of its noise deviations leaves a doubt when no accuracy is given.
const PAIR_SPREADS_MAX: f64 = 12.0;
/// A residual beyond this many typical ones is left out of the value in the first phase (prototype).
const RESIDUALS_MAX: f64 = 6.0;
/// Variance of the wander at start, as a share of the noise.
pub(super) const WANDER_START_SHARE: f64 = 1.0;
/// Standard deviation of the wander at start, as a share of a given accuracy.
const WANDER_START_ACCURACY: f64 = 0.7;
/// Standard deviation of the wander at start, as a share of the offsets' own: what differs much also wanders much.
const WANDER_START_OFFSETS: f64 = 1.5;
/// An offset this many noise deviations from the middle of all counts half in their mean.
const CENTRE_DEVIATIONS: f64 = 2.0;

/// What commissioning learned of the quantity.
#[derive(Clone, Debug)]
pub(super) struct Commission {
    /// The first phase is going on.
    open: bool,
    /// The last tick of the phase that is going on.
    last_tick: u32,
    looks: u32,
    /// Mean of the median distance from the reference in the first phase.
    typical_residual: f64,
    /// An offset beyond this is a fault; unlimited until the first phase has ended.
    pub(super) offset_max: f64,
    /// Noise (a variance) beyond this is a fault.
    pub(super) noise_max: f64,
    /// Ticks for which the channels, never steady in the first phase, must still go well together.
    unsettled: u32,
    /// Nobody bears out the offsets that the vote rests on.
    pub(super) doubt: bool,
    /// Channels that had been learned when the first phase ended.
    pub(super) learned: usize,
    /// The residuals of each channel's look.
    pub(super) looked: Vec<[f64; LOOK_SAMPLES]>,
    /// Room to sort one look.
    pub(super) scratch: Sorted,
}

impl Commission {
    pub(super) fn new(config: &VoterConfig) -> Self {
        Self {
            open: true,
            last_tick: LOOK_COUNT,
            looks: 0,
            typical_residual: 0.0,
            offset_max: f64::MAX,
            noise_max: f64::MAX,
            unsettled: 0,
            doubt: false,
            learned: 0,
            looked: vec![[0.0; LOOK_SAMPLES]; config.channels],
            scratch: Sorted::with_capacity(LOOK_SAMPLES),
        }
    }

    /// Goes on where an earlier run ended.
    pub(super) fn resume(&mut self, offset_max: f64, noise_max: f64, doubt: bool) {
        self.open = false;
        self.offset_max = offset_max;
        self.noise_max = noise_max;
        self.doubt = doubt;
    }

    /// The first phase is going on, this tick included.
    pub(super) fn warming(&self) -> bool {
        self.open
    }

    /// Nobody bears out what the vote rests on, or the first look did not settle it.
    pub(super) fn in_doubt(&self) -> bool {
        self.doubt || self.unsettled > 0 || (self.open && self.looks > 0)
    }

    pub(super) fn refining(&self, ticks: u32) -> bool {
        ticks <= REFINING_TICKS
    }

    /// Distance within which no channel is blamed at this value: two channels that keep to the accuracy given may differ
    /// by twice it, and seldom do by more than this. None where none is given.
    pub(super) fn accuracy(config: &VoterConfig, reference: f64) -> f64 {
        DIFFERENCE_ACCURACIES
            * (config.accuracy_absolute.unwrap_or(0.0) + config.accuracy_relative * reference.abs())
    }

    /// Residual that enters the value of the first phase at most.
    pub(super) fn residual_max(&self, tick: &Tick) -> f64 {
        (RESIDUALS_MAX * self.typical_residual).max(tick.accuracy)
    }

    /// Largest offset that may be learned, from the noise and the spread of all offsets, or from the accuracy given.
    fn find_offset_max(&mut self, accuracy: f64, noise: f64, offset_spread: f64) {
        self.offset_max = if accuracy > 0.0 {
            (OFFSET_ACCURACIES_MAX * accuracy).max(OFFSET_SPREADS_MAX * root(noise))
        } else {
            OFFSET_SPREADS_MAX * root(noise + square(offset_spread))
        };
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
            for (channel, looked) in self.channels.iter_mut().zip(&mut self.commission.looked) {
                if channel.candidate && channel.fresh {
                    channel.look(channel.residual, looked);
                    channel.average(limit);
                }
            }
        }
        if self.ticks >= self.commission.last_tick {
            self.end_first_phase(tick);
        }
    }

    /// Offsets, noise, and the channels that were wrong from the start; or another look, when no majority was steady.
    fn end_first_phase(&mut self, tick: &Tick) {
        let mut steady: usize = 0;
        let mut present: usize = 0;
        for (channel, looked) in self.channels.iter_mut().zip(&self.commission.looked) {
            if channel.looked == 0 {
                continue;
            }
            let look = Look::at(
                &mut self.commission.scratch,
                looked,
                channel.looked,
                tick.accuracy,
            );
            channel.slow = look.offset;
            channel.noise = look.noise;
            channel.steady = look.steady;
            present += 1;
            steady += usize::from(look.steady);
        }
        self.commission.looks += 1;
        let divided =
            2 * steady <= present || (steady == 2 && present > 2 && self.two_differ(tick));
        if divided && self.commission.looks < FIRST_LOOKS_MAX {
            self.commission.last_tick = self.ticks.saturating_add(LOOK_COUNT);
            for channel in &mut self.channels {
                channel.begin_look();
            }
            return;
        }
        let unsteady = 2 * steady <= present;
        self.commission.open = false;
        self.commission.learned = steady;
        self.commission.doubt = false;
        self.commission.unsettled = if unsteady && present > 1 {
            SETTLING_TICKS
        } else {
            0
        };
        if unsteady {
            for channel in &mut self.channels {
                channel.steady = true;
            }
        }
        let (noise, offset_spread) = self.set_offset_max(tick);
        self.set_offsets(tick, noise, offset_spread);
    }

    /// The only two channels that were steady do not bear one another out.
    fn two_differ(&self, tick: &Tick) -> bool {
        let mut steady = self
            .channels
            .iter()
            .filter(|channel| channel.looked > 0 && channel.steady);
        let (Some(one), Some(other)) = (steady.next(), steady.next()) else {
            return false;
        };
        let noise = root(0.5 * (one.noise + other.noise));
        (one.slow - other.slow).abs() > (OFFSET_SPREADS_MAX * noise).max(tick.accuracy)
    }

    /// The limit of what may be learned; returns the typical noise, and the spread of the offsets.
    fn set_offset_max(&mut self, tick: &Tick) -> (f64, f64) {
        let borne = |channel: &&Channel| channel.looked > 0 && channel.steady;
        let slow = |channel: &Channel| channel.slow;
        self.sorted
            .refill(self.channels.iter().filter(borne).map(slow));
        let middle = self.sorted.median();
        self.sorted.refill(
            self.channels
                .iter()
                .filter(borne)
                .map(|channel| (channel.slow - middle).abs()),
        );
        let few = self.sorted.len() < 3;
        let offset_spread = if few {
            self.sorted.highest()
        } else {
            DEVIATIONS_PER_MEDIAN_DEVIATION * self.sorted.median()
        };
        self.sorted.refill(
            self.channels
                .iter()
                .filter(borne)
                .map(|channel| channel.noise),
        );
        let noise = self.sorted.median();
        if few {
            let limit = if tick.accuracy > 0.0 {
                tick.accuracy.max(OFFSET_SPREADS_MAX * root(noise))
            } else {
                PAIR_SPREADS_MAX * root(noise)
            };
            self.commission.doubt |= offset_spread > 0.5 * limit;
            self.commission.offset_max = limit.max(offset_spread);
        } else {
            self.commission
                .find_offset_max(tick.accuracy, noise, offset_spread);
        }
        (noise, offset_spread)
    }

    fn set_offsets(&mut self, tick: &Tick, noise: f64, offset_spread: f64) {
        let borne = |channel: &&Channel| channel.looked > 0 && channel.steady;
        self.sorted.refill(
            self.channels
                .iter()
                .filter(borne)
                .map(|channel| channel.slow),
        );
        let middle = self.sorted.median();
        let limit = self.commission.offset_max;
        let noise_max = noise_max(noise, tick.accuracy);
        self.commission.noise_max = noise_max;
        let few = self.commission.learned < 3;
        let always_two = self.channels.len() < 3;
        for channel in &mut self.channels {
            let offset = channel.slow;
            channel.fast = 0.0;
            channel.slow = 0.0;
            if channel.looked == 0 || !channel.steady {
                channel.standing = Standing::Newcomer;
            } else if !few && channel.noise > noise_max {
                channel.noise = noise;
                channel.samples = channel.looked;
                channel.standing = Standing::Isolated;
                channel.reason = Some(Reason::Noisy);
            } else if few || (offset - middle).abs() <= limit {
                channel.offset = offset;
                channel.samples = channel.looked;
            } else {
                channel.noise = noise;
                channel.samples = channel.looked;
                channel.standing = Standing::Isolated;
                channel.reason = Some(Reason::BootOffset);
            }
            if channel.standing != Standing::Trusted {
                channel.noise = noise;
            }
            if always_two {
                channel.noise *= 2.0;
            }
            channel.wander = (WANDER_START_SHARE * channel.noise)
                .max(square(WANDER_START_ACCURACY * tick.accuracy));
            channel.begin_look();
        }
        self.centre_offsets(noise);
        let wander = square(WANDER_START_OFFSETS * offset_spread);
        for channel in &mut self.channels {
            channel.wander = channel.wander.max(wander);
        }
    }

    /// Moves all offsets so that their robust mean over the trusted channels is none. Only the offsets of channels that
    /// the others bear out say where the truth lies; one far off counts little.
    pub(super) fn centre_offsets(&mut self, noise: f64) {
        let trusted = |channel: &&Channel| channel.standing == Standing::Trusted;
        self.sorted.refill(
            self.channels
                .iter()
                .filter(trusted)
                .map(|channel| channel.offset),
        );
        let middle = self.sorted.median();
        let scale = square(CENTRE_DEVIATIONS) * noise + VARIANCE_FLOOR;
        let (mut sum, mut total) = (0.0, 0.0);
        for channel in self.channels.iter().filter(trusted) {
            let weight = 1.0 / (1.0 + square(square(channel.offset - middle) / scale));
            sum += weight * channel.offset;
            total += weight;
        }
        if total > 0.0 {
            for channel in &mut self.channels {
                channel.offset -= sum / total;
            }
        }
    }

    /// A third channel has come to a pair that nobody could bear out: all are learned again.
    pub(super) fn commission_anew(&mut self) {
        self.commission.open = true;
        self.commission.doubt = false;
        self.commission.looks = 0;
        self.commission.last_tick = self.ticks.saturating_add(LOOK_COUNT);
        self.pair.pause();
        for channel in &mut self.channels {
            channel.recommission();
        }
    }

    /// Moves what is lasting in each residual into the channel's offset.
    pub(super) fn refine_offsets(&mut self) {
        if !self.outsiders {
            self.commission.unsettled = self.commission.unsettled.saturating_sub(1);
        }
        let limit = self.commission.offset_max;
        let mut moved = 0.0;
        let mut trusted = 0.0;
        for channel in &mut self.channels {
            if channel.candidate
                && channel.fresh
                && !channel.suspected()
                && channel.samples > REFINING_SAMPLES_MIN
            {
                let lasting = limited(channel.slow, 3.0 * root(channel.variance)) * 2.0
                    / f64::from(channel.samples);
                if (channel.offset + lasting).abs() <= limit {
                    channel.offset += lasting;
                    channel.slow -= lasting;
                    channel.fast -= lasting;
                    moved += lasting;
                }
            }
            trusted += f64::from(u8::from(channel.standing == Standing::Trusted));
        }
        // The refinement changes the channels against one another, not all of them together.
        for channel in &mut self.channels {
            channel.offset -= moved / f64::max(trusted, 1.0);
        }
    }
}

/// The largest noise of a channel, as a variance, among siblings of this typical noise: noise is no fault where no
/// accuracy is given, for the weights see to it.
fn noise_max(typical: f64, accuracy: f64) -> f64 {
    if accuracy > 0.0 {
        square(NOISE_ACCURACIES_MAX * accuracy).max(square(OFFSET_SPREADS_MAX) * typical)
    } else {
        f64::MAX
    }
}

impl Channel {
    /// Enters one residual into the look.
    pub(super) fn look(&mut self, residual: f64, looked: &mut [f64; LOOK_SAMPLES]) {
        let place = usize::try_from(self.looked).unwrap_or(0) % LOOK_SAMPLES;
        looked[place] = residual;
        self.looked = self.looked.saturating_add(1).min(LOOK_COUNT);
    }

    pub(super) fn begin_look(&mut self) {
        self.looked = 0;
    }

    /// Running mean (in `slow`) and variance (in `noise`) of the residual, limited to `limit`.
    fn average(&mut self, limit: f64) {
        let count = f64::from(self.looked.max(1));
        let residual = limited(self.residual, limit);
        let before = residual - self.slow;
        self.slow += before / count;
        self.noise += (before * (residual - self.slow) - self.noise) / count;
    }
}
