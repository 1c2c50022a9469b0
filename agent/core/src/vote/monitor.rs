//! The monitors of three or more channels: one gross sample, a lasting difference, a channel that stands still.
//!
//! Owns: the gross gate and the charts of the residual. Must not: isolate more than a minority in one tick.

use super::Reason;
use super::channel::{Channel, Standing};
use super::statistics::{beyond, limited_by_variance, root, square};
use super::voter::{Tick, Voter};

/// A sample beyond this many standard deviations is not believed: the median of three has heavy tails.
pub(super) const GROSS_DEVIATIONS: f64 = 6.5;
/// Gain of the fast chart: it sees a step within about ten samples (prototype).
pub(super) const FAST_GAIN: f64 = 1.0 / 8.0;
/// Gain of the slow chart: it sees a drift (prototype).
pub(super) const SLOW_GAIN: f64 = 1.0 / 64.0;
/// The charts trip beyond this many of their own standard deviations (prototype).
pub(super) const CHART_DEVIATIONS: f64 = 4.5;
/// The slow chart never trips within this many standard deviations of the channel (prototype).
pub(super) const SLOW_DEAD_ZONE: f64 = 3.0;
/// A residual enters the charts limited to this many standard deviations (prototype).
pub(super) const CHART_RESIDUAL_MAX: f64 = 8.0;
/// Standard deviations of the noise that count as nothing.
const TOLERANCE_NOISE_DEVIATIONS: f64 = 2.5;
/// Standard deviations of the wander that count as nothing.
const TOLERANCE_WANDER_DEVIATIONS: f64 = 4.0;
/// A lasting difference, offset included, of this many times what may be learned is a fault.
const LEARNED_MAX: f64 = 1.15;
/// A coarse channel is off by half its resolution; this much of it counts as nothing.
const RESOLUTION_SHARE: f64 = 1.5;
/// What one sample may add to the evidence: less than two thirds of what isolates, so that it takes three.
const EVIDENCE_SAMPLE_MAX: f64 = 2.4;
/// Evidence that isolates, per sample of `fail_count`.
const EVIDENCE_PER_FAULT: f64 = 1.6;
/// Evidence narrows the gate by up to this.
const EVIDENCE_GATE_MAX: f64 = 2.5;
/// A believed sample takes this much off the gross score (prototype).
const GROSS_SCORE_DECAY: f64 = 0.1;

/// Variance of an exponential mean of independent samples, as a share of theirs.
pub(super) const fn mean_variance_share(gain: f64) -> f64 {
    gain / (2.0 - gain)
}

impl Voter {
    /// Marks the samples that are not believed; the vote is lost when they leave no majority.
    pub(super) fn gate(&mut self, tick: &mut Tick) {
        if tick.candidates < 3 {
            return;
        }
        let mut gross = 0;
        for channel in self.channels.iter_mut().filter(|channel| channel.usable) {
            let gate = GROSS_DEVIATIONS - channel.above.max(channel.below).min(EVIDENCE_GATE_MAX);
            channel.gross = beyond(channel.residual, gate, channel.variance_now)
                && channel.residual.abs() > tick.reach;
            gross += usize::from(channel.gross && channel.candidate);
        }
        tick.lost = tick.candidates - gross < tick.candidates / 2 + 1;
    }

    /// Updates the charts and isolates the channels that trip, worst first, never more than a minority at once.
    pub(super) fn monitor(&mut self, tick: &mut Tick) {
        let fail_count = f64::from(self.config.fail_count);
        let offset_max = self.commission.offset_max;
        let mut tripped: usize = 0;
        for channel in self.channels.iter_mut().filter(|channel| channel.fresh) {
            channel.weight = 0.0;
            channel.chart();
            if channel.standing == Standing::Trusted
                && let Some(reason) = channel.trips(tick, offset_max, fail_count)
            {
                channel.reason = Some(reason);
                channel.weight = square(channel.residual) / channel.variance;
                tripped += 1;
            }
        }
        let most = (tick.candidates - 1) / 2;
        for _ in 0..tripped.min(most) {
            let accused = |channel: &&mut Channel| channel.candidate && channel.reason.is_some();
            let worst = self
                .channels
                .iter_mut()
                .filter(accused)
                .max_by(|one, other| one.weight.total_cmp(&other.weight));
            if let Some(channel) = worst {
                let reason = channel.reason.unwrap_or(Reason::Disagree);
                channel.isolate(reason, self.config.clear_count);
                tick.candidates -= 1;
            }
        }
        if tripped > most {
            for channel in self
                .channels
                .iter_mut()
                .filter(|channel| channel.standing == Standing::Trusted)
            {
                channel.reason = None;
            }
        }
    }
}

