//! The configuration of the core: validated once at the edge, trusted afterwards. Every limit has its name here.
//!
//! Owns: the settings in the core's own units, and the limits. Must not: parse text, or check a relation: see `validate`.
//!
//! Invariant: a [`Config`] that [`Config::validate`] accepted makes no part of the core panic.

mod validate;

use alloc::{string::String, vec::Vec};

use crate::{
    model::{Impute, Missing, Split, TrialRules},
    units::{BootId, BusId, Epoch, QuantityId, SensorId},
    vote::{CHANNELS_MAX, Kind, OnQuorumLoss, OnSplit, Vote},
};

/// Most sensors of one device.
pub const SENSORS_MAX: usize = 1024;
/// Most voted quantities of one device.
pub const QUANTITIES_MAX: usize = 1024;
/// Most models of one device.
pub const MODELS_MAX: usize = 64;
/// Most values in one model window (ticks times inputs).
pub const WINDOW_VALUES_MAX: usize = 65_536;
/// Shortest period of a quantity: 1 kHz.
pub const PERIOD_MS_MIN: u64 = 1;
/// Longest period of a quantity: one day.
pub const PERIOD_MS_MAX: u64 = 86_400_000;
/// Longest identifier in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Largest record that the outbox takes, in bytes of payload.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Most brokers.
pub const BROKERS_MAX: usize = 8;
/// Most labels of an enumeration.
pub const CODES_MAX: u32 = 256;
/// Records that may wait in memory for the store at once; beyond it the oldest telemetry is dropped and named.
pub const STORING_RECORDS_MAX: usize = 4096;

const _: () = assert!(
    CHANNELS_MAX <= SENSORS_MAX,
    "a quantity cannot have more channels than there are sensors"
);

/// Everything that the core needs to know before it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the device, unique in the fleet.
    pub device: String,
    /// Whether the records of votes carry the codes of NE 107 and OPC UA.
    pub status_codes: bool,
    /// The sensors; [`SensorId`] indexes them.
    pub sensors: Vec<SensorConfig>,
    /// The voted quantities; [`QuantityId`] indexes them.
    pub quantities: Vec<QuantityConfig>,
    /// The models; [`crate::units::ModelId`] indexes them.
    pub models: Vec<ModelConfig>,
    /// How records are stored and sent.
    pub outbox: OutboxConfig,
    /// How the connection is made; absent when there is no broker to deliver to.
    pub link: Option<LinkConfig>,
    /// When a stage counts as stalled.
    pub vitals: VitalsConfig,
    /// What the sensors hang on, as far as it is guarded by breakers.
    pub guard: GuardConfig,
}

/// What is guarded by breakers. A sensor of no part is asked whatever happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardConfig {
    /// Buses; [`crate::units::BusId`] indexes them.
    pub buses: Vec<BusConfig>,
    /// Devices on them.
    pub parts: Vec<PartConfig>,
}

/// One bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusConfig {
    /// Its name.
    pub id: String,
    /// What a person can do when it answers nothing.
    pub remedy: String,
    /// Whether the shell may reset it.
    pub recover: bool,
}

/// One device on a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartConfig {
    /// What it is called in events.
    pub id: String,
    /// The bus that it hangs on.
    pub bus: BusId,
    /// The sensors that are channels of it.
    pub sensors: Vec<SensorId>,
}

/// One sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct SensorConfig {
    /// Its name.
    pub id: String,
    /// Lowest and highest value that is physically possible, in the quantity's unit.
    pub range: Option<(f64, f64)>,
    /// The device that it is an axis of, where it is one of several: with one axis isolated, all are out.
    pub device: Option<String>,
}

/// One voted quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantityConfig {
    /// Its name.
    pub id: String,
    /// UCUM code or plain name; "1" for none.
    pub unit: String,
    /// How it is voted.
    pub kind: Kind,
    /// What the codes of an enumeration mean, in order; empty otherwise.
    pub labels: Vec<String>,
    /// The sensors that measure it, in the order of the channels.
    pub sensors: Vec<SensorId>,
    /// Time between two votes in milliseconds.
    pub period_ms: u64,
    /// Age at which a reading no longer counts, in milliseconds.
    pub timeout_ms: u64,
    /// How long before each vote its sensors are polled, in milliseconds, below `period_ms`; 0 polls at the vote before.
    pub lead_ms: u64,
    /// Datasheet accuracy (half-width, in the unit), where given.
    pub accuracy_absolute: Option<f64>,
    /// Datasheet accuracy as a share of the value.
    pub accuracy_relative: f64,
    /// Fewest channels that make a quorum.
    pub sources_min: usize,
    /// Consecutive faulty samples that quarantine a channel.
    pub fail_count: u32,
    /// Consecutive clean samples that readmit a channel.
    pub clear_count: u32,
    /// What to do when the channels disagree and none can be blamed.
    pub on_split: OnSplit,
    /// What to do when the quorum is lost.
    pub on_quorum_loss: OnQuorumLoss,
    /// Longest time that a held value may stand in, in milliseconds.
    pub hold_age_ms_max: u64,
}

