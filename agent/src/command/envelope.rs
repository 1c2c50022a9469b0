//! The envelope: the bytes that are signed, and how they travel.
//!
//! Owns: the form of both. Must not: decide who may do what. Pure.
//!
//! A payload is `{"envelope":"BASE64","signature":"BASE64"}`: an Ed25519 signature (RFC 8032) over the very bytes that
//! `envelope` holds, so that no two programs have to agree on one way to write JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use quorate_core::{
    command::{Deed, LogLevel, Refused},
    units::{Epoch, Seq},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{PrivateKey, model};

/// Largest payload of a command in bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// Bytes of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;

/// What is signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Name of the key.
    pub key: String,
    /// A number above every one that this key was used with.
    pub counter: u64,
    /// Name of the device that it is meant for.
    pub device: String,
    /// The command.
    pub command: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub arguments: Map<String, Value>,
    /// RFC 3339; not to be carried out later, where the device knows the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A payload, opened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Opened {
    /// Signed, by whomever.
    Signed {
        /// The signed bytes.
        bytes: Vec<u8>,
        /// What they say.
        envelope: Envelope,
        /// The signature over them.
        signature: [u8; SIGNATURE_BYTES],
    },
    /// Not signed: arguments alone.
    Bare(Map<String, Value>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    envelope: String,
    signature: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bare {
    #[serde(default)]
    arguments: Map<String, Value>,
}

/// Opens a payload; nothing is believed of it yet.
pub(super) fn open(payload: &[u8]) -> Result<Opened, Refused> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Refused::Oversized);
    }
    if payload.is_empty() {
        return Ok(Opened::Bare(Map::new()));
    }
    let malformed = |_| Refused::Malformed;
    // Not `Bare` first: a payload with a signature must never pass for one without.
    let Ok(signed) = serde_json::from_slice::<Signed>(payload) else {
        let bare: Bare = serde_json::from_slice(payload).map_err(malformed)?;
        return Ok(Opened::Bare(bare.arguments));
    };
    let bytes = STANDARD
        .decode(&signed.envelope)
        .map_err(|_| Refused::Malformed)?;
    let signature = STANDARD
        .decode(&signed.signature)
        .ok()
        .and_then(|signature| signature.try_into().ok())
        .ok_or(Refused::Malformed)?;
    let envelope = serde_json::from_slice(&bytes).map_err(malformed)?;
    Ok(Opened::Signed {
        bytes,
        envelope,
        signature,
    })
}

/// The payload of a signed command.
#[must_use]
pub fn sign(envelope: &Envelope, key: &PrivateKey) -> String {
    let bytes =
        serde_json::to_vec(envelope).expect("a structure of strings and numbers always encodes");
    let signed = Signed {
        signature: STANDARD.encode(key.sign(&bytes)),
        envelope: STANDARD.encode(bytes),
    };
    serde_json::to_string(&signed).expect("two strings always encode")
}

/// What a command with these arguments asks for.
pub(super) fn deed(command: &str, arguments: &Map<String, Value>) -> Result<Deed, Refused> {
    let text = |key: &str| arguments.get(key).and_then(Value::as_str);
    let number = |key: &str| arguments.get(key).and_then(Value::as_u64);
    let known: &[&str] = match command {
        "ping" | "status" | "config-get" => &[],
        "replay" => &["epoch", "from", "to"],
        "sensor-reset" => &["sensor"],
        "log-level" => &["level"],
        "restart" => &["force"],
        name if name.starts_with("model-") => return model::deed(command, arguments),
        _ => return Err(Refused::UnknownCommand),
    };
    if arguments.keys().any(|key| !known.contains(&key.as_str())) {
        return Err(Refused::Arguments);
    }
    let deed = match command {
        "ping" => Some(Deed::Ping),
        "status" => Some(Deed::Status),
        "config-get" => Some(Deed::ConfigGet),
        "replay" => replay(number("epoch"), number("from"), number("to")),
        "sensor-reset" => text("sensor").map(|sensor| Deed::SensorReset {
            sensor: sensor.to_owned(),
        }),
        "log-level" => text("level").and_then(level).map(Deed::LogLevel),
        _ => match arguments.get("force") {
            None => Some(Deed::Restart { force: false }),
            Some(force) => force.as_bool().map(|force| Deed::Restart { force }),
        },
    };
    deed.ok_or(Refused::Arguments)
}

