//! SCD40 and SCD41 carbon dioxide chips (Sensirion), on I2C. Driven by the crate scd4x.
//!
//! Owns when the chip is started, and how a chip that lost power is told from one that has nothing new. Source: the SCD4x
//! datasheet, version 1.6. The chip has a new value every five seconds: poll it with a period of five seconds.
//!
//! Invariants: every word passed its CRC-8. A chip that measures does not answer its serial number; one that does has stopped
//! measuring and is `Reset`.

use embedded_hal::{delay::DelayNs, i2c::I2c};

use super::{Accuracy, BusKind, Channel, Chip, Description, Values};
use crate::SampleFault;

/// What the chip is. It has no identity register, but checksums and a serial number.
pub const DESCRIPTION: Description = Description {
    kind: "scd4x",
    name: "Sensirion SCD4x",
    bus: BusKind::I2c,
    addresses: &[0x62],
    spi_mode: 0,
    identity: None,
    channels: &[
        Channel {
            name: "co2",
            unit: "ppm",
            range: Some((1.0, 40_000.0)),
            accuracy: Some(Accuracy::with_share(50.0, 0.05)),
        },
        Channel {
            name: "temperature",
            unit: "celsius",
            range: Some((-10.0, 60.0)),
            accuracy: Some(Accuracy::absolute(1.5)),
        },
        Channel {
            name: "humidity",
            unit: "percent",
            range: Some((0.0, 100.0)),
            accuracy: Some(Accuracy::absolute(9.0)),
        },
    ],
    options: &[],
    driver: "scd4x",
    datasheet: "SCD4x version 1.6; SCD40: 50 ppm + 5 %, 1.5 K, 9 %",
};

/// Samples without a new value before the chip is asked whether it still measures.
const SILENT_MAX: u32 = 16;

/// An SCD4x on a bus.
#[derive(Debug)]
pub struct Scd4x<B, D> {
    bus: B,
    delay: D,
    silent: u32,
}

fn cause<E: Into<SampleFault>>(error: scd4x::Error<E>) -> SampleFault {
    match error {
        scd4x::Error::I2c(error) => error.into(),
        scd4x::Error::Crc => SampleFault::Checksum,
        _ => SampleFault::Malformed,
    }
}

impl<B, D> Scd4x<B, D>
where
    B: I2c,
    B::Error: Into<SampleFault>,
    D: DelayNs,
{
    /// The chip has one address only.
    pub fn new(bus: B, delay: D) -> Self {
        Self {
            bus,
            delay,
            silent: 0,
        }
    }

    /// A driver that knows nothing of what the chip did before: it lets every command through.
    fn driver(&mut self) -> scd4x::Scd4x<&mut B, &mut D> {
        scd4x::Scd4x::new(&mut self.bus, &mut self.delay)
    }
}

impl<B, D> Chip for Scd4x<B, D>
where
    B: I2c + Send,
    B::Error: Into<SampleFault>,
    D: DelayNs + Send,
{
    /// Blocks its bus for half a second: the chip must stop before it says who it is.
    fn set_up(&mut self) -> Result<(), SampleFault> {
        self.silent = 0;
        self.driver().stop_periodic_measurement().map_err(cause)?;
        let first = self.driver().serial_number().map_err(cause)?;
        let second = self.driver().serial_number().map_err(cause)?;
        super::registers::expect(first == second)?;
        self.driver().start_periodic_measurement().map_err(cause)
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        if !self.driver().data_ready_status().map_err(cause)? {
            self.silent += 1;
            if self.silent.is_multiple_of(SILENT_MAX) && self.driver().serial_number().is_ok() {
                return Err(SampleFault::Reset);
            }
            return Err(SampleFault::NotReady);
        }
        self.silent = 0;
        let data = self.driver().measurement().map_err(cause)?;
        // The chip gives 0 ppm when it has no value.
        super::registers::expect(data.co2 != 0)?;
        values.set(0, Ok(f64::from(data.co2)));
        values.set(1, Ok(f64::from(data.temperature)));
        values.set(2, Ok(f64::from(data.humidity)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Scd4x;
    use crate::SampleFault;
    use crate::chips::Chip;
    use crate::chips::registers::testing::sample;
    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
    use sensirion_i2c::crc8;

    fn written(command: u16) -> Transaction {
        Transaction::write(0x62, command.to_be_bytes().to_vec())
    }

    fn words(words: &[u16]) -> Transaction {
        let word = |word: &u16| {
            let [high, low] = word.to_be_bytes();
            [high, low, crc8::calculate(&[high, low])]
        };
        Transaction::read(0x62, words.iter().flat_map(word).collect())
    }

    fn set_up() -> Vec<Transaction> {
        let serial = [0xf896, 0x9f07, 0x3bbe];
        vec![
            written(0x3f86),
            written(0x3682),
            words(&serial),
            written(0x3682),
            words(&serial),
            written(0x21b1),
        ]
    }

    #[test]
    fn golden_answer_of_the_datasheet() {
        let mut transfers = set_up();
        transfers.extend([
            written(0xe4b8),
            words(&[0x8000]),
            written(0xe4b8),
            words(&[0x8006]),
            written(0xec05),
            words(&[0x01f4, 0x6667, 0x5eb9]),
        ]);
        let mut chip = Scd4x::new(Mock::new(&transfers), NoopDelay::new());
        assert_eq!(chip.set_up(), Ok(()));
        assert_eq!(sample(&mut chip, 0, 3), Err(SampleFault::NotReady));
        // The datasheet's example: 500 ppm, 25 degrees, 37 %.
        let values: Vec<f64> = sample(&mut chip, 0, 3)
            .into_iter()
            .flatten()
            .filter_map(|value| value?.ok())
            .collect();
        assert_eq!(values.len(), 3);
        assert!((values[0] - 500.0).abs() < f64::EPSILON);
        assert!((values[1] - 25.0).abs() < 0.01, "{values:?}");
        assert!((values[2] - 37.0).abs() < 0.01, "{values:?}");
        chip.bus.done();
    }

    #[test]
    fn a_chip_that_lost_power_is_started_again() {
        let nack = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown);
        let mut transfers = set_up();
        for round in 1..=32 {
            transfers.extend([written(0xe4b8), words(&[0x8000])]);
            match round {
                // It measures: it does not answer this.
                16 => transfers.push(written(0x3682).with_error(nack)),
                32 => transfers.extend([written(0x3682), words(&[0xf896, 0x9f07, 0x3bbe])]),
                _ => {}
            }
        }
        let mut chip = Scd4x::new(Mock::new(&transfers), NoopDelay::new());
        assert_eq!(chip.set_up(), Ok(()));
        for _ in 1..32 {
            assert_eq!(sample(&mut chip, 0, 3), Err(SampleFault::NotReady));
        }
        assert_eq!(sample(&mut chip, 0, 3), Err(SampleFault::Reset));
        chip.bus.done();
    }
}
