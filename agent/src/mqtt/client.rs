//! One connection after another, each with a client object of its own.
//!
//! Owns: the life of a connection, the watchdog around it and the way of events to the core. Must not: resend, retry,
//! or await anything that a silent broker, a full queue or a hung client could hold for ever.
//!
//! Invariants: the client is driven by a future that is polled beside the commands and the deadline, never instead of
//! them, and that is dropped only together with the client (a poll that is cancelled and repeated can lose a request).
//! Acknowledgements that the client gave out before a fault are told before it. (Those that came in the same read as the
//! end of the connection it throws away; their records are sent again, and a receiver drops the repeats.)

mod listening;

use std::{collections::VecDeque, time::Duration};

use quorate_core::{
    event::{AckOutcome, Event, LinkFault, Standing, StoredRecord},
    units::BatchId,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    BrokerUrl, Command, Options, batch,
    fault::{OVERSIZED, fault},
    outlet::Outlet,
    protocol::{self, Client, Connection, Heard, Limits, Outgoing, Queued},
    setup,
};
use crate::inflight::{Inflight, Message};

/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// After a packet that was larger than agreed the commands are not subscribed to for this long: where the broker keeps that
/// packet, it would come again with every connection.
const DEAF: Duration = Duration::from_secs(600);
/// MQTT 5 reason "packet too large".
const REASON_PACKET_TOO_LARGE: u8 = 0x95;
/// The cause for which a connection ends with a farewell.
const FAILBACK: &str = "failback";

/// Why the farewell is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// The agent ends.
    Stopped,
    /// It goes to another broker.
    Moved,
}

impl Leaving {
    const fn status(self) -> &'static str {
        match self {
            Self::Stopped => r#"{"state":"offline","reason":"stopped"}"#,
            Self::Moved => r#"{"state":"offline","reason":"moved"}"#,
        }
    }

    fn ended(self) -> Ended {
        match self {
            Self::Stopped => Ended::Stopped,
            Self::Moved => Ended::Fault(fault("requested", FAILBACK)),
        }
    }
}

/// The thread's whole state.
pub(super) struct Link {
    /// The broker that is dialled is `options.url`; all of them are in `brokers`.
    options: Options,
    brokers: Vec<BrokerUrl>,
    commands: mpsc::Receiver<Command>,
    outlet: Outlet,
    /// The retained status that every connection begins with.
    online: String,
    /// Until then commands are not subscribed to.
    deaf_until: Option<Instant>,
}

/// How a connection ended.
enum Ended {
    /// It failed or was asked to end.
    Fault(LinkFault),
    /// A new one was asked for, to this broker.
    Replaced(usize),
    /// The thread is to end.
    Stopped,
}

impl Link {
    pub(super) fn new(
        options: Options,
        commands: mpsc::Receiver<Command>,
        events: crossbeam_channel::Sender<Event>,
    ) -> Self {
        let online = serde_json::json!({
            "state": "online",
            "device": options.device,
            "version": options.version,
            "boot": options.boot.to_string(),
        });
        Self {
            online: online.to_string(),
            brokers: std::iter::once(options.url.clone())
                .chain(options.fallback_urls.iter().cloned())
                .collect(),
            options,
            commands,
            outlet: Outlet::new(events),
            deaf_until: None,
        }
    }

    /// Serves until asked to stop.
    pub(super) async fn run(&mut self) {
        while self.asked_to_connect().await {
            loop {
                match self.connection().await {
                    Ended::Fault(fault) => {
                        if fault.cause == OVERSIZED {
                            self.deaf_until = Some(Instant::now() + DEAF);
                        }
                        self.outlet.push(Event::LinkDown { fault });
                        break;
                    }
                    Ended::Replaced(broker) => self.choose(broker),
                    Ended::Stopped => {
                        self.outlet.retry();
                        return;
                    }
                }
            }
        }
    }

    /// The connection ended in a panic; the next attempt begins anew.
    pub(super) fn panicked(&mut self, detail: String) {
        let cause = "panicked";
        let fault = LinkFault { cause, detail };
        self.outlet.push(Event::LinkDown { fault });
    }

    /// The next connection goes to this broker; one that is not there is the preferred one.
    fn choose(&mut self, broker: usize) {
        if let Some(url) = self.brokers.get(broker).or_else(|| self.brokers.first()) {
            self.options.url = url.clone();
        }
    }

