//! The host's side: what of all that arrives is a sample.
//!
//! Owns sessions, order, the time of the device and the watchdog. Must not: read a clock or a port.
//!
//! Invariants: samples come from the session whose greeting was heard, in their order, each once, and from channels that the
//! greeting named; everything else is counted by cause. A device that starts anew is asked for its greeting before anything
//! of it is believed. The offset of the device's clock is the smallest difference seen lately: a frame can be late but never
//! early.

use crate::frame::{Accumulator, ENCODED_BYTES_MAX, Frame, FrameFault, PAYLOAD_BYTES_MAX, Sender};
use crate::message::{Capabilities, Hello, Message, SampleBlock, Status};

/// A device that is silent for so long is down, in microseconds.
pub const WATCHDOG_US: u64 = 3_000_000;
/// The host says at least so often that it lives, in microseconds.
pub const HEARTBEAT_PERIOD_US: u64 = 1_000_000;
/// A greeting that does not come is asked for so often, in microseconds.
pub const HELLO_PERIOD_US: u64 = 200_000;
/// After so long the smallest difference of the clocks is looked for anew, in microseconds.
const OFFSET_WINDOW_US: u64 = 10_000_000;

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The channel.
    pub channel: u8,
    /// The value, or why there is none.
    pub value: Result<f32, Status>,
    /// When it was taken, in the host's microseconds.
    pub taken_us: u64,
}

/// What was received, and what of it was no use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that were in order.
    pub accepted: u64,
    /// Frames that the numbers say were sent and did not arrive.
    pub lost: u64,
    /// Frames whose stuffing, length or checksum is wrong.
    pub corrupt: u64,
    /// Runs of bytes that are longer than a frame.
    pub oversized: u64,
    /// Frames that came again.
    pub repeated: u64,
    /// Frames that came after a later one.
    pub late: u64,
    /// Frames of a session whose greeting was not heard.
    pub unknown: u64,
    /// Frames of another version of the protocol.
    pub foreign: u64,
    /// Whole frames without a sense: an unknown kind, a channel that is not there.
    pub senseless: u64,
    /// Greetings of a new session.
    pub starts: u64,
    /// Samples that the device had to throw away in this session.
    pub dropped: u32,
}

/// The session that is believed.
#[derive(Clone, Copy, Debug)]
struct Session {
    number: u16,
    capabilities: Capabilities,
    channels: u8,
    /// The highest number so far, and of which of the 64 before it there was a frame.
    highest: u32,
    seen: u64,
    /// Host minus device, the smallest of the window before and of this one, in microseconds.
    offset_us: [i128; 2],
    window_from_us: u64,
}

/// The host's side of a line.
#[derive(Clone, Debug)]
pub struct Host {
    accumulator: Accumulator,
    sender: Sender,
    session: Option<Session>,
    counters: Counters,
    heard_us: Option<u64>,
    heartbeat_us: Option<u64>,
    asked_us: Option<u64>,
}

impl Host {
    /// A host that was just started; `session` as for [`Sender::new`].
    #[must_use]
    pub fn new(session: u16) -> Self {
        Self {
            accumulator: Accumulator::default(),
            sender: Sender::new(session),
            session: None,
            counters: Counters::default(),
            heard_us: None,
            heartbeat_us: None,
            asked_us: None,
        }
    }

    /// What was received so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the device can do, once it greeted.
    #[must_use]
    pub fn capabilities(&self) -> Option<Capabilities> {
        self.session.map(|session| session.capabilities)
    }

    /// How many channels the device has, once it greeted.
    #[must_use]
    pub fn channels(&self) -> Option<u8> {
        self.session.map(|session| session.channels)
    }

    /// Whether the device greeted and was heard lately.
    #[must_use]
    pub fn is_up(&self, now_us: u64) -> bool {
        let heard = |heard_us: u64| now_us.saturating_sub(heard_us) <= WATCHDOG_US;
        self.session.is_some() && self.heard_us.is_some_and(heard)
    }

    /// Takes bytes that arrived, and gives each sample in them.
    pub fn receive(&mut self, bytes: &[u8], now_us: u64, mut sample: impl FnMut(Sample)) {
        for byte in bytes {
            // The accumulator lends the frame, so what is judged must be another field.
            let Self {
                accumulator,
                session,
                counters,
                heard_us,
                ..
            } = self;
            match accumulator.push(*byte) {
                None => {}
                Some(Err(FrameFault::Oversized)) => counters.oversized += 1,
                Some(Err(FrameFault::Corrupt)) => counters.corrupt += 1,
                Some(Err(FrameFault::Foreign { .. })) => counters.foreign += 1,
                Some(Ok(frame)) => {
                    let mut judge = Judge {
                        session,
                        counters,
                        now_us,
                    };
                    if judge.frame(&frame, &mut sample) {
                        *heard_us = Some(now_us);
                    }
                }
            }
        }
    }

