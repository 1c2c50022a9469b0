//! What a connection is to the rest of this folder, whichever version of MQTT it speaks.
//!
//! Owns: the seam to the client libraries, of which each version of the protocol has its own. Must not: name either.
//!
//! Invariant: what a version cannot say is absent here and is never made up.

use std::{pin::Pin, time::Duration};

use quorate_core::event::{AckOutcome, LinkFault};
use tokio::sync::mpsc;

use super::{Incoming, Options, Protocol, version5, version311};

/// Room in the client's queue beyond the messages in flight: statuses.
const STATUS_ROOM: usize = 16;
/// What the client said that may wait for us; while that many do, the client does not read from the broker.
const RELAY_MAX: usize = 64;

/// A message to publish with QoS 1.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
    /// Content type and user properties; left out where the version has none.
    pub(super) about: Option<(&'static str, Vec<(String, String)>)>,
    /// The correlation data of the question that this answers; left out where the version has none.
    pub(super) correlation: Option<Vec<u8>>,
}

/// What became of a message that the client was to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// The client will send it, as a packet of so many bytes.
    Taken(u64),
    /// Its packet would be larger than allowed; nothing was queued.
    TooLarge,
    /// The queue is full or the topic is none.
    Refused,
}

/// The limits that the broker sets with CONNACK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// It takes QoS 0 alone.
    pub(super) qos_0_only: bool,
    /// It retains nothing.
    pub(super) no_retain: bool,
    /// The keep-alive that holds instead of ours.
    pub(super) keep_alive_s: Option<u16>,
    /// Its largest packet.
    pub(super) packet_bytes_max: Option<u32>,
    /// Most messages without an acknowledgement.
    pub(super) inflight_max: Option<u16>,
}

/// What the client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The broker accepts the connection.
    Connected(Limits),
    /// The oldest queued message went out with this packet identifier.
    Sent(u16),
    /// The broker acknowledged a packet.
    Acknowledged { packet: u16, outcome: AckOutcome },
    /// A message came.
    Message(Incoming),
    /// The broker answered a subscription.
    Subscribed { accepted: bool },
    /// The broker said something else: it is alive.
    Life,
}

/// The client of one connection.
pub(super) trait Client {
    /// Queues a message whose packet has at most `packet_bytes_max` bytes.
    fn publish(&self, message: Outgoing, packet_bytes_max: u32) -> Queued;
    /// Asks for the messages of a filter, but for retained ones where the version can; false when that cannot be sent.
    fn subscribe(&self, filter: String) -> bool;
    /// Asks for DISCONNECT; false when that cannot be sent.
    fn disconnect(&self) -> bool;
}

/// A connection that lives as long as `driven` is polled.
pub(super) struct Connection {
    pub(super) client: Box<dyn Client>,
    /// Serves the socket; ends with the fault that ends the connection. Must not be polled again after another was made.
    pub(super) driven: Pin<Box<dyn Future<Output = LinkFault>>>,
    pub(super) heard: mpsc::Receiver<Heard>,
}

/// Makes the client of one connection, which has nothing of the one before.
pub(super) fn open(options: &Options) -> Result<Connection, LinkFault> {
    let (relay, heard) = mpsc::channel(RELAY_MAX);
    let (client, driven) = match options.protocol {
        Protocol::Mqtt5 => version5::open(options, relay)?,
        Protocol::Mqtt311 => version311::open(options, relay)?,
    };
    Ok(Connection {
        client,
        driven,
        heard,
    })
}

/// What a version gives to [`open`].
pub(super) type Opened = (Box<dyn Client>, Pin<Box<dyn Future<Output = LinkFault>>>);

/// Messages that the client's queue must hold.
pub(super) fn capacity(options: &Options) -> usize {
    usize::from(options.inflight_max).saturating_add(STATUS_ROOM)
}

/// Longest connecting.
pub(super) const fn connect_timeout(options: &Options) -> Duration {
    Duration::from_millis(options.connect_timeout_ms)
}

/// One and a half keep-alives: the client pings once per keep-alive, so a living broker is heard within one.
pub(super) fn silence_max(keep_alive_s: u16) -> Duration {
    Duration::from_millis(u64::from(keep_alive_s.max(1)) * 1500)
}
