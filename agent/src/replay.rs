//! Replay: the same core over a recorded trace, in virtual time, to the byte.
//!
//! Owns: the second interpreter of the core's actions, and the shape of its output lines. Must not: read a clock.
//!
//! Invariant: the output is a function of the configuration, the models and the trace alone.

use std::{
    collections::VecDeque,
    io::{self, Write},
};

use quorate_core::{
    agent::{Agent, Explanation},
    config::{Config, Recovered},
    event::{Action, Event},
    model::Lane,
    record::{self, Body, Excluded, Inference, Outputs, Record},
    units::{BootId, Epoch, ModelId, Mono, QuantityId, SensorId, Seq},
    vote::{Doubt, Vote},
};
use quorate_firmware_bridge::trace::{Cell, Trace, TraceError};
use quorate_models::Runner;
use serde::Serialize;
use thiserror::Error;

use crate::inference;

/// The seed of the core's generator; replay has no link, so nothing ever draws from it.
const SEED: u64 = 0;
/// Longest time that a trace may hold, in seconds: ten years.
const TIME_S_MAX: f64 = 315_360_000.0;

/// Why a trace was not replayed to its end.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The trace itself.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A configured sensor has no column, and none of the configured sensors has one.
    #[error(
        "{trace}: no column of the trace is a configured sensor; the configuration has {sensors}"
    )]
    NoSensor {
        /// The trace.
        trace: String,
        /// The configured sensors.
        sensors: String,
    },
    /// A time that the replay cannot represent.
    #[error("{trace}: time {time_s} s is outside 0 to {TIME_S_MAX} s")]
    Time {
        /// The trace.
        trace: String,
        /// The time.
        time_s: f64,
    },
    /// The output could not be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows read.
    pub rows: u64,
    /// Samples handed to the core.
    pub samples: u64,
    /// Votes given.
    pub votes: u64,
    /// Inferences given.
    pub inferences: u64,
}

/// Runs the core over `trace` and writes one line per vote and inference.
///
/// # Errors
/// The trace is faulty or names no configured sensor, or the output cannot be written.
pub fn run(
    config: &Config,
    runners: Vec<Runner>,
    name: &str,
    trace: &mut Trace,
    output: &mut impl Write,
) -> Result<Summary, ReplayError> {
    let columns = match_columns(config, name, trace)?;
    let mut replay = Replay::new(config, runners, output);
    let mut last = Mono(0);
    while let Some(row) = trace.next_row()? {
        let now = instant(name, row.time_s)?;
        replay.row(now, row.cells, &columns)?;
        last = now;
    }
    replay.finish(last)?;
    Ok(replay.summary)
}

/// Runs the core over `trace` up to `at_s` (to its end when not given) and says why the last votes are what they are, one
/// per quantity that has voted.
///
/// # Errors
/// The trace is faulty, or names no configured sensor, or the time is none.
pub fn explain(
    config: &Config,
    runners: Vec<Runner>,
    name: &str,
    trace: &mut Trace,
    at_s: Option<f64>,
) -> Result<Vec<(QuantityId, Explanation)>, ReplayError> {
    let columns = match_columns(config, name, trace)?;
    let end = at_s.map(|at_s| instant(name, at_s)).transpose()?;
    let mut nowhere = io::sink();
    let mut replay = Replay::new(config, runners, &mut nowhere);
    let mut last = Mono(0);
    while let Some(row) = trace.next_row()? {
        let now = instant(name, row.time_s)?;
        if end.is_some_and(|end| now > end) {
            break;
        }
        replay.row(now, row.cells, &columns)?;
        last = now;
    }
    replay.finish(end.map_or(last, |end| end.max(last)))?;
    let ids = (0..).map(QuantityId).take(config.quantities.len());
    let explained = |id: QuantityId| Some((id, replay.agent.as_ref()?.explain(id)?));
    Ok(ids.filter_map(explained).collect())
}

