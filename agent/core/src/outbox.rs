//! The outbox: from a record to its acknowledgement, without holding the backlog.
//!
//! Owns: what is still to be sent, in which order, and the messages in flight. Must not: know sensors, or keep a record
//! in memory once it is durable.
//!
//! Invariants: store, then Stored, then publish, then acknowledged, then (where the ingesting side confirms) confirmed,
//! then forget; never another order. No record is passed over that is not durable. What is in flight is bounded, and so
//! is what is known of the rest: ranges of sequence numbers, not records.

mod answers;
mod closing;
mod confirm;
mod next;
mod rate;
mod refusal;
mod storing;
#[cfg(test)]
mod tests;

use alloc::{collections::BTreeMap, vec::Vec};

pub(crate) use self::{answers::Settled, confirm::Confirmed};
use self::{closing::Closing, confirm::Confirm, rate::Rate, refusal::Refusals, storing::Storing};
use crate::{
    checkpoint::Day,
    config::{ConfirmBy, OutboxConfig},
    event::{Action, Standing, StoreFault, StoreReport, StoredRecord},
    health::{DeliveryHealth, StoreHealth},
    ranges::Ranges,
    record::{Body, Stamp},
    units::{BatchId, Epoch, Mono, Seq},
};

/// After a load that failed the next one waits for this long, in milliseconds.
const LOAD_PAUSE_MS: u64 = 250;
/// A message's envelope around the records: device, epoch, topic and properties, generously.
const ENVELOPE_BYTES: u32 = 2_048;

/// A message that waits for its acknowledgement.
#[derive(Clone, Debug)]
struct Flight {
    /// Its records, as runs without a gap: what lies between them is not in it.
    runs: Vec<(Seq, Seq)>,
    sent: Mono,
}

impl Flight {
    fn new(records: &[StoredRecord], sent: Mono) -> Self {
        let runs = records
            .chunk_by(|one, next| one.seq.next() == next.seq)
            .filter_map(|run| Some((run.first()?.seq, run.last()?.seq)))
            .collect();
        Self { runs, sent }
    }

    fn count(&self) -> u64 {
        let count = |(first, last): &(Seq, Seq)| last.0 - first.0 + 1;
        self.runs.iter().map(count).sum()
    }
}

/// A load that the store has not answered.
#[derive(Clone, Copy, Debug)]
struct Loading {
    after: Seq,
    through: Seq,
    asked: Mono,
    historical: bool,
    /// The connection that it was for is over.
    stale: bool,
}

/// The outbox of the core.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    config: OutboxConfig,
    storing: Storing,
    /// What has not been handed to the link, or must be again; with an open end.
    unsent: Ranges,
    /// Records from here on were made on this connection; those before are backlog.
    live_from: Seq,
    loading: Option<Loading>,
    waiting_since: Option<Mono>,
    inflight: BTreeMap<BatchId, Flight>,
    batch_next: u64,
    packet_bytes_max: u32,
    inflight_max: u32,
    paused_until: Mono,
    disconnecting: bool,
    /// Nothing new goes, so that the connection can end with nothing in flight.
    draining: bool,
    unheard: bool,
    refusals: Refusals,
    closing: Closing,
    rate: Rate,
    confirm: Option<Confirm>,
    /// Asked for again and not acknowledged since: an old watermark does not mean these.
    recalled: Ranges,
    pub(crate) report: StoreReport,
}

impl Outbox {
    pub(crate) fn new(config: OutboxConfig, epoch: Epoch, seq_next: Seq, now: Mono) -> Self {
        let confirm = (config.confirm == ConfirmBy::Watermark)
            .then(|| Confirm::new(epoch, config.watermark_timeout_ms));
        Self {
            packet_bytes_max: config.batch_bytes_max,
            inflight_max: config.inflight_batches_max,
            rate: Rate::new(&config, now),
            config,
            storing: Storing::new(seq_next, now),
            unsent: Ranges::from(Seq(1)),
            live_from: seq_next,
            loading: None,
            waiting_since: Some(now),
            inflight: BTreeMap::new(),
            batch_next: 0,
            paused_until: now,
            disconnecting: false,
            draining: false,
            unheard: false,
            refusals: Refusals::default(),
            closing: Closing::default(),
            confirm,
            recalled: Ranges::default(),
            report: StoreReport::default(),
        }
    }

    /// Gives a record its sequence number and asks for it to be stored. False when it had to be dropped because the
    /// store has not answered for thousands of records.
    pub(crate) fn add(
        &mut self,
        now: Mono,
        stamp: Stamp,
        body: Body,
        actions: &mut Vec<Action>,
    ) -> bool {
        self.storing.add(now, stamp, body, actions)
    }

    /// What never became durable since the last call, once the store works again.
    pub(crate) fn take_lost(&mut self) -> Option<(Seq, Seq, u64)> {
        self.storing.take_lost()
    }

    /// Whether the store owes an answer for this record.
    pub(crate) fn awaits(&self, seq: Seq) -> bool {
        self.storing.holds(seq)
    }

