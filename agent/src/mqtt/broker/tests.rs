#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{Ipv4Addr, TcpStream as StdStream};

use rumqttc::{
    Disconnect, DisconnectReasonCode, LastWill, Subscribe, SubscribeFilter, SubscribeReasonCode,
    Unsubscribe,
};

use super::*;
use crate::mqtt::wire::{PATIENCE, Wire};

fn start() -> Broker {
    Broker::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()
}

fn client(broker: &Broker, client_id: &str) -> Wire {
    Wire::connect(
        StdStream::connect(broker.address()).unwrap(),
        client_id,
        None,
    )
}

fn message(topic: &str, payload: &str, qos: QoS) -> Publish {
    let mut publish = Publish::new(topic, qos, payload.to_owned(), None);
    if qos != QoS::AtMostOnce {
        publish.pkid = 9;
    }
    publish
}

fn publish(wire: &mut Wire, topic: &str, payload: &str, retain: bool) {
    let mut publish = message(topic, payload, QoS::AtLeastOnce);
    publish.retain = retain;
    wire.write(&Packet::Publish(publish));
    match wire.read() {
        Some(Packet::PubAck(ack)) => assert_eq!(ack.pkid, 9),
        packet => unreachable!("{packet:?}"),
    }
}

fn subscribe(wire: &mut Wire, filter: &str) -> SubscribeReasonCode {
    let mut subscribe = Subscribe::new(SubscribeFilter::new(filter, QoS::AtLeastOnce), None);
    subscribe.pkid = 4;
    wire.write(&Packet::Subscribe(subscribe));
    match wire.read() {
        Some(Packet::SubAck(ack)) => ack.return_codes[0],
        packet => unreachable!("{packet:?}"),
    }
}

/// The next forwarded message, as topic, payload and retain flag.
fn forwarded(wire: &mut Wire) -> (String, String, bool) {
    match wire.read() {
        Some(Packet::Publish(publish)) => {
            assert_eq!(publish.qos, QoS::AtMostOnce);
            (
                String::from_utf8(publish.topic.to_vec()).unwrap(),
                String::from_utf8(publish.payload.to_vec()).unwrap(),
                publish.retain,
            )
        }
        packet => unreachable!("{packet:?}"),
    }
}

fn broken(wire: &mut Wire, expected: DisconnectReasonCode) {
    match wire.read() {
        Some(Packet::Disconnect(disconnect)) => assert_eq!(disconnect.reason_code, expected),
        packet => unreachable!("{packet:?}"),
    }
    assert_eq!(wire.read(), None);
}

#[test]
fn messages_reach_the_owner_before_they_are_acknowledged_and_then_the_subscribers() {
    let broker = start();
    let (mut reader, mut writer) = (client(&broker, "reader"), client(&broker, "writer"));
    assert_eq!(
        subscribe(&mut reader, "plant/+/data"),
        SubscribeReasonCode::Success(QoS::AtMostOnce)
    );
    publish(&mut writer, "plant/a/data", "one", false);
    assert_eq!(
        broker.received().try_recv().unwrap(),
        Received {
            topic: "plant/a/data".to_owned(),
            payload: b"one".to_vec(),
            retained: false
        }
    );
    assert_eq!(
        forwarded(&mut reader),
        ("plant/a/data".to_owned(), "one".to_owned(), false)
    );
    let mut unsubscribe = Unsubscribe::new("plant/+/data", None);
    unsubscribe.pkid = 5;
    reader.write(&Packet::Unsubscribe(unsubscribe));
    assert!(matches!(reader.read(), Some(Packet::UnsubAck(_))));
    publish(&mut writer, "plant/a/data", "two", false);
    reader.write(&Packet::PingReq);
    assert_eq!(
        reader.read(),
        Some(Packet::PingResp),
        "no longer subscribed"
    );
}

#[test]
fn retained_messages_wait_for_subscribers_until_they_are_removed() {
    let broker = start();
    let mut wire = client(&broker, "a");
    publish(&mut wire, "a/status", "on", true);
    let mut late = client(&broker, "b");
    subscribe(&mut late, "#");
    assert_eq!(
        forwarded(&mut late),
        ("a/status".to_owned(), "on".to_owned(), true)
    );
    publish(&mut wire, "a/status", "", true);
    let mut later = client(&broker, "c");
    subscribe(&mut later, "#");
    later.write(&Packet::PingReq);
    assert_eq!(later.read(), Some(Packet::PingResp));
}

#[test]
fn the_last_will_is_for_those_who_do_not_take_their_leave() {
    let broker = start();
    let will = || {
        Some(LastWill::new(
            "a/status",
            "gone",
            QoS::AtLeastOnce,
            true,
            None,
        ))
    };
    let stream = || StdStream::connect(broker.address()).unwrap();
    let mut polite = Wire::connect(stream(), "polite", will());
    polite.write(&Packet::Disconnect(Disconnect::new(
        DisconnectReasonCode::NormalDisconnection,
    )));
    assert_eq!(polite.read(), None);
    let rude = Wire::connect(stream(), "rude", will());
    drop(rude);
    let received = broker.received();
    let first = received.recv_timeout(PATIENCE).unwrap();
    assert_eq!((first.payload, first.retained), (b"gone".to_vec(), true));
    drop(broker);
    assert!(received.try_recv().is_err(), "the polite one left no will");
}

#[test]
fn what_breaks_the_rules_is_sent_away() {
    let broker = start();
    let mut wire = client(&broker, "a");
    wire.write(&Packet::Publish(message("t", "x", QoS::ExactlyOnce)));
    broken(&mut wire, DisconnectReasonCode::QoSNotSupported);
    let mut wire = client(&broker, "a");
    wire.write_bytes(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    broken(&mut wire, DisconnectReasonCode::MalformedPacket);
    let mut wire = client(&broker, "a");
    assert_eq!(
        subscribe(&mut wire, "a/#/b"),
        SubscribeReasonCode::TopicFilterInvalid
    );
    let mut same = client(&broker, "a");
    broken(&mut wire, DisconnectReasonCode::SessionTakenOver);
    same.write(&Packet::PingReq);
    assert_eq!(same.read(), Some(Packet::PingResp));
    let mut first = Wire::new(StdStream::connect(broker.address()).unwrap());
    first.write(&Packet::PingReq);
    assert_eq!(first.read(), None, "the first packet must be CONNECT");
}

#[test]
fn it_goes_away_and_comes_back_at_the_same_address() {
    let broker = start();
    let mut wire = client(&broker, "a");
    publish(&mut wire, "a/status", "on", true);
    broker.go_away().unwrap();
    assert_eq!(wire.read(), None);
    assert!(StdStream::connect(broker.address()).is_err());
    broker.come_back().unwrap();
    broker.come_back().unwrap();
    let mut wire = client(&broker, "a");
    subscribe(&mut wire, "#");
    assert_eq!(forwarded(&mut wire).1, "on");
    broker.stop();
}

#[test]
fn only_loopback_is_listened_on() {
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    assert!(Broker::start(everywhere).is_err());
}

#[test]
fn one_client_too_many_is_closed_and_the_others_stay() {
    let broker = start();
    let mut clients: Vec<Wire> = (0..CLIENTS_MAX)
        .map(|number| client(&broker, &number.to_string()))
        .collect();
    let mut extra = Wire::new(StdStream::connect(broker.address()).unwrap());
    assert_eq!(extra.read(), None);
    let last = clients.last_mut().unwrap();
    last.write(&Packet::PingReq);
    assert_eq!(last.read(), Some(Packet::PingResp));
}