    /// Waits without a connection; false when the thread is to end.
    async fn asked_to_connect(&mut self) -> bool {
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Connect { broker }) => {
                        self.choose(broker);
                        return true;
                    }
                    Some(Command::Stop) | None => return false,
                    Some(Command::Status(json)) => self.online = json,
                    // The connection that these are for has been reported as down.
                    Some(
                        Command::Publish { .. } | Command::Disconnect { .. } | Command::Reply { .. },
                    ) => {}
                },
                () = self.outlet.wait(), if !self.outlet.is_empty() => {}
            }
            if self.outlet.closed {
                return false;
            }
        }
    }

    /// Makes one connection and serves it to its end. Everything of it is dropped on return.
    async fn connection(&mut self) -> Ended {
        let Connection {
            client,
            mut driven,
            mut heard,
        } = match protocol::open(&self.options) {
            Ok(connection) => connection,
            Err(fault) => return Ended::Fault(fault),
        };
        let deaf = self.deaf_until.is_some_and(|until| Instant::now() < until);
        let (outlet, commands) = (&mut self.outlet, &mut self.commands);
        let mut session = Session::new(&self.options, client, &mut self.online);
        session.deaf = deaf;
        loop {
            let ended = tokio::select! {
                command = commands.recv(), if session.leaving.is_none() => session.command(command, outlet),
                Some(heard) = heard.recv(), if outlet.is_empty() => session.heard(heard, outlet),
                fault = &mut driven => {
                    let mut ended = None;
                    while let (None, Ok(heard)) = (&ended, heard.try_recv()) {
                        ended = session.heard(heard, outlet);
                    }
                    ended.or_else(|| Some(session.broken(fault)))
                }
                () = sleep_until(session.deadline), if outlet.is_empty() => Some(session.expired()),
                // The client is held back while the core is; its silence in that time proves nothing.
                () = outlet.wait(), if !outlet.is_empty() => { session.progress(); None }
            };
            if outlet.closed {
                return Ended::Stopped;
            }
            if let Some(ended) = ended {
                return ended;
            }
        }
    }
}

/// One connection as seen from outside the client.
struct Session<'a> {
    options: &'a Options,
    /// The retained status while the connection lasts.
    online: &'a mut String,
    client: Box<dyn Client>,
    inflight: Inflight,
    /// Set by CONNACK: the largest packet, in bytes.
    packet_bytes_max: Option<u32>,
    retain: bool,
    silence_max: Duration,
    deadline: Instant,
    /// The farewell was said.
    leaving: Option<Leaving>,
    /// Commands are not subscribed to.
    deaf: bool,
    /// Filters whose SUBACK has not come, in order.
    asked: VecDeque<listening::Asked>,
}

impl<'a> Session<'a> {
    fn new(options: &'a Options, client: Box<dyn Client>, online: &'a mut String) -> Self {
        Self {
            options,
            online,
            client,
            inflight: Inflight::default(),
            packet_bytes_max: None,
            retain: true,
            silence_max: protocol::silence_max(options.keep_alive_s),
            // Connecting is no excuse for a longer silence.
            deadline: Instant::now()
                + Duration::from_millis(options.connect_timeout_ms)
                    .min(protocol::silence_max(options.keep_alive_s)),
            leaving: None,
            deaf: false,
            asked: VecDeque::new(),
        }
    }

    /// The connection shows life: the watchdog starts anew, unless it bounds the connecting or the farewell.
    fn progress(&mut self) {
        if self.packet_bytes_max.is_some() && self.leaving.is_none() {
            self.deadline = Instant::now() + self.silence_max;
        }
    }

    fn expired(&self) -> Ended {
        if let Some(leaving) = self.leaving {
            return leaving.ended();
        }
        let detail = if self.packet_bytes_max.is_some() {
            "the broker has been silent for 1.5 keep-alives"
        } else {
            "no connection within the time allowed"
        };
        Ended::Fault(fault("timeout", detail))
    }

    fn broken(&self, fault: LinkFault) -> Ended {
        self.leaving.map_or(Ended::Fault(fault), Leaving::ended)
    }

    fn command(&mut self, command: Option<Command>, outlet: &mut Outlet) -> Option<Ended> {
        match command {
            Some(Command::Connect { broker }) => Some(Ended::Replaced(broker)),
            Some(Command::Disconnect { cause: FAILBACK }) => self.farewell(Leaving::Moved),
            Some(Command::Disconnect { cause }) => Some(Ended::Fault(fault("requested", cause))),
            Some(Command::Publish {
                batch,
                records,
                standing,
            }) => self.publish(batch, &records, standing, outlet),
            Some(Command::Status(json)) => {
                if self.packet_bytes_max.is_some() {
                    self.status(&json, Message::Status);
                }
                *self.online = json;
                None
            }
            Some(Command::Reply { to, payload }) => {
                self.reply(to, payload);
                None
            }
            Some(Command::Stop) | None => self.farewell(Leaving::Stopped),
        }
    }