    /// The sequence number that the next record gets.
    pub(crate) fn seq_next(&self) -> Seq {
        self.storing.seq_next()
    }

    /// Records from `first` to `last` are durable. Returns how many this call made so.
    pub(crate) fn stored(&mut self, now: Mono, first: Seq, last: Seq) -> u64 {
        let count = self.storing.stored(now, first, last);
        if count > 0 && self.waiting_since.is_none() {
            self.waiting_since = Some(now);
        }
        count
    }

    pub(crate) fn store_failed(&mut self, now: Mono, first: Seq, last: Seq, fault: StoreFault) {
        self.storing.failed(now, first, last, fault);
    }

    /// Some of these the store does not have any more: a load tells which of those that are set aside are left.
    pub(crate) fn gone(&mut self, first: Seq, last: Seq) {
        for &(from, to) in self.refusals.records().parts() {
            self.unsent.insert(from.max(first), to.min(last));
        }
        self.refusals.gone(first, last);
        self.closing.recalled(first, last, &mut self.unsent);
    }

    pub(crate) fn link_up(&mut self, now: Mono, packet_bytes_max: u32, inflight_max: u16) {
        let room = packet_bytes_max.saturating_sub(ENVELOPE_BYTES).max(1);
        self.packet_bytes_max = self.config.batch_bytes_max.min(room);
        self.inflight_max = self
            .config
            .inflight_batches_max
            .min(u32::from(inflight_max).max(1));
        self.begin_anew();
        self.try_set_aside();
        self.live_from = self.seq_next();
        if let Some(confirm) = &mut self.confirm {
            confirm.link_up(now);
        }
    }

    /// Returns a record of which it is known now, and was not before, that it ends connections.
    pub(crate) fn link_down(&mut self, now: Mono) -> Option<Seq> {
        let flights = self.begin_anew();
        self.closing.ended(now, &flights, &mut self.unsent)
    }

    /// Whatever was in flight goes again, from the store. Returns the runs of each message.
    fn begin_anew(&mut self) -> Vec<Vec<(Seq, Seq)>> {
        let flights = core::mem::take(&mut self.inflight);
        let flights: Vec<_> = flights.into_values().map(|flight| flight.runs).collect();
        for &(first, last) in flights.iter().flatten() {
            self.unsent.insert(first, last);
            self.waiting_since = Some(Mono(0));
        }
        if let Some(loading) = &mut self.loading {
            loading.stale = true;
        }
        self.rate.link_down();
        self.disconnecting = false;
        self.draining = false;
        flights
    }

    /// Nothing new goes from here on. Returns whether nothing is on its way any more.
    pub(crate) fn drain(&mut self) -> bool {
        self.draining = true;
        self.inflight.is_empty() && self.loading.is_none()
    }

    /// These go again, but for those that are on their way.
    fn send_again(&mut self, first: Seq, last: Seq) {
        self.unsent.insert(first, last);
        for (first, last) in self.inflight.values().flat_map(|flight| &flight.runs) {
            self.unsent.remove(*first, *last);
        }
        self.waiting_since = Some(Mono(0));
    }

    fn try_set_aside(&mut self) {
        for (first, last) in self.refusals.records().parts().to_vec() {
            self.send_again(first, last);
        }
    }

