//! SPI on Linux: one device file per chip select, such as `/dev/spidev0.0`.
//!
//! Owns opening and the choice of mode and clock. Invariant: the clock is slow enough for every chip of the list; a slower
//! one costs microseconds, a faster one costs bits.

use std::path::{Path, PathBuf};

use linux_embedded_hal::SpidevDevice;
use linux_embedded_hal::spidev::{SpiModeFlags, SpidevOptions};

use crate::SampleFault;
use crate::errno::fault_from_file_error;

/// In hertz. An MCP3008 at 2.7 V takes 1.35 MHz at most.
const CLOCK_HZ: u32 = 1_000_000;

/// Why a chip select cannot be used, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiOpenError {
    /// There is no such file.
    #[error("{} does not exist: enable the bus (Raspberry Pi: dtparam=spi=on in config.txt)", path.display())]
    Missing {
        /// The device file.
        path: PathBuf,
    },
    /// The file may not be opened for reading and writing.
    #[error("{} may not be opened: add the user that runs the agent to the group spi", path.display())]
    Permission {
        /// The device file.
        path: PathBuf,
    },
    /// The file is something else, or its driver refuses the mode.
    #[error("{} is not an SPI device that takes mode {mode}: {fault}", path.display())]
    Other {
        /// The device file.
        path: PathBuf,
        /// The mode, 0 to 3.
        mode: u8,
        /// The cause.
        fault: SampleFault,
    },
}

impl SpiOpenError {
    /// The cause as a sample would name it.
    #[must_use]
    pub const fn fault(&self) -> SampleFault {
        match self {
            Self::Missing { .. } => SampleFault::Missing,
            Self::Permission { .. } => SampleFault::Permission,
            Self::Other { fault, .. } => *fault,
        }
    }
}

/// Opens a chip select for a chip that wants this mode, 0 to 3.
///
/// # Errors
/// When the file is missing, may not be opened, or is no SPI device. The message says what to do.
pub fn open(path: &Path, mode: u8) -> Result<SpidevDevice, SpiOpenError> {
    let flags = match mode {
        0 => SpiModeFlags::SPI_MODE_0,
        1 => SpiModeFlags::SPI_MODE_1,
        2 => SpiModeFlags::SPI_MODE_2,
        _ => SpiModeFlags::SPI_MODE_3,
    };
    let options = SpidevOptions::new()
        .bits_per_word(8)
        .max_speed_hz(CLOCK_HZ)
        .mode(flags)
        .build();
    let opened = SpidevDevice::open(path).and_then(|mut device| {
        device.0.configure(&options)?;
        Ok(device)
    });
    opened.map_err(|error| {
        let path = path.to_owned();
        match fault_from_file_error(error.inner()) {
            SampleFault::Missing | SampleFault::NoAcknowledge => SpiOpenError::Missing { path },
            SampleFault::Permission => SpiOpenError::Permission { path },
            fault => SpiOpenError::Other { path, mode, fault },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::open;
    use crate::SampleFault;
    use std::path::Path;

    #[test]
    fn opening_says_what_to_do() {
        let missing = open(Path::new("/dev/spidev-that-is-not-there"), 0).err();
        let text = missing.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("dtparam=spi=on"), "{text}");
        let other = open(Path::new("/dev/null"), 1).err();
        assert_eq!(
            other.map(|error| error.fault()),
            Some(SampleFault::BusError { errno: Some(25) })
        );
    }
}
