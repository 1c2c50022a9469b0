//! What every connection needs, whichever version of MQTT it speaks.
//!
//! Owns: the topics, reading the files and dialling. Must not: keep a secret longer than the
//! connection or name one in a fault.

use std::{fs::File, io, io::Read, path::Path, time::Duration};

use quorate_core::event::LinkFault;
use tokio::net::{TcpStream, lookup_host};

pub(super) use super::tls::tls;

use super::{
    Options,
    fault::{NameFault, fault},
};

/// Largest certificate, key or password file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Largest packet in bytes that the broker may send: it has nothing to send but acknowledgements and commands.
pub(super) const INCOMING_BYTES_MAX: u32 = 64 << 10;
/// Requests that the client takes before it flushes the socket.
pub(super) const REQUESTS_PER_FLUSH: usize = 16;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// The status that the broker publishes for us when the connection breaks.
pub(super) const OFFLINE: &str = r#"{"state":"offline"}"#;

/// The topic of the retained status.
pub(super) fn status_topic(options: &Options) -> String {
    format!("{}/status", options.topic)
}

/// The topic of the records.
pub(super) fn data_topic(options: &Options) -> String {
    format!("{}/data", options.topic)
}

/// The topics of the commands.
pub(super) fn commands_filter(options: &Options) -> String {
    format!("{}/cmd/+", options.topic)
}

/// The topic of the answers where the question cannot name one.
pub(super) fn reply_topic(options: &Options) -> String {
    format!("{}/reply", options.topic)
}

/// What the broker asks for by way of identity.
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: Option<Vec<u8>>,
}

/// User name and password, as far as they are configured. A file that is named must be there even without a user name.
pub(super) fn credentials(options: &Options) -> Result<Option<Credentials>, LinkFault> {
    let password = match &options.password_file {
        Some(path) => Some(read(options, "password_file", "input-output", path)?),
        None => None,
    };
    let Some(username) = options.username.clone() else {
        return Ok(None);
    };
    let password = password.map(|password| password.trim_ascii_end().to_vec());
    Ok(Some(Credentials { username, password }))
}

/// Connects to the first address of the name that answers. Done here and not by the library because it cannot take an
/// IPv6 address, and because a failed look-up must be told from a failed connection.
pub(super) async fn dial(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((host, port))
        .await
        .map_err(|error| io::Error::other(NameFault(error.to_string())))?
        .take(ADDRESSES_MAX)
        .collect();
    let share = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = io::Error::other(NameFault("the name has no address".to_owned()));
    for address in addresses {
        // A dead first address must leave time for the others.
        match tokio::time::timeout(timeout / share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = io::Error::from(io::ErrorKind::TimedOut),
        }
    }
    Err(last)
}

/// Reads a file of the configuration; `key` is what it is called there.
pub(super) fn read(
    options: &Options,
    key: &str,
    cause: &'static str,
    path: &Path,
) -> Result<Vec<u8>, LinkFault> {
    read_bounded(options.credentials.as_deref(), path)
        .map_err(|error| fault(cause, &format!("{key}: {error}")))
}

/// Reads a whole file of bounded size. A relative name is looked for among the service manager's credentials first.
pub(super) fn read_bounded(credentials: Option<&Path>, path: &Path) -> io::Result<Vec<u8>> {
    let credential = credentials
        .filter(|_| path.is_relative())
        .map(|directory| directory.join(path))
        .filter(|credential| credential.exists());
    let mut bytes = Vec::new();
    File::open(credential.as_deref().unwrap_or(path))?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        let message = format!("expected at most {FILE_BYTES_MAX} bytes");
        return Err(io::Error::other(message));
    }
    Ok(bytes)
}
