//! The newtypes that cross module boundaries: times, sequence numbers and the indices of configured things.
//!
//! Invariant: two quantities of different meaning never share a type, so they cannot be exchanged by mistake.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Monotonic milliseconds since an origin that the shell chose at start (since boot on a device). It decides; it never
/// steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// This time plus `delay_ms`, saturating at the end of time.
    #[must_use]
    pub const fn plus_ms(self, delay_ms: u64) -> Self {
        Self(self.0.saturating_add(delay_ms))
    }

    /// Milliseconds from `earlier` to this time; 0 when `earlier` is later.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Position of a record in the outbox; unique within an [`Epoch`] and never used twice for two payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The sequence number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Life of one store: changes only when the store is created anew or its sequence cannot be proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Identity of one boot of the device, which gives [`Mono`] its meaning across restarts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct BootId(pub [u8; 16]);

impl fmt::Display for BootId {
    /// The usual hyphenated form, as the kernel prints it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                formatter.write_str("-")?;
            }
            write!(formatter, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// One message in flight to the broker, within the life of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// Index of a sensor in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SensorId(pub u16);

impl SensorId {
    /// As an index into a slice that is parallel to the configured sensors.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Index of a guarded bus in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusId(pub u16);

impl BusId {
    /// As an index into a slice that is parallel to the guarded buses.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Index of a voted quantity in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuantityId(pub u16);

impl QuantityId {
    /// As an index into a slice that is parallel to the configured quantities.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Index of a model in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub u16);

impl ModelId {
    /// As an index into a slice that is parallel to the configured models.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What the wall clock said at a monotonic instant. It labels records and decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallAnchor {
    /// The instant of the reading.
    pub mono: Mono,
    /// Milliseconds since 1970-01-01T00:00:00Z as the clock gave them.
    pub unix_ms: i64,
    /// Whether the kernel says that the clock is synchronised.
    pub synced: bool,
}
