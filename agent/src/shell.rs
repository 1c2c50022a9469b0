//! The shell: the one loop that performs what the core decides.
//!
//! Owns: the loop, and the ends of all channels. Must not: decide anything.
//!
//! Invariants: the loop is receive, handle, perform; nothing that it performs waits for the outside; nothing else
//! changes the agent's state.

use std::{collections::VecDeque, thread::JoinHandle, time::Duration};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use quorate_core::{
    agent::Agent,
    command::{CommandEvent, CommandId, Deed, ModelDeed, ReplyTo},
    event::{Action, Event, InferenceFault, LinkFault, StoreFault},
    model::{Lane, ModelEvent},
    record::{self, Body, Record},
    units::{BusId, Epoch, ModelId, Mono, SensorId, Seq},
};

use crate::{
    announcement::Announcement, checkpoint, clock::Clock, command::Desk, execution::Execution,
    http, inference, model::keeper, mqtt, sensing::Sensing, store, supervisor::Supervisor,
    timing::BusTiming,
};

/// The wall clock is read this often, in milliseconds, so that a step is noticed.
const WALL_MS: u64 = 10_000;
/// The picture for the endpoint is renewed at most this often, in milliseconds of real time.
const PICTURE_MS: u64 = 250;
/// At the end the store has this long to make its last commit.
const STORE_END: Duration = Duration::from_secs(20);
/// At the end the last checkpoint has this long to be written.
const CHECKPOINT_END: Duration = Duration::from_secs(5);
/// At the end the desk has this long to note which commands ended.
const DESK_END: Duration = Duration::from_secs(5);
/// At the end the keeper of the models has this long to note that it came in order.
const KEEPER_END: Duration = Duration::from_secs(5);
/// At the end the link has this long to say goodbye.
const LINK_END: Duration = Duration::from_secs(3);

/// Where the samples come from.
pub trait Poll: std::fmt::Debug + Send {
    /// Asks for a sample of `sensor` for `tick`; the answer comes as an event.
    fn poll(&mut self, sensor: SensorId, tick: Mono, now: Mono);

    /// Opens the probe of `sensor` anew before its next sample.
    fn reopen(&mut self, sensor: SensorId);

    /// Questions that were dropped because their bus was busy.
    fn dropped(&self) -> u64;

    /// Resets a bus; the answer comes as an event.
    fn recover(&mut self, _bus: BusId, _name: &str) {}

    /// How punctual each bus is.
    fn timing(&self) -> Vec<BusTiming> {
        Vec::new()
    }
}

impl Poll for Sensing {
    fn poll(&mut self, sensor: SensorId, tick: Mono, _now: Mono) {
        Sensing::poll(self, sensor, tick);
    }

    fn reopen(&mut self, sensor: SensorId) {
        Sensing::reopen(self, sensor);
    }

    fn dropped(&self) -> u64 {
        Sensing::dropped(self)
    }

    fn recover(&mut self, bus: BusId, name: &str) {
        Sensing::recover(self, bus, name);
    }

    fn timing(&self) -> Vec<BusTiming> {
        Sensing::timing(self)
    }
}

/// A worker's channel and its thread.
#[derive(Debug)]
pub struct Hand<C> {
    /// Takes commands.
    pub commands: C,
    /// Ends when it was told to.
    pub thread: JoinHandle<()>,
}

/// The thread that follows the files of the models.
pub type Keeper = Hand<Sender<keeper::Order>>;

/// All that the loop holds.
#[derive(Debug)]
pub struct Shell {
    /// The core.
    pub agent: Agent,
    /// Time.
    pub clock: Clock,
    /// Everything that happens.
    pub events: Receiver<Event>,
    /// Samples.
    pub sensing: Box<dyn Poll>,
    /// Models.
    pub inference: inference::Desk,
    /// The files of the models, where there are any that can change.
    pub keeper: Option<Keeper>,
    /// The outbox on disk.
    pub store: Hand<Sender<store::Command>>,
    /// The broker, where one is configured.
    pub link: Option<Hand<mqtt::Commands>>,
    /// The live views, where there are any.
    pub views: Option<mqtt::live::Feed>,
    /// What the voters have learned, on disk.
    pub checkpoints: checkpoint::Keeper,
    /// The endpoint's picture.
    pub picture: http::Publisher,
    /// The retained status at the broker.
    pub announcement: Announcement,
    /// The service manager.
    pub supervisor: Supervisor,
    /// The life of the store.
    pub epoch: Epoch,
    /// Who checks commands, where any can come.
    pub desk: Option<Desk>,
    /// What commands work with.
    pub execution: Execution,
    /// A command asked for a new start.
    pub restart: bool,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// It was asked to, and to be started again.
    Restart,
}

