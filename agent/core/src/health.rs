//! What the agent says of itself: one plain picture that the shell shows as JSON, metrics, a page and a status line.
//!
//! Owns: the shape of the picture. Must not: decide anything; [`crate::agent::Agent::health`] fills it.

use alloc::{string::String, vec::Vec};

use crate::{
    command::Refused,
    event::StoreReport,
    model::TrialHealth,
    units::{Mono, Seq},
    vote::{ChannelState, Quality, Reason},
};

/// The whole picture at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// When it was taken.
    pub now: Mono,
    /// When the agent started.
    pub started: Mono,
    /// The worst of everything below; being offline does not worsen it.
    pub condition: Condition,
    /// One entry per sensor, in the order of the configuration.
    pub sensors: Vec<SensorHealth>,
    /// One entry per bus that is guarded.
    pub buses: Vec<BusHealth>,
    /// One entry per quantity, in the order of the configuration.
    pub quantities: Vec<QuantityHealth>,
    /// One entry per model, in the order of the configuration.
    pub models: Vec<ModelHealth>,
    /// The store, and what waits in it.
    pub store: StoreHealth,
    /// The connection to the broker; absent when none is configured.
    pub link: Option<LinkHealth>,
    /// The certificates of the connection that were read; none without TLS.
    pub certificates: Vec<CertificateHealth>,
    /// Commands from outside.
    pub commands: CommandsHealth,
    /// Stages that owe work for too long; the watchdog is not stroked while there is one.
    pub stalled: Vec<&'static str>,
    /// Counters since the start.
    pub counters: Counters,
}

/// How the agent is as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Everything works.
    Ok,
    /// Something is left out or retried; results are still made and kept.
    Degraded,
    /// A stage is stalled or results cannot be kept.
    Failing,
}

impl Condition {
    /// The word used in answers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

/// One sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct SensorHealth {
    /// Its name.
    pub id: String,
    /// The newest valid value, in the quantity's unit.
    pub value: Option<f64>,
    /// When that value was taken.
    pub taken: Option<Mono>,
    /// The probe's complaint, while it has one.
    pub fault: Option<&'static str>,
    /// Waiting will not cure the complaint.
    pub fault_permanent: bool,
    /// Since when it complains.
    pub fault_since: Option<Mono>,
    /// The breaker of its device, where it is guarded: `closed`, `open` or `half-open`.
    pub breaker: Option<&'static str>,
    /// When its device is tried again, while it is shut out.
    pub retry: Option<Mono>,
}

/// One bus that is guarded by a breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusHealth {
    /// Its name.
    pub id: String,
    /// Its breaker: `closed`, `open` or `half-open`.
    pub state: &'static str,
    /// Since when it is open, or closed again.
    pub since: Mono,
    /// Why it is open.
    pub cause: Option<&'static str>,
    /// When it is tried again.
    pub retry: Option<Mono>,
    /// What a person can do, while it is open.
    pub remedy: Option<String>,
    /// How often it opened.
    pub openings: u64,
    /// What came of the newest reset: `reset`, or why it failed.
    pub recovery: Option<&'static str>,
}

/// One voted quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantityHealth {
    /// Its name.
    pub id: String,
    /// Its unit.
    pub unit: String,
    /// Time of the newest vote.
    pub tick: Option<Mono>,
    /// The voted value.
    pub value: Option<f64>,
    /// Its standard uncertainty.
    pub uncertainty: Option<f64>,
    /// Its quality.
    pub quality: Quality,
    /// Since when the quality is what it is.
    pub quality_since: Mono,
    /// Channels in the value.
    pub used: usize,
    /// Every channel, in order.
    pub channels: Vec<ChannelHealth>,
}

/// One channel of a quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelHealth {
    /// Name of the sensor.
    pub sensor: String,
    /// Its sample is in the newest vote.
    pub included: bool,
    /// Its state.
    pub state: ChannelState,
    /// Why.
    pub reason: Option<Reason>,
    /// Since when it is in that state.
    pub since: Mono,
}

