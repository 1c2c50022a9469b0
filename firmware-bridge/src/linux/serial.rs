//! Serial lines on Linux: UART, USB adapters and pseudo-terminals.
//!
//! Owns opening and setting a line: raw, eight bits, no parity, for this process alone. Invariant: neither reading nor writing
//! waits; a line that was hung up (a cable pulled out) is `Missing`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::termios::{ControlModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use crate::SampleFault;
use crate::errno::{fault_from_errno, fault_from_file_error};
use crate::wire::Line;

/// The parity of a serial line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parity {
    /// None.
    #[default]
    None,
    /// Even, as the standard of Modbus wants it.
    Even,
    /// Odd.
    Odd,
}

/// A serial line.
#[derive(Debug)]
pub struct SerialLine {
    file: File,
}

impl SerialLine {
    /// Opens a line with a speed in baud and a parity.
    ///
    /// # Errors
    /// `Missing`, `Permission` (the group is usually dialout), or what the system says of a file that is no line or a speed
    /// that it cannot have.
    pub fn open(path: &Path, baud: u32, parity: Parity) -> Result<Self, SampleFault> {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        let flags = i32::try_from(flags).map_err(|_| SampleFault::Malformed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|error| fault_from_file_error(&error))?;
        let set = || -> rustix::io::Result<()> {
            let mut settings = tcgetattr(&file)?;
            settings.make_raw();
            settings.set_speed(baud)?;
            let odd = parity == Parity::Odd;
            settings
                .control_modes
                .set(ControlModes::PARENB, parity != Parity::None);
            settings.control_modes.set(ControlModes::PARODD, odd);
            // With no byte there, reading says so at once; a line that was hung up reads as its end.
            settings.special_codes[SpecialCodeIndex::VMIN] = 1;
            tcsetattr(&file, OptionalActions::Flush, &settings)
        };
        set().map_err(|errno| fault_from_errno(errno.raw_os_error()))?;
        Ok(Self { file })
    }
}

impl AsFd for SerialLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Line for SerialLine {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, SampleFault> {
        match self.file.read(bytes) {
            Ok(0) => Err(SampleFault::Missing),
            Ok(count) => Ok(count),
            Err(error) => waiting(&error),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, SampleFault> {
        self.file.write(bytes).or_else(|error| waiting(&error))
    }
}

/// Nothing now is no fault; an input or output error is a line that is gone.
fn waiting(error: &std::io::Error) -> Result<usize, SampleFault> {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::WouldBlock | ErrorKind::Interrupted, _) => Ok(0),
        (_, Some(errno)) if errno == rustix::io::Errno::IO.raw_os_error() => {
            Err(SampleFault::Missing)
        }
        _ => Err(fault_from_file_error(error)),
    }
}
