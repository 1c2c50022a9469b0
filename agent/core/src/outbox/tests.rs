//! The outbox against a broker and a store that a test plays.

use alloc::{collections::BTreeSet, sync::Arc, vec, vec::Vec};

use super::{
    Confirmed, Outbox, Settled,
    answers::{REASON_PAYLOAD_FORMAT, REASON_QUOTA},
};
use crate::{
    config::{ConfirmBy, Order, OutboxConfig},
    event::{AckOutcome, Action, StoredRecord},
    units::{BatchId, Epoch, Mono, Seq},
};

fn records(first: u64, last: u64) -> Vec<StoredRecord> {
    let record = |seq| StoredRecord {
        seq: Seq(seq),
        payload: Arc::from(&b"{}"[..]),
    };
    (first..=last).map(record).collect()
}

/// An outbox after a restart, with 299 records behind it in the store.
fn outbox() -> Outbox {
    let mut outbox = Outbox::new(OutboxConfig::default(), Epoch(1), Seq(300), Mono(0));
    outbox.link_up(Mono(0), 70_000, 1);
    outbox
}

/// Sends what is asked for next. Returns the message and how many records it holds.
fn send(outbox: &mut Outbox, now: Mono) -> (BatchId, u64) {
    let mut actions = Vec::new();
    outbox.advance(now, true, &mut actions);
    let Some(Action::Load {
        after,
        through,
        records_max,
        ..
    }) = actions.pop()
    else {
        return (BatchId(u64::MAX), 0);
    };
    let last = through.0.min(after.0 + u64::from(records_max));
    let found = records(after.0 + 1, last);
    outbox.loaded(now, true, (after, through), found, &mut actions);
    let sent = outbox.inflight.last_key_value();
    sent.map_or((BatchId(u64::MAX), 0), |(batch, flight)| {
        (*batch, flight.count())
    })
}

#[test]
fn seed_126_messages_are_full_again_after_a_refusal() {
    let mut outbox = outbox();
    let mut actions = Vec::new();
    let refused = AckOutcome::Refused {
        reason: REASON_PAYLOAD_FORMAT,
    };
    let (mut random, mut sizes) = (fastrand::Rng::with_seed(1), Vec::new());
    loop {
        let (batch, count) = send(&mut outbox, Mono(1_000));
        sizes.push(count);
        if let Settled::GivenUp =
            outbox.acked(Mono(1_000), batch, refused, &mut random, &mut actions)
        {
            break;
        }
    }
    assert_eq!(sizes, vec![100, 50, 25, 12, 6, 3, 1]);
    let given_up = actions.pop();
    assert!(matches!(given_up, Some(Action::Discard { first, last }) if first == last));
    for expected in [100, 100] {
        let (batch, count) = send(&mut outbox, Mono(1_000));
        assert_eq!(count, expected, "the rest goes as if nothing had been");
        outbox.acked(
            Mono(1_000),
            batch,
            AckOutcome::Taken,
            &mut random,
            &mut actions,
        );
    }
}

/// A store and a broker around one outbox, in virtual time.
struct Bench {
    outbox: Outbox,
    stored: BTreeSet<u64>,
    now: Mono,
    random: fastrand::Rng,
    /// Every message: when, its records, and whether it was called historical.
    messages: Vec<(Mono, Vec<u64>, bool)>,
    discarded: Vec<u64>,
    set_aside: u64,
    /// What a broker that may end the connection has not answered.
    in_flight: Vec<(BatchId, Vec<u64>)>,
    /// Records that were found to end connections.
    told: u64,
}

impl Bench {
    /// A device that restarts with so many records in its store.
    fn new(config: OutboxConfig, count: u64) -> Self {
        let mut outbox = Outbox::new(config, Epoch(1), Seq(count + 1), Mono(0));
        outbox.link_up(Mono(0), 70_000, 8);
        Self {
            outbox,
            stored: (1..=count).collect(),
            now: Mono(0),
            random: fastrand::Rng::with_seed(1),
            messages: Vec::new(),
            discarded: Vec::new(),
            set_aside: 0,
            in_flight: Vec::new(),
            told: 0,
        }
    }

