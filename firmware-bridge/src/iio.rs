//! The kernel's industrial I/O: /sys/bus/iio/devices, one value at a time.
//!
//! Owns the names, the arithmetic and the units of that interface (kernel
//! `Documentation/ABI/testing/sysfs-bus-iio`). It must not keep a device's number: iio:deviceN is found by name,
//! checked before every sample and found again when it changed.
//!
//! A channel is read from `<channel>_input`, which the driver has already converted, or else as
//! `(<channel>_raw + offset) * scale`. Offset and scale stand with the channel, or are shared by all channels of
//! the type, of the direction, or of the device. As in the kernel's own conversion, an absent offset is 0 and an
//! absent scale is 1. Both are read every time, because a driver changes them with its gain.
//!
//! | channel | kernel's unit | sample is in |
//! |---|---|---|
//! | in_temp | millidegree | celsius |
//! | in_voltage, in_current, in_power | milli-volt, -ampere, -watt | volt, ampere, watt |
//! | in_humidityrelative | millipercent | percent |
//! | in_pressure | kilopascal | the same |
//! | in_accel, in_anglvel, in_magn, in_incli | m/s², rad/s, gauss, degree | the same |
//! | in_illuminance, in_uvindex | lux, index | the same |
//! | in_concentration, in_ph, in_electricalconductivity | percent, pH, S/m | the same |
//! | in_resistance, in_capacitance | ohm, nanofarad | the same |
//! | in_distance, in_energy | metre, joule | the same |

use core::fmt;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::sysfs::{Located, Selector, read_number, read_optional_number};
use crate::{Probe, SampleFault};

pub use crate::sysfs::LocateError;

/// Where the kernel shows its devices.
pub const IIO_ROOT: &str = "/sys/bus/iio/devices";

/// The longest channel name.
const CHANNEL_BYTES_MAX: usize = 64;

/// Channel type, what the kernel's number is divided by, and the unit that results.
const KINDS: [(&str, f64, &str); 19] = [
    ("temp", 1e3, "celsius"),
    ("voltage", 1e3, "volt"),
    ("current", 1e3, "ampere"),
    ("power", 1e3, "watt"),
    ("humidityrelative", 1e3, "percent"),
    ("pressure", 1.0, "kilopascal"),
    ("accel", 1.0, "metre per second squared"),
    ("anglvel", 1.0, "radian per second"),
    ("magn", 1.0, "gauss"),
    ("incli", 1.0, "degree"),
    ("illuminance", 1.0, "lux"),
    ("uvindex", 1.0, "index"),
    ("concentration", 1.0, "percent"),
    ("ph", 1.0, "pH"),
    ("electricalconductivity", 1.0, "siemens per metre"),
    ("resistance", 1.0, "ohm"),
    ("capacitance", 1.0, "nanofarad"),
    ("distance", 1.0, "metre"),
    ("energy", 1.0, "joule"),
];

/// Which channel of which device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IioConfig {
    /// What the device's file `name` holds, for example `bme280`.
    pub name: String,
    /// The channel, without `_raw` or `_input`: `in_temp`, `in_voltage0`, `in_accel_x`,
    /// `in_voltage0-voltage1`.
    pub channel: String,
    /// Where several devices have the same name: the name of the bus device that holds `iio:deviceN`, for
    /// example `1-0076`.
    pub device: Option<String>,
    /// The folder of the class. Default [`IIO_ROOT`]; another one serves tests.
    pub root: PathBuf,
}

impl IioConfig {
    /// A channel of a device that has a name of its own.
    #[must_use]
    pub fn new(name: impl Into<String>, channel: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            channel: channel.into(),
            device: None,
            root: IIO_ROOT.into(),
        }
    }

    /// Checks the names, without looking at the machine.
    ///
    /// # Errors
    /// When a name is empty or the channel is of no known type.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (key, text) in [("name", Some(&self.name)), ("device", self.device.as_ref())] {
            if text.is_some_and(String::is_empty) {
                return Err(ConfigError::text(key, "", "a name"));
            }
        }
        self.parse_channel().map(drop)
    }

    fn parse_channel(&self) -> Result<Channel, ConfigError> {
        Channel::parse(&self.channel).ok_or_else(|| {
            let words: Vec<&str> = KINDS.iter().map(|(word, ..)| *word).collect();
            let expected = format!(
                "in_ and one of {}, then a number or modifier where the device has one, without _raw or _input",
                words.join(", ")
            );
            ConfigError::text("channel", &self.channel, expected)
        })
    }
}

