//! The keeper: makes the running agent follow the slots of its models, without a restart.
//!
//! Owns: which file is in which lane, and every change of a slot that the running agent makes. Must not: judge the
//! evidence; the core asks for each step.
//!
//! Invariants: what counts was written to the slot before; a file is loaded, verified and self-tested in this thread, and
//! the loop learns of it only when it is ready, so that no inference waits for it; a step that the medium refuses leaves
//! what counts as it is, but a file that the core gave up never comes back in this run.

mod orders;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use quorate_core::{
    command::{CommandEvent, CommandId, ModelDeed},
    config::ModelConfig,
    event::{Event, Worker},
    model::{Lane, ModelEvent, ModelStep, Phase},
    units::ModelId,
};

use super::{
    boot::{self, Guard},
    delivery,
    plan::plan,
    slots::{Cause, Change, Held, Record, Slots, SlotsError, TrialPhase},
};
use crate::{
    inference::{self, Job, Loaded, Seat},
    settings::Settings,
    threads,
};

/// The slots are looked at this often: one question to the file system.
const LOOK: Duration = Duration::from_secs(1);
/// After a change the slots are read so often again: another one may have the same time stamp.
const LOOKS_AFTER: u32 = 3;
/// Orders that may wait.
const ORDERS_MAX: usize = 64;
/// A change that fails leads to another state of the slot; after so many of them the next look goes on.
const STEPS_MAX: usize = 8;

/// What the keeper is asked for.
#[derive(Debug)]
pub enum Order {
    /// A step that the evidence asks for.
    Step {
        /// The model.
        model: ModelId,
        /// The step.
        step: ModelStep,
        /// The file that the evidence is of.
        file: Arc<ModelConfig>,
        /// The rule.
        reason: &'static str,
        /// The evidence in words.
        evidence: String,
    },
    /// A command of an operator.
    Command(CommandId, ModelDeed),
    /// The process ends in order.
    End,
}

/// What the keeper has to know.
#[derive(Debug)]
pub struct Options {
    /// The configuration.
    pub settings: Settings,
    /// Where the files are.
    pub slots: Slots,
    /// Which file the start has loaded for each model.
    pub held: Vec<Option<Held>>,
    /// The change of each model that the start has told, or need not tell.
    pub told: Vec<Option<Change>>,
}

impl Options {
    /// What a start knows; none without an outbox, beside which the files lie.
    #[must_use]
    pub fn of(
        settings: &Settings,
        held: Vec<Option<Held>>,
        told: Vec<Option<Change>>,
    ) -> Option<Self> {
        let outbox = settings.outbox.as_ref()?;
        Some(Self {
            settings: settings.clone(),
            slots: Slots::beside(&outbox.path),
            held,
            told,
        })
    }
}

/// The ends that it is given.
#[derive(Debug)]
pub struct Ends {
    /// The thread of what the start has loaded.
    pub jobs: Sender<Job>,
    /// The loop's way to the runners.
    pub changes: Sender<Vec<inference::Change>>,
    /// What happens.
    pub events: Sender<Event>,
}

/// Starts the thread. `configs` has one entry per model, as the start has loaded them.
///
/// # Errors
/// The system refuses another thread.
pub fn spawn(
    options: Options,
    configs: &[ModelConfig],
    ends: Ends,
) -> io::Result<(Sender<Order>, JoinHandle<()>)> {
    let (sender, orders) = crossbeam_channel::bounded(ORDERS_MAX);
    let models = configs
        .iter()
        .zip(&options.held)
        .zip(&options.told)
        .map(|((config, held), told)| Kept {
            lanes: [
                Some(InLane {
                    held: held.clone(),
                    config: Arc::new(config.clone()),
                    jobs: ends.jobs.clone(),
                }),
                None,
            ],
            counting: Lane::First,
            phase: Phase::Alone,
            known: None,
            told: told.clone(),
            given_up: None,
            cannot: None,
        })
        .collect();
    let delivery = delivery::spawn(
        options.settings.clone(),
        options.slots.clone(),
        &ends.events,
    )?;
    let mut keeper = Keeper {
        settings: options.settings,
        slots: options.slots,
        models,
        events: ends.events.clone(),
        delivery,
        ends,
        stamp: None,
        looks: 0,
    };
    let events = keeper.events.clone();
    let thread = threads::spawn("models", Worker::Inference, &events, move || {
        keeper.serve(&orders);
    })?;
    Ok((sender, thread))
}

