//! A peer that freezes, in every state of a connection: it is noticed within 1.5 keep-alives.
//!
//! The peer is a socket of the test that does nothing more; the keep-alive is one second, the time allowed for connecting
//! far longer, so that only the watchdog can end these.

use std::{net::TcpStream, os::fd::AsRawFd as _};

use super::*;
use crate::mqtt::Protocol;

/// The watchdog, and what a slow machine may add.
const NOTICED_MAX: Duration = Duration::from_millis(1_500 + 1_000);

fn impatient(address: SocketAddr, protocol: Protocol) -> Options {
    Options {
        keep_alive_s: 1,
        connect_timeout_ms: 60_000,
        protocol,
        ..options(address)
    }
}

/// Waits for the end of the connection; `since` is when the peer froze.
fn noticed(agent: Agent, since: Instant) {
    loop {
        match agent.event() {
            Event::LinkDown { fault } => {
                assert_eq!(fault.cause, "timeout", "{}", fault.detail);
                break;
            }
            Event::LinkUp { .. } | Event::Acked { .. } => {}
            other => unreachable!("{other:?}"),
        }
    }
    let waited = since.elapsed();
    assert!(waited <= NOTICED_MAX, "{waited:?}");
    agent.stop();
}

const BOTH: [Protocol; 2] = [Protocol::Mqtt5, Protocol::Mqtt311];

#[test]
fn while_connecting() {
    let (listener, address) = listener();
    // A queue without room: the kernel answers no further SYN, as a host that is gone does.
    // SAFETY: the descriptor is a listening socket that lives until the end of this function.
    let listening = unsafe { libc::listen(listener.as_raw_fd(), 0) };
    assert_eq!(listening, 0);
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
    }
    for protocol in BOTH {
        let agent = start(impatient(address, protocol));
        agent.order(Command::Connect { broker: 0 });
        noticed(agent, Instant::now());
    }
}

#[test]
fn in_the_tls_handshake() {
    for protocol in BOTH {
        let (listener, address) = listener();
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        let mut options = impatient(address, protocol);
        options.url.tls = true;
        options.ca_file = Some(file);
        let agent = start(options);
        agent.order(Command::Connect { broker: 0 });
        let _stream = listener.accept().unwrap();
        noticed(agent, Instant::now());
    }
}

#[test]
fn before_connack() {
    for protocol in BOTH {
        let (listener, address) = listener();
        let agent = start(impatient(address, protocol));
        agent.order(Command::Connect { broker: 0 });
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 64]).unwrap();
        noticed(agent, Instant::now());
    }
}

/// CONNACK of both versions, in bytes.
fn connack(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Mqtt5 => &[0x20, 3, 0, 0, 0],
        Protocol::Mqtt311 => &[0x20, 2, 0, 0],
    }
}

fn accepted(listener: &TcpListener, protocol: Protocol) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut stream, connack(protocol)).unwrap();
    stream
}

#[test]
fn while_idle() {
    for protocol in BOTH {
        let (listener, address) = listener();
        let agent = start(impatient(address, protocol));
        agent.order(Command::Connect { broker: 0 });
        let _stream = accepted(&listener, protocol);
        noticed(agent, Instant::now());
    }
}

#[test]
fn while_flushing_to_a_peer_that_does_not_read() {
    for protocol in BOTH {
        let (listener, address) = listener();
        let agent = start(Options {
            inflight_max: 1_000,
            packet_bytes_max: 1 << 20,
            compression: Compression::None,
            ..impatient(address, protocol)
        });
        agent.order(Command::Connect { broker: 0 });
        let _stream = accepted(&listener, protocol);
        assert!(matches!(agent.event(), Event::LinkUp { .. }));
        let since = Instant::now();
        // More than the buffers of both sockets hold.
        for number in 1..=100 {
            let record = StoredRecord {
                seq: Seq(number),
                payload: vec![b' '; 200_000].into(),
            };
            agent.order(Command::Publish {
                batch: BatchId(number),
                records: vec![record],
                standing: Standing::default(),
            });
        }
        noticed(agent, since);
    }
}
