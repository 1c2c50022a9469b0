//! Test help: the shipped bundle's parts, small ONNX models written by hand, and bundles of them.
//!
//! Writes protobuf itself, field by field, so that tests can make models that no exporter would.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use crate::{Bundle, BundleError, Digest};

/// Ticks of the window of a small model; it has one input.
pub(crate) const SMALL_WINDOW: usize = 4;

/// Folder of the bundle that ships.
pub(crate) fn shipped_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("store/bearing-anomaly-v1")
}

/// The three files of a bundle.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) manifest: String,
    pub(crate) model: Vec<u8>,
    pub(crate) golden: String,
}

impl Parts {
    /// Those of the bundle that ships.
    pub(crate) fn shipped() -> Parts {
        let dir = shipped_dir();
        Parts {
            manifest: std::fs::read_to_string(dir.join("manifest.toml")).unwrap(),
            model: std::fs::read(dir.join("model.onnx")).unwrap(),
            golden: std::fs::read_to_string(dir.join("golden.json")).unwrap(),
        }
    }

    /// A bundle around `onnx`, a small model whose score is the mean of the squared window.
    pub(crate) fn small(onnx: &[u8]) -> Parts {
        let manifest = r#"
format = 1
id = "small"
version = "1"
licence = "MIT"
onnx_sha256 = "0"
onnx_bytes = 0
preprocessing = "none"
window = { length = 4, period_ms = 1000 }
inputs = [{ quantity = "level", unit = "m", range = [0.0, 9.0], mean = 0.0, scale = 1.0 }]
outputs = [{ name = "score", meaning = "mean square", threshold = 1.0 }]
[training]
script = "none"
seed = 1
data = "none"
figures = { f1 = 1.0, false_alarms_percent = 0.0, missed_percent = 0.0 }
"#;
        let vectors: Vec<String> = (0_u8..32)
            .map(|index| {
                let level = f32::from(index) / 8.0;
                format!(
                    r#"{{"name":"v{index}","input":[{level},{level},{level},{level}],"outputs":[{}]}}"#,
                    level * level
                )
            })
            .collect();
        let parts = Parts {
            manifest: manifest.to_owned(),
            model: Vec::new(),
            golden: format!(
                r#"{{"format":1,"tolerance":{{"absolute":1e-6,"relative":1e-5}},"vectors":[{}]}}"#,
                vectors.join(",")
            ),
        };
        parts.with_onnx(onnx)
    }

    /// The same with another model, and with its digest and length in the manifest.
    pub(crate) fn with_onnx(&self, onnx: &[u8]) -> Parts {
        let lines: Vec<String> = self
            .manifest
            .lines()
            .map(|line| {
                if line.starts_with("onnx_sha256") {
                    format!("onnx_sha256 = \"{}\"", Digest::of(onnx))
                } else if line.starts_with("onnx_bytes") {
                    format!("onnx_bytes = {}", onnx.len())
                } else {
                    line.to_owned()
                }
            })
            .collect();
        Parts {
            manifest: lines.join("\n"),
            model: onnx.to_owned(),
            golden: self.golden.clone(),
        }
    }

    pub(crate) fn bundle(&self) -> Result<Bundle, BundleError> {
        Bundle::from_parts(&self.manifest, &self.model, &self.golden)
    }

    pub(crate) fn write_to(&self, dir: &Path) {
        std::fs::write(dir.join("manifest.toml"), &self.manifest).unwrap();
        std::fs::write(dir.join("model.onnx"), &self.model).unwrap();
        std::fs::write(dir.join("golden.json"), &self.golden).unwrap();
    }
}

/// A generator for seeded tests (Knuth's MMIX constants); the low bits are not used.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// A message of protobuf under construction.
#[derive(Clone, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn number(mut self, field: u64, value: u64) -> Message {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    pub(crate) fn bytes(mut self, field: u64, value: &[u8]) -> Message {
        self.varint(field << 3 | 2);
        self.varint(u64::try_from(value.len()).unwrap());
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(self, field: u64, value: &str) -> Message {
        self.bytes(field, value.as_bytes())
    }

    pub(crate) fn message(self, field: u64, value: &Message) -> Message {
        self.bytes(field, &value.0)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap());
    }
}

/// f32 and i64 in ONNX's enumeration of types.
pub(crate) const FLOAT: u64 = 1;
pub(crate) const INT64: u64 = 7;

/// A node (`NodeProto`).
pub(crate) fn node(operator: &str, inputs: &[&str], output: &str) -> Message {
    let node = inputs
        .iter()
        .fold(Message::default(), |node, input| node.text(1, input));
    node.text(2, output)
        .text(3, &format!("node-{output}"))
        .text(4, operator)
}

/// An attribute of text for a node (`AttributeProto`).
pub(crate) fn text_attribute(name: &str, value: &str) -> Message {
    Message::default()
        .text(1, name)
        .text(4, value)
        .number(20, 3)
}

/// An attribute that holds an empty graph.
pub(crate) fn graph_attribute(name: &str) -> Message {
    Message::default()
        .text(1, name)
        .message(6, &Message::default())
        .number(20, 5)
}

/// An attribute of one integer.
pub(crate) fn number_attribute(name: &str, value: u64) -> Message {
    Message::default()
        .text(1, name)
        .number(3, value)
        .number(20, 2)
}

/// The declaration of a tensor (`ValueInfoProto`).
pub(crate) fn value(name: &str, element: u64, shape: &[u64]) -> Message {
    let shape = shape.iter().fold(Message::default(), |shape, length| {
        shape.message(1, &Message::default().number(1, *length))
    });
    let tensor = Message::default().number(1, element).message(2, &shape);
    Message::default()
        .text(1, name)
        .message(2, &Message::default().message(1, &tensor))
}

/// A graph under construction, from the input `window` of shape `[1, 4, 1]` to `score`.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Message>,
    pub(crate) weights: Vec<Message>,
    pub(crate) inputs: Vec<Message>,
    pub(crate) outputs: Vec<Message>,
}

impl Graph {
    /// The mean of the squared window: what `Parts::small` expects.
    pub(crate) fn mean_square() -> Graph {
        // Axes 1 and 2, and the batch stays.
        let axes = Message::default()
            .text(1, "axes")
            .number(8, 1)
            .number(8, 2)
            .number(20, 7);
        Graph {
            nodes: vec![
                node("Mul", &["window", "window"], "square"),
                node("ReduceMean", &["square"], "score")
                    .message(5, &axes)
                    .message(5, &number_attribute("keepdims", 0)),
            ],
            weights: Vec::new(),
            inputs: vec![value("window", FLOAT, &[1, 4, 1])],
            outputs: vec![value("score", FLOAT, &[1])],
        }
    }

    /// `mean_square` with `node` before it, whose output nobody reads.
    pub(crate) fn with_node(node: Message) -> Graph {
        let mut graph = Graph::mean_square();
        graph.nodes.insert(0, node);
        graph
    }

    /// The bytes of a `ModelProto` with operator set 17.
    pub(crate) fn onnx(&self) -> Vec<u8> {
        let graph = [
            (1, &self.nodes),
            (5, &self.weights),
            (11, &self.inputs),
            (12, &self.outputs),
        ]
        .into_iter()
        .flat_map(|(field, parts)| parts.iter().map(move |part| (field, part)))
        .fold(
            Message::default().text(2, "small"),
            |graph, (field, part)| graph.message(field, part),
        );
        Message::default()
            .number(1, 8)
            .message(8, &Message::default().number(2, 17))
            .message(7, &graph)
            .0
    }
}
