//! The one form of everything on the medium, and the search for it in a damaged file.
//!
//! Owns: the bytes of a value. Must not: touch sled or name a file.
//!
//! Invariant: [`decode`] accepts only what [`encode`] made for the same place, whatever bytes it is given.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use quorate_core::units::{Epoch, Seq};

/// Begins every value but for its last byte, which is the kind, so that values can be found in a raw file.
const MAGIC: [u8; 7] = *b"\xf1QRMrc\xa7";

/// Magic and kind, length (u32), CRC-32 (u32), epoch (u64), number (u64); all little-endian.
pub(super) const HEADER_BYTES: usize = 32;

/// Largest payload that is stored or believed, in bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// What a medium loses at once, at least.
const BLOCK_BYTES: usize = 4_096;

/// Bytes that the scan holds at once.
const WINDOW_BYTES: usize = 256 << 10;

/// What a value is. The number is part of the form on the medium and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A record; its number is the sequence number.
    Record = 1,
    /// What is acknowledged; its number counts the states.
    Progress = 2,
    /// The side file of the store; its number is the reservation.
    Meta = 3,
    /// The side file of a database that is complete; its number counts the records.
    Seal = 4,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Record, Self::Progress, Self::Meta, Self::Seal]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A value that passed every check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    pub(super) kind: Kind,
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) payload: &'a [u8],
}

/// Where an intact record lies in a scanned file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) offset: u64,
    /// Header included.
    pub(super) bytes: u32,
    pub(super) file: u32,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Intact records, as they lie; one may lie at several places.
    pub(super) records: Vec<Place>,
    /// The payload of the intact progress with the highest number.
    pub(super) progress: Option<(u64, Vec<u8>)>,
    /// The medium could not read some places: there may be more.
    pub(super) is_partial: bool,
}

/// Appends the bytes of one value; false when the payload is larger than [`PAYLOAD_BYTES_MAX`].
pub(super) fn encode(
    kind: Kind,
    epoch: Epoch,
    seq: Seq,
    payload: &[u8],
    into: &mut Vec<u8>,
) -> bool {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_BYTES_MAX);
    let Some(length) = length else { return false };
    let start = into.len();
    into.reserve(HEADER_BYTES + payload.len());
    into.extend_from_slice(&MAGIC);
    into.push(kind as u8);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&epoch.0.to_le_bytes());
    into.extend_from_slice(&seq.0.to_le_bytes());
    into.extend_from_slice(payload);
    let crc = checksum(&into[start..]);
    into[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
    true
}

/// Takes one value from the front of `bytes`; `None` where none begins that is intact.
pub(super) fn decode<'a>(bytes: &mut &'a [u8]) -> Option<Value<'a>> {
    let (value, rest) = bytes.split_at_checked(total_bytes(bytes)?)?;
    if checksum(value).to_le_bytes() != value[12..16] {
        return None;
    }
    *bytes = rest;
    Some(Value {
        kind: Kind::of(value[7])?,
        epoch: Epoch(u64::from_le_bytes(value[16..24].try_into().ok()?)),
        seq: Seq(u64::from_le_bytes(value[24..32].try_into().ok()?)),
        payload: &value[HEADER_BYTES..],
    })
}

/// Length of the value that begins here, header included, as far as the header can be believed.
fn total_bytes(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < HEADER_BYTES || bytes[..7] != MAGIC {
        return None;
    }
    Kind::of(bytes[7])?;
    let length = usize::try_from(u32::from_le_bytes(bytes[8..12].try_into().ok()?)).ok()?;
    (length <= PAYLOAD_BYTES_MAX).then_some(HEADER_BYTES + length)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}

/// Finds every intact value of a raw file by its magic number, in bounded memory but for the places found. What lies
/// inside an intact value is its payload and no value of its own.
pub(super) fn scan(file: &File, index: u32, scan: &mut Scan) -> io::Result<()> {
    let end = file.metadata()?.len();
    let mut window = vec![0; WINDOW_BYTES];
    let mut start = 0_u64;
    while start < end {
        let filled = read_what_can_be(file, &mut window, start, &mut scan.is_partial)?;
        if filled < HEADER_BYTES {
            break;
        }
        let mut at = 0;
        while at + HEADER_BYTES <= filled {
            let Some(step) = window[at..filled].iter().position(|it| *it == MAGIC[0]) else {
                at = filled;
                break;
            };
            at += step;
            if at + HEADER_BYTES > filled {
                // A header that this window cuts begins the next one.
                break;
            }
            let Some(bytes) = total_bytes(&window[at..filled]) else {
                at += 1;
                continue;
            };
            let offset = start + u64::try_from(at).unwrap_or(0);
            let beyond = at + bytes > filled;
            if beyond && at > 0 && bytes <= WINDOW_BYTES {
                // The next window begins here and holds all of it.
                break;
            }
            let copy;
            let mut whole = if beyond {
                copy = match read_place(file, offset, bytes) {
                    Err(error) if is_unreadable(&error) => {
                        scan.is_partial = true;
                        Vec::new()
                    }
                    other => other?,
                };
                &copy[..]
            } else {
                &window[at..at + bytes]
            };
            match decode(&mut whole) {
                Some(value) => {
                    note(value, index, offset, bytes, scan);
                    at += bytes;
                }
                None => at += 1,
            }
        }
        start += u64::try_from(at.max(1)).unwrap_or(1);
    }
    Ok(())
}

