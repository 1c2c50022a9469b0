//! The MQTT side of the agent: one thread that connects, publishes and tells the core what the broker said.
//!
//! Owns: the MQTT client libraries and the sockets to the broker; no other folder names those crates. Must not: decide when
//! to connect, keep a record, resend anything or wait for the core.
//!
//! Invariants: one client object per connection, dropped whole at the first fault, so that nothing of an old connection
//! can reach a new one. A record is reported as taken only for the acknowledgement of the very message that carried it.
//! Every wait has an end.

pub mod batch;
#[cfg(feature = "demo")]
pub mod broker;
pub mod cbor;
mod certificate;
mod client;
mod fault;
pub mod ledger;
pub mod live;
mod outlet;
mod prepared;
mod protocol;
mod setup;
#[cfg(feature = "collect")]
pub mod subscriber;
mod tls;
mod version311;
mod version5;
pub mod watermark;
pub(crate) mod web;
#[cfg(all(test, feature = "demo"))]
mod wire;

use std::{
    fmt, io,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    thread::JoinHandle,
};

use quorate_core::{
    command::ReplyTo,
    event::{Event, Standing, StoredRecord},
    units::{BatchId, BootId, Epoch},
};
use tokio::sync::mpsc;

use crate::threads;

/// Port of MQTT without TLS, as registered with IANA.
const PORT_PLAIN: u16 = 1883;
/// Port of MQTT over TLS, as registered with IANA.
const PORT_TLS: u16 = 8883;
/// Commands that may wait for the runtime. The core sends one per batch in flight and little else.
const COMMANDS_MAX: usize = 256;
/// Longest broker address, enough for any DNS name.
const URL_BYTES_MAX: usize = 512;

/// Everything that a connection needs. The files are read again for every connection, so that renewed certificates and
/// passwords are taken up without a restart.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the device, as in every batch.
    pub device: String,
    /// Where the broker is.
    pub url: BrokerUrl,
    /// Other brokers, in order of preference; everything else holds for them too.
    pub fallback_urls: Vec<BrokerUrl>,
    /// The base of every topic, with `{device}` already replaced and without a slash at its end.
    pub topic: String,
    /// Client identifier, unique at the broker.
    pub client_id: String,
    /// User name, if the broker asks for one.
    pub username: Option<String>,
    /// File with the password; white space at its end does not count.
    pub password_file: Option<PathBuf>,
    /// File with the certificates that are trusted, PEM. Without it the roots of the platform are.
    pub ca_file: Option<PathBuf>,
    /// File with the client's certificate chain, PEM; goes with the key.
    pub client_cert_file: Option<PathBuf>,
    /// File with the client's private key, PEM; goes with the certificate.
    pub client_key_file: Option<PathBuf>,
    /// Keep-alive in seconds; 0 is taken as 1, because a connection must not die unnoticed.
    pub keep_alive_s: u16,
    /// Version of MQTT.
    pub protocol: Protocol,
    /// Form of the batches.
    pub encoding: Encoding,
    /// Whether larger batches are compressed.
    pub compression: Compression,
    /// Life of the store that the records come from.
    pub epoch: Epoch,
    /// Most milliseconds from the first packet to the broker's answer (TCP, TLS and CONNACK together).
    pub connect_timeout_ms: u64,
    /// Largest packet in bytes that is sent, whatever the broker allows.
    pub packet_bytes_max: u32,
    /// Most messages without an acknowledgement, whatever the broker allows; 0 is taken as 1.
    pub inflight_max: u16,
    /// Version of the agent, for the status.
    pub version: String,
    /// This boot of the device, for the status.
    pub boot: BootId,
    /// Where the service manager put credentials: files with a relative name are looked for there first.
    pub credentials: Option<PathBuf>,
    /// Where it is told until when the certificates are good.
    pub certificates: Option<crossbeam_channel::Sender<Event>>,
    /// Where commands go that come on `<topic>/cmd/...`; without it nothing is subscribed to.
    pub incoming: Option<crossbeam_channel::Sender<Incoming>>,
    /// Whether to listen for what the receiver has stored, on `<topic>/watermark`.
    pub watermark: bool,
}

