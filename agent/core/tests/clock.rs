//! The wall clock labels and decides nothing.

#[cfg(test)]
mod tests {
    use quorate_core::{
        agent::Agent,
        config::{
            Config, GuardConfig, LinkConfig, OutboxConfig, QuantityConfig, Recovered, SensorConfig,
            VitalsConfig,
        },
        event::{Action, Event},
        record::{self, Body},
        units::{BootId, Epoch, Mono, SensorId, Seq, WallAnchor},
        vote::{Kind, OnQuorumLoss, OnSplit},
    };

    fn config() -> Config {
        let sensors = (0..3).map(|index| SensorConfig {
            id: format!("s-{index}"),
            range: None,
            device: None,
        });
        Config {
            device: "d".into(),
            status_codes: false,
            sensors: sensors.collect(),
            quantities: vec![QuantityConfig {
                id: "q".into(),
                unit: "1".into(),
                kind: Kind::Scalar,
                labels: Vec::new(),
                sensors: (0..3).map(SensorId).collect(),
                period_ms: 1_000,
                timeout_ms: 10_000,
                lead_ms: 200,
                accuracy_absolute: Some(0.5),
                accuracy_relative: 0.0,
                sources_min: 1,
                fail_count: 3,
                clear_count: 20,
                on_split: OnSplit::Weighted,
                on_quorum_loss: OnQuorumLoss::Hold,
                hold_age_ms_max: 10_000,
            }],
            models: Vec::new(),
            outbox: OutboxConfig::default(),
            link: Some(LinkConfig::default()),
            vitals: VitalsConfig::default(),
            guard: GuardConfig::default(),
        }
    }

    /// Three minutes with a wall clock that says `wall` at each whole second. What was done when, but for the records
    /// that only tell of the clock; and the dates of all records, in the order of their numbers.
    fn run(wall: impl Fn(u64) -> (i64, bool)) -> (Vec<String>, Vec<(u64, Option<String>)>) {
        let recovered = Recovered {
            epoch: Epoch(1),
            seq_next: Seq(1),
            boot: BootId([1; 16]),
            seed: 5,
        };
        let config = config();
        let mut agent = Agent::recover(config.clone(), recovered, Mono(5_000));
        let (mut deeds, mut dates, mut actions) = (Vec::new(), Vec::new(), Vec::new());
        for now_ms in (5_000..185_000).step_by(50) {
            let now = Mono(now_ms);
            if now_ms % 1_000 == 0 {
                let (unix_ms, synced) = wall(now_ms);
                let anchor = WallAnchor {
                    mono: now,
                    unix_ms,
                    synced,
                };
                agent.handle(now, Event::Wall(anchor), &mut actions);
            }
            agent.handle(now, Event::Tick, &mut actions);
            for action in core::mem::take(&mut actions) {
                let event = match &action {
                    Action::Store { record } => {
                        let json = record::encode(&config, record).payload;
                        let json: serde_json::Value =
                            serde_json::from_slice(&json).expect("a record is JSON");
                        dates.push((record.seq.0, json["time"].as_str().map(str::to_owned)));
                        if let Body::Vote { .. } = &record.body {
                            deeds.push(format!("{now_ms} vote of {:?}", record.stamp.mono));
                        }
                        Some(Event::Stored {
                            first: record.seq,
                            last: record.seq,
                        })
                    }
                    Action::Poll { sensor, .. } => {
                        deeds.push(format!("{now_ms} {action:?}"));
                        Some(Event::Sample {
                            sensor: *sensor,
                            taken: now,
                            value: Ok(20.0),
                        })
                    }
                    Action::Connect { .. } | Action::StrokeWatchdog => {
                        deeds.push(format!("{now_ms} {action:?}"));
                        None
                    }
                    _ => None,
                };
                if let Some(event) = event {
                    agent.handle(now, event, &mut actions);
                }
            }
        }
        (deeds, dates)
    }

    const TRUE_MS: i64 = 1_795_000_000_000;

    fn at(base_ms: i64, now_ms: u64) -> i64 {
        base_ms.saturating_add_unsigned(now_ms)
    }

    #[test]
    fn a_wall_clock_that_jumps_moves_no_timer_and_breaks_no_order() {
        let (straight, dates) = run(|now_ms| (at(TRUE_MS, now_ms), true));
        assert!(straight.len() > 500 && dates.iter().all(|(_, time)| time.is_some()));
        for jump_ms in [86_400_000, -86_400_000, 1_000_000_000_000, -TRUE_MS] {
            let (jumping, dates) = run(|now_ms| {
                let jump_ms = if now_ms / 20_000 % 2 == 1 { jump_ms } else { 0 };
                (at(TRUE_MS + jump_ms, now_ms), true)
            });
            assert_eq!(jumping, straight, "a jump of {jump_ms} ms");
            assert!(dates.windows(2).all(|two| two[0].0 < two[1].0));
            let from_1970 = |(_, time): &(u64, Option<String>)| {
                time.as_deref().is_some_and(|time| time < "2026")
            };
            assert!(!dates.iter().any(from_1970));
        }
    }

    #[test]
    fn records_of_an_unset_clock_carry_no_date_and_the_next_ones_do() {
        let (_, dates) = run(|now_ms| {
            let is_set = now_ms > 60_000;
            (at(if is_set { TRUE_MS } else { 0 }, now_ms), is_set)
        });
        let undated = dates.iter().take_while(|(_, time)| time.is_none()).count();
        assert!(undated > 50, "{undated}");
        let rest = &dates[undated..];
        assert!(rest.len() > 100);
        assert!(
            rest.iter()
                .all(|(_, time)| time.as_deref() >= Some("2026-11"))
        );
    }
}
