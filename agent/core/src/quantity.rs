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
    vote::{ChannelState, Quality, Reading, Vote, Voter, VoterConfig},
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
}

/// One quantity.
#[derive(Clone, Debug)]
pub(crate) struct Quantity {
    config: QuantityConfig,
    voter: Voter,
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
        let voter = Voter::new(VoterConfig {
            accuracy_absolute: config.accuracy_absolute,
            accuracy_relative: config.accuracy_relative,
            sources_min: config.sources_min,
            fail_count: config.fail_count,
            clear_count: config.clear_count,
            on_split: config.on_split,
            on_quorum_loss: config.on_quorum_loss,
            hold_ticks_max: ticks(config.hold_age_ms_max),
            ..VoterConfig::new(channels)
        });
        let standing = Standing {
            state: ChannelState::Learning,
            since: now,
        };
        Self {
            voter,
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

    /// Asks for the samples of the next tick when it is time. Returns whether it did.
    pub(crate) fn poll(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
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
        actions.extend(
            self.config
                .sensors
                .iter()
                .map(|&sensor| Action::Poll { sensor, tick }),
        );
        true
    }

    /// Passes over the ticks that can no longer be given in time, but for the newest. Returns how many.
    pub(crate) fn skip_late_ticks(&mut self, now: Mono) -> u64 {
        let late = now.since_ms(self.tick_next) / self.config.period_ms;
        self.tick_next = self.tick_next.plus_ms(late * self.config.period_ms);
        late
    }

    /// Votes for the tick that is due and moves the grid on.
    pub(crate) fn close_tick(&mut self, sensors: &[Sensor], changes: &mut Vec<Change>) -> Mono {
        let tick = self.tick_next;
        self.tick_next = tick.plus_ms(self.config.period_ms);
        let timing = Timing {
            period_ms: self.config.period_ms,
            timeout_ms: self.config.timeout_ms,
        };
        self.readings.clear();
        for (&id, seen) in self.config.sensors.iter().zip(&mut self.updates_seen) {
            let sensor = &sensors[id.index()];
            self.readings.push(sensor.reading(tick, *seen, timing));
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

    fn note_changes(&mut self, tick: Mono, changes: &mut Vec<Change>) {
        let channels = self
            .config
            .sensors
            .iter()
            .zip(&mut self.standings)
            .zip(&self.vote.verdicts);
        for ((&sensor, standing), verdict) in channels {
            let (from, to) = (standing.state, verdict.state);
            if from == to {
                continue;
            }
            *standing = Standing {
                state: to,
                since: tick,
            };
            if rank(from) != rank(to) {
                changes.push(Change {
                    sensor,
                    from,
                    to,
                    reason: verdict.reason.map(crate::vote::Reason::as_str),
                });
            }
        }
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

/// Changes within a rank are not worth a record of their own: a suspect sample is in the vote's own record already.
const fn rank(state: ChannelState) -> u8 {
    match state {
        ChannelState::Learning => 0,
        ChannelState::Healthy | ChannelState::Suspect => 1,
        ChannelState::Quarantined | ChannelState::Probation => 2,
        ChannelState::Failed => 3,
    }
}
