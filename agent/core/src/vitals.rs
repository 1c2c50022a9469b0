//! Vitals: whether every stage still does what it owes, and so whether the watchdog may be stroked.
//!
//! Owns: the watchdog's rhythm and the judgement of a stall. Must not: count being offline as a lack of progress.
//!
//! Invariant: the watchdog is stroked only while no stage owes work for longer than the limit.

use alloc::vec::Vec;

use crate::{config::VitalsConfig, event::Action, units::Mono};

/// The oldest work that each stage owes, where it owes any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Debts {
    /// Sensors were polled and not one answered since.
    pub(crate) sensing: Option<Mono>,
    /// A window is with the runner.
    pub(crate) inference: Option<Mono>,
    /// Records or a load are with the store.
    pub(crate) store: Option<Mono>,
    /// A connection attempt neither succeeded nor failed.
    pub(crate) link: Option<Mono>,
}

impl Debts {
    /// The stages that owe work for longer than the limit.
    pub(crate) fn stalled(&self, now: Mono, limit_ms: u64) -> Vec<&'static str> {
        let stages = [
            ("sensing", self.sensing),
            ("inference", self.inference),
            ("store", self.store),
            ("link", self.link),
        ];
        let late = |since: Mono| now.since_ms(since) > limit_ms;
        stages
            .into_iter()
            .filter(|(_, since)| since.is_some_and(late))
            .map(|(stage, _)| stage)
            .collect()
    }
}

/// The watchdog's rhythm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vitals {
    config: VitalsConfig,
    next_stroke: Mono,
}

impl Vitals {
    pub(crate) const fn new(config: VitalsConfig, now: Mono) -> Self {
        Self {
            config,
            next_stroke: now,
        }
    }

    pub(crate) const fn next_deadline(&self) -> Mono {
        self.next_stroke
    }

    pub(crate) const fn stall_ms(&self) -> u64 {
        self.config.stall_ms
    }

    pub(crate) fn advance(&mut self, now: Mono, debts: &Debts, actions: &mut Vec<Action>) {
        if now < self.next_stroke {
            return;
        }
        self.next_stroke = now.plus_ms(self.config.stroke_ms);
        if debts.stalled(now, self.config.stall_ms).is_empty() {
            actions.push(Action::StrokeWatchdog);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use super::{Debts, Vitals};
    use crate::{config::VitalsConfig, event::Action, units::Mono};

    #[test]
    fn a_stage_that_owes_too_long_stops_the_watchdog() {
        let config = VitalsConfig::default();
        let mut vitals = Vitals::new(config, Mono(0));
        let owing = Debts {
            store: Some(Mono(1)),
            ..Debts::default()
        };
        let mut actions = Vec::new();
        vitals.advance(Mono(config.stall_ms + 1), &owing, &mut actions);
        assert_eq!(actions, vec![Action::StrokeWatchdog], "just in time");
        vitals.advance(
            Mono(config.stall_ms + 1 + config.stroke_ms),
            &owing,
            &mut actions,
        );
        assert_eq!(actions.len(), 1, "just too late");
        assert_eq!(
            owing.stalled(Mono(config.stall_ms + 2), config.stall_ms),
            vec!["store"]
        );
    }
}