/// Which sensor each column is; a column that is no configured sensor is passed over.
fn match_columns(
    config: &Config,
    name: &str,
    trace: &Trace,
) -> Result<Vec<Option<SensorId>>, ReplayError> {
    let find = |column: &String| {
        config
            .sensors
            .iter()
            .position(|sensor| sensor.id == *column)
    };
    let id =
        |index: usize| SensorId(u16::try_from(index).expect("the number of sensors is validated"));
    let columns: Vec<_> = trace
        .sensors()
        .iter()
        .map(|column| find(column).map(id))
        .collect();
    if columns.iter().all(Option::is_none) {
        return Err(ReplayError::NoSensor {
            trace: name.into(),
            sensors: config
                .sensors
                .iter()
                .map(|sensor| sensor.id.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    Ok(columns)
}

/// Ticks fall on the first row's time, and there is no broker.
fn for_replay(config: &Config) -> Config {
    let mut config = config.clone();
    config.link = None;
    for quantity in &mut config.quantities {
        quantity.lead_ms = 0;
    }
    config
}

fn instant(name: &str, time_s: f64) -> Result<Mono, ReplayError> {
    if !(0.0..=TIME_S_MAX).contains(&time_s) {
        return Err(ReplayError::Time {
            trace: name.into(),
            time_s,
        });
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked; the nearest millisecond is meant"
    )]
    Ok(Mono((time_s * 1_000.0).round() as u64))
}

struct Replay<'a, W: Write> {
    config: Config,
    runners: Vec<Runner>,
    agent: Option<Agent>,
    actions: Vec<Action>,
    events: VecDeque<Event>,
    output: &'a mut W,
    summary: Summary,
}

impl<'a, W: Write> Replay<'a, W> {
    fn new(config: &Config, runners: Vec<Runner>, output: &'a mut W) -> Self {
        Self {
            config: for_replay(config),
            runners,
            agent: None,
            actions: Vec::new(),
            events: VecDeque::new(),
            output,
            summary: Summary::default(),
        }
    }

    fn row(
        &mut self,
        now: Mono,
        cells: &[Cell],
        columns: &[Option<SensorId>],
    ) -> Result<(), ReplayError> {
        self.advance_to(now)?;
        for (cell, sensor) in cells.iter().zip(columns) {
            if let (Cell::Value(value), Some(sensor)) = (cell, sensor) {
                self.sample(now, *sensor, *value)?;
            }
        }
        self.summary.rows += 1;
        Ok(())
    }

    /// Gives the core every deadline before `now`; the grid of ticks begins with the first row.
    fn advance_to(&mut self, now: Mono) -> Result<(), ReplayError> {
        if self.agent.is_none() {
            let recovered = Recovered {
                epoch: Epoch(0),
                seq_next: Seq(1),
                boot: BootId([0; 16]),
                seed: SEED,
            };
            self.agent = Some(Agent::recover(self.config.clone(), recovered, now));
        }
        while let Some(deadline) = self
            .agent
            .as_ref()
            .map(Agent::next_deadline)
            .filter(|deadline| *deadline < now)
        {
            self.handle(deadline, Event::Tick)?;
        }
        Ok(())
    }

    fn finish(&mut self, last: Mono) -> Result<(), ReplayError> {
        if self.agent.is_some() {
            self.advance_to(last)?;
            self.handle(last, Event::Tick)?;
        }
        self.output.flush()?;
        Ok(())
    }

    fn sample(&mut self, now: Mono, sensor: SensorId, value: f64) -> Result<(), ReplayError> {
        self.summary.samples += 1;
        self.handle(
            now,
            Event::Sample {
                sensor,
                taken: now,
                value: Ok(value),
            },
        )
    }

    /// Hands one event to the core, performs what it asks, and hands on the answers until it asks for nothing more.
    fn handle(&mut self, now: Mono, event: Event) -> Result<(), ReplayError> {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let mut actions = std::mem::take(&mut self.actions);
            self.agent
                .as_mut()
                .expect("the first row made it")
                .handle(now, event, &mut actions);
            for action in actions.drain(..) {
                if let Some(answer) = self.perform(action)? {
                    self.events.push_back(answer);
                }
            }
            self.actions = actions;
        }
        Ok(())
    }

    fn perform(&mut self, action: Action) -> Result<Option<Event>, ReplayError> {
        match action {
            Action::Store { record } => {
                self.write(&record)?;
                Ok(Some(Event::Stored {
                    first: record.seq,
                    last: record.seq,
                }))
            }
            Action::Infer {
                model,
                lane,
                tick,
                window,
            } => Ok(Some(self.infer(model, lane, tick, &window))),
            Action::Poll { .. }
            | Action::Recover { .. }
            | Action::Load { .. }
            | Action::Recall { .. }
            | Action::ModelStep { .. }
            | Action::Execute { .. }
            | Action::Reopen { .. }
            | Action::Reply { .. }
            | Action::Settled { .. }
            | Action::Restart
            | Action::Publish { .. }
            | Action::Forget { .. }
            | Action::Discard { .. }
            | Action::Settle { .. }
            | Action::Checkpoint(_)
            | Action::Connect { .. }
            | Action::Disconnect { .. }
            | Action::StrokeWatchdog => Ok(None),
        }
    }

    /// In virtual time an inference takes none.
    fn infer(&mut self, model: ModelId, lane: Lane, tick: Mono, window: &[f32]) -> Event {
        let outcome = inference::answer(&mut self.runners[model.index()], window);
        Event::Inferred {
            model,
            lane,
            tick,
            took_us: 0,
            outcome,
        }
    }

    fn write(&mut self, record: &Record) -> Result<(), ReplayError> {
        match &record.body {
            Body::Vote { quantity, vote } => {
                self.summary.votes += 1;
                write_line(
                    self.output,
                    &VoteLine::new(&self.config, record.stamp.mono, *quantity, vote),
                )
            }
            Body::Inference(inference) => {
                self.summary.inferences += 1;
                write_line(self.output, &InferenceLine::new(&self.config, inference))
            }
            Body::Event(_) => Ok(()),
        }
    }
}

/// One JSON object and a line end.
fn write_line(output: &mut impl Write, line: &impl Serialize) -> Result<(), ReplayError> {
    serde_json::to_writer(&mut *output, line).map_err(io::Error::from)?;
    output.write_all(b"\n")?;
    Ok(())
}

#[derive(Serialize)]
struct VoteLine<'a> {
    r#type: &'static str,
    quantity: &'a str,
    time_s: f64,
    value: Option<f64>,
    uncertainty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    quality: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<u64>,
    used: usize,
    expected: usize,
    excluded: Vec<Excluded<'a>>,
}

