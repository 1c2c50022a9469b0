//! From what the client library says to the one word that the core and an operator see.
//!
//! Owns: the list of causes. Must not: put a secret or text without bound into a fault. Pure.

use std::io;

use quorate_core::event::LinkFault;
use rumqttc::{
    ConnectReturnCode, ConnectionError, DisconnectReasonCode, StateError, TlsError,
    tokio_rustls::rustls,
};

/// Most bytes of a fault's detail.
pub(super) const DETAIL_BYTES_MAX: usize = 256;

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

/// Sorts an error of the client.
pub(super) fn of_connection(error: &ConnectionError) -> LinkFault {
    let cause = match error {
        ConnectionError::Io(error) => of_io(error),
        ConnectionError::Tls(TlsError::Io(error)) => match of_io(error) {
            "input-output" => "tls",
            cause => cause,
        },
        ConnectionError::Tls(_) => "tls",
        ConnectionError::Timeout(_) | ConnectionError::DisconnectTimeout => "timeout",
        ConnectionError::ConnectionRefused(code) => of_connack(*code),
        ConnectionError::MqttState(error) => of_state(error),
        ConnectionError::RequestsDone => "closed",
        // A packet of the broker's choosing may stand in the text of the others; the cause says enough.
        ConnectionError::NotConnAck(_) => {
            return fault("protocol", "the broker's first packet is not CONNACK");
        }
        // Session, authentication and whatever the library adds: the two ends do not understand each other.
        _ => "protocol",
    };
    fault(cause, &error.to_string())
}

/// Sorts an error of the established connection.
fn of_state(error: &StateError) -> &'static str {
    match error {
        StateError::Io(error) => of_io(error),
        StateError::Deserialization(rumqttc::Error::Io(error)) => of_io(error),
        StateError::AwaitPingResp | StateError::CollisionTimeout => "timeout",
        StateError::ConnectionAborted => "closed",
        StateError::ServerDisconnect { reason_code, .. } => match reason_code {
            DisconnectReasonCode::NotAuthorized => "not-authorised",
            DisconnectReasonCode::MalformedPacket
            | DisconnectReasonCode::ProtocolError
            | DisconnectReasonCode::PacketTooLarge
            | DisconnectReasonCode::ReceiveMaximumExceeded => "protocol",
            _ => "closed",
        },
        StateError::ConnFail { reason } => of_connack(*reason),
        StateError::AuthError(_)
        | StateError::AuthenticatorNotSet
        | StateError::AuthenticatorLockPoisoned => "not-authorised",
        _ => "protocol",
    }
}

/// Sorts the broker's refusal of a connection.
const fn of_connack(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::BadUserNamePassword
        | ConnectReturnCode::NotAuthorized
        | ConnectReturnCode::Banned
        | ConnectReturnCode::BadAuthenticationMethod => "not-authorised",
        ConnectReturnCode::MalformedPacket
        | ConnectReturnCode::ProtocolError
        | ConnectReturnCode::RefusedProtocolVersion
        | ConnectReturnCode::UnsupportedProtocolVersion
        | ConnectReturnCode::RetainNotSupported
        | ConnectReturnCode::QoSNotSupported => "protocol",
        _ => "refused",
    }
}

/// Sorts an error of the socket.
fn of_io(error: &io::Error) -> &'static str {
    if let Some(inner) = error.get_ref() {
        if inner.is::<NameFault>() {
            return "dns";
        }
        if inner.is::<rustls::Error>() || inner.source().is_some_and(|e| e.is::<rustls::Error>()) {
            return "tls";
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

    #[test]
    fn errors_are_sorted() {
        let check = |error: ConnectionError, cause| {
            assert_eq!(of_connection(&error).cause, cause, "{error:?}");
        };
        let io = |kind| ConnectionError::Io(io::Error::from(kind));
        check(io(io::ErrorKind::ConnectionRefused), "refused");
        check(io(io::ErrorKind::TimedOut), "timeout");
        check(io(io::ErrorKind::NetworkUnreachable), "input-output");
        check(
            ConnectionError::Io(io::Error::other(NameFault("no such name".to_owned()))),
            "dns",
        );
        check(
            ConnectionError::Io(io::Error::new(
                io::ErrorKind::InvalidData,
                rustls::Error::DecryptError,
            )),
            "tls",
        );
        check(
            ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword),
            "not-authorised",
        );
        check(
            ConnectionError::ConnectionRefused(ConnectReturnCode::ServerBusy),
            "refused",
        );
        check(StateError::ConnectionAborted.into(), "closed");
        check(StateError::AwaitPingResp.into(), "timeout");
        check(StateError::Unsolicited(3).into(), "protocol");
    }
}
