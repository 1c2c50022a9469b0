//! The form of one record on the medium, and the search for such records in a damaged file.
//!
//! Owns: the bytes of a value. Must not: touch sled or name a file.
//!
//! Invariant: [`decode`] accepts only what [`encode`] made for the same place, whatever bytes it is given.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use quorate_core::units::{Epoch, Seq};

/// Begins every value, so that values can be found in a raw file; its last byte is the version of the form.
const MAGIC: [u8; 8] = *b"\xf1QRMrc\xa7\x01";

/// Magic, length (u32), CRC-32 (u32), epoch (u64), sequence number (u64); all little-endian.
pub(super) const HEADER_BYTES: usize = 32;

/// Largest payload that is stored or believed, in bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// Bytes that the scan holds at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A value that passed every check.
#[derive(Debug)]
pub(super) struct Value<'a> {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) payload: &'a [u8],
}

/// Where an intact value lies in a scanned file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// Intact values by epoch and sequence number.
pub(super) type Found = BTreeMap<(u64, u64), Place>;

/// The bytes of one value; `None` when the payload is larger than [`PAYLOAD_BYTES_MAX`].
pub(super) fn encode(epoch: Epoch, seq: Seq, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_BYTES_MAX)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&epoch.0.to_le_bytes());
    bytes.extend_from_slice(&seq.0.to_le_bytes());
    bytes.extend_from_slice(payload);
    let crc = checksum(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

/// Checks everything; `None` for whatever is not exactly one intact value.
pub(super) fn decode(bytes: &[u8]) -> Option<Value<'_>> {
    let total = total_bytes(bytes)?;
    if bytes.len() != total || checksum(bytes).to_le_bytes() != bytes[12..16] {
        return None;
    }
    Some(Value {
        epoch: Epoch(u64::from_le_bytes(bytes[16..24].try_into().ok()?)),
        seq: Seq(u64::from_le_bytes(bytes[24..32].try_into().ok()?)),
        payload: &bytes[HEADER_BYTES..],
    })
}

/// Length of the value that begins here, header included, as far as the header can be believed.
fn total_bytes(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < HEADER_BYTES || bytes[..8] != MAGIC {
        return None;
    }
    let length = usize::try_from(u32::from_le_bytes(bytes[8..12].try_into().ok()?)).ok()?;
    (length <= PAYLOAD_BYTES_MAX).then_some(HEADER_BYTES + length)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}

/// Finds every intact value of a raw file by its magic number, in bounded memory but for the places found.
pub(super) fn scan(file: &File, index: usize, found: &mut Found) -> io::Result<()> {
    let end = file.metadata()?.len();
    let mut window = vec![0; WINDOW_BYTES];
    let mut start = 0_u64;
    while start < end {
        let filled = read_at_most(file, &mut window, start)?;
        if filled < HEADER_BYTES {
            break;
        }
        let whole = filled - (HEADER_BYTES - 1);
        for at in 0..whole {
            if window[at] == MAGIC[0] && window[at..at + 8] == MAGIC {
                let offset = start + u64::try_from(at).unwrap_or(0);
                probe(file, index, offset, &window[at..filled], found)?;
            }
        }
        start += u64::try_from(whole).unwrap_or(1);
    }
    Ok(())
}

fn probe(file: &File, index: usize, offset: u64, seen: &[u8], found: &mut Found) -> io::Result<()> {
    let Some(bytes) = total_bytes(seen) else {
        return Ok(());
    };
    let place = Place {
        file: index,
        offset,
        bytes,
    };
    let copy;
    let whole = if let Some(whole) = seen.get(..bytes) {
        whole
    } else {
        copy = read_place(file, place)?;
        &copy[..]
    };
    if let Some(value) = decode(whole) {
        found.insert((value.epoch.0, value.seq.0), place);
    }
    Ok(())
}

/// The bytes at a place; fewer where the file ends.
fn read_place(file: &File, place: Place) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; place.bytes];
    let filled = read_at_most(file, &mut bytes, place.offset)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// The payload of a found value, checked again.
pub(super) fn payload_at(file: &File, place: Place) -> io::Result<Option<Arc<[u8]>>> {
    Ok(decode(&read_place(file, place)?).map(|value| Arc::from(value.payload)))
}

fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let at = offset + u64::try_from(filled).unwrap_or(0);
        match file.read_at(&mut buffer[filled..], at) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Write as _;

    use super::{Epoch, Found, Seq, decode, encode, scan};

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = encode(Epoch(3), Seq(17), b"payload").unwrap();
        assert_eq!(decode(&bytes).unwrap().payload, b"payload");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_none(), "bit {bit}");
        }
        assert!(decode(&bytes[..bytes.len() - 1]).is_none());
    }

    #[test]
    fn the_scan_finds_values_across_windows() {
        let mut file = tempfile::tempfile().unwrap();
        for seq in 0..3_000 {
            file.write_all(&encode(Epoch(1), Seq(seq), &[7; 777]).unwrap())
                .unwrap();
            file.write_all(&[0xf1; 5]).unwrap();
        }
        let mut found = Found::new();
        scan(&file, 0, &mut found).unwrap();
        assert_eq!(found.len(), 3_000);
    }
}