impl Channel {
    /// Enters this residual into both charts.
    fn chart(&mut self) {
        let residual = limited_by_variance(self.residual, CHART_RESIDUAL_MAX, self.variance);
        self.fast += FAST_GAIN * (residual - self.fast);
        self.slow += SLOW_GAIN * (residual - self.slow);
    }

    /// Why the channel must leave the vote, if it must.
    fn trips(&mut self, tick: &Tick, offset_max: f64, fail_count: f64) -> Option<Reason> {
        if self.gross {
            self.gross_score += 1.0;
            self.gross_signs += if self.residual > 0.0 { 1.0 } else { -1.0 };
        } else {
            self.gross_score = (self.gross_score - GROSS_SCORE_DECAY).max(0.0);
            self.gross_signs *= 1.0 - GROSS_SCORE_DECAY;
        }
        if self.motion.stuck {
            return Some(Reason::Stuck);
        }
        let slow_counts = !tick.commissioning || tick.accuracy > 0.0;
        if slow_counts
            && self.trips_chart(
                self.slow,
                SLOW_DEAD_ZONE,
                mean_variance_share(SLOW_GAIN),
                tick.reach,
            )
        {
            return Some(Reason::Drift);
        }
        if tick.accuracy > 0.0
            && (self.offset + self.fast).abs()
                > LEARNED_MAX * offset_max + 2.0 * RESOLUTION_SHARE * self.motion.half_resolution()
        {
            return Some(Reason::Drift);
        }
        let evidence = self.weigh(tick.reach);
        if evidence > EVIDENCE_PER_FAULT * fail_count {
            return Some(Reason::Bias);
        }
        if self.gross && self.gross_score >= fail_count {
            let one_sided = self.gross_signs.abs() > 0.5 * fail_count;
            return Some(if one_sided {
                Reason::Bias
            } else {
                Reason::Noisy
            });
        }
        None
    }

    /// Adds what exceeds the tolerance to the evidence (a two-sided cumulative sum, Page 1954) and returns the larger.
    fn weigh(&mut self, reach: f64) -> f64 {
        let noise = self.noise.max(self.variance - self.wander);
        let reach = reach.max(RESOLUTION_SHARE * self.motion.half_resolution());
        let tolerance = (square(TOLERANCE_NOISE_DEVIATIONS) * noise
            + square(TOLERANCE_WANDER_DEVIATIONS) * self.wander)
            .max(square(reach));
        if self.above == 0.0 && self.below == 0.0 && square(self.residual) <= tolerance {
            // The usual case needs no roots.
            return 0.0;
        }
        let tolerance = root(tolerance);
        let scale = 1.0 / root(self.variance);
        let exceeds = |beyond: f64| ((beyond - tolerance) * scale).min(EVIDENCE_SAMPLE_MAX);
        self.above = (self.above + exceeds(self.residual)).max(0.0);
        self.below = (self.below + exceeds(-self.residual)).max(0.0);
        self.above.max(self.below)
    }

    /// Whether a chart's mean is beyond its own spread, the channel's dead zone and the accuracy.
    fn trips_chart(&self, mean: f64, dead_zone: f64, share: f64, accuracy: f64) -> bool {
        mean.abs() > accuracy.max(RESOLUTION_SHARE * self.motion.half_resolution())
            && beyond(mean, dead_zone, self.variance)
            && beyond(mean, CHART_DEVIATIONS, self.wander + share * self.noise)
    }
}
