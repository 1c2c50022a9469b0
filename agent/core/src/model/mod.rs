//! The life of a model while the agent runs: which of its two files counts, which runs beside it, and what is asked of
//! the evidence.
//!
//! Owns: the vocabulary of that life. Must not: hold behaviour; `life` decides, `trial` counts, `inputs` fills gaps.
//!
//! Invariant: whatever runs beside never raises the alarm; a change that puts a newer file in counts only once the shell
//! says that it is durable.
//!
//! | from | to | when |
//! |---|---|---|
//! | Alone | Shadow, Compared | the shell has loaded a staged file beside |
//! | Shadow | Canary, Alone | the rules hold for the time of the shadow; [`ModelStep`] was made durable |
//! | Canary | Alone | the same for the time of the canary |
//! | Shadow, Canary, Compared | Alone | a rule is broken: at once, and durable afterwards |

mod inputs;
mod life;
mod trial;

use alloc::{string::String, sync::Arc};

pub(crate) use self::{
    inputs::Inputs,
    life::{Answer, Asking, Model},
};
use crate::{
    config::ModelConfig,
    event::ModelChange,
    units::{ModelId, Mono},
};

/// Where a runner of a model is: it has room for two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// What a start loads.
    #[default]
    First,
    /// The other.
    Second,
}

impl Lane {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::First, Self::Second];

    /// As an index into two.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }

    /// The one that this is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// What a file of a model is to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The one that counts.
    #[default]
    Active,
    /// New, and runs beside.
    Shadow,
    /// New, and counts on trial.
    Canary,
    /// What counted before, beside a canary.
    Reference,
    /// The first of two that are compared.
    A,
    /// The second.
    B,
}

impl Role {
    /// It is the file that counted before the other one came.
    pub(crate) const fn is_established(self) -> bool {
        matches!(self, Self::Active | Self::Reference | Self::A)
    }

    /// The word used in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Reference => "reference",
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// How far the change of a model has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// One file runs.
    #[default]
    Alone,
    /// The new one runs beside.
    Shadow,
    /// The new one counts, and the old one runs beside.
    Canary,
    /// Two are compared until somebody decides.
    Compared,
}

impl Phase {
    /// The word used in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alone => "active",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Compared => "ab",
        }
    }
}

/// What a new file must show before it goes further.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialRules {
    /// Time in shadow, in milliseconds; 0 for none.
    pub shadow_ms: u64,
    /// Time as canary, in milliseconds; 0 for none.
    pub canary_ms: u64,
    /// Fewest answers that are judged, at least 1.
    pub answers_min: u64,
    /// Largest share of answers whose alarm is not that of the other file, 0 to 1.
    pub disagreement_max: f64,
    /// Largest mean of the relative difference of the scores, each in units of its own threshold; 0 to 2.
    pub difference_max: Option<f64>,
    /// 99 % of the answers take at most this, in microseconds.
    pub latency_p99_us_max: Option<u64>,
    /// Largest share of windows without a usable answer, 0 to 1.
    pub errors_share_max: f64,
    /// Smallest share of windows whose inputs are good, 0 to 1; with fewer the evidence begins anew. Good is what has a
    /// quorum (of one sensor alone: a value), and of which nothing was made up.
    pub inputs_good_share_min: f64,
    /// Farthest that the mean of the scores may lie from the other file's, in its standard deviations.
    pub drift_max: Option<f64>,
    /// Goes further by itself once the rules hold; else somebody must say so.
    pub promotes: bool,
}

impl Default for TrialRules {
    fn default() -> Self {
        Self {
            shadow_ms: 3_600_000,
            canary_ms: 3_600_000,
            answers_min: 100,
            disagreement_max: 0.05,
            difference_max: None,
            latency_p99_us_max: None,
            errors_share_max: 0.01,
            inputs_good_share_min: 0.9,
            drift_max: None,
            promotes: false,
        }
    }
}

/// How two files that are compared share the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Both take every window; the alarm is that of the first.
    Both,
    /// They take turns, and whose turn it is counts.
    Time {
        /// Length of a turn in milliseconds, at least 1.
        period_ms: u64,
    },
}

/// What a model does without all of its inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// It gives no answer.
    #[default]
    Abstain,
    /// What can be put in for the input is, and the record says so.
    Impute,
    /// It gives no answer, and another model does meanwhile.
    Fallback(ModelId),
}

/// What stands in for an input that has no value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Impute {
    /// Its last value, for at most so many milliseconds.
    Hold {
        /// Longest time.
        ms: u64,
    },
    /// Always this, in the unit of the input.
    Value(f64),
}

/// What the shell says of the files of a model, each step durable before.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    /// These are loaded, in these lanes, and this is how they stand to each other. The same again changes nothing.
    Assigned {
        /// Which model.
        model: ModelId,
        /// How far the change has come.
        phase: Phase,
        /// Whose answers count; of two that are compared, the first.
        counting: Lane,
        /// What is in each lane.
        lanes: [Option<Arc<ModelConfig>>; 2],
    },
    /// What is to be told of it.
    Changed(ModelChange),
}

/// A step that the evidence asks for; the shell makes it durable and answers with [`ModelEvent::Assigned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelStep {
    /// The rules hold, and somebody may say that it goes further.
    Pass,
    /// The new file counts on trial, or is compared where the configuration asks for that.
    Canary,
    /// The new file is the active one.
    Promote,
    /// The new file is given up.
    RollBack,
}

/// The evidence of a trial, for the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialHealth {
    /// `shadow`, `canary` or `ab`.
    pub phase: &'static str,
    /// Version of the new file.
    pub version: String,
    /// Digest of the new file.
    pub digest: String,
    /// Since when evidence is gathered.
    pub since: Mono,
    /// When the time of this phase is over, where it has one.
    pub until: Option<Mono>,
    /// `going`, `waiting` or `passed`.
    pub state: &'static str,
    /// Which rule it waits for.
    pub rule: Option<&'static str>,
    /// Answers of the new file.
    pub answers: u64,
    /// Windows without a usable answer.
    pub errors: u64,
    /// Windows that came while it was busy.
    pub skipped: u64,
    /// Windows that both files answered.
    pub pairs: u64,
    /// Share of those whose alarms differ.
    pub disagreement: Option<f64>,
    /// Mean relative difference of the scores.
    pub difference: Option<f64>,
    /// 99 % of the answers took at most this, in microseconds, up to a quarter too high.
    pub latency_p99_us: Option<u64>,
    /// Share of windows with good inputs.
    pub inputs_good: Option<f64>,
    /// Distance of the mean scores in standard deviations.
    pub drift: Option<f64>,
}
