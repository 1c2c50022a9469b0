//! MQTT 5, by way of its client library.
//!
//! Owns: the use of that library. Must not: keep anything beyond a connection, resend, or wait.
//!
//! Invariant: no default of the library is relied upon for a timeout, a size, a flush or a quality of service.

use quorate_core::{
    command::ReplyTo,
    event::{AckOutcome, LinkFault},
};
use rumqttc::{
    AsyncClient, ConnAck, ConnectReturnCode, ConnectionError, DisconnectReasonCode, Event,
    EventLoop, LastWill, MqttOptions, Packet, PubAckReason, Publish, PublishOptions,
    PublishProperties, QoS, RetainForwardRule, SessionMode, StateError, SubscribeFilter,
    SubscribeReasonCode,
};
use tokio::sync::mpsc;

use super::{
    Incoming, Options,
    fault::{OVERSIZED, fault, of_io, of_tls},
    prepared::prepared,
    protocol::{self, Client, Heard, Limits, Opened, Outgoing, Queued},
    setup::{self, INCOMING_BYTES_MAX, OFFLINE, REQUESTS_PER_FLUSH},
};

/// Said where the broker said it, or where a broker of that kind must close without saying it in MQTT 5.
const NOT_SPOKEN: &str = "the broker does not speak MQTT 5; set mqtt.version = \"3.1.1\"";
/// MQTT 5 reason "unspecified error".
const REASON_UNSPECIFIED: u8 = 0x80;

pub(super) fn open(options: &Options, relay: mpsc::Sender<Heard>) -> Result<Opened, LinkFault> {
    let (client, eventloop) = AsyncClient::builder(prepare(options)?)
        .capacity(protocol::capacity(options))
        .build();
    Ok((Box::new(client), Box::pin(drive(eventloop, relay))))
}

/// The options of one connection.
fn prepare(options: &Options) -> Result<MqttOptions, LinkFault> {
    let mut prepared = prepared(options)?;
    prepared
        .set_session_mode(SessionMode::Clean)
        .set_max_packet_size(Some(INCOMING_BYTES_MAX))
        .set_outgoing_inflight_upper_limit(options.inflight_max.max(1))
        .set_max_request_batch(REQUESTS_PER_FLUSH)
        .set_last_will(LastWill::new(
            setup::status_topic(options),
            OFFLINE,
            QoS::AtLeastOnce,
            true,
            None,
        ));
    Ok(prepared)
}

/// Polls the client until it fails and passes on what it says.
async fn drive(mut eventloop: EventLoop, relay: mpsc::Sender<Heard>) -> LinkFault {
    let mut connected = false;
    loop {
        match eventloop.poll().await {
            Ok(event) => {
                let Some(heard) = heard(&event) else { continue };
                connected |= matches!(heard, Heard::Connected(_));
                if relay.send(heard).await.is_err() {
                    return of_connection(&ConnectionError::RequestsDone, connected);
                }
            }
            Err(error) => return of_connection(&error, connected),
        }
    }
}

fn heard(event: &Event) -> Option<Heard> {
    Some(match event {
        Event::Incoming(Packet::ConnAck(connack)) => Heard::Connected(limits(connack)),
        Event::Incoming(Packet::PubAck(puback)) => Heard::Acknowledged {
            packet: puback.pkid,
            outcome: outcome(puback.reason),
        },
        Event::Incoming(Packet::Publish(publish)) => Heard::Message(incoming(publish)),
        Event::Incoming(Packet::SubAck(suback)) => Heard::Subscribed {
            accepted: matches!(suback.return_codes[..], [SubscribeReasonCode::Success(_)]),
        },
        Event::Incoming(_) => Heard::Life,
        Event::Outgoing(rumqttc::Outgoing::Publish(packet)) => Heard::Sent(*packet),
        _ => return None,
    })
}

/// Bounded by the largest packet that is taken.
fn incoming(publish: &Publish) -> Incoming {
    let properties = publish.properties.as_ref();
    let topic = properties.and_then(|properties| properties.response_topic.clone());
    let correlation = properties.and_then(|properties| properties.correlation_data.as_ref());
    Incoming {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload.to_vec(),
        retained: publish.retain,
        reply: topic.map(|topic| ReplyTo {
            topic,
            correlation: correlation.map(|data| data.to_vec()),
        }),
    }
}

