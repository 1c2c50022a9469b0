//! Running a model, whatever evaluates it: tract (`graph.rs`, with this file the only one that names it) or this crate.
//!
//! Owns the loaded model and its one reused state, and checks the golden vectors before anyone may run it. A panic
//! inside tract is contained and becomes an error; the state is made anew after any error, since a failed run leaves it
//! undefined. Must not read files, standardise or judge.
//!
//! Not contained: an abort, as by an allocation beyond memory or a stack overflow. Bounds on the
//! graph make both unlikely; a bundle from an untrusted hand belongs into a child process first.
//!
//! Invariant: a [`Runner`] that exists gave every golden output within its tolerance.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use thiserror::Error;
use tract_onnx::prelude::{IntoRunnable, TractError, TypedRunnableModel, TypedSimpleState};

use crate::bundle::Bundle;
use crate::golden::{Golden, GoldenVector};
use crate::manifest::{Kind, Manifest};
use crate::native::Native;
use crate::operators::OperatorRefusal;

mod graph;

/// Longest message of tract that an error repeats, characters. Some hold a whole weight tensor.
const MESSAGE_CHARACTERS_MAX: usize = 400;

/// Where a model panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// While it was loaded and optimised.
    Load,
    /// While it computed.
    Run,
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Stage::Load => "load",
            Stage::Run => "run",
        })
    }
}

/// Why a model was not loaded, or did not give its outputs.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum RunnerError {
    /// The model uses an operator that is on the deny list.
    #[error("{0}")]
    Operator(OperatorRefusal),
    /// Not an ONNX model, or not one that fits the manifest, or one that tract cannot load.
    #[error("the model cannot be loaded: {reason}")]
    Model {
        /// What is wrong, at most a few hundred characters.
        reason: String,
    },
    /// A golden vector gave another output than it must.
    #[error(
        "golden vector `{vector}`, output `{output}`: expected {expected} within {distance_max}, got {got}"
    )]
    Golden {
        /// Name of the vector.
        vector: String,
        /// Name of the output.
        output: String,
        /// What it must give.
        expected: f32,
        /// How far it may be from it.
        distance_max: f32,
        /// What it gave.
        got: f32,
    },
    /// A golden vector gave no output at all.
    #[error("golden vector `{vector}`: {source}")]
    GoldenRun {
        /// Name of the vector.
        vector: String,
        /// Why not.
        source: Box<RunnerError>,
    },
    /// The window has the wrong length.
    #[error("the window has {got} numbers, the model takes {expected}")]
    WindowLength {
        /// [`Manifest::window_elements`].
        expected: usize,
        /// The length that was given.
        got: usize,
    },
    /// The window holds a NaN or an infinity.
    #[error("number {index} of the window is not finite")]
    InputNotFinite {
        /// Its place in the window, from 0.
        index: usize,
    },
    /// The model gave a NaN or an infinity.
    #[error("output {index} is not finite")]
    OutputNotFinite {
        /// Its place among the outputs, from 0.
        index: usize,
    },
    /// tract reported an error while it computed.
    #[error("the model failed: {reason}")]
    Run {
        /// What it said, at most a few hundred characters.
        reason: String,
    },
    /// The model panicked; the panic was contained.
    #[error("the model panicked during {stage}: {message}")]
    Panicked {
        /// Where.
        stage: Stage,
        /// The message of the panic.
        message: String,
    },
}

/// A loaded model. `Send`, so it may be loaded on one thread and used on another.
pub struct Runner {
    engine: Engine,
    shape: [usize; 3],
    outputs: usize,
}

/// What evaluates the model.
enum Engine {
    Tract {
        plan: Arc<TypedRunnableModel>,
        /// `None` after an error: the next run makes it anew.
        state: Option<TypedSimpleState>,
    },
    Native(Native),
}

impl Engine {
    fn load(bundle: &Bundle, shape: [usize; 3]) -> Result<Engine, RunnerError> {
        let manifest = bundle.manifest();
        if manifest.kind != Kind::Onnx {
            return Native::parse(bundle.model(), manifest)
                .map(Engine::Native)
                .map_err(|error| RunnerError::Model {
                    reason: brief(&error.to_string()),
                });
        }
        let proto = graph::parse(bundle.model())?;
        graph::check_graph(&proto, shape)?;
        let model = graph::load_model(&proto, shape).map_err(|error| cannot_load(&error))?;
        graph::check_model(&model, manifest.outputs.len())?;
        let plan = model.into_runnable().map_err(|error| cannot_load(&error))?;
        Ok(Engine::Tract { plan, state: None })
    }
}

