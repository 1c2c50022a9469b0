//! BME280 and BMP280 pressure, temperature and humidity chips (Bosch), on I2C.
//!
//! Owns the registers and the compensation. Source: the datasheets BST-BME280-DS002 (section 4.2.3 and appendix 8.1) and
//! BST-BMP280-DS001 (section 3.11.3). An own file because bme280 0.5.1 hides the status and the control registers: after a
//! loss of power the chip measures no humidity and the driver gives a number all the same.
//!
//! Invariants: the calibration is read twice and must agree. Each measurement is one that was asked for (forced mode), and
//! counts only when the control registers, read in the same transfer, are those that were written. A value that the chip
//! marks as skipped is `Malformed`.

use embedded_hal::{delay::DelayNs, i2c::I2c};

use super::registers::{Registers, expect, kept};
use super::{Accuracy, BusKind, Channel, Chip, Description, Identity, Values};
use crate::SampleFault;

const TEMPERATURE: Channel = Channel {
    name: "temperature",
    unit: "celsius",
    range: Some((-40.0, 85.0)),
    accuracy: Some(Accuracy::absolute(1.0)),
};

const PRESSURE: Channel = Channel {
    name: "pressure",
    unit: "pascal",
    range: Some((30_000.0, 110_000.0)),
    accuracy: Some(Accuracy::absolute(100.0)),
};

/// What the BME280 is.
pub const DESCRIPTION: Description = Description {
    kind: "bme280",
    name: "Bosch BME280",
    bus: BusKind::I2c,
    addresses: &[0x76, 0x77],
    spi_mode: 0,
    identity: Some(Identity {
        register: IDENTITY,
        bytes: 1,
        mask: 0xff,
        value: 0x60,
    }),
    channels: &[
        TEMPERATURE,
        PRESSURE,
        Channel {
            name: "humidity",
            unit: "percent",
            range: Some((0.0, 100.0)),
            accuracy: Some(Accuracy::absolute(3.0)),
        },
    ],
    options: &[],
    driver: "own file: bme280 hides the control registers, so a chip that lost power would give numbers",
    datasheet: "BST-BME280-DS002: 1 K from 0 to 65 \u{b0}C, 1 hPa, 3 %",
};

/// What the BMP280 is.
pub const DESCRIPTION_BMP280: Description = Description {
    kind: "bmp280",
    name: "Bosch BMP280",
    identity: Some(Identity {
        register: IDENTITY,
        bytes: 1,
        mask: 0xff,
        value: 0x58,
    }),
    channels: &[TEMPERATURE, PRESSURE],
    datasheet: "BST-BMP280-DS001: 1 K from 0 to 65 \u{b0}C, 1 hPa",
    ..DESCRIPTION
};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// With humidity.
    Bme280,
    /// Without.
    Bmp280,
}

const CALIBRATION: u8 = 0x88;
const CALIBRATION_HUMIDITY_1: u8 = 0xa1;
const IDENTITY: u8 = 0xd0;
const CALIBRATION_HUMIDITY_2: u8 = 0xe1;
const CONTROL_HUMIDITY: u8 = 0xf2;
const CONTROL_MEASURE: u8 = 0xf4;

/// One conversion of humidity.
const HUMIDITY_ONCE: u8 = 0x01;
/// One conversion of temperature and of pressure, asleep between measurements.
const MEASURE_ONCE: u8 = 0x24;
/// The two bits of the mode that start one measurement.
const FORCED: u8 = 0x01;
/// Status: a conversion runs, or the calibration is being copied.
const BUSY: u8 = 0x09;
/// Longest measurement with one conversion each (appendix 9.1 of the BME280 datasheet), rounded up.
const MEASURE_MS: u32 = 10;
/// What a register of 20 bits holds when its conversion was skipped.
const SKIPPED: u32 = 0x80000;
const SKIPPED_HUMIDITY: u16 = 0x8000;

/// A BME280 or BMP280 on a bus.
#[derive(Debug)]
pub struct Bme280<B, D> {
    registers: Registers<B>,
    delay: D,
    model: Model,
    calibration: Calibration,
}

