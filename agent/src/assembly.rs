//! Assembly: from a configuration to a running shell, the same for a device and for the demo.
//!
//! Owns: the order in which the parts are opened and started. Must not: know where the configuration came from.

use std::{net::SocketAddr, path::Path};

use crossbeam_channel::Sender;
use quorate_core::{
    agent::Agent,
    config::{Config, Recovered},
    event::Event,
};
use quorate_models::Runner;

use crate::{
    announcement::Announcement,
    checkpoint,
    clock::{self, Clock},
    http, inference, live, mqtt,
    outcome::Outcome,
    shell::{Hand, Poll, Shell},
    store,
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

/// Starts the connection of the records.
fn link(options: mqtt::Options, events: &Sender<Event>) -> Result<Hand<mqtt::Commands>, Outcome> {
    let (commands, thread) = mqtt::spawn(options, events.clone()).map_err(Outcome::failed)?;
    Ok(Hand { commands, thread })
}

/// Starts the live views on a connection of their own.
fn views(
    options: &mqtt::Options,
    live: &live::Options,
    config: &Config,
) -> Result<mqtt::live::Feed, Outcome> {
    let shape = live::Shape::new(config, &options.topic);
    let views = live::Views::new(live, &shape);
    mqtt::live::spawn(options.clone(), views).map_err(Outcome::failed)
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
    let findings = opened.findings.iter();
    let mut found: Vec<Event> = findings.filter_map(store::Finding::event).collect();
    let (commands, thread) = store::spawn(opened.outbox, &parts.store, events.clone());
    let store = Hand { commands, thread };
    let views = match (&parts.mqtt, &parts.live) {
        (Some(options), Some(live)) => Some(views(options, live, &parts.config)?),
        _ => None,
    };
    let link = parts.mqtt.map(|options| {
        let epoch = opened.epoch;
        link(
            mqtt::Options {
                epoch,
                boot,
                ..options
            },
            &events,
        )
    });
    let link = link.transpose()?;
    let inference = inference::spawn(parts.runners, &events).map_err(Outcome::failed)?;
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
    let _ = found
        .into_iter()
        .try_for_each(|event| events.try_send(event));
    let announcement = Announcement::new(parts.config.device.clone(), boot.to_string());
    let shell = Shell {
        agent: Agent::recover(parts.config, recovered, parts.clock.now()),
        clock: parts.clock,
        events: received,
        sensing,
        inference,
        store,
        link,
        views,
        checkpoints: checkpoint::Keeper::spawn(saved).map_err(Outcome::failed)?,
        picture,
        announcement,
        supervisor: Supervisor::new(),
        epoch: opened.epoch,
    };
    Ok((shell, events, listening))
}
