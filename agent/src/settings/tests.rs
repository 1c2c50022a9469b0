//! The settings, good and bad, word for word.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use quorate_core::{
    config::{ConfirmBy, Order},
    vote::Kind,
};

use super::{InputFacts, ModelFacts, Settings, Source};

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
    assert!(matches!(settings.sensors[0].source, Source::Chip { .. }));
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
fn a_model_must_see_the_ticks_that_it_was_trained_on() {
    let text = format!("{GOOD}[[models]]\nid = \"m\"\nbundle = \"m\"\ninputs = [\"t\"]\n");
    let settings = parse(&text, &[]).unwrap();
    let facts = |period_ms| ModelFacts {
        id: "m".into(),
        version: "1".into(),
        digest: "0".into(),
        window: 8,
        period_ms,
        inputs: vec![InputFacts {
            quantity: "t".into(),
            unit: "celsius".into(),
            mean: 0.0,
            scale: 1.0,
            range: None,
            drift: None,
            impute: None,
        }],
        outputs: vec!["score".into()],
        output_drift: vec![None],
        threshold: None,
        hysteresis: 0.0,
        output_ranges: vec![None],
        missing: quorate_models::Missing::Abstain,
    };
    let config = settings.core_config(&[facts(1_000)]).unwrap();
    // 90 days of seconds.
    let drift = config.models[0].drift.as_ref().unwrap();
    assert!((drift.rows_between - 7_776_000.0).abs() < 1.0);
    let without = parse(&format!("{text}drift_false_alarm_days = 0\n"), &[]).unwrap();
    assert!(
        without.core_config(&[facts(1_000)]).unwrap().models[0]
            .drift
            .is_none()
    );
    for days in ["-1", "0.001", "4000", "nan"] {
        let wrong = parse(&format!("{text}drift_false_alarm_days = {days}\n"), &[]);
        assert!(
            wrong
                .unwrap_err()
                .to_string()
                .contains("models[0].drift_false_alarm_days")
        );
    }
    let error = settings.core_config(&[facts(500)]).unwrap_err().to_string();
    assert_eq!(
        error,
        "q.toml: models[0].inputs: `m` was trained on a tick every 500 ms, but `t` has period_ms = 1000"
    );
}

#[test]
fn quantities_have_kinds() {
    let kind = |keys: &str| {
        let text = GOOD.replacen("accuracy = \"0.5\"", keys, 1);
        parse(&text, &[]).map(|settings| settings.quantities[0].kind)
    };
    assert_eq!(kind(""), Ok(Kind::Scalar));
    assert_eq!(kind("kind = \"boolean\""), Ok(Kind::Codes(2)));
    assert_eq!(
        kind("kind = \"circular\"\ncircle = [-180, 180]"),
        Ok(Kind::Circular {
            low: -180.0,
            high: 180.0
        })
    );
    let labels = "kind = \"enumeration\"\nlabels = [\"closed\", \"open\", \"fault\"]";
    assert_eq!(kind(labels), Ok(Kind::Codes(3)));
    for (keys, expected) in [
        (
            "circle = [0, 1]",
            "q.toml:23:10: quantities[0].circle: expected only with kind = \"circular\"",
        ),
        (
            "labels = [\"a\"]",
            "q.toml:23:10: quantities[0].labels: expected only with kind = \"enumeration\"",
        ),
        (
            "kind = \"enumeration\"",
            "q.toml:23:8: quantities[0].labels: expected the words for the codes 0, 1, 2 ..., as in [\"closed\", \"open\"]",
        ),
        (
            "kind = \"enumeration\"\nlabels = [\"a\"]",
            "q.toml:24:10: quantities[0].labels: expected 2 to 256 labels, found 1",
        ),
        (
            "kind = \"boolean\"\naccuracy = \"0.5\"",
            "q.toml:24:12: quantities[0].accuracy: expected none: codes are right or wrong",
        ),
        (
            "kind = \"circular\"\naccuracy = \"5%\"",
            "q.toml:24:12: quantities[0].accuracy: expected no share of the value: a circle has no zero",
        ),
    ] {
        assert_eq!(kind(keys), Err(expected.into()));
    }
}

