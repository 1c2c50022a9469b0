//! Commands from outside: who may give which, and that none is taken twice (docs/commands.md).
//!
//! Owns: the form of an envelope, the pinned keys, the counters against repeats, and the thread that checks what comes in.
//! Must not: carry a command out, or know MQTT; what was checked goes to the core.
//!
//! Invariants: a command without a signature of a pinned key is refused unless the configuration names it; the number of
//! a command is durable before the core hears of it; nobody is told why more exactly than in one word.

mod check;
mod counters;
mod desk;
mod envelope;
mod keys;
mod model;

pub use check::Keyring;
pub use counters::CountersError;
pub use desk::{Desk, Options, spawn};
pub use envelope::{Envelope, sign};
pub use keys::{Key, KeyError, PrivateKey, PublicKey};
