//! The configuration of the core: validated once at the edge, trusted afterwards. Every limit has its name here.
//!
//! Owns: the settings in the core's own units, and the limits. Must not: parse text.
//!
//! Invariant: a [`Config`] that [`Config::validate`] accepted makes no part of the core panic.

use alloc::{format, string::String, vec::Vec};

use crate::{
    units::{BootId, Epoch, QuantityId, SensorId},
    vote::{CHANNELS_MAX, OnQuorumLoss, OnSplit},
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
}

/// One sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct SensorConfig {
    /// Its name.
    pub id: String,
    /// Lowest and highest value that is physically possible, in the quantity's unit.
    pub range: Option<(f64, f64)>,
}

/// One voted quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantityConfig {
    /// Its name.
    pub id: String,
    /// UCUM code or plain name; "1" for none.
    pub unit: String,
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
#[derive(Clone, Debug, PartialEq)]
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
    /// Values outside this range make the model abstain.
    pub range: Option<(f64, f64)>,
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
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            batch_records_max: 100,
            batch_bytes_max: 64 * 1024,
            inflight_batches_max: 8,
            ack_timeout_ms: 20_000,
            linger_ms: 500,
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
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            first_retry_ms_max: 2_000,
            backoff_ms_min: 1_000,
            backoff_ms_max: 300_000,
            connect_timeout_ms: 30_000,
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

impl Config {
    /// Checks every relation that the core relies upon.
    ///
    /// # Errors
    /// The first key that does not hold, with what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_id("device.id", &self.device)?;
        check_count("sensors", self.sensors.len(), SENSORS_MAX)?;
        check_count("quantities", self.quantities.len(), QUANTITIES_MAX)?;
        check_count("models", self.models.len(), MODELS_MAX)?;
        for (index, sensor) in self.sensors.iter().enumerate() {
            sensor.validate(&format!("sensors[{index}]"))?;
            let twin = self.sensors[..index]
                .iter()
                .any(|other| other.id == sensor.id);
            check(!twin, &format!("sensors[{index}].id"), || {
                format!("`{}` is used twice", sensor.id)
            })?;
        }
        for (index, quantity) in self.quantities.iter().enumerate() {
            quantity.validate(&format!("quantities[{index}]"), self.sensors.len())?;
            let twin = self.quantities[..index]
                .iter()
                .any(|other| other.id == quantity.id);
            check(!twin, &format!("quantities[{index}].id"), || {
                format!("`{}` is used twice", quantity.id)
            })?;
        }
        for (index, model) in self.models.iter().enumerate() {
            model.validate(&format!("models[{index}]"), self.quantities.len())?;
        }
        self.outbox.validate()?;
        self.link.map_or(Ok(()), |link| link.validate())?;
        check(self.vitals.stroke_ms > 0, "vitals.stroke_ms", || {
            "expected at least 1".into()
        })?;
        check(self.vitals.stall_ms >= 1_000, "vitals.stall_ms", || {
            "expected at least 1000".into()
        })
    }
}

impl SensorConfig {
    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        check_id(&format!("{key}.id"), &self.id)?;
        check_range(&format!("{key}.range"), self.range)
    }
}

impl QuantityConfig {
    fn validate(&self, key: &str, sensors: usize) -> Result<(), ConfigError> {
        check_id(&format!("{key}.id"), &self.id)?;
        self.validate_channels(key, sensors)?;
        self.validate_times(key)?;
        self.validate_voting(key)
    }

    fn validate_channels(&self, key: &str, sensors: usize) -> Result<(), ConfigError> {
        let channels = self.sensors.len();
        check(
            (1..=CHANNELS_MAX).contains(&channels),
            &format!("{key}.sensors"),
            || format!("expected 1 to {CHANNELS_MAX} sensors, found {channels}"),
        )?;
        for (index, sensor) in self.sensors.iter().enumerate() {
            check(
                sensor.index() < sensors,
                &format!("{key}.sensors[{index}]"),
                || "no such sensor".into(),
            )?;
            let twin = self.sensors[..index].contains(sensor);
            check(!twin, &format!("{key}.sensors[{index}]"), || {
                "a sensor may stand only once in a quantity".into()
            })?;
        }
        Ok(())
    }

    fn validate_times(&self, key: &str) -> Result<(), ConfigError> {
        check(
            (PERIOD_MS_MIN..=PERIOD_MS_MAX).contains(&self.period_ms),
            &format!("{key}.period_ms"),
            || {
                format!(
                    "expected {PERIOD_MS_MIN} to {PERIOD_MS_MAX}, found {}",
                    self.period_ms
                )
            },
        )?;
        check(
            self.timeout_ms >= self.period_ms,
            &format!("{key}.timeout_ms"),
            || {
                format!(
                    "expected at least period_ms ({}), found {}",
                    self.period_ms, self.timeout_ms
                )
            },
        )?;
        check(
            self.lead_ms < self.period_ms,
            &format!("{key}.lead_ms"),
            || {
                format!(
                    "expected less than period_ms ({}), found {}",
                    self.period_ms, self.lead_ms
                )
            },
        )
    }

