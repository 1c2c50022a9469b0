//! Messages: what a payload means.
//!
//! Owns the layout of every kind and its limits. Must not: judge whether a message is expected. Invariant: a payload that is
//! shorter, longer or other than its kind allows is no message.

use crate::PAYLOAD_BYTES_MAX;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 32;
/// The most samples in a block.
pub const SAMPLES_MAX: usize = (PAYLOAD_BYTES_MAX - BLOCK_BYTES) / 4;
/// What a block has before its samples.
const BLOCK_BYTES: usize = 16;

pub(crate) const HELLO: u8 = 0x01;
pub(crate) const SAMPLES: u8 = 0x02;
pub(crate) const HEARTBEAT: u8 = 0x03;
pub(crate) const ANSWER: u8 = 0x04;
pub(crate) const ASK_HELLO: u8 = 0x81;
pub(crate) const HOST_HEARTBEAT: u8 = 0x82;
pub(crate) const REQUEST: u8 = 0x83;

/// What a firmware can do when it is asked, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// It takes [`Command::SetPeriod`].
    pub const SET_PERIOD: u32 = 1;
    /// It takes [`Command::SelfTest`].
    pub const SELF_TEST: u32 = 2;
    /// It takes [`Command::Reboot`].
    pub const REBOOT: u32 = 4;
}

/// How a sensor of the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The block holds samples.
    Good,
    /// No acknowledge from the chip.
    NoAcknowledge,
    /// The chip's bus failed.
    BusError,
    /// The chip took too long.
    Timeout,
    /// The chip's checksum was wrong.
    Checksum,
    /// Nothing new yet.
    NotReady,
    /// The sensing element is not connected.
    OpenCircuit,
    /// The sensing element is shorted.
    ShortCircuit,
    /// At the end of the range.
    Saturated,
}

impl Status {
    const ALL: [Self; 9] = [
        Self::Good,
        Self::NoAcknowledge,
        Self::BusError,
        Self::Timeout,
        Self::Checksum,
        Self::NotReady,
        Self::OpenCircuit,
        Self::ShortCircuit,
        Self::Saturated,
    ];

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    fn code(self) -> u8 {
        let all = (0_u8..).zip(Self::ALL);
        all.into_iter()
            .find(|(_, status)| *status == self)
            .map_or(u8::MAX, |(code, _)| code)
    }
}

/// What the host asks a firmware to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sample a channel with this period in microseconds.
    SetPeriod {
        /// The channel.
        channel: u8,
        /// The period.
        period_us: u32,
    },
    /// Test what can be tested and answer.
    SelfTest,
    /// Answer, then start anew.
    Reboot,
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// The firmware cannot do this.
    Unknown,
    /// It can, but not so.
    Refused,
    /// It tried and failed; the self-test found something.
    Failed,
}

/// What a firmware says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// What it can do.
    pub capabilities: Capabilities,
    /// How many channels it has; they are numbered from 0.
    pub channels: u8,
    /// Its time in microseconds since its start.
    pub device_us: u64,
    /// Its name and version, at most 32 bytes of UTF-8.
    pub name: &'a str,
}

/// Samples of one channel at equal distances, or why there are none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleBlock<'a> {
    /// The channel.
    pub channel: u8,
    /// Good, with samples; else the cause, without.
    pub status: Status,
    /// When the first was taken, in the device's microseconds.
    pub device_us: u64,
    /// Time between two, in microseconds.
    pub period_us: u32,
    /// The samples as 32-bit floating point, little-endian.
    samples: &'a [u8],
}

impl<'a> SampleBlock<'a> {
    /// A block of samples that were written by [`f32::to_le_bytes`] one after the other.
    #[must_use]
    pub fn good(channel: u8, device_us: u64, period_us: u32, samples: &'a [u8]) -> Self {
        Self {
            channel,
            status: Status::Good,
            device_us,
            period_us,
            samples,
        }
    }

    /// A block that says why there are no samples.
    #[must_use]
    pub fn fault(channel: u8, status: Status, device_us: u64) -> Self {
        Self {
            channel,
            status,
            device_us,
            period_us: 0,
            samples: &[],
        }
    }

