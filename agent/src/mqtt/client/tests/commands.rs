//! Commands on their way in, and answers on their way out.

use quorate_core::command::{CommandEvent, ReplyTo};
use rumqttc::{Publish, PublishProperties, QoS, SubAck, SubscribeReasonCode};

use super::*;
use crate::mqtt::Incoming;

pub(super) fn listening(address: SocketAddr) -> (Options, Receiver<Incoming>) {
    let (sender, incoming) = crossbeam_channel::bounded(4);
    let options = Options {
        incoming: Some(sender),
        ..options(address)
    };
    (options, incoming)
}

/// Takes the connection, the status and the subscription; answers the latter.
fn accept(listener: &TcpListener, code: SubscribeReasonCode) -> Wire {
    let (stream, _) = listener.accept().unwrap();
    let mut wire = Wire::accept(stream, None, None);
    loop {
        match wire.read() {
            Some(Packet::Publish(publish)) => wire.write(&Packet::PubAck(PubAck {
                pkid: publish.pkid,
                reason: PubAckReason::Success,
                properties: None,
            })),
            Some(Packet::Subscribe(subscribe)) => {
                assert_eq!(subscribe.filters[0].path, "plant/press-07/cmd/+");
                wire.write(&Packet::SubAck(SubAck {
                    pkid: subscribe.pkid,
                    return_codes: vec![code],
                    properties: None,
                }));
                return wire;
            }
            other => unreachable!("{other:?}"),
        }
    }
}

pub(super) fn subscribed(accepted: bool) -> Event {
    Event::Command(CommandEvent::Subscribed { accepted })
}

fn question(payload: Vec<u8>) -> Publish {
    let properties = PublishProperties {
        response_topic: Some("ops/answers".into()),
        correlation_data: Some(b"abc".to_vec().into()),
        ..PublishProperties::default()
    };
    let topic = "plant/press-07/cmd/ping";
    Publish::new(topic, QoS::AtMostOnce, payload, Some(properties))
}

#[test]
fn a_question_comes_in_and_its_answer_goes_where_it_asks() {
    let (listener, address) = listener();
    let (options, incoming) = listening(address);
    let agent = start(options);
    agent.order(Command::Connect { broker: 0 });
    let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
    let mut wire = accept(&listener, granted);
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    assert_eq!(agent.event(), subscribed(true));
    wire.write(&Packet::Publish(question(b"{}".to_vec())));
    let message = incoming.recv_timeout(PATIENCE).unwrap();
    let to = ReplyTo {
        topic: "ops/answers".into(),
        correlation: Some(b"abc".to_vec()),
    };
    assert_eq!(
        (&*message.topic, &*message.payload),
        ("plant/press-07/cmd/ping", &b"{}"[..])
    );
    assert_eq!(message.reply, Some(to.clone()));
    let payload = "{\"outcome\":\"done\"}".to_owned();
    agent.order(Command::Reply { to, payload });
    let Some(Packet::Publish(answer)) = wire.read() else {
        unreachable!("no answer");
    };
    assert_eq!(
        (&answer.topic[..], answer.qos),
        (&b"ops/answers"[..], QoS::AtLeastOnce)
    );
    assert_eq!(answer.payload[..], b"{\"outcome\":\"done\"}"[..]);
    let properties = answer.properties.unwrap();
    assert_eq!(properties.correlation_data.unwrap()[..], b"abc"[..]);
    // A topic that is none costs the answer and not the connection.
    let to = ReplyTo {
        topic: "a/#".into(),
        correlation: None,
    };
    let payload = "{}".to_owned();
    agent.order(Command::Reply { to, payload });
    wire.write(&Packet::Publish(question(b"again".to_vec())));
    assert_eq!(incoming.recv_timeout(PATIENCE).unwrap().payload, b"again");
    agent.stop();
}

#[test]
fn a_refused_subscription_is_told_and_the_connection_stays() {
    let (listener, address) = listener();
    let (options, _incoming) = listening(address);
    let agent = start(options);
    agent.order(Command::Connect { broker: 0 });
    let mut wire = accept(&listener, SubscribeReasonCode::NotAuthorized);
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    assert_eq!(agent.event(), subscribed(false));
    agent.order(batch(1, 1, 1));
    assert!(matches!(wire.read(), Some(Packet::Publish(_))));
    agent.stop();
}

#[test]
fn more_than_can_be_checked_is_dropped_and_delays_nothing() {
    let (listener, address) = listener();
    let (options, incoming) = listening(address);
    let agent = start(options);
    agent.order(Command::Connect { broker: 0 });
    let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
    let mut wire = accept(&listener, granted);
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    assert_eq!(agent.event(), subscribed(true));
    for _ in 0..1_000 {
        wire.write(&Packet::Publish(question(vec![b'x'; 1_000])));
    }
    agent.order(batch(1, 1, 1));
    let Some(Packet::Publish(publish)) = wire.read() else {
        unreachable!("the batch is not sent");
    };
    wire.write(&Packet::PubAck(PubAck {
        pkid: publish.pkid,
        reason: PubAckReason::Success,
        properties: None,
    }));
    assert!(
        matches!(agent.event(), Event::Acked { .. }),
        "behind the flood"
    );
    assert_eq!(incoming.len(), 4);
    agent.stop();
}

#[test]
fn a_packet_that_is_too_large_ends_one_connection_and_the_next_does_not_subscribe() {
    let (listener, address) = listener();
    let (options, incoming) = listening(address);
    let agent = start(options);
    agent.order(Command::Connect { broker: 0 });
    let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
    let mut wire = accept(&listener, granted);
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    assert_eq!(agent.event(), subscribed(true));
    // The beginning is enough: nobody reads a packet whose length says that it is too large.
    let mut bytes = bytes::BytesMut::new();
    let packet = Packet::Publish(question(vec![b'x'; 100_000]));
    packet.write(&mut bytes, None).unwrap();
    wire.write_bytes(&bytes[..1_000]);
    agent.down("incoming-too-large");
    agent.order(Command::Connect { broker: 0 });
    let (stream, _) = listener.accept().unwrap();
    let mut wire = Wire::accept(stream, None, None);
    assert!(matches!(agent.event(), Event::LinkUp { .. }));
    assert_eq!(agent.event(), subscribed(false));
    assert!(
        matches!(wire.read(), Some(Packet::Publish(_))),
        "the status"
    );
    agent.order(batch(1, 1, 1));
    assert!(
        matches!(wire.read(), Some(Packet::Publish(_))),
        "no subscription before it"
    );
    assert!(incoming.is_empty());
    agent.stop();
}
