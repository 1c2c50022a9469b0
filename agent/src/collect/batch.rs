//! From the payload of one message to the records in it.
//!
//! Owns: what a batch must look like to be taken. Must not: store anything. Pure.
//!
//! Invariant: a batch is taken whole or not at all.

use serde_json::{Map, Value};

use crate::mqtt::ledger::{self, LedgerError};

/// Most records in one batch that is taken.
const RECORDS_MAX: usize = 100_000;
/// Longest name of a device in bytes, twice what an agent accepts.
const DEVICE_BYTES_MAX: usize = 256;

/// Why a payload is not a batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// It cannot be unpacked or read.
    #[error(transparent)]
    Unreadable(#[from] LedgerError),
    /// It can be read and is something else.
    #[error("not a batch: {0}")]
    Shape(&'static str),
}

/// One batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The device.
    pub device: String,
    /// The life of its store.
    pub epoch: u64,
    /// Nothing at or below this number comes again, unless it is asked for.
    pub settled: Option<u64>,
    /// No record stands between this number and the first of the batch.
    pub after: Option<u64>,
    /// In order of `seq`, each once.
    pub records: Vec<Record>,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// The whole record.
    pub fields: Map<String, Value>,
}

/// Reads a payload: JSON or CBOR, or a zstd frame of either.
///
/// # Errors
/// When it is anything else, or larger than the limits.
pub fn read(payload: &[u8]) -> Result<Batch, BatchError> {
    let value = ledger::to_json(payload)?;
    let Value::Object(mut batch) = value else {
        return Err(BatchError::Shape("expected an object"));
    };
    let number = |batch: &Map<String, Value>, key: &str| {
        let value = batch.get(key).and_then(Value::as_u64);
        value.filter(|number| i64::try_from(*number).is_ok())
    };
    let device = match batch.get("device").and_then(Value::as_str) {
        Some(device) if !device.is_empty() && device.len() <= DEVICE_BYTES_MAX => device.to_owned(),
        _ => return Err(BatchError::Shape("device is not a name")),
    };
    let epoch = number(&batch, "epoch").ok_or(BatchError::Shape("epoch is not a whole number"))?;
    let (settled, after) = (number(&batch, "settled"), number(&batch, "after"));
    let Some(Value::Array(records)) = batch.remove("records") else {
        return Err(BatchError::Shape("records is not an array"));
    };
    if records.len() > RECORDS_MAX {
        return Err(BatchError::Shape("too many records"));
    }
    let records = records
        .into_iter()
        .map(record)
        .collect::<Result<Vec<_>, _>>()?;
    if records.windows(2).any(|pair| pair[0].seq >= pair[1].seq) {
        return Err(BatchError::Shape("the records are not in order of seq"));
    }
    Ok(Batch {
        device,
        epoch,
        settled,
        after,
        records,
    })
}

fn record(value: Value) -> Result<Record, BatchError> {
    let Value::Object(fields) = value else {
        return Err(BatchError::Shape("a record is not an object"));
    };
    let seq = fields.get("seq").and_then(Value::as_u64);
    match seq.filter(|seq| i64::try_from(*seq).is_ok()) {
        Some(seq) => Ok(Record { seq, fields }),
        None => Err(BatchError::Shape("a record without seq")),
    }
}