    /// What a load found: one message, unless the world has changed meanwhile.
    pub(crate) fn loaded(
        &mut self,
        now: Mono,
        link_up: bool,
        range: (Seq, Seq),
        records: Vec<StoredRecord>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(loading) = self.loading.take() else {
            return false;
        };
        if !link_up || loading.stale || range != (loading.after, loading.through) {
            return false;
        }
        let first_asked = loading.after.next();
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            self.unsent.remove(first_asked, loading.through);
            self.absent(first_asked, loading.through);
            if !loading.historical {
                self.waiting_since = None;
            }
            return false;
        };
        let (first, last) = (first.seq, last.seq);
        let flight = Flight::new(&records, now);
        self.unsent.remove(first_asked, last);
        self.absent(first_asked, Seq(first.0.saturating_sub(1)));
        for pair in flight.runs.windows(2) {
            self.absent(pair[0].1.next(), Seq(pair[1].0.0 - 1));
        }
        // What is recalled meanwhile makes old what was new when the load was asked for.
        let historical = loading.historical || last < self.live_from;
        if !historical {
            // Whatever is left goes at once; only what becomes durable from now on may linger.
            let is_left = last < self.storing.durable_through();
            self.waiting_since = is_left.then_some(Mono(0));
        }
        let batch = BatchId(self.batch_next);
        self.batch_next += 1;
        self.inflight.insert(batch, flight);
        self.rate.published(now, batch);
        let standing = Standing {
            historical,
            after: loading.after,
            settled: self.settled(),
        };
        actions.push(Action::Publish {
            batch,
            records,
            standing,
        });
        true
    }

    /// Everything up to here is with the receiver, as far as that can be known, or holds no record.
    fn settled(&self) -> Seq {
        if let Some(confirm) = &self.confirm {
            return confirm.through();
        }
        let flights = self.inflight.values().flat_map(|flight| &flight.runs);
        let waiting = [
            &self.unsent,
            self.refusals.records(),
            self.closing.records(),
        ];
        let waiting = waiting
            .into_iter()
            .filter_map(|ranges| ranges.parts().first());
        let first = flights.chain(waiting).map(|(first, _)| *first).min();
        // The unsent have an open end, so there always is a first.
        Seq(first.map_or(0, |first| first.0.saturating_sub(1)))
    }

    /// None of these is to be delivered any more.
    fn absent(&mut self, first: Seq, last: Seq) {
        self.refusals.gone(first, last);
        self.closing.gone(first, last);
        self.recalled.remove(first, last);
    }

    pub(crate) fn load_failed(&mut self, now: Mono) {
        self.loading = None;
        // A refusal may have asked for a longer pause.
        self.paused_until = self.paused_until.max(now.plus_ms(LOAD_PAUSE_MS));
    }

    /// A message is that large on the wire.
    pub(crate) fn sent(&mut self, now: Mono, batch: BatchId, bytes: u64) {
        self.rate.sent(now, batch, bytes);
    }

    /// What a restart must know of the day's bytes, where they are limited.
    pub(crate) fn day(&self, now: Mono) -> Option<Day> {
        self.rate.day(now)
    }

    /// Goes on with a day that began before a restart.
    pub(crate) fn resume_day(&mut self, now: Mono, day: Day) {
        self.rate.resume(now, day);
    }

    pub(crate) fn advance(&mut self, now: Mono, link_up: bool, actions: &mut Vec<Action>) {
        self.storing.advance(now, actions);
        if !link_up {
            return;
        }
        self.rate.turn_day(now);
        if self.refusals.advance(now) {
            self.try_set_aside();
        }
        if self.closing.advance(now, &mut self.unsent) {
            self.waiting_since = Some(Mono(0));
        }
        if let Some((first, last)) = self.confirm.as_mut().and_then(|it| it.advance(now)) {
            self.live_from = self.seq_next();
            self.send_again(first, last);
        }
        if !self.disconnecting && self.ack_deadline().is_some_and(|deadline| now >= deadline) {
            self.disconnecting = true;
            actions.push(Action::Disconnect {
                cause: "ack-timeout",
            });
        }
        if let Some(next) = self.next_load(now).filter(|next| now >= next.due) {
            let after = Seq(next.first.0.saturating_sub(1));
            self.loading = Some(Loading {
                after,
                through: next.through,
                asked: now,
                historical: next.historical,
                stale: false,
            });
            actions.push(Action::Load {
                after,
                through: next.through,
                records_max: self.load_records_max(),
                bytes_max: self.packet_bytes_max,
            });
        }
    }

    fn load_records_max(&self) -> u32 {
        if self.refusals.is_probing() {
            1
        } else {
            self.config.batch_records_max
        }
    }

    fn ack_deadline(&self) -> Option<Mono> {
        self.inflight
            .values()
            .map(|flight| flight.sent.plus_ms(self.config.ack_timeout_ms))
            .min()
    }

    pub(crate) fn next_deadline(&self, link_up: bool) -> Option<Mono> {
        let storing = self.storing.next_deadline();
        if !link_up {
            return storing;
        }
        let ack = self.ack_deadline().filter(|_| !self.disconnecting);
        // Whichever goes first: no live record is due before a backlog.
        let load = self.next_load(Mono(0)).map(|next| next.due);
        let confirm = self.confirm.as_ref().and_then(Confirm::next_deadline);
        let aside = self.refusals.next_deadline();
        let closing = self.closing.next_deadline();
        let all = [storing, ack, load, confirm, aside, closing];
        all.into_iter().flatten().min()
    }

    /// Since when the store owes an answer.
    pub(crate) fn owed_since(&self) -> Option<Mono> {
        let loading = self.loading.map(|loading| loading.asked);
        self.storing.owed_since().into_iter().chain(loading).min()
    }

    pub(crate) fn inflight(&self) -> u64 {
        u64::try_from(self.inflight.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.storing.is_failing()
    }

    pub(crate) fn health(&self) -> StoreHealth {
        self.storing.health(self.report)
    }

    /// What keeps records from arriving although there is a connection, in one kebab-case word; `ok` for nothing.
    pub(crate) fn delivery(&self) -> &'static str {
        if self.refusals.reason().is_some() {
            "refused"
        } else if self.closing.is_found() {
            "poison-record"
        } else if self.refusals.has_quota() {
            "quota"
        } else if self.unheard {
            "no-consumer"
        } else if self.confirm.as_ref().is_some_and(Confirm::is_late) {
            "watermark-late"
        } else if self.rate.is_used_up() {
            "budget-used-up"
        } else {
            "ok"
        }
    }

    pub(crate) fn delivery_health(&self, since: Mono) -> DeliveryHealth {
        DeliveryHealth {
            state: self.delivery(),
            since,
            reason: self.refusals.reason(),
            day_bytes: self.rate.day_bytes(),
            confirmed: self.confirm.as_ref().map(Confirm::through),
        }
    }
}
