//! A reader that ends an endless line before it fills the memory.

use std::io::{self, Read};

use super::LINE_BYTES_MAX;

/// Marks the error that [`LineLimit`] raises, so that it can be told from the reader's own.
#[derive(Debug, thiserror::Error)]
#[error("line too long")]
struct LineLimitReached;

pub(super) fn is_line_limit(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<LineLimitReached>())
}

/// Hands bytes on until one record has had more than a line may have. The CSV reader asks for more only
/// when it has used up what it holds, so an endless line ends here and not in memory. It also completes
/// a last line without a line end, so that every record has one and lines can be counted.
pub(super) struct LineLimit {
    inner: Box<dyn Read + Send>,
    delivered_bytes: u64,
    allowed_bytes: u64,
    last_byte: u8,
}

impl LineLimit {
    pub(super) fn new(inner: Box<dyn Read + Send>) -> Self {
        Self {
            inner,
            delivered_bytes: 0,
            allowed_bytes: 0,
            last_byte: b'\n',
        }
    }

    /// Allows one line that starts at this byte.
    pub(super) fn allow_until(&mut self, record_start: u64) {
        self.allowed_bytes = record_start.saturating_add(LINE_BYTES_MAX);
    }
}

impl Read for LineLimit {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.delivered_bytes >= self.allowed_bytes {
            return Err(io::Error::other(LineLimitReached));
        }
        let mut count = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if count == 0 && self.last_byte != b'\n' && !buffer.is_empty() {
            buffer[0] = b'\n';
            count = 1;
        }
        if let Some(index) = count.checked_sub(1) {
            // A reader that claims more than it was given room for is a broken reader, not a reason to panic.
            self.last_byte = buffer.get(index).copied().unwrap_or(b'\n');
        }
        self.delivered_bytes = self
            .delivered_bytes
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}
