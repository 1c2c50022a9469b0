//! The picture that the agent gives of itself.
//!
//! Owns: how [`Health`] is filled and what makes the agent degraded or failing. Must not: change anything.

use alloc::vec::Vec;

use super::Agent;
use crate::{
    health::{CommandsHealth, Condition, Health, SensorHealth},
    units::{Mono, QuantityId, SensorId},
    vote::{ChannelView, Quality, Vote, VoteView},
};

/// The last vote of a quantity and the numbers behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// When it was given.
    pub tick: Mono,
    /// The vote.
    pub vote: Vote,
    /// The numbers of the whole; absent for codes, which are counted.
    pub whole: Option<VoteView>,
    /// The numbers of each channel, in order; empty for codes.
    pub channels: Vec<ChannelView>,
}

impl Agent {
    /// Why the last vote of a quantity is what it is; absent before the first.
    #[must_use]
    pub fn explain(&self, quantity: QuantityId) -> Option<Explanation> {
        let quantity = self.quantities.get(quantity.index())?;
        let (whole, channels) = quantity.explain().unzip();
        Some(Explanation {
            tick: quantity.tick?,
            vote: quantity.vote.clone(),
            whole,
            channels: channels.unwrap_or_default(),
        })
    }

    /// What the agent says of itself now.
    #[must_use]
    pub fn health(&self, now: Mono) -> Health {
        let stalled = self.debts().stalled(now, self.vitals.stall_ms());
        let sensors = self.config.sensors.iter().zip(&self.sensors);
        let health = Health {
            now,
            started: self.started,
            condition: Condition::Ok,
            sensors: sensors
                .zip((0..).map(SensorId))
                .map(|((config, sensor), id)| SensorHealth {
                    id: config.id.clone(),
                    value: sensor.newest().map(|(value, _)| value),
                    taken: sensor.newest().map(|(_, taken)| taken),
                    fault: sensor.fault.map(|(fault, _)| fault.cause),
                    fault_permanent: sensor.fault.is_some_and(|(fault, _)| fault.permanent),
                    fault_since: sensor.fault.map(|(_, since)| since),
                    breaker: self.guards.of(id).map(|(state, _)| state),
                    retry: self.guards.of(id).and_then(|(_, retry)| retry),
                })
                .collect(),
            buses: self.guards.health(),
            quantities: self
                .quantities
                .iter()
                .map(|quantity| quantity.health(&self.config.sensors))
                .collect(),
            models: self.models.iter().map(|model| model.health(now)).collect(),
            store: self.outbox.health(),
            link: self.link.as_ref().map(|link| {
                let delivery = self.outbox.delivery_health(self.told.delivery_since);
                link.health(self.outbox.inflight(), delivery)
            }),
            certificates: self.certificates.health().collect(),
            commands: CommandsHealth {
                state: self.command_state,
                in_progress: self.commands.count(),
            },
            stalled,
            counters: self.counters,
        };
        Health {
            condition: self.condition(&health),
            ..health
        }
    }

    fn condition(&self, health: &Health) -> Condition {
        if !health.stalled.is_empty() || self.outbox.is_failing() {
            return Condition::Failing;
        }
        let quantities = health
            .quantities
            .iter()
            .all(|quantity| quantity.tick.is_none() || quantity.quality == Quality::Good);
        let models = health
            .models
            .iter()
            .all(|model| matches!(model.state, "filling" | "running" | "standby"));
        let sensors = health.sensors.iter().all(|sensor| sensor.fault.is_none());
        let buses = health.buses.iter().all(|bus| bus.state == "closed");
        let delivery = health
            .link
            .as_ref()
            .is_none_or(|link| link.delivery.state == "ok");
        if quantities && models && sensors && buses && delivery {
            Condition::Ok
        } else {
            Condition::Degraded
        }
    }
}
