//! Two channels that must settle a disagreement without a third.
//!
//! Owns: the statistics of the difference, and who is to blame for it: each one's own jump likelihood, the relative
//! stuck test, and a witness. Must not: average two channels that disagree without saying so.

use super::Reason;
use super::channel::{
    Channel, NOISE_SAMPLES, Standing, WANDER_SAMPLES, WANDER_SAMPLES_MIN, wander_growth_max,
};
use super::monitor::{CHART_RESIDUAL_MAX, FAST_GAIN, GROSS_DEVIATIONS, SLOW_GAIN};
use super::path::Path;
use super::statistics::{
    beyond, limited, limited_by_variance, log_likelihood, root, share, square,
};
use super::voter::{Tick, Voter};

/// Within this many standard deviations the two agree (prototype).
const AGREEING_DEVIATIONS: f64 = 3.0;
/// The balance of blame never exceeds this, so that later evidence can turn it (prototype).
const BALANCE_MAX: f64 = 12.0;
/// A channel is isolated when the balance exceeds this: odds of 20 to 1.
const BALANCE_BLAME: f64 = 3.0;
/// Disagreeing ticks before anyone is blamed (prototype).
const DISAGREEMENT_MIN: f64 = 4.0;
/// A step of the difference beyond this many standard deviations is a jump (prototype).
const JUMP_DEVIATIONS: f64 = 3.0;
/// Standard deviations of the difference's noise that count as nothing.
const TOLERANCE_NOISE_DEVIATIONS: f64 = 2.0;
/// Standard deviations of its wander that count as nothing.
const TOLERANCE_WANDER_DEVIATIONS: f64 = 3.5;
/// What one sample may add to the evidence that the two have parted.
const EVIDENCE_SAMPLE_MAX: f64 = 2.4;
/// Evidence beyond which they have parted.
const EVIDENCE_APART: f64 = 4.8;
/// Evidence that is kept, so that they can come together again.
const EVIDENCE_MAX: f64 = 10.0;
/// Ticks for which the path waits for the outcome of a parting.
const WAIT_TICKS: u32 = 8;
/// Most blame for one jump: what the forecasts do not know of is not that unlikely.
const BLAME_JUMP_MAX: f64 = 6.0;
/// Most blame for leaving where the quantity stays in the long run: not enough to isolate.
const BLAME_LONG_MAX: f64 = 3.0;
/// A jump must make up this much of the difference to be charged for it.
const STEP_SHARE_MIN: f64 = 0.75;
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
    /// Evidence that the first lies above the second, and below it, beyond what the two have shown.
    above: f64,
    below: f64,
    path: Path,
    /// Ticks since the two began to part for which the path has waited for the outcome.
    waited: u32,
    /// What the path foresaw when the two began to part, and the sums of what they said since, less that.
    forecast: f64,
    sums: (f64, f64),
    /// Their difference before.
    before: f64,
    /// The strongest blame since, and the balance before.
    blame: f64,
    balance_before: f64,
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
            above: 0.0,
            below: 0.0,
            path: Path::new(),
            waited: 0,
            forecast: 0.0,
            sums: (0.0, 0.0),
            before: 0.0,
            blame: 0.0,
            balance_before: 0.0,
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
        let noise = self.noise.max(variance - self.wander);
        let tolerance = root(
            square(TOLERANCE_NOISE_DEVIATIONS) * noise
                + square(TOLERANCE_WANDER_DEVIATIONS) * self.wander,
        )
        .max(tick.accuracy);
        let scale = 1.0 / root(variance);
        let exceeds = |beyond: f64| ((beyond - tolerance) * scale).min(EVIDENCE_SAMPLE_MAX);
        self.above = (self.above + exceeds(difference)).clamp(0.0, EVIDENCE_MAX);
        self.below = (self.below + exceeds(-difference)).clamp(0.0, EVIDENCE_MAX);
        (difference.abs() > tick.accuracy && beyond(difference, GROSS_DEVIATIONS, variance_now))
            || self.above.max(self.below) > EVIDENCE_APART
    }
}

/// The probability of what has these log odds.
fn odds(balance: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-balance))
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
        let fast = self.pair.fast;
        let bad = both
            && self
                .pair
                .disagrees(difference, variance, variance_now, tick);
        if both {
            self.weigh_jump(fast, bad, &first, &second);
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
            pair.above = 0.0;
            pair.below = 0.0;
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
        let long = if bad {
            log_likelihood(pair.path.long_surprise(second.corrected, variance))
                - log_likelihood(pair.path.long_surprise(first.corrected, variance))
        } else {
            0.0
        };
        pair.second_right = odds(pair.balance + limited(long, BLAME_LONG_MAX));
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

    /// A jump of the difference is charged to the channel that left the path of the quantity, or that stopped on it.
    fn weigh_jump(&mut self, before: f64, bad: bool, first: &Channel, second: &Channel) {
        let pair = &mut self.pair;
        let noise = 0.5 * pair.noise;
        let jump = first.corrected - second.corrected - before;
        let jumps = beyond(jump, JUMP_DEVIATIONS, pair.noise);
        let parting = jumps || bad || pair.above.max(pair.below) > 0.0;
        if pair.waited == 0 && jumps {
            pair.balance_before = pair.balance;
            pair.forecast = pair.path.forecast();
            pair.sums = (0.0, 0.0);
            pair.blame = 0.0;
            pair.before = before;
        }
        if jumps || (pair.waited > 0 && parting) {
            pair.waited += 1;
            let count = f64::from(pair.waited);
            pair.sums.0 += first.corrected - pair.forecast;
            pair.sums.1 += second.corrected - pair.forecast;
            let variance = square(count) * pair.path.variance_of_mean(noise, count);
            let path = &pair.path;
            let blame = limited(
                path.log_likelihood(square(pair.sums.1) / variance)
                    - path.log_likelihood(square(pair.sums.0) / variance),
                BLAME_JUMP_MAX,
            );
            let apart = (pair.sums.0 - pair.sums.1) / count;
            let step = apart - pair.before;
            if step.abs() < STEP_SHARE_MIN * apart.abs() {
                // They had parted before: this jump is not what it is about.
                pair.blame = 0.0;
            } else if blame.abs() > pair.blame.abs() {
                pair.blame = blame;
            }
            let stopped = first.motion.missed() - second.motion.missed();
            pair.balance = limited(pair.balance_before + pair.blame + stopped, BALANCE_MAX);
            if pair.waited == WAIT_TICKS {
                pair.waited = 0;
            }
        } else {
            if !parting && !pair.split {
                pair.balance *= 0.9;
            }
            pair.waited = 0;
            let right = if bad { pair.second_right } else { 0.5 };
            let value = first.corrected + right * (second.corrected - first.corrected);
            pair.path.follow(value, first.corrected, second.corrected);
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
            let right = odds(pair.balance);
            self.channels[one].gross = right > SUSPECT_ODDS;
            self.channels[other].gross = right < 1.0 - SUSPECT_ODDS;
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
        let count = self.channels[one].samples;
        let samples = f64::from(count);
        let pair = &mut self.pair;
        let step = square(tick.pair_difference - pair.slow);
        let step_max = 9.0 * pair.noise.max(0.5 * tick.variance_floor);
        pair.noise += (step.min(step_max) - pair.noise) * share(count, NOISE_SAMPLES);
        let wander_max =
            wander_growth_max(tick.commissioning) * pair.wander.max(0.05 * tick.typical_variance);
        pair.wander += (square(pair.slow).min(wander_max) - pair.wander)
            * share(count.max(WANDER_SAMPLES_MIN), WANDER_SAMPLES);
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
