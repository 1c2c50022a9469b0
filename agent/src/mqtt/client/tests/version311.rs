//! The same rules where MQTT 3.1.1 is spoken, and what is said where the two ends speak different versions.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStderr, Command as Process, Stdio},
};

use bytes::BytesMut;
use quorate_core::{event::AckOutcome, units::BatchId};
use rumqttc_v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, Subscribe,
    SubscribeReasonCode,
};

use super::{
    Command, Epoch, Event, Ledger, Options, Outbox, PATIENCE, batch,
    commands::{listening, subscribed},
    listener, options, start,
};
use crate::mqtt::{Compression, Protocol};

const BYTES_MAX: usize = 1 << 20;

fn old(address: SocketAddr) -> Options {
    Options {
        protocol: Protocol::Mqtt311,
        ..options(address)
    }
}

/// One end of a socket that speaks MQTT 3.1.1.
struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    fn write(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, BYTES_MAX).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn read(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.buffer, BYTES_MAX) {
                Ok(packet) => return packet,
                Err(rumqttc_v4::Error::InsufficientBytes(_)) => {}
                Err(error) => unreachable!("{error}"),
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "closed");
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }

    fn published(&mut self) -> Publish {
        loop {
            if let Packet::Publish(publish) = self.read() {
                return publish;
            }
        }
    }

    fn acknowledge(&mut self, packet: u16) {
        self.write(&Packet::PubAck(PubAck::new(packet)));
    }

    /// Takes CONNECT and answers, as a broker.
    fn accept(stream: TcpStream, code: ConnectReturnCode) -> (Self, Connect) {
        let mut wire = Self::new(stream);
        let Packet::Connect(connect) = wire.read() else {
            unreachable!("the first packet is CONNECT")
        };
        wire.write(&Packet::ConnAck(ConnAck::new(code, false)));
        (wire, connect)
    }
}

