//! The desk: the thread that takes in what comes on the command topics.
//!
//! Owns: the thread, and the limit on what it logs. Must not: carry anything out.
//!
//! Invariant: what comes faster than it can be checked is dropped by whoever hands it in; nothing here grows.

use std::{io, path::PathBuf, thread::JoinHandle};

use crossbeam_channel::{Receiver, Sender};
use quorate_core::{
    command::{CommandEvent, REPLY_TOPIC_BYTES_MAX, Refused, ReplyTo, Request},
    event::{Event, Worker},
    units::Mono,
};
use serde_json::json;

use super::{
    Keyring,
    check::{self, Checked},
    counters::{Counters, Use},
};
use crate::{clock::Clock, mqtt::Incoming, threads};

/// Messages that may wait to be checked.
const INCOMING_MAX: usize = 32;
/// Commands whose end may wait to be written down: more than are ever in progress.
const SETTLED_MAX: usize = 64;
/// Refusals are logged at most once in this time, in milliseconds.
const LOG_MS: u64 = 10_000;

/// What the desk has to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the device.
    pub device: String,
    /// Base of the topics.
    pub topic: String,
    /// Who may do what.
    pub keyring: Keyring,
    /// Where the numbers are kept.
    pub state: PathBuf,
}

/// The ends of the desk.
#[derive(Debug)]
pub struct Desk {
    /// Takes what comes in.
    pub incoming: Sender<Incoming>,
    /// Takes the key and number of a command that has come to its end.
    pub settled: Sender<(String, u64)>,
    /// Ends when both are gone.
    pub thread: JoinHandle<()>,
}

/// Starts the thread.
///
/// # Errors
/// The system refuses another thread.
pub fn spawn(options: Options, clock: Clock, events: &Sender<Event>) -> io::Result<Desk> {
    let (incoming, received) = crossbeam_channel::bounded(INCOMING_MAX);
    let (settled, ended) = crossbeam_channel::bounded(SETTLED_MAX);
    let answers = events.clone();
    let thread = threads::spawn("commands", Worker::Link, events, move || {
        let counters = Counters::open(&options.state)
            .map_err(|error| {
                tracing::error!(
                    %error,
                    directory = %options.state.display(),
                    "signed commands are refused until the directory is removed: nobody knows which were given before"
                );
            })
            .ok();
        let mut clerk = Clerk {
            options,
            clock,
            counters,
            events: answers,
            logged: None,
            not_logged: 0,
        };
        clerk.tell_interrupted();
        clerk.serve(&received, &ended);
    })?;
    Ok(Desk {
        incoming,
        settled,
        thread,
    })
}

struct Clerk {
    options: Options,
    clock: Clock,
    /// Absent when nobody knows which numbers were used.
    counters: Option<Counters>,
    events: Sender<Event>,
    logged: Option<Mono>,
    not_logged: u64,
}

impl Clerk {
    fn serve(&mut self, incoming: &Receiver<Incoming>, settled: &Receiver<(String, u64)>) {
        loop {
            let told = crossbeam_channel::select! {
                recv(incoming) -> message => message.is_ok_and(|message| self.take(message)),
                recv(settled) -> ended => ended.is_ok_and(|(key, counter)| {
                    if let Some(counters) = &mut self.counters {
                        counters.settle(&key, counter);
                    }
                    true
                }),
            };
            if !told {
                break;
            }
        }
        // What ended in the last moments is no interruption.
        for (key, counter) in settled {
            if let Some(counters) = &mut self.counters {
                counters.settle(&key, counter);
            }
        }
    }

    fn tell(&self, event: CommandEvent) -> bool {
        self.events.send(Event::Command(event)).is_ok()
    }

    fn tell_interrupted(&mut self) {
        let interrupted = self.counters.as_mut().map(Counters::take_interrupted);
        for one in interrupted.into_iter().flatten() {
            tracing::warn!(
                command = one.command,
                key = one.key,
                "a command was interrupted"
            );
            self.tell(CommandEvent::Interrupted {
                command: one.command,
                detail: json!({"key": one.key, "counter": one.counter}).to_string(),
            });
        }
    }

    /// False when the core is gone.
    fn take(&mut self, incoming: Incoming) -> bool {
        let reply = incoming
            .reply
            .clone()
            .filter(|to| may_reply(&self.options.topic, to));
        match self.examine(&incoming) {
            Ok((checked, key, counter)) => self.tell(CommandEvent::Given(Request {
                deed: checked.deed,
                key,
                counter,
                arguments: checked.arguments,
                reply,
            })),
            Err(reason) => {
                self.log(reason);
                self.tell(CommandEvent::Refused { reason, reply })
            }
        }
    }

    fn examine(&mut self, incoming: &Incoming) -> Result<(Checked, Option<String>, u64), Refused> {
        let Options {
            device,
            topic,
            keyring,
            ..
        } = &self.options;
        let checked = check::check(device, topic, keyring, incoming, self.clock.wall())?;
        let Some((key, counter)) = checked.signed.clone() else {
            return Ok((checked, None, 0));
        };
        let counters = self.counters.as_mut().ok_or(Refused::NotStored)?;
        match counters.use_up(&key, counter, checked.deed.name()) {
            Use::New => Ok((checked, Some(key), counter)),
            Use::Repeated => Err(Refused::Repeated),
            Use::NotStored => Err(Refused::NotStored),
        }
    }

    /// Whoever floods the topic must not flood the log.
    fn log(&mut self, reason: Refused) {
        let now = self.clock.now();
        if self.logged.is_some_and(|at| now.since_ms(at) < LOG_MS) {
            self.not_logged += 1;
            return;
        }
        let not_logged = std::mem::take(&mut self.not_logged);
        self.logged = Some(now);
        tracing::warn!(reason = reason.as_str(), not_logged, "a command is refused");
    }
}

/// Answers go nowhere that the agent itself speaks or listens, but for `<topic>/reply`: who asks chooses the topic, and
/// must not put words into the agent's mouth.
fn may_reply(topic: &str, to: &ReplyTo) -> bool {
    let own = to.topic.strip_prefix(topic);
    let own = own.filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let harmless = own.is_none_or(|rest| rest == "/reply" || rest.starts_with("/reply/"));
    harmless
        && !to.topic.is_empty()
        && to.topic.len() <= REPLY_TOPIC_BYTES_MAX
        && !to.topic.starts_with('$')
        && !to.topic.contains(['+', '#', '\0'])
        && !to.topic.chars().any(char::is_control)
}

#[cfg(test)]
mod tests;
