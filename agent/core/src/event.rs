//! The whole conversation between the core and the world: every fact that arrives, every deed that is asked for.
//!
//! Owns: [`Event`] and [`Action`], both closed. Must not: hold behaviour.
//!
//! Invariant: whatever can go wrong outside is an [`Event`] here; [`crate::agent::Agent::handle`] returns no error.

use alloc::{string::String, sync::Arc, vec::Vec};

use crate::{
    certificate::Role,
    checkpoint::Checkpoint,
    command::{CommandEvent, CommandId, Deed, ReplyTo},
    config::ModelConfig,
    model::{Lane, ModelEvent, ModelStep},
    record::Record,
    units::{BatchId, BusId, Epoch, ModelId, Mono, SensorId, Seq, WallAnchor},
};

/// A fact from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed; nothing else happened. Sent at [`crate::agent::Agent::next_deadline`].
    Tick,
    /// A probe answered. `taken` is when the sample was taken, never later than the `now` it arrives with.
    Sample {
        /// Which sensor.
        sensor: SensorId,
        /// When the sample was taken.
        taken: Mono,
        /// The value in the quantity's unit (possibly not finite), or why there is none.
        value: Result<f64, ProbeFault>,
    },
    /// An [`Action::Recover`] came to its end.
    Recovered {
        /// As in the action.
        bus: BusId,
        /// Nothing, or why it could not be done, in one kebab-case word.
        outcome: Result<(), &'static str>,
    },
    /// A model answered an [`Action::Infer`].
    Inferred {
        /// Which model.
        model: ModelId,
        /// Which of its files, as in the action.
        lane: Lane,
        /// The tick that the input window ended with, as in the action.
        tick: Mono,
        /// How long the runner took, in microseconds.
        took_us: u64,
        /// One value per configured output, or why there is none.
        outcome: Result<Vec<f32>, InferenceFault>,
    },
    /// Every record of an [`Action::Store`] from `first` to `last` is on the medium, flushed.
    Stored {
        /// Lowest sequence number of the commit.
        first: Seq,
        /// Highest sequence number of the commit.
        last: Seq,
    },
    /// None of the records from `first` to `last` may be counted upon; the core stores them again.
    StoreFailed {
        /// Lowest sequence number of the failed commit.
        first: Seq,
        /// Highest sequence number of the failed commit.
        last: Seq,
        /// What the store said.
        fault: StoreFault,
    },
    /// What an [`Action::Load`] found, in order of sequence number, all above `after` and none above `through`.
    Loaded {
        /// As in the action.
        after: Seq,
        /// As in the action.
        through: Seq,
        /// The records; empty when there is none in the range.
        records: Vec<StoredRecord>,
    },
    /// What the voters had learned when it was saved last; comes once, before the first sample.
    Checkpoint(Checkpoint),
    /// The store could not read.
    LoadFailed {
        /// What the store said.
        fault: StoreFault,
    },
    /// How full the store is; sent after commits and deletions.
    StoreReport(StoreReport),
    /// Records that the store has dropped or lost for good, whatever the cause; never silent. The store has noted it on
    /// the medium in one with the loss, and tells it again after every start until [`Action::Settle`].
    RecordsGone {
        /// Lowest sequence number that is gone.
        first: Seq,
        /// Highest sequence number that is gone.
        last: Seq,
        /// How many of the range are gone.
        count: u64,
        /// Why.
        cause: GoneCause,
    },
    /// An [`Action::Connect`] succeeded; the broker takes packets of at most this size.
    LinkUp {
        /// The broker's Maximum Packet Size in bytes, or the client's own limit where that is lower.
        packet_bytes_max: u32,
        /// Most unacknowledged messages that the broker accepts (Receive Maximum), at least 1.
        inflight_max: u16,
    },
    /// The connection is gone, or an [`Action::Connect`] failed.
    LinkDown {
        /// Why.
        fault: LinkFault,
    },
    /// Delivered records that are still kept wait again, as an [`Action::Recall`] asked.
    Recalled {
        /// As in the action.
        first: Seq,
        /// As in the action.
        last: Seq,
        /// How many wait again.
        count: u64,
    },
    /// The ingesting side has stored every record of that epoch up to `through`.
    Watermark {
        /// The life of the store that it speaks of.
        epoch: Epoch,
        /// The last record of which it has everything before.
        through: Seq,
    },
    /// A message went to the client, and its size.
    Sent {
        /// As in [`Action::Publish`].
        batch: BatchId,
        /// Bytes of the MQTT packet, without TLS and what lies below.
        bytes: u64,
    },
    /// A certificate of the connection was read.
    Certificate {
        /// Whose it is.
        role: Role,
        /// Until when it is good, in milliseconds since 1970.
        not_after_unix_ms: i64,
    },
    /// Something of a command from outside.
    Command(CommandEvent),
    /// The broker answered one message of this connection.
    Acked {
        /// As in [`Action::Publish`].
        batch: BatchId,
        /// What the broker said.
        outcome: AckOutcome,
    },
    /// What the wall clock says; sent at start, regularly, and when it stepped.
    Wall(WallAnchor),
    /// Something of the files of a model.
    Model(ModelEvent),
    /// A worker ended that should not have.
    WorkerDied {
        /// Which one.
        worker: Worker,
        /// What it said last, bounded.
        cause: String,
    },
    /// The process has been asked to end: finish what can be finished.
    Stop,
}

