//! Live views beside the lossless stream: Home Assistant and Sparkplug B.
//!
//! Owns: what both views have in common, and the way from the loop to them. Must not: be relied upon for delivery.
//!
//! Invariant: a view is fed copies, with quality of service 0, over a connection of its own; whatever becomes of it, no
//! record waits for it. A value without a believed clock is not dated: Sparkplug does not see it, Home Assistant needs no
//! time.

pub mod home_assistant;
pub mod sparkplug;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use quorate_core::{config::Config, vote::Kind};
use serde_json::{Map, Value};

/// Records that may wait for the views; more are dropped, because a live view wants the newest and not all.
pub const SIGHTS_MAX: usize = 1_024;

/// Which views there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Discovery prefix of Home Assistant.
    pub home_assistant: Option<String>,
    /// Group of Sparkplug B.
    pub sparkplug_group: Option<String>,
}

/// What the views need to know of the device before its first record.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Its name.
    pub device: String,
    /// Base of its topics.
    pub topic: String,
    /// What is voted.
    pub quantities: Vec<Quantity>,
    /// What is inferred.
    pub models: Vec<Model>,
}

/// One voted quantity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// Its name.
    pub id: String,
    /// Its unit, as configured.
    pub unit: String,
    /// Whether its values are 0 and 1.
    pub boolean: bool,
    /// Time between two votes in milliseconds.
    pub period_ms: u64,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Its outputs.
    pub outputs: Vec<String>,
}

impl Shape {
    /// From the configuration of the core.
    #[must_use]
    pub fn new(config: &Config, topic: &str) -> Self {
        let quantity = |quantity: &quorate_core::config::QuantityConfig| Quantity {
            id: quantity.id.clone(),
            unit: quantity.unit.clone(),
            boolean: quantity.labels.is_empty() && matches!(quantity.kind, Kind::Codes { .. }),
            period_ms: quantity.period_ms,
        };
        let model = |model: &quorate_core::config::ModelConfig| Model {
            id: model.id.clone(),
            outputs: model.outputs.clone(),
        };
        Self {
            device: config.device.clone(),
            topic: topic.to_owned(),
            quantities: config.quantities.iter().map(quantity).collect(),
            models: config.models.iter().map(model).collect(),
        }
    }
}

/// One record as a view sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// When, in milliseconds since 1970; `None` while the clock is not believed.
    pub time_ms: Option<u64>,
    /// What it is.
    pub kind: Kinds,
    /// Its body.
    pub body: Map<String, Value>,
}

/// The kinds that a view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// A vote.
    Vote,
    /// An inference.
    Inference,
}

impl Sight {
    /// Reads a record of the outbox; `None` for what no view shows.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        let mut record: Map<String, Value> = serde_json::from_slice(payload).ok()?;
        let kind = match record.get("kind")?.as_str()? {
            "vote" => Kinds::Vote,
            "inference" => Kinds::Inference,
            _ => return None,
        };
        let time = record.get("time").and_then(Value::as_str);
        let time_ms = time
            .and_then(|time| time.parse::<jiff::Timestamp>().ok())
            .and_then(|time| u64::try_from(time.as_millisecond()).ok());
        let Some(Value::Object(body)) = record.remove("body") else {
            return None;
        };
        Some(Self {
            time_ms,
            kind,
            body,
        })
    }
}

/// A message for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it, with quality of service 1; else 0.
    pub retained: bool,
}

/// All views of one connection.
#[derive(Debug)]
pub struct Views {
    home_assistant: Option<home_assistant::View>,
    sparkplug: Option<sparkplug::View>,
}

impl Views {
    /// The views that are asked for.
    #[must_use]
    pub fn new(options: &Options, shape: &Shape) -> Self {
        let shape = Arc::new(shape.clone());
        let home_assistant = options.home_assistant.as_ref();
        let sparkplug = options.sparkplug_group.as_ref();
        Self {
            home_assistant: home_assistant.map(|prefix| home_assistant::View::new(prefix, &shape)),
            sparkplug: sparkplug.map(|group| sparkplug::View::new(group, &shape)),
        }
    }

    /// What the broker says for us when the next connection breaks; asked once for each connection.
    pub fn will(&mut self) -> Option<Outgoing> {
        self.sparkplug.as_mut().map(sparkplug::View::will)
    }

    /// What to subscribe to.
    #[must_use]
    pub fn filter(&self) -> Option<String> {
        self.sparkplug.as_ref().map(sparkplug::View::command_topic)
    }

    /// The connection is up: what has to be said first.
    pub fn connected(&mut self) -> Vec<Outgoing> {
        let mut messages = Vec::new();
        if let Some(view) = &self.home_assistant {
            messages.extend(view.discovery());
        }
        if let Some(view) = &mut self.sparkplug {
            messages.extend(view.connected());
        }
        messages
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        if let Some(view) = &mut self.sparkplug {
            view.disconnected();
        }
    }

    /// A record; what has to be said of it. Without a connection Home Assistant's is lost, Sparkplug's is kept for later.
    pub fn see(&mut self, sight: &Sight) -> Vec<Outgoing> {
        let mut messages = Vec::new();
        if let Some(view) = &self.home_assistant {
            messages.extend(view.state(sight));
        }
        if let Some(view) = &mut self.sparkplug {
            messages.extend(view.see(sight));
        }
        messages
    }

    /// A message of the broker.
    pub fn hear(&mut self, topic: &str, payload: &[u8]) -> Vec<Outgoing> {
        match &mut self.sparkplug {
            Some(view) if topic == view.command_topic() => view.command(payload),
            _ => Vec::new(),
        }
    }
}
