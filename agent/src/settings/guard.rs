//! What of the configured sensors is guarded by breakers: which of them share a device, and which a bus.
//!
//! Owns: that grouping, and what a person is told to do for a bus. Must not: decide when anything is shut out.
//!
//! Sources that cost nothing to ask (made-up signals, recordings, what other programs send) are not guarded.

use quorate_core::{
    config::{BusConfig, GuardConfig, PartConfig},
    units::{BusId, SensorId},
};
use quorate_firmware_bridge::chips::BusKind;

use super::{Bus, Sensor, Source};

pub(super) fn guard(sensors: &[Sensor], buses: &[Bus]) -> GuardConfig {
    let mut config = GuardConfig::default();
    let ids = (0..=u16::MAX).map(SensorId);
    for (sensor, id) in sensors.iter().zip(ids) {
        let Some((bus, part)) = place(&sensor.source) else {
            continue;
        };
        let known = config.buses.iter().position(|known| known.id == bus);
        let index = known.unwrap_or_else(|| {
            config.buses.push(described(bus, buses));
            config.buses.len() - 1
        });
        // There are no more buses than sensors, whose number is checked.
        let bus = BusId(u16::try_from(index).unwrap_or(u16::MAX));
        match config.parts.iter_mut().find(|known| known.id == part) {
            Some(known) => known.sensors.push(id),
            None => config.parts.push(PartConfig {
                id: part,
                bus,
                sensors: vec![id],
            }),
        }
    }
    config
}

/// The bus of a source, and its device on it.
fn place(source: &Source) -> Option<(&str, String)> {
    match source {
        Source::Replay
        | Source::Simulated { .. }
        | Source::Wire { .. }
        | Source::Program { .. }
        | Source::Socket { .. } => None,
        Source::Thermal(config) => Some(("thermal", format!("thermal zone {config}"))),
        Source::OneWire(config) => Some(("one-wire", format!("1-Wire {}", config.device))),
        Source::Modbus { bus, config } => {
            Some((bus, format!("modbus unit {} on {bus}", config.unit)))
        }
        Source::Hwmon(config) => Some(("hwmon", format!("hwmon {config}"))),
        Source::Iio(config) => Some(("iio", format!("iio {config}"))),
        Source::Chip { bus, config } => {
            let kind = config.description.kind;
            let part = match config.description.bus {
                BusKind::I2c => format!("{kind} at {:#04x} on {bus}", config.address),
                // A sensor that sends by itself is asked nothing; shut out, its line would run over.
                BusKind::Serial => return None,
                BusKind::Spi | BusKind::Modbus => format!("{kind} on {bus}"),
            };
            Some((bus, part))
        }
    }
}

fn described(id: &str, buses: &[Bus]) -> BusConfig {
    let bus = buses.iter().find(|bus| bus.id == id);
    let remedy = match bus.map(|bus| bus.kind) {
        Some(BusKind::I2c) => {
            "no transfer ends: a device may hold the data line low, or a pull-up is missing; take the devices off \
             one by one, power them off and on, or set rebind = true for the bus"
        }
        Some(BusKind::Spi) => {
            "no transfer ends: check that spidev is bound, or set rebind = true for the bus"
        }
        Some(BusKind::Modbus) => {
            "no device answers: check the line or the network, unit, speed and parity, and the termination"
        }
        Some(BusKind::Serial) => "nothing comes over the line: check its cable, power and speed",
        None => "the kernel's driver gives no values: see its messages with dmesg",
    };
    BusConfig {
        id: id.into(),
        remedy: remedy.into(),
        recover: bus.is_some_and(|bus| bus.rebind),
    }
}
