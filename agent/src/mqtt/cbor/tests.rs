#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use quorate_core::units::Seq;
use serde_json::json;

use super::*;

/// Votes as a device with four quantities of three sensors makes them: full doubles, one in ten votes without a sensor.
pub(in crate::mqtt) fn votes(count: u64) -> Vec<StoredRecord> {
    const NAMES: [&str; 4] = [
        "bearing-temperature",
        "motor-current",
        "oil-pressure",
        "vibration-rms",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut vote = |index: u64| {
        let (tick, place) = (index / 4, usize::try_from(index % 4).unwrap());
        let mono_ms = 81_234 + 100 * tick + u64::from(random.u8(..5) / 4);
        let name = NAMES[place];
        let all = ["a", "b", "c"].map(|letter| format!("{name}-{letter}"));
        let out = random.u8(..10) == 0;
        let sensors = if out { &all[..2] } else { &all[..] };
        let excluded = if out {
            json!([{"sensor": all[2], "state": "quarantined", "reason": "stuck"}])
        } else {
            json!([])
        };
        json!({
            "seq": 4711 + index,
            "boot": "0b9f7c0e-6a55-4f0c-9c1e-2f6a3f4b5c6d",
            "mono_ms": mono_ms,
            "time": time_text(1_795_000_000_000 + i64::try_from(mono_ms).unwrap()),
            "synced": true,
            "kind": "vote",
            "body": {
                "quantity": name,
                "unit": "Cel",
                "value": random.f64().mul_add(0.5, 20.0),
                "uncertainty": random.f64() * 0.1,
                "quality": if out { "degraded" } else { "good" },
                "used": sensors.len(),
                "expected": 3,
                "sensors": sensors,
                "excluded": excluded,
            },
        })
    };
    (0..count).map(|index| stored(&vote(index))).collect()
}

fn stored(json: &Json) -> StoredRecord {
    raw(&json.to_string())
}

fn raw(text: &str) -> StoredRecord {
    StoredRecord {
        seq: Seq(1),
        payload: text.as_bytes().into(),
    }
}

fn check(records: &[StoredRecord]) {
    let texts: Vec<&str> = records
        .iter()
        .map(|record| std::str::from_utf8(&record.payload).unwrap())
        .collect();
    let batch = format!(
        r#"{{"device":"press-07","epoch":3,"settled":0,"after":0,"records":[{}]}}"#,
        texts.join(",")
    );
    let expected: Json = serde_json::from_str(&batch).unwrap();
    let bytes = from_records("press-07", Epoch(3), records, Standing::default()).unwrap();
    assert_eq!(bytes[0], FIRST_BYTE);
    assert_eq!(to_json(&bytes).unwrap(), expected);
}

#[test]
fn votes_come_back_and_stand_as_arrays() {
    let records = votes(50);
    check(&records);
    let bytes = from_records("press-07", Epoch(3), &records, Standing::default()).unwrap();
    let batch: Cbor = ciborium::from_reader(bytes.as_slice()).unwrap();
    let elements = batch.as_array().unwrap();
    assert_eq!(elements[3].as_array().unwrap().len(), 1, "one boot");
    assert_eq!(
        elements[4].as_array().unwrap().len(),
        2,
        "votes and excluded"
    );
    let second = elements[5].as_array().unwrap()[1].as_array().unwrap();
    assert_eq!(second[0], Cbor::from(1), "a step of seq");
}

/// The very bytes, so that a change of the layout is seen; the batch of docs/mqtt.md.
#[test]
fn the_layout_is_the_documented_one() {
    let record = |seq: u64, mono_ms: u64, time: &str, value: f64| {
        stored(
            &json!({"seq": seq, "boot": "b1", "mono_ms": mono_ms, "time": time, "synced": true,
            "kind": "vote", "body": {"quantity": "t", "value": value}}),
        )
    };
    let records = [
        record(17, 1000, "2026-11-24T10:00:00.000Z", 21.5),
        record(18, 2000, "2026-11-24T10:00:01.000Z", 21.25),
    ];
    check(&records);
    let hex = from_records("p", Epoch(3), &records, Standing::default())
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let expected = concat!(
        "87016170038162623181",             // [1, "p", 3, ["b1"], [
        "82687175616e746974796576616c7565", // ["quantity", "value"]],
        "828711001903e81b000001a20cff7918f564766f7465a100826174f94d60", // [[17, 0, 1000, ..., true, "vote", {0: ["t", 21.5]}],
        "8701001903e800f564766f7465a100826174f94d50", // [1, 0, 1000, 0, true, "vote", {0: ["t", 21.25]}]],
        "a267736574746c656400656166746572",
        "00" // {"settled": 0, "after": 0}]
    );
    assert_eq!(hex, expected);
}

#[test]
fn what_is_not_a_record_of_the_core_is_kept_whole() {
    check(&[]);
    check(&[stored(&json!({}))]);
    let usual = json!({"seq": 1, "boot": "b", "mono_ms": 5, "time": null, "synced": false, "kind": "event", "body": [1]});
    let with = |name: &str, value: Json| {
        let mut record = usual.clone();
        record[name] = value;
        stored(&record)
    };
    check(&[
        stored(&usual),
        with("more", json!(1)),
        with("seq", json!(u64::MAX)),
        with("seq", json!("1")),
        with("mono_ms", json!(1.5)),
        with("mono_ms", json!(i64::MIN)),
        with("time", json!("2026-11-24T10:00:00Z")),
        with("time", json!("2026-11-24T10:00:00.000Z")),
        with("time", json!("yesterday")),
        with("time", json!(7)),
        with("synced", Json::Null),
        with("boot", Json::Null),
        with("body", Json::Null),
        with("seq", json!(i64::MAX)),
        with("seq", json!(i64::MIN)),
        stored(&usual),
    ]);
}

#[test]
fn numbers_are_the_same_numbers() {
    let texts = [
        "0",
        "-0.0",
        "1.0",
        "1e300",
        "5e-324",
        "0.1",
        "21.31",
        "18446744073709551615",
        "-9223372036854775808",
        "123456789012345678901234567890",
        "20.020093940327655",
        "1.5589611637569662e-14",
        "65504.0",
        "16777217.0",
    ];
    for text in texts {
        let record = raw(&format!("{{\"a\":{text}}}"));
        check(std::slice::from_ref(&record));
        let bytes = from_records("d", Epoch(1), &[record], Standing::default()).unwrap();
        let json = to_json(&bytes).unwrap();
        let number = json["records"][0]["a"].as_f64().unwrap();
        assert_eq!(number.to_bits(), text.parse::<f64>().unwrap().to_bits());
    }
}

#[test]
fn a_record_that_is_not_json_stands_as_its_bytes() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for text in ["{\"a\":", "", "[1]", "7", &deep] {
        let records = [raw("{\"a\":1}"), raw(text)];
        let bytes = from_records("d", Epoch(1), &records, Standing::default()).unwrap();
        let batch: Cbor = ciborium::from_reader(bytes.as_slice()).unwrap();
        let kept = &batch.as_array().unwrap()[5].as_array().unwrap()[1];
        assert_eq!(kept.as_bytes().unwrap(), text.as_bytes());
        assert!(matches!(to_json(&bytes), Err(CborError::Shape(_))));
    }
}

