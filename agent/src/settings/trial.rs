//! From the tables `[models.trial]` and `[models.ab]` to the rules that a new file of a model is judged by.
//!
//! Owns: the shape, defaults and ranges of their keys. Must not: judge.

use std::{fmt::Display, ops::RangeInclusive};

use quorate_core::model::{Split, TrialRules};
use serde::Deserialize;
use toml::Spanned;

use super::{SettingsError, convert::Places};

/// Longest time of a phase, in seconds: a year.
const PHASE_S_MAX: u64 = 366 * 86_400;
/// Most answers that may be waited for.
const ANSWERS_MAX: u64 = 1_000_000_000;
/// Length of a turn unless it is told otherwise, in seconds.
const PERIOD_S: u64 = 3_600;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    shadow_s: Option<Spanned<u64>>,
    canary_s: Option<Spanned<u64>>,
    answers_min: Option<Spanned<u64>>,
    disagreement_max: Option<Spanned<f64>>,
    difference_max: Option<Spanned<f64>>,
    latency_p99_max_ms: Option<Spanned<f64>>,
    errors_max_share: Option<Spanned<f64>>,
    inputs_good_min_share: Option<Spanned<f64>>,
    drift_max: Option<Spanned<f64>>,
    auto: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ab {
    split: Option<Spanned<String>>,
    period_s: Option<Spanned<u64>>,
}

/// The rules of one model.
pub(super) fn rules(
    places: &Places<'_>,
    model: &str,
    trial: Trial,
) -> Result<TrialRules, SettingsError> {
    let read = Reader {
        places,
        table: format!("{model}.trial"),
    };
    let defaults = TrialRules::default();
    let phase_ms = |given: Option<Spanned<u64>>, name: &str, default_ms: u64| {
        let given = read.number(given, name, 0..=PHASE_S_MAX)?;
        Ok(given.map_or(default_ms, |seconds| seconds * 1_000))
    };
    let promotes = places.choice(
        trial.auto.as_ref(),
        &format!("{model}.trial.auto"),
        [("none", false), ("promote", true)],
    )?;
    let latency_ms = read.number(
        trial.latency_p99_max_ms,
        "latency_p99_max_ms",
        0.0..=600_000.0,
    )?;
    Ok(TrialRules {
        shadow_ms: phase_ms(trial.shadow_s, "shadow_s", defaults.shadow_ms)?,
        canary_ms: phase_ms(trial.canary_s, "canary_s", defaults.canary_ms)?,
        answers_min: read
            .number(trial.answers_min, "answers_min", 1..=ANSWERS_MAX)?
            .unwrap_or(defaults.answers_min),
        disagreement_max: read
            .number(trial.disagreement_max, "disagreement_max", 0.0..=1.0)?
            .unwrap_or(defaults.disagreement_max),
        difference_max: read.number(trial.difference_max, "difference_max", 0.0..=2.0)?,
        latency_p99_us_max: latency_ms.map(microseconds),
        errors_share_max: read
            .number(trial.errors_max_share, "errors_max_share", 0.0..=1.0)?
            .unwrap_or(defaults.errors_share_max),
        inputs_good_share_min: read
            .number(
                trial.inputs_good_min_share,
                "inputs_good_min_share",
                0.0..=1.0,
            )?
            .unwrap_or(defaults.inputs_good_share_min),
        drift_max: read.number(trial.drift_max, "drift_max", 0.0..=1e6)?,
        promotes,
    })
}

/// How two files of one model are compared.
pub(super) fn split(places: &Places<'_>, model: &str, ab: Ab) -> Result<Split, SettingsError> {
    let read = Reader {
        places,
        table: format!("{model}.ab"),
    };
    let by_time = places.choice(
        ab.split.as_ref(),
        &format!("{model}.ab.split"),
        [("both", false), ("time", true)],
    )?;
    match (by_time, ab.period_s) {
        (false, Some(period)) => Err(places.wrong(
            &period,
            &format!("{model}.ab.period_s"),
            "expected only with split = \"time\"",
        )),
        (false, None) => Ok(Split::Both),
        (true, period) => {
            let period_s = read.number(period, "period_s", 1..=PHASE_S_MAX)?;
            Ok(Split::Time {
                period_ms: period_s.unwrap_or(PERIOD_S) * 1_000,
            })
        }
    }
}