    fn farewell(&mut self, leaving: Leaving) -> Option<Ended> {
        if self.packet_bytes_max.is_none() {
            return Some(leaving.ended());
        }
        self.leaving = Some(leaving);
        self.deadline = Instant::now() + FAREWELL;
        self.status(leaving.status(), Message::Farewell);
        None
    }

    /// Queues the retained status; a queue without room drops it, and so does a broker that takes no such packet (the
    /// client would end the connection for it).
    fn status(&mut self, json: &str, message: Message) {
        let Some(packet_bytes_max) = self.packet_bytes_max else {
            return;
        };
        let status = Outgoing {
            topic: setup::status_topic(self.options),
            payload: json.as_bytes().to_vec(),
            retain: self.retain,
            about: None,
            correlation: None,
        };
        if let Queued::Taken(_) = self.client.publish(status, packet_bytes_max) {
            self.inflight.queued(message);
        }
    }

    fn publish(
        &mut self,
        batch: BatchId,
        records: &[StoredRecord],
        standing: Standing,
        outlet: &mut Outlet,
    ) -> Option<Ended> {
        // Before CONNACK there is no connection that the message could be meant for.
        let packet_bytes_max = self.packet_bytes_max?;
        let options = self.options;
        let message = batch::encode(
            &options.device,
            options.epoch,
            records,
            batch::Form {
                encoding: options.encoding,
                compression: options.compression,
                standing,
            },
        );
        let message = Outgoing {
            topic: setup::data_topic(options),
            payload: message.payload,
            retain: false,
            about: Some((message.content_type, message.user_properties)),
            correlation: None,
        };
        match self.client.publish(message, packet_bytes_max) {
            Queued::Taken(bytes) => {
                self.inflight.queued(Message::Batch(batch));
                outlet.push(Event::Sent { batch, bytes });
                None
            }
            Queued::TooLarge => {
                let outcome = AckOutcome::Refused {
                    reason: REASON_PACKET_TOO_LARGE,
                };
                outlet.push(Event::Acked { batch, outcome });
                None
            }
            Queued::Refused => Some(Ended::Fault(fault(
                "protocol",
                "more messages in flight than the connection allows, or a wrong topic",
            ))),
        }
    }

    fn heard(&mut self, heard: Heard, outlet: &mut Outlet) -> Option<Ended> {
        let ended = match heard {
            Heard::Connected(limits) => self.connected(limits, outlet),
            Heard::Acknowledged { packet, outcome } => self.acknowledged(packet, outcome, outlet),
            Heard::Life => None,
            Heard::Message(incoming) => {
                self.message(incoming, outlet);
                None
            }
            Heard::Subscribed { accepted } => {
                self.subscription_answered(accepted, outlet);
                None
            }
            // What we send proves no life.
            Heard::Sent(packet) => {
                return self
                    .inflight
                    .sent(packet)
                    .err()
                    .map(|error| Ended::Fault(fault("protocol", &error.to_string())));
            }
        };
        self.progress();
        ended
    }

    fn connected(&mut self, limits: Limits, outlet: &mut Outlet) -> Option<Ended> {
        if limits.qos_0_only {
            return Some(Ended::Fault(fault(
                "protocol",
                "the broker takes QoS 0 only",
            )));
        }
        if let Some(keep_alive_s) = limits.keep_alive_s {
            self.silence_max = protocol::silence_max(keep_alive_s);
        }
        self.retain = !limits.no_retain;
        let ours = self.options;
        let packet_bytes_max = limits
            .packet_bytes_max
            .map_or(ours.packet_bytes_max, |bytes| {
                bytes.min(ours.packet_bytes_max)
            });
        let inflight_max = limits
            .inflight_max
            .map_or(ours.inflight_max, |messages| {
                messages.min(ours.inflight_max)
            })
            .max(1);
        self.packet_bytes_max = Some(packet_bytes_max);
        let online = self.online.clone();
        self.status(&online, Message::Status);
        outlet.push(Event::LinkUp {
            packet_bytes_max,
            inflight_max,
        });
        self.subscribe(outlet);
        None
    }

    fn acknowledged(
        &mut self,
        packet: u16,
        outcome: AckOutcome,
        outlet: &mut Outlet,
    ) -> Option<Ended> {
        match self.inflight.acknowledged(packet) {
            Ok(Message::Batch(batch)) => {
                outlet.push(Event::Acked { batch, outcome });
                None
            }
            Ok(Message::Status | Message::Reply) => None,
            Ok(Message::Farewell) => {
                let leaving = self.leaving.unwrap_or(Leaving::Stopped);
                (!self.client.disconnect()).then(|| leaving.ended())
            }
            Err(error) => Some(Ended::Fault(fault("protocol", &error.to_string()))),
        }
    }
}

#[cfg(test)]
mod tests;
