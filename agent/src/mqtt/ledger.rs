//! What a receiver has got, and whether it may be believed.
//!
//! Owns: the account of records per device and epoch, made from the payloads of `<topic>/data` alone. Must not: ask the
//! sender. Pure.
//!
//! Invariants: (device, epoch, seq) names one payload for ever; a second, different one is a conflict and is counted
//! however it came about. Nothing from outside makes it allocate without bound.

use std::{
    borrow::Cow,
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    io::Read,
    ops::RangeInclusive,
};

use quorate_core::units::{Epoch, Seq};
use serde_json::Value;

use super::cbor::{self, CborError};

/// The first bytes of every zstd frame (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Most bytes of a payload after decompression.
const JSON_BYTES_MAX: u64 = 16 << 20;
/// Most streams (pairs of device and epoch).
const STREAMS_MAX: usize = 1024;
/// Most records in all streams together: about 50 bytes of memory each.
const RECORDS_MAX: u64 = 10_000_000;

/// Why a payload could not be entered; nothing of it is.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The zstd frame is damaged or too large.
    #[error("cannot decompress: {0}")]
    Compression(#[source] std::io::Error),
    /// More than 16 MiB after decompression.
    #[error("more than {JSON_BYTES_MAX} bytes after decompression")]
    TooLarge,
    /// Begins like CBOR and is no batch.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// JSON, but not a batch.
    #[error("not a batch: {0}")]
    Shape(&'static str),
    /// The limits of the ledger are reached.
    #[error("more than {STREAMS_MAX} streams or {RECORDS_MAX} records")]
    Full,
}

/// What one payload held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// Records that were new.
    pub new: u64,
    /// Records that were there before, with the same payload.
    pub repeats: u64,
    /// Records that were there before with another payload.
    pub conflicts: u64,
}

/// The records of one device in one epoch.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// A hash of the payload of every record, by sequence number.
    hashes: BTreeMap<u64, u64>,
    repeats: u64,
    conflicts: u64,
}

impl Stream {
    /// Distinct records.
    #[must_use]
    pub fn records(&self) -> u64 {
        u64::try_from(self.hashes.len()).unwrap_or(u64::MAX)
    }

    /// Records that came again with the same payload.
    #[must_use]
    pub const fn repeats(&self) -> u64 {
        self.repeats
    }

    /// Records that came again with another payload; any of them is an error of the sender.
    #[must_use]
    pub const fn conflicts(&self) -> u64 {
        self.conflicts
    }

    /// Whether the record is there.
    #[must_use]
    pub fn contains(&self, seq: Seq) -> bool {
        self.hashes.contains_key(&seq.0)
    }

    /// The sequence numbers that are there, as ranges in order.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeInclusive<u64>> {
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for seq in self.hashes.keys().copied() {
            match ranges.last_mut() {
                Some(range) if range.end().checked_add(1) == Some(seq) => {
                    *range = *range.start()..=seq;
                }
                _ => ranges.push(seq..=seq),
            }
        }
        ranges
    }

    /// The sequence numbers between the lowest and the highest that are not there, as ranges in order. A sender may
    /// leave numbers out, so a gap is a question and not yet a loss.
    #[must_use]
    pub fn gaps(&self) -> Vec<RangeInclusive<u64>> {
        self.ranges()
            .windows(2)
            .filter_map(|pair| match pair {
                [before, after] => {
                    Some(before.end().saturating_add(1)..=after.start().saturating_sub(1))
                }
                _ => None,
            })
            .collect()
    }

    /// How many sequence numbers all gaps together hold.
    #[must_use]
    pub fn missing(&self) -> u64 {
        match (self.hashes.first_key_value(), self.hashes.last_key_value()) {
            (Some((first, _)), Some((last, _))) => (last - first)
                .saturating_add(1)
                .saturating_sub(self.records()),
            _ => 0,
        }
    }
}

/// The account of all streams.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    streams: BTreeMap<(String, u64), Stream>,
    records: u64,
}

