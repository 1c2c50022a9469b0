//! The store against what may lie on the medium.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use quorate_core::{event::GoneCause, units::Seq};

use super::{
    Finding, Opened, Options, all, copy, cut_off, database, databases, open, record, records,
    reopen, small,
};

fn assert_names_a_loss(opened: &Opened) {
    assert!(
        opened
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::Gone(_))),
        "{:?}",
        opened.findings
    );
}

/// Every file of a store but the lock.
fn files(store: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.file_name().unwrap() != "lock" {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A chain of several databases with one that is written to, drained in part and out of order: 101..=2_000 without
/// 151..=170 wait.
fn chain(root: &Path) -> (PathBuf, BTreeSet<u64>) {
    let options = small(&root.join("live"));
    let mut opened = open(&options).unwrap();
    for group in records(1..=2_000).chunks(40) {
        opened.outbox.append(group).unwrap();
        if group[0].seq == Seq(1_001) {
            opened.outbox.forget(Seq(1), Seq(100)).unwrap();
            opened.outbox.forget(Seq(151), Seq(170)).unwrap();
        }
    }
    let image = root.join("image");
    copy(&options.path, &image);
    let waiting = (101..=150).chain(171..=2_000).collect();
    (image, waiting)
}

/// What is read, and what is named as gone, by the opening or while it is read.
fn look(opened: &mut Opened) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let kept = all(opened);
    assert!(
        kept.iter().all(|it| *it == record(it.seq.0)),
        "a record is not what was stored"
    );
    opened.outbox.remove_damaged().unwrap();
    let found = opened.findings.iter().filter_map(|finding| match finding {
        Finding::Gone(gone) => Some(*gone),
        _ => None,
    });
    let gone: Vec<_> = found.chain(opened.outbox.take_gone()).collect();
    let named = gone.iter().flat_map(|gone| gone.first.0..=gone.last.0);
    (kept.iter().map(|it| it.seq.0).collect(), named.collect())
}

/// Opens a damaged copy of `image` and holds it against its promises. Returns how many records are lost.
fn survives(damaged: &Path, waiting: &BTreeSet<u64>, what: &str) -> usize {
    let mut opened = open(&small(damaged)).unwrap();
    let (kept, named) = look(&mut opened);
    let lost: BTreeSet<_> = waiting.difference(&kept).copied().collect();
    assert!(
        lost.is_subset(&named),
        "{what}: silent {:?}",
        lost.difference(&named)
    );
    assert!(
        opened.seq_next > Seq(2_000),
        "{what}: {:?}",
        opened.seq_next
    );
    // It goes on, and knows the same when it is opened again, once the receiver knows what is gone.
    if let (Some(first), Some(last)) = (named.first(), named.last()) {
        opened
            .outbox
            .acknowledge_loss(Seq(*first), Seq(*last), GoneCause::Damaged);
    }
    for next in (opened.seq_next.0..).take(3) {
        opened.outbox.append(&records(next..=next)).unwrap();
    }
    let pending = opened.outbox.report().pending;
    assert_eq!(pending, u64::try_from(kept.len()).unwrap() + 3, "{what}");
    opened.outbox.close().unwrap();
    let again = reopen(damaged);
    assert_eq!(again.outbox.report().pending, pending, "{what}");
    lost.len()
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn one_flipped_bit_in_any_file_of_a_chain_loses_at_most_one_record() {
    let root = tempfile::tempdir().unwrap();
    let (image, waiting) = chain(root.path());
    let mut random = fastrand::Rng::with_seed(11);
    for (place, file) in files(&image).iter().enumerate() {
        let name = file.strip_prefix(&image).unwrap();
        let tries = if name.ends_with("db") { 5 } else { 2 };
        for attempt in 0..tries {
            let damaged = root.path().join(format!("damaged-{place}-{attempt}"));
            copy(&image, &damaged);
            let epoch = opened_epoch(&image);
            change(&damaged.join(name), |bytes| {
                if let Some(byte) = random.choice(bytes.iter_mut()) {
                    *byte ^= 1 << random.u8(..8);
                }
            });
            let what = format!("{} {attempt}", name.display());
            assert!(survives(&damaged, &waiting, &what) <= 1, "{what}");
            assert_eq!(opened_epoch(&damaged), epoch, "{what}");
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
}

fn opened_epoch(store: &Path) -> Option<u64> {
    super::verify(store).unwrap().epoch
}

#[test]
fn a_block_of_zeros_or_of_garbage_and_a_cut_end_are_told() {
    let root = tempfile::tempdir().unwrap();
    let (image, waiting) = chain(root.path());
    let mut random = fastrand::Rng::with_seed(12);
    let files = files(&image);
    let mut worst = 0;
    for attempt in 0..45 {
        let damaged = root.path().join(format!("damaged-{attempt}"));
        copy(&image, &damaged);
        let file = damaged.join(
            files[random.usize(..files.len())]
                .strip_prefix(&image)
                .unwrap(),
        );
        let kind = attempt % 3;
        change(&file, |bytes| {
            let start = random.usize(..=bytes.len() / 4_096) * 4_096;
            let end = (start + 4_096).min(bytes.len());
            match kind {
                0 => bytes[start..end].fill(0),
                1 => random.fill(&mut bytes[start..end]),
                _ => bytes.truncate(random.usize(..=bytes.len())),
            }
        });
        let lost = survives(&damaged, &waiting, &format!("{} {attempt}", file.display()));
        if kind < 2 {
            worst = worst.max(lost);
        }
        fs::remove_dir_all(&damaged).unwrap();
    }
    // 4,096 bytes touch at most 19 records of about 240 bytes.
    assert!(worst <= 19, "{worst}");
}

#[test]
fn garbage_in_place_of_side_files_is_no_reason_to_fail_or_to_lose() {
    let root = tempfile::tempdir().unwrap();
    let (image, waiting) = chain(root.path());
    let side = ["meta", "meta.copy", "progress", "sealed"];
    for (attempt, garbage) in [&b""[..], b"garbage", &[0xff; 9_000], &[0; 20_000]]
        .iter()
        .enumerate()
    {
        for which in [&side[..1], &side[2..3], &side[3..], &side[..2], &side[..]] {
            let damaged = root.path().join(format!("damaged-{attempt}"));
            copy(&image, &damaged);
            for file in files(&damaged) {
                if which.contains(&file.file_name().unwrap().to_str().unwrap()) {
                    fs::write(&file, garbage).unwrap();
                }
            }
            assert_eq!(
                survives(&damaged, &waiting, &format!("{which:?} {attempt}")),
                0
            );
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
}

#[test]
fn strange_names_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let (image, waiting) = chain(root.path());
    let name = database_names(&image).remove(0);
    let strange = [
        name.replace("records-", "records-1"),
        format!("{name}.deleted"),
        "records-1-2".to_owned(),
        "progress.new".to_owned(),
    ];
    for name in &strange {
        fs::write(image.join(name), "x").unwrap();
    }
    fs::create_dir(image.join("records-1-2-3")).unwrap();
    assert_eq!(survives(&image, &waiting, "strange names"), 0);
    assert!(strange.iter().all(|name| image.join(name).exists()));
}

fn database_names(store: &Path) -> Vec<String> {
    let databases = super::databases(store);
    let names = databases.iter().map(|path| path.file_name().unwrap());
    names
        .map(|name| name.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_database_that_vanished_is_told_exactly() {
    let root = tempfile::tempdir().unwrap();
    let (image, waiting) = chain(root.path());
    let vanished = super::databases(&image).remove(2);
    let first: u64 = vanished
        .to_str()
        .unwrap()
        .rsplit('-')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    fs::remove_dir_all(vanished).unwrap();
    let mut opened = open(&small(&image)).unwrap();
    let (kept, named) = look(&mut opened);
    assert_eq!(
        waiting.difference(&kept).copied().collect::<BTreeSet<_>>(),
        named
    );
    assert!(
        named.first() == Some(&first) && named.len() > 100,
        "{named:?}"
    );
}

type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image_of(store: &Path) -> Image {
    let relative = |path: &Path| path.strip_prefix(store).unwrap().to_owned();
    files(store)
        .iter()
        .map(|path| (relative(path), fs::read(path).unwrap()))
        .collect()
}

/// What a power cut leaves of the writes between two moments of which none is synced: of each file some sectors of 512
/// bytes are new, and its length is somewhere between; of the new names any may be missing.
fn cut(before: &Image, after: &Image, random: &mut fastrand::Rng) -> Image {
    let mut cut = before.clone();
    for (name, new) in after {
        let old = before.get(name);
        if old == Some(new) || (old.is_none() && random.bool()) {
            continue;
        }
        let old = old.map_or(&[][..], |old| &old[..]);
        let low = old.len().min(new.len());
        let length = low + random.usize(..=new.len() - low);
        let mut mixed = vec![0; length.max(old.len().min(new.len()))];
        for (at, sector) in mixed.chunks_mut(512).enumerate() {
            let source = if random.bool() { &new[..] } else { old };
            let start = (at * 512).min(source.len());
            let bytes = &source[start..source.len().min(start + sector.len())];
            sector[..bytes.len()].copy_from_slice(bytes);
        }
        cut.insert(name.clone(), mixed);
    }
    cut
}

#[test]
fn a_power_cut_between_two_syncs_loses_nothing_that_was_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let options = small(&root.path().join("live"));
    let mut random = fastrand::Rng::with_seed(13);
    let mut opened = open(&options).unwrap();
    let (mut stored, mut drained, mut cuts) = (0_u64, 0_u64, 0);
    let mut before = image_of(&options.path);
    for step in 0..150 {
        let (acknowledged, forgotten) = (stored, drained);
        if random.u8(..4) > 0 || drained + 30 > stored {
            stored += random.u64(1..60);
            opened
                .outbox
                .append(&records(acknowledged + 1..=stored))
                .unwrap();
        } else {
            drained += random.u64(1..30);
            opened
                .outbox
                .forget(Seq(forgotten + 1), Seq(drained))
                .unwrap();
        }
        let after = image_of(&options.path);
        // A rotation or a deletion syncs in between: then what came before it is durable.
        if before.keys().eq(after.keys()) && step % 2 == 0 {
            let path = root.path().join("cut");
            for (name, bytes) in cut(&before, &after, &mut random) {
                fs::create_dir_all(path.join(&name).parent().unwrap()).unwrap();
                fs::write(path.join(name), bytes).unwrap();
            }
            let mut image = open(&Options {
                path: path.clone(),
                ..options.clone()
            })
            .unwrap();
            let (kept, named) = look(&mut image);
            let kept_or_drained: BTreeSet<u64> = kept.iter().copied().chain(1..=drained).collect();
            assert!(
                (1..=acknowledged).all(|seq| kept_or_drained.contains(&seq)),
                "step {step}"
            );
            assert!(
                kept.last().is_none_or(|last| *last <= stored),
                "step {step}"
            );
            assert!(
                named.iter().all(|seq| *seq > acknowledged),
                "step {step}: {named:?}"
            );
            assert!(image.seq_next.0 > acknowledged, "step {step}");
            assert_eq!(image.epoch, opened.epoch, "step {step}");
            drop(image);
            fs::remove_dir_all(&path).unwrap();
            cuts += 1;
        }
        before = after;
    }
    assert!(cuts > 40, "{cuts}");
}

#[test]
fn a_store_of_the_first_layout_is_taken_over() {
    let root = tempfile::tempdir().unwrap();
    for (case, with_side_file) in [true, false].into_iter().enumerate() {
        let path = root.path().join(format!("outbox-{case}"));
        super::first_layout(&path, 77, 500, 100, with_side_file);
        let mut opened = reopen(&path);
        let (kept, named) = look(&mut opened);
        let first = if with_side_file { 101 } else { 1 };
        assert_eq!(kept, (first..=500).collect());
        assert_eq!(named, BTreeSet::new());
        assert_eq!(opened.epoch.0 == 77, with_side_file);
        assert!(opened.seq_next > Seq(500));
        assert_eq!(opened.outbox.forget(Seq(1), Seq(450)).unwrap(), 451 - first);
        opened.outbox.close().unwrap();
        let mut again = reopen(&path);
        let next = again.seq_next.0;
        again.outbox.append(&records(next..=next)).unwrap();
        assert_eq!(
            all(&again),
            [records(451..=500), records(next..=next)].concat()
        );
        again.outbox.forget(Seq(1), Seq(500)).unwrap();
        assert_eq!(
            (super::databases(&path).len(), path.join("db").exists()),
            (1, false)
        );
    }
}

#[test]
fn an_image_of_a_power_cut_opens_without_findings() {
    let root = tempfile::tempdir().unwrap();
    let image = cut_off(root.path());
    fs::write(
        database(&image).join("snap.00000000000000FF.generating"),
        b"half",
    )
    .unwrap();
    let opened = reopen(&image);
    assert_eq!(
        (opened.findings.as_slice(), opened.seq_next),
        ([].as_slice(), Seq(2_001))
    );
    assert_eq!(all(&opened), records(1..=2_000));
}

#[test]
fn a_database_that_is_text_is_told_and_the_sequence_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let image = cut_off(root.path());
    let epoch = reopen(&root.path().join("live")).epoch;
    fs::write(database(&image).join("db"), "not a database\n".repeat(900)).unwrap();
    let mut opened = reopen(&image);
    assert_names_a_loss(&opened);
    assert!(opened.seq_next > Seq(2_000) && opened.epoch == epoch);
    let next = opened.seq_next.0;
    opened.outbox.append(&records(next..=next)).unwrap();
    assert_eq!(all(&opened), records(next..=next));
}

#[test]
fn both_copies_of_the_side_file_gone_begins_a_new_epoch_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let image = cut_off(root.path());
    let epoch = reopen(&root.path().join("live")).epoch;
    fs::remove_file(image.join("meta")).unwrap();
    fs::remove_file(image.join("meta.copy")).unwrap();
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
        .open(database(&image).join("db"))
        .unwrap();
    database.set_len(300_000).unwrap();
    let opened = reopen(&image);
    let kept = all(&opened);
    assert!(
        kept.len() > 300 && kept.iter().all(|it| *it == record(it.seq.0)),
        "{}",
        kept.len()
    );
    assert_names_a_loss(&opened);
    assert!(opened.seq_next > Seq(2_000));
}

#[test]
fn one_flipped_bit_anywhere_loses_next_to_nothing_and_is_told() {
    let root = tempfile::tempdir().unwrap();
    let image = cut_off(root.path());
    let mut random = fastrand::Rng::with_seed(7);
    let name = database(&image).file_name().unwrap().to_owned();
    let length = fs::metadata(database(&image).join("db")).unwrap().len();
    for place in 0..60 {
        let path = root.path().join(format!("place-{place}"));
        copy(&image, &path);
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(path.join(&name).join("db"))
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

/// Found by the rig of failing devices: `list` under EIO gave up what it could not read, and the database went with it.
#[test]
fn what_cannot_be_read_stays_until_the_receiver_knows() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("outbox");
    let mut opened = reopen(&path);
    opened.outbox.append(&records(1..=20)).unwrap();
    opened.outbox.close().unwrap();
    let file = database(&path).join("db");
    let good = fs::read(&file).unwrap();
    fs::write(&file, vec![0; good.len()]).unwrap();
    let mut opened = reopen(&path);
    assert_eq!(all(&opened), []);
    opened.outbox.remove_damaged().unwrap();
    let gone: u64 = opened.outbox.take_gone().iter().map(|it| it.count).sum();
    assert_eq!(gone, 20);
    opened.outbox.close().unwrap();
    fs::write(&file, &good).unwrap();
    let mut opened = reopen(&path);
    assert_eq!(
        all(&opened),
        records(1..=20),
        "the medium can be read again"
    );
    opened.outbox.forget(Seq(1), Seq(20)).unwrap();
    assert_eq!(databases(&path), Vec::<PathBuf>::new());
}
