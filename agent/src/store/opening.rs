//! How a store is opened, whatever lies at its path.
//!
//! Owns: the lock, the directory, and the account of what should be there and what is. Must not: move anything that
//! another process holds, or that the system merely refuses for now; read more than the databases without a seal.
//!
//! Invariant: a database without a seal is believed only as far as its raw file shows intact records.

use std::{
    cell::{Cell, RefCell},
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use quorate_core::{
    event::{GoneCause, StoreFault},
    units::{Epoch, Seq},
};
use rustix::fs::{FlockOperation, flock};

use super::{
    Finding, Meta, Opened, Options, Outbox, Progress, ProgressFile, StoreError,
    chain::{self, Database, Listing, Name, Reader, data_files},
    finding::Gone,
    head, io_fault, legacy,
    ranges::Ranges,
    side::{Origin, Seal},
    space,
};
use crate::durable::{parent, sync_directory};

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
    open_with(options).map_err(|error| unavailable(io_fault(&error)))
}

fn open_with(options: &Options) -> io::Result<Opened> {
    let mut findings = Vec::new();
    let path = &options.path;
    prepare(path, &mut findings)?;
    let held = lock(path)?;
    if legacy::is_there(path) {
        legacy::take_over(path, &mut findings)?;
    }
    let listing = chain::list(path)?;
    for left_over in &listing.deleted {
        // Where the medium refuses, it stays for the next time.
        let _ = fs::remove_dir_all(left_over);
    }
    let meta = Meta::read(path);
    let (progress_file, progress) = ProgressFile::open(path)?;
    let mut found = survey(&listing, progress)?;
    found.is_partial |= progress_file.is_partial;
    let account = balance(meta, &found, &mut findings);
    if meta != Some(account.meta) {
        account.meta.write(path)?;
    }
    let generations = listing.databases.iter().map(|(name, _)| name.generation);
    let outbox = Outbox {
        options: options.clone(),
        meta: account.meta,
        progress: account.progress,
        progress_file,
        progress_is_new: true,
        databases: found.databases,
        head: None,
        head_is_suspect: Cell::new(false),
        generation_next: generations.max().unwrap_or(0).saturating_add(1),
        readers: RefCell::new(found.readers),
        unreadable: Cell::new(0),
        loaded_through: Cell::new(0),
        unseen: RefCell::default(),
        damaged: RefCell::default(),
        gone: Vec::new(),
        in_flight: Ranges::default(),
        owed: account.owed,
        is_partial: found.is_partial,
        ballast_bytes: space::ballast_bytes(path),
        unsealed: Some(found.unsealed),
        _lock: held,
    };
    Ok(Opened {
        epoch: Epoch(outbox.meta.epoch),
        seq_next: Seq(outbox.progress.seq_next),
        outbox,
        findings,
    })
}

impl Outbox {
    /// What makes the next opening cheaper, done with the first change so that reading need not wait for it. Where the
    /// medium refuses, it is done again the next time.
    pub(super) fn finish_opening(&mut self) {
        let Some(unsealed) = self.unsealed.take() else {
            return;
        };
        self.note_progress(true);
        let told = self.progress.told(&self.owed);
        let databases = self.databases.iter_mut();
        for database in databases.filter(|it| unsealed.contains(&it.name.generation)) {
            let mut readers = self.readers.borrow_mut();
            let mut readers = readers.iter_mut();
            let reader = readers.find(|it| it.generation == database.name.generation);
            // Where something is missing, what lies behind the last record may still be of use to someone.
            if let Some(reader) = reader.filter(|_| self.owed.is_empty()) {
                let _ = reader.trim();
                database.disk_bytes = chain::disk_bytes(&database.path);
            }
            let seal = Seal {
                epoch: database.name.epoch,
                seqs: database.seqs.clone(),
                bytes: database.bytes,
                disk_bytes: database.disk_bytes,
                progress: told.clone(),
                contents: database.contents.clone(),
                origin: database.origin.clone(),
            };
            let _ = seal.write(&database.path);
        }
        if !self.options.retain_acked {
            self.delete_done();
        }
    }
}

