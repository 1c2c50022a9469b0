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
    http, inference, live,
    model::boot::Guard,
    mqtt,
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
    /// For each runner whether its file waits for a confirmation.
    pub guards: Vec<Option<Guard>>,
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

/// Starts the live views on a connection of their own.
fn views(
    options: &mqtt::Options,
    live: &live::Options,
    config: &Config,
) -> Result<live::Feed, Outcome> {
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
    let opened = store::open(&parts.store).map_err(|error| match error {
        store::StoreError::InUse(_) => Outcome::refused(error),
        error @ store::StoreError::Unavailable { .. } => Outcome::failed(error),
    })?;
    for finding in &opened.findings {
        tracing::warn!("{finding}");
    }
    let mut found = parts.news;
    found.extend(opened.findings.iter().filter_map(store::Finding::event));
    let (commands, thread) = store::spawn(opened.outbox, &parts.store, events.clone());
    let store = Hand { commands, thread };
    let views = match (&parts.mqtt, &parts.live) {
        (Some(options), Some(live)) => Some(views(options, live, &parts.config)?),
        _ => None,
    };
    let link = match parts.mqtt {
        None => None,
        Some(options) => {
            let options = mqtt::Options {
                epoch: opened.epoch,
                boot,
                ..options
            };
            let (commands, thread) =
                mqtt::spawn(options, events.clone()).map_err(Outcome::failed)?;
            Some(Hand { commands, thread })
        }
    };
    let inference =
        inference::spawn(parts.runners, parts.guards, &events).map_err(Outcome::failed)?;
    let sensing = sensing(&events)?;
    let saved = checkpoint::path(&parts.store.path);
    found.extend(remembered(&saved));
    let recovered = Recovered {
        epoch: opened.epoch,
        seq_next: opened.seq_next,
        boot,
        seed: clock::seed(),
    };
    for event in found {
        // The queue is empty and far longer than what one opening can find.
        let _ = events.try_send(event);
    }
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
