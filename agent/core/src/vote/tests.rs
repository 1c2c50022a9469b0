//! Properties of the voter, on signals made here from a seeded generator.

#![cfg(test)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod properties {
    use alloc::vec::Vec;

    use fastrand::Rng;
    use proptest::prelude::*;

    use super::super::{
        ChannelState, Kind, Method, OnQuorumLoss, OnSplit, Quality, Reading, Reason, Vote, Voter,
        VoterConfig,
    };

    /// Numbers of every kind: not a number, infinite, the smallest, the largest, and some that make sense.
    fn any_bits() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            prop::num::f64::ANY,
            Just(f64::NAN),
            Just(f64::NEG_INFINITY),
            -1e3..1e3_f64,
        ]
    }

    /// Ticks after which every channel is commissioned.
    const LEARNED: usize = 200;

    /// A slow walk seen by `channels` channels, each with noise within 1 of it.
    struct World {
        random: Rng,
        truth: f64,
        channels: usize,
    }

    impl World {
        fn new(seed: u64, channels: usize) -> Self {
            Self {
                random: Rng::with_seed(seed),
                truth: 20.0,
                channels,
            }
        }

        fn next(&mut self) -> Vec<f64> {
            self.truth += 0.2 * (self.random.f64() - 0.5);
            (0..self.channels)
                .map(|_| self.truth + 2.0 * self.random.f64() - 1.0)
                .collect()
        }
    }

    fn fresh(values: &[f64]) -> Vec<Reading> {
        values.iter().map(|value| Reading::fresh(*value)).collect()
    }

    /// A voter that has seen `ticks` ticks of a healthy world.
    fn learned(config: VoterConfig, world: &mut World, ticks: usize) -> (Voter, Vote) {
        let mut voter = Voter::new(config);
        let mut vote = Vote::empty(world.channels);
        for _ in 0..ticks {
            voter.vote(&fresh(&world.next()), &mut vote);
        }
        (voter, vote)
    }

    fn out(state: ChannelState) -> bool {
        matches!(
            state,
            ChannelState::Quarantined | ChannelState::Probation | ChannelState::Failed
        )
    }

    /// A healthy world, then one channel that is off by `offset`, tick by tick.
    fn faulty_run(seed: u64, channels: usize, offset: f64) -> Vec<Vec<f64>> {
        let mut world = World::new(seed, channels);
        let mut rows: Vec<_> = (0..LEARNED).map(|_| world.next()).collect();
        for _ in 0..40 {
            let mut row = world.next();
            row[0] += offset;
            rows.push(row);
        }
        rows
    }

    #[test]
    fn a_forgotten_channel_is_learned_anew_and_the_others_go_on() {
        let mut world = World::new(7, 3);
        let (mut voter, mut vote) = learned(VoterConfig::new(3), &mut world, LEARNED);
        let off = |world: &mut World| {
            let mut row = world.next();
            row[0] += 30.0;
            row
        };
        for _ in 0..40 {
            voter.vote(&fresh(&off(&mut world)), &mut vote);
        }
        assert!(out(vote.verdicts[0].state), "{:?}", vote.verdicts[0]);
        voter.forget(3);
        voter.forget(0);
        voter.vote(&fresh(&world.next()), &mut vote);
        assert_eq!(vote.verdicts[0].state, ChannelState::Learning);
        assert!(vote.verdicts[1].included && vote.verdicts[2].included);
        for _ in 0..LEARNED {
            voter.vote(&fresh(&world.next()), &mut vote);
        }
        assert_eq!(vote.verdicts[0].state, ChannelState::Healthy);
        // Forgetting makes no faulty channel good.
        voter.forget(0);
        for _ in 0..LEARNED {
            voter.vote(&fresh(&off(&mut world)), &mut vote);
            assert!(!vote.verdicts[0].included);
        }
    }

    #[test]
    fn a_forgotten_code_is_believed_again_at_once() {
        let mut method = Method::new(Kind::Codes(2), VoterConfig::new(3));
        let mut vote = Vote::empty(3);
        for _ in 0..10 {
            method.vote(&fresh(&[0.0, 0.0, 1.0]), &mut vote);
        }
        assert!(out(vote.verdicts[2].state));
        method.forget(2);
        method.vote(&fresh(&[0.0, 0.0, 0.0]), &mut vote);
        assert!(vote.verdicts[2].included);
    }

    /// Three channels, one of which is off by `size` for some ticks: the value never follows it once it is said to be
    /// good, and in the end all are.
    fn a_bias_of_the_first_ticks_is_out(
        seed: u64,
        (from, length): (u32, u32),
        size: f64,
        given: bool,
    ) -> Result<(), TestCaseError> {
        let mut world = World::new(seed, 3);
        let config = VoterConfig {
            accuracy_absolute: given.then_some(1.0),
            ..VoterConfig::new(3)
        };
        let mut voter = Voter::new(config);
        let mut vote = Vote::empty(3);
        for tick in 0..600_u32 {
            let biased = tick >= from && tick < from + length;
            let mut row = world.next();
            row[0] += if biased { size } else { 0.0 };
            voter.vote(&fresh(&row), &mut vote);
            let off = (vote.value.unwrap() - world.truth).abs();
            let learning = vote.quality == Quality::Uncertain
                || vote
                    .verdicts
                    .iter()
                    .any(|verdict| verdict.state == ChannelState::Learning);
            prop_assert!(learning || off < 2.4, "{} off at {}", off, tick);
        }
        prop_assert_eq!(vote.quality, Quality::Good);
        prop_assert!((vote.value.unwrap() - world.truth).abs() < 1.3);
        Ok(())
    }

    /// One stray more than are left out of a look's variance widened it until none was seen, and the bias was learned.
    #[test]
    fn four_strays_do_not_hide_one_another() {
        for (seed, ticks, size, given) in [
            (12_412_496_014_609_975_928, (5, 181), 12.29, false),
            (5_348_845_116_947_961_280, (4, 155), 11.86, false),
            (14_814_964_940_382_841_473, (4, 186), 14.95, false),
            (7_274_670_285_927_433_087, (4, 149), 13.9, false),
            (17_320_604_275_380_577_743, (4, 104), 14.76, true),
        ] {
            a_bias_of_the_first_ticks_is_out(seed, ticks, size, given).unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn order_does_not_matter(seed: u64, channels in 2_usize..7, turn in 1_usize..7, offset in -40.0..40.0_f64) {
            let place = |index: usize| (index + turn) % channels;
            let mut straight = (Voter::new(VoterConfig::new(channels)), Vote::empty(channels));
            let mut turned = straight.clone();
            for row in faulty_run(seed, channels, offset) {
                let mut other = row.clone();
                for (index, value) in row.iter().enumerate() {
                    other[place(index)] = *value;
                }
                straight.0.vote(&fresh(&row), &mut straight.1);
                turned.0.vote(&fresh(&other), &mut turned.1);
                prop_assert!((straight.1.value.unwrap() - turned.1.value.unwrap()).abs() < 1e-6);
                for index in 0..channels {
                    prop_assert_eq!(straight.1.verdicts[index], turned.1.verdicts[place(index)]);
                }
            }
        }

        #[test]
        fn scale_and_shift_pass_through(seed: u64, channels in 1_usize..7, power in -20_i32..20, shift in -100.0..100.0_f64, offset in -40.0..40.0_f64) {
            let scale = libm::exp2(f64::from(power));
            let mut plain = (Voter::new(VoterConfig::new(channels)), Vote::empty(channels));
            let mut moved = plain.clone();
            for row in faulty_run(seed, channels, offset) {
                let other: Vec<f64> = row.iter().map(|value| scale * (value + shift)).collect();
                plain.0.vote(&fresh(&row), &mut plain.1);
                moved.0.vote(&fresh(&other), &mut moved.1);
                let expected = scale * (plain.1.value.unwrap() + shift);
                prop_assert!((moved.1.value.unwrap() - expected).abs() < 1e-6 * scale);
                prop_assert!((moved.1.uncertainty.unwrap() - scale * plain.1.uncertainty.unwrap()).abs() < 1e-6 * scale);
                prop_assert_eq!(&plain.1.verdicts, &moved.1.verdicts);
            }
        }

        #[test]
        fn a_common_disturbance_isolates_nobody(seed: u64, channels in 1_usize..7, size in -1e6..1e6_f64) {
            let mut world = World::new(seed, channels);
            let (mut voter, mut vote) = learned(VoterConfig::new(channels), &mut world, LEARNED);
            for tick in 0..60 {
                let row: Vec<f64> = world.next().iter().map(|value| if tick % 20 < 10 { value + size } else { *value }).collect();
                voter.vote(&fresh(&row), &mut vote);
                prop_assert!(vote.verdicts.iter().all(|verdict| !out(verdict.state)));
            }
        }

        /// A fault beyond the gate; what lies below it is bounded by the gate, as the documentation says.
        #[test]
        fn few_faulty_channels_do_not_move_the_value(seed: u64, faults in 1_usize..4, size in 12.0..1e9_f64, sign: bool) {
            let mut world = World::new(seed, 2 * faults + 1);
            let (mut voter, mut vote) = learned(VoterConfig::new(world.channels), &mut world, LEARNED);
            for _ in 0..60 {
                let mut row = world.next();
                for (index, value) in row.iter_mut().take(faults).enumerate() {
                    *value += if sign == (index % 2 == 0) { size } else { -size };
                }
                voter.vote(&fresh(&row), &mut vote);
                // The learned offsets may differ from none by a part of the noise.
                prop_assert!((vote.value.unwrap() - world.truth).abs() < 1.3);
                prop_assert!(vote.quality != Quality::Good);
                prop_assert!(vote.verdicts.iter().skip(faults).all(|verdict| !out(verdict.state)));
            }
            prop_assert!(vote.verdicts.iter().take(faults).all(|verdict| out(verdict.state)));
        }

        #[test]
        fn any_input_gives_finite_output(
            channels in 1_usize..7,
            circular: bool,
            rows in prop::collection::vec(prop::collection::vec((any_bits(), 0_u8..8, 0_u32..2000), 6), 1..120),
        ) {
            let kind = if circular { Kind::Circular { low: 0.0, high: 360.0 } } else { Kind::Scalar };
            let mut voter = Method::new(kind, VoterConfig::new(channels));
            let mut vote = Vote::empty(channels);
            for row in rows {
                let readings: Vec<Reading> = row.iter().take(channels).map(|(value, kind, age)| Reading {
                    value: *value,
                    usable: *kind != 0,
                    fresh: *kind > 1,
                    age_ticks: if *kind > 1 { 0 } else { *age },
                    fault: None,
                }).collect();
                voter.vote(&readings, &mut vote);
                prop_assert_eq!(vote.value.is_none(), vote.quality == Quality::Bad);
                prop_assert_eq!(vote.value.is_none(), vote.uncertainty.is_none());
                prop_assert!(vote.value.is_none_or(f64::is_finite));
                prop_assert!(vote.uncertainty.is_none_or(|uncertainty| uncertainty.is_finite() && uncertainty >= 0.0));
                prop_assert!(vote.used != 1 || vote.quality == Quality::Uncertain);
                prop_assert_eq!(vote.used, vote.verdicts.iter().filter(|verdict| verdict.included).count());
            }
        }

        #[test]
        fn one_tick_never_isolates_a_majority(seed: u64, channels in 3_usize..9) {
            let mut world = World::new(seed, channels);
            let (mut voter, mut vote) = learned(VoterConfig::new(channels), &mut world, LEARNED);
            let mut random = Rng::with_seed(seed);
            for _ in 0..200 {
                let before: Vec<bool> = vote.verdicts.iter().map(|verdict| out(verdict.state)).collect();
                let row: Vec<f64> = world.next().iter().map(|value| value + if random.u8(..) < 100 { random.f64() * 60.0 } else { 0.0 }).collect();
                voter.vote(&fresh(&row), &mut vote);
                let trusted = before.iter().filter(|isolated| !**isolated).count();
                let newly = before.iter().zip(&vote.verdicts).filter(|(isolated, verdict)| !**isolated && out(verdict.state)).count();
                prop_assert!(2 * newly <= trusted);
            }
        }
    }

    /// A pair that comes to differ slowly and by the same in both, so that nobody can be blamed.
    fn split_pair(on_split: OnSplit) -> (f64, Vote) {
        let mut world = World::new(7, 2);
        let config = VoterConfig {
            on_split,
            // The policy for a lost quorum is not asked on a split.
            on_quorum_loss: OnQuorumLoss::Bad,
            hold_ticks_max: 3,
            ..VoterConfig::new(2)
        };
        let (mut voter, mut vote) = learned(config, &mut world, 1200);
        let mut agreed = vote.value.unwrap();
        for tick in 0..400_u32 {
            let mut row = world.next();
            row[0] += f64::from(tick) * 0.03;
            row[1] -= f64::from(tick) * 0.03;
            voter.vote(&fresh(&row), &mut vote);
            if vote.quality == Quality::Uncertain {
                assert!(
                    vote.uncertainty.unwrap() > 0.5,
                    "a split is not reported as certain"
                );
                return (agreed, vote);
            }
            agreed = vote.value.unwrap_or(agreed);
        }
        (agreed, vote)
    }

    #[test]
    fn a_split_follows_the_policy() {
        let (_, weighted) = split_pair(OnSplit::Weighted);
        let (agreed, hold) = split_pair(OnSplit::Hold);
        let (_, high) = split_pair(OnSplit::High);
        let (_, low) = split_pair(OnSplit::Low);
        for vote in [&weighted, &hold, &high, &low] {
            assert_eq!(vote.quality, Quality::Uncertain);
        }
        assert_eq!(hold.value, Some(agreed));
        assert!(low.value < weighted.value && weighted.value < high.value);
        assert!(high.uncertainty >= weighted.uncertainty);
    }

    #[test]
    fn a_lost_quorum_follows_the_policy() {
        for (policy, expected) in [
            (OnQuorumLoss::Hold, Quality::Uncertain),
            (OnQuorumLoss::Bad, Quality::Bad),
        ] {
            let mut world = World::new(3, 3);
            let config = VoterConfig {
                sources_min: 2,
                on_quorum_loss: policy,
                hold_ticks_max: 5,
                ..VoterConfig::new(3)
            };
            let (mut voter, mut vote) = learned(config, &mut world, LEARNED);
            let mut uncertainty = vote.uncertainty.unwrap();
            for tick in 0..8 {
                let mut readings = fresh(&world.next());
                readings[1] = Reading::absent(Reason::Timeout);
                readings[2] = Reading::absent(Reason::SensorError);
                voter.vote(&readings, &mut vote);
                assert_eq!(vote.quality, if tick < 5 { expected } else { Quality::Bad });
                assert_eq!(vote.verdicts[2].reason, Some(Reason::SensorError));
                assert_eq!(vote.used, 0);
                if let Some(next) = vote.uncertainty {
                    assert!(next > uncertainty, "a held value grows less certain");
                    uncertainty = next;
                }
            }
            voter.vote(&fresh(&world.next()), &mut vote);
            assert_eq!(vote.quality, Quality::Good);
        }
    }

    #[test]
    fn one_channel_is_never_good() {
        let mut world = World::new(5, 1);
        let (_, vote) = learned(VoterConfig::new(1), &mut world, LEARNED);
        assert_eq!((vote.quality, vote.used), (Quality::Uncertain, 1));
    }

    #[test]
    fn a_channel_wrong_from_the_start_is_named() {
        let mut world = World::new(11, 3);
        let mut voter = Voter::new(VoterConfig::new(3));
        let mut vote = Vote::empty(3);
        for _ in 0..60 {
            let mut row = world.next();
            row[1] += 30.0;
            voter.vote(&fresh(&row), &mut vote);
        }
        assert_eq!(vote.verdicts[1].reason, Some(Reason::BootOffset));
        assert!((vote.value.unwrap() - world.truth).abs() < 1.3);
    }

    #[test]
    fn a_stuck_channel_is_named_and_a_still_quantity_is_not() {
        let mut world = World::new(13, 3);
        let (mut voter, mut vote) = learned(VoterConfig::new(3), &mut world, LEARNED);
        let still = fresh(&world.next());
        for _ in 0..300 {
            voter.vote(&still, &mut vote);
        }
        assert_eq!(vote.quality, Quality::Good);
        for _ in 0..300 {
            let mut row = world.next();
            row[2] = 20.5;
            voter.vote(&fresh(&row), &mut vote);
        }
        assert_eq!(vote.verdicts[2].state, ChannelState::Quarantined);
        assert_eq!(vote.verdicts[2].reason, Some(Reason::Stuck));
    }

    #[test]
    fn a_fault_that_ends_is_forgiven() {
        let mut world = World::new(17, 3);
        let (mut voter, mut vote) = learned(VoterConfig::new(3), &mut world, LEARNED);
        for _ in 0..20 {
            let mut row = world.next();
            row[0] += 15.0;
            voter.vote(&fresh(&row), &mut vote);
        }
        assert_eq!(vote.verdicts[0].state, ChannelState::Quarantined);
        assert_eq!(vote.verdicts[0].reason, Some(Reason::Bias));
        voter.vote(&fresh(&world.next()), &mut vote);
        assert_eq!(vote.verdicts[0].state, ChannelState::Probation);
        for _ in 0..30 {
            voter.vote(&fresh(&world.next()), &mut vote);
        }
        assert_eq!(vote.quality, Quality::Good);
    }

    #[test]
    fn a_newcomer_is_learned_before_it_votes() {
        let mut world = World::new(19, 4);
        let mut voter = Voter::new(VoterConfig::new(4));
        let mut vote = Vote::empty(4);
        for tick in 0..300 {
            let mut readings = fresh(&world.next());
            if tick < 150 {
                readings[3] = Reading::absent(Reason::NoData);
            }
            voter.vote(&readings, &mut vote);
            if tick == 160 {
                assert_eq!(vote.verdicts[3].state, ChannelState::Learning);
                assert_eq!(vote.quality, Quality::Degraded);
            }
        }
        assert_eq!(vote.quality, Quality::Good);
    }

    /// Runs `ticks` votes of a world in which channel 0 is off by what `off` says; the last vote.
    fn run(voter: &mut Voter, world: &mut World, ticks: u32, off: impl Fn(u32) -> f64) -> Vote {
        let mut vote = Vote::empty(world.channels);
        for tick in 0..ticks {
            let mut row = world.next();
            row[0] += off(tick);
            voter.vote(&fresh(&row), &mut vote);
        }
        vote
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_bias_during_commissioning_is_not_learned(seed: u64, from in 0_u32..40, length in 1_u32..200, size in 6.0..60.0_f64, given: bool) {
            // An offset of up to four times a given accuracy, or of a few spreads where none is given, is a property of
            // the channel (docs/voting.md); what a look measures of it is off by its noise.
            let size = if given { size } else { size + 4.0 };
            a_bias_of_the_first_ticks_is_out(seed, (from, length), size, given)?;
        }

        #[test]
        fn what_changed_while_nobody_looked_is_not_learned(seed: u64, size in 8.0..60.0_f64) {
            let mut world = World::new(seed, 3);
            let (voter, _) = learned(VoterConfig::new(3), &mut world, 1200);
            let before = voter.learned().unwrap();
            let mut voter = Voter::new(VoterConfig::new(3));
            prop_assert!(voter.restore(&before));
            let vote = run(&mut voter, &mut world, 60, |_| size);
            prop_assert!(out(vote.verdicts[0].state));
            prop_assert!((vote.value.unwrap() - world.truth).abs() < 1.3);
        }
    }

    #[test]
    fn a_drift_from_the_first_vote_is_a_fault_where_an_accuracy_is_given() {
        for slope in [0.005, 0.02, 0.1] {
            let mut world = World::new(23, 3);
            let config = VoterConfig {
                accuracy_absolute: Some(1.0),
                ..VoterConfig::new(3)
            };
            let mut voter = Voter::new(config);
            let vote = run(&mut voter, &mut world, 2000, |tick| slope * f64::from(tick));
            assert!(!vote.verdicts[0].included, "slope {slope}: {vote:?}");
            assert!((vote.value.unwrap() - world.truth).abs() < 2.5);
        }
    }

    #[test]
    fn a_pair_that_differs_much_from_the_start_is_not_good() {
        let mut world = World::new(29, 2);
        let mut voter = Voter::new(VoterConfig::new(2));
        let vote = run(&mut voter, &mut world, 300, |_| 30.0);
        assert_eq!(vote.quality, Quality::Uncertain);
        assert!(vote.uncertainty.unwrap() > 7.0);
    }

    #[test]
    fn what_was_learned_comes_back_and_is_tried() {
        let mut world = World::new(31, 3);
        let (voter, _) = learned(VoterConfig::new(3), &mut world, 1200);
        let before = voter.learned().unwrap();
        assert!(!Voter::new(VoterConfig::new(2)).restore(&before));
        let mut unsound = before.clone();
        unsound.channels[1].noise = f64::NAN;
        assert!(!Voter::new(VoterConfig::new(3)).restore(&unsound));

        let mut restored = Voter::new(VoterConfig::new(3));
        assert!(restored.restore(&before));
        assert_eq!(restored.learned().unwrap(), before);
        let vote = run(&mut restored, &mut world, 10, |_| 0.0);
        assert_eq!(vote.verdicts[1].state, ChannelState::Learning);
        let vote = run(&mut restored, &mut world, 40, |_| 0.0);
        assert_eq!(vote.verdicts[1].state, ChannelState::Healthy);
        assert_eq!(vote.quality, Quality::Good);
    }

    #[test]
    fn offsets_that_no_majority_bears_out_are_learned_anew() {
        let mut world = World::new(37, 3);
        let (voter, _) = learned(VoterConfig::new(3), &mut world, 1200);
        let mut before = voter.learned().unwrap();
        before.channels[0].offset += 60.0;
        before.channels[2].offset -= 60.0;
        let mut restored = Voter::new(VoterConfig::new(3));
        assert!(restored.restore(&before));
        let vote = run(&mut restored, &mut world, 200, |_| 0.0);
        assert_eq!(vote.quality, Quality::Good);
        assert!((vote.value.unwrap() - world.truth).abs() < 1.3);
    }

    #[test]
    fn the_voter_explains_itself() {
        let mut world = World::new(41, 3);
        let mut voter = Voter::new(VoterConfig::new(3));
        run(&mut voter, &mut world, 500, |_| 1.0);
        let (whole, views) = voter.explain();
        assert!(!whole.commissioning && !whole.doubt && !whole.split);
        assert!((whole.reference.unwrap() - world.truth).abs() < 1.0);
        let weights: f64 = views.iter().map(|view| view.share).sum();
        assert!((weights - 1.0).abs() < 1e-9);
        assert!(views[0].offset > 0.3 && views[1].offset < 0.0, "{views:?}");
        assert!(views[0].offset_uncertainty < views[0].noise + views[0].wander);
    }
}