    /// Performs what the outbox asks for until `end`; the broker answers at once.
    fn run(&mut self, end: Mono, answer: impl Fn(&[u64]) -> AckOutcome) {
        let mut actions = Vec::new();
        loop {
            self.outbox.advance(self.now, true, &mut actions);
            while !actions.is_empty() {
                let action = actions.remove(0);
                self.perform(action, &answer, &mut actions);
                self.outbox.advance(self.now, true, &mut actions);
            }
            let next = self.outbox.next_deadline(true).unwrap_or(end);
            assert!(next > self.now, "it asks for a moment that has passed");
            self.now = next.min(end);
            if self.now == end {
                return;
            }
        }
    }

    fn perform(
        &mut self,
        action: Action,
        answer: impl Fn(&[u64]) -> AckOutcome,
        actions: &mut Vec<Action>,
    ) {
        match action {
            Action::Load {
                after,
                through,
                records_max,
                ..
            } => {
                let found = self.stored.range(after.0 + 1..=through.0);
                let most = usize::try_from(records_max).unwrap_or(0);
                let found = found.take(most).flat_map(|seq| records(*seq, *seq));
                let range = (after, through);
                self.outbox
                    .loaded(self.now, true, range, found.collect(), actions);
            }
            Action::Publish {
                batch,
                records,
                standing,
            } => {
                let historical = standing.historical;
                let seqs: Vec<u64> = records.iter().map(|record| record.seq.0).collect();
                let outcome = answer(&seqs);
                self.messages.push((self.now, seqs, historical));
                self.outbox.sent(self.now, batch, 100);
                let settled =
                    self.outbox
                        .acked(self.now, batch, outcome, &mut self.random, actions);
                self.set_aside += u64::from(matches!(settled, Settled::SetAside(..)));
            }
            Action::Forget { first, last } => {
                self.stored.retain(|seq| !(first.0..=last.0).contains(seq));
            }
            Action::Discard { first, last } => {
                self.discarded.extend(first.0..=last.0);
                self.stored.retain(|seq| !(first.0..=last.0).contains(seq));
            }
            other => unreachable!("{other:?}"),
        }
    }
}

const NOT_AUTHORISED: AckOutcome = AckOutcome::Refused { reason: 0x87 };

#[test]
fn a_wrong_access_list_for_an_hour_loses_nothing_and_costs_little() {
    let mut bench = Bench::new(OutboxConfig::default(), 5_000);
    bench.run(Mono(3_600_000), |_| NOT_AUTHORISED);
    assert_eq!(bench.stored.len(), 5_000);
    assert_eq!(bench.outbox.delivery(), "refused");
    let refused = bench.messages.len();
    assert!(refused < 60, "{refused} messages in an hour");
    bench.run(Mono(3_900_000), |_| AckOutcome::Taken);
    assert!(bench.stored.is_empty(), "all arrive within one pause");
    assert_eq!((bench.discarded.len(), bench.outbox.delivery()), (0, "ok"));
    assert!(bench.messages.len() - refused < 150);
}

#[test]
fn one_refused_record_delays_nothing_else_and_is_tried_again() {
    let mut bench = Bench::new(OutboxConfig::default(), 1_000);
    let refuses = |seqs: &[u64]| {
        if seqs.contains(&333) {
            NOT_AUTHORISED
        } else {
            AckOutcome::Taken
        }
    };
    bench.run(Mono(1), refuses);
    assert_eq!(bench.stored.iter().copied().collect::<Vec<_>>(), vec![333]);
    assert!(bench.messages.len() < 30, "{}", bench.messages.len());
    bench.run(Mono(3_600_000), refuses);
    let alone = |(_, seqs, _): &&(Mono, Vec<u64>, bool)| *seqs == [333];
    let tries = bench.messages.iter().filter(alone).count();
    assert!((5..=20).contains(&tries), "{tries} tries in an hour");
    assert_eq!(bench.set_aside, 1, "told once");
    bench.outbox.link_down(bench.now);
    bench.outbox.link_up(bench.now, 70_000, 8);
    bench.run(Mono(3_600_001), |_| AckOutcome::Taken);
    assert!(bench.stored.is_empty(), "a new connection tries it");
    assert_eq!((bench.discarded.len(), bench.outbox.delivery()), (0, "ok"));
}

