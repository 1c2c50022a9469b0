//! The store against what may lie on the medium.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use quorate_core::{
    event::{Event, GoneCause, StoredRecord},
    units::Seq,
};

use super::{Command, Finding, Opened, Options, StoreError, open, spawn};

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
fn an_image_of_a_power_cut_opens_without_findings() {
    let root = tempfile::tempdir().unwrap();
    let image = cut_off(root.path());
    fs::write(image.join("snap.00000000000000FF.generating"), b"half").unwrap();
    let opened = reopen(&image);
    assert_eq!(
        (opened.findings.as_slice(), opened.seq_next),
        ([].as_slice(), Seq(2_001))
    );
    assert_eq!(all(&opened), records(1..=2_000));
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
fn a_database_that_is_text_is_set_aside_and_the_sequence_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let image = cut_off(root.path());
    let epoch = reopen(&root.path().join("live")).epoch;
    fs::write(image.join("db"), "not a database\n".repeat(900)).unwrap();
    let mut opened = reopen(&image);
    assert!(
        opened
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::Gone(_))),
        "{:?}",
        opened.findings
    );
    assert!(opened.seq_next > Seq(2_000) && opened.epoch == epoch);
    let next = opened.seq_next.0;
    opened.outbox.append(&records(next..=next)).unwrap();
    assert_eq!(all(&opened), records(next..=next));
}

#[test]
fn a_side_file_that_is_gone_begins_a_new_epoch_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let image = cut_off(root.path());
    let epoch = reopen(&root.path().join("live")).epoch;
    fs::remove_file(image.join("meta")).unwrap();
    let opened = reopen(&image);
    assert!(opened.epoch != epoch && opened.seq_next == Seq(2_001));
    assert_eq!(all(&opened), records(1..=2_000));
}

#[test]
fn a_truncated_database_keeps_what_is_left() {
    let root = tempfile::tempdir().unwrap();
    let image = cut_off(root.path());
    let database = fs::File::options()
        .write(true)
        .open(image.join("db"))
        .unwrap();
    database.set_len(300_000).unwrap();
    let opened = reopen(&image);
    let kept = all(&opened);
    assert!(
        kept.len() > 300 && kept.iter().all(|it| *it == record(it.seq.0)),
        "{}",
        kept.len()
    );
    assert!(
        opened
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::Gone(_))),
        "{:?}",
        opened.findings
    );
    assert!(opened.seq_next > Seq(2_000));
}

#[test]
fn one_flipped_bit_anywhere_loses_next_to_nothing_and_is_told() {
    let root = tempfile::tempdir().unwrap();
    let image = cut_off(root.path());
    let mut random = fastrand::Rng::with_seed(7);
    let length = fs::metadata(image.join("db")).unwrap().len();
    for place in 0..60 {
        let path = root.path().join(format!("place-{place}"));
        copy(&image, &path);
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(path.join("db"))
            .unwrap();
        let (offset, mut byte) = (random.u64(..length), [0]);
        file.read_exact_at(&mut byte, offset).unwrap();
        byte[0] ^= 1 << random.u8(..8);
        file.write_all_at(&byte, offset).unwrap();
        let opened = reopen(&path);
        let kept: BTreeSet<u64> = all(&opened).iter().map(|it| it.seq.0).collect();
        assert!(
            kept.len() >= 1_998,
            "offset {offset}: {} {:?}",
            kept.len(),
            opened.findings
        );
        assert!(
            kept.len() == 2_000 || opened.findings.iter().any(|it| it.event().is_some()),
            "offset {offset}"
        );
        assert!(opened.seq_next > Seq(2_000), "offset {offset}");
        drop(opened);
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn the_oldest_make_room() {
    let root = tempfile::tempdir().unwrap();
    let size_bytes_max = 30_000;
    let mut opened = open(&Options {
        size_bytes_max,
        ..Options::at(&root.path().join("outbox"))
    })
    .unwrap();
    for group in records(1..=500).chunks(20) {
        opened.outbox.append(group).unwrap();
    }
    let report = opened.outbox.report();
    assert!(
        report.pending_bytes <= size_bytes_max && report.pending > 80,
        "{report:?}"
    );
    let gone = opened.outbox.take_gone();
    assert!(gone.iter().all(|gone| gone.cause == GoneCause::Full));
    assert_eq!(
        gone.iter().map(|gone| gone.count).sum::<u64>() + report.pending,
        500
    );
    assert_eq!(all(&opened).last(), Some(&record(500)));
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
