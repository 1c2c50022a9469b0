//! The one way in which a probe's configuration is refused.
//!
//! Every probe has a plain configuration struct with public fields, `validate`, and a `Display` that
//! describes it in one line. Reading a file into those structs is the agent's business.

/// A key of a probe's configuration holds something that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {found}: expected {expected}")]
pub struct ConfigError {
    /// The key, spelled as the field of the configuration struct.
    pub key: &'static str,
    /// What stands there.
    pub found: String,
    /// What would be accepted.
    pub expected: String,
}

impl ConfigError {
    /// Text from a file is quoted and shortened, so that a message stays one readable line.
    pub(crate) fn text(key: &'static str, found: &str, expected: impl Into<String>) -> Self {
        const CHARACTERS_MAX: usize = 80;
        let mut shown: String = found.chars().take(CHARACTERS_MAX).collect();
        if shown.len() < found.len() {
            shown.push_str("...");
        }
        Self {
            key,
            found: format!("{shown:?}"),
            expected: expected.into(),
        }
    }

    pub(crate) fn number(
        key: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            key,
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ConfigError;

    #[test]
    fn the_message_is_one_line_and_says_what_was_expected() {
        assert_eq!(
            ConfigError::text("input", "a\nb", "temp1").to_string(),
            r#"input = "a\nb": expected temp1"#
        );
        let long = ConfigError::text("input", &"x".repeat(1000), "temp1").to_string();
        assert!(long.len() < 120, "{long}");
    }
}
