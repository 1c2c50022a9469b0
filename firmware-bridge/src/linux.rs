//! I2C on Linux. The only file that names `linux_embedded_hal`.
//!
//! Owns the way from the `embedded-hal` traits to `/dev/i2c-N`. `linux_embedded_hal::I2cdev` (0.5.0) is not
//! used: it drops the number of messages that the kernel completed. On adapters that report a missing
//! acknowledge by a short count (i2c-virtio does), such a transfer then looks like success and the untouched
//! buffer reads as zeros. Here every transfer is checked to its last message.
//!
//! Invariants: a transfer that did not complete every message is an error, never data. Ten-bit addresses do
//! not exist here: the trait is implemented for seven-bit addresses only, and an address outside the range
//! that the I2C specification leaves to devices is refused before it reaches the bus. A transfer blocks for
//! at most the adapter's own time limit, which the kernel sets (commonly one second).

pub mod modbus;
pub mod serial;
pub mod spi;

use std::path::{Path, PathBuf};

use embedded_hal::i2c::{
    Error as I2cError, ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation, SevenBitAddress,
};
use linux_embedded_hal::i2cdev::core::{I2CMessage, I2CTransfer};
use linux_embedded_hal::i2cdev::linux::{
    LinuxI2CBus, LinuxI2CDevice, LinuxI2CError, LinuxI2CMessage,
};
use rustix::io::Errno;

pub use linux_embedded_hal::Delay;

use crate::SampleFault;
use crate::errno::fault_from_errno;

/// The most messages in one transfer (`I2C_RDWR_IOCTL_MAX_MSGS` in linux/i2c-dev.h).
const MESSAGES_MAX: usize = 42;
/// The most bytes in one message (the limit of the kernel's i2c-dev.c).
const MESSAGE_BYTES_MAX: usize = 8192;
/// The seven-bit addresses that the I2C specification does not reserve (NXP UM10204, section 3.1.12).
const DEVICE_ADDRESSES: core::ops::RangeInclusive<u8> = 0x08..=0x77;

/// One I2C adapter, `/dev/i2c-N`. Open one per chip: the kernel takes turns between them.
#[derive(Debug)]
pub struct I2cBus {
    bus: LinuxI2CBus,
    path: PathBuf,
}

impl I2cBus {
    /// Opens an adapter, for example `/dev/i2c-1`.
    ///
    /// # Errors
    /// When the file is missing, may not be opened, or is no I2C adapter. The message says what to do.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        // Setting an address is what tells an adapter from any other file. No device has address 0, so
        // nothing can be in use there.
        LinuxI2CDevice::new(path, 0).map_err(|error| OpenError::new(path, &error))?;
        let bus = LinuxI2CBus::new(path).map_err(|error| OpenError::new(path, &error))?;
        Ok(Self {
            bus,
            path: path.to_owned(),
        })
    }

    /// Checks that no driver of the kernel uses the chip at this address. A transfer would not notice: the
    /// kernel lets it through, and the driver then finds its registers changed.
    ///
    /// # Errors
    /// [`OpenError::AddressInUse`] when a driver is bound there; else as for [`open`](Self::open).
    pub fn check_unused(&self, address: u8) -> Result<(), OpenError> {
        match LinuxI2CDevice::new(&self.path, u16::from(address)) {
            Ok(_) => Ok(()),
            Err(error) if errno_of(&error) == Some(Errno::BUSY.raw_os_error()) => {
                Err(OpenError::AddressInUse {
                    path: self.path.clone(),
                    address,
                })
            }
            Err(error) => Err(OpenError::new(&self.path, &error)),
        }
    }
}

impl ErrorType for I2cBus {
    type Error = TransferError;
}

