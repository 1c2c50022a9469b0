//! The database that is written to: the only one that sled has open.
//!
//! Owns: sled, its settings, and how records are laid into it. Must not: open a database that it did not create.
//!
//! Invariants: [`Head::commit`] succeeds only after sled's flush and an fsync of our own (sled's flush on Linux calls
//! `sync_file_range` only, and its blobs not even that). Records are packed: one entry of sled is what one commit
//! brings, up to [`ENTRY_BYTES_MAX`], and a tree takes few of them before the next one begins. sled rewrites a leaf
//! as it grows, so one tree with an entry per record writes every record five times.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use quorate_core::{
    event::{StoreFault, StoredRecord},
    units::{Epoch, Seq},
};

use super::{
    chain::{Name, data_files},
    contents::Contents,
    guard::{fault, guarded, io_fault},
    ranges::Ranges,
    value::{self, HEADER_BYTES, Kind},
};
use crate::durable::sync_directory;

/// sled writes and frees its file in pieces of this size. Large against what a leaf takes, so that little is moved.
const SEGMENT_BYTES: usize = 1 << 20;

/// An entry of more than a quarter of a segment goes into a file of its own under `blobs`.
const INLINE_BYTES_MAX: usize = SEGMENT_BYTES / 4 - 1_024;

/// Records are packed into one entry up to this; a larger record is an entry by itself.
const ENTRY_BYTES_MAX: usize = 15 << 10;

/// A tree takes no entry beyond this.
const TREE_BYTES_MAX: usize = 60 << 10;

/// A tree that holds this and [`TREE_ENTRIES`] takes no more.
const TREE_BYTES_MIN: usize = 16 << 10;

/// sled writes a leaf anew with the tenth entry since the last time.
const TREE_ENTRIES: usize = 9;

/// Zeros that are written ahead of sled, so that a small commit changes no length and no map of the file, and the file
/// system need not write its journal with it: half the flushes and a quarter of the bytes. A database that takes little
/// has fewer.
const AHEAD_BYTES_MAX: u64 = 256 << 10;

/// A commit of more than this does not gain by it.
const AHEAD_COMMIT_BYTES_MAX: usize = 16 << 10;

/// sled's cache; what is read from the head is read once and soon after it was written.
const CACHE_BYTES: u64 = 512 << 10;

/// What lies in one entry.
#[derive(Clone, Copy, Debug)]
struct Entry {
    first: u64,
    last: u64,
    tree: usize,
}

/// The open database.
pub(super) struct Head {
    pub(super) name: Name,
    pub(super) path: PathBuf,
    /// What it holds and has acknowledged.
    pub(super) seqs: Ranges,
    /// Bytes of those records, as they are counted.
    pub(super) bytes: u64,
    pub(super) contents: Contents,
    /// When the oldest record was made whose clock was synchronised.
    pub(super) oldest_unix_ms: Option<i64>,
    engine: Engine,
    /// Our own descriptor of sled's file, for the fsync that sled does not do.
    data: File,
    /// Length of the file once zeros were written ahead.
    ahead_bytes: u64,
    ahead_step: usize,
    tree_bytes: usize,
    tree_entries: usize,
    entries: Vec<Entry>,
}

/// sled, which may panic when it is let go.
struct Engine {
    /// Taken when it is dropped.
    held: Option<(sled::Db, Vec<sled::Tree>)>,
}

impl Engine {
    fn database(&self) -> Result<&sled::Db, StoreFault> {
        let held = self.held.as_ref();
        held.map(|held| &held.0)
            .ok_or_else(|| fault("closed", "the database is closed"))
    }

