#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::time::Duration;

use super::*;
use crate::http::fetch::tests::{answer, serve};

struct Bench {
    _root: tempfile::TempDir,
    settings: Settings,
    slots: Slots,
}

/// The thread and what it tells; dropped, the thread ends.
struct Running {
    orders: Sender<Order>,
    events: Receiver<Event>,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let text = format!(
            "[device]\nid = \"d\"\n[[sensors]]\nid = \"s\"\nsource = {{ kind = \"replay\" }}\n[[quantities]]\nid = \"q\"\n\
             sensors = [\"s\"]\n[[models]]\nid = \"m\"\nbundle = \"b\"\ninputs = [\"q\"]\n[outbox]\npath = \"{}\"\n",
            root.path().join("outbox").display()
        );
        let settings = Settings::parse("q.toml", &text, std::iter::empty()).unwrap();
        let slots = Slots::beside(&settings.outbox.as_ref().unwrap().path);
        Self {
            _root: root,
            settings,
            slots,
        }
    }

    fn start(&self) -> Running {
        let (sender, events) = crossbeam_channel::bounded(64);
        let orders = spawn(self.settings.clone(), self.slots.clone(), &sender).unwrap();
        Running { orders, events }
    }

    fn is_clear(&self) -> bool {
        fs::read_dir(self.slots.incoming())
            .unwrap()
            .next()
            .is_none()
    }
}

impl Running {
    fn event(&self) -> Event {
        self.events.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    fn give(&self, file: &[u8], from: usize, to: usize) -> Outcome {
        let piece = (u64::try_from(from).unwrap(), file[from..to].to_vec());
        self.order(file, None, Some(piece))
    }

    fn order(&self, file: &[u8], url: Option<String>, piece: Option<(u64, Vec<u8>)>) -> Outcome {
        let parcel = Parcel {
            model: None,
            sha256: Digest::of(file).to_string(),
            bytes: u64::try_from(file.len()).unwrap(),
            url,
            piece,
            allow_downgrade: false,
        };
        let order = Order {
            id: CommandId(7),
            model: "m".into(),
            parcel,
        };
        self.orders.send(order).unwrap();
        match self.event() {
            Event::Command(CommandEvent::Done { outcome, .. }) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn told(&self) -> (&'static str, &'static str) {
        match self.event() {
            Event::Model(ModelEvent::Changed(change)) => (change.what, change.cause),
            other => panic!("{other:?}"),
        }
    }
}

fn received(outcome: Outcome) -> u64 {
    let answer: serde_json::Value = serde_json::from_str(&outcome.unwrap()).unwrap();
    answer["received"].as_u64().unwrap()
}

#[test]
fn pieces_go_on_after_a_restart_and_the_whole_is_judged() {
    let bench = Bench::new();
    let file = b"a file that is no package";
    let first = bench.start();
    assert_eq!(first.give(file, 5, 9), Err("not-begun"));
    assert_eq!(received(first.give(file, 0, 9)), 9);
    assert_eq!(received(first.give(file, 0, 9)), 9, "again is no harm");
    assert_eq!(received(first.give(file, 12, 20)), 9, "a gap is not filled");
    assert_eq!(first.give(b"another one", 3, 5), Err("busy"));
    drop(first);
    let second = bench.start();
    assert_eq!(received(second.give(file, 9, 20)), 20);
    assert_eq!(received(second.give(file, 20, file.len())), 25);
    assert_eq!(second.told(), ("model-refused", "not-a-package"));
    // The thread clears before it takes the next order.
    assert_eq!(second.give(file, 9, 20), Err("not-begun"));
    assert!(bench.is_clear());
}

/// The answer to the last piece goes out before the file is judged, which takes seconds.
#[test]
fn a_file_that_was_whole_when_the_agent_ended_is_judged_at_the_next_start() {
    let bench = Bench::new();
    let file = b"a file that is no package";
    let first = bench.start();
    assert_eq!(received(first.give(file, 0, 9)), 9);
    drop(first);
    let part = bench.slots.incoming().join(PART);
    fs::write(part, file).unwrap();
    let second = bench.start();
    assert_eq!(second.told(), ("model-refused", "not-a-package"));
    assert_eq!(second.give(file, 9, 20), Err("not-begun"));
    assert!(bench.is_clear());
}

#[test]
fn the_first_piece_of_another_file_takes_the_place_of_one() {
    let bench = Bench::new();
    let running = bench.start();
    assert_eq!(received(running.give(b"one file", 0, 4)), 4);
    assert_eq!(received(running.give(b"another file", 0, 7)), 7);
    assert_eq!(running.give(b"one file", 4, 8), Err("busy"));
}

#[test]
fn what_has_another_digest_is_not_even_opened() {
    let bench = Bench::new();
    let running = bench.start();
    assert_eq!(received(running.give(b"0123456789", 0, 4)), 4);
    let other = (4, b"456788".to_vec());
    assert_eq!(
        received(running.order(b"0123456789", None, Some(other))),
        10
    );
    assert_eq!(running.told(), ("model-refused", "wrong-digest"));
}

#[test]
fn a_transfer_that_was_cut_goes_on() {
    let bench = Bench::new();
    let (base, server) = serve(vec![
        answer("200 OK", 10, b"0123"),
        answer(
            "206 Partial Content\r\nContent-Range: bytes 4-9/10",
            6,
            b"456789",
        ),
        answer("404 Not Found", 0, b""),
    ]);
    let running = bench.start();
    let url = format!("{base}/model");
    received(running.order(b"0123456789", Some(url.clone()), None));
    assert_eq!(running.told(), ("model-refused", "not-a-package"));
    received(running.order(b"another file", Some(url), None));
    assert_eq!(running.told(), ("model-refused", "transfer"));
    let requests = server.join().unwrap();
    assert!(
        requests[1].contains("range: bytes=4-\r\n"),
        "{}",
        requests[1]
    );
}
