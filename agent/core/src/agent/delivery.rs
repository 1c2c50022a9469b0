//! How the agent takes what the link and the receiver say of its records.
//!
//! Owns: the order of what follows from an acknowledgement, a watermark, a recall or a change of the connection, and
//! what is told of them. Must not: decide what is sent.
//!
//! Invariant: an event record tells of a change of the delivery's state at most once in [`CHANGE_MS`], and of watermarks
//! that are refused as often, so that a broker that changes its mind cannot fill the outbox.

use alloc::{format, string::String, vec::Vec};

use super::Agent;
use crate::{
    event::{AckOutcome, Action, LinkFault, StoredRecord},
    outbox::{Confirmed, Settled},
    record::Occurrence,
    units::{BatchId, Epoch, Mono, Seq},
};

/// Least time between two records of the same kind, in milliseconds.
const CHANGE_MS: u64 = 10_000;

/// What was told last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    delivery: &'static str,
    pub(super) delivery_since: Mono,
    /// No change of the delivery is told before this.
    delivery_next: Mono,
    /// No refused watermark is told before this.
    watermark_next: Mono,
}

impl Told {
    pub(super) const fn new(now: Mono) -> Self {
        Self {
            delivery: "ok",
            delivery_since: now,
            delivery_next: now,
            watermark_next: now,
        }
    }
}

/// The reason codes of MQTT 5 that an acknowledgement may have.
const fn reason_text(reason: u8) -> &'static str {
    match reason {
        0x83 => "implementation-specific",
        0x87 => "not-authorised",
        0x90 => "topic-name-invalid",
        0x91 => "packet-identifier-in-use",
        0x95 => "packet-too-large",
        0x97 => "quota-exceeded",
        0x99 => "payload-format-invalid",
        _ => "unspecified",
    }
}

impl Agent {
    pub(super) fn take_records(
        &mut self,
        now: Mono,
        range: (Seq, Seq),
        records: Vec<StoredRecord>,
        actions: &mut Vec<Action>,
    ) {
        let link_up = self.link_is_up();
        let published = self.outbox.loaded(now, link_up, range, records, actions);
        self.counters.batches_published += u64::from(published);
    }

    pub(super) fn gain_link(
        &mut self,
        now: Mono,
        packet_bytes_max: u32,
        inflight_max: u16,
        actions: &mut Vec<Action>,
    ) {
        self.counters.connects += 1;
        self.outbox.link_up(now, packet_bytes_max, inflight_max);
        if let Some(link) = &mut self.link {
            link.transition_to_up(now);
        }
        let occurrence = Occurrence {
            what: "link",
            to: Some("up"),
            detail: self
                .link
                .as_ref()
                .filter(|link| link.broker() > 0)
                .map(|link| format!("broker {}", link.broker())),
            ..Occurrence::default()
        };
        self.tell(now, occurrence, actions);
    }

    pub(super) fn lose_link(&mut self, now: Mono, fault: LinkFault, actions: &mut Vec<Action>) {
        self.counters.link_faults += 1;
        if let Some(seq) = self.outbox.link_down(now) {
            self.tell_set_aside(now, seq, "connection-closed", None, actions);
        }
        let Some(link) = &mut self.link else { return };
        let was_up = link.is_up();
        link.transition_to_down(now, fault.clone(), &mut self.random);
        if was_up {
            let occurrence = Occurrence {
                what: "link",
                from: Some("up"),
                to: Some("down"),
                reason: Some(fault.cause),
                detail: Some(fault.detail),
                ..Occurrence::default()
            };
            self.tell(now, occurrence, actions);
        }
    }

    pub(super) fn take_size(&mut self, now: Mono, batch: BatchId, bytes: u64) {
        self.counters.bytes_sent = self.counters.bytes_sent.saturating_add(bytes);
        self.outbox.sent(now, batch, bytes);
    }

