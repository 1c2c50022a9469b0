use alloc::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{config::ModelInput, model::Missing, units::QuantityId};

fn config(version: &str, split: Option<Split>) -> ModelConfig {
    ModelConfig {
        id: "anomaly".into(),
        version: version.into(),
        window: 2,
        inputs: vec![ModelInput {
            quantity: QuantityId(0),
            mean: 0.0,
            scale: 1.0,
            range: None,
            impute: None,
        }],
        outputs: vec!["score".into()],
        threshold: Some(1.0),
        hysteresis: 0.25,
        output_ranges: vec![Some((0.0, 100.0))],
        missing: Missing::Abstain,
        trial: Some(TrialRules {
            shadow_ms: 5_000,
            canary_ms: 5_000,
            answers_min: 3,
            promotes: true,
            ..TrialRules::default()
        }),
        split,
        ..ModelConfig::default()
    }
}

struct Bench {
    model: Model,
    random: fastrand::Rng,
    now: u64,
    split: Option<Split>,
}

impl Bench {
    fn new(split: Option<Split>) -> Self {
        Self {
            model: Model::new(ModelId(0), config("1", split), Mono(0)),
            random: fastrand::Rng::with_seed(1),
            now: 0,
            split,
        }
    }

    fn assign(&mut self, phase: Phase, counting: Lane, beside: bool) -> bool {
        let mut lanes = [Some(Arc::new(config("1", self.split))), None];
        if beside {
            lanes[1] = Some(Arc::new(config("2", self.split)));
        }
        self.model.assign(Mono(self.now), phase, counting, lanes)
    }

    /// The next second: which lanes are asked.
    fn tick(&mut self) -> Vec<Lane> {
        self.now += 1_000;
        let mut actions = Vec::new();
        let summary = InputSummary {
            quantity: QuantityId(0),
            quality: Quality::Good,
            excluded: vec![],
        };
        let now = Mono(self.now);
        self.model.advance(
            (now, now),
            &[Some(1.0)],
            &[summary],
            Asking::Own,
            &mut actions,
        );
        let asked = actions.iter().filter_map(|action| match action {
            Action::Infer { lane, .. } => Some(*lane),
            _ => None,
        });
        asked.collect()
    }

    fn answer(&mut self, lane: Lane, score: f32) -> Option<Answered> {
        let outcome = if score.is_nan() {
            Err(InferenceFault {
                cause: "failed",
                detail: String::new(),
            })
        } else {
            Ok(vec![score])
        };
        let answer = Answer {
            lane,
            tick: Mono(self.now),
            took_us: 40,
            outcome,
        };
        self.model.answer(Mono(self.now), answer, &mut self.random)
    }

    /// A second in which each file answers its score; what the evidence asks for then.
    fn second(&mut self, scores: [f32; 2]) -> Option<(ModelStep, &'static str)> {
        for lane in self.tick() {
            self.answer(lane, scores[lane.index()])
                .expect("it was asked");
        }
        let step = self.model.judge(Mono(self.now));
        step.map(|(step, reason, _)| (step, reason))
    }
}

#[test]
fn a_good_file_goes_through_shadow_and_canary() {
    let mut bench = Bench::new(None);
    bench.second([0.5; 2]);
    bench.second([0.5; 2]);
    assert!(bench.assign(Phase::Shadow, Lane::First, true));
    assert!(
        !bench.assign(Phase::Shadow, Lane::First, true),
        "again changes nothing"
    );
    for _ in 0..4 {
        assert_eq!(bench.second([0.5, 0.6]), None);
    }
    assert_eq!(
        bench.second([0.5, 0.6]),
        Some((ModelStep::Canary, "evidence"))
    );
    assert_eq!(bench.second([0.5, 0.6]), None, "asked for once");
    assert!(bench.assign(Phase::Canary, Lane::Second, true));
    assert_eq!(
        bench.tick(),
        [Lane::Second, Lane::First],
        "the one that counts comes first"
    );
    let canary = bench.answer(Lane::Second, 0.6).expect("it was asked");
    assert_eq!(
        (canary.purpose.role, canary.purpose.counts),
        (Role::Canary, true)
    );
    let reference = bench.answer(Lane::First, 0.5).expect("it was asked");
    assert_eq!(
        (reference.purpose.role, reference.purpose.counts),
        (Role::Reference, false)
    );
    for _ in 0..3 {
        assert_eq!(bench.second([0.5, 0.6]), None);
    }
    assert_eq!(
        bench.second([0.5, 0.6]),
        Some((ModelStep::Promote, "evidence"))
    );
    let alone = [None, Some(Arc::new(config("2", None)))];
    assert!(
        bench
            .model
            .assign(Mono(bench.now), Phase::Alone, Lane::Second, alone)
    );
    assert_eq!(bench.tick(), [Lane::Second]);
    assert_eq!(bench.model.config().version, "2");
    assert!(bench.model.health(Mono(bench.now)).trial.is_none());
}

#[test]
fn a_new_file_begins_with_the_window_that_is_there() {
    let mut bench = Bench::new(None);
    bench.second([0.5; 2]);
    bench.second([0.5; 2]);
    bench.assign(Phase::Shadow, Lane::First, true);
    assert_eq!(bench.tick(), Lane::BOTH, "it need not be filled first");
}