/// What is in a lane.
#[derive(Clone, Debug)]
struct InLane {
    /// None for the bundle of the configuration.
    held: Option<Held>,
    config: Arc<ModelConfig>,
    jobs: Sender<Job>,
}

/// One model.
#[derive(Debug)]
struct Kept {
    lanes: [Option<InLane>; 2],
    counting: Lane,
    phase: Phase,
    /// The slot as it was followed last.
    known: Option<Record>,
    /// The change that was told last.
    told: Option<Change>,
    /// A file that the core gave up and the slot may still name.
    given_up: Option<String>,
    /// The active file that could not be loaded: not again before the slot changes.
    cannot: Option<Record>,
}

impl Kept {
    fn lane_of(&self, held: Option<&Held>) -> Option<Lane> {
        let has = |lane: &Lane| {
            let slot = self.lanes[lane.index()].as_ref();
            slot.is_some_and(|it| it.held.as_ref() == held)
        };
        Lane::BOTH.into_iter().find(has)
    }
}

struct Keeper {
    settings: Settings,
    slots: Slots,
    models: Vec<Kept>,
    events: Sender<Event>,
    delivery: Sender<delivery::Order>,
    ends: Ends,
    stamp: Option<SystemTime>,
    looks: u32,
}

impl Keeper {
    fn serve(&mut self, orders: &Receiver<Order>) {
        self.look();
        loop {
            match orders.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Step {
                    model,
                    step,
                    file,
                    reason,
                    evidence,
                }) => {
                    if self.step(model.index(), (step, &file), reason, &evidence) {
                        self.stamp = None;
                    }
                }
                Ok(Order::Command(id, deed)) => {
                    if let Some(outcome) = self.grant(id, deed) {
                        let done = CommandEvent::Done { id, outcome };
                        let _ = self.events.send(Event::Command(done));
                    }
                    self.stamp = None;
                }
                Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => break,
            }
            self.look();
        }
        self.end();
    }

    /// Follows the slots where one of them was written since the last look.
    fn look(&mut self) {
        let stamp = std::fs::metadata(self.slots.state()).and_then(|it| it.modified());
        // Without the directory nothing was ever staged.
        let Ok(stamp) = stamp else { return };
        if self.stamp != Some(stamp) {
            (self.stamp, self.looks) = (Some(stamp), LOOKS_AFTER);
        } else if self.looks == 0 {
            return;
        } else {
            self.looks -= 1;
        }
        for index in 0..self.models.len() {
            if let Err(error) = self.follow(index) {
                let model = &self.settings.models[index].id;
                tracing::error!(model, %error, "the slot cannot be followed");
            }
        }
    }

    fn follow(&mut self, index: usize) -> Result<(), SlotsError> {
        for _ in 0..STEPS_MAX {
            let record = self.slots.read(&self.settings.models[index].id)?;
            if self.models[index].known.as_ref() == Some(&record) {
                break;
            }
            if self.settle(index, &record)? {
                self.tell(index, &record);
                self.models[index].known = Some(record);
                break;
            }
        }
        Ok(())
    }

    /// Makes the lanes those of a slot. False when that led to another state of the slot.
    fn settle(&mut self, index: usize, record: &Record) -> Result<bool, SlotsError> {
        let model = self.settings.models[index].id.clone();
        let given_up = self.models[index].given_up.as_deref();
        let waits = record
            .tested()
            .filter(|held| Some(held.digest.as_str()) != given_up)
            .cloned();
        if let (Some(held), None, Some(phase)) = (
            &waits,
            record.trial,
            plan(&self.settings.models[index]).first,
        ) {
            self.slots
                .begin(&model, &held.digest, phase, (Cause::Staged, ""))?;
            return Ok(false);
        }
        let Some(active) = self.active(index, record)? else {
            return Ok(false);
        };
        let (Some(trial), Some(held)) = (record.trial, waits) else {
            self.assign(index, Phase::Alone, active, None);
            return Ok(true);
        };
        let Some(beside) = self.beside(index, active, &held)? else {
            return Ok(false);
        };
        match trial.phase {
            TrialPhase::Shadow => self.assign(index, Phase::Shadow, active, Some(beside)),
            TrialPhase::Ab => self.assign(index, Phase::Compared, active, Some(beside)),
            TrialPhase::Canary => self.assign(index, Phase::Canary, beside, Some(active)),
        }
        Ok(true)
    }

    /// The lane of the active file, loaded where it is not yet. None when the slot names another file by now.
    fn active(&mut self, index: usize, record: &Record) -> Result<Option<Lane>, SlotsError> {
        let held = record.active.as_ref();
        if let Some(lane) = self.models[index].lane_of(held) {
            if held.is_some() && !record.confirmed {
                self.watch(index, lane, held);
            }
            return Ok(Some(lane));
        }
        if self.models[index].cannot.as_ref() == Some(record) {
            return Ok(Some(self.models[index].counting));
        }
        let model = self.settings.models[index].id.clone();
        if held.is_some() && !record.confirmed {
            // Before it is loaded: a file that ends this process is counted.
            let counted = self.slots.attempt(&model)?;
            if counted.active != record.active {
                return Ok(None);
            }
        }
        let lane = self.models[index].counting.other();
        match (self.load(index, held), held) {
            (Ok(loaded), _) => {
                self.seat(index, lane, held.cloned(), loaded);
                self.watch(index, lane, held);
                Ok(Some(lane))
            }
            (Err((cause, detail)), Some(_)) => {
                tracing::error!(model, cause = cause.as_str(), detail, "rolled back");
                self.slots.roll_back(&model, cause, &detail)?;
                Ok(None)
            }
            (Err((_, detail)), None) => {
                tracing::error!(
                    model,
                    detail,
                    "the configured bundle cannot be taken; what runs stays"
                );
                self.models[index].cannot = Some(record.clone());
                Ok(Some(self.models[index].counting))
            }
        }
    }

    /// The lane of the file on trial, loaded where it is not yet. None when it was given up.
    fn beside(
        &mut self,
        index: usize,
        active: Lane,
        held: &Held,
    ) -> Result<Option<Lane>, SlotsError> {
        if let Some(lane) = self.models[index].lane_of(Some(held)) {
            return Ok(Some(lane));
        }
        let model = self.settings.models[index].id.clone();
        let counted = self.slots.attempt_trial(&model)?;
        if counted.trial.is_none() {
            return Ok(None);
        }
        match self.load(index, Some(held)) {
            Ok(loaded) => {
                let lane = active.other();
                self.seat(index, lane, Some(held.clone()), loaded);
                Ok(Some(lane))
            }
            Err((cause, detail)) => {
                tracing::error!(model, cause = cause.as_str(), detail, "the trial ends");
                self.slots
                    .give_up(&model, Some(&held.digest), (cause, &detail))?;
                Ok(None)
            }
        }
    }

    fn load(&self, index: usize, held: Option<&Held>) -> Result<Loaded, (Cause, String)> {
        match held {
            Some(held) => boot::load_held(&self.settings, &self.slots, index, held),
            None => {
                let path: &Path = &self.settings.models[index].bundle;
                boot::configured(&self.settings, path).map_err(|detail| (Cause::CannotLoad, detail))
            }
        }
    }

    /// Gives a runner a thread of its own; the loop learns of it with the next assignment.
    fn seat(&mut self, index: usize, lane: Lane, held: Option<Held>, loaded: Loaded) {
        let place = (id(index), lane);
        let config = self.settings.model_config(index, &loaded.facts);
        let seat = Seat {
            runner: loaded.runner,
            guard: None,
        };
        let name = format!("inference-{index}");
        let thread = inference::spawn(&name, BTreeMap::from([(place, seat)]), &self.events);
        let (config, jobs) = match (config, thread) {
            (Ok(config), Ok(jobs)) => (Arc::new(config), jobs),
            (Err(error), _) => return tracing::error!(%error, "a model does not fit"),
            (_, Err(error)) => return tracing::error!(%error, "no thread for a model"),
        };
        let slot = &mut self.models[index].lanes[lane.index()];
        let old = slot.replace(InLane { held, config, jobs });
        retire(old.as_ref(), place);
    }

    /// The answers of a file that became active are counted until it is confirmed.
    fn watch(&self, index: usize, lane: Lane, held: Option<&Held>) {
        let Some(in_lane) = &self.models[index].lanes[lane.index()] else {
            return;
        };
        let guard = Guard::new(&self.slots, &self.settings.models[index].id, held.cloned());
        let job = Job::Watch((id(index), lane), guard);
        if in_lane.jobs.try_send(job).is_err() {
            tracing::warn!("a new model will be confirmed in a later start");
        }
    }

    /// Tells the loop how the lanes stand, and lets go of what is in none.
    fn assign(&mut self, index: usize, phase: Phase, counting: Lane, beside: Option<Lane>) {
        let kept = &mut self.models[index];
        if kept.lanes[counting.index()].is_none() {
            return;
        }
        let other = counting.other();
        if beside != Some(other) {
            retire(
                kept.lanes[other.index()].take().as_ref(),
                (id(index), other),
            );
        }
        let phase = match &kept.lanes[other.index()] {
            None => Phase::Alone,
            Some(_) => phase,
        };
        (kept.phase, kept.counting) = (phase, counting);
        let changes = Lane::BOTH.into_iter().map(|lane| inference::Change {
            place: (id(index), lane),
            jobs: kept.lanes[lane.index()].as_ref().map(|it| it.jobs.clone()),
        });
        let changes = changes.collect();
        let lanes = [0, 1].map(|lane| kept.lanes[lane].as_ref().map(|it| it.config.clone()));
        // Bounded: the loop follows one batch with each event, and takes events all the time.
        if self.ends.changes.send(changes).is_ok() {
            let _ = self.events.send(Event::Model(ModelEvent::Assigned {
                model: id(index),
                phase,
                counting,
                lanes,
            }));
        }
    }

    /// Tells a change once.
    fn tell(&mut self, index: usize, record: &Record) {
        let kept = &mut self.models[index];
        if kept.told != record.change {
            kept.told.clone_from(&record.change);
            if let Some(event) = boot::told(index, record) {
                let _ = self.events.send(event);
            }
        }
    }

    fn end(&mut self) {
        for (model, kept) in self.settings.models.iter().zip(&self.models) {
            // A model that was never staged has no slot, and must not make one.
            let Some(record) = kept.known.as_ref().filter(|known| !known.is_fresh()) else {
                continue;
            };
            if let Err(error) = self.slots.ended(&model.id, record.active.as_ref()) {
                tracing::warn!(model = model.id, %error, "the slot cannot be written");
            }
        }
    }
}

/// A runner that nobody asks any more goes; its thread with it, where it has no other.
fn retire(old: Option<&InLane>, place: inference::Place) {
    if let Some(old) = old {
        // A thread that takes no more jobs hangs, and keeps what it has until the process ends.
        let _ = old.jobs.try_send(Job::Drop(place));
    }
}

fn id(index: usize) -> ModelId {
    ModelId(u16::try_from(index).expect("the number of models is validated"))
}
