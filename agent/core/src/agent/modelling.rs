//! The models among each other: when each takes a row, who stands in for whom, and what is told of it.
//!
//! Owns: the order in which models advance, and the words of their events. Must not: decide for one model; see
//! [`crate::model`].

use alloc::{sync::Arc, vec::Vec};

use super::Agent;
use crate::{
    config::ModelInput,
    event::{Action, Event, InferenceFault, ModelChange},
    infer::{Crossing, State, Step},
    model::{Answer, Asking, Missing, ModelEvent},
    record::{Body, InputSummary, Occurrence},
    units::{ModelId, Mono},
};

impl Agent {
    /// A model takes a row at the ticks of its slowest input; those that stand in for others come after these.
    pub(super) fn advance_models(&mut self, now: Mono, tick: Mono, actions: &mut Vec<Action>) {
        for standing_in in [false, true] {
            for index in 0..self.models.len() {
                let asking = self.asking(index);
                if (asking != Asking::Own) == standing_in && self.is_due(index, tick) {
                    self.advance_model(now, tick, index, asking, actions);
                }
            }
        }
    }

    /// Whether a model answers for itself, or stands in for the first that names it and gives no answer.
    fn asking(&self, index: usize) -> Asking {
        let names =
            |missing: Missing| matches!(missing, Missing::Fallback(id) if id.index() == index);
        let mut asking = Asking::Own;
        for (id, model) in (0..).map(ModelId).zip(&self.models) {
            if !names(model.config().missing) {
                continue;
            }
            if model.state() != State::Running {
                return Asking::For(id);
            }
            asking = Asking::Standby;
        }
        asking
    }

    fn is_due(&self, index: usize, tick: Mono) -> bool {
        let inputs = self.models[index].config().inputs.iter();
        let slowest = inputs.map(|input| input.quantity).max_by_key(|quantity| {
            let period_ms = self.quantities[quantity.index()].config().period_ms;
            (period_ms, core::cmp::Reverse(*quantity))
        });
        slowest.is_some_and(|quantity| self.quantities[quantity.index()].tick == Some(tick))
    }

    fn advance_model(
        &mut self,
        now: Mono,
        tick: Mono,
        index: usize,
        asking: Asking,
        actions: &mut Vec<Action>,
    ) {
        let inputs = &self.models[index].config().inputs;
        let votes: Vec<_> = inputs
            .iter()
            .map(|input| self.quantities[input.quantity.index()].vote.value)
            .collect();
        self.watch_inputs(tick, index, actions);
        let inputs = &self.models[index].config().inputs;
        let summary = |input: &ModelInput| {
            let quantity = &self.quantities[input.quantity.index()];
            InputSummary {
                quantity: input.quantity,
                quality: quantity.quality(),
                excluded: quantity.excluded(),
            }
        };
        let summaries: Vec<_> = inputs.iter().map(summary).collect();
        let model = &mut self.models[index];
        let before = model.state();
        let step = model.advance((now, tick), &votes, &summaries, asking, actions);
        let ends = model.alarm_ends();
        self.counters.inferences_skipped += u64::from(step == Step::Skipped);
        if ends {
            self.tell_alarm(tick, index, false, actions);
        }
        self.tell_model(tick, index, before, None, actions);
    }

