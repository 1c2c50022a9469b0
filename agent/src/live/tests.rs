#![expect(clippy::unwrap_used, reason = "a test may panic")]

use prost::Message as _;
use serde_json::{Value, json};

use super::{
    Model, Options, Outgoing, Quantity, Shape, Sight, Views,
    sparkplug::{HISTORY_MAX, Metric, MetricValue, Payload},
};

fn views(home_assistant: bool, sparkplug: bool) -> Views {
    let quantity = |id: &str, unit: &str, boolean| Quantity {
        id: id.to_owned(),
        unit: unit.to_owned(),
        boolean,
        period_ms: 5_000,
    };
    let shape = Shape {
        device: "press-07".to_owned(),
        topic: "plant/press-07".to_owned(),
        quantities: vec![
            quantity("bearing.t", "celsius", false),
            quantity("door", "1", true),
        ],
        models: vec![Model {
            id: "anomaly".to_owned(),
            outputs: vec!["score".to_owned()],
        }],
    };
    let options = Options {
        home_assistant: home_assistant.then(|| "homeassistant".to_owned()),
        sparkplug_group: sparkplug.then(|| "plant".to_owned()),
    };
    Views::new(&options, &shape)
}

fn vote(second: Option<u64>, quantity: &str, value: f64, quality: &str) -> Sight {
    let time = second.map(|second| format!("2026-11-24T10:00:{second:02}.000Z"));
    let record = json!({"seq": 1, "time": time, "kind": "vote", "body": {"quantity": quantity, "value": value,
        "uncertainty": 0.5, "quality": quality, "used": 2, "expected": 3, "excluded": [{"sensor": "c", "reason": "stuck"}]}});
    Sight::of(record.to_string().as_bytes()).unwrap()
}

fn decoded(messages: &[Outgoing]) -> Vec<(String, Payload)> {
    let kind = |topic: &str| topic.split('/').nth(2).unwrap().to_owned();
    let decode = |message: &Outgoing| {
        (
            kind(&message.topic),
            Payload::decode(&*message.payload).unwrap(),
        )
    };
    messages.iter().map(decode).collect()
}

fn find<'a>(payload: &'a Payload, name: &str) -> &'a Metric {
    payload
        .metrics
        .iter()
        .find(|metric| metric.name.as_deref() == Some(name))
        .unwrap()
}

#[test]
fn birth_comes_first_with_every_metric_and_the_number_of_the_will() {
    let mut views = views(false, true);
    for connection in 0..3_u64 {
        let will = views.will().unwrap();
        assert_eq!(will.topic, "spBv1.0/plant/NDEATH/press-07");
        let death = Payload::decode(&*will.payload).unwrap();
        assert_eq!(death.seq, None);
        let mut said = views.connected();
        assert_eq!(
            said.is_empty(),
            connection == 0,
            "nothing is born before the clock is believed"
        );
        said.extend(views.see(&vote(None, "bearing.t", 1.0, "good")));
        said.extend(views.see(&vote(Some(5), "bearing.t", 21.5, "good")));
        said.extend(views.see(&vote(Some(6), "bearing.t", 22.0, "degraded")));
        let said = decoded(&said);
        let kinds: Vec<_> = said.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds[0], "NBIRTH");
        assert!(kinds[1..].iter().all(|kind| *kind == "NDATA") && kinds.len() > 1);
        for (place, (_, payload)) in said.iter().enumerate() {
            assert_eq!(payload.seq, Some(u64::try_from(place).unwrap()));
        }
        let birth = &said[0].1;
        assert_eq!(
            find(birth, "bdSeq").value,
            Some(MetricValue::Long(connection))
        );
        assert_eq!(find(birth, "bdSeq").value, find(&death, "bdSeq").value);
        for name in [
            "bearing.t",
            "bearing.t/uncertainty",
            "door",
            "anomaly/score",
            "anomaly/alarm",
        ] {
            assert!(
                find(birth, name).timestamp.unwrap() > 1_700_000_000_000,
                "{name}"
            );
        }
        assert_eq!(find(birth, "anomaly/score").is_null, Some(true));
        let data = &said.last().unwrap().1;
        assert_eq!(
            find(data, "bearing.t").value,
            Some(MetricValue::Double(22.0))
        );
        views.disconnected();
    }
}

#[test]
fn what_happened_without_a_connection_follows_the_birth_as_history() {
    let mut views = views(false, true);
    for second in 0..50 {
        assert_eq!(views.see(&vote(Some(second), "bearing.t", 1.0, "good")), []);
    }
    views.will();
    let said = decoded(&views.connected());
    let historical: usize = said[1..]
        .iter()
        .map(|(_, payload)| payload.metrics.len())
        .sum();
    assert_eq!(historical, 100);
    assert!(
        said[1..]
            .iter()
            .flat_map(|(_, payload)| &payload.metrics)
            .all(|metric| metric.is_historical == Some(true))
    );
    views.disconnected();
    for _ in 0..HISTORY_MAX {
        views.see(&vote(Some(9), "bearing.t", 1.0, "good"));
    }
    views.will();
    let kept: usize = decoded(&views.connected())[1..]
        .iter()
        .map(|(_, payload)| payload.metrics.len())
        .sum();
    assert_eq!(kept, HISTORY_MAX, "bounded");
}

