//! What the configuration asks of a new file of a model.
//!
//! Owns: the order of the phases. Must not: read or write anything.

use super::slots::{Plan, TrialPhase};
use crate::settings;

/// The phases of one model.
#[must_use]
pub fn plan(model: &settings::Model) -> Plan {
    let compared = model.split.map(|_| TrialPhase::Ab);
    let rules = model.trial.as_ref();
    let canary = rules.filter(|rules| rules.canary_ms > 0);
    let after_shadow = compared.or(canary.map(|_| TrialPhase::Canary));
    let shadow = rules.filter(|rules| rules.shadow_ms > 0);
    Plan {
        first: shadow.map(|_| TrialPhase::Shadow).or(after_shadow),
        after_shadow,
    }
}