fn replay(epoch: Option<u64>, from: Option<u64>, to: Option<u64>) -> Option<Deed> {
    let (first, last) = (Seq(from?), Seq(to?));
    (first <= last).then_some(Deed::Replay {
        epoch: Epoch(epoch?),
        first,
        last,
    })
}

fn level(word: &str) -> Option<LogLevel> {
    Some(match word {
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn arguments(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn check(command: &str, given: &Value, expected: Result<Deed, Refused>) {
        assert_eq!(
            deed(command, &arguments(given)),
            expected,
            "{command} {given}"
        );
    }

    #[test]
    fn arguments_are_taken_or_refused() {
        check("ping", &json!({}), Ok(Deed::Ping));
        check("ping", &json!({"x": 1}), Err(Refused::Arguments));
        check("halt", &json!({}), Err(Refused::UnknownCommand));
        let range = |from, to| json!({"epoch": 3, "from": from, "to": to});
        let replay = Deed::Replay {
            epoch: Epoch(3),
            first: Seq(1),
            last: Seq(1),
        };
        check("replay", &range(1, 1), Ok(replay));
        check("replay", &range(2, 1), Err(Refused::Arguments));
        check(
            "replay",
            &json!({"epoch": 3, "from": -1, "to": 1}),
            Err(Refused::Arguments),
        );
        check(
            "replay",
            &json!({"from": 1, "to": 1}),
            Err(Refused::Arguments),
        );
        check(
            "log-level",
            &json!({"level": "debug"}),
            Ok(Deed::LogLevel(LogLevel::Debug)),
        );
        check(
            "log-level",
            &json!({"level": "loud"}),
            Err(Refused::Arguments),
        );
        check(
            "sensor-reset",
            &json!({"sensor": 3}),
            Err(Refused::Arguments),
        );
        check("restart", &json!({}), Ok(Deed::Restart { force: false }));
        check("restart", &json!({"force": "yes"}), Err(Refused::Arguments));
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let refused = |payload: &[u8]| open(payload).unwrap_err();
        assert_eq!(open(b""), Ok(Opened::Bare(Map::new())));
        assert_eq!(refused(b"{"), Refused::Malformed);
        assert_eq!(refused(b"[1]"), Refused::Malformed);
        assert_eq!(refused(br#"{"envelope":"e30="}"#), Refused::Malformed);
        assert_eq!(
            refused(br#"{"envelope":"!","signature":""}"#),
            Refused::Malformed
        );
        assert_eq!(
            refused(&vec![b' '; PAYLOAD_BYTES_MAX + 1]),
            Refused::Oversized
        );
        assert_eq!(refused(&vec![b'['; PAYLOAD_BYTES_MAX]), Refused::Malformed);
    }

    proptest! {
        /// Whatever comes in, it is opened or refused.
        #[test]
        fn no_bytes_at_all_cause_harm(payload in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = open(&payload);
        }

        /// The same one step nearer to what is expected.
        #[test]
        fn no_envelope_at_all_causes_harm(inner in "\\PC{0,200}", signature in proptest::collection::vec(any::<u8>(), 0..80)) {
            let payload = json!({"envelope": STANDARD.encode(inner), "signature": STANDARD.encode(signature)});
            let _ = open(payload.to_string().as_bytes());
        }

        #[test]
        fn what_was_signed_is_read_back(counter in any::<u64>(), device in "\\PC{0,20}", sensor in "\\PC{0,20}") {
            let envelope = Envelope {
                key: "ops-1".into(),
                counter,
                device,
                command: "sensor-reset".into(),
                arguments: arguments(&json!({"sensor": sensor})),
                expires: None,
            };
            let key = PrivateKey::generate().unwrap();
            let payload = sign(&envelope, &key);
            let Ok(Opened::Signed { bytes, envelope: read, signature }) = open(payload.as_bytes()) else {
                return Err(TestCaseError::fail("not opened"));
            };
            prop_assert_eq!(read, envelope);
            prop_assert!(key.public().verifies(&bytes, &signature));
        }
    }
}
