//! Named threads whose end is told.
//!
//! Owns: how a worker thread is started and how its panic becomes an event. Must not: know what the worker does.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::JoinHandle,
};

use crossbeam_channel::Sender;
use quorate_core::event::{Event, Worker};

/// Most characters of a panic's message that are kept.
const MESSAGE_CHARACTERS_MAX: usize = 200;

/// Starts a named thread; a panic in it becomes [`Event::WorkerDied`].
///
/// # Errors
/// The system refuses another thread.
pub fn spawn(
    name: &str,
    worker: Worker,
    events: &Sender<Event>,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let events = events.clone();
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
                let cause = panic_text(panic.as_ref());
                // When the shell is gone too, there is nobody left to tell.
                let _ = events.send(Event::WorkerDied { worker, cause });
            }
        })
}

/// What a panic said, bounded.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message")
        .chars()
        .take(MESSAGE_CHARACTERS_MAX)
        .collect()
}
