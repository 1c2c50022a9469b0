//! What goes first when not all can stay: by importance, by age, by thinning.

use std::{cell::RefCell, collections::BTreeMap, fs, path::Path, rc::Rc};

use quorate_core::{
    class::{Class, label},
    event::{GoneCause, StoredRecord},
    units::Seq,
};

use super::{
    super::{finding::Gone, thinning},
    Finding, OnFull, Opened, Options, all, copy, databases, open, small, verify,
};

/// A record as the core makes it, made at second `seq` of a day.
fn record(seq: u64, kind: &str) -> StoredRecord {
    let time = quorate_core::record::time_text(made_ms(seq));
    let text = format!(
        r#"{{"seq":{seq},"boot":"00","mono_ms":{seq},"time":"{time}","synced":true,"kind":"{kind}","body":"{seq:0>120}"}}"#
    );
    StoredRecord {
        seq: Seq(seq),
        payload: text.into_bytes().into(),
    }
}

const DAY_MS: i64 = 1_795_543_200_000;

fn made_ms(seq: u64) -> i64 {
    DAY_MS + i64::try_from(seq).unwrap() * 1_000
}

/// Of a hundred: an event, five inferences, ten of other programs, votes.
fn mixed(seq: u64) -> StoredRecord {
    let kind = match seq % 100 {
        7 => "event",
        10..15 => "inference",
        50..60 => "external",
        _ => "vote",
    };
    record(seq, kind)
}

fn options(path: &Path, on_full: OnFull) -> Options {
    Options {
        on_full,
        ..small(path)
    }
}

fn gone_of(findings: &[Finding]) -> Vec<Gone> {
    let gone = findings.iter().filter_map(|finding| match finding {
        Finding::Gone(gone) => Some(*gone),
        _ => None,
    });
    gone.collect()
}

fn counted(gone: &[Gone]) -> u64 {
    gone.iter().map(|gone| gone.count).sum()
}

fn by_class(opened: &Opened) -> BTreeMap<Class, Vec<u64>> {
    let mut classes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in all(opened) {
        assert_eq!(record, mixed(record.seq.0));
        let class = label(&record.payload).class;
        classes.entry(class).or_default().push(record.seq.0);
    }
    classes
}

/// Stores `1..=last`, and holds the store below its size. What was reported.
fn fill(opened: &mut Opened, options: &Options, last: u64) -> Vec<Gone> {
    let mut gone = Vec::new();
    for first in (1..=last).step_by(50) {
        let group: Vec<_> = (first..first + 50).map(mixed).collect();
        opened.outbox.append(&group).unwrap();
        let report = opened.outbox.report();
        assert!(report.disk_bytes <= options.size_bytes_max, "{report:?}");
        gone.extend(opened.outbox.take_gone());
        assert_eq!(report.pending + counted(&gone), first + 49);
    }
    gone
}

#[test]
fn thinning_keeps_every_event_and_some_of_every_part() {
    let root = tempfile::tempdir().unwrap();
    let options = options(&root.path().join("outbox"), OnFull::Thin);
    let mut opened = open(&options).unwrap();
    let last = 40_000;
    let gone = fill(&mut opened, &options, last);
    assert!(gone.iter().all(|it| it.cause == GoneCause::Thinned));
    assert!(gone.len() < 200, "{}", gone.len());
    let kept = by_class(&opened);
    assert_eq!(kept[&Class::Event].len(), 400);
    let all_kept: Vec<u64> = all(&opened).iter().map(|it| it.seq.0).collect();
    // From the very first hour something is left, the newest is whole, and the old is coarser than the new.
    let within = |first: u64, end: u64| {
        let held = all_kept.iter().filter(|seq| (first..end).contains(seq));
        held.count()
    };
    for window in 0..4 {
        let (first, end) = (window * 8_192, window * 8_192 + 8_192);
        let votes = kept[&Class::Vote]
            .iter()
            .filter(|seq| (first..end).contains(*seq));
        assert!(votes.count() > 24, "{window}");
    }
    assert_eq!(within(last - 1_000, last + 1), 1_001);
    assert!(within(0, 10_000) < within(last - 10_000, last));
    // What is kept of votes are whole blocks.
    let first = all_kept
        .iter()
        .find(|seq| **seq >= 32 && mixed(**seq) == record(**seq, "vote"));
    let block = first.unwrap() / 32;
    assert_eq!(within(block * 32, block * 32 + 32), 32);
    // A kill now tells it again; an end in order, too, until the receiver knows.
    let image = root.path().join("image");
    copy(&options.path, &image);
    assert!(verify(&image).unwrap().missing.is_empty());
    let again = open(&Options {
        path: image,
        ..options.clone()
    })
    .unwrap();
    assert_eq!(all(&again).len(), all_kept.len());
    let told = gone_of(&again.findings);
    assert!(told.len() <= 16 && told.iter().all(|it| it.cause == GoneCause::Thinned));
    assert_eq!(counted(&told), counted(&gone));
    for it in &gone {
        opened.outbox.acknowledge_loss(it.first, it.last, it.cause);
    }
    opened.outbox.close().unwrap();
    let mut again = open(&options).unwrap();
    assert_eq!(again.findings, []);
    assert_eq!(all(&again).len(), all_kept.len());
    // And it is drained like any other store.
    assert!(again.outbox.forget(Seq(0), Seq(u64::MAX)).unwrap() > 0);
    assert!(databases(&options.path).len() <= 1);
    again.outbox.close().unwrap();
    assert_eq!(open(&options).unwrap().findings, []);
}

