//! ADS1115 analogue to digital converter with four inputs (Texas Instruments), on I2C. Unit: volt.
//!
//! Owns the chip's two registers. Source: the datasheet SBAS444. An own file because ads1x1x 0.3.0 waits for the ready bit
//! alone, which a bus stuck high shows too: such a bus reads as -1 count.
//!
//! Invariant: a conversion counts only when the configuration, read after it, is the one that was written, with the ready
//! bit: so it belongs to this input and this amplification. A count at the end of the range is `Saturated`.

use embedded_hal::{delay::DelayNs, i2c::I2c};

use super::registers::{Registers, kept};
use super::{Accuracy, Allowed, BusKind, Channel, Chip, Description, OptionKey, Values};
use crate::SampleFault;

const fn input(name: &'static str) -> Channel {
    Channel {
        name,
        unit: "volt",
        range: None,
        // Gain 0.15 %, and three counts of the largest range.
        accuracy: Some(Accuracy::with_share(0.0006, 0.0015)),
    }
}

/// What the chip is. It has no identity register.
pub const DESCRIPTION: Description = Description {
    kind: "ads1115",
    name: "Texas Instruments ADS1115",
    bus: BusKind::I2c,
    addresses: &[0x48, 0x49, 0x4a, 0x4b],
    spi_mode: 0,
    identity: None,
    channels: &[
        input("in0"),
        input("in1"),
        input("in2"),
        input("in3"),
        input("in0-in1"),
        input("in2-in3"),
    ],
    options: &[OptionKey {
        key: "full_scale_volt",
        default: 2.048,
        allowed: Allowed::OneOf(&FULL_SCALES_VOLT),
        meaning: "largest voltage that is told; the pins may have no more than the supply",
    }],
    driver: "own file: ads1x1x cannot tell a bus stuck high",
    datasheet: "SBAS444: gain 0.15 %, offset 3 counts",
};

/// In the order of the chip's code.
const FULL_SCALES_VOLT: [f64; 6] = [6.144, 4.096, 2.048, 1.024, 0.512, 0.256];
/// The code of the multiplexer for each channel.
const INPUTS: [u16; 6] = [4, 5, 6, 7, 0, 3];

const CONVERSION: u8 = 0x00;
const CONFIGURATION: u8 = 0x01;

/// Written: start one conversion. Read: none is running.
const START: u16 = 0x8000;
/// One conversion at a time, 128 samples a second, comparator off.
const SINGLE: u16 = 0x0183;
/// One conversion at 128 samples a second, which may be 10 % slow.
const CONVERSION_MS: u32 = 9;

/// An ADS1115 on a bus.
#[derive(Debug)]
pub struct Ads1115<B, D> {
    registers: Registers<B>,
    delay: D,
    full_scale_volt: f64,
    amplification: u16,
}

impl<B, D> Ads1115<B, D>
where
    B: I2c,
    B::Error: Into<SampleFault>,
    D: DelayNs,
{
    /// A chip at an address and with options that [`DESCRIPTION`] allows.
    pub fn new(bus: B, delay: D, address: u8, options: &[f64]) -> Self {
        let full_scale_volt = options.first().copied().unwrap_or(2.048);
        let amplification = (0..)
            .zip(FULL_SCALES_VOLT)
            .find(|(_, known)| *known <= full_scale_volt)
            .map_or(2, |(code, _)| code);
        Self {
            registers: Registers::new(bus, address),
            delay,
            full_scale_volt,
            amplification,
        }
    }
}

impl<B, D> Chip for Ads1115<B, D>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
    D: DelayNs + Send,
{
    /// Every conversion configures the chip anew.
    fn set_up(&mut self) -> Result<(), SampleFault> {
        Ok(())
    }

    fn measure(&mut self, channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let input = INPUTS.get(channel).ok_or(SampleFault::Malformed)?;
        let wanted = START | input << 12 | self.amplification << 9 | SINGLE;
        self.registers.write_word(CONFIGURATION, wanted)?;
        self.delay.delay_ms(CONVERSION_MS);
        let configuration = self.registers.read_word(CONFIGURATION)?;
        kept(configuration | START == wanted)?;
        if configuration & START == 0 {
            return Err(SampleFault::NotReady);
        }
        let count = i16::from_be_bytes(self.registers.read(CONVERSION)?);
        let value = if matches!(count, i16::MIN | i16::MAX) {
            Err(SampleFault::Saturated)
        } else {
            Ok(f64::from(count) * self.full_scale_volt / 32_768.0)
        };
        values.set(channel, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Ads1115;
    use crate::SampleFault;
    use crate::chips::registers::testing::set_up_and_sample;
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn check(
        (channel, full_scale): (usize, f64),
        (written, read, count): (u16, u16, Option<u16>),
        expected: Result<f64, SampleFault>,
    ) {
        let [high, low] = written.to_be_bytes();
        let mut transfers = vec![
            Transaction::write(0x48, vec![1, high, low]),
            Transaction::write_read(0x48, vec![1], read.to_be_bytes().to_vec()),
        ];
        transfers.extend(
            count.map(|count| Transaction::write_read(0x48, vec![0], count.to_be_bytes().to_vec())),
        );
        let mut chip = Ads1115::new(Mock::new(&transfers), NoopDelay::new(), 0x48, &[full_scale]);
        assert_eq!(set_up_and_sample(&mut chip, channel), expected);
        chip.registers.release().done();
    }

    #[test]
    fn golden_registers() {
        check((0, 2.048), (0xc583, 0xc583, Some(0x4000)), Ok(1.024));
        check((3, 6.144), (0xf183, 0xf183, Some(0x4000)), Ok(3.072));
        check(
            (4, 0.256),
            (0x8b83, 0x8b83, Some(0xffff)),
            Ok(-0.256 / 32_768.0),
        );
        check((5, 4.096), (0xb383, 0xb383, Some(0x0001)), Ok(0.000_125));
    }

    #[test]
    fn what_is_not_this_conversion_is_no_value() {
        let here = (0, 2.048);
        check(here, (0xc583, 0x4583, None), Err(SampleFault::NotReady));
        // After power-up, another input, a bus stuck high.
        for other in [0x8583, 0xd583, 0xffff] {
            check(here, (0xc583, other, None), Err(SampleFault::Reset));
        }
        for end in [0x7fff, 0x8000] {
            check(
                here,
                (0xc583, 0xc583, Some(end)),
                Err(SampleFault::Saturated),
            );
        }
    }
}
