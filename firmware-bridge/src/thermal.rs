//! Thermal zones of the kernel, such as that of the processor. Unit: degree Celsius.
//!
//! Owns the search for a zone by its type and the reading of its file. Must not: know a chip.
//!
//! Invariants: a type that two zones have is refused, so that the order of a folder never decides which one is read; the
//! zone is found again when its number changed.

use std::fmt;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::sysfs::{read_number, read_text};
use crate::{Probe, SampleFault};

/// Zones that are looked at.
const ZONES_MAX: usize = 256;

/// Which zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThermalConfig {
    /// What its file `type` holds, such as `cpu-thermal`.
    pub zone: String,
    /// The folder of zones, usually `/sys/class/thermal`.
    pub root: PathBuf,
}

impl fmt::Display for ThermalConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.zone)
    }
}

impl ThermalConfig {
    /// A zone by its type.
    #[must_use]
    pub fn new(zone: &str) -> Self {
        Self {
            zone: zone.into(),
            root: PathBuf::from("/sys/class/thermal"),
        }
    }

    /// Checks the name.
    ///
    /// # Errors
    /// When no type of a zone can be so.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if (1..=crate::sysfs::READ_BYTES_MAX).contains(&self.zone.len()) {
            return Ok(());
        }
        Err(ConfigError::text(
            "zone",
            &self.zone,
            "the type of a zone, such as cpu-thermal",
        ))
    }
}

/// One zone.
#[derive(Debug)]
pub struct ThermalProbe {
    config: ThermalConfig,
    folder: Option<PathBuf>,
}

impl ThermalProbe {
    /// A zone that is looked for when it is asked.
    #[must_use]
    pub const fn new(config: ThermalConfig) -> Self {
        Self {
            config,
            folder: None,
        }
    }

    fn fits(&self, folder: &std::path::Path) -> bool {
        read_text(&folder.join("type")).is_ok_and(|text| text.as_str() == self.config.zone)
    }

    fn locate(&self) -> Result<PathBuf, SampleFault> {
        let entries = std::fs::read_dir(&self.config.root).map_err(|_| SampleFault::Missing)?;
        let folders = entries.take(ZONES_MAX).filter_map(|entry| {
            let entry = entry.ok()?;
            let zone = entry.file_name().to_str()?.starts_with("thermal_zone");
            zone.then(|| entry.path())
        });
        let mut fitting = folders.filter(|folder| self.fits(folder));
        match (fitting.next(), fitting.next()) {
            (Some(folder), None) => Ok(folder),
            _ => Err(SampleFault::Missing),
        }
    }
}

impl Probe for ThermalProbe {
    fn sample(&mut self) -> Result<f64, SampleFault> {
        let known = self.folder.take().filter(|folder| self.fits(folder));
        let folder = match known {
            Some(folder) => folder,
            None => self.locate()?,
        };
        let value = read_number(&folder.join("temp"));
        self.folder = Some(folder);
        value.map(|millidegrees| millidegrees / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{ThermalConfig, ThermalProbe};
    use crate::{Probe, SampleFault};
    use std::fs;

    #[test]
    fn a_zone_is_found_by_its_type_and_found_again() {
        let root = tempfile::tempdir().unwrap();
        let zone = |number: u32, kind: &str, millidegrees: i32| {
            let folder = root.path().join(format!("thermal_zone{number}"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("type"), format!("{kind}\n")).unwrap();
            fs::write(folder.join("temp"), format!("{millidegrees}\n")).unwrap();
        };
        let mut probe = ThermalProbe::new(ThermalConfig {
            root: root.path().into(),
            ..ThermalConfig::new("cpu-thermal")
        });
        assert_eq!(probe.sample(), Err(SampleFault::Missing));
        zone(0, "gpu-thermal", 60_000);
        zone(1, "cpu-thermal", 51_250);
        assert_eq!(probe.sample(), Ok(51.25));
        zone(1, "nvme", 70_000);
        zone(2, "cpu-thermal", -250);
        assert_eq!(probe.sample(), Ok(-0.25));
        zone(3, "cpu-thermal", 1);
        fs::remove_dir_all(root.path().join("thermal_zone2")).unwrap();
        zone(4, "cpu-thermal", 2);
        assert_eq!(probe.sample(), Err(SampleFault::Missing), "two fit");
    }
}
