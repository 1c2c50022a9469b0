//! What the running agent has seen of a model on trial, for `quorate model status`.
//!
//! Owns: the words. Must not: trust the answer beyond its form; it may come from whatever listens there.

use std::io::{self, Write};

use serde_json::Value;

use crate::{
    model::slots::Record,
    settings,
    status::{list, number, text},
};

/// The trial of a model in the picture of an agent; none where that model has none.
pub(super) fn of<'a>(picture: &'a Value, model: &str) -> Option<&'a Value> {
    let models = list(&picture["models"]);
    let found = models.iter().find(|it| it["id"] == model)?;
    Some(&found["trial"]).filter(|trial| trial.is_object())
}

/// The evidence so far and the next step.
pub(super) fn write(
    model: &settings::Model,
    record: &Record,
    trial: Option<&Value>,
    output: &mut impl Write,
) -> io::Result<()> {
    let Some(trial) = trial else {
        let waits = record.staged.is_some() && (model.trial.is_some() || model.split.is_some());
        if waits {
            writeln!(
                output,
                "  evidence: none; no agent of this configuration answers"
            )?;
        }
        return Ok(());
    };
    let share = |key: &str| match trial[key].as_f64() {
        Some(share) => format!("{:.1} %", 100.0 * share),
        None => "-".to_owned(),
    };
    writeln!(
        output,
        "  evidence: {} answers, {} errors, {} skipped; {} of {} alarms differ (difference {}, drift {}); p99 {} us; good inputs {}",
        number(&trial["answers"]),
        number(&trial["errors"]),
        number(&trial["skipped"]),
        share("disagreement"),
        number(&trial["pairs"]),
        number(&trial["difference"]),
        number(&trial["drift"]),
        number(&trial["latency_p99_us"]),
        share("inputs_good"),
    )?;
    let left_s = trial["left_ms"].as_u64().map(|ms| ms.div_ceil(1_000));
    let next = match (
        text(&trial["phase"]).as_str(),
        text(&trial["state"]).as_str(),
    ) {
        ("ab", _) => "somebody decides: promote or rollback".to_owned(),
        (_, "passed") if model.trial.as_ref().is_some_and(|rules| rules.promotes) => {
            "it goes further by itself".to_owned()
        }
        (_, "passed") => "its rules hold: promote it".to_owned(),
        (_, "waiting") => format!("it waits for more {}", text(&trial["rule"])),
        _ => format!("it is judged in {} s", left_s.unwrap_or(0)),
    };
    writeln!(output, "  next: {next}")
}
