//! MAX31865 converter for platinum resistors PT100 and PT1000 (Maxim), on SPI. Unit: degree Celsius.
//!
//! Owns the chip's registers and the curve of platinum. Sources: the datasheet 19-6478, and IEC 60751 (Callendar and Van
//! Dusen) for the curve. An own file because the drivers that exist are for embedded-hal 0.2 and hide the fault register.
//!
//! Invariants: the configuration is the one that was written (after power-up it is zero); a resistance with the fault bit is
//! the cause that the fault register gives, never a value.

use embedded_hal::{delay::DelayNs, spi::SpiDevice};

use super::registers::{exchange, expect, kept};
use super::{Accuracy, Allowed, BusKind, Channel, Chip, Description, OptionKey, Values};
use crate::SampleFault;

/// What the chip is.
pub const DESCRIPTION: Description = Description {
    kind: "max31865",
    name: "Maxim MAX31865",
    bus: BusKind::Spi,
    addresses: &[],
    spi_mode: 1,
    identity: None,
    channels: &[
        Channel {
            name: "temperature",
            unit: "celsius",
            range: Some((-200.0, 850.0)),
            accuracy: Some(Accuracy::absolute(0.5)),
        },
        Channel {
            name: "resistance",
            unit: "ohm",
            range: Some((0.0, 5000.0)),
            accuracy: None,
        },
    ],
    options: &[
        OptionKey {
            key: "wires",
            default: 4.0,
            allowed: Allowed::OneOf(&[2.0, 3.0, 4.0]),
            meaning: "wires to the resistor",
        },
        OptionKey {
            key: "nominal_ohm",
            default: 100.0,
            allowed: Allowed::Between(10.0, 2000.0),
            meaning: "its resistance at 0 \u{b0}C: 100 for a PT100, 1000 for a PT1000",
        },
        OptionKey {
            key: "reference_ohm",
            default: 430.0,
            allowed: Allowed::Between(10.0, 10_000.0),
            meaning: "reference resistor of the board: usually 430 for a PT100, 4300 for a PT1000",
        },
    ],
    driver: "own file: the drivers that exist are for embedded-hal 0.2",
    datasheet: "19-6478: 0.5 K over all conditions, without the resistor's own error",
};

const CONFIGURATION: u8 = 0x00;
const FAULTS: u8 = 0x07;
const WRITE: u8 = 0x80;

/// Bias on, converting all the time, filter for 50 Hz.
const CONVERTING: u8 = 0xc1;
const THREE_WIRES: u8 = 0x10;
/// Written: forget the faults of before. Reads as zero.
const CLEAR: u8 = 0x02;
/// The bias settles in ten time constants, a conversion takes 21 ms, the first one 66 ms.
const FIRST_MS: u32 = 80;
/// Below the low threshold.
const TOO_LOW: u8 = 0x40;

/// A MAX31865 on a bus.
#[derive(Debug)]
pub struct Max31865<B, D> {
    bus: B,
    delay: D,
    wanted: u8,
    nominal_ohm: f64,
    reference_ohm: f64,
}

impl<B: SpiDevice, D: DelayNs> Max31865<B, D> {
    /// A chip with options that [`DESCRIPTION`] allows.
    pub fn new(bus: B, delay: D, options: &[f64]) -> Self {
        let option = |at: usize, default: f64| options.get(at).copied().unwrap_or(default);
        let three = (2.5..3.5).contains(&option(0, 4.0));
        Self {
            bus,
            delay,
            wanted: CONVERTING | if three { THREE_WIRES } else { 0 },
            nominal_ohm: option(1, 100.0),
            reference_ohm: option(2, 430.0),
        }
    }

    fn read(&mut self, register: u8) -> Result<u8, SampleFault> {
        let mut bytes = [register, 0];
        exchange(&mut self.bus, &mut bytes)?;
        Ok(bytes[1])
    }
}

impl<B: SpiDevice + Send, D: DelayNs + Send> Chip for Max31865<B, D> {
    fn set_up(&mut self) -> Result<(), SampleFault> {
        let mut bytes = [WRITE | CONFIGURATION, self.wanted | CLEAR];
        exchange(&mut self.bus, &mut bytes)?;
        self.delay.delay_ms(FIRST_MS);
        expect(self.read(CONFIGURATION)? == self.wanted)
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        // The configuration and the two bytes of the resistance after it.
        let mut bytes = [CONFIGURATION, 0, 0, 0];
        exchange(&mut self.bus, &mut bytes)?;
        let [_, configuration, high, low] = bytes;
        kept(configuration == self.wanted)?;
        if low & 1 != 0 {
            let faults = self.read(FAULTS)?;
            expect(faults != 0)?;
            return Err(if faults & TOO_LOW != 0 {
                SampleFault::ShortCircuit
            } else {
                SampleFault::OpenCircuit
            });
        }
        let ratio = f64::from(u16::from_be_bytes([high, low]) >> 1) / 32_768.0;
        let ohm = ratio * self.reference_ohm;
        values.set(0, celsius(ohm / self.nominal_ohm));
        values.set(1, Ok(ohm));
        Ok(())
    }
}

