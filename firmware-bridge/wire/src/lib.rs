//! Samples over a serial line: the protocol between a microcontroller and Quorate, for both sides. See docs/wire.md.
//!
//! Owns the bytes on the line: framing (COBS, CRC-32), messages, and the host's judgement of what arrives. It has no
//! standard library, no allocation, no unsafe code and no dependency, so a firmware can use it as it is. Must not: read a
//! clock or a port; both are handed in.
//!
//! Invariants: a frame that is corrupt, repeated, late, of an unknown session or of another version is counted and never
//! becomes a sample; after any bytes at all the next whole frame is understood; memory is fixed.

#![no_std]
#![forbid(unsafe_code)]

mod cobs;
mod crc;
mod frame;
mod host;
mod message;

pub use crc::crc32;
pub use frame::{Accumulator, ENCODED_BYTES_MAX, Frame, FrameFault, PAYLOAD_BYTES_MAX, Sender};
pub use host::{Counters, HEARTBEAT_PERIOD_US, HELLO_PERIOD_US, Host, Sample, WATCHDOG_US};
pub use message::{
    Answer, Capabilities, Command, Hello, Message, NAME_BYTES_MAX, SAMPLES_MAX, SampleBlock, Status,
};

/// The version of the protocol that this crate speaks. Another one is refused whole: its frames are counted as foreign.
pub const VERSION: u8 = 1;
