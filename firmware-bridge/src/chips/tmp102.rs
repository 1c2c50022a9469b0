//! TMP102 temperature chip (Texas Instruments), on any `embedded-hal` I2C bus. Unit: degree Celsius.
//!
//! Owns the chip's two registers. TMP112, TMP75 and TMP105 have the same ones and work too. Source of all
//! values: the TMP102 datasheet, SBOS397. Accuracy there: 2 K from -25 to 85 °C, 3 K from -40 to 125 °C.
//!
//! An own file because no crate serves: tmp1x2 1.1.0 hides the register bits and the configuration, so that
//! neither a bus stuck high nor a chip in shutdown (which repeats its last value for ever) can be seen, and it
//! brings eleven crates for its asynchronous variant; lm75 1.0.0 reads nine bits of the twelve.
//!
//! Invariants: a register whose reserved bits are set is `Malformed`, never a value (a bus stuck high reads as
//! 0xffff). A register of all zeros counts as 0 °C only when the configuration register, which is never zero,
//! reads right after it. The configuration is checked before the first value and after every fault. What stays
//! open: for 35 ms after a loss of power the register holds 0 °C by itself; such a zero is the vote's business.

use core::fmt;

use embedded_hal::i2c::I2c;

use super::{Accuracy, BusKind, Channel, Chip, Description, Values};
use crate::config::ConfigError;
use crate::{Probe, SampleFault};

/// What the chip is. It has no identity register.
pub const DESCRIPTION: Description = Description {
    kind: "tmp102",
    name: "Texas Instruments TMP102",
    bus: BusKind::I2c,
    addresses: &[0x48, 0x49, 0x4a, 0x4b],
    spi_mode: 0,
    identity: None,
    channels: &[Channel {
        name: "temperature",
        unit: "celsius",
        range: Some((-55.0, 150.0)),
        accuracy: Some(Accuracy::absolute(2.0)),
    }],
    options: &[],
    driver: "own file: tmp1x2 hides the register bits, so a chip in shutdown would not be seen",
    datasheet: "SBOS397, 2 K from -25 to 85 \u{b0}C; TMP112, TMP75 and TMP105 have the same registers",
};

/// The addresses that the pin ADD0 can choose (datasheet).
const ADDRESSES: core::ops::RangeInclusive<u8> = 0x48..=0x4b;
/// Degrees per count, in both modes.
const CELSIUS_PER_COUNT: f64 = 0.0625;

const REGISTER_TEMPERATURE: u8 = 0x00;
const REGISTER_CONFIGURATION: u8 = 0x01;

/// First configuration byte: R1 and R0, read-only and 1 in a TMP102; in a TMP75 they choose twelve bits.
const RESOLUTION_TWELVE_BITS: u8 = 0x60;
/// First configuration byte: the chip sleeps and keeps its last value.
const SHUTDOWN: u8 = 0x01;
/// First configuration byte: writing 1 starts one conversion; what it reads as changes by itself.
const ONE_SHOT: u8 = 0x80;
/// Second temperature byte: thirteen bits (up to 150 °C) instead of twelve.
const EXTENDED_MODE: u8 = 0x01;

/// Where the chip is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmp102Config {
    /// The seven-bit address, 0x48 to 0x4b. Default 0x48.
    pub address: u8,
}

impl Default for Tmp102Config {
    fn default() -> Self {
        Self {
            address: *ADDRESSES.start(),
        }
    }
}

impl Tmp102Config {
    /// Checks the address.
    ///
    /// # Errors
    /// When no TMP102 can have it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if ADDRESSES.contains(&self.address) {
            Ok(())
        } else {
            Err(ConfigError::number(
                "address",
                format_args!("{:#04x}", self.address),
                "0x48 to 0x4b",
            ))
        }
    }
}

impl fmt::Display for Tmp102Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "TMP102 temperature chip at I2C address {:#04x}, celsius",
            self.address
        )
    }
}

