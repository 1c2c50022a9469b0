//! Small facts that must survive a restart, apart from the outbox: command counters, model slots.
//!
//! Owns: the directory `<outbox>.state` and the two places of every slot in it. Must not: look into what it keeps.
//!
//! Invariants: [`State::write`] returns when both places have the value on the medium, each whole or not at all, one
//! after the other, so that one of them is intact at any moment; what was damaged is never believed (CRC-32 over slot,
//! generation and bytes); the intact place with the higher generation counts; losing a slot never loses the outbox,
//! nor the other way round.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::durable::{self, parent, sync_directory, write_whole};

/// Most bytes of one slot.
pub const SLOT_BYTES_MAX: usize = 64 << 10;

/// Longest name of a slot, in letters.
const NAME_BYTES_MAX: usize = 64;

/// Begins every place: what it is, and the version of its form.
const MAGIC: [u8; 8] = *b"QRstate1";

/// Magic, generation (u64), length (u32), CRC-32 (u32) of the name and all but itself; all little-endian.
const HEADER_BYTES: usize = 24;

/// The two places of a slot.
const PLACES: [&str; 2] = ["", ".copy"];

/// Why a slot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The name of a slot is no name, or its bytes are too many.
    #[error("slot `{slot}`: {reason}")]
    Unusable {
        /// The slot, bounded.
        slot: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The system refuses.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Neither place is what was written.
    #[error("{}: both places are damaged; what the slot held is lost", .path.display())]
    Damaged {
        /// The first of the two places.
        path: PathBuf,
    },
}

/// A place that was not what was written; the other one, where it is intact, took its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFinding {
    /// The file.
    pub path: PathBuf,
    /// Whether the slot lost nothing by it.
    pub mended: bool,
}

impl fmt::Display for StateFinding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.mended {
            "the other place is intact and was copied to it"
        } else {
            "what the slot held is lost"
        };
        write!(formatter, "{} is damaged: {outcome}", self.path.display())
    }
}

/// The slots.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    findings: Vec<StateFinding>,
}

/// What one place holds.
enum Place {
    Absent,
    Intact(u64, Vec<u8>),
    Damaged,
}

/// Where the state of an outbox lies.
#[must_use]
pub fn path(outbox: &Path) -> PathBuf {
    let mut name = outbox.as_os_str().to_owned();
    name.push(".state");
    PathBuf::from(name)
}

