//! The agent: one pure function from events to actions.
//!
//! Owns: the parts and the order in which they act. Must not: perform anything.
//!
//! Invariants: [`Agent::handle`] is total and returns no error; the same configuration, start and events give the same
//! actions; a vote is given for every tick of the grid, once.

mod commanding;
mod delivery;
mod drifting;
mod guarding;
mod memory;
mod modelling;
mod picture;
mod telling;

pub use picture::Explanation;

use alloc::{string::String, vec::Vec};

use crate::{
    certificate::Certificates,
    checkpoint,
    command::Commands,
    config::{Config, Recovered},
    device::Devices,
    event::{Action, Event, ProbeFault, Worker},
    gone::{Gone, Loss},
    guard::Guards,
    health::Counters,
    link::Link,
    model::Model,
    outbox::Outbox,
    quantity::{Change, Quantity},
    record::{Body, Occurrence},
    sensor::Sensor,
    units::{BootId, Epoch, ModelId, Mono, SensorId, WallAnchor},
    vitals::{Debts, Vitals},
    vote::Quality,
};

/// A wall clock that moves by more than this against the monotonic one has been set, in milliseconds.
const WALL_STEP_MS: i64 = 1_000;

/// The whole agent.
#[derive(Clone, Debug)]
pub struct Agent {
    config: Config,
    boot: BootId,
    started: Mono,
    wall: Option<WallAnchor>,
    random: fastrand::Rng,
    sensors: Vec<Sensor>,
    devices: Devices,
    quantities: Vec<Quantity>,
    models: Vec<Model>,
    /// The monitors of each model, where they are wanted.
    watches: Vec<drifting::Watched>,
    outbox: Outbox,
    gone: Gone,
    link: Option<Link>,
    vitals: Vitals,
    polled_since: Option<Mono>,
    guards: Guards,
    counters: Counters,
    changes: Vec<Change>,
    checkpoint_next: Mono,
    told: delivery::Told,
    epoch: Epoch,
    commands: Commands,
    certificates: Certificates,
    /// Whether commands can come: `off`, `waiting`, `listening` or `refused`.
    command_state: &'static str,
}

impl Agent {
    /// Starts from what the store and the system say. The configuration has passed [`Config::validate`].
    #[must_use]
    pub fn recover(config: Config, recovered: Recovered, now: Mono) -> Self {
        let model = |(index, model): (usize, &crate::config::ModelConfig)| {
            let id = ModelId(u16::try_from(index).expect("the number of models is validated"));
            Model::new(id, model.clone(), now)
        };
        let models: Vec<_> = config.models.iter().enumerate().map(model).collect();
        Self {
            boot: recovered.boot,
            started: now,
            wall: None,
            random: fastrand::Rng::with_seed(recovered.seed),
            sensors: config
                .sensors
                .iter()
                .map(|sensor| Sensor::new(sensor.range))
                .collect(),
            devices: Devices::new(&config.sensors),
            quantities: config
                .quantities
                .iter()
                .map(|quantity| Quantity::new(quantity.clone(), now))
                .collect(),
            watches: models
                .iter()
                .map(|model| drifting::Watched::new(model.config()))
                .collect(),
            models,
            outbox: Outbox::new(
                config.outbox.clone(),
                recovered.epoch,
                recovered.seq_next,
                now,
            ),
            gone: Gone::default(),
            link: config.link.map(|link| Link::new(link, now)),
            vitals: Vitals::new(config.vitals, now),
            polled_since: None,
            guards: Guards::new(&config.guard, config.sensors.len(), now),
            counters: Counters::default(),
            changes: Vec::new(),
            checkpoint_next: now.plus_ms(checkpoint::PERIOD_MS),
            told: delivery::Told::new(now),
            epoch: recovered.epoch,
            commands: Commands::default(),
            certificates: Certificates::default(),
            command_state: "off",
            config,
        }
    }