/// Something that is to be told of the files of a model; what a start tells comes again after one that did not end in
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelChange {
    /// Which model.
    pub model: ModelId,
    /// What happened, such as `model-promoted` or `model-rolled-back`.
    pub what: &'static str,
    /// Why, in one kebab-case word.
    pub cause: &'static str,
    /// From what to what, in words, bounded.
    pub detail: String,
}

/// Why a probe gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProbeFault {
    /// The cause in one kebab-case word, such as `no-acknowledge`.
    pub cause: &'static str,
    /// Waiting will not cure it.
    pub permanent: bool,
    /// How far the fault reaches.
    pub reach: Reach,
}

/// How far a probe's fault reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// There is no value yet; nothing is known of the device.
    Pending,
    /// The device answers: only the value cannot be used.
    Value,
    /// The device does not answer, or not as it should.
    Device,
    /// The transfer itself failed: the bus may be stuck.
    Bus,
}

/// Why a model gave no output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferenceFault {
    /// The cause in one kebab-case word, such as `panicked` or `not-finite`.
    pub cause: &'static str,
    /// What the runner said, bounded.
    pub detail: String,
}

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFault {
    /// The cause in one kebab-case word, such as `full` or `input-output`.
    pub cause: &'static str,
    /// What the store said, bounded.
    pub detail: String,
}

/// Why a record is gone without having been delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GoneCause {
    /// The outbox reached its size and the oldest made room.
    Full,
    /// The medium lost or corrupted it.
    Damaged,
    /// It never reached the medium and the memory for waiting records was full.
    NotStored,
    /// The broker refuses it for ever, or it can fit no packet.
    Refused,
    /// The outbox reached its size and what matters less made room.
    Displaced,
    /// The outbox reached its size and its oldest part was made coarser.
    Thinned,
    /// It was older than the time to live.
    Expired,
}

impl GoneCause {
    /// The word used in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Damaged => "damaged",
            Self::NotStored => "not-stored",
            Self::Refused => "refused",
            Self::Displaced => "displaced",
            Self::Thinned => "thinned",
            Self::Expired => "expired",
        }
    }
}

/// How full the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// Records that wait for delivery.
    pub pending: u64,
    /// Bytes of those records.
    pub pending_bytes: u64,
    /// Bytes that the store takes on the medium.
    pub disk_bytes: u64,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFault {
    /// The cause in one kebab-case word, such as `refused`, `timeout` or `closed`.
    pub cause: &'static str,
    /// What the client said, bounded.
    pub detail: String,
}

/// What the broker said of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckOutcome {
    /// Reason 0x00: it has it.
    Taken,
    /// Reason 0x10: nobody subscribes, so it threw the message away.
    NoSubscribers,
    /// Any reason of 0x80 and above.
    Refused {
        /// The reason code of MQTT 5.
        reason: u8,
    },
}

/// What runs beside the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Worker {
    /// A bus thread.
    Sensing,
    /// The inference thread.
    Inference,
    /// The store thread.
    Store,
    /// The MQTT runtime.
    Link,
    /// The HTTP runtime.
    Http,
}

impl Worker {
    /// The word used in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sensing => "sensing",
            Self::Inference => "inference",
            Self::Store => "store",
            Self::Link => "link",
            Self::Http => "http",
        }
    }
}

