//! From the tables `[[buses]]` and `[[sensors]]` to the settings.
//!
//! Owns: which keys a kind of source takes. Must not: open a bus or a sensor.

use std::path::PathBuf;

use quorate_core::{units::SensorId, vote::Kind};
use quorate_firmware_bridge::{
    chips::BusKind, hwmon::HwmonConfig, iio::IioConfig, linux::serial::Parity,
    one_wire::OneWireConfig, thermal::ThermalConfig,
};

use super::{
    Bus, Sensor, SettingsError, Source,
    chip_source::{self, SensorSource},
    convert::Places,
    file, own_sources,
};

/// Speed of a serial line unless it is told otherwise.
const BAUD: u32 = 115_200;
/// Time for one request on a bus of kind modbus, in milliseconds, and what it may be. The longest is below the time
/// after which a bus counts as hung.
const REQUEST_MS: u64 = 500;
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=5_000;

pub(super) fn buses(places: &Places<'_>, buses: &[file::Bus]) -> Result<Vec<Bus>, SettingsError> {
    let mut known: Vec<Bus> = Vec::new();
    for (index, bus) in buses.iter().enumerate() {
        let key = format!("buses[{index}]");
        let kind = bus.kind.get_ref();
        let bus_kind = match kind.as_str() {
            "i2c" => BusKind::I2c,
            "spi" => BusKind::Spi,
            "serial" => BusKind::Serial,
            "modbus" => BusKind::Modbus,
            _ => {
                let message = format!(
                    "unknown bus kind `{kind}`; expected `i2c`, `spi`, `serial` or `modbus` (the kernel's own sensors need no bus)"
                );
                return Err(places.wrong(&bus.kind, &format!("{key}.kind"), message));
            }
        };
        let id = bus.id.get_ref();
        if known.iter().any(|other| other.id == *id) {
            return Err(places.wrong(
                &bus.id,
                &format!("{key}.id"),
                format!("`{id}` is used twice"),
            ));
        }
        known.push(self::bus(places, &key, bus, bus_kind)?);
    }
    Ok(known)
}

/// One bus; a key that its kind does not have is refused.
fn bus(
    places: &Places<'_>,
    key: &str,
    bus: &file::Bus,
    kind: BusKind,
) -> Result<Bus, SettingsError> {
    let is_modbus = kind == BusKind::Modbus;
    let is_line = bus.path.is_some() && (is_modbus || kind == BusKind::Serial);
    if let Some(baud) = &bus.baud
        && (!is_line || *baud.get_ref() == 0)
    {
        let message = "expected on a bus with a serial line, at least 1";
        return Err(places.wrong(baud, &format!("{key}.baud"), message));
    }
    if let Some(parity) = bus.parity.as_ref().filter(|_| !is_line) {
        let message = "expected on a bus with a serial line";
        return Err(places.wrong(parity, &format!("{key}.parity"), message));
    }
    let timeout_ms = bus.timeout_ms.as_ref();
    if let Some(at) = timeout_ms
        && !(is_modbus && TIMEOUT_MS.contains(at.get_ref()))
    {
        let (low, high) = (TIMEOUT_MS.start(), TIMEOUT_MS.end());
        let message = format!("expected on a bus of kind `modbus`, {low} to {high}");
        return Err(places.wrong(at, &format!("{key}.timeout_ms"), message));
    }
    let address = match (&bus.address, &bus.path) {
        (Some(at), None) if is_modbus => Some(at.get_ref().parse().map_err(|_| {
            let message = "expected an IP address and a port, such as 192.168.0.20:502";
            places.wrong(at, &format!("{key}.address"), message)
        })?),
        (Some(at), _) => {
            let message = "expected on a bus of kind `modbus`, and then no `path`";
            return Err(places.wrong(at, &format!("{key}.address"), message));
        }
        (None, Some(_)) => None,
        (None, None) => {
            let message = if is_modbus {
                "missing; expected `path` (a serial line) or `address`"
            } else {
                "missing; expected a device file"
            };
            return Err(places.wrong(&bus.id, &format!("{key}.path"), message));
        }
    };
    Ok(Bus {
        id: bus.id.get_ref().clone(),
        kind,
        path: bus.path.as_ref().map(PathBuf::from).unwrap_or_default(),
        address,
        baud: bus.baud.as_ref().map_or(BAUD, |baud| *baud.get_ref()),
        parity: places.choice(
            bus.parity.as_ref(),
            &format!("{key}.parity"),
            [
                ("none", Parity::None),
                ("even", Parity::Even),
                ("odd", Parity::Odd),
            ],
        )?,
        timeout_ms: timeout_ms.map_or(REQUEST_MS, |timeout| *timeout.get_ref()),
        rebind: bus.rebind,
    })
}

