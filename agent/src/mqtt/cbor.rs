//! The CBOR form of a batch, from JSON and back.
//!
//! Owns: the layout, which docs/mqtt.md describes for whoever reads it. Must not: do I/O, or change a record. Pure.
//!
//! Layout: `[1, device, epoch, boots, shapes, records]`, with a seventh element `true` where the batch is backlog. What every record repeats stands once: the boots in a table,
//! the names of an object's members in the table of shapes; an object is `{shape: [value, ...]}`. A record as the core
//! makes it is `[seq, boot, mono_ms, time, synced, kind, body]`, the first three numbers and the time as steps from the
//! record before; any other JSON object is written as one, and what is not JSON stands as its bytes.
//!
//! Invariant: [`to_json`] of [`from_records`] is the value of the JSON batch, every number the same 64-bit integer or
//! the same double.

use std::collections::BTreeMap;

use ciborium::Value as Cbor;
use quorate_core::{
    event::{Standing, StoredRecord},
    record::time_text,
    units::Epoch,
};
use serde_json::{Map, Number, Value as Json};

/// Version of the layout, the first element of the batch.
const VERSION: u64 = 1;
/// The first byte of a batch: an array of seven. A JSON batch begins with `{`.
const FIRST_BYTE: u8 = 0x87;

/// Whether bytes begin as a batch in this form does.
#[must_use]
pub fn is_batch(bytes: &[u8]) -> bool {
    bytes.first() == Some(&FIRST_BYTE)
}

/// Deepest nesting that is read. JSON stops at 128, and an object is two levels here.
const DEPTH_MAX: usize = 300;
/// Members of a record that stands as an array.
const MEMBERS: [&str; 7] = ["seq", "boot", "mono_ms", "time", "synced", "kind", "body"];

