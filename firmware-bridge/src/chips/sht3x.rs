//! SHT30, SHT31 and SHT35 humidity and temperature chips (Sensirion), on I2C.
//!
//! Owns the commands of single measurements. Source: the SHT3x-DIS datasheet, version 7. Words with their checksums are read
//! by Sensirion's own crate sensirion-i2c; the commands are an own file because the drivers that exist are for
//! embedded-hal 0.2 or hide the status, which tells a reset.
//!
//! Invariant: every word passed its CRC-8.

use embedded_hal::{delay::DelayNs, i2c::I2c};
use sensirion_i2c::i2c;

use super::{Accuracy, BusKind, Channel, Chip, Description, Values};
use crate::SampleFault;

/// What the chip is. It has no identity register, but checksums.
pub const DESCRIPTION: Description = Description {
    kind: "sht3x",
    name: "Sensirion SHT3x",
    bus: BusKind::I2c,
    addresses: &[0x44, 0x45],
    spi_mode: 0,
    identity: None,
    channels: &[
        Channel {
            name: "temperature",
            unit: "celsius",
            range: Some((-40.0, 125.0)),
            accuracy: Some(Accuracy::absolute(0.3)),
        },
        Channel {
            name: "humidity",
            unit: "percent",
            range: Some((0.0, 100.0)),
            accuracy: Some(Accuracy::absolute(3.0)),
        },
    ],
    options: &[],
    driver: "sensirion-i2c, and own commands: the drivers that exist are for embedded-hal 0.2",
    datasheet: "SHT3x-DIS version 7; SHT30: 0.3 K from 0 to 65 \u{b0}C, 3 % from 10 to 90 %, larger than typical",
};

/// One measurement of high repeatability without clock stretching, and how long it takes at most.
const MEASURE: u16 = 0x2400;
const MEASURE_MS: u32 = 16;
const STATUS: u16 = 0xf32d;
const CLEAR_STATUS: u16 = 0x3041;
/// Status: reset detected, by power or by command.
const WAS_RESET: u16 = 0x0010;

/// What Sensirion's crate says, as a cause.
pub(super) fn cause<B>(error: i2c::Error<B>) -> SampleFault
where
    B: I2c,
    B::Error: Into<SampleFault>,
{
    match error {
        i2c::Error::I2cWrite(error) | i2c::Error::I2cRead(error) => error.into(),
        i2c::Error::Crc => SampleFault::Checksum,
    }
}

/// A word as a share of its range.
pub(super) fn share(high: u8, low: u8) -> f64 {
    f64::from(u16::from_be_bytes([high, low])) / 65_535.0
}

/// An SHT3x on a bus.
#[derive(Debug)]
pub struct Sht3x<B, D> {
    bus: B,
    delay: D,
    address: u8,
}

impl<B, D> Sht3x<B, D>
where
    B: I2c,
    B::Error: Into<SampleFault>,
    D: DelayNs,
{
    /// A chip at an address that [`DESCRIPTION`] allows.
    pub fn new(bus: B, delay: D, address: u8) -> Self {
        Self {
            bus,
            delay,
            address,
        }
    }

    fn command(&mut self, command: u16) -> Result<(), SampleFault> {
        i2c::write_command_u16(&mut self.bus, self.address, command).map_err(Into::into)
    }

    fn status(&mut self) -> Result<u16, SampleFault> {
        self.command(STATUS)?;
        let mut bytes = [0; 3];
        i2c::read_words_with_crc(&mut self.bus, self.address, &mut bytes).map_err(cause)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

impl<B, D> Chip for Sht3x<B, D>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
    D: DelayNs + Send,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.status()?;
        self.command(CLEAR_STATUS)?;
        self.delay.delay_ms(1);
        if self.status()? & WAS_RESET == 0 {
            Ok(())
        } else {
            Err(SampleFault::Malformed)
        }
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        self.command(MEASURE)?;
        self.delay.delay_ms(MEASURE_MS);
        let mut bytes = [0; 6];
        i2c::read_words_with_crc(&mut self.bus, self.address, &mut bytes).map_err(cause)?;
        values.set(0, Ok(-45.0 + 175.0 * share(bytes[0], bytes[1])));
        values.set(1, Ok(100.0 * share(bytes[3], bytes[4])));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Sht3x;
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
    use sensirion_i2c::crc8;

    fn words(words: &[u16]) -> Vec<u8> {
        let word = |word: &u16| {
            let [high, low] = word.to_be_bytes();
            [high, low, crc8::calculate(&[high, low])]
        };
        words.iter().flat_map(word).collect()
    }

    fn chip(transfers: &[Transaction]) -> Sht3x<Mock, NoopDelay> {
        Sht3x::new(Mock::new(transfers), NoopDelay::new(), 0x44)
    }

    #[test]
    fn golden_answer() {
        let mut chip = chip(&[
            Transaction::write(0x44, vec![0xf3, 0x2d]),
            Transaction::read(0x44, words(&[0x8010])),
            Transaction::write(0x44, vec![0x30, 0x41]),
            Transaction::write(0x44, vec![0xf3, 0x2d]),
            Transaction::read(0x44, words(&[0x0000])),
            Transaction::write(0x44, vec![0x24, 0x00]),
            Transaction::read(0x44, words(&[0x6666, 0x8000])),
        ]);
        assert_eq!(chip.set_up(), Ok(()));
        let expected = [Some(Ok(25.0)), Some(Ok(100.0 * 32_768.0 / 65_535.0))];
        assert_eq!(sample(&mut chip, 0, 2), Ok(expected.to_vec()));
        chip.bus.done();
    }

    #[test]
    fn a_flipped_bit_is_a_checksum_and_silence_is_no_acknowledge() {
        for bit in 0..48 {
            let mut answer = words(&[0x6666, 0x8000]);
            answer[bit / 8] ^= 1 << (bit % 8);
            let mut chip = chip(&[
                Transaction::write(0x44, vec![0x24, 0x00]),
                Transaction::read(0x44, answer),
            ]);
            assert_eq!(sample(&mut chip, 0, 2), Err(SampleFault::Checksum), "{bit}");
            chip.bus.done();
        }
        let nack = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
        let mut chip = chip(&[Transaction::write(0x44, vec![0x24, 0x00]).with_error(nack)]);
        assert_eq!(sample(&mut chip, 1, 2), Err(SampleFault::NoAcknowledge));
        chip.bus.done();
    }
}
