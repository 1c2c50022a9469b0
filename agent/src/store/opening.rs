//! How a store is opened, whatever lies at its path.
//!
//! Owns: the lock, the directory, sled's settings and the check at opening. Must not: move anything that
//! another process holds, or that the system merely refuses for now.
//!
//! Invariant: after an unclean end nothing is believed before it is compared with the raw file.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use quorate_core::{
    event::{GoneCause, StoreFault},
    units::{Epoch, Seq},
};
use rustix::fs::{FlockOperation, flock};

use super::{
    Finding, Gone, Left, Meta, Opened, Options, Outbox, STATE_KEY, StoreError,
    guard::fault,
    guarded, io_fault, key,
    meta::sync_directory,
    salvage::{bring_back, forget_preserved, preserve, salvage, scan_files},
    seq_of, stored_weight, value,
};

/// Opens the store, creating or repairing it as needed.
///
/// # Errors
/// Another process has it, or the system refuses; a damaged store is no error but a finding.
pub fn open(options: &Options) -> Result<Opened, StoreError> {
    let unavailable = |fault: StoreFault| match fault.cause {
        "in-use" => StoreError::InUse(options.path.clone()),
        _ => StoreError::Unavailable {
            path: options.path.clone(),
            fault,
        },
    };
    let mut findings = Vec::new();
    prepare(&options.path, &mut findings).map_err(|error| unavailable(io_fault(&error)))?;
    let mut outbox = match open_once(options, &mut findings) {
        Err(fault) if matches!(fault.cause, "damaged" | "panicked") => {
            salvage(options, &fault, &mut findings).map_err(unavailable)?;
            open_once(options, &mut findings).map_err(unavailable)?
        }
        other => other.map_err(unavailable)?,
    };
    outbox.meta.left = Left::Open;
    outbox
        .meta
        .write(&options.path)
        .map_err(|error| unavailable(io_fault(&error)))?;
    Ok(Opened {
        epoch: Epoch(outbox.meta.epoch),
        seq_next: Seq(outbox.seq_next),
        outbox,
        findings,
    })
}

/// sled's own record of where the sequence stands.
pub(super) fn state(epoch: u64, seq_next: u64, watermark: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    for word in [epoch, seq_next, watermark] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn read_state(bytes: &[u8]) -> Option<(u64, u64, u64)> {
    if bytes.len() != 28 || crc32fast::hash(&bytes[..24]).to_le_bytes() != bytes[24..] {
        return None;
    }
    let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    Some((word(0)?, word(8)?, word(16)?))
}

/// Bytes that sled's files take.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    data_files(path)
        .iter()
        .filter_map(|file| fs::metadata(file).ok())
        .map(|data| data.blocks() * 512)
        .sum()
}

/// Makes the names of the largest values durable.
pub(super) fn sync_blobs(path: &Path) -> io::Result<()> {
    let blobs = path.join("blobs");
    if blobs.is_dir() {
        sync_directory(&blobs)
    } else {
        Ok(())
    }
}

pub(super) fn data_files(path: &Path) -> Vec<PathBuf> {
    let blobs = fs::read_dir(path.join("blobs"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    std::iter::once(path.join("db")).chain(blobs).collect()
}

pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// Renames what lies at `path` to the first free `<path>.damaged-<n>`.
pub(super) fn set_aside(
    path: &Path,
    reason: String,
    findings: &mut Vec<Finding>,
) -> io::Result<()> {
    let to = (1_u32..)
        .map(|number| beside(path, &format!(".damaged-{number}")))
        .find(|to| to.symlink_metadata().is_err())
        .ok_or_else(|| io::Error::other("no free name for the damaged outbox"))?;
    fs::rename(path, &to)?;
    findings.push(Finding::SetAside { to, reason });
    Ok(())
}

/// Makes a directory with a side file of it, unless there is one.
fn prepare(path: &Path, findings: &mut Vec<Finding>) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(data) if data.is_dir() => return Ok(()),
        Ok(_) => set_aside(path, "it is a file and no directory".into(), findings)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let salvaged = beside(path, ".salvaged");
    if Meta::read(&salvaged).is_some_and(|meta| meta.left == Left::Clean) {
        // A salvage was cut off between its two renames.
        fs::rename(&salvaged, path)?;
    } else {
        fs::create_dir_all(path)?;
    }
    sync_directory(parent(path))
}

pub(super) fn lock(path: &Path) -> Result<File, StoreFault> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(|error| io_fault(&error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| io_fault(&error.into()))?;
    Ok(file)
}

pub(super) fn open_sled(path: &Path) -> Result<sled::Db, StoreFault> {
    let entries = fs::read_dir(path).map_err(|error| io_fault(&error))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            // A kill left it half written, and sled would refuse to open for ever.
            fs::remove_file(entry.path()).map_err(|error| io_fault(&error))?;
        }
    }
    guarded(|| {
        sled::Config::new()
            .path(path)
            .cache_capacity(16 << 20)
            .flush_every_ms(Some(500))
            .mode(sled::Mode::LowSpace)
            .segment_size(512 << 10)
            .use_compression(false)
            .open()
    })
}

