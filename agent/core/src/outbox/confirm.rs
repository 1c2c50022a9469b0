//! What the ingesting side has stored: the watermark.
//!
//! Owns: the epoch's watermark, and when it is late. Must not: delete; it says what may be.
//!
//! Invariants: nothing is kept per record, only how far was acknowledged and how far was confirmed. A watermark of
//! another epoch, or beyond what exists, confirms nothing; one that goes back changes nothing.

use crate::units::{Epoch, Mono, Seq};

/// Longest wait between two rounds of sending again, in milliseconds.
const AGAIN_MS_MAX: u64 = 3_600_000;
/// A connection must have lasted for this long, in milliseconds: a watermark may come with it.
const LINKED_MS_MIN: u64 = 5_000;
/// Most records of one round: a receiver that stores nothing for a day must not be sent that day every hour.
const AGAIN_RECORDS_MAX: u64 = 10_000;
/// The exponent stops growing here; [`AGAIN_MS_MAX`] is reached before.
const DOUBLINGS_MAX: u32 = 20;

/// What a watermark meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// It cannot be of this store, and why.
    Refused(&'static str),
    /// Nothing that was not known.
    Nothing,
    /// Everything in this range is stored by the receiver.
    Through(Seq, Seq),
}

/// The watermark.
#[derive(Clone, Debug)]
pub(super) struct Confirm {
    epoch: Epoch,
    timeout_ms: u64,
    /// Everything up to here is confirmed.
    confirmed: Seq,
    /// The highest that was acknowledged.
    acknowledged: Seq,
    /// Since when what is acknowledged has waited without any progress.
    since: Option<Mono>,
    /// Since when there is a connection on which a watermark can come.
    linked: Mono,
    rounds: u32,
}

impl Confirm {
    pub(super) fn new(epoch: Epoch, timeout_ms: u64) -> Self {
        Self {
            epoch,
            timeout_ms,
            confirmed: Seq(0),
            acknowledged: Seq(0),
            since: None,
            linked: Mono(0),
            rounds: 0,
        }
    }

    pub(super) fn acknowledged(&mut self, now: Mono, last: Seq) {
        self.acknowledged = self.acknowledged.max(last);
        if self.waits() && self.since.is_none() {
            self.since = Some(now);
        }
    }

    fn waits(&self) -> bool {
        self.acknowledged > self.confirmed
    }

    /// Without a connection no watermark can come.
    pub(super) fn link_up(&mut self, now: Mono) {
        self.linked = now;
    }

    /// The receiver says that it has all of `epoch` up to `through`; `exists` is the last record that there is.
    pub(super) fn watermark(
        &mut self,
        now: Mono,
        (epoch, through): (Epoch, Seq),
        exists: Seq,
    ) -> Confirmed {
        if epoch != self.epoch {
            return Confirmed::Refused("other-epoch");
        }
        if through > exists {
            return Confirmed::Refused("beyond-the-end");
        }
        if through <= self.confirmed {
            return Confirmed::Nothing;
        }
        let first = self.confirmed.next();
        self.confirmed = through;
        self.rounds = 0;
        self.since = self.waits().then_some(now);
        Confirmed::Through(first, through)
    }

    pub(super) fn is_late(&self) -> bool {
        self.rounds > 0
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        let factor = 1_u64 << self.rounds.min(DOUBLINGS_MAX);
        let wait_ms = self
            .timeout_ms
            .saturating_mul(factor)
            .min(AGAIN_MS_MAX.max(self.timeout_ms));
        let soonest = self.linked.plus_ms(LINKED_MS_MIN.min(wait_ms));
        self.since.map(|since| since.plus_ms(wait_ms).max(soonest))
    }

    /// What is to be sent again, when the watermark is late.
    pub(super) fn advance(&mut self, now: Mono) -> Option<(Seq, Seq)> {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        self.rounds = self.rounds.saturating_add(1);
        self.since = Some(now);
        let most = Seq(self.confirmed.0.saturating_add(AGAIN_RECORDS_MAX));
        Some((self.confirmed.next(), self.acknowledged.min(most)))
    }

    /// How far it is confirmed.
    pub(super) const fn through(&self) -> Seq {
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::{AGAIN_MS_MAX, AGAIN_RECORDS_MAX, Confirm, Confirmed};
    use crate::units::{Epoch, Mono, Seq};

    #[test]
    fn a_watermark_confirms_what_exists_once() {
        let mut confirm = Confirm::new(Epoch(7), 60_000);
        let mut say =
            |epoch, through| confirm.watermark(Mono(1), (Epoch(epoch), Seq(through)), Seq(100));
        assert_eq!(say(6, 10), Confirmed::Refused("other-epoch"));
        assert_eq!(say(7, 101), Confirmed::Refused("beyond-the-end"));
        assert_eq!(say(7, 100), Confirmed::Through(Seq(1), Seq(100)));
        assert_eq!(say(7, 99), Confirmed::Nothing);
        assert_eq!(say(7, 100), Confirmed::Nothing);
    }

    #[test]
    fn what_is_not_confirmed_goes_again_ever_less_often() {
        let mut confirm = Confirm::new(Epoch(7), 60_000);
        assert_eq!(confirm.next_deadline(), None);
        confirm.acknowledged(Mono(1_000), Seq(50_000));
        assert_eq!(confirm.advance(Mono(60_999)), None);
        let mut now = Mono(61_000);
        let round = (Seq(1), Seq(AGAIN_RECORDS_MAX));
        assert_eq!(confirm.advance(now), Some(round));
        assert!(confirm.is_late());
        let mut waits = 60_000;
        for _ in 0..30 {
            waits = (2 * waits).min(AGAIN_MS_MAX);
            assert_eq!(confirm.advance(now.plus_ms(waits - 1)), None);
            now = now.plus_ms(waits);
            assert_eq!(confirm.advance(now), Some(round));
        }
        let said = confirm.watermark(now, (Epoch(7), Seq(9)), Seq(60_000));
        assert_eq!(said, Confirmed::Through(Seq(1), Seq(9)));
        assert!(!confirm.is_late(), "it moves");
        assert_eq!(confirm.next_deadline(), Some(now.plus_ms(60_000)));
    }
}
