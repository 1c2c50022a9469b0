//! MPU-6050 accelerometer and gyroscope (InvenSense), on I2C, with features of vibration.
//!
//! Owns the chip's registers and the block of samples that the features are of. Source: the register map RM-MPU-6000A and
//! the product specification PS-MPU-6000A. An own file because mpu6050-dmp hides the overflow flag of the buffer, without
//! which a gap in a block of samples cannot be seen.
//!
//! The features of an axis are of 128 samples at 500 Hz, which the chip takes by its own clock into its buffer. Such a
//! measurement holds the bus for about 0.3 s: give the chip a bus of its own when others are polled often.
//!
//! Invariants: the identity is read twice at the start; the control registers are those that were written (after power-up
//! the chip sleeps); a block in which the buffer ran over is `Overrun`.

use embedded_hal::{delay::DelayNs, i2c::I2c};

use super::lis3dh::GRAVITY;
use super::registers::{Registers, expect, kept};
use super::{Accuracy, Allowed, BusKind, Channel, Chip, Description, Identity, OptionKey, Values};
use crate::SampleFault;
use crate::vibration::{BANDS, Features};

/// Samples in a block, a power of two.
const BLOCK: usize = 128;
const BLOCK_BYTES: usize = 6 * BLOCK;
/// 128 samples at 500 Hz, 4 % slow, and a little.
const BLOCK_MS: u32 = 270;

const fn axis(name: &'static str) -> Channel {
    Channel {
        name,
        unit: "m/s2",
        range: Some((-16.0 * GRAVITY, 16.0 * GRAVITY)),
        // 80 mg of zero offset, the axis along gravity, and 3 % of sensitivity.
        accuracy: Some(Accuracy::with_share(0.8, 0.03)),
    }
}

const fn rate(name: &'static str) -> Channel {
    Channel {
        name,
        unit: "degree/s",
        range: Some((-250.0, 250.0)),
        accuracy: Some(Accuracy::with_share(20.0, 0.03)),
    }
}

const fn feature(name: &'static str, unit: &'static str) -> Channel {
    Channel {
        name,
        unit,
        range: None,
        accuracy: None,
    }
}

/// Places of the first feature of each axis, and how many features an axis has.
const FEATURES_FROM: usize = 7;
const FEATURES: usize = 4 + BANDS;

/// What the chip is.
pub const DESCRIPTION: Description = Description {
    kind: "mpu6050",
    name: "InvenSense MPU-6050",
    bus: BusKind::I2c,
    addresses: &[0x68, 0x69],
    spi_mode: 0,
    identity: Some(Identity {
        register: IDENTITY,
        bytes: 1,
        mask: 0x7e,
        value: 0x68,
    }),
    channels: &[
        axis("acceleration-x"),
        axis("acceleration-y"),
        axis("acceleration-z"),
        Channel {
            name: "temperature",
            unit: "celsius",
            range: Some((-40.0, 85.0)),
            accuracy: Some(Accuracy::absolute(3.0)),
        },
        rate("rotation-x"),
        rate("rotation-y"),
        rate("rotation-z"),
        feature("rms-x", "m/s2"),
        feature("peak-x", "m/s2"),
        feature("crest-x", "1"),
        feature("kurtosis-x", "1"),
        feature("band-1-x", "m/s2"),
        feature("band-2-x", "m/s2"),
        feature("band-3-x", "m/s2"),
        feature("band-4-x", "m/s2"),
        feature("rms-y", "m/s2"),
        feature("peak-y", "m/s2"),
        feature("crest-y", "1"),
        feature("kurtosis-y", "1"),
        feature("band-1-y", "m/s2"),
        feature("band-2-y", "m/s2"),
        feature("band-3-y", "m/s2"),
        feature("band-4-y", "m/s2"),
        feature("rms-z", "m/s2"),
        feature("peak-z", "m/s2"),
        feature("crest-z", "1"),
        feature("kurtosis-z", "1"),
        feature("band-1-z", "m/s2"),
        feature("band-2-z", "m/s2"),
        feature("band-3-z", "m/s2"),
        feature("band-4-z", "m/s2"),
    ],
    options: &[OptionKey {
        key: "full_scale_g",
        default: 2.0,
        allowed: Allowed::OneOf(&[2.0, 4.0, 8.0, 16.0]),
        meaning: "largest acceleration that is told, in standard gravity",
    }],
    driver: "own file: mpu6050-dmp hides the overflow flag of the buffer",
    datasheet: "PS-MPU-6000A: 80 mg along gravity, 3 %; 20 degrees per second; bands end at 31, 62, 125 and 250 Hz",
};

const RATE_DIVIDER: u8 = 0x19;
const BUFFER_ENABLE: u8 = 0x23;
const INTERRUPTS: u8 = 0x3a;
const DATA: u8 = 0x3b;
const USER: u8 = 0x6a;
const POWER: u8 = 0x6b;
const BUFFER_COUNT: u8 = 0x72;
const BUFFER: u8 = 0x74;
const IDENTITY: u8 = 0x75;