#[test]
fn a_bad_canary_makes_room_at_once_and_the_step_comes_after() {
    let mut bench = Bench::new(None);
    bench.second([0.5; 2]);
    bench.assign(Phase::Canary, Lane::Second, true);
    bench.second([0.5, f32::NAN]);
    bench.second([0.5, f32::NAN]);
    assert_eq!(
        bench.second([0.5, f32::NAN]),
        Some((ModelStep::RollBack, "errors-in-row"))
    );
    assert_eq!(bench.tick(), [Lane::First]);
    let old = bench.answer(Lane::First, 0.5).expect("it was asked");
    assert_eq!((old.purpose.role, old.purpose.counts), (Role::Active, true));
}

#[test]
fn a_file_that_hangs_is_given_up() {
    let mut bench = Bench::new(None);
    bench.second([0.5; 2]);
    bench.assign(Phase::Shadow, Lane::First, true);
    for _ in 0..10 {
        for lane in bench.tick() {
            if lane == Lane::First {
                bench.answer(lane, 0.5);
            }
        }
        assert_eq!(bench.model.judge(Mono(bench.now)), None);
    }
    bench.tick();
    let step = bench.model.judge(Mono(bench.now));
    assert!(
        matches!(step, Some((ModelStep::RollBack, "hung", _))),
        "{step:?}"
    );
}

#[test]
fn outside_of_its_range_is_an_error_and_told_once() {
    let mut bench = Bench::new(None);
    bench.second([0.5; 2]);
    bench.tick();
    let outside = bench.answer(Lane::First, 101.0).expect("it was asked");
    assert!(outside.outside && outside.crossings[0].outside);
    assert_eq!(
        outside.crossings[0].detail,
        "score is 101, expected 0 to 100"
    );
    bench.tick();
    let again = bench.answer(Lane::First, 102.0).expect("it was asked");
    assert!(again.outside && again.crossings.is_empty());
    bench.tick();
    let back = bench.answer(Lane::First, 99.0).expect("it was asked");
    assert!(!back.outside && !back.crossings[0].outside);
}

#[test]
fn the_alarm_has_a_hysteresis() {
    let mut bench = Bench::new(None);
    bench.second([0.5; 2]);
    let mut alarm = |score| {
        bench.tick();
        let answered = bench.answer(Lane::First, score).expect("it was asked");
        answered.outcome.is_ok_and(|inference| inference.alarm)
    };
    let scores = [1.0, 1.01, 0.8, 0.75, 0.9, 1.1];
    assert_eq!(
        scores.map(&mut alarm),
        [false, true, true, false, false, true]
    );
}

#[test]
fn two_that_are_compared_take_all_windows_or_turns() {
    let mut both = Bench::new(Some(Split::Both));
    both.second([0.5; 2]);
    both.assign(Phase::Compared, Lane::First, true);
    assert_eq!(both.tick(), Lane::BOTH);
    let (a, b) = (
        both.answer(Lane::First, 0.5),
        both.answer(Lane::Second, 5.0),
    );
    let purpose =
        |answered: Option<Answered>| answered.map(|it| (it.purpose.role, it.purpose.counts));
    assert_eq!(purpose(a), Some((Role::A, true)));
    assert_eq!(purpose(b), Some((Role::B, false)));
    for _ in 0..50 {
        assert_eq!(both.second([0.5, 5.0]), None, "they may differ");
    }
    let mut turns = Bench::new(Some(Split::Time { period_ms: 2_000 }));
    turns.second([0.5; 2]);
    turns.assign(Phase::Compared, Lane::First, true);
    let mut asked = || {
        let lanes = turns.tick();
        let lane = lanes[0];
        let purpose = purpose(turns.answer(lane, 0.5));
        assert_eq!(lanes.len(), 1);
        purpose
    };
    let turn: Vec<_> = (0..4).map(|_| asked()).collect();
    let (a, b) = (Some((Role::A, true)), Some((Role::B, true)));
    assert_eq!(turn, [b, b, a, a]);
}

proptest! {
    /// Whatever the shell says and the runners answer: of the answers to one window exactly those of one file count, and
    /// what runs beside never does.
    #[test]
    fn one_file_counts(steps in proptest::collection::vec((0_u8..8, 0.0_f32..2.0, any::<bool>()), 1..120), turns in any::<bool>()) {
        let split = if turns { Split::Time { period_ms: 3_000 } } else { Split::Both };
        let mut bench = Bench::new(Some(split));
        for (kind, score, late) in steps {
            match kind {
                0 => { bench.assign(Phase::Alone, Lane::First, false); }
                1 => { bench.assign(Phase::Shadow, Lane::First, true); }
                2 => { bench.assign(Phase::Canary, Lane::Second, true); }
                3 => { bench.assign(Phase::Compared, Lane::First, true); }
                _ => {
                    let asked = bench.tick();
                    let mut counting = Vec::new();
                    for lane in asked {
                        if late && lane == Lane::Second {
                            continue;
                        }
                        let answered = bench.answer(lane, if kind == 4 { f32::NAN } else { score });
                        let purpose = answered.expect("it was asked").purpose;
                        let beside = matches!(purpose.role, Role::Shadow | Role::Reference);
                        prop_assert!(!(beside && purpose.counts));
                        counting.extend(purpose.counts.then_some(lane));
                    }
                    prop_assert!(counting.len() <= 1, "{:?}", counting);
                    let _ = bench.model.judge(Mono(bench.now));
                }
            }
            // What counts is always loaded, or this panics.
            let _ = bench.model.health(Mono(bench.now));
        }
    }
}
