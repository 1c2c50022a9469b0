//! A look at a store that changes nothing.
//!
//! Owns: the comparison of what a store says it holds with what its raw files show. Must not: open anything for
//! writing, take the lock, or name sled.

use std::path::Path;

use quorate_core::{event::StoreFault, units::Seq};

use super::{
    StoreError,
    chain::{self, Name, Reader},
    guard::{fault, io_fault},
    legacy,
    ranges::Ranges,
    side::{Meta, ProgressFile, Seal},
};

/// What one database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseVerification {
    /// Its name.
    pub name: String,
    /// Whether it was completed; the one that is written to is not.
    pub sealed: bool,
    /// Intact records in its raw files.
    pub intact: u64,
    /// Of these, those that wait for delivery.
    pub pending: u64,
    /// Records that it should hold and that are damaged or missing: lowest and highest, one range after another.
    pub damaged: Vec<(Seq, Seq)>,
}

/// What a store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Its life; `None` where both copies of its side file are damaged, so that the next opening begins a new one.
    pub epoch: Option<u64>,
    /// Above every record that was acknowledged as stored, as far as the store knows.
    pub seq_next: Seq,
    /// Its databases, oldest first.
    pub databases: Vec<DatabaseVerification>,
    /// Intact records that wait for delivery.
    pub pending: u64,
    /// Records that are neither held nor known to be done: lowest and highest, one range after another.
    pub missing: Vec<(Seq, Seq)>,
}

impl Verification {
    /// Whether everything that should be there is.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.epoch.is_some() && self.missing.is_empty()
    }
}

/// Reads and checks every record. While an agent runs it is a picture of a moment.
///
/// # Errors
/// There is no store, or it cannot be read.
pub fn verify(path: &Path) -> Result<Verification, StoreError> {
    look(path).map_err(|fault| StoreError::Unavailable {
        path: path.to_owned(),
        fault,
    })
}

fn look(path: &Path) -> Result<Verification, StoreFault> {
    if legacy::is_there(path) {
        return Err(fault(
            "first-layout",
            "it is a store of the first layout: the next start takes it over",
        ));
    }
    let listing = chain::list(path).map_err(|error| io_fault(&error))?;
    let meta = Meta::read(path);
    let mut progress = ProgressFile::peek(path).unwrap_or_default();
    if meta.is_none() && progress.is_none() && listing.databases.is_empty() {
        return Err(fault("missing", "there is no store"));
    }
    let mut shown = Vec::new();
    let (mut replaced, mut dropped) = (Vec::new(), Ranges::default());
    let mut newest_first: Vec<_> = listing.databases.iter().collect();
    newest_first.sort_by_key(|(name, _)| std::cmp::Reverse(name.generation));
    for (name, database) in newest_first {
        if replaced.contains(&name.generation) {
            continue;
        }
        let seal = Seal::read(database).filter(|seal| seal.epoch == name.epoch);
        if let Some(seal) = &seal {
            replaced.extend(&seal.origin.replaces);
            dropped.insert_all(&seal.origin.dropped);
        }
        let reader = Reader::open(database, *name).map_err(|error| io_fault(&error))?;
        let inside = seal.as_ref().map(|seal| seal.progress.clone());
        for other in [reader.progress.clone(), inside].into_iter().flatten() {
            if progress.as_ref().is_none_or(|it| it.number < other.number) {
                progress = Some(other);
            }
        }
        shown.push((*name, seal.map(|seal| seal.seqs), reader.seqs()));
    }
    shown.sort_by_key(|(name, _, _)| *name);
    let progress = progress.unwrap_or_default();
    let mut held = Ranges::default();
    let mut end = progress.seq_next;
    let mut databases = Vec::new();
    for (name, sealed, intact) in shown {
        let intact = sealed.as_ref().map_or_else(
            || intact.without(&held),
            |seqs| intact.without(&intact.without(seqs)),
        );
        held.insert_all(&intact);
        end = end.max(intact.last().map_or(0, |last| last.saturating_add(1)));
        databases.push(one(name, sealed.as_ref(), &intact, &progress.done));
    }
    let missing = Ranges::of(1, end.saturating_sub(1))
        .without(&progress.done)
        .without(&dropped)
        .without(&held);
    Ok(Verification {
        epoch: meta.map(|meta| meta.epoch),
        seq_next: Seq(end),
        pending: databases.iter().map(|database| database.pending).sum(),
        databases,
        missing: pairs(&missing),
    })
}

fn one(
    name: Name,
    sealed: Option<&Ranges>,
    intact: &Ranges,
    done: &Ranges,
) -> DatabaseVerification {
    let damaged = sealed.map(|seqs| seqs.without(intact)).unwrap_or_default();
    DatabaseVerification {
        name: name.to_string(),
        sealed: sealed.is_some(),
        intact: intact.count(),
        pending: intact.without(done).count(),
        damaged: pairs(&damaged),
    }
}

fn pairs(ranges: &Ranges) -> Vec<(Seq, Seq)> {
    let parts = ranges.parts().iter();
    parts
        .map(|(first, last)| (Seq(*first), Seq(*last)))
        .collect()
}
