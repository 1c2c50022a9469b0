//! The settings, good and bad, word for word.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::{Settings, Source};

const GOOD: &str = r#"
[device]
id = "press-07"

[[buses]]
id = "i2c1"
kind = "i2c"
path = "/dev/i2c-1"

[[sensors]]
id = "a"
source = { kind = "tmp102", bus = "i2c1", address = 0x48 }
range = [-40.0, 125.0]

[[sensors]]
id = "b"
source = { kind = "replay" }

[[quantities]]
id = "t"
unit = "celsius"
sensors = ["a", "b"]
accuracy = "0.5"

[outbox]
path = "/tmp/outbox"
size_max = "64 MiB"

[mqtt]
url = "mqtt://127.0.0.1:1883"
"#;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
    let pairs = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::parse("q.toml", text, pairs).map_err(|error| error.to_string())
}

/// Replaces one part of the good file and expects this error.
fn check(from: &str, to: &str, expected: &str) {
    assert!(GOOD.contains(from), "{from}");
    let found = parse(&GOOD.replacen(from, to, 1), &[]).unwrap_err();
    assert_eq!(found, expected);
}

#[test]
fn a_good_file_and_its_defaults() {
    let settings = parse(GOOD, &[]).unwrap();
    assert!(matches!(settings.sensors[0].source, Source::Tmp102 { .. }));
    let quantity = &settings.quantities[0];
    assert_eq!(
        (quantity.period_ms, quantity.timeout_ms, quantity.lead_ms),
        (1000, 10_000, 200)
    );
    assert_eq!(quantity.accuracy_absolute, Some(0.5));
    assert_eq!(settings.mqtt.unwrap().topic, "quorate/press-07");
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8870");
    let alone = parse("[device]\nid = \"d\"\n", &[]).unwrap();
    assert!(alone.sensors.is_empty() && alone.outbox.is_none());
}

#[test]
fn wrong_files_say_where_and_what() {
    check(
        "id = \"t\"",
        "id = \"t\"\nperiod = 5",
        "q.toml:21:1: quantities.period: unknown field `period`, expected one of `id`, `unit`, `sensors`, `period_ms`, `timeout_ms`, `lead_ms`, `accuracy`, `min_sources`, `fail_count`, `clear_count`, `on_split`, `on_quorum_loss`, `hold_max_age_ms`",
    );
    check(
        "[\"a\", \"b\"]",
        "[\"a\", \"c\"]",
        "q.toml:22:17: quantities[0].sensors[1]: no sensor `c`; expected one of [a, b]",
    );
    check(
        "[\"a\", \"b\"]",
        "\"a\"",
        "q.toml:22:11: quantities.sensors: invalid type: string \"a\", expected a sequence",
    );
    check(
        "bus = \"i2c1\"",
        "bus = \"i2c9\"",
        "q.toml:12:10: sensors[0].source.bus: no bus `i2c9`; expected one of [i2c1]",
    );
    check(
        "kind = \"i2c\"",
        "kind = \"spi\"",
        "q.toml:7:8: buses[0].kind: bus kind `spi` is not built yet; expected `i2c` (hwmon and iio need no bus)",
    );
    check(
        "[-40.0, 125.0]",
        "[125.0, -40.0]",
        "q.toml:13:9: sensors[0].range: expected two finite numbers, the lower first, found [125, -40]",
    );
    check(
        "accuracy = \"0.5\"",
        "accuracy = \"half\"",
        "q.toml:23:12: quantities[0].accuracy: expected `0.5`, `20%` or `5 + 20%`, found `half`",
    );
    check(
        "accuracy = \"0.5\"",
        "min_sources = 3",
        "q.toml:20:6: quantities[0].min_sources: expected 1 to the number of sensors (2), found 3",
    );
    check(
        "accuracy = \"0.5\"",
        "period_ms = 0",
        "q.toml:20:6: quantities[0].period_ms: expected 1 to 86400000, found 0",
    );
    check(
        "accuracy = \"0.5\"",
        "timeout_ms = 10",
        "q.toml:20:6: quantities[0].timeout_ms: expected at least period_ms (1000), found 10",
    );
    check(
        "64 MiB",
        "64 MiBs",
        "q.toml:27:12: outbox.size_max: expected a number with B, kB, MB, GB, KiB, MiB or GiB, found `64 MiBs`",
    );
    check(
        "64 MiB",
        "1 MiB",
        "q.toml:27:12: outbox.size_max: expected at least 4 MiB, found `1 MiB`",
    );
    check(
        "mqtt://127.0.0.1:1883",
        "http://127.0.0.1",
        "q.toml:30:7: mqtt.url: expected mqtt://host:port or mqtts://host:port",
    );
    check(
        "mqtt://127.0.0.1:1883",
        "mqtt://broker.example",
        "q.toml:30:7: mqtt.url: mqtt:// sends everything in the clear; expected mqtts://, or allow_plaintext = true",
    );
    check(
        "id = \"b\"",
        "id = \"a\"",
        "q.toml:16:6: sensors[1].id: `a` is used twice",
    );
    check(
        "[mqtt]",
        "[http]\nlisten = \"0.0.0.0:80\"\n[mqtt]",
        "q.toml:30:10: http.listen: `0.0.0.0:80` is reachable from other machines; expected a loopback address, or allow_remote = true",
    );
    check(
        "[mqtt]",
        "[http]\nlisten = \"here\"\n[mqtt]",
        "q.toml:30:10: http.listen: expected an address and a port such as `127.0.0.1:8870`, found `here`",
    );
    check(
        "[mqtt]",
        "[mqtt]\nencoding = \"cbor\"",
        "q.toml:30:12: mqtt.encoding: encoding `cbor` is not built yet; expected `json`",
    );
    check(
        "[mqtt]",
        "[mqtt]\ncompression = \"gzip\"",
        "q.toml:30:15: mqtt.compression: expected `zstd` or `none`, found `gzip`",
    );
    check(
        "[mqtt]",
        "[mqtt]\ntopic = \"a/#\"",
        "q.toml:30:9: mqtt.topic: expected a topic without wildcards and without `/` at its end, found `a/#`",
    );
}

