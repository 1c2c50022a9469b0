//! Sensing: one thread per bus, so that a bus that hangs stops no other.
//!
//! Owns: the threads that call probes. Must not: judge a value, or know what kind a probe is.
//!
//! Invariants: a question that its bus has no room for is dropped and counted, never waited for; a probe that cannot
//! be opened is tried again, so a chip that is plugged in later is found; a probe that panics costs one sample.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender};
use quorate_core::{
    event::{Event, ProbeFault, Reach, Worker},
    units::{BusId, Mono, SensorId},
};
use quorate_firmware_bridge::{FaultReach, Probe, SampleFault};

use crate::{
    clock::Clock,
    recovery, threads,
    timing::{BusTiming, Histogram},
};

/// A probe that could not be opened is tried again after this, in milliseconds.
const REOPEN_MS: u64 = 1_000;
/// At the end the threads have this long to give back their probes.
const END: Duration = Duration::from_secs(2);
/// A request to reset a bus may wait while it is being reset.
const RECOVERIES_MAX: usize = 1;

/// Opens a probe; called again when it failed.
pub type Opener = Box<dyn FnMut() -> Result<Box<dyn Probe>, SampleFault> + Send>;

/// One configured sensor.
pub struct Source {
    /// The sensor.
    pub sensor: SensorId,
    /// What it shares a thread with.
    pub bus: String,
    /// How long before each vote it is polled, in milliseconds, as far as a quantity has it.
    pub lead_ms: Option<u64>,
    /// The device file of its bus, where that may be reset.
    pub rebind: Option<PathBuf>,
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

/// What a bus is asked.
enum Question {
    /// A sample, and when it was due in microseconds.
    Sample(SensorId, Option<u64>),
    /// To be reset.
    Recover(BusId),
}

/// One sensor as whoever asks sees it.
#[derive(Debug)]
struct Place {
    bus: Sender<Question>,
    lead_ms: Option<u64>,
    shared: Arc<Shared>,
}

/// What the two sides of a bus share of one sensor.
#[derive(Debug, Default)]
struct Shared {
    /// The probe is to be opened anew before its next sample.
    reopen: AtomicBool,
    /// A question waits: another one would only be answered late.
    waits: AtomicBool,
}

/// What the two sides share of a bus.
#[derive(Debug, Default)]
struct BusShared {
    lateness: Histogram,
    transfer: Histogram,
    /// A reset waits or goes on: another one would only come after it.
    resetting: AtomicBool,
}

/// Hands questions to the buses.
#[derive(Debug)]
pub struct Sensing {
    places: BTreeMap<SensorId, Place>,
    buses: BTreeMap<String, (Sender<Question>, Arc<BusShared>)>,
    dropped: u64,
    /// Disconnected once every thread has given back its probes.
    ended: Receiver<()>,
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
        let (ends, ended) = crossbeam_channel::bounded(0);
        let mut sensing = Self {
            places: BTreeMap::new(),
            buses: BTreeMap::new(),
            dropped: 0,
            ended,
        };
        for (bus, sources) in by_bus {
            // One question of each sensor at most waits, and one for a reset.
            let (sender, receiver) = crossbeam_channel::bounded(sources.len() + RECOVERIES_MAX);
            let shared_bus = Arc::new(BusShared::default());
            let mut worker = BusWorker {
                slots: BTreeMap::new(),
                rebind: None,
                shared: Arc::clone(&shared_bus),
                clock,
                events: events.clone(),
                _ends: ends.clone(),
            };
            for source in sources {
                let shared = Arc::new(Shared::default());
                let place = Place {
                    bus: sender.clone(),
                    lead_ms: source.lead_ms,
                    shared: Arc::clone(&shared),
                };
                sensing.places.insert(source.sensor, place);
                worker.rebind = worker.rebind.or(source.rebind);
                let slot = Slot::new(source.open, shared);
                worker.slots.insert(source.sensor, slot);
            }
            threads::spawn(&format!("bus-{bus}"), Worker::Sensing, events, move || {
                worker.run(&receiver)
            })?;
            sensing.buses.insert(bus, (sender, shared_bus));
        }
        Ok(sensing)
    }

