//! Plantower PMSx003 (PMS5003, PMS7003, PMSA003): particles in air, over a serial line. Unit: microgram per cubic metre.
//!
//! Owns the frames that the sensor sends by itself, about one a second. Source: the PMS5003 manual, version 2.3.
//! An own file because the drivers that exist block until a frame came.
//!
//! Invariants: a frame is taken only when its start, its length and its sum are right; a value is given once; a line that is
//! silent for longer than five seconds is `Timeout`; what is kept of the line is shorter than one frame.

use super::{Accuracy, BusKind, Channel, Chip, Description, Values};
use crate::SampleFault;
use crate::wire::{Line, NowUs};

const fn particles(name: &'static str) -> Channel {
    Channel {
        name,
        unit: "ug/m3",
        range: Some((0.0, 1000.0)),
        // 10 µg/m³ up to 100, 10 % above.
        accuracy: Some(Accuracy::with_share(10.0, 0.1)),
    }
}

/// What the sensor is.
pub const DESCRIPTION: Description = Description {
    kind: "pmsx003",
    name: "Plantower PMSx003",
    bus: BusKind::Serial,
    addresses: &[],
    spi_mode: 0,
    identity: None,
    channels: &[particles("pm1"), particles("pm2.5"), particles("pm10")],
    options: &[],
    driver: "own file: the drivers that exist wait until a frame comes",
    datasheet: "PMS5003 version 2.3: 10 ug/m3 to 100, 10 % above; set baud = 9600",
};

const FRAME_BYTES: usize = 32;
/// Two start bytes, and the number of bytes that follow.
const START: [u8; 4] = [0x42, 0x4d, 0x00, 0x1c];
/// In steady air the sensor sends every 2.3 s.
const SILENCE_US_MAX: u64 = 5_000_000;
const READ_BYTES: usize = 256;
const READS_MAX: usize = 32;

/// A sensor on a line.
pub struct Pmsx003<L> {
    line: L,
    now_us: NowUs,
    heard_us: u64,
    frames: Frames,
}

impl<L> std::fmt::Debug for Pmsx003<L> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pmsx003").finish_non_exhaustive()
    }
}

impl<L: Line> Pmsx003<L> {
    /// A sensor that sends by itself, as it does after power-up.
    pub fn new(line: L, now_us: NowUs) -> Self {
        Self {
            heard_us: now_us(),
            line,
            now_us,
            frames: Frames::default(),
        }
    }
}

impl<L: Line> Chip for Pmsx003<L> {
    fn set_up(&mut self) -> Result<(), SampleFault> {
        Ok(())
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let mut bytes = [0; READ_BYTES];
        let mut newest = None;
        for _ in 0..READS_MAX {
            let count = self.line.read(&mut bytes)?;
            if count == 0 {
                break;
            }
            newest = self.frames.push(&bytes[..count]).or(newest);
        }
        let now_us = (self.now_us)();
        let Some(frame) = newest else {
            let silent = now_us.saturating_sub(self.heard_us) > SILENCE_US_MAX;
            return Err(match (silent, std::mem::take(&mut self.frames.wrong_sum)) {
                (_, true) => SampleFault::Checksum,
                (true, false) => SampleFault::Timeout,
                (false, false) => SampleFault::NotReady,
            });
        };
        self.heard_us = now_us;
        self.frames.wrong_sum = false;
        for (channel, value) in frame.into_iter().enumerate() {
            values.set(channel, Ok(f64::from(value)));
        }
        Ok(())
    }
}

/// Finds frames in a stream of bytes.
#[derive(Debug, Default)]
struct Frames {
    bytes: [u8; FRAME_BYTES],
    length: usize,
    wrong_sum: bool,
}

impl Frames {
    /// The newest frame that ends in these bytes: PM1, PM2.5 and PM10 in the atmosphere.
    fn push(&mut self, bytes: &[u8]) -> Option<[u16; 3]> {
        let mut newest = None;
        for byte in bytes {
            self.bytes[self.length] = *byte;
            self.length += 1;
            while !START.starts_with(&self.bytes[..self.length.min(START.len())]) {
                self.bytes.copy_within(1..self.length, 0);
                self.length -= 1;
            }
            if self.length == FRAME_BYTES {
                newest = self.read().or(newest);
            }
        }
        newest
    }

