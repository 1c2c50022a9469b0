//! The checkpoint on the medium: what the voters have learned, beside the outbox and apart from it.
//!
//! Owns: its file and the thread that writes it. Must not: look into what it keeps.
//!
//! Invariants: the file is whole or absent (a new one beside it, fsync, rename, fsync of the directory); what was damaged
//! is never believed (CRC-32); losing it costs what was learned and nothing else.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use quorate_core::checkpoint::Checkpoint;

use crate::durable;

/// Begins the file: what it is, and the version of its form.
const HEADER: &str = "quorate-checkpoint 1";
/// Largest file that is read: 1024 quantities of 32 channels take a tenth of it.
const BYTES_MAX: u64 = 64 << 20;

/// Why there is nothing to go on with.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is not what was written.
    #[error("{}: damaged ({reason}); the voters learn anew", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Where the checkpoint of an outbox lies.
#[must_use]
pub fn path(outbox: &Path) -> PathBuf {
    let mut name = outbox.as_os_str().to_owned();
    name.push(".checkpoint");
    PathBuf::from(name)
}

/// Reads it; none where there is no file.
///
/// # Errors
/// It cannot be read, or is not what was written.
pub fn read(path: &Path) -> Result<Option<Checkpoint>, CheckpointError> {
    let io = |error| CheckpointError::Io {
        path: path.to_owned(),
        error,
    };
    let damaged = |reason: String| CheckpointError::Damaged {
        path: path.to_owned(),
        reason,
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
        Ok(data) if data.len() > BYTES_MAX => return Err(damaged("too large".into())),
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(io)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("not text".into()))?;
    let (head, body) = text
        .split_once('\n')
        .ok_or_else(|| damaged("no header".into()))?;
    let crc = head
        .strip_prefix(HEADER)
        .ok_or_else(|| damaged("another kind of file, or another version".into()))?;
    if crc.trim() != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        return Err(damaged("its checksum is wrong".into()));
    }
    serde_json::from_str(body)
        .map(Some)
        .map_err(|error| damaged(error.to_string()))
}

/// Writes it, whole or not at all.
///
/// # Errors
/// It cannot be written; the one before is still there.
pub fn write(path: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    let body = serde_json::to_string(checkpoint)?;
    let crc = crc32fast::hash(body.as_bytes());
    let name = path.file_name().and_then(OsStr::to_str);
    let name = name.ok_or(io::ErrorKind::InvalidFilename)?;
    let text = format!("{HEADER} {crc:08x}\n{body}");
    durable::write_whole(durable::parent(path), name, text.as_bytes())
}

/// Keeps the newest on the medium, on a thread of its own.
#[derive(Debug)]
pub struct Keeper {
    sender: Sender<Checkpoint>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn spawn(path: PathBuf) -> io::Result<Self> {
        let (sender, checkpoints) = crossbeam_channel::bounded(1);
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || keep(&path, &checkpoints))?;
        Ok(Self { sender, thread })
    }

    /// Hands over the newest; one that finds the last still being written is left out, for another will come.
    pub fn keep(&self, checkpoint: Checkpoint) {
        if let Err(TrySendError::Disconnected(_)) = self.sender.try_send(checkpoint) {
            tracing::warn!("the checkpoint is not kept: its thread has ended");
        }
    }

    /// Ends when what was handed over is written.
    #[must_use]
    pub fn end(self) -> JoinHandle<()> {
        self.thread
    }
}

fn keep(path: &Path, checkpoints: &Receiver<Checkpoint>) {
    for checkpoint in checkpoints {
        if let Err(error) = write(path, &checkpoint) {
            tracing::warn!(path = %path.display(), %error, "the checkpoint cannot be written; what was learned is lost with the next restart");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{CheckpointError, read, write};

    fn checkpoint() -> quorate_core::checkpoint::Checkpoint {
        let text = r#"{"boot":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],"mono_ms":5,"unix_ms":null,"quantities":[]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_what_was_damaged_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outbox.checkpoint");
        assert!(read(&path).unwrap().is_none());
        write(&path, &checkpoint()).unwrap();
        write(&path, &checkpoint()).unwrap();
        assert_eq!(read(&path).unwrap(), Some(checkpoint()));
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x08;
            std::fs::write(&path, &bad).unwrap();
            assert!(
                matches!(read(&path), Err(CheckpointError::Damaged { .. })),
                "byte {at}"
            );
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(read(&path).is_err(), "cut at {at}");
        }
    }
}
