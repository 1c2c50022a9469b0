//! From the tables `[[command_keys]]` and `[commands]` to who may command.
//!
//! Owns: the relations between their keys. Must not: read anything from outside.

use quorate_core::{
    command::{NAMES, READ_ONLY},
    config::ID_BYTES_MAX,
};
use toml::Spanned;

use super::{SettingsError, convert::Places, file};
use crate::command::{Key, Keyring, PublicKey};

/// Most keys of one device; their counters are kept in one slot.
const KEYS_MAX: usize = 64;

pub(super) fn keyring(
    places: &Places<'_>,
    keys: &[file::CommandKey],
    commands: &file::Commands,
) -> Result<Keyring, SettingsError> {
    let mut keyring = Keyring::default();
    for (index, key) in keys.iter().enumerate() {
        let path = format!("command_keys[{index}]");
        let (id, id_path) = (key.id.get_ref(), format!("{path}.id"));
        if index >= KEYS_MAX {
            let message = format!("expected at most {KEYS_MAX} keys");
            return Err(places.wrong(&key.id, &id_path, message));
        }
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            let message = format!("expected 1 to {ID_BYTES_MAX} bytes");
            return Err(places.wrong(&key.id, &id_path, message));
        }
        if keyring.keys.iter().any(|other| other.id == *id) {
            return Err(places.wrong(&key.id, &id_path, format!("`{id}` is used twice")));
        }
        let public_key = PublicKey::parse(key.public_key.get_ref()).map_err(|message| {
            places.wrong(&key.public_key, &format!("{path}.public_key"), message)
        })?;
        keyring.keys.push(Key {
            id: id.clone(),
            public_key,
            allow: names(places, &format!("{path}.allow"), &key.allow, &NAMES)?,
        });
    }
    let path = "commands.allow_unsigned";
    keyring.allow_unsigned = names(places, path, &commands.allow_unsigned, &READ_ONLY)?;
    Ok(keyring)
}

fn names(
    places: &Places<'_>,
    path: &str,
    given: &[Spanned<String>],
    known: &[&str],
) -> Result<Vec<String>, SettingsError> {
    for (index, name) in given.iter().enumerate() {
        if !known.contains(&name.get_ref().as_str()) {
            let message = format!(
                "expected one of [{}], found `{}`",
                known.join(", "),
                name.get_ref()
            );
            return Err(places.wrong(name, &format!("{path}[{index}]"), message));
        }
    }
    Ok(given.iter().map(|name| name.get_ref().clone()).collect())
}
