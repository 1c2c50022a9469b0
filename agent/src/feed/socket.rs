//! A Unix socket that is a feed: other programs of this machine send one JSON object a datagram, or a line.
//!
//! Owns: the socket's file and its clients. Must not: read a message's meaning.
//!
//! Invariants: only the owner and its group may write to the socket; at most [`CLIENTS_MAX`] programs are connected; a file
//! that is no socket, or a socket that another process serves, is left alone; the file goes with the feed.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Inbox, Lines, MESSAGE_BYTES_MAX};

/// Most programs that are connected at one time.
pub const CLIENTS_MAX: usize = 8;
/// How soon the end of the feed is noticed.
const PATIENCE: Duration = Duration::from_millis(100);
/// Owner and group may read and write.
const MODE: u32 = 0o660;

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One message in a datagram.
    Datagram,
    /// Connections, one message in a line.
    Stream,
}

/// A socket that is served until this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    ended: Arc<AtomicBool>,
}

impl Socket {
    /// Binds the file and serves it on a thread of its own.
    ///
    /// # Errors
    /// What the system says; `AddrInUse` when another process serves it.
    pub fn spawn(path: &Path, kind: Kind, inbox: Inbox) -> io::Result<Self> {
        make_room(path, kind)?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        // From here on the file is ours, and goes with this.
        let bound = || {
            let socket = Self {
                path: path.to_owned(),
                ended: Arc::clone(&ended),
            };
            fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map(|()| socket)
        };
        let thread = std::thread::Builder::new().name("socket".into());
        match kind {
            Kind::Datagram => {
                let socket = UnixDatagram::bind(path)?;
                let own = bound()?;
                socket.set_read_timeout(Some(PATIENCE))?;
                thread.spawn(move || receive(&socket, &inbox, &end))?;
                Ok(own)
            }
            Kind::Stream => {
                let listener = UnixListener::bind(path)?;
                let own = bound()?;
                listener.set_nonblocking(true)?;
                thread.spawn(move || accept(&listener, &inbox, &end))?;
                Ok(own)
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It may be gone already with its folder.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a socket that nobody serves.
fn make_room(path: &Path, kind: Kind) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ErrorKind::AddrInUse.into());
    }
    let served = match kind {
        Kind::Datagram => UnixDatagram::unbound()?.connect(path),
        Kind::Stream => UnixStream::connect(path).map(drop),
    };
    // Any other answer, such as that of a socket of another kind or of another user, comes from one that is served.
    match served {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(ErrorKind::AddrInUse.into()),
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn receive(socket: &UnixDatagram, inbox: &Inbox, ended: &AtomicBool) {
    // One byte more than a message may have shows that there is more.
    let mut bytes = [0; MESSAGE_BYTES_MAX + 1];
    while !ended.load(Ordering::Relaxed) {
        match socket.recv(&mut bytes) {
            Ok(length) if length > MESSAGE_BYTES_MAX => inbox.refuse(),
            Ok(length) => inbox.take(&bytes[..length]),
            Err(error) if waits(&error) => {}
            Err(_) => std::thread::park_timeout(PATIENCE),
        }
    }
}

fn accept(listener: &UnixListener, inbox: &Inbox, ended: &Arc<AtomicBool>) {
    let clients = Arc::new(AtomicUsize::new(0));
    while !ended.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::park_timeout(PATIENCE);
            continue;
        };
        if clients.load(Ordering::Relaxed) >= CLIENTS_MAX {
            // Dropped: whoever connects sees the end at once.
            tracing::warn!(
                "a socket of a source has {CLIENTS_MAX} clients: another one is turned away"
            );
            continue;
        }
        clients.fetch_add(1, Ordering::Relaxed);
        let (inbox, ended, left) = (inbox.clone(), Arc::clone(ended), Arc::clone(&clients));
        let serving = std::thread::Builder::new()
            .name("socket-client".into())
            .spawn(move || {
                // A client that fails is a client that has left.
                let _ = attend(stream, &inbox, &ended);
                left.fetch_sub(1, Ordering::Relaxed);
            });
        if serving.is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn attend(mut stream: UnixStream, inbox: &Inbox, ended: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut bytes, mut lines) = ([0; MESSAGE_BYTES_MAX], Lines::default());
    while !ended.load(Ordering::Relaxed) {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(length) => lines.push(&bytes[..length], |line| match line {
                Some(line) => inbox.take(line),
                None => inbox.refuse(),
            }),
            Err(error) if waits(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{CLIENTS_MAX, Kind, Socket};
    use crate::{
        clock::Clock,
        feed::{Channel, FeedProbe, Inbox, MESSAGE_BYTES_MAX},
    };
    use quorate_firmware_bridge::{Probe, SampleFault};
    use std::{
        io::{Read as _, Write as _},
        os::unix::{
            fs::PermissionsExt as _,
            net::{UnixDatagram, UnixStream},
        },
        path::Path,
        sync::Arc,
        time::Duration,
    };

    fn feed(path: &Path, kind: Kind) -> (Inbox, FeedProbe) {
        let channel = Channel {
            name: "a".into(),
            unit: None,
            age_ms_max: 60_000,
        };
        let inbox = Inbox::new(&[channel], Clock::real());
        let socket = Socket::spawn(path, kind, inbox.clone()).unwrap();
        (inbox.clone(), FeedProbe::new(inbox, "a", Arc::new(socket)))
    }

    fn next(probe: &mut FeedProbe) -> Result<f64, SampleFault> {
        loop {
            let sample = probe.sample();
            if sample != Err(SampleFault::NotReady) {
                return sample;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn datagrams_are_messages_and_the_file_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.sock");
        let (inbox, mut probe) = feed(&path, Kind::Datagram);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let client = UnixDatagram::unbound().unwrap();
        client.connect(&path).unwrap();
        client.send(&[b' '; MESSAGE_BYTES_MAX + 1]).unwrap();
        client.send(br#"{"sensor":"a","value":4.5}"#).unwrap();
        assert_eq!(next(&mut probe), Ok(4.5));
        assert_eq!(inbox.refused(), 1);
        let second = Socket::spawn(&path, Kind::Datagram, inbox);
        assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        drop(probe);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        let inbox = Inbox::new(&[], Clock::real());
        assert!(Socket::spawn(&path, Kind::Datagram, inbox).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn what_another_serves_stays_and_what_nobody_serves_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.sock");
        let served = UnixDatagram::bind(&path).unwrap();
        for kind in [Kind::Datagram, Kind::Stream] {
            let inbox = Inbox::new(&[], Clock::real());
            let refused = Socket::spawn(&path, kind, inbox).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
            assert!(path.exists());
        }
        drop(served);
        let (_, probe) = feed(&path, Kind::Stream);
        drop(probe);
        assert!(!path.exists());
    }

    #[test]
    fn lines_of_a_bounded_number_of_clients() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.sock");
        let (_, mut probe) = feed(&path, Kind::Stream);
        let mut clients = Vec::new();
        for number in 0..CLIENTS_MAX {
            let mut client = UnixStream::connect(&path).unwrap();
            let line = format!("{{\"sensor\":\"a\",\"value\":{number}}}\n");
            client.write_all(line.as_bytes()).unwrap();
            assert_eq!(
                next(&mut probe).map(|value| value.to_string()),
                Ok(number.to_string())
            );
            clients.push(client);
        }
        let mut another = UnixStream::connect(&path).unwrap();
        assert_eq!(another.read(&mut [0]).unwrap(), 0, "turned away");
    }
}
