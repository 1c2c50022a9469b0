//! Every intact record in the raw files below a directory, whatever state the store is in.
//!
//! Owns: the walk over files that may belong to a damaged store, or to what was set aside. Must not: open anything for
//! writing, or believe a side file.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use quorate_core::units::{Epoch, Seq};

use super::{
    ranges::Ranges,
    value::{self, Scan},
};

/// Databases lie in the store, and large values in a folder of their own below them.
const DEPTH_MAX: u32 = 3;

/// Hands each intact record to `visit`, once, file by file, in order of epoch and sequence number within a file.
///
/// # Errors
/// A file cannot be read, or what `visit` says.
pub fn rescue(
    directory: &Path,
    visit: &mut impl FnMut(Epoch, Seq, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut files = Vec::new();
    collect(directory, DEPTH_MAX, &mut files)?;
    files.sort();
    let mut seen: BTreeMap<u64, Ranges> = BTreeMap::new();
    for path in files {
        let file = File::open(path)?;
        let mut found = Scan::default();
        value::scan(&file, 0, &mut found)?;
        let mut places = found.records;
        places.sort_by_key(|place| (place.epoch, place.seq));
        for place in places {
            let known = seen.entry(place.epoch).or_default();
            if known.contains(place.seq) {
                continue;
            }
            if let Some(payload) = value::payload_at(&file, place)? {
                known.insert(place.seq, place.seq);
                visit(Epoch(place.epoch), Seq(place.seq), &payload)?;
            }
        }
    }
    Ok(())
}

fn collect(directory: &Path, depth_left: u32, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            files.push(entry.path());
        } else if kind.is_dir() && depth_left > 0 {
            collect(&entry.path(), depth_left - 1, files)?;
        }
    }
    Ok(())
}
