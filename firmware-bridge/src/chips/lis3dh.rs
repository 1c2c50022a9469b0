//! LIS3DH accelerometer (STMicroelectronics), on I2C. Unit: metre per second squared.
//!
//! Owns the chip's registers. Source: the datasheet DocID17530. An own file because lis3dh 0.5 brings the accelerometer
//! crates and micromath, and does not tell a value that was read before from a new one.
//!
//! Invariants: the identity is read twice at the start; the control registers are those that were written (after power-up
//! the chip sleeps); a value is given once; a count at the end of the range is `Saturated`.

use embedded_hal::i2c::I2c;

use super::registers::{Registers, kept};
use super::{Accuracy, Allowed, BusKind, Channel, Chip, Description, Identity, OptionKey, Values};
use crate::SampleFault;

/// Standard gravity, in metre per second squared.
pub(super) const GRAVITY: f64 = 9.806_65;

const fn axis(name: &'static str) -> Channel {
    Channel {
        name,
        unit: "m/s2",
        range: Some((-16.0 * GRAVITY, 16.0 * GRAVITY)),
        // 40 mg of zero offset.
        accuracy: Some(Accuracy::absolute(0.4)),
    }
}

/// What the chip is.
pub const DESCRIPTION: Description = Description {
    kind: "lis3dh",
    name: "ST LIS3DH",
    bus: BusKind::I2c,
    addresses: &[0x18, 0x19],
    spi_mode: 0,
    identity: Some(Identity {
        register: IDENTITY,
        bytes: 1,
        mask: 0xff,
        value: 0x33,
    }),
    channels: &[
        axis("acceleration-x"),
        axis("acceleration-y"),
        axis("acceleration-z"),
    ],
    options: &[OptionKey {
        key: "full_scale_g",
        default: 2.0,
        allowed: Allowed::OneOf(&[2.0, 4.0, 8.0, 16.0]),
        meaning: "largest acceleration that is told, in standard gravity",
    }],
    driver: "own file: lis3dh does not tell a new value from an old one",
    datasheet: "DocID17530: zero offset 40 mg, typical",
};

const IDENTITY: u8 = 0x0f;
const CONTROL_1: u8 = 0x20;
const CONTROL_4: u8 = 0x23;
const STATUS: u8 = 0x27;
/// Set to read several registers in one transfer.
const INCREMENT: u8 = 0x80;

/// 100 Hz, all axes.
const RATE_100_HZ: u8 = 0x57;
/// Values do not change while they are read; high resolution.
const HIGH_RESOLUTION: u8 = 0x88;
/// Status: all axes have a new value.
const ALL_NEW: u8 = 0x08;

/// A LIS3DH on a bus.
#[derive(Debug)]
pub struct Lis3dh<B> {
    registers: Registers<B>,
    control_4: u8,
    /// Of one count, in standard gravity.
    step_g: f64,
}

impl<B> Lis3dh<B>
where
    B: I2c,
    B::Error: Into<SampleFault>,
{
    /// A chip at an address and with options that [`DESCRIPTION`] allows.
    pub fn new(bus: B, address: u8, options: &[f64]) -> Self {
        // Table 4 of the datasheet: 16 g has a step of its own.
        let (code, step_g) = match options.first() {
            Some(full_scale) if *full_scale >= 16.0 => (0x30, 0.012),
            Some(full_scale) if *full_scale >= 8.0 => (0x20, 0.004),
            Some(full_scale) if *full_scale >= 4.0 => (0x10, 0.002),
            _ => (0x00, 0.001),
        };
        Self {
            registers: Registers::new(bus, address),
            control_4: HIGH_RESOLUTION | code,
            step_g,
        }
    }
}

impl<B> Chip for Lis3dh<B>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.registers.expect_byte(IDENTITY, &[0x33])?;
        self.registers.write_byte(CONTROL_4, self.control_4)?;
        self.registers.write_byte(CONTROL_1, RATE_100_HZ)
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let [control_1, _, _, control_4] = self.registers.read(CONTROL_1 | INCREMENT)?;
        kept(control_1 == RATE_100_HZ && control_4 == self.control_4)?;
        let bytes: [u8; 7] = self.registers.read(STATUS | INCREMENT)?;
        if bytes[0] & ALL_NEW == 0 {
            return Err(SampleFault::NotReady);
        }
        for axis in 0..3 {
            // Twelve bits, aligned left, low byte first.
            let count = i16::from_le_bytes([bytes[1 + 2 * axis], bytes[2 + 2 * axis]]) >> 4;
            let value = if matches!(count, -2048 | 2047) {
                Err(SampleFault::Saturated)
            } else {
                Ok(f64::from(count) * self.step_g * GRAVITY)
            };
            values.set(axis, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{GRAVITY, Lis3dh};
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, bytes: &[u8]) -> Transaction {
        Transaction::write_read(0x18, vec![register], bytes.to_vec())
    }

    fn measured(
        control: [u8; 4],
        data: Option<[u8; 7]>,
    ) -> Result<Vec<Option<Result<f64, SampleFault>>>, SampleFault> {
        let mut transfers = vec![
            read(0x0f, &[0x33]),
            read(0x0f, &[0x33]),
            Transaction::write(0x18, vec![0x23, 0x98]),
            Transaction::write(0x18, vec![0x20, 0x57]),
            read(0xa0, &control),
        ];
        transfers.extend(data.map(|data| read(0xa7, &data)));
        let mut chip = Lis3dh::new(Mock::new(&transfers), 0x18, &[4.0]);
        assert_eq!(chip.set_up(), Ok(()));
        let values = sample(&mut chip, 0, 3);
        chip.registers.release().done();
        values
    }

    const CONTROL: [u8; 4] = [0x57, 0, 0, 0x98];

    #[test]
    fn golden_registers() {
        // At 4 g a count is 2 mg: 500 counts are 1 g (0x1f4), -1 count, and the end of the range.
        let values = measured(CONTROL, Some([0x0f, 0x40, 0x1f, 0xf0, 0xff, 0xf0, 0x7f]));
        let expected = [
            Some(Ok(500.0 * 0.002 * GRAVITY)),
            Some(Ok(-0.002 * GRAVITY)),
            Some(Err(SampleFault::Saturated)),
        ];
        assert_eq!(values, Ok(expected.to_vec()));
    }

    #[test]
    fn a_chip_that_lost_power_or_has_nothing_new() {
        assert_eq!(measured([0x07, 0, 0, 0], None), Err(SampleFault::Reset));
        assert_eq!(measured([0xff; 4], None), Err(SampleFault::Reset));
        assert_eq!(measured(CONTROL, Some([0; 7])), Err(SampleFault::NotReady));
    }
}