impl I2c<SevenBitAddress> for I2cBus {
    fn transaction(
        &mut self,
        address: SevenBitAddress,
        operations: &mut [Operation<'_>],
    ) -> Result<(), TransferError> {
        check_request(address, operations)?;
        if operations.is_empty() {
            return Ok(());
        }
        let count = operations.len();
        let mut messages: Vec<LinuxI2CMessage<'_>> = operations
            .iter_mut()
            .map(|operation| match operation {
                Operation::Write(bytes) => LinuxI2CMessage::write(bytes),
                Operation::Read(bytes) => LinuxI2CMessage::read(bytes),
            })
            .map(|message| message.with_address(u16::from(address)))
            .collect();
        let completed = self.bus.transfer(&mut messages);
        judge(completed.map_err(|error| errno_of(&error)), count)
    }
}

/// Refuses what the kernel would refuse or, worse, cut short.
fn check_request(address: u8, operations: &[Operation<'_>]) -> Result<(), TransferError> {
    if !DEVICE_ADDRESSES.contains(&address) {
        return Err(TransferError::Address { address });
    }
    let fits = |operation: &Operation<'_>| match operation {
        Operation::Write(bytes) => bytes.len() <= MESSAGE_BYTES_MAX,
        Operation::Read(bytes) => bytes.len() <= MESSAGE_BYTES_MAX,
    };
    if operations.len() > MESSAGES_MAX || !operations.iter().all(fits) {
        return Err(TransferError::TooLarge);
    }
    Ok(())
}

/// Decides what a transfer of `expected` messages came to. `completed` is what the kernel returned.
fn judge(completed: Result<u32, Option<i32>>, expected: usize) -> Result<(), TransferError> {
    match completed {
        Ok(completed) if usize::try_from(completed) == Ok(expected) => Ok(()),
        Ok(completed) => Err(TransferError::Short { completed }),
        Err(errno) => Err(TransferError::System { errno }),
    }
}

fn errno_of(error: &LinuxI2CError) -> Option<i32> {
    match error {
        LinuxI2CError::Errno(errno) => Some(*errno),
        LinuxI2CError::Io(error) => error.raw_os_error(),
    }
}

/// Why a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The kernel completed fewer messages than were asked for: the chip did not acknowledge.
    #[error("no acknowledge: the transfer ended after {completed} messages")]
    Short {
        /// How many messages were completed.
        completed: u32,
    },
    /// The kernel or the adapter's driver reported an error.
    #[error("{}", fault_of(*errno))]
    System {
        /// The error number, where there is one.
        errno: Option<i32>,
    },
    /// The address is reserved or has more than seven bits.
    #[error("address {address:#04x} is not one that a chip may have: expected 0x08 to 0x77")]
    Address {
        /// The address.
        address: u8,
    },
    /// The request has more than 42 messages, or a message of more than 8192 bytes.
    #[error("the transfer is larger than Linux takes")]
    TooLarge,
}

fn fault_of(errno: Option<i32>) -> SampleFault {
    errno.map_or(SampleFault::BusError { errno: None }, fault_from_errno)
}

impl From<TransferError> for SampleFault {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Short { .. } => Self::NoAcknowledge,
            TransferError::System { errno } => fault_of(errno),
            TransferError::Address { .. } | TransferError::TooLarge => {
                Self::BusError { errno: None }
            }
        }
    }
}

impl I2cError for TransferError {
    fn kind(&self) -> ErrorKind {
        let lost = Errno::AGAIN.raw_os_error();
        match self {
            // The kernel does not say whether the address or a byte was refused.
            Self::Short { .. } => ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown),
            Self::System { errno } if *errno == Some(lost) => ErrorKind::ArbitrationLoss,
            Self::System { errno } => match fault_of(*errno) {
                SampleFault::NoAcknowledge => {
                    ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown)
                }
                SampleFault::BusError { .. } => ErrorKind::Bus,
                _ => ErrorKind::Other,
            },
            Self::Address { .. } | Self::TooLarge => ErrorKind::Other,
        }
    }
}

/// Why an adapter cannot be used, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error(
        "{} does not exist: enable the bus (Raspberry Pi: dtparam=i2c_arm=on in config.txt, or raspi-config) \
         and load the module i2c-dev",
        path.display()
    )]
    Missing {
        /// The adapter's file.
        path: PathBuf,
    },
    /// The file may not be opened for reading and writing.
    #[error(
        "{} may not be opened: add the user that runs the agent to the group i2c",
        path.display()
    )]
    Permission {
        /// The adapter's file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not an I2C adapter: expected a file like /dev/i2c-1", path.display())]
    NotAnAdapter {
        /// The file.
        path: PathBuf,
    },
    /// A driver of the kernel uses the chip.
    #[error(
        "address {address:#04x} on {} is used by a driver of the kernel: read it as hwmon or iio, or unbind \
         the driver",
        path.display()
    )]
    AddressInUse {
        /// The adapter's file.
        path: PathBuf,
        /// The chip's address.
        address: u8,
    },
    /// Anything else.
    #[error("{} cannot be opened: {fault}", path.display())]
    Other {
        /// The adapter's file.
        path: PathBuf,
        /// The cause.
        fault: SampleFault,
    },
}

impl OpenError {
    fn new(path: &Path, error: &LinuxI2CError) -> Self {
        let path = path.to_owned();
        let not_an_adapter = [Errno::NOTTY, Errno::ISDIR, Errno::INVAL];
        let errno = errno_of(error);
        if not_an_adapter
            .iter()
            .any(|candidate| errno == Some(candidate.raw_os_error()))
        {
            return Self::NotAnAdapter { path };
        }
        match fault_of(errno) {
            // ENXIO: a device file whose adapter is gone.
            SampleFault::Missing | SampleFault::NoAcknowledge => Self::Missing { path },
            SampleFault::Permission => Self::Permission { path },
            fault => Self::Other { path, fault },
        }
    }

