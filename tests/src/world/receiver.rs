//! Who reads the broker: what has been stored there, what is confirmed, and what is asked for again. And what the world
//! promises itself of the order and the rate of messages.

use std::{collections::VecDeque, sync::Arc};

use quorate_core::{
    config::{ConfirmBy, OutboxConfig},
    event::{Action, Event, Standing, StoredRecord},
    record::Body,
    units::{Epoch, Seq},
};

use super::{Pending, World, faults::chance, sabotage::Sabotage};
use crate::checkers::{self, Check, Life, MessageRate};

/// The receiver acts this often, in milliseconds.
const ACTS_MS: u64 = 5_000;
/// Records that somebody asks for again at most.
const RECALL_RECORDS_MAX: u64 = 200;
/// The window in which messages are counted, in milliseconds.
const RATE_MS: u64 = 10_000;
/// A live record may wait this long before a backlog is ahead of it unduly, in milliseconds: linger, load and tick.
const LIVE_MS_MAX: u64 = 1_500;

/// What the world remembers of how records are sent.
#[derive(Debug)]
pub(crate) struct Sending {
    /// What the device was asked for, whatever the sabotage made of it.
    pub(crate) promised: OutboxConfig,
    /// The first record that was made on this connection, where the world saw it being made.
    live_from: Option<Seq>,
    /// Live records below were published on this connection.
    live_next: Seq,
    published: VecDeque<(u64, u64)>,
    /// Everything up to here is stored by the receiver, or known to be gone.
    through: Seq,
    ingested_max: Seq,
}

impl Sending {
    pub(crate) fn new(promised: OutboxConfig) -> Self {
        Self {
            promised,
            live_from: None,
            live_next: Seq(0),
            published: VecDeque::new(),
            through: Seq(0),
            ingested_max: Seq(0),
        }
    }
}

impl World {
    pub(crate) fn confirms(&self) -> bool {
        self.sending.promised.confirm == ConfirmBy::Watermark
    }

    pub(crate) fn brokers(&self) -> usize {
        self.config.link.map_or(1, |link| link.brokers)
    }

    pub(crate) fn link_came_up(&mut self) {
        self.sending.live_from = None;
    }

    /// A restart begins every limit anew.
    pub(crate) fn device_restarted(&mut self) {
        self.sending.live_from = None;
        self.sending.published.clear();
        // What was asked for and not yet on the medium is asked for again by whoever misses it.
        for (seq, life) in (0..).zip(&mut self.lives) {
            let is_live = self.disk.is_live(Seq(seq));
            life.recalled_ms = life.recalled_ms.filter(|_| is_live);
        }
    }

    /// From these records on everything is live: they are made when the connection comes up, or after a recall.
    pub(crate) fn note_live(&mut self, actions: &[Action]) {
        for action in actions {
            let Action::Store { record } = action else {
                continue;
            };
            let Body::Event(event) = &record.body else {
                continue;
            };
            let begins = (event.what == "link" && event.to == Some("up"))
                || (event.what == "records-recalled"
                    && event.records.is_some_and(|(_, _, count)| count > 0));
            if begins && record.stamp.mono == self.mono() {
                self.sending.live_from = Some(record.seq);
                self.sending.live_next = record.seq;
            }
        }
    }

    /// What the message says of the records around its own: a receiver closes gaps because of it.
    pub(crate) fn check_standing(
        &mut self,
        records: &[StoredRecord],
        mut standing: Standing,
    ) -> Check {
        let Some(last) = records.last().map(|record| record.seq) else {
            return Ok(());
        };
        match self.options.sabotage {
            Sabotage::SettlesTooMuch => standing.settled = last,
            Sabotage::HidesWhatStandsBefore => standing.after = Seq(0),
            _ => {}
        }
        let kept: Vec<Seq> = self.disk.live(standing.after.next(), last).collect();
        let absent = kept
            .into_iter()
            .filter(|seq| records.iter().all(|record| record.seq != *seq));
        for seq in absent {
            checkers::standing_is_true(seq, self.life(seq), "not there")?;
        }
        let settled: Vec<Seq> = self.disk.live(Seq(0), standing.settled).collect();
        for seq in settled {
            checkers::standing_is_true(seq, self.life(seq), "settled")?;
        }
        Ok(())
    }

    /// When the last of the records around this one, up to it, was told to be durable.
    fn told_through_ms(&mut self, seq: Seq) -> Option<u64> {
        const NEIGHBOURS: u64 = 512;
        self.life(seq).told_ms?;
        let near = seq.0.saturating_sub(NEIGHBOURS)..=seq.0;
        near.filter_map(|near| self.life(Seq(near)).told_ms).max()
    }

    /// A message of records is on its way.
    pub(crate) fn check_sending(&mut self, records: &[StoredRecord], historical: bool) -> Check {
        let Some(live_from) = self.sending.live_from.filter(|_| !self.confirms()) else {
            return Ok(());
        };
        let live = records.iter().filter(|it| it.seq >= live_from).count();
        checkers::historical_is_true(historical, live, records.len())?;
        if !historical {
            let last = records.last().map_or(Seq(0), |record| record.seq);
            self.sending.live_next = self.sending.live_next.max(last.next());
            return Ok(());
        }
        let waiting = self.sending.live_next;
        let now_ms = self.now_ms;
        // A record that is not durable holds back those after it.
        let told_ms = self.told_through_ms(waiting);
        let waits_ms = told_ms.map_or(0, |told_ms| now_ms - told_ms);
        if waits_ms <= LIVE_MS_MAX || self.period.frozen || self.life(waiting).dropped {
            return Ok(());
        }
        let health = self.agent.as_ref().map(|agent| agent.health(self.mono()));
        let storing = health.map_or(0, |health| health.store.storing);
        checkers::live_goes_first(
            self.sending.promised.order,
            waiting,
            if storing == 0 { waits_ms } else { 0 },
            LIVE_MS_MAX,
        )
    }

