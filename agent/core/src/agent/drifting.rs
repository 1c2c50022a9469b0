//! What the agent makes of drift: an event when a channel of a model begins to drift, and the picture of all monitors.
//!
//! Owns: the words of that event. Must not: judge; [`crate::drift`] does.

use alloc::{format, vec::Vec};

use super::Agent;
use crate::{
    config::Config,
    drift::{Alarm, Channel, Watch},
    event::Action,
    health::DriftHealth,
    record::Occurrence,
    units::Mono,
};

/// The monitors of each model.
pub(super) fn watches(config: &Config) -> Vec<Option<Watch>> {
    let watch = |model: &crate::config::ModelConfig| {
        let drift = model.drift.as_ref()?;
        Some(Watch::new(
            drift.rows_between,
            &drift.inputs,
            &drift.outputs,
        ))
    };
    config.models.iter().map(watch).collect()
}

impl Agent {
    pub(super) fn watch_inputs(
        &mut self,
        tick: Mono,
        model: usize,
        votes: &[Option<f64>],
        actions: &mut Vec<Action>,
    ) {
        let Some(Some(watch)) = self.watches.get_mut(model) else {
            return;
        };
        for (channel, alarm) in watch.take_inputs(tick, votes) {
            self.tell_drift(tick, model, channel, &alarm, actions);
        }
    }

    pub(super) fn watch_outputs(
        &mut self,
        tick: Mono,
        model: usize,
        outputs: &[f32],
        actions: &mut Vec<Action>,
    ) {
        let Some(Some(watch)) = self.watches.get_mut(model) else {
            return;
        };
        for (channel, alarm) in watch.take_outputs(tick, outputs) {
            self.tell_drift(tick, model, channel, &alarm, actions);
        }
    }

    fn tell_drift(
        &mut self,
        tick: Mono,
        model: usize,
        channel: Channel,
        alarm: &Alarm,
        actions: &mut Vec<Action>,
    ) {
        let (kind, name) = self.channel_name(model, channel);
        let direction = if alarm.up { "up" } else { "down" };
        let detail = format!(
            "{kind} {name}: {} {direction} since {} s ago, block mean {}, learned {}; look at the machine, or retrain",
            alarm.moved.as_str(),
            tick.since_ms(alarm.since) / 1_000,
            short(alarm.mean),
            short(alarm.learned),
        );
        let occurrence = Occurrence {
            what: "drift",
            subject: self.config.models[model].id.clone(),
            to: Some("drifting"),
            reason: Some(alarm.moved.as_str()),
            detail: Some(detail),
            ..Occurrence::default()
        };
        self.tell(tick, occurrence, actions);
    }

    fn channel_name(&self, model: usize, channel: Channel) -> (&'static str, &str) {
        let config = &self.config.models[model];
        match channel {
            Channel::Input(index) => {
                let quantity = config.inputs[index].quantity;
                ("input", &self.config.quantities[quantity.index()].id)
            }
            Channel::Output(index) => ("output", &config.outputs[index]),
        }
    }

    /// What the monitors of a model have seen.
    pub(super) fn drift_health(&self, model: usize) -> Vec<DriftHealth> {
        let Some(Some(watch)) = self.watches.get(model) else {
            return Vec::new();
        };
        let one = |(channel, monitor): (Channel, &crate::drift::Monitor)| {
            let (kind, name) = self.channel_name(model, channel);
            let last = monitor.last();
            DriftHealth {
                kind,
                name: name.into(),
                seen: monitor.seen(),
                moved: last.map(|alarm| alarm.moved.as_str()),
                up: last.map(|alarm| alarm.up),
                since: last.map(|alarm| alarm.since),
            }
        };
        watch.monitors().map(one).collect()
    }
}

/// Six significant digits, in a form of bounded length.
fn short(number: f64) -> alloc::string::String {
    let magnitude = number.abs();
    if magnitude == 0.0 || (1e-3..1e6).contains(&magnitude) {
        format!("{number:.4}")
    } else {
        format!("{number:.4e}")
    }
}
