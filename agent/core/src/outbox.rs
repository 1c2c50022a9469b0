//! The outbox: from a record to its acknowledgement, without holding the backlog.
//!
//! Owns: sequence numbers, the records that are not durable yet, the cursor, and the messages in flight.
//! Must not: know sensors, or keep a record in memory once it is durable.
//!
//! Invariants: store, then Stored, then publish, then acknowledged, then forget; never another order. The cursor never
//! passes a record that is not durable. What is in flight is bounded.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};

use crate::{
    config::{OutboxConfig, STORING_RECORDS_MAX},
    event::{AckOutcome, Action, StoreFault, StoreReport, StoredRecord},
    health::StoreHealth,
    record::{Body, Record, Stamp},
    units::{BatchId, Mono, Seq},
};

/// A failed commit is tried again after this, in milliseconds; it doubles up to [`RETRY_MS_MAX`].
const RETRY_MS_MIN: u64 = 250;
/// Longest wait before a failed commit is tried again, in milliseconds.
const RETRY_MS_MAX: u64 = 10_000;
/// Publishing pauses for this long after the broker threw a message away or refused it, in milliseconds.
const REFUSAL_PAUSE_MS: u64 = 5_000;
/// A message's envelope around the records: device, epoch, topic and properties, generously.
const ENVELOPE_BYTES: u32 = 2_048;
/// MQTT 5 reason: the packet is too large for the broker.
const REASON_PACKET_TOO_LARGE: u8 = 0x95;
/// MQTT 5 reason: the payload is not what its format indicator says.
const REASON_PAYLOAD_FORMAT: u8 = 0x99;

/// A message that waits for its acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Flight {
    first: Seq,
    last: Seq,
    count: u64,
    sent: Mono,
}

/// What an acknowledgement meant, for the agent to count and record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It answers nothing that is in flight.
    Unknown,
    /// Records of this range, so many, are delivered.
    Delivered(Seq, Seq, u64),
    /// Nobody subscribes; the records stay.
    Unheard,
    /// Refused for now; the records stay.
    Refused(u8),
    /// This one record can never be delivered and is given up.
    GivenUp,
}

/// The outbox of the core.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    config: OutboxConfig,
    seq_next: Seq,
    storing: BTreeMap<Seq, (Arc<Record>, Mono)>,
    failed: BTreeSet<Seq>,
    retry: Option<Mono>,
    retry_ms: u64,
    fault: Option<StoreFault>,
    fault_since: Mono,
    /// Every record up to here has been handed to the link, delivered, or does not exist.
    cursor: Seq,
    loading: Option<(Seq, Mono)>,
    waiting_since: Option<Mono>,
    inflight: BTreeMap<BatchId, Flight>,
    batch_next: u64,
    records_max: u32,
    packet_bytes_max: u32,
    inflight_max: u32,
    paused_until: Mono,
    disconnecting: bool,
    pub(crate) report: StoreReport,
    /// Records that never became durable: first, last, how many.
    lost: Option<(Seq, Seq, u64)>,
}