    /// Asks for a sample of `sensor` for `tick`.
    pub fn poll(&mut self, sensor: SensorId, tick: Mono) {
        let Some(place) = self.places.get(&sensor) else {
            return;
        };
        let due_us = place
            .lead_ms
            .map(|lead_ms| tick.0.saturating_sub(lead_ms).saturating_mul(1_000));
        if place.shared.waits.swap(true, Ordering::AcqRel) {
            self.dropped += 1;
        } else if place
            .bus
            .try_send(Question::Sample(sensor, due_us))
            .is_err()
        {
            // Nothing waits, so nothing will answer.
            place.shared.waits.store(false, Ordering::Release);
            self.dropped += 1;
        }
    }

    /// Opens the probe of `sensor` anew before its next sample.
    pub fn reopen(&self, sensor: SensorId) {
        if let Some(place) = self.places.get(&sensor) {
            place.shared.reopen.store(true, Ordering::Relaxed);
        }
    }

    /// Resets a bus. One that is being reset is not reset again.
    pub fn recover(&self, bus: BusId, name: &str) {
        if let Some((sender, shared)) = self.buses.get(name)
            && !shared.resetting.swap(true, Ordering::AcqRel)
            && sender.try_send(Question::Recover(bus)).is_err()
        {
            shared.resetting.store(false, Ordering::Release);
        }
    }

    /// Questions dropped because their bus was busy.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How punctual each bus is.
    #[must_use]
    pub fn timing(&self) -> Vec<BusTiming> {
        let timing = |(bus, (_, shared)): (&String, &(_, Arc<BusShared>))| BusTiming {
            bus: bus.clone(),
            lateness: shared.lateness.view(),
            transfer: shared.transfer.view(),
        };
        self.buses.iter().map(timing).collect()
    }
}

impl Drop for Sensing {
    /// Programs that were started for a source end with their probes: that is waited for, but not for a bus that hangs.
    fn drop(&mut self) {
        self.places.clear();
        self.buses.clear();
        let _ = self.ended.recv_timeout(END);
    }
}

struct Slot {
    open: Opener,
    probe: Option<Box<dyn Probe>>,
    refused: Option<(SampleFault, Mono)>,
    shared: Arc<Shared>,
}

impl Slot {
    fn new(open: Opener, shared: Arc<Shared>) -> Self {
        Self {
            open,
            probe: None,
            refused: None,
            shared,
        }
    }

