//! Whether a message is a command that its sender may give.
//!
//! Owns: the order of the checks. Must not: read a clock, keep a counter, or carry anything out. Pure.
//!
//! Invariant: nothing of an envelope is believed before its signature was found to be of a pinned key.

use quorate_core::{
    command::{Deed, Refused},
    units::WallAnchor,
};

use super::{
    Key,
    envelope::{self, Opened},
};
use crate::mqtt::Incoming;

/// Who may give which command on this device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    /// The pinned keys.
    pub keys: Vec<Key>,
    /// Commands that need no signature.
    pub allow_unsigned: Vec<String>,
}

impl Keyring {
    /// Nobody may give any command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.allow_unsigned.is_empty()
    }
}

/// A command that its sender may give, if its number is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    /// What it asks for.
    pub(super) deed: Deed,
    /// The key and the number; none without a signature.
    pub(super) signed: Option<(String, u64)>,
    /// As they were given.
    pub(super) arguments: String,
}

/// Checks everything but whether the number was used before.
pub(super) fn check(
    device: &str,
    topic: &str,
    keyring: &Keyring,
    incoming: &Incoming,
    wall: WallAnchor,
) -> Result<Checked, Refused> {
    let name = incoming
        .topic
        .strip_prefix(topic)
        .and_then(|rest| rest.strip_prefix("/cmd/"))
        .filter(|name| !name.is_empty() && !name.contains('/'))
        .ok_or(Refused::ForeignTopic)?;
    if incoming.retained {
        return Err(Refused::Retained);
    }
    let (arguments, signed, allow) = match envelope::open(&incoming.payload)? {
        Opened::Bare(arguments) => {
            if !keyring.allow_unsigned.iter().any(|allowed| allowed == name) {
                return Err(Refused::Unsigned);
            }
            (arguments, None, &keyring.allow_unsigned)
        }
        Opened::Signed {
            bytes,
            envelope,
            signature,
        } => {
            let key = keyring.keys.iter().find(|key| key.id == envelope.key);
            let key = key.ok_or(Refused::UnknownKey)?;
            if !key.public_key.verifies(&bytes, &signature) {
                return Err(Refused::Signature);
            }
            if envelope.device != device {
                return Err(Refused::OtherDevice);
            }
            // What was signed for one topic must not be sent on another: a broker's access rules go by topic.
            if envelope.command != name {
                return Err(Refused::ForeignTopic);
            }
            if let Some(expires) = &envelope.expires {
                let expires: jiff::Timestamp = expires.parse().map_err(|_| Refused::Malformed)?;
                if wall.synced && wall.unix_ms > expires.as_millisecond() {
                    return Err(Refused::Expired);
                }
            }
            if !key.allow.contains(&envelope.command) {
                return Err(Refused::NotAllowed);
            }
            let signed = (envelope.key, envelope.counter);
            (envelope.arguments, Some(signed), &key.allow)
        }
    };
    let deed = envelope::deed(name, &arguments)?;
    let permission = match &deed {
        Deed::Model(deed) => deed.permission(),
        _ => None,
    };
    if permission.is_some_and(|word| !allow.iter().any(|allowed| allowed == word)) {
        return Err(Refused::NotAllowed);
    }
    Ok(Checked {
        deed,
        signed,
        arguments: serde_json::Value::Object(arguments).to_string(),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use quorate_core::units::Mono;
    use serde_json::Map;

    use super::*;
    use crate::command::{Envelope, PrivateKey, sign};

    const UNIX_MS: i64 = 1_790_000_000_000;

    fn envelope() -> Envelope {
        Envelope {
            key: "ops-1".into(),
            counter: 17,
            device: "press-07".into(),
            command: "ping".into(),
            arguments: Map::new(),
            expires: None,
        }
    }

    fn incoming(payload: impl Into<Vec<u8>>) -> Incoming {
        Incoming {
            topic: "plant/press-07/cmd/ping".into(),
            payload: payload.into(),
            retained: false,
            reply: None,
        }
    }

    fn outcome(key: &PrivateKey, incoming: &Incoming, synced: bool) -> Result<Checked, Refused> {
        let keyring = Keyring {
            keys: vec![Key {
                id: "ops-1".into(),
                public_key: key.public(),
                allow: vec!["ping".into(), "restart".into()],
            }],
            allow_unsigned: vec!["status".into()],
        };
        let wall = WallAnchor {
            mono: Mono(0),
            unix_ms: UNIX_MS,
            synced,
        };
        check("press-07", "plant/press-07", &keyring, incoming, wall)
    }

    #[test]
    fn a_signed_command_is_taken() {
        let key = PrivateKey::generate().unwrap();
        let taken = outcome(&key, &incoming(sign(&envelope(), &key)), true).unwrap();
        assert_eq!(taken.deed, Deed::Ping);
        assert_eq!(taken.signed, Some(("ops-1".into(), 17)));
    }

    #[test]
    fn each_wrong_one_is_refused_for_its_reason() {
        let (key, other) = (
            PrivateKey::generate().unwrap(),
            PrivateKey::generate().unwrap(),
        );
        let refused = |change: &dyn Fn(&mut Envelope)| {
            let mut changed = envelope();
            change(&mut changed);
            outcome(&key, &incoming(sign(&changed, &key)), true).err()
        };
        assert_eq!(refused(&|_| {}), None);
        assert_eq!(
            refused(&|it| it.key = "ops-2".into()),
            Some(Refused::UnknownKey)
        );
        assert_eq!(
            refused(&|it| it.device = "press-08".into()),
            Some(Refused::OtherDevice)
        );
        assert_eq!(
            refused(&|it| it.command = "restart".into()),
            Some(Refused::ForeignTopic)
        );
        assert_eq!(
            refused(&|it| it.expires = Some("never".into())),
            Some(Refused::Malformed)
        );
        let past = |it: &mut Envelope| it.expires = Some("2020-01-01T00:00:00Z".into());
        assert_eq!(refused(&past), Some(Refused::Expired));
        let mut late = envelope();
        past(&mut late);
        let unsynced = outcome(&key, &incoming(sign(&late, &key)), false);
        assert!(
            unsynced.is_ok(),
            "a clock that is not believed judges nothing"
        );
        let forged = incoming(sign(&envelope(), &other));
        assert_eq!(outcome(&key, &forged, true), Err(Refused::Signature));
        assert_eq!(
            outcome(&key, &incoming("garbage"), true),
            Err(Refused::Malformed)
        );
        assert_eq!(outcome(&key, &incoming(""), true), Err(Refused::Unsigned));
    }

    #[test]
    fn one_bit_of_the_signed_bytes_breaks_the_signature() {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let key = PrivateKey::generate().unwrap();
        let payload: serde_json::Value = serde_json::from_str(&sign(&envelope(), &key)).unwrap();
        let bytes = STANDARD
            .decode(payload["envelope"].as_str().unwrap())
            .unwrap();
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut forged = payload.clone();
            forged["envelope"] = STANDARD.encode(flipped).into();
            let outcome = outcome(&key, &incoming(forged.to_string()), true);
            assert!(outcome.is_err(), "bit {bit}: {outcome:?}");
        }
    }

    #[test]
    fn an_older_release_needs_a_permission_of_its_own() {
        let key = PrivateKey::generate().unwrap();
        let give = |allow: &[&str], downgrade: bool| {
            let keyring = Keyring {
                keys: vec![Key {
                    id: "ops-1".into(),
                    public_key: key.public(),
                    allow: allow.iter().map(|word| (*word).to_owned()).collect(),
                }],
                allow_unsigned: vec![],
            };
            let arguments = serde_json::json!({"url": "https://host/file", "sha256": "0".repeat(64), "bytes": 7,
                                               "allow_downgrade": downgrade});
            let mut envelope = envelope();
            envelope.command = "model-stage".into();
            envelope.arguments = arguments.as_object().unwrap().clone();
            let message = Incoming {
                topic: "plant/press-07/cmd/model-stage".into(),
                ..incoming(sign(&envelope, &key))
            };
            let wall = WallAnchor {
                mono: Mono(0),
                unix_ms: UNIX_MS,
                synced: true,
            };
            check("press-07", "plant/press-07", &keyring, &message, wall).err()
        };
        assert_eq!(give(&["model-stage"], false), None);
        assert_eq!(give(&["model-stage"], true), Some(Refused::NotAllowed));
        assert_eq!(give(&["model-stage", "model-downgrade"], true), None);
        assert_eq!(give(&["model-downgrade"], true), Some(Refused::NotAllowed));
    }

    #[test]
    fn topics_and_allow_lists_are_kept() {
        let key = PrivateKey::generate().unwrap();
        let on = |topic: &str, payload: &str| {
            let message = Incoming {
                topic: topic.into(),
                ..incoming(payload)
            };
            outcome(&key, &message, true)
        };
        assert_eq!(
            on("plant/press-07/cmd/status", "").unwrap().deed,
            Deed::Status
        );
        assert_eq!(on("plant/press-07/cmd/restart", ""), Err(Refused::Unsigned));
        for topic in [
            "plant/press-07/data",
            "plant/press-070/cmd/ping",
            "x",
            "plant/press-07/cmd/",
        ] {
            assert_eq!(on(topic, ""), Err(Refused::ForeignTopic), "{topic}");
        }
        let retained = Incoming {
            retained: true,
            ..incoming(sign(&envelope(), &key))
        };
        assert_eq!(outcome(&key, &retained, true), Err(Refused::Retained));
        let mut not_allowed = envelope();
        not_allowed.command = "config-get".into();
        let message = Incoming {
            topic: "plant/press-07/cmd/config-get".into(),
            ..incoming(sign(&not_allowed, &key))
        };
        assert_eq!(outcome(&key, &message, true), Err(Refused::NotAllowed));
    }
}
