//! `quorate sensors`: what is on the buses, which chips answer and as what, and live values with their faults.
//!
//! Owns: the words of these commands. Must not: change anything on a bus. `probe` reads identity registers and nothing else,
//! and leaves alone what a driver of the kernel uses.

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use quorate_firmware_bridge::{
    Probe, SampleFault,
    chips::{self, BusKind, Description},
    kernel,
    linux::I2cBus,
};

use crate::{
    clock::Clock,
    outcome::Outcome,
    settings::{self, Settings},
    sources,
};

/// Addresses that the I2C specification leaves to devices.
const ADDRESSES: std::ops::RangeInclusive<u8> = 0x08..=0x77;

/// `quorate sensors list`: the buses and the kernel's own sensors of this machine.
///
/// # Errors
/// Status 1 when the output fails.
pub fn list(output: &mut impl Write) -> Result<(), Outcome> {
    let buses = kernel::buses(Path::new("/dev"));
    let sensors = kernel::sensors(Path::new("/sys"));
    if buses.is_empty() && sensors.is_empty() {
        return written(writeln!(output, "no bus and no sensor of the kernel found"));
    }
    for bus in buses {
        let access = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
        let hint = match rustix::fs::access(&bus.path, access) {
            Ok(()) => String::new(),
            Err(_) => format!("  not permitted: add the user to the group {}", bus.group),
        };
        written(writeln!(
            output,
            "bus     {:9} {}{hint}",
            bus.kind,
            bus.path.display()
        ))?;
    }
    for sensor in sensors {
        written(writeln!(
            output,
            "kernel  {:9} {}",
            sensor.kind, sensor.source
        ))?;
    }
    Ok(())
}

/// `quorate sensors probe`: which addresses of an I2C bus answer, and as which chips.
///
/// # Errors
/// Status 1 when the bus cannot be opened or the output fails.
pub fn probe(path: &Path, output: &mut impl Write) -> Result<(), Outcome> {
    let mut bus = I2cBus::open(path).map_err(Outcome::failed)?;
    let mut found = 0;
    for address in ADDRESSES {
        if bus.check_unused(address).is_err() {
            found += 1;
            written(writeln!(
                output,
                "{address:#04x}  used by a driver of the kernel: read it as hwmon or iio"
            ))?;
            continue;
        }
        let Some(answer) = answer(&mut bus, address) else {
            continue;
        };
        found += 1;
        written(writeln!(output, "{address:#04x}  {answer}"))?;
    }
    if found == 0 {
        written(writeln!(
            output,
            "nothing answers on {}: check power and wiring",
            path.display()
        ))?;
    }
    Ok(())
}

/// The same for every I2C bus of this machine.
///
/// # Errors
/// Status 1 when there is none, one cannot be opened or the output fails.
pub fn probe_all(output: &mut impl Write) -> Result<(), Outcome> {
    let buses: Vec<_> = kernel::buses(Path::new("/dev"))
        .into_iter()
        .filter(|bus| bus.kind == "i2c")
        .collect();
    if buses.is_empty() {
        let message =
            "no I2C bus: enable one (Raspberry Pi: dtparam=i2c_arm=on) and load the module i2c-dev";
        return Err(Outcome::failed(message));
    }
    for bus in buses {
        written(writeln!(output, "{}", bus.path.display()))?;
        probe(&bus.path, output)?;
    }
    Ok(())
}

/// What answers at an address, in words; `None` when nothing does.
fn answer(bus: &mut I2cBus, address: u8) -> Option<String> {
    use embedded_hal::i2c::I2c as _;
    let at_address = || {
        chips::CHIPS
            .into_iter()
            .filter(move |chip| chip.bus == BusKind::I2c && chip.addresses.contains(&address))
    };
    for chip in at_address() {
        // A chip that fails here fails below too, with its cause.
        if identify(bus, address, chip).is_ok_and(|matches| matches) {
            return Some(format!("{} ({})", chip.name, chip.kind));
        }
    }
    let mut byte = [0];
    match bus.read(address, &mut byte).map_err(SampleFault::from) {
        Ok(()) => {
            let silent: Vec<_> = at_address()
                .filter(|chip| chip.identity.is_none())
                .map(|chip| chip.kind)
                .collect();
            Some(if silent.is_empty() {
                "something that is none of the known chips".into()
            } else {
                format!(
                    "something that does not say what it is; of the known chips it may be {}",
                    silent.join(", ")
                )
            })
        }
        Err(SampleFault::NoAcknowledge) => None,
        Err(fault) => Some(format!("fails: {fault}")),
    }
}

fn identify(bus: &mut I2cBus, address: u8, chip: &Description) -> Result<bool, SampleFault> {
    chip.identity
        .map_or(Ok(false), |identity| identity.matches(bus, address))
}

