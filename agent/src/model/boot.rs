//! Which file of every model a start takes.
//!
//! Owns: the way from the slots to loaded models, and back down when one cannot be taken. Must not: stage or promote.
//!
//! Invariant: what is loaded was verified by this very start; a slot that cannot be read or written costs its model no more
//! than the way back to the bundle of the configuration.

use std::path::Path;

use quorate_core::{
    config::Config,
    event::{Event, ModelChange},
    model::ModelEvent,
    units::ModelId,
};
use quorate_models::Runner;

use super::{
    slots::{Cause, Change, Held, Record, Slots, SlotsError},
    trust::Trust,
};
use crate::{
    inference::{self, Loaded},
    outcome::Outcome,
    settings::Settings,
};

/// Answers after which a new file is confirmed.
pub const CONFIRMATIONS: u32 = 32;

/// Whether a start is a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The agent runs: attempts are counted, and what cannot be taken is rolled back.
    Run,
    /// A look: nothing is written.
    Look,
}

/// The models of a start.
#[derive(Debug)]
pub struct Models {
    /// The core's configuration, with what the manifests say.
    pub config: Config,
    /// One runner per configured model.
    pub runners: Vec<Runner>,
    /// One per runner, where its slot waits for a confirmation.
    pub guards: Vec<Option<Guard>>,
    /// What changed since it was told last.
    pub news: Vec<Event>,
    /// Which file each runner is of; none for the bundle of the configuration.
    pub held: Vec<Option<Held>>,
    /// The last change of each, as the news tell it.
    pub changes: Vec<Option<Change>>,
}

/// What is still to be said of a file that a start took.
#[derive(Clone, Debug)]
pub struct Guard {
    slots: Slots,
    model: String,
    active: Option<Held>,
    answers: u32,
}

impl Guard {
    /// Of a file that is taken while the agent runs.
    #[must_use]
    pub fn new(slots: &Slots, model: &str, active: Option<Held>) -> Self {
        Self {
            slots: slots.clone(),
            model: model.to_owned(),
            active,
            answers: 0,
        }
    }

    /// Counts an answer; true with the one that confirms the file.
    pub fn answered(&mut self) -> bool {
        self.answers = self.answers.saturating_add(1);
        self.answers == CONFIRMATIONS
    }

    /// The file works. Waits for the medium.
    pub fn confirm(&self) {
        self.log(self.slots.confirm(&self.model, self.active.as_ref()));
    }

    fn log(&self, outcome: Result<(), SlotsError>) {
        if let Err(error) = outcome {
            tracing::warn!(model = self.model, %error, "the slot cannot be written");
        }
    }
}

/// Loads every configured model and completes the core's configuration with what the manifests say.
///
/// # Errors
/// Status 2: the bundle of the configuration is needed and cannot be taken.
pub fn load(settings: &Settings, mode: Mode) -> Result<Models, Outcome> {
    let outbox = settings.outbox.as_ref();
    let slots = outbox.map(|outbox| Slots::beside(&outbox.path));
    let mut facts = Vec::new();
    let (mut runners, mut guards, mut news) = (Vec::new(), Vec::new(), Vec::new());
    let (mut held, mut changes) = (Vec::new(), Vec::new());
    for (index, model) in settings.models.iter().enumerate() {
        let mut taken = Taken::default();
        if let Some(slots) = &slots {
            taken = take(settings, slots, index, mode);
        }
        let loaded = match taken.loaded {
            Some(loaded) => loaded,
            None => configured(settings, &model.bundle)
                .map_err(|error| Outcome::Refused(format!("model `{}`: {error}", model.id)))?,
        };
        facts.push(loaded.facts);
        runners.push(loaded.runner);
        let record = taken.record.as_ref();
        held.push(record.and_then(|record| record.active.clone()));
        changes.push(record.and_then(|record| record.change.clone()));
        if let (Some(record), Some(slots)) = (taken.record, &slots) {
            news.extend(told(index, &record));
            let untold = record.change.as_ref().is_some_and(|change| !change.told);
            let unconfirmed = record.active.is_some() && !record.confirmed;
            let wanted = untold || unconfirmed;
            guards.push(wanted.then(|| Guard::new(slots, &model.id, record.active)));
        } else {
            guards.push(None);
        }
    }
    let config = settings.core_config(&facts).map_err(Outcome::refused)?;
    Ok(Models {
        config,
        runners,
        guards,
        news,
        held,
        changes,
    })
}

