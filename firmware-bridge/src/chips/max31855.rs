//! MAX31855 thermocouple converter (Maxim), on SPI. Unit: degree Celsius.
//!
//! Owns the chip's one frame. Source: the datasheet 19-5793, table 2. An own file because the drivers that exist are for
//! embedded-hal 0.2.
//!
//! Invariants: a frame whose reserved bits are set, and one of all zeros (no chip), is `Malformed`; the chip's fault bits are
//! `OpenCircuit` and `ShortCircuit` of the thermocouple, while its own temperature stays good.

use embedded_hal::spi::SpiDevice;

use super::registers::{exchange, expect};
use super::{Accuracy, BusKind, Channel, Chip, Description, Values};
use crate::SampleFault;

/// What the chip is.
pub const DESCRIPTION: Description = Description {
    kind: "max31855",
    name: "Maxim MAX31855",
    bus: BusKind::Spi,
    addresses: &[],
    spi_mode: 0,
    identity: None,
    channels: &[
        Channel {
            name: "temperature",
            unit: "celsius",
            range: Some((-270.0, 1800.0)),
            accuracy: Some(Accuracy::absolute(2.0)),
        },
        Channel {
            name: "board-temperature",
            unit: "celsius",
            range: Some((-55.0, 125.0)),
            accuracy: Some(Accuracy::absolute(2.0)),
        },
    ],
    options: &[],
    driver: "own file: the drivers that exist are for embedded-hal 0.2",
    datasheet: "19-5793: 2 K from -200 to 700 \u{b0}C with type K, without the thermocouple's own error",
};

const RESERVED: u32 = 0x0002_0008;
const FAULT: u32 = 0x0001_0000;
const OPEN: u32 = 0x01;
const SHORT: u32 = 0x06;

/// A MAX31855 on a bus.
#[derive(Debug)]
pub struct Max31855<B> {
    bus: B,
}

impl<B: SpiDevice> Max31855<B> {
    /// The chip has nothing to choose.
    pub fn new(bus: B) -> Self {
        Self { bus }
    }
}

impl<B: SpiDevice + Send> Chip for Max31855<B> {
    fn set_up(&mut self) -> Result<(), SampleFault> {
        Ok(())
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let mut bytes = [0; 4];
        exchange(&mut self.bus, &mut bytes)?;
        let (thermocouple, board) = decode(bytes)?;
        values.set(0, thermocouple);
        values.set(1, Ok(board));
        Ok(())
    }
}

/// The thermocouple's temperature and the chip's own.
fn decode(bytes: [u8; 4]) -> Result<(Result<f64, SampleFault>, f64), SampleFault> {
    let frame = u32::from_be_bytes(bytes);
    expect(frame != 0 && frame & RESERVED == 0)?;
    expect((frame & FAULT != 0) == (frame & (OPEN | SHORT) != 0))?;
    let [first, second, third, fourth] = bytes;
    let board = f64::from(i16::from_be_bytes([third, fourth]) >> 4) * 0.0625;
    let thermocouple = if frame & OPEN != 0 {
        Err(SampleFault::OpenCircuit)
    } else if frame & SHORT != 0 {
        Err(SampleFault::ShortCircuit)
    } else {
        Ok(f64::from(i16::from_be_bytes([first, second]) >> 2) * 0.25)
    };
    Ok((thermocouple, board))
}

#[cfg(test)]
mod tests {
    use super::{Max31855, decode};
    use crate::SampleFault;
    use crate::chips::registers::testing::set_up_and_sample;
    use embedded_hal_mock::eh1::spi::{Mock, Transaction};
    use proptest::prelude::*;

    #[test]
    fn golden_frames() {
        // Tables 4 and 5 of the datasheet.
        for (frame, thermocouple, board) in [
            (0x6400_7f00_u32, Ok(1600.0), 127.0),
            (0x3e80_6490, Ok(1000.0), 100.5625),
            (0x0194_1900, Ok(25.25), 25.0),
            (0x0000_0010, Ok(0.0), 0.0625),
            (0xfffc_fff0, Ok(-0.25), -0.0625),
            (0xf060_c900, Ok(-250.0), -55.0),
            (0x0001_1901, Err(SampleFault::OpenCircuit), 25.0),
            (0x0001_1902, Err(SampleFault::ShortCircuit), 25.0),
            (0x0001_1904, Err(SampleFault::ShortCircuit), 25.0),
        ] {
            assert_eq!(
                decode(frame.to_be_bytes()),
                Ok((thermocouple, board)),
                "{frame:#x}"
            );
        }
    }

    #[test]
    fn no_chip_is_malformed() {
        for frame in [0x0000_0000_u32, 0xffff_ffff, 0x0194_1901, 0x0195_1900] {
            assert_eq!(
                decode(frame.to_be_bytes()),
                Err(SampleFault::Malformed),
                "{frame:#x}"
            );
        }
    }

    #[test]
    fn it_is_read_in_one_exchange() {
        let transfers = [
            Transaction::transaction_start(),
            Transaction::transfer_in_place(vec![0; 4], vec![0x01, 0x94, 0x19, 0x00]),
            Transaction::transaction_end(),
        ];
        let mut chip = Max31855::new(Mock::new(&transfers));
        assert_eq!(set_up_and_sample(&mut chip, 0), Ok(25.25));
        chip.bus.done();
    }

    proptest! {
        #[test]
        fn any_frame_gives_possible_temperatures_or_a_fault(bytes: [u8; 4]) {
            if let Ok((thermocouple, board)) = decode(bytes) {
                prop_assert!((-128.0..128.0).contains(&board));
                prop_assert!(thermocouple.is_ok_and(|value| (-2048.0..2048.0).contains(&value)) || thermocouple.is_err());
            }
        }
    }
}
