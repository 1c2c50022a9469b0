//! What the keeper does for the core and for operators: the steps of a trial, and commands.
//!
//! Owns: how each of them is written to the slot. Must not: load anything; what was written is followed afterwards.

use quorate_core::{
    command::{CommandId, ModelDeed, Outcome},
    config::ModelConfig,
    model::{ModelStep, Phase},
};

use super::{
    super::{
        delivery,
        plan::plan,
        slots::{Cause, Held, Record, SlotsError, TrialPhase},
    },
    Keeper,
};

/// Most characters of a detail.
const DETAIL_CHARACTERS_MAX: usize = 320;

impl Keeper {
    /// A step that the core asks for, of the file that it judged. Returns whether the slot may be another one by it.
    pub(super) fn step(
        &mut self,
        index: usize,
        (step, file): (ModelStep, &ModelConfig),
        reason: &'static str,
        evidence: &str,
    ) -> bool {
        let Some(kept) = self.models.get(index) else {
            return false;
        };
        let new = match kept.phase {
            Phase::Canary => kept.counting,
            _ => kept.counting.other(),
        };
        // Another file may have taken its place while the step was on its way.
        let judged = kept.lanes[new.index()]
            .as_ref()
            .filter(|it| *it.config == *file);
        let Some(held) = judged.and_then(|it| it.held.clone()) else {
            return false;
        };
        // Nothing tells the core that its word was kept, so it asks again.
        let has_passed = kept.known.as_ref().is_some_and(|known| {
            known.trial.is_some_and(|trial| trial.passed) && known.tested() == Some(&held)
        });
        if step == ModelStep::Pass && has_passed {
            return false;
        }
        let model = self.settings.models[index].id.as_str();
        let detail: String = evidence.chars().take(DETAIL_CHARACTERS_MAX).collect();
        let by_rule = (Cause::of_rule(reason), detail.as_str());
        let digest = held.digest.as_str();
        let done = match step {
            ModelStep::Pass => self.slots.pass(model, digest),
            ModelStep::Canary => {
                let after = plan(&self.settings.models[index]).after_shadow;
                let phase = after.unwrap_or(TrialPhase::Canary);
                self.slots.begin(model, digest, phase, by_rule)
            }
            ModelStep::Promote => self
                .slots
                .pass(model, digest)
                .and_then(|_| self.slots.promote_by(model, Some(digest), by_rule)),
            ModelStep::RollBack => self.slots.give_up(model, Some(digest), by_rule),
        };
        tracing::info!(
            model,
            release = held.release,
            ?step,
            reason,
            "the trial goes on"
        );
        if let Err(error) = done {
            tracing::error!(model, %error, ?step, "the step cannot be kept");
            if step == ModelStep::RollBack {
                self.models[index].given_up = Some(held.digest);
                self.models[index].known = None;
            }
        }
        true
    }

    /// What a command asks for; none where the delivery answers.
    pub(super) fn grant(&mut self, id: CommandId, deed: ModelDeed) -> Option<Outcome> {
        let models = &self.settings.models;
        let index = match deed.model() {
            None if models.len() == 1 => Some(0),
            None => None,
            Some(model) => models.iter().position(|it| it.id == *model),
        };
        let Some(index) = index else {
            return Some(Err("unknown-model"));
        };
        let model = models[index].id.as_str();
        let done = match deed {
            ModelDeed::Promote { force, .. } => {
                self.slots.advance(model, plan(&models[index]), force)
            }
            ModelDeed::Rollback { .. } => self.slots.withdraw(model, "by a command"),
            ModelDeed::Stage(parcel) | ModelDeed::Chunk(parcel) => {
                let model = model.to_owned();
                let order = delivery::Order { id, model, parcel };
                return self
                    .delivery
                    .try_send(order)
                    .is_err()
                    .then_some(Err("busy"));
            }
        };
        Some(match done {
            Ok(record) => Ok(summary(&record)),
            Err(error) => {
                tracing::warn!(model, %error, "a command is not done");
                Err(refusal(&error))
            }
        })
    }
}

/// What a slot holds after a command, JSON.
fn summary(record: &Record) -> String {
    let release = |held: Option<&Held>| held.map(|held| held.release);
    let staged = record.staged.as_ref().map(|staged| &staged.held);
    serde_json::json!({
        "model": record.model,
        "active": release(record.active.as_ref()),
        "previous": release(record.previous.as_ref()),
        "staged": release(staged),
        "trial": record.trial.map(|trial| trial.phase.as_str()),
    })
    .to_string()
}

fn refusal(error: &SlotsError) -> &'static str {
    match error {
        SlotsError::NothingStaged => "nothing-staged",
        SlotsError::NothingBefore => "nothing-before",
        SlotsError::NotPassed(_) => "not-passed",
        SlotsError::OnTrial { .. } => "on-trial",
        SlotsError::Overtaken => "overtaken",
        _ => "not-stored",
    }
}
