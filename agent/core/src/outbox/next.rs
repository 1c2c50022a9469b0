//! Which records go next, and when.
//!
//! Owns: the order of live records and backlog, and everything that makes a message wait. Must not: change anything.

use super::Outbox;
use crate::{
    config::Order,
    units::{Mono, Seq},
};

/// What may be loaded next, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    pub(super) first: Seq,
    pub(super) through: Seq,
    pub(super) historical: bool,
    pub(super) due: Mono,
}

impl Outbox {
    /// The next load; `None` while there is nothing to load or no room for it.
    pub(super) fn next_load(&self, now: Mono) -> Option<Next> {
        let most = if self.refusals.is_probing() {
            1
        } else {
            self.inflight_max
        };
        let room = u32::try_from(self.inflight.len()).unwrap_or(u32::MAX) < most;
        if self.loading.is_some() || !room || self.disconnecting || self.draining {
            return None;
        }
        let held = self.rate.due()?.max(self.paused_until);
        let (live, backlog) = (self.next_live(), self.next_backlog());
        let next = match (live, backlog, self.config.order) {
            (Some(live), Some(_), Order::LiveFirst) if live.due <= now => live,
            (_, Some(backlog), _) => backlog,
            (live, None, _) => live?,
        };
        if !self.inflight.is_empty() && self.is_alone(next.first) {
            return None;
        }
        Some(Next {
            due: next.due.max(held),
            ..next
        })
    }

    /// Whether a message that begins here must be alone, or one that must is in flight.
    fn is_alone(&self, first: Seq) -> bool {
        let flights = self.inflight.values().flat_map(|flight| &flight.runs);
        let mut firsts = flights.map(|(first, _)| *first).chain([first]);
        firsts.any(|first| self.closing.is_alone(first))
    }

    /// How far a message from `first` may reach of `through`, for what was refused or ended a connection.
    fn within(&self, first: Seq, through: Seq) -> Seq {
        let through = self.refusals.within(first, through);
        self.closing.within(first, through)
    }

    /// What was made before this connection goes at once.
    fn next_backlog(&self) -> Option<Next> {
        let (first, last) = self.unsent.next(Seq(1))?;
        let through = last
            .min(Seq(self.live_from.0.saturating_sub(1)))
            .min(self.storing.durable_through());
        (first <= through).then(|| Next {
            first,
            through: self.within(first, through),
            historical: true,
            due: Mono(0),
        })
    }

    /// What was made on this connection may wait for company.
    fn next_live(&self) -> Option<Next> {
        let (first, last) = self.unsent.next(self.live_from)?;
        let through = last.min(self.storing.durable_through());
        if first > through {
            return None;
        }
        let full = through.0 - first.0 + 1 >= u64::from(self.load_records_max());
        let due = if full {
            Mono(0)
        } else {
            self.waiting_since
                .unwrap_or(Mono(0))
                .plus_ms(self.config.linger_ms)
        };
        Some(Next {
            first,
            through: self.within(first, through),
            historical: false,
            due,
        })
    }
}
