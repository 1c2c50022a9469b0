//! What a stored record is and when it was made, read off its first bytes.
//!
//! Owns: the order of the classes, and the look into what [`crate::record::encode`] made. Must not: parse a body.
//!
//! Invariant: total for any bytes, and bounded: nothing beyond `HEAD_BYTES_MAX` is looked at. What stands there is made
//! by this agent alone (sequence number, boot, times, kind), so that a body cannot pass itself off as another class.

/// Everything before the body fits in this: two numbers of twenty digits, a boot, a time, a kind and their names.
const HEAD_BYTES_MAX: usize = 224;

/// How much a record matters when not all can be kept, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Another program put it in.
    External,
    /// One vote; the next one says nearly the same. Also whatever does not say what it is.
    Vote,
    /// What a model made of many votes.
    Inference,
    /// A change of state or a loss: there is only one of each, and the others cannot be understood without them.
    Event,
}

impl Class {
    /// All of them, from least to most.
    pub const ALL: [Self; 4] = [Self::External, Self::Vote, Self::Inference, Self::Event];

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::External => 0,
            Self::Vote => 1,
            Self::Inference => 2,
            Self::Event => 3,
        }
    }
}

/// What stands at the head of a stored record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its class.
    pub class: Class,
    /// When it was made, in milliseconds since 1970, by a clock that was synchronised; `None` otherwise.
    pub unix_ms: Option<i64>,
}

/// Reads the head of a record.
#[must_use]
pub fn label(payload: &[u8]) -> Label {
    let head = &payload[..payload.len().min(HEAD_BYTES_MAX)];
    let class = after(head, b"\"kind\":\"").map_or(Class::Vote, |kind| {
        if kind.starts_with(b"event\"") {
            Class::Event
        } else if kind.starts_with(b"inference\"") {
            Class::Inference
        } else if kind.starts_with(b"external\"") {
            Class::External
        } else {
            Class::Vote
        }
    });
    Label {
        class,
        unix_ms: time(head),
    }
}

/// The time, where the record says that the clock was synchronised right behind it.
fn time(head: &[u8]) -> Option<i64> {
    let rest = after(head, b"\"time\":\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let (text, rest) = rest.split_at(end);
    if !rest.starts_with(b"\",\"synced\":true,") {
        return None;
    }
    let text = core::str::from_utf8(text).ok()?;
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.as_millisecond())
}

fn after<'a>(bytes: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    let at = bytes
        .windows(what.len())
        .position(|window| window == what)?;
    bytes.get(at + what.len()..)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Class, Label, label};
    use crate::{
        record::{Stamp, encode_external},
        units::{BootId, Mono, Seq, WallAnchor},
    };

    fn stamp(synced: bool) -> Stamp {
        Stamp {
            boot: BootId([0xab; 16]),
            mono: Mono(u64::MAX / 2),
            wall: Some(WallAnchor {
                mono: Mono(u64::MAX / 2),
                unix_ms: 1_795_543_210_123,
                synced,
            }),
        }
    }

    #[test]
    fn a_record_says_what_it_is_and_when_it_was_made() {
        let body = serde_json::json!({"kind": "event", "time": "2020-01-01T00:00:00Z"});
        let made = encode_external(Seq(u64::MAX), stamp(true), &body).unwrap();
        let expected = Label {
            class: Class::External,
            unix_ms: Some(1_795_543_210_123),
        };
        assert_eq!(label(&made.payload), expected);
        let made = encode_external(Seq(1), stamp(false), &body).unwrap();
        assert_eq!(label(&made.payload).unix_ms, None);
        for (kind, class) in [
            ("event", Class::Event),
            ("inference", Class::Inference),
            ("vote", Class::Vote),
            ("other", Class::Vote),
        ] {
            let text = alloc::format!(r#"{{"seq":1,"kind":"{kind}","body":{{}}}}"#);
            assert_eq!(label(text.as_bytes()).class, class);
        }
        assert!(Class::ALL.windows(2).all(|two| two[0] < two[1]));
    }

    #[test]
    fn any_bytes_give_a_label() {
        let whole = br#"{"seq":1,"boot":"00","mono_ms":1,"time":"2026-11-24T10:00:00.123Z","synced":true,"kind":"event","body":1}"#;
        for end in 0..whole.len() {
            let _ = label(&whole[..end]);
        }
        assert_eq!(label(b"").class, Class::Vote);
        assert_eq!(label(br#""time":"","synced":true,"#).unix_ms, None);
    }
}
