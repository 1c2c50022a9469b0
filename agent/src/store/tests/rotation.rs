//! The chain: rotation, draining, bounds.

use std::fs;

use quorate_core::{event::GoneCause, units::Seq};

use super::{
    super::chain::Reader, Finding, OnFull, Options, all, copy, databases, open, record, records,
    reopen, small, verify,
};

#[test]
fn databases_go_whole_as_they_are_drained() {
    let root = tempfile::tempdir().unwrap();
    let options = small(&root.path().join("outbox"));
    let mut opened = open(&options).unwrap();
    let (mut stored, mut drained, mut most) = (0, 0, 0);
    for _ in 0..60 {
        let group = records(stored + 1..=stored + 70);
        opened.outbox.append(&group).unwrap();
        stored += 70;
        let page = opened
            .outbox
            .load(Seq(drained), Seq(u64::MAX), 50, u32::MAX)
            .unwrap();
        assert_eq!(page, records(drained + 1..=drained + 50));
        opened.outbox.forget(page[0].seq, page[49].seq).unwrap();
        drained += 50;
        assert_eq!(opened.outbox.report().pending, stored - drained);
        most = most.max(databases(&options.path).len());
        if drained % 600 == 0 {
            opened.outbox.close().unwrap();
            opened = open(&options).unwrap();
            assert_eq!(opened.findings, []);
        }
    }
    assert!(most > 4, "{most}");
    assert_eq!(all(&opened), records(drained + 1..=stored));
    assert_eq!(opened.outbox.forget(Seq(0), Seq(u64::MAX)).unwrap(), 1_200);
    assert!(databases(&options.path).len() <= 1);
    assert_eq!(opened.outbox.report().pending_bytes, 0);
}

#[test]
fn acknowledgements_out_of_order_leave_exactly_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let options = small(&root.path().join("outbox"));
    let mut opened = open(&options).unwrap();
    for group in records(1..=2_000).chunks(100) {
        opened.outbox.append(group).unwrap();
    }
    let mut random = fastrand::Rng::with_seed(3);
    let mut messages: Vec<u64> = (0..200).collect();
    random.shuffle(&mut messages);
    let mut waiting: Vec<_> = records(1..=2_000);
    for (done, message) in messages.into_iter().enumerate() {
        let (first, last) = (Seq(message * 10 + 1), Seq(message * 10 + 10));
        assert_eq!(opened.outbox.forget(first, last).unwrap(), 10);
        assert_eq!(opened.outbox.forget(first, last).unwrap(), 0);
        waiting.retain(|it| it.seq < first || it.seq > last);
        if done % 40 == 0 {
            assert_eq!(all(&opened), waiting);
            // What a kill leaves knows it too.
            let image = root.path().join(format!("image-{done}"));
            copy(&options.path, &image);
            let other = reopen(&image);
            assert_eq!((other.findings.len(), all(&other) == waiting), (0, true));
            assert_eq!(other.outbox.ends().unwrap(), opened.outbox.ends().unwrap());
        }
    }
    assert_eq!(all(&opened), []);
}

#[test]
fn the_oldest_make_room() {
    let root = tempfile::tempdir().unwrap();
    let options = small(&root.path().join("outbox"));
    let mut opened = open(&options).unwrap();
    for group in records(1..=6_000).chunks(50) {
        opened.outbox.append(group).unwrap();
        let report = opened.outbox.report();
        assert!(report.disk_bytes <= options.size_bytes_max, "{report:?}");
    }
    let report = opened.outbox.report();
    assert!(report.pending > 1_500, "{report:?}");
    let gone = opened.outbox.take_gone();
    assert!(gone.iter().all(|gone| gone.cause == GoneCause::Full));
    assert_eq!(
        gone.iter().map(|gone| gone.count).sum::<u64>() + report.pending,
        6_000
    );
    let kept = 6_001 - report.pending;
    assert_eq!(gone.last().unwrap().last, Seq(kept - 1));
    assert_eq!(all(&opened), records(kept..=6_000));
}

