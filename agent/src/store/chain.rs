//! The databases that are complete: read from their raw files, deleted whole.
//!
//! Owns: the names of databases, the reading of a complete one, and its deletion. Must not: write to one or name sled.
//!
//! Invariants: a complete database is only read, never opened by sled again, so nothing that lies in it can panic,
//! change it or need space. A deletion shows the whole database or nothing after a power cut.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use super::{
    contents::Contents,
    ranges::Ranges,
    side::{Origin, Progress, Seal},
    value::{self, Place, Scan},
};
use crate::durable::sync_directory;

/// What a database is called: epoch, a lower bound of its sequence numbers, and how many were created before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) first: u64,
    pub(super) generation: u64,
    pub(super) epoch: u64,
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            first,
            generation,
            epoch,
        } = self;
        write!(formatter, "records-{epoch}-{first:020}-{generation:010}")
    }
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.strip_prefix("records-").ok_or(())?.split('-');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or(());
        let (epoch, first, generation) = (number()?, number()?, number()?);
        let name = Self {
            first,
            generation,
            epoch,
        };
        // Only what is written exactly like this is ours.
        (name.to_string() == text).then_some(name).ok_or(())
    }
}

/// A complete database.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) name: Name,
    pub(super) path: PathBuf,
    /// What it holds.
    pub(super) seqs: Ranges,
    /// Bytes of those records, as they are counted.
    pub(super) bytes: u64,
    pub(super) disk_bytes: u64,
    /// The medium could not read all of it when it was opened: another time it may, so it is not deleted before.
    pub(super) is_partial: bool,
    /// What it holds by class and age; `None` where nobody counted.
    pub(super) contents: Option<Contents>,
    /// What it was made from. Of what it replaces, only what could not be deleted.
    pub(super) origin: Origin,
}

impl Database {
    /// As its seal describes it.
    pub(super) fn sealed(name: Name, path: PathBuf, seal: Seal) -> Self {
        Self {
            name,
            path,
            seqs: seal.seqs,
            bytes: seal.bytes,
            disk_bytes: seal.disk_bytes,
            is_partial: false,
            contents: seal.contents,
            origin: seal.origin,
        }
    }

    /// The records that wait: all but what is done.
    pub(super) fn pending(&self, done: &Ranges) -> u64 {
        let (Some(first), Some(last)) = (self.seqs.first(), self.seqs.last()) else {
            return 0;
        };
        let count = self.seqs.count();
        match done.run_from(first) {
            None => count,
            Some((from, _)) if from > last => count,
            Some((from, to)) if from <= first && to >= last => 0,
            Some(_) => self.seqs.without(done).count(),
        }
    }
}

/// Share of `bytes` that belongs to `part` of `whole` records.
pub(super) fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    if part >= whole {
        return bytes;
    }
    let share = u128::from(bytes) * u128::from(part) / u128::from(whole);
    u64::try_from(share).unwrap_or(bytes)
}

