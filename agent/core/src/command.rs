//! Commands: what may be asked of a running agent, and what is kept of a command until its outcome is told.
//!
//! Owns: the vocabulary of commands and refusals, and the state of the commands in progress. Must not: read a signature;
//! whoever sends [`crate::event::Event::Command`] has checked who asks and that it was not asked before.
//!
//! Invariants: a command is carried out only once the record that it was accepted is durable; its reply leaves only once
//! the record of its outcome is, unless the store fails for [`STAGE_MS_MAX`]; at most [`COMMANDS_MAX`] are in progress.
//!
//! | from | to | when |
//! |---|---|---|
//! | - | Accepting | [`CommandEvent::Given`]; the record `command-accepted` is made |
//! | Accepting | Executing | that record is durable |
//! | Executing | Concluding | it was carried out, or could not be; the record `command-done` is made |
//! | Concluding | - | that record is durable: the reply goes out |

mod model;

pub use model::{DOWNGRADE, FORCE, ModelDeed, Parcel};

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde_json::json;

use crate::units::{Epoch, Mono, Seq};

/// Most commands in progress; further ones are refused as `busy`.
pub const COMMANDS_MAX: usize = 8;
/// Largest result of a command, in bytes of JSON.
pub const RESULT_BYTES_MAX: usize = 60 * 1024;
/// Most bytes of the arguments that are written down.
pub const ARGUMENTS_BYTES_MAX: usize = 1_024;
/// Longest topic for replies, in bytes.
pub const REPLY_TOPIC_BYTES_MAX: usize = 512;
/// A stage that takes longer than this fails, in milliseconds: a restart must not come when nobody expects it any more.
pub const STAGE_MS_MAX: u64 = 60_000;
/// Refusals are written down at most once in this time, in milliseconds, with how many there were.
pub const REFUSALS_TOLD_MS: u64 = 60_000;
/// Most refusals that are answered in that time.
pub const REFUSALS_ANSWERED_MAX: u64 = 16;

/// A command in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// The least important log lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Errors alone.
    Error,
    /// And warnings.
    Warn,
    /// And what an operator wants to know.
    Info,
    /// And what helps in looking for a fault.
    Debug,
    /// Everything.
    Trace,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing but an answer.
    Ping,
    /// The picture of the agent, as the endpoint gives it.
    Status,
    /// The configuration in force, without secrets.
    ConfigGet,
    /// Deliver again the delivered records that are still kept.
    Replay {
        /// The life of the store that the numbers are of.
        epoch: Epoch,
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
    },
    /// Forget what was learned of a sensor and that it was out; open its probe anew.
    SensorReset {
        /// Its name.
        sensor: String,
    },
    /// Write other log lines until the next restart.
    LogLevel(LogLevel),
    /// End in order, for the service manager to start the agent again.
    Restart {
        /// Even where no service manager is known.
        force: bool,
    },
    /// Something of the files of a model.
    Model(ModelDeed),
}

impl Deed {
    /// The word used in topics, envelopes, records and allow-lists.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Status => "status",
            Self::ConfigGet => "config-get",
            Self::Replay { .. } => "replay",
            Self::SensorReset { .. } => "sensor-reset",
            Self::LogLevel(_) => "log-level",
            Self::Restart { .. } => "restart",
            Self::Model(deed) => deed.name(),
        }
    }
}

/// The words of [`Deed::name`], and the further permissions.
pub const NAMES: [&str; 13] = [
    "ping",
    "status",
    "config-get",
    "replay",
    "sensor-reset",
    "log-level",
    "restart",
    "model-stage",
    "model-chunk",
    "model-promote",
    "model-rollback",
    DOWNGRADE,
    FORCE,
];
/// Those of them that change nothing and say little enough to be allowed without a signature.
pub const READ_ONLY: [&str; 2] = ["ping", "status"];

/// Where the answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The topic.
    pub topic: String,
    /// The correlation data of the question.
    pub correlation: Option<Vec<u8>>,
}

/// A command that somebody was entitled to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub deed: Deed,
    /// The key that signed it; none where that command needs none.
    pub key: Option<String>,
    /// Its number, which that key never used before.
    pub counter: u64,
    /// The arguments as they were given, JSON.
    pub arguments: String,
    /// Where the answer goes.
    pub reply: Option<ReplyTo>,
}

