//! The voter of one quantity: the order of work of one tick.
//!
//! Owns: the channels, what was learned of the quantity, and the held value.
//! Must not: look at more than the readings it is given; allocate after construction.
//!
//! Invariants: the value is finite or absent; one tick isolates at most a minority of the trusted channels.

use alloc::vec::Vec;

use super::channel::{Channel, Standing};
use super::commission::Commission;
use super::fuse::Held;
use super::pair::Pair;
use super::statistics::{Sorted, VARIANCE_FLOOR, root, square};
use super::stuck::{Activity, Movers};
use super::{CHANNELS_MAX, Reading, Vote, VoterConfig};

/// The variance used is at least this share of the typical one: a dead channel has none and looks perfect.
const VARIANCE_SHARE_MIN: f64 = 0.25;
/// The standard deviation used is at least this share of the datasheet accuracy (prototype).
const ACCURACY_SHARE_MIN: f64 = 0.05;
/// Healthy channels wander this much further than they have: what one has done its siblings may do.
const EXCURSION_FACTOR: f64 = 1.8;
/// While nothing is known of how far channels wander they may wander by this many standard deviations.
const COMMISSIONING_DEVIATIONS: f64 = 6.0;
/// Until this tick the typical variance is found at every tick.
const VARIANCE_EVERY_TICK_UNTIL: u32 = 1100;
/// Then once in so many: it changes by less than a part in fifty meanwhile.
const VARIANCE_TICKS: u32 = 8;
/// Relative rounding of a double, with room: no spread below it means anything.
const ROUNDING: f64 = 1e-15;

/// Votes across the channels of one quantity, tick by tick.
#[derive(Clone, Debug)]
pub struct Voter {
    pub(super) config: VoterConfig,
    pub(super) channels: Vec<Channel>,
    pub(super) sorted: Sorted,
    pub(super) activity: Activity,
    pub(super) commission: Commission,
    pub(super) pair: Pair,
    pub(super) held: Held,
    /// Ticks that had a usable reading.
    pub(super) ticks: u32,
    /// Median variance of the channels.
    typical_variance: f64,
    /// The furthest that any channel has wandered.
    excursion: f64,
    /// Variance of the offsets: nobody knows which of them is right, so that it is part of the uncertainty.
    pub(super) offset_variance: f64,
    /// Ticks left for which what was restored is on trial, and those of them that had no majority.
    pub(super) trial: u32,
    pub(super) trial_lost: u32,
    /// Some channel is not trusted.
    pub(super) outsiders: bool,
    /// Ticks for which isolated channels have agreed against a lone survivor.
    pub(super) isolated_agreeing: u32,
}

/// What one tick found, before anything is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tick {
    /// Median of the candidates.
    pub(super) reference: f64,
    /// Highest less lowest candidate.
    pub(super) spread: f64,
    /// Half-width within which no channel is blamed.
    pub(super) accuracy: f64,
    /// Distance that a healthy channel may reach: the accuracy, or how far the channels have wandered.
    pub(super) reach: f64,
    /// Channels in the reference.
    pub(super) candidates: usize,
    /// No trusted channel was usable: isolated ones stand in.
    pub(super) last_resort: bool,
    /// Still in the first phase of learning.
    pub(super) warming: bool,
    /// Still refining offsets.
    pub(super) commissioning: bool,
    /// No trusted channel changed: the samples repeat what the last ones said, and nothing is to be learned.
    pub(super) still: bool,
    /// No majority of the candidates agrees.
    pub(super) lost: bool,
    /// Median variance of the channels.
    pub(super) typical_variance: f64,
    /// Least variance that any channel is credited with.
    pub(super) variance_floor: f64,
    /// Difference of the two channels over its standard deviation squared, where the vote is a pair.
    pub(super) pair_deviation_squared: f64,
    /// Difference of the two channels, where the vote is a pair.
    pub(super) pair_difference: f64,
}

impl Voter {
    /// A voter that knows nothing of its channels yet. Channels beyond [`CHANNELS_MAX`] are ignored.
    #[must_use]
    pub fn new(mut config: VoterConfig) -> Self {
        config.channels = config.channels.min(CHANNELS_MAX);
        config.fail_count = config.fail_count.max(1);
        config.clear_count = config.clear_count.max(1);
        Self {
            channels: (0..config.channels).map(|_| Channel::new()).collect(),
            sorted: Sorted::with_capacity(config.channels),
            activity: Activity::new(),
            commission: Commission::new(&config),
            pair: Pair::new(),
            held: Held::new(),
            ticks: 0,
            typical_variance: 0.0,
            excursion: 0.0,
            offset_variance: 0.0,
            trial: 0,
            trial_lost: 0,
            outsiders: false,
            isolated_agreeing: 0,
            config,
        }
    }

    /// Advances by one tick; `readings` holds one entry per configured channel (a missing one is taken as absent),
    /// `vote` is filled in place. Allocates only when `vote` was made for another number of channels.
    pub fn vote(&mut self, readings: &[Reading], vote: &mut Vote) {
        let commissioned = self.ticks > 0;
        let mut outsiders = false;
        for (index, channel) in self.channels.iter_mut().enumerate() {
            let reading = readings
                .get(index)
                .copied()
                .unwrap_or(Reading::absent(super::Reason::NoData));
            channel.take(&reading, commissioned);
            outsiders |= channel.standing != Standing::Trusted;
        }
        self.outsiders = outsiders;
        if let Some(mut tick) = self.find_reference() {
            self.measure(&mut tick);
            self.observe_motion(&mut tick);
            self.judge(&mut tick);
            if self.outsiders {
                self.readmit(&tick);
                self.look_again(&tick);
            }
            self.fuse(&tick, vote);
            self.learn(&tick);
            self.try_restored(tick.lost);
        } else {
            self.hold(vote, self.config.on_quorum_loss.stands_in());
        }
    }

