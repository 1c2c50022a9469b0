#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use super::*;
use crate::testing::{
    Dice, FLOAT, Graph, INT64, Message, Parts, SMALL_WINDOW, graph_attribute, node,
    number_attribute, shipped_dir, text_attribute, value,
};

fn load(graph: &Graph) -> Result<Runner, RunnerError> {
    Runner::load(&Parts::small(&graph.onnx()).bundle().unwrap())
}

fn check_refused(graph: &Graph, expected: &[&str]) {
    let message = load(graph).unwrap_err().to_string();
    for part in expected {
        assert!(message.contains(part), "`{message}` is without `{part}`");
    }
    assert!(message.len() < 600, "{} bytes", message.len());
}

fn shipped() -> Runner {
    Runner::load(&Bundle::open(shipped_dir()).unwrap()).unwrap()
}

#[test]
fn runner_can_move_between_threads() {
    fn check<T: Send>() {}
    check::<Runner>();
}

#[test]
fn shipped_model_gives_its_golden_outputs() {
    let bundle = Bundle::open(shipped_dir()).unwrap();
    let mut runner = Runner::load(&bundle).unwrap();
    let threshold = bundle.manifest().score_threshold();
    let mut flagged = 0;
    for vector in bundle.golden().vectors() {
        let score = runner.run(&vector.input).unwrap()[0];
        let distance = (score - vector.outputs[0]).abs();
        assert!(distance <= bundle.golden().tolerance().distance_max(vector.outputs[0]));
        let is_flagged = f64::from(score) > threshold;
        flagged += u32::from(is_flagged);
        assert!(
            !(is_flagged && vector.name.starts_with("healthy")),
            "{}",
            vector.name
        );
    }
    assert!(
        flagged >= 15,
        "only {flagged} of 25 faulty vectors are above the threshold"
    );
}

#[test]
fn equal_windows_give_equal_bits() {
    let mut runner = shipped();
    let bundle = Bundle::open(shipped_dir()).unwrap();
    let windows: Vec<_> = bundle
        .golden()
        .vectors()
        .iter()
        .map(|vector| &vector.input)
        .collect();
    let first: Vec<_> = windows
        .iter()
        .map(|window| runner.run(window).unwrap())
        .collect();
    for (window, expected) in windows.iter().zip(&first).rev() {
        assert_eq!(&runner.run(window).unwrap(), expected);
        assert_eq!(&shipped_again(&mut runner, window), expected);
    }
}

fn has_state(runner: &Runner) -> bool {
    matches!(runner.engine, Engine::Tract { state: Some(_), .. })
}

/// The output with a fresh state.
fn shipped_again(runner: &mut Runner, window: &[f32]) -> Vec<f32> {
    let Engine::Tract { state, .. } = &mut runner.engine else {
        panic!("the shipped model is a graph");
    };
    *state = None;
    runner.run(window).unwrap()
}

#[test]
fn wrong_windows_are_errors_and_the_runner_goes_on() {
    let mut runner = load(&Graph::mean_square()).unwrap();
    for got in [0, SMALL_WINDOW - 1, SMALL_WINDOW + 1, 100_000] {
        let error = runner.run(&vec![1.0; got]).unwrap_err();
        assert_eq!(
            error,
            RunnerError::WindowLength {
                expected: SMALL_WINDOW,
                got
            }
        );
    }
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = runner.run(&[1.0, 1.0, wrong, 1.0]).unwrap_err();
        assert_eq!(error, RunnerError::InputNotFinite { index: 2 });
    }
    assert_eq!(runner.run(&[1.0, 2.0, 3.0, 4.0]).unwrap(), [7.5]);
}

#[test]
fn output_that_is_not_finite_is_an_error() {
    let mut runner = load(&Graph::mean_square()).unwrap();
    // Each number is finite, its square is not.
    let error = runner.run(&[1e30; SMALL_WINDOW]).unwrap_err();
    assert_eq!(error, RunnerError::OutputNotFinite { index: 0 });
    assert_eq!(runner.run(&[2.0; SMALL_WINDOW]).unwrap(), [4.0]);
}

