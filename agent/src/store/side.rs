//! The side files: what must be known when a database cannot tell.
//!
//! Owns: `meta`, `meta.copy`, `progress` and every `sealed`. Must not: touch sled.
//!
//! Invariants: no record is stored with a sequence number at or above `reserved` of both durable copies of `meta`;
//! `progress` has two places, and what is not synced never overwrites the one that is.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use quorate_core::units::{Epoch, Seq};

use super::{
    contents::Contents,
    note::Notes,
    ranges::Ranges,
    value::{self, Kind, Value},
};
use crate::durable::{sync_directory, write_whole};

const COPIES: [&str; 2] = ["meta", "meta.copy"];
const PROGRESS: &str = "progress";
const SEALED: &str = "sealed";

/// Bytes of each of the two places of `progress`.
const PLACE_BYTES: usize = 8_192;

/// Ranges that one place, and one mark in a database, hold.
const PROGRESS_PARTS_MAX: usize = 470;
/// Ranges of what was given up to make room; of more the highest are told as damaged after a restart.
const FULL_PARTS_MAX: usize = 4;

/// Largest side file that is read.
const SIDE_BYTES_MAX: u64 = 8 << 20;

/// Epoch and reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) epoch: u64,
    /// Every sequence number that was ever stored is below this.
    pub(super) reserved: u64,
}

impl Meta {
    /// Reads it; either copy is enough. `None` where both are missing or damaged.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        let copies = COPIES.iter().filter_map(|name| {
            let bytes = read_bounded(&directory.join(name)).ok()?;
            let value = decode_as(Kind::Meta, &mut &bytes[..])?;
            Some(Self {
                epoch: value.epoch.0,
                reserved: value.seq.0,
            })
        });
        copies.max_by_key(|meta| meta.reserved)
    }

    /// Writes both copies so that they survive a power cut.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let bytes = encoded(Kind::Meta, self.epoch, self.reserved, &[]);
        for name in COPIES {
            write_whole(directory, name, &bytes)?;
        }
        Ok(())
    }
}

/// What need not be delivered any more, and where the sequence stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Counts the states: the highest is the newest.
    pub(super) number: u64,
    /// Above every record that was acknowledged as stored.
    pub(super) seq_next: u64,
    /// Delivered, reported as gone, or never stored. Together with what the databases hold this is every number below
    /// `seq_next`.
    pub(super) done: Ranges,
    /// Given up to make room, and not known to the receiver yet: why these are missing at the next opening.
    pub(super) full: Ranges,
    /// Given up on purpose and done, and not known to the receiver yet.
    pub(super) notes: Notes,
}

impl Progress {
    /// The same without what is not told yet.
    pub(super) fn told(&self, owed: &Ranges) -> Self {
        Self {
            done: self.done.without(owed),
            full: self.full.clone(),
            notes: self.notes.clone(),
            ..*self
        }
    }

    /// Whether there was no room for all of it.
    pub(super) fn is_cut(&self) -> bool {
        self.done.parts().len() >= PROGRESS_PARTS_MAX
    }

    /// Its bytes. Of a set in more than 470 pieces the highest are left out: their records come again, as repeats.
    pub(super) fn payload(&self) -> Vec<u8> {
        let mut bytes = self.seq_next.to_le_bytes().to_vec();
        self.done.encode(PROGRESS_PARTS_MAX, &mut bytes);
        self.notes.encode(&mut bytes);
        self.full.encode(FULL_PARTS_MAX, &mut bytes);
        bytes
    }

    pub(super) fn from_payload(number: u64, mut bytes: &[u8]) -> Option<Self> {
        Self::take(number, &mut bytes).filter(|_| bytes.is_empty())
    }

    fn take(number: u64, bytes: &mut &[u8]) -> Option<Self> {
        let (seq_next, rest) = bytes.split_first_chunk::<8>()?;
        *bytes = rest;
        Some(Self {
            number,
            seq_next: u64::from_le_bytes(*seq_next),
            done: Ranges::decode(bytes)?,
            notes: Notes::decode(bytes)?,
            full: Ranges::decode(bytes)?,
        })
    }
}

/// The file that holds the progress.
#[derive(Debug)]
pub(super) struct ProgressFile {
    file: File,
    /// The place that is on the medium.
    synced: u64,
    /// It was only read so far, perhaps from memory: before the other place is written it must be sure.
    is_sure: bool,
    /// The medium could not read one of the places: there may be a newer state.
    pub(super) is_partial: bool,
}