impl<B, D> Bme280<B, D>
where
    B: I2c,
    B::Error: Into<SampleFault>,
    D: DelayNs,
{
    /// A chip at an address that [`DESCRIPTION`] allows.
    pub fn new(bus: B, delay: D, address: u8, model: Model) -> Self {
        Self {
            registers: Registers::new(bus, address),
            delay,
            model,
            calibration: Calibration::default(),
        }
    }

    fn read_calibration(&mut self) -> Result<Calibration, SampleFault> {
        let main: [u8; 24] = self.registers.read(CALIBRATION)?;
        if self.model == Model::Bmp280 {
            return Calibration::new(&main, 0, &[0; 7]);
        }
        let first = self.registers.read_byte(CALIBRATION_HUMIDITY_1)?;
        let rest: [u8; 7] = self.registers.read(CALIBRATION_HUMIDITY_2)?;
        Calibration::new(&main, first, &rest)
    }
}

impl<B, D> Chip for Bme280<B, D>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
    D: DelayNs + Send,
{
    fn set_up(&mut self) -> Result<(), SampleFault> {
        let identities: &[u8] = match self.model {
            Model::Bme280 => &[0x60],
            // The first two are samples of the maker.
            Model::Bmp280 => &[0x56, 0x57, 0x58],
        };
        self.registers.expect_byte(IDENTITY, identities)?;
        let calibration = self.read_calibration()?;
        expect(self.read_calibration()? == calibration)?;
        self.calibration = calibration;
        if self.model == Model::Bme280 {
            // Takes effect with the next write of the other control register.
            self.registers.write_byte(CONTROL_HUMIDITY, HUMIDITY_ONCE)?;
        }
        self.registers.write_byte(CONTROL_MEASURE, MEASURE_ONCE)
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        self.registers
            .write_byte(CONTROL_MEASURE, MEASURE_ONCE | FORCED)?;
        self.delay.delay_ms(MEASURE_MS);
        // From the humidity control (0xf2) to the humidity (0xfe), so that all belongs to one moment.
        let bytes: [u8; 13] = self.registers.read(CONTROL_HUMIDITY)?;
        let [control_humidity, status, control_measure, ..] = bytes;
        kept(self.model == Model::Bmp280 || control_humidity == HUMIDITY_ONCE)?;
        if status & BUSY != 0 {
            return Err(SampleFault::NotReady);
        }
        kept(control_measure == MEASURE_ONCE)?;
        let twenty =
            |at: usize| u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) >> 4;
        let (pressure, temperature) = (twenty(5), twenty(8));
        let humidity = u16::from_be_bytes([bytes[11], bytes[12]]);
        expect(temperature != SKIPPED && pressure != SKIPPED)?;
        let fine = self.calibration.fine(temperature);
        values.set(0, Ok(fine / 5120.0));
        values.set(1, self.calibration.pascal(pressure, fine));
        if self.model == Model::Bme280 {
            expect(humidity != SKIPPED_HUMIDITY)?;
            values.set(2, Ok(self.calibration.percent(humidity, fine)));
        }
        Ok(())
    }
}

/// The numbers that Bosch measured of this very chip.
#[derive(Clone, Debug, Default, PartialEq)]
struct Calibration {
    temperature: [f64; 3],
    pressure: [f64; 9],
    humidity: [f64; 6],
}

impl Calibration {
    /// From registers 0x88 to 0x9f, 0xa1, and 0xe1 to 0xe7.
    fn new(main: &[u8; 24], first: u8, rest: &[u8; 7]) -> Result<Self, SampleFault> {
        let signed = |at: usize| f64::from(i16::from_le_bytes([main[at], main[at + 1]]));
        let unsigned = |at: usize| u16::from_le_bytes([main[at], main[at + 1]]);
        // No chip has these; a bus that is stuck does.
        for at in [0, 6] {
            expect(!matches!(unsigned(at), 0 | u16::MAX))?;
        }
        let mut pressure = [f64::from(unsigned(6)); 9];
        for (index, slot) in pressure.iter_mut().enumerate().skip(1) {
            *slot = signed(6 + 2 * index);
        }
        // Two numbers of twelve bits share a byte.
        let twelve = |high: u8, low: u8| f64::from(i16::from_be_bytes([high, low << 4]) >> 4);
        let [low_2, high_2, third, high_4, shared, high_5, sixth] = *rest;
        Ok(Self {
            temperature: [f64::from(unsigned(0)), signed(2), signed(4)],
            pressure,
            humidity: [
                f64::from(first),
                f64::from(i16::from_le_bytes([low_2, high_2])),
                f64::from(third),
                twelve(high_4, shared & 0x0f),
                twelve(high_5, shared >> 4),
                f64::from(i8::from_ne_bytes([sixth])),
            ],
        })
    }

