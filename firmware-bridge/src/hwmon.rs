//! The kernel's hardware monitoring: /sys/class/hwmon.
//!
//! Owns the names and units of that interface (kernel `Documentation/hwmon/sysfs-interface.rst`). It must not
//! keep a device's number: hwmonN is found by the chip's name, checked before every sample and found again when
//! it changed.
//!
//! | input | file holds | sample is in |
//! |---|---|---|
//! | tempN | millidegree | celsius |
//! | inN | millivolt | volt |
//! | currN | milliampere | ampere |
//! | powerN | microwatt | watt |
//! | energyN | microjoule | joule |
//! | humidityN | millipercent | percent |
//! | fanN | revolutions per minute | the same |
//! | freqN | hertz | the same |

use core::fmt;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::sysfs::{Located, Selector, read_number, read_optional_number};
use crate::{Probe, SampleFault};

pub use crate::sysfs::LocateError;

/// Where the kernel shows its chips.
pub const HWMON_ROOT: &str = "/sys/class/hwmon";

const INPUT_EXPECTED: &str = "temp1, in0, curr1, power1, energy1, humidity1, fan1 or freq1, \
     with another number where the chip has more, and _average for a mean";

/// Which input of which chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HwmonConfig {
    /// The chip and its input, or one file.
    pub source: HwmonSource,
    /// The folder of the class. Default [`HWMON_ROOT`]; another one serves tests.
    pub root: PathBuf,
}

/// The two ways to name an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HwmonSource {
    /// By the chip's name; the way to go, because numbers change between boots.
    Chip {
        /// What the chip's file `name` holds, for example `cpu_thermal`.
        name: String,
        /// The input, for example `temp1`; `power1_average` for a file that does not end in `_input`.
        input: String,
        /// Where several chips have the same name: the name of its bus device, the last part of the link
        /// `hwmonN/device`, for example `1-0048`.
        device: Option<String>,
    },
    /// By the file, for example `/sys/class/hwmon/hwmon0/temp1_input`.
    Path(PathBuf),
}

impl HwmonConfig {
    /// An input of a chip that has a name of its own.
    #[must_use]
    pub fn chip(name: impl Into<String>, input: impl Into<String>) -> Self {
        Self::new(HwmonSource::Chip {
            name: name.into(),
            input: input.into(),
            device: None,
        })
    }

    /// One file.
    #[must_use]
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::new(HwmonSource::Path(path.into()))
    }

    fn new(source: HwmonSource) -> Self {
        Self {
            source,
            root: HWMON_ROOT.into(),
        }
    }

    /// Checks the names, without looking at the machine.
    ///
    /// # Errors
    /// When a name is empty, or an input or path is of no known kind.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let HwmonSource::Chip { name, device, .. } = &self.source {
            for (key, text) in [("name", Some(name)), ("device", device.as_ref())] {
                if text.is_some_and(String::is_empty) {
                    return Err(ConfigError::text(key, "", "a name"));
                }
            }
        }
        self.input().map(drop)
    }

    fn input(&self) -> Result<Input, ConfigError> {
        match &self.source {
            HwmonSource::Chip { input, .. } => {
                Input::parse(input).ok_or_else(|| ConfigError::text("input", input, INPUT_EXPECTED))
            }
            HwmonSource::Path(path) => path
                .file_name()
                .and_then(|name| name.to_str())
                .filter(|name| name.contains('_'))
                .and_then(Input::parse)
                .filter(|_| path.is_absolute())
                .ok_or_else(|| {
                    let expected = "an absolute path like /sys/class/hwmon/hwmon0/temp1_input";
                    ConfigError::text("path", &path.to_string_lossy(), expected)
                }),
        }
    }
}