#[test]
fn what_made_room_is_named_again_after_a_kill_until_the_receiver_knows() {
    let root = tempfile::tempdir().unwrap();
    let options = small(&root.path().join("outbox"));
    let mut opened = open(&options).unwrap();
    let mut seq = 0;
    let gone = loop {
        opened.outbox.append(&records(seq + 1..=seq + 50)).unwrap();
        seq += 50;
        let gone = opened.outbox.take_gone();
        if !gone.is_empty() {
            break gone;
        }
    };
    let findings = |name: &str| {
        copy(&options.path, &root.path().join(name));
        let opened = reopen(&root.path().join(name));
        let gone = opened.findings.iter().filter_map(|finding| match finding {
            Finding::Gone(gone) => Some(gone.cause),
            _ => None,
        });
        let causes: Vec<_> = gone.collect();
        assert!(causes.iter().all(|cause| *cause == GoneCause::Full));
        causes.len()
    };
    assert_eq!((gone.len(), findings("at-once")), (1, 1));
    for _ in 0..10 {
        opened.outbox.append(&records(seq + 1..=seq + 1)).unwrap();
        seq += 1;
    }
    assert_eq!(findings("still"), 1);
    let (first, last) = (gone[0].first, gone[0].last);
    opened.outbox.acknowledge_loss(first, last, GoneCause::Full);
    assert_eq!(findings("known"), 0);
}

#[test]
fn a_refused_record_is_given_up_by_name() {
    let root = tempfile::tempdir().unwrap();
    let options = small(&root.path().join("outbox"));
    let mut opened = open(&options).unwrap();
    opened.outbox.append(&records(1..=9)).unwrap();
    opened.outbox.discard(Seq(4), Seq(4));
    let gone = opened.outbox.take_gone();
    let told: Vec<_> = gone
        .iter()
        .map(|it| (it.first, it.count, it.cause))
        .collect();
    assert_eq!(told, [(Seq(4), 1, GoneCause::Refused)]);
    assert_eq!(all(&opened).len(), 8);
    opened.outbox.discard(Seq(4), Seq(4));
    assert_eq!(opened.outbox.take_gone(), [], "only once");
    opened
        .outbox
        .acknowledge_loss(Seq(4), Seq(4), GoneCause::Refused);
    opened.outbox.close().unwrap();
    let again = open(&options).unwrap();
    assert_eq!((all(&again).len(), again.findings), (8, vec![]));
}

#[test]
fn a_full_store_can_refuse_and_goes_on_when_it_is_drained() {
    let root = tempfile::tempdir().unwrap();
    let options = Options {
        on_full: OnFull::RejectNew,
        ..small(&root.path().join("outbox"))
    };
    let mut opened = open(&options).unwrap();
    let mut stored = 0;
    let fault = loop {
        match opened.outbox.append(&records(stored + 1..=stored + 50)) {
            Ok(()) => stored += 50,
            Err(fault) => break fault,
        }
    };
    assert_eq!((fault.cause, stored > 1_500), ("full", true));
    assert_eq!(all(&opened), records(1..=stored));
    opened.outbox.forget(Seq(1), Seq(1_000)).unwrap();
    opened
        .outbox
        .append(&records(stored + 1..=stored + 50))
        .unwrap();
    assert_eq!(all(&opened), records(1_001..=stored + 50));
    assert_eq!(opened.outbox.take_gone(), []);
}

#[test]
fn what_is_retained_can_be_replayed_and_recalled_until_its_space_is_needed() {
    let root = tempfile::tempdir().unwrap();
    let options = Options {
        retain_acked: true,
        ..small(&root.path().join("outbox"))
    };
    let mut opened = open(&options).unwrap();
    for group in records(1..=1_000).chunks(50) {
        opened.outbox.append(group).unwrap();
    }
    assert_eq!(opened.outbox.forget(Seq(1), Seq(1_000)).unwrap(), 1_000);
    opened.outbox.close().unwrap();
    let mut opened = open(&options).unwrap();
    assert_eq!((all(&opened).len(), opened.findings.len()), (0, 0));
    let range = (Seq(300), Seq(310));
    let again = opened.outbox.replay(opened.epoch, range, 99, u32::MAX);
    assert_eq!(again.unwrap(), records(301..=310));
    let other = quorate_core::units::Epoch(opened.epoch.0 + 1);
    assert_eq!(opened.outbox.replay(other, range, 99, 999).unwrap(), []);
    assert_eq!(opened.outbox.recall(Seq(301), Seq(310)), 10);
    assert_eq!(opened.outbox.recall(Seq(301), Seq(310)), 0);
    assert_eq!(all(&opened), records(301..=310));
    assert_eq!(opened.outbox.forget(Seq(301), Seq(310)).unwrap(), 10);
    for group in records(1_001..=6_000).chunks(50) {
        opened.outbox.append(group).unwrap();
        let (first, last) = (group[0].seq, group[49].seq);
        assert_eq!(opened.outbox.forget(first, last).unwrap(), 50);
        assert!(opened.outbox.report().disk_bytes <= options.size_bytes_max);
    }
    assert_eq!(opened.outbox.take_gone(), []);
    let left = opened
        .outbox
        .replay(opened.epoch, (Seq(0), Seq(1_000)), 9_999, u32::MAX);
    assert_eq!(left.unwrap(), []);
    let range = (Seq(5_000), Seq(6_000));
    let left = opened.outbox.replay(opened.epoch, range, 9_999, u32::MAX);
    assert_eq!(left.unwrap(), records(5_001..=6_000));
}