    /// The frame that the buffer holds. A wrong one loses its first byte alone: the next may start within it.
    fn read(&mut self) -> Option<[u16; 3]> {
        let (data, sum) = self.bytes.split_at(FRAME_BYTES - 2);
        let counted: u16 = data.iter().map(|byte| u16::from(*byte)).sum();
        if counted.to_be_bytes() == *sum {
            self.length = 0;
            let word = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
            return Some([word(10), word(12), word(14)]);
        }
        self.wrong_sum = true;
        for start in 1..FRAME_BYTES {
            let rest = &self.bytes[start..];
            if START.starts_with(&rest[..rest.len().min(START.len())]) {
                self.bytes.copy_within(start.., 0);
                self.length = FRAME_BYTES - start;
                return None;
            }
        }
        self.length = 0;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{FRAME_BYTES, Frames, Pmsx003, SILENCE_US_MAX, START};
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use crate::wire::Line;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn frame(values: [u16; 3]) -> Vec<u8> {
        let mut bytes = START.to_vec();
        // The first three are under factory conditions: others than those that count.
        for value in [7, 8, 9].into_iter().chain(values).chain([100; 7]) {
            bytes.extend(u16::to_be_bytes(value));
        }
        let sum: u16 = bytes.iter().map(|byte| u16::from(*byte)).sum();
        bytes.extend(sum.to_be_bytes());
        assert_eq!(bytes.len(), FRAME_BYTES);
        bytes
    }

    struct Script(Vec<Vec<u8>>);

    impl Line for Script {
        fn read(&mut self, bytes: &mut [u8]) -> Result<usize, SampleFault> {
            let piece = if self.0.is_empty() {
                Vec::new()
            } else {
                self.0.remove(0)
            };
            bytes[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }

        fn write(&mut self, _: &[u8]) -> Result<usize, SampleFault> {
            Ok(0)
        }
    }

    #[test]
    fn golden_frames_and_silence() {
        let mut wrong = frame([12, 34, 56]);
        wrong[12] ^= 1;
        let nothing = Vec::new();
        let script = vec![
            frame([12, 34, 56]),
            nothing.clone(),
            nothing.clone(),
            wrong,
            nothing,
        ];
        let clock = Arc::new(AtomicU64::new(0));
        let now = Arc::clone(&clock);
        let mut chip = Pmsx003::new(
            Script(script),
            Box::new(move || now.load(Ordering::Relaxed)),
        );
        let values = sample(&mut chip, 0, 3);
        assert_eq!(
            values,
            Ok(vec![Some(Ok(12.0)), Some(Ok(34.0)), Some(Ok(56.0))])
        );
        assert_eq!(sample(&mut chip, 0, 3), Err(SampleFault::NotReady));
        assert_eq!(sample(&mut chip, 0, 3), Err(SampleFault::Checksum));
        clock.store(SILENCE_US_MAX + 1, Ordering::Relaxed);
        assert_eq!(sample(&mut chip, 0, 3), Err(SampleFault::Timeout));
        assert_eq!(chip.set_up(), Ok(()));
    }

    proptest! {
        #[test]
        fn noise_gives_nothing_wrong_and_a_frame_after_it_is_found(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            values in any::<[u16; 3]>(),
        ) {
            let mut frames = Frames::default();
            frames.push(&noise);
            // Whatever the noise looked like, of two whole frames the second is found.
            frames.push(&frame(values));
            prop_assert_eq!(frames.push(&frame(values)), Some(values));
        }

        #[test]
        fn a_flipped_bit_gives_no_value(values in any::<[u16; 3]>(), bit in 0..FRAME_BYTES * 8) {
            let mut bytes = frame(values);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Frames::default().push(&bytes), None);
        }
    }
}
