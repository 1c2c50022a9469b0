//! Home Assistant: its MQTT discovery, and the states that it then expects.
//!
//! Owns: topics and payloads of that view. Must not: send anything. Pure.
//!
//! Each quantity becomes a sensor, or a binary sensor where it is boolean; each output of a model a sensor and its alarm a
//! binary sensor. Availability follows `<topic>/status`, and a state expires after three periods, so that a stale value is
//! never shown as a live one. Source of the keys: the documentation of Home Assistant's MQTT integration.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Kinds, Outgoing, Quantity, Shape, Sight};

/// A state expires after so many periods without a new one.
const EXPIRE_PERIODS: u64 = 3;
/// But not sooner than this, in seconds.
const EXPIRE_S_MIN: u64 = 10;

/// The view.
#[derive(Debug)]
pub struct View {
    prefix: String,
    shape: Arc<Shape>,
}

impl View {
    pub(super) fn new(prefix: &str, shape: &Arc<Shape>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            shape: Arc::clone(shape),
        }
    }

    /// The retained descriptions of all entities.
    pub(super) fn discovery(&self) -> Vec<Outgoing> {
        let mut messages = Vec::new();
        for quantity in &self.shape.quantities {
            messages.push(self.quantity(quantity));
        }
        let slowest = self
            .shape
            .quantities
            .iter()
            .map(|quantity| quantity.period_ms)
            .max();
        let expire_s = expire_s(slowest.unwrap_or(0));
        for model in &self.shape.models {
            let state = self.state_topic(&model.id);
            for output in &model.outputs {
                let template = format!("{{{{ value_json.outputs['{}'] }}}}", quoted(output));
                let name = format!("{} {output}", model.id);
                let mut entity = self.entity(&name, &state, &template, expire_s);
                entity.insert("state_class".into(), "measurement".into());
                messages.push(self.message("sensor", &format!("{}-{output}", model.id), entity));
            }
            let template = "{{ 'ON' if value_json.alarm else 'OFF' }}";
            let mut entity =
                self.entity(&format!("{} alarm", model.id), &state, template, expire_s);
            entity.insert("device_class".into(), "problem".into());
            messages.push(self.message("binary_sensor", &format!("{}-alarm", model.id), entity));
        }
        messages
    }

    fn quantity(&self, quantity: &Quantity) -> Outgoing {
        let state = self.state_topic(&quantity.id);
        let expire_s = expire_s(quantity.period_ms);
        if quantity.boolean {
            let template =
                "{{ 'ON' if value_json.value == 1 else 'OFF' if value_json.value == 0 else None }}";
            let entity = self.entity(&quantity.id, &state, template, expire_s);
            return self.message("binary_sensor", &quantity.id, entity);
        }
        let mut entity = self.entity(&quantity.id, &state, "{{ value_json.value }}", expire_s);
        entity.insert("state_class".into(), "measurement".into());
        let (unit, class) = unit(&quantity.unit);
        if let Some(unit) = unit {
            entity.insert("unit_of_measurement".into(), unit.into());
        }
        if let Some(class) = class {
            entity.insert("device_class".into(), class.into());
        }
        self.message("sensor", &quantity.id, entity)
    }

    fn entity(&self, name: &str, state: &str, template: &str, expire_s: u64) -> Map<String, Value> {
        let device = &self.shape.device;
        let entity = json!({
            "name": name,
            "state_topic": state,
            "value_template": template,
            "json_attributes_topic": state,
            "expire_after": expire_s,
            "availability": [{
                "topic": format!("{}/status", self.shape.topic),
                "value_template": "{{ value_json.state }}",
                "payload_available": "online",
                "payload_not_available": "offline",
            }],
            "device": {
                "identifiers": [format!("quorate-{device}")],
                "name": device,
                "manufacturer": "Quorate",
                "sw_version": env!("CARGO_PKG_VERSION"),
            },
        });
        match entity {
            Value::Object(entity) => entity,
            _ => Map::new(),
        }
    }

    fn message(&self, component: &str, id: &str, mut entity: Map<String, Value>) -> Outgoing {
        let unique = format!("{}-{}", plain(&self.shape.device), plain(id));
        entity.insert("unique_id".into(), unique.as_str().into());
        Outgoing {
            topic: format!(
                "{}/{component}/{}/{}/config",
                self.prefix,
                plain(&self.shape.device),
                plain(id)
            ),
            payload: Value::Object(entity).to_string().into_bytes(),
            retained: true,
        }
    }

    fn state_topic(&self, id: &str) -> String {
        format!("{}/live/{}", self.shape.topic, plain(id))
    }

    /// The state of what a record is about.
    pub(super) fn state(&self, sight: &Sight) -> Option<Outgoing> {
        let body = &sight.body;
        let (id, state) = match sight.kind {
            Kinds::Vote => {
                let excluded = body.get("excluded").and_then(Value::as_array);
                let excluded: Vec<_> = excluded
                    .into_iter()
                    .flatten()
                    .filter_map(|one| one.get("sensor"))
                    .collect();
                let state = json!({
                    "value": body.get("value"), "uncertainty": body.get("uncertainty"), "quality": body.get("quality"),
                    "used": body.get("used"), "expected": body.get("expected"), "excluded": excluded,
                });
                (body.get("quantity")?.as_str()?, state)
            }
            // What runs beside is no view of the machine.
            Kinds::Inference if body.get("counts").is_some() => return None,
            Kinds::Inference => {
                let state = json!({
                    "outputs": body.get("outputs"), "alarm": body.get("alarm"), "threshold": body.get("threshold"),
                    "version": body.get("version"), "inputs_quality": body.get("inputs_quality"),
                });
                (body.get("model")?.as_str()?, state)
            }
        };
        Some(Outgoing {
            topic: self.state_topic(id),
            payload: state.to_string().into_bytes(),
            retained: false,
        })
    }
}

