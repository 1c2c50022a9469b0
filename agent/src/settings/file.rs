//! The file as it is written: one struct per table, unknown keys refused, and the place of everything.
//!
//! Owns: parsing with places. Must not: know the meaning of a value beyond its type.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{SettingsError, chip_source::SensorSource, overrides, own_sources, shown, trial};

/// A text and its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
}

/// Where keys and values came from.
///
/// Invariant: a place up to the text's length is a byte of the text; each place beyond it is one of the variables.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// The length of the text.
    text_bytes: usize,
    /// The variables that were applied, and the key path that each of them sets.
    pub(super) variables: Vec<(String, String)>,
    /// The place of every value, by its key path.
    places: BTreeMap<String, usize>,
    /// Everything that is set, without secrets, JSON.
    pub(super) shown: String,
}

impl Origins {
    /// The place of the next variable.
    pub(super) fn next_place(&self) -> usize {
        self.text_bytes + 1 + self.variables.len()
    }

    fn variable(&self, place: usize) -> Option<&(String, String)> {
        self.variables.get(place.checked_sub(self.text_bytes + 1)?)
    }

    /// The place of a key, where it is given.
    pub(super) fn place_of(&self, key: &str) -> Option<usize> {
        self.places.get(key).copied()
    }

    /// Notes the place of every value that a key of the file can mean: none lies deeper.
    fn note(&mut self, key: &str, value: &Spanned<DeValue<'_>>, depth_left: usize) {
        self.places.insert(key.into(), value.span().start);
        let Some(depth_left) = depth_left.checked_sub(1) else {
            return;
        };
        match value.get_ref() {
            DeValue::Table(table) => self.note_table(&format!("{key}."), table, depth_left),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.note(&format!("{key}[{index}]"), item, depth_left);
                }
            }
            _ => {}
        }
    }

    fn note_table(&mut self, prefix: &str, table: &DeTable<'_>, depth_left: usize) {
        for (name, value) in table {
            self.note(&format!("{prefix}{}", name.get_ref()), value, depth_left);
        }
    }
}

/// Keys lie at most this deep: `sensors`, its element, `source`, and what stands in it.
const DEPTH_MAX: usize = 4;

impl Source<'_> {
    /// `FILE:LINE:COLUMN` of a byte, both from 1.
    pub(super) fn place(&self, byte: usize) -> String {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("{}:{line}:{column}", self.name)
    }

    pub(super) fn error(
        &self,
        origins: &Origins,
        byte: usize,
        key: &str,
        message: impl Into<String>,
    ) -> SettingsError {
        // A table of the file may hold a value of the environment: the key's own place is the better one.
        let byte = origins
            .place_of(key)
            .filter(|place| origins.variable(*place).is_some())
            .unwrap_or(byte);
        let place = origins.variable(byte).map_or_else(
            || self.place(byte),
            |(name, _)| format!("environment {name}"),
        );
        SettingsError {
            place,
            key: key.into(),
            message: message.into(),
        }
    }
}

