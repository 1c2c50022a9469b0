//! From the tables `[outbox]`, `[mqtt]` and `[http]` to the settings.
//!
//! Owns: their defaults, and the relations between their keys. Must not: read anything from outside.

use std::{net::SocketAddr, path::PathBuf};

use toml::Spanned;

use super::{Http, Mqtt, Outbox, SettingsError, cloud, convert::Places, file, sending, values};
use crate::{mqtt, store::OnFull};

/// Where the endpoint listens unless it is told otherwise.
const LISTEN: &str = "127.0.0.1:8870";
/// What is left to others, and the ballast, unless they are told otherwise: 4 MiB each.
const RESERVE_BYTES: u64 = 4 << 20;
/// Size of the outbox unless it is told otherwise, in bytes.
const SIZE_BYTES_MAX: u64 = 64 << 20;
/// Smallest outbox that makes sense with sled's own overhead, in bytes.
const SIZE_BYTES_MIN: u64 = 4 << 20;
/// Longest wait for a commit in milliseconds: what a power cut may cost.
const COMMIT_INTERVAL_MS_MAX: u64 = 60_000;

pub(super) fn outbox(places: &Places<'_>, outbox: file::Outbox) -> Result<Outbox, SettingsError> {
    let size_key = "outbox.size_max";
    let size_bytes_max = size(places, outbox.size_max.as_ref(), size_key, SIZE_BYTES_MAX)?;
    if let Some(text) = outbox
        .size_max
        .as_ref()
        .filter(|_| size_bytes_max < SIZE_BYTES_MIN)
    {
        let found = text.get_ref().text();
        let message = format!("expected at least 4 MiB, found `{found}`");
        return Err(places.wrong(text, size_key, message));
    }
    if outbox.path.get_ref().is_empty() {
        return Err(places.wrong(&outbox.path, "outbox.path", "expected a directory"));
    }
    if let Some(interval) = &outbox.commit_interval_ms
        && *interval.get_ref() > COMMIT_INTERVAL_MS_MAX
    {
        let message = format!(
            "expected 0 to {COMMIT_INTERVAL_MS_MAX}, found {}",
            interval.get_ref()
        );
        return Err(places.wrong(interval, "outbox.commit_interval_ms", message));
    }
    if let Some(most) = &outbox.commit_records_max
        && !(1..=65_536).contains(most.get_ref())
    {
        return Err(places.wrong(most, "outbox.commit_records_max", "expected 1 to 65536"));
    }
    Ok(Outbox {
        path: PathBuf::from(outbox.path.into_inner()),
        size_bytes_max,
        commit_interval_ms: outbox.commit_interval_ms.map_or(50, Spanned::into_inner),
        commit_records_max: outbox.commit_records_max.map_or(256, Spanned::into_inner),
        on_full: match outbox.on_full {
            file::OnFull::DropOldest => OnFull::DropOldest,
            file::OnFull::DropLowestPriority => OnFull::DropLowestPriority,
            file::OnFull::Thin => OnFull::Thin,
            file::OnFull::RejectNew => OnFull::RejectNew,
        },
        ttl_ms: outbox.ttl.as_ref().map_or(Ok(None), |ttl| {
            values::duration_ms(ttl.get_ref())
                .map(Some)
                .map_err(|message| places.wrong(ttl, "outbox.ttl", message))
        })?,
        retain_acked: outbox.retain_acked,
        free_bytes_min: size(
            places,
            outbox.free_min.as_ref(),
            "outbox.free_min",
            RESERVE_BYTES,
        )?,
        ballast_bytes: size(
            places,
            outbox.ballast.as_ref(),
            "outbox.ballast",
            RESERVE_BYTES,
        )?,
    })
}

/// A number of bytes, or the default.
fn size(
    places: &Places<'_>,
    given: Option<&Spanned<file::Number>>,
    key: &str,
    default: u64,
) -> Result<u64, SettingsError> {
    given.map_or(Ok(default), |given| {
        values::size_bytes(&given.get_ref().text())
            .map_err(|message| places.wrong(given, key, message))
    })
}

pub(super) fn mqtt(
    places: &Places<'_>,
    device: &str,
    mqtt: file::Mqtt,
) -> Result<Mqtt, SettingsError> {
    let url = sending::broker(places, &mqtt, &mqtt.url, "mqtt.url")?;
    let fallback_urls = sending::fallbacks(places, &mqtt)?;
    let topic = mqtt
        .topic
        .as_ref()
        .map_or("quorate/{device}", |topic| topic.get_ref())
        .replace("{device}", device);
    if let Some(at) = &mqtt.topic
        && (topic.is_empty()
            || topic.len() > 1024
            || topic.contains(['+', '#', '\0'])
            || topic.ends_with('/'))
    {
        let message = format!(
            "expected a topic without wildcards and without `/` at its end, found `{topic}`"
        );
        return Err(places.wrong(at, "mqtt.topic", message));
    }
    let protocol = protocol(places, &mqtt)?;
    let encodings = [
        ("json", mqtt::Encoding::Json),
        ("cbor", mqtt::Encoding::Cbor),
    ];
    let encoding = places.choice(mqtt.encoding.as_ref(), "mqtt.encoding", encodings)?;
    let compressions = [("zstd", true), ("none", false)];
    let compress = places.choice(mqtt.compression.as_ref(), "mqtt.compression", compressions)?;
    check_the_rest(places, &mqtt)?;
    let outbox = sending::outbox(places, &mqtt)?;
    let link = sending::link(&mqtt);
    let profile = mqtt.profile;
    let mut settings = Mqtt {
        client_id: mqtt
            .client_id
            .unwrap_or_else(|| format!("quorate-{device}")),
        url,
        fallback_urls,
        topic,
        username: mqtt.username,
        password_file: mqtt.password_file.map(PathBuf::from),
        ca_file: mqtt.ca_file.map(PathBuf::from),
        cert_file: mqtt.cert_file.map(|file| PathBuf::from(file.into_inner())),
        key_file: mqtt.key_file.map(|file| PathBuf::from(file.into_inner())),
        keep_alive_s: mqtt.keep_alive_s.map_or(30, Spanned::into_inner),
        protocol,
        encoding,
        compress,
        outbox,
        link,
        profile: None,
    };
    if let Some(profile) = profile {
        cloud::apply(places, &profile, &mut settings)?;
        settings.profile = Some(profile.into_inner());
    }
    Ok(settings)
}

