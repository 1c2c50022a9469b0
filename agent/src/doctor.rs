//! `quorate doctor`: what keeps this device from doing its work, and what to do about each.
//!
//! Owns: the order of the examinations and their account. Must not: change anything, disturb a running agent, or stop at
//! the first thing that is wrong.
//!
//! Every finding names its remedy. Examinations that a running agent makes impossible (a bus has one reader) are taken
//! from what that agent says of itself.

mod board;
mod broker;
mod place;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::Path,
};

use quorate_core::record::PLAUSIBLE_UNIX_MS_MIN;
use serde::Serialize;
use serde_json::Value;

use crate::{
    clock::Clock,
    model::boot::{self, Mode},
    outcome::Outcome,
    settings::Settings,
    sources,
    status::{self, clean, list, text},
};

/// How it is with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and should be looked at.
    Warning,
    /// The agent cannot do what it is configured to do.
    Problem,
    /// It could not be examined, for the reason given.
    NotExamined,
}

/// What one examination found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `configuration`, `clock`, `store`, `models`, `sensors`, `broker`, `agent` or `board`.
    pub area: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What a person can do; none where nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(area: &'static str, found: impl Into<String>) -> Self {
        Self::new(area, State::Ok, found, None)
    }

    fn warning(area: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self::new(area, State::Warning, found, Some(remedy))
    }

    fn problem(area: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self::new(area, State::Problem, found, Some(remedy))
    }

    fn not_examined(area: &'static str, found: impl Into<String>) -> Self {
        Self::new(area, State::NotExamined, found, None)
    }

    fn new(
        area: &'static str,
        state: State,
        found: impl Into<String>,
        remedy: Option<&str>,
    ) -> Self {
        Self {
            area,
            state,
            found: found.into(),
            remedy: remedy.map(str::to_owned),
        }
    }
}

/// Examines the device that `config` describes and writes what was found, for people or (`json`) as one JSON object
/// with `schema` 1 and `findings`.
///
/// # Errors
/// Status 1 when there is a problem or `output` fails.
pub fn run(config: &Path, json: bool, output: &mut impl Write) -> Result<(), Outcome> {
    let findings = examine(config);
    write(&findings, json, output).map_err(Outcome::failed)?;
    let is_problem = |finding: &&Finding| finding.state == State::Problem;
    match findings.iter().filter(is_problem).count() {
        0 => Ok(()),
        1 => Err(Outcome::Failed("one problem".into())),
        count => Err(Outcome::Failed(format!("{count} problems"))),
    }
}

/// Everything that was found, in the order of the way of a value.
#[must_use]
pub fn examine(config: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let settings = match Settings::load(config) {
        Ok(settings) => settings,
        Err(error) => {
            findings.push(Finding::problem(
                "configuration",
                error.to_string(),
                "correct the named line; docs/configuration.md has every key",
            ));
            findings.push(clock());
            findings.extend(board::examine(Path::new("/")));
            return findings;
        }
    };
    findings.push(Finding::ok(
        "configuration",
        format!("{} is valid", config.display()),
    ));
    findings.push(clock());
    let picture = running(settings.http.listen, &settings.device);
    findings.push(agent(picture.as_ref()));
    findings.extend(sensors(&settings, picture.as_ref()));
    findings.push(models(&settings));
    findings.extend(place::examine(&settings));
    findings.extend(broker::examine(&settings));
    findings.extend(board::examine(Path::new("/")));
    findings
}

fn clock() -> Finding {
    let wall = Clock::real().wall();
    if wall.unix_ms < PLAUSIBLE_UNIX_MS_MIN {
        Finding::problem(
            "clock",
            "the clock shows a time before this agent was built, so no certificate is valid",
            "set up time synchronisation (systemd-timesyncd or chrony), or add a battery-backed clock",
        )
    } else if wall.synced {
        Finding::ok("clock", "synchronised")
    } else {
        Finding::warning(
            "clock",
            "not synchronised: records are dated only once it is",
            "check with `timedatectl`; records keep their order and are dated later either way",
        )
    }
}

/// What the agent of this device says of itself, where one runs.
fn running(address: SocketAddr, device: &str) -> Option<Value> {
    let picture = status::ask_json(address, "/api/v1/status").ok()?;
    (picture["device"] == device).then_some(picture)
}

fn agent(picture: Option<&Value>) -> Finding {
    let Some(picture) = picture else {
        return Finding::warning(
            "agent",
            "not running, or its endpoint does not answer",
            "start it: `systemctl start quorate`, or `quorate run --config FILE`",
        );
    };
    let condition = text(&picture["condition"]);
    match condition.as_str() {
        "ok" => Finding::ok("agent", "running"),
        "degraded" => Finding::warning(
            "agent",
            "running and degraded",
            "`quorate status` names the parts",
        ),
        _ => Finding::problem(
            "agent",
            format!("running and {condition}"),
            "`quorate status` names the parts, `quorate events` what led to it",
        ),
    }
}

fn sensors(settings: &Settings, picture: Option<&Value>) -> Vec<Finding> {
    let (faults, fine) = match picture {
        Some(picture) => told_faults(picture),
        None => (
            sources::missing(settings, Clock::real()),
            format!("all {} can be read", settings.sensors.len()),
        ),
    };
    if faults.is_empty() {
        return vec![Finding::ok("sensors", fine)];
    }
    let told = |(sensor, reason): (String, String)| {
        Finding::problem(
            "sensors",
            format!("{sensor}: {reason}"),
            "docs/sensors.md has what each cause means; `quorate sensors probe` looks at the bus",
        )
    };
    faults.into_iter().map(told).collect()
}

/// The sensors that the running agent cannot read and why, and what is to be said where there are none.
fn told_faults(picture: &Value) -> (Vec<(String, String)>, String) {
    let all = list(&picture["sensors"]);
    let faults = all.iter().filter(|sensor| !sensor["fault"].is_null());
    let told = |sensor: &Value| {
        let reason = format!("{}, says the running agent", text(&sensor["fault"]));
        (text(&sensor["id"]), reason)
    };
    let fine = format!("all {} are read, says the running agent", all.len());
    (faults.map(told).collect(), fine)
}

fn models(settings: &Settings) -> Finding {
    if settings.models.is_empty() {
        return Finding::not_examined("models", "none configured");
    }
    match boot::load(settings, Mode::Look) {
        Ok(_) => Finding::ok(
            "models",
            format!(
                "{} verified: digests are right and golden vectors pass",
                settings.models.len()
            ),
        ),
        Err(error) => Finding::problem(
            "models",
            error.to_string(),
            "`quorate model check` says more; `quorate model rollback` goes back to the one before",
        ),
    }
}

fn write(findings: &[Finding], json: bool, output: &mut impl Write) -> io::Result<()> {
    if json {
        let body = serde_json::json!({ "schema": 1, "findings": findings });
        return writeln!(output, "{body}");
    }
    for finding in findings {
        let sign = match finding.state {
            State::Ok => "ok",
            State::Warning => "WARNING",
            State::Problem => "PROBLEM",
            State::NotExamined => "-",
        };
        writeln!(
            output,
            "{sign:<8} {:<14} {}",
            finding.area,
            clean(&finding.found)
        )?;
        if let Some(remedy) = &finding.remedy {
            writeln!(output, "{:<23} -> {}", "", clean(remedy))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
