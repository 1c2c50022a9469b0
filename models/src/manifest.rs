//! What a model is: its identity, the shape and units of its inputs, its outputs, how it was made.
//!
//! Owns the format of `manifest.toml` (version 1). The structs that serde fills are private and
//! separate from the public ones, so the file format and the API change independently. Must not
//! read files and must not know tract.
//!
//! Invariant: a [`Manifest`] that exists is valid: every text is bounded, every number is finite
//! and in its range, `window.length * inputs.len()` is within [`WINDOW_ELEMENTS_MAX`].

use thiserror::Error;

use crate::digest::Digest;

mod check;
mod file;
mod kind;
mod missing;
mod reference;

pub use kind::Kind;
pub use missing::{Impute, Missing};
pub use reference::{QUANTILES, Reference};

/// Largest `manifest.toml`, bytes. The one that ships has about 2 KiB.
pub const MANIFEST_BYTES_MAX: u64 = 64 * 1024;

/// Largest file of a model, bytes. The models for a device have 1 KiB to 10 MiB.
pub const MODEL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Most numbers in one input tensor: ticks of the window times inputs.
pub const WINDOW_ELEMENTS_MAX: usize = 65_536;

/// The only format version of `manifest.toml` so far.
const FORMAT: u32 = 1;
/// Most of the manifest's faulty line that an error repeats, characters.
const QUOTE_CHARACTERS_MAX: usize = 80;
/// Most of the parser's own message that an error repeats, characters: it lists all known keys.
const MESSAGE_CHARACTERS_MAX: usize = 300;

/// What is wrong with a `manifest.toml`.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ManifestError {
    /// Longer than [`MANIFEST_BYTES_MAX`].
    #[error("the manifest has {bytes} bytes, at most {MANIFEST_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    #[error("line {line}, column {column}: {message} (at `{quote}`)")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What the parser expected.
        message: String,
        /// The text of that line, shortened.
        quote: String,
    },
    /// A value that has the right type and cannot be.
    #[error("key `{key}`: {reason}")]
    Value {
        /// The key with its path, `inputs[0].scale`.
        key: String,
        /// What was expected and what was found.
        reason: String,
    },
}

/// What a model is. Made by [`Manifest::parse`], valid by construction.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Manifest {
    /// Name of the model, lower-case letters, digits and hyphens: `bearing-anomaly`.
    pub id: String,
    /// Version as text: `1`, `2.3`.
    pub version: String,
    /// Release number, from 1, rising with every release of this model; a device never goes back to a
    /// lower one by itself. Required in a `.qmodel` file.
    pub release: Option<u64>,
    /// Oldest version of the agent that may run it: three numbers, major, minor, patch.
    pub agent_version_min: Option<[u64; 3]>,
    /// Licence of the model's weights, an SPDX expression.
    pub licence: String,
    /// What evaluates the model.
    pub kind: Kind,
    /// SHA-256 of the model's file.
    pub model_sha256: Digest,
    /// Length of the model's file, bytes, at most [`MODEL_BYTES_MAX`]. Tells a truncated file from a
    /// changed one.
    pub model_bytes: u64,
    /// How many ticks the model sees, and how far apart they are.
    pub window: Window,
    /// The quantities of a tick, in the order of the tensor's last axis. Never empty.
    pub inputs: Vec<Input>,
    /// What is done to a value before it enters the tensor.
    pub preprocessing: Preprocessing,
    /// What the model gives, in order. The first is the score. Never empty.
    pub outputs: Vec<Output>,
    /// What the model does without all of its inputs.
    pub missing: Missing,
    /// What the model may cost on the device.
    pub budgets: Budgets,
    /// How the model was made and how well it does.
    pub training: Training,
}

/// What a model may cost on the device, measured by its self-test. What is not given is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budgets {
    /// Longest time of loading and running the golden vectors once, milliseconds, from 1.
    pub load_ms_max: Option<u64>,
    /// Longest time of 99 % of the inferences, microseconds, from 1.
    pub p99_us_max: Option<u64>,
    /// Most memory that loading and running may take beyond the file itself, bytes, from 1.
    pub memory_bytes_max: Option<u64>,
}

