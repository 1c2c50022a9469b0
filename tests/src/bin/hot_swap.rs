//! Exchanges a model's file again and again while it answers every tick, and says what that cost: one JSON line.
//!
//! `hot_swap FOLDER SWAPS PERIOD_MS`: FOLDER is made anew. The core, the inference threads, the slots and the keeper are those
//! of the agent; samples come at once, and records are taken at once, so that nothing else is measured. A pause is the time
//! from the last answer of one file to the first of the next, less the period.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crossbeam_channel::{Receiver, Sender};
use quorate::{
    clock::{Clock, Stopwatch},
    inference::{self, Seat},
    model::{
        boot::{self, Mode},
        keeper,
        slots::{Held, Slots, SlotsError},
        trial::Measured,
        trial_child,
        trust::{Trust, read_package},
    },
    model_command::{
        self,
        arguments::{ModelCommand, Signer},
    },
    settings::Settings,
};
use quorate_core::{
    agent::Agent,
    command::{CommandId, ModelDeed},
    config::Recovered,
    event::{Action, Event},
    model::{Lane, ModelEvent},
    record::{Body, Record},
    units::{BootId, Epoch, ModelId, Mono, Seq},
};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const SHIPPED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../models/store/bearing-anomaly-v1"
);
/// Between two exchanges the new file answers at least so often.
const ANSWERS: u64 = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        // Packing tries a model in a process of this program.
        ["model-trial", memory, cpu] => tried(memory, cpu),
        [folder, swaps, period_ms] => run(Path::new(folder), swaps, period_ms),
        _ => Err("expected FOLDER SWAPS PERIOD_MS".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell where this fails.
            let _ = writeln!(io::stderr(), "hot_swap: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tried(memory: &str, cpu: &str) -> Result<(), Failure> {
    let (memory, cpu) = (memory.parse()?, cpu.parse()?);
    trial_child::run(memory, cpu, &mut io::stdout()).map_err(|error| error.to_string().into())
}

/// The bundle that ships, with every input of one quantity and this period.
fn bundle(folder: &Path, release: u64, period_ms: u64) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    for name in ["manifest.toml", "model.onnx", "golden.json"] {
        fs::copy(Path::new(SHIPPED).join(name), folder.join(name))?;
    }
    let text = fs::read_to_string(folder.join("manifest.toml"))?
        .replace("unit = \"mm/s\"", "unit = \"celsius\"")
        .replace("unit = \"A\"", "unit = \"celsius\"")
        .replace("period_ms = 1000", &format!("period_ms = {period_ms}"))
        .replace("release = 1\n", &format!("release = {release}\n"))
        .replace("version = \"1\"", &format!("version = \"{release}\""));
    fs::write(folder.join("manifest.toml"), text)?;
    Ok(())
}

/// The settings, and two packages for them.
fn prepare(folder: &Path, period_ms: u64) -> Result<(Settings, [PathBuf; 2]), Failure> {
    let _ = fs::remove_dir_all(folder);
    bundle(&folder.join("configured"), 1, period_ms)?;
    let key = folder.join("key.pem");
    let command = |command: ModelCommand| -> Result<String, Failure> {
        let mut output = Vec::new();
        model_command::run(&command, &mut output).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(output)?)
    };
    let public = command(ModelCommand::Keygen {
        output: key.clone(),
        key_id: "k".into(),
    })?;
    let files = [2, 3].map(|release| folder.join(format!("{release}.qmodel")));
    for (release, file) in (2..).zip(&files) {
        let source = folder.join(format!("folder-{release}"));
        bundle(&source, release, period_ms)?;
        command(ModelCommand::Pack {
            folder: source,
            signer: Signer {
                key: key.clone(),
                key_id: "k".into(),
                output: file.clone(),
            },
        })?;
    }
    let text = format!(
        "[device]\nid = \"d\"\n[[sensors]]\nid = \"s\"\nsource = {{ kind = \"replay\" }}\n[[quantities]]\nid = \"q\"\n\
         unit = \"celsius\"\nsensors = [\"s\"]\nperiod_ms = {period_ms}\n[[models]]\nid = \"bearing-anomaly\"\n\
         bundle = \"{0}/configured\"\ninputs = [\"q\", \"q\", \"q\"]\n{public}[outbox]\npath = \"{0}/outbox\"\n",
        folder.display()
    );
    let settings = Settings::parse("hot_swap", &text, std::iter::empty())?;
    Ok((settings, files))
}

