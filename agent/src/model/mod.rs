//! The life of a model file on a device: believed, tried in a process of its own, staged, promoted, rolled back
//! (docs/models.md).
//!
//! Owns: which file is run for a model, and that this is never one that was not verified. Must not: run inferences, or
//! judge a score.
//!
//! Invariants: every step is one durable write of the slot; the attempt is counted durably before a new model is loaded; a
//! model that is not believed any more, damaged or that crashed too often makes room for the one before it, and in the
//! end for the bundle that the configuration names.

pub mod boot;
pub mod delivery;
pub mod keeper;
pub mod plan;
pub mod slots;
pub mod stage;
pub mod trial;
pub mod trial_child;
pub mod trust;
