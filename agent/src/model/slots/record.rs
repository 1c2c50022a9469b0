//! What a slot holds: the files of one model and how they came there.
//!
//! Owns: the form of a slot, JSON. Must not: read or write anything.

use serde::{Deserialize, Serialize};

use super::{super::trial::Measured, SlotsError};

/// The only form of a slot so far.
const FORMAT: u32 = 1;

/// A file that a slot names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// SHA-256 of the file, hexadecimal; also its name.
    pub digest: String,
    /// Its release number.
    pub release: u64,
    /// The version that its manifest says.
    pub version: String,
}

/// A file that waits to become active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Staged {
    /// The file.
    pub held: Held,
    /// What its self-test measured; none while it has not passed: it is verified, no more.
    pub tested: Option<Measured>,
}

/// How a file that waits is tried beside the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialPhase {
    /// It runs beside and counts for nothing.
    Shadow,
    /// It counts, and the active one runs beside.
    Canary,
    /// Both are recorded until somebody decides.
    Ab,
}

impl TrialPhase {
    /// The word in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Ab => "ab",
        }
    }
}

/// How far the trial of a file that waits has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialRun {
    /// How it is tried.
    pub phase: TrialPhase,
    /// The evidence was enough once.
    pub passed: bool,
    /// Starts with it that have not ended in order so far.
    pub attempts: u32,
}

/// Why another file is active now, or is not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// An operator promoted it.
    Promoted,
    /// An operator went back.
    Command,
    /// Too many starts with it ended without order.
    Crashed,
    /// Its file is damaged, missing or not believed any more.
    Refused,
    /// It does not load.
    CannotLoad,
    /// Its inputs are not those of the configuration.
    DoesNotFit,
    /// What waited was taken by the running agent.
    Staged,
    /// The rules of the trial hold.
    Evidence,
    /// Its alarm was too often not that of the other file.
    Disagreement,
    /// Its scores were too far from the other file's.
    Difference,
    /// The mean of its scores was too far from the other file's.
    Drift,
    /// It gave too often no usable answer.
    Errors,
    /// The same several times in a row.
    ErrorsInRow,
    /// It was too slow.
    Latency,
    /// The same many times in a row.
    LateInRow,
    /// It did not answer at all.
    Hung,
}

/// The rules that the core can name.
const RULES: [Cause; 8] = [
    Cause::Disagreement,
    Cause::Difference,
    Cause::Drift,
    Cause::Errors,
    Cause::ErrorsInRow,
    Cause::Latency,
    Cause::LateInRow,
    Cause::Hung,
];

impl Cause {
    /// The word in an event record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Command => "command",
            Self::Crashed => "crashed",
            Self::Refused => "refused",
            Self::CannotLoad => "cannot-load",
            Self::DoesNotFit => "does-not-fit",
            Self::Staged => "staged",
            Self::Evidence => "evidence",
            Self::Disagreement => "disagreement",
            Self::Difference => "difference",
            Self::Drift => "drift",
            Self::Errors => "errors",
            Self::ErrorsInRow => "errors-in-row",
            Self::Latency => "latency",
            Self::LateInRow => "late-in-row",
            Self::Hung => "hung",
        }
    }

    /// The rule of the core that has this name.
    #[must_use]
    pub fn of_rule(word: &str) -> Self {
        let found = RULES.into_iter().find(|rule| rule.as_str() == word);
        found.unwrap_or(Self::Evidence)
    }
}

/// The last change of what is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// What was active; none for the bundle of the configuration.
    pub from: Option<Held>,
    /// Why.
    pub cause: Cause,
    /// More of it, in words.
    pub detail: String,
    /// Whether an event record told of it.
    pub told: bool,
    /// The phase that began; none where what is active changed, or a trial ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<TrialPhase>,
}

impl Change {
    /// The word of its event record.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match (self.phase, self.cause) {
            (Some(TrialPhase::Shadow), _) => "model-shadow",
            (Some(TrialPhase::Canary), _) => "model-canary",
            (Some(TrialPhase::Ab), _) => "model-ab",
            (None, Cause::Promoted | Cause::Evidence) => "model-promoted",
            (None, _) => "model-rolled-back",
        }
    }
}

/// All that is known of one model's files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Form of the slot.
    format: u32,
    /// The model, as in the configuration.
    pub model: String,
    /// Highest release that was ever active.
    pub release_max: u64,
    /// What is run; none for the bundle of the configuration.
    pub active: Option<Held>,
    /// What was run before and was confirmed; none for the bundle of the configuration.
    pub previous: Option<Held>,
    /// What waits.
    pub staged: Option<Staged>,
    /// How what waits is tried in the running agent; none before one has taken it, or where no trial is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialRun>,
    /// The active file has answered often enough ([`crate::model::boot::CONFIRMATIONS`]).
    pub confirmed: bool,
    /// Starts with it that have not ended in order so far.
    pub attempts: u32,
    /// How it came to be active.
    pub change: Option<Change>,
}

impl Record {
    /// Nothing was ever staged, so there is no slot yet.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.active.is_none() && self.change.is_none()
    }

    /// What waits, where it has passed its self-test.
    #[must_use]
    pub fn tested(&self) -> Option<&Held> {
        let staged = self.staged.as_ref()?;
        staged.tested.is_some().then_some(&staged.held)
    }

    pub(super) fn names(&self, digest: &str) -> bool {
        let staged = self.staged.as_ref().map(|staged| &staged.held);
        [self.active.as_ref(), self.previous.as_ref(), staged]
            .into_iter()
            .flatten()
            .any(|held| held.digest == digest)
    }

    /// Goes back to what was before.
    pub(super) fn go_back(&mut self, cause: Cause, detail: &str) {
        let from = self.active.take();
        self.active = self.previous.take();
        self.confirmed = false;
        self.attempts = 0;
        self.change = Some(Change {
            from,
            cause,
            detail: detail.to_owned(),
            told: false,
            phase: None,
        });
    }
}

/// What a slot holds; a fresh record where it holds nothing.
pub(super) fn decode(model: &str, bytes: Option<Vec<u8>>) -> Result<Record, SlotsError> {
    let wrong = |message: String| SlotsError::Form {
        model: model.to_owned(),
        message,
    };
    let Some(bytes) = bytes else {
        return Ok(Record {
            format: FORMAT,
            model: model.to_owned(),
            ..Record::default()
        });
    };
    let record: Record =
        serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if record.format != FORMAT || record.model != model {
        return Err(wrong(format!(
            "form {} of model `{}`",
            record.format, record.model
        )));
    }
    Ok(record)
}
