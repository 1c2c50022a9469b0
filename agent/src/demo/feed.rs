//! The recorded machine: answers a poll with the sample that the trace holds for that tick.
//!
//! Owns: the rows of the trace. Must not: invent or repair a sample.

use crossbeam_channel::Sender;
use quorate_core::{
    event::Event,
    units::{Mono, SensorId},
};
use quorate_firmware_bridge::trace::{Cell, Trace, TraceError};

use crate::shell::Poll;

/// Time between two rows of the trace, in milliseconds.
pub(super) const ROW_MS: u64 = 1_000;
/// With `--keep` the trace starts again here, after the part in which the voter learns.
const AGAIN_FROM_ROW: usize = 80;

/// The trace, and the sensors that its columns are.
#[derive(Debug)]
pub(super) struct Feed {
    rows: Vec<Vec<Cell>>,
    origin: Option<Mono>,
    again: bool,
    events: Sender<Event>,
    dropped: u64,
}

impl Feed {
    /// Reads the whole trace; its columns are the sensors in the order of the configuration.
    pub(super) fn new(
        mut trace: Trace,
        again: bool,
        events: Sender<Event>,
    ) -> Result<Self, TraceError> {
        let mut rows = Vec::new();
        while let Some(row) = trace.next_row()? {
            rows.push(row.cells.to_vec());
        }
        Ok(Self {
            rows,
            origin: None,
            again,
            events,
            dropped: 0,
        })
    }

    fn row(&self, tick: Mono) -> Option<&[Cell]> {
        let elapsed_ms = tick.since_ms(self.origin?);
        let index = usize::try_from(elapsed_ms / ROW_MS).ok()?;
        let again = self.again.then(|| {
            let span = self.rows.len().saturating_sub(AGAIN_FROM_ROW).max(1);
            AGAIN_FROM_ROW + index.saturating_sub(AGAIN_FROM_ROW) % span
        });
        let index = if index < self.rows.len() {
            index
        } else {
            again?
        };
        self.rows.get(index).map(Vec::as_slice)
    }
}

impl Poll for Feed {
    /// A recording has no probe.
    fn reopen(&mut self, _sensor: SensorId) {}

    fn poll(&mut self, sensor: SensorId, tick: Mono, now: Mono) {
        self.origin.get_or_insert(tick);
        let cell = self
            .row(tick)
            .and_then(|row| row.get(sensor.index()))
            .copied();
        if let Some(Cell::Value(value)) = cell {
            let sample = Event::Sample {
                sensor,
                taken: now,
                value: Ok(value),
            };
            // A sample that finds no room is dropped, as on a device.
            if self.events.try_send(sample).is_err() {
                self.dropped += 1;
            }
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
