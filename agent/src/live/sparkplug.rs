//! Sparkplug B 3.0: an edge node with one metric for each value.
//!
//! Owns: topics and payloads of that view, and what the specification asks of their order. Must not: send anything. Pure.
//!
//! Sparkplug sends data with quality of service 0, so this is a view and never the record. What happens without a
//! connection is kept, the newest [`HISTORY_MAX`] values, and follows the next birth marked `is_historical`.
//!
//! Invariants: NBIRTH comes first on a connection and carries every metric; its `bdSeq` is that of the will of the same
//! connection; `seq` counts 0 to 255 from the birth on. Nothing is dated before the clock is believed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use prost::Message as _;
use serde_json::Value;

use super::{Kinds, Outgoing, Shape, Sight};

/// Values that are kept without a connection.
pub const HISTORY_MAX: usize = 1_000;
/// Values in one message after a birth.
const HISTORY_BATCH: usize = 100;
/// Largest command in bytes that is read.
const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// The metric with which a host asks for a new birth.
const REBIRTH: &str = "Node Control/Rebirth";
/// Sparkplug B data types.
const UINT64: u32 = 8;
/// Sparkplug B data types.
const DOUBLE: u32 = 10;
/// Sparkplug B data types.
const BOOLEAN: u32 = 11;
/// Sparkplug B data types, of properties.
const INT32: u32 = 3;

/// `org.eclipse.tahu.protobuf.Payload`, as far as this node uses it; numbers as in the specification.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Payload {
    /// Milliseconds since 1970.
    #[prost(uint64, optional, tag = "1")]
    pub timestamp: Option<u64>,
    /// The metrics.
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
    /// 0 to 255.
    #[prost(uint64, optional, tag = "3")]
    pub seq: Option<u64>,
}

/// One metric.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metric {
    /// Its name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Milliseconds since 1970.
    #[prost(uint64, optional, tag = "3")]
    pub timestamp: Option<u64>,
    /// Its type.
    #[prost(uint32, optional, tag = "4")]
    pub datatype: Option<u32>,
    /// It is not the newest.
    #[prost(bool, optional, tag = "5")]
    pub is_historical: Option<bool>,
    /// There is no value.
    #[prost(bool, optional, tag = "7")]
    pub is_null: Option<bool>,
    /// `Quality`, as the specification numbers it.
    #[prost(message, optional, tag = "9")]
    pub properties: Option<PropertySet>,
    /// Its value.
    #[prost(oneof = "MetricValue", tags = "11, 13, 14")]
    pub value: Option<MetricValue>,
}

/// The values that this node has.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum MetricValue {
    /// A count.
    #[prost(uint64, tag = "11")]
    Long(u64),
    /// A number.
    #[prost(double, tag = "13")]
    Double(f64),
    /// A truth value.
    #[prost(bool, tag = "14")]
    Boolean(bool),
}

/// Properties of a metric.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PropertySet {
    /// Names.
    #[prost(string, repeated, tag = "1")]
    pub keys: Vec<String>,
    /// Values, in the same order.
    #[prost(message, repeated, tag = "2")]
    pub values: Vec<PropertyValue>,
}

/// One property.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PropertyValue {
    /// Its type.
    #[prost(uint32, optional, tag = "1")]
    pub datatype: Option<u32>,
    /// Its value.
    #[prost(uint32, optional, tag = "3")]
    pub int_value: Option<u32>,
}

/// The view.
#[derive(Debug)]
pub struct View {
    group: String,
    shape: Arc<Shape>,
    /// The newest of each metric, in the order of their names.
    metrics: BTreeMap<String, Metric>,
    history: VecDeque<Metric>,
    time_ms: Option<u64>,
    /// Of the next connection.
    birth: u8,
    /// Of the will of this connection.
    will: u8,
    seq: u8,
    up: bool,
    born: bool,
}

impl View {
    pub(super) fn new(group: &str, shape: &Arc<Shape>) -> Self {
        let mut metrics = BTreeMap::new();
        let mut declare = |name: String, datatype: u32| {
            metrics.insert(name.clone(), metric(name, datatype, None, None));
        };
        for quantity in &shape.quantities {
            let datatype = if quantity.boolean { BOOLEAN } else { DOUBLE };
            declare(quantity.id.clone(), datatype);
            declare(format!("{}/uncertainty", quantity.id), DOUBLE);
        }
        for model in &shape.models {
            for output in &model.outputs {
                declare(format!("{}/{output}", model.id), DOUBLE);
            }
            declare(format!("{}/alarm", model.id), BOOLEAN);
        }
        Self {
            group: group.to_owned(),
            shape: Arc::clone(shape),
            metrics,
            history: VecDeque::new(),
            time_ms: None,
            birth: 0,
            will: 0,
            seq: 0,
            up: false,
            born: false,
        }
    }

    fn topic(&self, kind: &str) -> String {
        format!("spBv1.0/{}/{kind}/{}", self.group, self.shape.device)
    }

    /// Where a host sends commands.
    pub(super) fn command_topic(&self) -> String {
        self.topic("NCMD")
    }

    /// NDEATH of the next connection.
    pub(super) fn will(&mut self) -> Outgoing {
        self.will = self.birth;
        self.birth = self.birth.wrapping_add(1);
        let payload = Payload {
            timestamp: None,
            metrics: vec![self.birth_number()],
            seq: None,
        };
        Outgoing {
            topic: self.topic("NDEATH"),
            payload: payload.encode_to_vec(),
            retained: false,
        }
    }

    fn birth_number(&self) -> Metric {
        let value = MetricValue::Long(self.will.into());
        metric("bdSeq".to_owned(), UINT64, self.time_ms, Some(value))
    }

