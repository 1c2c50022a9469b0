//! Settings: from one TOML file and the environment to everything that the agent is told.
//!
//! Owns: the shape of the file, its defaults, and errors that name file, line, column and key. Must not: open a device,
//! a store or a model.
//!
//! Invariant: what [`Settings::load`] accepts needs no further check of form; [`Settings::core_config`] adds what only
//! the models' manifests know.

mod chip_source;
mod cloud;
mod commands;
mod convert;
mod delivery;
mod file;
mod guard;
mod models;
mod overrides;
mod own_sources;
mod sending;
mod shape;
mod shown;
mod sources;
mod trial;
mod values;
mod views;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use quorate_core::{
    config::{Config, LinkConfig, ModelConfig, OutboxConfig, QuantityConfig},
    model::{Impute, Split, TrialRules},
};
use quorate_firmware_bridge::{
    chips::{self, BusKind, ChipConfig},
    hwmon::HwmonConfig,
    iio::IioConfig,
    linux::serial::Parity,
    modbus::ModbusConfig,
    one_wire::OneWireConfig,
    simulated::SimulatedConfig,
    thermal::ThermalConfig,
};
use quorate_models::Missing;
use thiserror::Error;

use crate::{
    command::Keyring,
    feed::{self, program, socket},
    live,
    model::trust::ModelKey,
    mqtt::{BrokerUrl, Encoding, Protocol},
    store::OnFull,
};

/// Largest configuration file in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What is wrong, where, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}: {key}: {message}")]
pub struct SettingsError {
    /// `FILE:LINE:COLUMN`, or the environment variable, or the file alone.
    pub place: String,
    /// The key as a path, such as `quantities[0].sensors`.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// Everything that the agent is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where they came from, for messages.
    pub name: String,
    /// Name of the device.
    pub device: String,
    /// Whether votes carry the codes of other systems.
    pub status_codes: bool,
    /// Buses.
    pub buses: Vec<Bus>,
    /// Sensors; the core's sensor numbers index them.
    pub sensors: Vec<Sensor>,
    /// Quantities, in the core's terms.
    pub quantities: Vec<QuantityConfig>,
    /// Models.
    pub models: Vec<Model>,
    /// Keys that may sign models.
    pub model_keys: Vec<ModelKey>,
    /// Where results are kept.
    pub outbox: Option<Outbox>,
    /// Where results go.
    pub mqtt: Option<Mqtt>,
    /// Live views beside the records.
    pub live: Option<live::Options>,
    /// The endpoint.
    pub http: Http,
    /// The least important log lines that are written.
    pub log_level: tracing::Level,
    /// Who may give commands.
    pub keyring: Keyring,
    /// The file with the environment's values laid over it, without secrets, JSON.
    pub shown: String,
}

/// One bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// Its name.
    pub id: String,
    /// What hangs on it.
    pub kind: BusKind,
    /// Its device file; empty for a connection.
    pub path: PathBuf,
    /// Where a connection goes to.
    pub address: Option<SocketAddr>,
    /// Parity of a serial line.
    pub parity: Parity,
    /// Time for one request, in milliseconds.
    pub timeout_ms: u64,
    /// Speed of a serial line, in baud.
    pub baud: u32,
    /// Whether its driver may be bound anew when nothing on it answers.
    pub rebind: bool,
}

/// One sensor.
#[derive(Clone, Debug)]
pub struct Sensor {
    /// Its name.
    pub id: String,
    /// Where its values come from.
    pub source: Source,
    /// What is physically possible.
    pub range: Option<(f64, f64)>,
    /// The device that it is an axis of.
    pub device: Option<String>,
}

/// Where the values of a sensor come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A column of a trace, in `quorate replay` alone.
    Replay,
    /// A made-up signal, for trials.
    Simulated {
        /// What it shares a thread with.
        bus: String,
        /// The signal.
        config: SimulatedConfig,
    },
    /// The kernel's hardware monitoring.
    Hwmon(HwmonConfig),
    /// The kernel's industrial I/O.
    Iio(IioConfig),
    /// A channel of a microcontroller.
    Wire {
        /// Name of its serial line.
        bus: String,
        /// The channel.
        channel: u8,
        /// Period that the microcontroller is asked to sample it with, in microseconds.
        period_us: Option<u32>,
    },
    /// A thermal zone of the kernel.
    Thermal(ThermalConfig),
    /// A thermometer on 1-Wire.
    OneWire(OneWireConfig),
    /// A value of a Modbus device.
    Modbus {
        /// Name of its line.
        bus: String,
        /// Which value.
        config: ModbusConfig,
    },
    /// A channel of what a program prints.
    Program {
        /// What is started; sensors with the same share it.
        options: program::Options,
        /// The channel.
        channel: feed::Channel,
    },
    /// A channel of what comes over a Unix socket.
    Socket {
        /// Its file; sensors with the same share it.
        path: PathBuf,
        /// What it is.
        kind: socket::Kind,
        /// The channel.
        channel: feed::Channel,
    },
    /// A channel of a chip.
    Chip {
        /// Name of its bus.
        bus: String,
        /// Which chip, where, and which channel of it.
        config: ChipConfig,
    },
}

