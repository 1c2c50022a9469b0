//! The way of events to the core.
//!
//! Owns: the events that found the core's queue full. Must not: block the runtime, or drop an event.

use std::{collections::VecDeque, time::Duration};

use crossbeam_channel::TrySendError;
use quorate_core::event::Event;
use tokio::time::sleep;

/// How often a full event queue of the core is tried again.
const OUTLET_RETRY: Duration = Duration::from_millis(2);

/// The way of events to the core. It never blocks the runtime: what finds the queue full waits here, and as long as it
/// does nothing more is taken from the client, so that what waits is bounded by the messages in flight.
pub(super) struct Outlet {
    events: crossbeam_channel::Sender<Event>,
    waiting: VecDeque<Event>,
    /// The core is gone.
    pub(super) closed: bool,
}

impl Outlet {
    pub(super) const fn new(events: crossbeam_channel::Sender<Event>) -> Self {
        Self {
            events,
            waiting: VecDeque::new(),
            closed: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, event: Event) {
        self.waiting.push_back(event);
        self.retry();
    }

    pub(super) fn retry(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.waiting.push_front(event);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => {
                    self.closed = true;
                    self.waiting.clear();
                    return;
                }
            }
        }
    }

    /// Waits a moment and tries again; may be dropped at any point.
    pub(super) async fn wait(&mut self) {
        sleep(OUTLET_RETRY).await;
        self.retry();
    }
}
