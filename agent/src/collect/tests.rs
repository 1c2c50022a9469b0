#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{batch, sink};

fn payload(epoch: u64, after: u64, records: &[(u64, u64)]) -> Vec<u8> {
    let record = |(seq, value): &(u64, u64)| json!({"seq": seq, "boot": "b", "mono_ms": 7, "time": null, "synced": false, "kind": "vote", "body": {"value": value}});
    let records: Vec<Value> = records.iter().map(record).collect();
    json!({"device": "press", "epoch": epoch, "settled": 0, "after": after, "records": records})
        .to_string()
        .into_bytes()
}

fn put(path: &Path, payloads: &[Vec<u8>]) -> (sink::Put, u64) {
    let (mut sink, mut account) = sink::open(path).unwrap();
    let mut sum = sink::Put::default();
    for payload in payloads {
        let batch = batch::read(payload).unwrap();
        let change = account.consider(&batch).unwrap();
        let put = sink.put(&batch, &change, &account).unwrap();
        account.enter(&batch, &change);
        sum.new += put.new;
        sum.repeats += put.repeats;
        sum.conflicts += put.conflicts;
    }
    sink.commit().unwrap();
    let through = account.stream("press", 1).unwrap().through();
    let (_, again) = sink::open(path).unwrap();
    let again = again.stream("press", 1).unwrap().clone();
    let stream = account.stream("press", 1).unwrap();
    assert_eq!(again.through(), through, "as after a restart");
    assert_eq!(
        (again.gaps(), again.absent()),
        (stream.gaps(), stream.absent())
    );
    (sum, through)
}

fn both(check: impl Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    check(&folder.path().join("out.sqlite"));
    check(&folder.path().join("out.jsonl"));
}

#[test]
fn repeats_are_dropped_over_a_restart_and_a_gap_holds_the_watermark() {
    both(|path| {
        let first = [
            payload(1, 0, &[(1, 0), (2, 0)]),
            payload(1, 9, &[(10, 0), (12, 0)]),
        ];
        let (sum, through) = put(path, &first);
        assert_eq!((sum.new, sum.repeats, through), (4, 0, 2));
        let again = [
            payload(1, 0, &[(1, 0), (2, 0), (5, 0)]),
            payload(1, 5, &[(10, 0)]),
        ];
        let (sum, through) = put(path, &again);
        assert_eq!((sum.new, sum.repeats, through), (1, 3, 12));
    });
}

#[test]
fn a_number_with_two_records_keeps_the_first_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.db");
    put(&path, &[payload(1, 0, &[(1, 5)])]);
    let (sum, _) = put(&path, &[payload(1, 0, &[(1, 6)])]);
    assert_eq!((sum.new, sum.conflicts), (0, 1));
    let database = rusqlite::Connection::open(&path).unwrap();
    let body: String = database
        .query_row("SELECT body FROM records", [], |row| row.get(0))
        .unwrap();
    assert_eq!(body, r#"{"value":5}"#);
    let record: String = database
        .query_row("SELECT record FROM conflicts", [], |row| row.get(0))
        .unwrap();
    assert!(record.contains(r#"{"value":6}"#), "{record}");
}

#[test]
fn a_torn_last_line_is_cut_off_and_another_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    put(&path, &[payload(1, 0, &[(1, 0), (2, 0)])]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 7]).unwrap();
    let (sum, through) = put(&path, &[payload(1, 0, &[(1, 0), (2, 0)])]);
    assert_eq!((sum.new, sum.repeats, through), (1, 1, 2));
    assert_eq!(fs::read(&path).unwrap(), whole);
    fs::write(&path, "{\"other\":1}\n").unwrap();
    let error = sink::open(&path).err().unwrap().to_string();
    assert!(error.starts_with("line 1:"), "{error}");
    let database = folder.path().join("other.sqlite");
    fs::write(&database, vec![7_u8; 8192]).unwrap();
    assert!(sink::open(&database).is_err());
}

#[test]
fn the_gap_query_that_is_published_finds_the_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.sqlite");
    put(&path, &[payload(1, 0, &[(1, 0), (4, 0), (5, 0), (9, 0)])]);
    let query = include_str!("../../../docs/consumers/gaps.sql");
    let database = rusqlite::Connection::open(&path).unwrap();
    let mut statement = database.prepare(query).unwrap();
    let range = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(2)?, row.get::<_, i64>(3)?));
    let found: Vec<_> = statement
        .query_map([], range)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(found, [(2, 3), (6, 8)]);
}

#[test]
fn the_published_query_dates_records_of_a_clock_that_was_not_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.sqlite");
    let record = |seq: u64, mono_ms: u64, time: Option<&str>, synced| json!({"seq": seq, "boot": "b", "mono_ms": mono_ms, "time": time, "synced": synced, "kind": "vote", "body": 1});
    let records = [
        record(1, 1_000, None, false),
        record(2, 61_500, Some("2026-11-24T10:00:00.250Z"), true),
        record(3, 62_500, Some("2026-11-24T10:00:01.250Z"), true),
    ];
    let batch =
        json!({"device": "press", "epoch": 1, "settled": 0, "after": 0, "records": records});
    put(&path, &[batch.to_string().into_bytes()]);
    let query = include_str!("../../../docs/consumers/dates.sql");
    let database = rusqlite::Connection::open(&path).unwrap();
    let dated = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(2)?, row.get::<_, String>(3)?));
    let mut statement = database.prepare(query).unwrap();
    let found: Vec<_> = statement
        .query_map([], dated)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(found, [(1, "2026-11-24T09:58:59.750Z".to_owned())]);
}

#[test]
fn what_is_no_batch_is_refused_with_its_reason() {
    let check = |payload: &[u8], part: &str| {
        let error = batch::read(payload).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    check(b"", "not JSON");
    check(b"[]", "expected an object");
    check(br#"{"device":"","epoch":1,"records":[]}"#, "device");
    check(br#"{"device":"a","epoch":-1,"records":[]}"#, "epoch");
    check(
        br#"{"device":"a","epoch":1,"records":[{"seq":2},{"seq":2}]}"#,
        "order",
    );
    check(
        br#"{"device":"a","epoch":1,"records":[{"seq":18446744073709551615}]}"#,
        "without seq",
    );
    check(&[0x86], "");
}

proptest! {
    #[test]
    fn no_payload_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), head in 0..4_usize) {
        let heads: [&[u8]; 4] = [b"", b"{\"device\":\"a\",\"epoch\":1,\"records\":[", &[0x28, 0xB5, 0x2F, 0xFD], &[0x86]];
        let mut payload = heads[head].to_vec();
        payload.extend(bytes);
        let _ = batch::read(&payload);
    }
}