    /// A message went out; the limits hold for it.
    pub(crate) fn check_rate(&mut self, bytes: u64) -> Check {
        let now_ms = self.now_ms;
        let sending = &mut self.sending;
        sending.published.push_back((now_ms, bytes));
        while sending
            .published
            .front()
            .is_some_and(|(at_ms, _)| at_ms + RATE_MS < now_ms)
        {
            sending.published.pop_front();
        }
        let messages = u64::try_from(sending.published.len()).unwrap_or(u64::MAX);
        let all: u64 = sending.published.iter().map(|(_, bytes)| bytes).sum();
        checkers::rate_kept(
            &sending.promised,
            MessageRate {
                messages,
                bytes: all - bytes,
                within_ms: RATE_MS,
            },
        )
    }

    pub(crate) fn heard(&mut self, event: &Event) {
        if matches!(event, Event::Recalled { count, .. } if *count > 0) {
            self.sending.live_from = None;
        }
        if let Event::Stored { first, last } = event {
            let now_ms = self.now_ms;
            for seq in first.0..=last.0 {
                self.life(Seq(seq)).told_ms.get_or_insert(now_ms);
            }
        }
    }

    /// The broker hands messages to the receiver, unless it loses them.
    pub(crate) fn pass_on(&mut self, records: &[StoredRecord]) -> Check {
        let loses = if self.confirms() {
            self.mix.broker_loses
        } else {
            0
        };
        if chance(&mut self.random, loses) {
            self.trace
                .say(self.now_ms, || "  the broker loses the message".into());
            if let (Sabotage::ForgetsOnPuback, Some(first), Some(last)) =
                (self.options.sabotage, records.first(), records.last())
            {
                return self.perform(Action::Forget {
                    first: first.seq,
                    last: last.seq,
                });
            }
            return Ok(());
        }
        for record in records {
            let life = self.life(record.seq);
            life.ingested += 1;
            life.recalled_ms = None;
            let is_first = life.ingested == 1;
            self.sending.ingested_max = self.sending.ingested_max.max(record.seq);
            if is_first && super::network::has(&record.payload, b"\"records-gone\"") {
                self.read_gone(&record.payload);
            }
        }
        Ok(())
    }

    /// The broker refused one record that is like all others.
    pub(crate) fn refused_alone(&mut self, seq: Seq) -> Check {
        if self.options.sabotage == Sabotage::GivesUpRefused {
            return self.perform(Action::Discard {
                first: seq,
                last: seq,
            });
        }
        Ok(())
    }

    pub(crate) fn receiver_acts(&mut self) -> Check {
        self.later(ACTS_MS, Pending::Receiver);
        if chance(&mut self.random, self.mix.recalls) {
            self.ask_again();
        }
        if !self.confirms() || !self.network.up {
            return Ok(());
        }
        let known = |life: &Life| life.ingested > 0 || life.named_gone || life.durable.is_none();
        while self.sending.through < self.sending.ingested_max
            && known(self.life(self.sending.through.next()))
        {
            self.sending.through = self.sending.through.next();
        }
        let mut said = (Epoch(1), self.sending.through);
        if chance(&mut self.random, self.mix.watermark_wrong) {
            let wrong = [
                (Epoch(2), said.1),
                (Epoch(1), Seq(said.1.0 + 1_000_000)),
                (Epoch(1), Seq(said.1.0 / 2)),
            ];
            said = wrong[self.random.usize(0..3)];
        }
        self.deliver(Event::Watermark {
            epoch: said.0,
            through: said.1,
        })
    }

    /// Somebody asks for records again; those that are still kept wait again.
    fn ask_again(&mut self) {
        if self.agent.is_none() {
            return;
        }
        let first = Seq(self.random.u64(1..=self.sending.ingested_max.0.max(1)));
        let last = Seq(first.0 + self.random.u64(0..RECALL_RECORDS_MAX));
        let again = self.disk.recall(first, last);
        let now_ms = self.now_ms;
        // A receiver that confirms has said before that it has them: whether they came is seen without it alone.
        if !self.confirms() {
            for seq in &again {
                self.life(*seq).recalled_ms = Some(now_ms);
            }
        }
        let count = u64::try_from(again.len()).unwrap_or(u64::MAX);
        if self.options.sabotage != Sabotage::ForgetsRecall {
            self.tell_later(0, Event::Recalled { first, last, count });
        }
    }
}

/// The record with the date that an unset clock would give it.
pub(crate) fn dated_1970(payload: &[u8]) -> Arc<[u8]> {
    let text = String::from_utf8_lossy(payload);
    text.replacen("\"time\":null", "\"time\":\"1970-01-01T00:00:05.000Z\"", 1)
        .into_bytes()
        .into()
}
