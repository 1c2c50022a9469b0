//! From what the manifests of the models say to the core's configuration of them.
//!
//! Owns: whether a model fits the quantities that are to feed it. Must not: read a bundle.

use quorate_core::{
    config::{Config, ModelConfig, ModelInput},
    model::Missing,
    units::{ModelId, QuantityId},
};

use super::{Model, ModelFacts, Settings, SettingsError};

/// A window is made of the ticks of the slowest input: they must lie as far apart as those that the model learned from.
fn check_period(settings: &Settings, model: &Model, facts: &ModelFacts) -> Result<(), String> {
    let inputs = settings
        .quantities
        .iter()
        .filter(|quantity| model.inputs.contains(&quantity.id));
    match inputs.max_by_key(|quantity| quantity.period_ms) {
        Some(slowest) if slowest.period_ms != facts.period_ms => Err(format!(
            "`{}` was trained on a tick every {} ms, but `{}` has period_ms = {}",
            facts.id, facts.period_ms, slowest.id, slowest.period_ms
        )),
        _ => Ok(()),
    }
}

fn wrong(settings: &Settings, key: String, message: String) -> SettingsError {
    SettingsError {
        place: settings.name.clone(),
        key,
        message,
    }
}

pub(super) fn core_config(
    settings: &Settings,
    facts: &[ModelFacts],
) -> Result<Config, SettingsError> {
    let mut config = settings.bare_config();
    for (index, facts) in facts.iter().enumerate().take(settings.models.len()) {
        config.models.push(shape(settings, index, facts)?);
    }
    config
        .validate()
        .map_err(|error| wrong(settings, error.key, error.message))?;
    Ok(config)
}

pub(super) fn model_config(
    settings: &Settings,
    index: usize,
    facts: &ModelFacts,
) -> Result<ModelConfig, SettingsError> {
    let shaped = shape(settings, index, facts)?;
    let alone = Config {
        models: vec![ModelConfig {
            // Which other model it falls back to was found in the settings.
            missing: Missing::Abstain,
            ..shaped.clone()
        }],
        ..settings.bare_config()
    };
    alone
        .validate()
        .map_err(|error| wrong(settings, error.key, error.message))?;
    Ok(shaped)
}

fn shape(
    settings: &Settings,
    index: usize,
    facts: &ModelFacts,
) -> Result<ModelConfig, SettingsError> {
    let model = &settings.models[index];
    let key = format!("models[{index}]");
    if model.inputs.len() != facts.inputs.len() {
        let names: Vec<_> = facts
            .inputs
            .iter()
            .map(|input| input.quantity.as_str())
            .collect();
        let message = format!(
            "`{}` takes {} inputs ({}), found {}",
            facts.id,
            names.len(),
            names.join(", "),
            model.inputs.len()
        );
        return Err(wrong(settings, format!("{key}.inputs"), message));
    }
    check_period(settings, model, facts)
        .map_err(|message| wrong(settings, format!("{key}.inputs"), message))?;
    Ok(ModelConfig {
        id: model.id.clone(),
        version: facts.version.clone(),
        digest: facts.digest.clone(),
        window: facts.window,
        inputs: inputs(settings, index, facts)?,
        outputs: facts.outputs.clone(),
        threshold: facts.threshold,
        hysteresis: facts.hysteresis,
        output_ranges: facts.output_ranges.clone(),
        missing: missing(settings, index, facts)?,
        single_sensor: settings
            .quantities
            .iter()
            .any(|quantity| quantity.sensors.len() == 1 && model.inputs.contains(&quantity.id)),
        trial: model.trial.clone(),
        split: model.split,
    })
}

fn inputs(
    settings: &Settings,
    index: usize,
    facts: &ModelFacts,
) -> Result<Vec<ModelInput>, SettingsError> {
    let names = settings.models[index].inputs.iter().zip(&facts.inputs);
    let mut inputs = Vec::new();
    for (position, (name, input)) in names.enumerate() {
        let quantity = settings
            .quantities
            .iter()
            .position(|quantity| quantity.id == *name);
        let quantity = quantity.expect("the file was checked for it");
        let unit = &settings.quantities[quantity].unit;
        if *unit != input.unit {
            let message = format!(
                "`{}` was trained on {} in `{}`, but `{name}` is in `{unit}`",
                facts.id, input.quantity, input.unit
            );
            let key = format!("models[{index}].inputs[{position}]");
            return Err(wrong(settings, key, message));
        }
        inputs.push(ModelInput {
            quantity: QuantityId(
                u16::try_from(quantity).expect("the number of quantities is validated"),
            ),
            mean: input.mean,
            scale: input.scale,
            range: input.range,
            impute: input.impute,
        });
    }
    Ok(inputs)
}

/// The manifest names another model of the device.
fn missing(
    settings: &Settings,
    index: usize,
    facts: &ModelFacts,
) -> Result<Missing, SettingsError> {
    let name = match &facts.missing {
        quorate_models::Missing::Abstain => return Ok(Missing::Abstain),
        quorate_models::Missing::Impute => return Ok(Missing::Impute),
        quorate_models::Missing::Fallback { model } => model,
    };
    let others = settings.models.iter().enumerate();
    let mut others = others.filter(|(other, _)| *other != index);
    let found = others.find(|(_, other)| other.id == *name);
    let found = found.and_then(|(other, _)| u16::try_from(other).ok());
    found
        .map(|other| Missing::Fallback(ModelId(other)))
        .ok_or_else(|| {
            let message = format!(
                "`{}` falls back to `{name}`, which is no other of `[[models]]`",
                facts.id
            );
            wrong(settings, format!("models[{index}]"), message)
        })
}
