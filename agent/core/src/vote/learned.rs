//! What the voter has learned, as plain data to be kept over a restart, and its return.
//!
//! Owns: [`Learned`]. Must not: know how it is stored; trust it blindly.
//!
//! A channel that changed while nobody looked is judged against what was learned before, not learned anew. For a short
//! while after a restore the channels are reported as learning; when no majority bears the old offsets out, all is
//! learned anew.

use alloc::vec::Vec;

use super::channel::{Channel, MAGNITUDE_MAX, RELAPSES_MAX, Standing};
use super::statistics::square;
use super::{ChannelState, Reason, Voter};

/// Ticks after a restore for which what was restored is on trial.
pub(super) const TRIAL_TICKS: u32 = 32;
/// Ticks of the trial without a majority after which all is learned anew.
const LOST_TICKS_MAX: u32 = 16;

/// What was learned of one quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// Ticks that had a usable reading.
    pub ticks: u32,
    /// An offset beyond this is a fault, in the quantity's unit.
    pub offset_max: f64,
    /// Noise beyond this variance is a fault.
    pub noise_max: f64,
    /// Nobody bore out the offsets.
    pub doubt: bool,
    /// One entry per channel, in order.
    pub channels: Vec<LearnedChannel>,
}

/// What was learned of one channel; see [`super::ChannelView`] for the meaning of the numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedChannel {
    /// `Learning`, `Healthy`, `Quarantined` or `Failed`.
    pub state: ChannelState,
    /// Why it was out.
    pub reason: Option<Reason>,
    /// Lasting difference from the siblings.
    pub offset: f64,
    /// Variance from sample to sample.
    pub noise: f64,
    /// Variance of the slow part of the difference.
    pub wander: f64,
    /// The furthest that the slow part of the difference has been.
    pub excursion: f64,
    /// Samples learned from.
    pub samples: u32,
    /// Relapses that lengthen the way back.
    pub relapses: u32,
}

impl LearnedChannel {
    fn is_sound(&self) -> bool {
        let variance =
            |value: f64| value.is_finite() && (0.0..=square(MAGNITUDE_MAX)).contains(&value);
        self.offset.abs() <= MAGNITUDE_MAX
            && (0.0..=MAGNITUDE_MAX).contains(&self.excursion)
            && variance(self.noise)
            && variance(self.wander)
            && self.relapses <= RELAPSES_MAX
    }
}

impl Voter {
    /// What has been learned; none before the first phase of commissioning has ended.
    #[must_use]
    pub fn learned(&self) -> Option<Learned> {
        if self.commission.warming() {
            return None;
        }
        Some(Learned {
            ticks: self.ticks,
            offset_max: self.commission.offset_max,
            noise_max: self.commission.noise_max,
            doubt: self.commission.doubt,
            channels: self.channels.iter().map(Channel::learned).collect(),
        })
    }

    /// Takes back what was learned before a restart; to be called before the first vote. Returns whether it could be
    /// used: what does not fit this configuration, or is not sound, is left alone and all is learned anew.
    pub fn restore(&mut self, learned: &Learned) -> bool {
        let fits = learned.channels.len() == self.channels.len()
            && learned.offset_max >= 0.0
            && learned.noise_max >= 0.0
            && learned.channels.iter().all(LearnedChannel::is_sound);
        if !fits {
            return false;
        }
        self.commission
            .resume(learned.offset_max, learned.noise_max, learned.doubt);
        self.ticks = learned.ticks;
        self.trial = TRIAL_TICKS;
        self.trial_lost = 0;
        for (channel, learned) in self.channels.iter_mut().zip(&learned.channels) {
            channel.restore(learned);
        }
        self.find_typical();
        true
    }

    /// One tick of the trial after a restore.
    pub(super) fn try_restored(&mut self, lost: bool) {
        if self.trial == 0 {
            return;
        }
        self.trial -= 1;
        self.trial_lost += u32::from(lost);
        if self.trial_lost >= LOST_TICKS_MAX {
            self.trial = 0;
            self.commission_anew();
        }
    }
}

impl Channel {
    fn learned(&self) -> LearnedChannel {
        LearnedChannel {
            state: match self.standing {
                Standing::Newcomer => ChannelState::Learning,
                Standing::Trusted => ChannelState::Healthy,
                Standing::Isolated => ChannelState::Quarantined,
                Standing::Failed => ChannelState::Failed,
            },
            reason: self.reason,
            offset: self.offset,
            noise: self.noise,
            wander: self.wander,
            excursion: self.excursion,
            samples: self.samples,
            relapses: self.relapses,
        }
    }

    fn restore(&mut self, learned: &LearnedChannel) {
        self.standing = match learned.state {
            ChannelState::Learning => Standing::Newcomer,
            ChannelState::Healthy | ChannelState::Suspect => Standing::Trusted,
            ChannelState::Quarantined | ChannelState::Probation => Standing::Isolated,
            ChannelState::Failed => Standing::Failed,
        };
        self.reason = learned.reason;
        self.offset = learned.offset;
        self.noise = learned.noise;
        self.wander = learned.wander;
        self.excursion = learned.excursion;
        self.samples = learned.samples;
        self.relapses = learned.relapses;
    }
}
