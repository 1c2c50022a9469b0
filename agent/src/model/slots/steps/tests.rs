#![expect(clippy::unwrap_used, reason = "a test may panic")]

use quorate_models::Digest;

use super::*;
use crate::model::trial::Measured;

const MODEL: &str = "bearing-anomaly";
const PLAN: Plan = Plan {
    first: Some(TrialPhase::Shadow),
    after_shadow: Some(TrialPhase::Canary),
};
const EVIDENCE: (Cause, &str) = (Cause::Evidence, "120 answers");

struct Bench {
    slots: Slots,
    _root: tempfile::TempDir,
}

impl Bench {
    /// Release 1 is active and confirmed.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let slots = Slots::beside(&root.path().join("outbox"));
        let bench = Self { slots, _root: root };
        bench.stage(1).unwrap();
        let active = bench.slots.promote(MODEL).unwrap().active;
        bench.slots.confirm(MODEL, active.as_ref()).unwrap();
        bench
    }

    fn stage(&self, release: u64) -> Result<Record, SlotsError> {
        let bytes = format!("package {release}").into_bytes();
        let held = Held {
            digest: digest(release),
            release,
            version: release.to_string(),
        };
        let passed = || {
            Ok(Measured {
                load_ms: 1,
                p99_us: 2,
                memory_bytes: None,
                inferences: 3,
            })
        };
        self.slots.stage(MODEL, (held, &bytes), false, passed)
    }

    fn begin(&self, release: u64, phase: TrialPhase) -> Result<Record, SlotsError> {
        let why = (Cause::Staged, "");
        self.slots.begin(MODEL, &digest(release), phase, why)
    }

    fn record(&self) -> Record {
        self.slots.read(MODEL).unwrap()
    }
}

fn digest(release: u64) -> String {
    Digest::of(format!("package {release}").as_bytes()).to_string()
}

fn release(held: Option<&Held>) -> Option<u64> {
    held.map(|held| held.release)
}

fn what(record: &Record) -> (&'static str, &'static str) {
    let change = record.change.as_ref().unwrap();
    (change.what(), change.cause.as_str())
}

#[test]
fn a_file_is_shadow_then_canary_then_active_and_each_step_again_changes_nothing() {
    let bench = Bench::new();
    bench.stage(2).unwrap();
    for _ in 0..2 {
        let record = bench.begin(2, TrialPhase::Shadow).unwrap();
        assert_eq!(what(&record), ("model-shadow", "staged"));
        assert_eq!(release(record.active.as_ref()), Some(1));
        assert_eq!(record.release_max, 1, "a shadow counts for nothing");
    }
    for _ in 0..2 {
        let record = bench.slots.pass(MODEL, &digest(2)).unwrap();
        assert!(record.trial.unwrap().passed);
    }
    for _ in 0..2 {
        let record = bench
            .slots
            .begin(MODEL, &digest(2), TrialPhase::Canary, EVIDENCE)
            .unwrap();
        assert_eq!(what(&record), ("model-canary", "evidence"));
        assert!(!record.trial.unwrap().passed, "the canary shows its own");
        assert_eq!(record.release_max, 2);
    }
    assert!(matches!(
        bench.stage(3),
        Err(SlotsError::OnTrial { release: 2 })
    ));
    bench.slots.pass(MODEL, &digest(2)).unwrap();
    for _ in 0..2 {
        let digest = digest(2);
        // The second one finds nothing that waits, and that is no error.
        let record = bench
            .slots
            .promote_by(MODEL, Some(&digest), EVIDENCE)
            .unwrap();
        assert_eq!(what(&record), ("model-promoted", "evidence"));
        assert_eq!(release(record.active.as_ref()), Some(2));
        assert_eq!(release(record.previous.as_ref()), Some(1));
        assert!(record.confirmed && record.trial.is_none() && record.staged.is_none());
    }
}

