//! One channel: what this tick says of it, and what has been learned of it.
//!
//! Owns: the state of a channel and its moves between standings. Must not: look at other channels.
//!
//! Invariants: variances are finite and not negative; `relapses` never exceeds [`RELAPSES_MAX`] while not failed.

use super::statistics::{VARIANCE_FLOOR, share, square};
use super::stuck::Motion;
use super::witness::Witness;
use super::{ChannelState, Reading, Reason};

/// Values beyond this are refused, so that squares and their ratios stay finite in a double.
pub(super) const MAGNITUDE_MAX: f64 = 1e74;
/// Each relapse doubles the probation, up to 2^5 = 32 times (prototype); the next relapse is a lasting failure.
pub(super) const RELAPSES_MAX: u32 = 5;
/// Clean samples after which earlier relapses are forgotten (prototype).
const RELAPSES_FORGOTTEN_AFTER: u32 = 4096;
/// A fault within this many probation times of the readmission is a relapse (prototype).
const RELAPSE_WITHIN_PROBATIONS: u32 = 8;
/// A held sample's variance stops growing after this many ticks (prototype).
const STALENESS_TICKS_MAX: u32 = 1000;
/// Samples kept out at first sight, before the isolation, from which a relapse has done no harm.
const GATED_SCORE_MIN: f64 = 2.0;
/// Missing samples count towards the gross score up to here (prototype).
const GROSS_SCORE_MAX: f64 = 12.0;

/// How far a channel is trusted from tick to tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It arrived after the others were commissioned and is being learned against them.
    Newcomer,
    /// In the vote.
    Trusted,
    /// Out of the vote until it has agreed for long enough.
    Isolated,
    /// Out of the vote for good.
    Failed,
}

/// What is kept of one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) standing: Standing,
    /// Why it is isolated or failed.
    pub(super) reason: Option<Reason>,

    // This tick.
    pub(super) usable: bool,
    pub(super) fresh: bool,
    /// Takes part in the reference of this tick.
    pub(super) candidate: bool,
    /// This sample is not believed.
    pub(super) gross: bool,
    /// Why the sample is not usable.
    pub(super) fault: Option<Reason>,
    pub(super) raw: f64,
    /// `raw` less the learned offset.
    pub(super) corrected: f64,
    /// `corrected` less the reference.
    pub(super) residual: f64,
    /// Variance of the residual as learned: noise and wander.
    pub(super) variance: f64,
    /// `variance` and what the quantity may have moved since the sample was taken.
    pub(super) variance_now: f64,
    /// Ticks since the sample was taken, as a number.
    pub(super) staleness: f64,
    pub(super) weight: f64,

    // Learned while trusted.
    /// Lasting difference from the siblings' median.
    pub(super) offset: f64,
    /// Variance from sample to sample.
    pub(super) noise: f64,
    /// Variance of the slow part of the residual.
    pub(super) wander: f64,
    /// The furthest that the slow part of the residual has been.
    pub(super) excursion: f64,
    /// Samples learned from.
    pub(super) samples: u32,
    /// Samples in the look at the channel that is going on.
    pub(super) looked: u32,
    /// Looks at a newcomer that did not end in a decision.
    pub(super) relooks: u32,
    /// The last look was of one kind throughout.
    pub(super) steady: bool,
    /// Fast mean of the residual.
    pub(super) fast: f64,
    /// Slow mean of the residual.
    pub(super) slow: f64,

    // The way into isolation and out of it.
    pub(super) gross_score: f64,
    /// Sum of the signs of gross residuals: tells a bias from noise.
    pub(super) gross_signs: f64,
    /// Evidence of a lasting difference above, and below: sums of what exceeds the tolerance, in standard deviations.
    pub(super) above: f64,
    pub(super) below: f64,
    pub(super) clean: u32,
    /// Sum of the deviations of the clean samples.
    pub(super) clean_sum: f64,
    pub(super) relapses: u32,
    /// Fresh samples since the channel was readmitted.
    pub(super) since_readmission: u32,

    pub(super) motion: Motion,
    pub(super) witness: Witness,
}

