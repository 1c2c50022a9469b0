//! SHT40, SHT41, SHT43 and SHT45 humidity and temperature chips (Sensirion), on I2C.
//!
//! Owns the commands of single measurements. Source: the SHT4x datasheet, version 6.5. Words with their checksums are read
//! by Sensirion's own crate sensirion-i2c; the three commands are an own file because sht4x 0.2.0 brings a library of
//! fixed-point numbers and five crates below it for two formulas.
//!
//! Invariant: every word passed its CRC-8. The chip keeps no configuration, so there is none to lose.

use embedded_hal::{delay::DelayNs, i2c::I2c};
use sensirion_i2c::i2c;

use super::sht3x::{cause, share};
use super::{Accuracy, BusKind, Channel, Chip, Description, Values};
use crate::SampleFault;

/// What the chip is. It has no identity register, but checksums and a serial number.
pub const DESCRIPTION: Description = Description {
    kind: "sht4x",
    name: "Sensirion SHT4x",
    bus: BusKind::I2c,
    addresses: &[0x44, 0x45, 0x46],
    spi_mode: 0,
    identity: None,
    channels: &[
        Channel {
            name: "temperature",
            unit: "celsius",
            range: Some((-40.0, 125.0)),
            accuracy: Some(Accuracy::absolute(0.2)),
        },
        Channel {
            name: "humidity",
            unit: "percent",
            range: Some((0.0, 100.0)),
            accuracy: Some(Accuracy::absolute(1.8)),
        },
    ],
    options: &[],
    driver: "sensirion-i2c, and own commands: sht4x brings six crates for two formulas",
    datasheet: "SHT4x version 6.5; SHT40: 0.2 K and 1.8 %, both typical",
};

const MEASURE: u8 = 0xfd;
const MEASURE_MS: u32 = 9;
const SERIAL_NUMBER: u8 = 0x89;

/// An SHT4x on a bus.
#[derive(Debug)]
pub struct Sht4x<B, D> {
    bus: B,
    delay: D,
    address: u8,
}

impl<B, D> Sht4x<B, D>
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

    fn ask(&mut self, command: u8, wait_ms: u32) -> Result<[u8; 6], SampleFault> {
        i2c::write_command_u8(&mut self.bus, self.address, command).map_err(Into::into)?;
        self.delay.delay_ms(wait_ms);
        let mut bytes = [0; 6];
        i2c::read_words_with_crc(&mut self.bus, self.address, &mut bytes).map_err(cause)?;
        Ok(bytes)
    }
}

impl<B, D> Chip for Sht4x<B, D>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
    D: DelayNs + Send,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        let first = self.ask(SERIAL_NUMBER, 1)?;
        let second = self.ask(SERIAL_NUMBER, 1)?;
        super::registers::expect(first == second)
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let bytes = self.ask(MEASURE, MEASURE_MS)?;
        values.set(0, Ok(-45.0 + 175.0 * share(bytes[0], bytes[1])));
        // The formula reaches beyond the possible by design; the datasheet says to cut it there.
        let percent = -6.0 + 125.0 * share(bytes[3], bytes[4]);
        values.set(1, Ok(percent.clamp(0.0, 100.0)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Sht4x;
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn asked(command: u8, answer: &[u8]) -> [Transaction; 2] {
        [
            Transaction::write(0x44, vec![command]),
            Transaction::read(0x44, answer.to_vec()),
        ]
    }

    // BEEF with CRC 92 is the example of the datasheet.
    const BEEF: [u8; 6] = [0xbe, 0xef, 0x92, 0xbe, 0xef, 0x92];

    #[test]
    fn golden_answer_and_a_wrong_checksum() {
        let mut wrong = BEEF;
        wrong[5] ^= 1;
        let transfers = [
            asked(0x89, &BEEF),
            asked(0x89, &BEEF),
            asked(0xfd, &BEEF),
            asked(0xfd, &wrong),
        ]
        .concat();
        let mut chip = Sht4x::new(Mock::new(&transfers), NoopDelay::new(), 0x44);
        assert_eq!(chip.set_up(), Ok(()));
        let share = f64::from(0xbeef_u16) / 65_535.0;
        let expected = [
            Some(Ok(-45.0 + 175.0 * share)),
            Some(Ok(-6.0 + 125.0 * share)),
        ];
        assert_eq!(sample(&mut chip, 0, 2), Ok(expected.to_vec()));
        assert_eq!(sample(&mut chip, 0, 2), Err(SampleFault::Checksum));
        chip.bus.done();
    }

    #[test]
    fn two_serial_numbers_are_no_chip() {
        let transfers = [asked(0x89, &BEEF), asked(0x89, &[0, 0, 0x81, 0, 0, 0x81])].concat();
        let mut chip = Sht4x::new(Mock::new(&transfers), NoopDelay::new(), 0x44);
        assert_eq!(chip.set_up(), Err(SampleFault::Malformed));
        chip.bus.done();
    }
}