#[test]
fn a_record_that_came_after_its_range_was_loaded_is_not_forgotten_with_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    let mut opened = reopen(&path);
    opened.outbox.append(&records(1..=5)).unwrap();
    opened.outbox.append(&records(8..=12)).unwrap();
    let page = opened.outbox.load(Seq(0), Seq(12), 8, u32::MAX).unwrap();
    assert_eq!(page.last().unwrap().seq, Seq(10));
    opened.outbox.append(&records(6..=7)).unwrap();
    assert_eq!(opened.outbox.forget(Seq(1), Seq(10)).unwrap(), 8);
    let rest = [records(6..=7), records(11..=12)].concat();
    assert_eq!(all(&opened), rest);
    copy(&path, &root.path().join("image"));
    assert_eq!(all(&reopen(&root.path().join("image"))), rest);
    assert_eq!(opened.outbox.forget(Seq(1), Seq(10)).unwrap(), 2);
    assert_eq!(all(&opened), records(11..=12));
}

#[test]
fn records_that_come_late_or_twice_are_shown_once_and_in_order() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    let mut opened = reopen(&path);
    for group in [30..=40, 10..=20, 35..=45, 21..=29, 1..=5] {
        opened.outbox.append(&records(group)).unwrap();
    }
    let expected = [records(1..=5), records(10..=45)].concat();
    assert_eq!(all(&opened), expected);
    assert_eq!(
        opened.outbox.load(Seq(3), Seq(99), 4, u32::MAX).unwrap(),
        [record(4), record(5), record(10), record(11)]
    );
    assert_eq!(opened.outbox.report().pending, 41);
    copy(&path, &root.path().join("image"));
    let image = reopen(&root.path().join("image"));
    assert_eq!((all(&image), image.findings.len()), (expected, 0));
}

#[test]
fn a_batch_that_failed_and_was_written_again_is_there_once() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    let mut opened = reopen(&path);
    opened.outbox.append(&records(1..=10)).unwrap();
    // What a failed fsync leaves: the records may be in the file, and are not counted.
    let batch = records(11..=20);
    let head = opened.outbox.head.as_mut().unwrap();
    head.commit(&batch.iter().collect::<Vec<_>>(), None)
        .unwrap();
    head.seqs.remove(11, 20);
    opened.outbox.seal_head();
    let failed = databases(&path).remove(0);
    opened.outbox.append(&batch).unwrap();
    assert_eq!(all(&opened), records(1..=20));
    for without_seal in [false, true] {
        let image = root.path().join(format!("image-{without_seal}"));
        copy(&path, &image);
        if without_seal {
            fs::remove_file(image.join(failed.file_name().unwrap()).join("sealed")).unwrap();
        }
        let opened = reopen(&image);
        assert_eq!(opened.outbox.report().pending, 20);
        assert_eq!((all(&opened), opened.findings.len()), (records(1..=20), 0));
    }
}

#[test]
fn a_head_that_sled_does_not_show_is_read_from_its_file() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    let mut opened = reopen(&path);
    opened.outbox.append(&records(1..=300)).unwrap();
    opened.outbox.head.as_mut().unwrap().lose_an_entry();
    assert_eq!(all(&opened), records(1..=300));
    opened.outbox.append(&records(301..=310)).unwrap();
    assert_eq!(databases(&path).len(), 2);
    assert_eq!(all(&opened), records(1..=310));
    assert_eq!(opened.outbox.take_gone(), []);
}

