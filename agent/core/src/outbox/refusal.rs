//! What the broker refused, and when it is tried again.
//!
//! Owns: the records that are set aside, and the pauses after refusals. Must not: give a record up.
//!
//! A refusal blames the record, the topic or the moment, and does not say which. A message is halved until a record
//! stands alone, whatever else is sent meanwhile; one that is refused alone is set aside, and the others go on. Where record after record is refused
//! alone, the topic is to blame: one probe follows another at growing pauses, and the first that is taken brings back
//! everything that was set aside.
//!
//! Invariants: what is set aside stays in the store and is tried again, after a pause that grows and with every
//! connection. Memory is bounded: see [`Ranges`]; what comes to lie between two of them is delayed with them.

use alloc::vec::Vec;

use crate::{
    ranges::Ranges,
    units::{Mono, Seq},
};

/// First pause after a quota was used up, in milliseconds.
const QUOTA_MS_MIN: u64 = 1_000;
/// First pause after the topic was refused, in milliseconds.
const TOPIC_MS_MIN: u64 = 5_000;
/// Longest pause of either, in milliseconds.
const PAUSE_MS_MAX: u64 = 300_000;
/// What is set aside is tried again after this, in milliseconds; it doubles up to [`ASIDE_MS_MAX`].
const ASIDE_MS_MIN: u64 = 30_000;
/// Longest wait before what is set aside is tried again, in milliseconds.
const ASIDE_MS_MAX: u64 = 300_000;
/// Refused messages that are being halved at once; of more the oldest is forgotten, and refused and halved again.
const SUSPECTS_MAX: usize = 64;
/// So many records refused alone, one after the other, blame the topic.
const IN_A_ROW: u32 = 2;

/// The refusals of the broker.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals {
    /// Records that were refused alone and are not delivered.
    records: Ranges,
    reason: Option<u8>,
    /// The extents of messages that were refused as a whole, each of its own.
    suspects: Vec<(Seq, Seq)>,
    in_a_row: u32,
    retry: Option<Mono>,
    retry_ms: u64,
    quota: bool,
    pause_ms: u64,
}

impl Refusals {
    /// Records that were refused.
    pub(super) fn records(&self) -> &Ranges {
        &self.records
    }

    /// The reason of the newest refusal, while there is something to be refused for.
    pub(super) fn reason(&self) -> Option<u8> {
        self.reason
    }

    pub(super) fn has_quota(&self) -> bool {
        self.quota
    }

    /// The topic itself is refused: one message at a time, to see whether it still is.
    pub(super) fn is_probing(&self) -> bool {
        self.in_a_row >= IN_A_ROW
    }

    /// A message of several records was refused: the first half of it goes next. What was suspected with it is not.
    pub(super) fn suspect(&mut self, first: Seq, last: Seq) {
        self.suspects.retain(|part| part.1 < first || last < part.0);
        if self.suspects.len() >= SUSPECTS_MAX {
            self.suspects.remove(0);
        }
        self.suspects.push((first, last));
    }

    /// How far a message from `first` may reach of `through`: half of what is suspected, and not into it from before.
    pub(super) fn within(&self, first: Seq, through: Seq) -> Seq {
        let end = self.suspects.iter().filter_map(|part| {
            if first < part.0 {
                Some(Seq(part.0.0 - 1))
            } else if first <= part.1 {
                let half = (part.1.0 - part.0.0).div_ceil(2).max(1);
                Some(part.1.min(Seq(first.0.saturating_add(half - 1))))
            } else {
                None
            }
        });
        end.fold(through, Seq::min)
    }

    /// This record alone is to blame: the others of its message are not.
    pub(super) fn found(&mut self, seq: Seq) {
        self.suspects.retain(|part| seq < part.0 || part.1 < seq);
    }

    fn acquit(&mut self, first: Seq, last: Seq) {
        for part in &mut self.suspects {
            if first <= part.0 && part.0 <= last {
                part.0 = last.next();
            }
        }
        self.suspects.retain(|part| part.0 <= part.1);
    }

    /// The broker takes no more for now. Returns until when nothing goes.
    pub(super) fn quota(&mut self, now: Mono, paused: Mono, random: &mut fastrand::Rng) -> Mono {
        self.quota = true;
        self.pause(now, paused, QUOTA_MS_MIN, random)
    }

    /// A record was refused alone: it is set aside. Returns whether it is new, and until when nothing goes.
    pub(super) fn set_aside(
        &mut self,
        now: Mono,
        seq: Seq,
        reason: u8,
        paused: Mono,
        random: &mut fastrand::Rng,
    ) -> (bool, Mono) {
        let is_new = !self.records.contains(seq);
        self.found(seq);
        self.records.insert(seq, seq);
        self.reason = Some(reason);
        // One that is refused again says nothing of the others.
        self.in_a_row = self.in_a_row.saturating_add(u32::from(is_new));
        if self.retry.is_none_or(|retry| retry <= now) {
            self.retry_ms = (self.retry_ms * 2).clamp(ASIDE_MS_MIN, ASIDE_MS_MAX);
            self.retry = Some(now.plus_ms(self.retry_ms));
        }
        let until = if self.is_probing() {
            self.pause(now, paused, TOPIC_MS_MIN, random)
        } else {
            paused
        };
        (is_new, until)
    }

    /// A pause that grows, unless one is under way: then the answer is about a message from before it.
    fn pause(&mut self, now: Mono, paused: Mono, ms_min: u64, random: &mut fastrand::Rng) -> Mono {
        if paused > now {
            return paused;
        }
        self.pause_ms = (self.pause_ms * 2).clamp(ms_min, PAUSE_MS_MAX);
        now.plus_ms(random.u64(self.pause_ms / 2..=self.pause_ms))
    }

    /// The broker took records. Returns whether everything that is set aside is worth a try now.
    pub(super) fn taken(&mut self) -> bool {
        let probed = self.is_probing();
        self.in_a_row = 0;
        self.quota = false;
        self.pause_ms = 0;
        probed
    }

    /// There are no such records to be delivered any more.
    pub(super) fn gone(&mut self, first: Seq, last: Seq) {
        self.acquit(first, last);
        if self.records.is_empty() {
            return;
        }
        self.records.remove(first, last);
        if self.records.is_empty() {
            self.reason = None;
            self.retry = None;
            self.retry_ms = 0;
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.retry
    }

    /// Whether what is set aside is due again.
    pub(super) fn advance(&mut self, now: Mono) -> bool {
        let due = self.retry.is_some_and(|retry| now >= retry);
        if due {
            self.retry = None;
        }
        due
    }
}
