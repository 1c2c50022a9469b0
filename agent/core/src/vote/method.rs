//! How a quantity is voted: by measure, round a circle, or by majority.
//!
//! Owns: the choice. Must not: judge.

use super::{Circle, Majority, Reading, Vote, Voter, VoterConfig};

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

    /// The measuring voter in it, where there is one.
    #[must_use]
    pub fn voter(&self) -> Option<&Voter> {
        match self {
            Self::Scalar(voter) => Some(voter),
            Self::Circular(circle) => Some(circle.voter()),
            Self::Codes(_) => None,
        }
    }
}