/// `quorate sensors read`: one value of every configured sensor, or why there is none.
///
/// # Errors
/// Status 2 for the configuration, 1 when a sensor cannot be read or the output fails.
pub fn read(path: &Path, output: &mut impl Write) -> Result<(), Outcome> {
    let settings = Settings::load(path).map_err(Outcome::refused)?;
    let mut sensors = Sensors::new(&settings);
    let failed = sensors.round(output)?;
    if failed == 0 {
        return Ok(());
    }
    Err(Outcome::failed(format!(
        "{failed} of {} sensors cannot be read",
        sensors.all.len()
    )))
}

/// `quorate sensors watch`: the same again and again until it is interrupted.
///
/// # Errors
/// Status 2 for the configuration, 1 when the output fails.
pub fn watch(
    path: &Path,
    period: Duration,
    rounds: Option<u64>,
    output: &mut impl Write,
) -> Result<(), Outcome> {
    let settings = Settings::load(path).map_err(Outcome::refused)?;
    let mut sensors = Sensors::new(&settings);
    let mut done = 0;
    while rounds.is_none_or(|rounds| done < rounds) {
        sensors.round(output)?;
        written(writeln!(output).and_then(|()| output.flush()))?;
        done += 1;
        if rounds.is_none_or(|rounds| done < rounds) {
            std::thread::park_timeout(period);
        }
    }
    Ok(())
}

/// The configured sensors with their probes.
struct Sensors<'a> {
    settings: &'a Settings,
    all: Vec<Reader>,
}

struct Reader {
    index: usize,
    open: crate::sensing::Opener,
    probe: Option<Box<dyn Probe>>,
}

impl<'a> Sensors<'a> {
    fn new(settings: &'a Settings) -> Self {
        let mut openers = sources::Openers::new(settings, Clock::real());
        let reader = |(index, sensor): (usize, &crate::settings::Sensor)| {
            let (_, open) = openers.opener(&sensor.source)?;
            Some(Reader {
                index,
                open,
                probe: None,
            })
        };
        let all = settings
            .sensors
            .iter()
            .enumerate()
            .filter_map(reader)
            .collect();
        Self { settings, all }
    }

    /// One line for each sensor; the number of those without a value.
    fn round(&mut self, output: &mut impl Write) -> Result<usize, Outcome> {
        let mut failed = 0;
        for reader in &mut self.all {
            let sensor = &self.settings.sensors[reader.index];
            let sample = reader.sample(&sensor.source);
            let unit = sensor.source.channel().map_or("", |channel| channel.unit);
            let line = match sample {
                Ok(value) => format!("{:24} {value} {unit}", sensor.id),
                Err(fault) => {
                    failed += 1;
                    format!(
                        "{:24} {}",
                        sensor.id,
                        sources::remedy(&sensor.source, fault)
                    )
                }
            };
            written(writeln!(output, "{}", line.trim_end()))?;
        }
        Ok(failed)
    }
}

impl Reader {
    fn sample(&mut self, source: &settings::Source) -> Result<f64, SampleFault> {
        let (probe, tries) = match &mut self.probe {
            Some(probe) => (probe, sources::READY_TRIES),
            None => (
                self.probe.insert((self.open)()?),
                sources::first_tries(source),
            ),
        };
        let sample = sources::ready_sample(probe.as_mut(), tries);
        if sample.is_err_and(SampleFault::is_permanent) {
            self.probe = None;
        }
        sample
    }
}

/// A reader of standard output that has gone away is no failure.
fn written(result: io::Result<()>) -> Result<(), Outcome> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Outcome::failed(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{list, probe, read, watch};
    use std::{path::Path, time::Duration};

    const CONFIGURATION: &str = "[device]\nid = 'd'\n\
        [[buses]]\nid = 'i'\nkind = 'i2c'\npath = '/dev/i2c-that-is-not-there'\n\
        [[sensors]]\nid = 'made-up'\nsource = { kind = 'simulated', base = 21.5 }\n\
        [[sensors]]\nid = 'absent'\nsource = { kind = 'tmp102', bus = 'i', address = 0x48 }\n";

    fn configuration() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), CONFIGURATION).unwrap();
        file
    }

    #[test]
    fn reading_gives_values_and_reasons() {
        let file = configuration();
        let mut output = Vec::new();
        let outcome = read(file.path(), &mut output).unwrap_err();
        assert_eq!(outcome.status(), 1);
        let text = String::from_utf8(output).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "made-up                  21.5");
        assert_eq!(
            lines[1],
            "absent                   missing: no such bus: enable it (Raspberry Pi: dtparam=i2c_arm=on)"
        );
    }

    #[test]
    fn watching_reads_as_often_as_it_is_told() {
        let file = configuration();
        let mut output = Vec::new();
        watch(file.path(), Duration::ZERO, Some(3), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        assert_eq!(text.matches("made-up").count(), 3);
    }

    #[test]
    fn a_bus_that_is_not_there_says_what_to_do() {
        let outcome = probe(Path::new("/dev/i2c-that-is-not-there"), &mut Vec::new()).unwrap_err();
        assert!(outcome.to_string().contains("enable the bus"), "{outcome}");
        list(&mut Vec::new()).unwrap();
    }
}