impl State {
    /// Opens the directory, creating it where there is none, and mends every slot of which one place is intact.
    ///
    /// # Errors
    /// The directory cannot be made or read. Damage is no error but a finding.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let io = |error| StateError::Io {
            path: directory.to_owned(),
            error,
        };
        fs::create_dir_all(directory)
            .and_then(|()| sync_directory(parent(directory)))
            .map_err(io)?;
        let mut state = Self {
            directory: directory.to_owned(),
            findings: Vec::new(),
        };
        let entries = fs::read_dir(directory).map_err(io)?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut slots: Vec<String> = names
            .filter_map(|name| {
                let name = name.to_str()?;
                let slot = name.strip_suffix(PLACES[1]).unwrap_or(name);
                check_name(slot).ok()?;
                Some(slot.to_owned())
            })
            .collect();
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            state.mend(&slot);
        }
        Ok(state)
    }

    /// What the opening found that should not be.
    #[must_use]
    pub fn findings(&self) -> &[StateFinding] {
        &self.findings
    }

    /// What was written last; none where nothing was.
    ///
    /// # Errors
    /// The name is no name, the medium cannot be read, or both places are damaged.
    pub fn read(&self, slot: &str) -> Result<Option<Vec<u8>>, StateError> {
        check_name(slot)?;
        Ok(self.newest(slot)?.map(|(_, bytes)| bytes))
    }

    /// Writes a slot; durable, in both places, when it returns. After an error it holds what it held before or this.
    ///
    /// # Errors
    /// The name is no name, the bytes are too many, or the medium cannot be written.
    pub fn write(&mut self, slot: &str, bytes: &[u8]) -> Result<(), StateError> {
        check_name(slot)?;
        if bytes.len() > SLOT_BYTES_MAX {
            return Err(unusable(slot, "expected at most 64 KiB"));
        }
        let _held = self.lock()?;
        let generation = match self.newest(slot) {
            Ok(newest) => newest.map_or(0, |(generation, _)| generation),
            // Nothing of it can be believed: it begins anew.
            Err(StateError::Damaged { .. }) => 0,
            Err(error) => return Err(error),
        };
        let generation = generation.saturating_add(1);
        for place in self.places_oldest_first(slot) {
            self.write_place(slot, place, generation, bytes)?;
        }
        Ok(())
    }

    /// The place that does not hold the newest value is written first, so that the other is intact meanwhile.
    fn places_oldest_first(&self, slot: &str) -> [&'static str; 2] {
        let generation = |place| match self.read_place(slot, place) {
            Ok(Place::Intact(generation, _)) => generation,
            _ => 0,
        };
        if generation(PLACES[0]) > generation(PLACES[1]) {
            [PLACES[1], PLACES[0]]
        } else {
            PLACES
        }
    }

    /// Two processes never write one slot at once: the agent and a command beside it.
    fn lock(&self) -> Result<File, StateError> {
        let path = self.directory.join(LOCK);
        durable::lock(&path).map_err(|error| StateError::Io { path, error })
    }

    /// The newest intact value and its generation.
    fn newest(&self, slot: &str) -> Result<Option<(u64, Vec<u8>)>, StateError> {
        let (mut newest, mut refusal, mut damaged) = (None, None, false);
        for place in PLACES {
            match self.read_place(slot, place) {
                Ok(Place::Absent) => {}
                Ok(Place::Damaged) => damaged = true,
                Ok(Place::Intact(generation, bytes)) => {
                    if newest.as_ref().is_none_or(|(known, _)| *known < generation) {
                        newest = Some((generation, bytes));
                    }
                }
                Err(error) => refusal = Some(error),
            }
        }
        match (newest, refusal) {
            (Some(newest), _) => Ok(Some(newest)),
            (None, Some(error)) => Err(error),
            (None, None) if damaged => Err(StateError::Damaged {
                path: self.directory.join(slot),
            }),
            (None, None) => Ok(None),
        }
    }

    /// Copies the newest intact place of a slot over the other, and notes what was damaged.
    fn mend(&mut self, slot: &str) {
        let newest = self.newest(slot).ok().flatten();
        for place in PLACES {
            let held = self.read_place(slot, place);
            let current = matches!(
                (&held, &newest),
                (Ok(Place::Intact(generation, _)), Some((known, _))) if generation == known
            );
            if current {
                continue;
            }
            let mut mended = false;
            if let Some((generation, bytes)) = &newest {
                let written = self.lock().and_then(|_held| {
                    // Another process may have written meanwhile.
                    if self
                        .newest(slot)?
                        .is_some_and(|(now, _)| now == *generation)
                    {
                        self.write_place(slot, place, *generation, bytes)?;
                    }
                    Ok(())
                });
                mended = written.is_ok();
            }
            if matches!(held, Ok(Place::Damaged) | Err(_)) {
                self.findings.push(StateFinding {
                    path: self.file(slot, place),
                    mended,
                });
            }
        }
    }

    fn file(&self, slot: &str, place: &str) -> PathBuf {
        self.directory.join(format!("{slot}{place}"))
    }

    fn read_place(&self, slot: &str, place: &str) -> Result<Place, StateError> {
        let path = self.file(slot, place);
        let io = |error| StateError::Io {
            path: path.clone(),
            error,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Absent),
            Err(error) => return Err(io(error)),
        };
        let mut bytes = Vec::new();
        // One more than there can be: a file that is too long fails its check.
        let most = u64::try_from(HEADER_BYTES + SLOT_BYTES_MAX + 1).unwrap_or(u64::MAX);
        file.take(most).read_to_end(&mut bytes).map_err(io)?;
        Ok(
            decode(slot, &bytes).map_or(Place::Damaged, |(generation, bytes)| {
                Place::Intact(generation, bytes)
            }),
        )
    }

    fn write_place(
        &self,
        slot: &str,
        place: &str,
        generation: u64,
        bytes: &[u8],
    ) -> Result<(), StateError> {
        let name = format!("{slot}{place}");
        let encoded = encode(slot, generation, bytes);
        write_whole(&self.directory, &name, &encoded).map_err(|error| StateError::Io {
            path: self.directory.join(name),
            error,
        })
    }
}

/// Held while a slot is written. No slot has a name with a point.
const LOCK: &str = ".lock";

fn unusable(slot: &str, reason: &'static str) -> StateError {
    StateError::Unusable {
        slot: slot.chars().take(NAME_BYTES_MAX).collect(),
        reason,
    }
}

fn check_name(slot: &str) -> Result<(), StateError> {
    let plain = |letter: u8| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let fits = (1..=NAME_BYTES_MAX).contains(&slot.len());
    if fits && slot.bytes().all(plain) {
        return Ok(());
    }
    Err(unusable(
        slot,
        "expected a name of 1 to 64 lower-case letters, digits or `-`",
    ))
}

fn checksum(slot: &str, header: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(slot.as_bytes());
    hasher.update(header);
    hasher.update(bytes);
    hasher.finalize()
}

fn encode(slot: &str, generation: u64, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = MAGIC.to_vec();
    encoded.extend_from_slice(&generation.to_le_bytes());
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    encoded.extend_from_slice(&length.to_le_bytes());
    let crc = checksum(slot, &encoded, bytes);
    encoded.extend_from_slice(&crc.to_le_bytes());
    encoded.extend_from_slice(bytes);
    encoded
}

