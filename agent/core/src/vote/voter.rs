//! The voter of one quantity.
//!
//! Owns: the state of each channel and the held value. Must not: look at more than the readings it is given.
//!
//! Invariants: no allocation per vote; the value is finite or absent; a majority is never isolated.

use alloc::vec::Vec;

use super::{
    CHANNELS_MAX, ChannelState, OnQuorumLoss, OnSplit, Quality, Reading, Reason, Verdict, Vote,
    VoterConfig,
};

/// Residuals beyond this many learned spreads are faulty: about six standard deviations of a normal spread.
const GATE_SPREADS: f64 = 9.0;
/// Ticks in which the spread is learned before any channel is judged.
const LEARNING_TICKS: u32 = 32;
/// Share by which one tick moves the learned spread once learning is over.
const SPREAD_GAIN: f64 = 1.0 / 256.0;

/// What is kept of one channel.
#[derive(Clone, Copy, Debug)]
struct Channel {
    state: ChannelState,
    reason: Option<Reason>,
    faulty: u32,
    clean: u32,
}

/// Votes across the channels of one quantity, tick by tick.
#[derive(Clone, Debug)]
pub struct Voter {
    config: VoterConfig,
    channels: Vec<Channel>,
    sorted: Vec<f64>,
    /// Typical distance of a channel from the median.
    spread: f64,
    ticks: u32,
    held: Option<(f64, f64)>,
    held_ticks: u32,
}

impl Voter {
    /// A voter that knows nothing of its channels yet. Channels beyond [`CHANNELS_MAX`] are ignored.
    #[must_use]
    pub fn new(mut config: VoterConfig) -> Self {
        config.channels = config.channels.min(CHANNELS_MAX);
        let channel = Channel {
            state: ChannelState::Learning,
            reason: None,
            faulty: 0,
            clean: 0,
        };
        Self {
            channels: (0..config.channels).map(|_| channel).collect(),
            sorted: Vec::with_capacity(config.channels),
            config,
            spread: 0.0,
            ticks: 0,
            held: None,
            held_ticks: 0,
        }
    }

    /// Advances by one tick; `readings` holds one entry per configured channel, `vote` is filled in place.
    pub fn vote(&mut self, readings: &[Reading], vote: &mut Vote) {
        vote.verdicts.resize(
            self.channels.len(),
            Verdict {
                included: false,
                state: ChannelState::Learning,
                reason: None,
            },
        );
        let reference = self.median(readings, |state| {
            !matches!(state, ChannelState::Quarantined | ChannelState::Probation)
        });
        let reference = reference.or_else(|| self.median(readings, |_| true));
        let Some(reference) = reference else {
            for (verdict, (channel, reading)) in vote
                .verdicts
                .iter_mut()
                .zip(self.channels.iter().zip(readings))
            {
                *verdict = Verdict {
                    included: false,
                    state: channel.state,
                    reason: reading.fault,
                };
            }
            self.without_quorum(vote);
            return;
        };
        let limit = self.limit(reference);
        let usable = readings.iter().filter(|reading| reading.usable).count();
        let mut used = 0;
        let mut lowest = f64::MAX;
        let mut highest = f64::MIN;
        for ((channel, reading), verdict) in self
            .channels
            .iter_mut()
            .zip(readings)
            .zip(&mut vote.verdicts)
        {
            channel.judge(
                reading,
                reference,
                limit,
                self.ticks > LEARNING_TICKS && usable >= 3,
                &self.config,
            );
            let included = reading.usable
                && matches!(
                    channel.state,
                    ChannelState::Healthy | ChannelState::Learning
                );
            *verdict = Verdict {
                included,
                state: channel.state,
                reason: if reading.usable {
                    channel.reason
                } else {
                    reading.fault.or(Some(Reason::NoData))
                },
            };
            if included {
                used += 1;
                lowest = lowest.min(reading.value);
                highest = highest.max(reading.value);
            }
        }
        self.learn(readings, reference);
        self.conclude(vote, reference, used, (lowest, highest));
    }

    /// The median of the usable readings whose channel is in a state that `trusted` accepts.
    fn median(
        &mut self,
        readings: &[Reading],
        trusted: impl Fn(ChannelState) -> bool,
    ) -> Option<f64> {
        self.sorted.clear();
        for (channel, reading) in self.channels.iter().zip(readings) {
            if reading.usable && reading.value.is_finite() && trusted(channel.state) {
                self.sorted.push(reading.value);
            }
        }
        self.sorted.sort_unstable_by(f64::total_cmp);
        let upper = *self.sorted.get(self.sorted.len() / 2)?;
        let lower = *self.sorted.get((self.sorted.len() - 1) / 2)?;
        Some(lower / 2.0 + upper / 2.0)
    }

    fn limit(&self, reference: f64) -> f64 {
        let accuracy = self.config.accuracy_absolute.unwrap_or(0.0)
            + self.config.accuracy_relative * reference.abs();
        (GATE_SPREADS * self.spread).max(2.0 * accuracy)
    }

    /// Learns the median distance of the channels from the reference.
    fn learn(&mut self, readings: &[Reading], reference: f64) {
        self.sorted.clear();
        for (channel, reading) in self.channels.iter().zip(readings) {
            if reading.fresh && reading.usable && channel.state != ChannelState::Quarantined {
                self.sorted
                    .push((reading.value - reference).abs().min(f64::MAX));
            }
        }
        self.sorted.sort_unstable_by(f64::total_cmp);
        let Some(&distance) = self.sorted.get(self.sorted.len() / 2) else {
            return;
        };
        self.ticks = self.ticks.saturating_add(1);
        let gain = if self.ticks < LEARNING_TICKS {
            1.0 / f64::from(self.ticks)
        } else {
            SPREAD_GAIN
        };
        self.spread += (distance - self.spread) * gain;
    }

