//! Requests and answers of Modbus as bytes, over a serial line (RTU) and over TCP.
//!
//! Owns the two framings. Must not: read or write a line, or keep time. Source: MODBUS Application Protocol 1.1b3, MODBUS
//! over Serial Line 1.02, MODBUS Messaging on TCP/IP 1.0b. An own file because an answer must be checked to its last byte:
//! rmodbus 0.13 takes one with fewer registers than were asked for, and modbus-core 0.2 panics on some.
//!
//! Invariants: an answer is taken only when unit, function, number of bytes and checksum (or transaction) are those of
//! the request, and nothing follows it; whatever the bytes are, nothing panics and nothing grows.

use crate::SampleFault;

/// The most registers in one request (chapter 6.3 of the protocol).
pub const REGISTERS_MAX: u16 = 125;
/// The longest frame: 256 bytes over serial lines, 260 over TCP.
pub const FRAME_BYTES_MAX: usize = 260;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Coils: bits that can be written too.
    Coils,
    /// Discrete inputs: bits.
    DiscreteInputs,
    /// Holding registers: words that can be written too.
    HoldingRegisters,
    /// Input registers: words.
    InputRegisters,
}

impl Table {
    const fn function(self) -> u8 {
        match self {
            Self::Coils => 1,
            Self::DiscreteInputs => 2,
            Self::HoldingRegisters => 3,
            Self::InputRegisters => 4,
        }
    }

    /// Whether it holds bits and not words.
    #[must_use]
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coils | Self::DiscreteInputs)
    }
}

/// How frames are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A serial line: unit first, CRC-16 last.
    Rtu,
    /// TCP, with the number of the transaction.
    Tcp(u16),
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The device.
    pub unit: u8,
    /// What is read.
    pub table: Table,
    /// The first bit or word, from 0.
    pub address: u16,
    /// How many, 1 to [`REGISTERS_MAX`].
    pub count: u16,
}

impl Request {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self, framing: Framing) -> Vec<u8> {
        let [address_high, address_low] = self.address.to_be_bytes();
        let [count_high, count_low] = self.count.to_be_bytes();
        let function = self.table.function();
        let body = [
            self.unit,
            function,
            address_high,
            address_low,
            count_high,
            count_low,
        ];
        match framing {
            Framing::Rtu => {
                let mut bytes = body.to_vec();
                bytes.extend(crc(&body).to_le_bytes());
                bytes
            }
            Framing::Tcp(transaction) => {
                let [high, low] = transaction.to_be_bytes();
                let mut bytes = vec![high, low, 0, 0, 0, 6];
                bytes.extend(body);
                bytes
            }
        }
    }

    /// The data of the answer, once it is there as a whole; `None` while bytes are missing.
    ///
    /// # Errors
    /// `Exception` when the device says so, `Checksum`, or `Malformed` for whatever is no answer to this request.
    pub fn decode(&self, framing: Framing, bytes: &[u8]) -> Result<Option<Vec<u8>>, SampleFault> {
        let (body, tail) = match framing {
            Framing::Rtu => (bytes, 2),
            Framing::Tcp(transaction) => {
                let Some((head, body)) = bytes.split_first_chunk::<6>() else {
                    return Ok(None);
                };
                let [high, low] = transaction.to_be_bytes();
                let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
                if head[..4] != [high, low, 0, 0] || length > FRAME_BYTES_MAX {
                    return Err(SampleFault::Malformed);
                }
                if body.len() < length.min(3) {
                    return Ok(None);
                }
                if body.len() >= 3 && length != self.length(body)? {
                    return Err(SampleFault::Malformed);
                }
                (body, 0)
            }
        };
        if body.len() < 3 {
            return Ok(None);
        }
        let length = self.length(body)?;
        let total = length + tail;
        if body.len() < total {
            return Ok(None);
        }
        if body.len() > total {
            return Err(SampleFault::Malformed);
        }
        if tail == 2 && crc(&body[..length]).to_le_bytes() != body[length..] {
            return Err(SampleFault::Checksum);
        }
        if body[1] != self.table.function() {
            return Err(SampleFault::Exception { code: body[2] });
        }
        Ok(Some(body[3..length].to_vec()))
    }

    /// The length of an answer from its unit to its data, by its first three bytes.
    fn length(&self, body: &[u8]) -> Result<usize, SampleFault> {
        let function = self.table.function();
        let bytes = if self.table.is_bits() {
            usize::from(self.count).div_ceil(8)
        } else {
            usize::from(self.count) * 2
        };
        match *body {
            [unit, ..] if unit != self.unit => Err(SampleFault::Malformed),
            [_, answered, ..] if answered == function | 0x80 => Ok(3),
            [_, answered, count, ..] if answered == function && usize::from(count) == bytes => {
                Ok(3 + bytes)
            }
            _ => Err(SampleFault::Malformed),
        }
    }
}

