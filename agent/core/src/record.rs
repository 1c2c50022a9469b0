//! Records: what the agent made, when, and what it rests on; and their one encoding.
//!
//! Owns: the record in memory and [`encode`], which turns it into the JSON object that is stored and sent.
//! Must not: decide when a record is made, or touch the outbox.
//!
//! Invariant: the encoding of a record is a pure function of the record and the configuration, so `(epoch, seq)` names
//! the same bytes however often they are made.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use serde::Serialize;

use crate::{
    config::{Config, ModelConfig},
    event::StoredRecord,
    model::Role,
    units::{BootId, ModelId, Mono, QuantityId, SensorId, Seq, WallAnchor},
    vote::{Doubt, Quality, Verdict, Vote, codes},
};

/// Wall times before this are no times: 2026-01-01T00:00:00Z, before the first release. A device without a clock
/// battery starts in 1970.
pub const PLAUSIBLE_UNIX_MS_MIN: i64 = 1_767_225_600_000;

/// One record, as it is in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its place in the outbox.
    pub seq: Seq,
    /// When and in which boot it was made.
    pub stamp: Stamp,
    /// What it says.
    pub body: Body,
}

/// When a record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The boot that gives `mono` its meaning.
    pub boot: BootId,
    /// The instant.
    pub mono: Mono,
    /// What the wall clock said last.
    pub wall: Option<WallAnchor>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// One vote of one quantity.
    Vote {
        /// Which quantity.
        quantity: QuantityId,
        /// The vote.
        vote: Vote,
    },
    /// One inference of one model.
    Inference(Inference),
    /// Something changed its state.
    Event(Occurrence),
}

/// One inference and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Inference {
    /// Which model.
    pub model: ModelId,
    /// The file that made it: another may be in its place by the time that the record is encoded.
    pub maker: Arc<ModelConfig>,
    /// The tick that its window ended with.
    pub tick: Mono,
    /// One value per configured output.
    pub outputs: Vec<f32>,
    /// The score is above the threshold, or was and is not below it by the hysteresis.
    pub alarm: bool,
    /// What the file is to the other one.
    pub role: Role,
    /// The alarm is that of the device.
    pub counts: bool,
    /// The model that it stands in for.
    pub fallback_for: Option<ModelId>,
    /// The inputs of which something in the window was made up.
    pub imputed: Vec<QuantityId>,
    /// The worst quality of any vote in the window.
    pub inputs_quality: Quality,
    /// The newest vote of every input.
    pub inputs: Vec<InputSummary>,
}

/// The newest vote of one input of an inference.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSummary {
    /// Which quantity.
    pub quantity: QuantityId,
    /// Its quality.
    pub quality: Quality,
    /// The sensors that were not in it.
    pub excluded: Vec<SensorId>,
}

/// A change of state, or a loss.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occurrence {
    /// What happened, in one kebab-case word.
    pub what: &'static str,
    /// What it happened to.
    pub subject: String,
    /// The state before, where there is one.
    pub from: Option<&'static str>,
    /// The state after, where there is one.
    pub to: Option<&'static str>,
    /// Why, in one kebab-case word.
    pub reason: Option<&'static str>,
    /// What the part said, bounded.
    pub detail: Option<String>,
    /// Range and number of the records concerned.
    pub records: Option<(Seq, Seq, u64)>,
}

/// A channel that is not in a vote, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Excluded<'a> {
    /// Name of the sensor.
    pub sensor: &'a str,
    /// Its state.
    pub state: &'static str,
    /// Why.
    pub reason: Option<&'static str>,
    /// NE 107 status signal, where the codes are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ne107: Option<&'static str>,
}

/// The channels of a quantity that are not in the value.
pub fn excluded<'a>(
    config: &'a Config,
    quantity: QuantityId,
    verdicts: &'a [Verdict],
) -> impl Iterator<Item = Excluded<'a>> + Clone {
    let sensors = &config.quantities[quantity.index()].sensors;
    let out = sensors
        .iter()
        .zip(verdicts)
        .filter(|(_, verdict)| !verdict.included);
    out.map(|(sensor, verdict)| Excluded {
        sensor: &config.sensors[sensor.index()].id,
        state: verdict.state.as_str(),
        reason: verdict.reason.map(crate::vote::Reason::as_str),
        ne107: codes::ne107(*verdict).filter(|_| config.status_codes),
    })
}

impl Body {
    /// The word used in records and batches.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Vote { .. } => "vote",
            Self::Inference(_) => "inference",
            Self::Event(_) => "event",
        }
    }
}

/// The JSON object of a record, as it is stored and sent.
#[must_use]
pub fn encode(config: &Config, record: &Record) -> StoredRecord {
    let body = match &record.body {
        Body::Vote { quantity, vote } => WireBody::Vote(WireVote::new(config, *quantity, vote)),
        Body::Inference(inference) => WireBody::Inference(WireInference::new(config, inference)),
        Body::Event(occurrence) => WireBody::Event(WireEvent::new(occurrence)),
    };
    wrap(record.seq, record.stamp, record.body.kind(), &body)
        .expect("plain structures of strings and numbers always encode")
}

/// The JSON object of a record whose body another program made.
///
/// # Errors
/// `body` is nothing that JSON can hold.
pub fn encode_external(
    seq: Seq,
    stamp: Stamp,
    body: &impl Serialize,
) -> Result<StoredRecord, serde_json::Error> {
    wrap(seq, stamp, "external", body)
}

