//! The slots of a model: which file is active, which was before it, which waits.
//!
//! Owns: the directory `<outbox>.models` and, per model, one slot of `<outbox>.state`. Must not: believe a file, or try it;
//! who stages brings both.
//!
//! Invariants: a file is durable before a slot names it and is deleted only when no slot names it; every step is one durable
//! write of the slot, so that a cut leaves the step done or not; [`Record::release_max`] never falls.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use quorate_models::Digest;

mod record;
mod steps;

pub use record::{Cause, Change, Held, Record, Staged, TrialPhase, TrialRun};
pub use steps::Plan;

use super::trial::Measured;
use crate::{
    durable::{self, parent, sync_directory, write_whole},
    state::{self, State, StateError},
};

/// A new model is rolled back when this many starts with it ended without order before it was confirmed.
pub const ATTEMPTS_MAX: u32 = 3;

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The directory of the models cannot be used.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The slot holds something that this agent does not know.
    #[error("the slot of model `{model}` is of another form: {message}")]
    Form {
        /// The model.
        model: String,
        /// What is wrong.
        message: String,
    },
    /// The release is not above the highest that was active.
    #[error(
        "release {found} is not above release {highest}, which was active; --allow-downgrade takes it all the same"
    )]
    Downgrade {
        /// The release that was offered.
        found: u64,
        /// The highest that was active.
        highest: u64,
    },
    /// Another file was staged while this one was tried.
    #[error("another model was staged meanwhile")]
    Overtaken,
    /// What is on trial counts, and must make room first.
    #[error("release {release} is on trial; roll it back or promote it first")]
    OnTrial {
        /// The release.
        release: u64,
    },
    /// What waits has not shown what the configuration asks for.
    #[error("{0}; --force promotes it all the same")]
    NotPassed(&'static str),
    /// Nothing waits, or what waits did not pass its self-test.
    #[error("no tested model is staged")]
    NothingStaged,
    /// The configured bundle is active; there is nothing before it.
    #[error("the bundle of the configuration is active already")]
    NothingBefore,
}

/// Where the files and slots of all models of one agent lie.
#[derive(Clone, Debug)]
pub struct Slots {
    directory: PathBuf,
    state: PathBuf,
}

impl Slots {
    /// Those beside this outbox. Nothing is made yet.
    #[must_use]
    pub fn beside(outbox: &Path) -> Self {
        let mut name = outbox.as_os_str().to_owned();
        name.push(".models");
        Self {
            directory: PathBuf::from(name),
            state: state::path(outbox),
        }
    }

    /// What is known of a model; a fresh record where nothing is, and nothing is made for it.
    ///
    /// # Errors
    /// The slot cannot be read, is damaged in both places, or is of another form.
    pub fn read(&self, model: &str) -> Result<Record, SlotsError> {
        if !self.state.is_dir() {
            return record::decode(model, None);
        }
        record::decode(model, State::open(&self.state)?.read(&slot(model))?)
    }