    /// The configuration it runs with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// When [`Event::Tick`] must come, unless another event comes first.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        let quantities = self.quantities.iter().map(Quantity::next_deadline);
        let link = self.link.as_ref().and_then(Link::next_deadline);
        let outbox = self.outbox.next_deadline(self.link_is_up());
        let own = self.vitals.next_deadline().min(self.checkpoint_next);
        let others = [Some(own), link, outbox, self.commands.next_deadline()];
        quantities
            .chain(others.into_iter().flatten())
            .min()
            .unwrap_or(own)
    }

    /// Takes one event and appends what is to be done. The only way in.
    pub fn handle(&mut self, now: Mono, event: Event, actions: &mut Vec<Action>) {
        // Ticks that lie before the event are closed without it; a tick at the very instant waits for `Event::Tick`,
        // because more samples of the same instant may follow.
        self.close_ticks(now, |tick| tick < now, actions);
        match event {
            Event::Tick => self.close_ticks(now, |tick| tick <= now, actions),
            Event::Sample {
                sensor,
                taken,
                value,
            } => self.take_sample(now, sensor, taken, value, actions),
            Event::Recovered { bus, outcome } => self.take_recovery(now, bus, outcome, actions),
            event @ Event::Inferred { .. } => self.take_inference(now, event, actions),
            Event::Stored { first, last } => self.take_stored(now, (first, last), actions),
            Event::StoreFailed { first, last, fault } => {
                self.counters.store_faults += 1;
                self.outbox.store_failed(now, first, last, fault);
            }
            Event::Loaded {
                after,
                through,
                records,
            } => self.take_records(now, (after, through), records, actions),
            Event::Checkpoint(checkpoint) => self.restore(now, &checkpoint, actions),
            Event::LoadFailed { .. } => self.note_load_failure(now),
            Event::StoreReport(report) => self.outbox.report = report,
            Event::RecordsGone {
                first,
                last,
                count,
                cause,
            } => self.note_gone(Loss {
                first,
                last,
                count,
                cause,
            }),
            Event::LinkUp {
                packet_bytes_max,
                inflight_max,
            } => self.gain_link(now, packet_bytes_max, inflight_max, actions),
            Event::LinkDown { fault } => self.lose_link(now, fault, actions),
            Event::Recalled { first, last, count } => {
                self.take_recall(now, (first, last, count), actions);
            }
            Event::Watermark { epoch, through } => {
                self.take_watermark(now, epoch, through, actions);
            }
            Event::Sent { batch, bytes } => self.take_size(now, batch, bytes),
            Event::Certificate {
                role,
                not_after_unix_ms,
            } => self.take_certificate(now, role, not_after_unix_ms, actions),
            Event::Command(event) => self.take_command_event(now, event, actions),
            Event::Acked { batch, outcome } => self.take_ack(now, batch, outcome, actions),
            Event::Wall(anchor) => self.take_wall(now, anchor, actions),
            Event::Model(event) => self.take_model_event(now, event, actions),
            Event::WorkerDied { worker, cause } => self.bury(now, worker, cause, actions),
            Event::Stop => self.stop(now, actions),
        }
        self.tell_gone(now, actions);
        self.advance(now, actions);
        self.tell_delivery(now, actions);
    }

    fn note_load_failure(&mut self, now: Mono) {
        self.counters.store_faults += 1;
        self.outbox.load_failed(now);
    }

    fn advance(&mut self, now: Mono, actions: &mut Vec<Action>) {
        self.poll(now, actions);
        if let Some(link) = &mut self.link {
            if link.wants_failback(now) && self.outbox.drain() {
                link.return_to_preferred(actions);
            }
            link.advance(now, actions);
        }
        if now >= self.checkpoint_next {
            self.save(now, actions);
        }
        self.advance_trials(now, actions);
        self.advance_commands(now, actions);
        self.outbox.advance(now, self.link_is_up(), actions);
        if now >= self.vitals.next_deadline() {
            let debts = self.debts();
            self.vitals.advance(now, &debts, actions);
        }
    }

    fn link_is_up(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_up)
    }

    fn debts(&self) -> Debts {
        Debts {
            sensing: self.polled_since,
            inference: self.models.iter().filter_map(Model::asked_since).min(),
            store: self.outbox.owed_since(),
            link: self.link.as_ref().and_then(Link::connecting_since),
        }
    }

    /// Closes every tick for which `due` holds, oldest first, each quantity in order, then the models it feeds.
    fn close_ticks(&mut self, now: Mono, due: impl Fn(Mono) -> bool, actions: &mut Vec<Action>) {
        for quantity in &mut self.quantities {
            if due(quantity.next_tick()) {
                self.counters.ticks_missed += quantity.skip_late_ticks(now);
            }
        }
        while let Some(tick) = self
            .quantities
            .iter()
            .map(Quantity::next_tick)
            .min()
            .filter(|tick| due(*tick))
        {
            for index in 0..self.quantities.len() {
                if self.quantities[index].next_tick() == tick {
                    self.close_tick(index, actions);
                }
            }
            self.advance_models(now, tick, actions);
        }
    }

    fn close_tick(&mut self, index: usize, actions: &mut Vec<Action>) {
        let mut changes = core::mem::take(&mut self.changes);
        let devices = &self.devices;
        let tick = self.quantities[index].close_tick(
            &self.sensors,
            |sensor| devices.isolates(sensor),
            &mut changes,
        );
        let quantity = crate::units::QuantityId(
            u16::try_from(index).expect("the number of quantities is validated"),
        );
        let vote = self.quantities[index].vote.clone();
        self.counters.votes[match vote.quality {
            Quality::Good => 0,
            Quality::Degraded => 1,
            Quality::Uncertain => 2,
            Quality::Bad => 3,
        }] += 1;
        self.record(tick, Body::Vote { quantity, vote }, actions);
        for change in changes.drain(..) {
            self.devices.note(change.sensor, change.from, change.to);
            let occurrence = Occurrence {
                what: "channel",
                subject: self.config.sensors[change.sensor.index()].id.clone(),
                from: Some(change.from.as_str()),
                to: Some(change.to.as_str()),
                reason: change.reason,
                detail: Some(self.config.quantities[index].id.clone()),
                records: None,
            };
            self.tell(tick, occurrence, actions);
        }
        self.changes = changes;
    }

    fn take_sample(
        &mut self,
        now: Mono,
        sensor: SensorId,
        taken: Mono,
        value: Result<f64, ProbeFault>,
        actions: &mut Vec<Action>,
    ) {
        self.polled_since = None;
        self.note_answer(now, sensor, value.map(|_| ()), actions);
        let Some(state) = self.sensors.get_mut(sensor.index()) else {
            return;
        };
        match value {
            Ok(_) => self.counters.samples += 1,
            Err(_) => self.counters.sample_faults += 1,
        }
        let before = state.fault.map(|(fault, _)| fault.cause);
        if state.accept(taken.min(now), value) {
            let occurrence = Occurrence {
                what: "sensor",
                subject: self.config.sensors[sensor.index()].id.clone(),
                from: before.or(Some("ok")),
                to: value.err().map(|fault| fault.cause).or(Some("ok")),
                ..Occurrence::default()
            };
            self.tell(now, occurrence, actions);
        }
    }

    fn take_wall(&mut self, now: Mono, anchor: WallAnchor, actions: &mut Vec<Action>) {
        let offset = |anchor: WallAnchor| anchor.unix_ms.saturating_sub_unsigned(anchor.mono.0);
        let step_ms = self
            .wall
            .map_or(0, |old| offset(anchor).saturating_sub(offset(old)));
        let synced_changed = self.wall.is_some_and(|old| old.synced != anchor.synced);
        self.wall = Some(anchor);
        self.judge_certificates(now, actions);
        if step_ms.abs() > WALL_STEP_MS || synced_changed {
            let occurrence = Occurrence {
                what: "clock",
                to: Some(if anchor.synced {
                    "synchronised"
                } else {
                    "not-synchronised"
                }),
                detail: Some(alloc::format!("stepped by {step_ms} ms")),
                ..Occurrence::default()
            };
            self.tell(now, occurrence, actions);
        }
    }

    fn bury(&mut self, now: Mono, worker: Worker, cause: String, actions: &mut Vec<Action>) {
        if worker == Worker::Inference {
            self.models.iter_mut().for_each(Model::runner_died);
        }
        let occurrence = Occurrence {
            what: "worker-died",
            subject: worker.as_str().into(),
            detail: Some(cause),
            ..Occurrence::default()
        };
        self.tell(now, occurrence, actions);
    }
}
