//! Inference: one thread that owns the loaded models and answers one window after the other.
//!
//! Owns: the runners. Must not: decide when a model runs, or what a score means.

use crossbeam_channel::{Receiver, Sender};
use quorate_core::{
    event::{Event, InferenceFault, Worker},
    units::{ModelId, Mono},
};
use quorate_models::{Bundle, Runner, RunnerError};

use crate::{
    model::boot::Guard,
    settings::{InputFacts, ModelFacts},
    threads,
};

/// Windows that may wait; the core asks each model for one at a time.
const WINDOWS_MAX: usize = 64;
/// Most characters of a runner's message that are kept.
const DETAIL_CHARACTERS_MAX: usize = 200;

/// A window for a model.
#[derive(Clone, Debug)]
pub struct Question {
    /// The model.
    pub model: ModelId,
    /// The tick that the window ends with.
    pub tick: Mono,
    /// The tensor, row by row.
    pub window: Vec<f32>,
}

/// A bundle that was read and checked, and its runner.
#[derive(Debug)]
pub struct Loaded {
    /// What the configuration needs to know of it.
    pub facts: ModelFacts,
    /// The model, ready to run.
    pub runner: Runner,
}

/// Loads a bundle that is already in memory.
///
/// # Errors
/// What the runner says, in words.
pub fn load_bundle(bundle: &Bundle) -> Result<Loaded, RunnerError> {
    Ok(Loaded {
        facts: facts(bundle),
        runner: Runner::load(bundle)?,
    })
}

/// What the configuration needs to know of a bundle.
#[must_use]
pub fn facts(bundle: &Bundle) -> ModelFacts {
    let manifest = bundle.manifest();
    let standardised = manifest.preprocessing == quorate_models::Preprocessing::Standardise;
    let input = |input: &quorate_models::Input| InputFacts {
        quantity: input.quantity.clone(),
        unit: input.unit.clone(),
        mean: if standardised { input.mean } else { 0.0 },
        scale: if standardised { input.scale } else { 1.0 },
        range: Some((input.range[0], input.range[1])),
        drift: input.drift.map(reference),
    };
    ModelFacts {
        id: manifest.id.clone(),
        version: manifest.version.clone(),
        digest: bundle.digest().to_string(),
        period_ms: bundle.manifest().window.period_ms,
        window: usize::try_from(manifest.window.length).unwrap_or(usize::MAX),
        inputs: manifest.inputs.iter().map(input).collect(),
        outputs: manifest
            .outputs
            .iter()
            .map(|output| output.name.clone())
            .collect(),
        output_drift: manifest
            .outputs
            .iter()
            .map(|output| output.drift.map(reference))
            .collect(),
        threshold: Some(manifest.score_threshold()),
    }
}

fn reference(known: quorate_models::Reference) -> quorate_core::drift::Reference {
    quorate_core::drift::Reference {
        mean: known.mean,
        deviation: known.deviation,
        quantiles: known.quantiles,
    }
}

/// Runs one window.
///
/// # Errors
/// The runner's error as the core takes it.
pub fn answer(runner: &mut Runner, window: &[f32]) -> Result<Vec<f32>, InferenceFault> {
    runner.run(window).map_err(|error| InferenceFault {
        cause: cause(&error),
        detail: error
            .to_string()
            .chars()
            .take(DETAIL_CHARACTERS_MAX)
            .collect(),
    })
}

/// Starts the thread. `guards` has one entry per runner, or none at all.
///
/// # Errors
/// The system refuses another thread.
pub fn spawn(
    mut runners: Vec<Runner>,
    mut guards: Vec<Option<Guard>>,
    events: &Sender<Event>,
) -> std::io::Result<Sender<Question>> {
    let (sender, receiver): (_, Receiver<Question>) = crossbeam_channel::bounded(WINDOWS_MAX);
    let answers = events.clone();
    threads::spawn("inference", Worker::Inference, events, move || {
        for Question {
            model,
            tick,
            window,
        } in receiver
        {
            let Some(runner) = runners.get_mut(model.index()) else {
                continue;
            };
            let outcome = answer(runner, &window);
            if outcome.is_ok()
                && let Some(guard) = guards.get_mut(model.index())
            {
                count(guard);
            }
            if answers
                .send(Event::Inferred {
                    model,
                    tick,
                    outcome,
                })
                .is_err()
            {
                return;
            }
        }
    })?;
    Ok(sender)
}

/// Counts an answer of a file that waits for its confirmation.
fn count(waiting: &mut Option<Guard>) {
    if !waiting.as_mut().is_some_and(Guard::answered) {
        return;
    }
    let Some(guard) = waiting.take() else { return };
    // The medium may be slow, and inferences must not wait for it. Without a thread it is confirmed in a later start.
    let confirmed = std::thread::Builder::new()
        .name("model-confirm".into())
        .spawn(move || guard.confirm());
    if let Err(error) = confirmed {
        tracing::warn!(%error, "a new model cannot be confirmed");
    }
}

fn cause(error: &RunnerError) -> &'static str {
    match error {
        RunnerError::Panicked { .. } => "panicked",
        RunnerError::WindowLength { .. } => "wrong-shape",
        RunnerError::InputNotFinite { .. } | RunnerError::OutputNotFinite { .. } => "not-finite",
        _ => "failed",
    }
}
