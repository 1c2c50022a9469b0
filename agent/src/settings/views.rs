//! From the table `[live]` to the settings.
//!
//! Owns: what Home Assistant and Sparkplug B allow in a topic. Must not: read anything from outside.

use toml::Spanned;

use super::{SettingsError, convert::Places, file};
use crate::live::Options;

/// Longest prefix or group in bytes.
const NAME_BYTES_MAX: usize = 256;

pub(super) fn live(
    places: &Places<'_>,
    device: &str,
    has_broker: bool,
    live: file::Live,
) -> Result<Options, SettingsError> {
    let given = live
        .home_assistant
        .as_ref()
        .map(|at| ("live.home_assistant", at));
    let given = given.or(live
        .sparkplug_group
        .as_ref()
        .map(|at| ("live.sparkplug_group", at)));
    let Some((key, at)) = given else {
        return Ok(Options {
            home_assistant: None,
            sparkplug_group: None,
        });
    };
    if !has_broker {
        return Err(places.wrong(at, key, "expected a table [mqtt]: a view needs a broker"));
    }
    if let Some(prefix) = &live.home_assistant {
        check(
            places,
            prefix,
            "live.home_assistant",
            "a topic without wildcards, such as `homeassistant`",
            &['+', '#', '\0'],
        )?;
    }
    if let Some(group) = &live.sparkplug_group {
        check(
            places,
            group,
            "live.sparkplug_group",
            "a name without `/`, `+` and `#`",
            &['+', '#', '/', '\0'],
        )?;
        if device.contains(['+', '#', '/']) {
            let message = format!("device.id `{device}` cannot be the name of a Sparkplug node");
            return Err(places.wrong(group, "live.sparkplug_group", message));
        }
    }
    Ok(Options {
        home_assistant: live.home_assistant.map(Spanned::into_inner),
        sparkplug_group: live.sparkplug_group.map(Spanned::into_inner),
    })
}

fn check(
    places: &Places<'_>,
    at: &Spanned<String>,
    key: &str,
    expected: &str,
    forbidden: &[char],
) -> Result<(), SettingsError> {
    let text = at.get_ref();
    if text.is_empty()
        || text.len() > NAME_BYTES_MAX
        || text.contains(forbidden)
        || text.ends_with('/')
    {
        return Err(places.wrong(at, key, format!("expected {expected}, found `{text}`")));
    }
    Ok(())
}