#[test]
fn a_store_of_events_alone_loses_its_oldest() {
    let root = tempfile::tempdir().unwrap();
    let options = options(&root.path().join("outbox"), OnFull::Thin);
    let mut opened = open(&options).unwrap();
    for first in (1..=8_000).step_by(50) {
        let group: Vec<_> = (first..first + 50)
            .map(|seq| record(seq, "event"))
            .collect();
        opened.outbox.append(&group).unwrap();
    }
    let gone = opened.outbox.take_gone();
    assert!(!gone.is_empty());
    assert!(gone.iter().all(|it| it.cause == GoneCause::Displaced));
    let kept = all(&opened);
    assert_eq!(counted(&gone) + u64::try_from(kept.len()).unwrap(), 8_000);
    assert_eq!(kept[0].seq.0, counted(&gone) + 1);
}

#[test]
fn what_matters_least_goes_first() {
    let root = tempfile::tempdir().unwrap();
    let options = options(&root.path().join("outbox"), OnFull::DropLowestPriority);
    let mut opened = open(&options).unwrap();
    let gone = fill(&mut opened, &options, 5_000);
    assert!(gone.iter().all(|it| it.cause == GoneCause::Displaced));
    let kept = by_class(&opened);
    // Those of other programs make room for all others; of what is left of them, the oldest went.
    assert_eq!(kept[&Class::Event].len(), 50);
    assert_eq!(kept[&Class::Inference].len(), 250);
    let externals = kept.get(&Class::External).map_or(0, Vec::len);
    assert!(externals < 500);
    let votes = &kept[&Class::Vote];
    if votes.len() < 4_200 {
        assert!(externals < 60, "{externals}");
        assert!(votes[0] > 100, "the oldest votes went");
    }
    let mut seq = 5_001;
    while opened.outbox.report().pending + 30_000 > seq {
        let group: Vec<_> = (seq..seq + 50).map(mixed).collect();
        opened.outbox.append(&group).unwrap();
        seq += 50;
    }
    let kept = by_class(&opened);
    let events = u64::try_from(kept[&Class::Event].len()).unwrap();
    assert_eq!(events, (seq - 1).div_euclid(100));
    assert_eq!(*kept[&Class::Vote].last().unwrap(), seq - 1);
}

/// Every moment of a rewriting, as a kill leaves it, balances to the record.
#[test]
fn a_kill_at_any_moment_loses_nothing_and_counts_exactly() {
    for on_full in [OnFull::Thin, OnFull::DropLowestPriority] {
        let root = tempfile::tempdir().unwrap();
        let options = options(&root.path().join("outbox"), on_full);
        let mut opened = open(&options).unwrap();
        let moments = Rc::new(RefCell::new((0_u64, 0_u64)));
        let (seen, at, image) = (
            Rc::clone(&moments),
            options.clone(),
            root.path().join("image"),
        );
        thinning::tests::look_with(Box::new(move |store| {
            let (stored, count) = *seen.borrow();
            *seen.borrow_mut() = (stored, count + 1);
            if count >= 48 {
                return;
            }
            copy(store, &image);
            for _ in 0..=u64::from(count % 4 == 0) {
                // The second time after an opening that was cut off in its turn.
                let again = open(&Options {
                    path: image.clone(),
                    ..at.clone()
                })
                .unwrap();
                let told = gone_of(&again.findings);
                assert!(
                    told.iter().all(|it| it.cause != GoneCause::Damaged),
                    "{told:?}"
                );
                let kept = all(&again);
                let pending = again.outbox.report().pending;
                assert_eq!(pending, u64::try_from(kept.len()).unwrap());
                assert!(kept.windows(2).all(|two| two[0].seq < two[1].seq));
                assert_eq!(pending + counted(&told), stored, "moment {count}");
            }
            fs::remove_dir_all(&image).unwrap();
        }));
        let mut gone = 0;
        for first in (1..=5_500).step_by(50) {
            let group: Vec<_> = (first..first + 50).map(mixed).collect();
            opened.outbox.append(&group).unwrap();
            gone += counted(&opened.outbox.take_gone());
            moments.borrow_mut().0 = first + 49;
        }
        thinning::tests::look_with(Box::new(|_| {}));
        assert!(gone > 500, "{gone}");
        assert!(moments.borrow().1 > 20, "{moments:?}");
    }
}