/// Why a command is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// It is larger than a command can be.
    Oversized,
    /// It is not what a command looks like.
    Malformed,
    /// It has no signature, and needs one.
    Unsigned,
    /// No key of that name is pinned.
    UnknownKey,
    /// The signature is not of that key over these bytes.
    Signature,
    /// It is meant for another device.
    OtherDevice,
    /// The time that it was good for is over.
    Expired,
    /// There is no such command.
    UnknownCommand,
    /// The key may not give it.
    NotAllowed,
    /// The command does not have these arguments.
    Arguments,
    /// The number is not above the last one of that key.
    Repeated,
    /// It is retained at the broker and would come again with every connection.
    Retained,
    /// It came on a topic that commands do not come on.
    ForeignTopic,
    /// Too many are in progress.
    Busy,
    /// It could not be written down.
    NotStored,
}

impl Refused {
    /// Every reason, in the order of [`crate::health::Counters::commands_refused`].
    pub const ALL: [Self; 15] = [
        Self::Oversized,
        Self::Malformed,
        Self::Unsigned,
        Self::UnknownKey,
        Self::Signature,
        Self::OtherDevice,
        Self::Expired,
        Self::UnknownCommand,
        Self::NotAllowed,
        Self::Arguments,
        Self::Repeated,
        Self::Retained,
        Self::ForeignTopic,
        Self::Busy,
        Self::NotStored,
    ];

    /// The word used in replies, records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::Unsigned => "unsigned",
            Self::UnknownKey => "unknown-key",
            Self::Signature => "signature",
            Self::OtherDevice => "other-device",
            Self::Expired => "expired",
            Self::UnknownCommand => "unknown-command",
            Self::NotAllowed => "not-allowed",
            Self::Arguments => "arguments",
            Self::Repeated => "repeated",
            Self::Retained => "retained",
            Self::ForeignTopic => "foreign-topic",
            Self::Busy => "busy",
            Self::NotStored => "not-stored",
        }
    }

    pub(crate) fn index(self) -> usize {
        let found = Self::ALL.iter().position(|one| *one == self);
        found.expect("ALL names every reason")
    }
}

/// What the core is told of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandEvent {
    /// Somebody entitled gives a command: its signature, number and form were checked.
    Given(Request),
    /// Somebody gave a command that is not taken.
    Refused {
        /// Why.
        reason: Refused,
        /// Where the answer goes.
        reply: Option<ReplyTo>,
    },
    /// An [`crate::event::Action::Execute`] was carried out, or could not be.
    Done {
        /// As in the action.
        id: CommandId,
        /// What came of it.
        outcome: Outcome,
    },
    /// A command was begun before this start, and nobody knows how far it came.
    Interrupted {
        /// Its name.
        command: String,
        /// Who gave it, as JSON.
        detail: String,
    },
    /// The broker answered the subscription to the commands.
    Subscribed {
        /// Whether they will come.
        accepted: bool,
    },
}

/// What came of a command: the result as JSON, or why there is none in one kebab-case word.
pub type Outcome = Result<String, &'static str>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Accepting(Seq),
    Executing,
    Concluding(Seq, Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InProgress {
    pub(crate) request: Request,
    pub(crate) stage: Stage,
    since: Mono,
}

/// The commands in progress, and how many refusals were told of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commands {
    next: u64,
    in_progress: BTreeMap<CommandId, InProgress>,
    /// Since when refusals are counted, how many there were, and how many of them were answered.
    refusals: Option<(Mono, u64, u64)>,
}

impl Commands {
    pub(crate) fn is_full(&self) -> bool {
        self.in_progress.len() >= COMMANDS_MAX
    }

    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.in_progress.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn accept(&mut self, now: Mono, request: Request, seq: Seq) {
        let id = CommandId(self.next);
        self.next += 1;
        let stage = Stage::Accepting(seq);
        let entry = InProgress {
            request,
            stage,
            since: now,
        };
        self.in_progress.insert(id, entry);
    }

    /// The command may be carried out. What it asks for, unless it is not waiting for that.
    pub(crate) fn begin(&mut self, now: Mono, id: CommandId) -> Option<Deed> {
        let entry = self.in_progress.get_mut(&id)?;
        if !matches!(entry.stage, Stage::Accepting(_)) {
            return None;
        }
        (entry.stage, entry.since) = (Stage::Executing, now);
        Some(entry.request.deed.clone())
    }

    pub(crate) fn executing(&self, id: CommandId) -> Option<&Request> {
        let entry = self.in_progress.get(&id)?;
        (entry.stage == Stage::Executing).then_some(&entry.request)
    }