#[test]
fn acknowledgements_name_their_batch_and_a_second_one_is_a_fault() {
    let (listener, address) = listener();
    let agent = start(old(address));
    agent.order(Command::Connect { broker: 0 });
    let (mut wire, connect) =
        Wire::accept(listener.accept().unwrap().0, ConnectReturnCode::Success);
    assert!(connect.clean_session);
    let will = connect.last_will.unwrap();
    assert_eq!(
        (will.topic.as_str(), will.retain),
        ("plant/press-07/status", true)
    );
    assert_eq!(will.message, r#"{"state":"offline"}"#.as_bytes());
    assert_eq!(
        agent.event(),
        Event::LinkUp {
            packet_bytes_max: 65_536,
            inflight_max: 8
        }
    );
    let status = wire.published();
    assert!(status.retain);
    for number in 1..=3 {
        agent.order(batch(number, number * 10, 5));
    }
    let packets: Vec<u16> = (0..3).map(|_| wire.published().pkid).collect();
    for index in [2, 0, 1] {
        wire.acknowledge(packets[index]);
    }
    let outcome = AckOutcome::Taken;
    for number in [3, 1, 2] {
        let batch = BatchId(number);
        assert_eq!(agent.event(), Event::Acked { batch, outcome });
    }
    wire.acknowledge(packets[2]);
    agent.down("protocol");
    agent.stop();
}

#[test]
fn a_silent_broker_is_dropped_and_what_is_too_large_is_never_sent() {
    let (listener, address) = listener();
    let agent = start(Options {
        keep_alive_s: 1,
        packet_bytes_max: 300,
        compression: Compression::None,
        ..old(address)
    });
    agent.order(Command::Connect { broker: 0 });
    let _wire = Wire::accept(listener.accept().unwrap().0, ConnectReturnCode::Success);
    agent.event();
    agent.order(batch(1, 1, 10));
    let (batch, outcome) = (BatchId(1), AckOutcome::Refused { reason: 0x95 });
    assert_eq!(agent.event(), Event::Acked { batch, outcome });
    agent.down("timeout");
    agent.stop();
}

#[test]
fn refusals_are_sorted() {
    for (code, cause) in [
        (ConnectReturnCode::RefusedProtocolVersion, "protocol"),
        (ConnectReturnCode::BadClientId, "refused"),
        (ConnectReturnCode::ServiceUnavailable, "refused"),
        (ConnectReturnCode::BadUserNamePassword, "not-authorised"),
        (ConnectReturnCode::NotAuthorized, "not-authorised"),
    ] {
        let (listener, address) = listener();
        let agent = start(old(address));
        agent.order(Command::Connect { broker: 0 });
        let _wire = Wire::accept(listener.accept().unwrap().0, code);
        agent.down(cause);
        agent.stop();
    }
}

#[test]
fn garbage_in_place_of_connack_is_a_protocol_fault() {
    for garbage in [&[b'H'; 200][..], &[0xFF; 64], &[0x20, 3, 0, 0x84, 0]] {
        let (listener, address) = listener();
        let agent = start(old(address));
        agent.order(Command::Connect { broker: 0 });
        let mut wire = Wire::new(listener.accept().unwrap().0);
        assert!(matches!(wire.read(), Packet::Connect(_)));
        wire.stream.write_all(garbage).unwrap();
        agent.down("protocol");
        agent.stop();
    }
}

/// What an agent of MQTT 5 says when the broker answers CONNECT with these bytes and closes.
fn refused(answer: &[u8]) -> (&'static str, String) {
    let (listener, address) = listener();
    let agent = start(options(address));
    agent.order(Command::Connect { broker: 0 });
    let (mut stream, _) = listener.accept().unwrap();
    // The whole packet, so that nothing unread turns the end into a reset.
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert!(head[0] == 0x10 && head[1] < 0x80);
    let mut rest = vec![0; usize::from(head[1])];
    stream.read_exact(&mut rest).unwrap();
    stream.write_all(answer).unwrap();
    drop(stream);
    let Event::LinkDown { fault } = agent.event() else {
        unreachable!("a broker that refuses")
    };
    agent.stop();
    (fault.cause, fault.detail)
}

#[test]
fn a_broker_without_mqtt_5_is_told_from_others() {
    let advice = "the broker does not speak MQTT 5; set mqtt.version = \"3.1.1\"";
    assert_eq!(
        refused(&[0x20, 3, 0, 0x84, 0]),
        ("protocol", advice.to_owned())
    );
    // The refusal of MQTT 3.1.1, with and without the property length that MQTT 5 adds.
    assert_eq!(
        refused(&[0x20, 3, 0, 1, 0]),
        ("protocol", advice.to_owned())
    );
    for answer in [&[0x20, 2, 0, 1][..], &[]] {
        let (cause, detail) = refused(answer);
        assert_eq!(cause, "closed");
        assert!(detail.ends_with(advice), "{detail}");
    }
    let (cause, detail) = refused(&[0x20, 3, 0, 0x87, 0]);
    assert_eq!(cause, "not-authorised");
    assert!(!detail.contains("3.1.1"), "{detail}");
}

#[test]
fn commands_come_in_and_are_answered_on_a_topic_of_their_own() {
    let (listener, address) = listener();
    let (listening, incoming) = listening(address);
    let agent = start(Options {
        protocol: Protocol::Mqtt311,
        ..listening
    });
    agent.order(Command::Connect { broker: 0 });
    let (mut wire, _) = Wire::accept(listener.accept().unwrap().0, ConnectReturnCode::Success);
    assert!(matches!(wire.read(), Packet::Publish(_)), "the status");
    let Packet::Subscribe(subscribe) = wire.read() else {
        unreachable!("no subscription");
    };
    assert_eq!(subscribe.filters[0].path, "plant/press-07/cmd/+");
    let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
    wire.write(&Packet::SubAck(SubAck::new(subscribe.pkid, codes)));
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    assert_eq!(agent.event(), subscribed(true));
    let topic = "plant/press-07/cmd/ping";
    wire.write(&Packet::Publish(Publish::new(topic, QoS::AtMostOnce, "{}")));
    let to = incoming.recv_timeout(PATIENCE).unwrap().reply.unwrap();
    assert_eq!(to.topic, "plant/press-07/reply");
    let payload = "{}".to_owned();
    agent.order(Command::Reply { to, payload });
    let Packet::Publish(answer) = wire.read() else {
        unreachable!("no answer");
    };
    assert_eq!(answer.topic[..], b"plant/press-07/reply"[..]);
    // The broker of this version cannot be told how large is too large.
    let large = Publish::new(topic, QoS::AtMostOnce, vec![b'x'; 100_000]);
    let mut bytes = BytesMut::new();
    Packet::Publish(large).write(&mut bytes, BYTES_MAX).unwrap();
    wire.stream.write_all(&bytes[..1_000]).unwrap();
    agent.down("incoming-too-large");
    agent.order(Command::Connect { broker: 0 });
    let (mut wire, _) = Wire::accept(listener.accept().unwrap().0, ConnectReturnCode::Success);
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    assert_eq!(agent.event(), subscribed(false));
    assert!(matches!(wire.read(), Packet::Publish(_)), "the status");
    agent.stop();
}

/// A real mosquitto, where there is one.
struct Mosquitto {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
    _log: BufReader<ChildStderr>,
}

impl Mosquitto {
    fn start() -> Option<Self> {
        let (listener, address) = listener();
        drop(listener);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nlog_dest stderr\nlog_type notice\nlog_type information\n",
            address.port()
        );
        std::fs::write(&file, text).unwrap();
        let process = Process::new("mosquitto")
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn();
        let mut process = match process {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: mosquitto is not on the PATH");
                return None;
            }
            Err(error) => unreachable!("{error}"),
        };
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("running") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "mosquitto has ended");
        }
        Some(Self {
            process,
            address,
            _folder: folder,
            _log: log,
        })
    }

    /// A client that has subscribed to everything of the device.
    fn subscriber(&self) -> Wire {
        let mut wire = Wire::new(TcpStream::connect(self.address).unwrap());
        let mut connect = Connect::new("observer");
        connect.keep_alive = 600;
        wire.write(&Packet::Connect(connect));
        assert!(matches!(wire.read(), Packet::ConnAck(_)));
        let mut subscribe = Subscribe::new("plant/press-07/#", QoS::AtLeastOnce);
        subscribe.pkid = 1;
        wire.write(&Packet::Subscribe(subscribe));
        assert!(matches!(wire.read(), Packet::SubAck(_)));
        wire
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The next message to `topic`, acknowledged.
fn next(observer: &mut Wire, topic: &str) -> Vec<u8> {
    loop {
        let message = observer.published();
        observer.acknowledge(message.pkid);
        if message.topic == topic.as_bytes() {
            return message.payload.to_vec();
        }
    }
}

#[test]
fn mosquitto_gets_every_record_over_many_connections() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    let mut observer = broker.subscriber();
    let agent = start(old(broker.address));
    let mut outbox = Outbox {
        waiting: (1..=500).collect(),
        inflight: BTreeMap::new(),
        next_batch: 1,
        since_up: 0,
        cut: false,
    };
    let (mut taken, mut ups) = (BTreeSet::new(), 0);
    agent.order(Command::Connect { broker: 0 });
    while taken.len() < 500 {
        match agent.event() {
            Event::LinkUp { .. } => {
                ups += 1;
                (outbox.since_up, outbox.cut) = (0, false);
                outbox.lost_the_link();
                outbox.fill(&agent, 8);
            }
            Event::Acked { batch, outcome } => {
                assert_eq!(outcome, AckOutcome::Taken);
                taken.extend(outbox.inflight.remove(&batch).unwrap());
                outbox.since_up += 1;
                if outbox.since_up >= 5 && !outbox.cut {
                    // The connection is dropped with messages on the way, and another takes its place.
                    outbox.cut = true;
                    agent.order(Command::Connect { broker: 0 });
                } else if !outbox.cut {
                    outbox.fill(&agent, 8);
                }
            }
            event => unreachable!("{event:?}"),
        }
    }
    assert!(ups >= 5, "{ups}");
    let mut ledger = Ledger::default();
    while ledger.records() < 500 {
        let payload = next(&mut observer, "plant/press-07/data");
        ledger.enter(&payload).unwrap();
    }
    let stream = ledger.stream("press-07", Epoch(3)).unwrap();
    assert_eq!(stream.ranges(), [1..=500]);
    assert_eq!(ledger.conflicts(), 0);
    agent.stop();
}

#[test]
fn mosquitto_tells_how_a_connection_ended() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    let mut observer = broker.subscriber();
    let agent = start(old(broker.address));
    let mut status = || next(&mut observer, "plant/press-07/status");
    agent.up();
    let online: serde_json::Value = serde_json::from_slice(&status()).unwrap();
    assert_eq!(online["state"], "online");
    agent.order(Command::Disconnect { cause: "unproven" });
    agent.down("requested");
    assert_eq!(status(), br#"{"state":"offline"}"#);
    agent.up();
    status();
    agent.stop();
    assert_eq!(status(), br#"{"state":"offline","reason":"stopped"}"#);
}

#[test]
fn mosquitto_takes_what_nobody_listens_to_and_3_1_1_cannot_tell() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    for (protocol, outcome) in [
        (Protocol::Mqtt311, AckOutcome::Taken),
        (Protocol::Mqtt5, AckOutcome::NoSubscribers),
    ] {
        let agent = start(Options {
            protocol,
            ..options(broker.address)
        });
        agent.up();
        agent.order(batch(1, 1, 1));
        let batch = BatchId(1);
        assert_eq!(agent.event(), Event::Acked { batch, outcome });
        agent.stop();
    }
}
