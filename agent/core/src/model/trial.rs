//! The evidence for or against a new file of a model, and what it adds up to.
//!
//! Owns: counters of bounded size and one rule for each. Must not: change anything; whoever asks acts.
//!
//! Invariants: [`Trial::judge`] is a function of what was noted and the time; a rule about a share is judged only from
//! [`TrialRules::answers_min`] on, so that one answer decides nothing; what the new file cannot help (bad inputs, a
//! reference that is silent) never speaks against it.

use alloc::{collections::VecDeque, format, string::String};

use super::{Phase, TrialHealth, TrialRules};
use crate::units::Mono;

/// Windows in a row without a usable answer that end a trial at once.
const ERRORS_IN_ROW_MAX: u32 = 3;
/// Answers in a row that come too late and end a trial at once.
const LATE_IN_ROW_MAX: u32 = 10;
/// Answers that wait for the other file's answer to the same window.
const RECENT_MAX: usize = 4;
/// Four buckets an octave, 32 octaves.
const BUCKETS: usize = 128;

/// What one file answered to a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Given {
    /// The window.
    pub(crate) tick: Mono,
    /// The score in units of the threshold.
    pub(crate) level: f64,
    /// It would raise the alarm.
    pub(crate) alarm: bool,
}

/// What the evidence adds up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The time is not over.
    Going,
    /// The time is over, and this is still missing.
    Waiting(&'static str),
    /// The time is over, and the evidence is worth nothing because of this.
    Again(&'static str),
    /// Every rule holds.
    Passed,
    /// This rule is broken.
    Failed(&'static str),
}

/// Mean and variance of a stream of numbers (Welford 1962).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        let delta = value - self.mean;
        self.mean += delta / real(self.count);
        self.squares += delta * (value - self.mean);
    }

    fn deviation(&self) -> Option<f64> {
        (self.count > 1).then(|| libm::sqrt(self.squares / real(self.count - 1)))
    }
}

/// The evidence of one phase.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    rules: TrialRules,
    phase: Phase,
    since: Mono,
    answers: u64,
    errors: u64,
    errors_in_row: u32,
    late: u64,
    late_in_row: u32,
    skipped: u64,
    inputs_good: u64,
    pairs: u64,
    disagreements: u64,
    difference_sum: f64,
    /// Of the reference and of the new file, over the windows that both answered.
    levels: [Moments; 2],
    /// The same two.
    recent: [VecDeque<Given>; 2],
    times: [u32; BUCKETS],
}

impl Trial {
    pub(crate) fn new(rules: TrialRules, phase: Phase, now: Mono) -> Self {
        Self {
            rules,
            phase,
            since: now,
            answers: 0,
            errors: 0,
            errors_in_row: 0,
            late: 0,
            late_in_row: 0,
            skipped: 0,
            inputs_good: 0,
            pairs: 0,
            disagreements: 0,
            difference_sum: 0.0,
            levels: [Moments::default(); 2],
            recent: [const { VecDeque::new() }; 2],
            times: [0; BUCKETS],
        }
    }

    /// The same rules with nothing counted.
    pub(crate) fn anew(&self, now: Mono) -> Self {
        Self::new(self.rules.clone(), self.phase, now)
    }

    pub(crate) fn rules(&self) -> &TrialRules {
        &self.rules
    }

    /// The new file answered.
    pub(crate) fn note_answer(&mut self, given: Given, took_us: u64, inputs_good: bool) {
        self.answers += 1;
        self.errors_in_row = 0;
        self.inputs_good += u64::from(inputs_good);
        let slot = &mut self.times[bucket(took_us)];
        *slot = slot.saturating_add(1);
        let late = self
            .rules
            .latency_p99_us_max
            .is_some_and(|most| took_us > most);
        self.late += u64::from(late);
        self.late_in_row = if late { self.late_in_row + 1 } else { 0 };
        self.pair(true, given);
    }

    /// The other file answered.
    pub(crate) fn note_reference(&mut self, given: Given) {
        self.pair(false, given);
    }

    /// The new file gave no answer, or none that can be used.
    pub(crate) fn note_error(&mut self) {
        self.errors += 1;
        self.errors_in_row = self.errors_in_row.saturating_add(1);
    }

    /// A window came while the new file was busy.
    pub(crate) fn note_skipped(&mut self) {
        self.skipped += 1;
    }

    fn pair(&mut self, is_new: bool, given: Given) {
        let (own, other) = (usize::from(is_new), usize::from(!is_new));
        let twin = self.recent[other]
            .iter()
            .find(|twin| twin.tick == given.tick)
            .copied();
        let Some(twin) = twin else {
            if self.recent[own].len() >= RECENT_MAX {
                self.recent[own].pop_front();
            }
            self.recent[own].push_back(given);
            return;
        };
        self.pairs += 1;
        self.disagreements += u64::from(given.alarm != twin.alarm);
        let largest = given.level.abs().max(twin.level.abs());
        if largest > 0.0 {
            self.difference_sum += (given.level - twin.level).abs() / largest;
        }
        self.levels[own].add(given.level);
        self.levels[other].add(twin.level);
        self.recent[other].retain(|waiting| waiting.tick > given.tick);
    }

    fn disagreement(&self) -> Option<f64> {
        share(self.disagreements, self.pairs)
    }

    fn difference(&self) -> Option<f64> {
        (self.pairs > 0).then(|| self.difference_sum / real(self.pairs))
    }