    pub(crate) fn conclude(&mut self, now: Mono, id: CommandId, seq: Seq, outcome: Outcome) {
        if let Some(entry) = self.in_progress.get_mut(&id) {
            (entry.stage, entry.since) = (Stage::Concluding(seq, outcome), now);
        }
    }

    pub(crate) fn end(&mut self, id: CommandId) -> Option<InProgress> {
        self.in_progress.remove(&id)
    }

    /// The records that commands wait for.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = Seq> + '_ {
        self.in_progress
            .values()
            .filter_map(|entry| match entry.stage {
                Stage::Accepting(seq) | Stage::Concluding(seq, _) => Some(seq),
                Stage::Executing => None,
            })
    }

    /// The command that waits for this record, and whether it is its last one.
    pub(crate) fn waiting_for(&self, seq: Seq) -> Option<(CommandId, bool)> {
        self.in_progress
            .iter()
            .find_map(|(id, entry)| match entry.stage {
                Stage::Accepting(own) if own == seq => Some((*id, false)),
                Stage::Concluding(own, _) if own == seq => Some((*id, true)),
                _ => None,
            })
    }

    /// The replays that were asked for and are answered by a recall of this range.
    pub(crate) fn replaying(&self, range: (Seq, Seq)) -> Vec<CommandId> {
        let matches = |entry: &InProgress| {
            entry.stage == Stage::Executing
                && matches!(entry.request.deed, Deed::Replay { first, last, .. } if (first, last) == range)
        };
        let all = self.in_progress.iter();
        all.filter(|(_, entry)| matches(entry))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        let stages = self.in_progress.values().map(|entry| entry.since);
        let refusals = self
            .refusals
            .filter(|(_, count, _)| *count > 0)
            .map(|(since, _, _)| since.plus_ms(REFUSALS_TOLD_MS));
        stages
            .map(|since| since.plus_ms(STAGE_MS_MAX))
            .chain(refusals)
            .min()
    }

    /// The commands whose stage takes too long.
    pub(crate) fn overdue(&self, now: Mono) -> Vec<(CommandId, Stage)> {
        let late = |entry: &InProgress| now >= entry.since.plus_ms(STAGE_MS_MAX);
        let all = self.in_progress.iter();
        all.filter(|(_, entry)| late(entry))
            .map(|(id, entry)| (*id, entry.stage.clone()))
            .collect()
    }

    /// Counts a refusal. Whether it is to be written down at once, and whether it is answered.
    pub(crate) fn refuse(&mut self, now: Mono) -> (bool, bool) {
        match &mut self.refusals {
            Some((since, count, answered)) if now < since.plus_ms(REFUSALS_TOLD_MS) => {
                *count += 1;
                *answered += 1;
                (false, *answered <= REFUSALS_ANSWERED_MAX)
            }
            refusals => {
                *refusals = Some((now, 0, 1));
                (true, true)
            }
        }
    }

    /// How many refusals were not written down in a time that is over.
    pub(crate) fn untold_refusals(&mut self, now: Mono) -> Option<u64> {
        let (since, count, _) = self.refusals?;
        if now < since.plus_ms(REFUSALS_TOLD_MS) {
            return None;
        }
        self.refusals = None;
        (count > 0).then_some(count)
    }
}

/// Who gave a command, for records: JSON.
pub(crate) fn who(request: &Request, arguments: bool) -> String {
    let mut said = json!({"key": request.key, "counter": request.counter});
    if arguments {
        let bounded = request.arguments.len() <= ARGUMENTS_BYTES_MAX;
        let given = if bounded { &*request.arguments } else { "" };
        said["arguments"] =
            serde_json::from_str(given).unwrap_or_else(|_| "too long to be written down".into());
    }
    said.to_string()
}

/// The answer to a command that was taken.
pub(crate) fn reply(device: &str, request: &Request, outcome: &Outcome) -> String {
    let about = json!({
        "device": device,
        "command": request.deed.name(),
        "key": request.key,
        "counter": request.counter,
    })
    .to_string();
    let about = about.strip_suffix('}').unwrap_or(&about);
    match outcome {
        Ok(result) => format!("{about},\"outcome\":\"done\",\"result\":{result}}}"),
        Err(reason) => format!("{about},\"outcome\":\"failed\",\"reason\":\"{reason}\"}}"),
    }
}

/// The answer to one that was not.
pub(crate) fn refusal(device: &str, reason: Refused) -> String {
    json!({"device": device, "outcome": "refused", "reason": reason.as_str()}).to_string()
}
