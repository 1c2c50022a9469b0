//! Lines to Modbus devices on Linux: a serial line, or a TCP connection.
//!
//! Owns opening them and waiting for them. Invariant: nothing here waits longer than it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::serial::SerialLine;
use crate::SampleFault;
use crate::errno::{fault_from_errno, fault_from_file_error};
use crate::modbus::Wire;
use crate::wire::Line;

impl Wire for SerialLine {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, SampleFault> {
        Line::read(self, bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, SampleFault> {
        Line::write(self, bytes)
    }

    fn wait(&mut self, timeout_ms: u64) -> Result<bool, SampleFault> {
        readable(self, timeout_ms)
    }
}

/// A connection.
#[derive(Debug)]
pub struct TcpLine {
    stream: TcpStream,
}

impl TcpLine {
    /// Connects within a time.
    ///
    /// # Errors
    /// `NoAcknowledge` when nobody listens there, `Timeout`, or what the system says.
    pub fn connect(address: SocketAddr, timeout_ms: u64) -> Result<Self, SampleFault> {
        let timeout = Duration::from_millis(timeout_ms.max(1));
        let stream =
            TcpStream::connect_timeout(&address, timeout).map_err(|error| fault(&error))?;
        let set = stream.set_nonblocking(true);
        set.and_then(|()| stream.set_nodelay(true))
            .map_err(|error| fault(&error))?;
        Ok(Self { stream })
    }
}

impl Wire for TcpLine {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, SampleFault> {
        match self.stream.read(bytes) {
            // The device ended the connection.
            Ok(0) => Err(SampleFault::Disconnected),
            Ok(count) => Ok(count),
            Err(error) if is_waiting(&error) => Ok(0),
            Err(error) => Err(fault(&error)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, SampleFault> {
        match self.stream.write(bytes) {
            Err(error) if is_waiting(&error) => Ok(0),
            outcome => outcome.map_err(|error| fault(&error)),
        }
    }

    fn wait(&mut self, timeout_ms: u64) -> Result<bool, SampleFault> {
        readable(&self.stream, timeout_ms)
    }
}

fn is_waiting(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn fault(error: &std::io::Error) -> SampleFault {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => SampleFault::Timeout,
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable => SampleFault::NoAcknowledge,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            SampleFault::Disconnected
        }
        _ => fault_from_file_error(error),
    }
}

fn readable(file: &impl AsFd, timeout_ms: u64) -> Result<bool, SampleFault> {
    let timeout = Duration::from_millis(timeout_ms);
    let timeout = Timespec::try_from(timeout).map_err(|_| SampleFault::Malformed)?;
    let mut files = [PollFd::new(file, PollFlags::IN)];
    match poll(&mut files, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(fault_from_errno(errno.raw_os_error())),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{TcpLine, Wire};
    use crate::SampleFault;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn a_connection_is_read_and_its_end_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut line = TcpLine::connect(listener.local_addr().unwrap(), 5_000).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(line.wait(0), Ok(false));
        peer.write_all(b"ab").unwrap();
        assert_eq!(line.wait(5_000), Ok(true));
        let mut bytes = [0; 8];
        assert_eq!(line.read(&mut bytes), Ok(2));
        drop(peer);
        assert_eq!(line.wait(5_000), Ok(true));
        assert_eq!(line.read(&mut bytes), Err(SampleFault::Disconnected));
        let address = listener.local_addr().unwrap();
        drop(listener);
        let refused = TcpLine::connect(address, 5_000).err();
        assert_eq!(refused, Some(SampleFault::NoAcknowledge));
    }
}
