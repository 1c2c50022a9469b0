//! Why a sample could not be had, in words that telemetry and people share.
//!
//! Owns the list of causes and their spelling. It carries no text from outside: only an error number
//! of the operating system, so a fault is small, copyable and bounded.

use core::fmt;

use embedded_hal::i2c::ErrorKind;

/// Why [`Probe::sample`](crate::Probe::sample) delivered no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SampleFault {
    /// The device did not acknowledge its address or a byte: absent, unpowered, or a loose wire.
    NoAcknowledge,
    /// The bus or its driver reported an error.
    BusError {
        /// The error number (`errno`) that the operating system gave, where it gave one.
        errno: Option<i32>,
    },
    /// The transfer did not end within the driver's own limit.
    Timeout,
    /// A checksum over the data did not match.
    Checksum,
    /// The device answers but has no fresh value yet: it was just started, or configured again.
    NotReady,
    /// The chip reports that its sensing element is not connected.
    OpenCircuit,
    /// The device or file does not exist (any more).
    Missing,
    /// The operating system refuses access.
    Permission,
    /// The answer is not what the device's documentation allows.
    Malformed,
    /// The chip lost its configuration: it had no power for a moment, or somebody else wrote to it. It is configured
    /// again before the next value.
    Reset,
    /// The chip reports that its sensing element is shorted to a supply or to ground.
    ShortCircuit,
    /// The value is at the end of what the chip can measure as it is configured, so the true one may lie beyond.
    Saturated,
    /// Samples were lost between the device and here, for example because a buffer of the chip ran over.
    Overrun,
    /// The newest value is too old, or none came for too long.
    Stale,
    /// The program that sends values has ended; it is started again.
    Exited,
    /// Nobody is connected who could send a value.
    Disconnected,
    /// The source says itself that it has no value, for a reason that is none of these.
    Reported,
    /// A Modbus device answers with an exception.
    Exception {
        /// Its code, 1 to 11 in the protocol.
        code: u8,
    },
}

impl SampleFault {
    /// Every cause once, for tables and metrics. `BusError` stands without an error number.
    pub const ALL: [Self; 25] = [
        Self::NoAcknowledge,
        Self::BusError { errno: None },
        Self::Timeout,
        Self::Checksum,
        Self::NotReady,
        Self::OpenCircuit,
        Self::Missing,
        Self::Permission,
        Self::Malformed,
        Self::Reset,
        Self::ShortCircuit,
        Self::Saturated,
        Self::Overrun,
        Self::Stale,
        Self::Exited,
        Self::Disconnected,
        Self::Reported,
        Self::Exception { code: 1 },
        Self::Exception { code: 2 },
        Self::Exception { code: 3 },
        Self::Exception { code: 4 },
        Self::Exception { code: 6 },
        Self::Exception { code: 10 },
        Self::Exception { code: 11 },
        Self::Exception { code: 0 },
    ];

