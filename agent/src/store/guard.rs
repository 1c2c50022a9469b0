//! Calls into sled that may panic.
//!
//! Owns: the containment of sled's panics and the words for its failures. Must not: decide what follows from them.

use std::{
    cell::Cell,
    io,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use quorate_core::event::StoreFault;

thread_local! {
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

const DETAIL_BYTES_MAX: usize = 300;

/// Runs `call`; a panic or an error becomes a fault, and the panic prints nothing.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StoreFault> {
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !SILENT.get() {
                previous(info);
            }
        }));
    });
    let before = SILENT.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    SILENT.set(before);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(sled_fault(&error)),
        Err(payload) => {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            let full = text.contains("StorageFull") || text.contains("No space left");
            Err(fault(if full { "full" } else { "panicked" }, text))
        }
    }
}

/// A fault with a bounded detail.
pub(super) fn fault(cause: &'static str, detail: &str) -> StoreFault {
    let mut end = detail.len().min(DETAIL_BYTES_MAX);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    StoreFault {
        cause,
        detail: detail[..end].to_owned(),
    }
}

/// The fault of an input or output error.
pub(super) fn io_fault(error: &io::Error) -> StoreFault {
    let cause = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "full",
        io::ErrorKind::WouldBlock => "in-use",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "not-permitted",
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => "damaged",
        _ => "input-output",
    };
    fault(cause, &error.to_string())
}

fn sled_fault(error: &sled::Error) -> StoreFault {
    match error {
        sled::Error::Io(io) if io.kind() == io::ErrorKind::Other => {
            let text = io.to_string();
            let cause = if text.contains("No space left") {
                "full"
            } else if text.contains("WouldBlock") || text.contains("could not acquire lock") {
                "in-use"
            } else {
                "input-output"
            };
            fault(cause, &text)
        }
        sled::Error::Io(io) => io_fault(io),
        other => fault("damaged", &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::guarded;

    #[test]
    fn a_panic_becomes_a_fault() {
        let outcome: Result<(), _> = guarded(|| {
            let none: Option<&u8> = [].first();
            none.expect("gone");
            Ok(())
        });
        assert_eq!(
            outcome.map_err(|fault| (fault.cause, fault.detail)),
            Err(("panicked", "gone".to_owned()))
        );
    }
}
