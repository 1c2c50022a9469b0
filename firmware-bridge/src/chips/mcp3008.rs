//! MCP3008 analogue to digital converter with eight inputs (Microchip), on SPI. Unit: volt.
//!
//! Owns the chip's one exchange. Source: the datasheet DS21295, figure 5-2. An own file because adc-mcp3008 is for
//! embedded-hal 0.2 and takes the answer as it comes.
//!
//! Invariants: the null bit before the value is zero, which tells an input that is pulled up from a chip. The chip sends its
//! value a second time in the reverse order: both must agree. What stays open: a line that is stuck low reads as 0 V.

use embedded_hal::spi::SpiDevice;

use super::registers::{exchange, expect};
use super::{Accuracy, Allowed, BusKind, Channel, Chip, Description, OptionKey, Values};
use crate::SampleFault;

const fn input(name: &'static str) -> Channel {
    Channel {
        name,
        unit: "volt",
        range: Some((0.0, 5.5)),
        // Four counts of 3.3 V.
        accuracy: Some(Accuracy::absolute(0.013)),
    }
}

/// What the chip is.
pub const DESCRIPTION: Description = Description {
    kind: "mcp3008",
    name: "Microchip MCP3008",
    bus: BusKind::Spi,
    addresses: &[],
    spi_mode: 0,
    identity: None,
    channels: &[
        input("in0"),
        input("in1"),
        input("in2"),
        input("in3"),
        input("in4"),
        input("in5"),
        input("in6"),
        input("in7"),
    ],
    options: &[OptionKey {
        key: "reference_volt",
        default: 3.3,
        allowed: Allowed::Between(0.25, 5.5),
        meaning: "voltage at the pin VREF",
    }],
    driver: "own file: adc-mcp3008 is for embedded-hal 0.2",
    datasheet: "DS21295: offset 3 counts, non-linearity 1 count; at 3.3 V",
};

/// An MCP3008 on a bus.
#[derive(Debug)]
pub struct Mcp3008<B> {
    bus: B,
    reference_volt: f64,
}

impl<B: SpiDevice> Mcp3008<B> {
    /// A chip with options that [`DESCRIPTION`] allows.
    pub fn new(bus: B, options: &[f64]) -> Self {
        Self {
            bus,
            reference_volt: options.first().copied().unwrap_or(3.3),
        }
    }
}

impl<B: SpiDevice + Send> Chip for Mcp3008<B> {
    fn set_up(&mut self) -> Result<(), SampleFault> {
        Ok(())
    }

    fn measure(&mut self, channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let number = u8::try_from(channel).map_err(|_| SampleFault::Malformed)?;
        // A start bit, then single-ended and the number of the input.
        let mut bytes = [0x01, 0x80 | number << 4, 0, 0, 0];
        exchange(&mut self.bus, &mut bytes)?;
        let count = decode(bytes)?;
        values.set(channel, Ok(f64::from(count) * self.reference_volt / 1024.0));
        Ok(())
    }
}

fn decode([_, second, third, fourth, fifth]: [u8; 5]) -> Result<u16, SampleFault> {
    expect(second & 0x04 == 0)?;
    let count = u16::from_be_bytes([second & 0x03, third]);
    // Bits 1 to 9 once more, the lowest first, from the top of the fourth byte on.
    let again = u16::from_be_bytes([fourth, fifth]).reverse_bits() & 0x01ff;
    expect(count >> 1 == again)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::{Mcp3008, decode};
    use crate::SampleFault;
    use crate::chips::registers::testing::set_up_and_sample;
    use embedded_hal_mock::eh1::spi::{Mock, Transaction};
    use proptest::prelude::*;

    /// What the chip sends for a count, after figure 5-2.
    fn sent(count: u16) -> [u8; 5] {
        let [high, low] = count.to_be_bytes();
        let [fourth, fifth] = ((count >> 1) & 0x01ff).reverse_bits().to_be_bytes();
        [0xff, 0xf8 | high, low, fourth, fifth]
    }

    #[test]
    fn golden_exchange() {
        // Count 0b10_1001_0110: then bits 1, 1, 0, 1, 0, 0, 1, 0, 1 from bit 1 up.
        let answer = [0x00, 0x02, 0x96, 0b1101_0010, 0b1000_0000];
        assert_eq!(sent(0x296)[2..], answer[2..]);
        let transfers = [
            Transaction::transaction_start(),
            Transaction::transfer_in_place(vec![0x01, 0xd0, 0, 0, 0], answer.to_vec()),
            Transaction::transaction_end(),
        ];
        let mut chip = Mcp3008::new(Mock::new(&transfers), &[3.3]);
        let volt = 662.0 * 3.3 / 1024.0;
        assert_eq!(set_up_and_sample(&mut chip, 5), Ok(volt));
        chip.bus.done();
    }

    #[test]
    fn no_chip_and_flipped_bits_are_malformed() {
        assert_eq!(decode([0xff; 5]), Err(SampleFault::Malformed));
        for bit in 0..25 {
            let mut bytes = sent(0x296);
            let at = 15 + bit;
            bytes[at / 8] ^= 0x80 >> (at % 8);
            let flipped_lowest = at == 23;
            assert_eq!(
                decode(bytes).is_ok(),
                flipped_lowest || at == 39 || at > 32,
                "{at}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_count_comes_through(count in 0_u16..1024) {
            prop_assert_eq!(decode(sent(count)), Ok(count));
        }

        #[test]
        fn any_bytes_give_a_count_or_a_fault(bytes: [u8; 5]) {
            if let Ok(count) = decode(bytes) {
                prop_assert!(count < 1024);
            }
        }
    }
}