/// Awake, clock from a gyroscope; after power-up it is 0x40, asleep.
const AWAKE: u8 = 0x01;
/// Samples at 1 kHz by two; filter of 184 Hz; 250 degrees per second. The scale of the accelerometer follows.
const TIMING: [u8; 3] = [0x01, 0x01, 0x00];
const BUFFER_OVERFLOW: u8 = 0x10;
const BUFFER_ON: u8 = 0x40;
const BUFFER_RESET: u8 = 0x04;
const ACCELERATION: u8 = 0x08;

/// An MPU-6050 on a bus.
#[derive(Debug)]
pub struct Mpu6050<B, D> {
    registers: Registers<B>,
    delay: D,
    scale_code: u8,
    /// Of one count, in metre per second squared.
    step: f64,
}

impl<B, D> Mpu6050<B, D>
where
    B: I2c,
    B::Error: Into<SampleFault>,
    D: DelayNs,
{
    /// A chip at an address and with options that [`DESCRIPTION`] allows.
    pub fn new(bus: B, delay: D, address: u8, options: &[f64]) -> Self {
        let full_scale_g = options.first().copied().unwrap_or(2.0);
        let scale_code = match full_scale_g {
            scale if scale >= 16.0 => 0x18,
            scale if scale >= 8.0 => 0x10,
            scale if scale >= 4.0 => 0x08,
            _ => 0x00,
        };
        Self {
            registers: Registers::new(bus, address),
            delay,
            scale_code,
            step: full_scale_g * GRAVITY / 32_768.0,
        }
    }

    fn check_kept(&mut self) -> Result<(), SampleFault> {
        kept(self.registers.read_byte(POWER)? == AWAKE)?;
        let [divider, filter, rotation, acceleration] = self.registers.read(RATE_DIVIDER)?;
        kept([divider, filter, rotation] == TIMING && acceleration == self.scale_code)
    }

    fn measure_now(&mut self, values: &mut Values) -> Result<(), SampleFault> {
        let bytes: [u8; 14] = self.registers.read(DATA)?;
        let count = |at: usize| i16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]);
        for axis in 0..3 {
            values.set(axis, scaled(count(axis), self.step));
            values.set(4 + axis, scaled(count(4 + axis), 250.0 / 32_768.0));
        }
        values.set(3, Ok(f64::from(count(3)) / 340.0 + 36.53));
        Ok(())
    }

    fn measure_block(&mut self, values: &mut Values) -> Result<(), SampleFault> {
        self.registers.write_byte(BUFFER_ENABLE, 0)?;
        self.registers.write_byte(USER, BUFFER_RESET)?;
        self.registers.write_byte(USER, BUFFER_ON)?;
        // Reading clears an overflow of before.
        self.registers.read_byte(INTERRUPTS)?;
        self.registers.write_byte(BUFFER_ENABLE, ACCELERATION)?;
        self.delay.delay_ms(BLOCK_MS);
        self.registers.write_byte(BUFFER_ENABLE, 0)?;
        if self.registers.read_byte(INTERRUPTS)? & BUFFER_OVERFLOW != 0 {
            return Err(SampleFault::Overrun);
        }
        let count = usize::from(self.registers.read_word(BUFFER_COUNT)?);
        if count < BLOCK_BYTES {
            return Err(SampleFault::NotReady);
        }
        // The buffer has 1024 bytes: more is no count.
        expect(count <= 1024)?;
        let mut bytes = [0; BLOCK_BYTES];
        self.registers.read_into(BUFFER, &mut bytes)?;
        for axis in 0..3 {
            self.set_features(axis, &bytes, values);
        }
        Ok(())
    }

    fn set_features(&self, axis: usize, bytes: &[u8; BLOCK_BYTES], values: &mut Values) {
        let from = FEATURES_FROM + axis * FEATURES;
        let mut block = [0.0; BLOCK];
        for (slot, sample) in block.iter_mut().zip(bytes.chunks_exact(6)) {
            match scaled(
                i16::from_be_bytes([sample[2 * axis], sample[2 * axis + 1]]),
                self.step,
            ) {
                Ok(value) => *slot = value,
                Err(fault) => {
                    for place in from..from + FEATURES {
                        values.set(place, Err(fault));
                    }
                    return;
                }
            }
        }
        let features = Features::of(&block);
        let all = [
            features.rms,
            features.peak,
            features.crest,
            features.kurtosis,
        ];
        for (place, value) in (from..).zip(all.into_iter().chain(features.bands)) {
            values.set(place, Ok(value));
        }
    }
}

fn scaled(count: i16, step: f64) -> Result<f64, SampleFault> {
    if matches!(count, i16::MIN | i16::MAX) {
        Err(SampleFault::Saturated)
    } else {
        Ok(f64::from(count) * step)
    }
}

impl<B, D> Chip for Mpu6050<B, D>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
    D: DelayNs + Send,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.registers.expect_byte(IDENTITY, &[0x68, 0x69])?;
        self.registers.write_byte(POWER, AWAKE)?;
        for (register, byte) in (RATE_DIVIDER..).zip(TIMING.into_iter().chain([self.scale_code])) {
            self.registers.write_byte(register, byte)?;
        }
        // The gyroscopes take 30 ms to start.
        self.delay.delay_ms(35);
        Ok(())
    }

    fn measure(&mut self, channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        self.check_kept()?;
        if channel >= FEATURES_FROM {
            self.measure_block(values)?;
        }
        self.measure_now(values)
    }
}