    fn trees(&self) -> &[sled::Tree] {
        self.held.as_ref().map_or(&[], |held| &held.1)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let held = self.held.take();
        // sled writes a last time, which a full or failing medium refuses: nothing that counts depends on it.
        let _ = guarded(move || {
            drop(held);
            Ok(())
        });
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Head")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Head {
    /// Creates an empty database that is to take so many bytes; its names are durable.
    pub(super) fn create(store: &Path, name: Name, bytes_max: u64) -> Result<Self, StoreFault> {
        let path = store.join(name.to_string());
        let opened = guarded(|| {
            sled::Config::new()
                .path(&path)
                .create_new(true)
                .cache_capacity(CACHE_BYTES)
                // Every commit flushes. A thread that also does, and moves records about to free segments of a file
                // that is deleted whole, would only write more, and at moments that no fsync follows.
                .flush_every_ms(None)
                .mode(sled::Mode::LowSpace)
                .segment_size(SEGMENT_BYTES)
                .use_compression(false)
                .open()
        })?;
        let engine = Engine {
            held: Some((opened, Vec::new())),
        };
        let prepare = || -> io::Result<File> {
            let data = File::options()
                .read(true)
                .write(true)
                .open(path.join("db"))?;
            data.sync_all()?;
            sync_directory(&path)?;
            sync_directory(store)?;
            Ok(data)
        };
        Ok(Self {
            data: prepare().map_err(|error| io_fault(&error))?,
            name,
            path,
            seqs: Ranges::default(),
            bytes: 0,
            contents: Contents::default(),
            oldest_unix_ms: None,
            engine,
            ahead_bytes: 0,
            ahead_step: usize::try_from(ahead_bytes(bytes_max)).unwrap_or(0),
            tree_bytes: 0,
            tree_entries: 0,
            entries: Vec::new(),
        })
    }

    /// Makes the records durable, and the progress with them where one is given.
    pub(super) fn commit(
        &mut self,
        records: &[&StoredRecord],
        progress: Option<(u64, &[u8])>,
    ) -> Result<(), StoreFault> {
        let epoch = Epoch(self.name.epoch);
        let mut packed = Vec::new();
        if let Some((number, payload)) = progress {
            value::encode(Kind::Progress, epoch, Seq(number), payload, &mut packed);
        }
        let (mut start, mut blobs, mut total) = (0, false, 0);
        for (at, record) in records.iter().enumerate() {
            if !value::encode(
                Kind::Record,
                epoch,
                record.seq,
                &record.payload,
                &mut packed,
            ) {
                return Err(fault(
                    "too-large",
                    "a record is larger than the store accepts",
                ));
            }
            let next = records
                .get(at + 1)
                .map(|next| next.payload.len() + HEADER_BYTES);
            if next.is_none_or(|next| packed.len() + next > ENTRY_BYTES_MAX) {
                blobs |= packed.len() > INLINE_BYTES_MAX;
                total += packed.len();
                self.insert(&records[start..=at], std::mem::take(&mut packed))?;
                start = at + 1;
            }
        }
        let database = self.engine.database()?;
        guarded(|| database.flush())?;
        if total <= AHEAD_COMMIT_BYTES_MAX {
            self.write_ahead().map_err(|error| io_fault(&error))?;
        }
        self.sync(blobs).map_err(|error| io_fault(&error))?;
        for record in records {
            self.seqs.insert(record.seq.0, record.seq.0);
            self.bytes = self.bytes.saturating_add(weight(record.payload.len()));
            let made = self.contents.add(&record.payload);
            self.oldest_unix_ms = [self.oldest_unix_ms, made].into_iter().flatten().min();
        }
        Ok(())
    }

    /// Puts one entry into sled, sorted by when it came.
    fn insert(&mut self, records: &[&StoredRecord], packed: Vec<u8>) -> Result<(), StoreFault> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(());
        };
        let is_full = self.tree_bytes + packed.len() > TREE_BYTES_MAX
            || (self.tree_bytes >= TREE_BYTES_MIN && self.tree_entries >= TREE_ENTRIES);
        let count = self.engine.trees().len();
        if count == 0 || is_full {
            let name = u32::try_from(count).unwrap_or(u32::MAX);
            let database = self.engine.database()?;
            let tree = guarded(|| database.open_tree(name.to_be_bytes()))?;
            if let Some((_, trees)) = &mut self.engine.held {
                trees.push(tree);
            }
            (self.tree_bytes, self.tree_entries) = (0, 0);
        }
        self.tree_entries += 1;
        self.tree_bytes = self.tree_bytes.saturating_add(packed.len());
        let trees = self.engine.trees();
        let tree = trees.len() - 1;
        let key = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        guarded(|| trees[tree].insert(key.to_be_bytes(), packed))?;
        self.entries.push(Entry {
            first: first.seq.0,
            last: last.seq.0,
            tree,
        });
        Ok(())
    }

    /// Keeps zeros ahead of sled. After its flush and before the next entry sled writes nothing, so what is beyond the end
    /// of the file is not about to be written.
    fn write_ahead(&mut self) -> io::Result<()> {
        let length = self.data.metadata()?.len();
        if length == self.ahead_bytes {
            return Ok(());
        }
        match self.data.write_all_at(&vec![0; self.ahead_step], length) {
            // Without room for it the commit is as good.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            other => other?,
        }
        self.ahead_bytes = self.data.metadata()?.len();
        Ok(())
    }

    fn sync(&self, blobs: bool) -> io::Result<()> {
        self.data.sync_data()?;
        if blobs {
            for file in data_files(&self.path)?.into_iter().skip(1) {
                File::open(file)?.sync_data()?;
            }
            sync_directory(&self.path.join("blobs"))?;
        }
        Ok(())
    }

    /// Hands the records from `first` to `last` to `take`, in order, until it says that it is enough.
    ///
    /// A record that sled does not show as it was given is no record that was never there: an error `damaged`.
    pub(super) fn read(
        &self,
        first: u64,
        last: u64,
        take: &mut impl FnMut(Seq, Arc<[u8]>) -> bool,
    ) -> Result<(), StoreFault> {
        let mut next = first;
        for (number, entry) in self.entries.iter().enumerate() {
            if entry.last < next || entry.first > last {
                continue;
            }
            let key = u32::try_from(number).unwrap_or(u32::MAX);
            let packed = guarded(|| self.engine.trees()[entry.tree].get(key.to_be_bytes()))?;
            let packed = packed.ok_or_else(|| fault("damaged", "sled does not show an entry"))?;
            let mut bytes = &packed[..];
            while let Some(value) = value::decode(&mut bytes) {
                let seq = value.seq.0;
                if value.kind != Kind::Record || seq < next || seq > last {
                    continue;
                }
                if seq != next {
                    return Err(fault("damaged", "sled does not show a record"));
                }
                if !take(value.seq, Arc::from(value.payload)) {
                    return Ok(());
                }
                next = seq.saturating_add(1);
            }
            if !bytes.is_empty() {
                return Err(fault("damaged", "an entry is not as it was given"));
            }
        }
        if next <= last {
            return Err(fault("damaged", "sled does not show a record"));
        }
        Ok(())
    }

    /// Lets sled go. What was acknowledged is on the medium already.
    pub(super) fn close(self) -> (Name, PathBuf, Ranges, u64) {
        let Self {
            name,
            path,
            seqs,
            bytes,
            engine,
            data,
            ..
        } = self;
        drop(engine);
        let _ = data.sync_data();
        (name, path, seqs, bytes)
    }

    /// Removes what [`Self::create`] or a first commit left behind.
    pub(super) fn discard(self) {
        let (_, path, _, _) = self.close();
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
impl Head {
    /// What a fault of sled would look like.
    pub(super) fn lose_an_entry(&self) {
        let tree = self.engine.trees().last().expect("something was committed");
        tree.clear().expect("a test may panic");
    }
}

/// Zeros ahead of sled in a database that is to take so many bytes.
pub(super) fn ahead_bytes(bytes_max: u64) -> u64 {
    AHEAD_BYTES_MAX.min(bytes_max / 4)
}

/// Bytes that a record is counted with: its payload, its header, and what sled adds to it.
pub(super) fn weight(payload_bytes: usize) -> u64 {
    const SLED_BYTES: usize = 16;
    u64::try_from(payload_bytes.saturating_add(HEADER_BYTES + SLED_BYTES)).unwrap_or(u64::MAX)
}
