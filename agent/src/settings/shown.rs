//! The configuration as it may be shown to others.
//!
//! Owns: what of it is a secret. Must not: read a file that it names.

use serde::Deserialize as _;
use serde_json::Value;
use toml::{
    Spanned,
    de::{DeTable, Deserializer},
};

/// What stands in the place of a secret.
const HIDDEN: &str = "(hidden)";

/// Everything that is set, as JSON. The file has no place for a secret today; what somebody wrote there all the same, or a
/// later key, is hidden by its name.
pub(super) fn shown(table: &Spanned<DeTable<'_>>) -> String {
    let mut value =
        Value::deserialize(Deserializer::from(table.clone())).unwrap_or_else(|_| HIDDEN.into());
    hide(&mut value);
    value.to_string()
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                if is_secret(key) {
                    *value = HIDDEN.into();
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::String(text) if text.contains("-----BEGIN") => *value = HIDDEN.into(),
        _ => {}
    }
}

/// The names of files are no secrets, and public keys are public.
fn is_secret(key: &str) -> bool {
    let word = |word| key.contains(word);
    let secret = word("password") || word("secret") || word("token") || word("private");
    secret && !key.ends_with("_file")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::hide;

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let mut value = json!({
            "mqtt": {"password": "a", "password_file": "b", "tokens": ["c"], "ca": "-----BEGIN X"},
            "command_keys": [{"public_key": "d", "private_key": "e"}],
        });
        hide(&mut value);
        let hidden = "(hidden)";
        let expected = json!({
            "mqtt": {"password": hidden, "password_file": "b", "tokens": hidden, "ca": hidden},
            "command_keys": [{"public_key": "d", "private_key": hidden}],
        });
        assert_eq!(value, expected);
    }
}
