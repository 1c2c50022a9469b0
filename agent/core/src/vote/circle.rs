//! The vote of a quantity that goes round, such as a heading: 359 and 1 degrees are two apart.
//!
//! Owns: the unwinding of readings onto a line and the winding of the value back. Must not: judge; the measuring vote does.
//!
//! Invariants: readings that lie close together on the circle lie as close together on the line, wherever on the circle
//! they are; the value lies in `low <= value < high`.

use alloc::vec::Vec;

use super::{ChannelView, Learned, Reading, Vote, VoteView, Voter, VoterConfig};

/// Votes across the channels of one circular quantity.
#[derive(Clone, Debug)]
pub struct Circle {
    low: f64,
    turn: f64,
    voter: Voter,
    readings: Vec<Reading>,
    /// The last value on the line.
    last: Option<f64>,
}

impl Circle {
    /// A voter on the circle from `low` up to, not including, `high`.
    #[must_use]
    pub fn new(config: VoterConfig, low: f64, high: f64) -> Self {
        Self {
            low,
            turn: high - low,
            readings: Vec::with_capacity(config.channels),
            voter: Voter::new(config),
            last: None,
        }
    }

    /// The voter on the line.
    #[must_use]
    pub fn voter(&self) -> &Voter {
        &self.voter
    }

    /// The numbers behind the last vote, values and reference on the circle.
    #[must_use]
    pub fn explain(&self) -> (VoteView, Vec<ChannelView>) {
        let (mut whole, mut channels) = self.voter.explain();
        whole.reference = whole.reference.map(|reference| self.wind(reference));
        for channel in &mut channels {
            channel.value = channel.value.map(|value| self.wind(value));
        }
        (whole, channels)
    }

    /// Goes on with what was learned before; see [`Voter::restore`].
    pub fn restore(&mut self, learned: &Learned) -> bool {
        self.voter.restore(learned)
    }

    /// Forgets everything of one channel; see [`Voter::forget`].
    pub fn forget(&mut self, channel: usize) {
        self.voter.forget(channel);
    }

    /// Advances by one tick; see [`Voter::vote`]. `vote` must still hold the verdicts of the last tick.
    pub fn vote(&mut self, readings: &[Reading], vote: &mut Vote) {
        let pivot = self.pivot(readings, vote);
        let origin = match (self.last, pivot) {
            (Some(last), Some(pivot)) => last + self.apart(pivot, last),
            (None, Some(pivot)) => pivot,
            (last, None) => last.unwrap_or(self.low),
        };
        self.readings.clear();
        for reading in readings {
            let value = origin + self.apart(reading.value, origin);
            self.readings.push(Reading { value, ..*reading });
        }
        self.voter.vote(&self.readings, vote);
        if let Some(value) = vote.value {
            self.last = Some(value);
            vote.value = Some(self.wind(value));
        }
    }

    /// The way from `from` to `to` along the shorter side.
    fn apart(&self, to: f64, from: f64) -> f64 {
        libm::remainder(to - from, self.turn)
    }

    fn wind(&self, value: f64) -> f64 {
        let turns = libm::floor((value - self.low) / self.turn);
        let wound = value - turns * self.turn;
        // Rounding may land on the far end, which is the near one.
        if wound < self.low || wound >= self.low + self.turn {
            self.low
        } else {
            wound
        }
    }

    /// The reading with the least sum of distances to the others (the medoid): the line is laid around it, so that no
    /// channel can tear the others apart. Isolated channels have no say unless there is nobody else.
    fn pivot(&self, readings: &[Reading], vote: &Vote) -> Option<f64> {
        let isolated = |index: usize| {
            let verdict = vote.verdicts.get(index);
            verdict.is_some_and(|verdict| verdict.state.is_isolated())
        };
        let trusted = |index: &usize| readings[*index].usable && !isolated(*index);
        let usable = |index: &usize| readings[*index].usable;
        let anyone = !(0..readings.len()).any(|index| trusted(&index));
        let heard = |index: &usize| {
            if anyone {
                usable(index)
            } else {
                trusted(index)
            }
        };
        let distance = |index: usize| -> f64 {
            let others = (0..readings.len()).filter(heard);
            others
                .map(|other| libm::fabs(self.apart(readings[index].value, readings[other].value)))
                .sum()
        };
        (0..readings.len())
            .filter(heard)
            .min_by(|&one, &other| distance(one).total_cmp(&distance(other)))
            .map(|index| readings[index].value)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{Circle, Reading, Vote, VoterConfig};
    use crate::vote::{ChannelState, Quality};

    /// Noise within half a degree.
    fn noise(random: &mut fastrand::Rng) -> f64 {
        (random.f64() + random.f64()) * 0.5 - 0.5
    }

    fn heading(degrees: f64) -> f64 {
        degrees - 360.0 * libm::floor(degrees / 360.0)
    }

    #[test]
    fn a_heading_that_turns_through_north_many_times_is_one_signal() {
        let mut circle = Circle::new(VoterConfig::new(3), 0.0, 360.0);
        let mut vote = Vote::empty(3);
        let mut random = fastrand::Rng::with_seed(1);
        for tick in 0..2_000_u32 {
            let truth = f64::from(tick) * 3.0;
            let readings: Vec<_> = (0..3)
                .map(|_| Reading::fresh(heading(truth + noise(&mut random))))
                .collect();
            circle.vote(&readings, &mut vote);
            let value = vote.value.unwrap_or(f64::NAN);
            assert!((0.0..360.0).contains(&value));
            let error = libm::remainder(value - truth, 360.0);
            assert!(error.abs() < 1.5, "tick {tick}: {value} for {truth}");
            assert_eq!(vote.used, 3, "tick {tick}");
        }
        assert_eq!(vote.quality, Quality::Good);
    }

    #[test]
    fn a_compass_that_is_off_is_out_on_both_sides_of_north() {
        let mut circle = Circle::new(VoterConfig::new(3), -180.0, 180.0);
        let mut vote = Vote::empty(3);
        let mut random = fastrand::Rng::with_seed(2);
        for tick in 0..600_u32 {
            let truth = 170.0 + libm::sin(f64::from(tick) / 20.0) * 30.0;
            let off = if tick > 300 { 40.0 } else { 0.0 };
            let readings: Vec<_> = [0.0, 0.0, off]
                .iter()
                .map(|off| {
                    Reading::fresh(heading(truth + noise(&mut random) + off + 180.0) - 180.0)
                })
                .collect();
            circle.vote(&readings, &mut vote);
            let error = libm::remainder(vote.value.unwrap_or(f64::NAN) - truth, 360.0);
            assert!(error.abs() < 5.0, "tick {tick}: off by {error}");
        }
        assert_eq!(vote.verdicts[2].state, ChannelState::Quarantined);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn the_value_stays_on_the_circle(rows in proptest::collection::vec(proptest::array::uniform3(-720.0..720.0_f64), 1..100)) {
            let mut circle = Circle::new(VoterConfig::new(3), -180.0, 180.0);
            let mut vote = Vote::empty(3);
            for row in rows {
                circle.vote(&row.map(Reading::fresh), &mut vote);
                if let Some(value) = vote.value {
                    proptest::prop_assert!((-180.0..180.0).contains(&value), "{value}");
                }
            }
        }
    }
}
