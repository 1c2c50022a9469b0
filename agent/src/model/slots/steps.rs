//! The steps of a file that waits: tried beside the active one, then active, or given up.
//!
//! Owns: what each step writes, and what an operator may ask for. Must not: judge the evidence.
//!
//! Invariant: as for all slots, each step is one durable write, and the same step again changes nothing.

use super::{ATTEMPTS_MAX, Cause, Change, Held, Record, Slots, SlotsError, TrialPhase, TrialRun};

/// The phases that the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What comes first; none where a file that waits becomes active when somebody says so.
    pub first: Option<TrialPhase>,
    /// What comes after the shadow; none where the file becomes active then.
    pub after_shadow: Option<TrialPhase>,
}

impl Slots {
    /// Makes what waits active. Again, when it is active already, is no error.
    ///
    /// # Errors
    /// Nothing tested waits, or nothing can be written.
    pub fn promote(&self, model: &str) -> Result<Record, SlotsError> {
        self.promote_by(model, None, (Cause::Promoted, ""))
    }

    /// The same by the rules of the trial, and only where it is this file that waits.
    ///
    /// # Errors
    /// [`SlotsError::Overtaken`], nothing tested waits, or nothing can be written.
    pub fn promote_by(
        &self,
        model: &str,
        digest: Option<&str>,
        (cause, detail): (Cause, &str),
    ) -> Result<Record, SlotsError> {
        let _lock = self.lock()?;
        let mut record = self.read(model)?;
        let Some(held) = record.tested().cloned() else {
            let promoted = record
                .change
                .as_ref()
                .is_some_and(|it| it.what() == "model-promoted");
            return match (&record.staged, promoted) {
                (None, true) => {
                    self.clear(&record);
                    Ok(record)
                }
                _ => Err(SlotsError::NothingStaged),
            };
        };
        if digest.is_some_and(|digest| digest != held.digest) {
            return Err(SlotsError::Overtaken);
        }
        let trial = record.trial.take();
        let from = record.active.replace(held.clone());
        if record.confirmed || from.is_none() {
            record.previous.clone_from(&from);
        }
        record.staged = None;
        record.release_max = record.release_max.max(held.release);
        // As canary it has answered far more often than a confirmation asks for.
        record.confirmed = trial.is_some_and(|it| it.phase == TrialPhase::Canary && it.passed);
        record.attempts = 0;
        record.change = Some(change(from, cause, detail, None));
        self.write(&record)?;
        Ok(record)
    }

    /// What an operator asks for: the next step of what waits, as far as the evidence goes, or all of it by `force`.
    ///
    /// # Errors
    /// [`SlotsError::NotPassed`], nothing tested waits, or nothing can be written.
    pub fn advance(&self, model: &str, plan: Plan, force: bool) -> Result<Record, SlotsError> {
        let record = self.read(model)?;
        let Some(held) = record.tested().filter(|_| !force) else {
            return self.promote(model);
        };
        let next = match (record.trial, plan.first) {
            (None, None) => None,
            (None, Some(_)) => {
                let message = "a trial is configured, and no running agent has begun it yet";
                return Err(SlotsError::NotPassed(message));
            }
            (Some(trial), _) if trial.phase == TrialPhase::Ab => None,
            (Some(trial), _) if !trial.passed => {
                let begun = |it: &Change| it.phase.is_some() && it.cause == Cause::Promoted;
                if trial.phase == TrialPhase::Canary && record.change.as_ref().is_some_and(begun) {
                    return Ok(record);
                }
                return Err(SlotsError::NotPassed("its trial is not passed yet"));
            }
            (Some(trial), _) if trial.phase == TrialPhase::Shadow => plan.after_shadow,
            (Some(_), _) => None,
        };
        // Only the file that was looked at: another one may be staged meanwhile.
        let by_operator = (Cause::Promoted, "");
        match next {
            Some(phase) => self.begin(model, &held.digest, phase, by_operator),
            None => self.promote_by(model, Some(&held.digest), by_operator),
        }
    }

