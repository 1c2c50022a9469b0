//! One client of the embedded broker, from CONNECT to the end of its socket.
//!
//! Owns: the socket. Must not: hold a borrow of the hub across a wait.
//!
//! Invariant: whatever ends the connection, the client leaves the hub; its last will is published unless it said
//! DISCONNECT or the whole broker went away.

use std::{io, rc::Rc, time::Duration};

use bytes::BytesMut;
use rumqttc::{
    ConnAck, ConnAckProperties, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    LastWill, Packet, PubAck, Publish, QoS, SubAck, Subscribe, SubscribeReasonCode, UnsubAck,
    UnsubAckReason, Unsubscribe, valid_filter, valid_topic,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{Notify, mpsc},
    time::timeout,
};

use super::{Client, FILTERS_MAX, Hub, PACKET_BYTES_MAX, QUEUE_MAX, encoded, outgoing};

/// How long a new connection may take to send CONNECT.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a write may take before the client counts as dead.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// Silence that ends a connection without a keep-alive.
const SILENCE_MAX: Duration = Duration::from_secs(3600);
/// Most unacknowledged messages that a client may send; the broker answers each before it reads the next.
const RECEIVE_MAX: u16 = 64;

/// Whether the connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Continue,
    /// DISCONNECT: the will is not wanted.
    Finished,
    /// The client broke the rules; the reason is told.
    Broken(DisconnectReasonCode),
}

/// Serves one client. Errors of its socket are its own affair.
pub(super) async fn serve(mut stream: TcpStream, hub: Rc<Hub>) {
    let (reader, writer) = stream.split();
    let mut incoming = Incoming {
        reader,
        buffer: BytesMut::new(),
    };
    let first = timeout(CONNECT_WITHIN, incoming.packet()).await;
    let Ok(Ok(Packet::Connect(connect, will, _auth))) = first else {
        return;
    };
    let number = hub.number();
    let (queue, forwarded) = mpsc::channel(QUEUE_MAX);
    let taken_over = Rc::new(Notify::new());
    let mut session = Session {
        hub: Rc::clone(&hub),
        number,
        writer,
        bytes_max: connect
            .properties
            .as_ref()
            .and_then(|properties| properties.max_packet_size)
            .map_or(PACKET_BYTES_MAX, |bytes| bytes.min(PACKET_BYTES_MAX)),
    };
    let assigned = connect
        .client_id
        .is_empty()
        .then(|| format!("anonymous-{number}"));
    hub.enter(
        number,
        Client {
            client_id: assigned
                .clone()
                .unwrap_or_else(|| connect.client_id.clone()),
            filters: Vec::new(),
            queue,
            taken_over: Rc::clone(&taken_over),
        },
    );
    let finished = match session.send(&accepted(assigned)).await {
        Ok(()) => {
            session
                .run(incoming, forwarded, &taken_over, silence_max(&connect))
                .await
        }
        Err(_) => false,
    };
    hub.clients.borrow_mut().remove(&number);
    if let (false, Some(will)) = (finished, will) {
        publish_will(&hub, will).await;
    }
}

/// The answer to CONNECT, with every limit in it.
fn accepted(assigned_client_identifier: Option<String>) -> Packet {
    Packet::ConnAck(ConnAck {
        session_present: false,
        code: ConnectReturnCode::Success,
        properties: Some(ConnAckProperties {
            session_expiry_interval: None,
            receive_max: Some(RECEIVE_MAX),
            max_qos: Some(1),
            retain_available: None,
            max_packet_size: Some(PACKET_BYTES_MAX),
            assigned_client_identifier,
            topic_alias_max: None,
            reason_string: None,
            user_properties: Vec::new(),
            wildcard_subscription_available: None,
            subscription_identifiers_available: Some(0),
            shared_subscription_available: Some(0),
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        }),
    })
}

/// One and a half keep-alives (MQTT 5, section 3.1.2.10).
fn silence_max(connect: &Connect) -> Duration {
    match connect.keep_alive {
        0 => SILENCE_MAX,
        seconds => Duration::from_millis(u64::from(seconds) * 1500),
    }
}

async fn publish_will(hub: &Hub, will: LastWill) {
    let Ok(topic) = String::from_utf8(will.topic.to_vec()) else {
        return;
    };
    if valid_topic(&topic) {
        let mut message = Publish::new(topic.clone(), QoS::AtMostOnce, will.message, None);
        message.retain = will.retain;
        hub.take(topic, message).await;
    }
}

/// The reading half; a read that is dropped loses nothing, because what came stays in the buffer.
struct Incoming<'a> {
    reader: ReadHalf<'a>,
    buffer: BytesMut,
}

