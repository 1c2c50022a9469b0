//! TMP117 temperature chip (Texas Instruments), on I2C. Unit: degree Celsius.
//!
//! Owns the chip's registers. Source: the datasheet SNOSD82. An own file because the drivers that exist hide the flag that
//! says whether the value is new, or are asynchronous.
//!
//! Invariant: a value is given once: the chip says by its data-ready flag that it was converted since the last reading.
//! Eight conversions are averaged, so there is a new value every 125 ms.

use embedded_hal::i2c::I2c;

use super::registers::{Registers, kept};
use super::{Accuracy, BusKind, Channel, Chip, Description, Identity, Values};
use crate::SampleFault;

/// What the chip is.
pub const DESCRIPTION: Description = Description {
    kind: "tmp117",
    name: "Texas Instruments TMP117",
    bus: BusKind::I2c,
    addresses: &[0x48, 0x49, 0x4a, 0x4b],
    spi_mode: 0,
    identity: Some(Identity {
        register: IDENTITY,
        bytes: 2,
        mask: 0x0fff,
        value: 0x0117,
    }),
    channels: &[Channel {
        name: "temperature",
        unit: "celsius",
        range: Some((-55.0, 150.0)),
        accuracy: Some(Accuracy::absolute(0.2)),
    }],
    options: &[],
    driver: "own file: the drivers that exist hide the flag of a new value",
    datasheet: "SNOSD82, 0.2 K from -40 to 100 \u{b0}C",
};

const TEMPERATURE: u8 = 0x00;
const CONFIGURATION: u8 = 0x01;
const IDENTITY: u8 = 0x0f;

/// Continuous conversion (MOD 00), cycle bits 000, eight averages (AVG 01): 125 ms.
const WANTED: u16 = 0x0020;
/// The bits that choose it; after power-up they read 0x0220.
const CHOSEN: u16 = 0x0fe0;
const DATA_READY: u16 = 0x2000;
/// What the temperature register holds before the first conversion.
const NO_VALUE: i16 = i16::MIN;

/// A TMP117 on a bus.
#[derive(Debug)]
pub struct Tmp117<B> {
    registers: Registers<B>,
}

impl<B> Tmp117<B>
where
    B: I2c,
    B::Error: Into<SampleFault>,
{
    /// A chip at an address that [`DESCRIPTION`] allows.
    pub fn new(bus: B, address: u8) -> Self {
        Self {
            registers: Registers::new(bus, address),
        }
    }
}

impl<B> Chip for Tmp117<B>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.registers.expect_word(IDENTITY, 0x0fff, 0x0117)?;
        self.registers.write_word(CONFIGURATION, WANTED)
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let configuration = self.registers.read_word(CONFIGURATION)?;
        kept(configuration & CHOSEN == WANTED)?;
        if configuration & DATA_READY == 0 {
            return Err(SampleFault::NotReady);
        }
        let count = i16::from_be_bytes(self.registers.read(TEMPERATURE)?);
        if count == NO_VALUE {
            return Err(SampleFault::NotReady);
        }
        values.set(0, Ok(f64::from(count) * 0.007_812_5));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Tmp117;
    use crate::SampleFault;
    use crate::chips::registers::testing::set_up_and_sample;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, word: u16) -> Transaction {
        Transaction::write_read(0x48, vec![register], word.to_be_bytes().to_vec())
    }

    fn check(configuration: u16, temperature: Option<u16>, expected: Result<f64, SampleFault>) {
        let mut transfers = vec![
            read(0x0f, 0x0117),
            read(0x0f, 0x0117),
            Transaction::write(0x48, vec![1, 0, 0x20]),
            read(1, configuration),
        ];
        transfers.extend(temperature.map(|word| read(0, word)));
        let mut chip = Tmp117::new(Mock::new(&transfers), 0x48);
        assert_eq!(set_up_and_sample(&mut chip, 0), expected);
        chip.registers.release().done();
    }

    #[test]
    fn golden_registers() {
        // The table of the datasheet.
        for (word, celsius) in [
            (0x4b00, 150.0),
            (0x3200, 100.0),
            (0x0c80, 25.0),
            (0x0001, 0.007_812_5),
            (0x0000, 0.0),
            (0xffff, -0.007_812_5),
            (0xf380, -25.0),
            (0xec00, -40.0),
        ] {
            check(0x2020, Some(word), Ok(celsius));
        }
    }

    #[test]
    fn old_values_resets_and_other_chips() {
        check(0x0020, None, Err(SampleFault::NotReady));
        check(0x2020, Some(0x8000), Err(SampleFault::NotReady));
        // What the register holds after power-up, and in shutdown.
        check(0x2220, None, Err(SampleFault::Reset));
        check(0x0420, None, Err(SampleFault::Reset));
        for other in [0x0000, 0xffff, 0x0116] {
            let transfers = [read(0x0f, other)];
            let mut chip = Tmp117::new(Mock::new(&transfers), 0x48);
            assert_eq!(set_up_and_sample(&mut chip, 0), Err(SampleFault::Malformed));
            chip.registers.release().done();
        }
    }
}
