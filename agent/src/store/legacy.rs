//! A store of the first layout, which was one sled database at the path itself.
//!
//! Owns: its side file and its move into the chain, as one database that is drained and deleted like the others.
//! Must not: open it with sled, whose recovery may refuse, panic or erase.
//!
//! Invariant: `db` moves last, so that a move that was cut off is done again.

use std::{fs, io, path::Path};

use quorate_core::{
    event::GoneCause,
    units::{Epoch, Seq},
};

use super::{
    Finding,
    chain::{Name, Reader},
    finding::Gone,
    opening::fresh_epoch,
    ranges::Ranges,
    side::{Meta, Progress, ProgressFile, read_bounded},
    value::{self, Scan},
};
use crate::durable::sync_directory;

const META_MAGIC: [u8; 8] = *b"QRMmeta\x01";

/// Its side file.
#[derive(Clone, Copy, Debug)]
struct OldMeta {
    /// It was closed in order with so many records.
    pending: Option<u64>,
    epoch: u64,
    reserved: u64,
    watermark: u64,
}

impl OldMeta {
    fn read(path: &Path) -> Option<Self> {
        let bytes = read_bounded(&path.join("meta")).ok()?;
        if bytes.len() != 52
            || bytes[..8] != META_MAGIC
            || crc32fast::hash(&bytes[..48]).to_le_bytes() != bytes[48..]
        {
            return None;
        }
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let state = word(8)?;
        Some(Self {
            pending: (state & 3 == 1).then_some(state >> 2),
            epoch: word(16)?,
            reserved: word(24)?,
            watermark: word(32)?,
        })
    }
}

pub(super) fn is_there(path: &Path) -> bool {
    path.join("db").is_file()
}

/// Makes it a database of the chain. Records that were forgotten since its side file was written come again.
pub(super) fn take_over(path: &Path, findings: &mut Vec<Finding>) -> io::Result<()> {
    let old = OldMeta::read(path);
    let epoch = match (Meta::read(path), old) {
        // The move was cut off: everything but the move itself is done.
        (Some(meta), _) => meta.epoch,
        (None, Some(old)) => {
            prove(path, old, findings)?;
            old.epoch
        }
        // Without a side file a new epoch begins; the records keep the one they carry.
        (None, None) => epoch_of_records(path)?.unwrap_or_else(fresh_epoch),
    };
    let name = Name {
        first: 0,
        generation: 0,
        epoch,
    };
    let to = path.join(name.to_string());
    fs::create_dir_all(to.join("blobs"))?;
    let entries: Vec<_> = fs::read_dir(path.join("blobs"))
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    for entry in entries {
        fs::rename(entry.path(), to.join("blobs").join(entry.file_name()))?;
    }
    if path.join("before").is_file() {
        // A copy from before an opening that was cut off may hold what that opening erased.
        fs::rename(path.join("before"), to.join("blobs").join("before"))?;
    }
    for entry in fs::read_dir(path)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == "conf" || name == "before.new" || name.starts_with("snap.") {
            fs::remove_file(entry.path())?;
        }
    }
    sync_directory(&to.join("blobs"))?;
    fs::rename(path.join("db"), to.join("db"))?;
    sync_directory(&to)?;
    sync_directory(path)?;
    // Nothing is lost where an empty directory stays.
    let _ = fs::remove_dir(path.join("blobs"));
    Ok(())
}

/// Writes the side files of the chain from the old one.
fn prove(path: &Path, old: OldMeta, findings: &mut Vec<Finding>) -> io::Result<()> {
    let found = records(path, old.epoch)?;
    let mut done = Ranges::of(0, old.reserved.saturating_sub(1)).without(&found);
    done.insert(0, old.watermark);
    let waiting = found.without(&done).count();
    if let Some(missing) = old
        .pending
        .map(|it| it.saturating_sub(waiting))
        .filter(|it| *it > 0)
    {
        findings.push(Finding::Gone(Gone {
            first: Seq(old.watermark.saturating_add(1)),
            last: Seq(old.reserved.saturating_sub(1)),
            count: missing,
            cause: GoneCause::Damaged,
        }));
    }
    let (mut file, _) = ProgressFile::open(path)?;
    let progress = Progress {
        number: 1,
        seq_next: old.reserved,
        done,
        ..Progress::default()
    };
    file.write(old.epoch, &progress, true)?;
    Meta {
        epoch: old.epoch,
        reserved: old.reserved,
    }
    .write(path)
}

fn records(path: &Path, epoch: u64) -> io::Result<Ranges> {
    let name = Name {
        first: 0,
        generation: 0,
        epoch,
    };
    Ok(Reader::open(path, name)?.seqs())
}

fn epoch_of_records(path: &Path) -> io::Result<Option<u64>> {
    let mut found = Scan::default();
    value::scan(&fs::File::open(path.join("db"))?, 0, &mut found)?;
    Ok(found
        .records
        .iter()
        .max_by_key(|place| place.seq)
        .map(|place| Epoch(place.epoch).0))
}
