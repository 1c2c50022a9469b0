//! The numbers that were used, and the commands that have no outcome yet, over a restart.
//!
//! Owns: the slot `command-counters` (version 1, JSON). Must not: judge a command beyond its number.
//!
//! Invariant: a number is durable as used before anybody acts on it.

use std::{collections::BTreeMap, path::Path};

use quorate_core::command::COMMANDS_MAX;
use serde::{Deserialize, Serialize};

use crate::state::{State, StateError};

/// The slot.
const SLOT: &str = "command-counters";
/// Version of the form.
const VERSION: u32 = 1;
/// Commands without an outcome that are remembered: those in progress, and those on their way to the core.
const EXECUTING_MAX: usize = 4 * COMMANDS_MAX;

/// Why the numbers cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    /// The medium.
    #[error(transparent)]
    State(#[from] StateError),
    /// Something else wrote it.
    #[error("what is kept of the command counters is not what was written")]
    Form,
}

/// A command without an outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Executing {
    pub(super) key: String,
    pub(super) counter: u64,
    pub(super) command: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    version: u32,
    counters: BTreeMap<String, u64>,
    executing: Vec<Executing>,
}

/// Whether a number may be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It was not used before, and now is.
    New,
    /// It is not above the last one.
    Repeated,
    /// It could not be written down.
    NotStored,
}

/// The numbers.
#[derive(Debug)]
pub(super) struct Counters {
    state: State,
    kept: Kept,
    interrupted: Vec<Executing>,
}

impl Counters {
    pub(super) fn open(directory: &Path) -> Result<Self, CountersError> {
        let state = State::open(directory)?;
        for finding in state.findings() {
            tracing::warn!("{finding}");
        }
        let mut kept = match state.read(SLOT)? {
            None => Kept::default(),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| CountersError::Form)?,
        };
        if kept.version > VERSION {
            return Err(CountersError::Form);
        }
        kept.version = VERSION;
        let interrupted = std::mem::take(&mut kept.executing);
        Ok(Self {
            state,
            kept,
            interrupted,
        })
    }

    /// The commands that had no outcome when the last run ended; once.
    pub(super) fn take_interrupted(&mut self) -> Vec<Executing> {
        if !self.interrupted.is_empty() {
            self.save();
        }
        std::mem::take(&mut self.interrupted)
    }

    /// Uses a number of a key for a command.
    pub(super) fn use_up(&mut self, key: &str, counter: u64, command: &str) -> Use {
        if self
            .kept
            .counters
            .get(key)
            .is_some_and(|last| counter <= *last)
        {
            return Use::Repeated;
        }
        if self.kept.executing.len() >= EXECUTING_MAX {
            return Use::NotStored;
        }
        let mut next = self.kept.clone();
        next.counters.insert(key.to_owned(), counter);
        next.executing.push(Executing {
            key: key.to_owned(),
            counter,
            command: command.to_owned(),
        });
        if let Err(error) = self.write(&next) {
            tracing::error!(%error, "the number of a command cannot be kept");
            return Use::NotStored;
        }
        self.kept = next;
        Use::New
    }

    /// A command has come to its end.
    pub(super) fn settle(&mut self, key: &str, counter: u64) {
        let before = self.kept.executing.len();
        self.kept
            .executing
            .retain(|one| one.key != key || one.counter != counter);
        if self.kept.executing.len() == before {
            return;
        }
        self.save();
    }

    /// What cannot be written is told as interrupted after the next start: more than is true, never less.
    fn save(&mut self) {
        if let Err(error) = self.write(&self.kept.clone()) {
            tracing::warn!(%error, "the end of a command cannot be kept");
        }
    }

    fn write(&mut self, kept: &Kept) -> Result<(), StateError> {
        let bytes = serde_json::to_vec(kept).expect("plain structures always encode");
        self.state.write(SLOT, &bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_number_is_used_once_over_a_restart_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut counters = Counters::open(directory.path()).unwrap();
        assert_eq!(counters.use_up("a", 17, "ping"), Use::New);
        assert_eq!(counters.use_up("a", 17, "ping"), Use::Repeated);
        assert_eq!(counters.use_up("a", 16, "ping"), Use::Repeated);
        assert_eq!(counters.use_up("b", 16, "replay"), Use::New);
        counters.settle("a", 17);
        drop(counters);
        let mut counters = Counters::open(directory.path()).unwrap();
        let interrupted = counters.take_interrupted();
        assert_eq!(interrupted.len(), 1);
        assert_eq!(
            (&*interrupted[0].command, interrupted[0].counter),
            ("replay", 16)
        );
        assert_eq!(counters.use_up("a", 17, "ping"), Use::Repeated);
        assert_eq!(counters.use_up("a", 18, "ping"), Use::New);
        counters.settle("a", 18);
        drop(counters);
        let mut counters = Counters::open(directory.path()).unwrap();
        assert_eq!(counters.take_interrupted(), []);
    }

    #[test]
    fn damage_of_both_places_is_told_and_forgets_no_number_quietly() {
        let directory = tempfile::tempdir().unwrap();
        let mut counters = Counters::open(directory.path()).unwrap();
        assert_eq!(counters.use_up("a", 1, "ping"), Use::New);
        drop(counters);
        for name in [SLOT.to_owned(), format!("{SLOT}.copy")] {
            std::fs::write(directory.path().join(name), b"rot").unwrap();
        }
        assert!(Counters::open(directory.path()).is_err());
    }

    #[test]
    fn what_never_settles_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut counters = Counters::open(directory.path()).unwrap();
        let most = u64::try_from(EXECUTING_MAX).unwrap();
        for counter in 1..=most {
            assert_eq!(counters.use_up("a", counter, "ping"), Use::New);
        }
        assert_eq!(counters.use_up("a", most + 1, "ping"), Use::NotStored);
        counters.settle("a", 1);
        assert_eq!(counters.use_up("a", most + 1, "ping"), Use::New);
    }
}
