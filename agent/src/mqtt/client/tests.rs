#![cfg(feature = "demo")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread::JoinHandle,
};

use crossbeam_channel::Receiver;
use quorate_core::units::{Epoch, Seq};
use rumqttc::{Packet, PubAck, PubAckReason};

use super::*;
use crate::mqtt::{
    Compression,
    broker::{Broker, Received},
    ledger::Ledger,
    spawn,
    wire::{PATIENCE, Wire, options},
};

mod commands;
mod liveness;
mod tls;
mod version311;

struct Agent {
    commands: crate::mqtt::Commands,
    events: Receiver<Event>,
    thread: JoinHandle<()>,
}

fn start(options: Options) -> Agent {
    // Small, so that the way around a full queue is walked too.
    let (sender, events) = crossbeam_channel::bounded(2);
    let (commands, thread) = spawn(options, sender).unwrap();
    Agent {
        commands,
        events,
        thread,
    }
}

impl Agent {
    fn order(&self, command: Command) {
        self.commands.try_send(command).unwrap();
    }

    /// The next event but for the sizes of messages.
    fn event(&self) -> Event {
        loop {
            match self.events.recv_timeout(PATIENCE).unwrap() {
                Event::Sent { bytes, .. } => assert!(bytes > 0),
                event => return event,
            }
        }
    }

    fn up(&self) -> Event {
        self.order(Command::Connect { broker: 0 });
        self.event()
    }

    fn down(&self, cause: &str) -> LinkFault {
        match self.event() {
            Event::LinkDown { fault } => {
                assert_eq!(fault.cause, cause, "{}", fault.detail);
                fault
            }
            event => unreachable!("{event:?}"),
        }
    }

    fn stop(self) {
        self.order(Command::Stop);
        self.thread.join().unwrap();
    }
}