impl Shell {
    /// Runs until it is asked to stop, then ends every worker in order.
    pub fn run(mut self) -> Ended {
        let mut own = VecDeque::from([Event::Wall(self.clock.wall())]);
        let mut actions = Vec::new();
        let mut wall_next = self.clock.now().plus_ms(WALL_MS);
        let mut picture_next = self.clock.now();
        self.supervisor.ready();
        loop {
            let now = self.clock.now();
            if now >= wall_next {
                wall_next = now.plus_ms(WALL_MS);
                own.push_back(Event::Wall(self.clock.wall()));
            }
            if now >= picture_next {
                picture_next = now.plus_ms(PICTURE_MS);
                self.show(now);
            }
            let event = own
                .pop_front()
                .unwrap_or_else(|| self.next_event(wall_next));
            let stop = event == Event::Stop;
            if matches!(event, Event::Model(ModelEvent::Assigned { .. })) {
                self.inference.follow();
            }
            self.agent.handle(self.clock.now(), event, &mut actions);
            for action in actions.drain(..) {
                self.perform(action, &mut own);
            }
            if stop {
                break;
            }
        }
        let ended = if self.restart {
            Ended::Restart
        } else {
            Ended::Stopped
        };
        self.end();
        ended
    }

    /// The next event, or the tick of the next deadline, whichever comes first. A tick that is due is never starved by
    /// a flood of events.
    fn next_event(&self, wall_next: Mono) -> Event {
        let deadline = self.agent.next_deadline().min(wall_next);
        let wait = self.clock.until(deadline);
        if wait.is_zero() {
            return Event::Tick;
        }
        match self.events.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Event::Tick,
        }
    }

    fn perform(&mut self, action: Action, own: &mut VecDeque<Event>) {
        match action {
            Action::Poll { sensor, tick } => self.sensing.poll(sensor, tick, self.clock.now()),
            Action::Recover { bus } => self.recover(bus),
            action @ (Action::Infer { .. } | Action::ModelStep { .. }) => {
                self.perform_model(action, own);
            }
            Action::Store { record } => self.store(&record, own),
            Action::Load {
                after,
                through,
                records_max,
                bytes_max,
            } => {
                let load = store::Command::Load {
                    after,
                    through,
                    records_max,
                    bytes_max,
                };
                self.tell_store(load, None, own);
            }
            Action::Forget { first, last } => {
                self.tell_store(store::Command::Forget { first, last }, None, own)
            }
            Action::Discard { first, last } => {
                self.tell_store(store::Command::Discard { first, last }, None, own)
            }
            Action::Settle { first, last, cause } => {
                self.tell_store(store::Command::Settle { first, last, cause }, None, own)
            }
            Action::Recall { first, last } => {
                self.tell_store(store::Command::Recall { first, last }, None, own)
            }
            Action::Checkpoint(checkpoint) => self.checkpoints.keep(checkpoint),
            Action::Connect { broker } => self.tell_link(mqtt::Command::Connect { broker }, own),
            Action::Publish {
                batch,
                records,
                standing,
            } => self.tell_link(
                mqtt::Command::Publish {
                    batch,
                    records,
                    standing,
                },
                own,
            ),
            Action::Disconnect { cause } => {
                self.tell_link(mqtt::Command::Disconnect { cause }, own)
            }
            Action::StrokeWatchdog => self.supervisor.stroke(),
            action @ (Action::Execute { .. }
            | Action::Reopen { .. }
            | Action::Reply { .. }
            | Action::Settled { .. }
            | Action::Restart) => self.perform_command(action, own),
        }
    }

    fn recover(&mut self, bus: BusId) {
        if let Some(config) = self.agent.config().guard.buses.get(bus.index()) {
            self.sensing.recover(bus, &config.id);
        }
    }

    fn store(&self, record: &Record, own: &mut VecDeque<Event>) {
        let encoded = record::encode(self.agent.config(), record);
        let seq = encoded.seq;
        if let Some(views) = &self.views {
            views.offer(&encoded);
        }
        if matches!(record.body, Body::Event(_)) {
            self.picture.tell(&encoded.payload);
        }
        self.tell_store(store::Command::Store(encoded), Some(seq), own);
    }

    fn tell_store(&self, command: store::Command, seq: Option<Seq>, own: &mut VecDeque<Event>) {
        let (cause, refused) = match self.store.commands.try_send(command) {
            Ok(()) => return,
            Err(TrySendError::Full(command)) => ("busy", command),
            Err(TrySendError::Disconnected(command)) => ("worker-died", command),
        };
        let fault = StoreFault {
            cause,
            detail: "the store thread takes no more commands".into(),
        };
        match (refused, seq) {
            (_, Some(seq)) => own.push_back(Event::StoreFailed {
                first: seq,
                last: seq,
                fault,
            }),
            (store::Command::Load { .. }, None) => own.push_back(Event::LoadFailed { fault }),
            // A deletion that is lost means repeats after a restart, which receivers drop; so does a note that stays.
            // A recall that is lost is asked for again by whoever misses the records.
            _ => tracing::warn!(cause, "the store did not take a deletion or a recall"),
        }
    }

    fn tell_link(&self, command: mqtt::Command, own: &mut VecDeque<Event>) {
        let Some(link) = &self.link else { return };
        if link.commands.try_send(command).is_err() {
            let fault = LinkFault {
                cause: "busy",
                detail: "the link takes no more commands".into(),
            };
            own.push_back(Event::LinkDown { fault });
        }
    }

    /// What the models ask for.
    fn perform_model(&self, action: Action, own: &mut VecDeque<Event>) {
        match action {
            Action::Infer {
                model,
                lane,
                tick,
                window,
            } => {
                let asked = self.inference.ask((model, lane), tick, window);
                own.extend((!asked).then(|| busy(model, lane, tick)));
            }
            Action::ModelStep {
                model,
                step,
                file,
                reason,
                evidence,
            } => {
                self.tell_keeper(keeper::Order::Step {
                    model,
                    step,
                    file,
                    reason,
                    evidence,
                });
            }
            _ => {}
        }
    }

    /// False when it takes no more. What the evidence asks for is asked for again.
    fn tell_keeper(&self, order: keeper::Order) -> bool {
        let keeper = self.keeper.as_ref();
        let told = keeper.is_some_and(|keeper| keeper.commands.try_send(order).is_ok());
        if !told {
            tracing::warn!("the keeper of the models takes no more orders");
        }
        told
    }

    /// The keeper answers, now or when a file has come.
    fn ask_keeper(&self, id: CommandId, deed: ModelDeed, own: &mut VecDeque<Event>) {
        if !self.tell_keeper(keeper::Order::Command(id, deed)) {
            let outcome = Err("busy");
            own.push_back(Event::Command(CommandEvent::Done { id, outcome }));
        }
    }

    /// What commands from outside ask for.
    fn perform_command(&mut self, action: Action, own: &mut VecDeque<Event>) {
        match action {
            Action::Execute {
                id,
                deed: Deed::Model(deed),
            } => self.ask_keeper(id, deed, own),
            Action::Execute { id, deed } => {
                let shown = self.shown(self.clock.now());
                let outcome = self.execution.execute(&deed, shown, &self.supervisor);
                own.push_back(Event::Command(CommandEvent::Done { id, outcome }));
            }
            Action::Reopen { sensor } => self.sensing.reopen(sensor),
            Action::Reply { to, payload } => self.reply(to, payload),
            Action::Settled { key, counter } => self.settled(key, counter),
            Action::Restart => {
                self.restart = true;
                own.push_back(Event::Stop);
            }
            _ => {}
        }
    }

    fn reply(&self, to: ReplyTo, payload: String) {
        let Some(link) = &self.link else { return };
        let reply = mqtt::Command::Reply { to, payload };
        if link.commands.try_send(reply).is_err() {
            tracing::warn!("the answer to a command cannot be sent: the link takes no more");
        }
    }

    fn settled(&self, key: Option<String>, counter: u64) {
        if let (Some(desk), Some(key)) = (&self.desk, key)
            && desk.settled.try_send((key, counter)).is_err()
        {
            tracing::warn!("the end of a command cannot be noted");
        }
    }

    fn shown(&self, now: Mono) -> http::Shown {
        http::Shown {
            health: self.agent.health(now),
            wall: self.clock.wall(),
            epoch: self.epoch,
            polls_dropped: self.sensing.dropped(),
            timing: self.sensing.timing(),
        }
    }

    fn show(&mut self, now: Mono) {
        let shown = self.shown(now);
        self.supervisor.status(&shown.health);
        // A queue that is full has more urgent things; the next change is announced again.
        if let (Some(link), Some(status)) = (&self.link, self.announcement.renewed(&shown)) {
            let _ = link.commands.try_send(mqtt::Command::Status(status));
        }
        self.picture.publish(shown);
    }

    fn end(self) {
        self.supervisor.stopping();
        if let Some(link) = self.link {
            // A link that takes no command is dropped with the process.
            let _ = link.commands.try_send(mqtt::Command::Stop);
            wait(link.thread, LINK_END, "link");
        }
        if let Some(desk) = self.desk {
            drop((desk.incoming, desk.settled));
            wait(desk.thread, DESK_END, "commands");
        }
        let sent = self
            .store
            .commands
            .send_timeout(store::Command::Close, STORE_END);
        if sent.is_err() {
            tracing::error!("the store thread did not take its last command");
        }
        wait(self.store.thread, STORE_END, "store");
        wait(self.checkpoints.end(), CHECKPOINT_END, "checkpoint");
        if let Some(keeper) = self.keeper {
            // One that does not hear it counts this start against the files on trial, no more.
            let _ = keeper.commands.send_timeout(keeper::Order::End, KEEPER_END);
            wait(keeper.thread, KEEPER_END, "models");
        }
    }
}

/// The answer to a window that was not taken.
fn busy(model: ModelId, lane: Lane, tick: Mono) -> Event {
    Event::Inferred {
        model,
        lane,
        tick,
        took_us: 0,
        outcome: Err(InferenceFault {
            cause: "busy",
            detail: "the inference thread takes no more windows".into(),
        }),
    }
}

/// Waits for a thread, but not for ever.
fn wait(thread: JoinHandle<()>, limit: Duration, name: &str) {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let waiter = std::thread::Builder::new()
        .name(format!("end-{name}"))
        .spawn(move || {
            let _ = thread.join();
            let _ = sender.send(());
        });
    if waiter.is_err() || receiver.recv_timeout(limit).is_err() {
        tracing::error!(worker = name, "did not end in time");
    }
}