/// The window that a model looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// Ticks in the window, at least 1. The oldest tick comes first in the tensor.
    pub length: u32,
    /// Nominal time between two ticks, milliseconds, 1 to 86,400,000.
    pub period_ms: u64,
}

/// One input quantity.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Input {
    /// Name of the quantity, as in the agent's configuration: `bearing-temperature`.
    pub quantity: String,
    /// Unit that the model was trained in, a UCUM code or a plain name: `celsius`, `mm/s`, `A`.
    pub unit: String,
    /// Lowest and highest value that the model was made for, in `unit`; low < high.
    pub range: [f64; 2],
    /// Mean of the training data, in `unit`.
    pub mean: f64,
    /// Standard deviation of the training data, in `unit`, above 0.
    pub scale: f64,
    /// How it is distributed where all is well, for the drift monitors.
    pub drift: Option<Reference>,
    /// What stands in for it, with [`Missing::Impute`].
    pub impute: Option<Impute>,
}

/// What is done to a value before it enters the tensor. The core does it, not this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preprocessing {
    /// `(value - mean) / scale`, with the mean and scale of its [`Input`].
    Standardise,
    /// The value as it is.
    None,
}

/// One output number.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// Name: `score`.
    pub name: String,
    /// What the number means, in words and unit.
    pub meaning: String,
    /// A number above it is an anomaly. The first output, the score, always has one.
    pub threshold: Option<f64>,
    /// How it is distributed where all is well, for the drift monitors.
    pub drift: Option<Reference>,
    /// What was above the threshold stays an anomaly until it is not above the threshold less this; 0 or more.
    pub hysteresis: f64,
    /// Where the number lies; one outside is told of. Low < high.
    pub range: Option<[f64; 2]>,
}

/// How the model was made and how it scores.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Training {
    /// Script that makes it again, from the `models` folder.
    pub script: String,
    /// Seed of that script.
    pub seed: u64,
    /// What data it was trained on and where that came from.
    pub data: String,
    /// Figures on data that was held out.
    pub figures: Figures,
}

/// Figures on data that was held out from training.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Figures {
    /// F1 of "the score is above its threshold" per window, 0 to 1.
    pub f1: f64,
    /// Healthy windows that were flagged, percent.
    pub false_alarms_percent: f64,
    /// Anomalous windows that were not flagged, percent.
    pub missed_percent: f64,
}

