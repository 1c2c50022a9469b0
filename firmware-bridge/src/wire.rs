//! A microcontroller on a serial line as a chip of up to 32 channels. The protocol is the crate quorate-wire (docs/wire.md).
//!
//! Owns which of the samples that arrived is given to whom. Must not: know a byte of the protocol, or read a clock.
//!
//! Invariants: a sample is given once, and none that is older than [`SAMPLE_US_MAX`]; what arrives between two questions is
//! read in bounded memory. The line holds about 4 kB between two questions: a firmware that sends more loses frames, which are
//! counted.

use std::fmt;

use quorate_wire::{Command, ENCODED_BYTES_MAX, Host, Message, Sample, Status, WATCHDOG_US};

use crate::SampleFault;
use crate::chips::{CHANNELS_MAX, Chip, Values};

/// The oldest sample that is given, in microseconds.
pub const SAMPLE_US_MAX: u64 = 1_000_000;
/// Bytes that are read at once, and how often in one question.
const READ_BYTES: usize = 1024;
const READS_MAX: usize = 64;

/// A line that never waits.
pub trait Line: Send {
    /// Reads what is there, 0 when nothing is.
    ///
    /// # Errors
    /// When the line is gone or fails.
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, SampleFault>;

    /// Writes what there is room for, and says how much.
    ///
    /// # Errors
    /// When the line is gone or fails.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, SampleFault>;
}

/// Monotonic time in microseconds.
pub type NowUs = Box<dyn Fn() -> u64 + Send>;

/// A microcontroller.
pub struct WireChip<L> {
    line: L,
    now_us: NowUs,
    host: Host,
    opened_us: u64,
    latest: [Option<Sample>; CHANNELS_MAX],
    /// Periods that channels are to have, in microseconds, and the start of the firmware that was told.
    periods: Vec<(u8, u32)>,
    told_start: u64,
}

impl<L> fmt::Debug for WireChip<L> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WireChip")
            .field("counters", &self.host.counters())
            .finish_non_exhaustive()
    }
}

impl<L: Line> WireChip<L> {
    /// A microcontroller that is greeted by the first question. `periods` holds channels and the period that each is to have.
    pub fn new(line: L, now_us: NowUs, periods: Vec<(u8, u32)>) -> Self {
        let opened_us = now_us();
        let [low, high, ..] = opened_us.to_le_bytes();
        Self {
            line,
            now_us,
            host: Host::new(u16::from_le_bytes([low, high])),
            opened_us,
            latest: [None; CHANNELS_MAX],
            periods,
            told_start: 0,
        }
    }

    fn receive(&mut self) -> Result<(), SampleFault> {
        let mut bytes = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            let count = self.line.read(&mut bytes)?;
            if count == 0 {
                break;
            }
            let (host, latest) = (&mut self.host, &mut self.latest);
            host.receive(&bytes[..count], (self.now_us)(), |sample| {
                if let Some(slot) = latest.get_mut(usize::from(sample.channel)) {
                    *slot = Some(sample);
                }
            });
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), SampleFault> {
        let mut out = [0; ENCODED_BYTES_MAX];
        while let Some(length) = self.host.due((self.now_us)(), &mut out) {
            // What does not fit is a frame that is lost; the next one says the same.
            self.line.write(&out[..length])?;
        }
        let starts = self.host.counters().starts;
        if starts != self.told_start {
            self.told_start = starts;
            for (request, (channel, period_us)) in (1..).zip(&self.periods) {
                let command = Command::SetPeriod {
                    channel: *channel,
                    period_us: *period_us,
                };
                let message = Message::Request { request, command };
                if let Some(length) = self.host.send(&message, &mut out) {
                    self.line.write(&out[..length])?;
                }
            }
        }
        Ok(())
    }
}

impl<L: Line> Chip for WireChip<L> {
    fn set_up(&mut self) -> Result<(), SampleFault> {
        Ok(())
    }

    fn measure(&mut self, channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        self.receive()?;
        self.send()?;
        let now_us = (self.now_us)();
        if !self.host.is_up(now_us) {
            let waited_us = now_us.saturating_sub(self.opened_us);
            return Err(if waited_us > WATCHDOG_US {
                SampleFault::Timeout
            } else {
                SampleFault::NotReady
            });
        }
        let there = self
            .host
            .channels()
            .is_some_and(|count| channel < usize::from(count));
        let sample = self.latest.get_mut(channel).and_then(Option::take);
        let value = match sample {
            _ if !there => Err(SampleFault::Malformed),
            Some(sample) if now_us.saturating_sub(sample.taken_us) <= SAMPLE_US_MAX => {
                sample.value.map(f64::from).map_err(cause)
            }
            _ => Err(SampleFault::NotReady),
        };
        values.set(channel, value);
        Ok(())
    }
}

fn cause(status: Status) -> SampleFault {
    match status {
        Status::NoAcknowledge => SampleFault::NoAcknowledge,
        Status::BusError => SampleFault::BusError { errno: None },
        Status::Timeout => SampleFault::Timeout,
        Status::Checksum => SampleFault::Checksum,
        Status::OpenCircuit => SampleFault::OpenCircuit,
        Status::ShortCircuit => SampleFault::ShortCircuit,
        Status::Saturated => SampleFault::Saturated,
        // A good block without a value does not come so far.
        Status::NotReady | Status::Good => SampleFault::NotReady,
    }
}