#[derive(Debug, Default)]
struct Taken {
    record: Option<Record>,
    /// None for the bundle of the configuration.
    loaded: Option<Loaded>,
}

/// Takes the active file of a slot, or goes back until one can be taken.
fn take(settings: &Settings, slots: &Slots, index: usize, mode: Mode) -> Taken {
    let model = settings.models[index].id.as_str();
    let attempt = |mode| match mode {
        Mode::Run => slots.attempt(model),
        Mode::Look => slots.read(model),
    };
    // A model that was never staged has no slot, and must not make one.
    let mut record = match slots.read(model) {
        Ok(record) if record.is_fresh() => return Taken::default(),
        Ok(_) => match attempt(mode) {
            Ok(record) => record,
            Err(error) => return lost(model, &error),
        },
        Err(error) => return lost(model, &error),
    };
    while let Some(held) = &record.active {
        let (cause, detail) = match load_held(settings, slots, index, held) {
            Ok(loaded) => {
                return Taken {
                    record: Some(record),
                    loaded: Some(loaded),
                };
            }
            Err(refused) => refused,
        };
        tracing::error!(
            model,
            release = held.release,
            cause = cause.as_str(),
            detail,
            "rolled back"
        );
        if mode == Mode::Look {
            return Taken::default();
        }
        let back = slots.roll_back(model, cause, &detail);
        record = match back.and_then(|_| attempt(mode)) {
            Ok(record) => record,
            Err(error) => return lost(model, &error),
        };
    }
    Taken {
        record: Some(record),
        loaded: None,
    }
}

/// Without its attempt on the medium a new file is not loaded.
fn lost(model: &str, error: &SlotsError) -> Taken {
    tracing::error!(model, %error, "the slot cannot be used; the configured bundle is taken");
    Taken::default()
}

/// Loads a file that a slot names, verified anew.
///
/// # Errors
/// Why it cannot be taken, and that in words.
pub fn load_held(
    settings: &Settings,
    slots: &Slots,
    index: usize,
    held: &Held,
) -> Result<Loaded, (Cause, String)> {
    let model = &settings.models[index];
    let trust = Trust::Keys(settings.model_keys.clone());
    let opened = trust
        .open(&slots.file(&model.id, held))
        .map_err(|error| (Cause::Refused, error.to_string()))?;
    let digest = opened
        .package
        .as_ref()
        .map(|package| package.digest().to_string());
    if digest.as_deref() != Some(held.digest.as_str()) {
        return Err((
            Cause::Refused,
            "the file is not the one that was staged".to_owned(),
        ));
    }
    settings
        .model_config(index, &inference::facts(&opened.bundle))
        .map_err(|error| (Cause::DoesNotFit, error.to_string()))?;
    inference::load_bundle(&opened.bundle).map_err(|error| (Cause::CannotLoad, error.to_string()))
}

/// Loads the bundle that the configuration names.
///
/// # Errors
/// Why it cannot be taken, in words.
pub fn configured(settings: &Settings, path: &Path) -> Result<Loaded, String> {
    let opened = Trust::Keys(settings.model_keys.clone())
        .open(path)
        .map_err(|error| error.to_string())?;
    inference::load_bundle(&opened.bundle).map_err(|error| format!("{}: {error}", path.display()))
}

/// The event of a change that was not told yet.
#[must_use]
pub fn told(index: usize, record: &Record) -> Option<Event> {
    let change = record.change.as_ref().filter(|change| !change.told)?;
    let name = |held: Option<&Held>| match held {
        Some(held) => format!("release {} (version {})", held.release, held.version),
        None => "the configured bundle".to_owned(),
    };
    let to = match (change.phase, &record.staged) {
        (Some(_), Some(staged)) => Some(&staged.held),
        _ => record.active.as_ref(),
    };
    let (from, to) = (name(change.from.as_ref()), name(to));
    let more = if change.detail.is_empty() { "" } else { ": " };
    let detail = format!("from {from} to {to}{more}{}", change.detail);
    Some(Event::Model(ModelEvent::Changed(ModelChange {
        model: ModelId(u16::try_from(index).ok()?),
        what: change.what(),
        cause: change.cause.as_str(),
        detail: detail.chars().take(400).collect(),
    })))
}
