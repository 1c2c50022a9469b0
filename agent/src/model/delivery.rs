//! Delivery: a model file that is fetched from a web server, or comes in pieces over MQTT, until it can be staged.
//!
//! Owns: `<outbox>.models/incoming`, one file at a time, and what is told of it. Must not: believe what came; the digest of
//! the command, the signature and the self-test decide.
//!
//! Invariants: what came is kept over a restart and goes on where it stopped; nothing grows beyond the length that the
//! command gave; while one file is on its way, another one is refused or takes its place, never both.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use quorate_core::{
    command::{CommandEvent, CommandId, Outcome, Parcel},
    event::{Event, ModelChange, Worker},
    model::ModelEvent,
    units::ModelId,
};
use quorate_models::Digest;
use serde::{Deserialize, Serialize};

use super::{slots::Slots, stage};
use crate::{
    durable::{parent, sync_directory, write_whole},
    http::fetch::{self, FetchError, Piece, Wanted},
    mqtt::{self, web::Authorities},
    settings::Settings,
    threads,
};

/// Orders that may wait.
const ORDERS_MAX: usize = 8;
/// First pause after a transfer that failed.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Transfers that failed in a row, without a byte, after which a file is given up: more than a day of tries.
const FAILURES_MAX: u32 = 300;
/// Whole files of another digest that are fetched before it is given up.
const WRONG_MAX: u32 = 2;
/// So many bytes are made durable at once.
const SYNC_BYTES: u64 = 1 << 20;
/// Most characters of a detail.
const DETAIL_CHARACTERS_MAX: usize = 300;

const JOB: &str = "job.json";
const PART: &str = "part";

/// A file on its way, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    /// The place of the model in the configuration by its name.
    model: String,
    sha256: String,
    bytes: u64,
    /// None where it comes in pieces.
    url: Option<String>,
    allow_downgrade: bool,
}

/// What a command brings, for a model of the configuration.
#[derive(Debug)]
pub struct Order {
    /// Whom to answer.
    pub id: CommandId,
    /// The name of the model.
    pub model: String,
    /// What it brings.
    pub parcel: Parcel,
}

/// Starts the thread; it ends with the process.
///
/// # Errors
/// The system refuses another thread.
pub fn spawn(
    settings: Settings,
    slots: Slots,
    events: &Sender<Event>,
) -> io::Result<Sender<Order>> {
    let (sender, orders) = crossbeam_channel::bounded(ORDERS_MAX);
    let mut delivery = Delivery {
        directory: slots.incoming(),
        settings,
        slots,
        events: events.clone(),
        job: None,
        failures: 0,
        wrong: 0,
    };
    threads::spawn("model-delivery", Worker::Inference, events, move || {
        delivery.serve(&orders);
    })?;
    Ok(sender)
}

struct Delivery {
    settings: Settings,
    slots: Slots,
    directory: PathBuf,
    events: Sender<Event>,
    job: Option<Job>,
    /// Transfers in a row that brought nothing.
    failures: u32,
    /// Whole files that were of another digest.
    wrong: u32,
}

impl Delivery {
    fn serve(&mut self, orders: &Receiver<Order>) {
        self.job = self.kept();
        if self.is_whole() {
            // The last run ended before it was judged, and nobody sends it again.
            self.finish();
        }
        let mut pause = Duration::ZERO;
        loop {
            let fetches = self.job.as_ref().is_some_and(|job| job.url.is_some());
            let order = if fetches {
                orders.recv_timeout(pause)
            } else {
                orders.recv().map_err(RecvTimeoutError::from)
            };
            match order {
                Ok(order) => {
                    let outcome = self.take(&order);
                    let whole = outcome.is_ok() && self.is_whole();
                    let done = CommandEvent::Done {
                        id: order.id,
                        outcome,
                    };
                    let _ = self.events.send(Event::Command(done));
                    if whole {
                        self.finish();
                    }
                    pause = Duration::ZERO;
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    self.transfer();
                    let doubled = PAUSE_MIN.saturating_mul(1 << self.failures.min(10));
                    pause = doubled.min(PAUSE_MAX);
                }
            }
        }
    }

    /// The file that was on its way when the last run ended.
    fn kept(&self) -> Option<Job> {
        let bytes = fs::read(self.directory.join(JOB)).ok()?;
        let job: Option<Job> = serde_json::from_slice(&bytes).ok();
        let known = |job: &Job| self.settings.models.iter().any(|it| it.id == job.model);
        let job = job.filter(known);
        if job.is_none() {
            self.clear();
        }
        job
    }

    fn have(&self) -> u64 {
        fs::metadata(self.directory.join(PART)).map_or(0, |part| part.len())
    }

    fn is_whole(&self) -> bool {
        self.job
            .as_ref()
            .is_some_and(|job| self.have() >= job.bytes)
    }

    /// Takes what a command brings: how many bytes are there now, JSON.
    fn take(&mut self, order: &Order) -> Outcome {
        let Parcel {
            sha256,
            bytes,
            url,
            piece,
            allow_downgrade,
            ..
        } = &order.parcel;
        let job = Job {
            model: order.model.clone(),
            sha256: sha256.clone(),
            bytes: *bytes,
            url: url.clone(),
            allow_downgrade: *allow_downgrade,
        };
        let begins = piece.as_ref().is_none_or(|(offset, _)| *offset == 0);
        if self.job.as_ref() != Some(&job) {
            // The first piece of another file takes the place of one that does not go on.
            let same_file = self.job.as_ref().is_some_and(|it| it.sha256 == job.sha256);
            if self.job.is_some() && !begins {
                return Err("busy");
            }
            if !begins {
                return Err("not-begun");
            }
            self.begin(&job, same_file).map_err(|_| "not-stored")?;
            self.job = Some(job);
            (self.failures, self.wrong) = (0, 0);
        }
        if let Some((offset, data)) = piece {
            self.append(*offset, data, *bytes)
                .map_err(|_| "not-stored")?;
        }
        Ok(format!(
            "{{\"received\":{},\"bytes\":{bytes}}}",
            self.have()
        ))
    }

