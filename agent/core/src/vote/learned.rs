//! What a voter has learned, in a form that outlives the process.
//!
//! Owns: the taking and the restoring of it. Must not: believe numbers that no voter can have learned.
//!
//! Invariant: a channel that is restored is judged against what was learned of it, so that a sensor that drifted in the
//! meantime is not learned as normal.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::channel::{MAGNITUDE_MAX, RELAPSES_MAX, Standing};
use super::{Reason, Voter};

/// What one voter has learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// Ticks that had a usable reading.
    ticks: u32,
    /// The largest offset that may be learned; absent where there is no limit.
    offset_max: Option<f64>,
    /// The largest noise, as a variance; absent where there is no limit.
    noise_max: Option<f64>,
    /// Nobody bears out the offsets.
    doubt: bool,
    /// Variance of the value's step from tick to tick.
    step_variance: f64,
    /// One entry per channel, in order.
    channels: Vec<LearnedChannel>,
}

/// What was learned of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct LearnedChannel {
    standing: StandingWord,
    reason: Option<Reason>,
    offset: f64,
    noise: f64,
    wander: f64,
    samples: u32,
    relapses: u32,
    since_readmission: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StandingWord {
    Newcomer,
    Trusted,
    Isolated,
    Failed,
}

/// A finite limit; the largest number stands for none.
fn limit(value: f64) -> Option<f64> {
    (value < f64::MAX).then_some(value)
}

impl Voter {
    /// What it has learned; none while its channels are still being commissioned.
    #[must_use]
    pub fn learned(&self) -> Option<Learned> {
        let channel = |channel: &super::channel::Channel| LearnedChannel {
            standing: match channel.standing {
                Standing::Newcomer => StandingWord::Newcomer,
                Standing::Trusted => StandingWord::Trusted,
                Standing::Isolated => StandingWord::Isolated,
                Standing::Failed => StandingWord::Failed,
            },
            reason: channel.reason,
            offset: channel.offset,
            noise: channel.noise,
            wander: channel.wander,
            samples: channel.samples,
            relapses: channel.relapses,
            since_readmission: channel.since_readmission,
        };
        (!self.commission.warming()).then(|| Learned {
            ticks: self.ticks,
            offset_max: limit(self.commission.offset_max),
            noise_max: limit(self.commission.noise_max),
            doubt: self.commission.doubt,
            step_variance: self.held.step_variance,
            channels: self.channels.iter().map(channel).collect(),
        })
    }

    /// Goes on with what was learned before. Returns false, and changes nothing, when it is for another number of
    /// channels or holds what no voter can have learned.
    pub fn restore(&mut self, learned: &Learned) -> bool {
        if learned.channels.len() != self.channels.len() || !learned.is_possible() {
            return false;
        }
        self.ticks = learned.ticks;
        self.held.step_variance = learned.step_variance;
        let trusted = |channel: &&LearnedChannel| channel.standing != StandingWord::Newcomer;
        let commissioned = learned.channels.iter().filter(trusted).count();
        self.commission.resume(commissioned, learned.doubt);
        self.commission.offset_max = learned.offset_max.unwrap_or(f64::MAX);
        self.commission.noise_max = learned.noise_max.unwrap_or(f64::MAX);
        for (channel, saved) in self.channels.iter_mut().zip(&learned.channels) {
            channel.standing = match saved.standing {
                StandingWord::Newcomer => Standing::Newcomer,
                StandingWord::Trusted => Standing::Trusted,
                StandingWord::Isolated => Standing::Isolated,
                StandingWord::Failed => Standing::Failed,
            };
            channel.reason = saved.reason;
            channel.offset = saved.offset;
            channel.noise = saved.noise;
            channel.wander = saved.wander;
            channel.samples = saved.samples;
            channel.relapses = saved.relapses;
            channel.since_readmission = saved.since_readmission;
        }
        true
    }
}

impl Learned {
    fn is_possible(&self) -> bool {
        let size = |value: f64| value.is_finite() && value >= 0.0;
        let limited = |value: Option<f64>| value.is_none_or(size);
        let channel = |channel: &LearnedChannel| {
            channel.offset.abs() <= MAGNITUDE_MAX
                && size(channel.noise)
                && size(channel.wander)
                && channel.relapses <= RELAPSES_MAX
                && (channel.reason.is_some() || channel.standing != StandingWord::Isolated)
        };
        limited(self.offset_max)
            && limited(self.noise_max)
            && size(self.step_variance)
            && self.channels.iter().all(channel)
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
        run(&mut voter, 500, 1, [0.0; 3]);
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