impl Manifest {
    /// Parses and validates the text of a `manifest.toml`.
    ///
    /// # Errors
    /// [`ManifestError`], naming the line and column, or the key with its path.
    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if bytes > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { bytes });
        }
        let file: file::Manifest =
            toml::from_str(text).map_err(|error| syntax_error(text, &error))?;
        let manifest = Manifest::from_file(file)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Numbers in one input tensor, ticks times inputs, 1 to [`WINDOW_ELEMENTS_MAX`].
    #[must_use]
    pub fn window_elements(&self) -> usize {
        let length = usize::try_from(self.window.length).unwrap_or(usize::MAX);
        length.saturating_mul(self.inputs.len())
    }

    /// Threshold of the score, the first output.
    ///
    /// # Panics
    /// When a caller took the threshold away from its own copy; a parsed manifest has one.
    #[must_use]
    pub fn score_threshold(&self) -> f64 {
        self.outputs
            .first()
            .and_then(|output| output.threshold)
            .expect("parse refuses a manifest whose first output has no threshold")
    }

    /// Whether an agent of this version, `major.minor.patch`, is too old for the model.
    #[must_use]
    pub fn needs_newer_agent(&self, agent_version: &str) -> bool {
        let own = parse_version(agent_version);
        self.agent_version_min
            .is_some_and(|least| own.is_none_or(|own| own < least))
    }

    fn from_file(file: file::Manifest) -> Result<Manifest, ManifestError> {
        if file.format != FORMAT {
            return refuse(
                "format",
                format!("expected {FORMAT}, found {}", file.format),
            );
        }
        let (kind, model_sha256, model_bytes) = file.model()?;
        let preprocessing = match file.preprocessing.as_str() {
            "standardise" => Preprocessing::Standardise,
            "none" => Preprocessing::None,
            other => {
                let found = shorten(other);
                return refuse(
                    "preprocessing",
                    format!("expected `standardise` or `none`, found `{found}`"),
                );
            }
        };
        let agent_version_min = match &file.agent_version_min {
            None => None,
            Some(text) => match parse_version(text) {
                Some(version) => Some(version),
                None => {
                    let found = shorten(text);
                    return refuse(
                        "agent_version_min",
                        format!("expected three numbers such as `0.1.0`, found `{found}`"),
                    );
                }
            },
        };
        let (mut inputs, mut outputs): (Vec<Input>, Vec<Output>) = (
            file.inputs.into_iter().map(Input::from).collect(),
            file.outputs.into_iter().map(Output::from).collect(),
        );
        reference::assign(file.drift, &mut inputs, &mut outputs)?;
        Ok(Manifest {
            id: file.id,
            version: file.version,
            release: file.release,
            agent_version_min,
            licence: file.licence,
            kind,
            model_sha256,
            model_bytes,
            window: Window {
                length: file.window.length,
                period_ms: file.window.period_ms,
            },
            inputs,
            preprocessing,
            outputs,
            missing: Missing::from(file.missing),
            budgets: Budgets {
                load_ms_max: file.budgets.load_ms_max,
                p99_us_max: file.budgets.p99_us_max,
                memory_bytes_max: file.budgets.memory_bytes_max,
            },
            training: Training::from(file.training),
        })
    }
}

impl From<file::Input> for Input {
    fn from(file: file::Input) -> Input {
        let file::Input {
            quantity,
            unit,
            range,
            mean,
            scale,
            impute,
        } = file;
        Input {
            quantity,
            unit,
            range,
            mean,
            scale,
            drift: None,
            impute: impute.map(Impute::from),
        }
    }
}

impl From<file::Output> for Output {
    fn from(file: file::Output) -> Output {
        let file::Output {
            name,
            meaning,
            threshold,
            hysteresis,
            range,
        } = file;
        Output {
            name,
            meaning,
            threshold,
            drift: None,
            hysteresis: hysteresis.unwrap_or(0.0),
            range,
        }
    }
}

impl From<file::Training> for Training {
    fn from(file: file::Training) -> Training {
        let file::Training {
            script,
            seed,
            data,
            figures,
        } = file;
        let file::Figures {
            f1,
            false_alarms_percent,
            missed_percent,
        } = figures;
        let figures = Figures {
            f1,
            false_alarms_percent,
            missed_percent,
        };
        Training {
            script,
            seed,
            data,
            figures,
        }
    }
}

fn refuse<T>(key: impl Into<String>, reason: impl Into<String>) -> Result<T, ManifestError> {
    Err(ManifestError::Value {
        key: key.into(),
        reason: reason.into(),
    })
}

/// `1.2.3`; what follows a `-` or `+` is not looked at.
fn parse_version(text: &str) -> Option<[u64; 3]> {
    let numbers = text.split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    let version = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(version)
}

fn syntax_error(text: &str, error: &toml::de::Error) -> ManifestError {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |position| position + 1);
    let line_text = text[line_start..].lines().next().unwrap_or_default();
    ManifestError::Syntax {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: shorten_to(&error.message().replace('\n', "; "), MESSAGE_CHARACTERS_MAX),
        quote: shorten(line_text.trim()),
    }
}

fn shorten(text: &str) -> String {
    shorten_to(text, QUOTE_CHARACTERS_MAX)
}

fn shorten_to(text: &str, characters_max: usize) -> String {
    let mut characters = text.chars();
    let mut short: String = characters.by_ref().take(characters_max).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
