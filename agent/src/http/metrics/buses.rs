//! Breakers and punctuality of buses in the Prometheus text format.
//!
//! Owns: those families. The rules of the parent hold here too.

use std::fmt::Write as _;

use quorate_core::health::Health;

use super::{Exposition, Snapshot, escaped};
use crate::timing::{BOUNDS_US, HistogramView};

/// What a breaker can be.
const BREAKER: [&str; 3] = ["closed", "half-open", "open"];

/// Breakers of devices and buses, and how punctual the buses are.
pub(super) fn write(out: &mut Exposition, snapshot: &Snapshot) {
    breakers(out, &snapshot.shown.health);
    punctuality(out, snapshot);
}

fn breakers(out: &mut Exposition, health: &Health) {
    out.gauge(
        "quorate_sensor_breaker_state",
        "1 for the state of the breaker of the sensor's device.",
    );
    for sensor in &health.sensors {
        for state in BREAKER.iter().filter(|_| sensor.breaker.is_some()) {
            let labels = [("sensor", sensor.id.as_str()), ("state", state)];
            out.sample(&labels, u8::from(sensor.breaker == Some(state)));
        }
    }
    out.gauge(
        "quorate_bus_breaker_state",
        "1 for the state of the breaker of the bus.",
    );
    for bus in &health.buses {
        for state in BREAKER {
            let labels = [("bus", bus.id.as_str()), ("state", state)];
            out.sample(&labels, u8::from(bus.state == state));
        }
    }
    out.head(
        "quorate_bus_breaker_openings_total",
        "counter",
        "How often the breaker of the bus opened.",
    );
    for bus in &health.buses {
        out.sample(&[("bus", &bus.id)], bus.openings);
    }
}

fn punctuality(out: &mut Exposition, snapshot: &Snapshot) {
    out.histogram(
        "quorate_sample_lateness_seconds",
        "From when a sample is due to when its transfer begins.",
    );
    for timing in &snapshot.shown.timing {
        out.distribution(&timing.bus, &timing.lateness);
    }
    out.histogram(
        "quorate_sample_transfer_seconds",
        "How long a sample takes.",
    );
    for timing in &snapshot.shown.timing {
        out.distribution(&timing.bus, &timing.transfer);
    }
}

impl Exposition {
    fn histogram(&mut self, family: &'static str, help: &str) {
        self.head(family, "histogram", help);
    }

    /// One histogram of the family, of a bus.
    fn distribution(&mut self, bus: &str, view: &HistogramView) {
        let family = self.family;
        let bus = escaped(bus);
        let seconds = |us: u64| std::time::Duration::from_micros(us).as_secs_f64();
        let mut below = 0;
        let bounds = BOUNDS_US.map(|bound| seconds(bound).to_string());
        let bounds = bounds.into_iter().chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(view.buckets) {
            below += count;
            let _ = writeln!(
                self.text,
                "{family}_bucket{{bus=\"{bus}\",le=\"{bound}\"}} {below}"
            );
        }
        let sum = seconds(view.sum_us);
        let _ = writeln!(self.text, "{family}_sum{{bus=\"{bus}\"}} {sum}");
        let _ = writeln!(self.text, "{family}_count{{bus=\"{bus}\"}} {below}");
    }
}
