//! The table `source` of a sensor: a plain kind with keys of its own, or a chip of the list.
//!
//! Owns: how a chip is written in the file. Must not: know a chip; the firmware bridge describes them.

use std::collections::BTreeMap;

use quorate_firmware_bridge::chips::{self, BusKind, ChipConfig, Description};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Bus, Source, file::PlainSource};

/// Kinds that are no chips, for the message of an unknown one.
const PLAIN_KINDS: [&str; 10] = [
    "replay",
    "simulated",
    "hwmon",
    "iio",
    "thermal",
    "one-wire",
    "wire",
    "modbus",
    "program",
    "socket",
];

/// Where the values of a sensor come from, as it is written.
#[derive(Debug)]
pub(super) enum SensorSource {
    /// A kind with keys of its own.
    Plain(PlainSource),
    /// A chip on a bus.
    Chip(&'static Description, ChipSource),
}

/// A chip as it is written. Keys beyond these are options of the chip.
#[derive(Debug, Deserialize)]
pub(super) struct ChipSource {
    // Read by whoever chose this shape; named here so that it is no option.
    #[serde(rename = "kind")]
    _kind: String,
    bus: String,
    address: Option<u16>,
    channel: Option<String>,
    #[serde(flatten)]
    options: BTreeMap<String, f64>,
}

impl<'de> Deserialize<'de> for SensorSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = toml::Table::deserialize(deserializer)?;
        let refused = |error: toml::de::Error| D::Error::custom(error.message());
        let kind = table.get("kind").and_then(toml::Value::as_str);
        if let Some(description) = kind.and_then(chips::find) {
            let source = ChipSource::deserialize(table).map_err(refused)?;
            return Ok(Self::Chip(description, source));
        }
        if let Some(kind) = kind.filter(|kind| !PLAIN_KINDS.contains(kind)) {
            let chips = chips::CHIPS.map(|chip| chip.kind);
            return Err(D::Error::custom(format_args!(
                "unknown kind `{kind}`, expected one of {}, {}",
                PLAIN_KINDS.join(", "),
                chips.join(", ")
            )));
        }
        PlainSource::deserialize(table)
            .map(Self::Plain)
            .map_err(refused)
    }
}

/// A chip on one of the buses; an error names the key below `source` and what is wrong.
pub(super) fn chip(
    description: &'static Description,
    source: &ChipSource,
    buses: &[Bus],
) -> Result<Source, (String, String)> {
    check_bus(&source.bus, description.bus, buses)?;
    let channel = match (&source.channel, description.channels) {
        (Some(channel), _) => channel.as_str(),
        (None, [only]) => only.name,
        (None, channels) => {
            let names: Vec<_> = channels.iter().map(|channel| channel.name).collect();
            let message = format!("missing; expected one of {}", names.join(", "));
            return Err((".channel".into(), message));
        }
    };
    let mut config = ChipConfig::new(description, channel)
        .map_err(|error| (".channel".into(), error.to_string()))?;
    match (source.address, description.bus) {
        (Some(address), _) => config
            .set_address(address)
            .map_err(|error| (".address".into(), error.to_string()))?,
        (None, BusKind::I2c) if description.addresses.len() > 1 => {
            return Err((".address".into(), "missing: its pins choose it".into()));
        }
        (None, _) => {}
    }
    for (key, value) in &source.options {
        config
            .set_option(key, *value)
            .map_err(|error| (format!(".{key}"), error.to_string()))?;
    }
    Ok(Source::Chip {
        bus: source.bus.clone(),
        config,
    })
}

/// A channel of a microcontroller; errors as for [`chip`].
pub(super) fn wire(
    (bus, channel, period_us): (&str, u8, Option<u32>),
    buses: &[Bus],
) -> Result<Source, (String, String)> {
    check_bus(bus, BusKind::Serial, buses)?;
    if usize::from(channel) >= chips::CHANNELS_MAX {
        let last = chips::CHANNELS_MAX - 1;
        let message = format!("expected 0 to {last}, found {channel}");
        return Err((".channel".into(), message));
    }
    if period_us == Some(0) {
        return Err((".period_us".into(), "expected at least 1".into()));
    }
    Ok(Source::Wire {
        bus: bus.into(),
        channel,
        period_us,
    })
}

/// The bus must be there and of the right kind.
pub(super) fn check_bus(id: &str, kind: BusKind, buses: &[Bus]) -> Result<(), (String, String)> {
    let refuse = |message: String| Err((".bus".into(), message));
    match buses.iter().find(|bus| bus.id == id) {
        Some(bus) if bus.kind == kind => Ok(()),
        Some(bus) => refuse(format!(
            "`{id}` is {}; expected a bus of kind {kind}",
            bus.kind
        )),
        None => {
            let known: Vec<_> = buses.iter().map(|bus| bus.id.as_str()).collect();
            refuse(format!(
                "no bus `{id}`; expected one of [{}]",
                known.join(", ")
            ))
        }
    }
}
