//! Overrides: `QUORATE__MQTT__URL` and its like lie over the file.
//!
//! Owns: how a variable's name becomes a key. Must not: know which keys exist; an unknown one is refused with the file.

use std::borrow::Cow;

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{SettingsError, file::Origins};

const PREFIX: &str = "QUORATE__";
/// Most variables that are looked at.
const VARIABLES_MAX: usize = 1_024;

/// The environment's overrides, in order of their names.
pub(super) fn variables(
    environment: impl Iterator<Item = (String, String)>,
) -> Vec<(String, String)> {
    let mut variables: Vec<_> = environment
        .filter(|(name, _)| name.starts_with(PREFIX))
        .take(VARIABLES_MAX)
        .collect();
    variables.sort();
    variables
}

/// Lays one variable over the table.
pub(super) fn apply<'i>(
    table: &mut DeTable<'i>,
    variable: &'i str,
    value: &'i str,
    origins: &mut Origins,
) -> Result<(), SettingsError> {
    let parts: Vec<&str> = variable[PREFIX.len()..].split("__").collect();
    let refuse = |message: &str| SettingsError {
        place: format!("environment {variable}"),
        key: parts.join(".").to_lowercase(),
        message: message.into(),
    };
    if parts.iter().any(|part| part.is_empty()) {
        return Err(refuse(
            "expected QUORATE__TABLE__KEY or QUORATE__TABLE__NUMBER-OR-ID__KEY",
        ));
    }
    // Anything that reads as a TOML value is one; anything else is a string, so that a URL needs no quotes.
    let value =
        DeValue::parse(value).map_or(DeValue::String(Cow::Borrowed(value)), Spanned::into_inner);
    let mut path = String::new();
    put(table, &parts, value, &mut path).map_err(|message| refuse(&message))?;
    origins.insert(path, variable.into());
    Ok(())
}

fn put<'i>(
    table: &mut DeTable<'i>,
    parts: &[&str],
    value: DeValue<'i>,
    path: &mut String,
) -> Result<(), String> {
    let [first, rest @ ..] = parts else {
        return Err("expected a key".into());
    };
    let known = table
        .keys()
        .find(|key| key.get_ref().eq_ignore_ascii_case(first))
        .cloned();
    let key = known.unwrap_or_else(|| Spanned::new(0..0, Cow::Owned(first.to_ascii_lowercase())));
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key.get_ref());
    if rest.is_empty() {
        table.insert(key, Spanned::new(0..0, value));
        return Ok(());
    }
    let slot = table
        .entry(key)
        .or_insert_with(|| Spanned::new(0..0, DeValue::Table(DeTable::new())));
    match slot.get_mut() {
        DeValue::Table(inner) => put(inner, rest, value, path),
        DeValue::Array(items) => put_in_array(items, rest, value, path),
        other => Err(format!("`{path}` is a {}, not a table", other.type_str())),
    }
}

/// An element is named by its number, or by the `id` that it has.
fn put_in_array<'i>(
    items: &mut DeArray<'i>,
    parts: &[&str],
    value: DeValue<'i>,
    path: &mut String,
) -> Result<(), String> {
    let [which, rest @ ..] = parts else {
        return Err("expected a number or an id".into());
    };
    let is_named = |item: &Spanned<DeValue<'_>>| {
        let id = item
            .get_ref()
            .get("id")
            .and_then(|id| id.get_ref().as_str());
        id.is_some_and(|id| id.eq_ignore_ascii_case(which))
    };
    let index = which
        .parse()
        .ok()
        .or_else(|| items.iter().position(is_named));
    let item = index.and_then(|index: usize| items.get_mut(index).map(|item| (index, item)));
    let Some((index, item)) = item else {
        return Err(format!("`{path}` has no element `{which}`"));
    };
    path.push_str(&format!("[{index}]"));
    match (item.get_mut(), rest.is_empty()) {
        (DeValue::Table(inner), false) => put(inner, rest, value, path),
        (slot, true) => {
            *slot = value;
            Ok(())
        }
        (other, false) => Err(format!("`{path}` is a {}, not a table", other.type_str())),
    }
}
