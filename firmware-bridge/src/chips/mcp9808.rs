//! MCP9808 temperature chip (Microchip), on I2C. Unit: degree Celsius.
//!
//! Owns the chip's registers. Source: the datasheet DS25095. An own file because mcp9808 0.3 is for embedded-hal 0.2.
//!
//! Invariant: the manufacturer's and the device's number are read twice at the start; a chip in shutdown, which repeats its
//! last value, is `Reset`.

use embedded_hal::i2c::I2c;

use super::registers::{Registers, expect, kept};
use super::{Accuracy, BusKind, Channel, Chip, Description, Identity, Values};
use crate::SampleFault;

/// What the chip is.
pub const DESCRIPTION: Description = Description {
    kind: "mcp9808",
    name: "Microchip MCP9808",
    bus: BusKind::I2c,
    addresses: &[0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f],
    spi_mode: 0,
    identity: Some(Identity {
        register: MANUFACTURER,
        bytes: 2,
        mask: 0xffff,
        value: 0x0054,
    }),
    channels: &[Channel {
        name: "temperature",
        unit: "celsius",
        range: Some((-40.0, 125.0)),
        accuracy: Some(Accuracy::absolute(0.5)),
    }],
    options: &[],
    driver: "own file: mcp9808 is for embedded-hal 0.2",
    datasheet: "DS25095, 0.5 K from -20 to 100 \u{b0}C",
};

const CONFIGURATION: u8 = 0x01;
const TEMPERATURE: u8 = 0x05;
const MANUFACTURER: u8 = 0x06;
const DEVICE: u8 = 0x07;

const SHUTDOWN: u16 = 0x0100;
/// Bits of the configuration that are never set.
const RESERVED: u16 = 0xf800;

/// An MCP9808 on a bus.
#[derive(Debug)]
pub struct Mcp9808<B> {
    registers: Registers<B>,
}

impl<B> Mcp9808<B>
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

impl<B> Chip for Mcp9808<B>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.registers.expect_word(MANUFACTURER, 0xffff, 0x0054)?;
        self.registers.expect_word(DEVICE, 0xff00, 0x0400)?;
        let configuration = self.registers.read_word(CONFIGURATION)?;
        if configuration & SHUTDOWN != 0 {
            self.registers
                .write_word(CONFIGURATION, configuration & !SHUTDOWN)?;
        }
        Ok(())
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let configuration = self.registers.read_word(CONFIGURATION)?;
        expect(configuration & RESERVED == 0)?;
        kept(configuration & SHUTDOWN == 0)?;
        let register: [u8; 2] = self.registers.read(TEMPERATURE)?;
        if register == [0, 0] {
            // A chip says nothing else of a zero; its manufacturer's number does.
            self.registers.expect_word(MANUFACTURER, 0xffff, 0x0054)?;
        }
        // The upper three bits compare with the alert limits; the sign is the fourth.
        let count = (i16::from_be_bytes(register) << 3) >> 3;
        values.set(0, Ok(f64::from(count) * 0.0625));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Mcp9808;
    use crate::SampleFault;
    use crate::chips::registers::testing::set_up_and_sample;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, word: u16) -> Transaction {
        Transaction::write_read(0x18, vec![register], word.to_be_bytes().to_vec())
    }

    fn check(rest: &[Transaction], expected: Result<f64, SampleFault>) {
        let start = [
            read(6, 0x54),
            read(6, 0x54),
            read(7, 0x0400),
            read(7, 0x0400),
        ];
        let mut chip = Mcp9808::new(Mock::new(&[&start[..], rest].concat()), 0x18);
        assert_eq!(set_up_and_sample(&mut chip, 0), expected);
        chip.registers.release().done();
    }

    #[test]
    fn golden_registers() {
        for (word, celsius) in [
            (0xc194, 25.25), // with alert flags
            (0x0194, 25.25),
            (0x1fff, -0.0625),
            (0x1d80, -40.0),
            (0x07d0, 125.0),
        ] {
            check(&[read(1, 0), read(1, 0), read(5, word)], Ok(celsius));
        }
    }

    #[test]
    fn a_stuck_bus_and_a_shutdown_are_no_values() {
        check(
            &[read(1, 0), read(1, 0), read(5, 0), read(6, 0)],
            Err(SampleFault::Malformed),
        );
        check(&[read(1, 0), read(1, 0xffff)], Err(SampleFault::Malformed));
        check(&[read(1, 0), read(1, 0x0100)], Err(SampleFault::Reset));
        check(
            &[
                read(1, 0x0100),
                Transaction::write(0x18, vec![1, 0, 0]),
                read(1, 0),
                read(5, 0x0190),
            ],
            Ok(25.0),
        );
    }
}
