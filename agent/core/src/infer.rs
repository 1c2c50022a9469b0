//! One model as the core sees it: its window, whether it may run, and what its answers mean.
//!
//! Owns: the state of a model between votes and inferences. Must not: run anything.
//!
//! | from | to | when |
//! |---|---|---|
//! | Filling | Running | the window is full |
//! | Filling, Running | Abstaining | an input has no value, or one outside the model's range |
//! | Abstaining | Filling | every input has a value again; the window starts anew |
//! | any | Failed | the breaker opened after failures in a row |
//! | Failed | Running | an attempt succeeded |

use alloc::{format, string::String, vec::Vec};

use crate::{
    breaker::Breaker,
    config::ModelConfig,
    event::{Action, InferenceFault},
    health::ModelHealth,
    record::{Inference, InputSummary},
    units::{ModelId, Mono},
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

/// A window that is with the runner.
#[derive(Clone, Debug)]
struct Question {
    tick: Mono,
    asked: Mono,
    inputs_quality: Quality,
    inputs: Vec<InputSummary>,
}

/// What one step did, for the agent to count and record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing to say.
    Quiet,
    /// The runner was asked.
    Asked,
    /// The runner still works on the window before.
    Skipped,
}

/// One model.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    id: ModelId,
    config: ModelConfig,
    window: Window,
    pub(crate) state: State,
    since: Mono,
    breaker: Breaker,
    question: Option<Question>,
    score: Option<f64>,
    pub(crate) alarm: bool,
    fault: Option<String>,
}

impl Model {
    pub(crate) fn new(id: ModelId, config: ModelConfig, now: Mono) -> Self {
        Self {
            id,
            window: Window::new(config.window, config.inputs.len()),
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

    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// When the runner was asked for what it still owes.
    pub(crate) fn asked_since(&self) -> Option<Mono> {
        self.question.as_ref().map(|question| question.asked)
    }

    /// One row of newest votes, in the order of the inputs; `None` where an input has no value.
    pub(crate) fn advance(
        &mut self,
        now: Mono,
        tick: Mono,
        votes: &[Option<f64>],
        inputs: Vec<InputSummary>,
        actions: &mut Vec<Action>,
    ) -> Step {
        let Some(row) = self.preprocess(votes) else {
            self.window.clear();
            if self.state != State::Failed {
                self.transition_to(now, State::Abstaining);
            }
            return Step::Quiet;
        };
        let quality = inputs
            .iter()
            .map(|input| input.quality)
            .max()
            .unwrap_or(Quality::Bad);
        self.window.push(&row, quality);
        if !self.window.is_full() {
            if self.state != State::Failed {
                self.transition_to(now, State::Filling);
            }
            return Step::Quiet;
        }
        if self.question.is_some() {
            return Step::Skipped;
        }
        if !self.breaker.admit(now) {
            return Step::Quiet;
        }
        self.question = Some(Question {
            tick,
            asked: now,
            inputs_quality: self.window.worst_quality(),
            inputs,
        });
        actions.push(Action::Infer {
            model: self.id,
            tick,
            window: self.window.values(),
        });
        Step::Asked
    }

    fn preprocess(&self, votes: &[Option<f64>]) -> Option<Vec<f32>> {
        let scaled = |(vote, input): (&Option<f64>, &crate::config::ModelInput)| {
            let value = vote.as_ref().copied()?;
            let inside = input
                .range
                .is_none_or(|(low, high)| value >= low && value <= high);
            inside.then(|| narrow((value - input.mean) / input.scale))
        };
        votes.iter().zip(&self.config.inputs).map(scaled).collect()
    }

    /// The runner's answer. `None` when it answers a question that was not asked.
    pub(crate) fn answer(
        &mut self,
        now: Mono,
        tick: Mono,
        outcome: Result<Vec<f32>, InferenceFault>,
        random: &mut fastrand::Rng,
    ) -> Option<Result<Inference, InferenceFault>> {
        let question = self.question.take_if(|question| question.tick == tick)?;
        let checked = outcome.and_then(|outputs| self.check(outputs));
        match checked {
            Ok(outputs) => {
                self.breaker.succeed();
                self.fault = None;
                self.transition_to(now, State::Running);
                let score = f64::from(outputs[0]);
                self.score = Some(score);
                self.alarm = self
                    .config
                    .threshold
                    .is_some_and(|threshold| score > threshold);
                Some(Ok(Inference {
                    model: self.id,
                    tick,
                    outputs,
                    alarm: self.alarm,
                    inputs_quality: question.inputs_quality,
                    inputs: question.inputs,
                }))
            }
            Err(fault) => {
                self.breaker.fail(now, random);
                self.fault = Some(format!("{}: {}", fault.cause, fault.detail));
                if self.breaker.retry().is_some() {
                    self.transition_to(now, State::Failed);
                }
                Some(Err(fault))
            }
        }
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

    pub(crate) fn health(&self) -> ModelHealth {
        ModelHealth {
            id: self.config.id.clone(),
            version: self.config.version.clone(),
            digest: self.config.digest.clone(),
            state: self.state.as_str(),
            since: self.since,
            score: self.score,
            threshold: self.config.threshold,
            alarm: self.alarm,
            fault: self.fault.clone(),
            retry: self.breaker.retry(),
            // The agent knows the monitors.
            drift: Vec::new(),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a tensor of f32 is what the model takes; the nearest is meant"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}
