//! The pure core of Quorate: it decides, and does nothing else.
//!
//! Owns: every decision between a sample and an acknowledged record. `Agent::handle` takes the monotonic time and one
//! [`event::Event`] and appends [`event::Action`]s for the shell to perform.
//!
//! Must not: read a clock, touch a file, start a thread or draw randomness of its own. All of these arrive as
//! arguments, so the simulated world replays an hour of faults in milliseconds, to the byte.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod agent;
mod breaker;
pub mod certificate;
pub mod checkpoint;
pub mod class;
pub mod command;
pub mod config;
mod device;
pub mod event;
mod gone;
mod guard;
pub mod health;
mod infer;
mod link;
pub mod model;
mod outbox;
mod quantity;
mod ranges;
pub mod record;
mod sensor;
pub mod units;
mod vitals;
pub mod vote;
mod window;
