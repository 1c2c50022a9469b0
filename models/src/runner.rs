//! Running a model: the only file that names tract.
//!
//! Owns the loaded model and its one reused state. Refuses operators by name before tract sees
//! them, fixes the input to a concrete `[1, window, inputs]` of f32 (with symbolic shapes an
//! undersized input once ended in a crash), and checks the golden vectors before anyone may run it.
//! A panic inside tract is contained and becomes an error; the state is made anew after any error,
//! since a failed run leaves it undefined. Must not read files, standardise or judge.
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
use tract_onnx::pb;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, Tensor,
    TractError, TractResult, TypedModel, TypedRunnableModel, TypedSimpleState, tvec,
};

use crate::bundle::Bundle;
use crate::golden::{Golden, GoldenVector};
use crate::manifest::Manifest;
use crate::operators::{self, OperatorRefusal};

/// Most nodes of a graph. The largest model that was tried for a device has 2,000.
const NODES_MAX: usize = 10_000;
/// Most numbers that one run may hold in all its tensors, weights included: 256 MiB of f32.
const ELEMENTS_MAX: usize = 64 * 1024 * 1024;
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
    plan: Arc<TypedRunnableModel>,
    /// `None` after an error: the next run makes it anew.
    state: Option<TypedSimpleState>,
    shape: [usize; 3],
    outputs: usize,
}

impl Runner {
    /// Loads the model of `bundle` and runs all its golden vectors.
    ///
    /// Takes milliseconds for a small model, and memory of about three times the ONNX file.
    ///
    /// # Errors
    /// [`RunnerError`]: a refused operator, a model that does not load or does not fit the
    /// manifest, a panic, or a golden vector that gives something else.
    pub fn load(bundle: &Bundle) -> Result<Runner, RunnerError> {
        let manifest = bundle.manifest();
        let shape = input_shape(manifest);
        let outputs = manifest.outputs.len();
        let plan = contained(Stage::Load, || {
            let proto = parse(bundle.onnx())?;
            check_graph(&proto, shape)?;
            let model = load_model(&proto, shape).map_err(|error| cannot_load(&error))?;
            check_model(&model, outputs)?;
            model.into_runnable().map_err(|error| cannot_load(&error))
        })?;
        let mut runner = Runner {
            plan,
            state: None,
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
        // The state moves into the closure, so after an error or a panic it is gone.
        let (plan, state, count) = (&self.plan, self.state.take(), self.outputs);
        let (outputs, state) = contained(Stage::Run, move || {
            let failed = |error: TractError| RunnerError::Run {
                reason: reason(&error),
            };
            let mut state = state.map_or_else(|| plan.spawn(), Ok).map_err(failed)?;
            let outputs = evaluate(&mut state, numbers, shape).map_err(failed)?;
            if outputs.len() != count {
                let reason = format!("{} outputs instead of {count}", outputs.len());
                return Err(RunnerError::Run { reason });
            }
            Ok((outputs, state))
        })?;
        self.state = Some(state);
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

fn parse(onnx: &[u8]) -> Result<pb::ModelProto, RunnerError> {
    tract_onnx::onnx()
        .proto_model_for_read(&mut &*onnx)
        .map_err(|error| cannot_load(&error))
}

/// Refuses what must not reach tract: denied operators, files beside the model, a graph that is
/// too large, an input of another shape.
fn check_graph(proto: &pb::ModelProto, shape: [usize; 3]) -> Result<(), RunnerError> {
    let Some(graph) = &proto.graph else {
        return unfit("it has no graph");
    };
    if graph.node.len() + graph.initializer.len() > NODES_MAX {
        return unfit(format!("it has more than {NODES_MAX} nodes and weights"));
    }
    if !proto.functions.is_empty() {
        return unfit("it defines functions, which are not supported");
    }
    if !graph.sparse_initializer.is_empty() {
        return unfit("it has sparse weights, which are not supported");
    }
    let known = tract_onnx::onnx().op_register.0;
    for node in &graph.node {
        let node = node_view(node, |operator| known.contains_key(operator));
        if let Some(refusal) = operators::refusal(node) {
            return Err(RunnerError::Operator(refusal));
        }
    }
    if tensors(graph).any(|tensor| !tensor.external_data.is_empty()) {
        return unfit("it keeps weights in another file");
    }
    check_graph_input(graph, shape)
}

fn check_graph_input(graph: &pb::GraphProto, shape: [usize; 3]) -> Result<(), RunnerError> {
    // Older exporters list the weights among the inputs.
    let is_weight = |name: &str| graph.initializer.iter().any(|weight| weight.name == name);
    let inputs: Vec<_> = graph
        .input
        .iter()
        .filter(|input| !is_weight(&input.name))
        .collect();
    let [input] = inputs[..] else {
        return unfit(format!(
            "it has {} inputs, one tensor is expected",
            inputs.len()
        ));
    };
    let Some(pb::type_proto::Value::TensorType(tensor)) =
        input.r#type.as_ref().and_then(|kind| kind.value.as_ref())
    else {
        return unfit("its input is no tensor");
    };
    if tensor.elem_type != i32::from(pb::tensor_proto::DataType::Float) {
        return unfit("its input is not f32");
    }
    // A symbolic dimension is fixed by us; a number must be ours.
    let fits =
        |(dimension, length): (&pb::tensor_shape_proto::Dimension, usize)| match dimension.value {
            Some(pb::tensor_shape_proto::dimension::Value::DimValue(value)) => {
                usize::try_from(value) == Ok(length)
            }
            _ => true,
        };
    let fits_all = tensor.shape.as_ref().is_none_or(|declared| {
        declared.dim.len() == shape.len() && declared.dim.iter().zip(shape).all(fits)
    });
    if !fits_all {
        let [batch, window, inputs] = shape;
        return unfit(format!(
            "its input is not [{batch}, {window}, {inputs}] (batch, ticks, inputs) as in the manifest"
        ));
    }
    Ok(())
}

fn node_view(node: &pb::NodeProto, is_known: impl Fn(&str) -> bool) -> operators::Node<'_> {
    operators::Node {
        name: &node.name,
        operator: &node.op_type,
        domain: &node.domain,
        direction: node
            .attribute
            .iter()
            .find(|attribute| attribute.name == "direction")
            .map(|attribute| attribute.s.as_slice()),
        has_subgraph: node
            .attribute
            .iter()
            .any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty()),
        is_known: is_known(&node.op_type),
    }
}

fn tensors(graph: &pb::GraphProto) -> impl Iterator<Item = &pb::TensorProto> {
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    graph
        .initializer
        .iter()
        .chain(attributes.flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors)))
}