    pub(super) fn take_ack(
        &mut self,
        now: Mono,
        batch: BatchId,
        outcome: AckOutcome,
        actions: &mut Vec<Action>,
    ) {
        let before = actions.len();
        let settled = self
            .outbox
            .acked(now, batch, outcome, &mut self.random, actions);
        match settled {
            Settled::Unknown | Settled::GivenUp => {}
            Settled::Taken(count) => {
                self.counters.records_acked += count;
                self.settle_forgotten(before, actions);
                if let Some(link) = &mut self.link {
                    link.delivered();
                }
            }
            Settled::Unheard => self.counters.no_subscribers += 1,
            Settled::Refused => self.counters.link_faults += 1,
            Settled::SetAside(seq, reason) => {
                self.counters.link_faults += 1;
                let detail = format!("reason code {reason:#04x}");
                self.tell_set_aside(now, seq, reason_text(reason), Some(detail), actions);
            }
        }
    }

    /// A record is not delivered for now.
    fn tell_set_aside(
        &mut self,
        now: Mono,
        seq: Seq,
        reason: &'static str,
        detail: Option<String>,
        actions: &mut Vec<Action>,
    ) {
        self.counters.records_set_aside += 1;
        let occurrence = Occurrence {
            what: "record-set-aside",
            reason: Some(reason),
            detail,
            records: Some((seq, seq, 1)),
            ..Occurrence::default()
        };
        self.tell(now, occurrence, actions);
    }

    pub(super) fn take_watermark(
        &mut self,
        now: Mono,
        epoch: Epoch,
        through: Seq,
        actions: &mut Vec<Action>,
    ) {
        let before = actions.len();
        match self.outbox.watermark(now, epoch, through, actions) {
            Confirmed::Nothing => {}
            Confirmed::Through(..) => self.settle_forgotten(before, actions),
            Confirmed::Refused(cause) => {
                self.counters.watermarks_refused += 1;
                if now < self.told.watermark_next {
                    return;
                }
                self.told.watermark_next = now.plus_ms(CHANGE_MS);
                let occurrence = Occurrence {
                    what: "watermark",
                    to: Some("refused"),
                    reason: Some(cause),
                    detail: Some(format!("epoch {}, through {}", epoch.0, through.0)),
                    ..Occurrence::default()
                };
                self.tell(now, occurrence, actions);
            }
        }
    }

    /// The receiver knows what the records said that are forgotten, from this action on.
    fn settle_forgotten(&mut self, from: usize, actions: &mut Vec<Action>) {
        let range = |action: &Action| match action {
            Action::Forget { first, last } => Some((*first, *last)),
            _ => None,
        };
        let known: Vec<_> = actions[from..].iter().filter_map(range).collect();
        for (first, last) in known {
            self.gone.delivered(first, last, actions);
        }
    }

    pub(super) fn take_recall(
        &mut self,
        now: Mono,
        (first, last, count): (Seq, Seq, u64),
        actions: &mut Vec<Action>,
    ) {
        self.counters.records_recalled += count;
        if count > 0 {
            self.outbox.recalled(first, last);
        }
        let occurrence = Occurrence {
            what: "records-recalled",
            records: Some((first, last, count)),
            ..Occurrence::default()
        };
        self.tell(now, occurrence, actions);
        self.conclude_replays(now, (first, last), count, actions);
    }

    /// Says what keeps records from arriving, and when it does no longer.
    pub(super) fn tell_delivery(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let state = self.outbox.delivery();
        if state == self.told.delivery || now < self.told.delivery_next {
            return;
        }
        let occurrence = Occurrence {
            what: "delivery",
            from: Some(self.told.delivery),
            to: Some(state),
            ..Occurrence::default()
        };
        self.told.delivery = state;
        self.told.delivery_since = now;
        self.told.delivery_next = now.plus_ms(CHANGE_MS);
        self.tell(now, occurrence, actions);
    }
}
