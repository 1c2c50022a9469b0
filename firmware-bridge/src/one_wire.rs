//! 1-Wire thermometers (DS18B20 and its kin) through the kernel's driver w1_therm. Unit: degree Celsius.
//!
//! Owns the reading of `/sys/bus/w1/devices/ID/w1_slave`. Must not: talk to the wire. A read blocks for one conversion
//! (0.75 s at twelve bits). Source of the scratchpad: DS18B20 datasheet, table "memory map".
//!
//! Invariants: a checksum that does not match is [`SampleFault::Checksum`]; the value of a chip that just got power (85
//! degrees, never measured) is [`SampleFault::Reset`]; a wire at ground, whose zeros have a valid checksum, is
//! [`SampleFault::ShortCircuit`].

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::errno::fault_from_file_error;
use crate::{Probe, SampleFault};

/// Two lines of nine bytes and a number.
const TEXT_BYTES_MAX: u64 = 512;
/// Bytes of a scratchpad.
const SCRATCHPAD_BYTES: usize = 9;

/// Which thermometer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneWireConfig {
    /// Its name, such as `28-0316a2794bff`.
    pub device: String,
    /// The folder of devices, usually `/sys/bus/w1/devices`.
    pub root: PathBuf,
}

impl OneWireConfig {
    /// A thermometer by its name.
    #[must_use]
    pub fn new(device: &str) -> Self {
        Self {
            device: device.into(),
            root: PathBuf::from("/sys/bus/w1/devices"),
        }
    }

    /// Checks the name.
    ///
    /// # Errors
    /// When it is no name of a device.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let hexadecimal = |text: &str, length| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit())
        };
        let parts = self.device.split_once('-');
        if parts.is_some_and(|(family, id)| hexadecimal(family, 2) && hexadecimal(id, 12)) {
            return Ok(());
        }
        let expected = "family and number in hexadecimal, such as 28-0316a2794bff";
        Err(ConfigError::text("device", &self.device, expected))
    }
}

/// One thermometer.
#[derive(Debug)]
pub struct OneWireProbe {
    path: PathBuf,
}

impl OneWireProbe {
    /// A thermometer that is read when it is asked.
    #[must_use]
    pub fn new(config: &OneWireConfig) -> Self {
        Self {
            path: config.root.join(&config.device).join("w1_slave"),
        }
    }
}

impl Probe for OneWireProbe {
    fn sample(&mut self) -> Result<f64, SampleFault> {
        let file = File::open(&self.path).map_err(|error| fault_from_file_error(&error))?;
        let mut bytes = Vec::new();
        file.take(TEXT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|error| fault_from_file_error(&error))?;
        parse(&bytes)
    }
}

/// The temperature in what the driver writes.
fn parse(bytes: &[u8]) -> Result<f64, SampleFault> {
    let text = std::str::from_utf8(bytes).map_err(|_| SampleFault::Malformed)?;
    // The driver gives an empty file when nothing answered.
    if text.is_empty() {
        return Err(SampleFault::NoAcknowledge);
    }
    let mut lines = text.lines();
    let (first, second) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let mut words = first.split_ascii_whitespace();
    let mut scratchpad = [0; SCRATCHPAD_BYTES];
    for byte in &mut scratchpad {
        let word = words.next().ok_or(SampleFault::Malformed)?;
        *byte = u8::from_str_radix(word, 16).map_err(|_| SampleFault::Malformed)?;
    }
    match first.rsplit(' ').next() {
        Some("YES") if crc8(&scratchpad) == 0 => {}
        Some("YES" | "NO") => return Err(SampleFault::Checksum),
        _ => return Err(SampleFault::Malformed),
    }
    if scratchpad == [0; SCRATCHPAD_BYTES] {
        return Err(SampleFault::ShortCircuit);
    }
    // 85 degrees and the reserved byte as it is before the first conversion.
    if scratchpad[..2] == [0x50, 0x05] && scratchpad[6] == 0x0c {
        return Err(SampleFault::Reset);
    }
    let (_, number) = second.split_once("t=").ok_or(SampleFault::Malformed)?;
    let millidegrees: i32 = number.trim().parse().map_err(|_| SampleFault::Malformed)?;
    Ok(f64::from(millidegrees) / 1_000.0)
}

