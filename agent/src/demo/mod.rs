//! The demo: the real agent on a recorded machine, with an embedded model and an embedded broker that goes away.
//!
//! Owns: the recorded trace, the broker's outage, and the check of what arrived. Must not: take a short cut through the
//! agent; store, link, model and endpoint are the ones that a device runs.

mod account;
mod feed;

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crossbeam_channel::{RecvTimeoutError, Sender};
use quorate_core::{
    event::{Event, Worker},
    units::{Mono, Seq},
};
use quorate_firmware_bridge::trace::Trace;
use quorate_models::Bundle;

use self::{account::Account, feed::Feed};
use crate::{
    assembly::{self, Parts},
    clock::Clock,
    command::Keyring,
    commands, http, inference,
    mqtt::{
        broker::{Broker, Received},
        ledger::Ledger,
    },
    outcome::Outcome,
    settings::Settings,
    store, threads,
};

const TRACE: &str = include_str!("../../demo/press.csv");
const MANIFEST: &str = include_str!("../../../models/store/bearing-anomaly-v1/manifest.toml");
const MODEL: &[u8] = include_bytes!("../../../models/store/bearing-anomaly-v1/model.onnx");
const GOLDEN: &str = include_str!("../../../models/store/bearing-anomaly-v1/golden.json");

/// Name of the device.
const DEVICE: &str = "press-07";
/// The broker is away between these times of the trace, in milliseconds.
const OUTAGE_MS: (u64, u64) = (150_000, 290_000);
/// The trace's length in milliseconds.
const LENGTH_MS: u64 = 480_000;
/// How often the account looks at the agent, in real time.
const LOOK: Duration = Duration::from_millis(100);
/// At the end the backlog has this long to drain, in real time.
const DRAIN_LOOKS_MAX: u32 = 300;

/// The backlog counts as drained at this many records: about what is made between two messages.
const DRAINED_RECORDS_MAX: u64 = 20;

/// What the user chose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Stay up after the summary.
    pub keep: bool,
    /// Times faster than real time.
    pub speed: u32,
    /// Address of the page.
    pub listen: SocketAddr,
}

/// Runs the demo and verifies what the broker received.
///
/// # Errors
/// A part does not start, or a record is lost.
pub fn run(options: &Options, output: &mut impl Write) -> Result<(), Outcome> {
    let directory = Scratch::new()?;
    let broker =
        Broker::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(Outcome::failed)?;
    let clock = Clock::faster(options.speed);
    let (parts, store) = parts(options, &broker, &directory.0, clock)?;
    let keep = options.keep;
    let feed = move |events: &Sender<Event>| -> Result<Box<dyn crate::shell::Poll>, Outcome> {
        let trace = Trace::from_reader("press.csv", TRACE.as_bytes()).map_err(Outcome::failed)?;
        Ok(Box::new(
            Feed::new(trace, keep, events.clone()).map_err(Outcome::failed)?,
        ))
    };
    let origin = clock.now();
    let (shell, events, listening) = assembly::assemble(parts, feed)?;
    let watcher = shell.picture.watch();
    let agent = threads::spawn("agent", Worker::Sensing, &events, move || {
        shell.run();
    })
    .map_err(Outcome::failed)?;
    let mut show = Show {
        clock,
        origin,
        account: Account::default(),
        ledger: Ledger::default(),
        unreadable: 0,
        watcher,
        broker,
        output,
    };
    show.introduce(options, listening)
        .map_err(Outcome::failed)?;
    show.play().map_err(Outcome::failed)?;
    show.drain().map_err(Outcome::failed)?;
    if options.keep {
        show.stay(listening).map_err(Outcome::failed)?;
    }
    let _ = events.send(Event::Stop);
    let _ = agent.join();
    show.take_received();
    let verdict = show.summarise(&store).map_err(Outcome::failed)?;
    show.broker.stop();
    verdict
}