impl Runner {
    /// Loads the model of `bundle` and runs all its golden vectors.
    ///
    /// Takes milliseconds for a small model, and memory of about three times its file.
    ///
    /// # Errors
    /// [`RunnerError`]: a refused operator, a model that does not load or does not fit the
    /// manifest, a panic, or a golden vector that gives something else.
    pub fn load(bundle: &Bundle) -> Result<Runner, RunnerError> {
        let manifest = bundle.manifest();
        let shape = input_shape(manifest);
        let outputs = manifest.outputs.len();
        let mut runner = Runner {
            engine: contained(Stage::Load, || Engine::load(bundle, shape))?,
            shape,
            outputs,
        };
        runner.check_golden(bundle.golden(), manifest)?;
        Ok(runner)
    }

    /// Runs the model over one window and returns one number for each output of the manifest, the
    /// score first.
    ///
    /// `window` is the tensor as it is fed: preprocessed as the manifest says, row-major with one
    /// row for each tick, the oldest tick first; [`Manifest::window_elements`] finite numbers.
    ///
    /// # Errors
    /// [`RunnerError`]: wrong length, a number that is not finite on either side, an error or a
    /// panic inside the model. The runner stays usable after any of them.
    pub fn run(&mut self, window: &[f32]) -> Result<Vec<f32>, RunnerError> {
        let expected = self.shape.iter().product();
        if window.len() != expected {
            return Err(RunnerError::WindowLength {
                expected,
                got: window.len(),
            });
        }
        if let Some(index) = window.iter().position(|number| !number.is_finite()) {
            return Err(RunnerError::InputNotFinite { index });
        }
        let outputs = self.run_tensor(window, &self.shape.clone())?;
        match outputs.iter().position(|number| !number.is_finite()) {
            Some(index) => Err(RunnerError::OutputNotFinite { index }),
            None => Ok(outputs),
        }
    }

    fn run_tensor(&mut self, numbers: &[f32], shape: &[usize]) -> Result<Vec<f32>, RunnerError> {
        let count = self.outputs;
        let (plan, state) = match &mut self.engine {
            Engine::Native(native) => return Ok(native.run(numbers)),
            Engine::Tract { plan, state } => (plan, state),
        };
        // The state moves into the closure, so after an error or a panic it is gone.
        let (shared, taken) = (&*plan, state.take());
        let (outputs, used) = contained(Stage::Run, move || {
            let failed = |error: TractError| RunnerError::Run {
                reason: reason(&error),
            };
            let mut state = taken.map_or_else(|| shared.spawn(), Ok).map_err(failed)?;
            let outputs = graph::evaluate(&mut state, numbers, shape).map_err(failed)?;
            if outputs.len() != count {
                let reason = format!("{} outputs instead of {count}", outputs.len());
                return Err(RunnerError::Run { reason });
            }
            Ok((outputs, state))
        })?;
        *state = Some(used);
        Ok(outputs)
    }

    fn check_golden(&mut self, golden: &Golden, manifest: &Manifest) -> Result<(), RunnerError> {
        for vector in golden.vectors() {
            let outputs = self
                .run(&vector.input)
                .map_err(|source| RunnerError::GoldenRun {
                    vector: vector.name.clone(),
                    source: Box::new(source),
                })?;
            check_vector(vector, &outputs, golden, manifest)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Runner")
            .field("shape", &self.shape)
            .field("outputs", &self.outputs)
            .finish_non_exhaustive()
    }
}

fn input_shape(manifest: &Manifest) -> [usize; 3] {
    let inputs = manifest.inputs.len();
    [1, manifest.window_elements() / inputs, inputs]
}

fn check_vector(
    vector: &GoldenVector,
    outputs: &[f32],
    golden: &Golden,
    manifest: &Manifest,
) -> Result<(), RunnerError> {
    let pairs = outputs.iter().zip(&vector.outputs).zip(&manifest.outputs);
    for ((&got, &expected), output) in pairs {
        let distance_max = golden.tolerance().distance_max(expected);
        // `run` has refused what is not finite, so the comparison means what it says.
        if (got - expected).abs() > distance_max {
            return Err(RunnerError::Golden {
                vector: vector.name.clone(),
                output: output.name.clone(),
                expected,
                distance_max,
                got,
            });
        }
    }
    Ok(())
}

/// Calls `work` and turns a panic into an error.
fn contained<T>(
    stage: Stage,
    work: impl FnOnce() -> Result<T, RunnerError>,
) -> Result<T, RunnerError> {
    // What `work` touches is either moved into it, and so gone after a panic, or immutable.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let message = panic_message(payload.as_ref());
        Err(RunnerError::Panicked { stage, message })
    })
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    brief(text.unwrap_or("no message"))
}

fn unfit<T>(reason: impl Into<String>) -> Result<T, RunnerError> {
    Err(RunnerError::Model {
        reason: reason.into(),
    })
}

fn cannot_load(error: &TractError) -> RunnerError {
    RunnerError::Model {
        reason: reason(error),
    }
}

fn reason(error: &TractError) -> String {
    brief(&format!("{error:#}"))
}

fn brief(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(MESSAGE_CHARACTERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests;
