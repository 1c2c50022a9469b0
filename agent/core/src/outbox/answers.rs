//! What the broker and the receiver answer: taken, refused, confirmed, asked for again.
//!
//! Owns: what follows for the records of one answer. Must not: decide when the next message goes.
//!
//! Invariant: a record is forgotten because it was taken or confirmed, and given up for what it is alone; any other
//! answer leaves it in the store.

use alloc::vec::Vec;

use super::{Confirmed, Flight, Outbox};
use crate::{
    event::{AckOutcome, Action},
    units::{BatchId, Epoch, Mono, Seq},
};

/// Publishing pauses for this long after the broker threw a message away, in milliseconds.
const UNHEARD_PAUSE_MS: u64 = 5_000;
/// MQTT 5 reason: the packet is too large for the broker.
const REASON_PACKET_TOO_LARGE: u8 = 0x95;
/// MQTT 5 reason: a quota is used up.
pub(super) const REASON_QUOTA: u8 = 0x97;
/// MQTT 5 reason: the payload is not what its format indicator says.
pub(super) const REASON_PAYLOAD_FORMAT: u8 = 0x99;

/// What an acknowledgement meant, for the agent to count and record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It answers nothing that is in flight.
    Unknown,
    /// So many records are with the broker; delivered if they are forgotten with it, else when they are confirmed.
    Taken(u64),
    /// Nobody subscribes; the records stay.
    Unheard,
    /// Refused for now; the records stay.
    Refused,
    /// This one record is set aside for the reason, for the first time.
    SetAside(Seq, u8),
    /// This one record can never be delivered and is given up.
    GivenUp,
}

impl Outbox {
    pub(crate) fn acked(
        &mut self,
        now: Mono,
        batch: BatchId,
        outcome: AckOutcome,
        random: &mut fastrand::Rng,
        actions: &mut Vec<Action>,
    ) -> Settled {
        let Some(flight) = self.inflight.remove(&batch) else {
            return Settled::Unknown;
        };
        self.rate.settled(batch);
        match outcome {
            AckOutcome::Taken => self.taken(now, &flight, actions),
            AckOutcome::NoSubscribers => {
                self.unheard = true;
                self.paused_until = self.paused_until.max(now.plus_ms(UNHEARD_PAUSE_MS));
                self.send_flight_again(&flight);
                Settled::Unheard
            }
            AckOutcome::Refused { reason } => self.refused(now, &flight, reason, random, actions),
        }
    }

    fn send_flight_again(&mut self, flight: &Flight) {
        for &(first, last) in &flight.runs {
            self.send_again(first, last);
        }
    }

    fn taken(&mut self, now: Mono, flight: &Flight, actions: &mut Vec<Action>) -> Settled {
        self.unheard = false;
        for &(first, last) in &flight.runs {
            self.absent(first, last);
        }
        if self.refusals.taken() {
            self.try_set_aside();
        }
        for &(first, last) in &flight.runs {
            match &mut self.confirm {
                Some(confirm) => confirm.acknowledged(now, last),
                None => actions.push(Action::Forget { first, last }),
            }
        }
        Settled::Taken(flight.count())
    }

    fn refused(
        &mut self,
        now: Mono,
        flight: &Flight,
        reason: u8,
        random: &mut fastrand::Rng,
        actions: &mut Vec<Action>,
    ) -> Settled {
        if reason == REASON_QUOTA {
            self.paused_until = self.refusals.quota(now, self.paused_until, random);
            self.send_flight_again(flight);
            return Settled::Refused;
        }
        let count = flight.count();
        let alone = flight.runs.first().filter(|_| count == 1);
        let Some(&(first, last)) = alone else {
            if let (Some(first), Some(last)) = (flight.runs.first(), flight.runs.last()) {
                self.refusals.suspect(first.0, last.1);
            }
            self.send_flight_again(flight);
            return Settled::Refused;
        };
        if matches!(reason, REASON_PACKET_TOO_LARGE | REASON_PAYLOAD_FORMAT) {
            actions.push(Action::Discard { first, last });
            self.refusals.found(first);
            self.refusals.gone(first, last);
            return Settled::GivenUp;
        }
        let (is_new, until) =
            self.refusals
                .set_aside(now, first, reason, self.paused_until, random);
        self.paused_until = self.paused_until.max(until);
        if is_new {
            Settled::SetAside(first, reason)
        } else {
            Settled::Refused
        }
    }

    /// They wait again.
    pub(crate) fn recalled(&mut self, first: Seq, last: Seq) {
        let last = last.min(self.storing.durable_through());
        if first > last {
            return;
        }
        if self.confirm.is_some() {
            self.recalled.insert(first, last);
        }
        self.live_from = self.seq_next();
        self.closing.recalled(first, last, &mut self.unsent);
        self.send_again(first, last);
    }

    /// What the ingesting side has stored. Returns what is forgotten because of it.
    pub(crate) fn watermark(
        &mut self,
        now: Mono,
        epoch: Epoch,
        through: Seq,
        actions: &mut Vec<Action>,
    ) -> Confirmed {
        let exists = self.storing.durable_through();
        let Some(confirm) = &mut self.confirm else {
            return Confirmed::Refused("not-asked-for");
        };
        let confirmed = confirm.watermark(now, (epoch, through), exists);
        if let Confirmed::Through(_, through) = confirmed {
            // From the beginning: what was set aside at an earlier watermark may have been delivered since. And what
            // the broker refused cannot have arrived, whatever is said of it.
            let mut kept = self.recalled.clone();
            for &(first, last) in self.refusals.records().parts() {
                kept.insert(first, last);
            }
            for (first, last) in kept.gaps(Seq(1), through) {
                actions.push(Action::Forget { first, last });
                self.unsent.remove(first, last);
                self.closing.gone(first, last);
            }
        }
        confirmed
    }
}
