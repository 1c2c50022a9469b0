//! One file of a model as the core sees it: its window, whether it may run, and what its answers mean.
//!
//! Owns: the state of a file between votes and inferences. Must not: run anything, or know whether another one runs beside.
//!
//! | from | to | when |
//! |---|---|---|
//! | Filling | Running | the window is full |
//! | Filling, Running | Abstaining | an input has no value, or one outside the model's range |
//! | Abstaining | Filling | every input has a value again; the window starts anew |
//! | any | Failed | the breaker opened after failures in a row |
//! | Failed | Running | an attempt succeeded |

use alloc::{format, string::String, sync::Arc, vec::Vec};

use crate::{
    breaker::Breaker,
    config::ModelConfig,
    event::{Action, InferenceFault},
    model::{Inputs, Lane, Role},
    record::{Inference, InputSummary},
    units::{ModelId, Mono, QuantityId},
    vote::Quality,
    window::Window,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Filling,
    Running,
    Abstaining,
    Failed,
}

impl State {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Filling => "filling",
            Self::Running => "running",
            Self::Abstaining => "abstaining",
            Self::Failed => "failed",
        }
    }
}

/// What a question is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Purpose {
    /// What the file is to the other one.
    pub(crate) role: Role,
    /// Its answer counts.
    pub(crate) counts: bool,
    /// It stands in for this model.
    pub(crate) fallback_for: Option<ModelId>,
}

/// A window that is with the runner.
#[derive(Clone, Debug)]
struct Question {
    tick: Mono,
    asked: Mono,
    purpose: Purpose,
    inputs_quality: Quality,
    inputs: Vec<InputSummary>,
    imputed: Vec<QuantityId>,
}

/// What one step did, for the agent to count and record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing to say.
    Quiet,
    /// The runner was asked.
    Asked,
    /// The runner still works on the window before.
    Skipped,
}

/// An output that left its range, or came back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Crossing {
    pub(crate) outside: bool,
    pub(crate) detail: String,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answered {
    pub(crate) purpose: Purpose,
    pub(crate) outcome: Result<Inference, InferenceFault>,
    /// Some output is outside of its range.
    pub(crate) outside: bool,
    pub(crate) crossings: Vec<Crossing>,
}

/// One file of a model.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    id: ModelId,
    lane: Lane,
    config: Arc<ModelConfig>,
    window: Window,
    inputs: Inputs,
    pub(crate) state: State,
    pub(crate) since: Mono,
    breaker: Breaker,
    question: Option<Question>,
    pub(crate) score: Option<f64>,
    pub(crate) alarm: bool,
    fault: Option<String>,
    outside: Vec<bool>,
}

impl Variant {
    pub(crate) fn new(id: ModelId, lane: Lane, config: Arc<ModelConfig>, now: Mono) -> Self {
        Self {
            id,
            lane,
            window: Window::new(config.window, config.inputs.len()),
            inputs: Inputs::new(config.inputs.len()),
            outside: alloc::vec![false; config.outputs.len()],
            config,
            state: State::Filling,
            since: now,
            breaker: Breaker::new(),
            question: None,
            score: None,
            alarm: false,
            fault: None,
        }
    }

    /// Takes over what another file of the model has seen, where both see it in the same way.
    pub(crate) fn adopt(&mut self, other: &Self) {
        let (own, its) = (&self.config, &other.config);
        if own.inputs == its.inputs && own.missing == its.missing {
            self.window.adopt(&other.window);
            self.inputs = other.inputs.clone();
        }
    }

    pub(crate) fn config(&self) -> &Arc<ModelConfig> {
        &self.config
    }

    /// When the runner was asked for what it still owes.
    pub(crate) fn asked_since(&self) -> Option<Mono> {
        self.question.as_ref().map(|question| question.asked)
    }

    pub(crate) fn fault(&self) -> Option<&String> {
        self.fault.as_ref()
    }

    pub(crate) fn retry(&self) -> Option<Mono> {
        self.breaker.retry()
    }

