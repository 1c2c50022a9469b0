//! What the ingesting side says that it has stored.
//!
//! Owns: the topic and the payload of the watermark. Must not: believe it; the core decides what it is worth. Pure.

use quorate_core::{
    event::Event,
    units::{Epoch, Seq},
};
use serde::Deserialize;

/// Longest payload that is read, in bytes: two numbers and what a program may write around them.
const BYTES_MAX: usize = 1_024;

/// The topic of the watermark below a base.
#[must_use]
pub fn topic(base: &str) -> String {
    format!("{base}/watermark")
}

/// Why a payload is no watermark.
#[derive(Debug, thiserror::Error)]
pub enum WatermarkError {
    /// Longer than any watermark.
    #[error("expected at most {BYTES_MAX} bytes, found {0}")]
    TooLong(usize),
    /// Not the JSON that was expected.
    #[error("expected {{\"epoch\":E,\"through\":N}}: {0}")]
    Json(#[from] serde_json::Error),
}

/// What the ingesting side publishes: the form that [`parse`] reads.
#[must_use]
pub fn payload(epoch: Epoch, through: Seq) -> Vec<u8> {
    serde_json::json!({"epoch": epoch.0, "through": through.0})
        .to_string()
        .into_bytes()
}

/// Members that are not known are left for a later version to use.
#[derive(Deserialize)]
struct Wire {
    epoch: u64,
    through: u64,
}

/// Reads `{"epoch":E,"through":N}`.
///
/// # Errors
/// The payload is anything else.
pub fn parse(payload: &[u8]) -> Result<Event, WatermarkError> {
    if payload.len() > BYTES_MAX {
        return Err(WatermarkError::TooLong(payload.len()));
    }
    let wire: Wire = serde_json::from_slice(payload)?;
    Ok(Event::Watermark {
        epoch: Epoch(wire.epoch),
        through: Seq(wire.through),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_watermark_is_read() {
        let expected = Event::Watermark {
            epoch: Epoch(3),
            through: Seq(u64::MAX),
        };
        let text = format!(" {{\"through\":{},\"epoch\":3,\"by\":\"x\"}}\n", u64::MAX);
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        assert_eq!(topic("quorate/press-07"), "quorate/press-07/watermark");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "7",
            "null",
            "[3,4]x",
            "{}",
            "{\"epoch\":3}",
            "{\"epoch\":3,\"through\":-1}",
            "{\"epoch\":3,\"through\":1.5}",
            "{\"epoch\":3,\"through\":\"4\"}",
            "{\"epoch\":3,\"through\":18446744073709551616}",
            "{\"epoch\":3,\"epoch\":3,\"through\":4}",
            "{\"epoch\":3,\"through\":4}{}",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        let long = format!("{{\"epoch\":3,\"through\":4{}}}", " ".repeat(2_000));
        let refused = parse(long.as_bytes()).unwrap_err().to_string();
        assert!(refused.contains("at most 1024 bytes"), "{refused}");
        let deep = "[".repeat(1_000);
        assert!(parse(deep.as_bytes()).is_err());
        assert!(parse(&[0xff, 0xfe, 0x00]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..1_100)) {
            let _ = parse(&bytes);
        }
    }
}
