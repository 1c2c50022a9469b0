//! The relative stuck test, and how surprising a channel's own step is.
//!
//! Owns: a channel's motion. A channel is stuck only if its siblings moved while it did not: a coarse sensor that
//! repeats a value is healthy, and so is a channel of a quantity that stands still.
//! Must not: judge a channel by an absolute count of equal samples.

use super::statistics::{beyond, share};

/// Expected changes that did not come, after which a channel is stuck (prototype).
const EVIDENCE_STUCK: f64 = 25.0;
/// Evidence below this clears a channel in probation (prototype: half).
const EVIDENCE_CLEAR: f64 = 0.5 * EVIDENCE_STUCK;
/// A sibling with less evidence than this is free of the suspicion (prototype).
const EVIDENCE_FREE: f64 = 5.0;
/// Evidence beyond which the share of changes is not learned any more, or a stuck channel would become normal.
const EVIDENCE_LEARN_MAX: f64 = 8.0;
/// A channel that changes more often than this is stuck by evidence alone (prototype).
const CHANGE_SHARE_BUSY: f64 = 0.5;
/// Where the reference moved less than this many standard deviations, a busy channel is stuck by much more evidence.
const MISSED_DEVIATIONS: f64 = 1.0;
/// Evidence that suffices whatever the reference did.
const EVIDENCE_ALONE: f64 = 40.0;
/// A coarse channel is stuck only when the reference moved this many of its typical steps (prototype).
const STEPS_MISSED: f64 = 1.5;
/// A channel is not believed to change more seldom than this, or one stuck from the start would be normal.
const CHANGE_SHARE_LEAST: f64 = 0.05;
/// Samples whose share of changes is learned whatever it is: how coarse a channel is.
const SHARE_SAMPLES_MIN: u32 = 64;
/// Missed changes that count in the blame of a pair.
const MISSED_MAX: f64 = 8.0;
/// Memory of the typical step (prototype).
const STEP_MEMORY: u32 = 64;
/// Memory of the share of changes (prototype).
const SHARE_MEMORY: u32 = 256;
/// Changes that a channel once stuck must show before it is readmitted (prototype).
const CHANGES_TO_CLEAR: u32 = 3;

/// What a channel's own samples say, without its siblings' values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Motion {
    last: Option<f64>,
    /// This sample differs from the last one.
    pub(super) changed: bool,
    step_typical: f64,
    change_share: f64,
    changes: u32,
    /// Samples that the share was learned from.
    compared: u32,
    evidence: f64,
    reference_at_change: f64,
    pub(super) stuck: bool,
}

/// How busy the trusted channels are: the share of them that changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activity {
    now: f64,
    usual: f64,
}

/// One tick of the trusted channels: how many delivered, how many of them changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Movers {
    pub(super) fresh: u32,
    pub(super) changed: u32,
}

impl Activity {
    pub(super) const fn new() -> Self {
        Self {
            now: 0.9,
            usual: 0.9,
        }
    }

    pub(super) fn observe(&mut self, movers: Movers) {
        if movers.fresh > 0 {
            let changed = if movers.changed == movers.fresh {
                1.0
            } else {
                f64::from(movers.changed) / f64::from(movers.fresh)
            };
            self.now += (changed - self.now) / 16.0;
            self.usual += (self.now.clamp(0.0, 1.0) - self.usual) / 512.0;
        }
    }
}

impl Motion {
    pub(super) const fn new() -> Self {
        Self {
            last: None,
            changed: false,
            step_typical: 0.0,
            change_share: 0.9,
            changes: 0,
            compared: 0,
            evidence: 0.0,
            reference_at_change: 0.0,
            stuck: false,
        }
    }

    /// Takes a fresh sample; learns only while `trusted`.
    pub(super) fn step(&mut self, value: f64, trusted: bool) {
        let Some(last) = self.last.replace(value) else {
            self.changed = true;
            return;
        };
        let step = (value - last).abs();
        self.changed = step != 0.0;
        if self.changed {
            self.changes = self.changes.saturating_add(1);
            if trusted {
                self.step_typical += (step - self.step_typical) * share(self.changes, STEP_MEMORY);
            }
        }
    }

    /// Weighs a fresh sample against what the siblings did.
    pub(super) fn compare(
        &mut self,
        movers: Movers,
        activity: Activity,
        reference: f64,
        variance: f64,
        trusted: bool,
    ) {
        if self.changed {
            self.evidence = 0.0;
            self.reference_at_change = reference;
            if trusted {
                self.learn_share(1.0);
            }
        } else {
            // A trusted channel that did not change is itself among those counted.
            let others = if trusted {
                movers.fresh.saturating_sub(1)
            } else {
                movers.fresh
            };
            if others > 0 {
                let moved = f64::from(movers.changed) / f64::from(others);
                self.evidence += self.change_share.max(CHANGE_SHARE_LEAST)
                    * (moved / activity.usual.max(0.05)).min(1.0);
            }
            if trusted && (self.evidence < EVIDENCE_LEARN_MAX || self.compared < SHARE_SAMPLES_MIN)
            {
                self.learn_share(0.0);
            }
        }
        let missed = (reference - self.reference_at_change).abs();
        self.stuck = self.evidence > EVIDENCE_STUCK
            && if self.change_share > CHANGE_SHARE_BUSY {
                self.evidence > EVIDENCE_ALONE || beyond(missed, MISSED_DEVIATIONS, variance)
            } else {
                missed > STEPS_MISSED * self.step_typical
            };
    }

    /// The plain share at first, then an exponential mean.
    fn learn_share(&mut self, changed: f64) {
        self.compared = self.compared.saturating_add(1);
        let gain = share(self.compared.saturating_add(1), SHARE_MEMORY);
        self.change_share += gain * (changed - self.change_share);
    }

    /// Half the resolution of a coarse channel, which it may be off without being at fault; none for a fine one.
    pub(super) fn half_resolution(&self) -> f64 {
        if self.change_share < CHANGE_SHARE_BUSY {
            0.5 * self.step_typical
        } else {
            0.0
        }
    }

    /// Expected changes that did not come lately, at most a few: how likely it is that the channel has just stopped.
    pub(super) fn missed(&self) -> f64 {
        self.evidence.min(MISSED_MAX)
    }

    /// No suspicion of being stuck: it may be readmitted.
    pub(super) fn moves(&self) -> bool {
        self.evidence < EVIDENCE_CLEAR
    }

    /// Hardly any evidence: a sibling of a stuck channel.
    pub(super) fn moves_freely(&self) -> bool {
        self.evidence < EVIDENCE_FREE
    }

    /// A channel that was stuck has changed often enough since.
    pub(super) fn came_loose(&self) -> bool {
        self.changes >= CHANGES_TO_CLEAR
    }

    pub(super) fn restart_count(&mut self) {
        self.changes = 0;
    }

    pub(super) fn forgive(&mut self) {
        self.evidence = 0.0;
        self.stuck = false;
    }
}
