//! The store: records that survive a power cut, in a chain of small sled databases, behind an interface that hides it.
//!
//! Owns: sled, the directory of the outbox and everything in it. Must not: decide what is sent or when.
//!
//! Invariants: [`Outbox::append`] succeeds only after the records are on the medium, by an fsync of our own; every
//! value is checked when it is read; nothing that lies in the directory can panic the process; a store that another
//! process holds is never touched. Every sequence number below the next one is done (delivered, reported as gone or
//! never stored) or in a database, so that whatever is missing can be named. Start-up, memory, and what one fault can
//! damage are bounded by one database, whatever the backlog. The layout and the figures stand in `docs/store.md`.

mod chain;
mod contents;
mod drain;
mod expiry;
mod finding;
mod guard;
mod head;
mod legacy;
mod note;
mod opening;
pub(crate) mod ranges;
mod rescue;
mod side;
mod space;
#[cfg(test)]
mod tests;
mod thinning;
mod value;
mod verify;
mod worker;

use std::{
    cell::{Cell, RefCell},
    fmt,
    fs::File,
    path::{Path, PathBuf},
};

use quorate_core::{
    event::{StoreFault, StoreReport, StoredRecord},
    units::{Epoch, Seq},
};

pub(crate) use self::space::free_bytes;
use self::{
    chain::{Database, Name, Reader},
    guard::{fault, io_fault},
    head::Head,
    ranges::Ranges,
    side::{Meta, Origin, Progress, ProgressFile, Seal},
};
pub use self::{
    finding::{Finding, Gone, StoreError},
    opening::open,
    rescue::rescue,
    verify::{DatabaseVerification, Verification, verify},
    worker::{Command, spawn},
};

/// Sequence numbers that are reserved at once in the side file.
const RESERVE: u64 = 10_000;

/// Bytes of records that one database takes at most before the next one begins. What sled and the allocator hold grows
/// with it: 16 MiB in all at 2 MiB, 25 MiB at 4 MiB.
const DATABASE_BYTES_MAX: u64 = 2 << 20;

/// The least that one database takes, however small the store is to be.
const DATABASE_BYTES_MIN: u64 = 64 << 10;

/// Records that one database takes at most: what is kept in memory while it is read grows with them.
const DATABASE_RECORDS_MAX: u64 = 32_768;

/// Gaps in its sequence that one database takes at most.
const DATABASE_PARTS_MAX: usize = 1_024;

/// What happens to new records while the store is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// The oldest make room, a whole database at a time, and are reported.
    #[default]
    DropOldest,
    /// What matters least makes room, oldest first: records of other programs, then votes, then inferences, then
    /// events. What is dropped of a range is reported as one.
    DropLowestPriority,
    /// The oldest part becomes coarser: of two old databases one is made, with every event and every second block of 32
    /// of the rest, so that of a long outage some of every part is kept.
    Thin,
    /// New records are refused with a fault `full`; nothing that was stored is dropped.
    RejectNew,
}

/// How the store is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; created where there is none.
    pub path: PathBuf,
    /// Most bytes on the medium, sled's overhead included; below 1 MiB it counts as 1 MiB.
    pub size_bytes_max: u64,
    /// Longest wait of a record for others to share its commit, in milliseconds; 0 commits every record by itself.
    pub commit_interval_ms: u64,
    /// Most records of one commit, at least 1.
    pub commit_records_max: u32,
    /// What happens when `size_bytes_max` is reached.
    pub on_full: OnFull,
    /// Records that are older than this are given up, in milliseconds; `None` keeps them.
    pub ttl_ms: Option<u64>,
    /// For so long after it was read a record may be on its way to the broker, in milliseconds: it is not given up to
    /// [`Self::ttl_ms`], nor thinned or displaced, but stays.
    pub in_flight_ms: u64,
    /// Keep delivered records until their space is needed, for [`Outbox::replay`] and [`Outbox::recall`].
    pub retain_acked: bool,
    /// Free bytes of the file system that no new database takes; others need them.
    pub free_bytes_min: u64,
    /// Size of a file that is given up when the file system is full, so that the store can go on for a while.
    pub ballast_bytes: u64,
}