impl fmt::Display for HwmonConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            HwmonSource::Chip {
                name,
                input,
                device,
            } => {
                write!(formatter, "hwmon chip {name}")?;
                if let Some(device) = device {
                    write!(formatter, " ({device})")?;
                }
                write!(formatter, ", input {input}")?;
            }
            HwmonSource::Path(path) => write!(formatter, "hwmon file {}", path.display())?,
        }
        match self.input() {
            Ok(input) => write!(formatter, ", {}", input.kind.unit()),
            Err(_) => Ok(()),
        }
    }
}

/// What an input measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Temperature,
    Voltage,
    Current,
    Power,
    Energy,
    Humidity,
    Fan,
    Frequency,
}

impl Kind {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "temp" => Self::Temperature,
            "in" => Self::Voltage,
            "curr" => Self::Current,
            "power" => Self::Power,
            "energy" => Self::Energy,
            "humidity" => Self::Humidity,
            "fan" => Self::Fan,
            "freq" => Self::Frequency,
            _ => return None,
        })
    }

    /// What the kernel's number is divided by. Division, because 1/1000 has no exact form.
    const fn divisor(self) -> f64 {
        match self {
            Self::Temperature | Self::Voltage | Self::Current | Self::Humidity => 1e3,
            Self::Power | Self::Energy => 1e6,
            Self::Fan | Self::Frequency => 1.0,
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Temperature => "celsius",
            Self::Voltage => "volt",
            Self::Current => "ampere",
            Self::Power => "watt",
            Self::Energy => "joule",
            Self::Humidity => "percent",
            Self::Fan => "rpm",
            Self::Frequency => "hertz",
        }
    }
}

/// A kind, and its files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Input {
    kind: Kind,
    /// For example `temp1_input`.
    value_file: String,
    /// For example `temp1_fault`, for kinds whose sensing element can be reported as disconnected. A fan's fault
    /// is not among them: a stopped fan is what one wants to measure.
    fault_file: Option<String>,
}

impl Input {
    /// Takes `temp1`, `temp1_input` or `power1_average`, and nothing else: no way out of the chip's folder.
    fn parse(text: &str) -> Option<Self> {
        let (base, suffix) = text.split_once('_').unwrap_or((text, "input"));
        let digits_at = base.find(|character: char| character.is_ascii_digit())?;
        let (word, number) = base.split_at(digits_at);
        let numbered = number.len() <= 3 && number.bytes().all(|byte| byte.is_ascii_digit());
        if !numbered || !matches!(suffix, "input" | "average") {
            return None;
        }
        let kind = Kind::parse(word)?;
        let reports_fault = matches!(kind, Kind::Temperature | Kind::Humidity);
        Some(Self {
            kind,
            value_file: format!("{base}_{suffix}"),
            fault_file: reports_fault.then(|| format!("{base}_fault")),
        })
    }

    fn read(&self, folder: &Path) -> Result<f64, SampleFault> {
        if let Some(fault_file) = &self.fault_file
            && read_optional_number(&folder.join(fault_file))?.is_some_and(|flag| flag != 0.0)
        {
            return Err(SampleFault::OpenCircuit);
        }
        read_number(&folder.join(&self.value_file)).map(|number| number / self.kind.divisor())
    }
}

/// An input of a hardware monitoring chip.
#[derive(Debug)]
pub struct HwmonProbe {
    place: Place,
    input: Input,
}

#[derive(Debug)]
enum Place {
    Chip(Located),
    Folder(PathBuf),
}

impl HwmonProbe {
    /// Prepares the probe; the machine is first looked at by [`locate`](Self::locate) or the first sample.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &HwmonConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let input = config.input()?;
        let place = match &config.source {
            HwmonSource::Chip { name, device, .. } => Place::Chip(Located::new(Selector {
                root: config.root.clone(),
                entry_prefix: "hwmon",
                name: name.clone(),
                device: device.clone(),
                bus_name,
            })),
            HwmonSource::Path(path) => {
                Place::Folder(path.parent().unwrap_or(Path::new("/")).to_owned())
            }
        };
        Ok(Self { place, input })
    }

    /// Finds the input's file, for `quorate check`.
    ///
    /// # Errors
    /// Why it cannot be found or read, with what there is instead.
    pub fn locate(&mut self) -> Result<PathBuf, LocateError> {
        let path = self.folder()?.join(&self.input.value_file);
        match read_number(&path) {
            Ok(_) => Ok(path),
            Err(fault) => Err(LocateError::Attribute { path, fault }),
        }
    }

    fn folder(&mut self) -> Result<PathBuf, LocateError> {
        match &mut self.place {
            Place::Chip(located) => located.folder(),
            Place::Folder(folder) => Ok(folder.clone()),
        }
    }
}

