//! One chip that serves several sensors.
//!
//! Owns the life of an opened chip: opened when first asked, set up before its first value and after a fault, closed when
//! it is gone. Keeps what one measurement gave for the other channels of the chip, for at most [`FRESH_MS_MAX`].
//!
//! Invariants: no value is given twice, and none that is older than that; a fault of the chip is told to every channel
//! once without asking the chip again, so that a chip that times out costs one time-out and not one per channel; a driver
//! that panics leaves a chip that is opened anew.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Chip, Values};
use crate::{Probe, SampleFault};

/// The oldest value that is given to another channel, in milliseconds. The sensors of a quantity are polled together, so
/// this bridges the time that the poll of a bus takes.
pub const FRESH_MS_MAX: u64 = 100;

/// A bus that could not be opened is tried again after this, in milliseconds.
pub const REOPEN_MS: u64 = 1_000;

/// Opens the bus and makes the driver; called again when the device was gone.
pub type OpenChip = Box<dyn FnMut() -> Result<Box<dyn Chip>, SampleFault> + Send>;
/// Monotonic time in milliseconds.
pub type Now = Box<dyn Fn() -> u64 + Send>;

/// A chip and its channels.
#[derive(Clone)]
pub struct SharedChip {
    // Every channel of a chip lives on the thread of its bus: the lock is never waited for.
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    open: OpenChip,
    now: Now,
    chip: Option<Box<dyn Chip>>,
    /// Why it could not be opened, and when.
    refused: Option<(SampleFault, u64)>,
    ready: bool,
    values: Values,
    measured_ms: Option<u64>,
}

impl fmt::Debug for SharedChip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedChip").finish_non_exhaustive()
    }
}

impl SharedChip {
    /// A chip that is not opened yet.
    #[must_use]
    pub fn new(open: OpenChip, now: Now) -> Self {
        let inner = Inner {
            open,
            now,
            chip: None,
            refused: None,
            ready: false,
            values: Values::default(),
            measured_ms: None,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// A probe of one channel.
    #[must_use]
    pub fn probe(&self, channel: usize) -> ChannelProbe {
        ChannelProbe {
            chip: self.clone(),
            channel,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            // The driver panicked in the middle of something: nothing of it is used again.
            self.inner.clear_poison();
            let mut inner = poisoned.into_inner();
            inner.close();
            inner
        })
    }
}

impl Inner {
    fn sample(&mut self, channel: usize) -> Result<f64, SampleFault> {
        let now_ms = (self.now)();
        let fresh = self
            .measured_ms
            .is_some_and(|then| now_ms.saturating_sub(then) <= FRESH_MS_MAX);
        if fresh && let Some(value) = self.values.take(channel) {
            return value;
        }
        self.values = Values::default();
        if let Err(fault) = self.measure(channel) {
            self.values.fail(fault);
            if fault.is_permanent() {
                self.chip = None;
            }
            // The configuration that was just written is the one case where a fault keeps the state.
            if fault != SampleFault::NotReady {
                self.ready = false;
            }
        }
        self.measured_ms = Some((self.now)());
        self.values
            .take(channel)
            .unwrap_or(Err(SampleFault::Malformed))
    }

    fn measure(&mut self, channel: usize) -> Result<(), SampleFault> {
        let chip = match &mut self.chip {
            Some(chip) => chip,
            None => {
                self.ready = false;
                let now_ms = (self.now)();
                if let Some((fault, then_ms)) = self.refused
                    && now_ms.saturating_sub(then_ms) < REOPEN_MS
                {
                    return Err(fault);
                }
                let opened = (self.open)();
                self.refused = opened.as_ref().err().map(|fault| (*fault, now_ms));
                self.chip.insert(opened?)
            }
        };
        if !self.ready {
            chip.set_up()?;
            self.ready = true;
        }
        chip.measure(channel, &mut self.values)
    }

    fn close(&mut self) {
        self.chip = None;
        self.ready = false;
        self.values = Values::default();
        self.measured_ms = None;
    }
}

/// One channel of a chip.
#[derive(Clone, Debug)]
pub struct ChannelProbe {
    chip: SharedChip,
    channel: usize,
}

impl Probe for ChannelProbe {
    fn sample(&mut self) -> Result<f64, SampleFault> {
        self.chip.lock().sample(self.channel)
    }

    fn close(&mut self) {
        self.chip.lock().close();
    }
}

#[cfg(test)]
mod tests {
    use super::{FRESH_MS_MAX, SharedChip};
    use crate::chips::{Chip, Values};
    use crate::{Probe, SampleFault};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Gives its measurements a number, and fails as the script says.
    struct Scripted {
        script: Vec<Result<(), SampleFault>>,
        measured: u32,
        set_ups: Arc<AtomicU64>,
    }