/// What the databases say.
#[derive(Debug, Default)]
struct Survey {
    databases: Vec<Database>,
    /// Generations of those that had no seal.
    scanned: Vec<u64>,
    /// Those of them that may have one now.
    unsealed: Vec<u64>,
    readers: Vec<Reader>,
    /// The newest progress that is intact anywhere.
    progress: Option<Progress>,
    /// What was left out where databases were made from others.
    dropped: Ranges,
    /// Above every record that is held.
    seq_end: u64,
    /// The medium could not read some of it.
    is_partial: bool,
}

fn survey(listing: &Listing, progress: Option<Progress>) -> io::Result<Survey> {
    let mut survey = Survey {
        progress,
        ..Survey::default()
    };
    let mut newest_first: Vec<_> = listing.databases.iter().collect();
    newest_first.sort_by_key(|(name, _)| std::cmp::Reverse(name.generation));
    let (mut open, mut held, mut replaced) = (Vec::new(), Ranges::default(), Vec::new());
    for (name, path) in newest_first {
        if replaced.contains(&name.generation) {
            // Another stands for it; the end of the process came before it was deleted.
            let _ = fs::remove_dir_all(path);
            continue;
        }
        match Seal::read(path) {
            Some(mut seal) if seal.epoch == name.epoch => {
                replaced.extend(&seal.origin.replaces);
                seal.origin.replaces.retain(|it| *it < name.generation);
                survey.learn(seal.progress.clone());
                // What was copied into a newer one, and not deleted, counts there.
                let seqs = seal.seqs.without(&held);
                held.insert_all(&seqs);
                seal.bytes = chain::share(seal.bytes, seqs.count(), seal.seqs.count());
                seal.seqs = seqs;
                survey.add(Database::sealed(*name, path.clone(), seal));
            }
            _ => open.push((*name, path)),
        }
    }
    // A batch that failed in one database was written again to another.
    for (name, path) in open {
        survey.scan(name, path, &mut held)?;
    }
    for database in &mut survey.databases {
        // What another one holds is not left out.
        let dropped = &mut database.origin.dropped;
        *dropped = dropped.without(&held);
        survey.dropped.insert_all(dropped);
    }
    survey.databases.sort_by_key(|database| database.name);
    Ok(survey)
}

impl Survey {
    fn learn(&mut self, progress: Progress) {
        if self
            .progress
            .as_ref()
            .is_none_or(|known| known.number < progress.number)
        {
            self.progress = Some(progress);
        }
    }

    fn add(&mut self, database: Database) {
        let last = database.seqs.last();
        let end = last.map_or(0, |last| last.saturating_add(1));
        self.seq_end = self.seq_end.max(end);
        self.databases.push(database);
    }

    /// Takes what the raw files of a database hold.
    fn scan(&mut self, name: Name, path: &Path, held: &mut Ranges) -> io::Result<()> {
        // After a kill it may be in memory only, and is to be believed for good.
        let synced = data_files(path).is_ok_and(|files| {
            let mut files = files.iter();
            files.all(|file| File::open(file).and_then(|it| it.sync_data()).is_ok())
        });
        let mut reader = Reader::open(path, name)?;
        self.is_partial |= reader.is_partial;
        if let Some(progress) = reader.progress.take() {
            self.learn(progress);
        }
        let seqs = reader.seqs().without(held);
        held.insert_all(&seqs);
        if seqs.is_empty() {
            // It was cut off before its first commit, or nothing of it is left.
            if !reader.is_partial {
                let _ = fs::remove_dir_all(path);
            }
            return Ok(());
        }
        let bytes = reader
            .payload_bytes()
            .filter(|(seq, _)| seqs.contains(*seq))
            .fold(0_u64, |sum, (_, bytes)| {
                sum.saturating_add(head::weight(bytes))
            });
        self.add(Database {
            name,
            path: path.to_owned(),
            seqs,
            bytes,
            disk_bytes: chain::disk_bytes(path),
            is_partial: reader.is_partial,
            contents: None,
            origin: Origin::default(),
        });
        self.scanned.push(name.generation);
        if synced && !reader.is_partial {
            self.unsealed.push(name.generation);
        }
        self.readers.insert(0, reader);
        self.readers.truncate(1);
        Ok(())
    }
}