struct Reader<'a> {
    places: &'a Places<'a>,
    table: String,
}

impl Reader<'_> {
    fn number<N: Copy + PartialOrd + Display>(
        &self,
        given: Option<Spanned<N>>,
        name: &str,
        range: RangeInclusive<N>,
    ) -> Result<Option<N>, SettingsError> {
        let Some(at) = given else { return Ok(None) };
        let found = *at.get_ref();
        if range.contains(&found) {
            return Ok(Some(found));
        }
        let (least, most) = range.into_inner();
        let message = format!("expected {least} to {most}, found {found}");
        Err(self
            .places
            .wrong(&at, &format!("{}.{name}", self.table), message))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range was checked; the nearest microsecond is meant"
)]
fn microseconds(ms: f64) -> u64 {
    (ms * 1_000.0).round() as u64
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use quorate_core::model::{Split, TrialRules};

    use crate::settings::{Model, Settings, SettingsError};

    fn parse(tables: &str) -> Result<Model, SettingsError> {
        let text = format!(
            "[device]\nid = \"d\"\n[[sensors]]\nid = \"s\"\nsource = {{ kind = \"replay\" }}\n[[quantities]]\nid = \"q\"\n\
             sensors = [\"s\"]\n[[models]]\nid = \"m\"\nbundle = \"b\"\ninputs = [\"q\"]\n{tables}"
        );
        let settings = Settings::parse("q.toml", &text, std::iter::empty())?;
        Ok(settings.models.into_iter().next().unwrap())
    }

    fn refused(tables: &str) -> String {
        let error = parse(tables).unwrap_err();
        format!("{}: {}: {}", error.place, error.key, error.message)
    }

    #[test]
    fn every_key_is_read() {
        assert_eq!(parse("").unwrap().trial, None);
        assert_eq!(
            parse("[models.trial]\n").unwrap().trial,
            Some(TrialRules::default())
        );
        let model = parse(
            "[models.trial]\nshadow_s = 60\ncanary_s = 0\nanswers_min = 7\ndisagreement_max = 0.25\ndifference_max = 1\n\
             latency_p99_max_ms = 2.5\nerrors_max_share = 0\ninputs_good_min_share = 1.0\ndrift_max = 3.0\nauto = \"promote\"\n\
             [models.ab]\nsplit = \"time\"\nperiod_s = 2\n",
        )
        .unwrap();
        let rules = TrialRules {
            shadow_ms: 60_000,
            canary_ms: 0,
            answers_min: 7,
            disagreement_max: 0.25,
            difference_max: Some(1.0),
            latency_p99_us_max: Some(2_500),
            errors_share_max: 0.0,
            inputs_good_share_min: 1.0,
            drift_max: Some(3.0),
            promotes: true,
        };
        assert_eq!(model.trial, Some(rules));
        assert_eq!(model.split, Some(Split::Time { period_ms: 2_000 }));
        assert_eq!(parse("[models.ab]\n").unwrap().split, Some(Split::Both));
    }

    #[test]
    fn what_is_wrong_is_named_where_it_stands() {
        let prefix = "q.toml:14:";
        for (tables, key) in [
            (
                "[models.trial]\nanswers_min = 0",
                "models[0].trial.answers_min: expected 1 to",
            ),
            (
                "[models.trial]\ndisagreement_max = 1.1",
                "models[0].trial.disagreement_max: expected 0 to 1",
            ),
            (
                "[models.trial]\nauto = \"yes\"",
                "models[0].trial.auto: expected `none` or `promote`",
            ),
            (
                "[models.trial]\nlatency = 3",
                "models.trial.latency: unknown field",
            ),
            (
                "[models.ab]\nperiod_s = 3",
                "models[0].ab.period_s: expected only with split",
            ),
            (
                "[models.ab]\nsplit = \"half\"",
                "models[0].ab.split: expected `both` or `time`",
            ),
        ] {
            let said = refused(tables);
            assert!(said.starts_with(prefix) && said.contains(key), "{said}");
        }
    }
}
