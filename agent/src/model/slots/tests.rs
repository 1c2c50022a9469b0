#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

const MODEL: &str = "bearing:anomaly.1";

fn held(release: u64) -> (Held, Vec<u8>) {
    let bytes = format!("package {release}").into_bytes();
    let held = Held {
        digest: Digest::of(&bytes).to_string(),
        release,
        version: release.to_string(),
    };
    (held, bytes)
}

fn passed() -> Result<Measured, SlotsError> {
    Ok(Measured {
        load_ms: 1,
        p99_us: 2,
        memory_bytes: None,
        inferences: 3,
    })
}

fn stage(slots: &Slots, release: u64) -> Result<Record, SlotsError> {
    let (held, bytes) = held(release);
    slots.stage(MODEL, (held, &bytes), false, passed)
}

fn release(held: Option<&Held>) -> Option<u64> {
    held.map(|held| held.release)
}

/// Active, previous, staged.
fn releases(record: &Record) -> [Option<u64>; 3] {
    let staged = record.staged.as_ref().map(|staged| staged.held.release);
    [
        release(record.active.as_ref()),
        release(record.previous.as_ref()),
        staged,
    ]
}

fn files(slots: &Slots) -> Vec<String> {
    let entries = fs::read_dir(slots.directory(MODEL)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    names.sort();
    names
}

fn confirm(slots: &Slots) -> Record {
    let active = slots.read(MODEL).unwrap().active;
    slots.confirm(MODEL, active.as_ref()).unwrap();
    slots.read(MODEL).unwrap()
}

#[test]
fn a_model_goes_through_its_states_and_back() {
    let root = tempfile::tempdir().unwrap();
    let slots = Slots::beside(&root.path().join("outbox"));
    assert_eq!(releases(&slots.read(MODEL).unwrap()), [None; 3]);
    assert!(
        !root.path().join("outbox.state").exists(),
        "reading makes nothing"
    );
    assert!(matches!(
        slots.promote(MODEL),
        Err(SlotsError::NothingStaged)
    ));
    let back = slots.roll_back(MODEL, Cause::Command, "");
    assert!(matches!(back, Err(SlotsError::NothingBefore)));

    assert_eq!(releases(&stage(&slots, 1).unwrap()), [None, None, Some(1)]);
    assert_eq!(
        releases(&slots.promote(MODEL).unwrap()),
        [Some(1), None, None]
    );
    let again = slots.promote(MODEL).unwrap();
    assert_eq!(releases(&again), [Some(1), None, None]);
    assert!(!again.confirmed && !again.change.unwrap().told);
    assert!(confirm(&slots).change.unwrap().told);

    stage(&slots, 2).unwrap();
    assert_eq!(files(&slots), ["package 1", "package 2"]);
    assert_eq!(
        releases(&slots.promote(MODEL).unwrap()),
        [Some(2), Some(1), None]
    );
    confirm(&slots);
    stage(&slots, 5).unwrap();
    assert_eq!(
        releases(&slots.promote(MODEL).unwrap()),
        [Some(5), Some(2), None]
    );
    assert_eq!(files(&slots), ["package 2", "package 5"]);

    let record = slots.roll_back(MODEL, Cause::Command, "noise").unwrap();
    assert_eq!(releases(&record), [Some(2), None, None]);
    assert_eq!(record.release_max, 5, "it never falls");
    assert_eq!(files(&slots), ["package 2"]);
    let record = slots.roll_back(MODEL, Cause::Command, "").unwrap();
    assert_eq!(releases(&record), [None; 3]);
    assert!(files(&slots).is_empty());
}

#[test]
fn releases_never_go_back_unless_they_may() {
    let root = tempfile::tempdir().unwrap();
    let slots = Slots::beside(&root.path().join("outbox"));
    stage(&slots, 7).unwrap();
    slots.promote(MODEL).unwrap();
    for older in [6, 1] {
        let error = stage(&slots, older).unwrap_err();
        assert!(
            matches!(error, SlotsError::Downgrade { highest: 7, .. }),
            "{error}"
        );
    }
    // The active file itself is there already; another of the same number is not it.
    stage(&slots, 7).unwrap();
    let mut other = held(7);
    other.1.push(b'!');
    other.0.digest = Digest::of(&other.1).to_string();
    let same = slots.stage(MODEL, (other.0, &other.1), false, passed);
    assert!(matches!(same, Err(SlotsError::Downgrade { .. })));
    slots.roll_back(MODEL, Cause::Command, "").unwrap();
    assert!(
        stage(&slots, 7).is_err(),
        "what was rolled back needs a higher number"
    );
    let (held, bytes) = held(6);
    let record = slots.stage(MODEL, (held, &bytes), true, passed).unwrap();
    assert_eq!(releases(&record), [None, None, Some(6)]);
}

#[test]
fn what_fails_its_test_does_not_wait() {
    let root = tempfile::tempdir().unwrap();
    let slots = Slots::beside(&root.path().join("outbox"));
    let (held, bytes) = held(3);
    let failed = slots.stage(MODEL, (held.clone(), &bytes), false, || {
        // Durable before it is tried, and no more than verified.
        let record = slots.read(MODEL).unwrap();
        assert_eq!(
            (releases(&record), record.tested()),
            ([None, None, Some(3)], None)
        );
        assert_eq!(fs::read(slots.file(MODEL, &held)).unwrap(), bytes);
        Err(SlotsError::NothingStaged)
    });
    assert!(failed.is_err());
    assert_eq!(releases(&slots.read(MODEL).unwrap()), [None; 3]);
    assert!(files(&slots).is_empty());
    assert!(slots.promote(MODEL).is_err());
}

#[test]
fn three_bad_starts_roll_back_and_a_good_one_confirms() {
    let root = tempfile::tempdir().unwrap();
    let slots = Slots::beside(&root.path().join("outbox"));
    stage(&slots, 1).unwrap();
    slots.promote(MODEL).unwrap();
    slots.attempt(MODEL).unwrap();
    assert!(confirm(&slots).confirmed);
    for _ in 0..10 {
        assert_eq!(
            releases(&slots.attempt(MODEL).unwrap()),
            [Some(1), None, None]
        );
    }
    stage(&slots, 2).unwrap();
    slots.promote(MODEL).unwrap();
    // An end in order says nothing against it, however often.
    for _ in 0..10 {
        let record = slots.attempt(MODEL).unwrap();
        assert_eq!(record.attempts, 1);
        slots.ended(MODEL, record.active.as_ref()).unwrap();
    }
    for start in 1..=ATTEMPTS_MAX {
        let record = slots.attempt(MODEL).unwrap();
        assert_eq!(
            (record.attempts, releases(&record)),
            (start, [Some(2), Some(1), None])
        );
    }
    let record = slots.attempt(MODEL).unwrap();
    assert_eq!(
        (record.attempts, releases(&record)),
        (1, [Some(1), None, None])
    );
    let change = record.change.unwrap();
    assert_eq!(
        (change.cause, release(change.from.as_ref())),
        (Cause::Crashed, Some(2))
    );
    // When that crashes as well, the bundle of the configuration is left.
    for _ in 0..ATTEMPTS_MAX {
        slots.attempt(MODEL).unwrap();
    }
    assert_eq!(releases(&slots.read(MODEL).unwrap()), [None; 3]);
}

#[test]
fn an_unconfirmed_model_is_not_gone_back_to() {
    let root = tempfile::tempdir().unwrap();
    let slots = Slots::beside(&root.path().join("outbox"));
    stage(&slots, 1).unwrap();
    slots.promote(MODEL).unwrap();
    confirm(&slots);
    for release in [2, 3] {
        stage(&slots, release).unwrap();
        slots.promote(MODEL).unwrap();
    }
    assert_eq!(
        releases(&slots.read(MODEL).unwrap()),
        [Some(3), Some(1), None]
    );
    // A confirmation of what is not active any more is none.
    slots.confirm(MODEL, Some(&held(2).0)).unwrap();
    assert!(!slots.read(MODEL).unwrap().confirmed);
}

#[test]
fn a_slot_of_another_form_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let slots = Slots::beside(&root.path().join("outbox"));
    stage(&slots, 1).unwrap();
    let mut state = State::open(&slots.state).unwrap();
    for bytes in [&b"{}"[..], b"[", br#"{"format":2}"#] {
        state.write(&slot(MODEL), bytes).unwrap();
        let error = slots.read(MODEL).unwrap_err();
        assert!(matches!(error, SlotsError::Form { .. }), "{error}");
    }
}