/// What every record says of itself, around its body.
fn wrap(
    seq: Seq,
    stamp: Stamp,
    kind: &'static str,
    body: &impl Serialize,
) -> Result<StoredRecord, serde_json::Error> {
    let wall = stamp.wall.and_then(|anchor| wall_time(anchor, stamp.mono));
    let wire = WireRecord {
        seq: seq.0,
        boot: format!("{}", stamp.boot),
        mono_ms: stamp.mono.0,
        time: wall.map(time_text),
        synced: wall.is_some() && stamp.wall.is_some_and(|anchor| anchor.synced),
        kind,
        body,
    };
    Ok(StoredRecord {
        seq,
        payload: Arc::from(serde_json::to_vec(&wire)?),
    })
}

/// Wall time of a monotonic instant in milliseconds since 1970, where the clock can be believed.
#[must_use]
pub fn wall_time(anchor: WallAnchor, mono: Mono) -> Option<i64> {
    let forward = i64::try_from(mono.since_ms(anchor.mono)).ok()?;
    let back = i64::try_from(anchor.mono.since_ms(mono)).ok()?;
    let unix_ms = anchor.unix_ms.checked_add(forward)?.checked_sub(back)?;
    (unix_ms >= PLAUSIBLE_UNIX_MS_MIN).then_some(unix_ms)
}

/// RFC 3339 in UTC with milliseconds; empty for a time that no calendar holds.
#[must_use]
pub fn time_text(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

#[derive(Serialize)]
struct WireRecord<'a, B> {
    seq: u64,
    boot: String,
    mono_ms: u64,
    time: Option<String>,
    synced: bool,
    kind: &'static str,
    body: &'a B,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireBody<'a> {
    Vote(WireVote<'a>),
    Inference(WireInference<'a>),
    Event(WireEvent<'a>),
}

#[derive(Serialize)]
struct WireVote<'a> {
    quantity: &'a str,
    unit: &'a str,
    value: Option<f64>,
    uncertainty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    quality: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<u64>,
    used: usize,
    expected: usize,
    sensors: Vec<&'a str>,
    excluded: Vec<Excluded<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ne107: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opc_ua: Option<u32>,
}

impl<'a> WireVote<'a> {
    fn new(config: &'a Config, quantity: QuantityId, vote: &'a Vote) -> Self {
        let settings = &config.quantities[quantity.index()];
        let included = settings
            .sensors
            .iter()
            .zip(&vote.verdicts)
            .filter(|(_, verdict)| verdict.included);
        Self {
            quantity: &settings.id,
            unit: &settings.unit,
            value: vote.value,
            uncertainty: vote.uncertainty,
            label: settings.label(vote.value),
            quality: vote.quality.as_str(),
            doubt: vote.doubt.map(Doubt::as_str),
            held_ms: settings.held_ms(vote),
            used: vote.used,
            expected: settings.sensors.len(),
            sensors: included
                .map(|(sensor, _)| config.sensors[sensor.index()].id.as_str())
                .collect(),
            excluded: excluded(config, quantity, &vote.verdicts).collect(),
            ne107: codes::ne107_of_value(vote.quality).filter(|_| config.status_codes),
            opc_ua: config
                .status_codes
                .then(|| codes::opc_ua(vote.quality, vote.held_ticks.is_some())),
        }
    }
}

#[derive(Serialize)]
struct WireInference<'a> {
    model: &'a str,
    version: &'a str,
    digest: &'a str,
    outputs: Outputs<'a>,
    threshold: Option<f64>,
    alarm: bool,
    inputs_quality: &'static str,
    inputs: Vec<WireInput<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback_for: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    imputed: Vec<&'a str>,
}

#[derive(Serialize)]
struct WireInput<'a> {
    quantity: &'a str,
    quality: &'static str,
    excluded: Vec<&'a str>,
}

impl<'a> WireInference<'a> {
    fn new(config: &'a Config, inference: &'a Inference) -> Self {
        let model = &*inference.maker;
        let quantity = |id: &QuantityId| config.quantities[id.index()].id.as_str();
        let input = |summary: &'a InputSummary| WireInput {
            quantity: &config.quantities[summary.quantity.index()].id,
            quality: summary.quality.as_str(),
            excluded: summary
                .excluded
                .iter()
                .map(|sensor| config.sensors[sensor.index()].id.as_str())
                .collect(),
        };
        Self {
            model: &model.id,
            version: &model.version,
            digest: &model.digest,
            outputs: Outputs {
                names: &model.outputs,
                values: &inference.outputs,
            },
            threshold: model.threshold,
            alarm: inference.alarm,
            inputs_quality: inference.inputs_quality.as_str(),
            inputs: inference.inputs.iter().map(input).collect(),
            role: (inference.role != Role::Active).then(|| inference.role.as_str()),
            counts: (!inference.counts).then_some(false),
            fallback_for: inference
                .fallback_for
                .map(|model| config.models[model.index()].id.as_str()),
            imputed: inference.imputed.iter().map(quantity).collect(),
        }
    }
}

/// The outputs of an inference as a JSON object, name by name.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// Names from the manifest.
    pub names: &'a [String],
    /// Values, in the same order.
    pub values: &'a [f32],
}

impl Serialize for Outputs<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.names.iter().zip(self.values))
    }
}

#[derive(Serialize)]
struct WireEvent<'a> {
    what: &'static str,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl<'a> WireEvent<'a> {
    fn new(occurrence: &'a Occurrence) -> Self {
        Self {
            what: occurrence.what,
            subject: &occurrence.subject,
            from: occurrence.from,
            to: occurrence.to,
            reason: occurrence.reason,
            detail: occurrence.detail.as_deref(),
            first_seq: occurrence.records.map(|(first, _, _)| first.0),
            last_seq: occurrence.records.map(|(_, last, _)| last.0),
            count: occurrence.records.map(|(_, _, count)| count),
        }
    }
}
