//! One voted quantity: its grid of ticks, its channels, and its newest vote.
//!
//! Owns: when a quantity is polled and voted, and what of it changed. Must not: judge; that is the vote's.

use alloc::{vec, vec::Vec};

use crate::{
    config::{QuantityConfig, SensorConfig},
    event::Action,
    health::{ChannelHealth, QuantityHealth},
    sensor::{Sensor, Timing},
    units::{Mono, SensorId},
    vote::{
        ChannelState, ChannelView, Learned, Method, Quality, Reading, Reason, Vote, VoteView,
        VoterConfig,
    },
};

/// A channel that changed its standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) sensor: SensorId,
    pub(crate) from: ChannelState,
    pub(crate) to: ChannelState,
    pub(crate) reason: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    state: ChannelState,
    since: Mono,
    /// The state that was told last.
    told: ChannelState,
    /// A sample that is not believed is told of no more until here: see [`Quantity::note_changes`].
    quiet_until: Mono,
}

/// One quantity.
#[derive(Clone, Debug)]
pub(crate) struct Quantity {
    config: QuantityConfig,
    voter: Method,
    readings: Vec<Reading>,
    updates_seen: Vec<u64>,
    standings: Vec<Standing>,
    pub(crate) vote: Vote,
    pub(crate) tick: Option<Mono>,
    quality_since: Mono,
    poll_next: Mono,
    tick_next: Mono,
}

impl Quantity {
    /// Polls at `now` and votes for the first time `lead_ms` later.
    pub(crate) fn new(config: QuantityConfig, now: Mono) -> Self {
        let channels = config.sensors.len();
        let ticks =
            |time_ms: u64| u32::try_from(time_ms / config.period_ms.max(1)).unwrap_or(u32::MAX);
        let settings = VoterConfig {
            accuracy_absolute: config.accuracy_absolute,
            accuracy_relative: config.accuracy_relative,
            sources_min: config.sources_min,
            fail_count: config.fail_count,
            clear_count: config.clear_count,
            on_split: config.on_split,
            on_quorum_loss: config.on_quorum_loss,
            hold_ticks_max: ticks(config.hold_age_ms_max),
            ..VoterConfig::new(channels)
        };
        let standing = Standing {
            state: ChannelState::Learning,
            since: now,
            told: ChannelState::Learning,
            quiet_until: now,
        };
        Self {
            voter: Method::new(config.kind, settings),
            readings: Vec::with_capacity(channels),
            updates_seen: vec![0; channels],
            standings: vec![standing; channels],
            vote: Vote::empty(channels),
            tick: None,
            quality_since: now,
            poll_next: now,
            tick_next: now.plus_ms(config.lead_ms),
            config,
        }
    }

    pub(crate) fn config(&self) -> &QuantityConfig {
        &self.config
    }

    pub(crate) fn next_deadline(&self) -> Mono {
        self.poll_next.min(self.tick_next)
    }

    pub(crate) fn next_tick(&self) -> Mono {
        self.tick_next
    }

    /// Asks those sensors for the samples of the next tick that `admit` lets through, when it is time. Returns whether
    /// any was asked.
    pub(crate) fn poll(
        &mut self,
        now: Mono,
        mut admit: impl FnMut(SensorId) -> bool,
        actions: &mut Vec<Action>,
    ) -> bool {
        if now < self.poll_next {
            return false;
        }
        let late = now.since_ms(self.poll_next) / self.config.period_ms;
        let polled = self.poll_next.plus_ms(late * self.config.period_ms);
        self.poll_next = polled.plus_ms(self.config.period_ms);
        let lead_ms = if self.config.lead_ms == 0 {
            self.config.period_ms
        } else {
            self.config.lead_ms
        };
        let tick = polled.plus_ms(lead_ms);
        let before = actions.len();
        let admitted = self.config.sensors.iter().filter(|sensor| admit(**sensor));
        actions.extend(admitted.map(|&sensor| Action::Poll { sensor, tick }));
        actions.len() > before
    }

    /// Passes over the ticks that can no longer be given in time, but for the newest. Returns how many.
    pub(crate) fn skip_late_ticks(&mut self, now: Mono) -> u64 {
        let late = now.since_ms(self.tick_next) / self.config.period_ms;
        self.tick_next = self.tick_next.plus_ms(late * self.config.period_ms);
        late
    }

    /// Votes for the tick that is due and moves the grid on.
    /// A sensor for which `isolated` holds is left out: another axis of its device cannot be believed.
    pub(crate) fn close_tick(
        &mut self,
        sensors: &[Sensor],
        isolated: impl Fn(SensorId) -> bool,
        changes: &mut Vec<Change>,
    ) -> Mono {
        let tick = self.tick_next;
        self.tick_next = tick.plus_ms(self.config.period_ms);
        let timing = Timing {
            period_ms: self.config.period_ms,
            timeout_ms: self.config.timeout_ms,
        };
        self.readings.clear();
        for (&id, seen) in self.config.sensors.iter().zip(&mut self.updates_seen) {
            let sensor = &sensors[id.index()];
            self.readings.push(if isolated(id) {
                Reading::absent(Reason::Device)
            } else {
                sensor.reading(tick, *seen, timing)
            });
            *seen = sensor.updates;
        }
        let quality_before = self.vote.quality;
        self.voter.vote(&self.readings, &mut self.vote);
        if self.vote.quality != quality_before {
            self.quality_since = tick;
        }
        self.note_changes(tick, changes);
        self.tick = Some(tick);
        tick
    }

