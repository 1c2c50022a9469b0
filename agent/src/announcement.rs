//! The announcement: what the retained status at the broker says of the agent while it is online.
//!
//! Owns: the form of that message and how often it is renewed. Must not: send it, or print any setting.

use quorate_core::units::Mono;
use serde_json::{Map, Value, json};

use crate::http::{self, Shown};

/// A status that changes all the time is sent at most this often, in milliseconds.
const PAUSE_MS: u64 = 10_000;
/// Nothing is announced before this much of a start, in milliseconds: until then everything looks bad.
const SETTLED_MS: u64 = 5_000;
/// Components that one status names; the endpoint names all of them.
const FAULTS_MAX: usize = 32;

/// What was announced last.
#[derive(Debug)]
pub struct Announcement {
    device: String,
    boot: String,
    said: String,
    next: Mono,
}

impl Announcement {
    /// Nothing was announced yet.
    #[must_use]
    pub fn new(device: String, boot: String) -> Self {
        Self {
            device,
            boot,
            said: String::new(),
            next: Mono(0),
        }
    }

    /// The new status, when it changed and the last one is old enough.
    pub fn renewed(&mut self, shown: &Shown) -> Option<String> {
        let now = shown.health.now;
        if now < self.next || now.since_ms(shown.health.started) < SETTLED_MS {
            return None;
        }
        let status = self.status(shown);
        if status == self.said {
            return None;
        }
        self.said.clone_from(&status);
        self.next = now.plus_ms(PAUSE_MS);
        Some(status)
    }

    fn status(&self, shown: &Shown) -> String {
        // Who reads this sees the link by that it is there at all.
        let mut faults: Vec<_> = http::faults(&shown.health);
        faults.retain(|(part, _)| part != "link");
        let more = faults.len().saturating_sub(FAULTS_MAX);
        faults.truncate(FAULTS_MAX);
        let faults: Map<String, Value> = faults
            .into_iter()
            .map(|(part, detail)| (part, detail.into()))
            .collect();
        json!({
            "state": "online",
            "device": self.device,
            "version": env!("CARGO_PKG_VERSION"),
            "boot": self.boot,
            "condition": shown.health.condition.as_str(),
            "faults": faults,
            "more_faults": more,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use quorate_core::units::Mono;

    use super::{Announcement, PAUSE_MS, SETTLED_MS};
    use crate::http::tests::shown;

    #[test]
    fn a_fault_is_announced_once_and_not_too_often() {
        let mut announcement = Announcement::new("press".into(), "boot".into());
        let start = shown(Mono(0)).health.started;
        let at = |after_ms| shown(start.plus_ms(after_ms));
        assert_eq!(announcement.renewed(&at(SETTLED_MS - 1)), None);
        let first = announcement.renewed(&at(SETTLED_MS)).unwrap();
        let first: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert_eq!(first["state"], "online");
        assert_eq!(first["faults"]["quantity:room"], "degraded");
        let later_ms = SETTLED_MS + PAUSE_MS;
        assert_eq!(announcement.renewed(&at(later_ms)), None);
        let mut other = at(later_ms);
        other.health.stalled.push("store");
        assert!(announcement.renewed(&other).is_some());
        other.health.stalled.clear();
        assert_eq!(announcement.renewed(&other), None, "too soon");
        other.health.now = start.plus_ms(later_ms + PAUSE_MS);
        assert!(announcement.renewed(&other).is_some());
    }
}
