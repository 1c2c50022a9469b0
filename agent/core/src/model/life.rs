//! One model of the configuration: the one or two files of it that run, and which of them counts.
//!
//! Owns: who is asked, whose answer counts, and when the evidence asks for a step. Must not: load or write anything.
//!
//! Invariant: going back to the file before needs nobody's leave; going forward is asked for and waited for.

use alloc::{string::String, sync::Arc, vec::Vec};

use super::{
    Lane, ModelStep, Phase, Role, Split, TrialHealth, TrialRules,
    trial::{Given, Trial, Verdict},
};
use crate::{
    config::ModelConfig,
    event::{Action, InferenceFault},
    health::ModelHealth,
    infer::{Answered, Purpose, State, Step, Variant},
    record::InputSummary,
    units::{ModelId, Mono},
    vote::Quality,
};

/// A new file that owes an answer for so long is given up, in milliseconds: well before its agent counts as stalled.
const HANG_MS: u64 = 10_000;
/// A step that was asked for and did not come is asked for again after this, in milliseconds.
const ASK_MS: u64 = 60_000;

/// Whether a model is asked at all, as the models together decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// It answers for itself.
    Own,
    /// It waits until another model gives no answer.
    Standby,
    /// It answers in place of another model.
    For(ModelId),
}

/// The answer of one of the files, and what it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) lane: Lane,
    pub(crate) tick: Mono,
    pub(crate) took_us: u64,
    pub(crate) outcome: Result<Vec<f32>, InferenceFault>,
}

/// One model.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    id: ModelId,
    lanes: [Option<Variant>; 2],
    counting: Lane,
    phase: Phase,
    trial: Option<Trial>,
    /// The step that was asked for last.
    asked: Option<(ModelStep, Mono)>,
    standby: bool,
    /// The alarm that was told last.
    pub(crate) alarm: bool,
}

impl Model {
    pub(crate) fn new(id: ModelId, config: ModelConfig, now: Mono) -> Self {
        let variant = Variant::new(id, Lane::First, Arc::new(config), now);
        Self {
            id,
            lanes: [Some(variant), None],
            counting: Lane::First,
            phase: Phase::Alone,
            trial: None,
            asked: None,
            standby: false,
            alarm: false,
        }
    }

    fn counting(&self) -> &Variant {
        self.lanes[self.counting.index()]
            .as_ref()
            .expect("what counts is loaded")
    }

    /// Of the file that counts.
    pub(crate) fn config(&self) -> &Arc<ModelConfig> {
        self.counting().config()
    }

    /// Of the file that counts.
    pub(crate) fn state(&self) -> State {
        self.counting().state
    }

    /// When the file that counts was asked for what it still owes.
    pub(crate) fn asked_since(&self) -> Option<Mono> {
        self.counting().asked_since()
    }

    pub(crate) fn runner_died(&mut self) {
        self.lanes
            .iter_mut()
            .flatten()
            .for_each(Variant::runner_died);
    }

    /// The lane of the file that is on trial.
    fn new_lane(&self) -> Option<Lane> {
        match self.phase {
            Phase::Alone => None,
            Phase::Shadow | Phase::Compared => Some(self.counting.other()),
            Phase::Canary => Some(self.counting),
        }
    }

    /// Of the file that counted before any trial.
    pub(crate) fn established(&self) -> &Arc<ModelConfig> {
        let old = self.new_lane().map(Lane::other);
        let old = old.and_then(|old| self.lanes[old.index()].as_ref());
        old.unwrap_or(self.counting()).config()
    }

    /// The file on trial.
    pub(crate) fn on_trial(&self) -> Option<&Arc<ModelConfig>> {
        let new = self.lanes[self.new_lane()?.index()].as_ref()?;
        Some(new.config())
    }

    fn role(&self, lane: Lane) -> Role {
        match (self.phase, lane == self.counting) {
            (Phase::Alone, _) | (Phase::Shadow, true) => Role::Active,
            (Phase::Shadow, false) => Role::Shadow,
            (Phase::Canary, true) => Role::Canary,
            (Phase::Canary, false) => Role::Reference,
            (Phase::Compared, true) => Role::A,
            (Phase::Compared, false) => Role::B,
        }
    }