impl<'a> VoteLine<'a> {
    fn new(config: &'a Config, tick: Mono, quantity: QuantityId, vote: &'a Vote) -> Self {
        let settings = &config.quantities[quantity.index()];
        Self {
            r#type: "vote",
            quantity: &settings.id,
            time_s: seconds(tick),
            value: vote.value,
            uncertainty: vote.uncertainty,
            label: settings.label(vote.value),
            quality: vote.quality.as_str(),
            doubt: vote.doubt.map(Doubt::as_str),
            held_ms: settings.held_ms(vote),
            used: vote.used,
            expected: vote.verdicts.len(),
            excluded: record::excluded(config, quantity, &vote.verdicts).collect(),
        }
    }
}

#[derive(Serialize)]
struct InferenceLine<'a> {
    r#type: &'static str,
    model: &'a str,
    version: &'a str,
    time_s: f64,
    outputs: Outputs<'a>,
    inputs_quality: &'static str,
    alarm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback_for: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    imputed: Vec<&'a str>,
}

impl<'a> InferenceLine<'a> {
    fn new(config: &'a Config, inference: &'a Inference) -> Self {
        let model = &*inference.maker;
        let quantity = |id: &QuantityId| config.quantities[id.index()].id.as_str();
        Self {
            r#type: "inference",
            model: &model.id,
            version: &model.version,
            time_s: seconds(inference.tick),
            outputs: Outputs {
                names: &model.outputs,
                values: &inference.outputs,
            },
            inputs_quality: inference.inputs_quality.as_str(),
            alarm: inference.alarm,
            fallback_for: inference
                .fallback_for
                .map(|model| config.models[model.index()].id.as_str()),
            imputed: inference.imputed.iter().map(quantity).collect(),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of ten years are far below 2^53"
)]
fn seconds(tick: Mono) -> f64 {
    tick.0 as f64 / 1_000.0
}
