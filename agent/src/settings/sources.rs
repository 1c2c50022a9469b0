//! From the tables `[[buses]]` and `[[sensors]]` to the settings.
//!
//! Owns: which keys a kind of source takes. Must not: open a bus or a sensor.

use std::path::PathBuf;

use quorate_core::{units::SensorId, vote::Kind};
use quorate_firmware_bridge::{
    chips::BusKind,
    hwmon::HwmonConfig,
    iio::IioConfig,
    simulated::{SimulatedConfig, SimulatedFault, SimulatedFaultKind},
};

use super::{
    Bus, Sensor, SettingsError, Source,
    chip_source::{self, SensorSource},
    convert::Places,
    file,
};

/// Speed of a serial line unless it is told otherwise.
const BAUD: u32 = 115_200;

pub(super) fn buses(places: &Places<'_>, buses: &[file::Bus]) -> Result<Vec<Bus>, SettingsError> {
    let mut known: Vec<Bus> = Vec::new();
    for (index, bus) in buses.iter().enumerate() {
        let key = format!("buses[{index}]");
        let kind = bus.kind.get_ref();
        let bus_kind = match kind.as_str() {
            "i2c" => BusKind::I2c,
            "spi" => BusKind::Spi,
            "serial" => BusKind::Serial,
            _ => {
                let message = format!(
                    "unknown bus kind `{kind}`; expected `i2c`, `spi` or `serial` (hwmon and iio need no bus)"
                );
                return Err(places.wrong(&bus.kind, &format!("{key}.kind"), message));
            }
        };
        if let Some(baud) = &bus.baud
            && (bus_kind != BusKind::Serial || *baud.get_ref() == 0)
        {
            let message = "expected on a bus of kind `serial`, at least 1";
            return Err(places.wrong(baud, &format!("{key}.baud"), message));
        }
        let id = bus.id.get_ref();
        if known.iter().any(|other| other.id == *id) {
            return Err(places.wrong(
                &bus.id,
                &format!("{key}.id"),
                format!("`{id}` is used twice"),
            ));
        }
        known.push(Bus {
            id: id.clone(),
            kind: bus_kind,
            path: PathBuf::from(&bus.path),
            baud: bus.baud.as_ref().map_or(BAUD, |baud| *baud.get_ref()),
        });
    }
    Ok(known)
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
        let source = source(sensor.source.get_ref(), buses)
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

fn source(source: &SensorSource, buses: &[Bus]) -> Result<Source, (String, String)> {
    let whole = |message: String| (String::new(), message);
    let source = match source {
        SensorSource::Plain(source) => source,
        SensorSource::Chip(description, chip) => {
            return chip_source::chip(description, chip, buses);
        }
    };
    match source {
        file::PlainSource::Replay {} => Ok(Source::Replay),
        file::PlainSource::Simulated(signal) => simulated(signal),
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

fn simulated(signal: &file::Signal) -> Result<Source, (String, String)> {
    let whole = |message: String| (String::new(), message);

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
        .map_err(|error| whole(error.to_string()))?;
    Ok(Source::Simulated(config))
}
