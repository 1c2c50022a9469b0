//! What the world remembers of one up period in order to judge it: who owes what since when, and which ticks were voted.

use std::collections::BTreeMap;

use quorate_core::{
    agent::Agent,
    config::Config,
    event::{Action, Event},
    record::{Body, Record},
    units::{Mono, Seq},
};

use crate::checkers::{self, Check, Checker, Grid, ensure};

/// A debt this much below the limit may already stop the strokes: the core counts from the tick, the world from the deed.
const DEBT_SLACK_MS: u64 = 6_000;

/// Debts as the world sees them, in milliseconds of the world.
#[derive(Debug)]
pub(crate) struct Watch {
    storing: BTreeMap<Seq, u64>,
    loading: Option<u64>,
    inferring: Option<u64>,
    connecting: Option<u64>,
    polled: Option<u64>,
    pub(crate) stroked_ms: u64,
    well_ms: u64,
}

impl Watch {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            storing: BTreeMap::new(),
            loading: None,
            inferring: None,
            connecting: None,
            polled: None,
            stroked_ms: now_ms,
            well_ms: now_ms,
        }
    }

    pub(crate) fn heard(&mut self, event: &Event) {
        match event {
            Event::Stored { first, last } | Event::StoreFailed { first, last, .. } => {
                while let Some(seq) = self
                    .storing
                    .range(*first..=*last)
                    .map(|(seq, _)| *seq)
                    .next()
                {
                    self.storing.remove(&seq);
                }
            }
            Event::Loaded { .. } | Event::LoadFailed { .. } => self.loading = None,
            Event::Inferred { .. } | Event::WorkerDied { .. } => self.inferring = None,
            Event::LinkUp { .. } | Event::LinkDown { .. } => self.connecting = None,
            Event::Sample { .. } => self.polled = None,
            _ => {}
        }
    }

    pub(crate) fn asked(&mut self, now_ms: u64, action: &Action) {
        match action {
            Action::Store { record } => {
                self.storing.insert(record.seq, now_ms);
            }
            Action::Load { .. } => self.loading = Some(now_ms),
            Action::Infer { .. } => self.inferring = Some(now_ms),
            Action::Connect { .. } => self.connecting = Some(now_ms),
            Action::Poll { .. } => self.polled = self.polled.or(Some(now_ms)),
            _ => {}
        }
    }

    /// Age of the oldest debt.
    pub(crate) fn debt_ms(&self, now_ms: u64) -> u64 {
        let others = [self.loading, self.inferring, self.connecting, self.polled];
        let oldest = self
            .storing
            .values()
            .copied()
            .chain(others.into_iter().flatten())
            .min();
        oldest.map_or(0, |since| now_ms - since)
    }

    /// From here on all is well, as far as strokes go.
    pub(crate) fn excuse(&mut self, now_ms: u64) {
        self.well_ms = now_ms;
    }

    pub(crate) fn note_debt(&mut self, now_ms: u64, stall_ms: u64) {
        if self.debt_ms(now_ms) + DEBT_SLACK_MS > stall_ms {
            self.well_ms = now_ms;
        }
    }

    pub(crate) fn stroke(&mut self, now_ms: u64, stall_ms: u64) -> Check {
        self.stroked_ms = now_ms;
        checkers::no_stroke_while_stalled(self.debt_ms(now_ms), stall_ms)
    }

    pub(crate) fn check(&self, now_ms: u64, stroke_ms: u64) -> Check {
        checkers::strokes_while_well(now_ms - self.stroked_ms.max(self.well_ms), stroke_ms)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Unseen,
    Other,
    Vote(usize, Mono),
}

/// The records of one up period.
#[derive(Debug)]
pub(crate) struct Period {
    /// World time at which the monotonic clock of this boot stood at 0.
    pub(crate) origin_ms: u64,
    started: Mono,
    seq_start: Seq,
    slots: Vec<Slot>,
    votes: Vec<usize>,
    /// The agent was stopped for a while.
    pub(crate) frozen: bool,
    /// When it was last told of anything.
    pub(crate) told: Mono,
}

impl Period {
    pub(crate) fn new(origin_ms: u64, started: Mono, seq_start: Seq, quantities: usize) -> Self {
        Self {
            origin_ms,
            started,
            seq_start,
            slots: Vec::new(),
            votes: vec![0; quantities],
            frozen: false,
            told: started,
        }
    }

    /// A record is handed to the store. Returns the quantity and its count of votes when it is a new vote.
    pub(crate) fn record(
        &mut self,
        record: &Record,
    ) -> Result<Option<(usize, usize)>, checkers::Violation> {
        let index = usize::try_from(record.seq.0.saturating_sub(self.seq_start.0)).unwrap_or(0);
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Slot::Unseen);
        }
        let slot = match &record.body {
            Body::Vote { quantity, .. } => Slot::Vote(quantity.index(), record.stamp.mono),
            _ => Slot::Other,
        };
        let before = std::mem::replace(&mut self.slots[index], slot);
        ensure(
            record.seq >= self.seq_start && (before == Slot::Unseen || before == slot),
            Checker::OneNameOnePayload,
            || format!("{:?} was {before:?} and is {slot:?}", record.seq),
        )?;
        if before == slot {
            return Ok(None);
        }
        Ok(match slot {
            Slot::Vote(quantity, _) => {
                self.votes[quantity] += 1;
                Some((quantity, self.votes[quantity]))
            }
            _ => None,
        })
    }

    /// The period is over: every tick of it has one vote, or it is known why not.
    pub(crate) fn check(&self, config: &Config, agent: &Agent) -> Check {
        let health = agent.health(self.told);
        let made = health.store.seq_next.0 - self.seq_start.0;
        let other = |slot: &&Slot| **slot != Slot::Unseen;
        let seen = u64::try_from(self.slots.iter().filter(other).count()).unwrap_or(u64::MAX);
        let unseen = made - seen;
        // A record that was made and never handed over must be one that waits or was dropped and counted.
        let gone = health.counters.records_gone[2] + health.store.storing;
        ensure(unseen <= gone, Checker::EveryTickOnce, || {
            format!("{unseen} records were made and not stored, {gone} wait or were dropped")
        })?;
        // What was dropped before it got a number is counted too.
        let unstored = unseen + health.counters.records - made;
        let mut missing = 0;
        for (index, quantity) in config.quantities.iter().enumerate() {
            let ticks: Vec<Mono> = self
                .slots
                .iter()
                .filter_map(|slot| match slot {
                    Slot::Vote(of, tick) if *of == index => Some(*tick),
                    _ => None,
                })
                .collect();
            let grid = Grid {
                first: self.started.plus_ms(quantity.lead_ms),
                period_ms: quantity.period_ms,
                end: self.told,
            };
            missing += checkers::every_tick_once(grid, &ticks)?;
        }
        checkers::missing_ticks_explained(
            missing,
            health.counters.ticks_missed,
            unstored,
            self.frozen,
        )
    }
}