#[test]
fn hundreds_of_refused_records_stay_bounded_and_all_arrive_in_the_end() {
    let mut bench = Bench::new(OutboxConfig::default(), 3_000);
    let refuses = |seqs: &[u64]| {
        if seqs.iter().any(|seq| seq % 10 == 3) {
            NOT_AUTHORISED
        } else {
            AckOutcome::Taken
        }
    };
    bench.run(Mono(600_000), refuses);
    assert!(bench.outbox.refusals.records().parts().len() <= 64);
    assert!(bench.outbox.unsent.parts().len() <= 64);
    assert!(bench.stored.iter().filter(|seq| *seq % 10 == 3).count() == 300);
    bench.run(Mono(1_200_000), |_| AckOutcome::Taken);
    assert!(bench.stored.is_empty() && bench.discarded.is_empty());
}

#[test]
fn a_record_of_the_wrong_format_is_given_up_alone() {
    let mut bench = Bench::new(OutboxConfig::default(), 1_000);
    bench.run(Mono(1), |seqs: &[u64]| {
        if seqs.contains(&333) {
            AckOutcome::Refused {
                reason: REASON_PAYLOAD_FORMAT,
            }
        } else {
            AckOutcome::Taken
        }
    });
    assert_eq!(bench.discarded, vec![333]);
    assert!(bench.stored.is_empty());
}

#[test]
fn a_quota_is_waited_for_ever_longer() {
    let mut bench = Bench::new(OutboxConfig::default(), 100);
    bench.run(Mono(3_600_000), |_| AckOutcome::Refused {
        reason: REASON_QUOTA,
    });
    let times = bench.messages.iter().map(|(at, ..)| *at);
    let times: Vec<Mono> = times.collect();
    let waits: Vec<u64> = times
        .windows(2)
        .map(|two| two[1].since_ms(two[0]))
        .collect();
    assert!((500..=1_000).contains(&waits[0]), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 300_000), "{waits:?}");
    assert!((15..40).contains(&waits.len()), "{waits:?}");
    assert_eq!(bench.outbox.delivery(), "quota");
    bench.run(Mono(3_900_000), |_| AckOutcome::Taken);
    assert!(bench.stored.is_empty() && bench.outbox.delivery() == "ok");
}

#[test]
fn nothing_goes_before_the_receiver_has_it() {
    let config = OutboxConfig {
        confirm: ConfirmBy::Watermark,
        ..OutboxConfig::default()
    };
    let mut bench = Bench::new(config, 1_000);
    bench.run(Mono(1_000), |_| AckOutcome::Taken);
    assert_eq!((bench.stored.len(), bench.messages.len()), (1_000, 10));
    let mut actions = Vec::new();
    let mut say = |bench: &mut Bench, epoch, through| {
        let now = bench.now;
        let said = bench
            .outbox
            .watermark(now, Epoch(epoch), Seq(through), &mut actions);
        while let Some(action) = actions.pop() {
            bench.perform(action, |_| AckOutcome::Taken, &mut Vec::new());
        }
        said
    };
    assert_eq!(say(&mut bench, 2, 9), Confirmed::Refused("other-epoch"));
    assert_eq!(
        say(&mut bench, 1, 1_001),
        Confirmed::Refused("beyond-the-end")
    );
    assert_eq!(bench.stored.len(), 1_000);
    assert_eq!(
        say(&mut bench, 1, 400),
        Confirmed::Through(Seq(1), Seq(400))
    );
    assert_eq!(say(&mut bench, 1, 300), Confirmed::Nothing);
    assert_eq!(bench.stored.len(), 600);
    // Nothing more is heard: what is not confirmed goes again, and only that.
    bench.run(Mono(62_000), |_| AckOutcome::Taken);
    assert_eq!(bench.outbox.delivery(), "watermark-late");
    let again: Vec<u64> = bench.messages[10..]
        .iter()
        .flat_map(|(_, seqs, historical)| {
            assert!(historical, "it is no news");
            seqs.clone()
        })
        .collect();
    assert_eq!(again, (401..=1_000).collect::<Vec<_>>());
    assert_eq!(
        say(&mut bench, 1, 1_000),
        Confirmed::Through(Seq(401), Seq(1_000))
    );
    assert!(bench.stored.is_empty() && bench.outbox.delivery() == "ok");
}

