//! How a quantity is voted: by measure, round a circle, or by majority.
//!
//! Owns: the choice. Must not: judge.

use alloc::vec::Vec;

use super::{ChannelView, Circle, Learned, Majority, Reading, Vote, VoteView, Voter, VoterConfig};

/// What kind of quantity it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Kind {
    /// A number on a line.
    #[default]
    Scalar,
    /// A number on a circle from `low` up to, not including, `high`: a heading.
    Circular {
        /// Where the circle begins.
        low: f64,
        /// Where it closes.
        high: f64,
    },
    /// A code from 0 to one less than this: 2 for a boolean, the number of labels for an enumeration.
    Codes(u32),
}

/// The voter of one quantity.
#[derive(Clone, Debug)]
pub enum Method {
    /// Numbers on a line.
    Scalar(Voter),
    /// Numbers on a circle.
    Circular(Circle),
    /// Codes.
    Codes(Majority),
}

impl Method {
    /// A voter of that kind.
    #[must_use]
    pub fn new(kind: Kind, config: VoterConfig) -> Self {
        match kind {
            Kind::Scalar => Self::Scalar(Voter::new(config)),
            Kind::Circular { low, high } => Self::Circular(Circle::new(config, low, high)),
            Kind::Codes(codes) => Self::Codes(Majority::new(config, codes)),
        }
    }

    /// Advances by one tick; see [`Voter::vote`]. `vote` must still hold what the last tick left in it.
    pub fn vote(&mut self, readings: &[Reading], vote: &mut Vote) {
        match self {
            Self::Scalar(voter) => voter.vote(readings, vote),
            Self::Circular(circle) => circle.vote(readings, vote),
            Self::Codes(majority) => majority.vote(readings, vote),
        }
    }

    /// Goes on with what was learned before; false where it does not fit. Codes have nothing to learn.
    pub fn restore(&mut self, learned: &Learned) -> bool {
        match self {
            Self::Scalar(voter) => voter.restore(learned),
            Self::Circular(circle) => circle.restore(learned),
            Self::Codes(_) => false,
        }
    }

    /// Forgets everything of one channel, its being out included: it is a newcomer.
    pub fn forget(&mut self, channel: usize) {
        match self {
            Self::Scalar(voter) => voter.forget(channel),
            Self::Circular(circle) => circle.forget(channel),
            Self::Codes(majority) => majority.forget(channel),
        }
    }

    /// What it has learned, where it learns and has.
    #[must_use]
    pub fn learned(&self) -> Option<Learned> {
        match self {
            Self::Scalar(voter) => voter.learned(),
            Self::Circular(circle) => circle.voter().learned(),
            Self::Codes(_) => None,
        }
    }

    /// The numbers behind the last vote: of the whole, and of each channel. Codes have none.
    #[must_use]
    pub fn explain(&self) -> Option<(VoteView, Vec<ChannelView>)> {
        match self {
            Self::Scalar(voter) => Some(voter.explain()),
            Self::Circular(circle) => Some(circle.explain()),
            Self::Codes(_) => None,
        }
    }
}
