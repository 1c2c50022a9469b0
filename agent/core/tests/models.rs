//! Models among each other and through their changes, as the whole agent has them.

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use quorate_core::{
        agent::Agent,
        config::{
            Config, GuardConfig, ModelConfig, ModelInput, OutboxConfig, QuantityConfig, Recovered,
            SensorConfig, VitalsConfig,
        },
        event::{Action, Event},
        model::{Impute, Lane, Missing, ModelEvent, ModelStep, Phase, TrialRules},
        record::{self, Body},
        units::{BootId, Epoch, ModelId, Mono, QuantityId, SensorId, Seq},
        vote::{Kind, OnQuorumLoss, OnSplit},
    };
    use serde_json::Value;

    fn model(id: &str, inputs: &[u16], missing: Missing) -> ModelConfig {
        let input = |quantity: &u16| ModelInput {
            quantity: QuantityId(*quantity),
            mean: 0.0,
            scale: 1.0,
            range: None,
            impute: (missing == Missing::Impute).then_some(Impute::Hold { ms: 3_000 }),
        };
        ModelConfig {
            id: id.into(),
            version: "1".into(),
            window: 1,
            inputs: inputs.iter().map(input).collect(),
            outputs: vec!["score".into()],
            threshold: Some(1.0),
            output_ranges: vec![None],
            missing,
            single_sensor: true,
            ..ModelConfig::default()
        }
    }

    fn config(models: Vec<ModelConfig>) -> Config {
        let sensor = |index: u16| SensorConfig {
            id: format!("s-{index}"),
            range: None,
            device: None,
        };
        let quantity = |index: u16| QuantityConfig {
            id: format!("q-{index}"),
            unit: "1".into(),
            kind: Kind::Scalar,
            labels: Vec::new(),
            sensors: vec![SensorId(index)],
            period_ms: 1_000,
            timeout_ms: 1_000,
            lead_ms: 0,
            accuracy_absolute: Some(0.5),
            accuracy_relative: 0.0,
            sources_min: 1,
            fail_count: 3,
            clear_count: 20,
            on_split: OnSplit::Weighted,
            on_quorum_loss: OnQuorumLoss::Bad,
            hold_age_ms_max: 0,
        };
        let config = Config {
            device: "d".into(),
            status_codes: false,
            sensors: (0..2).map(sensor).collect(),
            quantities: (0..2).map(quantity).collect(),
            models,
            outbox: OutboxConfig::default(),
            link: None,
            vitals: VitalsConfig::default(),
            guard: GuardConfig::default(),
        };
        config.validate().unwrap();
        config
    }

    struct Bench {
        agent: Agent,
        now: u64,
        steps: Vec<(ModelStep, &'static str)>,
    }

    impl Bench {
        fn new(models: Vec<ModelConfig>) -> Self {
            let recovered = Recovered {
                epoch: Epoch(1),
                seq_next: Seq(1),
                boot: BootId([1; 16]),
                seed: 5,
            };
            Self {
                agent: Agent::recover(config(models), recovered, Mono(0)),
                now: 0,
                steps: Vec::new(),
            }
        }

        /// One second in which the sensors say this and each file answers its score; the bodies of all records.
        fn second(&mut self, values: [Option<f64>; 2], scores: [f32; 2]) -> Vec<Value> {
            let mut bodies = Vec::new();
            let mut events: Vec<Event> = (0..)
                .zip(values)
                .filter_map(sample(self.now + 900))
                .collect();
            self.now += 900;
            self.handle(&mut events, scores, &mut bodies);
            self.now += 100;
            self.handle(&mut vec![Event::Tick], scores, &mut bodies);
            bodies
        }

        fn handle(&mut self, events: &mut Vec<Event>, scores: [f32; 2], bodies: &mut Vec<Value>) {
            while let Some(event) = events.pop() {
                let mut actions = Vec::new();
                self.agent.handle(Mono(self.now), event, &mut actions);
                for action in actions {
                    match action {
                        Action::Infer {
                            model, lane, tick, ..
                        } => events.push(Event::Inferred {
                            model,
                            lane,
                            tick,
                            took_us: 50,
                            outcome: Ok(vec![scores[lane.index()]]),
                        }),
                        Action::Store { record } => {
                            if !matches!(record.body, Body::Vote { .. }) {
                                let stored = record::encode(self.agent.config(), &record);
                                let text: Value = serde_json::from_slice(&stored.payload).unwrap();
                                bodies.push(text["body"].clone());
                            }
                            events.push(Event::Stored {
                                first: record.seq,
                                last: record.seq,
                            });
                        }
                        Action::ModelStep { step, reason, .. } => self.steps.push((step, reason)),
                        _ => {}
                    }
                }
            }
        }
    }

    fn sample(at_ms: u64) -> impl Fn((u16, Option<f64>)) -> Option<Event> {
        move |(sensor, value)| {
            Some(Event::Sample {
                sensor: SensorId(sensor),
                taken: Mono(at_ms),
                value: Ok(value?),
            })
        }
    }

    /// Model and for whom, of the inferences among these.
    fn answers(bodies: &[Value]) -> Vec<(String, String)> {
        let text = |body: &Value, key: &str| body[key].as_str().unwrap_or("-").to_owned();
        let inferences = bodies.iter().filter(|body| body.get("outputs").is_some());
        inferences
            .map(|body| (text(body, "model"), text(body, "fallback_for")))
            .collect()
    }

    fn alarms(bodies: &[Value]) -> Vec<String> {
        let alarms = bodies.iter().filter(|body| body["what"] == "alarm");
        alarms
            .map(|body| format!("{} {}", body["subject"], body["to"]).replace('"', ""))
            .collect()
    }

    #[test]
    fn a_fallback_answers_while_the_other_abstains() {
        let first = model("first", &[0, 1], Missing::Fallback(ModelId(1)));
        let second = model("second", &[0], Missing::Abstain);
        let mut bench = Bench::new(vec![first, second]);
        let own = ("first".to_owned(), "-".to_owned());
        let other = ("second".to_owned(), "first".to_owned());
        bench.second([Some(1.0), Some(1.0)], [0.5; 2]);
        let bodies = bench.second([Some(1.0), Some(1.0)], [0.5; 2]);
        assert_eq!(
            answers(&bodies),
            std::slice::from_ref(&own),
            "the second stands by"
        );
        let state =
            |bench: &Bench, index: usize| bench.agent.health(Mono(bench.now)).models[index].state;
        assert_eq!((state(&bench, 0), state(&bench, 1)), ("running", "standby"));
        bench.second([Some(1.0), None], [5.0; 2]);
        let bodies = bench.second([Some(1.0), None], [5.0; 2]);
        assert_eq!(answers(&bodies), [other]);
        assert_eq!(state(&bench, 0), "abstaining");
        let bodies = bench.second([Some(1.0), Some(1.0)], [5.0; 2]);
        assert!(answers(&bodies).contains(&own));
        let bodies = bench.second([Some(1.0), Some(1.0)], [5.0; 2]);
        assert_eq!(answers(&bodies), [own]);
        assert_eq!(alarms(&bodies), ["second cleared"], "it stands by again");
    }

    #[test]
    fn what_is_made_up_is_marked_and_ends() {
        let mut bench = Bench::new(vec![model("first", &[0, 1], Missing::Impute)]);
        bench.second([Some(1.0), Some(1.0)], [0.5; 2]);
        let bodies = bench.second([Some(1.0), Some(1.0)], [0.5; 2]);
        assert_eq!(bodies[0].get("imputed"), None, "{}", bodies[0]);
        let mut marked = 0;
        for _ in 0..10 {
            for body in bench.second([Some(1.0), None], [0.5; 2]) {
                marked += u32::from(body["imputed"] == serde_json::json!(["q-1"]));
            }
        }
        assert!((2..=4).contains(&marked), "{marked} for 3 s");
        assert_eq!(
            bench.agent.health(Mono(bench.now)).models[0].state,
            "abstaining"
        );
    }

    #[test]
    fn a_shadow_is_recorded_and_raises_nothing_and_a_canary_does() {
        let rules = TrialRules {
            shadow_ms: 3_000,
            canary_ms: 3_000,
            answers_min: 3,
            disagreement_max: 1.0,
            errors_share_max: 1.0,
            promotes: true,
            ..TrialRules::default()
        };
        let old = ModelConfig {
            trial: Some(rules),
            ..model("first", &[0], Missing::Abstain)
        };
        let new = ModelConfig {
            version: "2".into(),
            ..old.clone()
        };
        let mut bench = Bench::new(vec![old.clone()]);
        let lanes = || [Some(Arc::new(old.clone())), Some(Arc::new(new.clone()))];
        let assigned = |phase, counting| {
            Event::Model(ModelEvent::Assigned {
                model: ModelId(0),
                phase,
                counting,
                lanes: lanes(),
            })
        };
        let values = [Some(1.0), Some(1.0)];
        bench.second(values, [0.5, 5.0]);
        let bodies = bench.second(values, [0.5, 5.0]);
        for key in ["role", "counts", "fallback_for", "imputed"] {
            assert_eq!(bodies[0].get(key), None, "as before: {}", bodies[0]);
        }
        bench.handle(
            &mut vec![assigned(Phase::Shadow, Lane::First)],
            [0.5; 2],
            &mut Vec::new(),
        );
        let mut seen = Vec::new();
        for _ in 0..4 {
            let bodies = bench.second(values, [0.5, 5.0]);
            assert_eq!(alarms(&bodies), [""; 0]);
            seen.extend(bodies);
        }
        let shadow = seen.iter().find(|body| body["role"] == "shadow").unwrap();
        assert_eq!(
            (&shadow["version"], &shadow["alarm"], &shadow["counts"]),
            (&"2".into(), &true.into(), &false.into())
        );
        assert_eq!(bench.steps, [(ModelStep::Canary, "evidence")]);
        bench.handle(
            &mut vec![assigned(Phase::Canary, Lane::Second)],
            [0.5; 2],
            &mut Vec::new(),
        );
        let bodies = bench.second(values, [0.5, 5.0]);
        assert_eq!(alarms(&bodies), ["first raised"]);
        let roles: Vec<_> = bodies
            .iter()
            .filter_map(|body| body["role"].as_str())
            .collect();
        assert!(
            roles.contains(&"canary") && roles.contains(&"reference"),
            "{roles:?}"
        );
        // A canary that fails makes room by itself, and the alarm is that of the old one again.
        let mut bodies = Vec::new();
        for _ in 0..4 {
            bodies.extend(bench.second(values, [0.5, f32::NAN]));
        }
        assert_eq!(
            bench.steps.last(),
            Some(&(ModelStep::RollBack, "errors-in-row"))
        );
        assert_eq!(alarms(&bodies), ["first cleared"]);
    }
}
