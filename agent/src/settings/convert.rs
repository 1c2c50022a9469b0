//! From the file to the settings, and from the settings to the core's configuration.
//!
//! Owns: defaults, and the relations between keys. Must not: read anything from outside.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use quorate_core::{
    config::{
        Config, LinkConfig, ModelConfig, ModelInput, OutboxConfig, QuantityConfig, SensorConfig,
        VitalsConfig,
    },
    units::{QuantityId, SensorId},
    vote,
};
use quorate_firmware_bridge::{
    hwmon::HwmonConfig,
    iio::IioConfig,
    simulated::{SimulatedConfig, SimulatedFault, SimulatedFaultKind},
    tmp102::Tmp102Config,
};
use toml::Spanned;

use super::{
    Bus, Http, Model, ModelFacts, Mqtt, Outbox, Sensor, Settings, SettingsError, Source, file,
    file::Origins, values,
};
use crate::mqtt;

/// Where the endpoint listens unless it is told otherwise.
const LISTEN: &str = "127.0.0.1:8870";
/// Size of the outbox unless it is told otherwise, in bytes.
const SIZE_BYTES_MAX: u64 = 64 << 20;
/// Smallest outbox that makes sense with sled's own overhead, in bytes.
const SIZE_BYTES_MIN: u64 = 4 << 20;
/// Period of a quantity unless it is told otherwise, in milliseconds.
const PERIOD_MS: u64 = 1_000;
/// A reading counts for this many periods unless it is told otherwise.
const TIMEOUT_PERIODS: u64 = 10;
/// Sensors are polled this long before the vote unless it is told otherwise, in milliseconds, but at most half a period.
const LEAD_MS_MAX: u64 = 200;

/// Where a faulty key stands.
struct Places<'a> {
    source: file::Source<'a>,
    origins: &'a Origins,
}

impl Places<'_> {
    fn wrong<T>(&self, at: &Spanned<T>, key: &str, message: impl Into<String>) -> SettingsError {
        self.source
            .error(self.origins, at.span().start, key, message)
    }
}

pub(super) fn settings(
    source: file::Source<'_>,
    origins: &Origins,
    file: file::File,
) -> Result<Settings, SettingsError> {
    let places = &Places { source, origins };
    let buses = buses(places, &file.buses)?;
    let sensors = sensors(places, file.sensors, &buses)?;
    let quantities = quantities(places, file.quantities, &sensors)?;
    let models = models(places, file.models, &quantities)?;
    let device = file.device.id.get_ref().clone();
    let settings = Settings {
        name: source.name.into(),
        outbox: file
            .outbox
            .map(|outbox| self::outbox(places, outbox))
            .transpose()?,
        mqtt: file
            .mqtt
            .map(|mqtt| self::mqtt(places, &device, mqtt))
            .transpose()?,
        http: http(places, &file.http)?,
        device,
        buses,
        sensors,
        quantities,
        models,
    };
    // What the core refuses has no place of its own in the file: the key and the file must do.
    settings
        .bare_config()
        .validate()
        .map_err(|error| SettingsError {
            place: source.name.into(),
            key: error.key,
            message: error.message,
        })?;
    Ok(settings)
}

fn buses(places: &Places<'_>, buses: &[file::Bus]) -> Result<Vec<Bus>, SettingsError> {
    let mut known: Vec<Bus> = Vec::new();
    for (index, bus) in buses.iter().enumerate() {
        let key = format!("buses[{index}]");
        let kind = bus.kind.get_ref();
        if kind != "i2c" {
            let message = format!(
                "bus kind `{kind}` is not built yet; expected `i2c` (hwmon and iio need no bus)"
            );
            return Err(places.wrong(&bus.kind, &format!("{key}.kind"), message));
        }
        let id = bus.id.get_ref();
        if known.iter().any(|other| other.id == *id) {
            return Err(places.wrong(
                &bus.id,
                &format!("{key}.id"),
                format!("`{id}` is used twice"),
            ));
        }
        known.push(Bus {
            id: id.clone(),
            path: PathBuf::from(&bus.path),
        });
    }
    Ok(known)
}

