//! How a command ended, and with which exit status.

use std::fmt;

/// Why a command did not do what it was asked. Sorted by what the caller does next, never by where it came from.
#[derive(Debug)]
pub enum Outcome {
    /// Status 2: usage or configuration; starting again changes nothing.
    Refused(String),
    /// Status 3: it ended in order and asks to be started again.
    Restart,
    /// Status 1: it failed; starting again may help.
    Failed(String),
}

impl Outcome {
    /// The exit status of the process.
    #[must_use]
    pub const fn status(&self) -> u8 {
        match self {
            Self::Refused(_) => 2,
            Self::Failed(_) => 1,
            Self::Restart => 3,
        }
    }

    /// Status 2 for anything that can be printed.
    pub fn refused(error: impl fmt::Display) -> Self {
        Self::Refused(error.to_string())
    }

    /// Status 1 for anything that can be printed.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(message) | Self::Failed(message) => formatter.write_str(message),
            Self::Restart => formatter.write_str("ended for a restart, as a command asked"),
        }
    }
}