fn broker() -> Broker {
    Broker::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn records(first: u64, count: u64) -> Vec<StoredRecord> {
    (first..first + count)
        .map(|seq| StoredRecord {
            seq: Seq(seq),
            payload: format!("{{\"seq\":{seq},\"kind\":\"vote\",\"body\":{{\"value\":{seq}.5}}}}")
                .into_bytes()
                .into(),
        })
        .collect()
}

fn batch(number: u64, first: u64, count: u64) -> Command {
    Command::Publish {
        batch: BatchId(number),
        records: records(first, count),
        standing: Standing::default(),
    }
}

/// What the core does with the outbox, reduced to the least: send in order, resend after a cut, forget what is taken.
struct Outbox {
    waiting: BTreeSet<u64>,
    inflight: BTreeMap<BatchId, Vec<u64>>,
    next_batch: u64,
    since_up: u32,
    cut: bool,
}

impl Outbox {
    fn fill(&mut self, agent: &Agent, inflight_max: usize) {
        while self.inflight.len() < inflight_max {
            let seqs: Vec<u64> = self.waiting.iter().copied().take(10).collect();
            if seqs.is_empty() {
                return;
            }
            for seq in &seqs {
                self.waiting.remove(seq);
            }
            let id = BatchId(self.next_batch);
            self.next_batch += 1;
            agent.order(Command::Publish {
                batch: id,
                records: seqs.iter().flat_map(|seq| records(*seq, 1)).collect(),
                standing: Standing::default(),
            });
            self.inflight.insert(id, seqs);
        }
    }

    fn lost_the_link(&mut self) {
        for (_, seqs) in std::mem::take(&mut self.inflight) {
            self.waiting.extend(seqs);
        }
    }
}

fn enter(ledger: &mut Ledger, received: &Receiver<Received>) {
    for message in received.try_iter() {
        if message.topic == "plant/press-07/data" {
            ledger.enter(&message.payload).unwrap();
        }
    }
}

#[test]
fn nothing_taken_is_missing_after_many_cuts() {
    let broker = broker();
    let received = broker.received();
    let agent = start(options(broker.address()));
    let mut ledger = Ledger::default();
    let mut outbox = Outbox {
        waiting: (1..=1000).collect(),
        inflight: BTreeMap::new(),
        next_batch: 1,
        since_up: 0,
        cut: false,
    };
    let (mut taken, mut ups, mut downs, mut cuts) = (0, 0_u32, 0_u32, 0_u32);
    agent.order(Command::Connect { broker: 0 });
    while taken < 1000 {
        match agent.event() {
            Event::LinkUp { inflight_max, .. } => {
                ups += 1;
                (outbox.since_up, outbox.cut) = (0, false);
                outbox.fill(&agent, usize::from(inflight_max));
            }
            Event::LinkDown { fault } => {
                assert_eq!(fault.cause, "closed", "{}", fault.detail);
                downs += 1;
                outbox.lost_the_link();
                agent.order(Command::Connect { broker: 0 });
            }
            Event::Acked { batch, outcome } => {
                assert_eq!(outcome, AckOutcome::Taken);
                enter(&mut ledger, &received);
                let stream = ledger.stream("press-07", Epoch(3)).unwrap();
                for seq in outbox.inflight.remove(&batch).unwrap() {
                    assert!(stream.contains(Seq(seq)), "{seq} is taken but not there");
                    taken += 1;
                }
                outbox.since_up += 1;
                if outbox.since_up >= 5 && !outbox.cut && taken < 1000 {
                    outbox.cut = true;
                    cuts += 1;
                    broker.go_away().unwrap();
                    broker.come_back().unwrap();
                } else if !outbox.cut {
                    outbox.fill(&agent, 8);
                }
            }
            event => unreachable!("{event:?}"),
        }
    }
    enter(&mut ledger, &received);
    let stream = ledger.stream("press-07", Epoch(3)).unwrap();
    assert_eq!(stream.ranges(), [1..=1000]);
    assert_eq!(ledger.conflicts(), 0);
    assert!(cuts >= 7, "{cuts}");
    assert!(downs >= cuts - 1 && downs <= cuts, "{downs} of {cuts}");
    assert_eq!(ups, downs + 1);
    agent.stop();
}

#[test]
fn an_address_without_a_broker_is_refused() {
    let (listener, address) = listener();
    drop(listener);
    let agent = start(options(address));
    agent.order(Command::Connect { broker: 0 });
    agent.down("refused");
    agent.stop();
}

#[test]
fn a_server_that_says_nothing_is_a_timeout() {
    let (_listener, address) = listener();
    let agent = start(Options {
        connect_timeout_ms: 200,
        ..options(address)
    });
    agent.order(Command::Connect { broker: 0 });
    agent.down("timeout");
    agent.stop();
}

#[test]
fn garbage_in_place_of_connack_is_a_protocol_fault() {
    let too_long = [0x20, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F];
    for garbage in [&[b'H'; 200][..], &[0xFF; 64], &too_long] {
        let (listener, address) = listener();
        let agent = start(options(address));
        agent.order(Command::Connect { broker: 0 });
        let mut wire = Wire::new(listener.accept().unwrap().0);
        assert!(matches!(wire.read(), Some(Packet::Connect(..))));
        wire.write_bytes(garbage);
        agent.down("protocol");
        agent.stop();
    }
}

#[test]
fn a_broker_that_falls_silent_is_dropped_after_one_and_a_half_keep_alives() {
    let (listener, address) = listener();
    let agent = start(Options {
        keep_alive_s: 1,
        ..options(address)
    });
    agent.order(Command::Connect { broker: 0 });
    let _wire = Wire::accept(listener.accept().unwrap().0, None, None);
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    agent.down("timeout");
    agent.stop();
}

/// The identifiers of the next messages.
fn published(wire: &mut Wire, count: usize) -> Vec<u16> {
    let mut packets = Vec::new();
    while packets.len() < count {
        if let Some(Packet::Publish(publish)) = wire.read() {
            packets.push(publish.pkid);
        }
    }
    packets
}

#[test]
fn acknowledgements_out_of_order_and_refusals_reach_their_batch() {
    let (listener, address) = listener();
    let agent = start(options(address));
    agent.order(Command::Connect { broker: 0 });
    let mut wire = Wire::accept(listener.accept().unwrap().0, Some(4096), Some(5));
    assert_eq!(
        agent.event(),
        Event::LinkUp {
            packet_bytes_max: 4096,
            inflight_max: 5
        }
    );
    for number in 1..=3 {
        agent.order(batch(number, number * 10, 5));
    }
    let packets = published(&mut wire, 4);
    let reasons = [
        (3, PubAckReason::QuotaExceeded),
        (1, PubAckReason::NoMatchingSubscribers),
        (2, PubAckReason::Success),
    ];
    for (index, reason) in reasons {
        let mut ack = PubAck::new(packets[index], None);
        ack.reason = reason;
        wire.write(&Packet::PubAck(ack));
    }
    let expected = [
        (3, AckOutcome::Refused { reason: 0x97 }),
        (1, AckOutcome::NoSubscribers),
        (2, AckOutcome::Taken),
    ];
    for (number, outcome) in expected {
        let batch = BatchId(number);
        assert_eq!(agent.event(), Event::Acked { batch, outcome });
    }
    // A second acknowledgement of the same packet is an error of the broker, and is not taken for another batch.
    wire.write(&Packet::PubAck(PubAck::new(packets[2], None)));
    agent.down("protocol");
    agent.stop();
}

#[test]
fn acknowledgements_are_told_in_order_and_never_after_the_end() {
    let (listener, address) = listener();
    let agent = start(options(address));
    agent.order(Command::Connect { broker: 0 });
    let mut wire = Wire::accept(listener.accept().unwrap().0, None, None);
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    for number in 1..=6 {
        agent.order(batch(number, number, 1));
    }
    let packets = published(&mut wire, 7);
    for packet in packets {
        wire.write(&Packet::PubAck(PubAck::new(packet, None)));
    }
    drop(wire);
    let mut told = Vec::new();
    loop {
        match agent.event() {
            Event::Acked { batch, outcome } => {
                assert_eq!(outcome, AckOutcome::Taken);
                told.push(batch.0);
            }
            Event::LinkDown { fault } => {
                assert_eq!(fault.cause, "closed");
                break;
            }
            event => unreachable!("{event:?}"),
        }
    }
    assert!((1..=6).collect::<Vec<_>>().starts_with(&told), "{told:?}");
    agent.order(Command::Stop);
    agent.thread.join().unwrap();
    assert_eq!(agent.events.try_iter().count(), 0);
}

#[test]
fn what_the_broker_cannot_take_is_never_sent() {
    let (listener, address) = listener();
    let agent = start(Options {
        compression: Compression::None,
        ..options(address)
    });
    agent.order(Command::Connect { broker: 0 });
    // Too small for the second status and for ten records, which are left out.
    let mut wire = Wire::accept(listener.accept().unwrap().0, Some(300), None);
    assert!(matches!(
        agent.event(),
        Event::LinkUp {
            packet_bytes_max: 300,
            ..
        }
    ));
    agent.order(Command::Status("x".repeat(400)));
    agent.order(batch(1, 1, 10));
    let refused = |number| Event::Acked {
        batch: BatchId(number),
        outcome: AckOutcome::Refused { reason: 0x95 },
    };
    assert_eq!(agent.event(), refused(1));
    agent.order(batch(2, 1, 1));
    loop {
        if let Some(Packet::Publish(publish)) = wire.read() {
            let data = publish.topic.ends_with(b"/data");
            assert!(publish.size() <= 300);
            wire.write(&Packet::PubAck(PubAck::new(publish.pkid, None)));
            if data {
                break;
            }
        }
    }
    let (batch, outcome) = (BatchId(2), AckOutcome::Taken);
    assert_eq!(agent.event(), Event::Acked { batch, outcome });
    agent.stop();
}

fn next_status(received: &Receiver<Received>) -> (String, bool) {
    loop {
        let message = received.recv_timeout(PATIENCE).unwrap();
        if message.topic == "plant/press-07/status" {
            return (
                String::from_utf8(message.payload).unwrap(),
                message.retained,
            );
        }
    }
}

#[test]
fn the_status_tells_how_a_connection_ended() {
    let broker = broker();
    let received = broker.received();
    let agent = start(options(broker.address()));
    let (packet_bytes_max, inflight_max) = (65_536, 8);
    assert_eq!(
        agent.up(),
        Event::LinkUp {
            packet_bytes_max,
            inflight_max
        }
    );
    let (online, retained) = next_status(&received);
    assert!(retained);
    let online: serde_json::Value = serde_json::from_str(&online).unwrap();
    assert_eq!(online["state"], "online");
    assert_eq!(online["boot"], "07070707-0707-0707-0707-070707070707");
    agent.order(Command::Status(r#"{"state":"degraded"}"#.to_owned()));
    assert_eq!(
        next_status(&received),
        (r#"{"state":"degraded"}"#.to_owned(), true)
    );
    agent.order(Command::Disconnect { cause: "unproven" });
    assert_eq!(agent.down("requested").detail, "unproven");
    // Dropped without DISCONNECT: the last will.
    assert_eq!(
        next_status(&received),
        (r#"{"state":"offline"}"#.to_owned(), true)
    );
    agent.up();
    next_status(&received);
    agent.stop();
    assert_eq!(
        next_status(&received),
        (r#"{"state":"offline","reason":"stopped"}"#.to_owned(), true)
    );
    // Said DISCONNECT, so there is no will after the farewell.
    broker.stop();
    assert!(received.try_recv().is_err());
}

#[test]
fn a_silent_broker_does_not_hold_up_the_end() {
    let (listener, address) = listener();
    let agent = start(options(address));
    agent.order(Command::Connect { broker: 0 });
    let _wire = Wire::accept(listener.accept().unwrap().0, None, None);
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    agent.order(batch(1, 1, 100));
    agent.stop();
}

#[test]
fn a_new_connect_replaces_the_connection_and_old_messages_are_dropped() {
    let broker = broker();
    let agent = start(options(broker.address()));
    agent.order(batch(1, 1, 1));
    agent.up();
    agent.up();
    agent.order(batch(2, 1, 1));
    let (batch, outcome) = (BatchId(2), AckOutcome::Taken);
    assert_eq!(agent.event(), Event::Acked { batch, outcome });
    agent.stop();
}

#[test]
fn a_file_that_is_missing_is_named_without_its_content() {
    let (_listener, address) = listener();
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("absent");
    let agent = start(Options {
        username: Some("press".to_owned()),
        password_file: Some(missing.clone()),
        ..options(address)
    });
    agent.order(Command::Connect { broker: 0 });
    assert!(agent.down("input-output").detail.contains("password_file"));
    agent.stop();

    let key = directory.path().join("key");
    std::fs::write(&key, "the secret").unwrap();
    let mut tls = options(address);
    tls.url.tls = true;
    tls.ca_file = Some(key);
    let agent = start(tls);
    agent.order(Command::Connect { broker: 0 });
    assert!(!agent.down("tls").detail.contains("secret"));
    agent.stop();
}
