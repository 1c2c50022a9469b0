//! Model bundles of Quorate: what a model is, whether its files are whole, and running it.
//!
//! This crate owns four things and knows nobody else in the workspace:
//! - [`Manifest`]: what a model wants and says, parsed from `manifest.toml` and fully validated;
//! - [`Bundle`]: the three files of a model (`manifest.toml`, `model.onnx`, `golden.json`), read
//!   with limits and checked against the digest in the manifest;
//! - [`Package`]: a bundle in one signed file;
//! - [`Runner`]: the model, loaded into tract and checked against its golden vectors.
//!
//! It must not standardise inputs, judge quality or compare with thresholds: the core does that.
//! It reads no clock, starts no thread and writes no file.
//!
//! ```no_run
//! use quorate_models::{Bundle, Runner};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bundle = Bundle::open("models/store/bearing-anomaly-v1")?;
//! let mut runner = Runner::load(&bundle)?;
//! let window = vec![0.0; bundle.manifest().window_elements()];
//! let score = runner.run(&window)?[0];
//! # let _ = score;
//! # Ok(())
//! # }
//! ```

mod bundle;
mod digest;
mod golden;
mod manifest;
mod operators;
pub mod package;
mod runner;
#[cfg(test)]
mod testing;

pub use bundle::{Bundle, BundleError, Files, GOLDEN_FILE, MANIFEST_FILE, ONNX_FILE};
pub use digest::Digest;
pub use golden::{
    GOLDEN_BYTES_MAX, GOLDEN_VECTORS_MAX, GOLDEN_VECTORS_MIN, Golden, GoldenError, GoldenVector,
    Tolerance,
};
pub use manifest::{
    Budgets, Figures, Impute, Input, MANIFEST_BYTES_MAX, Manifest, ManifestError, Missing,
    ONNX_BYTES_MAX, Output, Preprocessing, Training, WINDOW_ELEMENTS_MAX, Window,
};
pub use operators::OperatorRefusal;
pub use package::{Package, PackageError, Verdict};
pub use runner::{Runner, RunnerError, Stage};