    fn conclude(
        &mut self,
        vote: &mut Vote,
        reference: f64,
        used: usize,
        (lowest, highest): (f64, f64),
    ) {
        if used == 0 || used < self.config.sources_min {
            self.without_quorum(vote);
            return;
        }
        let limit = self.limit(reference);
        let split = used == 2 && self.ticks > LEARNING_TICKS && highest - lowest > limit;
        let value = match (split, self.config.on_split) {
            (false, _) | (true, OnSplit::Weighted) => reference,
            (true, OnSplit::Hold) => self.held.map_or(reference, |(value, _)| value),
            (true, OnSplit::High) => highest,
            (true, OnSplit::Low) => lowest,
        };
        let uncertainty = if split {
            (highest / 2.0 - lowest / 2.0).max(self.spread)
        } else {
            self.spread
        };
        vote.used = used;
        vote.value = Some(value);
        vote.uncertainty = Some(uncertainty);
        vote.quality = if split || used == 1 {
            Quality::Uncertain
        } else if used < self.channels.len() {
            Quality::Degraded
        } else {
            Quality::Good
        };
        self.held = Some((value, uncertainty));
        self.held_ticks = 0;
    }

    /// Holds the last value, less certain with every tick, or gives none.
    fn without_quorum(&mut self, vote: &mut Vote) {
        self.held_ticks = self.held_ticks.saturating_add(1);
        vote.used = 0;
        for verdict in &mut vote.verdicts {
            verdict.included = false;
        }
        let holds = self.config.on_quorum_loss == OnQuorumLoss::Hold
            && self.held_ticks <= self.config.hold_ticks_max;
        match self.held.filter(|_| holds) {
            Some((value, uncertainty)) => {
                vote.value = Some(value);
                vote.uncertainty = Some(
                    (uncertainty * f64::from(self.held_ticks.saturating_add(1))).min(f64::MAX),
                );
                vote.quality = Quality::Uncertain;
            }
            None => {
                vote.value = None;
                vote.uncertainty = None;
                vote.quality = Quality::Bad;
            }
        }
    }
}

impl Channel {
    /// Moves the state on by one reading; only a fresh one counts.
    fn judge(
        &mut self,
        reading: &Reading,
        reference: f64,
        limit: f64,
        judging: bool,
        config: &VoterConfig,
    ) {
        if !reading.usable || !reading.fresh {
            return;
        }
        let faulty = judging && (reading.value - reference).abs() > limit;
        if faulty {
            self.faulty = self.faulty.saturating_add(1);
            self.clean = 0;
        } else {
            self.faulty = 0;
            self.clean = self.clean.saturating_add(1);
        }
        self.state = match self.state {
            ChannelState::Learning if !judging => ChannelState::Learning,
            ChannelState::Learning | ChannelState::Healthy | ChannelState::Suspect => {
                if self.faulty >= config.fail_count {
                    ChannelState::Quarantined
                } else if faulty {
                    ChannelState::Suspect
                } else {
                    ChannelState::Healthy
                }
            }
            ChannelState::Quarantined | ChannelState::Probation if faulty => {
                ChannelState::Quarantined
            }
            ChannelState::Quarantined | ChannelState::Probation
                if self.clean >= config.clear_count =>
            {
                ChannelState::Healthy
            }
            ChannelState::Quarantined | ChannelState::Probation => ChannelState::Probation,
            ChannelState::Failed => ChannelState::Failed,
        };
        self.reason = match self.state {
            ChannelState::Learning | ChannelState::Healthy => None,
            ChannelState::Suspect => Some(Reason::Spike),
            ChannelState::Quarantined | ChannelState::Probation | ChannelState::Failed => {
                Some(Reason::Disagree)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn run(voter: &mut Voter, values: [f64; 3], ticks: u32) -> Vote {
        let mut vote = Vote::empty(3);
        for tick in 0..ticks {
            let noise = if tick % 2 == 0 { 0.1 } else { -0.1 };
            voter.vote(
                &[
                    Reading::fresh(values[0] + noise),
                    Reading::fresh(values[1] - noise),
                    Reading::fresh(values[2]),
                ],
                &mut vote,
            );
        }
        vote
    }

    #[test]
    fn a_biased_channel_is_isolated_and_readmitted() {
        let mut voter = Voter::new(VoterConfig::new(3));
        assert_eq!(run(&mut voter, [20.0; 3], 100).quality, Quality::Good);
        let vote = run(&mut voter, [20.0, 20.0, 25.0], 10);
        assert_eq!(vote.verdicts[2].state, ChannelState::Quarantined);
        assert!((vote.value.unwrap() - 20.0).abs() < 0.2);
        assert_eq!(run(&mut voter, [20.0; 3], 31).quality, Quality::Good);
    }

    #[test]
    fn without_data_the_value_is_held_and_then_absent() {
        let mut voter = Voter::new(VoterConfig::new(3));
        run(&mut voter, [20.0; 3], 100);
        let absent = [Reading::absent(Reason::Timeout); 3];
        let mut vote = Vote::empty(3);
        voter.vote(&absent, &mut vote);
        assert_eq!(vote.quality, Quality::Uncertain);
        for _ in 0..10 {
            voter.vote(&absent, &mut vote);
        }
        assert_eq!((vote.quality, vote.value), (Quality::Bad, None));
    }
}
