//! The service manager: readiness, the watchdog and a line of status, where one asks for them.
//!
//! Owns: sd_notify. Must not: stroke the watchdog by itself; only the core's action does.

use quorate_core::health::Health;
use sd_notify::NotifyState;

/// The service manager, or nobody.
#[derive(Debug, Default)]
pub struct Supervisor {
    said: String,
}

impl Supervisor {
    /// A supervisor that has said nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a service manager started this process and can start it again.
    #[must_use]
    pub fn is_there(&self) -> bool {
        ["INVOCATION_ID", "NOTIFY_SOCKET"]
            .iter()
            .any(|name| std::env::var_os(name).is_some())
    }

    /// The agent runs.
    pub fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// The core found every stage in progress.
    pub fn stroke(&self) {
        notify(&[NotifyState::Watchdog]);
    }

    /// The agent ends as it was asked to.
    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// A line for people, sent when it changed.
    pub fn status(&mut self, health: &Health) {
        let link = health.link.as_ref().map_or("no broker", |link| link.state);
        let line = format!(
            "{}: {} quantities, {} records pending, link {link}",
            health.condition.as_str(),
            health.quantities.len(),
            health.store.report.pending
        );
        if line != self.said {
            notify(&[NotifyState::Status(&line)]);
            self.said = line;
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // Without a service manager this does nothing; a manager that cannot be told restarts us by its own watchdog.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