/// A message that came on a topic that was subscribed to; nothing of it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The broker kept it from before.
    pub retained: bool,
    /// Where its sender wants the answer.
    pub reply: Option<ReplyTo>,
}

/// Version of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 5.
    #[default]
    Mqtt5,
    /// MQTT 3.1.1, whose acknowledgement says less: see [`Protocol::warning`].
    Mqtt311,
}

impl Protocol {
    /// What an operator must know of this version.
    #[must_use]
    pub const fn warning(self) -> Option<&'static str> {
        match self {
            Self::Mqtt5 => None,
            Self::Mqtt311 => Some(
                "MQTT 3.1.1 cannot say that nobody listens or that a topic was refused: an acknowledged record may be gone",
            ),
        }
    }
}

/// The form of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// JSON text.
    #[default]
    Json,
    /// CBOR as [`cbor`] lays it out, where that is not larger.
    Cbor,
}

/// Whether a batch is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard, where it makes the message smaller.
    #[default]
    Zstd,
    /// As it is.
    None,
}

/// What the caller asks of the thread.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Make a new connection; answered by [`Event::LinkUp`] or [`Event::LinkDown`]. Replaces a connection that exists.
    Connect {
        /// 0 for [`Options::url`], else one of [`Options::fallback_urls`], from 1.
        broker: usize,
    },
    /// Send one message; answered by [`Event::Sent`] and [`Event::Acked`] unless the connection ends first. Dropped
    /// without a connection.
    Publish {
        /// Names the message within this connection.
        batch: BatchId,
        /// The records, in order.
        records: Vec<StoredRecord>,
        /// They are backlog or sent again.
        standing: Standing,
    },
    /// End the connection; answered by [`Event::LinkDown`] with cause `requested`. At once, so that the broker publishes
    /// the will, but for the cause `failback`: then with a farewell. Nothing without a connection.
    Disconnect {
        /// Why, in one kebab-case word.
        cause: &'static str,
    },
    /// Publish this JSON object as the retained status, now where there is a connection, and with every later one.
    Status(String),
    /// Answer a command, now or never.
    Reply {
        /// Where to.
        to: ReplyTo,
        /// The answer, JSON.
        payload: String,
    },
    /// Say farewell (at most one second) and end the thread.
    Stop,
}

/// The way to the thread. The caller never waits: it sends with `try_send`, which fails when the queue is full.
pub type Commands = mpsc::Sender<Command>;

/// Starts the thread. It ends after [`Command::Stop`], or when either channel loses its other end.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub fn spawn(
    options: Options,
    events: crossbeam_channel::Sender<Event>,
) -> io::Result<(Commands, JoinHandle<()>)> {
    if let Some(warning) = options.protocol.warning() {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // A name look-up cannot be cancelled; a few that hang must not become hundreds of threads.
        .max_blocking_threads(4)
        .build()?;
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let handle = std::thread::Builder::new()
        .name("mqtt".to_owned())
        .spawn(move || {
            let options = Options {
                certificates: Some(events.clone()),
                ..options
            };
            let mut link = client::Link::new(options, commands, events);
            // A panic of the client ends its connection, not the link.
            while let Err(panic) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(link.run()))) {
                link.panicked(threads::panic_text(panic.as_ref()));
            }
            // Without waiting for a look-up that hangs.
            runtime.shutdown_background();
        })?;
    Ok((sender, handle))
}

/// Where the service manager puts the credentials of this process.
#[must_use]
pub fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into)
}

/// Address of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Whether TLS is used.
    pub tls: bool,
    /// Name or IP address, the latter without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl BrokerUrl {
    /// Whether the broker is this machine: `localhost`, 127.0.0.0/8 or `::1`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for BrokerUrl {
    /// The form that [`parse_url`] reads, always with the port.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(formatter, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Reads `mqtt://host[:port]` or `mqtts://host[:port]`; the port is 1883 or 8883 unless given. An IPv6 address stands in