/// How sure we are that the chip converts with twelve bits.
///
/// | state | on reading the configuration | goes to |
/// |---|---|---|
/// | Unknown | right | Ready |
/// | Unknown | wrong: written anew, the sample is `NotReady` | Written |
/// | Written | right | Ready |
/// | Written | still wrong, the sample is `Malformed`: no TMP102 | Unknown |
/// | any | any fault | Unknown |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Written,
    Ready,
}

/// A TMP102 on a bus. Errors of the bus become causes by `Into<SampleFault>`; for `ErrorKind` and the Linux bus
/// this crate provides it.
#[derive(Debug)]
pub struct Tmp102<B> {
    bus: B,
    address: u8,
    state: State,
}

impl<B> Tmp102<B>
where
    B: I2c,
    B::Error: Into<SampleFault>,
{
    /// Takes the bus; the chip is first asked by the first sample.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(bus: B, config: &Tmp102Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            bus,
            address: config.address,
            state: State::Unknown,
        })
    }

    /// Gives the bus back.
    pub fn release(self) -> B {
        self.bus
    }

    fn read_register(&mut self, register: u8) -> Result<[u8; 2], SampleFault> {
        let mut bytes = [0; 2];
        self.bus
            .write_read(self.address, &[register], &mut bytes)
            .map_err(Into::into)?;
        Ok(bytes)
    }

    /// Makes sure that the chip converts continuously with twelve bits. Leaves every other bit (alert limits,
    /// polarity, rate) as it is.
    fn ensure_ready(&mut self) -> Result<(), SampleFault> {
        if self.state == State::Ready {
            return Ok(());
        }
        let [first, second] = self.read_register(REGISTER_CONFIGURATION)?;
        if is_converting(first) {
            self.state = State::Ready;
            return Ok(());
        }
        if self.state == State::Written {
            return Err(SampleFault::Malformed);
        }
        let first = (first | RESOLUTION_TWELVE_BITS) & !(SHUTDOWN | ONE_SHOT);
        self.bus
            .write(self.address, &[REGISTER_CONFIGURATION, first, second])
            .map_err(Into::into)?;
        self.state = State::Written;
        Err(SampleFault::NotReady)
    }

    fn read_temperature(&mut self) -> Result<f64, SampleFault> {
        self.ensure_ready()?;
        let register = self.read_register(REGISTER_TEMPERATURE)?;
        if register == [0, 0] {
            let [first, _] = self.read_register(REGISTER_CONFIGURATION)?;
            if !is_converting(first) {
                return Err(SampleFault::Malformed);
            }
        }
        celsius_from_register(register)
    }
}

impl<B> Probe for Tmp102<B>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
{
    /// The temperature in degrees Celsius, in steps of 0.0625. The first sample after the chip had to be
    /// configured is `NotReady`: a conversion takes up to 35 ms.
    fn sample(&mut self) -> Result<f64, SampleFault> {
        let result = self.read_temperature();
        // The configuration that was just written is the one case where a fault keeps the state.
        if matches!(result, Err(fault) if fault != SampleFault::NotReady) {
            self.state = State::Unknown;
        }
        result
    }
}

/// The same as a chip of the list.
#[derive(Debug)]
pub struct Tmp102Chip<B>(Tmp102<B>);

impl<B> Tmp102Chip<B>
where
    B: I2c,
    B::Error: Into<SampleFault>,
{
    /// A chip at an address that [`DESCRIPTION`] allows.
    pub fn new(bus: B, address: u8) -> Self {
        Self(Tmp102 {
            bus,
            address,
            state: State::Unknown,
        })
    }
}

impl<B> Chip for Tmp102Chip<B>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
{
    /// The chip sets itself up in its samples, which know more of its state.
    fn set_up(&mut self) -> Result<(), SampleFault> {
        Ok(())
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let celsius = self.0.sample()?;
        values.set(0, Ok(celsius));
        Ok(())
    }
}

fn is_converting(first_configuration_byte: u8) -> bool {
    first_configuration_byte & (RESOLUTION_TWELVE_BITS | SHUTDOWN) == RESOLUTION_TWELVE_BITS
}