    /// What has to be sent now, if anything: the question for a greeting, or that the host lives. Call it until it gives
    /// `None`, at least every 200 ms.
    pub fn due(&mut self, now_us: u64, out: &mut [u8; ENCODED_BYTES_MAX]) -> Option<usize> {
        let due = |last: Option<u64>, period_us: u64| {
            last.is_none_or(|last_us| now_us.saturating_sub(last_us) >= period_us)
        };
        if !self.is_up(now_us) && due(self.asked_us, HELLO_PERIOD_US) {
            self.asked_us = Some(now_us);
            return self.send(&Message::AskHello, out);
        }
        if due(self.heartbeat_us, HEARTBEAT_PERIOD_US) {
            self.heartbeat_us = Some(now_us);
            return self.send(&Message::HostHeartbeat, out);
        }
        None
    }

    /// Writes a message, for example a request.
    pub fn send(
        &mut self,
        message: &Message<'_>,
        out: &mut [u8; ENCODED_BYTES_MAX],
    ) -> Option<usize> {
        let mut payload = [0; PAYLOAD_BYTES_MAX];
        let (kind, length) = message.encode(&mut payload)?;
        self.sender.encode(kind, &payload[..length], out)
    }
}

/// Judges one frame.
struct Judge<'a> {
    session: &'a mut Option<Session>,
    counters: &'a mut Counters,
    now_us: u64,
}

impl Judge<'_> {
    /// Whether the frame was in order.
    fn frame(&mut self, frame: &Frame<'_>, sample: &mut impl FnMut(Sample)) -> bool {
        let Some(message) = Message::decode(frame.kind, frame.payload) else {
            self.counters.senseless += 1;
            return false;
        };
        let known = self
            .session
            .is_some_and(|session| session.number == frame.session);
        match message {
            Message::Hello(hello) if !known => {
                self.start(frame, &hello);
                self.counters.accepted += 1;
                return true;
            }
            _ if !known => {
                // Something else speaks than what greeted: it started anew, and its greeting was lost.
                *self.session = None;
                self.counters.unknown += 1;
                return false;
            }
            _ => {}
        }
        let Some(session) = self.session.as_mut() else {
            return false;
        };
        if !session.take_number(frame.sequence, self.counters) {
            return false;
        }
        let sensible = match message {
            Message::Hello(hello) => {
                session.observe(hello.device_us, self.now_us);
                hello.channels == session.channels
            }
            Message::Samples(block) => {
                block.channel < session.channels && {
                    session.observe_and_give(&block, self.now_us, sample);
                    true
                }
            }
            Message::Heartbeat { device_us, dropped } => {
                session.observe(device_us, self.now_us);
                self.counters.dropped = dropped;
                true
            }
            Message::Answer { .. } => true,
            // What only a host says: the line is joined to itself.
            Message::AskHello | Message::HostHeartbeat | Message::Request { .. } => false,
        };
        if sensible {
            self.counters.accepted += 1;
        } else {
            self.counters.senseless += 1;
        }
        sensible
    }

    fn start(&mut self, frame: &Frame<'_>, hello: &Hello<'_>) {
        let offset_us = i128::from(self.now_us) - i128::from(hello.device_us);
        *self.session = Some(Session {
            number: frame.session,
            capabilities: hello.capabilities,
            channels: hello.channels,
            highest: frame.sequence,
            seen: 1,
            offset_us: [offset_us; 2],
            window_from_us: self.now_us,
        });
        self.counters.starts += 1;
        self.counters.dropped = 0;
    }
}

impl Session {
    /// Whether a number is a new one; counts what is not, and what is missing before it.
    fn take_number(&mut self, sequence: u32, counters: &mut Counters) -> bool {
        if let Some(step) = sequence.checked_sub(self.highest).filter(|step| *step > 0) {
            self.highest = sequence;
            self.seen = self.seen.checked_shl(step).unwrap_or(0) | 1;
            counters.lost += u64::from(step - 1);
            return true;
        }
        let behind = self.highest - sequence;
        let bit = 1_u64.checked_shl(behind).unwrap_or(0);
        if bit != 0 && self.seen & bit == 0 {
            // It was counted as lost when a later one came.
            self.seen |= bit;
            counters.late += 1;
            counters.lost = counters.lost.saturating_sub(1);
        } else {
            counters.repeated += 1;
        }
        false
    }

    fn observe(&mut self, device_us: u64, now_us: u64) {
        let difference_us = i128::from(now_us) - i128::from(device_us);
        if now_us.saturating_sub(self.window_from_us) >= OFFSET_WINDOW_US {
            self.offset_us = [self.offset_us[1], difference_us];
            self.window_from_us = now_us;
        }
        self.offset_us[1] = self.offset_us[1].min(difference_us);
    }

    fn observe_and_give(
        &mut self,
        block: &SampleBlock<'_>,
        now_us: u64,
        sample: &mut impl FnMut(Sample),
    ) {
        let last_us = block
            .samples()
            .last()
            .map_or(block.device_us, |(last_us, _)| last_us);
        self.observe(last_us, now_us);
        let offset_us = self.offset_us[0].min(self.offset_us[1]);
        let on_host = |device_us: u64| {
            let host_us = (i128::from(device_us) + offset_us).clamp(0, i128::from(now_us));
            u64::try_from(host_us).unwrap_or(now_us)
        };
        let mut give = |value, device_us| {
            sample(Sample {
                channel: block.channel,
                value,
                taken_us: on_host(device_us),
            });
        };
        if block.status != Status::Good {
            give(Err(block.status), block.device_us);
        }
        for (device_us, value) in block.samples() {
            give(Ok(value), device_us);
        }
    }
}
