//! What an opening finds and why it fails.
//!
//! Owns: the words for both. Must not: hold behaviour.

use std::{fmt, path::PathBuf};

use quorate_core::{
    event::{Event, GoneCause, StoreFault},
    units::{Epoch, Seq},
};

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("outbox {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The system refuses; the store is left as it is.
    #[error("outbox {} cannot be opened: {}", .path.display(), .fault.detail)]
    Unavailable {
        /// Its directory.
        path: PathBuf,
        /// What was said.
        fault: StoreFault,
    },
}

/// What an opening found that should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// What lay at the path could not be used and was renamed.
    SetAside {
        /// Its new name.
        to: PathBuf,
        /// Why.
        reason: String,
    },
    /// Intact records were brought back from the raw file.
    Salvaged {
        /// How many.
        count: u64,
    },
    /// Records are gone for good.
    Gone(Gone),
    /// The sequence could not be proven, so a new one begins.
    NewEpoch(Epoch),
}

impl Finding {
    /// The fact for the core, where there is one.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        match self {
            Self::Gone(gone) => Some(gone.event()),
            Self::SetAside { .. } | Self::Salvaged { .. } | Self::NewEpoch(_) => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAside { to, reason } => {
                write!(
                    formatter,
                    "the damaged outbox was set aside as {}: {reason}",
                    to.display()
                )
            }
            Self::Salvaged { count } => write!(
                formatter,
                "{count} records were salvaged from a damaged outbox"
            ),
            Self::Gone(gone) => write!(
                formatter,
                "{} records between {} and {} are gone or may be: {}",
                gone.count,
                gone.first.0,
                gone.last.0,
                gone.cause.as_str()
            ),
            Self::NewEpoch(epoch) => write!(
                formatter,
                "the sequence cannot be proven: epoch {} begins",
                epoch.0
            ),
        }
    }
}

/// A range with records that are gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Lowest sequence number.
    pub first: Seq,
    /// Highest sequence number.
    pub last: Seq,
    /// How many of the range are gone, or may be.
    pub count: u64,
    /// Why.
    pub cause: GoneCause,
}

impl Gone {
    /// The fact for the core.
    #[must_use]
    pub fn event(&self) -> Event {
        Event::RecordsGone {
            first: self.first,
            last: self.last,
            count: self.count,
            cause: self.cause,
        }
    }
}
