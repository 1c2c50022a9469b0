//! Two channels that must settle a disagreement without a third.
//!
//! Owns: the statistics of the difference, and who is to blame for it: each one's own jump likelihood, the relative
//! stuck test, and a witness. Must not: average two channels that disagree without saying so.

use super::Reason;
use super::channel::{
    Channel, NOISE_SAMPLES, Standing, WANDER_SAMPLES, WANDER_SAMPLES_MIN, wander_growth_max,
};
use super::monitor::{
    CHART_DEVIATIONS, CHART_RESIDUAL_MAX, FAST_DEAD_ZONE, FAST_GAIN, GROSS_DEVIATIONS,
    SLOW_DEAD_ZONE, SLOW_GAIN, mean_variance_share,
};
use super::statistics::{beyond, limited, limited_by_variance, log_likelihood, root, square};
use super::voter::{Tick, Voter};

/// Within this many standard deviations the two agree (prototype).
const AGREEING_DEVIATIONS: f64 = 3.0;
/// The balance of blame never exceeds this, so that later evidence can turn it (prototype).
const BALANCE_MAX: f64 = 12.0;
/// A channel is isolated when the balance exceeds this: odds of about 55 to 1 (prototype).
const BALANCE_BLAME: f64 = 4.0;
/// Disagreeing ticks before anyone is blamed (prototype).
const DISAGREEMENT_MIN: f64 = 4.0;
/// A step of the difference beyond this many standard deviations is a jump (prototype).
const JUMP_DEVIATIONS: f64 = 3.0;
/// Ticks of agreement after which a past split is forgotten (prototype).
const AGREEMENT_TICKS: u32 = 8;
/// Odds at which the likelier culprit's gross sample is left out of the value (prototype).
const SUSPECT_ODDS: f64 = 0.9;

/// What is kept of two channels that vote alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    /// The two channels; equal when there is no pair.
    pub(super) members: (usize, usize),
    /// The two disagree and neither was isolated.
    pub(super) split: bool,
    /// Probability that the second is right.
    pub(super) second_right: f64,
    noise: f64,
    wander: f64,
    fast: f64,
    slow: f64,
    last_difference: Option<f64>,
    /// Log odds that the first is to blame.
    balance: f64,
    disagreement: f64,
    agreement: u32,
}

impl Pair {
    pub(super) const fn new() -> Self {
        Self {
            members: (0, 0),
            split: false,
            second_right: 0.5,
            noise: 0.0,
            wander: 0.0,
            fast: 0.0,
            slow: 0.0,
            last_difference: None,
            balance: 0.0,
            disagreement: 0.0,
            agreement: 0,
        }
    }

    /// The vote is not a pair now; if one of the two only paused, what was learned of them still holds.
    pub(super) fn pause(&mut self) {
        self.split = false;
    }

    /// The two are not a pair any more.
    fn leave(&mut self) {
        *self = Self::new();
    }

    /// Starts anew for two channels from what is known of each.
    fn enter(
        &mut self,
        members: (usize, usize),
        first: &Channel,
        second: &Channel,
        always_two: bool,
    ) {
        let known = if always_two { 0.0 } else { 1.0 };
        *self = Self {
            members,
            noise: first.noise + second.noise,
            wander: first.wander + second.wander,
            fast: known * (first.fast - second.fast),
            slow: known * (first.slow - second.slow),
            ..Self::new()
        };
    }

    /// Whether the difference is beyond what the two have shown, in one sample or lastingly.
    fn disagrees(
        &mut self,
        difference: f64,
        variance: f64,
        variance_now: f64,
        tick: &Tick,
    ) -> bool {
        let residual = limited_by_variance(difference, CHART_RESIDUAL_MAX, variance);
        self.fast += FAST_GAIN * (residual - self.fast);
        self.slow += SLOW_GAIN * (residual - self.slow);
        let trips = |mean: f64, dead_zone: f64, share: f64| {
            mean.abs() > tick.accuracy
                && beyond(mean, dead_zone, variance)
                && beyond(mean, CHART_DEVIATIONS, self.wander + share * self.noise)
        };
        (difference.abs() > tick.accuracy && beyond(difference, GROSS_DEVIATIONS, variance_now))
            || trips(self.fast, FAST_DEAD_ZONE, mean_variance_share(FAST_GAIN))
            || ((!tick.commissioning || tick.accuracy > 0.0)
                && trips(self.slow, SLOW_DEAD_ZONE, mean_variance_share(SLOW_GAIN)))
    }
}

impl Voter {
    /// One tick of a pair: does it agree, and if not, who is to blame.
    pub(super) fn judge_pair(&mut self, tick: &mut Tick) {
        let Some(members) = self.find_pair() else {
            return;
        };
        let (first, second) = (self.channels[members.0], self.channels[members.1]);
        if self.pair.members != members {
            self.pair
                .enter(members, &first, &second, self.channels.len() == 2);
        }
        let difference = first.corrected - second.corrected;
        let variance = (self.pair.noise + self.pair.wander).max(2.0 * tick.variance_floor);
        let variance_now =
            variance + (first.staleness + second.staleness) * self.held.step_variance;
        tick.pair_difference = difference;
        tick.pair_deviation_squared = square(difference) / variance_now;
        let both = first.fresh && second.fresh && !tick.still;
        let agrees = !beyond(difference, AGREEING_DEVIATIONS, variance_now);
        let bad = both
            && self
                .pair
                .disagrees(difference, variance, variance_now, tick);
        if both {
            self.weigh_jump(
                difference,
                tick.variance_floor,
                bad,
                first.motion.surprise,
                second.motion.surprise,
            );
        }
        self.hear_witnesses(&first, &second, variance, bad, agrees);
        let pair = &mut self.pair;
        pair.agreement = if tick.still {
            pair.agreement
        } else if agrees {
            pair.agreement.saturating_add(1)
        } else {
            0
        };
        if pair.agreement >= AGREEMENT_TICKS && (pair.split || pair.disagreement > 0.0) {
            pair.slow = pair.fast;
            pair.disagreement = 0.0;
            pair.balance = 0.0;
        }
        pair.disagreement = if bad {
            pair.disagreement + 1.0
        } else if tick.still {
            pair.disagreement
        } else {
            (pair.disagreement - 0.25).max(0.0)
        };
        if !tick.still {
            pair.split = bad;
        }
        if !bad && pair.disagreement == 0.0 && pair.balance.abs() < 0.5 {
            pair.balance = 0.0;
        }
        pair.second_right = 1.0 / (1.0 + libm::exp(-pair.balance));
        self.attribute(tick, &first, &second);
    }