const PUBLIC_KEY: &str = "M8c6HfSWgEPhB7Ou9UBs7G5tY2EerBAcGJeblm8l44M=";

#[test]
fn keys_may_command_and_nobody_else() {
    let none = parse(GOOD, &[]).unwrap();
    assert!(none.keyring.is_empty());
    let keys = |rest: &str| {
        let key = "[[command_keys]]\nid = \"ops-1\"";
        parse(
            &format!("{GOOD}{key}\npublic_key = \"{PUBLIC_KEY}\"\n{rest}"),
            &[],
        )
    };
    let settings = keys("allow = [\"ping\"]\n[commands]\nallow_unsigned = [\"status\"]").unwrap();
    assert_eq!(settings.keyring.keys[0].public_key.to_string(), PUBLIC_KEY);
    assert_eq!(settings.keyring.keys[0].allow, ["ping"]);
    assert_eq!(settings.keyring.allow_unsigned, ["status"]);
    assert!(
        settings.shown.contains("\"command_keys\""),
        "{}",
        settings.shown
    );
    let commands = "ping, status, config-get, replay, sensor-reset, log-level, restart, model-stage, model-chunk, model-promote, \
                    model-rollback, model-downgrade, model-force";
    let wrong = keys("allow = [\"halt\"]").unwrap_err();
    let expected = format!(
        "q.toml:34:10: command_keys[0].allow[0]: expected one of [{commands}], found `halt`"
    );
    assert_eq!(wrong, expected);
    let wrong = keys("allow = []\n[commands]\nallow_unsigned = [\"restart\"]").unwrap_err();
    assert_eq!(
        wrong,
        "q.toml:36:19: commands.allow_unsigned[0]: expected one of [ping, status], found `restart`"
    );
    let twice = format!(
        "allow = []\n[[command_keys]]\nid = \"ops-1\"\npublic_key = \"{PUBLIC_KEY}\"\nallow = []"
    );
    let expected = "q.toml:36:6: command_keys[1].id: `ops-1` is used twice";
    assert_eq!(keys(&twice).unwrap_err(), expected);
    let short = format!("{GOOD}[[command_keys]]\nid = \"a\"\npublic_key = \"AAAA\"\nallow = []");
    assert_eq!(
        parse(&short, &[]).unwrap_err(),
        "q.toml:33:14: command_keys[0].public_key: expected an Ed25519 public key of 32 bytes in base64 or hexadecimal"
    );
}

#[test]
fn the_log_has_levels() {
    let level = |text: &str| parse(text, &[]).map(|settings| settings.log_level);
    assert_eq!(level(GOOD), Ok(tracing::Level::INFO));
    let quiet = format!("{GOOD}[log]\nlevel = \"warn\"\n");
    assert_eq!(level(&quiet), Ok(tracing::Level::WARN));
    let wrong = format!("{GOOD}[log]\nlevel = \"loud\"\n");
    let error = level(&wrong).unwrap_err();
    assert!(
        error.starts_with("q.toml:32:9: log.level: unknown variant `loud`, expected one of"),
        "{error}"
    );
}