    /// The median of the trusted channels, or of those that stand in for them; none when nothing is usable.
    fn find_reference(&mut self) -> Option<Tick> {
        let mut candidates = self
            .channels
            .iter()
            .filter(|channel| channel.candidate)
            .count();
        let last_resort = candidates == 0;
        if last_resort {
            for channel in &mut self.channels {
                channel.candidate = channel.usable && channel.standing != Standing::Failed;
                candidates += usize::from(channel.candidate);
            }
        }
        if candidates == 0 {
            return None;
        }
        self.ticks = self.ticks.saturating_add(1);
        let present = self.channels.iter().filter(|channel| channel.candidate);
        self.sorted.refill(present.map(|channel| channel.corrected));
        let reference = self.sorted.median();
        Some(Tick {
            reference,
            spread: self.sorted.highest() - self.sorted.lowest(),
            accuracy: Commission::accuracy(&self.config, reference),
            reach: 0.0,
            candidates,
            last_resort,
            warming: self.commission.warming(),
            commissioning: self.commission.refining(self.ticks),
            still: false,
            lost: false,
            typical_variance: 0.0,
            variance_floor: 0.0,
            pair_deviation_squared: 0.0,
            pair_difference: 0.0,
        })
    }

    /// Every channel's residual, and the variance to hold against it.
    fn measure(&mut self, tick: &mut Tick) {
        if self.ticks < VARIANCE_EVERY_TICK_UNTIL || self.ticks.is_multiple_of(VARIANCE_TICKS) {
            self.find_typical();
        }
        tick.typical_variance = self.typical_variance;
        let accuracy_floor = square(ACCURACY_SHARE_MIN * tick.accuracy);
        tick.variance_floor = (VARIANCE_SHARE_MIN * tick.typical_variance).max(accuracy_floor)
            + square(ROUNDING * tick.reference)
            + VARIANCE_FLOOR;
        let drift_variance = self.held.step_variance;
        tick.reach = tick.accuracy.max(EXCURSION_FACTOR * self.excursion);
        if tick.commissioning {
            let unknown = COMMISSIONING_DEVIATIONS * root(tick.typical_variance);
            let most = if tick.accuracy > 0.0 {
                0.75 * self.commission.offset_max
            } else {
                f64::MAX
            };
            tick.reach = tick.reach.max(unknown.min(most));
        }
        for channel in &mut self.channels {
            channel.measure(tick.reference, tick.variance_floor, drift_variance);
        }
    }

    /// What changes slowly: the median variance of the channels, how far any has wandered, how far apart they are.
    pub(super) fn find_typical(&mut self) {
        let learned = self.channels.iter().filter(|channel| channel.samples > 0);
        self.sorted
            .refill(learned.map(|channel| channel.noise + channel.wander));
        self.typical_variance = self.sorted.median();
        self.excursion = self
            .channels
            .iter()
            .fold(0.0, |most, channel| f64::max(most, channel.excursion));
        let (sum, count) = self
            .channels
            .iter()
            .filter(|channel| channel.standing == Standing::Trusted)
            .fold((0.0, 0_u32), |(sum, count), channel| {
                (sum + square(channel.offset), count + 1)
            });
        self.offset_variance = sum / f64::from(count.saturating_sub(1).max(1));
    }

    fn observe_motion(&mut self, tick: &mut Tick) {
        let mut movers = Movers::default();
        for channel in self.channels.iter_mut().filter(|channel| channel.fresh) {
            let trusted = channel.standing == Standing::Trusted;
            channel.motion.step(channel.raw, trusted);
            if trusted {
                movers.fresh += 1;
                movers.changed += u32::from(channel.motion.changed);
            }
        }
        tick.still = movers.changed == 0;
        self.activity.observe(movers);
        for channel in self.channels.iter_mut().filter(|channel| channel.fresh) {
            let trusted = channel.standing == Standing::Trusted;
            channel.motion.compare(
                movers,
                self.activity,
                tick.reference,
                channel.variance,
                trusted,
            );
        }
    }

    /// Decides who is believed this tick and who stays in the vote.
    fn judge(&mut self, tick: &mut Tick) {
        if tick.warming {
            self.commission(tick);
            return;
        }
        if self.outsiders {
            self.commission_newcomers(tick);
        }
        self.gate(tick);
        if tick.candidates >= 3 && !tick.lost && !tick.still {
            self.monitor(tick);
        }
        if tick.candidates == 2 && !tick.last_resort {
            self.judge_pair(tick);
        } else {
            self.pair.pause();
        }
    }

    /// Learns what a healthy channel looks like; nothing while it is unclear who is healthy.
    fn learn(&mut self, tick: &Tick) {
        if tick.warming || tick.still || tick.lost || self.pair.split || tick.last_resort {
            return;
        }
        if tick.candidates >= 3 {
            for channel in &mut self.channels {
                if channel.candidate && channel.fresh && !channel.gross {
                    channel.learn(
                        tick.variance_floor,
                        tick.typical_variance,
                        tick.commissioning,
                        tick.accuracy,
                    );
                }
            }
            if tick.commissioning {
                self.refine_offsets();
            }
        } else if tick.candidates == 2 {
            self.learn_pair(tick);
        }
    }
}