/// Lets one file after the other wait, and asks for it as soon as the one before has answered for a while.
fn operate(
    settings: &Settings,
    slots: &Slots,
    files: &[PathBuf; 2],
    orders: &Sender<keeper::Order>,
    (swaps, answered): (usize, &Receiver<()>),
) -> Result<(), Failure> {
    let trust = Trust::Keys(settings.model_keys.clone());
    let measured = Measured {
        load_ms: 0,
        p99_us: 0,
        memory_bytes: None,
        inferences: 0,
    };
    for swap in 0..swaps {
        let file = &files[swap % 2];
        let bytes = read_package(file)?;
        let package = trust.open_package(file, &bytes)?;
        let held = Held {
            digest: package.digest().to_string(),
            release: package.release(),
            version: package.bundle().manifest().version.clone(),
        };
        slots.stage("bearing-anomaly", (held, &bytes), true, || {
            Ok::<_, SlotsError>(measured)
        })?;
        let deed = ModelDeed::Promote {
            model: None,
            force: false,
        };
        orders.send(keeper::Order::Command(CommandId(0), deed))?;
        answered.recv()?;
    }
    Ok(())
}

/// What was seen of the answers that count.
#[derive(Default)]
struct Seen {
    version: String,
    tick: Option<Mono>,
    at_us: u64,
    answers: u64,
    swaps: usize,
    missed_at_swaps: u64,
    missed_else: u64,
    pauses_us: Vec<u64>,
    gaps_us: Vec<u64>,
}

impl Seen {
    /// Notes an answer; true with the one that ends the wait for the next exchange.
    fn note(&mut self, record: &Record, now_us: u64, period_ms: u64) -> bool {
        let Body::Inference(inference) = &record.body else {
            return false;
        };
        let new = self.version != inference.maker.version;
        if let Some(before) = self.tick {
            let missed = (inference.tick.since_ms(before) / period_ms).saturating_sub(1);
            let pause = (now_us - self.at_us).saturating_sub(period_ms * 1_000);
            if new {
                self.missed_at_swaps += missed;
                self.pauses_us.push(pause);
            } else {
                self.missed_else += missed;
                self.gaps_us.push(pause);
            }
        }
        (self.tick, self.at_us) = (Some(inference.tick), now_us);
        if new {
            self.swaps += usize::from(!self.version.is_empty());
            self.version.clone_from(&inference.maker.version);
            self.answers = 0;
        }
        self.answers += 1;
        self.answers == ANSWERS
    }
}

fn rank(sorted: &[u64], percent: usize) -> u64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0)
}

/// The loop of the agent, without its store, link and endpoint.
struct Machine {
    agent: Agent,
    desk: inference::Desk,
    clock: Clock,
    watch: Stopwatch,
    period_ms: u64,
    seen: Seen,
    own: VecDeque<Event>,
    answered: Sender<()>,
}