/// Why bytes are no batch.
#[derive(Debug, thiserror::Error)]
pub enum CborError {
    /// Not CBOR, or nested too deeply.
    #[error("not CBOR: {0}")]
    Syntax(String),
    /// CBOR, but not of this layout.
    #[error("not a batch: {0}")]
    Shape(&'static str),
}

/// The batch in CBOR; nothing where the library cannot write it.
#[must_use]
pub fn from_records(
    device: &str,
    epoch: Epoch,
    records: &[StoredRecord],
    standing: Standing,
) -> Option<Vec<u8>> {
    let mut writer = Writer::default();
    let records: Vec<Cbor> = records.iter().map(|record| writer.record(record)).collect();
    let texts = |texts: Vec<String>| Cbor::Array(texts.into_iter().map(Cbor::Text).collect());
    let shapes = writer.shapes.in_order().into_iter().map(texts).collect();
    let mut about: Vec<(Cbor, Cbor)> = vec![
        ("settled".into(), standing.settled.0.into()),
        ("after".into(), standing.after.0.into()),
    ];
    if standing.historical {
        about.push(("historical".into(), true.into()));
    }
    let batch = Cbor::Array(vec![
        VERSION.into(),
        device.into(),
        epoch.0.into(),
        texts(writer.boots.in_order()),
        Cbor::Array(shapes),
        Cbor::Array(records),
        Cbor::Map(about),
    ]);
    let mut bytes = Vec::new();
    ciborium::into_writer(&batch, &mut bytes).ok()?;
    Some(bytes)
}

/// Things that are written once and then named by their place.
struct Table<T>(BTreeMap<T, u64>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Table<T> {
    fn place(&mut self, item: T) -> u64 {
        let next = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        *self.0.entry(item).or_insert(next)
    }

    fn in_order(self) -> Vec<T> {
        let mut items: Vec<(T, u64)> = self.0.into_iter().collect();
        items.sort_by_key(|(_, place)| *place);
        items.into_iter().map(|(item, _)| item).collect()
    }
}

/// What the steps of a record count from: the record before it that stood as an array.
#[derive(Clone, Copy, Default)]
struct Before {
    seq: i64,
    mono_ms: i64,
    /// Wall time less monotonic time, of the last record that had a time.
    offset_ms: i64,
}

#[derive(Default)]
struct Writer {
    boots: Table<String>,
    shapes: Table<Vec<String>>,
    before: Before,
}

impl Writer {
    fn record(&mut self, record: &StoredRecord) -> Cbor {
        match serde_json::from_slice(&record.payload) {
            Ok(Json::Object(object)) => self.usual(&object).unwrap_or_else(|| self.object(&object)),
            // The core stores objects only. Whatever else this is, a receiver is to see it as it is.
            _ => Cbor::Bytes(record.payload.to_vec()),
        }
    }

    /// A record with exactly the members that the core gives it, each of a kind that can be given back.
    fn usual(&mut self, object: &Map<String, Json>) -> Option<Cbor> {
        if object.len() != MEMBERS.len() {
            return None;
        }
        let seq = object.get("seq")?.as_i64()?;
        let boot = object.get("boot")?.as_str()?;
        let mono_ms = object.get("mono_ms")?.as_i64()?;
        let synced = object.get("synced")?.as_bool()?;
        let kind = object.get("kind")?.as_str()?;
        let body = object.get("body")?;
        let before = self.before;
        let mut after = Before {
            seq,
            mono_ms,
            ..before
        };
        let time = match object.get("time")? {
            Json::Null => Cbor::Null,
            Json::String(text) => {
                let unix_ms = text.parse::<jiff::Timestamp>().ok()?.as_millisecond();
                if time_text(unix_ms) != *text {
                    return None;
                }
                after.offset_ms = unix_ms.checked_sub(mono_ms)?;
                after.offset_ms.checked_sub(before.offset_ms)?.into()
            }
            _ => return None,
        };
        let steps = [
            seq.checked_sub(before.seq)?,
            mono_ms.checked_sub(before.mono_ms)?,
        ];
        self.before = after;
        Some(Cbor::Array(vec![
            steps[0].into(),
            self.boots.place(boot.to_owned()).into(),
            steps[1].into(),
            time,
            synced.into(),
            kind.into(),
            self.value(body),
        ]))
    }

    fn object(&mut self, object: &Map<String, Json>) -> Cbor {
        let shape = self.shapes.place(object.keys().cloned().collect());
        let values = object.values().map(|value| self.value(value)).collect();
        Cbor::Map(vec![(shape.into(), Cbor::Array(values))])
    }

    fn value(&mut self, value: &Json) -> Cbor {
        match value {
            Json::Null => Cbor::Null,
            Json::Bool(value) => (*value).into(),
            Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(whole), _, _) => whole.into(),
                (None, Some(whole), _) => whole.into(),
                (None, None, Some(real)) => real.into(),
                (None, None, None) => Cbor::Null,
            },
            Json::String(text) => text.as_str().into(),
            Json::Array(values) => {
                Cbor::Array(values.iter().map(|value| self.value(value)).collect())
            }
            Json::Object(object) => self.object(object),
        }
    }
}

/// The value of the JSON batch that has the same records.
///
/// # Errors
/// When the bytes are no batch, or a record in it is not JSON.
pub fn to_json(bytes: &[u8]) -> Result<Json, CborError> {
    let batch: Cbor = ciborium::de::from_reader_with_recursion_limit(bytes, DEPTH_MAX)
        .map_err(|error| CborError::Syntax(error.to_string()))?;
    let Some([version, device, epoch, boots, shapes, records, about]) =
        batch.as_array().map(Vec::as_slice)
    else {
        return Err(CborError::Shape("expected an array of seven"));
    };
    if whole(version) != Some(i128::from(VERSION)) {
        return Err(CborError::Shape("a version that is not known"));
    }
    let device = device.as_text();
    let epoch = whole(epoch).and_then(|epoch| u64::try_from(epoch).ok());
    let (Some(device), Some(epoch)) = (device, epoch) else {
        return Err(CborError::Shape("device or epoch of another type"));
    };
    let mut reader = Reader {
        boots: texts(boots).ok_or(CborError::Shape("boots are not texts"))?,
        shapes: shapes
            .as_array()
            .and_then(|shapes| shapes.iter().map(texts).collect())
            .ok_or(CborError::Shape("shapes are not lists of texts"))?,
        before: Before::default(),
    };
    let records = records
        .as_array()
        .ok_or(CborError::Shape("records are not an array"))?
        .iter()
        .map(|record| reader.record(record))
        .collect::<Option<Vec<_>>>()
        .ok_or(CborError::Shape("a record that cannot be read"))?;
    let mut batch = serde_json::json!({"device": device, "epoch": epoch, "records": records});
    let about = about
        .as_map()
        .ok_or(CborError::Shape("a seventh element of another kind"))?;
    for (key, value) in about {
        let value: Json = match (key.as_text(), value) {
            (Some("historical"), Cbor::Bool(true)) => true.into(),
            (Some("settled" | "after"), Cbor::Integer(number)) => u64::try_from(*number)
                .map_err(|_| CborError::Shape("a number of the stream that is none"))?
                .into(),
            _ => {
                return Err(CborError::Shape(
                    "a member of the seventh that is not known",
                ));
            }
        };
        batch[key.as_text().unwrap_or_default()] = value;
    }
    Ok(batch)
}

