//! What the shell does for a command.
//!
//! Owns: the answers that the core cannot give itself. Must not: decide whether a command may be given, or wait.

use quorate_core::command::{Deed, Outcome};

use crate::{http::Shown, logging::Logging, supervisor::Supervisor};

/// What commands work with.
#[derive(Debug)]
pub struct Execution {
    /// Name of the device, for the status.
    pub device: String,
    /// This boot of the device, for the status.
    pub boot: quorate_core::units::BootId,
    /// The configuration in force without secrets, JSON.
    pub configuration: String,
    /// The log, where this process set it up.
    pub logging: Option<Logging>,
}

impl Execution {
    /// Carries a command out. `shown` is the picture of now.
    pub(crate) fn execute(&self, deed: &Deed, shown: Shown, supervisor: &Supervisor) -> Outcome {
        match deed {
            Deed::Status => Ok(crate::http::status_json(
                &self.device,
                env!("CARGO_PKG_VERSION"),
                self.boot,
                shown,
            )),
            Deed::ConfigGet => Ok(self.configuration.clone()),
            Deed::LogLevel(level) => match &self.logging {
                Some(logging) if logging.set(*level) => {
                    tracing::info!(?level, "the log level was set by a command");
                    Ok("{}".to_owned())
                }
                _ => Err("no-log"),
            },
            Deed::Restart { force } => {
                if *force || supervisor.is_there() {
                    Ok("{}".to_owned())
                } else {
                    Err("no-service-manager")
                }
            }
            // The core does these itself, or the keeper of the models.
            Deed::Ping | Deed::Replay { .. } | Deed::SensorReset { .. } | Deed::Model(_) => {
                Err("not-for-the-shell")
            }
        }
    }
}
