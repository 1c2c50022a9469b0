//! The checkpoint: what the voters have learned, saved now and then and gone on with after a restart.
//!
//! Owns: its form, when it is due, and what it must fit. Must not: touch a file.
//!
//! Invariant: what was learned under another configuration of a quantity is never restored to it.

use alloc::{format, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, QuantityConfig},
    record::Stamp,
    units::{BootId, Mono, WallAnchor},
    vote::Learned,
};

/// Time between two checkpoints in milliseconds: what a power cut may cost of what was learned.
pub(crate) const PERIOD_MS: u64 = 300_000;

/// What all voters have learned, and when it was saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    boot: BootId,
    mono_ms: u64,
    /// Wall time in milliseconds since 1970, where the clock was synchronised.
    unix_ms: Option<i64>,
    quantities: Vec<Saved>,
    /// What was used of the day's bytes, where they are limited.
    #[serde(default)]
    day: Option<Day>,
}

/// What was used of a day's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Day {
    pub(crate) bytes: u64,
    /// Until the next day begins.
    pub(crate) left_ms: u64,
}

/// What the voter of one quantity has learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) quantity: String,
    /// Of the quantity's configuration.
    pub(crate) fingerprint: u64,
    pub(crate) learned: Learned,
}

impl Checkpoint {
    pub(crate) fn new(stamp: Stamp, quantities: Vec<Saved>, day: Option<Day>) -> Self {
        Self {
            boot: stamp.boot,
            mono_ms: stamp.mono.0,
            unix_ms: stamp.wall.and_then(|anchor| unix_ms(anchor, stamp.mono)),
            quantities,
            day,
        }
    }

    /// What was saved of a quantity.
    pub(crate) fn of(&self, quantity: &str) -> Option<&Saved> {
        self.quantities
            .iter()
            .find(|saved| saved.quantity == quantity)
    }

    /// What was used of the day's bytes, while that day may still be going on: where no clock tells how much of it has
    /// passed, none of it has.
    pub(crate) fn day(&self, now: Stamp) -> Option<Day> {
        let day = self.day?;
        let passed_ms = self.age_ms(now).unwrap_or(0);
        let left_ms = day
            .left_ms
            .checked_sub(passed_ms)
            .filter(|left| *left > 0)?;
        Some(Day { left_ms, ..day })
    }

    /// Its age in milliseconds, where the two clocks tell.
    pub(crate) fn age_ms(&self, now: Stamp) -> Option<u64> {
        if self.boot == now.boot {
            return Some(now.mono.since_ms(Mono(self.mono_ms)));
        }
        let now_ms = now.wall.and_then(|anchor| unix_ms(anchor, now.mono))?;
        u64::try_from(now_ms.checked_sub(self.unix_ms?)?).ok()
    }
}

fn unix_ms(anchor: WallAnchor, at: Mono) -> Option<i64> {
    let known = anchor.synced.then_some(anchor)?;
    crate::record::wall_time(known, at)
}

/// Tells one configuration of a quantity from another: FNV-1a, 64 bits, over all its settings and the sensors' names.
/// <http://www.isthe.com/chongo/tech/comp/fnv/>
pub(crate) fn fingerprint(config: &Config, quantity: &QuantityConfig) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut text = format!("{quantity:?}");
    for sensor in &quantity.sensors {
        text.push_str(&format!("{:?}", config.sensors[sensor.index()]));
    }
    text.bytes().fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::{Checkpoint, Day};
    use crate::{
        record::Stamp,
        units::{BootId, Mono, WallAnchor},
    };

    fn stamp(boot: u8, mono_ms: u64, unix_ms: Option<i64>) -> Stamp {
        let wall = unix_ms.map(|unix_ms| WallAnchor {
            mono: Mono(mono_ms),
            unix_ms,
            synced: true,
        });
        Stamp {
            boot: BootId([boot; 16]),
            mono: Mono(mono_ms),
            wall,
        }
    }

    #[test]
    fn the_rest_of_a_day_shrinks_by_what_has_passed() {
        let day = Day {
            bytes: 7,
            left_ms: 60_000,
        };
        let saved = Checkpoint::new(
            stamp(1, 5_000, Some(1_800_000_000_000)),
            alloc::vec![],
            Some(day),
        );
        let left = |now| saved.day(now).map(|day| (day.bytes, day.left_ms));
        assert_eq!(left(stamp(1, 6_000, None)), Some((7, 59_000)));
        assert_eq!(
            left(stamp(2, 10, Some(1_800_000_030_000))),
            Some((7, 30_000))
        );
        assert_eq!(
            left(stamp(2, 10, Some(1_800_000_060_000))),
            None,
            "another day"
        );
        assert_eq!(
            left(stamp(2, 10, None)),
            Some((7, 60_000)),
            "no clock tells"
        );
    }
}