impl Probe for HwmonProbe {
    /// The value in the unit of the module's table. `OpenCircuit` when the chip sets the input's fault flag.
    fn sample(&mut self) -> Result<f64, SampleFault> {
        let folder = self.folder().map_err(|error| error.fault())?;
        self.input.read(&folder)
    }
}

/// The last part of the link `device`, for example `1-0048`.
fn bus_name(folder: &Path) -> Option<String> {
    let target = std::fs::canonicalize(folder.join("device")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{HwmonConfig, HwmonProbe, HwmonSource, Input};
    use crate::{Probe, SampleFault};
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use tempfile::TempDir;

    /// Adds a chip with its files to a tree.
    fn chip(root: &Path, entry: &str, files: &[(&str, &str)]) {
        fs::create_dir_all(root.join(entry)).unwrap();
        for (file, text) in files {
            fs::write(root.join(entry).join(file), text).unwrap();
        }
    }

    fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        chip(
            root.path(),
            "hwmon0",
            &[("name", "other\n"), ("temp1_input", "99000\n")],
        );
        chip(root.path(), "hwmon1", files);
        root
    }

    fn probe(root: &Path, name: &str, input: &str, device: Option<&str>) -> HwmonProbe {
        let source = HwmonSource::Chip {
            name: name.into(),
            input: input.into(),
            device: device.map(Into::into),
        };
        HwmonProbe::new(&HwmonConfig {
            source,
            root: root.into(),
        })
        .unwrap()
    }

    fn check(input: &str, files: &[(&str, &str)], expected: Result<f64, SampleFault>) {
        let mut files = files.to_vec();
        files.push(("name", "chip\n"));
        let root = tree(&files);
        let found = probe(root.path(), "chip", input, None).sample();
        assert_eq!(found, expected, "{input} {files:?}");
    }

    #[test]
    fn every_kind_has_its_unit() {
        check("temp1", &[("temp1_input", "21562\n")], Ok(21.562));
        check("temp12", &[("temp12_input", "-40000\n")], Ok(-40.0));
        check("in0", &[("in0_input", "3300\n")], Ok(3.3));
        check("curr2", &[("curr2_input", "-1250\n")], Ok(-1.25));
        check("power1", &[("power1_input", "12500000\n")], Ok(12.5));
        check(
            "power1_average",
            &[("power1_average", "12500000\n")],
            Ok(12.5),
        );
        check("energy1", &[("energy1_input", "2000000\n")], Ok(2.0));
        check("humidity1", &[("humidity1_input", "45300\n")], Ok(45.3));
        check("fan1", &[("fan1_input", "1480\n")], Ok(1480.0));
        check("freq1", &[("freq1_input", "1500000000\n")], Ok(1.5e9));
        check("temp1_input", &[("temp1_input", "1000\n")], Ok(1.0));
    }

    #[test]
    fn a_fault_flag_is_an_open_circuit() {
        let value = ("temp1_input", "85000\n");
        check(
            "temp1",
            &[value, ("temp1_fault", "1\n")],
            Err(SampleFault::OpenCircuit),
        );
        check("temp1", &[value, ("temp1_fault", "0\n")], Ok(85.0));
        check("temp1", &[value, ("temp2_fault", "1\n")], Ok(85.0));
        check(
            "temp1",
            &[value, ("temp1_fault", "yes\n")],
            Err(SampleFault::Malformed),
        );
        check(
            "fan1",
            &[("fan1_input", "0\n"), ("fan1_fault", "1\n")],
            Ok(0.0),
        );
    }

    #[test]
    fn what_is_no_number_is_malformed_and_never_zero() {
        for text in ["", "\n", "n/a\n", "0x12\n", "nan\n"] {
            check(
                "temp1",
                &[("temp1_input", text)],
                Err(SampleFault::Malformed),
            );
        }
        let long = "1".repeat(65);
        check(
            "temp1",
            &[("temp1_input", &long)],
            Err(SampleFault::Malformed),
        );
        check(
            "temp2",
            &[("temp1_input", "1000\n")],
            Err(SampleFault::Missing),
        );
    }

    #[test]
    fn a_chip_is_found_again_under_another_number() {
        let root = tree(&[("name", "chip\n"), ("temp1_input", "20000\n")]);
        let mut probe = probe(root.path(), "chip", "temp1", None);
        assert_eq!(probe.sample(), Ok(20.0));
        // The old number now belongs to another chip, whose value must not be taken.
        fs::rename(root.path().join("hwmon1"), root.path().join("hwmon7")).unwrap();
        chip(
            root.path(),
            "hwmon1",
            &[("name", "other\n"), ("temp1_input", "99000\n")],
        );
        assert_eq!(probe.sample(), Ok(20.0));
        fs::remove_dir_all(root.path().join("hwmon7")).unwrap();
        assert_eq!(probe.sample(), Err(SampleFault::Missing));
        chip(
            root.path(),
            "hwmon2",
            &[("name", "chip\n"), ("temp1_input", "21000\n")],
        );
        assert_eq!(probe.sample(), Ok(21.0));
    }

    /// Three chips of one name on one bus, as redundant sensors are.
    fn three_alike() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (number, address) in ["1-0048", "1-0049", "1-004a"].iter().enumerate() {
            let entry = format!("hwmon{number}");
            let value = format!("{}000\n", 20 + number);
            fs::create_dir_all(root.path().join("bus").join(address)).unwrap();
            chip(
                root.path(),
                &entry,
                &[("name", "tmp102\n"), ("temp1_input", &value)],
            );
            symlink(
                format!("../bus/{address}"),
                root.path().join(entry).join("device"),
            )
            .unwrap();
        }
        root
    }

    #[test]
    fn chips_of_one_name_are_told_apart_by_their_device() {
        let root = three_alike();
        for (device, celsius) in [("1-0048", 20.0), ("1-0049", 21.0), ("1-004a", 22.0)] {
            let mut probe = probe(root.path(), "tmp102", "temp1", Some(device));
            assert_eq!(probe.sample(), Ok(celsius), "{device}");
        }
    }

    #[test]
    fn a_choice_is_never_left_to_the_order_of_a_folder() {
        let root = three_alike();
        let mut probe = probe(root.path(), "tmp102", "temp1", None);
        assert_eq!(probe.sample(), Err(SampleFault::Missing));
        let message = probe.locate().unwrap_err().to_string();
        assert!(message.starts_with("3 devices tmp102 under "), "{message}");
        assert!(
            message.ends_with("choose one by device = 1-0048, 1-0049, 1-004a"),
            "{message}"
        );
    }

    #[test]
    fn locating_says_what_there_is() {
        let root = three_alike();
        let message = |name, input, device| {
            let error = probe(root.path(), name, input, device)
                .locate()
                .unwrap_err();
            error
                .to_string()
                .replace(&root.path().display().to_string(), "ROOT")
        };
        assert_eq!(
            message("lm75", "temp1", None),
            "no device lm75 under ROOT: there are tmp102 (1-0048), tmp102 (1-0049), tmp102 (1-004a)"
        );
        assert_eq!(
            message("tmp102", "temp1", Some("1-004f")),
            "no device tmp102 (1-004f) under ROOT: there are tmp102 (1-0048), tmp102 (1-0049), tmp102 (1-004a)"
        );
        assert_eq!(
            message("tmp102", "temp2", Some("1-0048")),
            "ROOT/hwmon0/temp2_input cannot be read: missing"
        );
        let mut found = probe(root.path(), "tmp102", "temp1", Some("1-0048"));
        assert_eq!(
            found.locate().unwrap(),
            root.path().join("hwmon0/temp1_input")
        );
        let nowhere = root.path().join("nowhere");
        let error = probe(&nowhere, "tmp102", "temp1", None)
            .locate()
            .unwrap_err();
        assert_eq!(error.fault(), SampleFault::Missing);
        assert!(
            error.to_string().contains("is the kernel driver loaded?"),
            "{error}"
        );
    }

    #[test]
    fn a_path_is_read_directly() {
        let root = tree(&[
            ("name", "chip\n"),
            ("temp1_input", "21000\n"),
            ("temp1_fault", "0\n"),
        ]);
        let path = root.path().join("hwmon1/temp1_input");
        let mut probe = HwmonProbe::new(&HwmonConfig::path(&path)).unwrap();
        assert_eq!(probe.sample(), Ok(21.0));
        assert_eq!(probe.locate().unwrap(), path);
        fs::write(root.path().join("hwmon1/temp1_fault"), "1\n").unwrap();
        assert_eq!(probe.sample(), Err(SampleFault::OpenCircuit));
        fs::remove_dir_all(root.path().join("hwmon1")).unwrap();
        assert_eq!(probe.sample(), Err(SampleFault::Missing));
    }

    #[test]
    fn wrong_names_are_refused() {
        for input in [
            "",
            "temp",
            "temp1x",
            "temp-1",
            "1",
            "temp1_max",
            "temp1_",
            "../temp1",
            "temp1/../x",
            "temp1234",
            "volt1",
        ] {
            let error = HwmonConfig::chip("chip", input).validate().unwrap_err();
            assert_eq!(error.key, "input", "{input}");
        }
        for path in [
            "",
            "/",
            "temp1_input",
            "/sys/class/hwmon/hwmon0",
            "/sys/x/temp1",
            "/sys/x/name",
        ] {
            let error = HwmonConfig::path(path).validate().unwrap_err();
            assert_eq!(error.key, "path", "{path}");
        }
        assert_eq!(
            HwmonConfig::chip("", "temp1").validate().unwrap_err().key,
            "name"
        );
        let message = HwmonConfig::chip("chip", "volt1")
            .validate()
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("input = \"volt1\": expected temp1, in0"),
            "{message}"
        );
    }

    #[test]
    fn describes_itself_in_one_line() {
        assert_eq!(
            HwmonConfig::chip("cpu_thermal", "temp1").to_string(),
            "hwmon chip cpu_thermal, input temp1, celsius"
        );
        assert_eq!(
            HwmonConfig::path("/sys/class/hwmon/hwmon0/in1_input").to_string(),
            "hwmon file /sys/class/hwmon/hwmon0/in1_input, volt"
        );
    }

    proptest! {
        #[test]
        fn no_input_name_leaves_the_folder(text in ".{0,20}") {
            if let Some(input) = Input::parse(&text) {
                prop_assert!(!input.value_file.contains(['/', '\0']));
                prop_assert!(input.value_file.starts_with(|first: char| first.is_ascii_lowercase()));
            }
        }

        #[test]
        fn no_file_content_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let root = tempfile::tempdir().unwrap();
            chip(root.path(), "hwmon0", &[("name", "chip\n")]);
            fs::write(root.path().join("hwmon0/temp1_input"), bytes).unwrap();
            let sample = probe(root.path(), "chip", "temp1", None).sample();
            prop_assert!(sample.is_ok_and(f64::is_finite) || sample == Err(SampleFault::Malformed));
        }
    }
}