fn sensors(
    places: &Places<'_>,
    sensors: Vec<file::Sensor>,
    buses: &[Bus],
) -> Result<Vec<Sensor>, SettingsError> {
    let mut known: Vec<Sensor> = Vec::new();
    for (index, sensor) in sensors.into_iter().enumerate() {
        let key = format!("sensors[{index}]");
        let id = sensor.id.get_ref().clone();
        if known.iter().any(|other| other.id == id) {
            return Err(places.wrong(
                &sensor.id,
                &format!("{key}.id"),
                format!("`{id}` is used twice"),
            ));
        }
        let range = sensor
            .range
            .as_ref()
            .map(|range| (range.get_ref()[0], range.get_ref()[1]));
        if let Some((low, high)) = range
            && !(low.is_finite() && high.is_finite() && low < high)
        {
            let at = sensor.range.as_ref().expect("it was just read");
            let message =
                format!("expected two finite numbers, the lower first, found [{low}, {high}]");
            return Err(places.wrong(at, &format!("{key}.range"), message));
        }
        let refuse = |part: &str, message: String| {
            places.wrong(&sensor.source, &format!("{key}.source{part}"), message)
        };
        let source = source(sensor.source.get_ref(), buses)
            .map_err(|(part, message)| refuse(&part, message))?;
        known.push(Sensor { id, source, range });
    }
    Ok(known)
}

fn source(source: &file::SensorSource, buses: &[Bus]) -> Result<Source, (String, String)> {
    let whole = |message: String| (String::new(), message);
    match source {
        file::SensorSource::Replay {} => Ok(Source::Replay),
        file::SensorSource::Simulated {
            base,
            amplitude,
            period,
            noise,
            offset,
            seed,
            fault,
            fault_from,
            fault_until,
        } => {
            let fault = match fault {
                None => None,
                Some(kind) => {
                    let kind: SimulatedFaultKind = kind
                        .parse()
                        .map_err(|error| (".fault".to_owned(), format!("{error}")))?;
                    Some(SimulatedFault {
                        from_sample: *fault_from,
                        until_sample: *fault_until,
                        ..SimulatedFault::new(kind)
                    })
                }
            };
            let config = SimulatedConfig {
                seed: *seed,
                base: *base,
                amplitude: *amplitude,
                period_samples: *period,
                noise_sigma: *noise,
                offset: *offset,
                fault,
            };
            config
                .validate()
                .map_err(|error| whole(error.to_string()))?;
            Ok(Source::Simulated(config))
        }
        file::SensorSource::Hwmon { chip, input, path } => {
            let config = match (chip, input, path) {
                (Some(chip), Some(input), None) => HwmonConfig::chip(chip, input),
                (None, None, Some(path)) => HwmonConfig::path(path),
                _ => {
                    return Err(whole(
                        "expected either `chip` and `input`, or `path`".into(),
                    ));
                }
            };
            config
                .validate()
                .map_err(|error| whole(error.to_string()))?;
            Ok(Source::Hwmon(config))
        }
        file::SensorSource::Iio {
            name,
            channel,
            device,
        } => {
            let mut config = IioConfig::new(name, channel);
            config.device.clone_from(device);
            config
                .validate()
                .map_err(|error| whole(error.to_string()))?;
            Ok(Source::Iio(config))
        }
        file::SensorSource::Tmp102 { bus, address } => {
            if !buses.iter().any(|known| known.id == *bus) {
                let known: Vec<_> = buses.iter().map(|bus| bus.id.as_str()).collect();
                return Err((
                    ".bus".into(),
                    format!("no bus `{bus}`; expected one of [{}]", known.join(", ")),
                ));
            }
            let config = Tmp102Config { address: *address };
            config
                .validate()
                .map_err(|error| (".address".into(), error.to_string()))?;
            Ok(Source::Tmp102 {
                bus: bus.clone(),
                config,
            })
        }
    }
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

fn quantity(
    places: &Places<'_>,
    key: &str,
    quantity: file::Quantity,
    sensors: &[Sensor],
) -> Result<QuantityConfig, SettingsError> {
    let mut ids = Vec::new();
    for (index, name) in quantity.sensors.iter().enumerate() {
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
    let accuracy = quantity.accuracy.as_ref().map(|text| {
        values::accuracy(text.get_ref())
            .map_err(|message| places.wrong(text, &format!("{key}.accuracy"), message))
    });
    let (accuracy_absolute, accuracy_relative) = accuracy.transpose()?.unwrap_or((None, 0.0));
    let period_ms = quantity.period_ms.map_or(PERIOD_MS, Spanned::into_inner);
    let config = QuantityConfig {
        id: quantity.id.get_ref().clone(),
        unit: quantity.unit,
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
        fail_count: quantity.fail_count.map_or(3, Spanned::into_inner),
        clear_count: quantity.clear_count.map_or(30, Spanned::into_inner),
        on_split: match quantity.on_split {
            file::OnSplit::Weighted => vote::OnSplit::Weighted,
            file::OnSplit::Hold => vote::OnSplit::Hold,
            file::OnSplit::High => vote::OnSplit::High,
            file::OnSplit::Low => vote::OnSplit::Low,
        },
        on_quorum_loss: match quantity.on_quorum_loss {
            file::OnQuorumLoss::Hold => vote::OnQuorumLoss::Hold,
            file::OnQuorumLoss::Bad => vote::OnQuorumLoss::Bad,
        },
        hold_age_ms_max: quantity
            .hold_max_age_ms
            .unwrap_or(period_ms.saturating_mul(TIMEOUT_PERIODS)),
    };
    // The core's own check, said where the quantity stands.
    let alone = Config {
        quantities: vec![config.clone()],
        ..bare(sensors)
    };
    alone.validate().map_err(|error| {
        let inside = error
            .key
            .strip_prefix("quantities[0]")
            .map(|rest| format!("{key}{rest}"));
        places.wrong(&quantity.id, &inside.unwrap_or(error.key), error.message)
    })?;
    Ok(config)
}

fn models(
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
        });
    }
    Ok(known)
}

