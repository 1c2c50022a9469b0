//! The limits of brokers in a cloud, checked before the first connection.
//!
//! Owns: `mqtt.profile`. Must not: loosen anything; a profile refuses, or fills in a limit that is not given.
//!
//! Sources, read 2026-11: the service quotas of AWS IoT Core (topic 256 bytes and 7 slashes, client identifier 128 bytes,
//! message 128 KiB, 100 publishes and 512 KiB a second for each connection, keep-alive 30 to 1200 s, Receive Maximum 100) and
//! the quotas of Azure Event Grid namespaces (1,000 messages and 1 MB a second for each session, message 512 KiB). Both want
//! TLS. `strict-cloud` is the lower of both in everything.

use quorate_core::config::ConfigError;
use toml::Spanned;

use super::{Mqtt, SettingsError, convert::Places};

/// The longest that follows the base of the topics: `/cmd/` and a command.
const TOPIC_TAIL_BYTES: usize = 24;
/// Slashes in it.
const TOPIC_TAIL_SLASHES: usize = 2;
/// Room for what stands around the records in a packet.
const ENVELOPE_BYTES: u32 = 4_096;

/// What one kind of broker takes.
struct Limits {
    profile: &'static str,
    topic_bytes_max: usize,
    topic_slashes_max: usize,
    client_id_bytes_max: usize,
    message_bytes_max: u32,
    messages_per_second_max: u32,
    bytes_per_second_max: u32,
    inflight_max: u32,
    keep_alive_s: (u16, u16),
}

const AWS_IOT_CORE: Limits = Limits {
    profile: "aws-iot-core",
    topic_bytes_max: 256,
    topic_slashes_max: 7,
    client_id_bytes_max: 128,
    message_bytes_max: 128 << 10,
    messages_per_second_max: 100,
    bytes_per_second_max: 512 << 10,
    inflight_max: 100,
    keep_alive_s: (30, 1200),
};

const AZURE_EVENT_GRID: Limits = Limits {
    profile: "azure-event-grid",
    topic_bytes_max: 256,
    topic_slashes_max: 7,
    client_id_bytes_max: 128,
    message_bytes_max: 512 << 10,
    messages_per_second_max: 1_000,
    bytes_per_second_max: 1_000_000,
    inflight_max: 1_000,
    keep_alive_s: (5, 1_160),
};

const STRICT_CLOUD: Limits = Limits {
    profile: "strict-cloud",
    keep_alive_s: (30, 1_160),
    ..AWS_IOT_CORE
};

/// Fills in the limits of the profile where none is given, and refuses what goes beyond.
pub(super) fn apply(
    places: &Places<'_>,
    at: &Spanned<String>,
    mqtt: &mut Mqtt,
) -> Result<(), SettingsError> {
    let profiles = [&STRICT_CLOUD, &AWS_IOT_CORE, &AZURE_EVENT_GRID];
    let name = at.get_ref();
    let Some(limits) = profiles.into_iter().find(|limits| limits.profile == name) else {
        let message = format!(
            "expected `strict-cloud`, `aws-iot-core` or `azure-event-grid`, found `{name}`"
        );
        return Err(places.wrong(at, "mqtt.profile", message));
    };
    for (rate, most) in [
        (
            &mut mqtt.outbox.messages_per_second_max,
            limits.messages_per_second_max,
        ),
        (
            &mut mqtt.outbox.bytes_per_second_max,
            limits.bytes_per_second_max,
        ),
    ] {
        if *rate == 0 {
            *rate = most;
        }
    }
    match broken(limits, mqtt) {
        None => Ok(()),
        Some((key, expected)) => Err(places.refused(ConfigError {
            key: format!("mqtt.{key}"),
            message: format!("expected {expected} with profile `{name}`"),
        })),
    }
}