fn load_model(proto: &pb::ModelProto, shape: [usize; 3]) -> TractResult<TypedModel> {
    tract_onnx::onnx()
        .model_for_proto_model(proto)?
        .with_input_fact(0, InferenceFact::dt_shape(DatumType::F32, shape))?
        .into_optimized()
}

/// Refuses a loaded model whose shapes are not all known, that needs too much memory, or whose
/// outputs are not those of the manifest.
fn check_model(model: &TypedModel, outputs: usize) -> Result<(), RunnerError> {
    let mut elements = 0_usize;
    for node in model.nodes() {
        for outlet in &node.outputs {
            let Some(shape) = outlet.fact.shape.as_concrete() else {
                return unfit(format!("the shape of `{}` is not fixed", brief(&node.name)));
            };
            let volume = shape
                .iter()
                .try_fold(1_usize, |volume, length| volume.checked_mul(*length));
            elements = elements.saturating_add(volume.unwrap_or(usize::MAX));
        }
    }
    if elements > ELEMENTS_MAX {
        return unfit(format!("a run needs more than {ELEMENTS_MAX} numbers"));
    }
    let mut found = 0;
    for outlet in model
        .output_outlets()
        .map_err(|error| cannot_load(&error))?
    {
        let fact = model
            .outlet_fact(*outlet)
            .map_err(|error| cannot_load(&error))?;
        if fact.datum_type != DatumType::F32 {
            return unfit("an output is not f32");
        }
        found += fact
            .shape
            .as_concrete()
            .map_or(0, |shape| shape.iter().product());
    }
    if found != outputs {
        return unfit(format!(
            "it gives {found} numbers, the manifest names {outputs} outputs"
        ));
    }
    Ok(())
}

fn evaluate(
    state: &mut TypedSimpleState,
    numbers: &[f32],
    shape: &[usize],
) -> TractResult<Vec<f32>> {
    let input = Tensor::from_shape(shape, numbers)?.into_tvalue();
    let mut outputs = Vec::new();
    for tensor in state.run(tvec!(input))? {
        outputs.extend_from_slice(tensor.try_as_plain_ram()?.as_slice::<f32>()?);
    }
    Ok(outputs)
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