#[test]
fn a_host_may_ask_for_a_new_birth_and_for_nothing_else() {
    let mut views = views(false, true);
    views.will();
    views.connected();
    views.see(&vote(Some(1), "door", 1.0, "good"));
    let ask = |name: &str, value| {
        let metric = Metric {
            name: Some(name.to_owned()),
            value: Some(MetricValue::Boolean(value)),
            ..Metric::default()
        };
        Payload {
            metrics: vec![metric],
            ..Payload::default()
        }
        .encode_to_vec()
    };
    let topic = "spBv1.0/plant/NCMD/press-07";
    let said = decoded(&views.hear(topic, &ask("Node Control/Rebirth", true)));
    assert_eq!(
        (said.len(), said[0].0.as_str(), said[0].1.seq),
        (1, "NBIRTH", Some(0))
    );
    assert_eq!(
        find(&said[0].1, "door").value,
        Some(MetricValue::Boolean(true))
    );
    assert_eq!(views.hear(topic, &ask("Node Control/Rebirth", false)), []);
    assert_eq!(views.hear(topic, &ask("Node Control/Reboot", true)), []);
    assert_eq!(
        views.hear(
            "spBv1.0/other/NCMD/press-07",
            &ask("Node Control/Rebirth", true)
        ),
        []
    );
    assert_eq!(views.hear(topic, &[0xFF; 100]), []);
}

#[test]
fn quality_becomes_the_number_of_the_specification() {
    let mut views = views(false, true);
    views.will();
    views.connected();
    views.see(&vote(Some(1), "door", 1.0, "good"));
    for (quality, number) in [
        ("good", 192),
        ("degraded", 192),
        ("uncertain", 500),
        ("bad", 0),
    ] {
        let said = decoded(&views.see(&vote(Some(2), "bearing.t", 3.0, quality)));
        let properties = find(&said[0].1, "bearing.t").properties.clone().unwrap();
        assert_eq!(
            (properties.keys[0].as_str(), properties.values[0].int_value),
            ("Quality", Some(number))
        );
    }
}

#[test]
fn home_assistant_learns_every_entity_and_when_to_stop_believing_it() {
    let mut views = views(true, false);
    let said = views.connected();
    let entity = |topic: &str| -> Value {
        let message = said.iter().find(|message| message.topic == topic).unwrap();
        assert!(message.retained);
        serde_json::from_slice(&message.payload).unwrap()
    };
    let topics: Vec<_> = said.iter().map(|message| message.topic.as_str()).collect();
    assert_eq!(topics.len(), 4);
    let id = "bearing_t_f6e5c7d8";
    let temperature = said
        .iter()
        .find(|message| message.topic.contains("bearing_t_"))
        .unwrap();
    assert_eq!(
        temperature.topic.len(),
        format!("homeassistant/sensor/press-07/{id}/config").len(),
        "{}",
        temperature.topic
    );
    let temperature = entity(&temperature.topic);
    assert_eq!(temperature["unit_of_measurement"], "°C");
    assert_eq!(temperature["device_class"], "temperature");
    assert_eq!(temperature["expire_after"], 15);
    assert_eq!(
        temperature["availability"][0]["topic"],
        "plant/press-07/status"
    );
    let door = entity("homeassistant/binary_sensor/press-07/door/config");
    assert_eq!(door["unit_of_measurement"], Value::Null);
    let alarm = entity("homeassistant/binary_sensor/press-07/anomaly-alarm/config");
    assert_eq!(alarm["device_class"], "problem");
    let ids: std::collections::BTreeSet<_> = topics
        .iter()
        .map(|topic| entity(topic)["unique_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 4);
    let state = views.see(&vote(None, "bearing.t", 21.5, "degraded"));
    assert_eq!(state[0].topic, temperature["state_topic"].as_str().unwrap());
    assert!(!state[0].retained);
    let state: Value = serde_json::from_slice(&state[0].payload).unwrap();
    assert_eq!(
        state,
        json!({"value": 21.5, "uncertainty": 0.5, "quality": "degraded", "used": 2, "expected": 3, "excluded": ["c"]})
    );
}

#[test]
fn other_records_are_not_shown() {
    for record in [
        r#"{"kind":"event","body":{}}"#,
        r#"{"kind":"vote","body":1}"#,
        "{",
        r#"{"kind":"external","body":"x"}"#,
    ] {
        assert_eq!(Sight::of(record.as_bytes()), None, "{record}");
    }
}
