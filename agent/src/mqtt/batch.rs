//! From records to the bytes of one message.
//!
//! Owns: the envelope around the records and its compression. Must not: change a record; do I/O. Pure.
//!
//! Invariant: in the JSON form the payload bytes of a record stand in the message exactly as they lie in the outbox, and
//! the CBOR form gives back the same JSON value.

use quorate_core::{
    event::{Standing, StoredRecord},
    units::Epoch,
};

use super::{Compression, Encoding, cbor};

/// A batch of fewer records is sent as text: the gain is small and a person can read it with any client.
const COMPRESS_RECORDS_MIN: usize = 4;
/// zstd's own default; higher levels cost several times the time for a few percent on batches of this size.
const ZSTD_LEVEL: i32 = 3;

/// One message, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The JSON object or the CBOR array, or the zstd frame of either.
    pub payload: Vec<u8>,
    /// MQTT 5 content type: `application/json` or `application/cbor`, with `+zstd` where it is a zstd frame.
    pub content_type: &'static str,
    /// MQTT 5 user properties: device, epoch, first-seq, count and crc32 (eight hexadecimal digits, of the JSON or CBOR
    /// before compression), so that a receiver can check and sort without opening the payload; and `historical` where it
    /// is.
    pub user_properties: Vec<(String, String)>,
}

/// What form a message has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// JSON or CBOR.
    pub encoding: Encoding,
    /// Whether it is compressed.
    pub compression: Compression,
    /// What it says of the records around its own.
    pub standing: Standing,
}