/// Where the sequence stands and what is missing.
#[derive(Debug)]
struct Account {
    meta: Meta,
    progress: Progress,
    owed: Ranges,
}

fn balance(meta: Option<Meta>, found: &Survey, findings: &mut Vec<Finding>) -> Account {
    let mut held = Ranges::default();
    for database in &found.databases {
        held.insert_all(&database.seqs);
    }
    let lowest = held.first().unwrap_or(1);
    let is_new = meta.is_none() && found.databases.is_empty() && found.progress.is_none();
    let mut progress = found.progress.clone().unwrap_or_default();
    let shown = progress.seq_next.max(found.seq_end).max(1);
    let is_certain = found.progress.is_some() && !found.is_partial;
    let proven = meta.filter(|meta| shown <= meta.reserved);
    progress.seq_next = match proven {
        // Nobody says how far the sequence went: only the reservation is sure.
        Some(meta) if !is_certain => meta.reserved.max(shown),
        _ => shown,
    };
    let meta = proven.unwrap_or_else(|| {
        let epoch = fresh_epoch();
        if !is_new {
            findings.push(Finding::NewEpoch(Epoch(epoch)));
        }
        Meta {
            epoch,
            reserved: progress.seq_next,
        }
    });
    // What came before the oldest record may have been delivered: without a progress nobody knows.
    let known_from = if found.progress.is_some() { 1 } else { lowest };
    progress.done.insert(0, known_from.saturating_sub(1));
    let mut missing = Ranges::of(known_from, progress.seq_next.saturating_sub(1))
        .without(&progress.done)
        .without(&found.dropped)
        .without(&held);
    if progress.is_cut() {
        // What is done above here was not written down.
        let end = progress.done.last().unwrap_or(0);
        progress.done.insert_all(&missing.within(end, u64::MAX));
        missing = missing.without(&progress.done);
    }
    let sure_end = if is_certain { u64::MAX } else { found.seq_end };
    name_losses(&missing, &progress, sure_end, findings);
    if !missing.is_empty() && !found.scanned.is_empty() {
        let scanned = found.databases.iter();
        let scanned = scanned.filter(|it| found.scanned.contains(&it.name.generation));
        findings.push(Finding::Salvaged {
            count: scanned.map(|database| database.seqs.count()).sum(),
        });
    }
    progress.done.insert_all(&missing);
    Account {
        meta,
        progress,
        owed: missing,
    }
}

/// Names what is missing and what was given up. At or above `sure_end` it is not known that there were any.
fn name_losses(missing: &Ranges, progress: &Progress, sure_end: u64, findings: &mut Vec<Finding>) {
    let damaged = missing.without(&progress.full);
    let made_room = missing.without(&damaged);
    for (ranges, cause) in [
        (&made_room, GoneCause::Full),
        (&damaged, GoneCause::Damaged),
    ] {
        for (first, last) in ranges.parts() {
            findings.push(Finding::Gone(Gone {
                first: Seq(*first),
                last: Seq(*last),
                count: if *first >= sure_end {
                    1
                } else {
                    last - first + 1
                },
                cause,
            }));
        }
    }
    // These are done, and were named when it was decided; nobody knows whether that arrived.
    findings.extend(progress.notes.all().map(Finding::Gone));
}

pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

/// Makes sure that there is a directory; a file in its place is renamed to the first free `<path>.damaged-<n>`.
fn prepare(path: &Path, findings: &mut Vec<Finding>) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(data) if data.is_dir() => return Ok(()),
        Ok(_) => {
            let to = (1_u32..)
                .map(|number| beside(path, &format!(".damaged-{number}")))
                .find(|to| to.symlink_metadata().is_err())
                .ok_or_else(|| io::Error::other("no free name for what lies there"))?;
            fs::rename(path, &to)?;
            let reason = "it is a file and no directory".into();
            findings.push(Finding::SetAside { to, reason });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::create_dir_all(path)?;
    sync_directory(parent(path))
}

fn lock(path: &Path) -> io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

pub(super) fn fresh_epoch() -> u64 {
    // 42 bits: exact in every JSON reader, and no store of this device has had it before.
    (crate::clock::seed() >> 22) + 1
}
