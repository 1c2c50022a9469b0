//! INA219 voltage and current chip (Texas Instruments), on I2C.
//!
//! Owns the chip's registers. Source: the datasheet SBOS448. Current is the voltage over the shunt by its resistance, in
//! floating point, so the calibration register, its rounding and its overflow are not needed. An own file because
//! ina219 0.2.1 measures without reading the configuration back: a chip that lost power would be read with another resolution.
//!
//! Invariants: the configuration is the one that was written (the one after power-up differs); a bus voltage whose unused
//! bit is set is `Malformed`; a shunt voltage at the end of its range is `Saturated`.

use embedded_hal::i2c::I2c;

use super::registers::{Registers, expect, kept};
use super::{Accuracy, Allowed, BusKind, Channel, Chip, Description, OptionKey, Values};
use crate::SampleFault;

/// The option that both chips of the family have.
pub(super) const SHUNT: OptionKey = OptionKey {
    key: "shunt_ohm",
    default: 0.1,
    allowed: Allowed::Between(0.000_01, 100.0),
    meaning: "resistance of the shunt",
};

/// What the chip is. It has no identity register.
pub const DESCRIPTION: Description = Description {
    kind: "ina219",
    name: "Texas Instruments INA219",
    bus: BusKind::I2c,
    addresses: &[
        0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e,
        0x4f,
    ],
    spi_mode: 0,
    identity: None,
    channels: &[
        Channel {
            name: "voltage",
            unit: "volt",
            range: Some((0.0, 32.0)),
            accuracy: Some(Accuracy::with_share(0.008, 0.01)),
        },
        Channel {
            name: "current",
            unit: "ampere",
            range: None,
            accuracy: Some(Accuracy::with_share(0.001, 0.01)),
        },
        Channel {
            name: "power",
            unit: "watt",
            range: None,
            accuracy: None,
        },
    ],
    options: &[SHUNT],
    driver: "own file: ina219 measures without reading the configuration back",
    datasheet: "SBOS448, INA219A over temperature: 1 %, 100 \u{b5}V at a shunt of 0.1 ohm",
};

const CONFIGURATION: u8 = 0x00;
const SHUNT_VOLTAGE: u8 = 0x01;
const BUS_VOLTAGE: u8 = 0x02;

/// 32 V, 320 mV, eight samples each (4.3 ms), continuous. After power-up it is 0x399f.
const WANTED: u16 = 0x3ddf;
/// Volt per count.
const SHUNT_VOLT: f64 = 0.000_01;
const BUS_VOLT: f64 = 0.004;
/// Counts at the end of the 320 mV range.
const SHUNT_COUNT_MAX: u16 = 32_000;

/// An INA219 on a bus.
#[derive(Debug)]
pub struct Ina219<B> {
    registers: Registers<B>,
    shunt_ohm: f64,
}

impl<B> Ina219<B>
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

impl<B> Chip for Ina219<B>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.registers.write_word(CONFIGURATION, WANTED)?;
        self.registers.expect_word(CONFIGURATION, 0xffff, WANTED)
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        kept(self.registers.read_word(CONFIGURATION)? == WANTED)?;
        let shunt = i16::from_be_bytes(self.registers.read(SHUNT_VOLTAGE)?);
        let bus = self.registers.read_word(BUS_VOLTAGE)?;
        expect(bus & 0x0004 == 0)?;
        let volt = f64::from(bus >> 3) * BUS_VOLT;
        let ampere = if shunt.unsigned_abs() >= SHUNT_COUNT_MAX {
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
    use super::Ina219;
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, word: u16) -> Transaction {
        Transaction::write_read(0x40, vec![register], word.to_be_bytes().to_vec())
    }

    fn measured(words: &[u16]) -> Result<Vec<Option<Result<f64, SampleFault>>>, SampleFault> {
        let mut transfers = vec![
            Transaction::write(0x40, vec![0, 0x3d, 0xdf]),
            read(0, 0x3ddf),
            read(0, 0x3ddf),
        ];
        transfers.extend(
            (0..)
                .zip(words)
                .map(|(register, word)| read(register, *word)),
        );
        let mut chip = Ina219::new(Mock::new(&transfers), 0x40, &[0.1]);
        assert_eq!(chip.set_up(), Ok(()));
        let values = sample(&mut chip, 0, 3);
        chip.registers.release().done();
        values
    }

    #[test]
    fn golden_registers() {
        // 12 V (3000 counts, conversion ready), 80 mV over 0.1 ohm.
        let values = measured(&[0x3ddf, 8000, 3000 << 3 | 2]);
        let volt = 3000.0 * 0.004;
        let ampere = 8000.0 * 0.000_01 / 0.1;
        let expected = [Some(Ok(volt)), Some(Ok(ampere)), Some(Ok(ampere * volt))];
        assert_eq!(values, Ok(expected.to_vec()));
        let negative = measured(&[0x3ddf, 0xffff, 0]);
        let expected = [Some(Ok(0.0)), Some(Ok(-0.000_1)), Some(Ok(-0.0))];
        assert_eq!(negative, Ok(expected.to_vec()));
    }

    #[test]
    fn resets_stuck_buses_and_the_end_of_the_range() {
        assert_eq!(measured(&[0x399f]), Err(SampleFault::Reset));
        assert_eq!(measured(&[0xffff]), Err(SampleFault::Reset));
        assert_eq!(
            measured(&[0x3ddf, 0xffff, 0xffff]),
            Err(SampleFault::Malformed)
        );
        let saturated = Some(Err(SampleFault::Saturated));
        let expected = [Some(Ok(12.0)), saturated, saturated];
        assert_eq!(measured(&[0x3ddf, 32_000, 24_000]), Ok(expected.to_vec()));
    }
}