fn limits(connack: &ConnAck) -> Limits {
    let Some(properties) = &connack.properties else {
        return Limits::default();
    };
    Limits {
        qos_0_only: properties.max_qos == Some(0),
        no_retain: properties.retain_available == Some(0),
        keep_alive_s: properties.server_keep_alive,
        packet_bytes_max: properties.max_packet_size,
        inflight_max: properties.receive_max,
    }
}

/// The broker's answer in the core's terms.
const fn outcome(reason: PubAckReason) -> AckOutcome {
    let reason = match reason {
        PubAckReason::Success => return AckOutcome::Taken,
        PubAckReason::NoMatchingSubscribers => return AckOutcome::NoSubscribers,
        PubAckReason::UnspecifiedError => REASON_UNSPECIFIED,
        PubAckReason::ImplementationSpecificError => 0x83,
        PubAckReason::NotAuthorized => 0x87,
        PubAckReason::TopicNameInvalid => 0x90,
        PubAckReason::PacketIdentifierInUse => 0x91,
        PubAckReason::QuotaExceeded => 0x97,
        PubAckReason::PayloadFormatInvalid => 0x99,
    };
    AckOutcome::Refused { reason }
}

impl Client for AsyncClient {
    fn publish(&self, message: Outgoing, packet_bytes_max: u32) -> Queued {
        let Outgoing {
            topic,
            payload,
            retain,
            about,
            correlation,
        } = message;
        let properties = about.map(|(content_type, user_properties)| PublishProperties {
            content_type: Some(content_type.to_owned()),
            user_properties,
            correlation_data: correlation.map(Into::into),
            ..PublishProperties::default()
        });
        let quality = QoS::AtLeastOnce;
        let mut packet = Publish::new(topic.clone(), quality, payload, properties.clone());
        // Any identifier: the size counts it only when it is there.
        packet.pkid = 1;
        let bytes = u64::try_from(packet.size()).unwrap_or(u64::MAX);
        if bytes > u64::from(packet_bytes_max) {
            return Queued::TooLarge;
        }
        let mut options = PublishOptions::at_least_once().retain(retain);
        if let Some(properties) = properties {
            options = options.properties(properties);
        }
        match self.try_publish(topic, packet.payload, options) {
            Ok(()) => Queued::Taken(bytes),
            Err(_) => Queued::Refused,
        }
    }

    fn subscribe(&self, filter: String) -> bool {
        let mut filter = SubscribeFilter::new(filter, QoS::AtLeastOnce);
        filter.retain_forward_rule = RetainForwardRule::Never;
        self.try_subscribe_many([filter]).is_ok()
    }

    fn disconnect(&self) -> bool {
        self.try_disconnect_now().is_ok()
    }
}

/// Sorts an error of the client.
fn of_connection(error: &ConnectionError, connected: bool) -> LinkFault {
    let cause = match error {
        ConnectionError::Io(error) => of_io(error),
        ConnectionError::Tls(error) => of_tls(error),
        ConnectionError::Timeout(_) | ConnectionError::DisconnectTimeout => "timeout",
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::UnsupportedProtocolVersion
            | ConnectReturnCode::RefusedProtocolVersion,
        )
        // The refusal of MQTT 3.1.1 in the place of that of MQTT 5.
        | ConnectionError::MqttState(StateError::Deserialization(
            rumqttc::Error::InvalidConnectReturnCode(1),
        )) => return fault("protocol", NOT_SPOKEN),
        ConnectionError::ConnectionRefused(code) => of_connack(*code),
        // The library takes the two bytes of that refusal for the beginning of a longer answer.
        ConnectionError::MqttState(StateError::ConnectionAborted) if !connected => {
            let detail = format!("closed without an answer: perhaps {NOT_SPOKEN}");
            return fault("closed", &detail);
        }
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
        StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded { .. }) => OVERSIZED,
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

#[cfg(test)]
mod tests {
    use std::io;

    use rumqttc::tokio_rustls::rustls;

    use super::*;
    use crate::mqtt::fault::NameFault;

    #[test]
    fn errors_are_sorted() {
        let check = |error: ConnectionError, cause| {
            assert_eq!(of_connection(&error, true).cause, cause, "{error:?}");
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
