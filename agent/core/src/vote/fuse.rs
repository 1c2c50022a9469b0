//! From the believed samples to one value with its uncertainty and quality; and what stands in when there is none.
//!
//! Owns: the weights, the policies on a split and on a lost quorum, the held value.
//! Must not: give a channel more than 0.6 of the weight when three or more are in; report one channel as good.

use super::channel::Channel;
use super::monitor::GROSS_DEVIATIONS;
use super::statistics::{beyond, root, square};
use super::voter::{Tick, Voter};
use super::{Doubt, OnQuorumLoss, OnSplit, Quality, Verdict, Vote};

/// Up to this many standard deviations a sample has its full weight, from there it fades (prototype).
const TAPER_DEVIATIONS: f64 = 3.0;
/// Most of the weight that one of three or more channels may have (prototype).
const WEIGHT_SHARE_MAX: f64 = 0.6;
/// Weight of the side of a pair that is not believed.
const WEIGHT_LEAST: f64 = 1e-6;
/// Standard error of the value over the channels' own: covers what the channels have in common (prototype).
const UNCERTAINTY_FACTOR: f64 = 1.13;
/// The same of a pair, whose variances contain part of the difference of the two.
const PAIR_UNCERTAINTY_FACTOR: f64 = 0.76;
/// Memory of the variance of the value's steps (prototype).
const STEP_GAIN: f64 = 1.0 / 64.0;

/// Memory of the trend that the value follows when nothing bears it.
const SLOPE_GAIN: f64 = 1.0 / 16.0;
/// What is left of the trend after each tick without a value, as forecasts with a damped trend use it.
const SLOPE_DAMPING: f64 = 0.9;

/// The last value, and how fast the quantity moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    value: Option<f64>,
    uncertainty: f64,
    ticks: u32,
    /// Mean of the value's recent steps, for the policy that extrapolates.
    slope: f64,
    /// Variance of the value's step from tick to tick.
    pub(super) step_variance: f64,
}

impl Held {
    pub(super) const fn new() -> Self {
        Self {
            value: None,
            uncertainty: 0.0,
            ticks: 0,
            slope: 0.0,
            step_variance: 0.0,
        }
    }

    fn keep(&mut self, value: f64, uncertainty: f64, typical_variance: f64) {
        if let Some(last) = self.value {
            let slope = if self.ticks == 0 { value - last } else { 0.0 };
            self.slope += SLOPE_GAIN * (slope - self.slope);
            let step = square(value - last);
            if self.step_variance == 0.0 {
                self.step_variance = step;
            } else {
                let limit = 16.0 * self.step_variance + 0.01 * typical_variance;
                self.step_variance += STEP_GAIN * (step.min(limit) - self.step_variance);
            }
        }
        self.value = Some(value);
        self.uncertainty = uncertainty;
        self.ticks = 0;
    }
}

/// A value before the policies were asked.
#[derive(Clone, Copy, Debug)]
struct Fused {
    value: f64,
    uncertainty: f64,
    split: bool,
}

impl Voter {
    /// Fills the vote from the believed samples.
    pub(super) fn fuse(&mut self, tick: &Tick, vote: &mut Vote) {
        let fused = if tick.candidates == 2 && !tick.last_resort && !tick.warming {
            self.fuse_pair(tick)
        } else {
            self.fuse_many(tick)
        };
        self.fill_verdicts(tick.warming || self.trial > 0, vote);
        let used = vote
            .verdicts
            .iter()
            .filter(|verdict| verdict.included)
            .count();
        let quorum = used > 0 && used >= self.config.sources_min;
        if !quorum {
            self.hold(vote, self.config.on_quorum_loss.stands_in());
            return;
        }
        if fused.split && self.config.on_split == OnSplit::Hold {
            self.hold(vote, true);
            return;
        }
        self.held
            .keep(fused.value, fused.uncertainty, tick.typical_variance);
        let (value, uncertainty) = if fused.split {
            self.settle(fused)
        } else {
            (fused.value, fused.uncertainty)
        };
        vote.value = Some(value);
        vote.uncertainty = Some(uncertainty);
        vote.used = used;
        vote.held_ticks = None;
        vote.doubt = if fused.split {
            Some(Doubt::Split)
        } else if tick.last_resort {
            Some(Doubt::StandIns)
        } else if used == 1 {
            Some(Doubt::Single)
        } else {
            self.commission.in_doubt().then_some(Doubt::Unproven)
        };
        vote.quality = if vote.doubt.is_some() {
            Quality::Uncertain
        } else if used < self.channels.len() {
            Quality::Degraded
        } else {
            Quality::Good
        };
    }