    fn validate_voting(&self, key: &str) -> Result<(), ConfigError> {
        let channels = self.sensors.len();
        let positive = |value: f64| value.is_finite() && value >= 0.0;
        check(
            self.accuracy_absolute.is_none_or(positive) && positive(self.accuracy_relative),
            &format!("{key}.accuracy"),
            || "expected finite numbers of at least 0".into(),
        )?;
        check(
            (1..=channels).contains(&self.sources_min),
            &format!("{key}.min_sources"),
            || {
                format!(
                    "expected 1 to the number of sensors ({channels}), found {}",
                    self.sources_min
                )
            },
        )?;
        check(self.fail_count >= 1, &format!("{key}.fail_count"), || {
            "expected at least 1".into()
        })?;
        check(self.clear_count >= 1, &format!("{key}.clear_count"), || {
            "expected at least 1".into()
        })
    }
}

impl ModelConfig {
    fn validate(&self, key: &str, quantities: usize) -> Result<(), ConfigError> {
        check_id(&format!("{key}.id"), &self.id)?;
        check(!self.inputs.is_empty(), &format!("{key}.inputs"), || {
            "expected at least one input".into()
        })?;
        check(!self.outputs.is_empty(), &format!("{key}.outputs"), || {
            "expected at least one output".into()
        })?;
        let values = self.window.saturating_mul(self.inputs.len());
        check(
            (1..=WINDOW_VALUES_MAX).contains(&values),
            &format!("{key}.window"),
            || format!("expected 1 to {WINDOW_VALUES_MAX} values, found {values}"),
        )?;
        for (index, input) in self.inputs.iter().enumerate() {
            let key = format!("{key}.inputs[{index}]");
            check(input.quantity.index() < quantities, &key, || {
                "no such quantity".into()
            })?;
            let scaled = input.mean.is_finite() && input.scale.is_finite() && input.scale > 0.0;
            check(scaled, &key, || {
                "expected a finite mean and a finite scale above 0".into()
            })?;
            check_range(&key, input.range)?;
        }
        Ok(())
    }
}

impl OutboxConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        check(
            self.batch_records_max >= 1,
            "mqtt.batch_records_max",
            || "expected at least 1".into(),
        )?;
        check(self.batch_bytes_max >= 1024, "mqtt.batch_bytes_max", || {
            "expected at least 1024".into()
        })?;
        check(
            (1..=1024).contains(&self.inflight_batches_max),
            "mqtt.inflight_batches_max",
            || "expected 1 to 1024".into(),
        )?;
        check(self.ack_timeout_ms >= 100, "mqtt.ack_timeout_ms", || {
            "expected at least 100".into()
        })
    }
}

impl LinkConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        check(self.backoff_ms_min >= 10, "mqtt.backoff_ms_min", || {
            "expected at least 10".into()
        })?;
        check(
            self.backoff_ms_max >= self.backoff_ms_min,
            "mqtt.backoff_ms_max",
            || format!("expected at least backoff_ms_min ({})", self.backoff_ms_min),
        )?;
        check(
            self.connect_timeout_ms >= 100,
            "mqtt.connect_timeout_ms",
            || "expected at least 100".into(),
        )
    }
}

fn check(holds: bool, key: &str, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError {
        key: key.into(),
        message: message(),
    })
}

fn check_id(key: &str, id: &str) -> Result<(), ConfigError> {
    let legal = |character: char| character.is_alphanumeric() || "-_.:".contains(character);
    check(
        !id.is_empty() && id.len() <= ID_BYTES_MAX && id.chars().all(legal),
        key,
        || {
            format!(
                "expected 1 to {ID_BYTES_MAX} letters, digits, `-`, `_`, `.` or `:`, found `{id}`"
            )
        },
    )
}

fn check_count(key: &str, count: usize, most: usize) -> Result<(), ConfigError> {
    check(count <= most, key, || {
        format!("expected at most {most}, found {count}")
    })
}

fn check_range(key: &str, range: Option<(f64, f64)>) -> Result<(), ConfigError> {
    let ordered = range.is_none_or(|(low, high)| low.is_finite() && high.is_finite() && low < high);
    check(ordered, key, || {
        "expected two finite numbers, the lower first".into()
    })
}