#[test]
fn live_records_go_before_the_backlog_and_nothing_twice() {
    for order in [Order::OldestFirst, Order::LiveFirst] {
        let config = OutboxConfig {
            order,
            messages_per_second_max: 1,
            ..OutboxConfig::default()
        };
        let mut bench = Bench::new(config, 2_000);
        let mut actions = Vec::new();
        for second in 1..=40_u64 {
            let stamp = crate::record::Stamp {
                boot: crate::units::BootId::default(),
                mono: bench.now,
                wall: None,
            };
            let body = crate::record::Body::Event(crate::record::Occurrence::default());
            bench.outbox.add(bench.now, stamp, body, &mut actions);
            actions.clear();
            let seq = 2_000 + second;
            bench.stored.insert(seq);
            bench.outbox.stored(bench.now, Seq(seq), Seq(seq));
            bench.run(Mono(second * 1_000), |_| AckOutcome::Taken);
        }
        let sent: Vec<u64> = bench.messages.iter().flat_map(|it| it.1.clone()).collect();
        let once: BTreeSet<u64> = sent.iter().copied().collect();
        assert_eq!(sent.len(), once.len(), "{order:?}: nothing twice");
        for (_, seqs, historical) in &bench.messages {
            let live = seqs.iter().filter(|seq| **seq > 2_000).count();
            assert_eq!(live, if *historical { 0 } else { seqs.len() });
        }
        let is_live = |(_, _, historical): &(Mono, Vec<u64>, bool)| !historical;
        let first = bench
            .messages
            .iter()
            .position(is_live)
            .unwrap_or(usize::MAX);
        match order {
            Order::OldestFirst => assert_eq!(first, 20, "after all of the backlog"),
            Order::LiveFirst => assert!(first <= 2, "{first}"),
        }
    }
}

#[test]
fn what_is_recalled_is_sent_again_and_is_no_news() {
    let mut bench = Bench::new(OutboxConfig::default(), 100);
    bench.run(Mono(1_000), |_| AckOutcome::Taken);
    bench.stored.extend(20..=40);
    bench.outbox.recalled(Seq(20), Seq(4_000));
    bench.run(Mono(2_000), |_| AckOutcome::Taken);
    let (_, seqs, historical) = &bench.messages[1];
    assert_eq!((seqs.clone(), *historical), ((20..=40).collect(), true));
    assert!(bench.stored.is_empty() && bench.messages.len() == 2);
}