/// One record as it lies in the outbox: a sequence number and bytes that never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place.
    pub seq: Seq,
    /// The JSON object that [`crate::record::encode`] made.
    pub payload: Arc<[u8]>,
}

/// Where a message stands in the stream, so that whoever receives it can tell a gap from a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its records were made before this connection, or are sent again: no news.
    pub historical: bool,
    /// No record is kept between this and the first of the message.
    pub after: Seq,
    /// Nothing up to here comes again, unless it is asked for.
    pub settled: Seq,
}

/// A deed that the core asks of the shell.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask a probe for a sample; it answers with [`Event::Sample`].
    Poll {
        /// Which sensor.
        sensor: SensorId,
        /// The tick that the sample is for.
        tick: Mono,
    },
    /// Reset a bus that answers nothing; answered by [`Event::Recovered`].
    Recover {
        /// Which bus.
        bus: BusId,
    },
    /// Run a model; it answers with [`Event::Inferred`].
    Infer {
        /// Which model.
        model: ModelId,
        /// Which of its files.
        lane: Lane,
        /// The tick that the window ends with.
        tick: Mono,
        /// The window, row by row (oldest first), one column per input, preprocessed.
        window: Vec<f32>,
    },
    /// Make a step in the life of a model durable; answered by [`Event::Model`].
    ModelStep {
        /// Which model.
        model: ModelId,
        /// The step.
        step: ModelStep,
        /// The file that the evidence is of: another one may be on trial by now.
        file: Arc<ModelConfig>,
        /// Which rule asks for it, in one kebab-case word.
        reason: &'static str,
        /// The evidence in words, bounded.
        evidence: String,
    },
    /// Put a record into the outbox, in the form that [`crate::record::encode`] gives it; answered by
    /// [`Event::Stored`] or [`Event::StoreFailed`].
    Store {
        /// The record; the core keeps the other half until it is durable.
        record: Arc<Record>,
    },
    /// Read records with `after < seq <= through`; answered by [`Event::Loaded`] or [`Event::LoadFailed`].
    Load {
        /// Exclusive lower end.
        after: Seq,
        /// Inclusive upper end.
        through: Seq,
        /// Most records to return.
        records_max: u32,
        /// Most payload bytes to return; one record is always returned, however large.
        bytes_max: u32,
    },
    /// Send one message; answered by [`Event::Acked`] unless the connection ends first.
    Publish {
        /// Names the message within this connection.
        batch: BatchId,
        /// The records, in order.
        records: Vec<StoredRecord>,
        /// What the message says of the records around them.
        standing: Standing,
    },
    /// Let delivered records that are still kept wait for delivery again; answered by [`Event::Recalled`].
    Recall {
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
    },
    /// Carry out a command; answered by [`Event::Command`].
    Execute {
        /// Which one.
        id: CommandId,
        /// What it asks for.
        deed: Deed,
    },
    /// Open the probe of a sensor anew before the next sample.
    Reopen {
        /// Which sensor.
        sensor: SensorId,
    },
    /// Answer a command. Nobody waits for it: without a connection it is lost.
    Reply {
        /// Where to.
        to: ReplyTo,
        /// The answer, JSON.
        payload: String,
    },
    /// A command that was taken has come to its end.
    Settled {
        /// The key that signed it.
        key: Option<String>,
        /// Its number.
        counter: u64,
    },
    /// End in order, with the exit status that asks the service manager for a new start.
    Restart,
    /// Delete every record from `first` to `last`: they are delivered.
    Forget {
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
    },
    /// Delete every record from `first` to `last`: they can never be delivered. In one with the deletion the store notes
    /// the loss; answered by [`Event::RecordsGone`].
    Discard {
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
    },
    /// The receiver knows that these are gone: the store may forget its notes of that cause within the range.
    Settle {
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
        /// As in [`Event::RecordsGone`].
        cause: GoneCause,
    },
    /// Save what the voters have learned; nothing waits for it.
    Checkpoint(Checkpoint),
    /// Make a new connection; answered by [`Event::LinkUp`] or [`Event::LinkDown`].
    Connect {
        /// Which of the brokers, in order of preference from 0.
        broker: usize,
    },
    /// End the connection without waiting for more than a farewell; answered by [`Event::LinkDown`].
    Disconnect {
        /// Why, in one kebab-case word.
        cause: &'static str,
    },
    /// Every stage has made progress: tell the service manager.
    StrokeWatchdog,
}
