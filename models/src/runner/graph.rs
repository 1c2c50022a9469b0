//! An ONNX graph on its way into tract, and one run of it.
//!
//! Owns what is refused before tract sees it: operators by name, files beside the model, graphs that are too large, inputs
//! and outputs that are not the manifest's. Fixes the input to a concrete `[1, window, inputs]` of f32: with symbolic shapes
//! an undersized input once ended in a crash. Must not contain panics: the runner does.

use tract_onnx::pb;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModelExt, IntoTValue, Tensor, TractResult,
    TypedModel, TypedSimpleState, tvec,
};

use super::{RunnerError, brief, cannot_load, unfit};
use crate::operators;

/// Most nodes of a graph. The largest model that was tried for a device has 2,000.
pub(super) const NODES_MAX: usize = 10_000;
/// Most numbers that one run may hold in all its tensors, weights included: 256 MiB of f32.
const ELEMENTS_MAX: usize = 64 * 1024 * 1024;

pub(super) fn parse(onnx: &[u8]) -> Result<pb::ModelProto, RunnerError> {
    tract_onnx::onnx()
        .proto_model_for_read(&mut &*onnx)
        .map_err(|error| cannot_load(&error))
}

/// Refuses what must not reach tract: denied operators, files beside the model, a graph that is
/// too large, an input of another shape.
pub(super) fn check_graph(proto: &pb::ModelProto, shape: [usize; 3]) -> Result<(), RunnerError> {
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

pub(super) fn load_model(proto: &pb::ModelProto, shape: [usize; 3]) -> TractResult<TypedModel> {
    tract_onnx::onnx()
        .model_for_proto_model(proto)?
        .with_input_fact(0, InferenceFact::dt_shape(DatumType::F32, shape))?
        .into_optimized()
}

/// Refuses a loaded model whose shapes are not all known, that needs too much memory, or whose
/// outputs are not those of the manifest.
pub(super) fn check_model(model: &TypedModel, outputs: usize) -> Result<(), RunnerError> {
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

pub(super) fn evaluate(
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
