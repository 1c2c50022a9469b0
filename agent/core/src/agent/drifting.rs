//! What the agent makes of drift: an event when a channel of a model begins to drift, and the picture of all monitors.
//!
//! Owns: the words of that event. Must not: judge; [`crate::drift`] does.

use alloc::{format, sync::Arc, vec::Vec};

use super::Agent;
use crate::{
    config::{ModelConfig, ModelInput},
    drift::{Alarm, Channel, Moved, Watch},
    event::Action,
    health::DriftHealth,
    record::Occurrence,
    units::Mono,
};

/// The monitors of one model: those of the file that counted before any trial.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    file: Arc<ModelConfig>,
    watch: Option<Watch>,
}

impl Watched {
    pub(super) fn new(file: &Arc<ModelConfig>) -> Self {
        let watch = file
            .drift
            .as_ref()
            .map(|drift| Watch::new(drift.rows_between, &drift.inputs, &drift.outputs));
        Self {
            file: Arc::clone(file),
            watch,
        }
    }

    /// Another file is the established one. What was learned of its outputs does not hold; of its inputs it does, where
    /// they are the same.
    pub(super) fn follow(&mut self, file: &Arc<ModelConfig>) {
        if self.file == *file {
            return;
        }
        let old = core::mem::replace(self, Self::new(file));
        let inputs = |file: &ModelConfig| {
            let drift = file.drift.as_ref();
            let quantities: Vec<_> = file.inputs.iter().map(|input| input.quantity).collect();
            (
                quantities,
                drift.map(|drift| (drift.rows_between, drift.inputs.clone())),
            )
        };
        if inputs(&old.file) == inputs(file)
            && let (Some(new), Some(old)) = (self.watch.take(), old.watch)
        {
            self.watch = Some(new.with_inputs_of(old));
        }
    }
}

impl Agent {
    pub(super) fn watch_inputs(&mut self, tick: Mono, model: usize, actions: &mut Vec<Action>) {
        let Some(Watched {
            file,
            watch: Some(watch),
        }) = self.watches.get_mut(model)
        else {
            return;
        };
        let quantities = &self.quantities;
        let value = |input: &ModelInput| quantities[input.quantity.index()].vote.value;
        let began = watch.take_inputs(tick, file.inputs.iter().map(value));
        self.tell_drifts(tick, model, began, actions);
    }

    /// The outputs of the established file.
    pub(super) fn watch_outputs(
        &mut self,
        tick: Mono,
        model: usize,
        outputs: &[f32],
        actions: &mut Vec<Action>,
    ) {
        let watched = self.watches.get_mut(model);
        let Some(watch) = watched.and_then(|watched| watched.watch.as_mut()) else {
            return;
        };
        let began = watch.take_outputs(tick, outputs);
        self.tell_drifts(tick, model, began, actions);
    }

    fn tell_drifts(
        &mut self,
        tick: Mono,
        model: usize,
        began: Vec<(Channel, Alarm)>,
        actions: &mut Vec<Action>,
    ) {
        for (channel, alarm) in began {
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
        let level = match alarm.moved {
            Moved::Mean => "mean",
            Moved::Scatter => "deviation",
        };
        let detail = format!(
            "{kind} {name}: {} {direction} since {} s ago, block {level} {}, learned {}; look at the machine, or retrain",
            alarm.moved.as_str(),
            tick.since_ms(alarm.since) / 1_000,
            short(alarm.found),
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
        let file = &self.watches[model].file;
        match channel {
            Channel::Input(index) => {
                let quantity = file.inputs[index].quantity;
                ("input", &self.config.quantities[quantity.index()].id)
            }
            Channel::Output(index) => ("output", &file.outputs[index]),
        }
    }

    /// What the monitors of a model have seen.
    pub(super) fn drift_health(&self, model: usize) -> Vec<DriftHealth> {
        let watched = self.watches.get(model);
        let Some(watch) = watched.and_then(|watched| watched.watch.as_ref()) else {
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

#[cfg(test)]
mod tests {
    use alloc::{sync::Arc, vec};

    use super::Watched;
    use crate::{
        config::{DriftConfig, ModelConfig, ModelInput},
        drift::Channel,
        units::{Mono, QuantityId},
    };

    fn file(version: &str, quantity: u16) -> Arc<ModelConfig> {
        Arc::new(ModelConfig {
            version: version.into(),
            inputs: vec![ModelInput {
                quantity: QuantityId(quantity),
                mean: 0.0,
                scale: 1.0,
                range: None,
                impute: None,
            }],
            outputs: vec!["score".into()],
            drift: Some(DriftConfig {
                rows_between: 1e6,
                inputs: vec![None],
                outputs: vec![None],
            }),
            ..ModelConfig::default()
        })
    }

    fn rows(watched: &Watched, channel: Channel) -> Option<u64> {
        let watch = watched.watch.as_ref()?;
        let mut found = watch.monitors().filter(|(its, _)| *its == channel);
        found.next().map(|(_, monitor)| monitor.seen().rows)
    }

    #[test]
    fn another_file_has_outputs_of_its_own_and_the_inputs_that_it_shares() {
        let mut watched = Watched::new(&file("1", 0));
        if let Some(watch) = &mut watched.watch {
            watch.take_inputs(Mono(0), [Some(1.0)]);
            watch.take_outputs(Mono(0), &[1.0]);
        }
        let counts = |watched: &Watched| {
            [Channel::Input(0), Channel::Output(0)].map(|channel| rows(watched, channel))
        };
        watched.follow(&file("1", 0));
        assert_eq!(counts(&watched), [Some(1), Some(1)], "the same file");
        watched.follow(&file("2", 0));
        assert_eq!(counts(&watched), [Some(1), Some(0)], "the same inputs");
        watched.follow(&file("3", 1));
        assert_eq!(counts(&watched), [Some(0), Some(0)], "other inputs");
    }
}
