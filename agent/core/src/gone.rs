//! Records that are gone for good, until whoever receives the others knows of them.
//!
//! Owns: what is gone, and the event record that names each loss. Must not: delete anything.
//!
//! Invariants: a loss is told again for as long as its event record is not delivered, even when that record is lost
//! itself; the store keeps its own note of a loss until [`Action::Settle`], so that a restart tells it again. Memory is
//! bounded: beyond [`LOSSES_MAX`] losses of one cause are told as one.

use alloc::vec::Vec;

use crate::{
    event::{Action, GoneCause},
    units::Seq,
};

/// Losses that are remembered one by one.
const LOSSES_MAX: usize = 256;

/// Records that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) count: u64,
    pub(crate) cause: GoneCause,
}

impl Loss {
    /// Whether the store has a note of it. What never reached the store is known here alone.
    const fn is_noted(self) -> bool {
        !matches!(self.cause, GoneCause::NotStored)
    }

    fn merge(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.count = self.count.saturating_add(other.count);
    }
}

/// The losses that are not known to the receiver yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gone {
    /// Each with the record that names it, once there is one.
    losses: Vec<(Loss, Option<Seq>)>,
}

impl Gone {
    pub(crate) fn add(&mut self, loss: Loss) {
        self.untell(loss.first, loss.last);
        let full = self.losses.len() >= LOSSES_MAX;
        let alike = |(known, _): &&mut (Loss, Option<Seq>)| known.cause == loss.cause;
        match self.losses.iter_mut().rev().find(alike).filter(|_| full) {
            Some((known, told)) => {
                known.merge(loss);
                *told = None;
            }
            None => self.losses.push((loss, None)),
        }
    }

    /// Event records in this range are lost: what they named is to be told again.
    fn untell(&mut self, first: Seq, last: Seq) {
        for (_, told) in &mut self.losses {
            if told.is_some_and(|seq| (first..=last).contains(&seq)) {
                *told = None;
            }
        }
    }

    /// A loss that no record names.
    pub(crate) fn untold(&self) -> Option<Loss> {
        let untold = self.losses.iter().find(|(_, told)| told.is_none());
        untold.map(|(loss, _)| *loss)
    }

    /// The record at `told` names the loss that [`Self::untold`] gave.
    pub(crate) fn told(&mut self, told: Seq) {
        if let Some((_, untold)) = self.losses.iter_mut().find(|(_, told)| told.is_none()) {
            *untold = Some(told);
        }
    }

    /// Records from `first` to `last` are delivered: what they named is known.
    pub(crate) fn delivered(&mut self, first: Seq, last: Seq, actions: &mut Vec<Action>) {
        self.losses.retain(|(loss, told)| {
            let known = told.is_some_and(|seq| (first..=last).contains(&seq));
            if known && loss.is_noted() {
                actions.push(Action::Settle {
                    first: loss.first,
                    last: loss.last,
                    cause: loss.cause,
                });
            }
            !known
        });
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use super::{Gone, LOSSES_MAX, Loss};
    use crate::{
        event::{Action, GoneCause},
        units::Seq,
    };

    fn loss(first: u64, last: u64, cause: GoneCause) -> Loss {
        Loss {
            first: Seq(first),
            last: Seq(last),
            count: last - first + 1,
            cause,
        }
    }

    #[test]
    fn a_loss_is_told_again_when_its_event_is_lost_too() {
        let (mut gone, mut actions) = (Gone::default(), Vec::new());
        gone.add(loss(1, 10, GoneCause::Full));
        gone.told(Seq(20));
        assert_eq!(gone.untold(), None);
        gone.delivered(Seq(11), Seq(19), &mut actions);
        assert_eq!(actions, vec![]);
        gone.add(loss(11, 25, GoneCause::Full));
        assert_eq!(gone.untold(), Some(loss(1, 10, GoneCause::Full)));
        gone.told(Seq(30));
        assert_eq!(gone.untold(), Some(loss(11, 25, GoneCause::Full)));
        gone.told(Seq(31));
        gone.delivered(Seq(26), Seq(31), &mut actions);
        let settle = |first, last| Action::Settle {
            first: Seq(first),
            last: Seq(last),
            cause: GoneCause::Full,
        };
        assert_eq!(actions, vec![settle(1, 10), settle(11, 25)]);
        assert_eq!(gone.untold(), None);
    }

    #[test]
    fn what_never_was_stored_needs_no_settling_and_memory_is_bounded() {
        let (mut gone, mut actions) = (Gone::default(), Vec::new());
        gone.add(loss(1, 1, GoneCause::NotStored));
        for seq in 0..2 * u64::try_from(LOSSES_MAX).unwrap_or(0) {
            gone.add(loss(10 + 2 * seq, 10 + 2 * seq, GoneCause::Refused));
        }
        assert_eq!(gone.losses.len(), LOSSES_MAX);
        let count: u64 = gone.losses.iter().map(|(loss, _)| loss.count).sum();
        assert_eq!(count, 1 + 512);
        gone.told(Seq(5_000));
        gone.delivered(Seq(5_000), Seq(5_000), &mut actions);
        assert_eq!(actions, vec![]);
    }
}