    /// A runner answered; other events are not for here.
    pub(super) fn take_inference(&mut self, now: Mono, event: Event, actions: &mut Vec<Action>) {
        let Event::Inferred {
            model,
            lane,
            tick,
            took_us,
            outcome,
        } = event
        else {
            return;
        };
        let answer = Answer {
            lane,
            tick,
            took_us,
            outcome,
        };
        let index = model.index();
        let Some(state) = self.models.get_mut(index) else {
            return;
        };
        let before = state.state();
        let Some(answered) = state.answer(now, answer, &mut self.random) else {
            return;
        };
        let counts = answered.purpose.counts;
        let is_established = answered.purpose.role.is_established();
        for crossing in answered.crossings {
            self.tell_crossing(tick, index, crossing, actions);
        }
        match answered.outcome {
            Ok(inference) => {
                self.counters.inferences += 1;
                let alarm = inference.alarm;
                if is_established {
                    self.watch_outputs(tick, index, &inference.outputs, actions);
                }
                self.record(tick, Body::Inference(inference), actions);
                self.tell_model(now, index, before, None, actions);
                if counts && self.models[index].note_alarm(alarm) {
                    self.tell_alarm(tick, index, alarm, actions);
                }
            }
            // Of a file beside, the evidence counts it.
            Err(_) if !counts => {}
            Err(fault) => {
                self.counters.inference_faults += 1;
                self.tell_model(now, index, before, Some(fault), actions);
            }
        }
        self.advance_trials(now, actions);
    }

    pub(super) fn take_model_event(
        &mut self,
        now: Mono,
        event: ModelEvent,
        actions: &mut Vec<Action>,
    ) {
        match event {
            ModelEvent::Assigned {
                model,
                phase,
                counting,
                lanes,
            } => {
                let index = model.index();
                if let Some(model) = self.models.get_mut(index)
                    && model.assign(now, phase, counting, lanes)
                {
                    self.watches[index].follow(model.established());
                }
            }
            ModelEvent::Changed(change) => self.tell_model_change(now, change, actions),
        }
    }

    /// Asks for the steps that the evidence asks for.
    pub(super) fn advance_trials(&mut self, now: Mono, actions: &mut Vec<Action>) {
        for (id, model) in (0..).map(ModelId).zip(&mut self.models) {
            let Some(file) = model.on_trial().map(Arc::clone) else {
                continue;
            };
            if let Some((step, reason, evidence)) = model.judge(now) {
                actions.push(Action::ModelStep {
                    model: id,
                    step,
                    file,
                    reason,
                    evidence,
                });
            }
        }
    }

    fn tell_model(
        &mut self,
        now: Mono,
        index: usize,
        before: State,
        fault: Option<InferenceFault>,
        actions: &mut Vec<Action>,
    ) {
        let after = self.models[index].state();
        if after == before && fault.is_none() {
            return;
        }
        let occurrence = Occurrence {
            what: "model",
            subject: self.config.models[index].id.clone(),
            from: Some(before.as_str()),
            to: Some(after.as_str()),
            reason: fault.as_ref().map(|fault| fault.cause),
            detail: fault.map(|fault| fault.detail),
            records: None,
        };
        self.tell(now, occurrence, actions);
    }

    fn tell_alarm(&mut self, tick: Mono, index: usize, raised: bool, actions: &mut Vec<Action>) {
        let occurrence = Occurrence {
            what: "alarm",
            subject: self.config.models[index].id.clone(),
            to: Some(if raised { "raised" } else { "cleared" }),
            ..Occurrence::default()
        };
        self.tell(tick, occurrence, actions);
    }

    /// An output left its range, or came back.
    fn tell_crossing(
        &mut self,
        tick: Mono,
        index: usize,
        crossing: Crossing,
        actions: &mut Vec<Action>,
    ) {
        let words = ["inside", "outside"];
        let after = usize::from(crossing.outside);
        let occurrence = Occurrence {
            what: "model-output",
            subject: self.config.models[index].id.clone(),
            from: Some(words[1 - after]),
            to: Some(words[after]),
            reason: crossing.outside.then_some("out-of-range"),
            detail: Some(crossing.detail),
            records: None,
        };
        self.tell(tick, occurrence, actions);
    }

    /// Something happened to the files of a model.
    fn tell_model_change(&mut self, now: Mono, change: ModelChange, actions: &mut Vec<Action>) {
        let Some(config) = self.config.models.get(change.model.index()) else {
            return;
        };
        let occurrence = Occurrence {
            what: change.what,
            subject: config.id.clone(),
            reason: Some(change.cause),
            detail: Some(change.detail),
            ..Occurrence::default()
        };
        self.tell(now, occurrence, actions);
    }
}
