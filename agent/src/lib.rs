//! The shell of Quorate: it performs what the pure core decides. One owner file for each outside thing.
//!
//! - [`shell`]: the loop; [`commands`]: what each command wires together
//! - [`clock`]: time, boot and seed; [`store`]: sled; [`mqtt`]: the broker; [`http`]: the endpoint
//! - [`sensing`], [`sources`]: bus threads and the probes on them; [`inference`]: the model thread
//! - [`state`]: small facts that survive a restart, apart from the outbox
//! - [`settings`]: TOML to the core's configuration; [`replay`]: a recorded trace in virtual time

pub mod announcement;
pub mod assembly;
pub mod checkpoint;
pub mod clock;
#[cfg(feature = "collect")]
pub mod collect;
pub mod command;
pub mod command_command;
pub mod commands;
#[cfg(feature = "demo")]
pub mod demo;
pub mod doctor;
mod durable;
pub mod events_command;
pub mod execution;
pub mod explain;
pub mod feed;
pub mod http;
pub mod inference;
pub mod inflight;
pub mod live;
pub mod logging;
#[cfg(feature = "manual")]
pub mod manual;
pub mod model;
pub mod model_command;
pub mod mqtt;
pub mod outbox_command;
pub mod outbox_look;
pub mod outcome;
mod own_feeds;
pub mod recovery;
pub mod replay;
pub mod sensing;
pub mod sensors_command;
pub mod settings;
pub mod shell;
pub mod sources;
pub mod state;
pub mod status;
pub mod store;
pub mod supervisor;
pub mod threads;
pub mod timing;
