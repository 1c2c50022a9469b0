//! The running account of the demo: what changed since the last look, in words.
//!
//! Owns: the comparison of two pictures of the agent. Must not: know what the trace is meant to show.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use quorate_core::{
    health::{Health, ModelHealth, QuantityHealth},
    units::Mono,
    vote::ChannelState,
};

/// The backlog is told when it has changed by this many records.
const BACKLOG_STEP: u64 = 150;

/// What has been told so far.
#[derive(Debug, Default)]
pub(super) struct Account {
    out: BTreeMap<String, &'static str>,
    alarms: BTreeMap<String, bool>,
    running: BTreeSet<String>,
    link: &'static str,
    backlog_told: u64,
    backlog_max: u64,
    /// Sensors that were voted out, and why.
    pub(super) voted_out: BTreeSet<(String, &'static str)>,
    /// Models that raised the alarm.
    pub(super) alarmed: BTreeSet<String>,
}

impl Account {
    /// The largest backlog seen.
    pub(super) fn backlog_max(&self) -> u64 {
        self.backlog_max
    }

    /// Tells what changed.
    pub(super) fn tell(
        &mut self,
        origin: Mono,
        health: &Health,
        output: &mut impl Write,
    ) -> io::Result<()> {
        let time_s = health.now.since_ms(origin) / 1_000;
        for quantity in &health.quantities {
            self.tell_quantity(time_s, quantity, output)?;
        }
        for model in &health.models {
            self.tell_model(time_s, model, output)?;
        }
        self.tell_link(time_s, health, output)?;
        output.flush()
    }

    fn tell_quantity(
        &mut self,
        time_s: u64,
        quantity: &QuantityHealth,
        output: &mut impl Write,
    ) -> io::Result<()> {
        for channel in &quantity.channels {
            let out = !matches!(
                channel.state,
                ChannelState::Learning | ChannelState::Healthy | ChannelState::Suspect
            ) || (!channel.included
                && channel.state == ChannelState::Healthy
                && channel.reason.is_some());
            let reason = channel
                .reason
                .map_or("disagree", quorate_core::vote::Reason::as_str);
            let told = self.out.get(&channel.sensor).copied();
            if out && told.is_none() {
                self.out.insert(channel.sensor.clone(), reason);
                self.voted_out.insert((channel.sensor.clone(), reason));
                let (used, all) = (quantity.used, quantity.channels.len());
                writeln!(
                    output,
                    "[{time_s:4} s] {:<20} {} OUT: {reason}; {} rests on {used} of {all} ({})",
                    quantity.id,
                    channel.sensor,
                    value(quantity),
                    quantity.quality.as_str(),
                )?;
            } else if !out && told.is_some() && channel.included {
                self.out.remove(&channel.sensor);
                writeln!(
                    output,
                    "[{time_s:4} s] {:<20} {} back in the vote: {}",
                    quantity.id,
                    channel.sensor,
                    value(quantity)
                )?;
            }
        }
        Ok(())
    }

    fn tell_model(
        &mut self,
        time_s: u64,
        model: &ModelHealth,
        output: &mut impl Write,
    ) -> io::Result<()> {
        let (Some(score), Some(threshold)) = (model.score, model.threshold) else {
            return Ok(());
        };
        if self.running.insert(model.id.clone()) {
            writeln!(
                output,
                "[{time_s:4} s] {:<20} running: score {score:.3}, alarm above {threshold:.3}",
                model.id
            )?;
        }
        let alarm = self.alarms.entry(model.id.clone()).or_default();
        if *alarm != model.alarm {
            *alarm = model.alarm;
            if model.alarm {
                self.alarmed.insert(model.id.clone());
            }
            let word = if model.alarm { "ALARM" } else { "alarm over" };
            writeln!(
                output,
                "[{time_s:4} s] {:<20} {word}: score {score:.3}, threshold {threshold:.3}",
                model.id
            )?;
        }
        Ok(())
    }

    fn tell_link(
        &mut self,
        time_s: u64,
        health: &Health,
        output: &mut impl Write,
    ) -> io::Result<()> {
        let pending = health.store.report.pending;
        self.backlog_max = self.backlog_max.max(pending);
        let Some(link) = &health.link else {
            return Ok(());
        };
        let up = if link.state == "up" { "up" } else { "down" };
        if up != self.link {
            self.link = up;
            let fault = link
                .fault
                .as_deref()
                .map(|fault| format!(" ({fault})"))
                .unwrap_or_default();
            writeln!(
                output,
                "[{time_s:4} s] {:<20} {up}{fault}; {pending} records wait",
                "link"
            )?;
            self.backlog_told = pending;
        } else if pending.abs_diff(self.backlog_told) >= BACKLOG_STEP
            || (pending == 0 && self.backlog_told >= BACKLOG_STEP)
        {
            let word = if pending > self.backlog_told {
                "rises"
            } else {
                "drains"
            };
            writeln!(
                output,
                "[{time_s:4} s] {:<20} {word}: {pending} records wait",
                "backlog"
            )?;
            self.backlog_told = pending;
        }
        Ok(())
    }
}

fn value(quantity: &QuantityHealth) -> String {
    match (quantity.value, quantity.uncertainty) {
        (Some(value), Some(uncertainty)) => format!(
            "{value:.2} \u{b1} {:.2} {}",
            2.0 * uncertainty,
            quantity.unit
        ),
        (Some(value), None) => format!("{value:.2} {}", quantity.unit),
        (None, _) => "no value".into(),
    }
}