fn outbox(places: &Places<'_>, outbox: file::Outbox) -> Result<Outbox, SettingsError> {
    let size = outbox.size_max.as_ref().map(|text| {
        let key = "outbox.size_max";
        let bytes = values::size_bytes(text.get_ref())
            .map_err(|message| places.wrong(text, key, message))?;
        if bytes < SIZE_BYTES_MIN {
            return Err(places.wrong(
                text,
                key,
                format!("expected at least 4 MiB, found `{}`", text.get_ref()),
            ));
        }
        Ok(bytes)
    });
    if let Some(most) = &outbox.commit_records_max
        && !(1..=65_536).contains(most.get_ref())
    {
        return Err(places.wrong(most, "outbox.commit_records_max", "expected 1 to 65536"));
    }
    Ok(Outbox {
        path: PathBuf::from(outbox.path),
        size_bytes_max: size.transpose()?.unwrap_or(SIZE_BYTES_MAX),
        commit_interval_ms: outbox.commit_interval_ms.unwrap_or(50),
        commit_records_max: outbox.commit_records_max.map_or(256, Spanned::into_inner),
    })
}

fn mqtt(places: &Places<'_>, device: &str, mqtt: file::Mqtt) -> Result<Mqtt, SettingsError> {
    let url = mqtt::parse_url(mqtt.url.get_ref())
        .map_err(|message| places.wrong(&mqtt.url, "mqtt.url", message))?;
    if !url.tls && !url.is_loopback() && !mqtt.allow_plaintext {
        let message =
            "mqtt:// sends everything in the clear; expected mqtts://, or allow_plaintext = true";
        return Err(places.wrong(&mqtt.url, "mqtt.url", message));
    }
    let topic = mqtt
        .topic
        .as_ref()
        .map_or("quorate/{device}", |topic| topic.get_ref())
        .replace("{device}", device);
    if let Some(at) = &mqtt.topic
        && (topic.is_empty()
            || topic.len() > 1024
            || topic.contains(['+', '#', '\0'])
            || topic.ends_with('/'))
    {
        let message = format!(
            "expected a topic without wildcards and without `/` at its end, found `{topic}`"
        );
        return Err(places.wrong(at, "mqtt.topic", message));
    }
    if let Some(encoding) = &mqtt.encoding
        && encoding.get_ref() != "json"
    {
        let message = format!(
            "encoding `{}` is not built yet; expected `json`",
            encoding.get_ref()
        );
        return Err(places.wrong(encoding, "mqtt.encoding", message));
    }
    let compress = match mqtt
        .compression
        .as_ref()
        .map(|text| (text, text.get_ref().as_str()))
    {
        None | Some((_, "zstd")) => true,
        Some((_, "none")) => false,
        Some((at, other)) => {
            let message = format!("expected `zstd` or `none`, found `{other}`");
            return Err(places.wrong(at, "mqtt.compression", message));
        }
    };
    if let Some(cert) = &mqtt.cert_file
        && mqtt.key_file.is_none()
    {
        return Err(places.wrong(cert, "mqtt.cert_file", "expected mqtt.key_file beside it"));
    }
    if let Some(keep_alive) = &mqtt.keep_alive_s
        && *keep_alive.get_ref() < 5
    {
        return Err(places.wrong(keep_alive, "mqtt.keep_alive_s", "expected 5 to 65535"));
    }
    let (outbox, link) = (outbox_config(&mqtt), link_config(&mqtt));
    Ok(Mqtt {
        client_id: mqtt
            .client_id
            .unwrap_or_else(|| format!("quorate-{device}")),
        url,
        topic,
        username: mqtt.username,
        password_file: mqtt.password_file.map(PathBuf::from),
        ca_file: mqtt.ca_file.map(PathBuf::from),
        cert_file: mqtt.cert_file.map(|file| PathBuf::from(file.into_inner())),
        key_file: mqtt.key_file.map(PathBuf::from),
        keep_alive_s: mqtt.keep_alive_s.map_or(30, Spanned::into_inner),
        compress,
        outbox,
        link,
    })
}