/// The checksum of 1-Wire: polynomial 0x8c reflected; over data and checksum it is 0.
fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0x8c
            } else {
                crc >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{OneWireConfig, OneWireProbe, crc8, parse};
    use crate::{Probe, SampleFault};
    use proptest::prelude::*;

    fn text(scratchpad: [u8; 8], word: &str, millidegrees: i32) -> String {
        let crc = crc8(&scratchpad);
        let mut hexadecimal: Vec<String> = scratchpad.iter().map(|b| format!("{b:02x}")).collect();
        hexadecimal.push(format!("{crc:02x}"));
        let bytes = hexadecimal.join(" ");
        format!("{bytes} : crc={crc:02x} {word}\n{bytes} t={millidegrees}\n")
    }

    #[test]
    fn golden_texts() {
        // From the kernel's Documentation/w1/slaves/w1_therm.rst, with its checksum.
        let golden =
            "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n";
        assert_eq!(parse(golden.as_bytes()), Ok(23.125));
        let check = |text: &str, expected| assert_eq!(parse(text.as_bytes()), expected, "{text}");
        let good = [0x91, 0x01, 0x4b, 0x46, 0x7f, 0xff, 0x0f, 0x10];
        check(&text(good, "YES", 25_062), Ok(25.062));
        check(&text(good, "NO", 25_062), Err(SampleFault::Checksum));
        check(
            &golden.replace("72 01", "73 01"),
            Err(SampleFault::Checksum),
        );
        let hot = [0x50, 0x05, 0x4b, 0x46, 0x7f, 0xff, 0x10, 0x10];
        check(&text(hot, "YES", 85_000), Ok(85.0));
        let started = [0x50, 0x05, 0x4b, 0x46, 0x7f, 0xff, 0x0c, 0x10];
        check(&text(started, "YES", 85_000), Err(SampleFault::Reset));
        check(&text([0; 8], "YES", 0), Err(SampleFault::ShortCircuit));
        check("", Err(SampleFault::NoAcknowledge));
        check("nonsense", Err(SampleFault::Malformed));
    }

    #[test]
    fn a_thermometer_is_read_from_its_file() {
        let root = tempfile::tempdir().unwrap();
        let config = OneWireConfig {
            root: root.path().into(),
            ..OneWireConfig::new("28-0316a2794bff")
        };
        assert_eq!(config.validate(), Ok(()));
        assert!(OneWireConfig::new("../../etc/passwd").validate().is_err());
        let mut probe = OneWireProbe::new(&config);
        assert_eq!(probe.sample(), Err(SampleFault::Missing));
        let folder = root.path().join("28-0316a2794bff");
        std::fs::create_dir(&folder).unwrap();
        let good = [0x91, 0x01, 0x4b, 0x46, 0x7f, 0xff, 0x0f, 0x10];
        std::fs::write(folder.join("w1_slave"), text(good, "YES", -1_500)).unwrap();
        assert_eq!(probe.sample(), Ok(-1.5));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_flipped_bit_of_the_scratchpad_gives_no_value(bit in 0_usize..72) {
            let good = [0x91, 0x01, 0x4b, 0x46, 0x7f, 0xff, 0x0f, 0x10];
            let mut all: Vec<u8> = good.to_vec();
            all.push(crc8(&good));
            all[bit / 8] ^= 1 << (bit % 8);
            let words: Vec<String> = all.iter().map(|b| format!("{b:02x}")).collect();
            let line = format!("{} : crc=00 YES\nt=1\n", words.join(" "));
            prop_assert_eq!(parse(line.as_bytes()), Err(SampleFault::Checksum));
        }
    }
}