    fn drift(&self) -> Option<f64> {
        let [reference, new] = &self.levels;
        let deviation = reference.deviation().filter(|deviation| *deviation > 0.0)?;
        Some((new.mean - reference.mean).abs() / deviation)
    }

    /// What the evidence adds up to now.
    pub(crate) fn judge(&self, now: Mono) -> Verdict {
        if let Some(rule) = self.broken() {
            return Verdict::Failed(rule);
        }
        let Some(until) = self.until() else {
            return Verdict::Going;
        };
        let rules = &self.rules;
        let good = share(self.inputs_good, self.answers);
        if now < until {
            Verdict::Going
        } else if self.answers < rules.answers_min {
            Verdict::Waiting("answers")
        } else if self.pairs < rules.answers_min {
            Verdict::Waiting("reference")
        } else if good.is_some_and(|good| good < rules.inputs_good_share_min) {
            Verdict::Again("inputs")
        } else {
            Verdict::Passed
        }
    }

    fn broken(&self) -> Option<&'static str> {
        let rules = &self.rules;
        if self.errors_in_row >= ERRORS_IN_ROW_MAX {
            return Some("errors-in-row");
        }
        if self.late_in_row >= LATE_IN_ROW_MAX {
            return Some("late-in-row");
        }
        let above = |found: Option<f64>, most: f64| found.is_some_and(|found| found > most);
        let tried = self.answers + self.errors;
        if tried >= rules.answers_min {
            if above(share(self.errors, tried), rules.errors_share_max) {
                return Some("errors");
            }
            // By nearest rank, 99 % are within the limit unless more than 1 % are above it.
            if self.late.saturating_mul(100) > self.answers {
                return Some("latency");
            }
        }
        // Two that are compared may differ: that is what is to be seen.
        if self.pairs < rules.answers_min || self.phase == Phase::Compared {
            return None;
        }
        let most = |most: Option<f64>| most.unwrap_or(f64::INFINITY);
        [
            ("disagreement", self.disagreement(), rules.disagreement_max),
            ("difference", self.difference(), most(rules.difference_max)),
            ("drift", self.drift(), most(rules.drift_max)),
        ]
        .into_iter()
        .find(|(_, found, most)| above(*found, *most))
        .map(|(rule, ..)| rule)
    }

    fn until(&self) -> Option<Mono> {
        match self.phase {
            Phase::Shadow => Some(self.since.plus_ms(self.rules.shadow_ms)),
            Phase::Canary => Some(self.since.plus_ms(self.rules.canary_ms)),
            Phase::Alone | Phase::Compared => None,
        }
    }

    fn latency_p99_us(&self) -> Option<u64> {
        let count: u64 = self.times.iter().map(|count| u64::from(*count)).sum();
        let rank = (count * 99).div_ceil(100);
        let mut seen = 0;
        let found = self.times.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        found.filter(|_| count > 0).map(highest)
    }

    /// The evidence in words, for a record.
    pub(crate) fn words(&self) -> String {
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "-".into(), |share| format!("{:.1} %", 100.0 * share))
        };
        let number =
            |found: Option<f64>| found.map_or_else(|| "-".into(), |found| format!("{found:.3}"));
        let p99 = self
            .latency_p99_us()
            .map_or_else(|| "-".into(), |us| format!("{us} us"));
        format!(
            "{} answers, {} errors; {} of {} alarms differ; difference {}, drift {}, p99 {p99}, good inputs {}",
            self.answers,
            self.errors,
            percent(self.disagreement()),
            self.pairs,
            number(self.difference()),
            number(self.drift()),
            percent(share(self.inputs_good, self.answers)),
        )
    }

    pub(crate) fn health(&self, now: Mono, version: String, digest: String) -> TrialHealth {
        let (state, rule) = match self.judge(now) {
            Verdict::Going => ("going", None),
            Verdict::Waiting(rule) | Verdict::Again(rule) => ("waiting", Some(rule)),
            Verdict::Passed => ("passed", None),
            Verdict::Failed(rule) => ("failed", Some(rule)),
        };
        TrialHealth {
            phase: self.phase.as_str(),
            version,
            digest,
            since: self.since,
            until: self.until(),
            state,
            rule,
            answers: self.answers,
            errors: self.errors,
            skipped: self.skipped,
            pairs: self.pairs,
            disagreement: self.disagreement(),
            difference: self.difference(),
            latency_p99_us: self.latency_p99_us(),
            inputs_good: share(self.inputs_good, self.answers),
            drift: self.drift(),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count: beyond 2^53 the last digits do not matter"
)]
fn real(count: u64) -> f64 {
    count as f64
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| real(part) / real(whole))
}

/// The bucket of a time: the octave and the two bits below its highest one.
fn bucket(us: u64) -> usize {
    let us = u32::try_from(us).unwrap_or(u32::MAX);
    let found = if us < 4 {
        us
    } else {
        let octave = us.ilog2();
        4 * (octave - 1) + (us >> (octave - 2)) % 4
    };
    usize::try_from(found).map_or(BUCKETS - 1, |found| found.min(BUCKETS - 1))
}

/// The longest time of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).unwrap_or(0);
    if bucket < 4 {
        return bucket;
    }
    let octave = bucket / 4 + 1;
    ((5 + bucket % 4) << (octave - 2)) - 1
}

#[cfg(test)]
mod tests;
