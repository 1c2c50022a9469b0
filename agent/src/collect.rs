//! `quorate collect`: the receiving end, small and exact. It subscribes, drops repeats, writes SQLite or JSON lines, and
//! tells devices what it has stored.
//!
//! Owns: the order store, commit, acknowledge, confirm. Must not: acknowledge what is not on the medium.
//!
//! Invariants: a message is acknowledged after its records are durable here, so that a kill repeats and never loses. A
//! message that is no batch is counted, named in the log and acknowledged: it would block the others for ever.

pub mod account;
pub mod arguments;
pub mod batch;
mod lines;
pub mod sink;
mod sqlite;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::Path,
};

use crossbeam_channel::{Receiver, select};
use quorate_core::units::{Epoch, Seq};
use serde_json::json;

use self::{
    account::{Account, Change},
    batch::Batch,
    sink::Sink,
};
use crate::{
    commands, logging,
    mqtt::{
        Options,
        subscriber::{self, Request, Requests, Subscriber, Token, Told},
        watermark,
    },
    outcome::Outcome,
};

/// Most messages in one commit: what arrived while the one before was being made.
const MESSAGES_MAX: usize = 64;
/// Gaps of one stream that a report lists.
const GAPS_SHOWN_MAX: usize = 1_000;
/// Devices whose topic is remembered.
const DEVICES_MAX: usize = 65_536;
/// Bad messages that are written to the log one by one; the rest are counted.
const BAD_SHOWN_MAX: u64 = 100;

/// What came in, for the line at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    messages: u64,
    bad: u64,
    new: u64,
    repeats: u64,
    conflicts: u64,
    commits: u64,
}

struct Collector {
    sink: Box<dyn Sink>,
    account: Account,
    /// The topic that each device publishes to: another one is another sender under its name.
    topics: BTreeMap<String, String>,
    counts: Counts,
    /// Whether what is stored is confirmed to the devices.
    confirm: bool,
}

/// Messages of one commit.
#[derive(Default)]
struct Group {
    tokens: Vec<Token>,
    /// Topic base, device and epoch of every stream that it touches.
    streams: BTreeSet<(String, String, u64)>,
}

/// `quorate collect`: the receiving end, until SIGTERM or SIGINT; or the report of a file.
///
/// # Errors
/// Status 2 for the arguments and a file that is something else, 1 when the file cannot be written.
pub fn command(arguments: &arguments::Arguments, output: &mut impl Write) -> Result<(), Outcome> {
    if arguments.report {
        return report(&arguments.output, output);
    }
    let options = arguments.options()?;
    let _ = logging::to_stderr(tracing::Level::INFO);
    let filter = arguments.topic.clone();
    let confirm = !arguments.no_watermark;
    run(
        options,
        filter,
        &arguments.output,
        confirm,
        &commands::ended(),
        output,
    )
}

/// Collects until `ended` tells, then prints one line of counts.
///
/// # Errors
/// The file cannot be opened, or cannot be written any more.
pub fn run(
    options: Options,
    filter: String,
    path: &Path,
    confirm: bool,
    ended: &Receiver<()>,
    output: &mut impl Write,
) -> Result<(), Outcome> {
    let (sink, account) = sink::open(path).map_err(|error| refused(path, &error))?;
    let mut collector = Collector {
        sink,
        account,
        topics: BTreeMap::new(),
        counts: Counts::default(),
        confirm,
    };
    let Subscriber {
        told,
        requests,
        thread,
    } = subscriber::spawn(options, filter).map_err(Outcome::failed)?;
    let outcome = loop {
        select! {
            recv(ended) -> _ => break Ok(()),
            recv(told) -> first => {
                let Ok(first) = first else { break Err(Outcome::Failed("the subscriber ended".to_owned())) };
                let group = collector.group(first, &told);
                match group.and_then(|group| collector.commit(&group).map(|()| group)) {
                    Ok(group) => collector.answer(group, &requests),
                    Err(error) => break Err(Outcome::Failed(format!("{}: {error}", path.display()))),
                }
            }
        }
    };
    // Nobody takes it when the thread has ended already.
    let _ = requests.send(Request::Stop);
    drop(told);
    let _ = thread.join();
    let Counts {
        messages,
        bad,
        new,
        repeats,
        conflicts,
        commits,
    } = collector.counts;
    let line = json!({"messages": messages, "bad": bad, "new": new, "repeats": repeats, "conflicts": conflicts, "commits": commits});
    writeln!(output, "{line}").map_err(Outcome::failed)?;
    outcome
}

