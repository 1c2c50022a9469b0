//! What the error numbers of Linux mean for a sample.
//!
//! Owns the one table that both the I2C transfers and the sysfs reads use. Source: the kernel's
//! `Documentation/i2c/fault-codes.rst`; EREMOTEIO is what several adapter drivers still return for a
//! missing acknowledge.

use rustix::io::Errno;

use crate::SampleFault;

/// The cause behind an error number of a transfer.
pub(crate) fn fault_from_errno(errno: i32) -> SampleFault {
    let is = |candidates: &[Errno]| {
        candidates
            .iter()
            .any(|candidate| candidate.raw_os_error() == errno)
    };
    if is(&[Errno::NXIO, Errno::REMOTEIO]) {
        SampleFault::NoAcknowledge
    } else if is(&[Errno::TIMEDOUT]) {
        SampleFault::Timeout
    } else if is(&[Errno::NOENT, Errno::NOTDIR, Errno::NODEV, Errno::SHUTDOWN]) {
        SampleFault::Missing
    } else if is(&[Errno::ACCESS, Errno::PERM]) {
        SampleFault::Permission
    } else if is(&[Errno::BADMSG]) {
        // The packet error code (CRC-8) of an SMBus transfer did not match.
        SampleFault::Checksum
    } else if is(&[Errno::PROTO]) {
        SampleFault::Malformed
    } else {
        SampleFault::BusError { errno: Some(errno) }
    }
}

/// The cause behind an error number of a read in sysfs: there two more numbers mean "no value yet".
pub(crate) fn fault_from_sysfs_errno(errno: i32) -> SampleFault {
    let waits = [Errno::AGAIN, Errno::NODATA];
    if waits.iter().any(|wait| wait.raw_os_error() == errno) {
        SampleFault::NotReady
    } else {
        fault_from_errno(errno)
    }
}

/// The cause behind an error of the standard library's file functions.
pub(crate) fn fault_from_file_error(error: &std::io::Error) -> SampleFault {
    match error.raw_os_error() {
        Some(errno) => fault_from_sysfs_errno(errno),
        None => SampleFault::BusError { errno: None },
    }
}

#[cfg(test)]
mod tests {
    use super::{fault_from_errno, fault_from_file_error, fault_from_sysfs_errno};
    use crate::SampleFault;
    use std::io;

    // The numbers as a user sees them in a log (asm-generic/errno.h), not as the code names them.
    #[test]
    fn known_numbers_have_their_cause() {
        for (errno, fault) in [
            (6, SampleFault::NoAcknowledge),               // ENXIO
            (121, SampleFault::NoAcknowledge),             // EREMOTEIO
            (110, SampleFault::Timeout),                   // ETIMEDOUT
            (2, SampleFault::Missing),                     // ENOENT
            (20, SampleFault::Missing),                    // ENOTDIR
            (19, SampleFault::Missing),                    // ENODEV
            (108, SampleFault::Missing),                   // ESHUTDOWN
            (13, SampleFault::Permission),                 // EACCES
            (1, SampleFault::Permission),                  // EPERM
            (74, SampleFault::Checksum),                   // EBADMSG
            (71, SampleFault::Malformed),                  // EPROTO
            (5, SampleFault::BusError { errno: Some(5) }), // EIO
            (
                i32::MIN,
                SampleFault::BusError {
                    errno: Some(i32::MIN),
                },
            ),
        ] {
            assert_eq!(fault_from_errno(errno), fault, "{errno}");
            assert_eq!(fault_from_sysfs_errno(errno), fault, "{errno}");
        }
    }

    #[test]
    fn waiting_is_an_error_on_a_bus_and_not_ready_in_sysfs() {
        for errno in [11, 61] {
            // EAGAIN: arbitration lost; ENODATA
            assert_eq!(
                fault_from_errno(errno),
                SampleFault::BusError { errno: Some(errno) }
            );
            assert_eq!(fault_from_sysfs_errno(errno), SampleFault::NotReady);
        }
    }

    #[test]
    fn an_error_without_a_number_is_a_bus_error() {
        let error = io::Error::other("no number");
        assert_eq!(
            fault_from_file_error(&error),
            SampleFault::BusError { errno: None }
        );
        let error = io::Error::from_raw_os_error(13);
        assert_eq!(fault_from_file_error(&error), SampleFault::Permission);
    }
}