    /// The fine temperature: 5120 per degree.
    fn fine(&self, count: u32) -> f64 {
        let count = f64::from(count);
        let [first, second, third] = self.temperature;
        let linear = (count / 16_384.0 - first / 1024.0) * second;
        let off = count / 131_072.0 - first / 8192.0;
        linear + off * off * third
    }

    fn pascal(&self, count: u32, fine: f64) -> Result<f64, SampleFault> {
        let [p1, p2, p3, p4, p5, p6, p7, p8, p9] = self.pressure;
        let half = fine / 2.0 - 64_000.0;
        let offset = half * half * p6 / 32_768.0 + half * p5 * 2.0;
        let offset = offset / 4.0 + p4 * 65_536.0;
        let slope = (p3 * half * half / 524_288.0 + p2 * half) / 524_288.0;
        let slope = (1.0 + slope / 32_768.0) * p1;
        expect(slope != 0.0)?;
        let raw = (1_048_576.0 - f64::from(count) - offset / 4096.0) * 6250.0 / slope;
        let square = p9 * raw * raw / 2_147_483_648.0;
        Ok(raw + (square + raw * p8 / 32_768.0 + p7) / 16.0)
    }

    fn percent(&self, count: u16, fine: f64) -> f64 {
        let [h1, h2, h3, h4, h5, h6] = self.humidity;
        let off = fine - 76_800.0;
        let raw = f64::from(count) - (h4 * 64.0 + h5 / 16_384.0 * off);
        let curve = 1.0 + h6 / 67_108_864.0 * off * (1.0 + h3 / 67_108_864.0 * off);
        let value = raw * (h2 / 65_536.0 * curve);
        (value * (1.0 - h1 * value / 524_288.0)).clamp(0.0, 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bme280, Model};
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    fn read(register: u8, bytes: &[u8]) -> Transaction {
        Transaction::write_read(0x76, vec![register], bytes.to_vec())
    }

    fn written(register: u8, byte: u8) -> Transaction {
        Transaction::write(0x76, vec![register, byte])
    }

    /// The calibration of the worked example in the BMP280 datasheet, section 3.12.
    fn calibration() -> Vec<u8> {
        let first = [
            27_504_u16.to_le_bytes(),
            26_435_i16.to_le_bytes(),
            (-1000_i16).to_le_bytes(),
        ];
        let pressure = [-10_685_i16, 3024, 2855, 140, -7, 15_500, -14_600, 6000];
        let mut bytes: Vec<u8> = first.concat();
        bytes.extend(36_477_u16.to_le_bytes());
        bytes.extend(pressure.iter().flat_map(|number| number.to_le_bytes()));
        bytes
    }

    /// Humidity: H1 75, H2 370, H3 0, H4 313, H5 50, H6 30, as chips have them.
    const HUMIDITY: [u8; 7] = [0x72, 0x01, 0x00, 0x13, 0x29, 0x03, 0x1e];

    fn set_up(model: Model) -> Vec<Transaction> {
        let identity = if model == Model::Bme280 { 0x60 } else { 0x58 };
        let mut transfers = vec![read(0xd0, &[identity]); 2];
        for _ in 0..2 {
            transfers.push(read(0x88, &calibration()));
            if model == Model::Bme280 {
                transfers.extend([read(0xa1, &[75]), read(0xe1, &HUMIDITY)]);
            }
        }
        if model == Model::Bme280 {
            transfers.push(written(0xf2, 0x01));
        }
        transfers.push(written(0xf4, 0x24));
        transfers
    }

    /// 0xf2 to 0xfe with the counts of the worked example: pressure 415148, temperature 519888.
    fn registers() -> [u8; 13] {
        [
            0x01, 0x00, 0x24, 0x00, 0x00, 0x65, 0x5a, 0xc0, 0x7e, 0xed, 0x00, 0x75, 0x30,
        ]
    }

    fn measured(model: Model, bytes: &[u8]) -> Result<Vec<f64>, SampleFault> {
        let mut transfers = set_up(model);
        transfers.extend([written(0xf4, 0x25), read(0xf2, bytes)]);
        let mut chip = Bme280::new(Mock::new(&transfers), NoopDelay::new(), 0x76, model);
        assert_eq!(chip.set_up(), Ok(()));
        let values = sample(&mut chip, 0, 3);
        chip.registers.release().done();
        values?.into_iter().flatten().collect()
    }

    #[test]
    fn the_worked_example_of_the_datasheet() {
        let values = measured(Model::Bmp280, &registers()).unwrap_or_default();
        assert_eq!(values.len(), 2);
        assert!((values[0] - 25.08).abs() < 0.005, "{values:?}");
        assert!((values[1] - 100_653.27).abs() < 0.05, "{values:?}");
    }

    #[test]
    fn humidity_by_the_integer_formula_of_the_datasheet() {
        // Section 4.2.3 of the BME280 datasheet in whole numbers, an independent way to the same value.
        let fine = 128_422_i64;
        let off = fine - 76_800;
        let raw = (((30_000 << 14) - (313 << 20) - 50 * off) + 16_384) >> 15;
        let curve = (((off * 30) >> 10) * (((off * i64::from(HUMIDITY[2])) >> 11) + 32_768)) >> 10;
        let scaled = raw * (((curve + 2_097_152) * 370 + 8192) >> 14);
        let value = scaled - (((((scaled >> 15) * (scaled >> 15)) >> 7) * 75) >> 4);
        let thousandths = i32::try_from((value.clamp(0, 419_430_400) >> 12) * 1000 / 1024);
        let expected = f64::from(thousandths.unwrap_or(0)) / 1000.0;
        let values = measured(Model::Bme280, &registers()).unwrap_or_default();
        assert_eq!(values.len(), 3);
        assert!((values[2] - expected).abs() < 0.02, "{values:?} {expected}");
        assert!((20.0..90.0).contains(&expected), "{expected}");
    }

    #[test]
    fn a_chip_that_lost_power_or_has_no_value_gives_none() {
        let with = |at: usize, byte: u8| {
            let mut bytes = registers();
            bytes[at] = byte;
            measured(Model::Bme280, &bytes)
        };
        assert_eq!(with(0, 0x00), Err(SampleFault::Reset));
        assert_eq!(with(2, 0x00), Err(SampleFault::Reset));
        assert_eq!(with(1, 0x08), Err(SampleFault::NotReady));
        assert_eq!(
            measured(Model::Bme280, &[0xff; 13]),
            Err(SampleFault::Reset)
        );
        let mut skipped = registers();
        skipped[11..].copy_from_slice(&[0x80, 0x00]);
        assert_eq!(
            measured(Model::Bme280, &skipped),
            Err(SampleFault::Malformed)
        );
        skipped[8..11].copy_from_slice(&[0x80, 0x00, 0x00]);
        assert_eq!(
            measured(Model::Bmp280, &skipped),
            Err(SampleFault::Malformed)
        );
    }

    #[test]
    fn another_chip_and_a_calibration_that_changes_are_malformed() {
        let start = |transfers: &[Transaction]| {
            let mut chip = Bme280::new(Mock::new(transfers), NoopDelay::new(), 0x76, Model::Bmp280);
            let result = chip.set_up();
            chip.registers.release().done();
            result
        };
        assert_eq!(start(&[read(0xd0, &[0x60])]), Err(SampleFault::Malformed));
        let mut other = calibration();
        other[8] ^= 1;
        let identity = [read(0xd0, &[0x58]), read(0xd0, &[0x58])];
        let twice = [read(0x88, &calibration()), read(0x88, &other)];
        assert_eq!(
            start(&[identity.clone(), twice].concat()),
            Err(SampleFault::Malformed)
        );
        let stuck = [&identity[..], &[read(0x88, &[0xff; 24])]].concat();
        assert_eq!(start(&stuck), Err(SampleFault::Malformed));
    }
}