/// The first limit that is broken: the key and what was expected.
fn broken(limits: &Limits, mqtt: &Mqtt) -> Option<(&'static str, String)> {
    let urls = std::iter::once(&mqtt.url).chain(&mqtt.fallback_urls);
    let topic_bytes = mqtt.topic.len() + TOPIC_TAIL_BYTES;
    let slashes = mqtt.topic.matches('/').count() + TOPIC_TAIL_SLASHES;
    let batch_bytes_max = limits.message_bytes_max - ENVELOPE_BYTES;
    let (shortest, longest) = limits.keep_alive_s;
    let checks = [
        (
            urls.into_iter().all(|url| url.tls),
            "url",
            "mqtts://".to_owned(),
        ),
        (
            topic_bytes <= limits.topic_bytes_max,
            "topic",
            format!(
                "at most {} bytes",
                limits.topic_bytes_max - TOPIC_TAIL_BYTES
            ),
        ),
        (
            slashes <= limits.topic_slashes_max,
            "topic",
            format!(
                "at most {} slashes",
                limits.topic_slashes_max - TOPIC_TAIL_SLASHES
            ),
        ),
        (
            mqtt.client_id.len() <= limits.client_id_bytes_max,
            "client_id",
            format!("at most {} bytes", limits.client_id_bytes_max),
        ),
        (
            (shortest..=longest).contains(&mqtt.keep_alive_s),
            "keep_alive_s",
            format!("{shortest} to {longest}"),
        ),
        (
            mqtt.outbox.batch_bytes_max <= batch_bytes_max,
            "batch_bytes_max",
            format!("at most {batch_bytes_max}"),
        ),
        (
            mqtt.outbox.inflight_batches_max <= limits.inflight_max,
            "inflight_batches_max",
            format!("at most {}", limits.inflight_max),
        ),
        (
            mqtt.outbox.messages_per_second_max <= limits.messages_per_second_max,
            "messages_per_second_max",
            format!("at most {}", limits.messages_per_second_max),
        ),
        (
            mqtt.outbox.bytes_per_second_max <= limits.bytes_per_second_max,
            "bytes_per_second_max",
            format!("at most {}", limits.bytes_per_second_max),
        ),
    ];
    let broken = checks.into_iter().find(|(holds, ..)| !holds);
    broken.map(|(_, key, expected)| (key, expected))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use crate::settings::Settings;

    fn load(url: &str, more: &str) -> Result<Settings, String> {
        let text = format!("[device]\nid = \"press-07\"\n[mqtt]\nurl = \"{url}\"\n{more}");
        Settings::parse("q.toml", &text, std::iter::empty()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_profile_fills_in_its_rates_and_keeps_lower_ones() {
        let url = "mqtts://broker.example";
        let mqtt = load(url, "profile = \"strict-cloud\"\n")
            .unwrap()
            .mqtt
            .unwrap();
        assert_eq!(mqtt.profile.as_deref(), Some("strict-cloud"));
        assert_eq!(mqtt.outbox.messages_per_second_max, 100);
        assert_eq!(mqtt.outbox.bytes_per_second_max, 512 << 10);
        let text = "profile = \"azure-event-grid\"\nmessages_per_second_max = 7\n";
        let mqtt = load(url, text).unwrap().mqtt.unwrap();
        assert_eq!(mqtt.outbox.messages_per_second_max, 7);
        assert_eq!(mqtt.outbox.bytes_per_second_max, 1_000_000);
        assert_eq!(
            load(url, "")
                .unwrap()
                .mqtt
                .unwrap()
                .outbox
                .messages_per_second_max,
            0
        );
    }

    #[test]
    fn what_a_cloud_would_refuse_is_refused_here_with_its_key() {
        let check = |url: &str, more: &str, expected: &str| {
            let text = format!("profile = \"strict-cloud\"\n{more}");
            let found = load(url, &text).unwrap_err();
            assert!(found.contains(expected), "{found}");
        };
        let url = "mqtts://broker.example";
        check(
            "mqtt://127.0.0.1",
            "",
            "mqtt.url: expected mqtts:// with profile",
        );
        check(
            url,
            "topic = \"a/b/c/d/e/f/g\"\n",
            "q.toml:6:9: mqtt.topic: expected at most 5 slashes",
        );
        check(
            url,
            &format!("topic = \"{}\"\n", "a".repeat(240)),
            "mqtt.topic: expected at most 232 bytes",
        );
        check(
            url,
            &format!("client_id = \"{}\"\n", "a".repeat(129)),
            "mqtt.client_id",
        );
        check(
            url,
            "keep_alive_s = 10\n",
            "mqtt.keep_alive_s: expected 30 to 1160",
        );
        check(
            url,
            "batch_bytes_max = 200000\n",
            "mqtt.batch_bytes_max: expected at most 126976",
        );
        check(
            url,
            "inflight_batches_max = 101\n",
            "mqtt.inflight_batches_max",
        );
        check(
            url,
            "messages_per_second_max = 101\n",
            "mqtt.messages_per_second_max: expected at most 100",
        );
        check(
            url,
            "bytes_per_second_max = \"1 MiB\"\n",
            "mqtt.bytes_per_second_max",
        );
        check(url, "fallback_urls = [\"mqtt://127.0.0.1\"]\n", "mqtt.url");
        let found = load(url, "profile = \"cloud\"\n").unwrap_err();
        assert_eq!(
            found,
            "q.toml:5:11: mqtt.profile: expected `strict-cloud`, `aws-iot-core` or `azure-event-grid`, found `cloud`"
        );
    }
}
