//! Frames: what stands between two zeros on the line.
//!
//! Owns the header, the checksum and the search for the next frame. Must not: know what a payload means.
//!
//! | bytes | is |
//! |---|---|
//! | 1 | version of the protocol |
//! | 1 | kind of message |
//! | 2 | session, chosen anew at every start of the sender |
//! | 4 | sequence number in the session, from 1 |
//! | 0-240 | payload |
//! | 4 | CRC-32 of all before |
//!
//! Numbers are in little-endian order. The whole is stuffed by COBS and ended by a zero.

use crate::{VERSION, cobs, crc32};

/// The largest payload.
pub const PAYLOAD_BYTES_MAX: usize = 240;
const HEADER_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX + CHECKSUM_BYTES;
/// The most bytes of a frame on the line, with its ending zero.
pub const ENCODED_BYTES_MAX: usize = FRAME_BYTES_MAX + 2;

/// A frame that passed its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The kind of message.
    pub kind: u8,
    /// The sender's session.
    pub session: u16,
    /// Its place in the session.
    pub sequence: u32,
    /// What it carries.
    pub payload: &'a [u8],
}

/// Why what stood between two zeros is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// Longer than a frame can be.
    Oversized,
    /// The stuffing, the length or the checksum is wrong.
    Corrupt,
    /// Whole, but of another version of the protocol.
    Foreign {
        /// That version.
        version: u8,
    },
}

/// Gives frames their session and numbers.
#[derive(Clone, Debug)]
pub struct Sender {
    session: u16,
    sequence: u32,
}

impl Sender {
    /// A sender that was just started. `session` must differ from the one of before: a counter in memory that outlasts a
    /// reset, or a random number.
    #[must_use]
    pub const fn new(session: u16) -> Self {
        Self {
            session,
            sequence: 0,
        }
    }

    /// Writes the next frame and returns how many bytes of `out` it takes. `None` for a payload that is too long, which
    /// takes no number.
    pub fn encode(
        &mut self,
        kind: u8,
        payload: &[u8],
        out: &mut [u8; ENCODED_BYTES_MAX],
    ) -> Option<usize> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return None;
        }
        // After four thousand million frames the session is over: the number never goes back.
        let sequence = self.sequence.checked_add(1)?;
        let mut frame = [0; FRAME_BYTES_MAX];
        let end = HEADER_BYTES + payload.len();
        frame[0] = VERSION;
        frame[1] = kind;
        frame[2..4].copy_from_slice(&self.session.to_le_bytes());
        frame[4..8].copy_from_slice(&sequence.to_le_bytes());
        frame[HEADER_BYTES..end].copy_from_slice(payload);
        let checksum = crc32(&frame[..end]).to_le_bytes();
        frame[end..end + CHECKSUM_BYTES].copy_from_slice(&checksum);
        let length = cobs::encode(&frame[..end + CHECKSUM_BYTES], out)?;
        *out.get_mut(length)? = 0;
        self.sequence = sequence;
        Some(length + 1)
    }
}

/// Collects bytes until a frame is whole.
#[derive(Clone, Debug)]
pub struct Accumulator {
    bytes: [u8; ENCODED_BYTES_MAX],
    length: usize,
    oversized: bool,
}

impl Default for Accumulator {
    fn default() -> Self {
        Self {
            bytes: [0; ENCODED_BYTES_MAX],
            length: 0,
            oversized: false,
        }
    }
}

impl Accumulator {
    /// Takes the next byte of the line; gives a frame, or what is wrong with it, when the byte ends one.
    pub fn push(&mut self, byte: u8) -> Option<Result<Frame<'_>, FrameFault>> {
        if byte != 0 {
            match self.bytes.get_mut(self.length) {
                Some(slot) => {
                    *slot = byte;
                    self.length += 1;
                }
                None => self.oversized = true,
            }
            return None;
        }
        let length = core::mem::take(&mut self.length);
        if core::mem::take(&mut self.oversized) {
            return Some(Err(FrameFault::Oversized));
        }
        // Zeros between frames are allowed: a sender may begin with one to end what noise began.
        (length > 0).then(|| decode(&mut self.bytes[..length]))
    }
}

