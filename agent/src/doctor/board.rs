//! The board: temperature, throttling, memory, and how worn the card is.
//!
//! Owns: the kernel's files that tell of it. Must not: fail where a board has none of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Finding;

/// Most bytes of one file of the kernel that are read.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// A processor this hot is about to be slowed down; the Raspberry Pi does so at 80, in degrees Celsius.
const HOT_CELSIUS: f64 = 75.0;
/// Memory below this is short for an agent and what runs beside it, in KiB.
const MEMORY_KIB_MIN: u64 = 32 * 1024;
/// Wear from which a card should be replaced: the seventh tenth of its life (JEDEC eMMC 5.1, EXT_CSD 268 and 269).
const LIFE_TENTHS_MAX: u8 = 7;

/// Looks below `root`, which is `/` but for tests.
pub(super) fn examine(root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(memory(root));
    findings.extend(temperature(root));
    findings.extend(throttling(root));
    findings.extend(wear(root));
    findings
}

fn read(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = text.get(..text.len().min(FILE_BYTES_MAX))?;
    Some(String::from_utf8_lossy(text).trim().to_owned())
}

/// The entries of a folder whose name begins so, in order.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let begins = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = found.map(|entry| entry.path()).filter(begins).collect();
    found.sort();
    found
}

fn memory(root: &Path) -> Option<Finding> {
    let text = read(&root.join("proc/meminfo"))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let available_kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let found = format!("{} MiB of memory are available", available_kib / 1_024);
    Some(if available_kib < MEMORY_KIB_MIN {
        Finding::warning("board", found, "end what is not needed on this board")
    } else {
        Finding::ok("board", found)
    })
}

fn temperature(root: &Path) -> Option<Finding> {
    let zones = entries(&root.join("sys/class/thermal"), "thermal_zone");
    let value = |zone: &PathBuf| read(&zone.join("temp"))?.parse::<f64>().ok();
    let hottest = zones.iter().filter_map(value).fold(f64::NAN, f64::max) / 1_000.0;
    if hottest.is_nan() {
        return None;
    }
    let found = format!("{hottest:.0} degrees Celsius at the hottest");
    Some(if hottest >= HOT_CELSIUS {
        Finding::warning(
            "board",
            found,
            "give it air, or a heat sink: it will slow itself down",
        )
    } else {
        Finding::ok("board", found)
    })
}

/// The Raspberry Pi's own word for it: `vcgencmd get_throttled`, from the firmware's driver.
fn throttling(root: &Path) -> Option<Finding> {
    let text = read(&root.join("sys/devices/platform/soc/soc:firmware/get_throttled"))?;
    let bits = u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
    let causes = [
        (0, "the supply voltage is too low now"),
        (1, "the processor is slowed down now"),
        (2, "throttled now"),
        (16, "the supply voltage was too low since the start"),
        (17, "the processor was slowed down since the start"),
        (18, "was throttled since the start"),
    ];
    let named: Vec<_> = causes
        .into_iter()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, cause)| cause)
        .collect();
    Some(if named.is_empty() {
        Finding::ok("board", "neither throttled nor short of voltage")
    } else {
        let remedy = "use the supply made for the board and a short cable";
        Finding::warning("board", named.join("; "), remedy)
    })
}

/// Tenths of its life that a soldered card says are used.
fn wear(root: &Path) -> Vec<Finding> {
    let cards = entries(&root.join("sys/class/block"), "mmcblk");
    let told = |card: &PathBuf| {
        let text = read(&card.join("device/life_time"))?;
        let tenths = text
            .split_whitespace()
            .filter_map(|word| u8::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        // 0 is "not defined", as removable cards say.
        let used = tenths.max().filter(|tenths| *tenths > 0)?;
        let name = card.file_name()?.to_string_lossy().into_owned();
        let found = format!(
            "{name}: at most {} % of its life are used",
            u32::from(used) * 10
        );
        Some(if used >= LIFE_TENTHS_MAX {
            Finding::warning(
                "board",
                found,
                "plan its replacement; `commit_interval_ms` lowers what is written",
            )
        } else {
            Finding::ok("board", found)
        })
    };
    cards.iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::doctor::State;

    fn board(files: &[(&str, &str)]) -> Vec<(State, String)> {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = examine(folder.path()).into_iter();
        found
            .map(|finding| (finding.state, finding.found))
            .collect()
    }

    #[test]
    fn a_healthy_board_has_no_warning_and_an_unknown_one_no_finding() {
        assert!(board(&[]).is_empty());
        let found = board(&[
            (
                "proc/meminfo",
                "MemTotal: 900000 kB\nMemAvailable:  512000 kB\n",
            ),
            ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
            ("sys/devices/platform/soc/soc:firmware/get_throttled", "0\n"),
            ("sys/class/block/mmcblk0/device/life_time", "0x02 0x01\n"),
            ("sys/class/block/mmcblk1/device/life_time", "0x00 0x00\n"),
        ]);
        assert!(
            found.iter().all(|(state, _)| *state == State::Ok),
            "{found:?}"
        );
        assert_eq!(found.len(), 4);
        assert_eq!(found[3].1, "mmcblk0: at most 20 % of its life are used");
    }

    #[test]
    fn heat_low_voltage_little_memory_and_wear_are_named() {
        let found = board(&[
            ("proc/meminfo", "MemAvailable: 1024 kB\n"),
            ("sys/class/thermal/thermal_zone0/temp", "not a number"),
            ("sys/class/thermal/thermal_zone1/temp", "81000"),
            (
                "sys/devices/platform/soc/soc:firmware/get_throttled",
                "50005\n",
            ),
            ("sys/class/block/mmcblk0/device/life_time", "0x09 0x03"),
        ]);
        assert!(
            found.iter().all(|(state, _)| *state == State::Warning),
            "{found:?}"
        );
        assert_eq!(found.len(), 4);
        assert!(found[2].1.contains("voltage is too low now"));
    }
}
