//! `quorate outbox stat|list|append`: looks into and feeds a store while the agent is stopped.
//!
//! Owns: the form of what these commands read and print. Must not: know sled or read a clock.
//!
//! Invariant: a sequence number is printed only after its record is durable.

use std::{
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use quorate_core::{
    event::{StoreFault, StoredRecord},
    record::{Stamp, encode_external},
    units::{BootId, Seq, WallAnchor},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::{self, Finding, Opened, Options, StoreError};

/// Longest line that becomes a record, in bytes.
const LINE_BYTES_MAX: usize = 256 << 10;

/// Bytes that are read ahead, so that lines that already wait share a commit.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Records and payload bytes that are read from the store at once.
pub(crate) const PAGE: (u32, u32) = (1_024, 1 << 20);

/// Loads of one page beyond which its failure is believed.
const LOADS_MAX: u32 = 4;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum OutboxCommandError {
    /// There is no store.
    #[error("{} is no outbox: no such directory", .0.display())]
    Missing(PathBuf),
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] StoreError),
    /// It failed.
    #[error("the outbox failed: {} ({})", .0.detail, .0.cause)]
    Store(StoreFault),
    /// A line is too long.
    #[error("line {0} is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong(u64),
    /// A line is not text.
    #[error("line {0} is not UTF-8")]
    NotText(u64),
    /// Standard input or output failed.
    #[error("input or output: {0}")]
    Io(#[from] io::Error),
    /// A record has no JSON form.
    #[error("a record has no JSON form: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<StoreFault> for OutboxCommandError {
    fn from(fault: StoreFault) -> Self {
        Self::Store(fault)
    }
}

#[derive(Serialize)]
struct Listed<'a> {
    epoch: u64,
    seq: u64,
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Serialize)]
struct Stat {
    epoch: u64,
    seq_next: u64,
    pending: u64,
    pending_bytes: u64,
    oldest_seq: Option<u64>,
    newest_seq: Option<u64>,
    disk_bytes: u64,
    findings: Vec<String>,
}

pub(crate) fn open_existing(path: &Path) -> Result<Opened, OutboxCommandError> {
    // `db` alone is a store of the first layout.
    if !["meta", "meta.copy", "db"]
        .iter()
        .any(|name| path.join(name).exists())
    {
        return Err(OutboxCommandError::Missing(path.to_owned()));
    }
    Ok(store::open(&unbounded(path))?)
}

/// A command that looks must not drop records that the agent's own setting would keep.
fn unbounded(path: &Path) -> Options {
    Options {
        size_bytes_max: u64::MAX,
        ..Options::at(path)
    }
}

/// Whoever reads may stop reading.
pub(crate) fn tolerate_closed(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// Prints one JSON object about the store.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn stat(path: &Path, output: &mut impl Write) -> Result<(), OutboxCommandError> {
    let opened = open_existing(path)?;
    let report = opened.outbox.report();
    let ends = opened.outbox.ends()?;
    let stat = Stat {
        epoch: opened.epoch.0,
        seq_next: opened.seq_next.0,
        pending: report.pending,
        pending_bytes: report.pending_bytes,
        oldest_seq: ends.map(|(oldest, _)| oldest.0),
        newest_seq: ends.map(|(_, newest)| newest.0),
        disk_bytes: report.disk_bytes,
        findings: opened.findings.iter().map(ToString::to_string).collect(),
    };
    opened.outbox.close()?;
    let line = serde_json::to_string(&stat)?;
    tolerate_closed(writeln!(output, "{line}").and_then(|()| output.flush()))?;
    Ok(())
}

/// A place that the medium cannot read is given up after some loads.
fn load(opened: &Opened, after: Seq) -> Result<Vec<StoredRecord>, StoreFault> {
    let load = || opened.outbox.load(after, Seq(u64::MAX), PAGE.0, PAGE.1);
    (0..LOADS_MAX)
        .find_map(|_| load().ok())
        .map_or_else(load, Ok)
}

/// Prints what a restarted agent would still hold, one JSON object a line. Returns what was not as it should be.
///
/// # Errors
/// There is no store, or it cannot be read.
pub fn list(path: &Path, output: &mut impl Write) -> Result<Vec<Finding>, OutboxCommandError> {
    let opened = open_existing(path)?;
    let mut after = Seq(0);
    'pages: loop {
        let page = load(&opened, after)?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        for record in &page {
            let stored: Stored<'_> = serde_json::from_slice(&record.payload)?;
            let line = serde_json::to_string(&Listed {
                epoch: opened.epoch.0,
                seq: record.seq.0,
                body: stored.body,
            })?;
            if !tolerate_closed(writeln!(output, "{line}"))? {
                break 'pages;
            }
        }
    }
    finish(opened, output)
}

/// Closes a store that was read; what was not as it should be, at its opening and in what was read.
pub(crate) fn finish(
    mut opened: Opened,
    output: &mut impl Write,
) -> Result<Vec<Finding>, OutboxCommandError> {
    opened.outbox.remove_damaged()?;
    let gone = opened.outbox.take_gone().into_iter().map(Finding::Gone);
    opened.findings.extend(gone);
    opened.outbox.close()?;
    tolerate_closed(output.flush())?;
    Ok(opened.findings)
}