impl Outbox {
    pub(crate) fn new(config: OutboxConfig, seq_next: Seq, now: Mono) -> Self {
        Self {
            records_max: config.batch_records_max,
            packet_bytes_max: config.batch_bytes_max,
            inflight_max: config.inflight_batches_max,
            config,
            seq_next,
            storing: BTreeMap::new(),
            failed: BTreeSet::new(),
            retry: None,
            retry_ms: RETRY_MS_MIN,
            fault: None,
            fault_since: now,
            cursor: Seq(0),
            loading: None,
            waiting_since: Some(now),
            inflight: BTreeMap::new(),
            batch_next: 0,
            paused_until: now,
            disconnecting: false,
            report: StoreReport::default(),
            lost: None,
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
        if self.storing.len() >= STORING_RECORDS_MAX && !self.drop_oldest_failed() {
            return false;
        }
        let record = Arc::new(Record {
            seq: self.seq_next,
            stamp,
            body,
        });
        self.seq_next = self.seq_next.next();
        self.storing.insert(record.seq, (Arc::clone(&record), now));
        if self.retry.is_some() {
            // The store is failing: the record waits with the others, in order.
            self.failed.insert(record.seq);
        } else {
            actions.push(Action::Store { record });
        }
        true
    }

    /// Only a record that is not with the store may go; one that is might still become durable behind the cursor.
    fn drop_oldest_failed(&mut self) -> bool {
        let event = |seq: &Seq| {
            matches!(
                self.storing.get(seq).map(|(record, _)| &record.body),
                Some(Body::Event(_))
            )
        };
        let oldest = self
            .failed
            .iter()
            .copied()
            .find(|seq| !event(seq))
            .or_else(|| self.failed.first().copied());
        let Some(seq) = oldest else { return false };
        self.failed.remove(&seq);
        self.storing.remove(&seq);
        self.lost = Some(match self.lost {
            Some((first, last, count)) => (first.min(seq), last.max(seq), count + 1),
            None => (seq, seq, 1),
        });
        true
    }

    /// What never became durable since the last call, once the store works again.
    pub(crate) fn take_lost(&mut self) -> Option<(Seq, Seq, u64)> {
        if self.fault.is_some() {
            None
        } else {
            self.lost.take()
        }
    }

    /// Whether the store owes an answer for this record.
    pub(crate) fn awaits(&self, seq: Seq) -> bool {
        self.storing.contains_key(&seq)
    }

    /// The sequence number that the next record gets.
    pub(crate) fn seq_next(&self) -> Seq {
        self.seq_next
    }

    /// Records from `first` to `last` are durable. Returns how many this call made so.
    pub(crate) fn stored(&mut self, now: Mono, first: Seq, last: Seq) -> u64 {
        let mut count = 0;
        while let Some(seq) = self.storing.range(first..=last).map(|(seq, _)| *seq).next() {
            self.storing.remove(&seq);
            self.failed.remove(&seq);
            count += 1;
        }
        if self.failed.is_empty() {
            self.retry = None;
            self.retry_ms = RETRY_MS_MIN;
            if self.fault.take().is_some() {
                self.fault_since = now;
            }
        }
        if count > 0 && self.waiting_since.is_none() {
            self.waiting_since = Some(now);
        }
        count
    }

    /// Returns whether this begins a fault.
    pub(crate) fn store_failed(
        &mut self,
        now: Mono,
        first: Seq,
        last: Seq,
        fault: StoreFault,
    ) -> bool {
        self.failed
            .extend(self.storing.range(first..=last).map(|(seq, _)| *seq));
        if self.retry.is_none() && !self.failed.is_empty() {
            self.retry = Some(now.plus_ms(self.retry_ms));
            self.retry_ms = (self.retry_ms * 2).min(RETRY_MS_MAX);
        }
        let begins = self.fault.is_none();
        if begins {
            self.fault_since = now;
        }
        self.fault = Some(fault);
        begins
    }

    pub(crate) fn link_up(&mut self, packet_bytes_max: u32, inflight_max: u16) {
        self.records_max = self.config.batch_records_max;
        let room = packet_bytes_max.saturating_sub(ENVELOPE_BYTES).max(1);
        self.packet_bytes_max = self.config.batch_bytes_max.min(room);
        self.inflight_max = self
            .config
            .inflight_batches_max
            .min(u32::from(inflight_max).max(1));
        self.rewind();
    }

    pub(crate) fn link_down(&mut self) {
        self.rewind();
    }

    /// Whatever was in flight goes again, from the store.
    fn rewind(&mut self) {
        if let Some(first) = self.inflight.values().map(|flight| flight.first).min() {
            self.rewind_to(first);
        }
        self.inflight.clear();
        self.disconnecting = false;
    }

    fn rewind_to(&mut self, first: Seq) {
        self.cursor = self.cursor.min(Seq(first.0.saturating_sub(1)));
        self.waiting_since = Some(Mono(0));
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
        let asked = self.loading.take();
        let (after, through) = range;
        if !link_up || after != self.cursor || asked.is_none_or(|(from, _)| from != after) {
            return false;
        }
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            self.cursor = through;
            self.waiting_since = None;
            return false;
        };
        let flight = Flight {
            first: first.seq,
            last: last.seq,
            count: u64::try_from(records.len()).unwrap_or(u64::MAX),
            sent: now,
        };
        self.cursor = flight.last;
        // Whatever is left goes at once; only what becomes durable from now on may linger.
        self.waiting_since = None;
        let batch = BatchId(self.batch_next);
        self.batch_next += 1;
        self.inflight.insert(batch, flight);
        actions.push(Action::Publish { batch, records });
        true
    }

