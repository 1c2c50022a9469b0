//! Sensing: one thread per bus, so that a bus that hangs stops no other.
//!
//! Owns: the threads that call probes. Must not: judge a value, or know what kind a probe is.
//!
//! Invariants: a question that its bus has no room for is dropped and counted, never waited for; a probe that cannot
//! be opened is tried again, so a chip that is plugged in later is found; a probe that panics costs one sample.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
    /// Set where a probe is to be opened anew before its next sample.
    reopen: BTreeMap<SensorId, Arc<AtomicBool>>,
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
        let mut reopen = BTreeMap::new();
        for (bus, sources) in by_bus {
            let (sender, receiver) = crossbeam_channel::bounded(QUESTIONS_MAX);
            buses.extend(sources.iter().map(|source| (source.sensor, sender.clone())));
            let slots: BTreeMap<_, _> = sources
                .into_iter()
                .map(|source| (source.sensor, Slot::new(source.open)))
                .collect();
            reopen.extend(
                slots
                    .iter()
                    .map(|(sensor, slot)| (*sensor, Arc::clone(&slot.reopen))),
            );
            let worker = BusWorker {
                slots,
                clock,
                events: events.clone(),
            };
            threads::spawn(&format!("bus-{bus}"), Worker::Sensing, events, move || {
                worker.run(&receiver)
            })?;
        }
        Ok(Self {
            buses,
            reopen,
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

    /// Opens the probe of `sensor` anew before its next sample.
    pub fn reopen(&self, sensor: SensorId) {
        if let Some(flag) = self.reopen.get(&sensor) {
            flag.store(true, Ordering::Relaxed);
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
    reopen: Arc<AtomicBool>,
}

impl Slot {
    fn new(open: Opener) -> Self {
        Self {
            open,
            probe: None,
            refused: None,
            reopen: Arc::default(),
        }
    }

    /// A sample, or why there is none. A probe that panics costs its own sample and is opened anew.
    fn answer(&mut self, now: Mono) -> Result<f64, ProbeFault> {
        if self.reopen.swap(false, Ordering::Relaxed) {
            (self.probe, self.refused) = (None, None);
        }
        let sample = catch_unwind(AssertUnwindSafe(|| self.sample(now)));
        let Ok(sample) = sample else {
            self.probe = None;
            return Err(ProbeFault {
                cause: "panicked",
                permanent: false,
            });
        };
        sample.map_err(|fault| ProbeFault {
            cause: fault.as_str(),
            permanent: fault.is_permanent(),
        })
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
            let event = Event::Sample {
                sensor,
                value: slot.answer(self.clock.now()),
                taken: self.clock.now(),
            };
            if self.events.send(event).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

    use quorate_core::{
        event::{Event, ProbeFault},
        units::SensorId,
    };
    use quorate_firmware_bridge::{Probe, SampleFault};

    use super::{Sensing, Source};
    use crate::clock::Clock;

    /// Panics at its second sample.
    struct Fragile(u32);

    impl Probe for Fragile {
        fn sample(&mut self) -> Result<f64, SampleFault> {
            self.0 += 1;
            assert!(self.0 < 2, "a driver with a fault");
            Ok(21.5)
        }
    }

    #[test]
    fn a_probe_that_panics_costs_one_sample() {
        let (events, received) = crossbeam_channel::bounded(16);
        let source = Source {
            sensor: SensorId(0),
            bus: "one".into(),
            open: Box::new(|| Ok(Box::new(Fragile(0)) as Box<dyn Probe>)),
        };
        let sensing = Sensing::spawn(vec![source], Clock::real(), &events).unwrap();
        let mut answers = Vec::new();
        for _ in 0..4 {
            sensing.poll(SensorId(0));
            match received.recv().unwrap() {
                Event::Sample { value, .. } => answers.push(value),
                other => panic!("{other:?}"),
            }
        }
        let panicked = Err(ProbeFault {
            cause: "panicked",
            permanent: false,
        });
        assert_eq!(answers, [Ok(21.5), panicked, Ok(21.5), panicked]);
    }

    #[test]
    fn a_probe_is_opened_anew_when_that_is_asked_for() {
        let (events, received) = crossbeam_channel::bounded(16);
        let mut opened = 0.0;
        let source = Source {
            sensor: SensorId(0),
            bus: "one".into(),
            open: Box::new(move || {
                opened += 1.0;
                Ok(Box::new(Constant(opened)) as Box<dyn Probe>)
            }),
        };
        let sensing = Sensing::spawn(vec![source], Clock::real(), &events).unwrap();
        let mut answers = Vec::new();
        for reopen in [false, false, true, false] {
            if reopen {
                sensing.reopen(SensorId(0));
            }
            sensing.poll(SensorId(0));
            match received.recv().unwrap() {
                Event::Sample { value, .. } => answers.push(value),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(answers, [Ok(1.0), Ok(1.0), Ok(2.0), Ok(2.0)]);
    }

    struct Constant(f64);

    impl Probe for Constant {
        fn sample(&mut self) -> Result<f64, SampleFault> {
            Ok(self.0)
        }
    }
}
