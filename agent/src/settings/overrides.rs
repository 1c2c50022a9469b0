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
/// Most parts of a name; the deepest key has four.
const PARTS_MAX: usize = 8;

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
    let parts: Vec<&str> = variable[PREFIX.len()..]
        .split("__")
        .take(PARTS_MAX + 1)
        .collect();
    let refuse = |message: &str| SettingsError {
        place: format!("environment {variable}"),
        key: parts.join(".").to_lowercase(),
        message: message.into(),
    };
    if parts.len() > PARTS_MAX || parts.iter().any(|part| part.is_empty()) {
        return Err(refuse(
            "expected QUORATE__TABLE__KEY or QUORATE__TABLE__NUMBER-OR-ID__KEY",
        ));
    }
    // Anything that reads as a TOML value is one; anything else is a string, so that a URL needs no quotes.
    let value =
        DeValue::parse(value).map_or(DeValue::String(Cow::Borrowed(value)), Spanned::into_inner);
    let place = origins.next_place();
    let mut path = String::new();
    put(table, &parts, at(place, value), &mut path).map_err(|message| refuse(&message))?;
    origins.variables.push((variable.into(), path));
    Ok(())
}

/// Gives a value, and everything in it, the place of its variable: its own places are not in the file.
fn at(place: usize, value: DeValue<'_>) -> Spanned<DeValue<'_>> {
    let value = match value {
        DeValue::Array(items) => DeValue::Array(
            items
                .into_iter()
                .map(|item| at(place, item.into_inner()))
                .collect(),
        ),
        DeValue::Table(table) => {
            let entry = |(key, value): (Spanned<_>, Spanned<_>)| {
                (
                    Spanned::new(place..place, key.into_inner()),
                    at(place, value.into_inner()),
                )
            };
            DeValue::Table(table.into_iter().map(entry).collect())
        }
        plain => plain,
    };
    Spanned::new(place..place, value)
}

fn put<'i>(
    table: &mut DeTable<'i>,
    parts: &[&str],
    value: Spanned<DeValue<'i>>,
    path: &mut String,
) -> Result<(), String> {
    let [first, rest @ ..] = parts else {
        return Err("expected a key".into());
    };
    let known = table
        .keys()
        .find(|key| key.get_ref().eq_ignore_ascii_case(first))
        .cloned();
    let key =
        known.unwrap_or_else(|| Spanned::new(value.span(), Cow::Owned(first.to_ascii_lowercase())));
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key.get_ref());
    if rest.is_empty() {
        table.insert(key, value);
        return Ok(());
    }
    let slot = table
        .entry(key)
        .or_insert_with(|| Spanned::new(value.span(), DeValue::Table(DeTable::new())));
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
    value: Spanned<DeValue<'i>>,
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
    if rest.is_empty() {
        *item = value;
        return Ok(());
    }
    match item.get_mut() {
        DeValue::Table(inner) => put(inner, rest, value, path),
        other => Err(format!("`{path}` is a {}, not a table", other.type_str())),
    }
}