/// Decodes the temperature register, first byte first: two's complement, aligned left. The chip itself says by
/// the lowest bit whether it is in extended mode. The bits between are always zero.
fn celsius_from_register(register: [u8; 2]) -> Result<f64, SampleFault> {
    let [_, second] = register;
    let bits = if second & EXTENDED_MODE == 0 { 12 } else { 13 };
    let shift = 16 - bits;
    let reserved = ((1_u8 << shift) - 1) & !EXTENDED_MODE;
    if second & reserved != 0 {
        return Err(SampleFault::Malformed);
    }
    let count = i16::from_be_bytes(register) >> shift;
    Ok(f64::from(count) * CELSIUS_PER_COUNT)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Tmp102, Tmp102Config, celsius_from_register};
    use crate::{Probe, SampleFault};
    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
    use proptest::prelude::*;

    const ADDRESS: u8 = 0x48;
    const NOT_ACKNOWLEDGED: ErrorKind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);

    fn configuration(first: u8, second: u8) -> Transaction {
        Transaction::write_read(ADDRESS, vec![0x01], vec![first, second])
    }

    fn temperature(first: u8, second: u8) -> Transaction {
        Transaction::write_read(ADDRESS, vec![0x00], vec![first, second])
    }

    /// What the chip holds after power-up (datasheet).
    fn power_up() -> Transaction {
        configuration(0x60, 0xa0)
    }

    /// Plays the transfers and checks the samples, and that no transfer is left over.
    fn check(transfers: &[Transaction], samples: &[Result<f64, SampleFault>]) {
        let mut chip = Tmp102::new(Mock::new(transfers), &Tmp102Config::default()).unwrap();
        for (index, expected) in samples.iter().enumerate() {
            assert_eq!(&chip.sample(), expected, "sample {index}");
        }
        chip.release().done();
    }

    #[test]
    fn golden_registers_in_normal_mode() {
        // The datasheet's table of the 12-bit format, left-aligned as the register holds it.
        for (register, celsius) in [
            ([0x7f, 0xf0], 127.9375),
            ([0x64, 0x00], 100.0),
            ([0x50, 0x00], 80.0),
            ([0x4b, 0x00], 75.0),
            ([0x32, 0x00], 50.0),
            ([0x19, 0x00], 25.0),
            ([0x00, 0x40], 0.25),
            ([0x00, 0x10], 0.0625),
            ([0x00, 0x00], 0.0),
            ([0xff, 0xf0], -0.0625),
            ([0xff, 0xc0], -0.25),
            ([0xe7, 0x00], -25.0),
            ([0xc9, 0x00], -55.0),
            ([0x80, 0x00], -128.0),
        ] {
            assert_eq!(
                celsius_from_register(register),
                Ok(celsius),
                "{register:x?}"
            );
        }
    }

    #[test]
    fn golden_registers_in_extended_mode() {
        // The datasheet's table of the 13-bit format; the lowest bit says extended mode.
        for (register, celsius) in [
            ([0x4b, 0x01], 150.0),
            ([0x40, 0x01], 128.0),
            ([0x3f, 0xf9], 127.9375),
            ([0x32, 0x01], 100.0),
            ([0x0c, 0x81], 25.0),
            ([0x00, 0x21], 0.25),
            ([0x00, 0x01], 0.0),
            ([0xff, 0xe1], -0.25),
            ([0xf3, 0x81], -25.0),
            ([0xe4, 0x81], -55.0),
        ] {
            assert_eq!(
                celsius_from_register(register),
                Ok(celsius),
                "{register:x?}"
            );
        }
    }

    #[test]
    fn reserved_bits_are_malformed() {
        for register in [
            [0xff, 0xff],
            [0x19, 0x02],
            [0x19, 0x08],
            [0x0c, 0x83],
            [0x0c, 0x85],
        ] {
            assert_eq!(
                celsius_from_register(register),
                Err(SampleFault::Malformed),
                "{register:x?}"
            );
        }
    }

    #[test]
    fn a_chip_after_power_up_is_read_at_once() {
        check(
            &[power_up(), temperature(0x19, 0x00), temperature(0xff, 0xc0)],
            &[Ok(25.0), Ok(-0.25)],
        );
    }

    #[test]
    fn a_missing_acknowledge_is_never_zero() {
        check(
            &[
                power_up().with_error(NOT_ACKNOWLEDGED),
                power_up(),
                temperature(0, 0).with_error(NOT_ACKNOWLEDGED),
                // After the fault the configuration is checked again.
                power_up(),
                temperature(0x19, 0x00),
            ],
            &[
                Err(SampleFault::NoAcknowledge),
                Err(SampleFault::NoAcknowledge),
                Ok(25.0),
            ],
        );
    }

    #[test]
    fn other_errors_of_the_bus_are_bus_errors() {
        for kind in [
            ErrorKind::Bus,
            ErrorKind::ArbitrationLoss,
            ErrorKind::Overrun,
            ErrorKind::Other,
        ] {
            check(
                &[power_up().with_error(kind)],
                &[Err(SampleFault::BusError { errno: None })],
            );
        }
    }

    #[test]
    fn a_chip_in_shutdown_is_woken_and_its_old_value_not_taken() {
        check(
            &[
                configuration(0x7d, 0xa0),
                // Only the shutdown bit goes; fault queue, polarity, alert mode and rate stay.
                Transaction::write(ADDRESS, vec![0x01, 0x7c, 0xa0]),
                configuration(0x7c, 0xa0),
                temperature(0x19, 0x00),
            ],
            &[Err(SampleFault::NotReady), Ok(25.0)],
        );
    }

    #[test]
    fn a_tmp105_is_set_to_twelve_bits() {
        // It has one configuration byte, with nine bits after power-up.
        check(
            &[
                configuration(0x00, 0xff),
                Transaction::write(ADDRESS, vec![0x01, 0x60, 0xff]),
                configuration(0x60, 0xff),
                temperature(0x15, 0x80),
            ],
            &[Err(SampleFault::NotReady), Ok(21.5)],
        );
    }

    #[test]
    fn a_chip_that_keeps_no_configuration_is_malformed() {
        check(
            &[
                configuration(0x00, 0x00),
                Transaction::write(ADDRESS, vec![0x01, 0x60, 0x00]),
                configuration(0x00, 0x00),
                configuration(0x00, 0x00),
                Transaction::write(ADDRESS, vec![0x01, 0x60, 0x00]),
            ],
            &[
                Err(SampleFault::NotReady),
                Err(SampleFault::Malformed),
                Err(SampleFault::NotReady),
            ],
        );
    }

    #[test]
    fn zero_counts_only_when_the_configuration_reads_right() {
        check(
            &[
                power_up(),
                temperature(0, 0),
                power_up(),
                temperature(0, 0),
                configuration(0, 0),
            ],
            &[Ok(0.0), Err(SampleFault::Malformed)],
        );
    }

    #[test]
    fn only_the_four_addresses_are_taken() {
        for address in 0..=u8::MAX {
            let valid = Tmp102Config { address }.validate();
            assert_eq!(
                valid.is_ok(),
                (0x48..=0x4b).contains(&address),
                "{address:#x}"
            );
        }
        assert_eq!(
            Tmp102Config { address: 0x4c }
                .validate()
                .unwrap_err()
                .to_string(),
            "address = 0x4c: expected 0x48 to 0x4b"
        );
        assert_eq!(
            Tmp102Config { address: 0x4a }.to_string(),
            "TMP102 temperature chip at I2C address 0x4a, celsius"
        );
    }

    proptest! {
        /// Whatever is in the register: a fault, or a value that the chip can measure, on its grid.
        #[test]
        fn any_register_decodes_to_a_possible_value(register: [u8; 2]) {
            if let Ok(celsius) = celsius_from_register(register) {
                prop_assert!((-256.0..256.0).contains(&celsius));
                prop_assert_eq!((celsius * 16.0).fract(), 0.0);
            }
        }
    }
}