    /// The connection is up; the birth waits for the first moment that can be dated.
    pub(super) fn connected(&mut self) -> Vec<Outgoing> {
        self.up = true;
        self.give_birth()
    }

    pub(super) fn disconnected(&mut self) {
        self.up = false;
        self.born = false;
    }

    fn give_birth(&mut self) -> Vec<Outgoing> {
        if !self.up || self.time_ms.is_none() {
            return Vec::new();
        }
        self.born = true;
        self.seq = 0;
        let rebirth = metric(
            REBIRTH.to_owned(),
            BOOLEAN,
            self.time_ms,
            Some(MetricValue::Boolean(false)),
        );
        let mut metrics = vec![self.birth_number(), rebirth];
        // Every metric of a birth is dated; one without a value is dated now.
        metrics.extend(self.metrics.values().cloned().map(|metric| Metric {
            timestamp: metric.timestamp.or(self.time_ms),
            ..metric
        }));
        let mut messages = vec![self.message("NBIRTH", metrics)];
        while !self.history.is_empty() {
            let most = self.history.len().min(HISTORY_BATCH);
            let metrics = self.history.drain(..most).collect();
            messages.push(self.message("NDATA", metrics));
        }
        messages
    }

    fn message(&mut self, kind: &str, metrics: Vec<Metric>) -> Outgoing {
        let payload = Payload {
            timestamp: self.time_ms,
            metrics,
            seq: Some(self.seq.into()),
        };
        self.seq = self.seq.wrapping_add(1);
        Outgoing {
            topic: self.topic(kind),
            payload: payload.encode_to_vec(),
            retained: false,
        }
    }

    /// A record: data at once, or kept for the next birth.
    pub(super) fn see(&mut self, sight: &Sight) -> Vec<Outgoing> {
        let Some(time_ms) = sight.time_ms else {
            return Vec::new();
        };
        self.time_ms = self.time_ms.max(Some(time_ms));
        let changed: Vec<Metric> = values(sight)
            .into_iter()
            .filter_map(|(name, value, quality)| {
                let known = self.metrics.get_mut(&name)?;
                let value = match (known.datatype, value) {
                    (Some(BOOLEAN), Some(MetricValue::Double(number))) => {
                        Some(MetricValue::Boolean(number != 0.0))
                    }
                    (_, value) => value,
                };
                *known = metric(name, known.datatype.unwrap_or(DOUBLE), Some(time_ms), value);
                known.properties = Some(quality_property(quality));
                Some(known.clone())
            })
            .collect();
        if !self.up {
            for metric in changed {
                if self.history.len() >= HISTORY_MAX {
                    self.history.pop_front();
                }
                self.history.push_back(Metric {
                    is_historical: Some(true),
                    ..metric
                });
            }
            return Vec::new();
        }
        if !self.born {
            return self.give_birth();
        }
        if changed.is_empty() {
            return Vec::new();
        }
        vec![self.message("NDATA", changed)]
    }

    /// A command of a host: the one that this node knows asks for a new birth.
    pub(super) fn command(&mut self, payload: &[u8]) -> Vec<Outgoing> {
        if payload.len() > COMMAND_BYTES_MAX {
            return Vec::new();
        }
        let Ok(command) = Payload::decode(payload) else {
            return Vec::new();
        };
        let asked = command.metrics.iter().any(|metric| {
            metric.name.as_deref() == Some(REBIRTH)
                && metric.value == Some(MetricValue::Boolean(true))
        });
        if asked { self.give_birth() } else { Vec::new() }
    }
}

fn metric(
    name: String,
    datatype: u32,
    timestamp: Option<u64>,
    value: Option<MetricValue>,
) -> Metric {
    Metric {
        name: Some(name),
        timestamp,
        datatype: Some(datatype),
        is_historical: None,
        is_null: value.is_none().then_some(true),
        properties: None,
        value,
    }
}

/// `Quality` of the specification: 192 good, 500 stale, 0 bad.
fn quality_property(quality: Option<&str>) -> PropertySet {
    let number = match quality {
        Some("good" | "degraded") => 192,
        Some("uncertain") => 500,
        _ => 0,
    };
    PropertySet {
        keys: vec!["Quality".to_owned()],
        values: vec![PropertyValue {
            datatype: Some(INT32),
            int_value: Some(number),
        }],
    }
}

/// The values of a record: name, value and the quality that it rests on.
fn values(sight: &Sight) -> Vec<(String, Option<MetricValue>, Option<&str>)> {
    let body = &sight.body;
    let number = |value: Option<&Value>| value.and_then(Value::as_f64).map(MetricValue::Double);
    let text = |key: &str| body.get(key).and_then(Value::as_str);
    match sight.kind {
        Kinds::Vote => {
            let Some(quantity) = text("quantity") else {
                return Vec::new();
            };
            let quality = text("quality");
            vec![
                (quantity.to_owned(), number(body.get("value")), quality),
                (
                    format!("{quantity}/uncertainty"),
                    number(body.get("uncertainty")),
                    quality,
                ),
            ]
        }
        // What runs beside is no view of the machine.
        Kinds::Inference if body.get("counts").is_some() => Vec::new(),
        Kinds::Inference => {
            let Some(model) = text("model") else {
                return Vec::new();
            };
            let quality = text("inputs_quality");
            let alarm = body
                .get("alarm")
                .and_then(Value::as_bool)
                .map(MetricValue::Boolean);
            let outputs = body.get("outputs").and_then(Value::as_object);
            let outputs = outputs.into_iter().flatten();
            let mut values: Vec<_> = outputs
                .map(|(output, value)| (format!("{model}/{output}"), number(Some(value)), quality))
                .collect();
            values.push((format!("{model}/alarm"), alarm, quality));
            values
        }
    }
}
