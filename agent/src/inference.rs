//! Inference: threads that own the loaded models and answer one window after the other.
//!
//! Owns: the runners, and the way from a model's lane to the thread that has it. Must not: decide when a model runs, or what
//! a score means.
//!
//! Invariant: what a start loads shares one thread; what is loaded later has a thread of its own, so that a new file that
//! is slow or hangs keeps nobody waiting.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender};
use quorate_core::{
    event::{Event, InferenceFault, Worker},
    model::{Impute, Lane},
    units::{ModelId, Mono},
};
use quorate_models::{Bundle, Runner, RunnerError};

use crate::{
    clock::Stopwatch,
    model::boot::Guard,
    settings::{InputFacts, ModelFacts},
    threads,
};

/// Jobs that may wait for a thread; the core asks each file of a model for one answer at a time.
const JOBS_MAX: usize = 64;
/// Batches of changes that may wait for the loop.
const CHANGES_MAX: usize = 16;
/// Most characters of a runner's message that are kept.
const DETAIL_CHARACTERS_MAX: usize = 200;

/// Which file of which model.
pub type Place = (ModelId, Lane);

/// What a thread is asked for.
#[derive(Debug)]
pub enum Job {
    /// A window.
    Ask {
        /// Whom.
        place: Place,
        /// The tick that the window ends with.
        tick: Mono,
        /// The tensor, row by row.
        window: Vec<f32>,
    },
    /// To count the answers until the file is confirmed.
    Watch(Place, Guard),
    /// To let go of a runner.
    Drop(Place),
}

/// Another thread has the runner of a place from now on, or nobody.
#[derive(Debug)]
pub struct Change {
    /// The place.
    pub place: Place,
    /// The thread.
    pub jobs: Option<Sender<Job>>,
}

/// The way to the runners, for the loop. Each [`quorate_core::model::ModelEvent::Assigned`] has one batch of changes.
#[derive(Debug)]
pub struct Desk {
    threads: BTreeMap<Place, Sender<Job>>,
    changes: Receiver<Vec<Change>>,
}

impl Desk {
    /// A desk for the models that a start loads, all in the thread of `jobs`; changes come by the sender.
    #[must_use]
    pub fn new(models: usize, jobs: &Sender<Job>) -> (Self, Sender<Vec<Change>>) {
        let (sender, changes) = crossbeam_channel::bounded(CHANGES_MAX);
        let ids = (0..).map(ModelId).take(models);
        let threads = ids.map(|id| ((id, Lane::First), jobs.clone())).collect();
        (Self { threads, changes }, sender)
    }

    /// Hands a window to its thread; false when that takes none.
    pub fn ask(&self, place: Place, tick: Mono, window: Vec<f32>) -> bool {
        let job = Job::Ask {
            place,
            tick,
            window,
        };
        self.threads
            .get(&place)
            .is_some_and(|jobs| jobs.try_send(job).is_ok())
    }

    /// Follows one batch of changes, just before the core hears of them.
    pub fn follow(&mut self) {
        for Change { place, jobs } in self.changes.try_recv().unwrap_or_default() {
            match jobs {
                Some(jobs) => self.threads.insert(place, jobs),
                None => self.threads.remove(&place),
            };
        }
    }
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
        impute: input.impute.map(|impute| stand_in(impute, input.mean)),
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
        threshold: Some(manifest.score_threshold()),
        hysteresis: manifest.outputs.first().map_or(0.0, |it| it.hysteresis),
        output_ranges: manifest
            .outputs
            .iter()
            .map(|output| output.range.map(|[low, high]| (low, high)))
            .collect(),
        missing: manifest.missing.clone(),
    }
}

fn stand_in(impute: quorate_models::Impute, mean: f64) -> Impute {
    match impute {
        quorate_models::Impute::Mean => Impute::Value(mean),
        quorate_models::Impute::Value(value) => Impute::Value(value),
        quorate_models::Impute::Hold { hold_s } => Impute::Hold {
            ms: milliseconds(hold_s),
        },
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the manifest is checked: above 0 and at most a day; the nearest is meant"
)]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1_000.0).round() as u64
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

/// A runner and what is still to be said of its file.
#[derive(Debug)]
pub struct Seat {
    /// The model.
    pub runner: Runner,
    /// Counts its answers until it is confirmed.
    pub guard: Option<Guard>,
}

/// Starts a thread that has these runners. It ends when nobody can ask it any more.
///
/// # Errors
/// The system refuses another thread.
pub fn spawn(
    name: &str,
    mut seats: BTreeMap<Place, Seat>,
    events: &Sender<Event>,
) -> std::io::Result<Sender<Job>> {
    let (sender, receiver): (_, Receiver<Job>) = crossbeam_channel::bounded(JOBS_MAX);
    let answers = events.clone();
    threads::spawn(name, Worker::Inference, events, move || {
        for job in receiver {
            match job {
                Job::Watch(place, guard) => {
                    if let Some(seat) = seats.get_mut(&place) {
                        seat.guard = Some(guard);
                    }
                }
                Job::Drop(place) => let_go(seats.remove(&place)),
                Job::Ask {
                    place,
                    tick,
                    window,
                } => {
                    let Some(seat) = seats.get_mut(&place) else {
                        continue;
                    };
                    if answers.send(inferred(seat, place, tick, &window)).is_err() {
                        return;
                    }
                }
            }
        }
    })?;
    Ok(sender)
}

fn inferred(seat: &mut Seat, (model, lane): Place, tick: Mono, window: &[f32]) -> Event {
    let watch = Stopwatch::start();
    let outcome = answer(&mut seat.runner, window);
    let took_us = watch.elapsed_us();
    if outcome.is_ok() {
        count(&mut seat.guard);
    }
    Event::Inferred {
        model,
        lane,
        tick,
        took_us,
        outcome,
    }
}

/// A large model takes its time to go, and others wait for this thread.
fn let_go(seat: Option<Seat>) {
    let gone = std::thread::Builder::new().name("model-drop".into());
    if let Err(error) = gone.spawn(move || drop(seat)) {
        tracing::debug!(%error, "a model went without a thread of its own");
    }
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