impl Ledger {
    /// Enters the payload of one message, JSON or CBOR or a zstd frame of either.
    ///
    /// # Errors
    /// When it is not a batch or a limit is reached. Records before the one that reached [`LedgerError::Full`] are
    /// entered; otherwise nothing is.
    pub fn enter(&mut self, payload: &[u8]) -> Result<Entered, LedgerError> {
        let batch = to_json(payload)?;
        let device = batch
            .get("device")
            .and_then(Value::as_str)
            .ok_or(LedgerError::Shape("device is not a string"))?;
        let epoch = batch
            .get("epoch")
            .and_then(Value::as_u64)
            .ok_or(LedgerError::Shape("epoch is not a whole number"))?;
        let records = batch
            .get("records")
            .and_then(Value::as_array)
            .ok_or(LedgerError::Shape("records is not an array"))?;
        let numbered = records
            .iter()
            .map(|record| {
                let seq = record.get("seq").and_then(Value::as_u64);
                seq.map(|seq| (seq, hash(record)))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(LedgerError::Shape("a record without seq"))?;
        let key = (device.to_owned(), epoch);
        if !self.streams.contains_key(&key) && self.streams.len() >= STREAMS_MAX {
            return Err(LedgerError::Full);
        }
        let stream = self.streams.entry(key).or_default();
        let mut entered = Entered::default();
        for (seq, hash) in numbered {
            match stream.hashes.get(&seq) {
                Some(known) if *known == hash => entered.repeats += 1,
                Some(_) => entered.conflicts += 1,
                None if self.records >= RECORDS_MAX => return Err(LedgerError::Full),
                None => {
                    stream.hashes.insert(seq, hash);
                    self.records += 1;
                    entered.new += 1;
                }
            }
        }
        stream.repeats += entered.repeats;
        stream.conflicts += entered.conflicts;
        Ok(entered)
    }

    /// One stream.
    #[must_use]
    pub fn stream(&self, device: &str, epoch: Epoch) -> Option<&Stream> {
        self.streams.get(&(device.to_owned(), epoch.0))
    }

    /// Every stream, by device and epoch.
    pub fn streams(&self) -> impl Iterator<Item = (&str, Epoch, &Stream)> {
        self.streams
            .iter()
            .map(|((device, epoch), stream)| (device.as_str(), Epoch(*epoch), stream))
    }

    /// Distinct records of all streams.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Repeats of all streams.
    #[must_use]
    pub fn repeats(&self) -> u64 {
        self.streams.values().map(Stream::repeats).sum()
    }

    /// Conflicts of all streams.
    #[must_use]
    pub fn conflicts(&self) -> u64 {
        self.streams.values().map(Stream::conflicts).sum()
    }
}

/// The JSON or CBOR of a payload: itself, or what its zstd frame holds, at most 16 MiB.
///
/// # Errors
/// When the frame is damaged or holds more.
pub fn unpack(payload: &[u8]) -> Result<Cow<'_, [u8]>, LedgerError> {
    if !payload.starts_with(&ZSTD_MAGIC) {
        return Ok(Cow::Borrowed(payload));
    }
    let decoder = zstd::stream::read::Decoder::new(payload).map_err(LedgerError::Compression)?;
    let mut json = Vec::new();
    decoder
        .take(JSON_BYTES_MAX + 1)
        .read_to_end(&mut json)
        .map_err(LedgerError::Compression)?;
    if u64::try_from(json.len()).unwrap_or(u64::MAX) > JSON_BYTES_MAX {
        return Err(LedgerError::TooLarge);
    }
    Ok(Cow::Owned(json))
}

/// The batch of a payload as JSON, whichever form it has.
///
/// # Errors
/// When it cannot be unpacked or read.
pub fn to_json(payload: &[u8]) -> Result<Value, LedgerError> {
    let plain = unpack(payload)?;
    if cbor::is_batch(&plain) {
        return Ok(cbor::to_json(&plain)?);
    }
    serde_json::from_slice(&plain).map_err(LedgerError::Json)
}

/// A hash of the record's content that does not depend on white space or on the order of keys.
fn hash(record: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use quorate_core::event::Standing;

    use super::*;
    use crate::mqtt::{Compression, Encoding, batch};

    fn message(epoch: u64, records: &[(u64, u64)]) -> Vec<u8> {
        let records: Vec<Value> = records
            .iter()
            .map(|(seq, value)| serde_json::json!({"seq": seq, "body": {"value": value}}))
            .collect();
        serde_json::json!({"device": "a", "epoch": epoch, "records": records})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn a_record_is_the_same_in_either_form() {
        let records = cbor::tests::votes(20);
        let form = |encoding| {
            move |compression| batch::Form {
                encoding,
                compression,
                standing: Standing {
                    historical: encoding == Encoding::Cbor,
                    ..Standing::default()
                },
            }
        };
        let json = |compression| {
            batch::encode("a", Epoch(1), &records, form(Encoding::Json)(compression)).payload
        };
        let cbor = |compression| {
            batch::encode("a", Epoch(1), &records, form(Encoding::Cbor)(compression)).payload
        };
        let mut ledger = Ledger::default();
        let new = ledger.enter(&json(Compression::None)).unwrap();
        assert_eq!((new.new, new.repeats, new.conflicts), (20, 0, 0));
        for again in [cbor(Compression::None), cbor(Compression::Zstd)] {
            let entered = ledger.enter(&again).unwrap();
            assert_eq!(
                (entered.new, entered.repeats, entered.conflicts),
                (0, 20, 0)
            );
        }
        assert!(matches!(ledger.enter(&[0x87]), Err(LedgerError::Cbor(_))));
    }

    #[test]
    fn repeats_gaps_and_conflicts_are_told_apart() {
        let mut ledger = Ledger::default();
        ledger
            .enter(&message(1, &[(5, 0), (6, 0), (9, 0)]))
            .unwrap();
        assert_eq!(
            ledger
                .enter(&message(1, &[(6, 0), (9, 1), (12, 0)]))
                .unwrap(),
            Entered {
                new: 1,
                repeats: 1,
                conflicts: 1
            }
        );
        let stream = ledger.stream("a", Epoch(1)).unwrap();
        assert_eq!(stream.ranges(), [5..=6, 9..=9, 12..=12]);
        assert_eq!(stream.gaps(), [7..=8, 10..=11]);
        assert_eq!(stream.missing(), 4);
        assert_eq!(stream.records(), 4);
        assert!(stream.contains(Seq(9)) && !stream.contains(Seq(7)));
        assert_eq!((ledger.repeats(), ledger.conflicts()), (1, 1));
    }

    #[test]
    fn another_epoch_is_another_stream() {
        let mut ledger = Ledger::default();
        ledger.enter(&message(1, &[(1, 0)])).unwrap();
        ledger.enter(&message(2, &[(1, 7)])).unwrap();
        assert_eq!(ledger.streams().count(), 2);
        assert_eq!((ledger.records(), ledger.conflicts()), (2, 0));
    }

    #[test]
    fn a_compressed_payload_counts_like_a_plain_one() {
        let mut ledger = Ledger::default();
        let plain = message(1, &[(1, 0), (2, 0)]);
        let packed = zstd::bulk::compress(&plain, 3).unwrap();
        assert_eq!(ledger.enter(&packed).unwrap().new, 2);
        assert_eq!(ledger.enter(&plain).unwrap().repeats, 2);
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let mut ledger = Ledger::default();
        let bomb = zstd::bulk::compress(&vec![b' '; (16 << 20) + 1], 3).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(matches!(ledger.enter(&bomb), Err(LedgerError::TooLarge)));
        let mut torn = zstd::bulk::compress(&message(1, &[(1, 0)]), 3).unwrap();
        torn.truncate(12);
        assert!(matches!(
            ledger.enter(&torn),
            Err(LedgerError::Compression(_))
        ));
        assert!(matches!(ledger.enter(b"{"), Err(LedgerError::Json(_))));
        for text in [
            r#"{"epoch":1,"records":[]}"#,
            r#"{"device":"a","epoch":-1,"records":[]}"#,
            r#"{"device":"a","epoch":1}"#,
            r#"{"device":"a","epoch":1,"records":[{"seq":1},{"seq":"2"}]}"#,
        ] {
            assert!(
                matches!(ledger.enter(text.as_bytes()), Err(LedgerError::Shape(_))),
                "{text}"
            );
        }
        assert_eq!(ledger.records(), 0);
    }
}
