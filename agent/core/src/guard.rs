//! Guards: a breaker for every device and for every bus, so that what does not answer is asked less and less often.
//!
//! Owns: which sensor may be asked now. Must not: know a kind of bus, or recover one by itself.
//!
//! A device's breaker opens after failures in a row ([`TRANSIENT`]), at once when the cause is permanent ([`PERMANENT`]).
//! History counts too: what fails for longer than [`LASTING_MS`] is lasting, whatever its cause, and what fails again
//! within [`FLAPPING_MS`] goes on with twice the back-off that it had reached. The breaker of a bus opens when transfers
//! fail or questions stay unanswered, and not when a single device refuses: then the devices of the bus are let through
//! one at a time.
//!
//! Invariants: a device that was shut out is asked again after at most the longest back-off; an answer of any device
//! closes the breaker of its bus, and every other device of it is tried at once; a value that cannot be used (an open
//! circuit, a value that is not ready) opens nothing.

use alloc::{string::String, vec, vec::Vec};

use crate::{
    breaker::{Breaker, Limits},
    config::GuardConfig,
    event::{ProbeFault, Reach},
    health::BusHealth,
    units::{BusId, Mono, SensorId},
};

/// A device with a fault that may pass.
pub(crate) const TRANSIENT: Limits = Limits {
    failures_max: 3,
    backoff_ms_min: 1_000,
    backoff_ms_max: 30_000,
};
/// A device that is not there, or may not be used: soon again at first, because somebody may just plug it in.
pub(crate) const PERMANENT: Limits = Limits {
    failures_max: 1,
    backoff_ms_min: 2_000,
    backoff_ms_max: 60_000,
};
/// A bus: failed transfers in a row, with no answer between them.
pub(crate) const BUS: Limits = Limits {
    failures_max: 6,
    backoff_ms_min: 1_000,
    backoff_ms_max: 30_000,
};
/// A device that has failed for this long fails lastingly, in milliseconds.
pub(crate) const LASTING_MS: u64 = 600_000;
/// A device that fails again this soon after it came back is loose, in milliseconds.
pub(crate) const FLAPPING_MS: u64 = 60_000;
/// A question that is not answered for this long never will be, in milliseconds. The longest transfer of any bus here
/// takes a few seconds.
pub(crate) const UNANSWERED_MS: u64 = 10_000;

/// What is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Part(usize),
    Bus(usize),
}

/// A change that is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) subject: Subject,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) cause: Option<&'static str>,
    /// Waiting alone will not cure it.
    pub(crate) lasting: bool,
    /// When it is tried again.
    pub(crate) retry: Option<Mono>,
}

#[derive(Clone, Debug)]
struct Part {
    bus: usize,
    breaker: Breaker,
    /// The channel whose failures count: one round over a chip of eight channels is one failure.
    counted: Option<SensorId>,
    cause: Option<&'static str>,
    failing_since: Option<Mono>,
    lasting: bool,
    /// When it was let through for a trial.
    tried: Option<Mono>,
    /// When it came back last, and from which back-off.
    came_back: Option<(Mono, u64)>,
}

#[derive(Clone, Debug)]
struct Bus {
    id: String,
    remedy: String,
    recover: bool,
    parts: usize,
    breaker: Breaker,
    failures: u32,
    /// The device that failed first of those in a row, and whether another one did too.
    failed: Option<usize>,
    several: bool,
    cause: Option<&'static str>,
    since: Mono,
    /// The oldest question without an answer.
    asked: Option<Mono>,
    openings: u64,
    recovery: Option<&'static str>,
}

/// All breakers of devices and buses.
#[derive(Clone, Debug)]
pub(crate) struct Guards {
    parts: Vec<Part>,
    buses: Vec<Bus>,
    of_sensor: Vec<Option<usize>>,
    turns: Vec<Turn>,
    recoveries: Vec<BusId>,
}

impl Guards {
    pub(crate) fn new(config: &GuardConfig, sensors: usize, now: Mono) -> Self {
        let mut of_sensor = vec![None; sensors];
        for (index, part) in config.parts.iter().enumerate() {
            for sensor in &part.sensors {
                of_sensor[sensor.index()] = Some(index);
            }
        }
        let bus = |(index, bus): (usize, &crate::config::BusConfig)| Bus {
            id: bus.id.clone(),
            remedy: bus.remedy.clone(),
            recover: bus.recover,
            parts: config
                .parts
                .iter()
                .filter(|part| part.bus.index() == index)
                .count(),
            breaker: Breaker::new(),
            failures: 0,
            failed: None,
            several: false,
            cause: None,
            since: now,
            asked: None,
            openings: 0,
            recovery: None,
        };
        let part = |part: &crate::config::PartConfig| Part {
            bus: part.bus.index(),
            breaker: Breaker::new(),
            counted: None,
            cause: None,
            failing_since: None,
            lasting: false,
            tried: None,
            came_back: None,
        };
        Self {
            parts: config.parts.iter().map(part).collect(),
            buses: config.buses.iter().enumerate().map(bus).collect(),
            of_sensor,
            turns: Vec::new(),
            recoveries: Vec::new(),
        }
    }

