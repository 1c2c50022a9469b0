//! Finding and reading the small files that the kernel shows under /sys.
//!
//! Owns the search for a device by its name and the bounded read of one number; hwmon and iio share it. It must
//! not know units. Invariants: a read takes at most [`READ_BYTES_MAX`] bytes; a folder is searched up to
//! [`ENTRIES_MAX`] entries; a device is taken only when exactly one fits, so that the order of a folder never
//! decides which sensor is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::SampleFault;
use crate::errno::fault_from_file_error;

/// The most bytes that an attribute may have. The kernel writes one number or one name.
pub(crate) const READ_BYTES_MAX: usize = 64;
/// The most entries of a folder that are looked at.
const ENTRIES_MAX: usize = 4096;
/// The most names that an error lists.
const LISTED_MAX: usize = 16;

/// Why a device of the kernel cannot be found, for a person who set it up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// The folder of the device class cannot be listed.
    #[error("{} cannot be listed: {fault}; is the kernel driver loaded?", root.display())]
    Root {
        /// The folder.
        root: PathBuf,
        /// The cause.
        fault: SampleFault,
    },
    /// No device fits.
    #[error("no device {wanted} under {}: there are {}", root.display(), listed(found))]
    NoDevice {
        /// The folder.
        root: PathBuf,
        /// What was looked for.
        wanted: String,
        /// What there is instead, shortened.
        found: Vec<String>,
    },
    /// More than one device fits.
    #[error("{} devices {wanted} under {}: choose one by device = {}", found.len(), root.display(), listed(found))]
    Ambiguous {
        /// The folder.
        root: PathBuf,
        /// What was looked for.
        wanted: String,
        /// The bus names of those that fit.
        found: Vec<String>,
    },
    /// The device has no such input.
    #[error("{} cannot be read: {fault}", path.display())]
    Attribute {
        /// The file.
        path: PathBuf,
        /// The cause.
        fault: SampleFault,
    },
}

impl LocateError {
    /// The cause as a sample names it.
    #[must_use]
    pub const fn fault(&self) -> SampleFault {
        match self {
            Self::Root { fault, .. } | Self::Attribute { fault, .. } => *fault,
            // Both stay until somebody changes the devices or the configuration.
            Self::NoDevice { .. } | Self::Ambiguous { .. } => SampleFault::Missing,
        }
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let mut text = names[..names.len().min(LISTED_MAX)].join(", ");
    if names.len() > LISTED_MAX {
        text.push_str(", ...");
    }
    text
}

/// Which device of one class is meant.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    /// The folder of the class, for example /sys/class/hwmon.
    pub(crate) root: PathBuf,
    /// How its entries begin, for example `hwmon` of `hwmon3`. The number is not stable across reboots.
    pub(crate) entry_prefix: &'static str,
    /// What the file `name` must hold.
    pub(crate) name: String,
    /// The bus name, for example `1-0048`, where several devices have the same name.
    pub(crate) device: Option<String>,
    /// Tells an entry's bus name.
    pub(crate) bus_name: fn(&Path) -> Option<String>,
}

impl Selector {
    /// The folder of the one device that fits.
    pub(crate) fn locate(&self) -> Result<PathBuf, LocateError> {
        let mut fitting: Vec<PathBuf> = Vec::new();
        let mut others: Vec<String> = Vec::new();
        for folder in self.entries()? {
            if self.fits(&folder) {
                fitting.push(folder);
            } else if let Ok(name) = read_text(&folder.join("name")) {
                let bus_name = (self.bus_name)(&folder);
                others.push(bus_name.map_or_else(
                    || name.as_str().to_owned(),
                    |bus_name| format!("{} ({bus_name})", name.as_str()),
                ));
            }
        }
        others.sort_unstable();
        match (fitting.pop(), fitting.is_empty()) {
            (Some(folder), true) => Ok(folder),
            (None, _) => Err(LocateError::NoDevice {
                root: self.root.clone(),
                wanted: self.wanted(),
                found: others,
            }),
            (Some(last), false) => {
                fitting.push(last);
                let mut found: Vec<String> = fitting
                    .iter()
                    .map(|folder| (self.bus_name)(folder).unwrap_or_else(|| "(none)".to_owned()))
                    .collect();
                found.sort_unstable();
                Err(LocateError::Ambiguous {
                    root: self.root.clone(),
                    wanted: self.wanted(),
                    found,
                })
            }
        }
    }

    /// Whether a folder is (still) the device that is meant. Numbers are given anew when a driver is bound
    /// again, so this is asked before every sample.
    pub(crate) fn fits(&self, folder: &Path) -> bool {
        let named = read_text(&folder.join("name")).is_ok_and(|name| name.as_str() == self.name);
        named
            && self
                .device
                .as_ref()
                .is_none_or(|device| (self.bus_name)(folder).as_ref() == Some(device))
    }

    /// What is looked for, in words.
    pub(crate) fn wanted(&self) -> String {
        match &self.device {
            None => self.name.clone(),
            Some(device) => format!("{} ({device})", self.name),
        }
    }