fn whole(value: &Cbor) -> Option<i128> {
    value.as_integer().map(i128::from)
}

fn texts(value: &Cbor) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Cbor::as_text).collect()
}

struct Reader<'a> {
    boots: Vec<&'a str>,
    shapes: Vec<Vec<&'a str>>,
    before: Before,
}

impl Reader<'_> {
    fn record(&mut self, record: &Cbor) -> Option<Json> {
        match record {
            Cbor::Array(members) => self.usual(members),
            Cbor::Map(_) => self.value(record),
            _ => None,
        }
    }

    fn usual(&mut self, members: &[Cbor]) -> Option<Json> {
        let [seq, boot, mono_ms, time, synced, kind, body] = members else {
            return None;
        };
        let step = |value: &Cbor| whole(value).and_then(|step| i64::try_from(step).ok());
        let before = &mut self.before;
        before.seq = before.seq.checked_add(step(seq)?)?;
        before.mono_ms = before.mono_ms.checked_add(step(mono_ms)?)?;
        let time = if time.is_null() {
            Json::Null
        } else {
            before.offset_ms = before.offset_ms.checked_add(step(time)?)?;
            time_text(before.offset_ms.checked_add(before.mono_ms)?).into()
        };
        let boot = *self.boots.get(usize::try_from(whole(boot)?).ok()?)?;
        let values: [Json; MEMBERS.len()] = [
            before.seq.into(),
            boot.into(),
            before.mono_ms.into(),
            time,
            synced.as_bool()?.into(),
            kind.as_text()?.into(),
            self.value(body)?,
        ];
        let members = MEMBERS.iter().map(|name| (*name).to_owned()).zip(values);
        Some(Json::Object(members.collect()))
    }

    fn value(&self, value: &Cbor) -> Option<Json> {
        Some(match value {
            Cbor::Null => Json::Null,
            Cbor::Bool(value) => (*value).into(),
            Cbor::Integer(number) => {
                let number = i128::from(*number);
                match (u64::try_from(number), i64::try_from(number)) {
                    (Ok(number), _) => number.into(),
                    (Err(_), Ok(number)) => number.into(),
                    (Err(_), Err(_)) => return None,
                }
            }
            Cbor::Float(number) => Json::Number(Number::from_f64(*number)?),
            Cbor::Text(text) => text.as_str().into(),
            Cbor::Array(values) => Json::Array(
                values
                    .iter()
                    .map(|v| self.value(v))
                    .collect::<Option<_>>()?,
            ),
            Cbor::Map(members) => {
                let [(shape, Cbor::Array(values))] = members.as_slice() else {
                    return None;
                };
                let names = self.shapes.get(usize::try_from(whole(shape)?).ok()?)?;
                if names.len() != values.len() {
                    return None;
                }
                let member =
                    |(name, value): (&&str, &Cbor)| Some(((*name).to_owned(), self.value(value)?));
                Json::Object(
                    names
                        .iter()
                        .zip(values)
                        .map(member)
                        .collect::<Option<_>>()?,
                )
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
