//! Chips on a bus: one description and one driver per chip.
//!
//! Owns the list of chips and what each of them can measure: settings, `quorate sensors`, the documentation and the
//! voter's default accuracy all come from a chip's [`Description`]. Must not: open a bus, keep time, or hold a value
//! longer than one call ([`shared`] does that).
//!
//! Invariants: a chip is set up before its first value and after every fault; what a chip is asked for is checked
//! against something that a broken bus cannot imitate (an identity register, a checksum, a reserved bit, the
//! configuration that was written); a chip that lost its configuration answers [`SampleFault::Reset`], never a value.

mod description;
mod registers;
pub mod shared;

pub mod ads1115;
pub mod adxl345;
pub mod bme280;
pub mod bmp388;
pub mod ina219;
pub mod ina226;
pub mod lis3dh;
pub mod lm75;
pub mod max31855;
pub mod max31865;
pub mod mcp3008;
pub mod mcp9808;
pub mod mpu6050;
pub mod pmsx003;
pub mod scd4x;
pub mod sht3x;
pub mod sht4x;
pub mod tmp102;
pub mod tmp117;

use embedded_hal::{delay::DelayNs, i2c::I2c, spi::SpiDevice};

use crate::SampleFault;
use crate::wire::{Line, NowUs};

pub use description::{
    Accuracy, Allowed, BusKind, Channel, ChipConfig, Description, Identity, OptionKey,
};

/// The most channels that a chip may have.
pub const CHANNELS_MAX: usize = 32;

/// Every chip, in the order of the documentation.
pub const CHIPS: [&Description; 20] = [
    &tmp102::DESCRIPTION,
    &lm75::DESCRIPTION,
    &tmp117::DESCRIPTION,
    &mcp9808::DESCRIPTION,
    &sht3x::DESCRIPTION,
    &sht4x::DESCRIPTION,
    &bme280::DESCRIPTION,
    &bme280::DESCRIPTION_BMP280,
    &bmp388::DESCRIPTION,
    &scd4x::DESCRIPTION,
    &ads1115::DESCRIPTION,
    &mcp3008::DESCRIPTION,
    &ina219::DESCRIPTION,
    &ina226::DESCRIPTION,
    &lis3dh::DESCRIPTION,
    &adxl345::DESCRIPTION,
    &mpu6050::DESCRIPTION,
    &max31855::DESCRIPTION,
    &max31865::DESCRIPTION,
    &pmsx003::DESCRIPTION,
];

/// The description of a chip by its name in the configuration.
#[must_use]
pub fn find(kind: &str) -> Option<&'static Description> {
    CHIPS.into_iter().find(|chip| chip.kind == kind)
}

/// A chip that is asked for its channels.
pub trait Chip: Send {
    /// Brings the chip into the state in which it measures, and makes sure that it is the chip that it should be.
    /// Called before the first measurement and after every fault but [`SampleFault::NotReady`].
    ///
    /// # Errors
    /// Why the chip does not measure.
    fn set_up(&mut self) -> Result<(), SampleFault>;

    /// Measures `channel`, and writes it and everything that comes with it into `values`.
    ///
    /// # Errors
    /// A fault of the whole chip. A fault of one channel is written as its value.
    fn measure(&mut self, channel: usize, values: &mut Values) -> Result<(), SampleFault>;
}

/// What one measurement gave, by channel.
#[derive(Clone, Debug)]
pub struct Values {
    taken: [Option<Result<f64, SampleFault>>; CHANNELS_MAX],
}

impl Default for Values {
    fn default() -> Self {
        Self {
            taken: [None; CHANNELS_MAX],
        }
    }
}

impl Values {
    /// Notes what a channel gave. A channel beyond the last is left out.
    pub fn set(&mut self, channel: usize, value: Result<f64, SampleFault>) {
        if let Some(slot) = self.taken.get_mut(channel) {
            *slot = Some(value);
        }
    }

    /// Takes what a channel gave, once.
    pub fn take(&mut self, channel: usize) -> Option<Result<f64, SampleFault>> {
        self.taken.get_mut(channel)?.take()
    }

