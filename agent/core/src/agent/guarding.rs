//! What the agent makes of its breakers: which sensors are asked, and what is told of it.
//!
//! Owns: the words of the records of breakers and buses. Must not: decide when one opens; that is the guard's.

use alloc::{format, string::ToString, vec::Vec};

use super::Agent;
use crate::{
    event::{Action, ProbeFault},
    guard::{Subject, Turn},
    record::Occurrence,
    units::{BusId, Mono, SensorId},
};

impl Agent {
    /// Asks for the samples that are due, but for those of what is shut out.
    pub(super) fn poll(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let (guards, random) = (&mut self.guards, &mut self.random);
        let mut admit = |sensor| guards.admit(now, sensor, random);
        for quantity in &mut self.quantities {
            if quantity.poll(now, &mut admit, actions) && self.polled_since.is_none() {
                self.polled_since = Some(now);
            }
        }
        self.tell_guards(now, actions);
    }

    /// What came of asking a sensor.
    pub(super) fn note_answer(
        &mut self,
        now: Mono,
        sensor: SensorId,
        outcome: Result<(), ProbeFault>,
        actions: &mut Vec<Action>,
    ) {
        self.guards.answer(now, sensor, outcome, &mut self.random);
        self.tell_guards(now, actions);
    }

    /// A bus was reset, or could not be.
    pub(super) fn take_recovery(
        &mut self,
        now: Mono,
        bus: BusId,
        outcome: Result<(), &'static str>,
        actions: &mut Vec<Action>,
    ) {
        let Some(config) = self.config.guard.buses.get(bus.index()) else {
            return;
        };
        let occurrence = Occurrence {
            what: "bus-reset",
            subject: config.id.clone(),
            to: Some(if outcome.is_ok() { "done" } else { "failed" }),
            reason: outcome.err(),
            ..Occurrence::default()
        };
        self.guards.recovered(now, bus, outcome);
        self.tell(now, occurrence, actions);
    }

    fn tell_guards(&mut self, now: Mono, actions: &mut Vec<Action>) {
        for turn in self.guards.take_turns() {
            let occurrence = self.occurrence(now, &turn);
            self.tell(now, occurrence, actions);
        }
        let recoveries = self.guards.take_recoveries();
        actions.extend(recoveries.into_iter().map(|bus| Action::Recover { bus }));
    }

    fn occurrence(&self, now: Mono, turn: &Turn) -> Occurrence {
        let (what, subject) = match turn.subject {
            Subject::Part(index) => ("breaker", &self.config.guard.parts[index].id),
            Subject::Bus(index) => ("bus", &self.config.guard.buses[index].id),
        };
        let detail = match (turn.subject, turn.retry) {
            (Subject::Bus(index), Some(_)) => Some(self.guards.remedy(index).to_string()),
            (Subject::Part(_), Some(retry)) => {
                let kind = if turn.lasting { "lasting" } else { "transient" };
                Some(format!("{kind}: next try in {} ms", retry.since_ms(now)))
            }
            (_, None) => None,
        };
        Occurrence {
            what,
            subject: subject.clone(),
            from: Some(turn.from),
            to: Some(turn.to),
            reason: turn.cause,
            detail,
            ..Occurrence::default()
        }
    }
}