/// The agent's configuration, as a user would write it, and the embedded model.
fn parts(
    options: &Options,
    broker: &Broker,
    directory: &Path,
    clock: Clock,
) -> Result<(Parts, store::Options), Outcome> {
    let bundle = Bundle::from_parts(MANIFEST, MODEL, GOLDEN).map_err(Outcome::failed)?;
    let loaded = inference::load_bundle(&bundle).map_err(Outcome::failed)?;
    let text = configuration(broker.address(), options.listen, &directory.join("outbox"));
    let settings = Settings::parse("demo", &text, std::iter::empty()).map_err(Outcome::refused)?;
    let config = settings
        .core_config(&[loaded.facts])
        .map_err(Outcome::refused)?;
    let store = commands::store_options(&settings)?;
    let mqtt = commands::mqtt_options(&settings);
    let parts = Parts {
        config,
        runners: vec![loaded.runner],
        guards: Vec::new(),
        keeper: None,
        news: Vec::new(),
        store: store.clone(),
        mqtt,
        live: None,
        listen: options.listen,
        clock,
        keyring: Keyring::default(),
        configuration: settings.shown.clone(),
        logging: None,
    };
    Ok((parts, store))
}

fn configuration(broker: SocketAddr, listen: SocketAddr, outbox: &Path) -> String {
    let quantities = [
        (
            "bearing-temperature",
            "celsius",
            "bearing",
            "[-40.0, 125.0]",
            "0.5",
        ),
        ("vibration-rms", "mm/s", "vibration", "[0.0, 50.0]", "0.15"),
        ("motor-current", "A", "current", "[0.0, 50.0]", "0.3"),
    ];
    let mut text = format!(
        "[device]\nid = \"{DEVICE}\"\n\n[outbox]\npath = {outbox:?}\n\n[http]\nlisten = \"{listen}\"\n\n[mqtt]\nurl = \
         \"mqtt://{broker}\"\nfirst_retry_ms_max = 2000\nbackoff_ms_max = 10000\n"
    );
    for (id, unit, sensor, range, accuracy) in quantities {
        for channel in ["a", "b", "c"] {
            text += &format!(
                "\n[[sensors]]\nid = \"{sensor}-{channel}\"\nsource = {{ kind = \"replay\" }}\nrange = {range}\n"
            );
        }
        text += &format!(
            "\n[[quantities]]\nid = \"{id}\"\nunit = \"{unit}\"\naccuracy = \"{accuracy}\"\nsensors = [\"{sensor}-a\", \
             \"{sensor}-b\", \"{sensor}-c\"]\n"
        );
    }
    text += "\n[[models]]\nid = \"bearing-anomaly\"\nbundle = \"embedded\"\ninputs = [\"bearing-temperature\", \
             \"vibration-rms\", \"motor-current\"]\n";
    text
}