#[test]
fn state_is_made_anew_after_an_error() {
    let mut runner = load(&Graph::mean_square()).unwrap();
    assert!(has_state(&runner));
    // A shape that `run` never lets through: tract itself has to refuse it, here within the run.
    let error = runner.run_tensor(&[1.0; 6], &[1, 6]).unwrap_err();
    assert!(
        matches!(
            error,
            RunnerError::Run { .. } | RunnerError::Panicked { .. }
        ),
        "{error:?}"
    );
    assert!(!has_state(&runner));
    assert_eq!(runner.run(&[3.0; SMALL_WINDOW]).unwrap(), [9.0]);
    assert!(has_state(&runner));
}

#[test]
fn panic_becomes_an_error_with_its_message() {
    let text = contained::<()>(Stage::Run, || panic!("index {} out of range", 7)).unwrap_err();
    let expected = "the model panicked during run: index 7 out of range";
    assert_eq!(text.to_string(), expected);
    let odd = contained::<()>(Stage::Load, || std::panic::panic_any(7_u8)).unwrap_err();
    assert_eq!(
        odd.to_string(),
        "the model panicked during load: no message"
    );
}

/// tract 0.23.9 indexes a map with the name of an output that no node gives, and panics.
#[test]
fn panic_inside_tract_is_contained() {
    let mut graph = Graph::mean_square();
    graph.outputs = vec![value("nowhere", FLOAT, &[1])];
    let error = load(&graph).unwrap_err();
    assert!(
        matches!(
            error,
            RunnerError::Panicked {
                stage: Stage::Load,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn denied_operators_are_named() {
    let operators = [
        "Loop",
        "If",
        "Scan",
        "SequenceMap",
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "MatMulNBits",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
        "StringNormalizer",
        "StringConcat",
        "RegexFullMatch",
        "LabelEncoder",
        "TfIdfVectorizer",
        "RandomNormal",
        "Bernoulli",
        "NoSuchOperator",
    ];
    for operator in operators {
        let graph = Graph::with_node(node(operator, &["window"], "unread"));
        check_refused(&graph, &["operator", operator, "node-unread"]);
        assert!(matches!(load(&graph), Err(RunnerError::Operator(_))));
    }
}

#[test]
fn recurrence_is_refused_unless_forward() {
    for operator in ["LSTM", "GRU", "RNN"] {
        for direction in ["reverse", "bidirectional"] {
            let backward = node(operator, &["window", "weight", "weight"], "unread")
                .message(5, &text_attribute("direction", direction));
            check_refused(&Graph::with_node(backward), &[operator, "not forward"]);
        }
    }
}

#[test]
fn subgraphs_and_strange_domains_are_refused() {
    let hidden = node("Add", &["window", "window"], "unread").message(5, &graph_attribute("body"));
    check_refused(&Graph::with_node(hidden), &["operator Add", "graph inside"]);
    let strange = node("Add", &["window", "window"], "unread").text(7, "com.example");
    check_refused(&Graph::with_node(strange), &["operator Add", "domain"]);
}

#[test]
fn models_that_do_not_fit_the_manifest_are_refused() {
    let mut graph = Graph::mean_square();
    graph.inputs = vec![value("window", FLOAT, &[1, 5, 1])];
    check_refused(&graph, &["not [1, 4, 1]"]);

    let mut graph = Graph::mean_square();
    graph.inputs = vec![value("window", INT64, &[1, 4, 1])];
    check_refused(&graph, &["not f32"]);

    let mut graph = Graph::mean_square();
    graph.inputs.push(value("another", FLOAT, &[1]));
    check_refused(&graph, &["2 inputs"]);

    let mut graph = Graph::mean_square();
    graph.outputs = vec![value("square", FLOAT, &[1, 4, 1])];
    check_refused(&graph, &["gives 4 numbers", "1 outputs"]);

    let mut graph = Graph::mean_square();
    graph.nodes.push(node("Shape", &["score"], "shape"));
    graph.outputs = vec![value("shape", INT64, &[1])];
    check_refused(&graph, &["output is not f32"]);
}

#[test]
fn weights_in_other_files_are_refused() {
    let location = Message::default()
        .text(1, "location")
        .text(2, "/etc/hostname");
    let weight = Message::default()
        .number(1, 4)
        .number(2, FLOAT)
        .text(8, "weight")
        .message(13, &location)
        .number(14, 1);
    let mut graph = Graph::with_node(node("Add", &["window", "weight"], "unread"));
    graph.weights = vec![weight];
    check_refused(&graph, &["weights in another file"]);
}

#[test]
fn shapes_that_depend_on_values_are_refused() {
    let mut graph = Graph::mean_square();
    graph.nodes.push(node("NonZero", &["window"], "places"));
    // To f32, or the type of the output would be refused first.
    let float = number_attribute("to", FLOAT);
    graph
        .nodes
        .push(node("Cast", &["places"], "score-of-places").message(5, &float));
    graph.outputs = vec![value("score-of-places", FLOAT, &[1])];
    check_refused(&graph, &["is not fixed"]);
}

#[test]
fn graphs_beyond_the_limit_are_refused() {
    let mut graph = Graph::mean_square();
    graph.nodes = (0..super::graph::NODES_MAX)
        .map(|_| node("Add", &["window", "window"], "unread"))
        .collect();
    graph.nodes.push(node("Relu", &["window"], "score"));
    check_refused(&graph, &["more than 10000 nodes"]);
}

#[test]
fn golden_mismatch_says_which_and_what() {
    let mut parts = Parts::small(&Graph::mean_square().onnx());
    parts.golden = parts
        .golden
        .replacen("\"outputs\":[1]", "\"outputs\":[1.5]", 1);
    let error = Runner::load(&parts.bundle().unwrap()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("golden vector `v8`, output `score`: expected 1.5 within"),
        "{message}"
    );
    assert!(message.ends_with("got 1"), "{message}");

    // A vector whose output overflows gives no output at all.
    parts.golden = parts.golden.replacen("[0,0,0,0]", "[0,0,0,1e30]", 1);
    let message = Runner::load(&parts.bundle().unwrap())
        .unwrap_err()
        .to_string();
    assert_eq!(message, "golden vector `v0`: output 0 is not finite");
}

#[test]
fn what_is_no_model_is_refused() {
    for bytes in [&b"\x00"[..], b"not a model", b"\x08\x08", &[0xff; 4_096]] {
        let error = Runner::load(&Parts::small(bytes).bundle().unwrap()).unwrap_err();
        assert!(matches!(error, RunnerError::Model { .. }), "{error:?}");
    }
}

/// Loads `onnx` as if the manifest had been written for it. That this returns is the test.
fn outcome(parts: &Parts, onnx: &[u8]) -> &'static str {
    match Runner::load(&parts.with_onnx(onnx).bundle().unwrap()) {
        Ok(_) => "loaded",
        Err(RunnerError::Panicked { .. }) => "panicked",
        Err(RunnerError::Golden { .. } | RunnerError::GoldenRun { .. }) => "golden",
        Err(_) => "refused",
    }
}

/// One bit or byte changed at 200 places: half of them in the graph's description at the start of
/// the file, half anywhere, which is mostly in the weights.
#[test]
fn mutated_models_are_contained() {
    let parts = Parts::shipped();
    let mut dice = Dice(20_261_124);
    let mut counts = std::collections::BTreeMap::new();
    for round in 0..200 {
        let mut onnx = parts.model.clone();
        let place = dice.below(if round % 2 == 0 { 1_000 } else { onnx.len() });
        if round % 4 < 2 {
            onnx[place] ^= 1 << dice.below(8);
        } else {
            onnx[place] = onnx[place].wrapping_add(u8::try_from(1 + dice.below(255)).unwrap());
        }
        *counts.entry(outcome(&parts, &onnx)).or_insert(0) += 1;
    }
    // Both ends must be reached, or the test would show nothing.
    assert!(
        counts.get("refused").is_some_and(|count| *count > 20),
        "{counts:?}"
    );
    assert!(
        counts.get("golden").is_some_and(|count| *count > 5),
        "{counts:?}"
    );
}

#[test]
fn truncated_models_are_contained() {
    let parts = Parts::shipped();
    let mut dice = Dice(7);
    for round in 0..60 {
        let length = 1 + dice.below(if round % 2 == 0 {
            1_000
        } else {
            parts.model.len() - 1
        });
        assert_ne!(
            outcome(&parts, &parts.model[..length]),
            "loaded",
            "{length} bytes"
        );
    }
}
