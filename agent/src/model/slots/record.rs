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

/// Why another file is active now.
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
}

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
        }
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
    /// The active file has answered often enough ([`crate::model::boot::CONFIRMATIONS`]).
    pub confirmed: bool,
    /// Starts with it that have not ended in order so far.
    pub attempts: u32,
    /// How it came to be active.
    pub change: Option<Change>,
}

impl Record {
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
