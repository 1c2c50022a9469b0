//! Every chip on a bus that answers anything: no panic, no endless loop, and no value that is no number.

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use embedded_hal::delay::DelayNs;
    use embedded_hal::i2c::{self, I2c, Operation as I2cOperation};
    use embedded_hal::spi::{self, Operation as SpiOperation, SpiDevice};
    use proptest::prelude::*;
    use quorate_firmware_bridge::SampleFault;
    use quorate_firmware_bridge::chips::{self, BusKind, CHIPS, Chip, ChipConfig, Values};

    /// Bytes of a small generator (Marsaglia's xorshift); now and then a fault, or a byte again and again.
    struct Noise {
        state: u64,
        transfers: u32,
    }

    /// Transfers of one measurement at most; the vibration features of the MPU-6050 read a block of samples.
    const TRANSFERS_MAX: u32 = 100_000;

    impl Noise {
        fn next(&mut self) -> u8 {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.state.to_le_bytes()[3]
        }

        fn fill(&mut self, bytes: &mut [u8]) {
            self.transfers += 1;
            assert!(self.transfers < TRANSFERS_MAX, "it does not end");
            match self.next() {
                0..=31 => bytes.fill(0),
                32..=63 => bytes.fill(0xff),
                _ => bytes.iter_mut().for_each(|byte| *byte = self.next()),
            }
        }

        fn fails(&mut self) -> bool {
            self.next() == 0
        }
    }

    #[derive(Debug)]
    struct Failed;

    impl From<Failed> for SampleFault {
        fn from(_: Failed) -> Self {
            Self::Timeout
        }
    }

    impl i2c::Error for Failed {
        fn kind(&self) -> i2c::ErrorKind {
            i2c::ErrorKind::Other
        }
    }

    impl spi::Error for Failed {
        fn kind(&self) -> spi::ErrorKind {
            spi::ErrorKind::Other
        }
    }

    impl i2c::ErrorType for Noise {
        type Error = Failed;
    }

    impl spi::ErrorType for Noise {
        type Error = Failed;
    }

    impl I2c for Noise {
        fn transaction(
            &mut self,
            _: u8,
            operations: &mut [I2cOperation<'_>],
        ) -> Result<(), Failed> {
            if self.fails() {
                return Err(Failed);
            }
            for operation in operations {
                if let I2cOperation::Read(bytes) = operation {
                    self.fill(bytes);
                }
            }
            Ok(())
        }
    }

    impl SpiDevice for Noise {
        fn transaction(&mut self, operations: &mut [SpiOperation<'_, u8>]) -> Result<(), Failed> {
            if self.fails() {
                return Err(Failed);
            }
            for operation in operations {
                match operation {
                    SpiOperation::Read(bytes)
                    | SpiOperation::Transfer(bytes, _)
                    | SpiOperation::TransferInPlace(bytes) => self.fill(bytes),
                    _ => {}
                }
            }
            Ok(())
        }
    }

    struct NoDelay;

    impl DelayNs for NoDelay {
        fn delay_ns(&mut self, _: u32) {}
    }

    fn measured(
        chip: &mut dyn Chip,
        channel: usize,
        set_up: bool,
    ) -> Option<Result<f64, SampleFault>> {
        // A driver must also survive being asked without having been set up.
        if set_up && chip.set_up().is_err() {
            return None;
        }
        let mut values = Values::default();
        chip.measure(channel, &mut values).ok()?;
        values.take(channel)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_chip_panics_or_gives_what_is_no_number(seed in 1_u64.., set_up in any::<bool>()) {
            for description in CHIPS {
                for place in description.channels {
                    let config = ChipConfig::new(description, place.name).unwrap();
                    let noise = Noise { state: seed, transfers: 0 };
                    let chip = match description.bus {
                        BusKind::I2c => chips::on_i2c(&config, noise, NoDelay),
                        BusKind::Spi => chips::on_spi(&config, noise, NoDelay),
                        _ => continue,
                    };
                    let mut chip = chip.unwrap();
                    for _ in 0..4 {
                        if let Some(Ok(value)) = measured(chip.as_mut(), config.channel, set_up) {
                            prop_assert!(value.is_finite(), "{} {}: {value}", description.kind, place.name);
                        }
                    }
                }
            }
        }
    }
}
