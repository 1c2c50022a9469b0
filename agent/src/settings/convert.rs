//! From the file to the settings, and from the settings to the core's configuration.
//!
//! Owns: defaults, and the relations between keys. Must not: read anything from outside.

use quorate_core::{
    config::{
        Config, ConfigError, GuardConfig, OutboxConfig, QuantityConfig, SensorConfig, VitalsConfig,
    },
    units::SensorId,
    vote,
};
use toml::Spanned;

use super::{
    Sensor, Settings, SettingsError, commands, delivery, file, file::Origins, guard, models,
    sources, values, views,
};

/// Period of a quantity unless it is told otherwise, in milliseconds.
const PERIOD_MS: u64 = 1_000;
/// A reading counts for this many periods unless it is told otherwise.
const TIMEOUT_PERIODS: u64 = 10;
/// Sensors are polled this long before the vote unless it is told otherwise, in milliseconds, but at most half a period.
const LEAD_MS_MAX: u64 = 200;

/// The circle of a heading in degrees.
const FULL_TURN: [f64; 2] = [0.0, 360.0];

/// Where a faulty key stands.
pub(super) struct Places<'a> {
    pub(super) source: file::Source<'a>,
    pub(super) origins: &'a Origins,
}

impl Places<'_> {
    pub(super) fn wrong<T>(
        &self,
        at: &Spanned<T>,
        key: &str,
        message: impl Into<String>,
    ) -> SettingsError {
        self.source
            .error(self.origins, at.span().start, key, message)
    }

    /// One of a few words, or the first of them where none is given.
    pub(super) fn choice<T: Copy, const N: usize>(
        &self,
        given: Option<&Spanned<String>>,
        key: &str,
        choices: [(&str, T); N],
    ) -> Result<T, SettingsError> {
        const { assert!(N > 1, "a choice is between two at least") };
        let Some(at) = given else {
            return Ok(choices[0].1);
        };
        let found = at.get_ref();
        let known = choices.iter().find(|(word, _)| word == found);
        known.map(|(_, value)| *value).ok_or_else(|| {
            let words = choices.map(|(word, _)| format!("`{word}`")).join(" or ");
            self.wrong(at, key, format!("expected {words}, found `{found}`"))
        })
    }

    /// What the core refuses, where its key stands; where it is not given, only the file is known.
    pub(super) fn refused(&self, error: ConfigError) -> SettingsError {
        match self.origins.place_of(&error.key) {
            Some(place) => self
                .source
                .error(self.origins, place, &error.key, error.message),
            None => SettingsError {
                place: self.source.name.into(),
                key: error.key,
                message: error.message,
            },
        }
    }
}

pub(super) fn settings(
    source: file::Source<'_>,
    origins: &Origins,
    file: file::File,
) -> Result<Settings, SettingsError> {
    let places = &Places { source, origins };
    let buses = sources::buses(places, &file.buses)?;
    let sensors = sources::sensors(places, file.sensors, &buses)?;
    bare(&sensors)
        .validate()
        .map_err(|error| places.refused(error))?;
    let quantities = quantities(places, file.quantities, &sensors)?;
    let models = models::models(places, file.models, &quantities)?;
    let device = file.device.id.get_ref().clone();
    let has_broker = file.mqtt.is_some();
    let settings = Settings {
        name: source.name.into(),
        outbox: file
            .outbox
            .map(|outbox| delivery::outbox(places, outbox))
            .transpose()?,
        mqtt: file
            .mqtt
            .map(|mqtt| delivery::mqtt(places, &device, mqtt))
            .transpose()?,
        live: file
            .live
            .map(|live| views::live(places, &device, has_broker, live))
            .transpose()?,
        http: delivery::http(places, &file.http)?,
        keyring: commands::keyring(places, &file.command_keys, &file.commands)?,
        shown: origins.shown.clone(),
        log_level: delivery::log_level(file.log.level),
        status_codes: file.device.status_codes,
        device,
        buses,
        sensors,
        quantities,
        models,
        model_keys: models::keys(places, &file.model_keys)?,
    };
    settings
        .bare_config()
        .validate()
        .map_err(|error| places.refused(error))?;
    Ok(settings)
}

