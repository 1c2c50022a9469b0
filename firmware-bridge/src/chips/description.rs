//! What a chip is, as data.
//!
//! Owns the shape of a description and the check of a chip's configuration against it. Must not: touch a bus.

use core::fmt;

use embedded_hal::i2c::I2c;

use crate::SampleFault;
use crate::config::ConfigError;

/// What a chip hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BusKind {
    /// I2C, with an address.
    I2c,
    /// SPI, one device file per chip select.
    Spi,
    /// A serial line, with a microcontroller or a sensor that sends by itself.
    Serial,
    /// Modbus, over a serial line or TCP; no chip of the list hangs on one.
    Modbus,
}

impl BusKind {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::I2c => "i2c",
            Self::Spi => "spi",
            Self::Serial => "serial",
            Self::Modbus => "modbus",
        }
    }
}

impl fmt::Display for BusKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One kind of chip.
#[derive(Debug)]
pub struct Description {
    /// Its name in the configuration.
    pub kind: &'static str,
    /// Its maker and name.
    pub name: &'static str,
    /// What it hangs on.
    pub bus: BusKind,
    /// The seven-bit addresses that its pins can choose, the usual one first; empty where it has none.
    pub addresses: &'static [u8],
    /// The mode of SPI that it wants, 0 to 3; 0 where it is not on SPI.
    pub spi_mode: u8,
    /// How it says what it is; `None` for chips that do not.
    pub identity: Option<Identity>,
    /// What it measures.
    pub channels: &'static [Channel],
    /// What has to be said about its wiring.
    pub options: &'static [OptionKey],
    /// The crate that drives it, or why it is our own file.
    pub driver: &'static str,
    /// The document that ranges and accuracies are from.
    pub datasheet: &'static str,
}

/// A register whose content tells a chip from others.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The register.
    pub register: u8,
    /// How many bytes it has, 1 or 2; the first is the high one.
    pub bytes: usize,
    /// The bits that count.
    pub mask: u16,
    /// What they are.
    pub value: u16,
}

impl Identity {
    /// Whether what answers at an address is this chip. Reads the register and nothing else.
    ///
    /// # Errors
    /// The cause when the register cannot be read.
    pub fn matches<B>(&self, bus: &mut B, address: u8) -> Result<bool, SampleFault>
    where
        B: I2c,
        B::Error: Into<SampleFault>,
    {
        let mut bytes = [0; 2];
        let from = 2 - self.bytes.clamp(1, 2);
        bus.write_read(address, &[self.register], &mut bytes[from..])
            .map_err(Into::into)?;
        Ok(u16::from_be_bytes(bytes) & self.mask == self.value)
    }
}

/// One thing that a chip measures.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// Its name in the configuration.
    pub name: &'static str,
    /// The unit of its values.
    pub unit: &'static str,
    /// What it can measure; `None` where that depends on the wiring.
    pub range: Option<(f64, f64)>,
    /// How far a sound chip may be off; `None` where the datasheet does not say.
    pub accuracy: Option<Accuracy>,
}

/// How far a sound chip may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// In the unit of the channel.
    pub absolute: f64,
    /// As a share of the value.
    pub relative: f64,
}

impl Accuracy {
    /// So much, whatever the value.
    #[must_use]
    pub const fn absolute(absolute: f64) -> Self {
        Self {
            absolute,
            relative: 0.0,
        }
    }

    /// So much, and a share of the value.
    #[must_use]
    pub const fn with_share(absolute: f64, relative: f64) -> Self {
        Self { absolute, relative }
    }
}

impl fmt::Display for Accuracy {
    /// As the configuration has it: `0.5`, `20%` or `5 + 20%`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded, because 0.0015 times 100 is not 0.15.
        let percent = (self.relative * 1e6).round() / 1e4;
        if self.relative == 0.0 {
            write!(formatter, "{}", self.absolute)
        } else if self.absolute == 0.0 {
            write!(formatter, "{percent}%")
        } else {
            write!(formatter, "{} + {percent}%", self.absolute)
        }
    }
}

/// Something about the wiring that the chip cannot know; always a number.
#[derive(Clone, Copy, Debug)]
pub struct OptionKey {
    /// Its key, with its unit last.
    pub key: &'static str,
    /// What it is when not given.
    pub default: f64,
    /// What it may be.
    pub allowed: Allowed,
    /// What it means.
    pub meaning: &'static str,
}

/// The values that an option may have.
#[derive(Clone, Copy, Debug)]
pub enum Allowed {
    /// From the first to the second.
    Between(f64, f64),
    /// One of these.
    OneOf(&'static [f64]),
}

impl Allowed {
    /// Whether a value may stand.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        match self {
            Self::Between(low, high) => (*low..=*high).contains(&value),
            Self::OneOf(values) => values.contains(&value),
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Between(low, high) => write!(formatter, "{low} to {high}"),
            Self::OneOf(values) => {
                let words: Vec<String> = values.iter().map(f64::to_string).collect();
                formatter.write_str(&words.join(", "))
            }
        }
    }
}

/// Which channel of which chip.
#[derive(Clone, Debug)]
pub struct ChipConfig {
    /// The kind of chip.
    pub description: &'static Description,
    /// Its address; 0 where it has none.
    pub address: u8,
    /// The channel, as a place in [`Description::channels`].
    pub channel: usize,
    /// One value for each of [`Description::options`].
    pub options: Vec<f64>,
}

