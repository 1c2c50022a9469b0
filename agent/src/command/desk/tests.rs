//! The desk with its thread, and a core that is a channel.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use quorate_core::command::Deed;

use super::*;
use crate::command::{Envelope, Key, PrivateKey, sign};

const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    directory: tempfile::TempDir,
    key: PrivateKey,
    desk: Desk,
    events: Receiver<Event>,
}

fn options(directory: &tempfile::TempDir, key: &PrivateKey) -> Options {
    Options {
        device: "press-07".into(),
        topic: "plant/press-07".into(),
        keyring: Keyring {
            keys: vec![Key {
                id: "ops-1".into(),
                public_key: key.public(),
                allow: vec!["ping".into(), "replay".into()],
            }],
            allow_unsigned: vec!["ping".into()],
        },
        state: directory.path().join("state"),
    }
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate().unwrap();
        let (events, received) = crossbeam_channel::bounded(64);
        let desk = spawn(options(&directory, &key), Clock::real(), &events).unwrap();
        Self {
            directory,
            key,
            desk,
            events: received,
        }
    }

    /// The same device after the agent was killed: nothing more is written.
    fn again(self) -> Self {
        let Self {
            directory,
            key,
            desk,
            events: old,
        } = self;
        drop((desk.incoming, desk.settled, old));
        desk.thread.join().unwrap();
        let (events, received) = crossbeam_channel::bounded(64);
        let desk = spawn(options(&directory, &key), Clock::real(), &events).unwrap();
        Self {
            directory,
            key,
            desk,
            events: received,
        }
    }

    fn send(&self, payload: String, reply: Option<&str>) -> CommandEvent {
        let incoming = Incoming {
            topic: "plant/press-07/cmd/ping".into(),
            payload: payload.into_bytes(),
            retained: false,
            reply: reply.map(|topic| ReplyTo {
                topic: topic.into(),
                correlation: None,
            }),
        };
        self.desk.incoming.send(incoming).unwrap();
        self.told()
    }

    fn told(&self) -> CommandEvent {
        match self.events.recv_timeout(PATIENCE).unwrap() {
            Event::Command(event) => event,
            other => unreachable!("{other:?}"),
        }
    }

    fn signed(&self, counter: u64) -> String {
        let envelope = Envelope {
            key: "ops-1".into(),
            counter,
            device: "press-07".into(),
            command: "ping".into(),
            arguments: serde_json::Map::new(),
            expires: None,
        };
        sign(&envelope, &self.key)
    }
}

fn reason(event: &CommandEvent) -> Option<Refused> {
    match event {
        CommandEvent::Refused { reason, .. } => Some(*reason),
        _ => None,
    }
}

#[test]
fn a_repeated_counter_is_refused_after_a_restart_too() {
    let bench = Bench::new();
    let given = bench.send(bench.signed(17), Some("ops/answers"));
    let CommandEvent::Given(request) = given else {
        unreachable!("{given:?}");
    };
    assert_eq!(request.deed, Deed::Ping);
    assert_eq!(
        (request.key.as_deref(), request.counter),
        (Some("ops-1"), 17)
    );
    assert_eq!(request.reply.unwrap().topic, "ops/answers");
    bench.desk.settled.send(("ops-1".into(), 17)).unwrap();
    assert_eq!(
        reason(&bench.send(bench.signed(17), None)),
        Some(Refused::Repeated)
    );
    assert_eq!(
        reason(&bench.send(bench.signed(16), None)),
        Some(Refused::Repeated)
    );
    let bench = bench.again();
    assert_eq!(
        reason(&bench.send(bench.signed(17), None)),
        Some(Refused::Repeated)
    );
    assert!(matches!(
        bench.send(bench.signed(18), None),
        CommandEvent::Given(_)
    ));
}

#[test]
fn a_command_without_an_outcome_is_told_as_interrupted_once() {
    let bench = Bench::new();
    assert!(matches!(
        bench.send(bench.signed(1), None),
        CommandEvent::Given(_)
    ));
    let bench = bench.again();
    let told = bench.told();
    assert!(
        matches!(&told, CommandEvent::Interrupted { command, detail }
            if command == "ping" && detail.contains("\"counter\":1")),
        "{told:?}"
    );
    assert!(matches!(
        bench.send(bench.signed(2), None),
        CommandEvent::Given(_)
    ));
    bench.desk.settled.send(("ops-1".into(), 2)).unwrap();
    let bench = bench.again();
    assert_eq!(
        reason(&bench.send("{".into(), None)),
        Some(Refused::Malformed)
    );
}

#[test]
fn without_its_counters_it_refuses_what_is_signed() {
    let bench = Bench::new();
    assert!(matches!(
        bench.send(bench.signed(1), None),
        CommandEvent::Given(_)
    ));
    let state = bench.directory.path().join("state");
    for name in ["command-counters", "command-counters.copy"] {
        std::fs::write(state.join(name), b"rot").unwrap();
    }
    let bench = bench.again();
    assert_eq!(
        reason(&bench.send(bench.signed(2), None)),
        Some(Refused::NotStored)
    );
    assert!(matches!(
        bench.send(String::new(), None),
        CommandEvent::Given(_)
    ));
}

#[test]
fn answers_go_nowhere_that_the_agent_speaks() {
    let check = |topic: &str, expected: bool| {
        let to = ReplyTo {
            topic: topic.into(),
            correlation: None,
        };
        assert_eq!(may_reply("plant/press-07", &to), expected, "{topic}");
    };
    check("ops/answers", true);
    check("plant/press-07/reply", true);
    check("plant/press-07/reply/3", true);
    check("plant/press-070/x", true);
    check("plant/press-07/data", false);
    check("plant/press-07/status", false);
    check("plant/press-07/cmd/ping", false);
    check("plant/press-07", false);
    check("$SYS/x", false);
    check("a/+/b", false);
    check("", false);
    check(&"x".repeat(513), false);
}