    pub(crate) fn load_failed(&mut self, now: Mono) {
        self.loading = None;
        // A refusal may have asked for a longer pause.
        self.paused_until = self.paused_until.max(now.plus_ms(RETRY_MS_MIN));
    }

    pub(crate) fn acked(
        &mut self,
        now: Mono,
        batch: BatchId,
        outcome: AckOutcome,
        actions: &mut Vec<Action>,
    ) -> Settled {
        let Some(flight) = self.inflight.remove(&batch) else {
            return Settled::Unknown;
        };
        let Flight {
            first, last, count, ..
        } = flight;
        match outcome {
            AckOutcome::Taken => {
                actions.push(Action::Forget { first, last });
                // Back to full messages one record at a time: a refusal must not slow the rest of the connection.
                let larger = self.records_max.saturating_add(1);
                self.records_max = larger.min(self.config.batch_records_max);
                Settled::Delivered(first, last, count)
            }
            AckOutcome::NoSubscribers => {
                self.paused_until = now.plus_ms(REFUSAL_PAUSE_MS);
                self.rewind_to(first);
                Settled::Unheard
            }
            AckOutcome::Refused { reason } => self.refused(now, flight, reason, actions),
        }
    }

    fn refused(
        &mut self,
        now: Mono,
        flight: Flight,
        reason: u8,
        actions: &mut Vec<Action>,
    ) -> Settled {
        let of_the_payload = matches!(reason, REASON_PACKET_TOO_LARGE | REASON_PAYLOAD_FORMAT);
        if of_the_payload && flight.count == 1 {
            actions.push(Action::Discard {
                first: flight.first,
                last: flight.last,
            });
            return Settled::GivenUp;
        }
        self.rewind_to(flight.first);
        if of_the_payload {
            // Halve until the one record that offends stands alone.
            self.records_max = (u32::try_from(flight.count).unwrap_or(u32::MAX) / 2).max(1);
        } else {
            self.paused_until = now.plus_ms(REFUSAL_PAUSE_MS);
        }
        Settled::Refused(reason)
    }

    pub(crate) fn advance(&mut self, now: Mono, link_up: bool, actions: &mut Vec<Action>) {
        if self.retry.is_some_and(|retry| now >= retry) {
            self.retry = None;
            for seq in core::mem::take(&mut self.failed) {
                if let Some((record, asked)) = self.storing.get_mut(&seq) {
                    *asked = now;
                    actions.push(Action::Store {
                        record: Arc::clone(record),
                    });
                }
            }
        }
        if !link_up {
            return;
        }
        if !self.disconnecting && self.ack_deadline().is_some_and(|deadline| now >= deadline) {
            self.disconnecting = true;
            actions.push(Action::Disconnect {
                cause: "ack-timeout",
            });
        }
        if self.load_due().is_some_and(|due| now >= due) {
            let through = self.durable_through();
            self.loading = Some((self.cursor, now));
            actions.push(Action::Load {
                after: self.cursor,
                through,
                records_max: self.records_max,
                bytes_max: self.packet_bytes_max,
            });
        }
    }