impl fmt::Display for IioConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "iio device {}", self.name)?;
        if let Some(device) = &self.device {
            write!(formatter, " ({device})")?;
        }
        write!(formatter, ", channel {}", self.channel)?;
        match self.parse_channel() {
            Ok(channel) => write!(formatter, ", {}", channel.unit),
            Err(_) => Ok(()),
        }
    }
}

/// A channel's files.
#[derive(Clone, Debug, PartialEq)]
struct Channel {
    input_file: String,
    raw_file: String,
    /// Where the offset may stand, the most special first.
    offset_files: [String; 4],
    scale_files: [String; 4],
    divisor: f64,
    unit: &'static str,
}

impl Channel {
    /// Takes the names that the kernel makes, and nothing else: no way out of the device's folder.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("in_")?;
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        let attributes = ["_raw", "_input", "_scale", "_offset"];
        if text.len() > CHANNEL_BYTES_MAX
            || !rest.bytes().all(allowed)
            || attributes.iter().any(|attribute| text.ends_with(attribute))
        {
            return None;
        }
        let word_end = rest.find(|character: char| !character.is_ascii_lowercase());
        let word = &rest[..word_end.unwrap_or(rest.len())];
        let (word, divisor, unit) = KINDS.into_iter().find(|(known, ..)| *known == word)?;
        // What all channels of a type share; differential channels share their own.
        let shared = if rest.contains('-') {
            format!("in_{word}-{word}")
        } else {
            format!("in_{word}")
        };
        let files = |attribute: &str| {
            [
                format!("{text}_{attribute}"),
                format!("{shared}_{attribute}"),
                format!("in_{attribute}"),
                attribute.to_owned(),
            ]
        };
        Some(Self {
            input_file: format!("{text}_input"),
            raw_file: format!("{text}_raw"),
            offset_files: files("offset"),
            scale_files: files("scale"),
            divisor,
            unit,
        })
    }

    fn read(&self, folder: &Path) -> Result<f64, SampleFault> {
        let value = match read_optional_number(&folder.join(&self.input_file))? {
            Some(processed) => processed,
            None => {
                let raw = read_number(&folder.join(&self.raw_file))?;
                let offset = first_number(folder, &self.offset_files)?.unwrap_or(0.0);
                let scale = first_number(folder, &self.scale_files)?.unwrap_or(1.0);
                (raw + offset) * scale
            }
        };
        let value = value / self.divisor;
        // Three finite numbers can still overflow.
        if value.is_finite() {
            Ok(value)
        } else {
            Err(SampleFault::Malformed)
        }
    }
}