    /// The cause with this word, as another program may name it.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == word)
    }

    /// The cause as one kebab-case word. These words are part of the telemetry: they may be added to,
    /// never changed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoAcknowledge => "no-acknowledge",
            Self::BusError { .. } => "bus-error",
            Self::Timeout => "timeout",
            Self::Checksum => "checksum",
            Self::NotReady => "not-ready",
            Self::OpenCircuit => "open-circuit",
            Self::Missing => "missing",
            Self::Permission => "permission",
            Self::Malformed => "malformed",
            Self::Reset => "reset",
            Self::ShortCircuit => "short-circuit",
            Self::Saturated => "saturated",
            Self::Overrun => "overrun",
            Self::Stale => "stale",
            Self::Exited => "exited",
            Self::Disconnected => "disconnected",
            Self::Reported => "reported",
            // MODBUS Application Protocol 1.1b3, chapter 7.
            Self::Exception { code } => match code {
                1 => "illegal-function",
                2 => "illegal-address",
                3 => "illegal-value",
                4 => "device-failure",
                5 | 6 => "device-busy",
                10 => "gateway-path",
                11 => "gateway-target",
                _ => "exception",
            },
        }
    }

    /// Whether asking again soon is pointless: the cause stays until somebody changes something outside
    /// the device (plugs it in, loads a driver, grants access).
    ///
    /// True for [`Missing`](Self::Missing) and [`Permission`](Self::Permission) only. Everything else may
    /// heal between two samples (an open circuit too: a loose cable touches again), so it is retried at
    /// the sampling rate. Permanent does not mean for ever: ask again, but rarely.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        match self {
            Self::Missing | Self::Permission => true,
            Self::NoAcknowledge
            | Self::BusError { .. }
            | Self::Timeout
            | Self::Checksum
            | Self::NotReady
            | Self::OpenCircuit
            | Self::Malformed
            | Self::Reset
            | Self::ShortCircuit
            | Self::Saturated
            | Self::Overrun
            | Self::Stale
            | Self::Exited
            | Self::Disconnected
            | Self::Reported
            | Self::Exception { .. } => false,
        }
    }
}

/// How far a fault reaches: what is worth asking again at the sampling rate, and what is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultReach {
    /// There is no value yet.
    Pending,
    /// The device answers, but this value cannot be used.
    Value,
    /// The device does not answer, or not as it should.
    Device,
    /// The transfer itself failed.
    Bus,
}

impl SampleFault {
    /// How far it reaches.
    #[must_use]
    pub const fn reach(self) -> FaultReach {
        match self {
            Self::NotReady | Self::Exception { code: 5 | 6 } => FaultReach::Pending,
            Self::OpenCircuit
            | Self::Reset
            | Self::ShortCircuit
            | Self::Saturated
            | Self::Overrun
            | Self::Stale
            | Self::Reported
            | Self::Exception { code: 1..=4 } => FaultReach::Value,
            Self::NoAcknowledge
            | Self::Checksum
            | Self::Missing
            | Self::Permission
            | Self::Malformed
            | Self::Exited
            | Self::Disconnected
            | Self::Exception { .. } => FaultReach::Device,
            Self::BusError { .. } | Self::Timeout => FaultReach::Bus,
        }
    }
}

impl fmt::Display for SampleFault {
    /// The cause word, and the error number in parentheses where there is one.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())?;
        match self {
            Self::BusError { errno: Some(errno) } => write!(formatter, " (errno {errno})"),
            _ => Ok(()),
        }
    }
}

impl core::error::Error for SampleFault {}

/// For buses that know no more than the kinds of `embedded-hal`.
impl From<ErrorKind> for SampleFault {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NoAcknowledge(_) => Self::NoAcknowledge,
            _ => Self::BusError { errno: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SampleFault;
    use std::collections::BTreeSet;

    #[test]
    fn causes_are_distinct_kebab_case_words() {
        let words: BTreeSet<&str> = SampleFault::ALL
            .iter()
            .map(|fault| fault.as_str())
            .collect();
        assert_eq!(words.len(), SampleFault::ALL.len());
        for word in words {
            assert!(
                word.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{word}"
            );
        }
    }

    #[test]
    fn display_adds_the_error_number_only() {
        let with_number = SampleFault::BusError { errno: Some(5) };
        assert_eq!(with_number.to_string(), "bus-error (errno 5)");
        assert_eq!(with_number.as_str(), "bus-error");
        assert_eq!(
            SampleFault::BusError { errno: None }.to_string(),
            "bus-error"
        );
        assert_eq!(SampleFault::NoAcknowledge.to_string(), "no-acknowledge");
    }

    #[test]
    fn only_missing_and_permission_are_permanent() {
        let permanent: Vec<&str> = SampleFault::ALL
            .iter()
            .filter(|fault| fault.is_permanent())
            .map(|fault| fault.as_str())
            .collect();
        assert_eq!(permanent, ["missing", "permission"]);
    }
}