    /// One row of newest votes, in the order of the inputs; `None` where an input has no value. Asks the runner only
    /// where there is a purpose.
    pub(crate) fn advance(
        &mut self,
        (now, tick): (Mono, Mono),
        votes: &[Option<f64>],
        inputs: &[InputSummary],
        purpose: Option<Purpose>,
        actions: &mut Vec<Action>,
    ) -> Step {
        let Some(row) = self.inputs.row(&self.config, tick, votes) else {
            self.window.clear();
            if self.state != State::Failed {
                self.transition_to(now, State::Abstaining);
            }
            return Step::Quiet;
        };
        let voted = inputs.iter().map(|input| input.quality).max();
        let made_up = row.imputed.then_some(Quality::Uncertain);
        let quality = voted.max(made_up).unwrap_or(Quality::Bad);
        self.window.push(&row.values, quality);
        if !self.window.is_full() {
            if self.state != State::Failed {
                self.transition_to(now, State::Filling);
            }
            return Step::Quiet;
        }
        let Some(purpose) = purpose else {
            return Step::Quiet;
        };
        if self.question.is_some() {
            return Step::Skipped;
        }
        if !self.breaker.admit(now) {
            return Step::Quiet;
        }
        self.question = Some(Question {
            tick,
            asked: now,
            purpose,
            inputs_quality: self.window.worst_quality(),
            inputs: inputs.to_vec(),
            imputed: self.inputs.imputed(&self.config),
        });
        actions.push(Action::Infer {
            model: self.id,
            lane: self.lane,
            tick,
            window: self.window.values(),
        });
        Step::Asked
    }

    /// The runner's answer. `None` when it answers a question that was not asked.
    pub(crate) fn answer(
        &mut self,
        now: Mono,
        tick: Mono,
        outcome: Result<Vec<f32>, InferenceFault>,
        random: &mut fastrand::Rng,
    ) -> Option<Answered> {
        let question = self.question.take_if(|question| question.tick == tick)?;
        let purpose = question.purpose;
        let mut answered = Answered {
            purpose,
            outcome: Err(InferenceFault {
                cause: "",
                detail: String::new(),
            }),
            outside: false,
            crossings: Vec::new(),
        };
        match outcome.and_then(|outputs| self.check(outputs)) {
            Ok(outputs) => {
                self.breaker.succeed();
                self.fault = None;
                self.transition_to(now, State::Running);
                let score = f64::from(outputs[0]);
                self.score = Some(score);
                self.alarm = self.raises(score);
                answered.crossings = self.crossings(&outputs);
                answered.outside = self.outside.contains(&true);
                answered.outcome = Ok(Inference {
                    model: self.id,
                    maker: self.config.clone(),
                    tick,
                    outputs,
                    alarm: self.alarm,
                    role: purpose.role,
                    counts: purpose.counts,
                    fallback_for: purpose.fallback_for,
                    imputed: question.imputed,
                    inputs_quality: question.inputs_quality,
                    inputs: question.inputs,
                });
            }
            Err(fault) => {
                self.breaker.fail(now, random);
                self.fault = Some(format!("{}: {}", fault.cause, fault.detail));
                if self.breaker.retry().is_some() {
                    self.transition_to(now, State::Failed);
                }
                answered.outcome = Err(fault);
            }
        }
        Some(answered)
    }

    /// Above the threshold it is raised; it ends only when the score is below by the hysteresis.
    fn raises(&self, score: f64) -> bool {
        let Some(threshold) = self.config.threshold else {
            return false;
        };
        if self.alarm {
            score > threshold - self.config.hysteresis
        } else {
            score > threshold
        }
    }

    /// The score in units of the threshold, so that files of different scales can be compared.
    pub(crate) fn level(&self) -> f64 {
        let score = self.score.unwrap_or(0.0);
        let threshold = self.config.threshold.map_or(1.0, f64::abs);
        if threshold > 0.0 {
            score / threshold
        } else {
            score
        }
    }

    fn crossings(&mut self, outputs: &[f32]) -> Vec<Crossing> {
        let mut crossings = Vec::new();
        let config = &self.config;
        let all = config
            .outputs
            .iter()
            .zip(outputs)
            .zip(&config.output_ranges);
        for (((name, value), range), was) in all.zip(&mut self.outside) {
            let Some((low, high)) = *range else { continue };
            let outside = !(low..=high).contains(&f64::from(*value));
            if outside != *was {
                *was = outside;
                let detail = format!("{name} is {value}, expected {low} to {high}");
                crossings.push(Crossing { outside, detail });
            }
        }
        crossings
    }

    /// The alarm ends without an answer: the file is not asked any more.
    pub(crate) fn rest(&mut self) {
        self.alarm = false;
        self.score = None;
    }

    /// The runner is gone: whatever it owed will not come.
    pub(crate) fn runner_died(&mut self) {
        self.question = None;
    }

    fn check(&self, outputs: Vec<f32>) -> Result<Vec<f32>, InferenceFault> {
        let expected = self.config.outputs.len();
        if outputs.len() != expected {
            return Err(InferenceFault {
                cause: "wrong-shape",
                detail: format!("expected {expected} outputs, got {}", outputs.len()),
            });
        }
        if !outputs.iter().all(|output| output.is_finite()) {
            return Err(InferenceFault {
                cause: "not-finite",
                detail: "an output is not a finite number".into(),
            });
        }
        Ok(outputs)
    }

    fn transition_to(&mut self, now: Mono, state: State) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }
}
