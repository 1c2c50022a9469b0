//! Space: how much the store takes, what makes room, and what is given up when the file system is full.
//!
//! Owns: the ballast and the order in which databases are given up. Must not: drop a record that waits without
//! reporting it, or because others have filled the file system.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use quorate_core::{
    event::{GoneCause, StoreFault, StoredRecord},
    units::Seq,
};
use rustix::fs::{FallocateFlags, fallocate};

use super::{
    OnFull, Outbox,
    chain::{self, Name, Reader},
    guard::{fault, io_fault},
    head::{self, Head},
};

const BALLAST: &str = "ballast";

/// The least that `size_bytes_max` can mean: a few of the smallest databases.
const SIZE_BYTES_MIN: u64 = 1 << 20;

/// Databases beyond which retained ones go even where there is space.
const DATABASES_MAX: usize = 8_192;

/// Small databases from which on a new head takes them in: every restart begins another.
const SMALL_DATABASES: usize = 16;

/// What a new database needs to begin with.
const BEGIN_BYTES: u64 = 256 << 10;

/// Bytes of the ballast in this directory.
pub(super) fn ballast_bytes(store: &Path) -> u64 {
    fs::metadata(store.join(BALLAST)).map_or(0, |data| data.len())
}

/// What is free on the medium of this directory, in bytes.
pub(crate) fn free_bytes(store: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(store)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

impl Outbox {
    /// Bytes that the store takes on the medium.
    pub(super) fn disk_bytes(&self) -> u64 {
        let complete = self.databases.iter().map(|database| database.disk_bytes);
        let head = self.head.as_ref().map(|head| chain::disk_bytes(&head.path));
        complete
            .chain(head)
            .fold(self.ballast_bytes, u64::saturating_add)
    }

    /// Brings the store below its size, with the new bytes: first what is delivered and only retained, then as
    /// [`OnFull`] says.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), StoreFault> {
        let size_max = self.options.size_bytes_max.max(SIZE_BYTES_MIN);
        // sled takes up to twice the records where commits are small.
        // And it has zeros ahead of it, twice where a new database begins.
        let ahead = head::ahead_bytes(self.options.database_bytes_max()).saturating_mul(2);
        let mut needed = bytes.saturating_mul(2).saturating_add(ahead + 16_384);
        if matches!(
            self.options.on_full,
            OnFull::Thin | OnFull::DropLowestPriority
        ) {
            // The old ones go after the new one is made.
            needed = needed.saturating_add(self.options.database_bytes_max().saturating_mul(3) / 2);
        }
        loop {
            let is_over = self.disk_bytes().saturating_add(needed) > size_max;
            if !is_over && self.databases.len() <= DATABASES_MAX {
                return Ok(());
            }
            if self.drop_retained() {
                continue;
            }
            if !is_over {
                return Ok(());
            }
            let is_made = match self.options.on_full {
                OnFull::RejectNew => {
                    return Err(fault("full", "the outbox has reached its size"));
                }
                OnFull::DropOldest => false,
                OnFull::DropLowestPriority => self.displace(),
                OnFull::Thin => self.thin() || self.displace(),
            };
            if is_made {
                continue;
            }
            if self.databases.is_empty() {
                if self.head.as_ref().is_none_or(|head| head.seqs.is_empty()) {
                    // A batch that is larger than the store: it is taken, and the next one makes room.
                    return Ok(());
                }
                self.seal_head();
            }
            self.drop_oldest()?;
        }
    }

    /// Deletes the oldest database of which nothing waits.
    fn drop_retained(&mut self) -> bool {
        let done = &self.progress.done;
        let at = self.databases.iter().position(|it| it.pending(done) == 0);
        at.is_some_and(|at| self.delete(at))
    }

    /// Gives up the oldest database and reports what waited in it.
    fn drop_oldest(&mut self) -> Result<(), StoreFault> {
        let Some(oldest) = self.databases.first() else {
            return Ok(());
        };
        let waited = oldest.seqs.without(&self.progress.done);
        let path = oldest.path.clone();
        if !self.delete(0) {
            return Err(fault(
                "input-output",
                &format!("{} cannot be deleted", path.display()),
            ));
        }
        self.report_gone(&waited, GoneCause::Full);
        self.progress.done.insert_all(&waited);
        self.progress_is_new = true;
        Ok(())
    }

    /// The file system is full: what is only retained goes, and the ballast.
    pub(super) fn give_up_space(&mut self) {
        while self.drop_retained() {}
        if self.ballast_bytes > 0 && fs::remove_file(self.options.path.join(BALLAST)).is_ok() {
            self.ballast_bytes = 0;
        }
    }

    /// Refuses a new database where the file system has no room for it. Once the ballast is given up, its space may be
    /// used.
    pub(super) fn check_free_space(&mut self) -> Result<(), StoreFault> {
        let free = free_bytes(&self.options.path).map_err(|error| io_fault(&error))?;
        let kept = if self.ballast_bytes > 0 {
            self.options.free_bytes_min
        } else {
            0
        };
        if free < kept.saturating_add(BEGIN_BYTES) {
            return Err(fault(
                "full",
                "the file system has no room for a new database",
            ));
        }
        Ok(())
    }

    /// The small databases below `first` that a new head may take in: none, or so many that it is worth it.
    pub(super) fn small_databases(&self, first: u64) -> Vec<Name> {
        let bytes_max = self.options.database_bytes_max();
        let mut left = bytes_max / 2;
        let mut small = Vec::new();
        for database in &self.databases {
            let waits = database.pending(&self.progress.done) > 0;
            let below = database.seqs.last().is_some_and(|last| last < first);
            let is_whole = database.origin.dropped.is_empty();
            if waits
                && is_whole
                && below
                && !database.is_partial
                && database.bytes <= (bytes_max / 16).min(left)
            {
                left -= database.bytes;
                small.push(database.name);
            }
        }
        if small.len() < SMALL_DATABASES {
            small.clear();
        }
        small
    }

    /// Copies what waits in small databases into the new head and deletes them. Cut off in between, both hold the
    /// records, and the next opening counts them once.
    pub(super) fn absorb(&mut self, small: &[Name], mut head: Head) {
        match self.copy_small(small, &mut head) {
            Ok(()) => {
                self.head = Some(head);
                for name in small {
                    let at = self.databases.iter().position(|it| it.name == *name);
                    if let Some(at) = at
                        && !self.delete(at)
                    {
                        // Where the medium refuses the deletion, only the copy counts.
                        self.databases.remove(at);
                    }
                }
            }
            // They stay as they are, and the append that asked begins a head of its own.
            Err(_) => head.discard(),
        }
    }

    fn copy_small(&mut self, small: &[Name], head: &mut Head) -> Result<(), StoreFault> {
        let mut waiting = Vec::new();
        for database in self.databases.iter().filter(|it| small.contains(&it.name)) {
            let mut reader =
                Reader::open(&database.path, database.name).map_err(|error| io_fault(&error))?;
            let seqs = database.seqs.without(&self.progress.done);
            for seq in seqs.parts().iter().flat_map(|(first, last)| *first..=*last) {
                match reader.read(seq).map_err(|error| io_fault(&error))? {
                    Some(payload) => waiting.push(StoredRecord {
                        seq: Seq(seq),
                        payload,
                    }),
                    None => self.damaged.get_mut().insert(seq, seq),
                }
            }
        }
        waiting.sort_by_key(|record| record.seq);
        waiting.dedup_by_key(|record| record.seq);
        head.commit(&waiting.iter().collect::<Vec<_>>(), None)
    }

    /// Makes the ballast again once there is room for it. Without it the store works all the same.
    pub(super) fn renew_ballast(&mut self) {
        let size_max = self.options.size_bytes_max.max(SIZE_BYTES_MIN);
        let bytes = self.options.ballast_bytes.min(size_max / 16);
        let path = &self.options.path;
        let room = bytes
            .saturating_mul(2)
            .saturating_add(self.options.free_bytes_min);
        if bytes == 0 || self.ballast_bytes > 0 || free_bytes(path).unwrap_or(0) < room {
            return;
        }
        let ballast = path.join(BALLAST);
        let made = File::create(&ballast)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?));
        if made.is_ok() {
            self.ballast_bytes = bytes;
        } else {
            let _ = fs::remove_file(&ballast);
        }
    }
}
