//! From what goes wrong to the one word that the core and an operator see.
//!
//! Owns: the faults that do not depend on the version of MQTT. Must not: put a secret or text without bound into a fault. Pure.

use std::io;

use quorate_core::event::LinkFault;
use rumqttc::{TlsError, tokio_rustls::rustls};

use super::tls::of_rustls;

/// Most bytes of a fault's detail.
pub(super) const DETAIL_BYTES_MAX: usize = 256;

/// The cause when the broker sent a packet that is larger than was agreed.
pub(super) const OVERSIZED: &str = "incoming-too-large";

/// The name of the broker could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NameFault(pub(super) String);

/// A fault with its detail cut to [`DETAIL_BYTES_MAX`] bytes and freed of control characters.
pub(super) fn fault(cause: &'static str, detail: &str) -> LinkFault {
    let mut bounded = String::new();
    for character in detail.chars() {
        let character = if character.is_control() {
            ' '
        } else {
            character
        };
        if bounded.len() + character.len_utf8() > DETAIL_BYTES_MAX {
            break;
        }
        bounded.push(character);
    }
    LinkFault {
        cause,
        detail: bounded,
    }
}

/// Sorts an error of TLS.
pub(super) fn of_tls(error: &TlsError) -> &'static str {
    match error {
        TlsError::Io(error) => match of_io(error) {
            "input-output" => "tls",
            cause => cause,
        },
        TlsError::TLS(error) => of_rustls(error),
        _ => "tls",
    }
}

/// Sorts an error of the socket.
pub(super) fn of_io(error: &io::Error) -> &'static str {
    if let Some(inner) = error.get_ref() {
        if inner.is::<NameFault>() {
            return "dns";
        }
        let direct = inner.downcast_ref::<rustls::Error>();
        let nested = || inner.source().and_then(|source| source.downcast_ref());
        if let Some(error) = direct.or_else(nested) {
            return of_rustls(error);
        }
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::TimedOut => "timeout",
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => "closed",
        io::ErrorKind::InvalidData => "protocol",
        _ => "input-output",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_is_bounded_at_a_character() {
        let long = fault("closed", &"ö".repeat(200));
        assert_eq!(long.detail.len(), DETAIL_BYTES_MAX);
        assert_eq!(fault("closed", "ab\n").detail, "ab ");
    }
}