#[test]
fn what_is_given_up_leaves_the_active_one_and_its_own_file() {
    let bench = Bench::new();
    bench.stage(2).unwrap();
    bench.begin(2, TrialPhase::Canary).unwrap();
    let wrong = digest(3);
    let step = bench
        .slots
        .give_up(MODEL, Some(&wrong), (Cause::Errors, ""));
    assert!(matches!(step, Err(SlotsError::Overtaken)));
    let own = digest(2);
    let record = bench
        .slots
        .give_up(MODEL, Some(&own), (Cause::ErrorsInRow, "0 answers"))
        .unwrap();
    assert_eq!(what(&record), ("model-rolled-back", "errors-in-row"));
    assert_eq!(release(record.active.as_ref()), Some(1));
    assert!(record.confirmed && record.staged.is_none() && record.trial.is_none());
    let file = bench.slots.file(
        MODEL,
        &Held {
            digest: own,
            release: 2,
            version: "2".into(),
        },
    );
    assert!(!file.exists());
    assert!(
        matches!(bench.stage(2), Err(SlotsError::Downgrade { .. })),
        "it counted, and needs a higher number"
    );
    // A late step of the same file finds nobody.
    assert!(bench.begin(2, TrialPhase::Canary).is_err());
    assert!(bench.slots.pass(MODEL, &digest(2)).is_err());
}

#[test]
fn a_file_on_trial_has_three_starts() {
    let bench = Bench::new();
    bench.stage(2).unwrap();
    bench.begin(2, TrialPhase::Shadow).unwrap();
    for _ in 0..ATTEMPTS_MAX {
        assert!(bench.slots.attempt_trial(MODEL).unwrap().trial.is_some());
    }
    let record = bench.slots.attempt_trial(MODEL).unwrap();
    assert_eq!(what(&record), ("model-rolled-back", "crashed"));
    assert_eq!(release(record.active.as_ref()), Some(1));
    // Starts that end in order are no attempts.
    bench.stage(3).unwrap();
    bench.begin(3, TrialPhase::Shadow).unwrap();
    for _ in 0..2 * ATTEMPTS_MAX {
        let record = bench.slots.attempt_trial(MODEL).unwrap();
        bench.slots.ended(MODEL, record.active.as_ref()).unwrap();
    }
    assert_eq!(bench.record().trial.unwrap().attempts, 0);
}

#[test]
fn an_operator_goes_as_far_as_the_evidence() {
    let bench = Bench::new();
    let advance = |force| bench.slots.advance(MODEL, PLAN, force);
    assert!(advance(false).is_ok(), "release 1 was promoted already");
    bench.stage(2).unwrap();
    assert!(matches!(advance(false), Err(SlotsError::NotPassed(_))));
    bench.begin(2, TrialPhase::Shadow).unwrap();
    assert!(matches!(advance(false), Err(SlotsError::NotPassed(_))));
    bench.slots.pass(MODEL, &digest(2)).unwrap();
    for _ in 0..2 {
        assert_eq!(what(&advance(false).unwrap()), ("model-canary", "promoted"));
    }
    bench.slots.pass(MODEL, &digest(2)).unwrap();
    assert_eq!(
        what(&advance(false).unwrap()),
        ("model-promoted", "promoted")
    );
    bench.stage(3).unwrap();
    bench.begin(3, TrialPhase::Shadow).unwrap();
    let record = advance(true).unwrap();
    assert_eq!(release(record.active.as_ref()), Some(3));
    assert!(!record.confirmed, "nobody has seen it answer");
    // Without rules what waits becomes active; of two that are compared, the operator decides.
    bench.stage(4).unwrap();
    let record = bench.slots.advance(MODEL, Plan::default(), false).unwrap();
    assert_eq!(release(record.active.as_ref()), Some(4));
    bench.stage(5).unwrap();
    bench.begin(5, TrialPhase::Ab).unwrap();
    assert_eq!(
        what(&advance(false).unwrap()),
        ("model-promoted", "promoted")
    );
}

#[test]
fn withdrawing_ends_a_trial_first_and_goes_back_then() {
    let bench = Bench::new();
    bench.stage(2).unwrap();
    bench.begin(2, TrialPhase::Canary).unwrap();
    let record = bench.slots.withdraw(MODEL, "").unwrap();
    assert_eq!(what(&record), ("model-rolled-back", "command"));
    assert_eq!(release(record.active.as_ref()), Some(1));
    let record = bench.slots.withdraw(MODEL, "").unwrap();
    assert_eq!(record.active, None);
}

#[test]
fn a_slot_without_a_trial_is_written_as_before() {
    let bench = Bench::new();
    let text = serde_json::to_string(&bench.record()).unwrap();
    assert!(!text.contains("trial") && !text.contains("phase"), "{text}");
    let read: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(read, bench.record());
}
