//! From the table `[mqtt]` to how records are sent: brokers, batches, order, limits, confirmation.
//!
//! Owns: their defaults and forms. Must not: read anything from outside.

use quorate_core::config::{ConfirmBy, LinkConfig, Order, OutboxConfig};
use toml::Spanned;

use super::{SettingsError, convert::Places, file, values};
use crate::mqtt::{self, BrokerUrl};

/// The address of a broker, which is not spoken to in the clear by accident.
pub(super) fn broker(
    places: &Places<'_>,
    mqtt: &file::Mqtt,
    at: &Spanned<String>,
    key: &str,
) -> Result<BrokerUrl, SettingsError> {
    let url = mqtt::parse_url(at.get_ref()).map_err(|message| places.wrong(at, key, message))?;
    if !url.tls && !url.is_loopback() && !mqtt.allow_plaintext {
        let message =
            "mqtt:// sends everything in the clear; expected mqtts://, or allow_plaintext = true";
        return Err(places.wrong(at, key, message));
    }
    Ok(url)
}

/// The other brokers, in order of preference.
pub(super) fn fallbacks(
    places: &Places<'_>,
    mqtt: &file::Mqtt,
) -> Result<Vec<BrokerUrl>, SettingsError> {
    let urls = mqtt.fallback_urls.iter().enumerate();
    urls.map(|(index, at)| broker(places, mqtt, at, &format!("mqtt.fallback_urls[{index}]")))
        .collect()
}

pub(super) fn outbox(
    places: &Places<'_>,
    mqtt: &file::Mqtt,
) -> Result<OutboxConfig, SettingsError> {
    let default = OutboxConfig::default();
    let per_second = bytes(
        places,
        mqtt.bytes_per_second_max.as_ref(),
        "mqtt.bytes_per_second_max",
        u64::from(u32::MAX),
    )?;
    Ok(OutboxConfig {
        batch_records_max: mqtt.batch_records_max.unwrap_or(default.batch_records_max),
        batch_bytes_max: mqtt.batch_bytes_max.unwrap_or(default.batch_bytes_max),
        inflight_batches_max: mqtt
            .inflight_batches_max
            .unwrap_or(default.inflight_batches_max),
        ack_timeout_ms: mqtt.ack_timeout_ms.unwrap_or(default.ack_timeout_ms),
        linger_ms: mqtt.linger_ms.unwrap_or(default.linger_ms),
        confirm: places.choice(
            mqtt.confirm.as_ref(),
            "mqtt.confirm",
            [
                ("puback", ConfirmBy::Puback),
                ("watermark", ConfirmBy::Watermark),
            ],
        )?,
        watermark_timeout_ms: mqtt
            .watermark_timeout_ms
            .unwrap_or(default.watermark_timeout_ms),
        order: places.choice(
            mqtt.order.as_ref(),
            "mqtt.order",
            [
                ("oldest-first", Order::OldestFirst),
                ("live-first", Order::LiveFirst),
            ],
        )?,
        messages_per_second_max: mqtt.messages_per_second_max.unwrap_or(0),
        bytes_per_second_max: u32::try_from(per_second).unwrap_or(u32::MAX),
        bytes_per_day_max: bytes(
            places,
            mqtt.bytes_per_day_max.as_ref(),
            "mqtt.bytes_per_day_max",
            u64::MAX,
        )?,
    })
}

/// A number of bytes; 0 where none is given.
fn bytes(
    places: &Places<'_>,
    given: Option<&Spanned<file::Number>>,
    key: &str,
    most: u64,
) -> Result<u64, SettingsError> {
    given.map_or(Ok(0), |given| {
        values::size_bytes(&given.get_ref().text())
            .and_then(|bytes| {
                let message = || format!("expected at most {most} bytes, found {bytes}");
                (bytes <= most).then_some(bytes).ok_or_else(message)
            })
            .map_err(|message| places.wrong(given, key, message))
    })
}

pub(super) fn link(mqtt: &file::Mqtt) -> LinkConfig {
    let default = LinkConfig::default();
    LinkConfig {
        first_retry_ms_max: mqtt
            .first_retry_ms_max
            .unwrap_or(default.first_retry_ms_max),
        backoff_ms_min: mqtt.backoff_ms_min.unwrap_or(default.backoff_ms_min),
        backoff_ms_max: mqtt.backoff_ms_max.unwrap_or(default.backoff_ms_max),
        connect_timeout_ms: mqtt
            .connect_timeout_ms
            .unwrap_or(default.connect_timeout_ms),
        brokers: mqtt.fallback_urls.len().saturating_add(1),
        failover_attempts: mqtt.failover_attempts.unwrap_or(default.failover_attempts),
        failback_ms: mqtt.failback_ms.unwrap_or(default.failback_ms),
    }
}