const A: f64 = 3.9083e-3;
const B2: f64 = -5.775e-7;
const C: f64 = -4.183e-12;

/// Resistance by that at 0 °C.
fn resistance(celsius: f64) -> f64 {
    let below = if celsius < 0.0 {
        C * (celsius - 100.0) * celsius.powi(3)
    } else {
        0.0
    };
    1.0 + A * celsius + B2 * celsius * celsius + below
}

/// The temperature of platinum from its resistance by that at 0 °C.
fn celsius(ratio: f64) -> Result<f64, SampleFault> {
    // From -200 to 850 degrees.
    if !(0.185..=3.905).contains(&ratio) {
        return Err(SampleFault::Saturated);
    }
    let discriminant = A * A - 4.0 * B2 * (1.0 - ratio);
    let mut celsius = (-A + discriminant.sqrt()) / (2.0 * B2);
    if celsius < 0.0 {
        // Newton's steps from there; the curve is nearly straight, so four are more than enough.
        for _ in 0..4 {
            let slope = A + 2.0 * B2 * celsius + C * celsius * celsius * (4.0 * celsius - 300.0);
            celsius -= (resistance(celsius) - ratio) / slope;
        }
    }
    Ok(celsius)
}

#[cfg(test)]
mod tests {
    use super::{Max31865, celsius, resistance};
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::spi::{Mock, Transaction};
    use proptest::prelude::*;

    fn exchange(sent: &[u8], answer: &[u8]) -> Vec<Transaction<u8>> {
        vec![
            Transaction::transaction_start(),
            Transaction::transfer_in_place(sent.to_vec(), answer.to_vec()),
            Transaction::transaction_end(),
        ]
    }

    fn measured(
        rest: Vec<Transaction<u8>>,
    ) -> Result<Vec<Option<Result<f64, SampleFault>>>, SampleFault> {
        let transfers = [
            exchange(&[0x80, 0xd3], &[0, 0]),
            exchange(&[0x00, 0], &[0, 0xd1]),
            rest,
        ]
        .concat();
        let mut chip = Max31865::new(
            Mock::new(&transfers),
            NoopDelay::new(),
            &[3.0, 100.0, 400.0],
        );
        assert_eq!(chip.set_up(), Ok(()));
        let values = sample(&mut chip, 0, 2);
        chip.bus.done();
        values
    }

    #[test]
    fn the_table_of_the_datasheet() {
        // Table 9 has a reference of 400 ohm: at 0 degrees the code is 8192, at 100 degrees 11346 (138.50 ohm).
        let values = measured(exchange(&[0; 4], &[0, 0xd1, 0x40, 0x00])).unwrap_or_default();
        assert_eq!(values, [Some(Ok(0.0)), Some(Ok(100.0))]);
        let code = (11_346_u16 << 1).to_be_bytes();
        let values = measured(exchange(&[0; 4], &[0, 0xd1, code[0], code[1]])).unwrap_or_default();
        let value = values[0].and_then(Result::ok).unwrap_or_default();
        assert!((value - 100.0).abs() < 0.03, "{value}");
    }

    #[test]
    fn the_curve_of_the_standard() {
        // Table 1 of IEC 60751.
        for (at, ohm) in [
            (-200.0, 18.52),
            (-100.0, 60.26),
            (-50.0, 80.31),
            (0.0, 100.0),
            (100.0, 138.51),
            (400.0, 247.09),
            (850.0, 390.48),
        ] {
            let found = celsius(ohm / 100.0).unwrap_or(f64::NAN);
            assert!((found - at).abs() < 0.03, "{at}: {found}");
        }
    }

    #[test]
    fn faults_resets_and_no_chip() {
        let fault = |faults: u8| {
            let frame = exchange(&[0; 4], &[0, 0xd1, 0xff, 0xff]);
            measured([frame, exchange(&[0x07, 0], &[0, faults])].concat())
        };
        assert_eq!(fault(0x80), Err(SampleFault::OpenCircuit));
        assert_eq!(fault(0x20), Err(SampleFault::OpenCircuit));
        assert_eq!(fault(0x40), Err(SampleFault::ShortCircuit));
        assert_eq!(fault(0x00), Err(SampleFault::Malformed));
        let reset = exchange(&[0; 4], &[0, 0x00, 0x00, 0x00]);
        assert_eq!(measured(reset), Err(SampleFault::Reset));
        let nobody = exchange(&[0; 4], &[0xff; 4]);
        assert_eq!(measured(nobody), Err(SampleFault::Reset));
        let values = measured(exchange(&[0; 4], &[0, 0xd1, 0xff, 0xfe])).unwrap_or_default();
        assert_eq!(values[0], Some(Err(SampleFault::Saturated)));
    }

    proptest! {
        #[test]
        fn the_curve_and_its_inverse_agree(at in -199.0..849.0_f64) {
            let found = celsius(resistance(at)).unwrap_or(f64::NAN);
            prop_assert!((found - at).abs() < 1e-6, "{at}: {found}");
        }
    }
}