impl ChipConfig {
    /// A channel of a chip at its usual address with its usual wiring.
    ///
    /// # Errors
    /// When the chip has no such channel.
    pub fn new(description: &'static Description, channel: &str) -> Result<Self, ConfigError> {
        let place = description
            .channels
            .iter()
            .position(|known| known.name == channel)
            .ok_or_else(|| {
                let names: Vec<&str> = description
                    .channels
                    .iter()
                    .map(|known| known.name)
                    .collect();
                ConfigError::text("channel", channel, names.join(", "))
            })?;
        Ok(Self {
            description,
            address: description.addresses.first().copied().unwrap_or(0),
            channel: place,
            options: description
                .options
                .iter()
                .map(|option| option.default)
                .collect(),
        })
    }

    /// Sets the address. It is taken as a wide number so that a ten-bit address can be refused in words.
    ///
    /// # Errors
    /// When no chip of this kind can have it.
    pub fn set_address(&mut self, address: u16) -> Result<(), ConfigError> {
        let known = self.description.addresses;
        let fitting = u8::try_from(address)
            .ok()
            .filter(|address| known.contains(address));
        if let Some(address) = fitting {
            self.address = address;
            return Ok(());
        }
        let addresses: Vec<String> = known.iter().map(|known| format!("{known:#04x}")).collect();
        let mut expected = match addresses.as_slice() {
            [] => "none: the device file of the bus names the chip".to_owned(),
            [one] => one.clone(),
            [first, .., last] => format!("{first} to {last}"),
        };
        if (0x80..0x400).contains(&address) {
            expected.push_str("; addresses of ten bits are not supported: no chip here has one");
        }
        Err(ConfigError::number(
            "address",
            format_args!("{address:#04x}"),
            expected,
        ))
    }

    /// Sets an option of the wiring.
    ///
    /// # Errors
    /// When the chip has no such option, or it cannot have this value.
    pub fn set_option(&mut self, key: &str, value: f64) -> Result<(), ConfigError> {
        let known = self.description.options;
        let Some(place) = known.iter().position(|option| option.key == key) else {
            let names: Vec<&str> = known.iter().map(|option| option.key).collect();
            let expected = match names.as_slice() {
                [] => format!(
                    "no key beyond bus, address and channel for a {}",
                    self.description.kind
                ),
                names => format!("one of bus, address, channel, {}", names.join(", ")),
            };
            return Err(ConfigError::text("key", key, expected));
        };
        let allowed = &known[place].allowed;
        if !allowed.contains(value) {
            return Err(ConfigError::number(
                known[place].key,
                format_args!("{value}"),
                allowed.to_string(),
            ));
        }
        self.options[place] = value;
        Ok(())
    }

    /// What the channel is.
    #[must_use]
    pub fn channel(&self) -> &'static Channel {
        &self.description.channels[self.channel]
    }
}

impl fmt::Display for ChipConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.description.name)?;
        if self.description.bus == BusKind::I2c {
            write!(formatter, " at I2C address {:#04x}", self.address)?;
        }
        let channel = self.channel();
        write!(formatter, ", {} in {}", channel.name, channel.unit)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Accuracy, ChipConfig};
    use crate::chips::{ads1115, bme280, mcp3008, tmp117};
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    #[test]
    fn what_a_chip_cannot_have_is_refused_in_words() {
        let message = |channel: &str| {
            ChipConfig::new(&bme280::DESCRIPTION, channel)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message("temp"),
            "channel = \"temp\": expected temperature, pressure, humidity"
        );
        let mut config = ChipConfig::new(&bme280::DESCRIPTION, "humidity").unwrap();
        assert_eq!(
            config.to_string(),
            "Bosch BME280 at I2C address 0x76, humidity in percent"
        );
        config.set_address(0x77).unwrap();
        assert_eq!(
            config.set_address(0x48).unwrap_err().to_string(),
            "address = 0x48: expected 0x76 to 0x77"
        );
        assert_eq!(
            config.set_address(0x276).unwrap_err().to_string(),
            "address = 0x276: expected 0x76 to 0x77; addresses of ten bits are not supported: no chip here has one"
        );
        assert_eq!(
            config.set_option("shunt_ohm", 1.0).unwrap_err().to_string(),
            "key = \"shunt_ohm\": expected no key beyond bus, address and channel for a bme280"
        );
        let mut config = ChipConfig::new(&ads1115::DESCRIPTION, "in0").unwrap();
        config.set_option("full_scale_volt", 4.096).unwrap();
        assert_eq!(
            config
                .set_option("full_scale_volt", 5.0)
                .unwrap_err()
                .to_string(),
            "full_scale_volt = 5: expected 6.144, 4.096, 2.048, 1.024, 0.512, 0.256"
        );
        let mut config = ChipConfig::new(&mcp3008::DESCRIPTION, "in7").unwrap();
        assert!(config.set_option("reference_volt", f64::NAN).is_err());
        assert!(config.set_address(0x48).is_err());
    }

    #[test]
    fn an_identity_is_read_with_as_many_bytes_as_it_has() {
        for (identity, bytes, matches) in [
            (bme280::DESCRIPTION.identity, vec![0x60], true),
            (bme280::DESCRIPTION.identity, vec![0x58], false),
            (tmp117::DESCRIPTION.identity, vec![0x11, 0x17], true),
            (tmp117::DESCRIPTION.identity, vec![0xff, 0xff], false),
        ] {
            let identity = identity.unwrap();
            let transfer = Transaction::write_read(0x48, vec![identity.register], bytes);
            let mut bus = Mock::new(&[transfer]);
            assert_eq!(identity.matches(&mut bus, 0x48), Ok(matches));
            bus.done();
        }
    }

    #[test]
    fn accuracy_reads_as_the_configuration_has_it() {
        assert_eq!(Accuracy::absolute(0.5).to_string(), "0.5");
        assert_eq!(Accuracy::with_share(0.0, 0.2).to_string(), "20%");
        assert_eq!(
            Accuracy::with_share(0.001, 0.0015).to_string(),
            "0.001 + 0.15%"
        );
    }
}