/// brackets.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_url(text: &str) -> Result<BrokerUrl, String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("expected at most {URL_BYTES_MAX} bytes"));
    }
    let (tls, rest) = if let Some(rest) = text.strip_prefix("mqtts://") {
        (true, rest)
    } else if let Some(rest) = text.strip_prefix("mqtt://") {
        (false, rest)
    } else {
        return Err("expected mqtt://host:port or mqtts://host:port".to_owned());
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err(
            "expected no user name in the address: use username and password_file".to_owned(),
        );
    }
    if rest.contains(['/', '?', '#']) {
        return Err("expected nothing after the port".to_owned());
    }
    let (host, port) = split_port(rest)?;
    let port = match port {
        None if tls => PORT_TLS,
        None => PORT_PLAIN,
        Some(digits) => digits
            .parse::<u16>()
            .ok()
            .filter(|port| *port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .ok_or_else(|| format!("expected a port from 1 to 65535, not \"{digits}\""))?,
    };
    Ok(BrokerUrl {
        tls,
        host: host.to_owned(),
        port,
    })
}

/// Separates `host[:port]` and checks the host.
fn split_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner
            .split_once(']')
            .ok_or("expected ] after the IPv6 address")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!(
                "expected an IPv6 address in brackets, not \"{host}\""
            ));
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("expected :port after the brackets".to_owned()),
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if port.is_some_and(|port| port.contains(':')) {
        return Err("expected an IPv6 address in brackets, as in mqtt://[::1]:1883".to_owned());
    }
    let plausible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || !host.bytes().all(plausible) {
        return Err(format!("expected a host name, not \"{host}\""));
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn check(text: &str, expected: Result<(bool, &str, u16), &str>) {
        match (parse_url(text), expected) {
            (Ok(url), Ok((tls, host, port))) => {
                assert_eq!((url.tls, url.host.as_str(), url.port), (tls, host, port));
                assert_eq!(parse_url(&url.to_string()), Ok(url));
            }
            (Err(message), Err(part)) => assert!(message.contains(part), "{text}: {message}"),
            (found, expected) => unreachable!("{text}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn addresses_are_read_or_refused_with_what_was_expected() {
        check("mqtts://broker.example", Ok((true, "broker.example", 8883)));
        check("mqtt://127.0.0.1/", Ok((false, "127.0.0.1", 1883)));
        check("mqtt://[::1]:2000", Ok((false, "::1", 2000)));
        check("mqtts://[fe80::1]", Ok((true, "fe80::1", 8883)));
        check("mqtt://host:65535", Ok((false, "host", 65535)));
        check("mqtt://host:65536", Err("port from 1 to 65535"));
        check("mqtt://host:+1", Err("port from 1 to 65535"));
        check("mqtt://host:0", Err("port from 1 to 65535"));
        check("mqtt://host:", Err("port from 1 to 65535"));
        check("http://host", Err("mqtt://host:port"));
        check("mqtt://", Err("host name"));
        check("mqtt://a b", Err("host name"));
        check("mqtt://::1", Err("brackets"));
        check("mqtt://[::1", Err("]"));
        check("mqtt://[host]:1", Err("IPv6 address"));
        check("mqtt://user:secret@host", Err("password_file"));
        check("mqtt://host/path", Err("after the port"));
        check(&format!("mqtt://{}", "a".repeat(600)), Err("at most"));
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        let loopback = |text| parse_url(text).unwrap().is_loopback();
        assert!(loopback("mqtt://localhost"));
        assert!(loopback("mqtt://127.3.2.1"));
        assert!(loopback("mqtt://[::1]"));
        assert!(!loopback("mqtt://10.0.0.1"));
        assert!(!loopback("mqtt://localhost.example"));
    }
}
