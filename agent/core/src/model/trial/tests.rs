use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

fn rules() -> TrialRules {
    TrialRules {
        shadow_ms: 1_000,
        canary_ms: 2_000,
        answers_min: 10,
        disagreement_max: 0.1,
        difference_max: Some(0.5),
        latency_p99_us_max: Some(100),
        errors_share_max: 0.2,
        inputs_good_share_min: 0.5,
        drift_max: Some(2.0),
        promotes: true,
    }
}

fn given(tick: u64, level: f64) -> Given {
    Given {
        tick: Mono(tick),
        level,
        alarm: level > 1.0,
    }
}

/// Both files answer `count` windows alike.
fn agree(trial: &mut Trial, count: u64) {
    for tick in 0..count {
        let level = if tick % 2 == 0 { 0.4 } else { 0.6 };
        trial.note_answer(given(tick, level), 50, true);
        trial.note_reference(given(tick, level));
    }
}

fn shadow() -> Trial {
    Trial::new(rules(), Phase::Shadow, Mono(500))
}

#[test]
fn it_passes_when_the_time_is_over_and_every_rule_holds() {
    let mut trial = shadow();
    assert_eq!(trial.judge(Mono(1_499)), Verdict::Going);
    assert_eq!(trial.judge(Mono(1_500)), Verdict::Waiting("answers"));
    agree(&mut trial, 10);
    assert_eq!(trial.judge(Mono(1_499)), Verdict::Going);
    assert_eq!(trial.judge(Mono(1_500)), Verdict::Passed);
    let mut canary = Trial::new(rules(), Phase::Canary, Mono(500));
    agree(&mut canary, 10);
    assert_eq!(canary.judge(Mono(2_499)), Verdict::Going);
    assert_eq!(canary.judge(Mono(2_500)), Verdict::Passed);
    let mut compared = Trial::new(rules(), Phase::Compared, Mono(500));
    agree(&mut compared, 10);
    assert_eq!(
        compared.judge(Mono(u64::MAX)),
        Verdict::Going,
        "nobody decides but a person"
    );
}

#[test]
fn what_it_cannot_help_does_not_speak_against_it() {
    let mut silent = shadow();
    (0..20).for_each(|tick| silent.note_answer(given(tick, 0.5), 50, true));
    assert_eq!(silent.judge(Mono(9_000)), Verdict::Waiting("reference"));
    let mut bad = shadow();
    for tick in 0..20 {
        bad.note_answer(given(tick, 0.5), 50, false);
        bad.note_reference(given(tick, 0.5));
    }
    assert_eq!(bad.judge(Mono(1_000)), Verdict::Going);
    assert_eq!(bad.judge(Mono(9_000)), Verdict::Again("inputs"));
    assert_eq!(bad.anew(Mono(9_000)).judge(Mono(9_000)), Verdict::Going);
}

#[test]
fn each_rule_is_broken_by_what_it_is_about() {
    let broken = |spoil: &dyn Fn(&mut Trial)| {
        let mut trial = shadow();
        agree(&mut trial, 30);
        spoil(&mut trial);
        trial.judge(Mono(1_000))
    };
    let both = |trial: &mut Trial, own: f64, other: f64, count: u64| {
        for tick in 100..100 + count {
            trial.note_reference(given(tick, other));
            trial.note_answer(given(tick, own), 50, true);
        }
    };
    assert_eq!(broken(&|_| {}), Verdict::Going);
    // 3 of 33 differ: within 10 %; 4 of 34 are not.
    assert_eq!(broken(&|it| both(it, 1.1, 0.9, 3)), Verdict::Going);
    assert_eq!(
        broken(&|it| both(it, 1.1, 0.9, 4)),
        Verdict::Failed("disagreement")
    );
    assert_eq!(
        broken(&|it| both(it, 0.9, 0.1, 50)),
        Verdict::Failed("difference")
    );
    assert_eq!(
        broken(&|it| both(it, 0.9, 0.5, 70)),
        Verdict::Failed("drift")
    );
    let late = |it: &mut Trial| it.note_answer(given(99, 0.5), 101, true);
    assert_eq!(
        broken(&late),
        Verdict::Failed("latency"),
        "1 of 31 is more than 1 %"
    );
    let errors = |count: u64| {
        move |it: &mut Trial| {
            for tick in 0..count {
                it.note_error();
                it.note_answer(given(200 + tick, 0.5), 50, true);
            }
        }
    };
    assert_eq!(broken(&errors(9)), Verdict::Going, "9 of 48");
    assert_eq!(broken(&errors(11)), Verdict::Failed("errors"), "11 of 52");
}