#[test]
fn the_deepest_json_comes_back() {
    // The batch around it takes two of the levels that the reader of the expected value allows.
    let deep = format!("{}1{}", "{\"a\":".repeat(125), "}".repeat(125));
    check(&[raw(&deep)]);
}

#[test]
fn bytes_that_are_no_batch_are_refused() {
    let check = |bytes: &[u8]| assert!(to_json(bytes).is_err(), "{bytes:02x?}");
    check(b"");
    check(b"{\"device\":\"a\"}");
    // Lengths that no message can have: arrays, texts, bytes and maps of 2^63 elements.
    for head in [0x9b, 0x7b, 0x5b, 0xbb] {
        let mut bytes = vec![0x87, 1, 0x61, b'a', 3, 0x80, 0x80, head];
        bytes.extend_from_slice(&(1_u64 << 63).to_be_bytes());
        bytes.push(1);
        check(&bytes);
    }
    check(&[0x81; 100_000]);
    let good = [0x87, 1, 0x61, b'a', 3, 0x80, 0x80, 0x80, 0xa0];
    assert!(to_json(&good).is_ok());
    for (place, other) in [
        (0, 0x85),
        (0, 0x86),
        (1, 2),
        (2, 0x41),
        (4, 0x20),
        (5, 0),
        (6, 0),
        (7, 0),
        (8, 0),
    ] {
        let mut bytes = good;
        bytes[place] = other;
        check(&bytes);
    }
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        any::<f32>().prop_map(Json::from),
        ".{0,12}".prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            prop::collection::btree_map("[a-c]{0,2}", inner, 0..6)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

fn any_record() -> impl Strategy<Value = StoredRecord> {
    let time = prop_oneof![
        Just(None),
        (-62_000_000_000_000_i64..253_000_000_000_000).prop_map(Some)
    ];
    let usual = (
        any::<i64>(),
        0_u8..3,
        any::<i64>(),
        time,
        any::<bool>(),
        any_json(),
    )
        .prop_map(|(seq, boot, mono_ms, time, synced, body)| {
            stored(
                &json!({"seq": seq, "boot": format!("boot-{boot}"), "mono_ms": mono_ms,
                "time": time.map(time_text), "synced": synced, "kind": "external", "body": body}),
            )
        });
    let other = prop::collection::btree_map("[a-z]{1,3}", any_json(), 0..5)
        .prop_map(|members| stored(&Json::Object(members.into_iter().collect())));
    prop_oneof![3 => usual, 1 => other]
}

#[test]
fn a_seventh_element_says_where_the_batch_stands_and_nothing_else() {
    let standing = Standing {
        historical: true,
        after: Seq(9),
        settled: Seq(4),
    };
    let good = from_records("d", Epoch(1), &votes(2), standing).unwrap();
    assert!(is_batch(&good) && !is_batch(b"{") && !is_batch(b""));
    let json = to_json(&good).unwrap();
    assert_eq!(
        (&json["historical"], &json["after"], &json["settled"]),
        (&true.into(), &9.into(), &4.into())
    );
    // The last member is `historical`: false, null and a number are not what it may be.
    let mut other = good.clone();
    for last in [0xf4, 0xf6, 0x01] {
        *other.last_mut().unwrap() = last;
        assert!(to_json(&other).is_err());
    }
}

proptest! {
    #[test]
    fn any_records_come_back(records in prop::collection::vec(any_record(), 0..6)) {
        check(&records);
    }

    #[test]
    fn any_double_comes_back(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        if number.is_finite() {
            // As the core writes it, and with more digits than it needs.
            for text in [format!("{number:?}"), format!("{number:.25e}")] {
                let bytes = from_records("d", Epoch(1), &[raw(&format!("{{\"a\":{text}}}"))], Standing::default()).unwrap();
                let json = to_json(&bytes).unwrap();
                prop_assert_eq!(json["records"][0]["a"].as_f64().unwrap().to_bits(), bits);
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = to_json(&bytes);
        let mut good = from_records("d", Epoch(1), &votes(3), Standing::default()).unwrap();
        for (index, byte) in bytes.drain(..).enumerate() {
            let place = (index * 31 + usize::from(byte)) % good.len();
            good[place] ^= byte;
            let _ = to_json(&good);
        }
    }
}