#[test]
fn wrong_files_say_where_and_what() {
    check(
        "id = \"t\"",
        "id = \"t\"\nperiod = 5",
        "q.toml:21:1: quantities.period: unknown field `period`, expected one of `id`, `unit`, `kind`, `circle`, `labels`, `sensors`, `period_ms`, `timeout_ms`, `lead_ms`, `accuracy`, `min_sources`, `fail_count`, `clear_count`, `on_split`, `on_quorum_loss`, `hold_max_age_ms`",
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
        "kind = \"can\"",
        "q.toml:7:8: buses[0].kind: unknown bus kind `can`; expected `i2c`, `spi`, `serial` or `modbus` (the kernel's own sensors need no bus)",
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
        "q.toml:23:15: quantities[0].min_sources: expected 1 to the number of sensors (2), found 3",
    );
    check(
        "accuracy = \"0.5\"",
        "period_ms = 0",
        "q.toml:23:13: quantities[0].period_ms: expected 1 to 86400000, found 0",
    );
    check(
        "accuracy = \"0.5\"",
        "timeout_ms = 10",
        "q.toml:23:14: quantities[0].timeout_ms: expected at least period_ms (1000), found 10",
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
        "[mqtt]\nversion = 4",
        "q.toml:30:11: mqtt.version: expected `5` or `3.1.1`, found `4`",
    );
    check(
        "[mqtt]",
        "[mqtt]\nencoding = \"xml\"",
        "q.toml:30:12: mqtt.encoding: expected `json` or `cbor`, found `xml`",
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
fn what_the_core_refuses_has_its_place() {
    check(
        "press-07",
        "press 07",
        "q.toml:3:6: device.id: expected 1 to 128 letters, digits, `-`, `_`, `.` or `:`, found `press 07`",
    );
    check(
        "id = \"b\"",
        "id = \"\"",
        "q.toml:16:6: sensors[1].id: expected 1 to 128 letters, digits, `-`, `_`, `.` or `:`, found ``",
    );
    check(
        "[mqtt]",
        "[mqtt]\nbackoff_ms_min = 1",
        "q.toml:30:18: mqtt.backoff_ms_min: expected at least 10",
    );
    check(
        "[mqtt]",
        "[mqtt]\ninflight_batches_max = 0",
        "q.toml:30:24: mqtt.inflight_batches_max: expected 1 to 1024",
    );
    check(
        "[\"a\", \"b\"]",
        "[\"a\", \"a\"]",
        "q.toml:22:17: quantities[0].sensors[1]: a sensor may stand only once in a quantity",
    );
    check(
        "[\"a\", \"b\"]",
        "[]",
        "q.toml:22:11: quantities[0].sensors: expected 1 to 32 sensors, found 0",
    );
    check(
        "accuracy = \"0.5\"",
        "lead_ms = 1000",
        "q.toml:23:11: quantities[0].lead_ms: expected less than period_ms (1000), found 1000",
    );
    // A default that does not fit what is given has no place but its table's name.
    check(
        "[mqtt]",
        "[mqtt]\nbackoff_ms_min = 400000",
        "q.toml: mqtt.backoff_ms_max: expected at least backoff_ms_min (400000)",
    );
}

#[test]
fn keys_of_sources_and_delivery() {
    check(
        "address = 0x48",
        "address = 0x20",
        "q.toml:12:10: sensors[0].source.address: address = 0x20: expected 0x48 to 0x4b",
    );
    check(
        "kind = \"replay\"",
        "kind = \"replay\", bus = \"i2c1\"",
        "q.toml:17:10: sensors.source: unknown field `bus`, there are no fields",
    );
    check(
        "kind = \"replay\"",
        "kind = \"hwmon\", chip = \"cpu_thermal\"",
        "q.toml:17:10: sensors[1].source: expected either `chip` and `input`, or `path`",
    );
    check(
        "kind = \"replay\"",
        "kind = \"simulated\", fault = \"broken\"",
        "q.toml:17:10: sensors[1].source.fault: kind = \"broken\": expected one of stuck, bias, drift, noise, dropout, nan, spike",
    );
    check(
        "/tmp/outbox",
        "",
        "q.toml:26:8: outbox.path: expected a directory",
    );
    check(
        "[mqtt]",
        "commit_interval_ms = 60001\n[mqtt]",
        "q.toml:29:22: outbox.commit_interval_ms: expected 0 to 60000, found 60001",
    );
    check(
        "[mqtt]",
        "[mqtt]\nkey_file = \"k\"",
        "q.toml:30:12: mqtt.key_file: expected mqtt.cert_file beside it",
    );
    check(
        "[mqtt]",
        "[mqtt]\ncert_file = \"c\"",
        "q.toml:30:13: mqtt.cert_file: expected mqtt.key_file beside it",
    );
    check(
        "[mqtt]",
        "[mqtt]\nkeep_alive_s = 4",
        "q.toml:30:16: mqtt.keep_alive_s: expected 5 to 65535",
    );
    parse(
        &GOOD.replace(
            "[mqtt]",
            "commit_interval_ms = 60000\n[mqtt]\nkeep_alive_s = 5",
        ),
        &[],
    )
    .unwrap();
}

#[test]
fn keys_of_sending() {
    let key = |to: &str, expected: &str| check("[mqtt]", &format!("[mqtt]\n{to}"), expected);
    key(
        "confirm = \"qos2\"",
        "q.toml:30:11: mqtt.confirm: expected `puback` or `watermark`, found `qos2`",
    );
    key(
        "order = \"newest\"",
        "q.toml:30:9: mqtt.order: expected `oldest-first` or `live-first`, found `newest`",
    );
    key(
        "fallback_urls = [\"mqtts://a\", \"mqtt://broker.example\"]",
        "q.toml:30:31: mqtt.fallback_urls[1]: mqtt:// sends everything in the clear; expected mqtts://, or allow_plaintext = true",
    );
    key(
        "bytes_per_second_max = \"5 GiB\"",
        "q.toml:30:24: mqtt.bytes_per_second_max: expected at most 4294967295 bytes, found 5368709120",
    );
    key(
        "bytes_per_day_max = \"much\"",
        "q.toml:30:21: mqtt.bytes_per_day_max: expected a number with B, kB, MB, GB, KiB, MiB or GiB, found `much`",
    );
    key(
        "failover_attempts = 0",
        "q.toml:30:21: mqtt.failover_attempts: expected at least 1",
    );
    key(
        "failback_ms = 999",
        "q.toml:30:15: mqtt.failback_ms: expected at least 1000",
    );
    key(
        "watermark_timeout_ms = 10",
        "q.toml:30:24: mqtt.watermark_timeout_ms: expected at least 1000",
    );
    let many = format!("fallback_urls = [{}]", "\"mqtts://a\",".repeat(8));
    key(
        &many,
        "q.toml:30:17: mqtt.fallback_urls: expected at most 7 addresses",
    );
    let text = GOOD.replace(
        "[mqtt]",
        "[mqtt]\nconfirm = \"watermark\"\norder = \"live-first\"\nfallback_urls = [\"mqtts://b\"]\nbytes_per_day_max = \"10 MB\"",
    );
    let mqtt = parse(&text, &[]).unwrap().mqtt.unwrap();
    assert_eq!(mqtt.outbox.confirm, ConfirmBy::Watermark);
    assert_eq!(mqtt.outbox.order, Order::LiveFirst);
    assert_eq!(mqtt.outbox.bytes_per_day_max, 10_000_000);
    assert_eq!((mqtt.link.brokers, mqtt.fallback_urls[0].port), (2, 8883));
}

#[test]
fn bare_numbers_do_for_sizes_and_accuracies() {
    let text = GOOD
        .replace("\"64 MiB\"", "4194304")
        .replace("\"0.5\"", "0.25");
    let settings = parse(&text, &[]).unwrap();
    assert_eq!(settings.outbox.unwrap().size_bytes_max, 4 << 20);
    assert_eq!(settings.quantities[0].accuracy_absolute, Some(0.25));
    let settings = parse(GOOD, &[("QUORATE__QUANTITIES__T__ACCURACY", "2")]).unwrap();
    assert_eq!(settings.quantities[0].accuracy_absolute, Some(2.0));
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
            "QUORATE__QUANTITIES__0__SENSORS",
            "['a', 'z']",
            "environment QUORATE__QUANTITIES__0__SENSORS: quantities[0].sensors[1]: no sensor `z`",
        ),
        (
            "QUORATE__SENSORS__0__SOURCE",
            "{ kind = 'tmp102', bus = 'z', address = 72 }",
            "environment QUORATE__SENSORS__0__SOURCE: sensors[0].source.bus: no bus `z`",
        ),
        (
            "QUORATE__SENSORS__0__RANGE",
            "[0, 'x']",
            "environment QUORATE__SENSORS__0__RANGE: sensors[0].range: invalid type",
        ),
        (
            "QUORATE__MQTT__BACKOFF_MS_MIN",
            "1",
            "environment QUORATE__MQTT__BACKOFF_MS_MIN: mqtt.backoff_ms_min: expected at least 10",
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

#[test]
fn only_the_variable_that_is_wrong_is_named() {
    let found = parse(
        GOOD,
        &[("QUORATE__MQTT__TOPIC", "t"), ("QUORATE__MQTT__URLS", "x")],
    )
    .unwrap_err();
    assert!(
        found.starts_with("environment QUORATE__MQTT__URLS: mqtt.urls: unknown field"),
        "{found}"
    );
}

/// Once, a variable with thousands of parts overflowed the stack.
#[test]
fn a_name_with_many_parts_is_refused() {
    let name = format!("QUORATE__{}", ["A"; 100_000].join("__"));
    assert!(
        parse(GOOD, &[(&name, "1")])
            .unwrap_err()
            .contains("expected QUORATE__TABLE__KEY")
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_text_makes_it_panic(cut in 0usize..600, garbage in ".{0,40}") {
        let cut = GOOD.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(GOOD.len());
        let _ = parse(&format!("{}{garbage}{}", &GOOD[..cut], &GOOD[cut..]), &[]);
    }

    #[test]
    fn no_variable_makes_it_panic(name in "(SENSORS|MQTT|OUTBOX|QUANTITIES|[A-Za-z_]{0,6})(__([0-9]|A|URL|SOURCE|RANGE|.{0,8})){0,4}", value in ".{0,40}") {
        let _ = parse(GOOD, &[(&format!("QUORATE__{name}"), &value)]);
    }
}

/// The good file with another source for its first sensor, and perhaps another bus.
fn with_source(source: &str) -> Result<Settings, String> {
    let old = "{ kind = \"tmp102\", bus = \"i2c1\", address = 0x48 }";
    assert!(GOOD.contains(old));
    let spi = "[[buses]]\nid = \"spi0\"\nkind = \"spi\"\npath = \"/dev/spidev0.0\"\n\n[[sensors]]";
    let text = GOOD
        .replacen(old, source, 1)
        .replacen("[[sensors]]", spi, 1);
    Settings::parse("q.toml", &text, std::iter::empty()).map_err(|error| error.to_string())
}

#[test]
fn chips_are_read_with_their_channel_and_wiring() {
    let found = |source: &str| match with_source(source).unwrap().sensors.remove(0).source {
        Source::Chip { bus, config } => format!("{bus}: {config} {:?}", config.options),
        other => format!("{other:?}"),
    };
    assert_eq!(
        found("{ kind = 'bme280', bus = 'i2c1', address = 0x77, channel = 'pressure' }"),
        "i2c1: Bosch BME280 at I2C address 0x77, pressure in pascal []"
    );
    assert_eq!(
        found("{ kind = 'max31865', bus = 'spi0', channel = 'temperature', wires = 3 }"),
        "spi0: Maxim MAX31865, temperature in celsius [3.0, 100.0, 430.0]"
    );
    assert_eq!(
        found("{ kind = 'scd4x', bus = 'i2c1', channel = 'co2' }"),
        "i2c1: Sensirion SCD4x at I2C address 0x62, co2 in ppm []"
    );
}

#[test]
fn a_wrong_chip_is_refused_with_its_key() {
    for (source, expected) in [
        (
            "{ kind = 'bme281' }",
            "source: unknown kind `bme281`, expected one of replay,",
        ),
        (
            "{ kind = 'bme280', bus = 'i2c1', address = 0x76 }",
            "source.channel: missing; expected one of temperature",
        ),
        (
            "{ kind = 'tmp102', bus = 'i2c1' }",
            "source.address: missing: its pins choose it",
        ),
        (
            "{ kind = 'tmp102', bus = 'i2c1', address = 0x148 }",
            "source.address: address = 0x148: expected 0x48 to 0x4b; addresses of ten bits",
        ),
        (
            "{ kind = 'tmp102', bus = 'spi0', address = 0x48 }",
            "source.bus: `spi0` is spi; expected a bus of kind i2c",
        ),
        (
            "{ kind = 'mcp3008', bus = 'i2c1', channel = 'in0' }",
            "source.bus: `i2c1` is i2c; expected a bus of kind spi",
        ),
        (
            "{ kind = 'tmp102', bus = 'i2c1', address = 0x48, adress = 1 }",
            "source.adress: key = \"adress\": expected no key beyond",
        ),
        (
            "{ kind = 'max31865', bus = 'spi0', channel = 'temperature', wires = 5 }",
            "source.wires: wires = 5: expected 2, 3, 4",
        ),
        (
            "{ kind = 'tmp102', address = 0x48 }",
            "source: missing field `bus`",
        ),
    ] {
        let error = with_source(source).unwrap_err();
        assert!(error.starts_with("q.toml:"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_chip_brings_its_range_and_its_accuracy() {
    let text = |keys: &str| {
        format!(
            "[device]\nid = 'd'\n[[buses]]\nid = 'i'\nkind = 'i2c'\npath = '/dev/i2c-1'\n\
             [[sensors]]\nid = 'a'\nsource = {{ kind = 'lm75', bus = 'i', address = 0x48 }}\n\
             [[sensors]]\nid = 'b'\nsource = {{ kind = 'tmp117', bus = 'i', address = 0x49 }}\nrange = [0, 50]\n\
             [[quantities]]\nid = 'q'\nunit = 'celsius'\nsensors = ['a', 'b']\n{keys}"
        )
    };
    let parsed = |keys: &str| Settings::parse("q.toml", &text(keys), std::iter::empty()).unwrap();
    let settings = parsed("");
    assert_eq!(settings.sensors[0].range, Some((-55.0, 125.0)));
    assert_eq!(settings.sensors[1].range, Some((0.0, 50.0)));
    // The LM75 is the less accurate one.
    assert_eq!(settings.quantities[0].accuracy_absolute, Some(2.0));
    assert_eq!(
        parsed("accuracy = 0.1").quantities[0].accuracy_absolute,
        Some(0.1)
    );
    let other = text("").replace("unit = 'celsius'", "unit = 'kelvin'");
    let settings = Settings::parse("q.toml", &other, std::iter::empty()).unwrap();
    assert_eq!(settings.quantities[0].accuracy_absolute, None);
}

#[test]
fn a_microcontroller_is_a_channel_on_a_serial_line() {
    let text = |source: &str, bus: &str| {
        let text = format!(
            "[device]\nid = 'd'\n[[buses]]\nid = 'm'\npath = '/dev/ttyACM0'\n{bus}\n\
             [[sensors]]\nid = 'a'\nsource = {{ kind = 'wire', bus = 'm', {source} }}\n"
        );
        Settings::parse("q.toml", &text, std::iter::empty()).map_err(|error| error.to_string())
    };
    let settings = text(
        "channel = 3, period_us = 500",
        "kind = 'serial'\nbaud = 9600",
    )
    .unwrap();
    assert_eq!(settings.buses[0].baud, 9600);
    assert!(matches!(
        settings.sensors[0].source,
        Source::Wire {
            channel: 3,
            period_us: Some(500),
            ..
        }
    ));
    for (source, bus, expected) in [
        (
            "channel = 32",
            "kind = 'serial'",
            "source.channel: expected 0 to 31, found 32",
        ),
        (
            "channel = 1",
            "kind = 'i2c'",
            "source.bus: `m` is i2c; expected a bus of kind serial",
        ),
        (
            "channel = 1, period_us = 0",
            "kind = 'serial'",
            "source.period_us: expected at least 1",
        ),
        (
            "channel = 1",
            "kind = 'i2c'\nbaud = 9600",
            "buses[0].baud: expected on a bus with a serial line",
        ),
        (
            "channel = 1",
            "kind = 'serial'\nbaud = 0",
            "buses[0].baud: expected on a bus",
        ),
    ] {
        let error = text(source, bus).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
#[test]
fn keys_of_models_are_pinned_and_checked() {
    assert!(parse(GOOD, &[]).unwrap().model_keys.is_empty());
    let public = "M8c6HfSWgEPhB7Ou9UBs7G5tY2EerBAcGJeblm8l44M=";
    let key = |id: &str, public: &str| {
        format!("[[model_keys]]\nid = \"{id}\"\npublic_key = \"{public}\"\n")
    };
    let one = key("plant-1", public);
    let settings = parse(&format!("{GOOD}{one}"), &[]).unwrap();
    assert_eq!(settings.model_keys[0].id, "plant-1");
    assert_eq!(settings.model_keys[0].public_key.to_string(), public);
    let wrong = parse(&format!("{GOOD}{one}{one}"), &[]).unwrap_err();
    assert!(
        wrong.ends_with("model_keys[1].id: `plant-1` is used twice"),
        "{wrong}"
    );
    let wrong = parse(&format!("{GOOD}{}", key("a b", public)), &[]).unwrap_err();
    assert!(
        wrong.contains("model_keys[0].id: expected 1 to 63"),
        "{wrong}"
    );
    let wrong = parse(&format!("{GOOD}{}", key("a", "AAAA")), &[]).unwrap_err();
    assert!(
        wrong.contains("model_keys[0].public_key: expected an Ed25519 public key"),
        "{wrong}"
    );
}

#[test]
fn own_sources_and_modbus_have_their_places() {
    let refused = |bus: &str, source: &str| {
        let text = format!("[device]\nid = 'd'\n{bus}[[sensors]]\nid = 's'\nsource = {source}\n");
        parse(&text, &[]).map(|_| ()).unwrap_err()
    };
    let tcp = "[[buses]]\nid = 'm'\nkind = 'modbus'\naddress = '127.0.0.1:502'\n";
    let bus = |line: &str| {
        refused(
            &format!("[[buses]]\nid = 'm'\n{line}\n"),
            "{ kind = 'replay' }",
        )
    };
    assert_eq!(
        bus("kind = 'modbus'\naddress = 'plc:502'"),
        "q.toml:6:11: buses[0].address: expected an IP address and a port, such as 192.168.0.20:502"
    );
    assert_eq!(
        bus("kind = 'i2c'"),
        "q.toml:4:6: buses[0].path: missing; expected a device file"
    );
    assert_eq!(
        bus("kind = 'i2c'\npath = '/dev/i2c-1'\ntimeout_ms = 100"),
        "q.toml:7:14: buses[0].timeout_ms: expected on a bus of kind `modbus`, 10 to 5000"
    );
    assert_eq!(
        bus("kind = 'serial'\npath = '/dev/ttyUSB0'\nparity = 'mark'"),
        "q.toml:7:10: buses[0].parity: expected `none` or `even` or `odd`, found `mark`"
    );
    assert_eq!(
        refused(
            tcp,
            "{ kind = 'modbus', bus = 'm', table = 'coil', address = 1, type = 'u16' }"
        ),
        "q.toml:9:10: sensors[0].source.type: type = U16: expected bool for coils and discrete inputs"
    );
    assert_eq!(
        refused("", "{ kind = 'program', command = ['cat'] }"),
        "q.toml:5:10: sensors[0].source.command: expected the absolute path of a program first, found `cat`"
    );
    assert_eq!(
        refused("", "{ kind = 'socket', path = 'in.sock' }"),
        "q.toml:5:10: sensors[0].source.path: expected an absolute path of at most 107 bytes, found `in.sock`"
    );
    assert_eq!(
        refused("", "{ kind = 'one-wire', device = 'x' }"),
        "q.toml:5:10: sensors[0].source.device: device = \"x\": expected family and number in hexadecimal, such as 28-0316a2794bff"
    );
}

#[test]
fn what_is_asked_over_a_bus_is_guarded() {
    let text = "[device]\nid = 'd'\n[[buses]]\nid = 'm'\nkind = 'modbus'\naddress = '127.0.0.1:502'\n\
        [[buses]]\nid = 'i'\nkind = 'i2c'\npath = '/dev/i2c-1'\nrebind = true\n\
        [[sensors]]\nid = 'a'\nsource = { kind = 'bme280', bus = 'i', address = 0x76, channel = 'pressure' }\n\
        [[sensors]]\nid = 'b'\nsource = { kind = 'bme280', bus = 'i', address = 0x76, channel = 'humidity' }\n\
        [[sensors]]\nid = 'c'\nsource = { kind = 'modbus', bus = 'm', table = 'coil', address = 1, type = 'bool' }\n\
        [[sensors]]\nid = 'd'\nsource = { kind = 'program', command = ['/bin/cat'] }\n";
    let guard = parse(text, &[]).unwrap().core_config(&[]).unwrap().guard;
    let buses: Vec<_> = guard
        .buses
        .iter()
        .map(|bus| (bus.id.as_str(), bus.recover))
        .collect();
    assert_eq!(buses, [("i", true), ("m", false)]);
    let parts: Vec<_> = guard
        .parts
        .iter()
        .map(|part| (part.id.as_str(), part.sensors.len()))
        .collect();
    assert_eq!(
        parts,
        [("bme280 at 0x76 on i", 2), ("modbus unit 1 on m", 1)]
    );
}