    /// Whether a sensor may be asked now; asking a part that was shut out is its trial.
    pub(crate) fn admit(
        &mut self,
        now: Mono,
        sensor: SensorId,
        random: &mut fastrand::Rng,
    ) -> bool {
        let Some(index) = self.of_sensor[sensor.index()] else {
            return true;
        };
        let bus_index = self.parts[index].bus;
        let overdue =
            |asked: Option<Mono>| asked.is_some_and(|at| now.since_ms(at) >= UNANSWERED_MS);
        if overdue(self.buses[bus_index].asked) {
            self.buses[bus_index].asked = None;
            self.fail_bus(now, (bus_index, index), "unanswered", random);
        }
        let bus = &mut self.buses[bus_index];
        let bus_was_closed = matches!(bus.breaker, Breaker::Closed { .. });
        if !bus.breaker.admit(now) {
            return false;
        }
        let part = &mut self.parts[index];
        if matches!(part.breaker, Breaker::HalfOpen { .. }) && overdue(part.tried) {
            part.breaker.fail_within(now, TRANSIENT, random);
        }
        if !bus_was_closed {
            // The trial of the bus: whoever comes first is asked, shut out or not.
            part.breaker.hasten(now);
            part.breaker.admit(now);
        } else if !part.breaker.admit(now) {
            return false;
        }
        part.tried = Some(now);
        bus.asked.get_or_insert(now);
        true
    }

    /// What came of asking a sensor.
    pub(crate) fn answer(
        &mut self,
        now: Mono,
        sensor: SensorId,
        outcome: Result<(), ProbeFault>,
        random: &mut fastrand::Rng,
    ) {
        let Some(index) = self.of_sensor.get(sensor.index()).copied().flatten() else {
            return;
        };
        let bus = self.parts[index].bus;
        self.buses[bus].asked = None;
        match outcome {
            Ok(()) => self.answered(now, index),
            Err(fault) => match fault.reach {
                Reach::Value => self.answered(now, index),
                Reach::Pending => {
                    // Without a trial this says nothing; after one, that the device is there again.
                    let trial = self.parts[index].breaker.backoff_ms().is_some();
                    if trial || self.buses[bus].breaker.backoff_ms().is_some() {
                        self.answered(now, index);
                    }
                }
                Reach::Device => {
                    self.bus_answers(now, bus, index);
                    self.fail_part(now, (index, sensor), fault, random);
                }
                Reach::Bus => {
                    // One transfer of a chip fails for all of its channels, and is one failure of the bus.
                    if self.fail_part(now, (index, sensor), fault, random) {
                        self.fail_bus(now, (bus, index), fault.cause, random);
                    }
                }
            },
        }
    }

    /// A bus was reset, or could not be.
    pub(crate) fn recovered(&mut self, now: Mono, bus: BusId, outcome: Result<(), &'static str>) {
        if let Some(bus) = self.buses.get_mut(bus.index()) {
            bus.recovery = Some(outcome.err().unwrap_or("reset"));
            if outcome.is_ok() {
                bus.breaker.hasten(now);
            }
        }
    }

    /// Forgets what was held against a sensor's device and its bus.
    pub(crate) fn forget(&mut self, now: Mono, sensor: SensorId) {
        if let Some(index) = self.of_sensor[sensor.index()] {
            self.parts[index].breaker.hasten(now);
            self.parts[index].came_back = None;
            let bus = self.parts[index].bus;
            self.buses[bus].breaker.hasten(now);
        }
    }

    /// The changes since this was asked last.
    pub(crate) fn take_turns(&mut self) -> Vec<Turn> {
        core::mem::take(&mut self.turns)
    }

    /// The buses that are to be reset.
    pub(crate) fn take_recoveries(&mut self) -> Vec<BusId> {
        core::mem::take(&mut self.recoveries)
    }

    /// State of the breaker of a sensor's device and when it is tried again; nothing for a sensor that is not guarded.
    pub(crate) fn of(&self, sensor: SensorId) -> Option<(&'static str, Option<Mono>)> {
        let index = self.of_sensor.get(sensor.index()).copied().flatten()?;
        let part = &self.parts[index];
        let bus = &self.buses[part.bus];
        let retry = part.breaker.retry().max(bus.breaker.retry());
        Some((part.breaker.as_str(), retry))
    }

    pub(crate) fn health(&self) -> Vec<BusHealth> {
        let health = |bus: &Bus| BusHealth {
            id: bus.id.clone(),
            state: bus.breaker.as_str(),
            since: bus.since,
            cause: bus.cause,
            retry: bus.breaker.retry(),
            remedy: bus.cause.map(|_| bus.remedy.clone()),
            openings: bus.openings,
            recovery: bus.recovery,
        };
        self.buses.iter().map(health).collect()
    }