/// One model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelHealth {
    /// Its name.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// `filling`, `running`, `abstaining`, `failed`, or `standby` while the model that it stands in for answers.
    pub state: &'static str,
    /// Since when.
    pub since: Mono,
    /// The newest score.
    pub score: Option<f64>,
    /// The score raises an alarm above this.
    pub threshold: Option<f64>,
    /// The newest score raised the alarm.
    pub alarm: bool,
    /// Cause and detail of the newest failure, while it lasts.
    pub fault: Option<String>,
    /// When it is tried again, while it is failed.
    pub retry: Option<Mono>,
    /// The evidence for a new file, while one is on trial.
    pub trial: Option<TrialHealth>,
}

/// The store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreHealth {
    /// `ok` or the cause of the newest failure.
    pub state: &'static str,
    /// What the store said, while it fails.
    pub detail: Option<String>,
    /// Since when.
    pub since: Mono,
    /// When the waiting records are stored again, while it fails.
    pub retry: Option<Mono>,
    /// Records made and not yet durable.
    pub storing: u64,
    /// The next sequence number.
    pub seq_next: Seq,
    /// What the store reported last.
    pub report: StoreReport,
}

/// The connection to the broker.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkHealth {
    /// `up`, `connecting` or `down`.
    pub state: &'static str,
    /// Since when.
    pub since: Mono,
    /// Why it is down.
    pub fault: Option<String>,
    /// When the next attempt comes.
    pub retry: Option<Mono>,
    /// Messages without an acknowledgement.
    pub inflight: u64,
    /// Which broker it is or will be, in order of preference from 0.
    pub broker: usize,
    /// What becomes of the records.
    pub delivery: DeliveryHealth,
}

/// What becomes of the records on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryHealth {
    /// `ok`, `refused`, `quota`, `no-consumer`, `watermark-late` or `budget-used-up`.
    pub state: &'static str,
    /// Since when.
    pub since: Mono,
    /// The reason code of the newest refusal, while records are set aside.
    pub reason: Option<u8>,
    /// Bytes of messages in this 24 hours of running.
    pub day_bytes: u64,
    /// How far the ingesting side has confirmed, where it does.
    pub confirmed: Option<Seq>,
}

/// A certificate of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateHealth {
    /// `client` or `server`.
    pub role: &'static str,
    /// Until when it is good, in milliseconds since 1970.
    pub not_after_unix_ms: i64,
    /// `valid`, `expires-soon` or `expired`.
    pub state: &'static str,
    /// When it was read.
    pub seen: Mono,
}

/// Commands from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandsHealth {
    /// `off`, `waiting` for a connection, `listening`, or `refused` by the broker.
    pub state: &'static str,
    /// Commands that were taken and have not come to their end.
    pub in_progress: u64,
}

/// Counters since the start; none ever decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Samples that arrived with a value.
    pub samples: u64,
    /// Probe faults that arrived in place of a sample.
    pub sample_faults: u64,
    /// Votes by quality: good, degraded, uncertain, bad.
    pub votes: [u64; 4],
    /// Ticks that were passed over because the agent was late.
    pub ticks_missed: u64,
    /// Inferences that gave an output.
    pub inferences: u64,
    /// Inferences that failed.
    pub inference_faults: u64,
    /// Windows that were not run because the model was still busy.
    pub inferences_skipped: u64,
    /// Records made.
    pub records: u64,
    /// Records that became durable.
    pub records_stored: u64,
    /// Commits that failed.
    pub store_faults: u64,
    /// Records delivered and acknowledged.
    pub records_acked: u64,
    /// Records lost by cause: full, damaged, not-stored, refused, displaced, thinned, expired.
    pub records_gone: [u64; 7],
    /// Messages handed to the link.
    pub batches_published: u64,
    /// Messages that the broker threw away because nobody subscribes.
    pub no_subscribers: u64,
    /// Bytes of the messages that carried records.
    pub bytes_sent: u64,
    /// Records that were set aside because the broker refuses them.
    pub records_set_aside: u64,
    /// Delivered records that wait again because somebody asked for it.
    pub records_recalled: u64,
    /// Watermarks that could not be of this store.
    pub watermarks_refused: u64,
    /// Connections made.
    pub connects: u64,
    /// Connections lost and attempts that failed.
    pub link_faults: u64,
    /// Commands that were taken.
    pub commands_accepted: u64,
    /// Commands that did what they were to.
    pub commands_done: u64,
    /// Commands that were taken and failed.
    pub commands_failed: u64,
    /// Commands that were not taken, by reason, in the order of [`Refused::ALL`].
    pub commands_refused: [u64; Refused::ALL.len()],
}