    /// The directory of the slots, which is there once one was written.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where a file is kept that is on its way to the device.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.directory.join("incoming")
    }

    /// Where a file lies.
    #[must_use]
    pub fn file(&self, model: &str, held: &Held) -> PathBuf {
        self.directory(model).join(file_name(&held.digest))
    }

    /// Keeps a verified package, tries it by `test`, and lets it wait for [`Slots::promote`]. The same again is no error.
    ///
    /// # Errors
    /// The release is not above the highest that was active, nothing can be written, or what `test` says; then nothing waits.
    pub fn stage<E: From<SlotsError>>(
        &self,
        model: &str,
        (held, bytes): (Held, &[u8]),
        may_go_down: bool,
        test: impl FnOnce() -> Result<Measured, E>,
    ) -> Result<Record, E> {
        let lock = self.lock()?;
        let mut record = self.read(model)?;
        let is_active = record.active.as_ref() == Some(&held);
        if record.tested() == Some(&held) || (is_active && record.staged.is_none()) {
            self.clear(&record);
            return Ok(record);
        }
        if held.release <= record.release_max && !may_go_down {
            return Err(E::from(SlotsError::Downgrade {
                found: held.release,
                highest: record.release_max,
            }));
        }
        if let (Some(trial), Some(staged)) = (&record.trial, &record.staged)
            && trial.phase != TrialPhase::Shadow
        {
            let release = staged.held.release;
            return Err(E::from(SlotsError::OnTrial { release }));
        }
        self.keep(model, &held, bytes)?;
        record.trial = None;
        record.staged = Some(Staged {
            held: held.clone(),
            tested: None,
        });
        self.write(&record)?;
        // A start of the agent must not wait for a self-test.
        drop(lock);
        let outcome = test();
        let _lock = self.lock()?;
        let mut record = self.read(model)?;
        if record
            .staged
            .as_ref()
            .is_none_or(|staged| staged.held != held)
        {
            return Err(E::from(SlotsError::Overtaken));
        }
        let (staged, outcome) = match outcome {
            Ok(measured) => (Some(Some(measured)), Ok(())),
            Err(error) => (None, Err(error)),
        };
        record.staged = staged.map(|tested| Staged { held, tested });
        self.write(&record)?;
        outcome.map(|()| record)
    }

    /// Goes back to the file before, or to the bundle of the configuration.
    ///
    /// # Errors
    /// [`SlotsError::NothingBefore`], or nothing can be written.
    pub fn roll_back(&self, model: &str, cause: Cause, detail: &str) -> Result<Record, SlotsError> {
        let _lock = self.lock()?;
        let mut record = self.read(model)?;
        if record.active.is_none() {
            return Err(SlotsError::NothingBefore);
        }
        record.go_back(cause, detail);
        self.write(&record)?;
        Ok(record)
    }

    /// Counts a start with the active file, durably, before it is loaded; or rolls back when there were too many.
    ///
    /// # Errors
    /// The slot cannot be read or written.
    pub fn attempt(&self, model: &str) -> Result<Record, SlotsError> {
        let _lock = self.lock()?;
        let mut record = self.read(model)?;
        // A step that was cut may have left a file.
        self.clear(&record);
        while record.active.is_some() && !record.confirmed {
            if record.attempts < ATTEMPTS_MAX {
                record.attempts += 1;
                self.write(&record)?;
                break;
            }
            let detail = format!("{ATTEMPTS_MAX} starts with it ended without order");
            record.go_back(Cause::Crashed, &detail);
            self.write(&record)?;
        }
        Ok(record)
    }

    /// The active file has shown that it works, and its change was told.
    ///
    /// # Errors
    /// The slot cannot be read or written.
    pub fn confirm(&self, model: &str, active: Option<&Held>) -> Result<(), SlotsError> {
        self.change(model, active, |record| {
            record.confirmed = true;
            record.attempts = 0;
        })
    }

    /// The process ended in order: this start says nothing against the file.
    ///
    /// # Errors
    /// The slot cannot be read or written.
    pub fn ended(&self, model: &str, active: Option<&Held>) -> Result<(), SlotsError> {
        self.change(model, active, |record| {
            record.attempts = record.attempts.saturating_sub(1);
            if let Some(trial) = &mut record.trial {
                trial.attempts = trial.attempts.saturating_sub(1);
            }
        })
    }

    /// Changes the slot where the active file is still the one that was started with.
    fn change(
        &self,
        model: &str,
        active: Option<&Held>,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), SlotsError> {
        let _lock = self.lock()?;
        let mut record = self.read(model)?;
        if record.active.as_ref() != active {
            return Ok(());
        }
        let before = record.clone();
        change(&mut record);
        if let Some(change) = &mut record.change {
            change.told = true;
        }
        if record == before {
            return Ok(());
        }
        self.write(&record)
    }

    fn directory(&self, model: &str) -> PathBuf {
        self.directory.join(slot(model))
    }

    fn keep(&self, model: &str, held: &Held, bytes: &[u8]) -> Result<(), SlotsError> {
        let directory = self.directory(model);
        let io = |error| SlotsError::Io {
            path: directory.clone(),
            error,
        };
        fs::create_dir_all(&directory)
            .and_then(|()| sync_directory(parent(&directory)))
            .map_err(io)?;
        write_whole(&directory, &file_name(&held.digest), bytes).map_err(io)
    }

    fn write(&self, record: &Record) -> Result<(), SlotsError> {
        let text = serde_json::to_vec(record).map_err(|error| SlotsError::Form {
            model: record.model.clone(),
            message: error.to_string(),
        })?;
        State::open(&self.state)?.write(&slot(&record.model), &text)?;
        self.clear(record);
        Ok(())
    }

    /// Deletes what the slot does not name; what cannot be deleted now is deleted another time.
    fn clear(&self, record: &Record) {
        let entries = fs::read_dir(self.directory(&record.model));
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let named = name.strip_suffix(SUFFIX);
            if !named.is_some_and(|digest| record.names(digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// One process at a time takes a step.
    fn lock(&self) -> Result<File, SlotsError> {
        let path = self.directory.join(".lock");
        let io = |error| SlotsError::Io {
            path: path.clone(),
            error,
        };
        fs::create_dir_all(&self.directory)
            .and_then(|()| sync_directory(parent(&self.directory)))
            .map_err(io)?;
        durable::lock(&path).map_err(io)
    }
}

const SUFFIX: &str = ".qmodel";

fn file_name(digest: &str) -> String {
    format!("{digest}{SUFFIX}")
}

/// Any name of a model as the name of a slot and a folder.
fn slot(model: &str) -> String {
    let digest = Digest::of(model.as_bytes()).to_string();
    let (short, _) = digest.split_at(32);
    format!("model-{short}")
}

#[cfg(test)]
mod tests;