#[test]
fn failing_in_a_row_ends_it_at_once() {
    let mut trial = shadow();
    for _ in 1..ERRORS_IN_ROW_MAX {
        trial.note_error();
    }
    assert_eq!(trial.judge(Mono(500)), Verdict::Going);
    trial.note_answer(given(1, 0.5), 50, true);
    trial.note_error();
    assert_eq!(trial.judge(Mono(500)), Verdict::Going, "not in a row");
    trial.note_error();
    trial.note_error();
    assert_eq!(trial.judge(Mono(500)), Verdict::Failed("errors-in-row"));
    let mut late = Trial::new(
        TrialRules {
            answers_min: u64::MAX,
            ..rules()
        },
        Phase::Compared,
        Mono(0),
    );
    for tick in 1..u64::from(LATE_IN_ROW_MAX) {
        late.note_answer(given(tick, 0.5), 101, true);
    }
    assert_eq!(late.judge(Mono(0)), Verdict::Going);
    late.note_answer(given(99, 0.5), 101, true);
    assert_eq!(late.judge(Mono(0)), Verdict::Failed("late-in-row"));
}

#[test]
fn answers_to_the_same_window_are_paired_whatever_comes_first() {
    let mut trial = shadow();
    for tick in 0..100 {
        trial.note_reference(given(tick, 0.5));
        // The new file is slow: it answers every other window, and that after the reference's next one.
        if tick % 2 == 1 {
            trial.note_answer(given(tick - 1, 0.5), 50, true);
        }
    }
    assert_eq!(trial.pairs, 50);
    assert!(trial.recent.iter().all(|recent| recent.len() <= RECENT_MAX));
}

proptest! {
    /// The 99th percentile by the buckets is that by sorting, and at most a quarter above it.
    #[test]
    fn the_latency_is_at_most_a_quarter_too_high(mut times in proptest::collection::vec(0_u64..10_000_000, 1..300)) {
        let mut trial = shadow();
        for (tick, us) in (0..).zip(&times) {
            trial.note_answer(given(tick, 0.5), *us, true);
        }
        times.sort_unstable();
        let exact = times[(times.len() * 99).div_ceil(100) - 1];
        let found = trial.latency_p99_us().unwrap_or(0);
        prop_assert!(found >= exact && found <= exact + exact / 4, "{found} for {exact}");
    }

    /// Whatever is noted, in whatever order: what is kept is bounded, a share speaks only after the fewest answers, and the
    /// verdict is the same when it is asked again.
    #[test]
    fn it_takes_anything(notes in proptest::collection::vec((0_u8..5, 0_u64..40, -3.0_f64..3.0, any::<u64>()), 0..200)) {
        let mut trial = shadow();
        let (mut answers, mut row, mut late) = (0_u64, 0_u32, 0_u32);
        let mut in_row = false;
        for (kind, tick, level, us) in notes {
            match kind {
                0 | 1 => {
                    trial.note_answer(given(tick, level), us, us % 2 == 0);
                    answers += 1;
                    row = 0;
                    late = if us > 100 { late + 1 } else { 0 };
                }
                2 => trial.note_reference(given(tick, level)),
                3 => {
                    trial.note_error();
                    answers += 1;
                    row += 1;
                }
                _ => trial.note_skipped(),
            }
            in_row = row >= ERRORS_IN_ROW_MAX || late >= LATE_IN_ROW_MAX;
            let verdict = trial.judge(Mono(600));
            prop_assert_eq!(verdict, trial.judge(Mono(600)));
            if answers < 10 && !in_row {
                prop_assert_eq!(verdict, Verdict::Going);
            }
            if in_row {
                prop_assert!(matches!(verdict, Verdict::Failed(_)));
            }
            prop_assert!(trial.recent.iter().all(|recent| recent.len() <= RECENT_MAX));
            let shares: Vec<_> = [trial.disagreement(), trial.difference()].into_iter().flatten().collect();
            prop_assert!(shares.iter().all(|share| (0.0..=2.0).contains(share)), "{shares:?}");
        }
        let _ = in_row;
        prop_assert!(trial.words().len() <= 200);
    }
}