/// A directory that goes when the demo ends.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Outcome> {
        let path = std::env::temp_dir().join(format!("quorate-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .map_err(|error| Outcome::failed(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing of value is in it; what cannot be removed now goes with the temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Show<'a, W: Write> {
    clock: Clock,
    origin: Mono,
    account: Account,
    ledger: Ledger,
    unreadable: u64,
    watcher: http::Watcher,
    broker: Broker,
    output: &'a mut W,
}

impl<W: Write> Show<'_, W> {
    fn introduce(&mut self, options: &Options, listening: SocketAddr) -> io::Result<()> {
        writeln!(
            self.output,
            "Quorate demo: nine sensors of a press, three for each of three quantities, one model, one broker.\n\
             The recorded machine runs {} times as fast as real time; {} s of it take {} s.\n\
             The page: http://{listening}/\n",
            options.speed,
            LENGTH_MS / 1_000,
            LENGTH_MS / 1_000 / u64::from(options.speed),
        )?;
        self.output.flush()
    }

    fn elapsed_ms(&self) -> u64 {
        self.clock.now().since_ms(self.origin)
    }

    fn play(&mut self) -> io::Result<()> {
        let mut gone = false;
        let mut back = false;
        while self.elapsed_ms() < LENGTH_MS {
            self.look()?;
            if !gone && self.elapsed_ms() >= OUTAGE_MS.0 {
                gone = true;
                writeln!(
                    self.output,
                    "[{:4} s] {:<20} goes away, without a word",
                    OUTAGE_MS.0 / 1_000,
                    "broker"
                )?;
                self.broker.go_away()?;
            }
            if !back && self.elapsed_ms() >= OUTAGE_MS.1 {
                back = true;
                writeln!(
                    self.output,
                    "[{:4} s] {:<20} is back",
                    OUTAGE_MS.1 / 1_000,
                    "broker"
                )?;
                self.broker.come_back()?;
            }
        }
        Ok(())
    }

    /// Takes what the broker received, for the length of one look, and tells what changed at the agent.
    fn look(&mut self) -> io::Result<()> {
        match self.broker.received().recv_timeout(LOOK) {
            Ok(received) => self.enter(&received),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        self.take_received();
        if let Some(snapshot) = self.watcher.latest() {
            self.account
                .tell(self.origin, &snapshot.shown.health, self.output)?;
        }
        Ok(())
    }

    fn take_received(&mut self) {
        let received = self.broker.received();
        while let Ok(message) = received.try_recv() {
            self.enter(&message);
        }
    }

    /// Notes a message of records; what cannot be read is counted and fails the summary.
    fn enter(&mut self, message: &Received) {
        if message.topic.ends_with("/data") && self.ledger.enter(&message.payload).is_err() {
            self.unreadable += 1;
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        for _ in 0..DRAIN_LOOKS_MAX {
            self.look()?;
            // The agent goes on making records; what the outage left behind is what is waited for.
            let drained = |snapshot: &http::Snapshot| {
                snapshot.shown.health.store.report.pending <= DRAINED_RECORDS_MAX
            };
            if self
                .watcher
                .latest()
                .is_some_and(|snapshot| drained(&snapshot))
            {
                break;
            }
        }
        Ok(())
    }

    fn stay(&mut self, listening: SocketAddr) -> io::Result<()> {
        writeln!(
            self.output,
            "\nstaying up: http://{listening}/ (Ctrl-C ends it; the recorded machine goes round)"
        )?;
        let ended = commands::ended();
        while ended.is_empty() {
            self.look()?;
        }
        Ok(())
    }

    /// Compares what the agent committed with what the broker received and what is still in the store.
    fn summarise(&mut self, store: &store::Options) -> io::Result<Result<(), Outcome>> {
        let opened = match store::open(store) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(Outcome::failed(error))),
        };
        let through = Seq(opened.seq_next.0.saturating_sub(1));
        let waiting = opened
            .outbox
            .load(Seq(0), through, u32::MAX, u32::MAX)
            .unwrap_or_default();
        let waiting: std::collections::BTreeSet<u64> =
            waiting.iter().map(|record| record.seq.0).collect();
        let stream = self.ledger.stream(DEVICE, opened.epoch);
        let arrived = |seq: u64| stream.is_some_and(|stream| stream.contains(Seq(seq)));
        let lost = (1..opened.seq_next.0)
            .filter(|seq| !arrived(*seq) && !waiting.contains(seq))
            .count();
        writeln!(
            self.output,
            "\nSummary, verified from what the broker received:"
        )?;
        writeln!(
            self.output,
            "  records committed {}, received {}, still in the store {}, repeats dropped {}, lost {}",
            opened.seq_next.0.saturating_sub(1),
            self.ledger.records(),
            waiting.len(),
            self.ledger.repeats(),
            lost
        )?;
        writeln!(
            self.output,
            "  largest backlog during the outage: {} records",
            self.account.backlog_max()
        )?;
        let voted_out: Vec<_> = self
            .account
            .voted_out
            .iter()
            .map(|(sensor, reason)| format!("{sensor} ({reason})"))
            .collect();
        writeln!(self.output, "  voted out: {}", voted_out.join(", "))?;
        let alarmed: Vec<_> = self.account.alarmed.iter().cloned().collect();
        writeln!(
            self.output,
            "  alarms: {}",
            if alarmed.is_empty() {
                "none".into()
            } else {
                alarmed.join(", ")
            }
        )?;
        let (conflicts, unreadable) = (self.ledger.conflicts(), self.unreadable);
        if lost > 0 || conflicts > 0 || unreadable > 0 {
            return Ok(Err(Outcome::failed(format!(
                "{lost} records lost, {conflicts} sequence numbers with two payloads, {unreadable} messages unreadable"
            ))));
        }
        Ok(Ok(()))
    }
}