    /// The samples in order, each with the device's time in microseconds.
    pub fn samples(&self) -> impl Iterator<Item = (u64, f32)> + '_ {
        let (start_us, period_us) = (self.device_us, u64::from(self.period_us));
        let (samples, _) = self.samples.as_chunks::<4>();
        (0_u64..).zip(samples).map(move |(at, bytes)| {
            let device_us = start_us.saturating_add(at.saturating_mul(period_us));
            (device_us, f32::from_le_bytes(*bytes))
        })
    }
}

/// Every message of both sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message<'a> {
    /// Device: who it is. Sent at its start and when it is asked.
    Hello(Hello<'a>),
    /// Device: samples.
    Samples(SampleBlock<'a>),
    /// Device: it lives. At least once a second.
    Heartbeat {
        /// Its time in microseconds since its start.
        device_us: u64,
        /// Samples that it had to throw away since its start.
        dropped: u32,
    },
    /// Device: how a request went.
    Answer {
        /// The request.
        request: u16,
        /// How it went.
        answer: Answer,
    },
    /// Host: who are you?
    AskHello,
    /// Host: it lives. A firmware that hears none for three seconds may stop sampling.
    HostHeartbeat,
    /// Host: do this.
    Request {
        /// A number that the answer repeats.
        request: u16,
        /// What to do.
        command: Command,
    },
}

impl<'a> Message<'a> {
    /// Writes the payload and returns the kind and how long it is; `None` when it breaks a limit.
    pub fn encode(&self, out: &mut [u8; PAYLOAD_BYTES_MAX]) -> Option<(u8, usize)> {
        let mut writer = Writer { out, length: 0 };
        let kind = match self {
            Self::Hello(hello) => {
                let length = u8::try_from(hello.name.len()).ok()?;
                writer.put(&hello.capabilities.0.to_le_bytes())?;
                writer.put(&[hello.channels])?;
                writer.put(&hello.device_us.to_le_bytes())?;
                writer.put(&[length])?;
                (hello.name.len() <= NAME_BYTES_MAX).then_some(())?;
                writer.put(hello.name.as_bytes())?;
                HELLO
            }
            Self::Samples(block) => {
                (block.samples.len() % 4 == 0).then_some(())?;
                writer.put(&[block.channel, block.status.code(), 0, 0])?;
                writer.put(&block.device_us.to_le_bytes())?;
                writer.put(&block.period_us.to_le_bytes())?;
                writer.put(block.samples)?;
                SAMPLES
            }
            Self::Heartbeat { device_us, dropped } => {
                writer.put(&device_us.to_le_bytes())?;
                writer.put(&dropped.to_le_bytes())?;
                HEARTBEAT
            }
            Self::Answer { request, answer } => {
                writer.put(&request.to_le_bytes())?;
                writer.put(&[match answer {
                    Answer::Done => 0,
                    Answer::Unknown => 1,
                    Answer::Refused => 2,
                    Answer::Failed => 3,
                }])?;
                ANSWER
            }
            Self::AskHello => ASK_HELLO,
            Self::HostHeartbeat => HOST_HEARTBEAT,
            Self::Request { request, command } => {
                writer.put(&request.to_le_bytes())?;
                match command {
                    Command::SetPeriod { channel, period_us } => {
                        writer.put(&[1, *channel])?;
                        writer.put(&period_us.to_le_bytes())?;
                    }
                    Command::SelfTest => writer.put(&[2])?,
                    Command::Reboot => writer.put(&[3])?,
                }
                REQUEST
            }
        };
        Some((kind, writer.length))
    }

    /// Reads a payload; `None` for a kind that is not known and a payload that its kind does not allow.
    #[must_use]
    pub fn decode(kind: u8, payload: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let message = match kind {
            HELLO => {
                let capabilities = Capabilities(u32::from_le_bytes(reader.take()?));
                let [channels] = reader.take()?;
                let device_us = u64::from_le_bytes(reader.take()?);
                let [length] = reader.take()?;
                (usize::from(length) <= NAME_BYTES_MAX).then_some(())?;
                let name = core::str::from_utf8(reader.slice(length.into())?).ok()?;
                Self::Hello(Hello {
                    capabilities,
                    channels,
                    device_us,
                    name,
                })
            }
            SAMPLES => {
                let [channel, status, 0, 0] = reader.take()? else {
                    return None;
                };
                let status = Status::from_code(status)?;
                let device_us = u64::from_le_bytes(reader.take()?);
                let period_us = u32::from_le_bytes(reader.take()?);
                let samples = reader.slice(reader.0.len())?;
                // Good has samples, and nothing else has.
                let fits = samples.len() % 4 == 0 && (status == Status::Good) != samples.is_empty();
                fits.then_some(())?;
                Self::Samples(SampleBlock {
                    channel,
                    status,
                    device_us,
                    period_us,
                    samples,
                })
            }
            HEARTBEAT => Self::Heartbeat {
                device_us: u64::from_le_bytes(reader.take()?),
                dropped: u32::from_le_bytes(reader.take()?),
            },
            ANSWER => Self::Answer {
                request: u16::from_le_bytes(reader.take()?),
                answer: match reader.take()? {
                    [0] => Answer::Done,
                    [1] => Answer::Unknown,
                    [2] => Answer::Refused,
                    [3] => Answer::Failed,
                    _ => return None,
                },
            },
            ASK_HELLO => Self::AskHello,
            HOST_HEARTBEAT => Self::HostHeartbeat,
            REQUEST => Self::Request {
                request: u16::from_le_bytes(reader.take()?),
                command: match reader.take()? {
                    [1] => {
                        let [channel] = reader.take()?;
                        let period_us = u32::from_le_bytes(reader.take()?);
                        Command::SetPeriod { channel, period_us }
                    }
                    [2] => Command::SelfTest,
                    [3] => Command::Reboot,
                    _ => return None,
                },
            },
            _ => return None,
        };
        reader.0.is_empty().then_some(message)
    }
}

struct Writer<'a> {
    out: &'a mut [u8; PAYLOAD_BYTES_MAX],
    length: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.length.checked_add(bytes.len())?;
        self.out.get_mut(self.length..end)?.copy_from_slice(bytes);
        self.length = end;
        Some(())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{Answer, Capabilities, Command, Hello, Message, SAMPLES_MAX, SampleBlock, Status};
    use crate::PAYLOAD_BYTES_MAX;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn every_message_comes_through() {
        let samples: Vec<u8> = (0..SAMPLES_MAX)
            .flat_map(|_| 21.5_f32.to_le_bytes())
            .collect();
        let hello = |name| {
            Message::Hello(Hello {
                capabilities: Capabilities(Capabilities::REBOOT),
                channels: 3,
                device_us: u64::MAX,
                name,
            })
        };
        let longest = "n".repeat(32);
        for message in [
            hello("press 1.2"),
            hello(&longest),
            Message::Samples(SampleBlock::good(2, 5, 100, &samples)),
            Message::Samples(SampleBlock::fault(0, Status::OpenCircuit, 9)),
            Message::Heartbeat {
                device_us: 7,
                dropped: 2,
            },
            Message::Answer {
                request: 4,
                answer: Answer::Failed,
            },
            Message::AskHello,
            Message::HostHeartbeat,
            Message::Request {
                request: 1,
                command: Command::SetPeriod {
                    channel: 1,
                    period_us: 10,
                },
            },
            Message::Request {
                request: 2,
                command: Command::SelfTest,
            },
            Message::Request {
                request: 3,
                command: Command::Reboot,
            },
        ] {
            let mut out = [0; PAYLOAD_BYTES_MAX];
            let (kind, length) = message.encode(&mut out).unwrap_or((0, 0));
            assert_eq!(Message::decode(kind, &out[..length]), Some(message));
            // One byte less or more is no message, but for a sample less.
            if length > 0 {
                assert_eq!(
                    Message::decode(kind, &out[..length - 1]),
                    None,
                    "{message:?}"
                );
            }
            let longer = [&out[..length], &[1]].concat();
            assert_eq!(Message::decode(kind, &longer), None, "{message:?}");
        }
        let mut out = [0; PAYLOAD_BYTES_MAX];
        assert_eq!(hello(&"n".repeat(33)).encode(&mut out), None);
        let block = SampleBlock::good(2, 5, 100, &samples);
        assert_eq!(block.samples().last(), Some((5 + 100 * 55, 21.5)));
    }

    proptest! {
        #[test]
        fn any_payload_is_a_message_that_encodes_again_or_none(
            kind: u8, payload in proptest::collection::vec(any::<u8>(), 0..=PAYLOAD_BYTES_MAX)) {
            if let Some(message) = Message::decode(kind, &payload) {
                let mut out = [0; PAYLOAD_BYTES_MAX];
                prop_assert_eq!(message.encode(&mut out), Some((kind, payload.len())));
                prop_assert_eq!(&out[..payload.len()], &payload[..]);
            }
        }
    }
}
