//! Sources: from a configured sensor to the probe that reads it.
//!
//! Owns: which probe serves which kind of source, and which sources share a thread. Must not: read a value itself.

use std::{collections::BTreeMap, time::Duration};

use quorate_core::units::SensorId;
use quorate_firmware_bridge::{
    Probe, SampleFault,
    chips::{self, BusKind, Chip, ChipConfig, shared::SharedChip},
    hwmon::{HwmonConfig, HwmonProbe},
    iio::{IioConfig, IioProbe},
    linux::{Delay, I2cBus, modbus::TcpLine, serial::SerialLine, spi},
    modbus::{self, GroupChip, ModbusConfig, ModbusLine, Wire},
    one_wire::OneWireProbe,
    simulated::{SimulatedConfig, SimulatedProbe},
    thermal::ThermalProbe,
    wire::WireChip,
};

use crate::{
    clock::Clock,
    own_feeds::Feeds,
    sensing::{Opener, Source},
    settings::{self, Settings},
};

/// Every configured sensor with a probe. A `replay` source has none: it is read by `quorate replay` alone.
#[must_use]
pub fn sources(settings: &Settings, clock: Clock) -> Vec<Source> {
    let mut openers = Openers::new(settings, clock);
    let source = |(index, sensor): (usize, &settings::Sensor)| {
        let (bus, open) = openers.opener(&sensor.source)?;
        let id = SensorId(u16::try_from(index).expect("the number of sensors is validated"));
        let known = settings.buses.iter().find(|known| known.id == bus);
        Some(Source {
            sensor: id,
            lead_ms: lead_ms(settings, id),
            rebind: known.filter(|bus| bus.rebind).map(|bus| bus.path.clone()),
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

/// How long before the vote a sensor is polled; the shortest where several quantities have it.
fn lead_ms(settings: &Settings, sensor: SensorId) -> Option<u64> {
    let has = |quantity: &&quorate_core::config::QuantityConfig| quantity.sensors.contains(&sensor);
    let leads = settings.quantities.iter().filter(has);
    leads
        .map(|quantity| match quantity.lead_ms {
            0 => quantity.period_ms,
            lead_ms => lead_ms,
        })
        .min()
}

/// The configured sensors that cannot be opened now, and why. Opens every one of them once.
#[must_use]
pub fn missing(settings: &Settings, clock: Clock) -> Vec<(String, String)> {
    let mut openers = Openers::new(settings, clock);
    let try_open = |sensor: &settings::Sensor| {
        let (_, mut open) = openers.opener(&sensor.source)?;
        let tries = first_tries(&sensor.source);
        let sample = open().and_then(|mut probe| ready_sample(probe.as_mut(), tries));
        let fault = sample
            .err()
            .filter(|fault| *fault != SampleFault::NotReady)?;
        Some((sensor.id.clone(), remedy(&sensor.source, fault)))
    };
    settings.sensors.iter().filter_map(try_open).collect()
}

/// A source that speaks by itself is asked so often until it has: longer than the watchdog of a microcontroller.
const SPEAKING_TRIES: u32 = 70;
/// A chip that is not ready is asked again so often.
pub(crate) const READY_TRIES: u32 = 4;
/// Between two tries.
const READY_PAUSE: Duration = Duration::from_millis(50);

/// How often a probe of this source is asked again when it was just opened and is not ready.
pub(crate) fn first_tries(source: &settings::Source) -> u32 {
    let speaks = match source {
        settings::Source::Wire { .. }
        | settings::Source::Program { .. }
        | settings::Source::Socket { .. } => true,
        settings::Source::Chip { config, .. } => config.description.bus == BusKind::Serial,
        _ => false,
    };
    if speaks { SPEAKING_TRIES } else { READY_TRIES }
}

/// A sample; a probe that is not ready is asked again so often.
pub(crate) fn ready_sample(probe: &mut dyn Probe, tries: u32) -> Result<f64, SampleFault> {
    let mut sample = probe.sample();
    for _ in 0..tries {
        if sample != Err(SampleFault::NotReady) {
            break;
        }
        std::thread::park_timeout(READY_PAUSE);
        sample = probe.sample();
    }
    sample
}

/// The cause, and what a person can do about it.
pub(crate) fn remedy(source: &settings::Source, fault: SampleFault) -> String {
    let bus = match source {
        settings::Source::Chip { config, .. } => Some(config.description.bus),
        settings::Source::Wire { .. } => Some(BusKind::Serial),
        settings::Source::Modbus { .. } => Some(BusKind::Modbus),
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
        (SampleFault::Exited, _) => {
            "the program ends: run its command by hand and see what it says"
        }
        (SampleFault::Missing, Some(BusKind::Modbus)) => {
            "no such serial line: see /dev/serial/by-id"
        }
        (SampleFault::Permission, Some(BusKind::Modbus)) => {
            "not permitted: add the user to the group dialout"
        }
        (SampleFault::Timeout, Some(BusKind::Modbus)) => {
            "no answer: check unit, speed, parity and wiring"
        }
        (SampleFault::NoAcknowledge, Some(BusKind::Modbus)) => {
            "nobody listens there: check address and port"
        }
        (SampleFault::Exception { .. }, _) => "the device refuses: check table, address and type",
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
    /// The groups of each Modbus line.
    lines: BTreeMap<String, Vec<(modbus::Group, SharedChip)>>,
    feeds: Feeds,
}

impl<'a> Openers<'a> {
    pub(crate) fn new(settings: &'a Settings, clock: Clock) -> Self {
        Self {
            settings,
            clock,
            chips: BTreeMap::new(),
            lines: BTreeMap::new(),
            feeds: Feeds::default(),
        }
    }

    /// The name of what it shares a thread with, and how to open it; `None` for a source without a device.
    pub(crate) fn opener(&mut self, source: &settings::Source) -> Option<(String, Opener)> {
        match source {
            settings::Source::Replay => None,
            settings::Source::Simulated { bus, config } => {
                Some((bus.clone(), simulated(config.clone())))
            }
            settings::Source::Hwmon(config) => Some(("hwmon".into(), hwmon(config.clone()))),
            settings::Source::Iio(config) => Some(("iio".into(), iio(config.clone()))),
            settings::Source::Thermal(config) => {
                let config = config.clone();
                let open: Opener = Box::new(move || {
                    Ok(Box::new(ThermalProbe::new(config.clone())) as Box<dyn Probe>)
                });
                Some(("thermal".into(), open))
            }
            settings::Source::OneWire(config) => {
                let config = config.clone();
                let open: Opener =
                    Box::new(move || Ok(Box::new(OneWireProbe::new(&config)) as Box<dyn Probe>));
                Some(("one-wire".into(), open))
            }
            settings::Source::Modbus { bus, config } => {
                let (chip, channel) = self.modbus(bus, config)?;
                let open: Opener =
                    Box::new(move || Ok(Box::new(chip.probe(channel)) as Box<dyn Probe>));
                Some((bus.clone(), open))
            }
            settings::Source::Program { .. } | settings::Source::Socket { .. } => Some((
                "feeds".into(),
                self.feeds.opener(self.settings, source, self.clock)?,
            )),
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
        let (known, clock) = (known.clone(), self.clock);
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
                let line = SerialLine::open(&known.path, known.baud, known.parity)?;
                let now_us = Box::new(move || clock.now().0.saturating_mul(1000));
                Ok(Box::new(WireChip::new(line, now_us, periods.clone())) as Box<dyn Chip>)
            };
            SharedChip::new(Box::new(open), Box::new(move || clock.now().0))
        });
        Some(chip.clone())
    }

    /// The group of a value, and its channel there.
    fn modbus(&mut self, bus: &str, config: &ModbusConfig) -> Option<(SharedChip, usize)> {
        let known = self.settings.buses.iter().find(|known| known.id == *bus)?;
        let clock = self.clock;
        let settings = self.settings;
        let groups = self.lines.entry(bus.to_owned()).or_insert_with(|| {
            let (known, tcp) = (known.clone(), known.address.is_some());
            let timeout_ms = known.timeout_ms;
            let open = Box::new(move || open_wire(&known));
            let line = ModbusLine::new(open, Box::new(move || clock.now().0), tcp, timeout_ms);
            let same_line = |sensor: &settings::Sensor| match &sensor.source {
                settings::Source::Modbus { bus: other, config } if other == bus => {
                    Some(config.clone())
                }
                _ => None,
            };
            let all: Vec<_> = settings.sensors.iter().filter_map(same_line).collect();
            let with_chip = |group: modbus::Group| {
                let (line, of_chip) = (line.clone(), group.clone());
                let open = move || {
                    let chip = GroupChip::new(line.clone(), of_chip.clone());
                    Ok(Box::new(chip) as Box<dyn Chip>)
                };
                let chip = SharedChip::new(Box::new(open), Box::new(move || clock.now().0));
                (group, chip)
            };
            modbus::groups(&all).into_iter().map(with_chip).collect()
        });
        groups
            .iter()
            .find_map(|(group, chip)| Some((chip.clone(), group.channel(config)?)))
    }

    fn chip(&mut self, bus: &str, config: &ChipConfig) -> Option<SharedChip> {
        let known = self.settings.buses.iter().find(|known| known.id == *bus)?;
        let (known, clock) = (known.clone(), self.clock);
        let wanted = config.clone();
        let key = format!(
            "{bus} {} {} {:?}",
            config.description.kind, config.address, config.options
        );
        let chip = self.chips.entry(key).or_insert_with(|| {
            SharedChip::new(
                Box::new(move || open_chip(&known, &wanted, clock)),
                Box::new(move || clock.now().0),
            )
        });
        Some(chip.clone())
    }
}

fn open_wire(bus: &settings::Bus) -> Result<Box<dyn Wire>, SampleFault> {
    match bus.address {
        Some(address) => Ok(Box::new(TcpLine::connect(address, bus.timeout_ms)?)),
        None => {
            let line = SerialLine::open(&bus.path, bus.baud, bus.parity)?;
            Ok(Box::new(line))
        }
    }
}

fn open_chip(
    bus: &settings::Bus,
    config: &ChipConfig,
    clock: Clock,
) -> Result<Box<dyn Chip>, SampleFault> {
    let chip = match config.description.bus {
        BusKind::I2c => {
            let bus = I2cBus::open(&bus.path).map_err(|error| {
                tracing::warn!(%error, "the bus cannot be opened");
                error.fault()
            })?;
            chips::on_i2c(config, bus, Delay)
        }
        BusKind::Spi => {
            let bus = spi::open(&bus.path, config.description.spi_mode).map_err(|error| {
                tracing::warn!(%error, "the bus cannot be opened");
                error.fault()
            })?;
            chips::on_spi(config, bus, Delay)
        }
        BusKind::Serial => {
            let line = SerialLine::open(&bus.path, bus.baud, bus.parity)?;
            chips::on_serial(config, line, Box::new(move || clock.now_us()))
        }
        BusKind::Modbus => None,
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