    fn fuse_pair(&mut self, tick: &Tick) -> Fused {
        let pair = self.pair;
        let (first, second) = (self.channels[pair.members.0], self.channels[pair.members.1]);
        let apart = tick.pair_deviation_squared > square(TAPER_DEVIATIONS);
        let (mut weight_first, mut weight_second) =
            (1.0 / first.variance_now, 1.0 / second.variance_now);
        if pair.split || apart {
            weight_first = (1.0 - pair.second_right).max(WEIGHT_LEAST);
            weight_second = pair.second_right.max(WEIGHT_LEAST);
            if first.staleness > 0.0 && second.staleness == 0.0 {
                weight_first = WEIGHT_LEAST;
            } else if second.staleness > 0.0 && first.staleness == 0.0 {
                weight_second = WEIGHT_LEAST;
            }
        }
        let total = weight_first + weight_second;
        let share = weight_first / total;
        let doubt = pair.second_right.min(1.0 - pair.second_right);
        let usual = root(
            square(PAIR_UNCERTAINTY_FACTOR) * 0.5 * (first.variance + second.variance)
                + 0.5 * self.offset_variance,
        );
        let between = if pair.split {
            0.5 * tick.pair_difference.abs() * (1.0 + doubt)
        } else {
            0.0
        };
        self.channels[pair.members.0].weight = weight_first;
        self.channels[pair.members.1].weight = weight_second;
        Fused {
            value: second.corrected + share * (first.corrected - second.corrected),
            uncertainty: usual.max(between),
            split: pair.split,
        }
    }

    fn fuse_many(&mut self, tick: &Tick) -> Fused {
        let first_phase_max = self.commission.residual_max(tick) * (1.0 + 1e-12);
        let mut total = 0.0;
        let mut used: u32 = 0;
        for channel in &mut self.channels {
            channel.weight = if !channel.candidate || tick.lost {
                0.0
            } else if tick.warming {
                f64::from(u8::from(channel.residual.abs() <= first_phase_max))
            } else if tick.candidates < 3 {
                1.0 / channel.variance_now
            } else {
                channel.taper() / channel.variance_now
            };
            total += channel.weight;
            used += u32::from(channel.weight > 0.0);
        }
        let mut value = tick.reference;
        if total > 0.0 {
            let weight_max = if used >= 3 {
                WEIGHT_SHARE_MAX * total
            } else {
                f64::MAX
            };
            let mut residuals = 0.0;
            total = 0.0;
            for channel in &self.channels {
                let weight = channel.weight.min(weight_max);
                residuals += weight * channel.residual;
                total += weight;
            }
            value += residuals / total;
        }
        let variance = tick.typical_variance.max(tick.variance_floor);
        let mut uncertainty = root(
            (square(UNCERTAINTY_FACTOR) * variance + self.offset_variance) / f64::from(used.max(1)),
        );
        if tick.lost || tick.warming {
            uncertainty = uncertainty.max(0.25 * tick.spread);
        }
        if used <= 1 {
            uncertainty *= 1.5;
        }
        Fused {
            value,
            uncertainty,
            split: tick.lost,
        }
    }

    fn fill_verdicts(&self, warming: bool, vote: &mut Vote) {
        let empty = Verdict {
            included: false,
            state: super::ChannelState::Learning,
            reason: None,
        };
        vote.verdicts.resize(self.channels.len(), empty);
        for (channel, verdict) in self.channels.iter().zip(&mut vote.verdicts) {
            *verdict = Verdict {
                included: channel.candidate && !channel.gross,
                state: channel.state(warming),
                reason: channel.reported_reason(),
            };
        }
    }

    /// What the policy makes of a split.
    fn settle(&self, fused: Fused) -> (f64, f64) {
        let believed = || {
            self.channels
                .iter()
                .filter(|channel| channel.candidate)
                .map(|channel| channel.corrected)
        };
        let value = match self.config.on_split {
            OnSplit::Weighted | OnSplit::Hold => fused.value,
            OnSplit::High => believed().fold(fused.value, f64::max),
            OnSplit::Low => believed().fold(fused.value, f64::min),
        };
        (value, fused.uncertainty.max((value - fused.value).abs()))
    }

