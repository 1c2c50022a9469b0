//! Assembly: from a configuration to a running shell, the same for a device and for the demo.
//!
//! Owns: the order in which the parts are opened and started. Must not: know where the configuration came from.

use std::{net::SocketAddr, path::Path};

use crossbeam_channel::Sender;
use quorate_core::{
    agent::Agent,
    config::{Config, ModelConfig, Recovered},
    event::Event,
    model::Lane,
    units::{BootId, Epoch, ModelId},
};
use quorate_models::Runner;

use crate::{
    announcement::Announcement,
    checkpoint,
    clock::{self, Clock},
    command::{self, Desk},
    execution::Execution,
    http,
    inference::{self, Seat},
    live,
    logging::Logging,
    model::{boot::Guard, keeper},
    mqtt,
    outcome::Outcome,
    shell::{Hand, Keeper, Poll, Shell},
    state, store,
    supervisor::Supervisor,
};

/// Events that may wait for the loop.
const EVENTS_MAX: usize = 8_192;

/// Everything that is known before the first part starts.
#[derive(Debug)]
pub struct Parts {
    /// The core's configuration, validated.
    pub config: Config,
    /// One runner per configured model.
    pub runners: Vec<Runner>,
    /// For each runner whether its file waits for a confirmation.
    pub guards: Vec<Option<Guard>>,
    /// What follows the files of the models; none where they cannot change.
    pub keeper: Option<keeper::Options>,
    /// What changed of the models since it was told last.
    pub news: Vec<Event>,
    /// The store.
    pub store: store::Options,
    /// The broker, where one is configured; its epoch is filled in here.
    pub mqtt: Option<mqtt::Options>,
    /// Live views beside the records; nothing without a broker.
    pub live: Option<live::Options>,
    /// Where the endpoint listens.
    pub listen: SocketAddr,
    /// Time.
    pub clock: Clock,
    /// Who may give commands.
    pub keyring: command::Keyring,
    /// The configuration in force without secrets, JSON.
    pub configuration: String,
    /// The log, where this process set it up.
    pub logging: Option<Logging>,
}

