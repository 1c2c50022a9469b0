//! The vote: redundant readings of one quantity become one value that says what it rests on.
//!
//! Owns: the vocabulary of a vote ([`Reading`], [`Vote`], [`Quality`], [`ChannelState`], [`Reason`]) and the voter.
//! Must not: know sensors by name, time in milliseconds, or anything outside one quantity. A voter advances by ticks.
//!
//! Invariants: the value is finite or absent; a healthy majority is never isolated; one channel alone is never `Good`.

mod channel;
mod circle;
pub mod codes;
mod commission;
mod explain;
mod fuse;
mod learned;
mod look;
mod majority;
mod method;
mod monitor;
mod newcomer;
mod pair;
mod path;
mod probation;
mod statistics;
mod stuck;
#[cfg(test)]
mod tests;
mod voter;
mod witness;

pub use circle::Circle;
pub use explain::{ChannelView, VoteView};
pub use learned::Learned;
pub use majority::Majority;
pub use method::{Kind, Method};
pub use voter::Voter;

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Most channels that one quantity may have.
pub const CHANNELS_MAX: usize = 32;

/// What the front end knows of one channel at one tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The newest valid value that the channel has delivered, in the quantity's unit; meaningless unless `usable`.
    pub value: f64,
    /// The value is finite, in range, not older than the timeout, and the newest thing that the channel said.
    pub usable: bool,
    /// The value arrived since the last tick.
    pub fresh: bool,
    /// Ticks since the value arrived; 0 when `fresh`.
    pub age_ticks: u32,
    /// Why the channel is not usable now, where the front end knows.
    pub fault: Option<Reason>,
}

impl Reading {
    /// A fresh valid value.
    #[must_use]
    pub const fn fresh(value: f64) -> Self {
        Self {
            value,
            usable: true,
            fresh: true,
            age_ticks: 0,
            fault: None,
        }
    }

    /// Nothing that can be used, and why.
    #[must_use]
    pub const fn absent(reason: Reason) -> Self {
        Self {
            value: 0.0,
            usable: false,
            fresh: false,
            age_ticks: u32::MAX,
            fault: Some(reason),
        }
    }
}

/// How far a vote can be relied upon. Ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// Every expected channel is in the value and they agree.
    Good,
    /// Some channels are excluded; the quorum holds.
    Degraded,
    /// Split, a single channel, or a held value.
    Uncertain,
    /// There is no value.
    Bad,
}

impl Quality {
    /// The word used in records, metrics and traces.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Degraded => "degraded",
            Self::Uncertain => "uncertain",
            Self::Bad => "bad",
        }
    }
}

/// Why a value is uncertain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// It rests on one channel: nothing speaks for or against it.
    Single,
    /// The channels disagree and none can be blamed.
    Split,
    /// No channel bears it now.
    Held,
    /// Isolated channels stand in, because no trusted one delivers.
    StandIns,
    /// Nobody bears out what was learned at start.
    Unproven,
}

impl Doubt {
    /// The word used in records and traces.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Split => "split",
            Self::Held => "held",
            Self::StandIns => "stand-ins",
            Self::Unproven => "unproven",
        }
    }
}

/// State of one channel of a vote.
///
/// | from | to | when |
/// |---|---|---|
/// | Learning | Healthy | commissioning ended with an offset that its siblings bear out |
/// | Learning, Healthy | Quarantined | a fault persisted |
/// | Healthy | Suspect | this sample alone is not believed |
/// | Suspect | Healthy, Quarantined | the next samples clear it, or bear the fault out |
/// | Quarantined | Probation | its samples agree again |
/// | Probation | Healthy, Quarantined | it agreed for long enough, or it relapsed |
/// | Quarantined | Failed | it relapsed too often, or its fault is permanent |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelState {
    /// Its offset and noise are being learned.
    Learning,
    /// In the vote.
    Healthy,
    /// In the vote, but this sample is left out.
    Suspect,
    /// Left out until it has agreed for long enough.
    Quarantined,
    /// Still left out, and agreeing again.
    Probation,
    /// Left out for good until an operator or a restart says otherwise.
    Failed,
}

impl ChannelState {
    /// Whether a channel in this state has no say: it was isolated and is not readmitted.
    #[must_use]
    pub const fn is_isolated(self) -> bool {
        matches!(self, Self::Quarantined | Self::Probation | Self::Failed)
    }

    /// The word used in records, metrics and traces.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Learning => "learning",
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Quarantined => "quarantined",
            Self::Probation => "probation",
            Self::Failed => "failed",
        }
    }
}

/// Why a channel is not in the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It has never delivered a value.
    NoData,
    /// Its last value is older than the quantity's timeout.
    Timeout,
    /// The probe reported an error instead of a value.
    SensorError,
    /// It does not move while its siblings do.
    Stuck,
    /// Outside the configured physical range.
    OutOfRange,
    /// Not a finite number.
    NotANumber,
    /// One sample far from its siblings.
    Spike,
    /// A lasting offset that arose at once.
    Bias,
    /// A lasting offset that grew slowly.
    Drift,
    /// Far noisier than it was.
    Noisy,
    /// Disagrees with its siblings in a way that none of the above describes.
    Disagree,
    /// An offset at start that its siblings do not bear out.
    BootOffset,
    /// Another axis of the same device is isolated.
    Device,
}