/// Makes the message `{"device":...,"epoch":...,"settled":...,"after":...,"records":[...]}`, or its CBOR form. Where that would be larger (long
/// lists of numbers with few digits), the message is JSON all the same, so that no record is too large because of it.
///
/// Each payload must be one complete JSON object, as the core's encoder makes it.
#[must_use]
pub fn encode(device: &str, epoch: Epoch, records: &[StoredRecord], form: Form) -> Batch {
    let (plain, names) = plain(device, epoch, records, form);
    let first = records.first().map_or(0, |record| record.seq.0);
    let mut user_properties = [
        ("device", device.to_owned()),
        ("epoch", epoch.0.to_string()),
        ("first-seq", first.to_string()),
        ("count", records.len().to_string()),
        ("crc32", format!("{:08x}", crc32fast::hash(&plain))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    if form.standing.historical {
        user_properties.push(("historical".to_owned(), "true".to_owned()));
    }
    let compressed = (form.compression == Compression::Zstd
        && records.len() >= COMPRESS_RECORDS_MIN)
        .then(|| zstd::bulk::compress(&plain, ZSTD_LEVEL).ok())
        .flatten()
        .filter(|compressed| compressed.len() < plain.len());
    match compressed {
        Some(payload) => Batch {
            payload,
            content_type: names.compressed,
            user_properties,
        },
        None => Batch {
            payload: plain,
            content_type: names.plain,
            user_properties,
        },
    }
}

/// The content types of one encoding.
struct Names {
    plain: &'static str,
    compressed: &'static str,
}

/// The message before compression.
fn plain(device: &str, epoch: Epoch, records: &[StoredRecord], form: Form) -> (Vec<u8>, Names) {
    let json = join(device, epoch, records, form.standing);
    let cbor = (form.encoding == Encoding::Cbor)
        .then(|| cbor::from_records(device, epoch, records, form.standing))
        .flatten()
        .filter(|cbor| cbor.len() <= json.len());
    match cbor {
        Some(cbor) => {
            let names = Names {
                plain: "application/cbor",
                compressed: "application/cbor+zstd",
            };
            (cbor, names)
        }
        None => {
            let names = Names {
                plain: "application/json",
                compressed: "application/json+zstd",
            };
            (json, names)
        }
    }
}

/// The envelope, by concatenation.
fn join(device: &str, epoch: Epoch, records: &[StoredRecord], standing: Standing) -> Vec<u8> {
    let head = format!(
        "{{\"device\":{},\"epoch\":{},\"settled\":{},\"after\":{},{}\"records\":[",
        serde_json::Value::from(device),
        epoch.0,
        standing.settled.0,
        standing.after.0,
        if standing.historical {
            "\"historical\":true,"
        } else {
            ""
        }
    );
    let bytes: usize = records
        .iter()
        .map(|record| record.payload.len().saturating_add(1))
        .sum();
    let mut json = Vec::with_capacity(head.len().saturating_add(bytes).saturating_add(2));
    json.extend_from_slice(head.as_bytes());
    for (index, record) in records.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        json.extend_from_slice(&record.payload);
    }
    json.extend_from_slice(b"]}");
    json
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use quorate_core::units::Seq;

    use super::*;

    fn records(count: u64) -> Vec<StoredRecord> {
        (0..count)
            .map(|index| StoredRecord {
                seq: Seq(17 + index),
                payload: format!("{{\"seq\":{},\"body\":{{\"value\":21.5}}}}", 17 + index)
                    .into_bytes()
                    .into(),
            })
            .collect()
    }

    fn form(encoding: Encoding, compression: Compression) -> Form {
        Form {
            encoding,
            compression,
            standing: Standing::default(),
        }
    }

    #[test]
    fn a_backlog_says_so_in_every_form() {
        let make = |encoding, historical| {
            let form = Form {
                encoding,
                compression: Compression::None,
                standing: Standing {
                    historical,
                    ..Standing::default()
                },
            };
            let votes = crate::mqtt::cbor::tests::votes(5);
            encode("press-07", Epoch(3), &votes, form)
        };
        for encoding in [Encoding::Json, Encoding::Cbor] {
            for historical in [false, true] {
                let batch = make(encoding, historical);
                let json = match encoding {
                    Encoding::Json => serde_json::from_slice(&batch.payload).unwrap(),
                    Encoding::Cbor => crate::mqtt::cbor::to_json(&batch.payload).unwrap(),
                };
                assert_eq!(json["historical"] == true, historical);
                assert_eq!(json.get("historical").is_some(), historical);
                assert_eq!(json["records"].as_array().unwrap().len(), 5);
                let property = ("historical".to_owned(), "true".to_owned());
                assert_eq!(batch.user_properties.contains(&property), historical);
            }
        }
    }

    #[test]
    fn the_envelope_is_json_around_the_very_bytes() {
        let batch = encode(
            "press-\"07\"",
            Epoch(3),
            &records(2),
            form(Encoding::Json, Compression::Zstd),
        );
        assert_eq!(
            String::from_utf8(batch.payload).unwrap(),
            r#"{"device":"press-\"07\"","epoch":3,"settled":0,"after":0,"records":[{"seq":17,"body":{"value":21.5}},{"seq":18,"body":{"value":21.5}}]}"#
        );
        assert_eq!(batch.content_type, "application/json");
    }

    #[test]
    fn four_records_are_compressed_and_three_are_not() {
        let plain = encode(
            "a",
            Epoch(1),
            &records(3),
            form(Encoding::Json, Compression::Zstd),
        );
        assert_eq!(plain.content_type, "application/json");
        let packed = encode(
            "a",
            Epoch(1),
            &records(4),
            form(Encoding::Json, Compression::Zstd),
        );
        let text = encode(
            "a",
            Epoch(1),
            &records(4),
            form(Encoding::Json, Compression::None),
        );
        assert_eq!(packed.content_type, "application/json+zstd");
        assert_eq!(text.content_type, "application/json");
        assert!(packed.payload.len() < text.payload.len());
        assert_eq!(
            zstd::bulk::decompress(&packed.payload, 4096).unwrap(),
            text.payload
        );
        assert_eq!(packed.user_properties, text.user_properties);
    }

    #[test]
    fn the_properties_describe_the_uncompressed_json() {
        let batch = encode(
            "press-07",
            Epoch(3),
            &records(4),
            form(Encoding::Json, Compression::None),
        );
        let property = |name: &str| {
            batch
                .user_properties
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
                .unwrap()
        };
        assert_eq!(property("device"), "press-07");
        assert_eq!(property("epoch"), "3");
        assert_eq!(property("first-seq"), "17");
        assert_eq!(property("count"), "4");
        assert_eq!(
            property("crc32"),
            format!("{:08x}", crc32fast::hash(&batch.payload))
        );
    }

    /// Bytes per record of 100 votes as a device makes them; docs/mqtt.md quotes these figures.
    #[test]
    fn cbor_is_smaller_than_json_and_says_what_it_is() {
        let votes = crate::mqtt::cbor::tests::votes(100);
        let size = |encoding, compression, content_type| {
            let batch = encode("press-07", Epoch(3), &votes, form(encoding, compression));
            assert_eq!(batch.content_type, content_type);
            let bytes = u32::try_from(batch.payload.len()).unwrap();
            let per_record = f64::from(bytes) / 100.0;
            eprintln!("{content_type}: {per_record:.1} bytes per record");
            per_record
        };
        let (zstd, none) = (Compression::Zstd, Compression::None);
        let json = size(Encoding::Json, none, "application/json");
        let json_zstd = size(Encoding::Json, zstd, "application/json+zstd");
        let cbor = size(Encoding::Cbor, none, "application/cbor");
        let cbor_zstd = size(Encoding::Cbor, zstd, "application/cbor+zstd");
        assert!(cbor < 0.4 * json, "{cbor} against {json}");
        assert!(
            cbor_zstd < 0.7 * json_zstd,
            "{cbor_zstd} against {json_zstd}"
        );
    }

    #[test]
    fn cbor_that_would_be_larger_is_sent_as_json() {
        let numbers = "0.1,".repeat(100);
        let payload = format!("{{\"a\":[{numbers}0.1]}}").into_bytes().into();
        let record = StoredRecord {
            seq: Seq(1),
            payload,
        };
        let batch = encode(
            "a",
            Epoch(1),
            &[record],
            form(Encoding::Cbor, Compression::None),
        );
        assert_eq!(batch.content_type, "application/json");
        assert_eq!(batch.payload.first(), Some(&b'{'));
    }

    #[test]
    fn what_does_not_shrink_is_sent_as_it_is() {
        // Digits of a generator: no repetition for zstd to find beyond the entropy of a digit.
        let mut state = 1_u64;
        let mut bytes = Vec::new();
        for _ in 0..200 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            bytes.extend_from_slice(&state.to_be_bytes());
        }
        let noise: Vec<StoredRecord> = bytes
            .chunks(400)
            .map(|chunk| StoredRecord {
                seq: Seq(1),
                payload: chunk.to_vec().into(),
            })
            .collect();
        assert_eq!(noise.len(), 4);
        let batch = encode(
            "a",
            Epoch(1),
            &noise,
            form(Encoding::Json, Compression::Zstd),
        );
        assert_eq!(batch.content_type, "application/json");
    }
}
