//! MQTT 3.1.1, by way of its client library.
//!
//! Owns: the use of that library. Must not: keep anything beyond a connection, resend, or wait.
//!
//! PUBACK has no reason here: a message that nobody listens to or whose topic is refused is acknowledged like any other.
//!
//! Invariant: no default of the library is relied upon for a timeout, a size, a flush or a quality of service.

use quorate_core::{
    command::ReplyTo,
    event::{AckOutcome, LinkFault},
};
use rumqttc_v4::{
    AsyncClient, Broker, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill,
    MqttOptions, NetworkOptions, Packet, Publish, PublishOptions, QoS, SessionMode, StateError,
    SubscribeReasonCode, Transport,
};
use tokio::sync::mpsc;

use super::{
    Incoming, Options,
    fault::{OVERSIZED, fault, of_io, of_tls},
    protocol::{self, Client, Heard, Limits, Opened, Outgoing, Queued},
    setup::{self, Credentials, INCOMING_BYTES_MAX, OFFLINE, REQUESTS_PER_FLUSH},
};

pub(super) fn open(options: &Options, relay: mpsc::Sender<Heard>) -> Result<Opened, LinkFault> {
    let (client, mut eventloop) = AsyncClient::builder(prepare(options)?)
        .capacity(protocol::capacity(options))
        .build();
    let mut network = NetworkOptions::new();
    // In whole seconds, of connecting and of every flush; the watchdog outside is exact.
    network.set_connection_timeout(options.connect_timeout_ms.div_ceil(1000));
    eventloop.set_network_options(network);
    let answers = setup::reply_topic(options);
    Ok((Box::new(client), Box::pin(drive(eventloop, relay, answers))))
}

/// Reads the files anew and makes the options of one connection.
fn prepare(options: &Options) -> Result<MqttOptions, LinkFault> {
    let url = options.url.clone();
    let broker = Broker::tcp(url.host.clone(), url.port);
    let mut prepared = MqttOptions::new(options.client_id.clone(), broker);
    let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    let connect_timeout = protocol::connect_timeout(options);
    prepared
        .set_session_mode(SessionMode::Clean)
        .set_keep_alive(options.keep_alive_s.max(1))
        .set_max_packet_size(bytes(INCOMING_BYTES_MAX), bytes(options.packet_bytes_max))
        .set_inflight(options.inflight_max.max(1))
        .set_max_request_batch(REQUESTS_PER_FLUSH)
        .set_last_will(LastWill::new(
            setup::status_topic(options),
            OFFLINE,
            QoS::AtLeastOnce,
            true,
        ));
    prepared.set_socket_connector(move |_, _| {
        let url = url.clone();
        async move { setup::dial(&url.host, url.port, connect_timeout).await }
    });
    if let Some(Credentials { username, password }) = setup::credentials(options)? {
        match password {
            Some(password) => prepared.set_credentials(username, password),
            None => prepared.set_username(username),
        };
    }
    if options.url.tls {
        prepared.set_transport(Transport::tls_with_config(setup::tls(options)?));
    }
    Ok(prepared)
}

/// Polls the client until it fails and passes on what it says.
async fn drive(mut eventloop: EventLoop, relay: mpsc::Sender<Heard>, answers: String) -> LinkFault {
    loop {
        match eventloop.poll().await {
            Ok(event) => {
                let Some(heard) = heard(&event, &answers) else {
                    continue;
                };
                if relay.send(heard).await.is_err() {
                    return of_connection(&ConnectionError::RequestsDone);
                }
            }
            Err(error) => return of_connection(&error),
        }
    }
}

fn heard(event: &Event, answers: &str) -> Option<Heard> {
    Some(match event {
        // This version tells no limits.
        Event::Incoming(Packet::ConnAck(_)) => Heard::Connected(Limits::default()),
        Event::Incoming(Packet::PubAck(puback)) => Heard::Acknowledged {
            packet: puback.pkid,
            outcome: AckOutcome::Taken,
        },
        Event::Incoming(Packet::Publish(publish)) => Heard::Message(Incoming {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.to_vec(),
            retained: publish.retain,
            // This version names no topic for answers.
            reply: Some(ReplyTo {
                topic: answers.to_owned(),
                correlation: None,
            }),
        }),
        Event::Incoming(Packet::SubAck(suback)) => Heard::Subscribed {
            accepted: matches!(suback.return_codes[..], [SubscribeReasonCode::Success(_)]),
        },
        Event::Incoming(_) => Heard::Life,
        Event::Outgoing(rumqttc_v4::Outgoing::Publish(packet)) => Heard::Sent(*packet),
        Event::Outgoing(_) => return None,
    })
}

impl Client for AsyncClient {
    fn publish(&self, message: Outgoing, packet_bytes_max: u32) -> Queued {
        let Outgoing {
            topic,
            payload,
            retain,
            // There is no place for them.
            about: _,
            correlation: _,
        } = message;
        let mut packet = Publish::new(topic.clone(), QoS::AtLeastOnce, payload);
        packet.pkid = 1;
        let bytes = u64::try_from(packet.size()).unwrap_or(u64::MAX);
        if bytes > u64::from(packet_bytes_max) {
            return Queued::TooLarge;
        }
        let options = PublishOptions::at_least_once().retain(retain);
        match self.try_publish(topic, packet.payload, options) {
            Ok(()) => Queued::Taken(bytes),
            Err(_) => Queued::Refused,
        }
    }

    fn subscribe(&self, filter: String) -> bool {
        self.try_subscribe(filter, QoS::AtLeastOnce).is_ok()
    }

    fn disconnect(&self) -> bool {
        self.try_disconnect_now().is_ok()
    }
}

/// Sorts an error of the client.
fn of_connection(error: &ConnectionError) -> LinkFault {
    let cause = match error {
        ConnectionError::Io(error) => of_io(error),
        ConnectionError::Tls(error) => of_tls(error),
        ConnectionError::NetworkTimeout
        | ConnectionError::FlushTimeout
        | ConnectionError::DisconnectTimeout => "timeout",
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                "not-authorised"
            }
            ConnectReturnCode::RefusedProtocolVersion => {
                return fault("protocol", "the broker does not speak MQTT 3.1.1");
            }
            _ => "refused",
        },
        ConnectionError::MqttState(error) => match error {
            StateError::Io(error) | StateError::Deserialization(rumqttc_v4::Error::Io(error)) => {
                of_io(error)
            }
            StateError::Deserialization(rumqttc_v4::Error::PayloadSizeLimitExceeded(_)) => {
                OVERSIZED
            }
            StateError::AwaitPingResp | StateError::CollisionTimeout => "timeout",
            StateError::ConnectionAborted => "closed",
            _ => "protocol",
        },
        ConnectionError::RequestsDone => "closed",
        // A packet of the broker's choosing may stand in the text; the cause says enough.
        ConnectionError::NotConnAck(_) => {
            return fault("protocol", "the broker's first packet is not CONNACK");
        }
        _ => "protocol",
    };
    fault(cause, &error.to_string())
}
