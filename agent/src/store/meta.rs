//! The side file: what must be known when sled refuses to open.
//!
//! Owns: `<dir>/meta`. Must not: touch sled.
//!
//! Invariant: written whole or not at all (temporary file, fsync, rename, fsync of the directory); no record is stored
//! with a sequence number at or above `reserved` of the durable side file.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

const MAGIC: [u8; 8] = *b"QRMmeta\x01";
const NAME: &str = "meta";
const BYTES: usize = 52;

/// How the last owner left the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It is open, or its owner died.
    Open,
    /// Closed in order.
    Clean,
    /// sled failed while it read: do not believe it again.
    Suspect,
}

/// The contents of the side file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) left: Left,
    pub(super) epoch: u64,
    /// Every sequence number that was ever stored is below this.
    pub(super) reserved: u64,
    /// Everything up to here is forgotten.
    pub(super) watermark: u64,
    /// Records that waited when it was closed in order.
    pub(super) pending: u64,
}

impl Meta {
    /// Reads it; `None` where it is missing or damaged.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        let bytes = fs::read(directory.join(NAME)).ok()?;
        if bytes.len() != BYTES
            || bytes[..8] != MAGIC
            || crc32fast::hash(&bytes[..48]).to_le_bytes() != bytes[48..]
        {
            return None;
        }
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let state = word(8)?;
        Some(Self {
            left: match state & 3 {
                1 => Left::Clean,
                2 => Left::Suspect,
                _ => Left::Open,
            },
            pending: state >> 2,
            epoch: word(16)?,
            reserved: word(24)?,
            watermark: word(32)?,
        })
    }

    /// Writes it so that it survives a power cut.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let state = (self.pending << 2)
            | match self.left {
                Left::Open => 0,
                Left::Clean => 1,
                Left::Suspect => 2,
            };
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&MAGIC);
        for word in [state, self.epoch, self.reserved, self.watermark, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let temporary = directory.join("meta.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, directory.join(NAME))?;
        sync_directory(directory)
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Left, Meta};

    #[test]
    fn it_comes_back_as_written_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let meta = Meta {
            left: Left::Clean,
            epoch: 3,
            reserved: 10_000,
            watermark: 41,
            pending: 7,
        };
        meta.write(directory.path()).unwrap();
        assert_eq!(Meta::read(directory.path()), Some(meta));
        let path = directory.path().join("meta");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Meta::read(directory.path()), None);
    }
}