impl ProgressFile {
    /// Opens it, creating it where there is none. Gives the newest state that is intact.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Option<Progress>)> {
        let path = directory.join(PROGRESS);
        let fresh = !path.exists();
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)?;
        let mut states: Vec<(u64, Progress)> = Vec::new();
        let mut is_partial = false;
        for place in [0, 1] {
            match read_progress(&file, place) {
                Ok(state) => states.extend(state.map(|state| (place, state))),
                // The other place may be readable, and older.
                Err(error) if value::is_unreadable(&error) => is_partial = true,
                Err(error) => return Err(error),
            }
        }
        let newest = states.into_iter().max_by_key(|(_, state)| state.number);
        let mut opened = Self {
            file,
            synced: newest.as_ref().map_or(0, |(place, _)| *place),
            is_sure: newest.is_none(),
            is_partial,
        };
        if fresh {
            let bytes = vec![0; PLACE_BYTES];
            opened.file.write_all_at(&bytes, 0)?;
            opened.file.write_all_at(&bytes, offset_of(1))?;
            let empty = Progress {
                seq_next: 1,
                ..Progress::default()
            };
            opened.write(0, &empty, true)?;
            sync_directory(directory)?;
        }
        Ok((opened, newest.map(|(_, state)| state)))
    }

    /// Reads the newest state without a change.
    pub(super) fn peek(directory: &Path) -> io::Result<Option<Progress>> {
        let file = File::open(directory.join(PROGRESS))?;
        let states = [read_progress(&file, 0)?, read_progress(&file, 1)?];
        Ok(states.into_iter().flatten().max_by_key(|it| it.number))
    }

    /// Writes a state. Without `sync` it survives the end of the process but perhaps no power cut.
    pub(super) fn write(&mut self, epoch: u64, state: &Progress, sync: bool) -> io::Result<()> {
        let bytes = encoded(Kind::Progress, epoch, state.number, &state.payload());
        if !self.is_sure {
            self.file.sync_data()?;
            self.is_sure = true;
        }
        let place = 1 - self.synced;
        self.file.write_all_at(&bytes, offset_of(place))?;
        if sync {
            self.file.sync_data()?;
            self.synced = place;
        }
        Ok(())
    }
}

fn offset_of(place: u64) -> u64 {
    place * u64::try_from(PLACE_BYTES).unwrap_or(0)
}

fn read_progress(file: &File, place: u64) -> io::Result<Option<Progress>> {
    let mut bytes = vec![0; PLACE_BYTES];
    match file.read_exact_at(&mut bytes, offset_of(place)) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        other => other?,
    }
    let value = decode_as(Kind::Progress, &mut &bytes[..]);
    Ok(value.and_then(|value| Progress::from_payload(value.seq.0, value.payload)))
}

/// What a complete database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) epoch: u64,
    /// The records that were acknowledged as stored.
    pub(super) seqs: Ranges,
    /// Their bytes, as they are counted.
    pub(super) bytes: u64,
    /// What it takes on the medium.
    pub(super) disk_bytes: u64,
    /// The progress when it was sealed.
    pub(super) progress: Progress,
    /// What it holds by class and age; `None` where nobody counted.
    pub(super) contents: Option<Contents>,
    /// What it was made from, if it was not filled by commits.
    pub(super) origin: Origin,
}

/// A database that was made from others, of which it keeps a part. The seal that says so is the moment from which it
/// stands for them: what they hold beside it does not count any more, and neither do they.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// How often its records were thinned.
    pub(super) level: u8,
    /// Generations of those that it replaces, all lower than its own.
    pub(super) replaces: Vec<u64>,
    /// What was left out, now and when those were made: done, and told by a note.
    pub(super) dropped: Ranges,
}

impl Origin {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.level);
        let count = u32::try_from(self.replaces.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&count.to_le_bytes());
        for generation in &self.replaces {
            bytes.extend_from_slice(&generation.to_le_bytes());
        }
        self.dropped.encode(usize::MAX, bytes);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (level, rest) = bytes.split_first()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let (words, mut rest) = rest.split_at_checked(count.checked_mul(8)?)?;
        let words = words.chunks_exact(8);
        let replaces = words.map(|word| word.try_into().map(u64::from_le_bytes));
        let origin = Self {
            level: *level,
            replaces: replaces.collect::<Result<_, _>>().ok()?,
            dropped: Ranges::decode(&mut rest)?,
        };
        *bytes = rest;
        Some(origin)
    }
}