    /// Every record up to here is durable or does not exist.
    fn durable_through(&self) -> Seq {
        let end = self
            .storing
            .first_key_value()
            .map_or(self.seq_next, |(seq, _)| *seq);
        Seq(end.0.saturating_sub(1))
    }

    fn ack_deadline(&self) -> Option<Mono> {
        self.inflight
            .values()
            .map(|flight| flight.sent.plus_ms(self.config.ack_timeout_ms))
            .min()
    }

    /// When the next load is due; `None` while there is nothing to load or no room for it.
    fn load_due(&self) -> Option<Mono> {
        let through = self.durable_through();
        let room = u32::try_from(self.inflight.len()).unwrap_or(u32::MAX) < self.inflight_max;
        if self.loading.is_some() || !room || self.disconnecting || through <= self.cursor {
            return None;
        }
        let full = through.0 - self.cursor.0 >= u64::from(self.records_max);
        let due = if full {
            Mono(0)
        } else {
            self.waiting_since
                .unwrap_or(Mono(0))
                .plus_ms(self.config.linger_ms)
        };
        Some(due.max(self.paused_until))
    }

    pub(crate) fn next_deadline(&self, link_up: bool) -> Option<Mono> {
        let linked = if link_up {
            let ack = self.ack_deadline().filter(|_| !self.disconnecting);
            ack.into_iter().chain(self.load_due()).min()
        } else {
            None
        };
        self.retry.into_iter().chain(linked).min()
    }

    /// Since when the store owes an answer.
    pub(crate) fn owed_since(&self) -> Option<Mono> {
        let storing = self
            .storing
            .iter()
            .filter(|(seq, _)| !self.failed.contains(seq))
            .map(|(_, (_, asked))| *asked);
        // Not the lowest number's: one that was tried again lately may stand before one that waits for long.
        storing.chain(self.loading.map(|(_, asked)| asked)).min()
    }

    pub(crate) fn inflight(&self) -> u64 {
        u64::try_from(self.inflight.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.fault.is_some()
    }

    pub(crate) fn health(&self) -> StoreHealth {
        StoreHealth {
            state: self.fault.as_ref().map_or("ok", |fault| fault.cause),
            detail: self
                .fault
                .as_ref()
                .map(|fault| String::from(&*fault.detail)),
            since: self.fault_since,
            retry: self.retry,
            storing: u64::try_from(self.storing.len()).unwrap_or(u64::MAX),
            seq_next: self.seq_next,
            report: self.report,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{sync::Arc, vec, vec::Vec};

    use super::{Outbox, REASON_PAYLOAD_FORMAT, Settled};
    use crate::{
        config::OutboxConfig,
        event::{AckOutcome, Action, StoredRecord},
        units::{BatchId, Mono, Seq},
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
        let mut outbox = Outbox::new(OutboxConfig::default(), Seq(300), Mono(0));
        outbox.link_up(70_000, 1);
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
            (*batch, flight.count)
        })
    }

    #[test]
    fn seed_126_messages_grow_again_after_a_refusal() {
        let mut outbox = outbox();
        let mut actions = Vec::new();
        let refused = AckOutcome::Refused {
            reason: REASON_PAYLOAD_FORMAT,
        };
        let mut sizes = Vec::new();
        loop {
            let (batch, count) = send(&mut outbox, Mono(1_000));
            sizes.push(count);
            if let Settled::GivenUp = outbox.acked(Mono(1_000), batch, refused, &mut actions) {
                break;
            }
        }
        assert_eq!(sizes, vec![100, 50, 25, 12, 6, 3, 1]);
        let given_up = actions.pop();
        assert!(matches!(given_up, Some(Action::Discard { first, last }) if first == last));
        for expected in 1..=5 {
            let (batch, count) = send(&mut outbox, Mono(1_000));
            assert_eq!(count, expected);
            outbox.acked(Mono(1_000), batch, AckOutcome::Taken, &mut actions);
        }
    }
}