    /// The cause as a sample would name it.
    #[must_use]
    pub const fn fault(&self) -> SampleFault {
        match self {
            Self::Missing { .. } | Self::NotAnAdapter { .. } => SampleFault::Missing,
            Self::Permission { .. } => SampleFault::Permission,
            Self::AddressInUse { .. } => SampleFault::BusError { errno: None },
            Self::Other { fault, .. } => *fault,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{
        I2cBus, LinuxI2CBus, LinuxI2CError, MESSAGE_BYTES_MAX, MESSAGES_MAX, OpenError,
        TransferError, judge,
    };
    use crate::SampleFault;
    use embedded_hal::i2c::{Error as _, ErrorKind, I2c, NoAcknowledgeSource, Operation};
    use std::path::Path;

    const NO_ACKNOWLEDGE: ErrorKind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown);

    /// A bus whose file takes no I2C request, to run the real call without an adapter.
    fn bus_on_null() -> I2cBus {
        let path = Path::new("/dev/null");
        I2cBus {
            bus: LinuxI2CBus::new(path).unwrap(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn issue_short_count_reads_as_zeros() {
        // linux-embedded-hal 0.5.0 took a count of 0 or 1 of 2 messages for success and left zeros.
        for completed in [0, 1] {
            let error = judge(Ok(completed), 2).unwrap_err();
            assert_eq!(error, TransferError::Short { completed });
            assert_eq!(error.kind(), NO_ACKNOWLEDGE);
            assert_eq!(SampleFault::from(error), SampleFault::NoAcknowledge);
        }
        assert_eq!(judge(Ok(2), 2), Ok(()));
        // More than was asked for cannot be; it is not taken for success either.
        assert!(judge(Ok(3), 2).is_err());
        assert!(judge(Ok(u32::MAX), 1).is_err());
    }

    #[test]
    fn error_numbers_become_kinds_and_faults() {
        for (errno, kind, fault) in [
            (Some(6), NO_ACKNOWLEDGE, "no-acknowledge"),
            (Some(121), NO_ACKNOWLEDGE, "no-acknowledge"),
            (Some(110), ErrorKind::Other, "timeout"),
            (Some(2), ErrorKind::Other, "missing"),
            (Some(19), ErrorKind::Other, "missing"),
            (Some(13), ErrorKind::Other, "permission"),
            (Some(11), ErrorKind::ArbitrationLoss, "bus-error (errno 11)"),
            (Some(5), ErrorKind::Bus, "bus-error (errno 5)"),
            (None, ErrorKind::Bus, "bus-error"),
        ] {
            let error = judge(Err(errno), 1).unwrap_err();
            assert_eq!(error.kind(), kind, "{errno:?}");
            assert_eq!(SampleFault::from(error).to_string(), fault, "{errno:?}");
        }
    }

    #[test]
    fn reserved_and_ten_bit_addresses_never_reach_the_bus() {
        let mut bus = bus_on_null();
        for address in [0x00, 0x07, 0x78, 0x7f, 0x80, 0xff] {
            let error = bus.write(address, &[0]).unwrap_err();
            assert_eq!(error, TransferError::Address { address });
        }
        for address in [0x08, 0x77] {
            // ENOTTY: the request went as far as the kernel.
            let error = bus.write(address, &[0]).unwrap_err();
            assert_eq!(error, TransferError::System { errno: Some(25) });
        }
    }

    #[test]
    fn requests_are_bounded() {
        let mut bus = bus_on_null();
        let reached = Err(TransferError::System { errno: Some(25) });
        for (length, result) in [
            (MESSAGE_BYTES_MAX, reached),
            (MESSAGE_BYTES_MAX + 1, Err(TransferError::TooLarge)),
        ] {
            assert_eq!(bus.read(0x48, &mut vec![0; length]), result, "{length}");
            assert_eq!(bus.write(0x48, &vec![0; length]), result, "{length}");
        }
        for (count, result) in [
            (0, Ok(())),
            (MESSAGES_MAX, reached),
            (MESSAGES_MAX + 1, Err(TransferError::TooLarge)),
        ] {
            let mut operations: Vec<Operation<'_>> =
                (0..count).map(|_| Operation::Write(&[0])).collect();
            assert_eq!(bus.transaction(0x48, &mut operations), result, "{count}");
        }
    }

    #[test]
    fn opening_says_what_to_do() {
        let message = |path: &str| I2cBus::open(Path::new(path)).unwrap_err().to_string();
        let text = message("/dev/i2c-that-is-not-there");
        assert!(text.contains("enable the bus"), "{text}");
        assert!(message("/dev/null").contains("is not an I2C adapter"));
        assert!(message("/dev").contains("is not an I2C adapter"));
        let denied = OpenError::new(Path::new("/dev/i2c-1"), &LinuxI2CError::Errno(13));
        assert!(denied.to_string().contains("group i2c"), "{denied}");
        assert_eq!(denied.fault(), SampleFault::Permission);
        let broken = OpenError::new(Path::new("/dev/i2c-1"), &LinuxI2CError::Errno(5));
        assert_eq!(broken.fault(), SampleFault::BusError { errno: Some(5) });
        let denied = bus_on_null().check_unused(0x48).unwrap_err();
        assert_eq!(denied.fault(), SampleFault::Missing);
    }
}