#[cfg(test)]
mod tests {
    use super::{GRAVITY, Mpu6050};
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use crate::vibration::Features;
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, bytes: &[u8]) -> Transaction {
        Transaction::write_read(0x68, vec![register], bytes.to_vec())
    }

    fn written(register: u8, byte: u8) -> Transaction {
        Transaction::write(0x68, vec![register, byte])
    }

    fn start() -> Vec<Transaction> {
        vec![
            read(0x75, &[0x68]),
            read(0x75, &[0x68]),
            written(0x6b, 1),
            written(0x19, 1),
            written(0x1a, 1),
            written(0x1b, 0),
            written(0x1c, 0x10),
        ]
    }

    fn kept() -> Vec<Transaction> {
        vec![read(0x6b, &[1]), read(0x19, &[1, 1, 0, 0x10])]
    }

    fn block(interrupts: u8, count: u16, data: Option<&[u8]>) -> Vec<Transaction> {
        let mut transfers = vec![
            written(0x23, 0),
            written(0x6a, 0x04),
            written(0x6a, 0x40),
            read(0x3a, &[0x10]),
            written(0x23, 0x08),
            written(0x23, 0),
            read(0x3a, &[interrupts]),
        ];
        if interrupts == 0 {
            transfers.push(read(0x72, &count.to_be_bytes()));
        }
        transfers.extend(data.map(|data| read(0x74, data)));
        transfers
    }

    /// 1 g at 8 g full scale is 4096 counts; the temperature of the register map: 0 counts are 36.53 degrees; 131 counts are
    /// a degree per second.
    const NOW: [u8; 14] = [0x10, 0, 0, 0, 0xf0, 0, 0, 0, 0, 131, 0, 0, 0x7f, 0xff];

    fn measured(
        channel: usize,
        rest: Vec<Transaction>,
    ) -> Result<Vec<Option<Result<f64, SampleFault>>>, SampleFault> {
        let transfers = [start(), rest].concat();
        let mut chip = Mpu6050::new(Mock::new(&transfers), NoopDelay::new(), 0x68, &[8.0]);
        assert_eq!(chip.set_up(), Ok(()));
        let values = sample(&mut chip, channel, 31);
        chip.registers.release().done();
        values
    }

    #[test]
    fn golden_registers() {
        let values = measured(0, [kept(), vec![read(0x3b, &NOW)]].concat()).unwrap_or_default();
        assert_eq!(values[0], Some(Ok(GRAVITY)));
        assert_eq!(values[2], Some(Ok(-GRAVITY)));
        assert_eq!(values[3], Some(Ok(36.53)));
        assert_eq!(values[4], Some(Ok(131.0 * 250.0 / 32_768.0)));
        assert_eq!(values[6], Some(Err(SampleFault::Saturated)));
        assert_eq!(values[7], None);
    }

    #[test]
    fn features_are_of_the_block_of_each_axis() {
        // x swings by 1000 counts at a quarter of the rate, y stands, z leaves its range once.
        let mut data = Vec::new();
        let mut swing = Vec::new();
        for at in 0..128_u16 {
            let x = [1000_i16, 0, -1000, 0][usize::from(at % 4)];
            swing.push(f64::from(x) * 8.0 * GRAVITY / 32_768.0);
            let z = if at == 77 { i16::MAX } else { 0 };
            data.extend([x, 50, z].iter().flat_map(|count| count.to_be_bytes()));
        }
        let rest = [kept(), block(0, 780, Some(&data)), vec![read(0x3b, &NOW)]].concat();
        let values = measured(7, rest).unwrap_or_default();
        let expected = Features::of(&swing);
        assert_eq!(values[7], Some(Ok(expected.rms)));
        assert_eq!(values[8], Some(Ok(expected.peak)));
        assert_eq!(values[13], Some(Ok(expected.bands[2])));
        assert!(expected.rms > 1.0);
        assert_eq!(values[15], Some(Ok(0.0)));
        assert!(
            values[23..31]
                .iter()
                .all(|value| *value == Some(Err(SampleFault::Saturated)))
        );
    }

    #[test]
    fn gaps_short_blocks_and_resets_are_no_values() {
        let faulty = |rest: Vec<Transaction>| measured(7, [kept(), rest].concat());
        assert_eq!(faulty(block(0x10, 0, None)), Err(SampleFault::Overrun));
        assert_eq!(faulty(block(0, 700, None)), Err(SampleFault::NotReady));
        assert_eq!(faulty(block(0, 0xffff, None)), Err(SampleFault::Malformed));
        assert_eq!(
            measured(0, vec![read(0x6b, &[0x40])]),
            Err(SampleFault::Reset)
        );
        let other = vec![read(0x6b, &[1]), read(0x19, &[0, 0, 0, 0])];
        assert_eq!(measured(0, other), Err(SampleFault::Reset));
    }
}