    /// Where `holding`, the last value, less certain with every tick, up to the configured age; then, or else, none.
    pub(super) fn hold(&mut self, vote: &mut Vote, holding: bool) {
        self.fill_verdicts(self.commission.warming() || self.trial > 0, vote);
        for verdict in &mut vote.verdicts {
            verdict.included = false;
        }
        self.held.ticks = self.held.ticks.saturating_add(1);
        if self.config.on_quorum_loss == OnQuorumLoss::Model {
            self.held.slope *= SLOPE_DAMPING;
            self.held.value = self.held.value.map(|value| value + self.held.slope);
        }
        self.held.uncertainty = root(square(self.held.uncertainty) + self.held.step_variance);
        let holds = holding && self.held.ticks <= self.config.hold_ticks_max;
        vote.used = 0;
        vote.value = self.held.value.filter(|_| holds);
        vote.uncertainty = vote.value.map(|_| self.held.uncertainty);
        vote.held_ticks = vote.value.map(|_| self.held.ticks);
        vote.doubt = vote.value.map(|_| Doubt::Held);
        vote.quality = if vote.value.is_some() {
            Quality::Uncertain
        } else {
            Quality::Bad
        };
    }
}

impl Channel {
    /// 1 for a sample near the reference, fading to 0 at the gross gate.
    fn taper(&self) -> f64 {
        if beyond(self.residual, TAPER_DEVIATIONS, self.variance_now) {
            let deviations = self.residual.abs() / root(self.variance_now);
            ((GROSS_DEVIATIONS - deviations) / (GROSS_DEVIATIONS - TAPER_DEVIATIONS)).max(0.0)
        } else {
            1.0
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::vote::{Doubt, OnQuorumLoss, Quality, Reading, Reason, Vote, Voter, VoterConfig};

    /// The votes of a ramp of 1 a tick, then of silence.
    fn silence(policy: OnQuorumLoss, ticks: u32) -> Vote {
        let mut voter = Voter::new(VoterConfig {
            on_quorum_loss: policy,
            ..VoterConfig::new(2)
        });
        let mut vote = Vote::empty(2);
        for tick in 0..200_u32 {
            let noise = libm::sin(f64::from(tick) * 1.7) * 0.1;
            let readings = [noise, -noise].map(|off| Reading::fresh(f64::from(tick) + off));
            voter.vote(&readings, &mut vote);
        }
        for _ in 0..ticks {
            voter.vote(&[Reading::absent(Reason::Timeout); 2], &mut vote);
        }
        vote
    }

    #[test]
    fn a_held_value_says_so_ages_and_ends() {
        let (early, late) = (
            silence(OnQuorumLoss::Hold, 1),
            silence(OnQuorumLoss::Hold, 10),
        );
        assert_eq!((early.held_ticks, late.held_ticks), (Some(1), Some(10)));
        assert_eq!(early.value, late.value);
        assert_eq!((late.quality, late.used), (Quality::Uncertain, 0));
        assert_eq!(late.doubt, Some(Doubt::Held));
        assert!(late.uncertainty > early.uncertainty);
        let over = silence(OnQuorumLoss::Hold, 11);
        assert_eq!((over.value, over.held_ticks), (None, None));
        assert_eq!(over.quality, Quality::Bad);
        assert_eq!(silence(OnQuorumLoss::Bad, 1).value, None);
        assert_eq!(silence(OnQuorumLoss::Bad, 0).held_ticks, None);
    }

    #[test]
    fn the_model_goes_on_with_the_trend_ever_less() {
        let value = |ticks| silence(OnQuorumLoss::Model, ticks).value.unwrap_or(0.0);
        let steps: [f64; 3] = [
            value(1) - value(0),
            value(2) - value(1),
            value(9) - value(8),
        ];
        assert!((0.7..1.0).contains(&steps[0]), "{steps:?}");
        assert!(
            steps[0] > steps[1] && steps[1] > steps[2] && steps[2] > 0.0,
            "{steps:?}"
        );
    }
}
