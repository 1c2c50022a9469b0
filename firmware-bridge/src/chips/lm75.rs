//! LM75 temperature chip (National, NXP, Texas Instruments and others), on I2C. Unit: degree Celsius.
//!
//! Owns the chip's four registers. Source: the LM75B datasheets of NXP (11 bits, steps of 0.125 K) and Texas Instruments
//! (SNIS153, 9 bits). An own file because lm75 1.0.0 keeps the configuration register to itself: a chip in shutdown
//! repeats its last value for ever, and neither that nor a bus stuck high could be seen.
//!
//! Invariant: a value counts only when the configuration, whose upper three bits are zero, was read right before it; one of
//! all zeros only when the over-temperature threshold (80 °C after power-up) is not zero too.

use embedded_hal::i2c::I2c;

use super::registers::{Registers, expect, kept};
use super::{Accuracy, BusKind, Channel, Chip, Description, Values};
use crate::SampleFault;

/// What the chip is. It has no identity register.
pub const DESCRIPTION: Description = Description {
    kind: "lm75",
    name: "LM75",
    bus: BusKind::I2c,
    addresses: &[0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f],
    spi_mode: 0,
    identity: None,
    channels: &[Channel {
        name: "temperature",
        unit: "celsius",
        range: Some((-55.0, 125.0)),
        accuracy: Some(Accuracy::absolute(2.0)),
    }],
    options: &[],
    driver: "own file: lm75 hides the configuration, so a chip in shutdown would not be seen",
    datasheet: "NXP LM75B, 2 K from -25 to 100 \u{b0}C",
};

const TEMPERATURE: u8 = 0x00;
const CONFIGURATION: u8 = 0x01;
const OVER_TEMPERATURE: u8 = 0x03;

const RESERVED: u8 = 0xe0;
const SHUTDOWN: u8 = 0x01;

/// An LM75 on a bus.
#[derive(Debug)]
pub struct Lm75<B> {
    registers: Registers<B>,
}

impl<B> Lm75<B>
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

impl<B> Chip for Lm75<B>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        let configuration = self.registers.read_byte(CONFIGURATION)?;
        expect(configuration & RESERVED == 0)?;
        if configuration & SHUTDOWN != 0 {
            self.registers
                .write_byte(CONFIGURATION, configuration & !SHUTDOWN)?;
        }
        Ok(())
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let configuration = self.registers.read_byte(CONFIGURATION)?;
        expect(configuration & RESERVED == 0)?;
        kept(configuration & SHUTDOWN == 0)?;
        let register: [u8; 2] = self.registers.read(TEMPERATURE)?;
        if register == [0, 0] {
            expect(self.registers.read_word(OVER_TEMPERATURE)? != 0)?;
        }
        // The lower five bits mean nothing; a chip of nine bits leaves two more at zero.
        let count = i16::from_be_bytes(register) >> 5;
        values.set(0, Ok(f64::from(count) * 0.125));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Lm75;
    use crate::SampleFault;
    use crate::chips::registers::testing::set_up_and_sample;
    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, bytes: &[u8]) -> Transaction {
        Transaction::write_read(0x48, vec![register], bytes.to_vec())
    }

    fn check(transfers: &[Transaction], expected: Result<f64, SampleFault>) {
        let mut chip = Lm75::new(Mock::new(transfers), 0x48);
        assert_eq!(set_up_and_sample(&mut chip, 0), expected);
        chip.registers.release().done();
    }

    #[test]
    fn golden_registers() {
        // The table of the NXP datasheet.
        for (word, celsius) in [
            (0x7f00_u16, 127.0),
            (0x7ee0, 126.875),
            (0x1900, 25.0),
            (0x0020, 0.125),
            (0xffe0, -0.125),
            (0xe700, -25.0),
            (0xc900, -55.0),
        ] {
            let register = word.to_be_bytes();
            check(
                &[read(1, &[0]), read(1, &[0]), read(0, &register)],
                Ok(celsius),
            );
        }
    }

    #[test]
    fn broken_buses_are_no_values() {
        check(&[read(1, &[0xff])], Err(SampleFault::Malformed));
        let zeros = [read(1, &[0]), read(1, &[0]), read(0, &[0, 0])];
        check(
            &[&zeros[..], &[read(3, &[0, 0])]].concat(),
            Err(SampleFault::Malformed),
        );
        check(&[&zeros[..], &[read(3, &[0x50, 0])]].concat(), Ok(0.0));
        let nack = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
        check(
            &[read(1, &[0]).with_error(nack)],
            Err(SampleFault::NoAcknowledge),
        );
    }

    #[test]
    fn shutdown_is_ended_at_the_start_and_a_reset_later() {
        check(
            &[
                read(1, &[0x19]),
                Transaction::write(0x48, vec![1, 0x18]),
                read(1, &[0x18]),
                read(0, &[0x19, 0]),
            ],
            Ok(25.0),
        );
        check(&[read(1, &[0]), read(1, &[1])], Err(SampleFault::Reset));
    }
}
