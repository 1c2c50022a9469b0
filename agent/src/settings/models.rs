//! From the tables `[[models]]` and `[[model_keys]]` to what is run and who may sign it.
//!
//! Owns: the relations between their keys. Must not: read a bundle.

use std::path::Path;

use quorate_core::config::QuantityConfig;
use quorate_models::package::KEY_ID_BYTES_MAX;
use toml::Spanned;

use super::{Model, SettingsError, convert::Places, file, trial};
use crate::{command::PublicKey, model::trust::ModelKey};

/// Most keys of one device.
const KEYS_MAX: usize = 64;

pub(super) fn models(
    places: &Places<'_>,
    models: Vec<file::Model>,
    quantities: &[QuantityConfig],
) -> Result<Vec<Model>, SettingsError> {
    let base = Path::new(places.source.name)
        .parent()
        .unwrap_or(Path::new(""));
    let mut known: Vec<Model> = Vec::new();
    for (index, model) in models.into_iter().enumerate() {
        let key = format!("models[{index}]");
        let id = model.id.get_ref();
        if known.iter().any(|other| other.id == *id) {
            return Err(places.wrong(
                &model.id,
                &format!("{key}.id"),
                format!("`{id}` is used twice"),
            ));
        }
        for (input, name) in model.inputs.iter().enumerate() {
            if !quantities
                .iter()
                .any(|quantity| quantity.id == *name.get_ref())
            {
                let known: Vec<_> = quantities
                    .iter()
                    .map(|quantity| quantity.id.as_str())
                    .collect();
                let message = format!(
                    "no quantity `{}`; expected one of [{}]",
                    name.get_ref(),
                    known.join(", ")
                );
                return Err(places.wrong(name, &format!("{key}.inputs[{input}]"), message));
            }
        }
        known.push(Model {
            id: id.clone(),
            bundle: base.join(&model.bundle),
            inputs: model.inputs.into_iter().map(Spanned::into_inner).collect(),
            trial: model
                .trial
                .map(|table| trial::rules(places, &key, table))
                .transpose()?,
            split: model
                .ab
                .map(|table| trial::split(places, &key, table))
                .transpose()?,
        });
    }
    Ok(known)
}

pub(super) fn keys(
    places: &Places<'_>,
    keys: &[file::ModelKey],
) -> Result<Vec<ModelKey>, SettingsError> {
    let mut known: Vec<ModelKey> = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let path = format!("model_keys[{index}]");
        let (id, id_path) = (key.id.get_ref(), format!("{path}.id"));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let message = if index >= KEYS_MAX {
            Some(format!("expected at most {KEYS_MAX} keys"))
        } else if !(1..=KEY_ID_BYTES_MAX).contains(&id.len()) || !id.bytes().all(allowed) {
            Some(format!(
                "expected 1 to {KEY_ID_BYTES_MAX} letters, digits, `-`, `_` or `.`"
            ))
        } else if known.iter().any(|other| other.id == *id) {
            Some(format!("`{id}` is used twice"))
        } else {
            None
        };
        if let Some(message) = message {
            return Err(places.wrong(&key.id, &id_path, message));
        }
        let public_key = PublicKey::parse(key.public_key.get_ref()).map_err(|message| {
            places.wrong(&key.public_key, &format!("{path}.public_key"), message)
        })?;
        known.push(ModelKey {
            id: id.clone(),
            public_key,
        });
    }
    Ok(known)
}