fn outbox_config(mqtt: &file::Mqtt) -> OutboxConfig {
    let default = OutboxConfig::default();
    OutboxConfig {
        batch_records_max: mqtt.batch_records_max.unwrap_or(default.batch_records_max),
        batch_bytes_max: mqtt.batch_bytes_max.unwrap_or(default.batch_bytes_max),
        inflight_batches_max: mqtt
            .inflight_batches_max
            .unwrap_or(default.inflight_batches_max),
        ack_timeout_ms: mqtt.ack_timeout_ms.unwrap_or(default.ack_timeout_ms),
        linger_ms: mqtt.linger_ms.unwrap_or(default.linger_ms),
    }
}

fn link_config(mqtt: &file::Mqtt) -> LinkConfig {
    let default = LinkConfig::default();
    LinkConfig {
        first_retry_ms_max: mqtt
            .first_retry_ms_max
            .unwrap_or(default.first_retry_ms_max),
        backoff_ms_min: mqtt.backoff_ms_min.unwrap_or(default.backoff_ms_min),
        backoff_ms_max: mqtt.backoff_ms_max.unwrap_or(default.backoff_ms_max),
        connect_timeout_ms: mqtt
            .connect_timeout_ms
            .unwrap_or(default.connect_timeout_ms),
    }
}

fn http(places: &Places<'_>, http: &file::Http) -> Result<Http, SettingsError> {
    let text = http
        .listen
        .as_ref()
        .map_or(LISTEN, |listen| listen.get_ref().as_str());
    let refuse = |message: String| match &http.listen {
        Some(at) => places.wrong(at, "http.listen", message),
        None => places
            .source
            .error(places.origins, 0, "http.listen", message),
    };
    let listen: SocketAddr = text.parse().map_err(|_| {
        refuse(format!(
            "expected an address and a port such as `{LISTEN}`, found `{text}`"
        ))
    })?;
    if !listen.ip().is_loopback() && !http.allow_remote {
        return Err(refuse(format!(
            "`{text}` is reachable from other machines; expected a loopback address, or allow_remote = true"
        )));
    }
    Ok(Http { listen })
}

fn bare(sensors: &[Sensor]) -> Config {
    let sensor = |sensor: &Sensor| SensorConfig {
        id: sensor.id.clone(),
        range: sensor.range,
    };
    Config {
        device: "device".into(),
        sensors: sensors.iter().map(sensor).collect(),
        quantities: Vec::new(),
        models: Vec::new(),
        outbox: OutboxConfig::default(),
        link: None,
        vitals: VitalsConfig::default(),
    }
}

impl Settings {
    /// The core's configuration without the models, whose manifests are not known yet.
    fn bare_config(&self) -> Config {
        Config {
            device: self.device.clone(),
            quantities: self.quantities.clone(),
            outbox: self
                .mqtt
                .as_ref()
                .map_or_else(OutboxConfig::default, |mqtt| mqtt.outbox.clone()),
            link: self.mqtt.as_ref().map(|mqtt| mqtt.link),
            ..bare(&self.sensors)
        }
    }
}

pub(super) fn core_config(
    settings: &Settings,
    facts: &[ModelFacts],
) -> Result<Config, SettingsError> {
    let mut config = settings.bare_config();
    let wrong = |key: String, message: String| SettingsError {
        place: settings.name.clone(),
        key,
        message,
    };
    for (index, (model, facts)) in settings.models.iter().zip(facts).enumerate() {
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
            return Err(wrong(format!("{key}.inputs"), message));
        }
        let mut inputs = Vec::new();
        for (position, (name, input)) in model.inputs.iter().zip(&facts.inputs).enumerate() {
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
                return Err(wrong(format!("{key}.inputs[{position}]"), message));
            }
            inputs.push(ModelInput {
                quantity: QuantityId(
                    u16::try_from(quantity).expect("the number of quantities is validated"),
                ),
                mean: input.mean,
                scale: input.scale,
                range: input.range,
            });
        }
        config.models.push(ModelConfig {
            id: model.id.clone(),
            version: facts.version.clone(),
            digest: facts.digest.clone(),
            window: facts.window,
            inputs,
            outputs: facts.outputs.clone(),
            threshold: facts.threshold,
        });
    }
    config
        .validate()
        .map_err(|error| wrong(error.key, error.message))?;
    Ok(config)
}
