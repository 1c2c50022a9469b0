//! The store: records that survive a power cut, in sled, behind an interface that hides it.
//!
//! Owns: sled, the directory of the outbox and everything in it. Must not: decide what is sent or when.
//!
//! Invariants: [`Outbox::append`] succeeds only after the records and the next sequence number are on the medium,
//! by an fsync of our own (sled's flush on Linux calls `sync_file_range` only); every value is checked when it is read;
//! nothing that lies in the directory can panic the process; a store that another process holds is never moved.
//! Start-up reads and checks every waiting record once, so it takes time in proportion to the backlog.

mod finding;
mod guard;
mod meta;
mod opening;
mod salvage;
#[cfg(test)]
mod tests;
mod value;
mod worker;

use std::{
    cell::RefCell,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use quorate_core::{
    event::{GoneCause, StoreFault, StoreReport, StoredRecord},
    units::{Epoch, Seq},
};

pub use self::{
    finding::{Finding, Gone, StoreError},
    opening::open,
    worker::{Command, spawn},
};
use self::{
    guard::{fault, guarded, io_fault},
    meta::{Left, Meta},
};

/// Bytes that a waiting record is counted with beyond its payload: header, key and sled's own.
const OVERHEAD_BYTES: u64 = 96;

/// Sequence numbers that are reserved at once in the side file.
const RESERVE: u64 = 10_000;

/// Payloads above this may lie in files of their own under `blobs`, whose names must be durable too.
const INLINE_BYTES_MAX: usize = 32 << 10;

/// Records that are deleted in one sled batch.
const DELETIONS_MAX: usize = 4_096;

/// How the store is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; created where there is none.
    pub path: PathBuf,
    /// Most bytes of waiting records, payload and overhead; the oldest make room.
    pub size_bytes_max: u64,
    /// Longest wait of a record for others to share its commit, in milliseconds; 0 commits every record by itself.
    pub commit_interval_ms: u64,
    /// Most records of one commit, at least 1.
    pub commit_records_max: u32,
}

impl Options {
    /// The usual settings for a directory: 1 GiB, 50 ms, 256 records.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            size_bytes_max: 1 << 30,
            commit_interval_ms: 50,
            commit_records_max: 256,
        }
    }
}

/// An open store and what the opening found.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub outbox: Outbox,
    /// Its life.
    pub epoch: Epoch,
    /// The first sequence number that was never stored; 1 in a new store.
    pub seq_next: Seq,
    /// What was not as it should be.
    pub findings: Vec<Finding>,
}