/// The files of a database that can hold records; sled's own first.
///
/// # Errors
/// The folder of large records is there and cannot be read, so that nobody knows what lies in it.
pub(super) fn data_files(database: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![database.join("db")];
    let blobs = match fs::read_dir(database.join("blobs")) {
        Err(error) if has_none(&error) => return Ok(files),
        other => other?,
    };
    for entry in blobs {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Whether there is no folder, or what has its name is none.
fn has_none(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Bytes that a database takes on the medium.
pub(super) fn disk_bytes(database: &Path) -> u64 {
    let whole = |directory: &Path| -> u64 {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.metadata().ok())
            .map(|data| data.blocks() * 512)
            .sum()
    };
    whole(database).saturating_add(whole(&database.join("blobs")))
}

/// Where the records of a complete database lie.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) generation: u64,
    files: Vec<PathBuf>,
    open: Vec<(u32, File)>,
    /// Sorted by sequence number, one place for each.
    places: Vec<Place>,
    /// The newest progress that lies between the records.
    pub(super) progress: Option<Progress>,
    /// The medium could not read some places: there may be more.
    pub(super) is_partial: bool,
}

/// Files of one database that stay open; there is more than one only where records are very large.
const OPEN_MAX: usize = 4;

impl Reader {
    /// Scans the files.
    pub(super) fn open(path: &Path, name: Name) -> io::Result<Self> {
        let mut found = Scan::default();
        let files = match data_files(path) {
            // As with a place that cannot be read: there may be more, another time.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                found.is_partial = true;
                vec![path.join("db")]
            }
            other => other?,
        };
        for (index, file) in (0_u32..).zip(&files) {
            match File::open(file) {
                Ok(file) => value::scan(&file, index, &mut found)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if value::is_unreadable(&error) => found.is_partial = true,
                Err(error) => return Err(error),
            }
        }
        let mut places = found.records;
        places.retain(|place| place.epoch == name.epoch && place.seq >= name.first);
        places.sort_by_key(|place| place.seq);
        places.dedup_by_key(|place| place.seq);
        places.shrink_to_fit();
        let progress = found.progress;
        Ok(Self {
            generation: name.generation,
            files,
            open: Vec::new(),
            places,
            is_partial: found.is_partial,
            progress: progress.and_then(|(number, bytes)| Progress::from_payload(number, &bytes)),
        })
    }

    /// What it found.
    pub(super) fn seqs(&self) -> Ranges {
        let mut seqs = Ranges::default();
        for place in &self.places {
            seqs.insert(place.seq, place.seq);
        }
        seqs
    }

    /// Gives back what lies in sled's file behind the last record: zeros, or what sled needed to open it again.
    pub(super) fn trim(&self) -> io::Result<()> {
        if self.is_partial {
            return Ok(());
        }
        let ends = self.places.iter().filter(|place| place.file == 0);
        let end = ends
            .map(|place| place.offset + u64::from(place.bytes))
            .max();
        let Some(path) = self.files.first() else {
            return Ok(());
        };
        File::options()
            .write(true)
            .open(path)?
            .set_len(end.unwrap_or(0))
    }

    /// Bytes of what it found, without headers.
    pub(super) fn payload_bytes(&self) -> impl Iterator<Item = (u64, usize)> {
        self.places.iter().map(|place| {
            let bytes = usize::try_from(place.bytes).unwrap_or(usize::MAX);
            (place.seq, bytes.saturating_sub(value::HEADER_BYTES))
        })
    }

    /// One record; `None` where it is damaged or was never there.
    pub(super) fn read(&mut self, seq: u64) -> io::Result<Option<Arc<[u8]>>> {
        let Ok(at) = self.places.binary_search_by_key(&seq, |place| place.seq) else {
            return Ok(None);
        };
        let place = self.places[at];
        if !self.open.iter().any(|(index, _)| *index == place.file) {
            let index = usize::try_from(place.file).unwrap_or(usize::MAX);
            let Some(path) = self.files.get(index) else {
                return Ok(None);
            };
            self.open.truncate(OPEN_MAX - 1);
            self.open.insert(0, (place.file, File::open(path)?));
        }
        let file = self.open.iter().find(|(index, _)| *index == place.file);
        file.map_or(Ok(None), |(_, file)| value::payload_at(file, place))
    }
}

const DELETED: &str = ".deleted";

/// Deletes a database whole.
pub(super) fn delete(store: &Path, database: &Path) -> io::Result<()> {
    let mut gone = database.as_os_str().to_owned();
    gone.push(DELETED);
    fs::rename(database, &gone)?;
    sync_directory(store)?;
    fs::remove_dir_all(&gone)
}

/// What lies in the directory of a store.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) databases: Vec<(Name, PathBuf)>,
    /// Left over from deletions that were cut off.
    pub(super) deleted: Vec<PathBuf>,
}

/// Lists a store, sorted by name.
pub(super) fn list(store: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !entry.path().is_dir() {
            continue;
        }
        if let Ok(name) = name.parse() {
            listing.databases.push((name, entry.path()));
        } else if name
            .strip_suffix(DELETED)
            .is_some_and(|name| name.parse::<Name>().is_ok())
        {
            listing.deleted.push(entry.path());
        }
    }
    listing.databases.sort();
    Ok(listing)
}
