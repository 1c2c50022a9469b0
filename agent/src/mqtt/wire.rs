//! One end of a socket that speaks MQTT packets, blocking, for tests only.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use bytes::BytesMut;
use quorate_core::units::{BootId, Epoch};
use rumqttc::{
    ConnAck, ConnAckProperties, Connect, ConnectAuth, ConnectReturnCode, LastWill, Packet,
};

use super::{BrokerUrl, Compression, Encoding, Options, Protocol};

/// What a device with the plainest configuration uses at this broker.
pub(super) fn options(address: SocketAddr) -> Options {
    Options {
        device: "press-07".to_owned(),
        url: BrokerUrl {
            tls: false,
            host: address.ip().to_string(),
            port: address.port(),
        },
        fallback_urls: Vec::new(),
        topic: "plant/press-07".to_owned(),
        client_id: "press-07".to_owned(),
        username: None,
        password_file: None,
        ca_file: None,
        client_cert_file: None,
        client_key_file: None,
        keep_alive_s: 30,
        protocol: Protocol::Mqtt5,
        encoding: Encoding::Json,
        compression: Compression::Zstd,
        epoch: Epoch(3),
        connect_timeout_ms: 10_000,
        packet_bytes_max: 65_536,
        inflight_max: 8,
        version: "0.1.0".to_owned(),
        boot: BootId([7; 16]),
        incoming: None,
        watermark: false,
        credentials: None,
        certificates: None,
    }
}

/// No test waits longer for one packet or event.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    pub(super) fn write(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.write_bytes(&bytes);
    }

    pub(super) fn write_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next packet; `None` when the other end has closed.
    pub(super) fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::Error::InsufficientBytes(_)) => {}
                Err(error) => unreachable!("{error}"),
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => unreachable!("{error}"),
            }
        }
    }

    /// Sends CONNECT and takes CONNACK, as a client.
    pub(super) fn connect(stream: TcpStream, client_id: &str, will: Option<LastWill>) -> Self {
        let mut wire = Self::new(stream);
        wire.write(&Packet::Connect(
            Connect {
                keep_alive: 60,
                client_id: client_id.to_owned(),
                clean_start: true,
                properties: None,
            },
            will,
            ConnectAuth::None,
        ));
        assert!(matches!(
            wire.read(),
            Some(Packet::ConnAck(ConnAck {
                code: ConnectReturnCode::Success,
                ..
            }))
        ));
        wire
    }

    /// Takes CONNECT and answers with the given limits, as a broker.
    pub(super) fn accept(
        stream: TcpStream,
        max_packet_size: Option<u32>,
        receive_max: Option<u16>,
    ) -> Self {
        let mut wire = Self::new(stream);
        assert!(matches!(wire.read(), Some(Packet::Connect(..))));
        wire.write(&Packet::ConnAck(ConnAck {
            session_present: false,
            code: ConnectReturnCode::Success,
            properties: Some(ConnAckProperties {
                max_packet_size,
                receive_max,
                ..no_properties()
            }),
        }));
        wire
    }
}

fn no_properties() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