/// A broker that ends the connection at some records instead of answering, and a link that is back after a second.
/// Returns how many connections ended so.
fn run_closing(bench: &mut Bench, end: Mono, closes: impl Fn(&[u64]) -> bool) -> u32 {
    let (mut closings, mut actions) = (0, Vec::new());
    while bench.now < end {
        bench.outbox.advance(bench.now, true, &mut actions);
        if actions.is_empty() {
            // What is in flight now is answered in order, until a message is not.
            let flights: Vec<_> = core::mem::take(&mut bench.in_flight);
            for (batch, seqs) in flights {
                if closes(&seqs) {
                    closings += 1;
                    bench.told += u64::from(bench.outbox.link_down(bench.now).is_some());
                    bench.now = bench.now.plus_ms(1_000);
                    bench.outbox.link_up(bench.now, 70_000, 8);
                    break;
                }
                let taken = AckOutcome::Taken;
                let random = &mut bench.random;
                bench
                    .outbox
                    .acked(bench.now, batch, taken, random, &mut actions);
            }
        }
        while !actions.is_empty() {
            let action = actions.remove(0);
            if let Action::Publish { batch, records, .. } = action {
                let seqs: Vec<u64> = records.iter().map(|record| record.seq.0).collect();
                bench.messages.push((bench.now, seqs.clone(), true));
                bench.outbox.sent(bench.now, batch, 100);
                bench.in_flight.push((batch, seqs));
            } else {
                bench.perform(action, |_| AckOutcome::Taken, &mut actions);
            }
            bench.outbox.advance(bench.now, true, &mut actions);
        }
        if bench.in_flight.is_empty() {
            let next = bench.outbox.next_deadline(true).unwrap_or(end);
            bench.now = next.max(bench.now).min(end);
        }
    }
    closings
}

#[test]
fn a_record_that_ends_connections_delays_nothing_else_and_is_tried_again() {
    let mut bench = Bench::new(OutboxConfig::default(), 1_000);
    let poison = |seqs: &[u64]| seqs.contains(&333);
    let closings = run_closing(&mut bench, Mono(4_000), poison);
    assert!(
        (2..=3).contains(&closings),
        "{closings} before the others go on"
    );
    assert!(bench.stored.len() <= 100, "{} wait", bench.stored.len());
    let closings = run_closing(&mut bench, Mono(120_000), poison);
    assert!(closings <= 10, "{closings} until it is found");
    assert_eq!(bench.stored.iter().copied().collect::<Vec<_>>(), vec![333]);
    assert_eq!((bench.told, bench.outbox.delivery()), (1, "poison-record"));
    assert_eq!(bench.outbox.settled(), Seq(332));
    let closings = run_closing(&mut bench, Mono(86_400_000), poison);
    assert!((10..=35).contains(&closings), "{closings} in a day");
    assert_eq!((bench.stored.len(), bench.told), (1, 1), "told once");
    run_closing(&mut bench, Mono(93_600_000), |_| false);
    assert!(bench.stored.is_empty(), "it arrives when it is taken");
    assert_eq!((bench.discarded.len(), bench.outbox.delivery()), (0, "ok"));
}

#[test]
fn a_broker_that_ends_every_connection_loses_nothing_and_is_forgiven() {
    let mut bench = Bench::new(OutboxConfig::default(), 3_000);
    run_closing(&mut bench, Mono(600_000), |_| true);
    assert_eq!(bench.stored.len(), 3_000);
    assert!(bench.outbox.unsent.parts().len() <= 64);
    run_closing(&mut bench, Mono(4_800_000), |_| false);
    assert!(bench.stored.is_empty() && bench.discarded.is_empty());
    assert_eq!(bench.outbox.delivery(), "ok");
}

#[test]
fn several_records_that_end_connections_are_each_found() {
    let mut bench = Bench::new(OutboxConfig::default(), 2_000);
    let poison = |seqs: &[u64]| seqs.iter().any(|seq| [7, 8, 450, 1_999].contains(seq));
    run_closing(&mut bench, Mono(600_000), poison);
    let left: Vec<u64> = bench.stored.iter().copied().collect();
    assert_eq!((left, bench.told), (vec![7, 8, 450, 1_999], 4));
}

#[test]
fn a_cut_link_sets_nothing_aside() {
    let mut bench = Bench::new(OutboxConfig::default(), 1_000);
    let calls = core::cell::Cell::new(0_u32);
    // Every third message is cut off, wherever it stands.
    let cut = |_: &[u64]| {
        calls.set(calls.get() + 1);
        calls.get() % 3 == 1
    };
    run_closing(&mut bench, Mono(60_000), cut);
    assert!(bench.stored.is_empty() && bench.told == 0);
}