/// CRC-16 of MODBUS over Serial Line 1.02, chapter 6.2.2: polynomial 0xa001 reflected, start 0xffff, low byte first.
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xa001
            } else {
                crc >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{FRAME_BYTES_MAX, Framing, Request, Table, crc};
    use crate::SampleFault;
    use proptest::prelude::*;

    const REQUEST: Request = Request {
        unit: 0x11,
        table: Table::HoldingRegisters,
        address: 0x006b,
        count: 3,
    };

    #[test]
    fn golden_frames() {
        // The example of the protocol's chapter 6.3, with unit 0x11.
        let sent = REQUEST.encode(Framing::Rtu);
        assert_eq!(sent, [0x11, 3, 0, 0x6b, 0, 3, 0x76, 0x87]);
        let sent = REQUEST.encode(Framing::Tcp(0x1501));
        assert_eq!(sent, [0x15, 1, 0, 0, 0, 6, 0x11, 3, 0, 0x6b, 0, 3]);
        let mut answer = vec![0x11, 3, 6, 2, 0x2b, 0, 0, 0, 0x64];
        let data = answer[3..].to_vec();
        let mut tcp = vec![0x15, 1, 0, 0, 0, 9];
        tcp.extend(&answer);
        answer.extend(crc(&answer).to_le_bytes());
        assert_eq!(
            REQUEST.decode(Framing::Rtu, &answer),
            Ok(Some(data.clone()))
        );
        assert_eq!(REQUEST.decode(Framing::Tcp(0x1501), &tcp), Ok(Some(data)));
        let other = REQUEST.decode(Framing::Tcp(0x1502), &tcp);
        assert_eq!(other, Err(SampleFault::Malformed));
        for bytes in 0..answer.len() {
            assert_eq!(REQUEST.decode(Framing::Rtu, &answer[..bytes]), Ok(None));
        }
        for bytes in 0..tcp.len() {
            let early = REQUEST.decode(Framing::Tcp(0x1501), &tcp[..bytes]);
            assert_eq!(early, Ok(None), "{bytes}");
        }
        answer.push(0);
        let long = REQUEST.decode(Framing::Rtu, &answer);
        assert_eq!(long, Err(SampleFault::Malformed));
    }

    #[test]
    fn exceptions_have_their_code() {
        let mut answer = vec![0x11, 0x83, 2];
        answer.extend(crc(&answer).to_le_bytes());
        let fault = REQUEST.decode(Framing::Rtu, &answer);
        assert_eq!(fault, Err(SampleFault::Exception { code: 2 }));
        assert_eq!(
            SampleFault::Exception { code: 2 }.as_str(),
            "illegal-address"
        );
    }

    fn answer(request: &Request, framing: Framing, data: &[u8]) -> Vec<u8> {
        let length = u8::try_from(data.len()).expect("an answer is short");
        let mut body = vec![request.unit, request.table.function(), length];
        body.extend(data);
        match framing {
            Framing::Rtu => {
                body.extend(crc(&body).to_le_bytes());
                body
            }
            Framing::Tcp(transaction) => {
                let mut bytes = transaction.to_be_bytes().to_vec();
                bytes.extend([0, 0]);
                bytes.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
                bytes.extend(body);
                bytes
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_give_what_was_not_asked_for(
            bytes in proptest::collection::vec(any::<u8>(), 0..FRAME_BYTES_MAX + 8),
            count in 1_u16..=125,
            tcp in any::<Option<u16>>(),
        ) {
            let request = Request { count, ..REQUEST };
            let framing = tcp.map_or(Framing::Rtu, Framing::Tcp);
            if let Ok(Some(data)) = request.decode(framing, &bytes) {
                prop_assert_eq!(data.len(), usize::from(count) * 2);
            }
        }

        /// One to three flipped bits in a frame of a serial line never give data: CRC-16 finds them all.
        #[test]
        fn flipped_bits_never_give_a_value(
            words in proptest::collection::vec(any::<u16>(), 1..=32),
            flips in proptest::collection::btree_set(any::<u16>(), 1..=3),
        ) {
            let request = Request { count: u16::try_from(words.len()).expect("few"), ..REQUEST };
            let data: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let mut bytes = answer(&request, Framing::Rtu, &data);
            prop_assert_eq!(request.decode(Framing::Rtu, &bytes), Ok(Some(data)));
            let bits = bytes.len() * 8;
            let places: std::collections::BTreeSet<usize> =
                flips.iter().map(|flip| usize::from(*flip) % bits).collect();
            for place in places {
                bytes[place / 8] ^= 1 << (place % 8);
            }
            let found = request.decode(Framing::Rtu, &bytes);
            prop_assert!(!matches!(found, Ok(Some(_))), "{found:?}");
        }

        #[test]
        fn what_is_cut_or_glued_gives_nothing(
            words in proptest::collection::vec(any::<u16>(), 1..=125),
            tcp in any::<Option<u16>>(),
            extra in proptest::collection::vec(any::<u8>(), 1..8),
            cut in any::<proptest::sample::Index>(),
        ) {
            let request = Request { count: u16::try_from(words.len()).expect("few"), ..REQUEST };
            let framing = tcp.map_or(Framing::Rtu, Framing::Tcp);
            let data: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let mut bytes = answer(&request, framing, &data);
            let cut = cut.index(bytes.len());
            prop_assert_eq!(request.decode(framing, &bytes[..cut]), Ok(None));
            bytes.extend(extra);
            prop_assert_eq!(request.decode(framing, &bytes), Err(SampleFault::Malformed));
        }
    }
}
