#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Dice, Parts};
use crate::{Bundle, Digest, Manifest, Runner, RunnerError};

/// A manifest for a window of 4 rows of 2 inputs.
fn manifest_text(kind: &str, outputs: &[&str], model: &[u8]) -> String {
    let outputs: String = outputs
        .iter()
        .map(|name| format!("[[outputs]]\nname = \"{name}\"\nmeaning = \"m\"\nthreshold = 1.0\n"))
        .collect();
    format!(
        "format = 1\nid = \"native\"\nversion = \"1\"\nlicence = \"MIT\"\nkind = \"{kind}\"\nmodel_sha256 = \"{}\"\n\
         model_bytes = {}\npreprocessing = \"none\"\nwindow = {{ length = 4, period_ms = 1000 }}\n\
         [[inputs]]\nquantity = \"a\"\nunit = \"m\"\nrange = [0.0, 9.0]\nmean = 0.0\nscale = 1.0\n\
         [[inputs]]\nquantity = \"b\"\nunit = \"m\"\nrange = [0.0, 9.0]\nmean = 0.0\nscale = 1.0\n{outputs}\
         [training]\nscript = \"none\"\nseed = 1\ndata = \"none\"\n\
         figures = {{ f1 = 1.0, false_alarms_percent = 0.0, missed_percent = 0.0 }}\n",
        Digest::of(model),
        model.len()
    )
}

fn manifest(kind: &str) -> Manifest {
    let outputs: &[&str] = match kind {
        "pca" => &["score", "t2", "spe"],
        _ => &["score"],
    };
    Manifest::parse(&manifest_text(kind, outputs, b"x")).unwrap()
}

fn parse(kind: &str, model: &Value) -> Result<Native, NativeError> {
    Native::parse(model.to_string().as_bytes(), &manifest(kind))
}

/// Features: the newest row, and the mean of the two rows before it.
fn pca() -> Value {
    json!({
        "format": 1, "rows": [[0, 0], [1, 2]], "mean": [1.0, 0.0, 0.0, 0.0], "scale": [2.0, 1.0, 1.0, 1.0],
        "components": [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], "variances": [4.0, 1.0], "t2_limit": 2.0, "spe_limit": 8.0,
    })
}

fn tree(feature: &[i32], left: &[u32], right: &[u32], value: &[f64]) -> Value {
    json!({ "feature": feature, "left": left, "right": right, "value": value })
}

fn forest(trees: &[Value]) -> Value {
    json!({ "format": 1, "rows": [[0, 0]], "kind": "boosted", "base": 0.5, "link": "identity", "trees": trees })
}

#[test]
fn t2_and_spe_are_those_of_the_formulas() {
    // Newest row (5, 2); the means of the two before it (2, 3) and (4, 5): 3 and 4.
    let window = [9.0, 9.0, 2.0, 3.0, 4.0, 5.0, 5.0, 2.0];
    let outputs = parse("pca", &pca()).unwrap().run(&window);
    // z = (2, 2, 3, 4): T2 = 4/4 + 9/1, SPE = 2^2 + 4^2.
    assert_eq!(outputs, [5.0, 10.0, 20.0]);
}

