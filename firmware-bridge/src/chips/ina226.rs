//! INA226 voltage and current chip (Texas Instruments), on I2C.
//!
//! Owns the chip's registers. Source: the datasheet SBOS547. Current as in [`ina219`](super::ina219), without the
//! calibration register. An own file because no driver for embedded-hal 1.0 reads the configuration back.
//!
//! Invariants: maker and die are read twice at the start; the configuration is the one that was written; a value is given
//! once, because the chip's conversion-ready flag is cleared by reading it.

use embedded_hal::i2c::I2c;

use super::ina219::SHUNT;
use super::registers::{Registers, expect, kept};
use super::{Accuracy, Channel, Chip, Description, Identity, Values};
use crate::SampleFault;

/// What the chip is.
pub const DESCRIPTION: Description = Description {
    kind: "ina226",
    name: "Texas Instruments INA226",
    identity: Some(Identity {
        register: DIE,
        bytes: 2,
        mask: 0xfff0,
        value: 0x2260,
    }),
    channels: &[
        Channel {
            name: "voltage",
            unit: "volt",
            range: Some((0.0, 40.96)),
            accuracy: Some(Accuracy::with_share(0.0075, 0.001)),
        },
        Channel {
            name: "current",
            unit: "ampere",
            range: None,
            accuracy: Some(Accuracy::with_share(0.000_1, 0.001)),
        },
        Channel {
            name: "power",
            unit: "watt",
            range: None,
            accuracy: None,
        },
    ],
    driver: "own file: no driver for embedded-hal 1.0 reads the configuration back",
    datasheet: "SBOS547: 0.1 %, 7.5 mV of the bus, 10 \u{b5}V at a shunt of 0.1 ohm",
    ..super::ina219::DESCRIPTION
};

const CONFIGURATION: u8 = 0x00;
const SHUNT_VOLTAGE: u8 = 0x01;
const BUS_VOLTAGE: u8 = 0x02;
const MASK: u8 = 0x06;
const MAKER: u8 = 0xfe;
const DIE: u8 = 0xff;

/// Sixteen averages of 1.1 ms for each voltage (35 ms), continuous. After power-up it is 0x4127.
const WANTED: u16 = 0x4527;
/// A conversion was completed since the register was last read.
const CONVERSION_READY: u16 = 0x0008;
/// Volt per count.
const SHUNT_VOLT: f64 = 0.000_002_5;
const BUS_VOLT: f64 = 0.001_25;

/// An INA226 on a bus.
#[derive(Debug)]
pub struct Ina226<B> {
    registers: Registers<B>,
    shunt_ohm: f64,
}

impl<B> Ina226<B>
where
    B: I2c,
    B::Error: Into<SampleFault>,
{
    /// A chip at an address and with options that [`DESCRIPTION`] allows.
    pub fn new(bus: B, address: u8, options: &[f64]) -> Self {
        Self {
            registers: Registers::new(bus, address),
            shunt_ohm: options.first().copied().unwrap_or(SHUNT.default),
        }
    }
}

impl<B> Chip for Ina226<B>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.registers.expect_word(MAKER, 0xffff, 0x5449)?;
        self.registers.expect_word(DIE, 0xfff0, 0x2260)?;
        self.registers.write_word(CONFIGURATION, WANTED)
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        kept(self.registers.read_word(CONFIGURATION)? == WANTED)?;
        if self.registers.read_word(MASK)? & CONVERSION_READY == 0 {
            return Err(SampleFault::NotReady);
        }
        let shunt = i16::from_be_bytes(self.registers.read(SHUNT_VOLTAGE)?);
        let bus = self.registers.read_word(BUS_VOLTAGE)?;
        expect(bus & 0x8000 == 0)?;
        let volt = f64::from(bus) * BUS_VOLT;
        let ampere = if matches!(shunt, i16::MIN | i16::MAX) {
            Err(SampleFault::Saturated)
        } else {
            Ok(f64::from(shunt) * SHUNT_VOLT / self.shunt_ohm)
        };
        values.set(0, Ok(volt));
        values.set(1, ampere);
        values.set(2, ampere.map(|ampere| ampere * volt));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Ina226;
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, word: u16) -> Transaction {
        Transaction::write_read(0x40, vec![register], word.to_be_bytes().to_vec())
    }

    fn measured(rest: &[(u8, u16)]) -> Result<Vec<Option<Result<f64, SampleFault>>>, SampleFault> {
        let mut transfers = vec![
            read(0xfe, 0x5449),
            read(0xfe, 0x5449),
            read(0xff, 0x2260),
            read(0xff, 0x2261),
            Transaction::write(0x40, vec![0, 0x45, 0x27]),
        ];
        transfers.extend(rest.iter().map(|(register, word)| read(*register, *word)));
        let mut chip = Ina226::new(Mock::new(&transfers), 0x40, &[0.002]);
        assert_eq!(chip.set_up(), Ok(()));
        let values = sample(&mut chip, 0, 3);
        chip.registers.release().done();
        values
    }

    #[test]
    fn the_worked_example_of_the_datasheet() {
        // Section 7.5: 11.98 V (0x2570), 20 mV over 2 milliohm (0x1f40): 10 A.
        let values = measured(&[(0, 0x4527), (6, 8), (1, 0x1f40), (2, 0x2570)]);
        let volt = 9584.0 * 0.001_25;
        let ampere = 8000.0 * 0.000_002_5 / 0.002;
        let expected = [Some(Ok(volt)), Some(Ok(ampere)), Some(Ok(ampere * volt))];
        assert_eq!(values, Ok(expected.to_vec()));
        assert!((volt - 11.98).abs() < 1e-9 && (ampere - 10.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_old_reset_or_stuck_is_no_value() {
        assert_eq!(measured(&[(0, 0x4127)]), Err(SampleFault::Reset));
        assert_eq!(measured(&[(0, 0x4527), (6, 0)]), Err(SampleFault::NotReady));
        assert_eq!(
            measured(&[(0, 0x4527), (6, 8), (1, 0), (2, 0xffff)]),
            Err(SampleFault::Malformed)
        );
        let values = measured(&[(0, 0x4527), (6, 8), (1, 0x7fff), (2, 0)]);
        let saturated = Some(Err(SampleFault::Saturated));
        assert_eq!(values, Ok(vec![Some(Ok(0.0)), saturated, saturated]));
    }
}