/// Makes each line of `input` a record and prints its sequence number once it is durable. `wall` stamps the records;
/// `found` is told what was not as it should be, before the first record.
///
/// # Errors
/// A line cannot be a record, or the store fails; what was printed is durable all the same.
pub fn append(
    path: &Path,
    boot: BootId,
    wall: impl Fn() -> WallAnchor,
    found: impl Fn(&Finding),
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<(), OutboxCommandError> {
    let opened = store::open(&unbounded(path))?;
    opened.findings.iter().for_each(found);
    let mut feed = Feed {
        opened,
        boot,
        wall,
        line: 0,
        group: Vec::new(),
    };
    let outcome = feed.lines(input, output);
    feed.opened.outbox.close()?;
    outcome
}

struct Feed<W> {
    opened: Opened,
    boot: BootId,
    wall: W,
    line: u64,
    group: Vec<StoredRecord>,
}

impl<W: Fn() -> WallAnchor> Feed<W> {
    fn lines(
        &mut self,
        input: &mut impl BufRead,
        output: &mut impl Write,
    ) -> Result<(), OutboxCommandError> {
        let mut input = BufReader::with_capacity(READ_AHEAD_BYTES, input);
        let mut partial: Vec<u8> = Vec::new();
        loop {
            let ready = input.fill_buf()?;
            let length = ready.len();
            if length == 0 {
                break;
            }
            let mut added = Ok(());
            for piece in ready.split_inclusive(|byte| *byte == b'\n') {
                partial.extend_from_slice(piece);
                let whole = partial.strip_suffix(b"\n");
                added = match whole {
                    Some(whole) => self.add(whole),
                    None if partial.len() > LINE_BYTES_MAX => {
                        Err(OutboxCommandError::LineTooLong(self.line + 1))
                    }
                    None => break,
                };
                if added.is_err() {
                    break;
                }
                partial.clear();
            }
            // What came before a bad line is kept and told.
            self.commit(output)?;
            added?;
            input.consume(length);
        }
        if !partial.is_empty() {
            self.add(&partial)?;
        }
        self.commit(output)
    }

    fn add(&mut self, line: &[u8]) -> Result<(), OutboxCommandError> {
        self.line += 1;
        if line.len() > LINE_BYTES_MAX {
            return Err(OutboxCommandError::LineTooLong(self.line));
        }
        let text = std::str::from_utf8(line).map_err(|_| OutboxCommandError::NotText(self.line))?;
        let text = text.strip_suffix('\r').unwrap_or(text);
        let object = text
            .trim_start()
            .starts_with('{')
            .then(|| serde_json::from_str::<&RawValue>(text).ok())
            .flatten();
        let quoted;
        let body = if let Some(object) = object {
            object
        } else {
            quoted = serde_json::value::to_raw_value(text)?;
            &quoted
        };
        let anchor = (self.wall)();
        let stamp = Stamp {
            boot: self.boot,
            mono: anchor.mono,
            wall: Some(anchor),
        };
        let seq = self.opened.seq_next;
        self.group.push(encode_external(seq, stamp, &body)?);
        self.opened.seq_next = seq.next();
        Ok(())
    }

    fn commit(&mut self, output: &mut impl Write) -> Result<(), OutboxCommandError> {
        for group in self.group.chunks(256) {
            self.opened.outbox.append(group)?;
            for record in group {
                writeln!(output, "{}", record.seq.0)?;
            }
            output.flush()?;
        }
        self.group.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Cursor;

    use quorate_core::units::{BootId, Mono, WallAnchor};

    use super::{LINE_BYTES_MAX, OutboxCommandError, append, list, stat};

    fn wall() -> WallAnchor {
        WallAnchor {
            mono: Mono(5),
            unix_ms: 1_764_000_000_123,
            synced: true,
        }
    }

    #[test]
    fn lines_become_records_that_list_shows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outbox");
        let mut output = Vec::new();
        append(
            &path,
            BootId([1; 16]),
            wall,
            |_| {},
            &mut Cursor::new("{\"a\": 1.50}\nplain \"text\"\n{broken\nend"),
            &mut output,
        )
        .unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "1\n2\n3\n4\n");
        let mut output = Vec::new();
        assert_eq!(list(&path, &mut output).unwrap(), []);
        let lines = String::from_utf8(output).unwrap();
        let bodies: Vec<_> = lines
            .lines()
            .map(|line| line.split_once("\"body\":").unwrap().1)
            .collect();
        assert_eq!(
            bodies,
            [
                "{\"a\": 1.50}}",
                "\"plain \\\"text\\\"\"}",
                "\"{broken\"}",
                "\"end\"}"
            ]
        );
        let mut output = Vec::new();
        stat(&path, &mut output).unwrap();
        let stat: serde_json::Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(
            (&stat["pending"], &stat["seq_next"], &stat["oldest_seq"]),
            (&4.into(), &5.into(), &1.into())
        );
    }

    #[test]
    fn a_line_too_long_is_named_and_what_came_before_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outbox");
        let input = format!("first\n{}\nthird\n", "x".repeat(LINE_BYTES_MAX + 1));
        let mut output = Vec::new();
        let outcome = append(
            &path,
            BootId([1; 16]),
            wall,
            |_| {},
            &mut Cursor::new(input),
            &mut output,
        );
        assert!(matches!(outcome, Err(OutboxCommandError::LineTooLong(2))));
        assert_eq!(output, b"1\n");
    }

    #[test]
    fn a_missing_store_is_an_error_and_is_not_created() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none");
        assert!(matches!(
            list(&path, &mut Vec::new()),
            Err(OutboxCommandError::Missing(_))
        ));
        assert!(matches!(
            stat(&path, &mut Vec::new()),
            Err(OutboxCommandError::Missing(_))
        ));
        assert!(!path.exists());
    }
}