#[test]
fn trees_go_left_at_the_threshold_and_sum_up() {
    let one = tree(
        &[0, -1, 1, -1, -1],
        &[1, 0, 3, 0, 0],
        &[2, 0, 4, 0, 0],
        &[1.0, 10.0, 2.0, 20.0, 30.0],
    );
    let model = parse("forest", &forest(&[one.clone(), one])).unwrap();
    let run = |a: f32, b: f32| model.run(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, a, b])[0];
    assert_eq!(
        (run(1.0, 9.0), run(1.5, 2.0), run(1.5, 2.5)),
        (20.5, 40.5, 60.5)
    );
    let mut logistic = forest(&[tree(&[-1], &[0], &[0], &[-0.5])]);
    logistic["link"] = json!("logistic");
    assert_eq!(parse("forest", &logistic).unwrap().run(&[0.0; 8]), [0.5]);
    let isolation = json!({
        "format": 1, "rows": [[0, 0]], "kind": "isolation", "normaliser": 4.0, "trees": [tree(&[-1], &[0], &[0], &[8.0])],
    });
    assert_eq!(parse("forest", &isolation).unwrap().run(&[0.0; 8]), [0.25]);
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    let cases = [
        ("pca", "/format", json!(2), "`format`"),
        ("pca", "/rows", json!([]), "`rows`"),
        ("pca", "/rows/1", json!([1, 4]), "`rows[1]`"),
        ("pca", "/rows/1", json!([2, 1]), "`rows[1]`"),
        ("pca", "/mean", json!([1.0]), "`mean`: expected 4"),
        ("pca", "/scale/1", json!(0.0), "`scale[1]`"),
        ("pca", "/components/0", json!([1.0, 2.0]), "`components[0]`"),
        ("pca", "/components", json!([]), "`components`"),
        ("pca", "/variances/1", json!(-1.0), "`variances[1]`"),
        ("pca", "/spe_limit", json!(0.0), "`limits[1]`"),
        ("forest", "/trees", json!([]), "`trees`"),
        ("forest", "/kind", json!("isolation"), "`normaliser`"),
        (
            "forest",
            "/trees/0/feature/0",
            json!(2),
            "`trees[0].feature[0]`",
        ),
        (
            "forest",
            "/trees/0/feature/0",
            json!(-2),
            "`trees[0].feature[0]`",
        ),
        // A cycle, and a child that does not exist.
        ("forest", "/trees/0/left/0", json!(0), "`trees[0].left[0]`"),
        (
            "forest",
            "/trees/0/right/0",
            json!(3),
            "`trees[0].right[0]`",
        ),
        (
            "forest",
            "/trees/0/value/1",
            json!(1e39),
            "`trees[0].value[1]`",
        ),
        ("forest", "/trees/0/value", json!([1.0]), "`trees[0].value`"),
    ];
    for (kind, pointer, value, expected) in cases {
        let tree = tree(&[0, -1, -1], &[1, 0, 0], &[2, 0, 0], &[1.0, 2.0, 3.0]);
        let mut model = if kind == "pca" {
            pca()
        } else {
            forest(&[tree])
        };
        assert!(parse(kind, &model).is_ok());
        *model.pointer_mut(pointer).unwrap() = value;
        let message = parse(kind, &model).unwrap_err().to_string();
        assert!(message.contains(expected), "{pointer}: {message}");
    }
}

#[test]
fn a_manifest_names_the_keys_and_outputs_of_its_kind() {
    let text = manifest_text("pca", &["score"], b"x");
    let message = Native::parse(
        pca().to_string().as_bytes(),
        &Manifest::parse(&text).unwrap(),
    )
    .unwrap_err();
    assert!(message.to_string().contains("score, t2, spe"), "{message}");
    let mixed = text.replace("model_bytes", "onnx_bytes");
    let message = Manifest::parse(&mixed).unwrap_err().to_string();
    assert!(
        message.contains("`model_sha256` and `model_bytes` only"),
        "{message}"
    );
    let unknown = text.replace("\"pca\"", "\"svm\"");
    assert!(
        Manifest::parse(&unknown)
            .unwrap_err()
            .to_string()
            .contains("`kind`")
    );
    let none = text.replace("kind = \"pca\"\n", "");
    assert!(
        Manifest::parse(&none)
            .unwrap_err()
            .to_string()
            .contains("`kind`")
    );
}