pub(super) fn fresh_epoch() -> u64 {
    // 42 bits: exact in every JSON reader, and no store of this device has had it before.
    (crate::clock::seed() >> 22) + 1
}

/// Opens what lies there; a fault `damaged` or `panicked` asks for a salvage.
fn open_once(options: &Options, findings: &mut Vec<Finding>) -> Result<Outbox, StoreFault> {
    let path = &options.path;
    let held = lock(path)?;
    let meta = match Meta::read(path) {
        Some(meta) => meta,
        None if path.join("db").exists() => {
            return Err(fault("damaged", "its side file is missing or damaged"));
        }
        None => {
            let meta = Meta {
                left: Left::Clean,
                epoch: fresh_epoch(),
                reserved: 1,
                watermark: 0,
                pending: 0,
            };
            meta.write(path).map_err(|error| io_fault(&error))?;
            meta
        }
    };
    if meta.left == Left::Suspect {
        return Err(fault("damaged", "it could not be read while it was in use"));
    }
    let before = if meta.left == Left::Clean {
        None
    } else {
        preserve(path).map_err(|error| io_fault(&error))?;
        Some(scan_files(path).map_err(|error| io_fault(&error))?)
    };
    let database = open_sled(path)?;
    let data = File::open(path.join("db")).map_err(|error| io_fault(&error))?;
    data.sync_data()
        .and_then(|()| sync_directory(path))
        .map_err(|error| io_fault(&error))?;
    let mut outbox = Outbox {
        path: path.clone(),
        size_bytes_max: options.size_bytes_max,
        database: Some(database),
        data,
        meta,
        seq_next: meta.reserved,
        pending: 0,
        pending_bytes: 0,
        damaged: RefCell::default(),
        gone: Vec::new(),
        _lock: held,
    };
    let known = outbox.count()?;
    outbox.remove_damaged()?;
    if let Some((files, found)) = before {
        outbox.compare_with_file(known, &files, &found, findings)?;
    } else if outbox.pending != meta.pending || !known {
        let (files, found) = scan_files(path).map_err(|error| io_fault(&error))?;
        let counted = outbox.pending;
        outbox.compare_with_file(known, &files, &found, findings)?;
        outbox.report_shortfall(meta.pending.saturating_sub(outbox.pending.max(counted)));
    }
    forget_preserved(path).map_err(|error| io_fault(&error))?;
    findings.extend(outbox.take_gone().into_iter().map(Finding::Gone));
    Ok(outbox)
}

impl Outbox {
    /// Opens sled again after a failure.
    pub(super) fn reopen(&mut self) -> Result<(), StoreFault> {
        if self.database.is_some() {
            return Ok(());
        }
        let database = open_sled(&self.path)?;
        self.data = File::open(self.path.join("db")).map_err(|error| io_fault(&error))?;
        self.database = Some(database);
        let seq_next = self.seq_next;
        let counted = self.count();
        self.seq_next = self.seq_next.max(seq_next);
        if counted.is_err() {
            self.database = None;
        }
        counted.map(|_| ())
    }