fn protocol(places: &Places<'_>, mqtt: &file::Mqtt) -> Result<mqtt::Protocol, SettingsError> {
    let Some(at) = &mqtt.version else {
        return Ok(mqtt::Protocol::default());
    };
    match at.get_ref().text().as_str() {
        "5" => Ok(mqtt::Protocol::Mqtt5),
        "3.1.1" => Ok(mqtt::Protocol::Mqtt311),
        other => {
            let message = format!("expected `5` or `3.1.1`, found `{other}`");
            Err(places.wrong(at, "mqtt.version", message))
        }
    }
}

/// What is refused whatever the rest says.
fn check_the_rest(places: &Places<'_>, mqtt: &file::Mqtt) -> Result<(), SettingsError> {
    if let Some(cert) = &mqtt.cert_file
        && mqtt.key_file.is_none()
    {
        return Err(places.wrong(cert, "mqtt.cert_file", "expected mqtt.key_file beside it"));
    }
    if let Some(key) = &mqtt.key_file
        && mqtt.cert_file.is_none()
    {
        return Err(places.wrong(key, "mqtt.key_file", "expected mqtt.cert_file beside it"));
    }
    if let Some(keep_alive) = &mqtt.keep_alive_s
        && *keep_alive.get_ref() < 5
    {
        return Err(places.wrong(keep_alive, "mqtt.keep_alive_s", "expected 5 to 65535"));
    }
    Ok(())
}

pub(super) const fn log_level(level: file::LogLevel) -> tracing::Level {
    match level {
        file::LogLevel::Error => tracing::Level::ERROR,
        file::LogLevel::Warn => tracing::Level::WARN,
        file::LogLevel::Info => tracing::Level::INFO,
        file::LogLevel::Debug => tracing::Level::DEBUG,
        file::LogLevel::Trace => tracing::Level::TRACE,
    }
}

pub(super) fn http(places: &Places<'_>, http: &file::Http) -> Result<Http, SettingsError> {
    let text = http
        .listen
        .as_ref()
        .map_or(LISTEN, |listen| listen.get_ref().as_str());
    let refuse = |message: String| match &http.listen {
        Some(at) => places.wrong(at, "http.listen", message),
        None => places
            .source
            .error(places.origins, 0, "http.listen", message),
    };
    let listen: SocketAddr = text.parse().map_err(|_| {
        refuse(format!(
            "expected an address and a port such as `{LISTEN}`, found `{text}`"
        ))
    })?;
    if !listen.ip().is_loopback() && !http.allow_remote {
        return Err(refuse(format!(
            "`{text}` is reachable from other machines; expected a loopback address, or allow_remote = true"
        )));
    }
    Ok(Http { listen })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::Settings;
    use crate::store::OnFull;

    fn parse(keys: &str) -> Result<super::Outbox, String> {
        let text = format!("[device]\nid = \"d\"\n[outbox]\npath = \"/tmp/o\"\n{keys}");
        let settings = Settings::parse("q.toml", &text, std::iter::empty());
        settings
            .map(|settings| settings.outbox.unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_goes_when_the_outbox_is_full_or_old() {
        for (text, expected) in [
            ("drop-oldest", OnFull::DropOldest),
            ("drop-lowest-priority", OnFull::DropLowestPriority),
            ("thin", OnFull::Thin),
            ("reject-new", OnFull::RejectNew),
        ] {
            let outbox = parse(&format!("on_full = \"{text}\"\nttl = \"30 d\"")).unwrap();
            assert_eq!(
                (outbox.on_full, outbox.ttl_ms),
                (expected, Some(2_592_000_000))
            );
        }
        assert_eq!(parse("").unwrap().ttl_ms, None);
        let refused = parse("ttl = \"5\"").unwrap_err();
        let expected = "q.toml:5:7: outbox.ttl: expected 1 minute to 100 years, as `90 s`, `15 min`, `12 h` or `30 d`, found `5`";
        assert_eq!(refused, expected);
        assert!(
            parse("on_full = \"thick\"")
                .unwrap_err()
                .starts_with("q.toml:5:11: outbox.on_full")
        );
    }
}