/// The records that wait for delivery.
pub struct Outbox {
    path: PathBuf,
    size_bytes_max: u64,
    /// `None` between a failure and the next successful attempt to open.
    database: Option<sled::Db>,
    /// Our own descriptor of sled's file, for the fsync that sled does not do.
    data: File,
    meta: Meta,
    seq_next: u64,
    pending: u64,
    pending_bytes: u64,
    damaged: RefCell<Vec<u64>>,
    gone: Vec<Gone>,
    /// Held for as long as the store is.
    _lock: File,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Outbox")
            .field("path", &self.path)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

const STATE_KEY: &[u8] = b"s";

/// Key of a record: sorted as its sequence number.
fn key(seq: u64) -> [u8; 9] {
    let mut key = [b'r'; 9];
    key[1..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// The sequence number of a record's key.
fn seq_of(key: &[u8]) -> Option<u64> {
    let (b'r', rest) = key.split_first()? else {
        return None;
    };
    Some(u64::from_be_bytes(rest.try_into().ok()?))
}

fn weight(payload_bytes: usize) -> u64 {
    u64::try_from(payload_bytes)
        .unwrap_or(u64::MAX)
        .saturating_add(OVERHEAD_BYTES)
}

fn stored_weight(value_bytes: usize) -> u64 {
    weight(value_bytes.saturating_sub(value::HEADER_BYTES))
}

impl Outbox {
    /// Makes the records durable, in one commit. Where the store is full, the oldest make room: see
    /// [`Self::take_gone`].
    ///
    /// # Errors
    /// Whatever the medium said; then none of the records may be counted upon.
    pub fn append(&mut self, records: &[StoredRecord]) -> Result<(), StoreFault> {
        let Some(highest) = records.iter().map(|record| record.seq.0).max() else {
            return Ok(());
        };
        let outcome = self.commit(records, highest);
        if outcome.is_err() {
            // sled refuses everything after its first error: the next attempt opens it again and counts again.
            self.database = None;
        }
        outcome
    }

    fn commit(&mut self, records: &[StoredRecord], highest: u64) -> Result<(), StoreFault> {
        self.reopen()?;
        if highest >= self.meta.reserved {
            let meta = Meta {
                reserved: highest.saturating_add(RESERVE),
                ..self.meta
            };
            meta.write(&self.path).map_err(|error| io_fault(&error))?;
            self.meta = meta;
        }
        let mut batch = sled::Batch::default();
        let (mut added, mut added_bytes) = (0_u64, 0_u64);
        for record in records {
            let bytes = value::encode(Epoch(self.meta.epoch), record.seq, &record.payload)
                .ok_or_else(|| fault("too-large", "a record is larger than the store accepts"))?;
            if record.seq.0 >= self.seq_next || !self.contains(record.seq.0)? {
                added += 1;
                added_bytes = added_bytes.saturating_add(weight(record.payload.len()));
            }
            batch.insert(&key(record.seq.0), bytes);
        }
        let room = self.make_room(added_bytes, &mut batch)?;
        let seq_next = self.seq_next.max(highest.saturating_add(1));
        if let Some((gone, _)) = &room {
            self.meta.watermark = self.meta.watermark.max(gone.last.0);
        }
        batch.insert(
            STATE_KEY,
            opening::state(self.meta.epoch, seq_next, self.meta.watermark),
        );
        let database = self.database()?;
        guarded(|| database.apply_batch(batch).and_then(|()| database.flush()))?;
        self.data.sync_data().map_err(|error| io_fault(&error))?;
        if records
            .iter()
            .any(|record| record.payload.len() > INLINE_BYTES_MAX)
        {
            opening::sync_blobs(&self.path).map_err(|error| io_fault(&error))?;
        }
        self.seq_next = seq_next;
        self.pending += added;
        self.pending_bytes = self.pending_bytes.saturating_add(added_bytes);
        if let Some((gone, bytes)) = room {
            self.pending = self.pending.saturating_sub(gone.count);
            self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
            self.gone.push(gone);
        }
        Ok(())
    }

    /// Puts deletions of the oldest into the batch until the new bytes fit.
    fn make_room(
        &self,
        added_bytes: u64,
        batch: &mut sled::Batch,
    ) -> Result<Option<(Gone, u64)>, StoreFault> {
        let excess = self
            .pending_bytes
            .saturating_add(added_bytes)
            .saturating_sub(self.size_bytes_max);
        if excess == 0 {
            return Ok(None);
        }
        let database = self.database()?;
        guarded(|| {
            let (mut room, mut freed) = (None, 0_u64);
            for item in database.range(key(0)..) {
                if freed >= excess {
                    break;
                }
                let (name, bytes) = item?;
                // A record that is being stored again just now keeps its place.
                let Some(seq) = seq_of(&name).filter(|seq| *seq < self.seq_next) else {
                    continue;
                };
                freed = freed.saturating_add(stored_weight(bytes.len()));
                batch.remove(name);
                let gone = room.get_or_insert(Gone {
                    first: Seq(seq),
                    last: Seq(seq),
                    count: 0,
                    cause: GoneCause::Full,
                });
                gone.last = Seq(seq);
                gone.count += 1;
            }
            Ok(room.map(|gone| (gone, freed)))
        })
    }

    fn contains(&self, seq: u64) -> Result<bool, StoreFault> {
        let database = self.database()?;
        guarded(|| database.contains_key(key(seq)))
    }

    /// Reads records with `after < seq <= through`, at most so many and so many payload bytes, but one in any case.
    /// Damaged ones are left out and remembered for [`Self::remove_damaged`].
    ///
    /// # Errors
    /// The store cannot be read; the next opening will not believe it.
    pub fn load(
        &self,
        after: Seq,
        through: Seq,
        records_max: u32,
        bytes_max: u32,
    ) -> Result<Vec<StoredRecord>, StoreFault> {
        if after >= through {
            return Ok(Vec::new());
        }
        let database = self.database()?;
        let (records_max, bytes_max) = (
            usize::try_from(records_max).unwrap_or(usize::MAX),
            usize::try_from(bytes_max).unwrap_or(usize::MAX),
        );
        let outcome = guarded(|| {
            let (mut records, mut total) = (Vec::new(), 0_usize);
            for item in database.range(key(after.0.saturating_add(1))..=key(through.0)) {
                let (name, bytes) = item?;
                let Some(seq) = seq_of(&name) else { continue };
                let intact = value::decode(&bytes)
                    .filter(|it| it.seq.0 == seq && it.epoch.0 == self.meta.epoch);
                let Some(intact) = intact else {
                    self.damaged.borrow_mut().push(seq);
                    continue;
                };
                total = total.saturating_add(intact.payload.len());
                if records.len() >= records_max.max(1) || (total > bytes_max && !records.is_empty())
                {
                    break;
                }
                records.push(StoredRecord {
                    seq: Seq(seq),
                    payload: Arc::from(intact.payload),
                });
            }
            Ok(records)
        });
        if let Err(fault) = &outcome
            && matches!(fault.cause, "panicked" | "damaged")
        {
            // Where this cannot be written either, the next opening finds out by itself.
            let _ = Meta {
                left: Left::Suspect,
                ..self.meta
            }
            .write(&self.path);
        }
        outcome
    }

    /// Deletes what [`Self::load`] found damaged; see [`Self::take_gone`].
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove_damaged(&mut self) -> Result<(), StoreFault> {
        for seq in std::mem::take(self.damaged.get_mut()) {
            if self.forget(Seq(seq), Seq(seq))? > 0 {
                self.gone.push(Gone {
                    first: Seq(seq),
                    last: Seq(seq),
                    count: 1,
                    cause: GoneCause::Damaged,
                });
            }
        }
        Ok(())
    }

    /// Deletes records from `first` to `last` and returns how many there were. Durable with the next commit or close:
    /// after a power cut they may come back, as repeats.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn forget(&mut self, first: Seq, last: Seq) -> Result<u64, StoreFault> {
        self.reopen()?;
        let mut forgotten = 0;
        if first > last {
            return Ok(0);
        }
        loop {
            let database = self.database()?;
            let (count, bytes) = guarded(|| {
                let (mut batch, mut count, mut bytes) = (sled::Batch::default(), 0_u64, 0_u64);
                for item in database
                    .range(key(first.0)..=key(last.0))
                    .take(DELETIONS_MAX)
                {
                    let (name, stored) = item?;
                    count += 1;
                    bytes = bytes.saturating_add(stored_weight(stored.len()));
                    batch.remove(name);
                }
                database.apply_batch(batch)?;
                Ok((count, bytes))
            })?;
            if count == 0 {
                break;
            }
            forgotten += count;
            self.pending = self.pending.saturating_sub(count);
            self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
        }
        if forgotten > 0 {
            self.raise_watermark()?;
        }
        Ok(forgotten)
    }

    /// Everything before the oldest record is forgotten: says so, rarely in the side file, always in sled.
    fn raise_watermark(&mut self) -> Result<(), StoreFault> {
        let database = self.database()?;
        let oldest = guarded(|| database.range(key(0)..).next().transpose())?;
        let oldest = oldest
            .and_then(|(name, _)| seq_of(&name))
            .unwrap_or(self.seq_next);
        let watermark = oldest.saturating_sub(1).max(self.meta.watermark);
        let written = self.meta.watermark / RESERVE;
        self.meta.watermark = watermark;
        let state = opening::state(self.meta.epoch, self.seq_next, watermark);
        let database = self.database()?;
        guarded(|| database.insert(STATE_KEY, state))?;
        if watermark / RESERVE > written {
            self.meta
                .write(&self.path)
                .map_err(|error| io_fault(&error))?;
        }
        Ok(())
    }

    /// How full it is.
    #[must_use]
    pub fn report(&self) -> StoreReport {
        StoreReport {
            pending: self.pending,
            pending_bytes: self.pending_bytes,
            disk_bytes: opening::disk_bytes(&self.path),
        }
    }

    /// The records that were dropped or found damaged since the last call.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        std::mem::take(&mut self.gone)
    }

    /// Lowest and highest sequence number that waits.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn ends(&self) -> Result<Option<(Seq, Seq)>, StoreFault> {
        let database = self.database()?;
        guarded(|| {
            let mut range = database.range(key(0)..=key(u64::MAX));
            let first = range
                .next()
                .transpose()?
                .and_then(|(name, _)| seq_of(&name));
            let last = range
                .next_back()
                .transpose()?
                .and_then(|(name, _)| seq_of(&name));
            Ok(first.map(|first| (Seq(first), Seq(last.unwrap_or(first)))))
        })
    }

    /// Writes what is still in memory and marks the store as closed in order.
    ///
    /// # Errors
    /// The medium failed; everything that was acknowledged is still there.
    pub fn close(mut self) -> Result<(), StoreFault> {
        if let Some(database) = self.database.take() {
            guarded(|| database.flush())?;
            self.data.sync_data().map_err(|error| io_fault(&error))?;
            guarded(move || {
                drop(database);
                Ok(())
            })?;
            if Meta::read(&self.path).is_some_and(|meta| meta.left != Left::Suspect) {
                let meta = Meta {
                    left: Left::Clean,
                    pending: self.pending,
                    ..self.meta
                };
                meta.write(&self.path).map_err(|error| io_fault(&error))?;
            }
        }
        Ok(())
    }

    fn database(&self) -> Result<&sled::Db, StoreFault> {
        self.database
            .as_ref()
            .ok_or_else(|| fault("closed", "the store failed and is not open again yet"))
    }
}
