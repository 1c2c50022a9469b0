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
    pub(crate) fn new(stamp: Stamp, quantities: Vec<Saved>) -> Self {
        Self {
            boot: stamp.boot,
            mono_ms: stamp.mono.0,
            unix_ms: stamp.wall.and_then(|anchor| unix_ms(anchor, stamp.mono)),
            quantities,
        }
    }

    /// What was saved of a quantity.
    pub(crate) fn of(&self, quantity: &str) -> Option<&Saved> {
        self.quantities
            .iter()
            .find(|saved| saved.quantity == quantity)
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
