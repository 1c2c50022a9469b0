//! The simulated world of Quorate: one device under virtual time, its checkers, and the sabotage that proves them.
//!
//! Owns: the second interpreter of the core's actions, and the judgement of what it did. Must not: read a clock or any
//! randomness but the seed's; a seed is a whole run, to the byte.

pub mod checkers;
pub mod world;