impl Channel {
    pub(super) const fn new() -> Self {
        Self {
            standing: Standing::Trusted,
            reason: None,
            usable: false,
            fresh: false,
            candidate: false,
            gross: false,
            fault: Some(Reason::NoData),
            raw: 0.0,
            corrected: 0.0,
            residual: 0.0,
            variance: 0.0,
            variance_now: 0.0,
            staleness: 0.0,
            weight: 0.0,
            offset: 0.0,
            noise: 0.0,
            wander: 0.0,
            excursion: 0.0,
            samples: 0,
            looked: 0,
            relooks: 0,
            steady: false,
            fast: 0.0,
            slow: 0.0,
            gross_score: 0.0,
            gross_signs: 0.0,
            above: 0.0,
            below: 0.0,
            clean: 0,
            clean_sum: 0.0,
            relapses: 0,
            since_readmission: u32::MAX,
            motion: Motion::new(),
            witness: Witness::new(),
        }
    }

    /// Takes this tick's reading in; refuses what the front end should not have let through.
    pub(super) fn take(&mut self, reading: &Reading, commissioned: bool) {
        self.gross = false;
        self.weight = 0.0;
        self.usable = reading.usable && reading.value.abs() <= MAGNITUDE_MAX;
        self.fresh = self.usable && reading.fresh;
        self.candidate = self.usable && self.standing == Standing::Trusted;
        if self.usable {
            self.fault = None;
            self.raw = reading.value;
            self.corrected = reading.value - self.offset;
            self.staleness = f64::from(reading.age_ticks.min(STALENESS_TICKS_MAX));
        } else {
            self.fault = Some(refusal(reading));
            if commissioned {
                self.gross_score = (self.gross_score + 1.0).min(GROSS_SCORE_MAX);
            }
        }
        if self.fresh {
            self.since_readmission = self.since_readmission.saturating_add(1);
        }
    }

    /// Measures the sample against the reference.
    pub(super) fn measure(&mut self, reference: f64, variance_floor: f64, drift_variance: f64) {
        self.variance = (self.noise + self.wander).max(variance_floor) + VARIANCE_FLOOR;
        self.variance_now = self.variance + self.staleness * drift_variance;
        self.residual = if self.usable {
            self.corrected - reference
        } else {
            0.0
        };
    }

    /// Takes the channel out of the vote. A fault soon after a readmission is a relapse.
    pub(super) fn isolate(&mut self, reason: Reason, clear_count: u32) {
        self.standing = Standing::Isolated;
        self.weight = 0.0;
        self.reason = Some(reason);
        self.candidate = false;
        self.clean = 0;
        self.clean_sum = 0.0;
        self.gross_signs = 0.0;
        self.above = 0.0;
        self.below = 0.0;
        self.begin_look();
        self.motion.restart_count();
        self.witness = Witness::new();
        let soon = self
            .probation_length(clear_count)
            .saturating_mul(RELAPSE_WITHIN_PROBATIONS);
        if self.since_readmission < soon {
            let gated = self.gross_score >= GATED_SCORE_MIN;
            if gated && self.relapses > 0 {
                // None of its faulty samples was in the value: a longer wait would protect nothing.
            } else if self.relapses == RELAPSES_MAX {
                self.standing = Standing::Failed;
            } else {
                self.relapses += 1;
            }
        } else if self.since_readmission > RELAPSES_FORGOTTEN_AFTER {
            self.relapses = 0;
        }
    }

    /// Puts the channel back into the vote, with the residual that it comes back with.
    pub(super) fn readmit(&mut self, residual: f64) {
        self.standing = Standing::Trusted;
        self.reason = None;
        self.gross_score = 0.0;
        self.above = 0.0;
        self.below = 0.0;
        self.relooks = 0;
        self.since_readmission = 0;
        self.fast = residual;
        self.slow = residual;
        self.clean = 0;
        self.clean_sum = 0.0;
        self.motion.forgive();
    }

