//! The front end of one sensor: a raw sample becomes a reading that says whether it can be used.
//!
//! Owns: the newest valid value of a sensor and its newest complaint. Must not: compare sensors with one another.
//!
//! Invariant: a value is kept only when it is finite and in range; the newest thing that a sensor said decides.

use crate::{
    event::ProbeFault,
    units::Mono,
    vote::{Reading, Reason},
};

/// One sensor.
#[derive(Clone, Debug)]
pub(crate) struct Sensor {
    range: Option<(f64, f64)>,
    value: f64,
    taken: Option<Mono>,
    complaint: Option<Reason>,
    /// Valid values so far; a vote compares it with the count it saw last.
    pub(crate) updates: u64,
    pub(crate) fault: Option<(ProbeFault, Mono)>,
}

impl Sensor {
    pub(crate) fn new(range: Option<(f64, f64)>) -> Self {
        Self {
            range,
            value: 0.0,
            taken: None,
            complaint: None,
            updates: 0,
            fault: None,
        }
    }

    /// Takes what the probe said. Returns whether its complaint began, changed or ended.
    pub(crate) fn accept(&mut self, taken: Mono, sample: Result<f64, ProbeFault>) -> bool {
        let before = self.fault.map(|(fault, _)| fault);
        match sample {
            Err(fault) => {
                self.complaint = Some(Reason::SensorError);
                let since = self
                    .fault
                    .filter(|(old, _)| *old == fault)
                    .map_or(taken, |(_, since)| since);
                self.fault = Some((fault, since));
            }
            Ok(value) => {
                self.fault = None;
                self.complaint = self.judge(value);
                if self.complaint.is_none() {
                    self.value = value;
                    self.taken = Some(taken);
                    self.updates += 1;
                }
            }
        }
        self.fault.map(|(fault, _)| fault) != before
    }

    fn judge(&self, value: f64) -> Option<Reason> {
        if !value.is_finite() {
            return Some(Reason::NotANumber);
        }
        let outside = |(low, high): (f64, f64)| value < low || value > high;
        self.range
            .is_some_and(outside)
            .then_some(Reason::OutOfRange)
    }

    /// The reading at `now` for a quantity that last saw `updates_seen` values.
    pub(crate) fn reading(&self, now: Mono, updates_seen: u64, timing: Timing) -> Reading {
        let Some(taken) = self.taken else {
            return Reading::absent(self.complaint.unwrap_or(Reason::NoData));
        };
        let age_ms = now.since_ms(taken);
        let fault = self
            .complaint
            .or((age_ms > timing.timeout_ms).then_some(Reason::Timeout));
        let fresh = fault.is_none() && self.updates != updates_seen;
        let age_ticks = u32::try_from(age_ms / timing.period_ms.max(1)).unwrap_or(u32::MAX);
        Reading {
            value: self.value,
            usable: fault.is_none(),
            fresh,
            age_ticks: if fresh { 0 } else { age_ticks.max(1) },
            fault,
        }
    }

    /// The newest valid value and when it was taken.
    pub(crate) fn newest(&self) -> Option<(f64, Mono)> {
        self.taken.map(|taken| (self.value, taken))
    }
}

/// The times of a quantity that a reading depends upon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) period_ms: u64,
    pub(crate) timeout_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::{Sensor, Timing};
    use crate::{
        event::ProbeFault,
        units::Mono,
        vote::{Reading, Reason},
    };

    const TIMING: Timing = Timing {
        period_ms: 1000,
        timeout_ms: 10_000,
    };
    const NO_ACKNOWLEDGE: ProbeFault = ProbeFault {
        cause: "no-acknowledge",
        permanent: false,
        reach: crate::event::Reach::Device,
    };

    fn check(
        samples: &[(u64, Result<f64, ProbeFault>)],
        now_ms: u64,
        usable: bool,
        fault: Option<Reason>,
    ) {
        let mut sensor = Sensor::new(Some((-40.0, 125.0)));
        for (taken_ms, sample) in samples {
            sensor.accept(Mono(*taken_ms), *sample);
        }
        let reading = sensor.reading(Mono(now_ms), 0, TIMING);
        assert_eq!((reading.usable, reading.fault), (usable, fault));
    }

    #[test]
    fn the_newest_thing_that_it_said_decides() {
        check(&[], 0, false, Some(Reason::NoData));
        check(&[(0, Ok(20.0))], 0, true, None);
        check(&[(0, Ok(20.0))], 10_000, true, None);
        check(&[(0, Ok(20.0))], 10_001, false, Some(Reason::Timeout));
        check(
            &[(0, Ok(20.0)), (1, Ok(f64::NAN))],
            1,
            false,
            Some(Reason::NotANumber),
        );
        check(
            &[(0, Ok(20.0)), (1, Ok(f64::INFINITY))],
            1,
            false,
            Some(Reason::NotANumber),
        );
        check(
            &[(0, Ok(20.0)), (1, Ok(125.5))],
            1,
            false,
            Some(Reason::OutOfRange),
        );
        check(
            &[(0, Ok(20.0)), (1, Err(NO_ACKNOWLEDGE))],
            1,
            false,
            Some(Reason::SensorError),
        );
        check(&[(0, Err(NO_ACKNOWLEDGE)), (1, Ok(20.0))], 1, true, None);
    }

    #[test]
    fn a_value_is_fresh_once() {
        let mut sensor = Sensor::new(None);
        sensor.accept(Mono(5), Ok(1.5));
        assert_eq!(sensor.reading(Mono(5), 0, TIMING), Reading::fresh(1.5));
        let held = sensor.reading(Mono(2005), sensor.updates, TIMING);
        assert_eq!((held.fresh, held.age_ticks), (false, 2));
    }

    #[test]
    fn a_complaint_is_reported_when_it_begins_and_ends() {
        let mut sensor = Sensor::new(None);
        assert!(sensor.accept(Mono(1), Err(NO_ACKNOWLEDGE)));
        assert!(!sensor.accept(Mono(2), Err(NO_ACKNOWLEDGE)));
        assert_eq!(sensor.fault, Some((NO_ACKNOWLEDGE, Mono(1))));
        assert!(sensor.accept(Mono(3), Ok(1.0)));
        assert!(!sensor.accept(Mono(4), Ok(1.0)));
    }
}
