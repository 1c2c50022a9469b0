//! The vote of a quantity that counts instead of measuring, booleans and enumerations: majority with persistence.
//!
//! Owns: the standing of each channel of such a quantity. Must not: average, or know what a code means.
//!
//! Invariants: the value is a code that a usable channel delivers, or the last one that a majority agreed on; only a
//! channel that a strict majority of the trusted contradicts for `fail_count` samples is isolated, so no majority ever is.

use alloc::vec::Vec;

use super::{
    CHANNELS_MAX, ChannelState, Doubt, OnSplit, Quality, Reading, Reason, Verdict, Vote,
    VoterConfig,
};

/// Each relapse doubles the way back, up to this many times; the next one is a failure, as in the measuring vote.
const RELAPSES_MAX: u32 = 5;
/// Two or more isolated channels that agree for this many ways back outvote a lone survivor.
const RETURNS_TO_OUTVOTE: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Trusted,
    Isolated,
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    standing: Standing,
    code: f64,
    usable: bool,
    fresh: bool,
    seen: bool,
    /// Its code has changed since the majority's did.
    moved: bool,
    candidate: bool,
    fault: Option<Reason>,
    isolated_for: Option<Reason>,
    disagreeing: u32,
    agreeing: u32,
    relapses: u32,
}

impl Channel {
    const fn new() -> Self {
        Self {
            standing: Standing::Trusted,
            code: 0.0,
            usable: false,
            fresh: false,
            seen: false,
            moved: true,
            candidate: false,
            fault: Some(Reason::NoData),
            isolated_for: None,
            disagreeing: 0,
            agreeing: 0,
            relapses: 0,
        }
    }

    fn take(&mut self, reading: &Reading, codes: f64) {
        let code = reading.value;
        let known = code >= 0.0 && code < codes && libm::trunc(code) == code;
        self.usable = reading.usable && known;
        self.fresh = reading.fresh && self.usable;
        self.fault = match reading.fault {
            None if reading.usable && !known => Some(Reason::OutOfRange),
            fault => fault,
        };
        if self.usable {
            self.moved |= self.seen && code != self.code;
            self.code = code;
            self.seen = true;
        }
        self.candidate = self.usable && self.standing == Standing::Trusted;
    }

    fn isolate(&mut self, reason: Reason) {
        self.relapses += 1;
        self.standing = if self.relapses > RELAPSES_MAX + 1 {
            Standing::Failed
        } else {
            Standing::Isolated
        };
        self.isolated_for = Some(reason);
        (self.disagreeing, self.agreeing) = (0, 0);
    }

    fn readmit(&mut self) {
        self.standing = Standing::Trusted;
        // It agrees already: it is in the value of this very tick.
        self.candidate = self.usable;
        self.isolated_for = None;
        (self.disagreeing, self.agreeing) = (0, 0);
    }

    fn verdict(&self, included: bool) -> Verdict {
        let (state, reason) = match self.standing {
            Standing::Failed => (ChannelState::Failed, self.isolated_for),
            Standing::Isolated if self.agreeing > 0 => (ChannelState::Probation, self.isolated_for),
            Standing::Isolated => (ChannelState::Quarantined, self.isolated_for),
            Standing::Trusted if included => (ChannelState::Healthy, None),
            Standing::Trusted if !self.seen => (ChannelState::Learning, self.fault),
            Standing::Trusted => (ChannelState::Suspect, self.fault.or(Some(Reason::Disagree))),
        };
        Verdict {
            included,
            state,
            reason,
        }
    }
}

/// Votes across channels that deliver codes: 0 and 1, or 0 to the number of labels less one.
#[derive(Clone, Debug)]
pub struct Majority {
    config: VoterConfig,
    codes: f64,
    channels: Vec<Channel>,
    agreed: Option<f64>,
    /// Ticks since a majority agreed.
    agreed_age: u32,
    outvoting: u32,
}

