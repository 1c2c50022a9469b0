//! Registers over I2C, and the faults that every driver shares.
//!
//! Owns the way from a bus error to a cause. Must not: know a chip.

use embedded_hal::{i2c::I2c, spi::SpiDevice};

use crate::SampleFault;

/// A chip with registers that are addressed by one byte.
#[derive(Debug)]
pub(super) struct Registers<B> {
    bus: B,
    address: u8,
}

impl<B> Registers<B>
where
    B: I2c,
    B::Error: Into<SampleFault>,
{
    pub(super) fn new(bus: B, address: u8) -> Self {
        Self { bus, address }
    }

    /// Reads bytes from a register on, in one transfer with a repeated start.
    pub(super) fn read<const N: usize>(&mut self, register: u8) -> Result<[u8; N], SampleFault> {
        let mut bytes = [0; N];
        self.read_into(register, &mut bytes)?;
        Ok(bytes)
    }

    /// The same into a buffer.
    pub(super) fn read_into(&mut self, register: u8, bytes: &mut [u8]) -> Result<(), SampleFault> {
        self.bus
            .write_read(self.address, &[register], bytes)
            .map_err(Into::into)
    }

    /// Reads one byte.
    pub(super) fn read_byte(&mut self, register: u8) -> Result<u8, SampleFault> {
        self.read::<1>(register).map(|[byte]| byte)
    }

    /// Reads two bytes, the high one first.
    pub(super) fn read_word(&mut self, register: u8) -> Result<u16, SampleFault> {
        self.read(register).map(u16::from_be_bytes)
    }

    /// Writes one byte.
    pub(super) fn write_byte(&mut self, register: u8, byte: u8) -> Result<(), SampleFault> {
        self.bus
            .write(self.address, &[register, byte])
            .map_err(Into::into)
    }

    /// Writes two bytes, the high one first.
    pub(super) fn write_word(&mut self, register: u8, word: u16) -> Result<(), SampleFault> {
        let [high, low] = word.to_be_bytes();
        self.bus
            .write(self.address, &[register, high, low])
            .map_err(Into::into)
    }

    /// Reads a word twice and takes it when both agree: for what must not change, such as an identity.
    pub(super) fn expect_word(
        &mut self,
        register: u8,
        mask: u16,
        value: u16,
    ) -> Result<(), SampleFault> {
        for _ in 0..2 {
            expect(self.read_word(register)? & mask == value)?;
        }
        Ok(())
    }

    /// The same for a byte.
    pub(super) fn expect_byte(&mut self, register: u8, values: &[u8]) -> Result<(), SampleFault> {
        for _ in 0..2 {
            let byte = self.read_byte(register)?;
            expect(values.contains(&byte))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn release(self) -> B {
        self.bus
    }
}

/// What the documentation does not allow is `Malformed`.
pub(super) fn expect(holds: bool) -> Result<(), SampleFault> {
    if holds {
        Ok(())
    } else {
        Err(SampleFault::Malformed)
    }
}

/// A configuration that is not the one that was written is `Reset`.
pub(super) fn kept(holds: bool) -> Result<(), SampleFault> {
    if holds {
        Ok(())
    } else {
        Err(SampleFault::Reset)
    }
}

/// A transfer over SPI, in place. SPI has no acknowledge: what answers must be told from the bytes.
pub(super) fn exchange<B: SpiDevice>(bus: &mut B, bytes: &mut [u8]) -> Result<(), SampleFault> {
    bus.transfer_in_place(bytes)
        .map_err(|_| SampleFault::BusError { errno: None })
}

#[cfg(test)]
pub(super) mod testing {
    //! A chip's samples under the rules of [`shared`](crate::chips::shared), without a clock.

    use crate::SampleFault;
    use crate::chips::{Chip, Values};

    /// Every channel of `count` after one measurement.
    pub(in crate::chips) fn sample(
        chip: &mut impl Chip,
        channel: usize,
        count: usize,
    ) -> Result<Vec<Option<Result<f64, SampleFault>>>, SampleFault> {
        let mut values = Values::default();
        chip.measure(channel, &mut values)?;
        Ok((0..count).map(|channel| values.take(channel)).collect())
    }

    /// One channel's value, set up first.
    pub(in crate::chips) fn set_up_and_sample(
        chip: &mut impl Chip,
        channel: usize,
    ) -> Result<f64, SampleFault> {
        chip.set_up()?;
        let mut values = Values::default();
        chip.measure(channel, &mut values)?;
        values.take(channel).unwrap_or(Err(SampleFault::Malformed))
    }
}