#[test]
fn large_records_are_kept_and_one_too_large_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    let mut opened = reopen(&path);
    let mut large = records(1..=9);
    for (record, bytes) in
        large
            .iter_mut()
            .zip([1, 60_000, 200_000, 300_000, 1 << 20, 4 << 20, 5, 0, 70_000])
    {
        record.payload = vec![7; bytes].into();
    }
    opened.outbox.append(&large).unwrap();
    assert_eq!(all(&opened), large);
    let mut too_large = record(10);
    too_large.payload = vec![7; (4 << 20) + 1].into();
    let fault = opened.outbox.append(&[too_large]).unwrap_err();
    assert_eq!(fault.cause, "too-large");
    opened.outbox.append(&records(10..=10)).unwrap();
    copy(&path, &root.path().join("image"));
    let image = reopen(&root.path().join("image"));
    let expected = [large, records(10..=10)].concat();
    assert_eq!((all(&image), image.findings.len()), (expected, 0));
    drop(image);
    // What lies in place of the folder of large records hides none of them silently.
    let cut = root.path().join("image");
    let database = databases(&cut).remove(0);
    fs::remove_dir_all(database.join("blobs")).unwrap();
    fs::write(database.join("blobs"), b"no folder").unwrap();
    fs::remove_file(database.join("sealed")).unwrap_or_default();
    let opened = reopen(&cut);
    let named = opened.findings.iter().filter_map(|finding| match finding {
        Finding::Gone(gone) => Some(gone.count),
        _ => None,
    });
    let held = u64::try_from(all(&opened).len()).unwrap();
    assert!(held >= 7 && named.sum::<u64>() + held == 10, "{held}");
}

#[test]
fn verification_counts_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let options = small(&root.path().join("outbox"));
    let mut opened = open(&options).unwrap();
    for group in records(1..=1_000).chunks(50) {
        opened.outbox.append(group).unwrap();
    }
    opened.outbox.forget(Seq(1), Seq(400)).unwrap();
    let verified = verify(&options.path).unwrap();
    assert!(verified.is_intact(), "{verified:?}");
    assert_eq!((verified.pending, verified.seq_next), (600, Seq(1_001)));
    let open_ones = verified.databases.iter().filter(|it| !it.sealed).count();
    assert_eq!((open_ones, verified.epoch), (1, Some(opened.epoch.0)));
    opened.outbox.close().unwrap();
    let last = databases(&options.path).pop().unwrap();
    fs::write(last.join("db"), "nothing").unwrap();
    let verified = verify(&options.path).unwrap();
    let damaged = &verified.databases.last().unwrap().damaged;
    assert_eq!((damaged, damaged.len()), (&verified.missing, 1));
    assert!(verify(root.path()).is_err());
}

/// What reading complete databases rests on: sled's file always shows everything that was committed.
#[test]
fn the_raw_file_shows_every_commit_whatever_its_size() {
    let root = tempfile::tempdir().unwrap();
    for (batch, count) in [
        (1, 1_500),
        (3, 1_500),
        (16, 3_000),
        (100, 4_000),
        (700, 7_000),
    ] {
        let path = root.path().join(format!("outbox-{batch}"));
        let mut opened = reopen(&path);
        for (at, group) in records(1..=count).chunks(batch).enumerate() {
            opened.outbox.append(group).unwrap();
            if at % (1_500 / batch / 12 + 1) == 0 {
                let head = opened.outbox.head.as_ref().unwrap();
                let shown = Reader::open(&head.path, head.name).unwrap().seqs();
                assert_eq!(shown, head.seqs, "commits of {batch}");
            }
        }
        opened.outbox.close().unwrap();
        assert_eq!(all(&reopen(&path)), records(1..=count));
    }
}

#[test]
fn many_restarts_leave_few_databases() {
    let root = tempfile::tempdir().unwrap();
    let options = small(&root.path().join("outbox"));
    for seq in 1..=60 {
        let mut opened = open(&options).unwrap();
        assert_eq!(
            (opened.findings.as_slice(), opened.seq_next),
            (&[][..], Seq(seq))
        );
        opened.outbox.append(&records(seq..=seq)).unwrap();
        assert!(databases(&options.path).len() <= 17);
        opened.outbox.forget(Seq(seq / 2), Seq(seq / 2)).unwrap();
        if seq % 2 == 0 {
            opened.outbox.close().unwrap();
        }
    }
    let opened = open(&options).unwrap();
    assert_eq!(all(&opened), records(31..=60));
    assert_eq!(opened.outbox.report().pending, 30);
}