    /// Every change of state is told, with one exception: a channel whose single samples are not believed again and
    /// again is told of once in `clear_count` ticks. Which samples they are stands in the records of the votes.
    fn note_changes(&mut self, tick: Mono, changes: &mut Vec<Change>) {
        let quiet_ms = u64::from(self.config.clear_count).saturating_mul(self.config.period_ms);
        let channels = self
            .config
            .sensors
            .iter()
            .zip(&mut self.standings)
            .zip(&self.vote.verdicts);
        for ((&sensor, standing), verdict) in channels {
            let to = verdict.state;
            if standing.state != to {
                (standing.state, standing.since) = (to, tick);
            }
            let again = to == ChannelState::Suspect && standing.told == ChannelState::Healthy;
            if standing.told == to || (again && tick < standing.quiet_until) {
                continue;
            }
            if to == ChannelState::Suspect {
                standing.quiet_until = tick.plus_ms(quiet_ms);
            }
            changes.push(Change {
                sensor,
                from: core::mem::replace(&mut standing.told, to),
                to,
                reason: verdict.reason.map(Reason::as_str),
            });
        }
    }

    /// What its voter has learned, where it learns and has.
    pub(crate) fn learned(&self) -> Option<Learned> {
        self.voter.learned()
    }

    /// Goes on with what was learned before; false where it does not fit.
    pub(crate) fn restore(&mut self, learned: &Learned) -> bool {
        self.voter.restore(learned)
    }

    /// Forgets everything of the channels of a sensor. Returns how many those are.
    pub(crate) fn forget(&mut self, sensor: SensorId) -> u64 {
        let mut count = 0;
        for (index, own) in self.config.sensors.iter().enumerate() {
            if *own == sensor {
                self.voter.forget(index);
                self.updates_seen[index] = 0;
                count += 1;
            }
        }
        count
    }

    /// The numbers behind its last vote, where it measures.
    pub(crate) fn explain(&self) -> Option<(VoteView, Vec<ChannelView>)> {
        self.voter.explain()
    }

    pub(crate) fn excluded(&self) -> Vec<SensorId> {
        let channels = self.config.sensors.iter().zip(&self.vote.verdicts);
        channels
            .filter(|(_, verdict)| !verdict.included)
            .map(|(&sensor, _)| sensor)
            .collect()
    }

    pub(crate) fn quality(&self) -> Quality {
        self.vote.quality
    }

    pub(crate) fn health(&self, names: &[SensorConfig]) -> QuantityHealth {
        let channels = self
            .config
            .sensors
            .iter()
            .zip(&self.standings)
            .zip(&self.vote.verdicts);
        QuantityHealth {
            id: self.config.id.clone(),
            unit: self.config.unit.clone(),
            tick: self.tick,
            value: self.vote.value,
            uncertainty: self.vote.uncertainty,
            quality: self.vote.quality,
            quality_since: self.quality_since,
            used: self.vote.used,
            channels: channels
                .map(|((sensor, standing), verdict)| ChannelHealth {
                    sensor: names[sensor.index()].id.clone(),
                    included: verdict.included,
                    state: verdict.state,
                    reason: verdict.reason,
                    since: standing.since,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use super::{Change, Quantity};
    use crate::{
        config::QuantityConfig,
        sensor::Sensor,
        units::{Mono, SensorId},
        vote::{ChannelState, Kind, OnQuorumLoss, OnSplit},
    };

    fn quantity() -> Quantity {
        let config = QuantityConfig {
            id: "valve".into(),
            unit: "1".into(),
            kind: Kind::Codes(2),
            labels: Vec::new(),
            sensors: vec![SensorId(0), SensorId(1), SensorId(2)],
            period_ms: 1_000,
            timeout_ms: 10_000,
            lead_ms: 0,
            accuracy_absolute: None,
            accuracy_relative: 0.0,
            sources_min: 1,
            fail_count: 3,
            clear_count: 30,
            on_split: OnSplit::Weighted,
            on_quorum_loss: OnQuorumLoss::Hold,
            hold_age_ms_max: 10_000,
        };
        Quantity::new(config, Mono(0))
    }

    /// The changes of the third channel over ticks in which it delivers these codes; the others deliver 0.
    fn told(codes: &[f64]) -> Vec<(usize, ChannelState)> {
        let mut quantity = quantity();
        let mut sensors = vec![Sensor::new(None); 3];
        let mut told = Vec::new();
        for (tick, &code) in codes.iter().enumerate() {
            let now = quantity.next_tick();
            for (sensor, code) in sensors.iter_mut().zip([0.0, 0.0, code]) {
                sensor.accept(now, Ok(code));
            }
            let mut changes: Vec<Change> = Vec::new();
            quantity.close_tick(&sensors, |_| false, &mut changes);
            let third = changes.iter().filter(|change| change.sensor == SensorId(2));
            told.extend(third.map(|change| (tick, change.to)));
        }
        told
    }

    #[test]
    fn samples_that_are_not_believed_again_and_again_are_told_of_once() {
        let flicker: Vec<f64> = (0..40).map(|tick| f64::from(tick % 2)).collect();
        let expected = [
            (0, ChannelState::Healthy),
            (1, ChannelState::Suspect),
            (2, ChannelState::Healthy),
            (31, ChannelState::Suspect),
            (32, ChannelState::Healthy),
        ];
        assert_eq!(told(&flicker), expected);
    }

    #[test]
    fn every_other_change_is_told() {
        let mut codes = vec![0.0];
        codes.extend([1.0; 4]);
        codes.extend([0.0; 31]);
        let expected = [
            (0, ChannelState::Healthy),
            (1, ChannelState::Suspect),
            (3, ChannelState::Quarantined),
            (5, ChannelState::Probation),
            (34, ChannelState::Healthy),
        ];
        assert_eq!(told(&codes), expected);
    }
}