    pub(crate) fn remedy(&self, bus: usize) -> &str {
        &self.buses[bus].remedy
    }

    fn answered(&mut self, now: Mono, index: usize) {
        self.bus_answers(now, self.parts[index].bus, index);
        let part = &mut self.parts[index];
        let (from, backoff_ms) = (part.breaker.as_str(), part.breaker.backoff_ms());
        part.breaker.succeed();
        part.counted = None;
        part.failing_since = None;
        part.lasting = false;
        part.tried = None;
        let cause = part.cause.take();
        if let Some(backoff_ms) = backoff_ms {
            part.came_back = Some((now, backoff_ms));
            self.turns.push(Turn {
                subject: Subject::Part(index),
                from,
                to: "closed",
                cause,
                lasting: false,
                retry: None,
            });
        }
    }

    /// The bus answers; `by` is the device that did.
    fn bus_answers(&mut self, now: Mono, index: usize, by: usize) {
        let bus = &mut self.buses[index];
        (bus.failures, bus.failed, bus.several) = (0, None, false);
        if bus.breaker.backoff_ms().is_none() {
            return;
        }
        let from = bus.breaker.as_str();
        bus.breaker.succeed();
        bus.since = now;
        let cause = bus.cause.take();
        self.turns.push(Turn {
            subject: Subject::Bus(index),
            from,
            to: "closed",
            cause,
            lasting: false,
            retry: None,
        });
        for (place, part) in self.parts.iter_mut().enumerate() {
            if part.bus != index || by == place {
                continue;
            }
            part.breaker.hasten(now);
            // A trial that was lost with the bus is made again.
            if let Breaker::HalfOpen { backoff_ms } = part.breaker {
                part.breaker = Breaker::Open {
                    until: now,
                    backoff_ms,
                };
            }
        }
    }

    /// Returns whether it says something new: a device fails once for all of its channels.
    fn fail_part(
        &mut self,
        now: Mono,
        (index, sensor): (usize, SensorId),
        fault: ProbeFault,
        random: &mut fastrand::Rng,
    ) -> bool {
        let part = &mut self.parts[index];
        let from = part.breaker.as_str();
        let was_closed = part.breaker.backoff_ms().is_none();
        // What was asked before it opened is answered after, channel by channel.
        if matches!(part.breaker, Breaker::Open { .. })
            || (was_closed && part.counted.is_some_and(|counted| counted != sensor))
        {
            return false;
        }
        part.counted = Some(sensor);
        part.cause = Some(fault.cause);
        let since = *part.failing_since.get_or_insert(now);
        let lasting = fault.permanent || now.since_ms(since) >= LASTING_MS;
        let limits = if lasting { PERMANENT } else { TRANSIENT };
        part.breaker.fail_within(now, limits, random);
        let Some(backoff_ms) = part.breaker.backoff_ms() else {
            return true;
        };
        if was_closed
            && let Some((at, before_ms)) = part.came_back
            && now.since_ms(at) < FLAPPING_MS
        {
            let loose_ms = before_ms.saturating_mul(2).min(limits.backoff_ms_max);
            part.breaker
                .open_with(now, loose_ms.max(backoff_ms), random);
        }
        let news = was_closed || lasting != part.lasting;
        part.lasting = lasting;
        if news {
            self.turns.push(Turn {
                subject: Subject::Part(index),
                from,
                to: "open",
                cause: Some(fault.cause),
                lasting,
                retry: part.breaker.retry(),
            });
        }
        true
    }

    fn fail_bus(
        &mut self,
        now: Mono,
        (index, part): (usize, usize),
        cause: &'static str,
        random: &mut fastrand::Rng,
    ) {
        let bus = &mut self.buses[index];
        bus.failures = bus.failures.saturating_add(1);
        bus.several |= bus.failed.is_some_and(|failed| failed != part) || bus.parts < 2;
        bus.failed.get_or_insert(part);
        let from = bus.breaker.as_str();
        match bus.breaker {
            // Nothing was asked: this is the answer to something that is long given up.
            Breaker::Open { .. } => return,
            Breaker::HalfOpen { .. } => bus.breaker.fail_within(now, BUS, random),
            Breaker::Closed { .. } => {
                let enough = bus.failures >= BUS.failures_max && bus.several;
                if !enough && cause != "unanswered" {
                    return;
                }
                bus.breaker.open_with(now, BUS.backoff_ms_min, random);
                bus.since = now;
                bus.openings += 1;
                self.turns.push(Turn {
                    subject: Subject::Bus(index),
                    from,
                    to: "open",
                    cause: Some(cause),
                    lasting: false,
                    retry: bus.breaker.retry(),
                });
            }
        }
        bus.cause = Some(cause);
        if bus.recover {
            let id = u16::try_from(index).expect("the number of buses is validated");
            self.recoveries.push(BusId(id));
        }
    }
}

#[cfg(test)]
mod tests;