fn note(value: Value<'_>, file: u32, offset: u64, bytes: usize, scan: &mut Scan) {
    match value.kind {
        Kind::Record => scan.records.push(Place {
            epoch: value.epoch.0,
            seq: value.seq.0,
            offset,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            file,
        }),
        Kind::Progress => {
            if scan
                .progress
                .as_ref()
                .is_none_or(|(number, _)| *number < value.seq.0)
            {
                scan.progress = Some((value.seq.0, value.payload.to_vec()));
            }
        }
        Kind::Meta | Kind::Seal => {}
    }
}

/// The bytes at a place; fewer where the file ends.
fn read_place(file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    let filled = read_at_most(file, &mut buffer, offset)?;
    buffer.truncate(filled);
    Ok(buffer)
}

/// The payload of a found record, checked again.
pub(super) fn payload_at(file: &File, place: Place) -> io::Result<Option<Arc<[u8]>>> {
    let bytes = usize::try_from(place.bytes).unwrap_or(usize::MAX);
    let bytes = read_place(file, place.offset, bytes)?;
    let value = decode(&mut &bytes[..]);
    let value = value.filter(|it| it.kind == Kind::Record && it.seq.0 == place.seq);
    Ok(value.map(|value| Arc::from(value.payload)))
}

/// Whether the medium cannot read one place, so that another may be better.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Reads a window; blocks that the medium cannot read are zeros.
fn read_what_can_be(
    file: &File,
    window: &mut [u8],
    offset: u64,
    is_partial: &mut bool,
) -> io::Result<usize> {
    match read_at_most(file, window, offset) {
        Err(error) if is_unreadable(&error) => *is_partial = true,
        other => return other,
    }
    let mut filled = 0;
    for block in window.chunks_mut(BLOCK_BYTES) {
        let at = offset + u64::try_from(filled).unwrap_or(0);
        let read = match read_at_most(file, block, at) {
            Err(error) if is_unreadable(&error) => {
                block.fill(0);
                block.len()
            }
            other => other?,
        };
        filled += read;
        if read < block.len() {
            break;
        }
    }
    Ok(filled)
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

    use super::{Epoch, Kind, Scan, Seq, WINDOW_BYTES, decode, encode, scan};

    fn encoded(seq: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(encode(
            Kind::Record,
            Epoch(3),
            Seq(seq),
            payload,
            &mut bytes
        ));
        bytes
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = encoded(17, b"payload");
        assert_eq!(decode(&mut &bytes[..]).unwrap().payload, b"payload");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&mut &damaged[..]).is_none(), "bit {bit}");
        }
        assert!(decode(&mut &bytes[..bytes.len() - 1]).is_none());
    }

    fn found(parts: impl Iterator<Item = Vec<u8>>) -> Vec<u64> {
        let mut file = tempfile::tempfile().unwrap();
        for part in parts {
            file.write_all(&part).unwrap();
        }
        let mut result = Scan::default();
        scan(&file, 0, &mut result).unwrap();
        result.records.iter().map(|place| place.seq).collect()
    }

    #[test]
    fn the_scan_finds_values_across_windows() {
        let parts = (0..3_000).flat_map(|seq| [encoded(seq, &[7; 777]), vec![0xf1; 5]]);
        assert_eq!(found(parts), (0..3_000).collect::<Vec<_>>());
        let sizes = [
            WINDOW_BYTES - 33,
            WINDOW_BYTES - 32,
            WINDOW_BYTES,
            3 * WINDOW_BYTES,
        ];
        let parts = sizes.iter().zip(1..).flat_map(|(size, seq)| {
            [
                encoded(seq * 2, &vec![7; *size]),
                encoded(seq * 2 + 1, b"small"),
            ]
        });
        assert_eq!(found(parts), (2..10).collect::<Vec<_>>());
    }

    /// Post-mortem: a header in the last 31 bytes of a window was stepped over, and its record lost.
    #[test]
    fn the_scan_finds_a_header_that_a_window_cuts() {
        for short in 0..40 {
            let gap = vec![0; WINDOW_BYTES - short];
            let parts = [gap, encoded(8, b"cut"), encoded(9, b"next")];
            assert_eq!(found(parts.into_iter()), [8, 9], "{short}");
        }
    }

    #[test]
    fn a_value_inside_a_value_is_payload_and_one_in_a_torn_value_is_found() {
        let inner = encoded(5, b"inner");
        assert_eq!(found([encoded(6, &inner)].into_iter()), [6]);
        let torn = encoded(7, &[1; 900])[..500].to_vec();
        assert_eq!(found([torn, inner].into_iter()), [5]);
    }
}