    impl Chip for Scripted {
        fn set_up(&mut self) -> Result<(), SampleFault> {
            self.set_ups.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn measure(&mut self, _: usize, values: &mut Values) -> Result<(), SampleFault> {
            assert!(!self.script.is_empty(), "the script is at its end");
            self.script.remove(0)?;
            self.measured += 1;
            let number = f64::from(self.measured);
            values.set(0, Ok(number));
            values.set(1, Ok(number + 0.5));
            values.set(2, Err(SampleFault::OpenCircuit));
            Ok(())
        }
    }

    struct Rig {
        chip: SharedChip,
        now: Arc<AtomicU64>,
        set_ups: Arc<AtomicU64>,
        opened: Arc<AtomicU64>,
    }

    fn rig(script: Vec<Result<(), SampleFault>>) -> Rig {
        let now = Arc::new(AtomicU64::new(1000));
        let set_ups = Arc::new(AtomicU64::new(0));
        let opened = Arc::new(AtomicU64::new(0));
        let (clock, counter, openings) = (now.clone(), set_ups.clone(), opened.clone());
        let chip = SharedChip::new(
            Box::new(move || {
                openings.fetch_add(1, Ordering::Relaxed);
                Ok(Box::new(Scripted {
                    script: script.clone(),
                    measured: 0,
                    set_ups: counter.clone(),
                }) as Box<dyn Chip>)
            }),
            Box::new(move || clock.load(Ordering::Relaxed)),
        );
        Rig {
            chip,
            now,
            set_ups,
            opened,
        }
    }

    #[test]
    fn channels_of_one_moment_share_one_measurement() {
        let rig = rig(vec![Ok(()); 3]);
        let mut probes = [rig.chip.probe(0), rig.chip.probe(1), rig.chip.probe(2)];
        let mut round = || probes.each_mut().map(|probe| probe.sample());
        let open = Err(SampleFault::OpenCircuit);
        assert_eq!(round(), [Ok(1.0), Ok(1.5), open]);
        // Asked again at the same moment: a value is never given twice.
        assert_eq!(round(), [Ok(2.0), Ok(2.5), open]);
        assert_eq!(rig.set_ups.load(Ordering::Relaxed), 1);
        // One channel alone, and the other when its value has become old.
        assert_eq!(rig.chip.probe(0).sample(), Ok(3.0));
        rig.now.fetch_add(FRESH_MS_MAX + 1, Ordering::Relaxed);
        assert!(
            catch_unwind(AssertUnwindSafe(|| rig.chip.probe(1).sample())).is_err(),
            "an old value would have been 3.5"
        );
    }

    #[test]
    fn a_fault_sets_up_again_and_not_ready_does_not() {
        let fault = SampleFault::Timeout;
        let rig = rig(vec![Ok(()), Err(SampleFault::NotReady), Err(fault), Ok(())]);
        let mut probe = rig.chip.probe(0);
        let samples = [(); 4].map(|()| probe.sample());
        assert_eq!(
            samples,
            [Ok(1.0), Err(SampleFault::NotReady), Err(fault), Ok(2.0)]
        );
        assert_eq!(rig.set_ups.load(Ordering::Relaxed), 2);
        assert_eq!(rig.opened.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_chip_that_times_out_costs_one_time_out() {
        let rig = rig(vec![Err(SampleFault::Timeout), Ok(())]);
        let timeout = Err(SampleFault::Timeout);
        assert_eq!(rig.chip.probe(0).sample(), timeout);
        assert_eq!(rig.chip.probe(1).sample(), timeout);
        assert_eq!(rig.chip.probe(0).sample(), Ok(1.0));
    }

    #[test]
    fn a_bus_that_is_not_there_is_tried_once_a_second() {
        let (now, opened) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (clock, counter) = (now.clone(), opened.clone());
        let chip = SharedChip::new(
            Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                Err(SampleFault::Permission)
            }),
            Box::new(move || clock.load(Ordering::Relaxed)),
        );
        let mut probe = chip.probe(0);
        for (now_ms, times) in [(0, 1), (500, 1), (999, 1), (1000, 2), (1001, 2), (2500, 3)] {
            now.store(now_ms, Ordering::Relaxed);
            assert_eq!(probe.sample(), Err(SampleFault::Permission));
            assert_eq!(opened.load(Ordering::Relaxed), times, "{now_ms}");
        }
    }

    #[test]
    fn a_device_that_was_gone_or_a_driver_that_panicked_is_opened_anew() {
        let rig = rig(vec![Err(SampleFault::Missing)]);
        let mut probe = rig.chip.probe(0);
        assert_eq!(probe.sample(), Err(SampleFault::Missing));
        assert_eq!(probe.sample(), Err(SampleFault::Missing));
        assert_eq!(rig.opened.load(Ordering::Relaxed), 2);
        let rig = self::rig(vec![]);
        for opened in 1..=2 {
            let mut probe = rig.chip.probe(0);
            assert!(catch_unwind(AssertUnwindSafe(|| probe.sample())).is_err());
            assert_eq!(rig.opened.load(Ordering::Relaxed), opened);
        }
    }
}