    /// A sample, or why there is none. A probe that panics costs its own sample and is opened anew.
    fn answer(&mut self, now: Mono) -> Result<f64, ProbeFault> {
        if self.shared.reopen.swap(false, Ordering::Relaxed) {
            (self.probe, self.refused) = (None, None);
        }
        let sample = catch_unwind(AssertUnwindSafe(|| self.sample(now)));
        let Ok(sample) = sample else {
            self.probe = None;
            return Err(ProbeFault {
                cause: "panicked",
                permanent: false,
                reach: Reach::Device,
            });
        };
        sample.map_err(|fault| ProbeFault {
            cause: fault.as_str(),
            permanent: fault.is_permanent(),
            reach: match fault.reach() {
                FaultReach::Pending => Reach::Pending,
                FaultReach::Value => Reach::Value,
                FaultReach::Device => Reach::Device,
                FaultReach::Bus => Reach::Bus,
            },
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
    rebind: Option<PathBuf>,
    shared: Arc<BusShared>,
    clock: Clock,
    events: Sender<Event>,
    /// Dropped last, after the probes.
    _ends: Sender<()>,
}

impl BusWorker {
    fn run(mut self, questions: &Receiver<Question>) {
        for question in questions {
            let event = match question {
                Question::Sample(sensor, due_us) => self.sample(sensor, due_us),
                Question::Recover(bus) => Some(self.recover(bus)),
            };
            if let Some(event) = event
                && self.events.send(event).is_err()
            {
                return;
            }
        }
    }

    fn sample(&mut self, sensor: SensorId, due_us: Option<u64>) -> Option<Event> {
        let slot = self.slots.get_mut(&sensor)?;
        slot.shared.waits.store(false, Ordering::Release);
        let began_us = self.clock.now_us();
        if let Some(due_us) = due_us {
            let lateness_us = began_us.saturating_sub(due_us);
            self.shared.lateness.count(lateness_us);
        }
        let value = slot.answer(self.clock.now());
        let transfer_us = self.clock.now_us().saturating_sub(began_us);
        self.shared.transfer.count(transfer_us);
        Some(Event::Sample {
            sensor,
            value,
            taken: self.clock.now(),
        })
    }

    /// Closes everything on the bus and binds its driver anew.
    fn recover(&mut self, bus: BusId) -> Event {
        for slot in self.slots.values_mut() {
            if let Some(mut probe) = slot.probe.take() {
                // A driver that panics while it is closed is as good as closed.
                let _ = catch_unwind(AssertUnwindSafe(|| probe.close()));
            }
            slot.refused = None;
        }
        let outcome = match &self.rebind {
            Some(file) => recovery::rebind(file, Path::new("/sys")),
            None => Err("not-configured"),
        };
        self.shared.resetting.store(false, Ordering::Release);
        Event::Recovered { bus, outcome }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

    use quorate_core::{
        event::{Event, ProbeFault, Reach},
        units::{BusId, Mono, SensorId},
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
            lead_ms: None,
            rebind: None,
            open: Box::new(|| Ok(Box::new(Fragile(0)) as Box<dyn Probe>)),
        };
        let mut sensing = Sensing::spawn(vec![source], Clock::real(), &events).unwrap();
        let mut answers = Vec::new();
        for _ in 0..4 {
            sensing.poll(SensorId(0), Mono(1_000));
            match received.recv().unwrap() {
                Event::Sample { value, .. } => answers.push(value),
                other => panic!("{other:?}"),
            }
        }
        let panicked = Err(ProbeFault {
            cause: "panicked",
            permanent: false,
            reach: Reach::Device,
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
            lead_ms: None,
            rebind: None,
            open: Box::new(move || {
                opened += 1.0;
                Ok(Box::new(Constant(opened)) as Box<dyn Probe>)
            }),
        };
        let mut sensing = Sensing::spawn(vec![source], Clock::real(), &events).unwrap();
        let mut answers = Vec::new();
        for reopen in [false, false, true, false] {
            if reopen {
                sensing.reopen(SensorId(0));
            }
            sensing.poll(SensorId(0), Mono(1_000));
            match received.recv().unwrap() {
                Event::Sample { value, .. } => answers.push(value),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(answers, [Ok(1.0), Ok(1.0), Ok(2.0), Ok(2.0)]);
    }

    #[test]
    fn a_bus_that_is_busy_is_asked_once_by_each_sensor_and_reset_only_where_that_is_allowed() {
        let (events, received) = crossbeam_channel::bounded(16);
        let (release, held) = crossbeam_channel::bounded::<()>(0);
        let source = Source {
            sensor: SensorId(0),
            bus: "one".into(),
            lead_ms: Some(200),
            rebind: None,
            open: Box::new(move || {
                let _ = held.recv();
                Ok(Box::new(Constant(1.0)) as Box<dyn Probe>)
            }),
        };
        let clock = Clock::real();
        let mut sensing = Sensing::spawn(vec![source], clock, &events).unwrap();
        let tick = clock.now().plus_ms(200);
        sensing.poll(SensorId(0), tick);
        // The thread takes the first question and is held up; of the others one waits.
        while sensing.timing()[0].lateness.count() == 0 {
            std::thread::yield_now();
        }
        for _ in 0..5 {
            sensing.poll(SensorId(0), tick);
        }
        assert_eq!(sensing.dropped(), 4);
        sensing.recover(BusId(0), "one");
        drop(release);
        let is_sample = |event: Event| matches!(event, Event::Sample { value: Ok(_), .. });
        assert!(is_sample(received.recv().unwrap()) && is_sample(received.recv().unwrap()));
        let recovered = Event::Recovered {
            bus: BusId(0),
            outcome: Err("not-configured"),
        };
        assert_eq!(received.recv().unwrap(), recovered);
        assert_eq!(sensing.timing()[0].transfer.count(), 2);
    }

    struct Constant(f64);

    impl Probe for Constant {
        fn sample(&mut self) -> Result<f64, SampleFault> {
            Ok(self.0)
        }
    }
}