    /// Reads and checks everything that waits. Returns whether sled knew where the sequence stands.
    fn count(&mut self) -> Result<bool, StoreFault> {
        let database = self.database()?;
        let epoch = self.meta.epoch;
        let (pending, bytes, bad, stored, state) = guarded(|| {
            let (mut pending, mut bytes, mut bad, mut highest) = (0_u64, 0_u64, Vec::new(), 0_u64);
            for item in database.range(key(0)..=key(u64::MAX)) {
                let (name, stored) = item?;
                let Some(seq) = seq_of(&name) else { continue };
                pending += 1;
                bytes = bytes.saturating_add(stored_weight(stored.len()));
                highest = highest.max(seq);
                if !value::decode(&stored).is_some_and(|it| it.seq.0 == seq && it.epoch.0 == epoch)
                {
                    bad.push(seq);
                }
            }
            Ok((pending, bytes, bad, highest, database.get(STATE_KEY)?))
        })?;
        (self.pending, self.pending_bytes) = (pending, bytes);
        self.damaged.get_mut().extend(bad);
        match state.as_deref().and_then(read_state) {
            Some((of, seq_next, watermark))
                if of == epoch && seq_next > stored && seq_next <= self.meta.reserved =>
            {
                self.seq_next = seq_next;
                self.meta.watermark = self.meta.watermark.max(watermark);
                Ok(true)
            }
            // A store that never held a record has no state.
            None if self.meta.reserved == 1 && pending == 0 => Ok(true),
            _ => Ok(false),
        }
    }

    /// Says that records are gone whose numbers are not known.
    fn report_shortfall(&mut self, count: u64) {
        let (first, last) = (
            Seq(self.meta.watermark.saturating_add(1)),
            Seq(self.meta.reserved.saturating_sub(1)),
        );
        if count > 0 && first <= last {
            self.gone.push(Gone {
                first,
                last,
                count,
                cause: GoneCause::Damaged,
            });
        }
    }

    /// The sequence numbers that [`Outbox::load`] would show.
    fn shown(&self) -> Result<BTreeSet<u64>, StoreFault> {
        let database = self.database()?;
        guarded(|| {
            let mut shown = BTreeSet::new();
            for item in database.range(key(0)..=key(u64::MAX)) {
                shown.extend(seq_of(&item?.0));
            }
            Ok(shown)
        })
    }

    /// Brings back what the raw file has and sled has lost.
    fn compare_with_file(
        &mut self,
        known: bool,
        files: &[File],
        found: &value::Found,
        findings: &mut Vec<Finding>,
    ) -> Result<(), StoreFault> {
        let range =
            (self.meta.epoch, self.meta.watermark.saturating_add(1))..=(self.meta.epoch, u64::MAX);
        // What an iteration shows, not what a look-up finds: a damaged sled may find a key that it never iterates over.
        let shown = self.shown()?;
        let mut missing = value::Found::new();
        for (name, place) in found.range(range.clone()) {
            if !shown.contains(&name.1) {
                missing.insert(*name, *place);
            }
        }
        let beyond = missing.keys().any(|(_, seq)| *seq >= self.seq_next);
        if known && missing.is_empty() {
            return Ok(());
        }
        let last = missing.keys().next_back().map_or(0, |(_, seq)| *seq);
        if last >= self.meta.reserved {
            return Err(fault(
                "damaged",
                "it holds records beyond what was reserved",
            ));
        }
        let before = self.pending;
        bring_back(self, files, &missing)?;
        let shown = self.shown()?;
        if missing.keys().any(|(_, seq)| !shown.contains(seq)) {
            return Err(fault(
                "damaged",
                "sled does not show what it was just given",
            ));
        }
        let count = self.pending.saturating_sub(before);
        findings.push(Finding::Salvaged { count });
        self.report_shortfall(
            u64::try_from(missing.len())
                .unwrap_or(u64::MAX)
                .saturating_sub(count),
        );
        if !known || beyond {
            // sled has lost the end of its log: only the reservation is sure.
            self.seq_next = self.meta.reserved.max(self.seq_next);
            let first = Seq(last.max(self.meta.watermark).saturating_add(1));
            let last = Seq(self.meta.reserved.saturating_sub(1));
            if first <= last {
                self.gone.push(Gone {
                    first,
                    last,
                    count: 1,
                    cause: GoneCause::Damaged,
                });
            }
        }
        Ok(())
    }
}
