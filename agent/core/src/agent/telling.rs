//! What the agent writes down: votes, inferences and what changed, as records in the outbox.
//!
//! Owns: the words of every event record and the stamp of every record. Must not: decide; it says what was decided.

use alloc::{format, vec::Vec};

use super::Agent;
use crate::{
    certificate::{Changed, Role},
    event::{Action, GoneCause},
    gone::Loss,
    record::{Body, Occurrence, Stamp, wall_time},
    units::Mono,
};

impl Agent {
    /// What never became durable, once the store works again.
    pub(super) fn note_lost(&mut self) {
        if let Some((first, last, count)) = self.outbox.take_lost() {
            self.note_gone(Loss {
                first,
                last,
                count,
                cause: GoneCause::NotStored,
            });
        }
    }

    pub(super) fn note_gone(&mut self, loss: Loss) {
        let index = match loss.cause {
            GoneCause::Full => 0,
            GoneCause::Damaged => 1,
            GoneCause::NotStored => 2,
            GoneCause::Refused => 3,
            GoneCause::Displaced => 4,
            GoneCause::Thinned => 5,
            GoneCause::Expired => 6,
        };
        self.counters.records_gone[index] += loss.count;
        self.outbox.gone(loss.first, loss.last);
        self.gone.add(loss);
    }

    /// Names every loss that no record names, as far as there is room for such records.
    pub(super) fn tell_gone(&mut self, now: Mono, actions: &mut Vec<Action>) {
        while let Some(loss) = self.gone.untold() {
            let seq = self.outbox.seq_next();
            let occurrence = Occurrence {
                what: "records-gone",
                reason: Some(loss.cause.as_str()),
                records: Some((loss.first, loss.last, loss.count)),
                ..Occurrence::default()
            };
            self.tell(now, occurrence, actions);
            if self.outbox.seq_next() == seq {
                return;
            }
            self.gone.told(seq);
        }
    }

    /// A certificate of the connection was read.
    pub(super) fn take_certificate(
        &mut self,
        now: Mono,
        role: Role,
        not_after_unix_ms: i64,
        actions: &mut Vec<Action>,
    ) {
        self.certificates.see(now, role, not_after_unix_ms);
        self.judge_certificates(now, actions);
    }

    /// Names the certificates that will soon be good no longer, as far as the time is known.
    pub(super) fn judge_certificates(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let wall = self.wall.and_then(|anchor| wall_time(anchor, now));
        let Some(unix_ms) = wall else { return };
        let changed: Vec<_> = self.certificates.judge(unix_ms).collect();
        for Changed {
            role,
            from,
            to,
            days_left,
        } in changed
        {
            let occurrence = Occurrence {
                what: "certificate",
                subject: role.as_str().into(),
                from: Some(from),
                to: Some(to),
                detail: Some(format!("{days_left} days left")),
                ..Occurrence::default()
            };
            self.tell(now, occurrence, actions);
        }
    }

    pub(super) fn tell(&mut self, at: Mono, occurrence: Occurrence, actions: &mut Vec<Action>) {
        self.record(at, Body::Event(occurrence), actions);
    }

    pub(super) fn stamp(&self, at: Mono) -> Stamp {
        Stamp {
            boot: self.boot,
            mono: at,
            wall: self.wall,
        }
    }

    pub(super) fn record(&mut self, at: Mono, body: Body, actions: &mut Vec<Action>) {
        let stamp = self.stamp(at);
        self.counters.records += 1;
        if !self.outbox.add(at, stamp, body, actions) {
            self.counters.records_gone[2] += 1;
        }
    }
}
