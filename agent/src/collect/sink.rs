//! Where a collector puts what it has received.
//!
//! Owns: the seam between the loop and the forms of storage. Must not: know how a message came.
//!
//! Invariant: after [`Sink::commit`] everything that was put is on the medium; before it, nothing may be acknowledged.

use std::path::Path;

use super::{
    account::{Account, Change},
    batch::Batch,
    lines::Lines,
    sqlite::Sqlite,
};

/// Why something could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The database.
    #[error("sqlite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file holds something else.
    #[error("line {line}: {what}")]
    Content {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// How many records of a batch were what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// New ones.
    pub new: u64,
    /// Those that were there before.
    pub repeats: u64,
    /// Those that were there before and differ; the first stays.
    pub conflicts: u64,
}

/// One form of storage.
pub trait Sink {
    /// Takes a batch and what it says of numbers without a record.
    ///
    /// # Errors
    /// When it cannot be written; then nothing since the last commit counts.
    fn put(&mut self, batch: &Batch, change: &Change, account: &Account) -> Result<Put, SinkError>;

    /// Makes everything that was put durable.
    ///
    /// # Errors
    /// When the medium refuses; then nothing since the last commit counts.
    fn commit(&mut self) -> Result<(), SinkError>;
}

/// Opens the file by its name: `.jsonl` or `.ndjson` for JSON lines, anything else for SQLite. Makes it when it is not
/// there, and gives the account of what it holds.
///
/// # Errors
/// When it cannot be read, or is something else.
pub fn open(path: &Path) -> Result<(Box<dyn Sink>, Account), SinkError> {
    let mut account = Account::default();
    let extension = path.extension().and_then(|extension| extension.to_str());
    let sink: Box<dyn Sink> = match extension {
        Some("jsonl" | "ndjson") => Box::new(Lines::open(path, &mut account)?),
        _ => Box::new(Sqlite::open(path, &mut account)?),
    };
    Ok((sink, account))
}