#[test]
fn a_seal_that_is_lost_makes_no_loss_silent() {
    let root = tempfile::tempdir().unwrap();
    let options = options(&root.path().join("outbox"), OnFull::Thin);
    let mut opened = open(&options).unwrap();
    fill(&mut opened, &options, 9_000);
    let kept = all(&opened);
    opened.outbox.close().unwrap();
    for database in databases(&options.path) {
        let image = root.path().join("image");
        copy(&options.path, &image);
        fs::write(
            image.join(database.file_name().unwrap()).join("sealed"),
            b"",
        )
        .unwrap();
        let again = open(&Options {
            path: image.clone(),
            ..options.clone()
        })
        .unwrap();
        assert_eq!(all(&again), kept);
        let told = gone_of(&again.findings);
        let missing = 9_000 - u64::try_from(kept.len()).unwrap();
        assert!(counted(&told) >= missing);
        drop(again);
        fs::remove_dir_all(&image).unwrap();
    }
}

#[test]
fn what_is_too_old_expires_and_what_may_be_on_its_way_does_not() {
    let root = tempfile::tempdir().unwrap();
    let options = Options {
        ttl_ms: Some(1_000_000),
        ..small(&root.path().join("outbox"))
    };
    let mut opened = open(&options).unwrap();
    let append = |opened: &mut Opened, seqs: std::ops::Range<u64>| {
        for seq in seqs.step_by(20) {
            let group: Vec<_> = (seq..seq + 20).map(mixed).collect();
            opened.outbox.append(&group).unwrap();
            opened.outbox.expire(made_ms(seq + 20));
        }
    };
    append(&mut opened, 1..1_001);
    assert_eq!(opened.outbox.take_gone(), []);
    append(&mut opened, 1_001..3_001);
    let gone = opened.outbox.take_gone();
    assert!(gone.iter().all(|it| it.cause == GoneCause::Expired));
    let kept = all(&opened);
    assert_eq!(counted(&gone) + u64::try_from(kept.len()).unwrap(), 3_000);
    // Nothing that is younger, and nothing that is older by more than an eighth.
    let oldest = kept[0].seq.0;
    assert!((1_800..=2_002).contains(&oldest), "{oldest}");
    opened
        .outbox
        .hold_in_flight(super::super::Ranges::of(oldest, oldest + 9));
    opened.outbox.expire(made_ms(9_000));
    let left = all(&opened);
    assert_eq!(left[0].seq.0, oldest);
    assert!(left.len() < 300, "{}", left.len());
    opened
        .outbox
        .hold_in_flight(super::super::Ranges::default());
    opened.outbox.expire(made_ms(9_000));
    assert_eq!(all(&opened), []);
    let told = opened.outbox.take_gone();
    assert_eq!(counted(&told), u64::try_from(kept.len()).unwrap());
    opened.outbox.close().unwrap();
    let again = open(&options).unwrap();
    assert_eq!(counted(&gone_of(&again.findings)), 3_000);
}

#[test]
fn records_without_a_time_stay_until_a_later_one_is_too_old() {
    let root = tempfile::tempdir().unwrap();
    let options = Options {
        ttl_ms: Some(1_000_000),
        ..small(&root.path().join("outbox"))
    };
    let mut opened = open(&options).unwrap();
    opened.outbox.append(&super::records(1..=50)).unwrap();
    opened.outbox.expire(made_ms(1_000_000));
    opened.outbox.close().unwrap();
    let mut opened = open(&options).unwrap();
    opened.outbox.expire(made_ms(1_000_000));
    assert_eq!(all(&opened).len(), 50);
    let dated: Vec<_> = (51..=60).map(mixed).collect();
    opened.outbox.append(&dated).unwrap();
    opened.outbox.expire(made_ms(100));
    assert_eq!(all(&opened).len(), 60);
    opened.outbox.expire(made_ms(1_000_000));
    assert_eq!(all(&opened), []);
}