pub(super) fn sensors(
    places: &Places<'_>,
    sensors: Vec<file::Sensor>,
    buses: &[Bus],
) -> Result<Vec<Sensor>, SettingsError> {
    let mut known: Vec<Sensor> = Vec::new();
    for (index, sensor) in sensors.into_iter().enumerate() {
        let key = format!("sensors[{index}]");
        let id = sensor.id.get_ref().clone();
        if known.iter().any(|other| other.id == id) {
            return Err(places.wrong(
                &sensor.id,
                &format!("{key}.id"),
                format!("`{id}` is used twice"),
            ));
        }
        let range = sensor
            .range
            .as_ref()
            .map(|range| (range.get_ref()[0], range.get_ref()[1]));
        if let Some((low, high)) = range
            && !(low.is_finite() && high.is_finite() && low < high)
        {
            let at = sensor.range.as_ref().expect("it was just read");
            let message =
                format!("expected two finite numbers, the lower first, found [{low}, {high}]");
            return Err(places.wrong(at, &format!("{key}.range"), message));
        }
        let refuse = |part: &str, message: String| {
            places.wrong(&sensor.source, &format!("{key}.source{part}"), message)
        };
        let source = source(sensor.source.get_ref(), &id, buses)
            .map_err(|(part, message)| refuse(&part, message))?;
        // What the chip can measure is what is physically possible of its values.
        let range = range.or_else(|| source.channel()?.range);
        known.push(Sensor {
            id,
            source,
            range,
            device: sensor.device,
        });
    }
    Ok(known)
}

fn source(source: &SensorSource, sensor: &str, buses: &[Bus]) -> Result<Source, (String, String)> {
    let whole = |message: String| (String::new(), message);
    let source = match source {
        SensorSource::Plain(source) => source,
        SensorSource::Chip(description, chip) => {
            return chip_source::chip(description, chip, buses);
        }
    };
    match source {
        file::PlainSource::Replay {} => Ok(Source::Replay),
        file::PlainSource::Simulated(signal) => own_sources::simulated(signal),
        file::PlainSource::Modbus(source) => own_sources::modbus(source, buses),
        file::PlainSource::Program(source) => own_sources::program(source, sensor),
        file::PlainSource::Socket(source) => own_sources::socket(source, sensor),
        file::PlainSource::Thermal { zone } => {
            let config = ThermalConfig::new(zone);
            config
                .validate()
                .map_err(|error| (".zone".into(), error.to_string()))?;
            Ok(Source::Thermal(config))
        }
        file::PlainSource::OneWire { device } => {
            let config = OneWireConfig::new(device);
            config
                .validate()
                .map_err(|error| (".device".into(), error.to_string()))?;
            Ok(Source::OneWire(config))
        }
        file::PlainSource::Hwmon { chip, input, path } => {
            let config = match (chip, input, path) {
                (Some(chip), Some(input), None) => HwmonConfig::chip(chip, input),
                (None, None, Some(path)) => HwmonConfig::path(path),
                _ => {
                    return Err(whole(
                        "expected either `chip` and `input`, or `path`".into(),
                    ));
                }
            };
            config
                .validate()
                .map_err(|error| whole(error.to_string()))?;
            Ok(Source::Hwmon(config))
        }
        file::PlainSource::Iio {
            name,
            channel,
            device,
        } => {
            let mut config = IioConfig::new(name, channel);
            config.device.clone_from(device);
            config
                .validate()
                .map_err(|error| whole(error.to_string()))?;
            Ok(Source::Iio(config))
        }
        file::PlainSource::Wire {
            bus,
            channel,
            period_us,
        } => chip_source::wire((bus, *channel, *period_us), buses),
    }
}

/// The accuracy of a quantity that does not give one: that of the least accurate of its chips, when all its sensors are
/// chips that measure in its unit.
pub(super) fn accuracy(
    kind: Kind,
    unit: &str,
    ids: &[SensorId],
    sensors: &[Sensor],
) -> Option<(Option<f64>, f64)> {
    let (mut absolute, mut relative) = (0.0_f64, 0.0_f64);
    for id in ids {
        let channel = sensors.get(id.index())?.source.channel()?;
        let accuracy = channel.accuracy.filter(|_| channel.unit == unit)?;
        absolute = absolute.max(accuracy.absolute);
        relative = relative.max(accuracy.relative);
    }
    let told = kind == Kind::Scalar && absolute + relative > 0.0;
    told.then(|| ((absolute > 0.0).then_some(absolute), relative))
}