    fn entries(&self) -> Result<Vec<PathBuf>, LocateError> {
        let failed = |error: &io::Error| LocateError::Root {
            root: self.root.clone(),
            fault: fault_from_file_error(error),
        };
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(&self.root)
            .map_err(|error| failed(&error))?
            .take(ENTRIES_MAX)
        {
            let entry = entry.map_err(|error| failed(&error))?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(self.entry_prefix));
            if number.is_some_and(is_number) {
                folders.push(entry.path());
            }
        }
        Ok(folders)
    }
}

/// A device that was found, and is found again when it moves.
#[derive(Debug)]
pub(crate) struct Located {
    selector: Selector,
    folder: Option<PathBuf>,
}

impl Located {
    pub(crate) fn new(selector: Selector) -> Self {
        Self {
            selector,
            folder: None,
        }
    }

    /// The device's folder now.
    pub(crate) fn folder(&mut self) -> Result<PathBuf, LocateError> {
        if let Some(folder) = &self.folder
            && self.selector.fits(folder)
        {
            return Ok(folder.clone());
        }
        self.folder = None;
        let folder = self.selector.locate()?;
        self.folder = Some(folder.clone());
        Ok(folder)
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The text of one attribute, without the blanks around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    bytes: [u8; READ_BYTES_MAX],
    length: usize,
}

impl Text {
    /// Takes bytes as an attribute delivered them.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, SampleFault> {
        let bytes = bytes.trim_ascii();
        if bytes.len() > READ_BYTES_MAX || core::str::from_utf8(bytes).is_err() {
            return Err(SampleFault::Malformed);
        }
        let mut text = Self {
            bytes: [0; READ_BYTES_MAX],
            length: bytes.len(),
        };
        text.bytes[..bytes.len()].copy_from_slice(bytes);
        Ok(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).expect("parse checked that it is UTF-8")
    }

    /// The text as one finite decimal number.
    pub(crate) fn number(&self) -> Result<f64, SampleFault> {
        // The kernel writes digits; words like "inf" that Rust would take are no measurement.
        let decimal = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        let text = self.as_str();
        if !text.bytes().all(decimal) {
            return Err(SampleFault::Malformed);
        }
        text.parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
            .ok_or(SampleFault::Malformed)
    }
}

/// Reads one attribute.
pub(crate) fn read_text(path: &Path) -> Result<Text, SampleFault> {
    let mut file = File::open(path).map_err(|error| fault_from_file_error(&error))?;
    // One byte more than fits shows that there is more.
    let mut bytes = [0; READ_BYTES_MAX + 1];
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fault_from_file_error(&error)),
        }
    }
    if length > READ_BYTES_MAX {
        return Err(SampleFault::Malformed);
    }
    Text::parse(&bytes[..length])
}

/// Reads one attribute as a number.
pub(crate) fn read_number(path: &Path) -> Result<f64, SampleFault> {
    read_text(path)?.number()
}

/// Reads an attribute that a device need not have: `None` when it has none.
pub(crate) fn read_optional_number(path: &Path) -> Result<Option<f64>, SampleFault> {
    match read_number(path) {
        Ok(number) => Ok(Some(number)),
        Err(SampleFault::Missing) => Ok(None),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{READ_BYTES_MAX, Text, read_number, read_optional_number, read_text};
    use crate::SampleFault;
    use proptest::prelude::*;
    use std::path::Path;

    fn check(bytes: &[u8], number: Result<f64, SampleFault>) {
        let found = Text::parse(bytes).and_then(|text| text.number());
        assert_eq!(found, number, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn numbers_as_the_kernel_writes_them() {
        check(b"21500\n", Ok(21500.0));
        check(b"-40000\n", Ok(-40000.0));
        check(b"0.000305175\n", Ok(0.000_305_175));
        check(b"+5", Ok(5.0));
        for bytes in [
            &b""[..],
            b"\n",
            b"12 34\n",
            b"-3 dB\n",
            b"NaN\n",
            b"inf\n",
            b"infinity\n",
            b"1e999\n",
            b"e\n",
            b"0x10\n",
            b"\xff\xfe\n",
            b"1\0\n",
        ] {
            check(bytes, Err(SampleFault::Malformed));
        }
    }

    #[test]
    fn reads_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        for (length, fits) in [(READ_BYTES_MAX, true), (READ_BYTES_MAX + 1, false)] {
            std::fs::write(&path, "1".repeat(length)).unwrap();
            assert_eq!(read_number(&path).is_ok(), fits, "{length}");
        }
        // An endless file ends too.
        assert_eq!(
            read_text(Path::new("/dev/zero")).unwrap_err(),
            SampleFault::Malformed
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        assert_eq!(read_number(&path), Err(SampleFault::Missing));
        assert_eq!(read_optional_number(&path), Ok(None));
        std::fs::write(&path, "x").unwrap();
        assert_eq!(read_optional_number(&path), Err(SampleFault::Malformed));
        std::fs::write(&path, "7\n").unwrap();
        assert_eq!(read_optional_number(&path), Ok(Some(7.0)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(number) = Text::parse(&bytes).and_then(|text| text.number()) {
                prop_assert!(number.is_finite());
            }
        }

        #[test]
        fn near_numbers_are_finite_or_refused(text in "[0-9eE.+-]{0,70}") {
            if let Ok(number) = Text::parse(text.as_bytes()).and_then(|text| text.number()) {
                prop_assert_eq!(number, text.parse::<f64>().unwrap());
            }
        }
    }
}
