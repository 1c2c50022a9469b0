//! What outlives the agent: the voters' learning and the day's bytes, saved and restored.
//!
//! Owns: when it is saved, and what is said of its restoring. Must not: touch a file.

use alloc::{format, vec::Vec};

use super::Agent;
use crate::{
    checkpoint::{self, Checkpoint, Saved},
    event::Action,
    record::Occurrence,
    units::Mono,
};

impl Agent {
    /// Asks for what was learned to be saved; nothing where nothing was.
    pub(super) fn save(&mut self, now: Mono, actions: &mut Vec<Action>) {
        self.checkpoint_next = now.plus_ms(checkpoint::PERIOD_MS);
        let quantities: Vec<_> = self
            .quantities
            .iter()
            .filter_map(|quantity| {
                Some(Saved {
                    quantity: quantity.config().id.clone(),
                    fingerprint: checkpoint::fingerprint(&self.config, quantity.config()),
                    learned: quantity.learned()?,
                })
            })
            .collect();
        let day = self.outbox.day(now);
        if !quantities.is_empty() || day.is_some() {
            let checkpoint = Checkpoint::new(self.stamp(now), quantities, day);
            actions.push(Action::Checkpoint(checkpoint));
        }
    }

    /// Goes on with what was saved, quantity by quantity, and says how old it is and what did not fit.
    pub(super) fn restore(
        &mut self,
        now: Mono,
        checkpoint: &Checkpoint,
        actions: &mut Vec<Action>,
    ) {
        let age = match checkpoint.age_ms(self.stamp(now)) {
            Some(age_ms) => format!("{} s old", age_ms / 1_000),
            None => "of unknown age".into(),
        };
        if let Some(day) = checkpoint.day(self.stamp(now)) {
            self.outbox.resume_day(now, day);
        }
        for index in 0..self.quantities.len() {
            let config = self.quantities[index].config();
            let Some(saved) = checkpoint.of(&config.id) else {
                continue;
            };
            let subject = config.id.clone();
            let same = saved.fingerprint == checkpoint::fingerprint(&self.config, config);
            let (to, reason) = if !same {
                ("refused", Some("configuration-changed"))
            } else if self.quantities[index].restore(&saved.learned) {
                ("restored", None)
            } else {
                ("refused", Some("damaged"))
            };
            let occurrence = Occurrence {
                what: "checkpoint",
                subject,
                to: Some(to),
                reason,
                detail: Some(age.clone()),
                ..Occurrence::default()
            };
            self.tell(now, occurrence, actions);
        }
    }

    /// The last words, and the last save.
    pub(super) fn stop(&mut self, now: Mono, actions: &mut Vec<Action>) {
        self.save(now, actions);
        let occurrence = Occurrence {
            what: "stopping",
            ..Occurrence::default()
        };
        self.tell(now, occurrence, actions);
    }
}