/// A bundle goes the whole way: digest, golden vectors, run; what is not finite comes out as an error.
#[test]
fn a_runner_does_not_show_the_kind() {
    let model = pca().to_string();
    let manifest = manifest_text("pca", &["score", "t2", "spe"], model.as_bytes());
    let golden = |score: f64| {
        let vector =
            format!(r#"{{"name":"v","input":[9,9,2,3,4,5,5,2],"outputs":[{score},10,20]}}"#);
        format!(
            r#"{{"format":1,"tolerance":{{"absolute":1e-6,"relative":1e-6}},"vectors":[{}]}}"#,
            vec![vector; 32].join(",")
        )
    };
    let load = |golden: &str| {
        Runner::load(&Bundle::from_parts(&manifest, model.as_bytes(), golden).unwrap())
    };
    let mut runner = load(&golden(5.0)).unwrap();
    assert_eq!(
        runner
            .run(&[9.0, 9.0, 2.0, 3.0, 4.0, 5.0, 5.0, 2.0])
            .unwrap(),
        [5.0, 10.0, 20.0]
    );
    assert_eq!(
        runner.run(&[3e38; 8]).unwrap_err(),
        RunnerError::OutputNotFinite { index: 0 }
    );
    assert!(matches!(
        load(&golden(5.1)).unwrap_err(),
        RunnerError::Golden { .. }
    ));
}

#[test]
fn the_models_that_ship_give_their_golden_vectors() {
    for name in ["pump-anomaly-v1", "pump-anomaly-lite-v1", "pump-faults-v1"] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("store")
            .join(name);
        let bundle = Bundle::open(folder).unwrap();
        let mut runner = Runner::load(&bundle).unwrap();
        let threshold = bundle.manifest().score_threshold();
        let mut flagged = 0;
        for vector in bundle.golden().vectors() {
            let is_flagged = f64::from(runner.run(&vector.input).unwrap()[0]) > threshold;
            flagged += u32::from(is_flagged && !vector.name.starts_with("healthy"));
        }
        assert!(flagged >= 8, "{name}: {flagged} of 32 faulty windows");
        assert!(
            bundle
                .manifest()
                .inputs
                .iter()
                .all(|input| input.drift.is_some())
        );
        assert!(
            bundle
                .manifest()
                .outputs
                .iter()
                .all(|output| output.drift.is_some())
        );
    }
}

/// Changes of the file at any byte: refused or evaluated, never a panic or an endless walk.
#[test]
fn damaged_files_are_refused_or_run() {
    let tree = tree(
        &[0, -1, 1, -1, -1],
        &[1, 0, 3, 0, 0],
        &[2, 0, 4, 0, 0],
        &[1.0, 10.0, 2.0, 20.0, 30.0],
    );
    let mut dice = Dice(2_026);
    let mut ran = 0;
    for (kind, whole) in [("pca", pca()), ("forest", forest(&[tree.clone(), tree]))] {
        let whole = whole.to_string().into_bytes();
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=dice.below(3) {
                let at = dice.below(bytes.len());
                bytes[at] = b"0123456789-.e,[]{}\"x\xff"[dice.below(21)];
            }
            bytes.truncate(bytes.len() - dice.below(8) / 7);
            if let Ok(native) = Native::parse(&bytes, &manifest(kind)) {
                ran += 1;
                assert_eq!(
                    native.run(&[1.0; 8]).len(),
                    if kind == "pca" { 3 } else { 1 }
                );
            }
        }
    }
    assert!(ran > 1_000, "only {ran} mutants were well-formed");
}

proptest! {
    /// Random trees, right and wrong: whatever is accepted ends at a leaf.
    #[test]
    fn any_tree_is_refused_or_ends(
        nodes in prop::collection::vec((-2_i32..4, 0_u32..12, 0_u32..12, -10.0_f64..10.0), 1..12),
        window in prop::collection::vec(-10.0_f32..10.0, 8),
    ) {
        let (feature, (left, (right, value))): (Vec<_>, (Vec<_>, (Vec<_>, Vec<_>))) =
            nodes.into_iter().map(|(f, l, r, v)| (f, (l, (r, v)))).unzip();
        if let Ok(model) = parse("forest", &forest(&[tree(&feature, &left, &right, &value)])) {
            prop_assert!(model.run(&window)[0].is_finite());
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Native::parse(&bytes, &manifest("pca")).is_err());
        prop_assert!(Native::parse(&bytes, &manifest("forest")).is_err());
    }
}

#[test]
fn a_graph_is_not_read_as_trees() {
    let shipped = Parts::shipped();
    assert!(Native::parse(&shipped.model, &manifest("forest")).is_err());
}