#[test]
fn what_the_parser_refuses_has_a_place_too() {
    for (text, place) in [
        ("[device]\nid = press", "q.toml:2:6"),
        ("[device]\nid = 7", "q.toml:2:6"),
        ("[device\nid = \"d\"", "q.toml:1:8"),
        (
            "[device]\nid = \"d\"\n[outbox]\nsize_max = \"9 MiB\"",
            "q.toml:3:1",
        ),
        ("[device]\nid = \"d\"\nid = \"e\"", "q.toml:3:1"),
    ] {
        let found = parse(text, &[]).unwrap_err();
        assert!(found.starts_with(place), "{text:?}: {found}");
    }
    assert!(
        parse("", &[])
            .unwrap_err()
            .contains("missing field `device`")
    );
}

#[test]
fn the_environment_lies_over_the_file() {
    let environment = [
        ("QUORATE__MQTT__URL", "mqtt://localhost:2000"),
        ("QUORATE__SENSORS__0__RANGE", "[0, 1]"),
        ("QUORATE__SENSORS__B__RANGE", "[2.0, 3.0]"),
        ("QUORATE__HTTP__LISTEN", "127.0.0.1:1"),
        ("QUORATEX", "nothing of ours"),
    ];
    let settings = parse(GOOD, &environment).unwrap();
    assert_eq!(settings.mqtt.unwrap().url.port, 2000);
    assert_eq!(settings.sensors[0].range, Some((0.0, 1.0)));
    assert_eq!(settings.sensors[1].range, Some((2.0, 3.0)));
    assert_eq!(settings.http.listen.port(), 1);
    for (name, value, expected) in [
        (
            "QUORATE__MQTT__URLS",
            "x",
            "environment QUORATE__MQTT__URLS: mqtt.urls: unknown field `urls`",
        ),
        (
            "QUORATE__SENSORS__9__RANGE",
            "[0, 1]",
            "environment QUORATE__SENSORS__9__RANGE: sensors.9.range: `sensors` has no element `9`",
        ),
        (
            "QUORATE__OUTBOX__SIZE_MAX",
            "much",
            "environment QUORATE__OUTBOX__SIZE_MAX: outbox.size_max: expected",
        ),
    ] {
        let found = parse(GOOD, &[(name, value)]).unwrap_err();
        assert!(found.starts_with(expected), "{found}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_text_makes_it_panic(cut in 0usize..600, garbage in ".{0,40}") {
        let cut = GOOD.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(GOOD.len());
        let _ = parse(&format!("{}{garbage}{}", &GOOD[..cut], &GOOD[cut..]), &[]);
    }
}
