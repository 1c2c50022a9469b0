//! Where samples come from: chips on real buses, the kernel's own sensors, recorded traces, simulated sources.
//!
//! This crate owns the way from a device to one number. It judges nothing: whether a value is plausible,
//! frozen or out of step with its neighbours is the core's business. It must not read a clock, start a
//! thread, wait for anything but the transfer itself, or know any other crate of this workspace.
//!
//! Invariants:
//! - A failed transfer is a [`SampleFault`], never a number. Above all it is never zero.
//! - A probe that failed may be asked again: every probe finds its device again by itself.
//! - Nothing that a device, a file or a person supplies can cause a panic or unbounded memory.
//! - Each outside thing has one owner file: only `linux.rs` names the crate for Linux's buses.

pub mod chips;
mod config;
mod errno;
mod fault;
pub mod hwmon;
pub mod iio;
pub mod kernel;
pub mod linux;
pub mod modbus;
pub mod one_wire;
pub mod simulated;
mod sysfs;
pub mod thermal;
pub mod trace;
pub mod vibration;
pub mod wire;

pub use config::ConfigError;
pub use fault::{FaultReach, SampleFault};

/// A source of samples of one quantity.
///
/// `sample` blocks until the transfer is done, so the caller keeps one thread per bus: a hung bus then
/// stops only itself. The value is in the unit that the probe's module documents. It may be `NaN` or
/// infinite when the source delivered that; the core rejects such values with a reason.
pub trait Probe: Send {
    /// Reads one value now.
    ///
    /// # Errors
    /// The cause when no value could be had. The next call tries afresh;
    /// [`SampleFault::is_permanent`] tells whether that is likely to help.
    fn sample(&mut self) -> Result<f64, SampleFault>;

    /// Gives back every file of the device, for a bus that is to be reset; the next sample opens it anew.
    fn close(&mut self) {}
}

impl<P: Probe + ?Sized> Probe for Box<P> {
    fn sample(&mut self) -> Result<f64, SampleFault> {
        (**self).sample()
    }

    fn close(&mut self) {
        (**self).close();
    }
}
