//! The store against its contract.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod damage;
mod priorities;
mod rotation;

use std::{
    fs,
    path::{Path, PathBuf},
};

use quorate_core::{
    event::{Event, StoredRecord},
    units::Seq,
};

use super::{Command, Finding, OnFull, Opened, Options, StoreError, open, spawn, value, verify};

fn record(seq: u64) -> StoredRecord {
    let payload = format!("{{\"seq\":{seq},\"body\":\"{:0>180}\"}}", seq);
    StoredRecord {
        seq: Seq(seq),
        payload: payload.into_bytes().into(),
    }
}

fn records(seqs: std::ops::RangeInclusive<u64>) -> Vec<StoredRecord> {
    seqs.map(record).collect()
}

fn reopen(path: &Path) -> Opened {
    open(&Options::at(path)).unwrap()
}

fn all(opened: &Opened) -> Vec<StoredRecord> {
    opened
        .outbox
        .load(Seq(0), Seq(u64::MAX), u32::MAX, u32::MAX)
        .unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The only database of a store.
fn database(store: &Path) -> PathBuf {
    let mut databases = databases(store);
    assert_eq!(databases.len(), 1, "{databases:?}");
    databases.remove(0)
}

fn databases(store: &Path) -> Vec<PathBuf> {
    let mut databases: Vec<_> = fs::read_dir(store)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    databases.sort();
    databases
}

/// A store whose databases take few records: 64 KiB each.
fn small(path: &Path) -> Options {
    Options {
        size_bytes_max: 1 << 20,
        ballast_bytes: 0,
        ..Options::at(path)
    }
}

/// A store of 2,000 records that was never closed: what a power cut after an fsync leaves.
fn cut_off(root: &Path) -> PathBuf {
    let mut opened = reopen(&root.join("live"));
    for group in records(1..=2_000).chunks(100) {
        opened.outbox.append(group).unwrap();
    }
    let image = root.join("image");
    copy(&root.join("live"), &image);
    opened.outbox.close().unwrap();
    image
}

/// What the first layout left behind: one sled database at the path, some of it below the watermark.
fn first_layout(path: &Path, epoch: u64, count: u64, watermark: u64, with_side_file: bool) {
    let database = sled::Config::new().path(path).open().unwrap();
    for record in records(1..=count) {
        let mut value = Vec::new();
        let (kind, epoch) = (value::Kind::Record, quorate_core::units::Epoch(epoch));
        assert!(value::encode(
            kind,
            epoch,
            record.seq,
            &record.payload,
            &mut value
        ));
        let key = [&b"r"[..], &record.seq.0.to_be_bytes()].concat();
        database.insert(key, value).unwrap();
    }
    database.flush().unwrap();
    drop(database);
    let mut bytes = b"QRMmeta\x01".to_vec();
    for word in [0, epoch, 10_000, watermark, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    if with_side_file {
        fs::write(path.join("meta"), bytes).unwrap();
    }
}

#[test]
fn records_come_back_and_are_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    let mut opened = reopen(&path);
    assert_eq!((opened.seq_next, opened.findings.len()), (Seq(1), 0));
    opened.outbox.append(&records(1..=50)).unwrap();
    let epoch = opened.epoch;
    opened.outbox.close().unwrap();
    let mut opened = reopen(&path);
    assert_eq!(
        (opened.epoch, opened.seq_next, opened.findings.len()),
        (epoch, Seq(51), 0)
    );
    assert_eq!(all(&opened), records(1..=50));
    assert_eq!(
        opened.outbox.load(Seq(10), Seq(40), 5, u32::MAX).unwrap(),
        records(11..=15)
    );
    assert_eq!(
        opened.outbox.load(Seq(10), Seq(12), 5, 1).unwrap(),
        records(11..=11)
    );
    assert_eq!(opened.outbox.forget(Seq(1), Seq(50)).unwrap(), 50);
    assert_eq!(opened.outbox.report().pending, 0);
    opened.outbox.close().unwrap();
    let opened = reopen(&path);
    assert_eq!(
        (opened.seq_next, all(&opened).len(), opened.findings.len()),
        (Seq(51), 0, 0)
    );
}

#[test]
fn a_file_at_the_path_is_set_aside() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    fs::write(&path, "notes").unwrap();
    let opened = reopen(&path);
    assert!(matches!(opened.findings[0], Finding::SetAside { .. }));
    assert_eq!(
        fs::read(root.path().join("outbox.damaged-1")).unwrap(),
        b"notes"
    );
}

#[test]
fn a_store_in_use_is_refused_and_stays_where_it_is() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    let mut opened = reopen(&path);
    opened.outbox.append(&records(1..=3)).unwrap();
    assert!(matches!(
        open(&Options::at(&path)),
        Err(StoreError::InUse(_))
    ));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    assert_eq!(all(&opened), records(1..=3));
}

#[test]
fn the_worker_says_stored_for_what_an_image_of_that_moment_holds() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    let options = Options {
        commit_records_max: 64,
        ..Options::at(&path)
    };
    let opened = open(&options).unwrap();
    let (sender, events) = crossbeam_channel::unbounded();
    let (commands, thread) = spawn(opened.outbox, &options, sender);
    for it in records(1..=300) {
        commands.send(Command::Store(it)).unwrap();
    }
    let mut stored = 0;
    while stored < 300 {
        match events
            .recv_timeout(std::time::Duration::from_secs(60))
            .unwrap()
        {
            Event::Stored { first, last } => {
                assert_eq!(first, Seq(stored + 1));
                assert!(last.0 - stored <= 64);
                stored = last.0;
            }
            Event::StoreReport(report) => assert!(report.pending >= stored),
            other => unreachable!("{other:?}"),
        }
    }
    let image = root.path().join("image");
    copy(&path, &image);
    assert_eq!(all(&reopen(&image)), records(1..=300));
    commands
        .send(Command::Load {
            after: Seq(0),
            through: Seq(300),
            records_max: 2,
            bytes_max: 9_999,
        })
        .unwrap();
    commands
        .send(Command::Forget {
            first: Seq(1),
            last: Seq(299),
        })
        .unwrap();
    commands.send(Command::Close).unwrap();
    thread.join().unwrap();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Loaded { records, .. } if records.len() == 2))
    );
    assert_eq!(all(&reopen(&path)), records(300..=300));
}
