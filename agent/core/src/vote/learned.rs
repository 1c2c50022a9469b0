//! What the voter has learned, as plain data to be kept over a restart, and its return.
//!
//! Owns: [`Learned`]. Must not: know how it is stored; trust it blindly.
//!
//! A channel that changed while nobody looked is judged against what was learned before, not learned anew. For a short
//! while after a restore the channels are reported as learning; when no majority bears the old offsets out, all is
//! learned anew.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::channel::{Channel, MAGNITUDE_MAX, RELAPSES_MAX, Standing};
use super::statistics::square;
use super::{ChannelState, Reason, Voter};

/// Ticks after a restore for which what was restored is on trial.
pub(super) const TRIAL_TICKS: u32 = 32;
/// Ticks of the trial without a majority after which all is learned anew.
const LOST_TICKS_MAX: u32 = 16;

/// What was learned of one quantity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// Ticks that had a usable reading.
    pub ticks: u32,
    /// An offset beyond this is a fault, in the quantity's unit.
    pub offset_max: f64,
    /// Noise beyond this variance is a fault.
    pub noise_max: f64,
    /// Nobody bore out the offsets.
    pub doubt: bool,
    /// Variance of the value's step from tick to tick.
    pub step_variance: f64,
    /// One entry per channel, in order.
    pub channels: Vec<LearnedChannel>,
}

/// What was learned of one channel; see [`super::ChannelView`] for the meaning of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
        let isolated = matches!(
            self.state,
            ChannelState::Quarantined | ChannelState::Probation
        );
        self.offset.abs() <= MAGNITUDE_MAX
            && (0.0..=MAGNITUDE_MAX).contains(&self.excursion)
            && is_variance(self.noise)
            && is_variance(self.wander)
            && self.relapses <= RELAPSES_MAX
            && (self.reason.is_some() || !isolated)
    }
}

fn is_variance(value: f64) -> bool {
    (0.0..=square(MAGNITUDE_MAX)).contains(&value)
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
            step_variance: self.held.step_variance,
            channels: self.channels.iter().map(Channel::learned).collect(),
        })
    }

    /// Takes back what was learned before a restart; to be called before the first vote. Returns whether it could be
    /// used: what does not fit this configuration, or is not sound, is left alone and all is learned anew.
    pub fn restore(&mut self, learned: &Learned) -> bool {
        let fits = learned.channels.len() == self.channels.len()
            && learned.offset_max >= 0.0
            && learned.noise_max >= 0.0
            && is_variance(learned.step_variance)
            && learned.channels.iter().all(LearnedChannel::is_sound);
        if !fits {
            return false;
        }
        self.commission
            .resume(learned.offset_max, learned.noise_max, learned.doubt);
        self.ticks = learned.ticks;
        self.held.step_variance = learned.step_variance;
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

#[cfg(test)]
mod tests {
    use super::{Learned, Voter};
    use crate::vote::{ChannelState, Quality, Reading, Vote, VoterConfig};

    const OFFSETS: [f64; 3] = [0.0, 0.4, -0.3];

    fn run(voter: &mut Voter, ticks: u32, seed: u64, shifts: [f64; 3]) -> Vote {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut vote = Vote::empty(3);
        for tick in 0..ticks {
            let truth = 20.0 + libm::sin(f64::from(tick) / 50.0);
            let mut readings = [Reading::fresh(truth); 3];
            for ((reading, offset), shift) in readings.iter_mut().zip(OFFSETS).zip(shifts) {
                reading.value += offset + shift + (random.f64() + random.f64() - 1.0) * 0.1;
            }
            voter.vote(&readings, &mut vote);
        }
        vote
    }

    /// A voter that was saved, through the form in which it is saved, and restored.
    fn reborn(voter: &Voter) -> Voter {
        let learned = voter.learned();
        let text = serde_json::to_string(&learned).unwrap_or_default();
        let mut reborn = Voter::new(VoterConfig::new(3));
        let learned: Option<Learned> = serde_json::from_str(&text).unwrap_or_default();
        assert!(learned.is_some_and(|learned| reborn.restore(&learned)));
        reborn
    }

    #[test]
    fn what_drifted_while_it_was_down_is_not_learned_as_normal() {
        let mut voter = Voter::new(VoterConfig::new(3));
        run(&mut voter, 500, 1, [0.0; 3]);
        let mut after = reborn(&voter);
        let vote = run(&mut after, 20, 2, [0.0, 0.0, 2.0]);
        assert_eq!(vote.verdicts[2].state, ChannelState::Quarantined);
        assert_eq!(vote.quality, Quality::Degraded);
        let mut forgetful = Voter::new(VoterConfig::new(3));
        run(&mut forgetful, 20, 2, [0.0, 0.0, 2.0]);
        assert!(forgetful.learned().is_none(), "still commissioning");
    }

    #[test]
    fn what_was_quarantined_stays_so_until_it_agrees() {
        let mut voter = Voter::new(VoterConfig::new(3));
        // Past commissioning, in which a channel that is out is learned again.
        run(&mut voter, 1_500, 1, [0.0; 3]);
        run(&mut voter, 50, 3, [2.0, 0.0, 0.0]);
        let mut after = reborn(&voter);
        let vote = run(&mut after, 5, 4, [2.0, 0.0, 0.0]);
        assert_eq!(vote.verdicts[0].state, ChannelState::Quarantined);
        let vote = run(&mut after, 100, 5, [0.0; 3]);
        assert_eq!(vote.verdicts[0].state, ChannelState::Healthy);
        assert_eq!(vote.quality, Quality::Good);
    }

    #[test]
    fn what_no_voter_can_have_learned_is_refused() {
        let mut voter = Voter::new(VoterConfig::new(3));
        run(&mut voter, 100, 1, [0.0; 3]);
        let good = voter.learned();
        let refused = |change: fn(&mut Learned)| {
            let mut learned = good.clone();
            learned.iter_mut().for_each(change);
            learned.is_none_or(|learned| !Voter::new(VoterConfig::new(3)).restore(&learned))
        };
        assert!(!refused(|_| {}));
        assert!(refused(|learned| learned.channels.truncate(2)));
        assert!(refused(|learned| learned.channels[0].noise = -1.0));
        assert!(refused(|learned| learned.channels[0].offset = f64::NAN));
        assert!(refused(|learned| learned.channels[0].relapses = 99));
        assert!(refused(|learned| learned.step_variance = f64::INFINITY));
    }
}
