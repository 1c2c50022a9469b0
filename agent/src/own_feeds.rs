//! From configured feeds to probes: which sensors share a program or a socket.
//!
//! Owns: that grouping. Must not: start anything before it is asked for.

use std::{
    any::Any,
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use quorate_firmware_bridge::{Probe, SampleFault};

use crate::{
    clock::Clock,
    feed::{Channel, FeedProbe, Inbox, program::Program, socket::Socket},
    sensing::Opener,
    settings::{Settings, Source},
};

/// What runs for a feed, as long as one of its sensors wants it.
type Running = Arc<dyn Any + Send + Sync>;

/// One program or socket.
#[derive(Clone)]
struct Feed {
    inbox: Inbox,
    running: Arc<Mutex<Option<Weak<dyn Any + Send + Sync>>>>,
}

/// All of them, by what they are.
#[derive(Default)]
pub(crate) struct Feeds {
    known: BTreeMap<String, Feed>,
}

impl Feeds {
    /// How to open the channel of a program or a socket; `None` for any other source.
    pub(crate) fn opener(
        &mut self,
        settings: &Settings,
        source: &Source,
        clock: Clock,
    ) -> Option<Opener> {
        let (key, channel) = identity(source)?;
        let feed = self.known.entry(key.clone()).or_insert_with(|| {
            let all = settings.sensors.iter();
            let channels = all.filter_map(|sensor| identity(&sensor.source));
            let channels = channels.filter(|(other, _)| *other == key);
            let channels: Vec<Channel> = channels.map(|(_, channel)| channel.clone()).collect();
            Feed {
                inbox: Inbox::new(&channels, clock),
                running: Arc::default(),
            }
        });
        let (feed, source, name) = (feed.clone(), source.clone(), channel.name.clone());
        Some(Box::new(move || {
            let running = feed.start(&source, clock)?;
            let probe = FeedProbe::new(feed.inbox.clone(), &name, running);
            Ok(Box::new(probe) as Box<dyn Probe>)
        }))
    }
}

impl Feed {
    fn start(&self, source: &Source, clock: Clock) -> Result<Running, SampleFault> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_ref().and_then(Weak::upgrade) {
            return Ok(running);
        }
        let inbox = self.inbox.clone();
        let started = match source {
            Source::Program { options, .. } => Program::spawn(options.clone(), inbox, clock)
                .map(|program| Arc::new(program) as Running),
            Source::Socket { path, kind, .. } => {
                Socket::spawn(path, *kind, inbox).map(|socket| Arc::new(socket) as Running)
            }
            _ => return Err(SampleFault::Malformed),
        };
        let started = started.map_err(|error| {
            tracing::warn!(%error, "the feed of a source cannot be started");
            match error.kind() {
                io::ErrorKind::NotFound => SampleFault::Missing,
                io::ErrorKind::PermissionDenied | io::ErrorKind::AddrInUse => {
                    SampleFault::Permission
                }
                _ => SampleFault::Disconnected,
            }
        })?;
        *running = Some(Arc::downgrade(&started));
        Ok(started)
    }
}

/// What tells a feed from others, and the channel of it.
fn identity(source: &Source) -> Option<(String, &Channel)> {
    match source {
        Source::Program { options, channel } => Some((format!("program {options:?}"), channel)),
        Source::Socket { path, channel, .. } => {
            Some((format!("socket {}", path.display()), channel))
        }
        _ => None,
    }
}
