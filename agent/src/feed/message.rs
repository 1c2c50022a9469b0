//! What a program says of one channel: one JSON object.
//!
//! Owns: its shape. Must not: keep anything.

use quorate_firmware_bridge::SampleFault;
use serde::Deserialize;

/// Longest name of a channel or of a unit in bytes.
const WORD_BYTES_MAX: usize = 128;

/// One message that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Which channel.
    pub sensor: String,
    /// The value, or why there is none.
    pub value: Result<f64, SampleFault>,
    /// The unit that it names.
    pub unit: Option<String>,
    /// How old it is already, in milliseconds.
    pub age_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    sensor: String,
    value: Option<f64>,
    unit: Option<String>,
    #[serde(default)]
    age_ms: u64,
    fault: Option<String>,
}

/// It is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnderstood;

impl Message {
    /// Reads one object. It must have `sensor`, and either `value` or `fault`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotUnderstood> {
        let written: Written = serde_json::from_slice(bytes).map_err(|_| NotUnderstood)?;
        let fits = |word: &String| word.len() <= WORD_BYTES_MAX;
        if !fits(&written.sensor) || !written.unit.as_ref().is_none_or(fits) {
            return Err(NotUnderstood);
        }
        let value = match (written.value, written.fault) {
            (Some(value), None) => Ok(value),
            (None, Some(word)) => {
                Err(SampleFault::from_word(&word).unwrap_or(SampleFault::Reported))
            }
            _ => return Err(NotUnderstood),
        };
        Ok(Self {
            sensor: written.sensor,
            value,
            unit: written.unit,
            age_ms: written.age_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Message, NotUnderstood};
    use proptest::prelude::*;
    use quorate_firmware_bridge::SampleFault;

    #[test]
    fn what_is_a_message_and_what_is_not() {
        let value = |text: &str| Message::parse(text.as_bytes()).map(|message| message.value);
        assert_eq!(value(r#"{"sensor":"a","value":-1.5e2}"#), Ok(Ok(-150.0)));
        let fault = |word: &str| value(&format!(r#"{{"sensor":"a","fault":"{word}"}}"#));
        assert_eq!(fault("checksum"), Ok(Err(SampleFault::Checksum)));
        assert_eq!(fault("door-open"), Ok(Err(SampleFault::Reported)));
        for text in [
            r#"{"sensor":"a"}"#,
            r#"{"sensor":"a","value":1,"fault":"checksum"}"#,
            r#"{"sensor":"a","value":"1"}"#,
            r#"{"sensor":"a","value":NaN}"#,
            r#"{"sensor":"a","value":1e999}"#,
            r#"{"sensor":"a","value":1,"age_ms":-1}"#,
            r#"{"sensor":"a","value":1,"other":1}"#,
            r#"{"sensor":"a","value":1} {"sensor":"a","value":2}"#,
            "[]",
            "",
        ] {
            assert_eq!(value(text), Err(NotUnderstood), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_mutated_message_gives_a_finite_value_or_none(
            value in -1e9_f64..1e9,
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = format!(r#"{{"sensor":"a","value":{value},"age_ms":5}}"#).into_bytes();
            prop_assert_eq!(Message::parse(&bytes).map(|message| message.value), Ok(Ok(value)));
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(Message { value: Ok(value), .. }) = Message::parse(&bytes) {
                prop_assert!(value.is_finite());
            }
        }
    }
}