fn decode(bytes: &mut [u8]) -> Result<Frame<'_>, FrameFault> {
    let length = cobs::decode(bytes).ok_or(FrameFault::Corrupt)?;
    let (frame, checksum) = bytes[..length]
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(FrameFault::Corrupt)?;
    if crc32(frame) != u32::from_le_bytes(*checksum) {
        return Err(FrameFault::Corrupt);
    }
    let (header, payload) = frame
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(FrameFault::Corrupt)?;
    let [version, kind, session_low, session_high, sequence @ ..] = *header;
    if version != VERSION {
        return Err(FrameFault::Foreign { version });
    }
    Ok(Frame {
        kind,
        session: u16::from_le_bytes([session_low, session_high]),
        sequence: u32::from_le_bytes(sequence),
        payload,
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{Accumulator, ENCODED_BYTES_MAX, FrameFault, PAYLOAD_BYTES_MAX, Sender};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn line(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut sender = Sender::new(7);
        let mut out = [0; ENCODED_BYTES_MAX];
        let mut line = Vec::new();
        for payload in payloads {
            let length = sender.encode(9, payload, &mut out).unwrap_or(0);
            line.extend_from_slice(&out[..length]);
        }
        line
    }

    /// The payloads of the frames on a line, and how many faults there were.
    fn read(line: &[u8]) -> (Vec<Vec<u8>>, usize) {
        let mut accumulator = Accumulator::default();
        let (mut payloads, mut faults) = (Vec::new(), 0);
        for byte in line {
            match accumulator.push(*byte) {
                Some(Ok(frame)) => payloads.push(frame.payload.to_vec()),
                Some(Err(_)) => faults += 1,
                None => {}
            }
        }
        (payloads, faults)
    }

    #[test]
    fn the_longest_payload_fits_and_a_longer_one_takes_no_number() {
        let mut sender = Sender::new(1);
        let mut out = [0; ENCODED_BYTES_MAX];
        assert_eq!(
            sender.encode(1, &[1; PAYLOAD_BYTES_MAX + 1], &mut out),
            None
        );
        let length = sender.encode(1, &[1; PAYLOAD_BYTES_MAX], &mut out);
        assert_eq!(length, Some(ENCODED_BYTES_MAX));
        let mut accumulator = Accumulator::default();
        let frame = out.iter().find_map(|byte| match accumulator.push(*byte) {
            Some(Ok(frame)) => Some((frame.sequence, frame.session)),
            _ => None,
        });
        assert_eq!(frame, Some((1, 1)));
    }

    #[test]
    fn every_flipped_bit_is_found_and_the_next_frame_is_understood() {
        let payloads = [b"one".to_vec(), std::vec![0, 0, 1], b"three".to_vec()];
        let clean = line(&payloads);
        let second = clean.iter().position(|byte| *byte == 0).unwrap_or(0) + 1;
        let third = second
            + clean[second..]
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(0)
            + 1;
        for bit in second * 8..third * 8 {
            let mut noisy = clean.clone();
            noisy[bit / 8] ^= 1 << (bit % 8);
            let (read, faults) = read(&noisy);
            // A zero that is hit joins two frames; both are lost then, and no more.
            let joined = bit / 8 == third - 1;
            let expected = if joined { 1 } else { 2 };
            assert_eq!(read.len(), expected, "{bit}");
            assert!(faults > 0);
            assert!(read.iter().all(|payload| payloads.contains(payload)));
        }
    }

    #[test]
    fn endless_noise_is_one_fault_in_fixed_memory() {
        let mut noise = std::vec![0x55; 100_000];
        noise.push(0);
        noise.extend(line(&[b"after".to_vec()]));
        assert_eq!(read(&noise), (std::vec![b"after".to_vec()], 1));
    }

    #[test]
    fn another_version_is_told_apart_from_noise() {
        let mut frame = std::vec![2, 1, 0, 0, 1, 0, 0, 0];
        let checksum = crate::crc32(&frame).to_le_bytes();
        frame.extend(checksum);
        let mut out = [0; 64];
        let length = crate::cobs::encode(&frame, &mut out).unwrap_or(0);
        let mut accumulator = Accumulator::default();
        let mut last = None;
        for byte in &out[..=length] {
            last = last.or(accumulator.push(*byte).map(|result| result.err()));
        }
        assert_eq!(last, Some(Some(FrameFault::Foreign { version: 2 })));
    }

    proptest! {
        #[test]
        fn payloads_come_through(payloads in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..=PAYLOAD_BYTES_MAX), 0..6)) {
            prop_assert_eq!(read(&line(&payloads)), (payloads, 0));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            read(&bytes);
        }
    }
}
