//! Sources beyond chips and the kernel's files: made-up signals, Modbus, programs and sockets.
//!
//! Owns: which keys they take, and what those mean. Must not: open anything.

use std::path::PathBuf;

use quorate_firmware_bridge::{
    chips::BusKind,
    modbus::{ModbusConfig, ValueKind, frame::Table},
    simulated::{SimulatedConfig, SimulatedFault, SimulatedFaultKind},
};
use serde::Deserialize;

use super::{Bus, Source, chip_source::check_bus};
use crate::feed::{Channel, socket};

/// Oldest value of a feed unless it is told otherwise, in milliseconds.
const AGE_MS_MAX: u64 = 5_000;
/// Most words of a command, and most bytes of one.
const WORDS_MAX: usize = 64;
const WORD_BYTES_MAX: usize = 4096;
/// Longest path of a Unix socket (`sun_path` in sys/un.h, with its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A key below `source`, and what is wrong with it.
type Refusal = (String, String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signal {
    #[serde(default)]
    base: f64,
    #[serde(default)]
    amplitude: f64,
    #[serde(default = "sixty")]
    period: u32,
    #[serde(default)]
    noise: f64,
    #[serde(default)]
    offset: f64,
    #[serde(default)]
    seed: u64,
    #[serde(default = "simulated_bus")]
    bus: String,
    fault: Option<String>,
    #[serde(default)]
    fault_from: u64,
    fault_until: Option<u64>,
}

fn simulated_bus() -> String {
    "simulated".into()
}

const fn sixty() -> u32 {
    60
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Modbus {
    bus: String,
    #[serde(default = "first_unit")]
    unit: u8,
    table: TableName,
    address: u16,
    #[serde(rename = "type")]
    kind: KindName,
    #[serde(default)]
    word_order: EndName,
    #[serde(default)]
    byte_order: EndName,
    scale: Option<f64>,
    #[serde(default)]
    offset: f64,
}

const fn first_unit() -> u8 {
    1
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TableName {
    Holding,
    Input,
    Coil,
    Discrete,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindName {
    Bool,
    U16,
    I16,
    U32,
    I32,
    F32,
    F64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum EndName {
    #[default]
    Big,
    Little,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    command: Vec<String>,
    #[serde(default)]
    environment: std::collections::BTreeMap<String, String>,
    channel: Option<String>,
    unit: Option<String>,
    max_age_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Socket {
    path: PathBuf,
    #[serde(rename = "type", default)]
    kind: SocketName,
    channel: Option<String>,
    unit: Option<String>,
    max_age_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SocketName {
    #[default]
    Datagram,
    Stream,
}

pub(super) fn simulated(signal: &Signal) -> Result<Source, Refusal> {
    let fault = match &signal.fault {
        None => None,
        Some(kind) => {
            let kind: SimulatedFaultKind = kind
                .parse()
                .map_err(|error| (".fault".to_owned(), format!("{error}")))?;
            Some(SimulatedFault {
                from_sample: signal.fault_from,
                until_sample: signal.fault_until,
                ..SimulatedFault::new(kind)
            })
        }
    };
    let config = SimulatedConfig {
        seed: signal.seed,
        base: signal.base,
        amplitude: signal.amplitude,
        period_samples: signal.period,
        noise_sigma: signal.noise,
        offset: signal.offset,
        fault,
    };
    config
        .validate()
        .map_err(|error| (String::new(), error.to_string()))?;
    Ok(Source::Simulated {
        bus: signal.bus.clone(),
        config,
    })
}

pub(super) fn modbus(source: &Modbus, buses: &[Bus]) -> Result<Source, Refusal> {
    check_bus(&source.bus, BusKind::Modbus, buses)?;
    let config = ModbusConfig {
        unit: source.unit,
        table: match source.table {
            TableName::Holding => Table::HoldingRegisters,
            TableName::Input => Table::InputRegisters,
            TableName::Coil => Table::Coils,
            TableName::Discrete => Table::DiscreteInputs,
        },
        address: source.address,
        kind: match source.kind {
            KindName::Bool => ValueKind::Bit,
            KindName::U16 => ValueKind::U16,
            KindName::I16 => ValueKind::I16,
            KindName::U32 => ValueKind::U32,
            KindName::I32 => ValueKind::I32,
            KindName::F32 => ValueKind::F32,
            KindName::F64 => ValueKind::F64,
        },
        words_swapped: source.word_order == EndName::Little,
        bytes_swapped: source.byte_order == EndName::Little,
        scale: source.scale.unwrap_or(1.0),
        offset: source.offset,
    };
    let refuse = |error: quorate_firmware_bridge::ConfigError| {
        (format!(".{}", error.key), error.to_string())
    };
    config.validate().map_err(refuse)?;
    Ok(Source::Modbus {
        bus: source.bus.clone(),
        config,
    })
}

pub(super) fn program(source: &Program, sensor: &str) -> Result<Source, Refusal> {
    let refuse = |message: String| Err((".command".to_owned(), message));
    match source.command.first() {
        Some(program) if program.starts_with('/') => {}
        Some(program) => {
            return refuse(format!(
                "expected the absolute path of a program first, found `{program}`"
            ));
        }
        None => return refuse("expected a program and its arguments".into()),
    }
    let fits = |word: &String| word.len() <= WORD_BYTES_MAX && !word.contains('\0');
    if source.command.len() > WORDS_MAX || !source.command.iter().all(fits) {
        return refuse(format!(
            "expected at most {WORDS_MAX} words of at most {WORD_BYTES_MAX} bytes, without NUL"
        ));
    }
    let named = |(name, value): (&String, &String)| {
        !name.is_empty() && !name.contains(['=', '\0']) && fits(name) && fits(value)
    };
    if !source.environment.iter().all(named) {
        let message = "expected names without `=`, and values without NUL".to_owned();
        return Err((".environment".into(), message));
    }
    let environment = source.environment.clone().into_iter().collect();
    Ok(Source::Program {
        options: crate::feed::program::Options {
            argv: source.command.clone(),
            environment,
        },
        channel: channel((&source.channel, &source.unit, source.max_age_ms), sensor)?,
    })
}

pub(super) fn socket(source: &Socket, sensor: &str) -> Result<Source, Refusal> {
    if !source.path.is_absolute() || source.path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let message = format!(
            "expected an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes, found `{}`",
            source.path.display()
        );
        return Err((".path".into(), message));
    }
    Ok(Source::Socket {
        path: source.path.clone(),
        kind: match source.kind {
            SocketName::Datagram => socket::Kind::Datagram,
            SocketName::Stream => socket::Kind::Stream,
        },
        channel: channel((&source.channel, &source.unit, source.max_age_ms), sensor)?,
    })
}

fn channel(
    (name, unit, age_ms_max): (&Option<String>, &Option<String>, Option<u64>),
    sensor: &str,
) -> Result<Channel, Refusal> {
    let age_ms_max = age_ms_max.unwrap_or(AGE_MS_MAX);
    if age_ms_max == 0 {
        return Err((".max_age_ms".into(), "expected at least 1".into()));
    }
    Ok(Channel {
        name: name.clone().unwrap_or_else(|| sensor.to_owned()),
        unit: unit.clone(),
        age_ms_max,
    })
}