    /// Gives every channel the same fault.
    pub fn fail(&mut self, fault: SampleFault) {
        self.taken = [Some(Err(fault)); CHANNELS_MAX];
    }
}

/// A driver for a chip on I2C; `None` when the configuration names another kind of chip.
pub fn on_i2c<B, D>(config: &ChipConfig, bus: B, delay: D) -> Option<Box<dyn Chip>>
where
    B: I2c + Send + 'static,
    B::Error: Into<SampleFault>,
    D: DelayNs + Send + 'static,
{
    let at = config.address;
    let options = &config.options;
    Some(match config.description.kind {
        "tmp102" => Box::new(tmp102::Tmp102Chip::new(bus, at)),
        "lm75" => Box::new(lm75::Lm75::new(bus, at)),
        "tmp117" => Box::new(tmp117::Tmp117::new(bus, at)),
        "mcp9808" => Box::new(mcp9808::Mcp9808::new(bus, at)),
        "sht3x" => Box::new(sht3x::Sht3x::new(bus, delay, at)),
        "sht4x" => Box::new(sht4x::Sht4x::new(bus, delay, at)),
        "bme280" => Box::new(bme280::Bme280::new(bus, delay, at, bme280::Model::Bme280)),
        "bmp280" => Box::new(bme280::Bme280::new(bus, delay, at, bme280::Model::Bmp280)),
        "bmp388" => Box::new(bmp388::Bmp388::new(bus, delay, at)),
        "scd4x" => Box::new(scd4x::Scd4x::new(bus, delay)),
        "ads1115" => Box::new(ads1115::Ads1115::new(bus, delay, at, options)),
        "ina219" => Box::new(ina219::Ina219::new(bus, at, options)),
        "ina226" => Box::new(ina226::Ina226::new(bus, at, options)),
        "adxl345" => Box::new(adxl345::Adxl345::new(bus, at, options)),
        "lis3dh" => Box::new(lis3dh::Lis3dh::new(bus, at, options)),
        "mpu6050" => Box::new(mpu6050::Mpu6050::new(bus, delay, at, options)),
        _ => return None,
    })
}

/// A driver for a chip on SPI; `None` when the configuration names another kind of chip.
pub fn on_spi<B, D>(config: &ChipConfig, bus: B, delay: D) -> Option<Box<dyn Chip>>
where
    B: SpiDevice + Send + 'static,
    D: DelayNs + Send + 'static,
{
    let options = &config.options;
    Some(match config.description.kind {
        "mcp3008" => Box::new(mcp3008::Mcp3008::new(bus, options)),
        "max31855" => Box::new(max31855::Max31855::new(bus)),
        "max31865" => Box::new(max31865::Max31865::new(bus, delay, options)),
        _ => return None,
    })
}