    /// What a file is asked for at a tick, if it is.
    fn purpose(&self, lane: Lane, tick: Mono, asking: Asking) -> Option<Purpose> {
        let mut counts = lane == self.counting;
        let split = self
            .config()
            .split
            .filter(|_| self.phase == Phase::Compared);
        if let Some(Split::Time { period_ms }) = split {
            let turn_of_first = (tick.0 / period_ms.max(1)).is_multiple_of(2);
            if turn_of_first != counts {
                return None;
            }
            counts = true;
        }
        let fallback_for = match asking {
            Asking::Standby => return None,
            Asking::Own => None,
            Asking::For(model) => Some(model),
        };
        Some(Purpose {
            role: self.role(lane),
            counts,
            fallback_for,
        })
    }

    /// One row for each file. What the file that counts did.
    pub(crate) fn advance(
        &mut self,
        (now, tick): (Mono, Mono),
        votes: &[Option<f64>],
        inputs: &[InputSummary],
        asking: Asking,
        actions: &mut Vec<Action>,
    ) -> Step {
        self.standby = asking == Asking::Standby;
        if self.standby {
            self.lanes.iter_mut().flatten().for_each(Variant::rest);
        }
        let new = self.new_lane();
        let mut done = Step::Quiet;
        for lane in [self.counting, self.counting.other()] {
            let purpose = self.purpose(lane, tick, asking);
            let Some(variant) = &mut self.lanes[lane.index()] else {
                continue;
            };
            let step = variant.advance((now, tick), votes, inputs, purpose, actions);
            if lane == self.counting {
                done = step;
            }
            if let (Step::Skipped, Some(trial)) = (step, &mut self.trial)
                && new == Some(lane)
            {
                trial.note_skipped();
            }
        }
        done
    }

    /// The answer of a runner. `None` when nobody asked for it.
    pub(crate) fn answer(
        &mut self,
        now: Mono,
        answer: Answer,
        random: &mut fastrand::Rng,
    ) -> Option<Answered> {
        let Answer {
            lane,
            tick,
            took_us,
            outcome,
        } = answer;
        let variant = self.lanes[lane.index()].as_mut()?;
        let answered = variant.answer(now, tick, outcome, random)?;
        let given = Given {
            tick,
            level: variant.level(),
            alarm: variant.alarm,
        };
        let is_new = self.new_lane() == Some(lane);
        let best = if self.config().single_sensor {
            Quality::Uncertain
        } else {
            Quality::Degraded
        };
        if let Some(trial) = &mut self.trial {
            match (&answered.outcome, is_new) {
                (Ok(_), true) if answered.outside => trial.note_error(),
                (Ok(inference), true) => {
                    let good = inference.inputs_quality <= best && inference.imputed.is_empty();
                    trial.note_answer(given, took_us, good);
                }
                (Ok(_), false) => trial.note_reference(given),
                (Err(_), true) => trial.note_error(),
                (Err(_), false) => {}
            }
        }
        Some(answered)
    }

    /// The shell has loaded files and made durable how they stand to each other. False where it says nothing new, or
    /// what cannot be.
    pub(crate) fn assign(
        &mut self,
        now: Mono,
        phase: Phase,
        counting: Lane,
        lanes: [Option<Arc<ModelConfig>>; 2],
    ) -> bool {
        if lanes[counting.index()].is_none() {
            return false;
        }
        let phase = match &lanes[counting.other().index()] {
            None => Phase::Alone,
            Some(_) => phase,
        };
        let same = |own: &Option<Variant>, its: &Option<Arc<ModelConfig>>| match (own, its) {
            (None, None) => true,
            (Some(own), Some(its)) => own.config() == its,
            _ => false,
        };
        let all_same = self
            .lanes
            .iter()
            .zip(&lanes)
            .all(|(own, its)| same(own, its));
        if all_same && (phase, counting) == (self.phase, self.counting) {
            return false;
        }
        let before = self.counting().clone();
        for (lane, config) in Lane::BOTH.into_iter().zip(lanes) {
            let slot = &mut self.lanes[lane.index()];
            if same(slot, &config) {
                continue;
            }
            *slot = config.map(|config| {
                let mut variant = Variant::new(self.id, lane, config, now);
                variant.adopt(&before);
                variant
            });
        }
        (self.phase, self.counting) = (phase, counting);
        self.asked = None;
        let rules = self.config().trial.clone().unwrap_or(TrialRules {
            // Without rules nothing but failing in a row ends it.
            answers_min: u64::MAX,
            ..TrialRules::default()
        });
        self.trial = (phase != Phase::Alone).then(|| Trial::new(rules, phase, now));
        true
    }