    /// Forgets what was learned of the channel, for the whole vote is learned anew.
    pub(super) fn recommission(&mut self) {
        if self.standing != Standing::Failed {
            *self = Self {
                motion: self.motion,
                relapses: self.relapses,
                fault: self.fault,
                ..Self::new()
            };
        }
    }

    /// Something speaks against the channel at this tick.
    pub(super) fn suspected(&self) -> bool {
        self.gross || self.above > 0.0 || self.below > 0.0
    }

    /// Clean samples that readmission takes.
    pub(super) fn probation_length(&self, clear_count: u32) -> u32 {
        clear_count.saturating_mul(1 << self.relapses.min(RELAPSES_MAX))
    }

    /// The state to report; `commissioning` while the whole vote is still being learned.
    pub(super) fn state(&self, commissioning: bool) -> ChannelState {
        match self.standing {
            Standing::Newcomer => ChannelState::Learning,
            Standing::Trusted if commissioning || (self.samples == 0 && !self.usable) => {
                ChannelState::Learning
            }
            Standing::Trusted if self.gross || !self.usable => ChannelState::Suspect,
            Standing::Trusted => ChannelState::Healthy,
            Standing::Isolated if self.clean > 0 => ChannelState::Probation,
            Standing::Isolated => ChannelState::Quarantined,
            Standing::Failed => ChannelState::Failed,
        }
    }

    /// The reason to report.
    pub(super) fn reported_reason(&self) -> Option<Reason> {
        match self.standing {
            Standing::Isolated | Standing::Failed => self.reason,
            Standing::Newcomer | Standing::Trusted if !self.usable => self.fault,
            Standing::Newcomer => None,
            Standing::Trusted => self.gross.then_some(Reason::Spike),
        }
    }

    /// Learns noise and wander from this residual while trusted.
    pub(super) fn learn(
        &mut self,
        variance_floor: f64,
        typical_variance: f64,
        commissioning: bool,
        accuracy: f64,
    ) {
        self.samples = self.samples.saturating_add(1);
        let step = square(self.residual - self.slow);
        let step_max = 9.0 * self.noise.max(variance_floor * 0.25);
        self.noise += (step.min(step_max) - self.noise) * share(self.samples, NOISE_SAMPLES);
        let wander_max =
            wander_growth_max(commissioning) * self.wander.max(0.05 * typical_variance);
        self.wander += (square(self.slow).min(wander_max) - self.wander)
            * share(self.samples.max(WANDER_SAMPLES_MIN), WANDER_SAMPLES);
        let further = (self.slow.abs() - self.excursion).max(0.0);
        self.excursion += if commissioning {
            further
        } else {
            further * share(WANDER_SAMPLES, WANDER_SAMPLES)
        };
        if accuracy > 0.0 {
            self.wander = self.wander.min(square(accuracy).max(self.noise));
        }
    }
}

/// Memory of the learned noise, in samples (prototype).
pub(super) const NOISE_SAMPLES: u32 = 512;
/// Memory of the learned wander, in samples (prototype).
pub(super) const WANDER_SAMPLES: u32 = 1024;
/// The wander is never learned faster than this (prototype).
pub(super) const WANDER_SAMPLES_MIN: u32 = 128;

/// A squared slow residual counts for at most this many times the learned wander, so that a fault is not learned.
pub(super) const fn wander_growth_max(commissioning: bool) -> f64 {
    if commissioning { 4.0 } else { 2.25 }
}

/// Why a reading cannot be used, where the front end did not say.
fn refusal(reading: &Reading) -> Reason {
    if let Some(fault) = reading.fault {
        fault
    } else if !reading.usable {
        Reason::Timeout
    } else if reading.value.is_finite() {
        Reason::OutOfRange
    } else {
        Reason::NotANumber
    }
}