/// What the voters had learned, where that can be read.
fn remembered(saved: &Path) -> Option<Event> {
    match checkpoint::read(saved) {
        Ok(checkpoint) => checkpoint.map(Event::Checkpoint),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

/// Opens the store and says what was found in it.
fn open(options: &store::Options) -> Result<store::Opened, Outcome> {
    let opened = store::open(options).map_err(|error| match error {
        store::StoreError::InUse(_) => Outcome::refused(error),
        error @ store::StoreError::Unavailable { .. } => Outcome::failed(error),
    })?;
    for finding in &opened.findings {
        tracing::warn!("{finding}");
    }
    Ok(opened)
}

/// Starts the live views on a connection of their own; none where nobody asked for one.
fn views(parts: &Parts) -> Result<Option<mqtt::live::Feed>, Outcome> {
    let (Some(options), Some(live)) = (&parts.mqtt, &parts.live) else {
        return Ok(None);
    };
    let shape = live::Shape::new(&parts.config, &options.topic);
    let views = live::Views::new(live, &shape);
    let feed = mqtt::live::spawn(options.clone(), views).map_err(Outcome::failed)?;
    Ok(Some(feed))
}

/// Who checks commands; nobody where nobody may give any.
fn desk(parts: &Parts, events: &Sender<Event>) -> Result<Option<Desk>, Outcome> {
    let Some(mqtt) = parts.mqtt.as_ref().filter(|_| !parts.keyring.is_empty()) else {
        return Ok(None);
    };
    let options = command::Options {
        device: parts.config.device.clone(),
        topic: mqtt.topic.clone(),
        keyring: parts.keyring.clone(),
        state: state::path(&parts.store.path),
    };
    let desk = command::spawn(options, parts.clock, events).map_err(Outcome::failed)?;
    Ok(Some(desk))
}

/// The thread to the broker; none where there is no broker.
fn link(
    mqtt: Option<mqtt::Options>,
    desk: &Option<Desk>,
    (epoch, boot): (Epoch, BootId),
    events: &Sender<Event>,
) -> Result<Option<Hand<mqtt::Commands>>, Outcome> {
    let Some(options) = mqtt else {
        return Ok(None);
    };
    let options = mqtt::Options {
        epoch,
        boot,
        incoming: desk.as_ref().map(|desk| desk.incoming.clone()),
        ..options
    };
    let (commands, thread) = mqtt::spawn(options, events.clone()).map_err(Outcome::failed)?;
    Ok(Some(Hand { commands, thread }))
}

/// The thread of the runners that are there, and the one that follows their files.
fn models(
    (runners, guards): (Vec<Runner>, Vec<Option<Guard>>),
    configs: &[ModelConfig],
    keeper: Option<keeper::Options>,
    events: &Sender<Event>,
) -> Result<(inference::Desk, Option<Keeper>), Outcome> {
    let count = runners.len();
    let guards = guards.into_iter().chain(std::iter::repeat_with(|| None));
    let seats = (0..).map(ModelId).zip(runners).zip(guards);
    let seats = seats.map(|((id, runner), guard)| ((id, Lane::First), Seat { runner, guard }));
    let jobs = inference::spawn("inference", seats.collect(), events).map_err(Outcome::failed)?;
    let (desk, changes) = inference::Desk::new(count, &jobs);
    let Some(options) = keeper else {
        return Ok((desk, None));
    };
    let ends = keeper::Ends {
        jobs,
        changes,
        events: events.clone(),
    };
    let (commands, thread) = keeper::spawn(options, configs, ends).map_err(Outcome::failed)?;
    Ok((desk, Some(Hand { commands, thread })))
}

/// Opens the store, binds the endpoint, starts every thread. `sensing` starts the sources.
///
/// # Errors
/// Status 2 for what the configuration must change (a port in use, a store of another process); status 1 otherwise.
pub fn assemble(
    parts: Parts,
    sensing: impl FnOnce(&Sender<Event>) -> Result<Box<dyn Poll>, Outcome>,
) -> Result<(Shell, Sender<Event>, SocketAddr), Outcome> {
    let (events, received) = crossbeam_channel::bounded(EVENTS_MAX);
    let device = parts.config.device.clone();
    let boot = clock::boot_id();
    let (picture, pictures) = http::publisher(boot);
    let options = http::Options::new(parts.listen, device, env!("CARGO_PKG_VERSION"));
    let (listening, _http) = http::spawn(options, pictures).map_err(|error| match error {
        http::HttpError::Bind { .. } => Outcome::refused(error),
        error => Outcome::failed(error),
    })?;
    let opened = open(&parts.store)?;
    let desk = desk(&parts, &events)?;
    let views = views(&parts)?;
    let mut found = parts.news;
    found.extend(opened.findings.iter().filter_map(store::Finding::event));
    let (commands, thread) = store::spawn(opened.outbox, &parts.store, events.clone());
    let store = Hand { commands, thread };
    let link = link(parts.mqtt, &desk, (opened.epoch, boot), &events)?;
    let (inference, keeper) = models(
        (parts.runners, parts.guards),
        &parts.config.models,
        parts.keeper,
        &events,
    )?;
    let sensing = sensing(&events)?;
    let saved = checkpoint::path(&parts.store.path);
    found.extend(remembered(&saved));
    let recovered = Recovered {
        epoch: opened.epoch,
        seq_next: opened.seq_next,
        boot,
        seed: clock::seed(),
    };
    // The queue is empty and far longer than what one opening can find.
    for event in found {
        let _ = events.try_send(event);
    }
    let execution = Execution {
        device: parts.config.device.clone(),
        boot,
        configuration: parts.configuration,
        logging: parts.logging,
    };
    let announcement = Announcement::new(parts.config.device.clone(), boot.to_string());
    let shell = Shell {
        agent: Agent::recover(parts.config, recovered, parts.clock.now()),
        clock: parts.clock,
        events: received,
        sensing,
        inference,
        keeper,
        store,
        link,
        views,
        checkpoints: checkpoint::Keeper::spawn(saved).map_err(Outcome::failed)?,
        picture,
        announcement,
        supervisor: Supervisor::new(),
        epoch: opened.epoch,
        desk,
        execution,
        restart: false,
    };
    Ok((shell, events, listening))
}