fn expire_s(period_ms: u64) -> u64 {
    (period_ms.saturating_mul(EXPIRE_PERIODS).div_ceil(1000)).max(EXPIRE_S_MIN)
}

/// Topics of discovery take letters, digits, `_` and `-`. Two names that differ elsewhere alone would meet; the sum keeps
/// them apart.
fn plain(id: &str) -> String {
    let fits =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
    if id.chars().all(fits) {
        return id.to_owned();
    }
    let replaced: String = id
        .chars()
        .map(|character| if fits(character) { character } else { '_' })
        .collect();
    format!("{replaced}_{:08x}", crc32fast::hash(id.as_bytes()))
}

/// A text inside single quotes of a template.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

/// Unit and device class as Home Assistant writes them. A class is given only where the unit leaves no doubt.
fn unit(unit: &str) -> (Option<&str>, Option<&'static str>) {
    match unit {
        "1" | "" => (None, None),
        "celsius" | "Cel" => (Some("°C"), Some("temperature")),
        "fahrenheit" | "[degF]" => (Some("°F"), Some("temperature")),
        "kelvin" | "K" => (Some("K"), Some("temperature")),
        "percent" => (Some("%"), None),
        "Pa" | "hPa" | "kPa" | "bar" | "mbar" => (Some(unit), Some("pressure")),
        "V" | "mV" => (Some(unit), Some("voltage")),
        "A" | "mA" => (Some(unit), Some("current")),
        "W" | "kW" => (Some(unit), Some("power")),
        "Hz" | "kHz" | "MHz" => (Some(unit), Some("frequency")),
        "lx" => (Some(unit), Some("illuminance")),
        "m" | "cm" | "mm" | "km" => (Some(unit), Some("distance")),
        "m/s" | "km/h" => (Some(unit), Some("speed")),
        _ => (Some(unit), None),
    }
}
