//! Sensing: one thread per bus, so that a bus that hangs stops no other.
//!
//! Owns: the threads that call probes. Must not: judge a value, or know what kind a probe is.
//!
//! Invariants: a question that its bus has no room for is dropped and counted, never waited for; a probe that cannot
//! be opened is tried again, so a chip that is plugged in later is found.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use quorate_core::{
    event::{Event, ProbeFault, Worker},
    units::{Mono, SensorId},
};
use quorate_firmware_bridge::{Probe, SampleFault};

use crate::{clock::Clock, threads};

/// Questions that may wait for one bus. Samples are perishable: more would only be answered late.
const QUESTIONS_MAX: usize = 64;
/// A probe that could not be opened is tried again after this, in milliseconds.
const REOPEN_MS: u64 = 1_000;

/// Opens a probe; called again when it failed.
pub type Opener = Box<dyn FnMut() -> Result<Box<dyn Probe>, SampleFault> + Send>;

/// One configured sensor.
pub struct Source {
    /// The sensor.
    pub sensor: SensorId,
    /// What it shares a thread with.
    pub bus: String,
    /// How to open it.
    pub open: Opener,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Source")
            .field("sensor", &self.sensor)
            .field("bus", &self.bus)
            .finish_non_exhaustive()
    }
}

/// Hands questions to the buses.
#[derive(Debug)]
pub struct Sensing {
    buses: BTreeMap<SensorId, Sender<SensorId>>,
    dropped: Arc<AtomicU64>,
}

impl Sensing {
    /// Starts one thread per bus.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn spawn(
        sources: Vec<Source>,
        clock: Clock,
        events: &Sender<Event>,
    ) -> std::io::Result<Self> {
        let mut by_bus: BTreeMap<String, Vec<Source>> = BTreeMap::new();
        for source in sources {
            by_bus.entry(source.bus.clone()).or_default().push(source);
        }
        let mut buses = BTreeMap::new();
        for (bus, sources) in by_bus {
            let (sender, receiver) = crossbeam_channel::bounded(QUESTIONS_MAX);
            buses.extend(sources.iter().map(|source| (source.sensor, sender.clone())));
            let worker = BusWorker {
                slots: sources
                    .into_iter()
                    .map(|source| (source.sensor, Slot::new(source.open)))
                    .collect(),
                clock,
                events: events.clone(),
            };
            threads::spawn(&format!("bus-{bus}"), Worker::Sensing, events, move || {
                worker.run(&receiver)
            })?;
        }
        Ok(Self {
            buses,
            dropped: Arc::default(),
        })
    }

    /// Asks for a sample of `sensor`.
    pub fn poll(&self, sensor: SensorId) {
        let Some(bus) = self.buses.get(&sensor) else {
            return;
        };
        if let Err(TrySendError::Full(_)) = bus.try_send(sensor) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Questions dropped because their bus was busy.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Slot {
    open: Opener,
    probe: Option<Box<dyn Probe>>,
    refused: Option<(SampleFault, Mono)>,
}

impl Slot {
    fn new(open: Opener) -> Self {
        Self {
            open,
            probe: None,
            refused: None,
        }
    }

    fn sample(&mut self, now: Mono) -> Result<f64, SampleFault> {
        if let Some((fault, since)) = self.refused
            && now.since_ms(since) < REOPEN_MS
        {
            return Err(fault);
        }
        if self.probe.is_none() {
            match (self.open)() {
                Ok(probe) => self.probe = Some(probe),
                Err(fault) => {
                    self.refused = Some((fault, now));
                    return Err(fault);
                }
            }
        }
        let probe = self.probe.as_mut().expect("it was opened just now");
        let sample = probe.sample();
        if matches!(sample, Err(fault) if fault.is_permanent()) {
            // The device may come back under the same name: open it anew next time.
            self.probe = None;
        }
        sample
    }
}

struct BusWorker {
    slots: BTreeMap<SensorId, Slot>,
    clock: Clock,
    events: Sender<Event>,
}

impl BusWorker {
    fn run(mut self, questions: &Receiver<SensorId>) {
        for sensor in questions {
            let Some(slot) = self.slots.get_mut(&sensor) else {
                continue;
            };
            let sample = slot.sample(self.clock.now());
            let event = Event::Sample {
                sensor,
                taken: self.clock.now(),
                value: sample.map_err(|fault| ProbeFault {
                    cause: fault.as_str(),
                    permanent: fault.is_permanent(),
                }),
            };
            if self.events.send(event).is_err() {
                return;
            }
        }
    }
}