impl Reason {
    /// The word used in records, metrics and traces.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoData => "no-data",
            Self::Timeout => "timeout",
            Self::SensorError => "sensor-error",
            Self::Stuck => "stuck",
            Self::OutOfRange => "out-of-range",
            Self::NotANumber => "not-a-number",
            Self::Spike => "spike",
            Self::Bias => "bias",
            Self::Drift => "drift",
            Self::Noisy => "noisy",
            Self::Disagree => "disagree",
            Self::BootOffset => "boot-offset",
            Self::Device => "device",
        }
    }
}

/// What to do when the channels disagree and none can be blamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSplit {
    /// Weigh the sides by what is known of each; the uncertainty spans them.
    #[default]
    Weighted,
    /// Keep the last agreed value.
    Hold,
    /// Take the highest (1oo2 where high is the safe side).
    High,
    /// Take the lowest (1oo2 where low is the safe side).
    Low,
}

/// What to do when fewer than `sources_min` channels are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnQuorumLoss {
    /// Keep the last value, ageing visibly, up to the configured age.
    #[default]
    Hold,
    /// Give no value.
    Bad,
    /// As `Hold`, but the value goes on as it last moved, ever less: a damped trend (Gardner and McKenzie, 1985).
    Model,
}

impl OnQuorumLoss {
    /// Whether anything stands in for the value.
    #[must_use]
    pub const fn stands_in(self) -> bool {
        !matches!(self, Self::Bad)
    }
}

/// The settings of one voter. All counts are in ticks of the quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct VoterConfig {
    /// Number of channels, 1 to [`CHANNELS_MAX`].
    pub channels: usize,
    /// Datasheet accuracy in the quantity's unit (a half-width), where given.
    pub accuracy_absolute: Option<f64>,
    /// Datasheet accuracy as a share of the value (0.2 for "20 %"), added to the absolute part; 0 when not given.
    pub accuracy_relative: f64,
    /// M of M-out-of-N: fewest channels that make a quorum, at least 1.
    pub sources_min: usize,
    /// Consecutive faulty samples after which a channel is quarantined.
    pub fail_count: u32,
    /// Consecutive clean samples after which a quarantined channel is readmitted.
    pub clear_count: u32,
    /// What to do when none of the disagreeing channels can be blamed.
    pub on_split: OnSplit,
    /// What to do when the quorum is lost.
    pub on_quorum_loss: OnQuorumLoss,
    /// Longest time in ticks that a held value may stand in for a vote.
    pub hold_ticks_max: u32,
}

impl VoterConfig {
    /// The defaults for `channels` channels.
    #[must_use]
    pub const fn new(channels: usize) -> Self {
        Self {
            channels,
            accuracy_absolute: None,
            accuracy_relative: 0.0,
            sources_min: 1,
            fail_count: 3,
            clear_count: 20,
            on_split: OnSplit::Weighted,
            on_quorum_loss: OnQuorumLoss::Hold,
            hold_ticks_max: 10,
        }
    }
}

/// What the vote says of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The channel's sample is in the value of this tick.
    pub included: bool,
    /// The channel's state after this tick.
    pub state: ChannelState,
    /// Why it is not in the value, or why it is in a state other than learning or healthy.
    pub reason: Option<Reason>,
}

/// One vote of one quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote {
    /// The voted value, finite; absent exactly when the quality is [`Quality::Bad`].
    pub value: Option<f64>,
    /// Standard uncertainty: the truth lies within twice this of the value in about 95 % of ticks. Absent with the
    /// value, and for codes, which have none.
    pub uncertainty: Option<f64>,
    /// How far the value can be relied upon.
    pub quality: Quality,
    /// Why the quality is [`Quality::Uncertain`]; absent otherwise.
    pub doubt: Option<Doubt>,
    /// Number of channels in the value.
    pub used: usize,
    /// Ticks since the channels last bore the value; absent while they do, and where there is no value.
    pub held_ticks: Option<u32>,
    /// One verdict per configured channel, in order.
    pub verdicts: Vec<Verdict>,
}

impl Vote {
    /// A vote of `channels` channels that has no value yet; it is the buffer that [`Voter::vote`] fills again and again.
    #[must_use]
    pub fn empty(channels: usize) -> Self {
        Self {
            value: None,
            uncertainty: None,
            quality: Quality::Bad,
            doubt: None,
            used: 0,
            held_ticks: None,
            verdicts: (0..channels)
                .map(|_| Verdict {
                    included: false,
                    state: ChannelState::Learning,
                    reason: Some(Reason::NoData),
                })
                .collect(),
        }
    }
}