    fn find_pair(&self) -> Option<(usize, usize)> {
        let mut present = self
            .channels
            .iter()
            .enumerate()
            .filter(|(_, channel)| channel.candidate)
            .map(|(index, _)| index);
        Some((present.next()?, present.next()?))
    }

    /// A jump of the difference is charged to the channel whose own step was the less likely.
    fn weigh_jump(
        &mut self,
        difference: f64,
        variance_floor: f64,
        bad: bool,
        surprise_first: f64,
        surprise_second: f64,
    ) {
        let pair = &mut self.pair;
        let Some(last) = pair.last_difference.replace(difference) else {
            return;
        };
        if beyond(
            difference - last,
            JUMP_DEVIATIONS,
            2.0 * pair.noise.max(variance_floor),
        ) {
            let blame = log_likelihood(surprise_second) - log_likelihood(surprise_first);
            pair.balance = limited(pair.balance + blame, BALANCE_MAX);
        } else if !bad && !pair.split {
            pair.balance *= 0.9;
        }
    }

    /// Isolated channels whose deviation was steady say which of the two moved.
    fn hear_witnesses(
        &mut self,
        first: &Channel,
        second: &Channel,
        variance: f64,
        bad: bool,
        agrees: bool,
    ) {
        for channel in &mut self.channels {
            if channel.standing != Standing::Isolated || !channel.fresh {
                continue;
            }
            if !bad && agrees {
                channel
                    .witness
                    .watch(channel.corrected - 0.5 * (first.corrected + second.corrected));
            } else if bad && let Some((mean, spread)) = channel.witness.testimony(variance) {
                let total = spread + first.variance;
                let truth = channel.corrected - mean;
                let (off_first, off_second) = (
                    square(first.corrected - truth) / total,
                    square(second.corrected - truth) / total,
                );
                if off_first < 16.0 || off_second < 16.0 {
                    let blame = 0.3 * (log_likelihood(off_second) - log_likelihood(off_first));
                    self.pair.balance = limited(self.pair.balance + blame, BALANCE_MAX);
                }
            }
        }
    }

    /// Isolates the one to blame, if there is one.
    fn attribute(&mut self, tick: &mut Tick, first: &Channel, second: &Channel) {
        let pair = &self.pair;
        let (one, other) = pair.members;
        let apart = tick.pair_deviation_squared > square(AGREEING_DEVIATIONS);
        let blamed =
            if pair.disagreement >= DISAGREEMENT_MIN && pair.balance.abs() > BALANCE_BLAME && apart
            {
                Some((
                    if pair.balance > 0.0 { one } else { other },
                    Reason::Disagree,
                ))
            } else if first.motion.stuck && second.motion.moves_freely() {
                Some((one, Reason::Stuck))
            } else if second.motion.stuck && first.motion.moves_freely() {
                Some((other, Reason::Stuck))
            } else {
                None
            };
        if let Some((index, reason)) = blamed {
            self.channels[index].isolate(reason, self.config.clear_count);
            tick.candidates = 1;
            self.pair.leave();
        } else if tick.pair_deviation_squared > square(GROSS_DEVIATIONS) {
            self.channels[one].gross = pair.second_right > SUSPECT_ODDS;
            self.channels[other].gross = pair.second_right < 1.0 - SUSPECT_ODDS;
        }
    }

    /// Learns the difference of a pair that agrees.
    pub(super) fn learn_pair(&mut self, tick: &Tick) {
        let (one, other) = self.pair.members;
        if one == other || !self.channels[one].fresh || !self.channels[other].fresh {
            return;
        }
        for index in [one, other] {
            self.channels[index].samples = self.channels[index].samples.saturating_add(1);
        }
        let samples = f64::from(self.channels[one].samples);
        let pair = &mut self.pair;
        let step = square(tick.pair_difference - pair.slow);
        let step_max = 9.0 * pair.noise.max(0.5 * tick.variance_floor);
        pair.noise += (step.min(step_max) - pair.noise) / samples.min(NOISE_SAMPLES);
        let wander_max =
            wander_growth_max(tick.commissioning) * pair.wander.max(0.05 * tick.typical_variance);
        pair.wander += (square(pair.slow).min(wander_max) - pair.wander)
            / samples.clamp(WANDER_SAMPLES_MIN, WANDER_SAMPLES);
        if self.channels.len() != 2 {
            return;
        }
        let mut lasting = 0.0;
        if tick.commissioning && samples > 64.0 {
            lasting = limited(pair.slow, 3.0 * root(pair.noise + pair.wander)) * 2.0 / samples;
            pair.slow -= lasting;
            pair.fast -= lasting;
        }
        for (index, share) in [(one, 0.5), (other, -0.5)] {
            self.channels[index].noise = 0.5 * pair.noise;
            self.channels[index].wander = 0.5 * pair.wander;
            self.channels[index].offset += share * lasting;
        }
    }
}