/// A driver for a sensor on a serial line; `None` when the configuration names another kind of chip.
pub fn on_serial<L>(config: &ChipConfig, line: L, now_us: NowUs) -> Option<Box<dyn Chip>>
where
    L: Line + 'static,
{
    match config.description.kind {
        "pmsx003" => Some(Box::new(pmsx003::Pmsx003::new(line, now_us))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{
        Allowed, BusKind, CHANNELS_MAX, CHIPS, ChipConfig, find, on_i2c, on_serial, on_spi,
    };
    use embedded_hal_mock::eh1::{delay::NoopDelay, i2c, spi};
    use std::collections::BTreeSet;

    struct Silent;

    impl crate::wire::Line for Silent {
        fn read(&mut self, _: &mut [u8]) -> Result<usize, crate::SampleFault> {
            Ok(0)
        }

        fn write(&mut self, _: &[u8]) -> Result<usize, crate::SampleFault> {
            Ok(0)
        }
    }

    #[test]
    fn every_chip_has_a_driver_on_its_bus() {
        for chip in CHIPS {
            let config = ChipConfig::new(chip, chip.channels[0].name).unwrap();
            let mut i2c = i2c::Mock::new(&[]);
            let mut spi = spi::Mock::<u8>::new(&[]);
            let by_i2c = on_i2c(&config, i2c.clone(), NoopDelay::new()).is_some();
            let by_spi = on_spi(&config, spi.clone(), NoopDelay::new()).is_some();
            assert_eq!(by_i2c, chip.bus == BusKind::I2c, "{}", chip.kind);
            assert_eq!(by_spi, chip.bus == BusKind::Spi, "{}", chip.kind);
            let by_serial = on_serial(&config, Silent, Box::new(|| 0)).is_some();
            assert_eq!(by_serial, chip.bus == BusKind::Serial, "{}", chip.kind);
            i2c.done();
            spi.done();
        }
    }

    /// The line of docs/sensors.md for a chip.
    fn line(chip: &super::Description) -> String {
        // The features of the three axes read alike: the first stands for all.
        let told = |channel: &&super::Channel| {
            !["-y", "-z"].iter().any(|axis| channel.name.ends_with(axis))
        };
        let channels: Vec<String> = chip
            .channels
            .iter()
            .filter(told)
            .map(|channel| {
                let name = channel.name.replace("-x", "-x/y/z");
                let mut text = format!("`{name}` {}", channel.unit);
                if let Some((low, high)) = channel.range {
                    text.push_str(&format!(" {low:.0} to {high:.0}"));
                }
                if let Some(accuracy) = channel.accuracy {
                    text.push_str(&format!(" (\u{b1} {accuracy})"));
                }
                text
            })
            .collect();
        let addresses = match chip.addresses {
            [] => String::new(),
            [one] => format!(" {one:#04x}"),
            [first, .., last] => format!(" {first:#04x}-{last:#04x}"),
        };
        format!(
            "| `{}` | {} | {}{addresses} | {} | {} | {} |",
            chip.kind,
            chip.name,
            chip.bus,
            channels.join(", "),
            chip.datasheet,
            chip.driver
        )
    }

    #[test]
    fn the_documentation_has_every_chip_as_it_is() {
        let text = include_str!("../../docs/sensors.md");
        let missing: Vec<String> = CHIPS
            .into_iter()
            .map(line)
            .filter(|line| !text.contains(line.as_str()))
            .collect();
        assert!(missing.is_empty(), "missing:\n{}", missing.join("\n"));
        for option in CHIPS.iter().flat_map(|chip| chip.options) {
            let line = format!(
                "| `{}` | {} | {} | {} |",
                option.key, option.allowed, option.default, option.meaning
            );
            assert!(text.contains(&line), "missing:\n{line}");
        }
    }

    #[test]
    fn descriptions_are_whole() {
        let kinds: BTreeSet<&str> = CHIPS.iter().map(|chip| chip.kind).collect();
        assert_eq!(kinds.len(), CHIPS.len());
        for chip in CHIPS {
            assert!(find(chip.kind).is_some_and(|found| found.name == chip.name));
            assert!(!chip.channels.is_empty() && chip.channels.len() <= CHANNELS_MAX);
            assert!(!chip.datasheet.is_empty() && !chip.driver.is_empty());
            assert_eq!(
                chip.addresses.is_empty(),
                chip.bus != BusKind::I2c,
                "{}",
                chip.kind
            );
            let names: BTreeSet<&str> = chip.channels.iter().map(|channel| channel.name).collect();
            assert_eq!(names.len(), chip.channels.len(), "{}", chip.kind);
            for channel in chip.channels {
                let accuracy = channel.accuracy.unwrap_or(super::Accuracy::absolute(1.0));
                assert!(accuracy.absolute >= 0.0 && accuracy.relative >= 0.0);
                assert!(
                    accuracy.absolute + accuracy.relative > 0.0,
                    "{}",
                    channel.name
                );
                if let Some((low, high)) = channel.range {
                    assert!(low < high, "{} {}", chip.kind, channel.name);
                }
            }
            for option in chip.options {
                assert!(option.allowed.contains(option.default), "{}", option.key);
                if let Allowed::OneOf(values) = option.allowed {
                    assert!(!values.is_empty());
                }
            }
        }
    }
}