fn decode(slot: &str, encoded: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (header, bytes) = encoded.split_at_checked(HEADER_BYTES)?;
    let (head, crc) = header.split_at(HEADER_BYTES - 4);
    let length = usize::try_from(u32::from_le_bytes(head[16..20].try_into().ok()?)).ok()?;
    let sound = head[..8] == MAGIC
        && length == bytes.len()
        && checksum(slot, head, bytes).to_le_bytes() == *crc;
    let generation = u64::from_le_bytes(head[8..16].try_into().ok()?);
    sound.then(|| (generation, bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs;

    use super::{SLOT_BYTES_MAX, State, StateError};

    #[test]
    fn what_was_written_is_read_after_every_opening() {
        let root = tempfile::tempdir().unwrap();
        let directory = super::path(&root.path().join("outbox"));
        let mut state = State::open(&directory).unwrap();
        assert_eq!(state.read("command-counters").unwrap(), None);
        for round in 0..5_u8 {
            state.write("command-counters", &[round; 100]).unwrap();
            state.write("models", &[]).unwrap();
            state = State::open(&directory).unwrap();
            assert_eq!(state.findings(), []);
            assert_eq!(
                state.read("command-counters").unwrap(),
                Some(vec![round; 100])
            );
            assert_eq!(state.read("models").unwrap(), Some(vec![]));
        }
    }

    #[test]
    fn damage_of_one_place_costs_nothing_and_is_found_and_mended() {
        let root = tempfile::tempdir().unwrap();
        let mut state = State::open(root.path()).unwrap();
        state.write("slot", b"before").unwrap();
        state.write("slot", b"newest").unwrap();
        for name in ["slot", "slot.copy"] {
            let path = root.path().join(name);
            let good = fs::read(&path).unwrap();
            for at in 0..=good.len() {
                let mut bad = good.clone();
                match bad.get_mut(at) {
                    Some(byte) => *byte ^= 0x10,
                    None => bad.push(0),
                }
                fs::write(&path, bad).unwrap();
                assert_eq!(state.read("slot").unwrap().unwrap(), b"newest");
                let opened = State::open(root.path()).unwrap();
                assert_eq!(opened.findings().len(), 1, "{name} {at}");
                assert!(opened.findings()[0].mended);
                assert_eq!(fs::read(&path).unwrap(), good);
                fs::write(&path, &good[..at.min(good.len() - 1)]).unwrap();
                let opened = State::open(root.path()).unwrap();
                assert_eq!(opened.read("slot").unwrap().unwrap(), b"newest");
                assert_eq!(fs::read(&path).unwrap(), good);
            }
        }
    }

    #[test]
    fn a_write_that_was_cut_between_its_places_counts_whole() {
        let root = tempfile::tempdir().unwrap();
        let mut state = State::open(root.path()).unwrap();
        state.write("slot", b"old").unwrap();
        let old = fs::read(root.path().join("slot.copy")).unwrap();
        state.write("slot", b"new").unwrap();
        fs::write(root.path().join("slot.copy"), old).unwrap();
        let mut state = State::open(root.path()).unwrap();
        assert_eq!(state.findings(), []);
        assert_eq!(state.read("slot").unwrap().unwrap(), b"new");
        fs::remove_file(root.path().join("slot")).unwrap();
        assert_eq!(state.read("slot").unwrap().unwrap(), b"new");
        state.write("slot", b"newer").unwrap();
        assert_eq!(state.read("slot").unwrap().unwrap(), b"newer");
    }

    #[test]
    fn both_places_damaged_is_an_error_until_it_is_written_again() {
        let root = tempfile::tempdir().unwrap();
        let mut state = State::open(root.path()).unwrap();
        state.write("slot", b"value").unwrap();
        state.write("other", b"other").unwrap();
        // A place of another slot is no place of this one.
        fs::copy(root.path().join("other"), root.path().join("slot")).unwrap();
        fs::write(root.path().join("slot.copy"), b"").unwrap();
        let mut state = State::open(root.path()).unwrap();
        assert_eq!(state.findings().len(), 2);
        assert!(state.findings().iter().all(|finding| !finding.mended));
        assert!(matches!(
            state.read("slot"),
            Err(StateError::Damaged { .. })
        ));
        assert_eq!(state.read("other").unwrap().unwrap(), b"other");
        state.write("slot", b"again").unwrap();
        assert_eq!(state.read("slot").unwrap().unwrap(), b"again");
    }

    #[test]
    fn what_fits_no_slot_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut state = State::open(root.path()).unwrap();
        for name in ["", "Upper", "a/b", "..", "a.copy", &"x".repeat(65)] {
            assert!(matches!(
                state.write(name, b""),
                Err(StateError::Unusable { .. })
            ));
            assert!(matches!(state.read(name), Err(StateError::Unusable { .. })));
        }
        assert!(state.write("most", &vec![7; SLOT_BYTES_MAX]).is_ok());
        assert!(state.write("more", &vec![7; SLOT_BYTES_MAX + 1]).is_err());
        assert_eq!(state.read("more").unwrap(), None);
    }
}
