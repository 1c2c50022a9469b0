//! BMP388 and BMP390 pressure chips (Bosch), on I2C.
//!
//! Owns the registers and the compensation. Source: the datasheet BST-BMP388-DS001, sections 3.11, 4 and 9. An own file
//! because bmp388 0.1 is for embedded-hal 0.2 and hides the error register.
//!
//! Invariants: the calibration is read twice and must agree; each measurement is one that was asked for (forced mode) and
//! counts only when the chip says that both values are ready and reports no error. Reading the event register tells a loss
//! of power.

use embedded_hal::{delay::DelayNs, i2c::I2c};

use super::registers::{Registers, expect, kept};
use super::{Accuracy, BusKind, Channel, Chip, Description, Identity, Values};
use crate::SampleFault;

/// What the chip is. The BMP390 answers 0x60 and is taken too.
pub const DESCRIPTION: Description = Description {
    kind: "bmp388",
    name: "Bosch BMP388",
    bus: BusKind::I2c,
    addresses: &[0x76, 0x77],
    spi_mode: 0,
    identity: Some(Identity {
        register: IDENTITY,
        bytes: 1,
        mask: 0xff,
        value: 0x50,
    }),
    channels: &[
        Channel {
            name: "temperature",
            unit: "celsius",
            range: Some((-40.0, 85.0)),
            accuracy: Some(Accuracy::absolute(0.5)),
        },
        Channel {
            name: "pressure",
            unit: "pascal",
            range: Some((30_000.0, 125_000.0)),
            accuracy: Some(Accuracy::absolute(50.0)),
        },
    ],
    options: &[],
    driver: "own file: bmp388 is for embedded-hal 0.2",
    datasheet: "BST-BMP388-DS001: 0.5 K from 0 to 65 \u{b0}C, 0.5 hPa; BMP390 works too",
};

const IDENTITY: u8 = 0x00;
const ERROR: u8 = 0x02;
const POWER: u8 = 0x1b;
const CALIBRATION: u8 = 0x31;

/// Both sensors on, one measurement.
const FORCED: u8 = 0x13;
/// What the register holds when the measurement is over.
const ASLEEP: u8 = 0x03;
const BOTH_READY: u8 = 0x60;
/// Without oversampling: 234 + 392 + 2020 + 163 + 2020 microseconds (section 3.9.2), rounded up.
const MEASURE_MS: u32 = 6;

/// A BMP388 on a bus.
#[derive(Debug)]
pub struct Bmp388<B, D> {
    registers: Registers<B>,
    delay: D,
    calibration: Calibration,
}

impl<B, D> Bmp388<B, D>
where
    B: I2c,
    B::Error: Into<SampleFault>,
    D: DelayNs,
{
    /// A chip at an address that [`DESCRIPTION`] allows.
    pub fn new(bus: B, delay: D, address: u8) -> Self {
        Self {
            registers: Registers::new(bus, address),
            delay,
            calibration: Calibration::default(),
        }
    }
}

impl<B, D> Chip for Bmp388<B, D>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
    D: DelayNs + Send,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.registers.expect_byte(IDENTITY, &[0x50, 0x60])?;
        let first: [u8; 21] = self.registers.read(CALIBRATION)?;
        let second: [u8; 21] = self.registers.read(CALIBRATION)?;
        expect(first == second && first != [0; 21] && first != [0xff; 21])?;
        self.calibration = Calibration::new(&first);
        Ok(())
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        self.registers.write_byte(POWER, FORCED)?;
        self.delay.delay_ms(MEASURE_MS);
        // Error, status, and six bytes of data.
        let bytes: [u8; 8] = self.registers.read(ERROR)?;
        let [error, status, ..] = bytes;
        expect(error == 0)?;
        if status & BOTH_READY != BOTH_READY {
            return Err(SampleFault::NotReady);
        }
        kept(self.registers.read_byte(POWER)? == ASLEEP)?;
        let count = |at: usize| {
            f64::from(u32::from_le_bytes([
                bytes[at],
                bytes[at + 1],
                bytes[at + 2],
                0,
            ]))
        };
        let celsius = self.calibration.celsius(count(5));
        values.set(0, Ok(celsius));
        values.set(1, Ok(self.calibration.pascal(count(2), celsius)));
        Ok(())
    }
}

/// The numbers that Bosch measured of this very chip, already scaled.
#[derive(Clone, Debug, Default, PartialEq)]
struct Calibration {
    temperature: [f64; 3],
    pressure: [f64; 11],
}

/// Two to the power of `exponent`.
fn power(exponent: i32) -> f64 {
    libm::ldexp(1.0, exponent)
}