impl Source {
    /// What the channel of a chip is; `None` for other sources.
    #[must_use]
    pub fn channel(&self) -> Option<&'static chips::Channel> {
        match self {
            Self::Chip { config, .. } => Some(config.channel()),
            _ => None,
        }
    }
}

/// One model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Its bundle, a folder or a `.qmodel` file, relative to the configuration file.
    pub bundle: PathBuf,
    /// The quantities that feed it, in the order of the manifest.
    pub inputs: Vec<String>,
    /// What a new file must show before it counts.
    pub trial: Option<TrialRules>,
    /// How a new file is compared with the active one, in place of a canary.
    pub split: Option<Split>,
}

/// Where results are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// The directory.
    pub path: PathBuf,
    /// Most bytes that it may take.
    pub size_bytes_max: u64,
    /// Longest time that a record waits for its commit, in milliseconds; 0 commits every record.
    pub commit_interval_ms: u64,
    /// Most records in one commit.
    pub commit_records_max: u32,
    /// What happens when it is full.
    pub on_full: OnFull,
    /// Records that are older than this are given up, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Whether delivered records stay until their space is needed.
    pub retain_acked: bool,
    /// Bytes of the file system that are left to others.
    pub free_bytes_min: u64,
    /// Bytes that are set aside for the time when the file system is full.
    pub ballast_bytes: u64,
}

/// Where results go.
#[derive(Clone, Debug)]
pub struct Mqtt {
    /// The broker.
    pub url: BrokerUrl,
    /// Other brokers, in order of preference.
    pub fallback_urls: Vec<BrokerUrl>,
    /// Base of all topics, with the device's name filled in.
    pub topic: String,
    /// Client identifier.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// File with the certificate authorities to trust; the system's when not given.
    pub ca_file: Option<PathBuf>,
    /// Certificate of this device, with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// Key of this device.
    pub key_file: Option<PathBuf>,
    /// Keep-alive in seconds.
    pub keep_alive_s: u16,
    /// Version of MQTT.
    pub protocol: Protocol,
    /// Form of the batches.
    pub encoding: Encoding,
    /// Whether larger batches are compressed.
    pub compress: bool,
    /// How records are batched.
    pub outbox: OutboxConfig,
    /// How the connection is made again.
    pub link: LinkConfig,
    /// Whose limits were checked.
    pub profile: Option<String>,
}

/// The endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// What a model's manifest says that the configuration needs.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    /// Its name.
    pub id: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the model file.
    pub digest: String,
    /// Ticks in a window.
    pub window: usize,
    /// Time between two ticks in milliseconds.
    pub period_ms: u64,
    /// Its inputs, in order.
    pub inputs: Vec<InputFacts>,
    /// Names of its outputs, in order.
    pub outputs: Vec<String>,
    /// Score above which it raises the alarm.
    pub threshold: Option<f64>,
    /// How far below it the alarm ends.
    pub hysteresis: f64,
    /// Where its outputs lie, in order.
    pub output_ranges: Vec<Option<(f64, f64)>>,
    /// What it does without all of its inputs.
    pub missing: Missing,
}

/// What a manifest says of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct InputFacts {
    /// The quantity that it was trained on.
    pub quantity: String,
    /// Its unit.
    pub unit: String,
    /// Subtracted from the value.
    pub mean: f64,
    /// Divides what is left.
    pub scale: f64,
    /// Values that the model was made for.
    pub range: Option<(f64, f64)>,
    /// What stands in for it.
    pub impute: Option<Impute>,
}

impl Settings {
    /// Reads a file and applies the environment's overrides.
    ///
    /// # Errors
    /// The file cannot be read, or the first thing in it that is wrong.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let name = path.display().to_string();
        let text = read(path).map_err(|message| SettingsError {
            place: name.clone(),
            key: "file".into(),
            message,
        })?;
        // Not `vars`, which panics on a variable that is not Unicode, whoever set it.
        let unicode = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::parse(&name, &text, std::env::vars_os().filter_map(unicode))
    }

    /// The same from a text; `environment` holds pairs of variable and value.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(
        name: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let source = file::Source { name, text };
        let (file, origins) = file::parse(source, environment)?;
        convert::settings(source, &origins, file)
    }

    /// The core's configuration, with `models` in the order of [`Settings::models`].
    ///
    /// # Errors
    /// A model whose inputs do not fit, or a relation that the core does not accept.
    pub fn core_config(&self, models: &[ModelFacts]) -> Result<Config, SettingsError> {
        shape::core_config(self, models)
    }

    /// The same of one model, in the place of [`Settings::models`] at `index`.
    ///
    /// # Errors
    /// Inputs that do not fit, or a relation that the core does not accept.
    pub fn model_config(
        &self,
        index: usize,
        facts: &ModelFacts,
    ) -> Result<ModelConfig, SettingsError> {
        shape::model_config(self, index, facts)
    }
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut text = String::new();
    let mut limited = file.take(FILE_BYTES_MAX + 1);
    limited
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read as text: {error}"))?;
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes > FILE_BYTES_MAX) {
        return Err(format!("expected at most {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
