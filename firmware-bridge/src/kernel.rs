//! What there is on this machine: device files of buses, and the kernel's own sensors.
//!
//! Owns the listing for people. Must not: open a bus. Invariant: folders are read up to `ENTRIES_MAX` entries.

use std::fs;
use std::path::{Path, PathBuf};

/// The most entries of a folder that are looked at.
const ENTRIES_MAX: usize = 4096;

/// A bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBus {
    /// Its kind in the configuration, or what it would be.
    pub kind: &'static str,
    /// Its device file.
    pub path: PathBuf,
    /// The group that may usually use it.
    pub group: &'static str,
}

/// A sensor that the kernel reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSensor {
    /// Which interface of the kernel.
    pub kind: &'static str,
    /// The table `source` that reads it.
    pub source: String,
}

/// Prefixes of device files, the kind of bus and its usual group.
const BUSES: [(&str, &str, &str); 6] = [
    ("i2c-", "i2c", "i2c"),
    ("spidev", "spi", "spi"),
    ("gpiochip", "gpio", "gpio"),
    ("ttyAMA", "serial", "dialout"),
    ("ttyUSB", "serial", "dialout"),
    ("ttyACM", "serial", "dialout"),
];

/// The buses, by the names of the files in `devices`, usually `/dev`. In order of their names.
#[must_use]
pub fn buses(devices: &Path) -> Vec<FoundBus> {
    let bus = |name: String| {
        let (_, kind, group) = BUSES.iter().find(|(prefix, _, _)| {
            let rest = name.strip_prefix(prefix).unwrap_or_default();
            rest.starts_with(|first: char| first.is_ascii_digit())
        })?;
        Some(FoundBus {
            kind,
            path: devices.join(&name),
            group,
        })
    };
    names(devices).into_iter().filter_map(bus).collect()
}

/// The sensors of hwmon, iio and 1-Wire below `system`, usually `/sys`.
#[must_use]
pub fn sensors(system: &Path) -> Vec<FoundSensor> {
    let mut found = Vec::new();
    let hwmon = system.join("class/hwmon");
    for chip in names(&hwmon) {
        let folder = hwmon.join(&chip);
        let Some(name) = name_of(&folder) else {
            continue;
        };
        for input in inputs(&folder, &["_input", "_average"]) {
            let source = format!("{{ kind = \"hwmon\", chip = \"{name}\", input = \"{input}\" }}");
            found.push(FoundSensor {
                kind: "hwmon",
                source,
            });
        }
    }
    let iio = system.join("bus/iio/devices");
    for device in names(&iio) {
        let folder = iio.join(&device);
        let Some(name) = name_of(&folder) else {
            continue;
        };
        let channels = inputs(&folder, &["_raw", "_input"]);
        for channel in channels.iter().filter(|channel| channel.starts_with("in_")) {
            let source =
                format!("{{ kind = \"iio\", name = \"{name}\", channel = \"{channel}\" }}");
            found.push(FoundSensor {
                kind: "iio",
                source,
            });
        }
    }
    for zone in names(&system.join("class/thermal")) {
        let file = system.join("class/thermal").join(&zone).join("type");
        let Some(kind) = plain_text(&file).filter(|_| zone.starts_with("thermal_zone")) else {
            continue;
        };
        found.push(FoundSensor {
            kind: "thermal",
            source: format!("{{ kind = \"thermal\", zone = \"{kind}\" }}"),
        });
    }
    for device in names(&system.join("bus/w1/devices")) {
        if crate::one_wire::OneWireConfig::new(&device)
            .validate()
            .is_ok()
        {
            found.push(FoundSensor {
                kind: "one-wire",
                source: format!("{{ kind = \"one-wire\", device = \"{device}\" }}"),
            });
        }
    }
    found
}

/// The names in a folder, sorted; none when it cannot be listed.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .take(ENTRIES_MAX)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// What the file `name` of a device holds, when it can stand in a configuration.
fn name_of(folder: &Path) -> Option<String> {
    plain_text(&folder.join("name"))
}

/// What a file holds, when it can stand in a configuration.
fn plain_text(file: &Path) -> Option<String> {
    let text = crate::sysfs::read_text(file).ok()?;
    let name = text.as_str();
    let plain = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_graphic() && c != '"' && c != '\\');
    plain.then(|| name.to_owned())
}

/// The inputs of a device: file names without one of the endings.
fn inputs(folder: &Path, endings: &[&str]) -> Vec<String> {
    let input = |name: String| {
        let ending = endings.iter().find(|ending| name.ends_with(**ending))?;
        // A mean keeps its ending: it is another file than the value.
        match *ending {
            "_average" => Some(name),
            _ => name.strip_suffix(ending).map(str::to_owned),
        }
    };
    names(folder).into_iter().filter_map(input).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{buses, sensors};
    use std::fs;
    use std::path::Path;

    fn file(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn buses_are_told_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "i2c-1",
            "i2c-x",
            "spidev0.0",
            "gpiochip0",
            "ttyUSB0",
            "tty1",
            "null",
        ] {
            file(&root.path().join(name), "");
        }
        let found: Vec<_> = buses(root.path())
            .into_iter()
            .map(|bus| format!("{} {}", bus.kind, bus.path.file_name().unwrap().display()))
            .collect();
        assert_eq!(
            found,
            [
                "gpio gpiochip0",
                "i2c i2c-1",
                "spi spidev0.0",
                "serial ttyUSB0"
            ]
        );
        assert!(buses(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn the_kernels_sensors_are_told_as_they_are_configured() {
        let root = tempfile::tempdir().unwrap();
        let hwmon = root.path().join("class/hwmon/hwmon0");
        file(&hwmon.join("name"), "cpu_thermal\n");
        file(&hwmon.join("temp1_input"), "1\n");
        file(&hwmon.join("power1_average"), "1\n");
        let iio = root.path().join("bus/iio/devices/iio:device0");
        file(&iio.join("name"), "bme280\n");
        file(&iio.join("in_temp_input"), "1\n");
        file(&iio.join("sampling_frequency"), "1\n");
        file(
            &root.path().join("class/thermal/thermal_zone0/type"),
            "cpu-thermal\n",
        );
        file(
            &root.path().join("class/thermal/cooling_device0/type"),
            "fan\n",
        );
        file(
            &root.path().join("bus/w1/devices/28-0316a2794bff/w1_slave"),
            "",
        );
        file(&root.path().join("bus/w1/devices/w1_bus_master1/x"), "");
        file(&root.path().join("class/hwmon/hwmon1/name"), "a\"b\n");
        file(&root.path().join("class/hwmon/hwmon1/temp1_input"), "1\n");
        let found: Vec<_> = sensors(root.path())
            .into_iter()
            .map(|sensor| sensor.source)
            .collect();
        assert_eq!(
            found,
            [
                "{ kind = \"hwmon\", chip = \"cpu_thermal\", input = \"power1_average\" }",
                "{ kind = \"hwmon\", chip = \"cpu_thermal\", input = \"temp1\" }",
                "{ kind = \"iio\", name = \"bme280\", channel = \"in_temp\" }",
                "{ kind = \"thermal\", zone = \"cpu-thermal\" }",
                "{ kind = \"one-wire\", device = \"28-0316a2794bff\" }",
            ]
        );
    }
}