impl Calibration {
    fn new(bytes: &[u8; 21]) -> Self {
        let unsigned = |at: usize| f64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let signed = |at: usize| f64::from(i16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let byte = |at: usize| f64::from(i8::from_ne_bytes([bytes[at]]));
        Self {
            temperature: [
                unsigned(0) / power(-8),
                unsigned(2) / power(30),
                byte(4) / power(48),
            ],
            pressure: [
                (signed(5) - 16_384.0) / power(20),
                (signed(7) - 16_384.0) / power(29),
                byte(9) / power(32),
                byte(10) / power(37),
                unsigned(11) / power(-3),
                unsigned(13) / power(6),
                byte(15) / power(8),
                byte(16) / power(15),
                signed(17) / power(48),
                byte(19) / power(48),
                byte(20) / power(65),
            ],
        }
    }

    fn celsius(&self, count: f64) -> f64 {
        let [first, second, third] = self.temperature;
        let off = count - first;
        off * second + off * off * third
    }

    fn pascal(&self, count: f64, celsius: f64) -> f64 {
        let [p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11] = self.pressure;
        let (square, cube) = (celsius * celsius, celsius * celsius * celsius);
        let offset = p5 + p6 * celsius + p7 * square + p8 * cube;
        let slope = count * (p1 + p2 * celsius + p3 * square + p4 * cube);
        let curve = count * count * (p9 + p10 * celsius) + count * count * count * p11;
        offset + slope + curve
    }
}

#[cfg(test)]
mod tests {
    use super::Bmp388;
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, bytes: &[u8]) -> Transaction {
        Transaction::write_read(0x76, vec![register], bytes.to_vec())
    }

    /// Numbers of the size that chips have: T1 27772, T2 18881, T3 -10, P1 -88, P2 -1376, P3 35, P4 0, P5 25000,
    /// P6 30000, P7 -7, P8 -7, P9 3500, P10 5, P11 -60.
    fn calibration() -> [u8; 21] {
        let mut bytes = Vec::new();
        bytes.extend(27_772_u16.to_le_bytes());
        bytes.extend(18_881_u16.to_le_bytes());
        bytes.push(0xf6);
        bytes.extend((-88_i16).to_le_bytes());
        bytes.extend((-1376_i16).to_le_bytes());
        bytes.extend([35, 0]);
        bytes.extend(25_000_u16.to_le_bytes());
        bytes.extend(30_000_u16.to_le_bytes());
        bytes.extend([0xf9, 0xf9]);
        bytes.extend(3500_i16.to_le_bytes());
        bytes.extend([5, 0xc4]);
        bytes.try_into().unwrap_or([0; 21])
    }

    fn set_up() -> Vec<Transaction> {
        let identity = read(0x00, &[0x50]);
        let numbers = read(0x31, &calibration());
        vec![identity.clone(), identity, numbers.clone(), numbers]
    }

    fn measured(answer: [u8; 8], power: Option<u8>) -> Result<Vec<f64>, SampleFault> {
        let mut transfers = set_up();
        transfers.push(Transaction::write(0x76, vec![0x1b, 0x13]));
        transfers.push(read(0x02, &answer));
        transfers.extend(power.map(|power| read(0x1b, &[power])));
        let mut chip = Bmp388::new(Mock::new(&transfers), NoopDelay::new(), 0x76);
        assert_eq!(chip.set_up(), Ok(()));
        let values = sample(&mut chip, 0, 2);
        chip.registers.release().done();
        values?.into_iter().flatten().collect()
    }

    #[test]
    fn compensation_by_the_formula_with_powers_written_out() {
        // Pressure count 7000000 (0x6acfc0), temperature count 8500000 (0x81b320).
        let answer = [0x00, 0x70, 0xc0, 0xcf, 0x6a, 0x20, 0xb3, 0x81];
        let values = measured(answer, Some(0x03)).unwrap_or_default();
        let off = 8_500_000.0 - 27_772.0 * 256.0;
        let celsius = off * 18_881.0 / 1_073_741_824.0 + off * off * -10.0 / 281_474_976_710_656.0;
        let (count, square, cube) = (
            7_000_000.0_f64,
            celsius * celsius,
            celsius * celsius * celsius,
        );
        let offset = 25_000.0 * 8.0
            + 30_000.0 / 64.0 * celsius
            + -7.0 / 256.0 * square
            + -7.0 / 32_768.0 * cube;
        let sensitivity = (-88.0 - 16_384.0) / 1_048_576.0
            + (-1376.0 - 16_384.0) / 536_870_912.0 * celsius
            + 35.0 / 4_294_967_296.0 * square;
        let curve = count.powi(2) * (3500.0 + 5.0 * celsius) / 281_474_976_710_656.0
            + count.powi(3) * -60.0 / 36_893_488_147_419_103_232.0;
        let pascal = offset + count * sensitivity + curve;
        assert_eq!(values.len(), 2);
        assert!((values[0] - celsius).abs() < 1e-9, "{values:?} {celsius}");
        assert!((values[1] - pascal).abs() < 1e-6, "{values:?} {pascal}");
        assert!((20.0..30.0).contains(&celsius));
    }

    #[test]
    fn errors_resets_and_waiting_are_no_values() {
        let answer = |error: u8, status: u8| [error, status, 0xc0, 0xcf, 0x6a, 0x20, 0xb3, 0x81];
        assert_eq!(measured(answer(0, 0x10), None), Err(SampleFault::NotReady));
        assert_eq!(measured(answer(4, 0x70), None), Err(SampleFault::Malformed));
        assert_eq!(measured([0xff; 8], None), Err(SampleFault::Malformed));
        assert_eq!(
            measured(answer(0, 0x70), Some(0x00)),
            Err(SampleFault::Reset)
        );
    }
}