impl Machine {
    fn handle(&mut self, event: Event, actions: &mut Vec<Action>) -> Result<(), Failure> {
        if matches!(event, Event::Model(ModelEvent::Assigned { .. })) {
            self.desk.follow();
        }
        self.agent.handle(self.clock.now(), event, actions);
        for action in actions.drain(..) {
            match action {
                Action::Poll { sensor, .. } => self.own.push_back(Event::Sample {
                    sensor,
                    taken: self.clock.now(),
                    value: Ok(35.0),
                }),
                Action::Infer {
                    model,
                    lane,
                    tick,
                    window,
                } => self.ask((model, lane), tick, window)?,
                Action::Store { record } => self.store(&record)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn ask(&self, place: inference::Place, tick: Mono, window: Vec<f32>) -> Result<(), Failure> {
        let asked = self.desk.ask(place, tick, window);
        asked
            .then_some(())
            .ok_or_else(|| "an inference thread takes no more".into())
    }

    fn store(&mut self, record: &Record) -> Result<(), Failure> {
        let now_us = self.watch.elapsed_us();
        if self.seen.note(record, now_us, self.period_ms) && self.seen.swaps > 0 {
            self.answered.send(())?;
        }
        self.own.push_back(Event::Stored {
            first: record.seq,
            last: record.seq,
        });
        Ok(())
    }
}

/// The core and its inference as a start makes them, and the keeper beside.
fn machine(
    settings: &Settings,
    slots: &Slots,
    period_ms: u64,
    answered: Sender<()>,
) -> Result<(Machine, Receiver<Event>, Sender<keeper::Order>), Failure> {
    let models = boot::load(settings, Mode::Run).map_err(|error| error.to_string())?;
    let (events, received) = crossbeam_channel::bounded(8_192);
    let runner = models.runners.into_iter().next().ok_or("no model")?;
    let seat = Seat {
        runner,
        guard: None,
    };
    let place = (ModelId(0), Lane::First);
    let jobs = inference::spawn("inference", BTreeMap::from([(place, seat)]), &events)?;
    let (desk, changes) = inference::Desk::new(1, &jobs);
    let options = keeper::Options {
        settings: settings.clone(),
        slots: slots.clone(),
        held: models.held,
        told: models.changes,
    };
    let ends = keeper::Ends {
        jobs,
        changes,
        events,
    };
    let (orders, _) = keeper::spawn(options, &models.config.models, ends)?;
    let clock = Clock::real();
    let recovered = Recovered {
        epoch: Epoch(1),
        seq_next: Seq(1),
        boot: BootId::default(),
        seed: 1,
    };
    let machine = Machine {
        agent: Agent::recover(models.config, recovered, clock.now()),
        desk,
        clock,
        watch: Stopwatch::start(),
        period_ms,
        seen: Seen::default(),
        own: VecDeque::new(),
        answered,
    };
    Ok((machine, received, orders))
}

fn run(folder: &Path, swaps: &str, period_ms: &str) -> Result<(), Failure> {
    let (swaps, period_ms): (usize, u64) = (swaps.parse()?, period_ms.parse()?);
    let (settings, files) = prepare(folder, period_ms)?;
    let slots = Slots::beside(&folder.join("outbox"));
    // Never full: the next exchange comes after the answers to the one before.
    let (answered, heard) = crossbeam_channel::bounded(2);
    let (mut machine, received, orders) = machine(&settings, &slots, period_ms, answered)?;
    let operator = std::thread::spawn(move || {
        operate(&settings, &slots, &files, &orders, (swaps, &heard))
            .map_err(|error| error.to_string())
    });
    let mut actions = Vec::new();
    while !operator.is_finished() {
        let wait = machine.clock.until(machine.agent.next_deadline());
        let event = match machine.own.pop_front() {
            Some(event) => event,
            None => received.recv_timeout(wait).unwrap_or(Event::Tick),
        };
        machine.handle(event, &mut actions)?;
    }
    operator.join().map_err(|_| "the operator died")??;
    let now = machine.clock.now();
    let counters = machine.agent.health(now).counters;
    report(
        machine.seen,
        counters.ticks_missed,
        counters.inferences_skipped,
    )
}

fn report(mut seen: Seen, ticks_missed: u64, skipped: u64) -> Result<(), Failure> {
    seen.pauses_us.sort_unstable();
    seen.gaps_us.sort_unstable();
    let line = json!({
        "bench": "hot_swap", "swaps": seen.swaps, "answers": seen.gaps_us.len() + seen.pauses_us.len(),
        "ticks_missed": ticks_missed, "windows_missed_at_swaps": seen.missed_at_swaps,
        "windows_missed_else": seen.missed_else, "skipped_while_busy": skipped,
        "pause_us": {"p50": rank(&seen.pauses_us, 50), "p99": rank(&seen.pauses_us, 99), "max": rank(&seen.pauses_us, 100)},
        "without_swap_us": {"p50": rank(&seen.gaps_us, 50), "p99": rank(&seen.gaps_us, 99), "max": rank(&seen.gaps_us, 100)},
    });
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}
