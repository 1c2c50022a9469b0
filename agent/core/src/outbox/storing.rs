//! Records that are not durable yet.
//!
//! Owns: sequence numbers, and the memory of what the store has not confirmed. Must not: know what is sent.
//!
//! Invariant: a record keeps its number until it is durable or dropped, and what is dropped is counted with its range.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};

use crate::{
    config::STORING_RECORDS_MAX,
    event::{Action, StoreFault, StoreReport},
    health::StoreHealth,
    record::{Body, Record, Stamp},
    units::{Mono, Seq},
};

/// A failed commit is tried again after this, in milliseconds; it doubles up to [`RETRY_MS_MAX`].
const RETRY_MS_MIN: u64 = 250;
/// Longest wait before a failed commit is tried again, in milliseconds.
const RETRY_MS_MAX: u64 = 10_000;

/// The way of records to the medium.
#[derive(Clone, Debug)]
pub(super) struct Storing {
    seq_next: Seq,
    records: BTreeMap<Seq, (Arc<Record>, Mono)>,
    failed: BTreeSet<Seq>,
    retry: Option<Mono>,
    retry_ms: u64,
    fault: Option<StoreFault>,
    fault_since: Mono,
    /// Records that never became durable: first, last, how many.
    lost: Option<(Seq, Seq, u64)>,
}

impl Storing {
    pub(super) fn new(seq_next: Seq, now: Mono) -> Self {
        Self {
            seq_next,
            records: BTreeMap::new(),
            failed: BTreeSet::new(),
            retry: None,
            retry_ms: RETRY_MS_MIN,
            fault: None,
            fault_since: now,
            lost: None,
        }
    }

    pub(super) fn add(
        &mut self,
        now: Mono,
        stamp: Stamp,
        body: Body,
        actions: &mut Vec<Action>,
    ) -> bool {
        if self.records.len() >= STORING_RECORDS_MAX && !self.drop_oldest_failed() {
            return false;
        }
        let record = Arc::new(Record {
            seq: self.seq_next,
            stamp,
            body,
        });
        self.seq_next = self.seq_next.next();
        self.records.insert(record.seq, (Arc::clone(&record), now));
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
                self.records.get(seq).map(|(record, _)| &record.body),
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
        self.records.remove(&seq);
        self.lost = Some(match self.lost {
            Some((first, last, count)) => (first.min(seq), last.max(seq), count + 1),
            None => (seq, seq, 1),
        });
        true
    }

    pub(super) fn take_lost(&mut self) -> Option<(Seq, Seq, u64)> {
        if self.fault.is_some() {
            None
        } else {
            self.lost.take()
        }
    }

    /// Whether the record waits for the store.
    pub(super) fn holds(&self, seq: Seq) -> bool {
        self.records.contains_key(&seq)
    }

    pub(super) fn seq_next(&self) -> Seq {
        self.seq_next
    }

    /// Records from `first` to `last` are durable. Returns how many this call made so.
    pub(super) fn stored(&mut self, now: Mono, first: Seq, last: Seq) -> u64 {
        let mut count = 0;
        while let Some(seq) = self.records.range(first..=last).map(|(seq, _)| *seq).next() {
            self.records.remove(&seq);
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
        count
    }

    pub(super) fn failed(&mut self, now: Mono, first: Seq, last: Seq, fault: StoreFault) {
        self.failed
            .extend(self.records.range(first..=last).map(|(seq, _)| *seq));
        if self.retry.is_none() && !self.failed.is_empty() {
            self.retry = Some(now.plus_ms(self.retry_ms));
            self.retry_ms = (self.retry_ms * 2).min(RETRY_MS_MAX);
        }
        if self.fault.is_none() {
            self.fault_since = now;
        }
        self.fault = Some(fault);
    }

    pub(super) fn advance(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.retry.is_none_or(|retry| now < retry) {
            return;
        }
        self.retry = None;
        for seq in core::mem::take(&mut self.failed) {
            if let Some((record, asked)) = self.records.get_mut(&seq) {
                *asked = now;
                actions.push(Action::Store {
                    record: Arc::clone(record),
                });
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.retry
    }

    /// Every record up to here is durable or does not exist.
    pub(super) fn durable_through(&self) -> Seq {
        let end = self
            .records
            .first_key_value()
            .map_or(self.seq_next, |(seq, _)| *seq);
        Seq(end.0.saturating_sub(1))
    }

    /// When the store was asked for what it has not answered: not the lowest number's time, since one that was tried
    /// again lately may stand before one that waits for long.
    pub(super) fn owed_since(&self) -> Option<Mono> {
        let asked = self
            .records
            .iter()
            .filter(|(seq, _)| !self.failed.contains(seq))
            .map(|(_, (_, asked))| *asked);
        asked.min()
    }

    pub(super) fn is_failing(&self) -> bool {
        self.fault.is_some()
    }

    pub(super) fn health(&self, report: StoreReport) -> StoreHealth {
        StoreHealth {
            state: self.fault.as_ref().map_or("ok", |fault| fault.cause),
            detail: self
                .fault
                .as_ref()
                .map(|fault| String::from(&*fault.detail)),
            since: self.fault_since,
            retry: self.retry,
            storing: u64::try_from(self.records.len()).unwrap_or(u64::MAX),
            seq_next: self.seq_next,
            report,
        }
    }
}
