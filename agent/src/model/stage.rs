//! Staging: a file that came from somewhere is verified, tried in a process of its own, and waits.
//!
//! Owns: the order of these steps, the same for the command line and for delivery. Must not: fetch a file.

use std::path::Path;

use quorate_models::package;

use super::{
    slots::{Held, Record, Slots, SlotsError},
    trial::{Refusal, Trial},
    trust::{ModelError, Trust},
};
use crate::{
    inference,
    settings::{Settings, SettingsError},
};

/// Why a file does not wait now.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It is not believed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No such model is configured.
    #[error("no model `{id}`; expected one of [{known}]")]
    Unknown {
        /// What was asked for.
        id: String,
        /// What is configured.
        known: String,
    },
    /// It does not fit the configuration.
    #[error(transparent)]
    Fit(#[from] SettingsError),
    /// The slot.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// Its self-test.
    #[error("does not pass: {0}")]
    Trial(#[from] Refusal),
}

impl StageError {
    /// The cause in one kebab-case word.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Model(ModelError::Package { error, .. }) => error.cause(),
            Self::Model(ModelError::NewerAgent { .. }) => "newer-agent",
            Self::Model(_) => "unreadable",
            Self::Unknown { .. } => "unknown-model",
            Self::Fit(_) => "does-not-fit",
            Self::Slots(SlotsError::Downgrade { .. }) => "downgrade",
            Self::Slots(SlotsError::OnTrial { .. }) => "on-trial",
            Self::Slots(SlotsError::Overtaken) => "overtaken",
            Self::Slots(_) => "not-stored",
            Self::Trial(_) => "self-test",
        }
    }
}

/// A configured model by its name.
///
/// # Errors
/// [`StageError::Unknown`].
pub fn find(settings: &Settings, id: &str) -> Result<usize, StageError> {
    let known: Vec<_> = settings.models.iter().map(|it| it.id.as_str()).collect();
    let index = known.iter().position(|known| *known == id);
    index.ok_or_else(|| StageError::Unknown {
        id: id.to_owned(),
        known: known.join(", "),
    })
}

/// Lets a file wait; `file` is for messages, and `wanted` the model where the manifest's own name is not its.
///
/// # Errors
/// [`StageError`]; then nothing new waits.
pub fn stage(
    settings: &Settings,
    slots: &Slots,
    wanted: Option<&str>,
    (file, bytes): (&Path, &[u8]),
    may_go_down: bool,
) -> Result<Record, StageError> {
    let package = Trust::Keys(settings.model_keys.clone()).open_package(file, bytes)?;
    let manifest = package.bundle().manifest();
    let index = find(settings, wanted.unwrap_or(&manifest.id))?;
    settings.model_config(index, &inference::facts(package.bundle()))?;
    let held = Held {
        digest: package.digest().to_string(),
        release: package.release(),
        version: manifest.version.clone(),
    };
    let parts = package::unpack(bytes).map_err(|error| ModelError::Package {
        path: file.to_owned(),
        error,
    })?;
    slots.stage(
        &settings.models[index].id,
        (held, bytes),
        may_go_down,
        || {
            let tried = Trial::default().run(&parts.framed(), manifest.budgets);
            tried.map_err(StageError::from)
        },
    )
}
