//! Records in a file of JSON lines.
//!
//! Owns: the file. Must not: keep a record in memory.
//!
//! A line is `{"device":...,"epoch":...,"record":{...}}`, or what was learned of a stream:
//! `{"device":...,"epoch":...,"base":N}` and `{"device":...,"epoch":...,"absent":[first,last]}`.
//!
//! Invariants: a commit is synced when it returns. A last line without an end is what a power cut left; it was never
//! acknowledged, and is cut off. Whether a repeat differs cannot be told without reading the file again, so it is not.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::{
    account::{Account, Change},
    batch::Batch,
    sink::{Put, Sink, SinkError},
};

/// Longest line in bytes: a record and its envelope, with room.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// The file and what is not written yet.
#[derive(Debug)]
pub(super) struct Lines {
    file: File,
    /// Bytes that are durable; a failed write is cut off here.
    durable: u64,
    pending: Vec<u8>,
}

impl Lines {
    /// Opens or makes the file and reads the account of what it holds.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else.
    pub(super) fn open(path: &Path, account: &mut Account) -> Result<Self, SinkError> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(path)?;
        let durable = restore(&file, account)?;
        if durable < file.metadata()?.len() {
            file.set_len(durable)?;
        }
        file.sync_all()?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            durable,
            pending: Vec::new(),
        })
    }

    fn push(&mut self, line: &Value) {
        // A Vec takes every write.
        let _ = writeln!(self.pending, "{line}");
    }
}

impl Sink for Lines {
    fn put(&mut self, batch: &Batch, change: &Change, account: &Account) -> Result<Put, SinkError> {
        let (device, epoch) = (&batch.device, batch.epoch);
        if let Some(base) = change.base {
            self.push(&json!({"device": device, "epoch": epoch, "base": base}));
        }
        for (first, last) in &change.absent {
            self.push(&json!({"device": device, "epoch": epoch, "absent": [first, last]}));
        }
        let known = account.stream(device, epoch);
        let mut put = Put::default();
        for record in &batch.records {
            if known.is_some_and(|stream| stream.holds(record.seq)) {
                put.repeats += 1;
            } else {
                self.push(&json!({"device": device, "epoch": epoch, "record": record.fields}));
                put.new += 1;
            }
        }
        Ok(put)
    }

    fn commit(&mut self) -> Result<(), SinkError> {
        let pending = std::mem::take(&mut self.pending);
        let written = self
            .file
            .write_all(&pending)
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.durable += u64::try_from(pending.len()).unwrap_or(u64::MAX);
                Ok(())
            }
            Err(error) => {
                // Nothing of it was acknowledged: it comes again.
                self.file.set_len(self.durable)?;
                Err(error.into())
            }
        }
    }
}

/// Reads every line. Returns where the last whole one ends.
fn restore(file: &File, account: &mut Account) -> Result<u64, SinkError> {
    let mut reader = BufReader::new(file);
    let (mut end, mut line) = (0, Vec::new());
    for number in 1.. {
        line.clear();
        let read = (&mut reader)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            if u64::try_from(read).unwrap_or(u64::MAX) >= LINE_BYTES_MAX {
                return Err(content(number, "too long"));
            }
            break;
        }
        let value: Map<String, Value> =
            serde_json::from_slice(&line).map_err(|error| content(number, &error.to_string()))?;
        let what = "expected device, epoch, and record, base or absent";
        entry(&value, account).ok_or_else(|| content(number, what))?;
        end += u64::try_from(read).unwrap_or(0);
    }
    Ok(end)
}

fn entry(line: &Map<String, Value>, account: &mut Account) -> Option<()> {
    let device = line.get("device")?.as_str()?;
    let key = (device, line.get("epoch")?.as_u64()?);
    if let Some(base) = line.get("base") {
        account.restore(device, key.1, base.as_u64()?);
    } else if let Some(absent) = line.get("absent") {
        let [first, last] = absent.as_array()?.as_slice() else {
            return None;
        };
        account.restore_range(key, first.as_u64()?, last.as_u64()?, true);
    } else {
        let seq = line.get("record")?.get("seq")?.as_u64()?;
        account.restore_range(key, seq, seq, false);
    }
    Some(())
}

fn content(line: usize, what: &str) -> SinkError {
    SinkError::Content {
        line,
        what: what.to_owned(),
    }
}