impl Majority {
    /// A voter over `codes` different codes, beginning with 0.
    #[must_use]
    pub fn new(mut config: VoterConfig, codes: u32) -> Self {
        config.channels = config.channels.min(CHANNELS_MAX);
        config.fail_count = config.fail_count.max(1);
        config.clear_count = config.clear_count.max(1);
        Self {
            channels: (0..config.channels).map(|_| Channel::new()).collect(),
            codes: f64::from(codes),
            agreed: None,
            agreed_age: 0,
            outvoting: 0,
            config,
        }
    }

    /// Forgets everything of one channel, its being out included. Nothing where there is no such channel.
    pub fn forget(&mut self, channel: usize) {
        if let Some(forgotten) = self.channels.get_mut(channel) {
            *forgotten = Channel::new();
        }
    }

    /// Advances by one tick; see [`super::Voter::vote`]. The uncertainty is always absent: a code has none.
    pub fn vote(&mut self, readings: &[Reading], vote: &mut Vote) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            let absent = Reading::absent(Reason::NoData);
            channel.take(readings.get(index).unwrap_or(&absent), self.codes);
        }
        let stand_ins = !self.channels.iter().any(|channel| channel.candidate);
        if stand_ins {
            for channel in &mut self.channels {
                channel.candidate = channel.usable && channel.standing == Standing::Isolated;
            }
        }
        let candidates = self.candidates().count();
        let majority = self.majority(candidates);
        if let Some(code) = majority {
            self.agree(code);
            if !stand_ins {
                self.judge(code, candidates);
            }
        }
        self.agreed_age = self.agreed_age.saturating_add(1);
        self.conclude(majority, stand_ins, vote);
    }

    fn candidates(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter().filter(|channel| channel.candidate)
    }

    /// The code that more than half of the candidates deliver.
    fn majority(&self, candidates: usize) -> Option<f64> {
        let votes = |code: f64| self.candidates().filter(|one| one.code == code).count();
        self.candidates()
            .map(|channel| channel.code)
            .find(|&code| 2 * votes(code) > candidates)
    }

    fn agree(&mut self, code: f64) {
        if self.agreed.is_some_and(|old| old != code) {
            for channel in &mut self.channels {
                channel.moved = channel.code == code;
            }
        }
        self.agreed = Some(code);
        self.agreed_age = 0;
    }

    /// Isolates who contradicts the majority for too long, and readmits who agrees for long enough.
    fn judge(&mut self, code: f64, candidates: usize) {
        let (fail_count, clear_count) = (self.config.fail_count, self.config.clear_count);
        for channel in &mut self.channels {
            let agrees = channel.code == code;
            match channel.standing {
                Standing::Trusted if channel.fresh && agrees => channel.disagreeing = 0,
                Standing::Trusted if channel.fresh => {
                    channel.disagreeing += 1;
                    if channel.disagreeing >= fail_count {
                        let stuck = !channel.moved;
                        channel.isolate(if stuck {
                            Reason::Stuck
                        } else {
                            Reason::Disagree
                        });
                    }
                }
                Standing::Isolated if !channel.usable || !agrees => channel.agreeing = 0,
                Standing::Isolated if channel.fresh => {
                    channel.agreeing += 1;
                    let doublings = channel.relapses.saturating_sub(1).min(RELAPSES_MAX);
                    if channel.agreeing >= clear_count.saturating_mul(1 << doublings) {
                        channel.readmit();
                    }
                }
                _ => {}
            }
        }
        self.outvote(code, candidates);
    }

    /// A lone survivor against two or more isolated channels that agree with one another: they are heard again.
    fn outvote(&mut self, code: f64, candidates: usize) {
        let against = |channel: &&Channel| {
            channel.standing == Standing::Isolated && channel.usable && channel.code != code
        };
        let other = self
            .channels
            .iter()
            .find(against)
            .map(|channel| channel.code);
        let together = |code: f64| {
            let isolated = self.channels.iter().filter(against);
            isolated.filter(|channel| channel.code == code).count() >= 2
        };
        let outvoted = candidates == 1 && other.is_some_and(together);
        self.outvoting = if outvoted { self.outvoting + 1 } else { 0 };
        let limit = self.config.clear_count.saturating_mul(RETURNS_TO_OUTVOTE);
        if self.outvoting < limit {
            return;
        }
        self.outvoting = 0;
        for channel in &mut self.channels {
            match channel.standing {
                Standing::Isolated if Some(channel.code) == other => channel.readmit(),
                Standing::Trusted if channel.candidate => channel.isolate(Reason::Disagree),
                _ => {}
            }
        }
    }

    /// Fills in the result.
    fn conclude(&self, majority: Option<f64>, stand_ins: bool, vote: &mut Vote) {
        let chosen = majority.or_else(|| self.settle_split());
        let used = |code: f64| {
            let trusted = |channel: &&Channel| stand_ins || channel.standing == Standing::Trusted;
            self.candidates()
                .filter(trusted)
                .filter(|one| one.code == code)
                .count()
        };
        let count = chosen.map_or(0, used);
        let quorum = count >= self.config.sources_min.max(1);
        let held = self.agreed.filter(|_| {
            self.agreed_age <= self.config.hold_ticks_max
                && (majority.is_none() || self.config.on_quorum_loss.stands_in())
        });
        vote.value = if quorum { chosen } else { held };
        vote.uncertainty = None;
        vote.held_ticks = vote.value.filter(|_| !quorum).map(|_| self.agreed_age);
        vote.used = if quorum { count } else { 0 };
        vote.verdicts.resize(
            self.channels.len(),
            Verdict {
                included: false,
                state: ChannelState::Learning,
                reason: None,
            },
        );
        for (channel, verdict) in self.channels.iter().zip(&mut vote.verdicts) {
            let trusted = stand_ins || channel.standing == Standing::Trusted;
            let included = quorum && trusted && channel.candidate && Some(channel.code) == chosen;
            *verdict = channel.verdict(included);
        }
        vote.doubt = match vote.value {
            None => None,
            Some(_) if !quorum => Some(Doubt::Held),
            Some(_) if majority.is_none() => Some(Doubt::Split),
            Some(_) if stand_ins => Some(Doubt::StandIns),
            Some(_) => (count < 2).then_some(Doubt::Single),
        };
        vote.quality = match vote.value {
            None => Quality::Bad,
            Some(_) if vote.doubt.is_some() => Quality::Uncertain,
            Some(_) if count < self.channels.len() => Quality::Degraded,
            Some(_) => Quality::Good,
        };
    }

    /// What stands for the value while no majority agrees.
    fn settle_split(&self) -> Option<f64> {
        let codes = self.candidates().map(|channel| channel.code);
        match self.config.on_split {
            OnSplit::High => codes.reduce(f64::max),
            OnSplit::Low => codes.reduce(f64::min),
            OnSplit::Weighted | OnSplit::Hold => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{Majority, Reading, Vote, VoterConfig};
    use crate::vote::{ChannelState, Doubt, OnSplit, Quality, Reason};

    fn vote(majority: &mut Majority, codes: &[f64]) -> Vote {
        let readings: Vec<_> = codes.iter().map(|&code| Reading::fresh(code)).collect();
        let mut vote = Vote::empty(codes.len());
        majority.vote(&readings, &mut vote);
        vote
    }

    fn majority(channels: usize) -> Majority {
        let config = VoterConfig {
            clear_count: 30,
            ..VoterConfig::new(channels)
        };
        Majority::new(config, 3)
    }

    #[test]
    fn one_that_contradicts_for_long_is_isolated_and_returns() {
        let mut majority = majority(3);
        assert_eq!(vote(&mut majority, &[1.0; 3]).quality, Quality::Good);
        for _ in 0..2 {
            let found = vote(&mut majority, &[1.0, 1.0, 0.0]);
            assert_eq!((found.value, found.quality), (Some(1.0), Quality::Degraded));
            assert_eq!(found.verdicts[2].state, ChannelState::Suspect);
        }
        let found = vote(&mut majority, &[1.0, 1.0, 0.0]);
        assert_eq!(found.verdicts[2].state, ChannelState::Quarantined);
        assert_eq!(found.verdicts[2].reason, Some(Reason::Disagree));
        for _ in 0..29 {
            let found = vote(&mut majority, &[1.0; 3]);
            assert_eq!(found.verdicts[2].state, ChannelState::Probation);
        }
        let found = vote(&mut majority, &[1.0; 3]);
        assert_eq!((found.used, found.quality), (3, Quality::Good));
    }

    #[test]
    fn one_that_does_not_follow_is_stuck() {
        let mut majority = majority(3);
        vote(&mut majority, &[0.0; 3]);
        let mut found = Vote::empty(3);
        for _ in 0..3 {
            found = vote(&mut majority, &[2.0, 2.0, 0.0]);
        }
        assert_eq!(found.value, Some(2.0));
        assert_eq!(found.verdicts[2].reason, Some(Reason::Stuck));
    }

    #[test]
    fn a_pair_that_splits_is_held_or_taken_to_the_safe_side() {
        let mut majority = majority(2);
        vote(&mut majority, &[1.0, 1.0]);
        let found = vote(&mut majority, &[1.0, 0.0]);
        assert_eq!(
            (found.value, found.quality),
            (Some(1.0), Quality::Uncertain)
        );
        for _ in 0..10 {
            vote(&mut majority, &[1.0, 0.0]);
        }
        assert_eq!(vote(&mut majority, &[1.0, 0.0]).quality, Quality::Bad);
        let config = VoterConfig {
            on_split: OnSplit::High,
            ..VoterConfig::new(2)
        };
        let mut high = Majority::new(config, 2);
        let found = vote(&mut high, &[0.0, 1.0]);
        assert_eq!(
            (found.value, found.quality),
            (Some(1.0), Quality::Uncertain)
        );
    }

    #[test]
    fn a_lone_channel_is_never_good_and_no_code_is_invented() {
        let mut alone = majority(1);
        let found = vote(&mut alone, &[2.0]);
        assert_eq!(
            (found.quality, found.doubt),
            (Quality::Uncertain, Some(Doubt::Single))
        );
        for wrong in [3.0, -1.0, 0.5, f64::NAN, f64::INFINITY] {
            let found = vote(&mut majority(3), &[wrong; 3]);
            assert_eq!((found.value, found.quality), (None, Quality::Bad));
        }
    }

    #[test]
    fn isolated_channels_that_agree_outvote_a_lone_survivor() {
        let mut majority = majority(3);
        let found = |majority: &mut Majority, codes: [f64; 3], ticks: u32| {
            let mut found = Vote::empty(3);
            for _ in 0..ticks {
                found = vote(majority, &codes);
            }
            found
        };
        found(&mut majority, [0.0, 0.0, 0.0], 1);
        found(&mut majority, [0.0, 0.0, 1.0], 3);
        // The second of the two fails alike, and the pair splits; then one of the two goes silent.
        let mut readings = [
            Reading::fresh(0.0),
            Reading::fresh(1.0),
            Reading::fresh(1.0),
        ];
        let mut vote = Vote::empty(3);
        majority.vote(&readings, &mut vote);
        assert_eq!(vote.quality, Quality::Uncertain);
        readings[1] = Reading::absent(Reason::Timeout);
        for _ in 0..40 {
            majority.vote(&readings, &mut vote);
        }
        assert_eq!(
            vote.value,
            Some(0.0),
            "one isolated channel outvotes nobody"
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn a_majority_is_never_isolated(rows in proptest::collection::vec(proptest::collection::vec(0u8..3, 5), 1..200)) {
            let mut majority = majority(5);
            for row in rows {
                let codes: Vec<f64> = row.iter().map(|&code| f64::from(code)).collect();
                let found = vote(&mut majority, &codes);
                let trusted = found.verdicts.iter().filter(|it| matches!(it.state, ChannelState::Healthy | ChannelState::Suspect)).count();
                proptest::prop_assert!(trusted >= 1);
                if let Some(value) = found.value { proptest::prop_assert!((0.0..3.0).contains(&value)); }
            }
        }
    }
}
