//! The last event records, for whoever asks the endpoint what happened.
//!
//! Owns: a bounded ring of event records as they were made. Must not: be asked for by the core; nothing depends on it.
//!
//! Invariants: at most [`EVENTS_MAX`] records of at most [`EVENT_BYTES_MAX`] bytes each are kept; a reader copies
//! pointers under the lock and nothing else, so that the agent's loop never waits for one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Events that are kept.
const EVENTS_MAX: usize = 128;
/// A longer record is not kept: it is in the store, and in what is delivered.
const EVENT_BYTES_MAX: usize = 4 * 1024;

/// The ring, shared by the agent's loop and the endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent(Arc<Mutex<VecDeque<Arc<[u8]>>>>);

impl Recent {
    /// Keeps one more record; the oldest makes room.
    pub(super) fn push(&self, payload: &Arc<[u8]>) {
        if payload.len() > EVENT_BYTES_MAX {
            return;
        }
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= EVENTS_MAX {
            ring.pop_front();
        }
        ring.push_back(Arc::clone(payload));
    }

    /// All of them as JSON, oldest first.
    pub(super) fn json(&self) -> String {
        let events: Vec<_> = {
            let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            ring.iter().cloned().collect()
        };
        let mut body = String::from(r#"{"schema":1,"events":["#);
        for (index, event) in events.iter().enumerate() {
            if index > 0 {
                body.push(',');
            }
            // The agent's own records are JSON, and JSON is text.
            body.push_str(std::str::from_utf8(event).unwrap_or("null"));
        }
        body.push_str("]}");
        body
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_newest_are_kept_in_order_and_nothing_beyond_the_bound() {
        let recent = Recent::default();
        assert_eq!(recent.json(), r#"{"schema":1,"events":[]}"#);
        for seq in 0..EVENTS_MAX + 3 {
            let payload: Arc<[u8]> = Arc::from(format!(r#"{{"seq":{seq}}}"#).into_bytes());
            recent.push(&payload);
        }
        recent.push(&Arc::from(vec![b' '; EVENT_BYTES_MAX + 1]));
        let body: serde_json::Value = serde_json::from_str(&recent.json()).unwrap();
        let events = body["events"].as_array().unwrap();
        assert_eq!(events.len(), EVENTS_MAX);
        assert_eq!(
            (events[0]["seq"].as_u64(), events[127]["seq"].as_u64()),
            (Some(3), Some(130))
        );
    }
}
