//! Log lines, and which of them are written.
//!
//! Owns: the subscriber of `tracing`. Must not: decide what is worth a line.

use std::{
    fmt,
    io::{self, IsTerminal as _},
};

use quorate_core::command::LogLevel;
use tracing_subscriber::{
    Registry, filter::LevelFilter, fmt::layer, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

/// Changes the level while the agent runs.
#[derive(Clone)]
pub struct Logging(reload::Handle<LevelFilter, Registry>);

impl fmt::Debug for Logging {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Logging").finish_non_exhaustive()
    }
}

/// Log lines go to standard error from now on; the service manager or a person reads them there.
#[must_use]
pub fn to_stderr(level: tracing::Level) -> Logging {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let lines = layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    Logging(handle)
}

impl Logging {
    /// Writes lines of this level and the more important ones, until the process ends. False when nobody listens.
    #[must_use]
    pub fn set(&self, level: LogLevel) -> bool {
        let level = match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        };
        self.0.reload(level).is_ok()
    }
}
