//! The clock: the only place where time, the boot and the seed come from.
//!
//! Owns: every reading of a system clock, of the boot's identity and of the system's randomness.
//! Must not: be read by the core; the shell hands it what it needs.
//!
//! Invariant: [`Clock::now`] never steps; it counts since boot, through suspension too.

use std::time::Duration;

use quorate_core::units::{BootId, Mono, WallAnchor};
use rustix::time::{ClockId, clock_gettime};

/// A monotonic clock that may run faster than real time, for the demo.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin_ms: u64,
    speed: u32,
}

impl Clock {
    /// Real time: milliseconds since boot.
    #[must_use]
    pub fn real() -> Self {
        Self::faster(1)
    }

    /// Runs `speed` times as fast as real time from now on; at least 1.
    #[must_use]
    pub fn faster(speed: u32) -> Self {
        Self {
            origin_ms: since_boot_ms(),
            speed: speed.max(1),
        }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Mono {
        let real_ms = since_boot_ms();
        let elapsed_ms = real_ms.saturating_sub(self.origin_ms);
        Mono(self.origin_ms + elapsed_ms * u64::from(self.speed))
    }

    /// Now, in microseconds of the same count as [`Clock::now`].
    #[must_use]
    pub fn now_us(&self) -> u64 {
        let origin_us = self.origin_ms.saturating_mul(1_000);
        let elapsed_us = since_boot_us().saturating_sub(origin_us);
        origin_us + elapsed_us * u64::from(self.speed)
    }

    /// How long to sleep, in real time, until `deadline`.
    #[must_use]
    pub fn until(&self, deadline: Mono) -> Duration {
        let wait_us = deadline
            .0
            .saturating_mul(1_000)
            .saturating_sub(self.now_us());
        Duration::from_micros(wait_us.div_ceil(u64::from(self.speed)))
    }

    /// What the wall clock says now.
    #[must_use]
    pub fn wall(&self) -> WallAnchor {
        let real = clock_gettime(ClockId::Realtime);
        WallAnchor {
            mono: self.now(),
            unix_ms: real
                .tv_sec
                .saturating_mul(1_000)
                .saturating_add(real.tv_nsec / 1_000_000),
            synced: kernel_is_synchronised(),
        }
    }
}

/// Measures how long something takes.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Begins.
    #[must_use]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Microseconds since the beginning.
    #[must_use]
    pub fn elapsed_us(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

fn since_boot_ms() -> u64 {
    since_boot_us() / 1_000
}

fn since_boot_us() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanoseconds / 1_000
}

/// Whether the kernel believes that a time service keeps its clock right.
fn kernel_is_synchronised() -> bool {
    // SAFETY: `timex` is a plain structure of integers, for which all zeroes is a valid value.
    let mut query: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `query` lives through the call; with `modes` 0 the kernel only reads the clock and fills it in.
    let state = unsafe { libc::adjtimex(&raw mut query) };
    state >= 0 && state != libc::TIME_ERROR
}

/// This boot of the machine, as the kernel names it; a random one where the kernel does not.
#[must_use]
pub fn boot_id() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text
        .bytes()
        .filter_map(|byte| char::from(byte).to_digit(16))
        .filter_map(|digit| u8::try_from(digit).ok())
        .collect();
    let mut id = [0; 16];
    if digits.len() == 32 {
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] * 16 + pair[1];
        }
    } else {
        fastrand::fill(&mut id);
    }
    BootId(id)
}

/// A seed from the system's randomness.
#[must_use]
pub fn seed() -> u64 {
    fastrand::u64(..)
}

#[cfg(test)]
mod tests {
    use quorate_core::units::Mono;

    use super::{Clock, boot_id};

    #[test]
    fn it_never_goes_back_and_the_boot_stays() {
        let clock = Clock::faster(1_000);
        let (first, second) = (clock.now(), clock.now());
        assert!(second >= first && first > Mono(0));
        assert_eq!(boot_id(), boot_id());
    }
}