    fn begin(&self, job: &Job, keep_part: bool) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        sync_directory(parent(&self.directory))?;
        if !keep_part {
            self.clear();
        }
        let text = serde_json::to_vec(job).map_err(io::Error::other)?;
        write_whole(&self.directory, JOB, &text)
    }

    /// A piece that does not begin where the last one ended is passed over: the answer says where to go on.
    fn append(&self, offset: u64, data: &[u8], bytes: u64) -> io::Result<()> {
        let have = self.have();
        let room = bytes.saturating_sub(have);
        let fits = u64::try_from(data.len()).is_ok_and(|length| length <= room);
        if offset != have || !fits {
            return Ok(());
        }
        let mut part = self.part()?;
        part.write_all(data)?;
        part.sync_data()
    }

    fn part(&self) -> io::Result<File> {
        let path = self.directory.join(PART);
        File::options().create(true).append(true).open(path)
    }

    fn transfer(&mut self) {
        let Some(job) = self.job.clone() else { return };
        let Some(url) = &job.url else { return };
        let from = self.have();
        if from < job.bytes {
            let fetched = self.part().map_err(FetchError::Sink).and_then(|mut part| {
                let mqtt = self.settings.mqtt.as_ref();
                let credentials = mqtt::credentials_directory();
                let authorities = Authorities {
                    ca_file: mqtt.and_then(|it| it.ca_file.as_deref()),
                    credentials: credentials.as_deref(),
                };
                let wanted = Wanted {
                    url,
                    from,
                    bytes: job.bytes,
                    authorities,
                };
                let mut unsynced = 0;
                let fetched = fetch::fetch(wanted, |piece| keep(&mut part, piece, &mut unsynced));
                part.sync_all().map_err(FetchError::Sink)?;
                fetched
            });
            let moved = self.have() > from;
            self.failures = if moved { 0 } else { self.failures + 1 };
            if let Err(error) = fetched {
                tracing::warn!(model = job.model, %error, "a model file does not come");
                if !error.is_passing() || self.failures >= FAILURES_MAX {
                    self.refuse(&job, "transfer", &error.to_string());
                }
                return;
            }
        }
        if self.is_whole() {
            self.finish();
        } else if self.failures >= FAILURES_MAX {
            self.refuse(
                &job,
                "transfer",
                "the file is shorter than the command says",
            );
        }
    }

    /// The file is whole: it is judged as any other.
    fn finish(&mut self) {
        let Some(job) = self.job.clone() else { return };
        let path = self.directory.join(PART);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|part| {
            part.take(job.bytes.saturating_add(1))
                .read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            return self.refuse(&job, "not-stored", &error.to_string());
        }
        let found = Digest::of(&bytes).to_string();
        if found != job.sha256 {
            self.wrong += 1;
            if job.url.is_some() && self.wrong < WRONG_MAX {
                // A server may have changed the file between two parts of it.
                let _ = fs::remove_file(&path);
                return;
            }
            let detail = format!("SHA-256 is {found}, expected {}", job.sha256);
            return self.refuse(&job, "wrong-digest", &detail);
        }
        let staged = stage::stage(
            &self.settings,
            &self.slots,
            Some(&job.model),
            (Path::new("delivered"), &bytes),
            job.allow_downgrade,
        );
        match staged {
            Ok(record) => {
                let held = record.staged.map(|staged| staged.held).or(record.active);
                let release = held.map_or(0, |held| held.release);
                let detail = format!("release {release}, {} bytes", job.bytes);
                self.tell(&job, "model-staged", "delivered", &detail);
                self.end();
            }
            Err(error) => self.refuse(&job, error.cause(), &error.to_string()),
        }
    }

    fn refuse(&mut self, job: &Job, cause: &'static str, detail: &str) {
        tracing::error!(
            model = job.model,
            cause,
            detail,
            "a delivered model is refused"
        );
        self.tell(job, "model-refused", cause, detail);
        self.end();
    }

    fn end(&mut self) {
        self.job = None;
        (self.failures, self.wrong) = (0, 0);
        self.clear();
    }

    /// The job last: a part without one is nobody's.
    fn clear(&self) {
        for name in [PART, JOB] {
            let _ = fs::remove_file(self.directory.join(name));
        }
    }

    fn tell(&self, job: &Job, what: &'static str, cause: &'static str, detail: &str) {
        let index = self
            .settings
            .models
            .iter()
            .position(|it| it.id == job.model);
        let Some(model) = index.and_then(|index| u16::try_from(index).ok()) else {
            return;
        };
        let change = ModelChange {
            model: ModelId(model),
            what,
            cause,
            detail: detail.chars().take(DETAIL_CHARACTERS_MAX).collect(),
        };
        let _ = self.events.send(Event::Model(ModelEvent::Changed(change)));
    }
}

/// Keeps what a transfer brings.
fn keep(part: &mut File, piece: Piece<'_>, unsynced: &mut u64) -> io::Result<()> {
    match piece {
        // A server that cannot go on begins anew.
        Piece::Begin(at) => part.set_len(at),
        Piece::Bytes(bytes) => {
            part.write_all(bytes)?;
            *unsynced += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if *unsynced >= SYNC_BYTES {
                *unsynced = 0;
                part.sync_data()?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
