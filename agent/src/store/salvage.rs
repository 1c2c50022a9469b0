//! Records brought back from a raw file that sled does not understand any more.
//!
//! Owns: the copy before an opening, the scan of the files, and the new store that takes the damaged one's place.
//! Must not: believe a value that does not pass its check.
//!
//! Invariant: a salvage is built beside the damaged store and takes its name when it is complete, so that it may be cut
//! off at any moment and done again.

use std::{
    cell::RefCell,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
};

use quorate_core::{
    event::{GoneCause, StoreFault, StoredRecord},
    units::{Epoch, Seq},
};

use super::{
    Finding, Gone, Left, Meta, Options, Outbox, STATE_KEY, guarded, io_fault,
    meta::sync_directory,
    opening::{beside, data_files, fresh_epoch, lock, open_sled, parent, set_aside, state},
    value,
};

/// Records of one commit while salvaging.
const SALVAGE_RECORDS: usize = 256;

/// Most payload bytes of one commit while salvaging.
const SALVAGE_BYTES: usize = 1 << 20;

/// sled's file as it was before an opening after an unclean end.
const BEFORE: &str = "before";

/// Keeps a copy of sled's file: sled erases the end of its log beyond the first damage while it opens.
///
/// Without the space for it the opening goes on; what sled erases is then reported and lost.
pub(super) fn preserve(path: &Path) -> io::Result<()> {
    let (source, copy) = (path.join("db"), path.join(BEFORE));
    if copy.exists() || !source.is_file() {
        // A copy that is still there is of an opening that was cut off: older, and still the one to believe.
        return Ok(());
    }
    let space = rustix::fs::statvfs(path)?;
    if space.f_bavail.saturating_mul(space.f_frsize) / 2 < fs::metadata(&source)?.blocks() * 512 {
        return Ok(());
    }
    let half = path.join("before.new");
    fs::copy(&source, &half)?;
    File::open(&half)?.sync_all()?;
    fs::rename(&half, &copy)?;
    sync_directory(path)
}

pub(super) fn forget_preserved(path: &Path) -> io::Result<()> {
    match fs::remove_file(path.join(BEFORE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(super) fn scan_files(path: &Path) -> io::Result<(Vec<File>, value::Found)> {
    let mut found = value::Found::new();
    let mut files = Vec::new();
    // The copy last: of two places of one record, the one that sled cannot erase counts.
    let names = data_files(path).into_iter().chain([path.join(BEFORE)]);
    for name in names.filter(|name| name.is_file()) {
        let file = File::open(name)?;
        value::scan(&file, files.len(), &mut found)?;
        files.push(file);
    }
    Ok((files, found))
}

pub(super) fn bring_back(
    outbox: &mut Outbox,
    files: &[File],
    found: &value::Found,
) -> Result<(), StoreFault> {
    let (mut group, mut bytes) = (Vec::new(), 0);
    for ((_, seq), place) in found {
        let payload: Option<Arc<[u8]>> = match files.get(place.file) {
            Some(file) => value::payload_at(file, *place).map_err(|error| io_fault(&error))?,
            None => None,
        };
        let Some(payload) = payload else { continue };
        bytes += payload.len();
        group.push(StoredRecord {
            seq: Seq(*seq),
            payload,
        });
        if group.len() >= SALVAGE_RECORDS || bytes >= SALVAGE_BYTES {
            outbox.append(&group)?;
            group.clear();
            bytes = 0;
        }
    }
    outbox.append(&group)
}

/// Builds a new store from the raw file of the damaged one and puts it in its place.
pub(super) fn salvage(
    options: &Options,
    why: &StoreFault,
    findings: &mut Vec<Finding>,
) -> Result<(), StoreFault> {
    let held = lock(&options.path)?;
    let meta = Meta::read(&options.path);
    let (files, mut found) = scan_files(&options.path).map_err(|error| io_fault(&error))?;
    let epoch = meta
        .map(|meta| meta.epoch)
        .or_else(|| found.keys().next_back().map(|(epoch, _)| *epoch));
    let watermark = meta.map_or(0, |meta| meta.watermark);
    found.retain(|(of, seq), _| Some(*of) == epoch && *seq > watermark);
    let highest = found.keys().next_back().map_or(0, |(_, seq)| *seq);
    let proven = meta.filter(|meta| highest < meta.reserved);
    let fresh = Meta {
        left: Left::Open,
        epoch: proven.map_or_else(fresh_epoch, |meta| meta.epoch),
        reserved: proven.map_or(highest.saturating_add(1), |meta| meta.reserved),
        watermark,
        pending: 0,
    };
    let count = build(options, &fresh, &files, &found)?;
    let swap = || -> io::Result<Vec<Finding>> {
        let mut moved = Vec::new();
        set_aside(
            &options.path,
            format!("{}: {}", why.cause, why.detail),
            &mut moved,
        )?;
        fs::rename(beside(&options.path, ".salvaged"), &options.path)?;
        sync_directory(parent(&options.path))?;
        Ok(moved)
    };
    findings.extend(swap().map_err(|error| io_fault(&error))?);
    drop(held);
    findings.push(Finding::Salvaged { count });
    if proven.is_none() {
        findings.push(Finding::NewEpoch(Epoch(fresh.epoch)));
    }
    let lost = match meta {
        Some(meta) if meta.left == Left::Clean => meta.pending.saturating_sub(count),
        // How many there were is not known: at least the gaps, and whatever came after the highest.
        _ => highest
            .saturating_sub(watermark)
            .saturating_sub(count)
            .max(1),
    };
    let last = fresh.reserved.saturating_sub(1);
    if lost > 0 && last > watermark {
        let (first, last) = (Seq(watermark + 1), Seq(last));
        findings.push(Finding::Gone(Gone {
            first,
            last,
            count: lost,
            cause: GoneCause::Damaged,
        }));
    }
    Ok(())
}

fn build(
    options: &Options,
    fresh: &Meta,
    files: &[File],
    found: &value::Found,
) -> Result<u64, StoreFault> {
    let path = beside(&options.path, ".salvaged");
    let begin = || -> io::Result<()> {
        if path.exists() {
            // An attempt that was cut off; its source is still there.
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        fresh.write(&path)
    };
    begin().map_err(|error| io_fault(&error))?;
    let database = open_sled(&path)?;
    let data = File::open(path.join("db")).map_err(|error| io_fault(&error))?;
    let mut outbox = Outbox {
        _lock: lock(&path)?,
        path,
        size_bytes_max: u64::MAX,
        database: Some(database),
        data,
        meta: *fresh,
        seq_next: fresh.reserved,
        pending: 0,
        pending_bytes: 0,
        damaged: RefCell::default(),
        gone: Vec::new(),
    };
    bring_back(&mut outbox, files, found)?;
    let state = state(outbox.meta.epoch, outbox.seq_next, outbox.meta.watermark);
    let database = outbox.database()?;
    guarded(|| database.insert(STATE_KEY, state))?;
    let count = outbox.pending;
    outbox.close()?;
    Ok(count)
}
