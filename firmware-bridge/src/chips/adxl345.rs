//! ADXL345 accelerometer (Analog Devices), on I2C. Unit: metre per second squared.
//!
//! Owns the chip's registers. Source: the datasheet, revision G. An own file because adxl345-eh-driver 0.2 hides whether
//! a value is new and whether the configuration was kept.
//!
//! Invariants: the identity is read twice at the start; rate, power and format are those that were written (after power-up
//! the chip is in standby); a value is given once; a count at the end of the range is `Saturated`.

use embedded_hal::i2c::I2c;

use super::lis3dh::GRAVITY;
use super::registers::{Registers, kept};
use super::{Accuracy, Allowed, BusKind, Channel, Chip, Description, Identity, OptionKey, Values};
use crate::SampleFault;

const fn axis(name: &'static str) -> Channel {
    Channel {
        name,
        unit: "m/s2",
        range: Some((-16.0 * GRAVITY, 16.0 * GRAVITY)),
        // 250 mg of zero offset: the z axis, the worst of the three.
        accuracy: Some(Accuracy::absolute(2.5)),
    }
}

/// What the chip is.
pub const DESCRIPTION: Description = Description {
    kind: "adxl345",
    name: "Analog Devices ADXL345",
    bus: BusKind::I2c,
    addresses: &[0x53, 0x1d],
    spi_mode: 0,
    identity: Some(Identity {
        register: IDENTITY,
        bytes: 1,
        mask: 0xff,
        value: 0xe5,
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
    driver: "own file: adxl345-eh-driver does not tell a new value from an old one",
    datasheet: "ADXL345 revision G: zero offset 250 mg on z, 150 mg on x and y",
};

const IDENTITY: u8 = 0x00;
const RATE: u8 = 0x2c;
const POWER: u8 = 0x2d;
const FORMAT: u8 = 0x31;
const DATA: u8 = 0x32;

/// 100 Hz.
const RATE_100_HZ: u8 = 0x0a;
const MEASURE: u8 = 0x08;
/// Full resolution: 256 counts are 1 g in every range.
const FULL_RESOLUTION: u8 = 0x08;
/// Source of interrupts: there is a new value.
const DATA_READY: u8 = 0x80;
/// Counts in standard gravity.
const COUNTS_G: f64 = 256.0;

/// An ADXL345 on a bus.
#[derive(Debug)]
pub struct Adxl345<B> {
    registers: Registers<B>,
    format: u8,
    /// The first count that lies beyond the range.
    beyond: i16,
}

impl<B> Adxl345<B>
where
    B: I2c,
    B::Error: Into<SampleFault>,
{
    /// A chip at an address and with options that [`DESCRIPTION`] allows.
    pub fn new(bus: B, address: u8, options: &[f64]) -> Self {
        let (code, beyond) = match options.first() {
            Some(full_scale) if *full_scale >= 16.0 => (3, 4096),
            Some(full_scale) if *full_scale >= 8.0 => (2, 2048),
            Some(full_scale) if *full_scale >= 4.0 => (1, 1024),
            _ => (0, 512),
        };
        Self {
            registers: Registers::new(bus, address),
            format: FULL_RESOLUTION | code,
            beyond,
        }
    }
}

impl<B> Chip for Adxl345<B>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.registers.expect_byte(IDENTITY, &[0xe5])?;
        self.registers.write_byte(FORMAT, self.format)?;
        self.registers.write_byte(RATE, RATE_100_HZ)?;
        self.registers.write_byte(POWER, MEASURE)
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let [rate, power, _, _, source, format] = self.registers.read(RATE)?;
        kept(rate == RATE_100_HZ && power == MEASURE && format == self.format)?;
        if source & DATA_READY == 0 {
            return Err(SampleFault::NotReady);
        }
        let bytes: [u8; 6] = self.registers.read(DATA)?;
        for axis in 0..3 {
            let count = i16::from_le_bytes([bytes[2 * axis], bytes[2 * axis + 1]]);
            let value = if count >= self.beyond || count < -self.beyond {
                // More than the format can hold.
                Err(SampleFault::Malformed)
            } else if count == self.beyond - 1 || count == -self.beyond {
                Err(SampleFault::Saturated)
            } else {
                Ok(f64::from(count) / COUNTS_G * GRAVITY)
            };
            values.set(axis, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Adxl345, GRAVITY};
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal::i2c::ErrorKind;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, bytes: &[u8]) -> Transaction {
        Transaction::write_read(0x53, vec![register], bytes.to_vec())
    }

    fn measured(
        control: [u8; 6],
        data: Option<[u8; 6]>,
    ) -> Result<Vec<Option<Result<f64, SampleFault>>>, SampleFault> {
        let mut transfers = vec![
            read(0x00, &[0xe5]),
            read(0x00, &[0xe5]),
            Transaction::write(0x53, vec![0x31, 0x09]),
            Transaction::write(0x53, vec![0x2c, 0x0a]),
            Transaction::write(0x53, vec![0x2d, 0x08]),
            read(0x2c, &control),
        ];
        transfers.extend(data.map(|data| read(0x32, &data)));
        let mut chip = Adxl345::new(Mock::new(&transfers), 0x53, &[4.0]);
        assert_eq!(chip.set_up(), Ok(()));
        let values = sample(&mut chip, 0, 3);
        chip.registers.release().done();
        values
    }

    const CONTROL: [u8; 6] = [0x0a, 0x08, 0, 0, 0x83, 0x09];

    #[test]
    fn golden_registers() {
        // 256 counts are 1 g; -64 counts; 1023 is the end of 4 g.
        let values = measured(CONTROL, Some([0x00, 0x01, 0xc0, 0xff, 0xff, 0x03]));
        let expected = [
            Some(Ok(GRAVITY)),
            Some(Ok(-0.25 * GRAVITY)),
            Some(Err(SampleFault::Saturated)),
        ];
        assert_eq!(values, Ok(expected.to_vec()));
        let beyond = measured(CONTROL, Some([0xff, 0x7f, 0, 0, 0, 0])).map(|values| values[0]);
        assert_eq!(beyond, Ok(Some(Err(SampleFault::Malformed))));
    }

    #[test]
    fn a_chip_that_lost_power_or_has_nothing_new() {
        let reset = [0x0a, 0, 0, 0, 0x02, 0];
        assert_eq!(measured(reset, None), Err(SampleFault::Reset));
        assert_eq!(measured([0xff; 6], None), Err(SampleFault::Reset));
        let old = [0x0a, 0x08, 0, 0, 0x03, 0x09];
        assert_eq!(measured(old, None), Err(SampleFault::NotReady));
    }

    #[test]
    fn a_missing_acknowledge_is_one() {
        let refused = ErrorKind::NoAcknowledge(embedded_hal::i2c::NoAcknowledgeSource::Address);
        let transfers = [read(0x00, &[0]).with_error(refused)];
        let mut chip = Adxl345::new(Mock::new(&transfers), 0x53, &[]);
        assert_eq!(chip.set_up(), Err(SampleFault::NoAcknowledge));
        chip.registers.release().done();
    }
}