impl Options {
    /// The usual settings for a directory: 1 GiB, 50 ms, 256 records, the oldest make room, nothing retained, 4 MiB of
    /// the file system left free, 4 MiB of ballast.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            size_bytes_max: 1 << 30,
            commit_interval_ms: 50,
            commit_records_max: 256,
            on_full: OnFull::DropOldest,
            ttl_ms: None,
            in_flight_ms: 60_000,
            retain_acked: false,
            free_bytes_min: 4 << 20,
            ballast_bytes: 4 << 20,
        }
    }

    /// What one database takes: a sixteenth of the whole, within bounds.
    fn database_bytes_max(&self) -> u64 {
        (self.size_bytes_max / 16).clamp(DATABASE_BYTES_MIN, DATABASE_BYTES_MAX)
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
    options: Options,
    meta: Meta,
    progress: Progress,
    progress_file: ProgressFile,
    /// What is done has changed since the last commit told the medium.
    progress_is_new: bool,
    /// Complete databases, by name.
    databases: Vec<Database>,
    head: Option<Head>,
    /// sled does not show what it was given: read the head's file instead, and begin another with the next commit.
    head_is_suspect: Cell<bool>,
    generation_next: u64,
    /// The databases that were read last, newest first.
    readers: RefCell<Vec<Reader>>,
    /// Loads in a row that met a place which the medium cannot read.
    unreadable: Cell<u32>,
    /// Everything up to here has been asked for once.
    loaded_through: Cell<u64>,
    /// Records that came below `loaded_through` after it was asked for, and that no load has shown since.
    unseen: RefCell<Ranges>,
    damaged: RefCell<Ranges>,
    gone: Vec<Gone>,
    /// What may be on its way to the broker.
    in_flight: Ranges,
    /// Gone, and not known to the receiver yet: not written down as done, so that the next opening names it again.
    owed: Ranges,
    /// The opening could not read all: what it named may come back, so none of it is written down as done.
    is_partial: bool,
    ballast_bytes: u64,
    /// Databases that the opening found without a seal, until the first change.
    unsealed: Option<Vec<u64>>,
    /// Held for as long as the store is.
    _lock: File,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Outbox")
            .field("path", &self.options.path)
            .field("databases", &self.databases.len())
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// Makes the records durable, in one commit; those that wait in the store already are not stored twice. Where the
    /// store is full, [`Options::on_full`] decides: see [`Self::take_gone`].
    ///
    /// # Errors
    /// Whatever the medium said, twice; then none of the records may be counted upon.
    pub fn append(&mut self, records: &[StoredRecord]) -> Result<(), StoreFault> {
        let mut fresh: Vec<&StoredRecord> = records
            .iter()
            .filter(|record| !self.waits(record.seq.0))
            .collect();
        fresh.sort_by_key(|record| record.seq);
        fresh.dedup_by_key(|record| record.seq);
        let (Some(first), Some(last)) = (fresh.first(), fresh.last()) else {
            return Ok(());
        };
        let (first, last) = (first.seq.0, last.seq.0);
        if fresh
            .iter()
            .any(|record| record.payload.len() > value::PAYLOAD_BYTES_MAX)
        {
            return Err(fault(
                "too-large",
                "a record is larger than the store accepts",
            ));
        }
        if last == u64::MAX {
            return Err(fault("too-large", "the sequence numbers are used up"));
        }
        self.finish_opening();
        self.reserve(last)?;
        self.claim(&fresh);
        let bytes = fresh.iter().fold(0_u64, |sum, record| {
            sum.saturating_add(head::weight(record.payload.len()))
        });
        if self
            .head
            .as_ref()
            .is_some_and(|head| self.is_over(head, first, bytes))
        {
            self.seal_head();
        }
        self.make_room(bytes)?;
        if let Err(fault) = self.commit(&fresh, first) {
            // Nothing of a database that failed once is believed to reach the medium any more: a fresh one takes all
            // of the batch.
            self.seal_head();
            if fault.cause == "full" {
                self.give_up_space();
            }
            if let Err(fault) = self.commit(&fresh, first) {
                self.seal_head();
                return Err(fault);
            }
        }
        self.progress.seq_next = self.progress.seq_next.max(last + 1);
        let through = self.loaded_through.get();
        for record in fresh.iter().filter(|record| record.seq.0 <= through) {
            self.unseen.get_mut().insert(record.seq.0, record.seq.0);
        }
        self.note_progress(false);
        Ok(())
    }

    /// Whether the store has this record and it is not done.
    fn waits(&self, seq: u64) -> bool {
        if seq >= self.progress.seq_next || self.progress.done.contains(seq) {
            return false;
        }
        self.held().any(|seqs| seqs.contains(seq))
    }

    /// Writes the next reservation before the first number beyond the present one is used.
    fn reserve(&mut self, last: u64) -> Result<(), StoreFault> {
        if last < self.meta.reserved {
            return Ok(());
        }
        let meta = Meta {
            reserved: last.saturating_add(RESERVE),
            ..self.meta
        };
        meta.write(&self.options.path)
            .map_err(|error| io_fault(&error))?;
        self.meta = meta;
        Ok(())
    }

    /// What is stored now is not done; a number that is passed over is, until it is stored after all.
    fn claim(&mut self, records: &[&StoredRecord]) {
        let mut next = self.progress.seq_next;
        let mut changed = false;
        for record in records {
            let seq = record.seq.0;
            if seq > next {
                self.progress.done.insert(next, seq - 1);
                changed = true;
            }
            if self.progress.done.contains(seq) {
                self.progress.done.remove(seq, seq);
                changed = true;
            }
            next = next.max(seq + 1);
        }
        self.progress_is_new |= changed;
    }

    /// Whether the head may not take the batch: it is full, suspect, or would lose its order.
    fn is_over(&self, head: &Head, first: u64, bytes: u64) -> bool {
        let bytes_max = self.options.database_bytes_max();
        let started = !head.seqs.is_empty();
        self.head_is_suspect.get()
            || head.seqs.last().is_some_and(|last| first <= last)
            || first < head.name.first
            || (started && head.bytes.saturating_add(bytes) > bytes_max)
            || head.seqs.count() >= DATABASE_RECORDS_MAX
            || head.seqs.parts().len() >= DATABASE_PARTS_MAX
    }

    fn commit(&mut self, records: &[&StoredRecord], first: u64) -> Result<(), StoreFault> {
        if self.head.is_none() {
            self.begin_head(first)?;
        }
        let head = self
            .head
            .as_mut()
            .ok_or_else(|| fault("closed", "no database could be begun"))?;
        let mut payload = None;
        if self.progress_is_new {
            self.progress.number = self.progress.number.saturating_add(1);
            payload = Some(self.progress.told(&self.owed).payload());
        }
        let progress = payload
            .as_deref()
            .map(|payload| (self.progress.number, payload));
        head.commit(records, progress)?;
        self.progress_is_new = false;
        Ok(())
    }

    fn begin_head(&mut self, first: u64) -> Result<(), StoreFault> {
        self.check_free_space()?;
        let small = self.small_databases(first);
        if let Some(lowest) = small.first().map(|name| name.first) {
            let head = self.create_head(lowest.min(first))?;
            self.absorb(&small, head);
        }
        if self.head.is_none() {
            self.head = Some(self.create_head(first)?);
        }
        self.renew_ballast();
        Ok(())
    }

    fn create_head(&mut self, first: u64) -> Result<Head, StoreFault> {
        let name = Name {
            first,
            generation: self.generation_next,
            epoch: self.meta.epoch,
        };
        self.generation_next = self.generation_next.saturating_add(1);
        let bytes_max = self.options.database_bytes_max();
        Head::create(&self.options.path, name, bytes_max).inspect_err(|_| {
            // Whatever was created is empty.
            let _ = std::fs::remove_dir_all(self.options.path.join(name.to_string()));
        })
    }

    /// Makes the head a complete database. It needs nothing of the medium: without its seal, which a full or failing
    /// one refuses, the next opening scans it.
    fn seal_head(&mut self) {
        self.head_is_suspect.set(false);
        let Some(head) = self.head.take() else { return };
        if head.seqs.is_empty() {
            head.discard();
            return;
        }
        let contents = head.contents.clone();
        let (name, path, seqs, bytes) = head.close();
        // Of a file that could not be read whole nothing is known to be missing or of no use.
        let reader = Reader::open(&path, name).ok();
        if let Some(reader) = reader.filter(|reader| !reader.is_partial) {
            // What its file does not show now it never will; the rest of the file is of no use.
            self.damaged
                .get_mut()
                .insert_all(&seqs.without(&reader.seqs()));
            let _ = reader.trim();
        }
        self.progress.number = self.progress.number.saturating_add(1);
        let seal = Seal {
            epoch: name.epoch,
            seqs,
            bytes,
            disk_bytes: chain::disk_bytes(&path),
            progress: self.progress.told(&self.owed),
            contents: Some(contents),
            origin: Origin::default(),
        };
        let _ = seal.write(&path);
        self.insert(Database::sealed(name, path, seal));
        self.note_progress(true);
    }

    fn insert(&mut self, database: Database) {
        let at = self.databases.partition_point(|it| it.name < database.name);
        self.databases.insert(at, database);
    }

    /// Writes the progress into its side file. What cannot be written now is written with the next commit.
    fn note_progress(&mut self, sync: bool) {
        let _ = self.write_progress(sync);
    }

    fn write_progress(&mut self, sync: bool) -> std::io::Result<()> {
        self.progress.number = self.progress.number.saturating_add(1);
        let told = self.progress.told(&self.owed);
        self.progress_file.write(self.meta.epoch, &told, sync)
    }

    /// How full it is.
    #[must_use]
    pub fn report(&self) -> StoreReport {
        let done = &self.progress.done;
        let (mut pending, mut pending_bytes) = (0_u64, 0_u64);
        for database in &self.databases {
            let count = database.pending(done);
            pending = pending.saturating_add(count);
            // Of a database that is delivered in part, in proportion.
            let bytes = chain::share(database.bytes, count, database.seqs.count());
            pending_bytes = pending_bytes.saturating_add(bytes);
        }
        if let Some(head) = &self.head {
            let count = head.seqs.without(done).count();
            pending = pending.saturating_add(count);
            let bytes = chain::share(head.bytes, count, head.seqs.count());
            pending_bytes = pending_bytes.saturating_add(bytes);
        }
        StoreReport {
            pending,
            pending_bytes,
            disk_bytes: self.disk_bytes(),
        }
    }

    /// The records that were dropped or found damaged since the last call.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        std::mem::take(&mut self.gone)
    }

    /// Completes the head and makes what is forgotten durable.
    ///
    /// # Errors
    /// The medium failed; everything that was acknowledged is still there.
    pub fn close(mut self) -> Result<(), StoreFault> {
        self.finish_opening();
        self.seal_head();
        self.write_progress(true).map_err(|error| io_fault(&error))
    }
}
