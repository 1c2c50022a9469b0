//! Golden vectors: inputs with the outputs that the trained model gave for them.
//!
//! Owns the format of `golden.json` (version 1). A model is used only after it gave these outputs
//! for these inputs on this device, because a runtime may load a model and still compute something
//! else. Inputs are the tensor as it is fed: standardised, oldest tick first, inputs innermost.
//!
//! Invariant: in a [`Golden`] that exists every vector has the manifest's number of inputs and
//! outputs, and all numbers are finite.

use serde::Deserialize;
use thiserror::Error;

use crate::manifest::Manifest;

/// Largest `golden.json`, bytes: 32 vectors of the largest window, 15 characters a number.
pub const GOLDEN_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Fewest vectors that say anything about a model.
pub const GOLDEN_VECTORS_MIN: usize = 32;
/// Most vectors: they are run each time a model is loaded.
pub const GOLDEN_VECTORS_MAX: usize = 1_024;

/// The only format version of `golden.json` so far.
const FORMAT: u32 = 1;
/// Widest relative tolerance: above it the check would say nothing.
const RELATIVE_MAX: f32 = 0.05;

/// What is wrong with a `golden.json`.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GoldenError {
    /// Longer than [`GOLDEN_BYTES_MAX`].
    #[error("{bytes} bytes, at most {GOLDEN_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// The text ends in the middle.
    #[error("truncated at line {line}, column {column}")]
    Truncated {
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
    },
    /// Not JSON, an unknown or missing key, or a value of the wrong type.
    #[error("{message}")]
    Syntax {
        /// What was expected, with line and column.
        message: String,
    },
    /// A value that has the right type and cannot be.
    #[error("key `{key}`: {reason}")]
    Value {
        /// The key with its path, `vectors[3].input`.
        key: String,
        /// What was expected and what was found.
        reason: String,
    },
}

/// The golden vectors of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    tolerance: Tolerance,
    vectors: Vec<GoldenVector>,
}

/// How far an output may be from the expected one: `absolute + relative * |expected|`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// In the unit of the output, at least 0.
    pub absolute: f32,
    /// As a fraction, 0 to 0.05.
    pub relative: f32,
}

/// One input tensor with the outputs that belong to it.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenVector {
    /// Name for messages: `healthy-03`.
    pub name: String,
    /// The tensor as it is fed, [`Manifest::window_elements`] numbers, oldest tick first.
    pub input: Vec<f32>,
    /// One number for each output of the manifest.
    pub outputs: Vec<f32>,
}

impl Golden {
    /// Parses the text of a `golden.json` for the model of `manifest`.
    ///
    /// # Errors
    /// [`GoldenError`], naming the line or the key.
    pub fn parse(text: &str, manifest: &Manifest) -> Result<Golden, GoldenError> {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if bytes > GOLDEN_BYTES_MAX {
            return Err(GoldenError::TooLarge { bytes });
        }
        let file: File = serde_json::from_str(text).map_err(|error| syntax_error(&error))?;
        let golden = Golden {
            tolerance: Tolerance {
                absolute: narrow(file.tolerance.absolute),
                relative: narrow(file.tolerance.relative),
            },
            vectors: file.vectors.into_iter().map(GoldenVector::from).collect(),
        };
        check_format(file.format)?;
        golden.check(manifest)?;
        Ok(golden)
    }

    /// How far an output may be from the expected one.
    #[must_use]
    pub fn tolerance(&self) -> Tolerance {
        self.tolerance
    }

    /// The vectors, [`GOLDEN_VECTORS_MIN`] to [`GOLDEN_VECTORS_MAX`] of them.
    #[must_use]
    pub fn vectors(&self) -> &[GoldenVector] {
        &self.vectors
    }

    fn check(&self, manifest: &Manifest) -> Result<(), GoldenError> {
        let Tolerance { absolute, relative } = self.tolerance;
        if !(0.0..=f32::MAX).contains(&absolute) {
            return refuse(
                "tolerance.absolute",
                format!("expected at least 0, found {absolute}"),
            );
        }
        if !(0.0..=RELATIVE_MAX).contains(&relative) {
            return refuse(
                "tolerance.relative",
                format!("expected 0 to {RELATIVE_MAX}, found {relative}"),
            );
        }
        let count = self.vectors.len();
        if !(GOLDEN_VECTORS_MIN..=GOLDEN_VECTORS_MAX).contains(&count) {
            return refuse(
                "vectors",
                format!("expected {GOLDEN_VECTORS_MIN} to {GOLDEN_VECTORS_MAX}, found {count}"),
            );
        }
        for (index, vector) in self.vectors.iter().enumerate() {
            let key = format!("vectors[{index}]");
            check_numbers(
                &format!("{key}.input"),
                &vector.input,
                manifest.window_elements(),
            )?;
            check_numbers(
                &format!("{key}.outputs"),
                &vector.outputs,
                manifest.outputs.len(),
            )?;
        }
        Ok(())
    }
}

impl Tolerance {
    /// Largest distance from `expected` that counts as the same number.
    #[must_use]
    pub fn distance_max(&self, expected: f32) -> f32 {
        self.absolute + self.relative * expected.abs()
    }
}

/// The file as serde reads it, format 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    tolerance: FileTolerance,
    vectors: Vec<FileVector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTolerance {
    absolute: f64,
    relative: f64,
}

/// Numbers are read as doubles: a reader of 32 bits refuses what is too large for it without saying where.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileVector {
    name: String,
    input: Vec<f64>,
    outputs: Vec<f64>,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the nearest number of 32 bits is meant; what is too large becomes infinite and is refused by its key"
)]
fn narrow(number: f64) -> f32 {
    number as f32
}

impl From<FileVector> for GoldenVector {
    fn from(file: FileVector) -> GoldenVector {
        let FileVector {
            name,
            input,
            outputs,
        } = file;
        GoldenVector {
            name,
            input: input.into_iter().map(narrow).collect(),
            outputs: outputs.into_iter().map(narrow).collect(),
        }
    }
}

fn check_format(format: u32) -> Result<(), GoldenError> {
    if format == FORMAT {
        return Ok(());
    }
    refuse("format", format!("expected {FORMAT}, found {format}"))
}

fn check_numbers(key: &str, numbers: &[f32], count: usize) -> Result<(), GoldenError> {
    if numbers.len() != count {
        let found = numbers.len();
        return refuse(key, format!("expected {count} numbers, found {found}"));
    }
    match numbers.iter().position(|number| !number.is_finite()) {
        Some(index) => refuse(
            format!("{key}[{index}]"),
            "expected a finite number".to_owned(),
        ),
        None => Ok(()),
    }
}

fn refuse(key: impl Into<String>, reason: String) -> Result<(), GoldenError> {
    Err(GoldenError::Value {
        key: key.into(),
        reason,
    })
}

fn syntax_error(error: &serde_json::Error) -> GoldenError {
    if error.is_eof() {
        return GoldenError::Truncated {
            line: error.line(),
            column: error.column(),
        };
    }
    // serde_json repeats an offending string in full; the file may hold a long one.
    GoldenError::Syntax {
        message: error.to_string().chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests;