/// Parses the text, lays the environment's values over it, and checks every key and type.
pub(super) fn parse(
    source: Source<'_>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(File, Origins), SettingsError> {
    let syntax = |error: &toml::de::Error| {
        let byte = error.span().map_or(0, |span| span.start);
        source.error(
            &Origins::default(),
            byte,
            &key_at(source.text, byte),
            one_line(error.message()),
        )
    };
    // The overrides own their texts, so that they live as long as the table that borrows them.
    let variables: Vec<(String, String)> = overrides::variables(environment);
    let mut table = DeTable::parse(source.text).map_err(|error| syntax(&error))?;
    let mut origins = Origins {
        text_bytes: source.text.len(),
        ..Origins::default()
    };
    for (variable, value) in &variables {
        overrides::apply(table.get_mut(), variable, value, &mut origins)?;
    }
    origins.note_table("", table.get_ref(), DEPTH_MAX);
    origins.shown = shown::shown(&table);
    let file = File::deserialize(Deserializer::from(table)).map_err(|error| {
        let byte = error.span().map_or(0, |span| span.start);
        match origins.variable(byte) {
            Some((_, key)) => source.error(&origins, byte, key, one_line(error.message())),
            None => syntax(&error),
        }
    })?;
    Ok((file, origins))
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The key on whose line a byte lies, with the table that it stands in, as far as the text tells.
fn key_at(text: &str, byte: usize) -> String {
    let before = text.get(..byte).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text
        .get(start..)
        .unwrap_or("")
        .lines()
        .next()
        .unwrap_or("")
        .trim();
    let header = |line: &str| {
        line.trim()
            .trim_start_matches('[')
            .trim_end()
            .trim_end_matches(']')
            .to_owned()
    };
    let table = before
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| line.starts_with('[') && line.ends_with(']'));
    let name = line.split('=').next().unwrap_or("").trim();
    match (table, line.starts_with('[')) {
        (_, true) => header(line),
        (Some(table), false) if !name.is_empty() => format!("{}.{name}", header(table)),
        (None, false) if !name.is_empty() => name.into(),
        _ => "file".into(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) device: Device,
    #[serde(default)]
    pub(super) buses: Vec<Bus>,
    #[serde(default)]
    pub(super) sensors: Vec<Sensor>,
    #[serde(default)]
    pub(super) quantities: Vec<Quantity>,
    #[serde(default)]
    pub(super) models: Vec<Model>,
    #[serde(default)]
    pub(super) model_keys: Vec<ModelKey>,
    pub(super) outbox: Option<Outbox>,
    pub(super) mqtt: Option<Mqtt>,
    pub(super) live: Option<Live>,
    #[serde(default)]
    pub(super) http: Http,
    #[serde(default)]
    pub(super) log: Log,
    #[serde(default)]
    pub(super) command_keys: Vec<CommandKey>,
    #[serde(default)]
    pub(super) commands: Commands,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CommandKey {
    pub(super) id: Spanned<String>,
    pub(super) public_key: Spanned<String>,
    pub(super) allow: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Commands {
    #[serde(default)]
    pub(super) allow_unsigned: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    #[serde(default)]
    pub(super) level: LogLevel,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) id: Spanned<String>,
    #[serde(default)]
    pub(super) status_codes: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bus {
    pub(super) id: Spanned<String>,
    pub(super) kind: Spanned<String>,
    pub(super) path: Option<String>,
    pub(super) address: Option<Spanned<String>>,
    pub(super) baud: Option<Spanned<u32>>,
    pub(super) parity: Option<Spanned<String>>,
    pub(super) timeout_ms: Option<Spanned<u64>>,
    #[serde(default)]
    pub(super) rebind: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sensor {
    pub(super) id: Spanned<String>,
    pub(super) source: Spanned<SensorSource>,
    pub(super) range: Option<Spanned<[f64; 2]>>,
    pub(super) device: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub(super) enum PlainSource {
    Replay {},
    Simulated(own_sources::Signal),
    Modbus(own_sources::Modbus),
    Program(own_sources::Program),
    Socket(own_sources::Socket),
    Thermal {
        zone: String,
    },
    OneWire {
        device: String,
    },
    Hwmon {
        chip: Option<String>,
        input: Option<String>,
        path: Option<String>,
    },
    Iio {
        name: String,
        channel: String,
        device: Option<String>,
    },
    Wire {
        bus: String,
        channel: u8,
        period_us: Option<u32>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quantity {
    pub(super) id: Spanned<String>,
    #[serde(default = "one")]
    pub(super) unit: String,
    pub(super) kind: Option<Spanned<Kind>>,
    pub(super) circle: Option<Spanned<[f64; 2]>>,
    pub(super) labels: Option<Spanned<Vec<String>>>,
    pub(super) sensors: Vec<Spanned<String>>,
    pub(super) period_ms: Option<Spanned<u64>>,
    pub(super) timeout_ms: Option<Spanned<u64>>,
    pub(super) lead_ms: Option<Spanned<u64>>,
    pub(super) accuracy: Option<Spanned<Number>>,
    pub(super) min_sources: Option<Spanned<usize>>,
    pub(super) fail_count: Option<Spanned<u32>>,
    pub(super) clear_count: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) on_split: OnSplit,
    #[serde(default)]
    pub(super) on_quorum_loss: OnQuorumLoss,
    pub(super) hold_max_age_ms: Option<u64>,
}

/// A number that may carry a unit: `"64 MiB"`, `"5 + 20%"`, or bare, as the environment gives it.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a number")]
pub(super) enum Number {
    Text(String),
    Integer(u64),
    Float(f64),
}

impl Number {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
        }
    }
}

fn one() -> String {
    "1".into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Scalar,
    Circular,
    Boolean,
    Enumeration,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OnSplit {
    #[default]
    Weighted,
    Hold,
    High,
    Low,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OnQuorumLoss {
    #[default]
    Hold,
    Bad,
    Model,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) id: Spanned<String>,
    pub(super) bundle: String,
    pub(super) inputs: Vec<Spanned<String>>,
    pub(super) trial: Option<trial::Trial>,
    pub(super) ab: Option<trial::Ab>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelKey {
    pub(super) id: Spanned<String>,
    pub(super) public_key: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Outbox {
    pub(super) path: Spanned<String>,
    pub(super) size_max: Option<Spanned<Number>>,
    pub(super) commit_interval_ms: Option<Spanned<u64>>,
    pub(super) commit_records_max: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) on_full: OnFull,
    pub(super) ttl: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) retain_acked: bool,
    pub(super) free_min: Option<Spanned<Number>>,
    pub(super) ballast: Option<Spanned<Number>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OnFull {
    #[default]
    DropOldest,
    DropLowestPriority,
    Thin,
    RejectNew,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mqtt {
    pub(super) url: Spanned<String>,
    pub(super) topic: Option<Spanned<String>>,
    pub(super) client_id: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) cert_file: Option<Spanned<String>>,
    pub(super) key_file: Option<Spanned<String>>,
    pub(super) keep_alive_s: Option<Spanned<u16>>,
    pub(super) version: Option<Spanned<Number>>,
    pub(super) profile: Option<Spanned<String>>,
    pub(super) encoding: Option<Spanned<String>>,
    pub(super) compression: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) allow_plaintext: bool,
    pub(super) batch_records_max: Option<u32>,
    pub(super) batch_bytes_max: Option<u32>,
    pub(super) inflight_batches_max: Option<u32>,
    pub(super) ack_timeout_ms: Option<u64>,
    pub(super) linger_ms: Option<u64>,
    pub(super) first_retry_ms_max: Option<u64>,
    pub(super) backoff_ms_min: Option<u64>,
    pub(super) backoff_ms_max: Option<u64>,
    pub(super) connect_timeout_ms: Option<u64>,
    pub(super) confirm: Option<Spanned<String>>,
    pub(super) watermark_timeout_ms: Option<u64>,
    pub(super) order: Option<Spanned<String>>,
    pub(super) messages_per_second_max: Option<u32>,
    pub(super) bytes_per_second_max: Option<Spanned<Number>>,
    pub(super) bytes_per_day_max: Option<Spanned<Number>>,
    #[serde(default)]
    pub(super) fallback_urls: Vec<Spanned<String>>,
    pub(super) failover_attempts: Option<u32>,
    pub(super) failback_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    pub(super) listen: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) allow_remote: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Live {
    pub(super) home_assistant: Option<Spanned<String>>,
    pub(super) sparkplug_group: Option<Spanned<String>>,
}