/// One model, as its manifest describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelConfig {
    /// Its name.
    pub id: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the model file in hexadecimal.
    pub digest: String,
    /// Ticks in one window, at least 1.
    pub window: usize,
    /// The inputs, in the order of the tensor's columns.
    pub inputs: Vec<ModelInput>,
    /// Names of the outputs, in the order of the runner; the first is the score.
    pub outputs: Vec<String>,
    /// Score above which the inference raises an alarm, where the manifest gives one.
    pub threshold: Option<f64>,
    /// The alarm ends when the score is not above the threshold less this; finite, at least 0.
    pub hysteresis: f64,
    /// Where the outputs lie, in their order; a range that is not there limits nothing.
    pub output_ranges: Vec<Option<(f64, f64)>>,
    /// What it does without all of its inputs.
    pub missing: Missing,
    /// One of its inputs has a single sensor, so that its votes are never better than uncertain.
    pub single_sensor: bool,
    /// What a new file must show, where the configuration asks for it.
    pub trial: Option<TrialRules>,
    /// How a new file is compared, where the configuration asks for that in place of a canary.
    pub split: Option<Split>,
}

/// One input of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelInput {
    /// The voted quantity that feeds it.
    pub quantity: QuantityId,
    /// Subtracted from the value.
    pub mean: f64,
    /// Divides what is left; finite and above 0.
    pub scale: f64,
    /// A value outside this range is as good as none.
    pub range: Option<(f64, f64)>,
    /// What stands in for it, where the model imputes.
    pub impute: Option<Impute>,
}

/// How records are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Most records in one message.
    pub batch_records_max: u32,
    /// Most payload bytes in one message.
    pub batch_bytes_max: u32,
    /// Most messages without an acknowledgement.
    pub inflight_batches_max: u32,
    /// A message that is not acknowledged for this long ends the connection, in milliseconds.
    pub ack_timeout_ms: u64,
    /// How long a record may wait for company before its message goes, in milliseconds.
    pub linger_ms: u64,
    /// What makes a record delivered.
    pub confirm: ConfirmBy,
    /// Acknowledged records without a new watermark for this long are sent again, in milliseconds.
    pub watermark_timeout_ms: u64,
    /// Which records go first when there is a backlog.
    pub order: Order,
    /// Most messages of records in a second; 0 for no limit.
    pub messages_per_second_max: u32,
    /// Most bytes of such messages in a second; 0 for no limit.
    pub bytes_per_second_max: u32,
    /// Most bytes of such messages in 24 hours of running; 0 for no limit.
    pub bytes_per_day_max: u64,
}

/// What makes a record delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfirmBy {
    /// The broker's acknowledgement.
    #[default]
    Puback,
    /// The ingesting side's watermark.
    Watermark,
}

/// Which records go first when there is a backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// In the order of their numbers.
    #[default]
    OldestFirst,
    /// Those that were made on this connection, then the backlog.
    LiveFirst,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            batch_records_max: 100,
            batch_bytes_max: 64 * 1024,
            inflight_batches_max: 8,
            ack_timeout_ms: 20_000,
            linger_ms: 500,
            confirm: ConfirmBy::default(),
            watermark_timeout_ms: 60_000,
            order: Order::default(),
            messages_per_second_max: 0,
            bytes_per_second_max: 0,
            bytes_per_day_max: 0,
        }
    }
}

/// How the connection is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The first attempt after a loss comes after a uniform delay of 0 to this, in milliseconds.
    pub first_retry_ms_max: u64,
    /// Later attempts: full jitter over an interval that doubles from here, in milliseconds.
    pub backoff_ms_min: u64,
    /// The interval's cap in milliseconds.
    pub backoff_ms_max: u64,
    /// A connection attempt that has neither succeeded nor failed for this long is ended, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Brokers, in order of preference; at least 1.
    pub brokers: usize,
    /// Connections in a row that delivered nothing before the next broker is tried.
    pub failover_attempts: u32,
    /// After this long at another broker the preferred one is tried again, in milliseconds.
    pub failback_ms: u64,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            first_retry_ms_max: 2_000,
            backoff_ms_min: 1_000,
            backoff_ms_max: 300_000,
            connect_timeout_ms: 30_000,
            brokers: 1,
            failover_attempts: 2,
            failback_ms: 600_000,
        }
    }
}

/// When a stage counts as stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VitalsConfig {
    /// Work that a stage has owed for this long stalls it, in milliseconds.
    pub stall_ms: u64,
    /// Time between two strokes of the watchdog, in milliseconds.
    pub stroke_ms: u64,
}

impl Default for VitalsConfig {
    fn default() -> Self {
        Self {
            stall_ms: 60_000,
            stroke_ms: 2_000,
        }
    }
}

/// What the store and the system say at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The life of the store.
    pub epoch: Epoch,
    /// The next sequence number that was never used.
    pub seq_next: crate::units::Seq,
    /// This boot of the device.
    pub boot: BootId,
    /// Seed of every random choice, from the system's randomness.
    pub seed: u64,
}

/// A configuration that cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, as a path such as `quantities[2].sensors`.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl QuantityConfig {
    /// How long ago the channels last bore a value that is held.
    #[must_use]
    pub fn held_ms(&self, vote: &Vote) -> Option<u64> {
        let ticks = vote.held_ticks.map(u64::from)?;
        Some(ticks.saturating_mul(self.period_ms))
    }

    /// What a code means, where the quantity has labels.
    #[must_use]
    pub fn label(&self, code: Option<f64>) -> Option<&str> {
        let code = code?;
        let same = |&(index, _): &(u32, &String)| f64::from(index) == code;
        (0..)
            .zip(&self.labels)
            .find(same)
            .map(|(_, label)| label.as_str())
    }
}