    /// What an operator asks for: ends a trial, or goes back to the file before.
    ///
    /// # Errors
    /// [`SlotsError::NothingBefore`], or nothing can be written.
    pub fn withdraw(&self, model: &str, detail: &str) -> Result<Record, SlotsError> {
        if self.read(model)?.trial.is_some() {
            return self.give_up(model, None, (Cause::Command, detail));
        }
        self.roll_back(model, Cause::Command, detail)
    }

    /// A phase of the trial of what waits begins.
    ///
    /// # Errors
    /// [`SlotsError::Overtaken`]: another file waits now; or nothing can be written.
    pub fn begin(
        &self,
        model: &str,
        digest: &str,
        phase: TrialPhase,
        (cause, detail): (Cause, &str),
    ) -> Result<Record, SlotsError> {
        let _lock = self.lock()?;
        let mut record = self.read(model)?;
        let held = record.tested().filter(|held| held.digest == digest);
        let Some(release) = held.map(|held| held.release) else {
            return Err(SlotsError::Overtaken);
        };
        if record.trial.is_some_and(|trial| trial.phase == phase) {
            return Ok(record);
        }
        if phase != TrialPhase::Shadow {
            // It counts from now on.
            record.release_max = record.release_max.max(release);
        }
        record.trial = Some(TrialRun {
            phase,
            passed: false,
            attempts: record.trial.map_or(0, |trial| trial.attempts),
        });
        let from = record.active.clone();
        record.change = Some(change(from, cause, detail, Some(phase)));
        self.write(&record)?;
        Ok(record)
    }

    /// The evidence for what is on trial was enough.
    ///
    /// # Errors
    /// [`SlotsError::Overtaken`], or nothing can be written.
    pub fn pass(&self, model: &str, digest: &str) -> Result<Record, SlotsError> {
        let _lock = self.lock()?;
        let mut record = self.read(model)?;
        let own = record.tested().is_some_and(|held| held.digest == digest);
        let Some(trial) = record.trial.as_mut().filter(|_| own) else {
            return Err(SlotsError::Overtaken);
        };
        if !trial.passed {
            trial.passed = true;
            self.write(&record)?;
        }
        Ok(record)
    }

    /// What waits is given up; the active file stays or counts again. Of `digest` alone, where one is given.
    ///
    /// # Errors
    /// [`SlotsError::Overtaken`], or nothing can be written.
    pub fn give_up(
        &self,
        model: &str,
        digest: Option<&str>,
        (cause, detail): (Cause, &str),
    ) -> Result<Record, SlotsError> {
        let _lock = self.lock()?;
        let mut record = self.read(model)?;
        let waits = record.staged.as_ref().map(|staged| &staged.held);
        let Some(held) = waits.filter(|held| digest.is_none_or(|digest| held.digest == digest))
        else {
            return Err(SlotsError::Overtaken);
        };
        let from = Some(held.clone());
        record.end_trial(from, cause, detail);
        self.write(&record)?;
        Ok(record)
    }

    /// Counts a start with what is on trial, durably, before it is loaded; or gives it up when there were too many.
    ///
    /// # Errors
    /// The slot cannot be read or written.
    pub fn attempt_trial(&self, model: &str) -> Result<Record, SlotsError> {
        let _lock = self.lock()?;
        let mut record = self.read(model)?;
        let Some(trial) = &mut record.trial else {
            return Ok(record);
        };
        if trial.attempts < ATTEMPTS_MAX {
            trial.attempts += 1;
        } else {
            let detail = format!("{ATTEMPTS_MAX} starts with it on trial ended without order");
            let from = record.staged.as_ref().map(|staged| staged.held.clone());
            record.end_trial(from, Cause::Crashed, &detail);
        }
        self.write(&record)?;
        Ok(record)
    }
}

impl Record {
    fn end_trial(&mut self, from: Option<Held>, cause: Cause, detail: &str) {
        (self.staged, self.trial) = (None, None);
        self.change = Some(change(from, cause, detail, None));
    }
}

fn change(from: Option<Held>, cause: Cause, detail: &str, phase: Option<TrialPhase>) -> Change {
    Change {
        from,
        cause,
        detail: detail.to_owned(),
        told: false,
        phase,
    }
}

#[cfg(test)]
mod tests;