impl Seal {
    /// Reads the seal of a database; `None` where it is missing or damaged.
    pub(super) fn read(database: &Path) -> Option<Self> {
        let bytes = read_bounded(&database.join(SEALED)).ok()?;
        let value = decode_as(Kind::Seal, &mut &bytes[..])?;
        let (words, mut rest) = value.payload.split_at_checked(24)?;
        let word = |at: usize| words[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let progress = Progress::take(word(16)?, &mut rest)?;
        let seqs = Ranges::decode(&mut rest)?;
        // Seals of the first form end here.
        let (mut contents, mut origin) = (None, Origin::default());
        if let Some((is_counted, more)) = rest.split_first() {
            rest = more;
            if *is_counted == 1 {
                contents = Some(Contents::decode(&mut rest)?);
            }
            origin = Origin::decode(&mut rest)?;
        }
        if !rest.is_empty() || seqs.count() != value.seq.0 {
            return None;
        }
        Some(Self {
            epoch: value.epoch.0,
            seqs,
            bytes: word(0)?,
            disk_bytes: word(8)?,
            progress,
            contents,
            origin,
        })
    }

    /// Writes it so that it survives a power cut.
    pub(super) fn write(&self, database: &Path) -> io::Result<()> {
        let mut payload = Vec::new();
        for word in [self.bytes, self.disk_bytes, self.progress.number] {
            payload.extend_from_slice(&word.to_le_bytes());
        }
        payload.extend_from_slice(&self.progress.payload());
        self.seqs.encode(usize::MAX, &mut payload);
        payload.push(u8::from(self.contents.is_some()));
        if let Some(contents) = &self.contents {
            contents.encode(&mut payload);
        }
        self.origin.encode(&mut payload);
        let bytes = encoded(Kind::Seal, self.epoch, self.seqs.count(), &payload);
        write_whole(database, SEALED, &bytes)
    }
}

fn encoded(kind: Kind, epoch: u64, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let fits = value::encode(kind, Epoch(epoch), Seq(number), payload, &mut bytes);
    // A database is closed long before its ranges fill this.
    assert!(fits, "a side file holds at most 4 MiB");
    bytes
}

fn decode_as<'a>(kind: Kind, bytes: &mut &'a [u8]) -> Option<Value<'a>> {
    value::decode(bytes).filter(|value| value.kind == kind)
}

/// Reads a side file; one that is too long to be one is cut and fails its check.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    File::open(path)?
        .take(SIDE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::{fs, path::Path};

    use super::{Contents, Meta, Origin, Progress, ProgressFile, Ranges, Seal};

    fn flip(path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    fn state(number: u64) -> Progress {
        Progress {
            number,
            seq_next: 41,
            done: Ranges::of(1, number),
            full: Ranges::of(2, number),
            ..Progress::default()
        }
    }

    #[test]
    fn either_copy_of_the_meta_is_enough_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let meta = Meta {
            epoch: 3,
            reserved: 10_000,
        };
        meta.write(path).unwrap();
        assert_eq!(Meta::read(path), Some(meta));
        flip(&path.join("meta"), 20);
        assert_eq!(Meta::read(path), Some(meta));
        flip(&path.join("meta.copy"), 30);
        assert_eq!(Meta::read(path), None);
    }

    #[test]
    fn progress_that_is_not_synced_never_overwrites_what_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (mut file, none) = ProgressFile::open(path).unwrap();
        assert_eq!(none, None);
        file.write(3, &state(7), true).unwrap();
        for number in 8..12 {
            file.write(3, &state(number), false).unwrap();
        }
        assert_eq!(ProgressFile::open(path).unwrap().1, Some(state(11)));
        // The place that is not synced is torn.
        let place = 1 - file.synced;
        flip(
            &path.join("progress"),
            usize::try_from(place).unwrap() * super::PLACE_BYTES + 40,
        );
        assert_eq!(ProgressFile::peek(path).unwrap(), Some(state(7)));
    }

    #[test]
    fn a_seal_comes_back_as_written_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut seqs = Ranges::of(5, 900);
        seqs.remove(77, 78);
        let seal = Seal {
            epoch: 3,
            seqs,
            bytes: 55_555,
            disk_bytes: 65_536,
            progress: state(9),
            contents: Some(Contents::default()),
            origin: Origin {
                level: 3,
                replaces: vec![1, 2],
                dropped: Ranges::of(77, 78),
            },
        };
        seal.write(directory.path()).unwrap();
        assert_eq!(Seal::read(directory.path()), Some(seal));
        let length = fs::read(directory.path().join("sealed")).unwrap().len();
        for at in 0..length {
            flip(&directory.path().join("sealed"), at);
            assert_eq!(Seal::read(directory.path()), None, "{at}");
            flip(&directory.path().join("sealed"), at);
        }
    }
}