/// Prints one line for each stream of a file: what is there, confirmed and missing.
///
/// # Errors
/// The file cannot be read.
pub fn report(path: &Path, output: &mut impl Write) -> Result<(), Outcome> {
    if !path.exists() {
        return Err(Outcome::Refused(format!(
            "{}: no such file",
            path.display()
        )));
    }
    let (_, account) = sink::open(path).map_err(|error| refused(path, &error))?;
    for (device, epoch, stream) in account.streams() {
        let gaps = stream.gaps();
        let missing: u64 = gaps.iter().map(|(first, last)| last - first + 1).sum();
        let shown = &gaps[..gaps.len().min(GAPS_SHOWN_MAX)];
        let line = json!({"device": device, "epoch": epoch, "base": stream.base(), "through": stream.through(), "absent": stream.absent(), "missing": missing, "gaps": shown});
        writeln!(output, "{line}").map_err(Outcome::failed)?;
    }
    Ok(())
}

fn refused(path: &Path, error: &sink::SinkError) -> Outcome {
    Outcome::Refused(format!("{}: {error}", path.display()))
}

impl Collector {
    /// Puts the first message and what waits behind it into the sink.
    fn group(&mut self, first: Told, told: &Receiver<Told>) -> Result<Group, sink::SinkError> {
        let mut group = Group::default();
        let rest = std::iter::from_fn(|| told.try_recv().ok());
        for told in std::iter::once(first).chain(rest).take(MESSAGES_MAX) {
            match told {
                Told::Up => tracing::info!("subscribed"),
                Told::Down(fault) => tracing::warn!(fault, "no connection"),
                Told::Message {
                    topic,
                    payload,
                    token,
                } => {
                    self.counts.messages += 1;
                    self.message(&topic, &payload, &mut group)?;
                    group.tokens.extend(token);
                }
            }
        }
        Ok(group)
    }

    fn message(
        &mut self,
        topic: &str,
        payload: &[u8],
        group: &mut Group,
    ) -> Result<(), sink::SinkError> {
        let (batch, change) = match self.read(topic, payload) {
            Ok(read) => read,
            Err(why) => {
                self.bad(topic, &why);
                return Ok(());
            }
        };
        let put = self.sink.put(&batch, &change, &self.account)?;
        self.account.enter(&batch, &change);
        self.counts.new += put.new;
        self.counts.repeats += put.repeats;
        self.counts.conflicts += put.conflicts;
        if put.conflicts > 0 {
            let (device, epoch, count) = (&batch.device, batch.epoch, put.conflicts);
            tracing::error!(device, epoch, count, "numbers that name two records");
        }
        let base = topic.strip_suffix("/data").unwrap_or(topic).to_owned();
        group.streams.insert((base, batch.device, batch.epoch));
        Ok(())
    }

    /// A batch that may be stored, or why a message is not taken.
    fn read(&mut self, topic: &str, payload: &[u8]) -> Result<(Batch, Change), String> {
        let batch = batch::read(payload).map_err(|error| error.to_string())?;
        let change = self
            .account
            .consider(&batch)
            .map_err(|full| full.to_string())?;
        match self.topics.get(&batch.device) {
            Some(known) if known != topic => {
                return Err("another topic has this device already".to_owned());
            }
            None if self.topics.len() < DEVICES_MAX => {
                self.topics.insert(batch.device.clone(), topic.to_owned());
            }
            _ => {}
        }
        Ok((batch, change))
    }

    fn bad(&mut self, topic: &str, why: &str) {
        self.counts.bad += 1;
        if self.counts.bad <= BAD_SHOWN_MAX {
            tracing::warn!(topic, why, "a message that is not taken");
        }
    }

    fn commit(&mut self, group: &Group) -> Result<(), sink::SinkError> {
        if !group.streams.is_empty() {
            self.sink.commit()?;
            self.counts.commits += 1;
        }
        Ok(())
    }

    /// The group is durable: acknowledge and confirm it.
    fn answer(&self, group: Group, requests: &Requests) {
        for token in group.tokens {
            // A subscriber that has ended takes nothing; the messages come again.
            let _ = requests.send(Request::Acknowledge(token));
        }
        if !self.confirm {
            return;
        }
        for (base, device, epoch) in group.streams {
            let Some(stream) = self.account.stream(&device, epoch) else {
                continue;
            };
            let _ = requests.send(Request::Publish {
                topic: watermark::topic(&base),
                payload: watermark::payload(Epoch(epoch), Seq(stream.through())),
            });
        }
    }
}

#[cfg(test)]
mod tests;
