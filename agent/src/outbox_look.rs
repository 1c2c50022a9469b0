//! `quorate outbox verify|export|salvage`: what a store holds, delivered or not, intact or not.
//!
//! Owns: the form of what these commands print. Must not: know sled, or change a store that it only looks at.

use std::{
    io::{self, Write},
    path::Path,
};

use quorate_core::units::{Epoch, Seq};
use serde::Serialize;

use crate::{
    outbox_command::{OutboxCommandError, PAGE, finish, open_existing, tolerate_closed},
    outcome::Outcome,
    store::{self, DatabaseVerification, Finding},
};

/// What to export.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    /// The life of the store; the present one when not given.
    pub epoch: Option<u64>,
    /// Lowest sequence number.
    pub from: u64,
    /// Highest sequence number.
    pub to: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    database: &'a str,
    sealed: bool,
    intact: u64,
    pending: u64,
    damaged: Vec<(u64, u64)>,
}

#[derive(Serialize)]
struct Sum {
    epoch: Option<u64>,
    seq_next: u64,
    databases: usize,
    pending: u64,
    missing: Vec<(u64, u64)>,
    intact: bool,
}

fn numbers(ranges: &[(Seq, Seq)]) -> Vec<(u64, u64)> {
    let pairs = ranges.iter();
    pairs.map(|(first, last)| (first.0, last.0)).collect()
}

/// Checks every record, changes nothing, prints one JSON object per database and one for the whole. Returns whether
/// everything that should be there is.
///
/// # Errors
/// There is no store, or it cannot be read.
pub fn verify(path: &Path, output: &mut impl Write) -> Result<bool, OutboxCommandError> {
    let found = store::verify(path)?;
    let line = |database: &DatabaseVerification| {
        serde_json::to_string(&Shown {
            database: &database.name,
            sealed: database.sealed,
            intact: database.intact,
            pending: database.pending,
            damaged: numbers(&database.damaged),
        })
    };
    for database in &found.databases {
        let line = line(database)?;
        if !tolerate_closed(writeln!(output, "{line}"))? {
            return Ok(found.is_intact());
        }
    }
    let sum = serde_json::to_string(&Sum {
        epoch: found.epoch,
        seq_next: found.seq_next.0,
        databases: found.databases.len(),
        pending: found.pending,
        missing: numbers(&found.missing),
        intact: found.is_intact(),
    })?;
    tolerate_closed(writeln!(output, "{sum}").and_then(|()| output.flush()))?;
    Ok(found.is_intact())
}

/// Prints every record of a range that is still there, delivered or not, one a line. Returns what was not as it should
/// be.
///
/// # Errors
/// There is no store, or it cannot be read.
pub fn export(
    path: &Path,
    what: Export,
    output: &mut impl Write,
) -> Result<Vec<Finding>, OutboxCommandError> {
    let opened = open_existing(path)?;
    let epoch = what.epoch.map_or(opened.epoch, Epoch);
    let mut after = Seq(what.from.saturating_sub(1));
    'pages: loop {
        let range = (after, Seq(what.to));
        let page = opened.outbox.replay(epoch, range, PAGE.0, PAGE.1)?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        for record in &page {
            if !tolerate_closed(write_record(epoch, &record.payload, output))? {
                break 'pages;
            }
        }
    }
    finish(opened, output)
}

/// Prints every intact record in the files below a directory: a store that does not open, or one that was set aside.
/// Changes nothing there.
///
/// # Errors
/// The files cannot be read.
pub fn salvage(path: &Path, output: &mut impl Write) -> Result<(), OutboxCommandError> {
    if !path.is_dir() {
        return Err(OutboxCommandError::Missing(path.to_owned()));
    }
    let found = store::rescue(path, &mut |epoch, _, payload| {
        write_record(epoch, payload, output)
    });
    if tolerate_closed(found)? {
        tolerate_closed(output.flush())?;
    }
    Ok(())
}

/// The record's own JSON object with its epoch in front.
fn write_record(epoch: Epoch, payload: &[u8], output: &mut impl Write) -> io::Result<()> {
    let inside = payload.strip_prefix(b"{").unwrap_or(payload);
    write!(output, "{{\"epoch\":{},", epoch.0)?;
    output.write_all(inside)?;
    output.write_all(b"\n")
}

/// Whether the outbox can be at `path`, looked at from outside: a running agent holds it.
///
/// # Errors
/// Status 2 when a file is in its way or this user may not write there.
pub fn check_place(path: &Path) -> Result<(), Outcome> {
    let refuse = |what: &str| Outcome::Refused(format!("outbox.path: {}: {what}", path.display()));
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    if existing.is_some_and(|ancestor| !ancestor.is_dir()) {
        return Err(refuse("is a file; expected a directory, or nothing yet"));
    }
    let writable = existing
        .is_some_and(|ancestor| rustix::fs::access(ancestor, rustix::fs::Access::WRITE_OK).is_ok());
    if writable {
        Ok(())
    } else {
        Err(refuse("cannot be written by this user"))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::{io::Cursor, path::Path};

    use quorate_core::units::{BootId, Mono, WallAnchor};

    use super::{Export, export, salvage, verify};
    use crate::outbox_command::append;

    fn fill(path: &Path, lines: &str) {
        let wall = || WallAnchor {
            mono: Mono(5),
            unix_ms: 1_764_000_000_123,
            synced: true,
        };
        let mut output = Vec::new();
        append(
            path,
            BootId([1; 16]),
            wall,
            |_| {},
            &mut Cursor::new(lines.to_owned()),
            &mut output,
        )
        .unwrap();
    }

    fn records(bytes: &[u8]) -> Vec<(u64, String)> {
        let lines = std::str::from_utf8(bytes).unwrap().lines();
        let record = |line: &str| {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(json["epoch"].as_u64().unwrap() > 0);
            (
                json["seq"].as_u64().unwrap(),
                json["body"].as_str().unwrap().to_owned(),
            )
        };
        lines.map(record).collect()
    }

    #[test]
    fn what_is_there_is_exported_verified_and_salvaged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outbox");
        fill(&path, "one\ntwo\nthree\n");
        let mut output = Vec::new();
        let range = Export {
            epoch: None,
            from: 2,
            to: u64::MAX,
        };
        export(&path, range, &mut output).unwrap();
        let expected = [(2, "two".to_owned()), (3, "three".to_owned())];
        assert_eq!(records(&output), expected);
        let mut output = Vec::new();
        assert!(verify(&path, &mut output).unwrap());
        let text = String::from_utf8(output).unwrap();
        let sum: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&sum["pending"], &sum["seq_next"]), (&3.into(), &4.into()));
        // Without any side file, and renamed, as what was set aside is.
        for side in ["meta", "meta.copy", "progress"] {
            let _ = std::fs::remove_file(path.join(side));
        }
        let aside = directory.path().join("outbox.damaged-1");
        std::fs::rename(&path, &aside).unwrap();
        let mut output = Vec::new();
        salvage(&aside, &mut output).unwrap();
        assert_eq!(records(&output).len(), 3);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let missing = Path::new("/nonexistent/outbox");
        let error = salvage(missing, &mut Vec::new()).unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/outbox is no outbox"),
            "{error}"
        );
        assert!(verify(missing, &mut Vec::new()).is_err());
    }
}
