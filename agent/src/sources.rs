//! Sources: from a configured sensor to the probe that reads it.
//!
//! Owns: which probe serves which kind of source, and which sources share a thread. Must not: read a value itself.

use std::path::PathBuf;

use quorate_core::units::SensorId;
use quorate_firmware_bridge::{
    Probe, SampleFault,
    hwmon::{HwmonConfig, HwmonProbe},
    iio::{IioConfig, IioProbe},
    linux::I2cBus,
    simulated::{SimulatedConfig, SimulatedProbe},
    tmp102::{Tmp102, Tmp102Config},
};

use crate::{
    sensing::{Opener, Source},
    settings::{self, Settings},
};

/// Every configured sensor with a probe. A `replay` source has none: it is read by `quorate replay` alone.
#[must_use]
pub fn sources(settings: &Settings) -> Vec<Source> {
    let source = |(index, sensor): (usize, &settings::Sensor)| {
        let (bus, open) = opener(settings, &sensor.source)?;
        Some(Source {
            sensor: SensorId(u16::try_from(index).expect("the number of sensors is validated")),
            bus,
            open,
        })
    };
    settings
        .sensors
        .iter()
        .enumerate()
        .filter_map(source)
        .collect()
}

/// The configured sensors that cannot be opened now, and why. Opens every one of them once.
#[must_use]
pub fn missing(settings: &Settings) -> Vec<(String, String)> {
    let try_open = |sensor: &settings::Sensor| {
        let (_, mut open) = opener(settings, &sensor.source)?;
        let sample = open().and_then(|mut probe| probe.sample());
        let fault = sample
            .err()
            .filter(|fault| *fault != SampleFault::NotReady)?;
        Some((sensor.id.clone(), remedy(&sensor.source, fault)))
    };
    settings.sensors.iter().filter_map(try_open).collect()
}

/// The cause, and what a person can do about it.
fn remedy(source: &settings::Source, fault: SampleFault) -> String {
    let bus = matches!(source, settings::Source::Tmp102 { .. });
    let hint = match fault {
        SampleFault::Missing if bus => "no such bus: enable it (Raspberry Pi: dtparam=i2c_arm=on)",
        SampleFault::Permission if bus => "not permitted: add the user to the group i2c",
        SampleFault::Missing => "no such device or file",
        SampleFault::Permission => "not permitted to read it",
        SampleFault::NoAcknowledge => "nothing answers at that address: check wiring and address",
        _ => return fault.to_string(),
    };
    format!("{fault}: {hint}")
}

fn opener(settings: &Settings, source: &settings::Source) -> Option<(String, Opener)> {
    match source {
        settings::Source::Replay => None,
        settings::Source::Simulated(config) => {
            Some(("simulated".into(), simulated(config.clone())))
        }
        settings::Source::Hwmon(config) => Some(("hwmon".into(), hwmon(config.clone()))),
        settings::Source::Iio(config) => Some(("iio".into(), iio(config.clone()))),
        settings::Source::Tmp102 { bus, config } => {
            let path = settings
                .buses
                .iter()
                .find(|known| known.id == *bus)
                .map(|known| known.path.clone())?;
            Some((bus.clone(), tmp102(path, config.clone())))
        }
    }
}

fn simulated(config: SimulatedConfig) -> Opener {
    Box::new(move || {
        let probe = SimulatedProbe::new(config.clone()).map_err(|_| SampleFault::Malformed)?;
        Ok(Box::new(probe) as Box<dyn Probe>)
    })
}

fn hwmon(config: HwmonConfig) -> Opener {
    Box::new(move || {
        let probe = HwmonProbe::new(&config).map_err(|_| SampleFault::Malformed)?;
        Ok(Box::new(probe) as Box<dyn Probe>)
    })
}

fn iio(config: IioConfig) -> Opener {
    Box::new(move || {
        let probe = IioProbe::new(&config).map_err(|_| SampleFault::Malformed)?;
        Ok(Box::new(probe) as Box<dyn Probe>)
    })
}

fn tmp102(path: PathBuf, config: Tmp102Config) -> Opener {
    Box::new(move || {
        let bus = I2cBus::open(&path).map_err(|error| {
            tracing::warn!(%error, "the bus cannot be opened");
            error.fault()
        })?;
        let probe = Tmp102::new(bus, &config).map_err(|_| SampleFault::Malformed)?;
        Ok(Box::new(probe) as Box<dyn Probe>)
    })
}
