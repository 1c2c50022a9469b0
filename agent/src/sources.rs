//! Sources: from a configured sensor to the probe that reads it.
//!
//! Owns: which probe serves which kind of source, and which sources share a thread. Must not: read a value itself.

use std::{collections::BTreeMap, path::Path, time::Duration};

use quorate_core::units::SensorId;
use quorate_firmware_bridge::{
    Probe, SampleFault,
    chips::{self, BusKind, Chip, ChipConfig, shared::SharedChip},
    hwmon::{HwmonConfig, HwmonProbe},
    iio::{IioConfig, IioProbe},
    linux::{Delay, I2cBus, serial::SerialLine, spi},
    simulated::{SimulatedConfig, SimulatedProbe},
    wire::WireChip,
};

use crate::{
    clock::Clock,
    sensing::{Opener, Source},
    settings::{self, Settings},
};

/// Every configured sensor with a probe. A `replay` source has none: it is read by `quorate replay` alone.
#[must_use]
pub fn sources(settings: &Settings, clock: Clock) -> Vec<Source> {
    let mut openers = Openers::new(settings, clock);
    let source = |(index, sensor): (usize, &settings::Sensor)| {
        let (bus, open) = openers.opener(&sensor.source)?;
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
pub fn missing(settings: &Settings, clock: Clock) -> Vec<(String, String)> {
    let mut openers = Openers::new(settings, clock);
    let try_open = |sensor: &settings::Sensor| {
        let (_, mut open) = openers.opener(&sensor.source)?;
        let patient = matches!(sensor.source, settings::Source::Wire { .. });
        let sample = open().and_then(|mut probe| first_sample(probe.as_mut(), patient));
        let fault = sample
            .err()
            .filter(|fault| *fault != SampleFault::NotReady)?;
        Some((sensor.id.clone(), remedy(&sensor.source, fault)))
    };
    settings.sensors.iter().filter_map(try_open).collect()
}

/// How often a microcontroller is asked until it has greeted, and how far apart: longer than its watchdog.
const GREETING_TRIES: u32 = 70;
const GREETING_PAUSE: Duration = Duration::from_millis(50);

fn first_sample(probe: &mut dyn Probe, patient: bool) -> Result<f64, SampleFault> {
    let mut sample = probe.sample();
    for _ in 0..GREETING_TRIES {
        if !patient || sample != Err(SampleFault::NotReady) {
            break;
        }
        std::thread::park_timeout(GREETING_PAUSE);
        sample = probe.sample();
    }
    sample
}

/// The cause, and what a person can do about it.
pub(crate) fn remedy(source: &settings::Source, fault: SampleFault) -> String {
    let bus = match source {
        settings::Source::Chip { config, .. } => Some(config.description.bus),
        settings::Source::Wire { .. } => Some(BusKind::Serial),
        _ => None,
    };
    let hint = match (fault, bus) {
        (SampleFault::Missing, Some(BusKind::I2c)) => {
            "no such bus: enable it (Raspberry Pi: dtparam=i2c_arm=on)"
        }
        (SampleFault::Missing, Some(BusKind::Spi)) => {
            "no such bus: enable it (Raspberry Pi: dtparam=spi=on)"
        }
        (SampleFault::Permission, Some(BusKind::I2c)) => {
            "not permitted: add the user to the group i2c"
        }
        (SampleFault::Permission, Some(BusKind::Spi)) => {
            "not permitted: add the user to the group spi"
        }
        (SampleFault::Missing, Some(BusKind::Serial)) => {
            "no such line, or it was unplugged: see /dev/serial/by-id"
        }
        (SampleFault::Permission, Some(BusKind::Serial)) => {
            "not permitted: add the user to the group dialout"
        }
        (SampleFault::Timeout, Some(BusKind::Serial)) => {
            "nothing greets on this line: check baud, wiring and firmware"
        }
        (SampleFault::Missing, None) => "no such device or file",
        (SampleFault::Permission, None) => "not permitted to read it",
        (SampleFault::NoAcknowledge, _) => {
            "nothing answers at that address: check wiring and address"
        }
        (SampleFault::Malformed, Some(_)) => {
            "what answers is not this chip, or the bus is stuck: check kind, address and wiring"
        }
        (SampleFault::OpenCircuit, _) => "the sensing element is not connected",
        (SampleFault::ShortCircuit, _) => "the sensing element is shorted",
        _ => return fault.to_string(),
    };
    format!("{fault}: {hint}")
}

/// Makes openers. Sensors that are channels of one chip get the same one.
pub(crate) struct Openers<'a> {
    settings: &'a Settings,
    clock: Clock,
    chips: BTreeMap<String, SharedChip>,
}

impl<'a> Openers<'a> {
    pub(crate) fn new(settings: &'a Settings, clock: Clock) -> Self {
        Self {
            settings,
            clock,
            chips: BTreeMap::new(),
        }
    }

    /// The name of what it shares a thread with, and how to open it; `None` for a source without a device.
    pub(crate) fn opener(&mut self, source: &settings::Source) -> Option<(String, Opener)> {
        match source {
            settings::Source::Replay => None,
            settings::Source::Simulated(config) => {
                Some(("simulated".into(), simulated(config.clone())))
            }
            settings::Source::Hwmon(config) => Some(("hwmon".into(), hwmon(config.clone()))),
            settings::Source::Iio(config) => Some(("iio".into(), iio(config.clone()))),
            settings::Source::Chip { bus, config } => {
                let chip = self.chip(bus, config)?;
                let channel = config.channel;
                let open: Opener =
                    Box::new(move || Ok(Box::new(chip.probe(channel)) as Box<dyn Probe>));
                Some((bus.clone(), open))
            }
            settings::Source::Wire { bus, channel, .. } => {
                let chip = self.microcontroller(bus)?;
                let channel = usize::from(*channel);
                let open: Opener =
                    Box::new(move || Ok(Box::new(chip.probe(channel)) as Box<dyn Probe>));
                Some((bus.clone(), open))
            }
        }
    }

    fn microcontroller(&mut self, bus: &str) -> Option<SharedChip> {
        let known = self.settings.buses.iter().find(|known| known.id == *bus)?;
        let (path, baud, clock) = (known.path.clone(), known.baud, self.clock);
        let period = |sensor: &settings::Sensor| match &sensor.source {
            settings::Source::Wire {
                bus: other,
                channel,
                period_us,
            } if other == bus => Some((*channel, (*period_us)?)),
            _ => None,
        };
        let periods: Vec<_> = self.settings.sensors.iter().filter_map(period).collect();
        let chip = self.chips.entry(format!("{bus} wire")).or_insert_with(|| {
            let open = move || {
                let line = SerialLine::open(&path, baud)?;
                let now_us = Box::new(move || clock.now().0.saturating_mul(1000));
                Ok(Box::new(WireChip::new(line, now_us, periods.clone())) as Box<dyn Chip>)
            };
            SharedChip::new(Box::new(open), Box::new(move || clock.now().0))
        });
        Some(chip.clone())
    }

    fn chip(&mut self, bus: &str, config: &ChipConfig) -> Option<SharedChip> {
        let known = self.settings.buses.iter().find(|known| known.id == *bus)?;
        let path = known.path.clone();
        let clock = self.clock;
        let wanted = config.clone();
        let key = format!(
            "{bus} {} {} {:?}",
            config.description.kind, config.address, config.options
        );
        let chip = self.chips.entry(key).or_insert_with(|| {
            SharedChip::new(
                Box::new(move || open_chip(&path, &wanted)),
                Box::new(move || clock.now().0),
            )
        });
        Some(chip.clone())
    }
}

fn open_chip(path: &Path, config: &ChipConfig) -> Result<Box<dyn Chip>, SampleFault> {
    let chip = match config.description.bus {
        BusKind::I2c => {
            let bus = I2cBus::open(path).map_err(|error| {
                tracing::warn!(%error, "the bus cannot be opened");
                error.fault()
            })?;
            chips::on_i2c(config, bus, Delay)
        }
        BusKind::Spi => {
            let bus = spi::open(path, config.description.spi_mode).map_err(|error| {
                tracing::warn!(%error, "the bus cannot be opened");
                error.fault()
            })?;
            chips::on_spi(config, bus, Delay)
        }
        BusKind::Serial => None,
    };
    chip.ok_or(SampleFault::Malformed)
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
