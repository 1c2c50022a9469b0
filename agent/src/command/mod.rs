//! Keys: Ed25519 and the forms in which keys are written.
//!
//! Owns: the folder of what is signed. Must not: know what is signed.

mod keys;

pub use keys::{Key, KeyError, PrivateKey, PublicKey};
