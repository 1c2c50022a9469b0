//! Models that this crate evaluates itself: statistics and trees, for which a tensor runtime is the wrong tool.
//!
//! Owns the format of `model.json` (version 1, models/README.md). Every index, length and number is checked when it is read,
//! so that a run cannot fail, loop or reach outside. Pure: no file, no clock.
//!
//! Invariant: a [`Native`] that exists gives as many numbers as the manifest names for any finite window.

use serde::Deserialize;
use thiserror::Error;

use crate::manifest::{Kind, Manifest};

mod features;
mod forest;
mod pca;
#[cfg(test)]
mod tests;

use forest::Forest;
use pca::Pca;

/// The only format version of `model.json` so far.
const FORMAT: u32 = 1;
/// Longest message of the parser that an error repeats, characters.
const MESSAGE_CHARACTERS_MAX: usize = 200;

/// What is wrong with a `model.json`.
#[derive(Debug, Clone, PartialEq, Error)]
pub(crate) enum NativeError {
    /// Not JSON, an unknown or missing key, or a value of the wrong type.
    #[error("{message}")]
    Syntax {
        /// What was expected, with line and column.
        message: String,
    },
    /// A value that has the right type and cannot be.
    #[error("key `{key}`: {reason}")]
    Value {
        /// The key with its path.
        key: String,
        /// What was expected and what was found.
        reason: String,
    },
}

/// A model that is evaluated here.
#[derive(Debug, Clone)]
pub(crate) enum Native {
    /// T2 and SPE.
    Pca(Pca),
    /// Trees.
    Forest(Forest),
}

impl Native {
    /// Reads `model.json` for the window and the outputs of `manifest`, whose kind is not `onnx`.
    pub(crate) fn parse(model: &[u8], manifest: &Manifest) -> Result<Native, NativeError> {
        match manifest.kind {
            Kind::Pca => Pca::check(read(model)?, manifest).map(Native::Pca),
            Kind::Forest => Forest::check(read(model)?, manifest).map(Native::Forest),
            Kind::Onnx => refuse("kind", "a graph is not evaluated natively"),
        }
    }

    /// The outputs for one window, row by row, oldest first, whose length was checked.
    pub(crate) fn run(&self, window: &[f32]) -> Vec<f32> {
        match self {
            Native::Pca(pca) => pca.run(window),
            Native::Forest(forest) => forest.run(window),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(model: &'a [u8]) -> Result<T, NativeError> {
    serde_json::from_slice(model).map_err(|error| NativeError::Syntax {
        message: error
            .to_string()
            .chars()
            .take(MESSAGE_CHARACTERS_MAX)
            .collect(),
    })
}

fn check_format(format: u32) -> Result<(), NativeError> {
    if format == FORMAT {
        return Ok(());
    }
    refuse("format", format!("expected {FORMAT}, found {format}"))
}

fn check_outputs(manifest: &Manifest, names: &[&str]) -> Result<(), NativeError> {
    let found: Vec<_> = manifest.outputs.iter().map(|it| it.name.as_str()).collect();
    if found == names {
        return Ok(());
    }
    let (kind, names) = (manifest.kind.as_str(), names.join(", "));
    refuse(
        "outputs",
        format!("the manifest of a `{kind}` names the outputs {names}, in this order"),
    )
}

/// Numbers that are all finite, and exactly so many of them.
fn check_numbers(key: &str, numbers: &[f64], length: usize) -> Result<(), NativeError> {
    if numbers.len() != length {
        let found = numbers.len();
        return refuse(key, format!("expected {length} numbers, found {found}"));
    }
    match numbers.iter().position(|number| !number.is_finite()) {
        Some(index) => refuse(format!("{key}[{index}]"), "expected a finite number"),
        None => Ok(()),
    }
}

fn check_positive(key: &str, numbers: &[f64]) -> Result<(), NativeError> {
    match numbers.iter().position(|number| *number <= 0.0) {
        Some(index) => refuse(format!("{key}[{index}]"), "expected above 0"),
        None => Ok(()),
    }
}

fn refuse<T>(key: impl Into<String>, reason: impl Into<String>) -> Result<T, NativeError> {
    Err(NativeError::Value {
        key: key.into(),
        reason: reason.into(),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "outputs are numbers of 32 bits; what is too large becomes infinite, which the runner refuses"
)]
fn narrow(number: f64) -> f32 {
    number as f32
}