fn first_number(folder: &Path, files: &[String]) -> Result<Option<f64>, SampleFault> {
    for file in files {
        if let Some(number) = read_optional_number(&folder.join(file))? {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// A channel of an industrial I/O device.
#[derive(Debug)]
pub struct IioProbe {
    located: Located,
    channel: Channel,
}

impl IioProbe {
    /// Prepares the probe; the machine is first looked at by [`locate`](Self::locate) or the first sample.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &IioConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let channel = config.parse_channel()?;
        let located = Located::new(Selector {
            root: config.root.clone(),
            entry_prefix: "iio:device",
            name: config.name.clone(),
            device: config.device.clone(),
            bus_name,
        });
        Ok(Self { located, channel })
    }

    /// Finds the device and reads the channel once, for `quorate check`. Returns the device's folder.
    ///
    /// # Errors
    /// Why it cannot be found or read, with what there is instead.
    pub fn locate(&mut self) -> Result<PathBuf, LocateError> {
        let folder = self.located.folder()?;
        match self.channel.read(&folder) {
            Ok(_) => Ok(folder),
            Err(fault) => Err(LocateError::Attribute {
                path: folder.join(&self.channel.raw_file),
                fault,
            }),
        }
    }
}

impl Probe for IioProbe {
    /// The value in the unit of the module's table.
    fn sample(&mut self) -> Result<f64, SampleFault> {
        let folder = self.located.folder().map_err(|error| error.fault())?;
        self.channel.read(&folder)
    }
}

/// The folder that holds the device on its bus: /sys/bus/iio/devices/iio:device0 is a link to
/// .../i2c-1/1-0076/iio:device0.
fn bus_name(folder: &Path) -> Option<String> {
    let target = std::fs::canonicalize(folder).ok()?;
    let holder = target.parent()?.file_name()?;
    Some(holder.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Channel, IioConfig, IioProbe};
    use crate::{Probe, SampleFault};
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn device(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), text).unwrap();
        }
    }

    fn probe(root: &Path, name: &str, channel: &str, device: Option<&str>) -> IioProbe {
        let mut config = IioConfig::new(name, channel);
        config.root = root.into();
        config.device = device.map(Into::into);
        IioProbe::new(&config).unwrap()
    }

    fn check(channel: &str, files: &[(&str, &str)], expected: Result<f64, SampleFault>) {
        let root = tempfile::tempdir().unwrap();
        device(
            &root.path().join("iio:device0"),
            &[("name", "other\n"), ("in_temp_input", "99000\n")],
        );
        let folder = root.path().join("iio:device1");
        device(&folder, &[("name", "chip\n")]);
        device(&folder, files);
        // The kernel also has triggers here; they are no devices.
        device(&root.path().join("trigger0"), &[("name", "chip\n")]);
        let found = probe(root.path(), "chip", channel, None).sample();
        assert_eq!(found, expected, "{channel} {files:?}");
    }

    #[test]
    fn processed_values_have_their_unit() {
        check("in_temp", &[("in_temp_input", "21560\n")], Ok(21.56));
        check("in_temp", &[("in_temp_input", "-40000\n")], Ok(-40.0));
        check(
            "in_pressure",
            &[("in_pressure_input", "101.325000000\n")],
            Ok(101.325),
        );
        let humidity = ("in_humidityrelative_input", "45300\n");
        check("in_humidityrelative", &[humidity], Ok(45.3));
        check(
            "in_illuminance",
            &[("in_illuminance_input", "312\n")],
            Ok(312.0),
        );
    }

    #[test]
    fn raw_values_are_offset_then_scaled() {
        // (2600 + -512) * 0.5 = 1044 milli
        let raw = ("in_voltage0_raw", "2600\n");
        let offset = ("in_voltage0_offset", "-512\n");
        let scale = ("in_voltage0_scale", "0.500000000\n");
        check("in_voltage0", &[raw, offset, scale], Ok(1.044));
        check("in_voltage0", &[raw, scale], Ok(1.3));
        check("in_voltage0", &[raw], Ok(2.6));
        check(
            "in_current3",
            &[("in_current3_raw", "1250\n"), ("in_current3_scale", "2\n")],
            Ok(2.5),
        );
        let raw = ("in_accel_x_raw", "-100\n");
        check(
            "in_accel_x",
            &[raw, ("in_accel_scale", "0.25\n")],
            Ok(-25.0),
        );
    }

    #[test]
    fn scale_and_offset_may_be_shared_and_the_special_one_counts() {
        let raw = ("in_voltage1_raw", "1000\n");
        check("in_voltage1", &[raw, ("in_voltage_scale", "2\n")], Ok(2.0));
        check("in_voltage1", &[raw, ("in_scale", "3\n")], Ok(3.0));
        check("in_voltage1", &[raw, ("scale", "4\n")], Ok(4.0));
        check(
            "in_voltage1",
            &[
                raw,
                ("in_voltage_scale", "2\n"),
                ("in_voltage1_scale", "5\n"),
            ],
            Ok(5.0),
        );
        check(
            "in_voltage1",
            &[raw, ("in_voltage_offset", "1000\n")],
            Ok(2.0),
        );
        check("in_voltage1", &[raw, ("in_voltage2_scale", "7\n")], Ok(1.0));
        let raw = ("in_voltage0-voltage1_raw", "-1000\n");
        let single = ("in_voltage_scale", "9\n");
        check(
            "in_voltage0-voltage1",
            &[raw, ("in_voltage-voltage_scale", "2\n"), single],
            Ok(-2.0),
        );
    }

    #[test]
    fn the_processed_value_goes_before_the_raw_one() {
        check(
            "in_temp",
            &[("in_temp_input", "20000\n"), ("in_temp_raw", "1\n")],
            Ok(20.0),
        );
    }

    #[test]
    fn what_is_no_number_is_malformed_and_never_zero() {
        for text in ["", "n/a\n", "12 dB\n", "inf\n"] {
            check(
                "in_temp",
                &[("in_temp_input", text)],
                Err(SampleFault::Malformed),
            );
            check(
                "in_temp",
                &[("in_temp_raw", text)],
                Err(SampleFault::Malformed),
            );
            let raw = ("in_temp_raw", "1\n");
            check(
                "in_temp",
                &[raw, ("in_temp_scale", text)],
                Err(SampleFault::Malformed),
            );
            check(
                "in_temp",
                &[raw, ("in_temp_offset", text)],
                Err(SampleFault::Malformed),
            );
        }
        let huge = [("in_temp_raw", "1e300\n"), ("in_temp_scale", "1e300\n")];
        check("in_temp", &huge, Err(SampleFault::Malformed));
        check(
            "in_temp",
            &[("in_pressure_input", "1\n")],
            Err(SampleFault::Missing),
        );
    }

    #[test]
    fn a_device_is_found_again_under_another_number() {
        let root = tempfile::tempdir().unwrap();
        let folder = |number: u32| root.path().join(format!("iio:device{number}"));
        device(
            &folder(0),
            &[("name", "chip\n"), ("in_temp_input", "20000\n")],
        );
        let mut probe = probe(root.path(), "chip", "in_temp", None);
        assert_eq!(probe.sample(), Ok(20.0));
        fs::rename(folder(0), folder(4)).unwrap();
        device(
            &folder(0),
            &[("name", "other\n"), ("in_temp_input", "99000\n")],
        );
        assert_eq!(probe.sample(), Ok(20.0));
        fs::remove_dir_all(folder(4)).unwrap();
        assert_eq!(probe.sample(), Err(SampleFault::Missing));
    }

    #[test]
    fn devices_of_one_name_are_told_apart_by_their_holder() {
        let root = tempfile::tempdir().unwrap();
        let class = root.path().join("class");
        fs::create_dir(&class).unwrap();
        for (number, address) in ["1-0076", "1-0077"].iter().enumerate() {
            let entry = format!("iio:device{number}");
            let folder = root.path().join("bus").join(address).join(&entry);
            let value = format!("{}000\n", 20 + number);
            device(&folder, &[("name", "bme280\n"), ("in_temp_input", &value)]);
            symlink(&folder, class.join(&entry)).unwrap();
        }
        let mut second = probe(&class, "bme280", "in_temp", Some("1-0077"));
        assert_eq!(second.sample(), Ok(21.0));
        assert_eq!(second.locate().unwrap(), class.join("iio:device1"));
        let mut any = probe(&class, "bme280", "in_temp", None);
        assert_eq!(any.sample(), Err(SampleFault::Missing));
        let message = any.locate().unwrap_err().to_string();
        assert!(
            message.ends_with("choose one by device = 1-0076, 1-0077"),
            "{message}"
        );
        let mut absent = probe(&class, "bme280", "in_pressure", Some("1-0077"));
        let message = absent.locate().unwrap_err().to_string();
        assert!(
            message.ends_with("in_pressure_raw cannot be read: missing"),
            "{message}"
        );
    }

    #[test]
    fn wrong_names_are_refused() {
        for channel in [
            "",
            "temp",
            "in_",
            "in_colour",
            "in_temp_raw",
            "in_temp_input",
            "in_../temp",
            "in_temp/../x",
            "in_TEMP",
            "out_voltage0",
            "in_temperature",
        ] {
            let error = IioConfig::new("chip", channel).validate().unwrap_err();
            assert_eq!(error.key, "channel", "{channel}");
        }
        assert_eq!(
            IioConfig::new("", "in_temp").validate().unwrap_err().key,
            "name"
        );
        let mut config = IioConfig::new("chip", "in_temp");
        config.device = Some(String::new());
        assert_eq!(config.validate().unwrap_err().key, "device");
    }

    #[test]
    fn describes_itself_in_one_line() {
        let mut config = IioConfig::new("bme280", "in_pressure");
        assert_eq!(
            config.to_string(),
            "iio device bme280, channel in_pressure, kilopascal"
        );
        config.device = Some("1-0076".into());
        assert_eq!(
            config.to_string(),
            "iio device bme280 (1-0076), channel in_pressure, kilopascal"
        );
    }

    proptest! {
        #[test]
        fn no_channel_name_leaves_the_folder(text in "(in_(temp|voltage|ph))?.{0,20}") {
            if let Some(channel) = Channel::parse(&text) {
                prop_assert!(!channel.raw_file.contains(['/', '.', '\0']));
            }
        }

        #[test]
        fn no_file_content_makes_it_panic(
            raw in proptest::collection::vec(any::<u8>(), 0..80),
            scale in "[0-9eE.+-]{0,20}",
        ) {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("iio:device0");
            device(&folder, &[("name", "chip\n"), ("in_temp_scale", &scale)]);
            fs::write(folder.join("in_temp_raw"), raw).unwrap();
            let sample = probe(root.path(), "chip", "in_temp", None).sample();
            prop_assert!(sample.is_ok_and(f64::is_finite) || sample == Err(SampleFault::Malformed));
        }
    }
}