    /// What the evidence asks for now: the step, why, and the evidence in words.
    pub(crate) fn judge(&mut self, now: Mono) -> Option<(ModelStep, &'static str, String)> {
        let is_compared = self.config().split.is_some();
        let (new, trial) = (self.new_lane()?, self.trial.as_mut()?);
        let owes = self.lanes[new.index()]
            .as_ref()
            .and_then(Variant::asked_since);
        let verdict = match owes {
            Some(since) if now.since_ms(since) >= HANG_MS => Verdict::Failed("hung"),
            _ => trial.judge(now),
        };
        let rules = trial.rules();
        let goes_on = rules.canary_ms > 0 || is_compared;
        let (step, reason) = match verdict {
            Verdict::Going | Verdict::Waiting(_) => return None,
            Verdict::Again(_) => {
                *trial = trial.anew(now);
                return None;
            }
            Verdict::Failed(rule) => {
                let words = trial.words();
                self.give_up(new);
                return Some((ModelStep::RollBack, rule, words));
            }
            Verdict::Passed if !rules.promotes => (ModelStep::Pass, "evidence"),
            Verdict::Passed if self.phase == Phase::Shadow && goes_on => {
                (ModelStep::Canary, "evidence")
            }
            Verdict::Passed => (ModelStep::Promote, "evidence"),
        };
        let recent = |(asked, at): (ModelStep, Mono)| asked == step && now.since_ms(at) < ASK_MS;
        if self.asked.is_some_and(recent) {
            return None;
        }
        self.asked = Some((step, now));
        Some((step, reason, trial.words()))
    }

    /// The old file alone counts from now on.
    fn give_up(&mut self, new: Lane) {
        if self.lanes[new.other().index()].is_none() {
            return;
        }
        self.lanes[new.index()] = None;
        self.counting = new.other();
        self.phase = Phase::Alone;
        (self.trial, self.asked) = (None, None);
    }

    /// The alarm as the answers that count say it; true where that is news.
    pub(crate) fn note_alarm(&mut self, alarm: bool) -> bool {
        core::mem::replace(&mut self.alarm, alarm) != alarm
    }

    /// On standby it says nothing; true where its alarm ends by that.
    pub(crate) fn alarm_ends(&mut self) -> bool {
        self.standby && self.note_alarm(false)
    }

    pub(crate) fn health(&self, now: Mono) -> ModelHealth {
        let counting = self.counting();
        let config = counting.config();
        ModelHealth {
            id: config.id.clone(),
            version: config.version.clone(),
            digest: config.digest.clone(),
            state: if self.standby {
                "standby"
            } else {
                counting.state.as_str()
            },
            since: counting.since,
            score: counting.score,
            threshold: config.threshold,
            alarm: self.alarm,
            fault: counting.fault().cloned(),
            retry: counting.retry(),
            // The agent knows the monitors.
            drift: Vec::new(),
            trial: self.trial_health(now),
        }
    }

    fn trial_health(&self, now: Mono) -> Option<TrialHealth> {
        let new = self.lanes[self.new_lane()?.index()].as_ref()?;
        let config = new.config();
        let trial = self.trial.as_ref()?;
        Some(trial.health(now, config.version.clone(), config.digest.clone()))
    }
}

#[cfg(test)]
mod tests;