fn quantities(
    places: &Places<'_>,
    quantities: Vec<file::Quantity>,
    sensors: &[Sensor],
) -> Result<Vec<QuantityConfig>, SettingsError> {
    let mut known: Vec<QuantityConfig> = Vec::new();
    for (index, quantity) in quantities.into_iter().enumerate() {
        let key = format!("quantities[{index}]");
        let id = quantity.id.get_ref();
        if known.iter().any(|other| other.id == *id) {
            return Err(places.wrong(
                &quantity.id,
                &format!("{key}.id"),
                format!("`{id}` is used twice"),
            ));
        }
        known.push(self::quantity(places, &key, quantity, sensors)?);
    }
    Ok(known)
}

fn channels(
    places: &Places<'_>,
    key: &str,
    names: &[Spanned<String>],
    sensors: &[Sensor],
) -> Result<Vec<SensorId>, SettingsError> {
    let mut ids = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let position = sensors
            .iter()
            .position(|sensor| sensor.id == *name.get_ref());
        let Some(position) = position else {
            let known: Vec<_> = sensors.iter().map(|sensor| sensor.id.as_str()).collect();
            let message = format!(
                "no sensor `{}`; expected one of [{}]",
                name.get_ref(),
                known.join(", ")
            );
            return Err(places.wrong(name, &format!("{key}.sensors[{index}]"), message));
        };
        let id = u16::try_from(position).map_err(|_| {
            places.wrong(
                name,
                &format!("{key}.sensors[{index}]"),
                "expected at most 1024 sensors",
            )
        })?;
        ids.push(SensorId(id));
    }
    Ok(ids)
}

fn quantity(
    places: &Places<'_>,
    key: &str,
    quantity: file::Quantity,
    sensors: &[Sensor],
) -> Result<QuantityConfig, SettingsError> {
    let ids = channels(places, key, &quantity.sensors, sensors)?;
    let (kind, labels) = kind(places, key, &quantity)?;
    let (accuracy_absolute, accuracy_relative) = accuracy(places, key, &quantity)?
        .or_else(|| sources::accuracy(kind, &quantity.unit, &ids, sensors))
        .unwrap_or((None, 0.0));
    let period_ms = quantity.period_ms.map_or(PERIOD_MS, Spanned::into_inner);
    let defaults = vote::VoterConfig::new(ids.len());
    let config = QuantityConfig {
        id: quantity.id.get_ref().clone(),
        unit: quantity.unit,
        kind,
        labels,
        sensors: ids,
        period_ms,
        timeout_ms: quantity.timeout_ms.map_or(
            period_ms.saturating_mul(TIMEOUT_PERIODS),
            Spanned::into_inner,
        ),
        lead_ms: quantity
            .lead_ms
            .map_or((period_ms / 2).min(LEAD_MS_MAX), Spanned::into_inner),
        accuracy_absolute,
        accuracy_relative,
        sources_min: quantity.min_sources.map_or(1, Spanned::into_inner),
        fail_count: quantity
            .fail_count
            .map_or(defaults.fail_count, Spanned::into_inner),
        clear_count: quantity
            .clear_count
            .map_or(defaults.clear_count, Spanned::into_inner),
        on_split: match quantity.on_split {
            file::OnSplit::Weighted => vote::OnSplit::Weighted,
            file::OnSplit::Hold => vote::OnSplit::Hold,
            file::OnSplit::High => vote::OnSplit::High,
            file::OnSplit::Low => vote::OnSplit::Low,
        },
        on_quorum_loss: match quantity.on_quorum_loss {
            file::OnQuorumLoss::Hold => vote::OnQuorumLoss::Hold,
            file::OnQuorumLoss::Bad => vote::OnQuorumLoss::Bad,
            file::OnQuorumLoss::Model => vote::OnQuorumLoss::Model,
        },
        hold_age_ms_max: quantity
            .hold_max_age_ms
            .unwrap_or(period_ms.saturating_mul(TIMEOUT_PERIODS)),
    };
    // The core's own check, said where the quantity stands.
    check_alone(sensors, &config).map_err(|error| {
        let inside = error
            .key
            .strip_prefix("quantities[0]")
            .map(|rest| format!("{key}{rest}"));
        let key = inside.unwrap_or(error.key);
        let place = places
            .origins
            .place_of(&key)
            .unwrap_or(quantity.id.span().start);
        places
            .source
            .error(places.origins, place, &key, error.message)
    })?;
    Ok(config)
}