impl Incoming<'_> {
    async fn packet(&mut self) -> io::Result<Packet> {
        loop {
            match Packet::read(&mut self.buffer, Some(PACKET_BYTES_MAX)) {
                Ok(packet) => return Ok(packet),
                Err(rumqttc::Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
    }
}

struct Session<'a> {
    hub: Rc<Hub>,
    number: u64,
    writer: WriteHalf<'a>,
    /// The largest packet that the client takes.
    bytes_max: u32,
}

impl Session<'_> {
    /// Serves until the end; true when the client took its leave.
    async fn run(
        &mut self,
        mut incoming: Incoming<'_>,
        mut forwarded: mpsc::Receiver<Publish>,
        taken_over: &Notify,
        silence_max: Duration,
    ) -> bool {
        loop {
            let next = tokio::select! {
                packet = timeout(silence_max, incoming.packet()) => match packet {
                    Ok(Ok(packet)) => self.handle(packet).await,
                    Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                        Ok(Next::Broken(DisconnectReasonCode::MalformedPacket))
                    }
                    Ok(Err(error)) => Err(error),
                    Err(_elapsed) => Ok(Next::Broken(DisconnectReasonCode::KeepAliveTimeout)),
                },
                Some(message) = forwarded.recv() => {
                    self.send(&Packet::Publish(outgoing(message))).await.map(|()| Next::Continue)
                }
                () = taken_over.notified() => Ok(Next::Broken(DisconnectReasonCode::SessionTakenOver)),
            };
            match next {
                Ok(Next::Continue) => {}
                Ok(Next::Finished) => return true,
                Ok(Next::Broken(reason)) => {
                    // The connection ends either way.
                    let _ = self
                        .send(&Packet::Disconnect(Disconnect::new(reason)))
                        .await;
                    return false;
                }
                Err(_) => return false,
            }
        }
    }

    /// Sends a packet; one that the client cannot take is left out, as the standard says.
    async fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let Some(bytes) = encoded(packet, self.bytes_max) else {
            return Ok(());
        };
        timeout(WRITE_WITHIN, self.writer.write_all(&bytes))
            .await
            .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn handle(&mut self, packet: Packet) -> io::Result<Next> {
        match packet {
            Packet::Publish(message) => self.publish(message).await,
            Packet::Subscribe(subscribe) => self.subscribe(subscribe).await,
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe).await,
            Packet::PingReq => {
                self.send(&Packet::PingResp).await?;
                Ok(Next::Continue)
            }
            Packet::Disconnect(disconnect)
                if disconnect.reason_code == DisconnectReasonCode::NormalDisconnection =>
            {
                Ok(Next::Finished)
            }
            Packet::Disconnect(_) => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            _ => Ok(Next::Broken(DisconnectReasonCode::ProtocolError)),
        }
    }

    async fn publish(&mut self, message: Publish) -> io::Result<Next> {
        let alias = message
            .properties
            .as_ref()
            .and_then(|properties| properties.topic_alias);
        if alias.is_some() {
            return Ok(Next::Broken(DisconnectReasonCode::TopicAliasInvalid));
        }
        let topic = match String::from_utf8(message.topic.to_vec()) {
            Ok(topic) if !topic.is_empty() && valid_topic(&topic) => topic,
            _ => return Ok(Next::Broken(DisconnectReasonCode::TopicNameInvalid)),
        };
        let (qos, packet) = (message.qos, message.pkid);
        if qos == QoS::ExactlyOnce {
            return Ok(Next::Broken(DisconnectReasonCode::QoSNotSupported));
        }
        self.hub.take(topic, message).await;
        if qos == QoS::AtLeastOnce {
            self.send(&Packet::PubAck(PubAck::new(packet, None)))
                .await?;
        }
        Ok(Next::Continue)
    }

    async fn subscribe(&mut self, subscribe: Subscribe) -> io::Result<Next> {
        let mut return_codes = Vec::new();
        let mut retained = Vec::new();
        for filter in subscribe.filters {
            let code = self.add(&filter.path);
            if code == SubscribeReasonCode::Success(QoS::AtMostOnce) {
                retained.extend(self.hub.retained(&filter.path));
            }
            return_codes.push(code);
        }
        self.send(&Packet::SubAck(SubAck {
            pkid: subscribe.pkid,
            return_codes,
            properties: None,
        }))
        .await?;
        for message in retained {
            self.send(&Packet::Publish(outgoing(message))).await?;
        }
        Ok(Next::Continue)
    }

    fn add(&self, filter: &str) -> SubscribeReasonCode {
        if filter.starts_with("$share/") {
            return SubscribeReasonCode::SharedSubscriptionsNotSupported;
        }
        if !valid_filter(filter) {
            return SubscribeReasonCode::TopicFilterInvalid;
        }
        let mut clients = self.hub.clients.borrow_mut();
        let Some(client) = clients.get_mut(&self.number) else {
            return SubscribeReasonCode::Unspecified;
        };
        if !client.filters.iter().any(|known| known == filter) {
            if client.filters.len() >= FILTERS_MAX {
                return SubscribeReasonCode::QuotaExceeded;
            }
            client.filters.push(filter.to_owned());
        }
        SubscribeReasonCode::Success(QoS::AtMostOnce)
    }

    async fn unsubscribe(&mut self, unsubscribe: Unsubscribe) -> io::Result<Next> {
        let reasons = unsubscribe
            .filters
            .iter()
            .map(|filter| self.remove(filter))
            .collect();
        self.send(&Packet::UnsubAck(UnsubAck {
            pkid: unsubscribe.pkid,
            reasons,
            properties: None,
        }))
        .await?;
        Ok(Next::Continue)
    }

    fn remove(&self, filter: &str) -> UnsubAckReason {
        let mut clients = self.hub.clients.borrow_mut();
        let Some(client) = clients.get_mut(&self.number) else {
            return UnsubAckReason::UnspecifiedError;
        };
        let before = client.filters.len();
        client.filters.retain(|known| known != filter);
        if client.filters.len() < before {
            UnsubAckReason::Success
        } else {
            UnsubAckReason::NoSubscriptionExisted
        }
    }
}