/// The accuracy that a quantity gives.
fn accuracy(
    places: &Places<'_>,
    key: &str,
    quantity: &file::Quantity,
) -> Result<Option<(Option<f64>, f64)>, SettingsError> {
    let accuracy = quantity.accuracy.as_ref().map(|text| {
        values::accuracy(&text.get_ref().text())
            .map_err(|message| places.wrong(text, &format!("{key}.accuracy"), message))
    });
    accuracy.transpose()
}

/// How a quantity is voted, and what its codes mean; a key that its kind does not have is refused.
fn kind(
    places: &Places<'_>,
    key: &str,
    quantity: &file::Quantity,
) -> Result<(vote::Kind, Vec<String>), SettingsError> {
    let kind = quantity
        .kind
        .as_ref()
        .map_or(file::Kind::Scalar, |kind| *kind.get_ref());
    if let Some(circle) = quantity
        .circle
        .as_ref()
        .filter(|_| kind != file::Kind::Circular)
    {
        let message = "expected only with kind = \"circular\"";
        return Err(places.wrong(circle, &format!("{key}.circle"), message));
    }
    if let Some(labels) = quantity
        .labels
        .as_ref()
        .filter(|_| kind != file::Kind::Enumeration)
    {
        let message = "expected only with kind = \"enumeration\"";
        return Err(places.wrong(labels, &format!("{key}.labels"), message));
    }
    match (kind, &quantity.kind) {
        (file::Kind::Circular, _) => {
            let [low, high] = quantity
                .circle
                .as_ref()
                .map_or(FULL_TURN, |circle| *circle.get_ref());
            Ok((vote::Kind::Circular { low, high }, Vec::new()))
        }
        (file::Kind::Boolean, _) => Ok((vote::Kind::Codes(2), Vec::new())),
        (file::Kind::Enumeration, Some(place)) => {
            let labels = quantity.labels.as_ref().ok_or_else(|| {
                let message =
                    "expected the words for the codes 0, 1, 2 ..., as in [\"closed\", \"open\"]";
                places.wrong(place, &format!("{key}.labels"), message)
            })?;
            let codes = u32::try_from(labels.get_ref().len()).unwrap_or(u32::MAX);
            Ok((vote::Kind::Codes(codes), labels.get_ref().clone()))
        }
        _ => Ok((vote::Kind::Scalar, Vec::new())),
    }
}

/// The core's check of one quantity with its own sensors: with all of them, a thousand quantities would take seconds.
fn check_alone(sensors: &[Sensor], quantity: &QuantityConfig) -> Result<(), ConfigError> {
    let mut own: Vec<SensorId> = quantity.sensors.clone();
    own.sort_unstable();
    own.dedup();
    let position = |id: &SensorId| {
        own.iter()
            .position(|other| other == id)
            .and_then(|at| u16::try_from(at).ok())
    };
    let renumbered = quantity
        .sensors
        .iter()
        .filter_map(position)
        .map(SensorId)
        .collect();
    let own: Vec<Sensor> = own
        .iter()
        .filter_map(|id| sensors.get(id.index()).cloned())
        .collect();
    let quantity = QuantityConfig {
        sensors: renumbered,
        ..quantity.clone()
    };
    Config {
        quantities: vec![quantity],
        ..bare(&own)
    }
    .validate()
}

fn bare(sensors: &[Sensor]) -> Config {
    let sensor = |sensor: &Sensor| SensorConfig {
        id: sensor.id.clone(),
        range: sensor.range,
        device: sensor.device.clone(),
    };
    Config {
        device: "device".into(),
        status_codes: false,
        sensors: sensors.iter().map(sensor).collect(),
        quantities: Vec::new(),
        models: Vec::new(),
        outbox: OutboxConfig::default(),
        link: None,
        vitals: VitalsConfig::default(),
        guard: GuardConfig::default(),
    }
}

impl Settings {
    /// The core's configuration without the models, whose manifests are not known yet.
    pub(super) fn bare_config(&self) -> Config {
        Config {
            device: self.device.clone(),
            status_codes: self.status_codes,
            quantities: self.quantities.clone(),
            outbox: self
                .mqtt
                .as_ref()
                .map_or_else(OutboxConfig::default, |mqtt| mqtt.outbox.clone()),
            link: self.mqtt.as_ref().map(|mqtt| mqtt.link),
            guard: guard::guard(&self.sensors, &self.buses),
            ..bare(&self.sensors)
        }
    }
}
