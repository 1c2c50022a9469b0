//! Which ONNX operators are refused, and why.
//!
//! Owns the deny list. Pure: it sees names and attributes, never tract or a file. It refuses what
//! tract 0.23.9 was measured to compute wrongly without an error (reverse recurrence,
//! quantisation), what it supports weakly (control flow, strings, trees), and what could not be
//! replayed (random numbers). What is not listed here is still judged by the golden vectors.

use std::fmt;

/// An operator that this agent does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorRefusal {
    /// Name of the operator, shortened: `QuantizeLinear`.
    pub operator: String,
    /// Name of the node in the graph, shortened; may be empty.
    pub node: String,
    /// Why it is refused.
    pub reason: &'static str,
}

impl fmt::Display for OperatorRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OperatorRefusal {
            operator,
            node,
            reason,
        } = self;
        write!(formatter, "operator {operator} (node `{node}`): {reason}")
    }
}

/// What the deny list looks at in one node of a graph.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Node<'a> {
    /// Its name, may be empty.
    pub(crate) name: &'a str,
    /// Its operator.
    pub(crate) operator: &'a str,
    /// The domain of the operator, empty for ONNX's own.
    pub(crate) domain: &'a str,
    /// The attribute `direction`, where there is one.
    pub(crate) direction: Option<&'a [u8]>,
    /// Whether an attribute holds a graph.
    pub(crate) has_subgraph: bool,
    /// Whether the runtime has this operator.
    pub(crate) is_known: bool,
}

/// The refusal of `node`, or nothing when it may be tried.
pub(crate) fn refusal(node: Node<'_>) -> Option<OperatorRefusal> {
    let reason = reason(node)?;
    Some(OperatorRefusal {
        operator: shorten(node.operator),
        node: shorten(node.name),
        reason,
    })
}

/// The domains whose operators the runtime knows. It ignores the domain itself, so an operator of
/// a stranger that happens to be called `Add` would be computed as ONNX's.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];

/// Longest name that a refusal repeats, characters.
const NAME_CHARACTERS_MAX: usize = 80;

fn reason(node: Node<'_>) -> Option<&'static str> {
    match node.operator {
        "LSTM" | "GRU" | "RNN" => {
            let is_reverse = node
                .direction
                .is_some_and(|direction| direction != b"forward");
            is_reverse.then_some("recurrence that is not forward is computed wrongly")
        }
        "QuantizeLinear"
        | "DequantizeLinear"
        | "DynamicQuantizeLinear"
        | "QLinearConv"
        | "QLinearMatMul"
        | "ConvInteger"
        | "MatMulInteger"
        | "MatMulNBits"
        | "MatMulBnb4"
        | "MatMulIntegerToFloat"
        | "DynamicQuantizeMatMul"
        | "DynamicQuantizeLSTM"
        | "QuantizeBFP"
        | "DequantizeBFP"
        | "QAttention"
        | "QGemm"
        | "QMoE"
        | "GatherBlockQuantized" => Some("quantised models are computed wrongly, use f32"),
        "Loop" | "If" | "Scan" | "SequenceMap" | "Optional" | "OptionalGetElement" => {
            Some("control flow is not supported")
        }
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike"
        | "Multinomial" | "Bernoulli" => Some("a random result cannot be replayed"),
        "CategoryMapper" | "LabelEncoder" | "TfIdfVectorizer" => Some("strings are not supported"),
        name if name.starts_with("QLinear") => {
            Some("quantised models are computed wrongly, use f32")
        }
        "SVMClassifier" | "SVMRegressor" => Some("support vectors are not supported"),
        "Tokenizer" | "WordConvEmbedding" | "BertTokenizer" => Some("strings are not supported"),
        "PyOp" => Some("foreign code is not run"),
        name if name.starts_with("TreeEnsemble") => Some("tree ensembles are not supported"),
        name if name.contains("String") || name.contains("Regex") => {
            Some("strings are not supported")
        }
        _ if node.has_subgraph => Some("a graph inside an operator is not supported"),
        _ if !DOMAINS.contains(&node.domain) => Some("its domain is not supported"),
        _ if !node.is_known => Some("the runtime does not have it"),
        _ => None,
    }
}

fn shorten(name: &str) -> String {
    name.chars()
        .filter(|character| !character.is_control())
        .take(NAME_CHARACTERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn known(operator: &str) -> Node<'_> {
        Node {
            operator,
            is_known: true,
            ..Node::default()
        }
    }

    #[test]
    fn operators_of_the_shipped_model_pass() {
        for operator in [
            "Gemm",
            "MatMul",
            "Add",
            "Sub",
            "Mul",
            "Tanh",
            "Reshape",
            "ReduceMean",
        ] {
            assert_eq!(refusal(known(operator)), None, "{operator}");
        }
    }

    #[test]
    fn forward_recurrence_passes() {
        for operator in ["LSTM", "GRU", "RNN"] {
            assert_eq!(refusal(known(operator)), None);
            let forward = Node {
                direction: Some(b"forward"),
                ..known(operator)
            };
            assert_eq!(refusal(forward), None);
            let reverse = Node {
                direction: Some(b"reverse"),
                ..known(operator)
            };
            assert_eq!(refusal(reverse).unwrap().operator, operator);
        }
    }

    /// Every operator on the list by its name, known to the runtime or not.
    #[test]
    fn the_deny_list_refuses_by_name() {
        for (operators, word) in [
            (
                "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul QLinearAdd \
                 ConvInteger MatMulInteger MatMulNBits MatMulBnb4 MatMulIntegerToFloat DynamicQuantizeMatMul \
                 DynamicQuantizeLSTM QAttention QGemm QMoE GatherBlockQuantized",
                "quantised",
            ),
            (
                "Loop If Scan SequenceMap Optional OptionalGetElement",
                "control flow",
            ),
            (
                "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli",
                "random",
            ),
            (
                "CategoryMapper LabelEncoder TfIdfVectorizer StringNormalizer StringConcat StringSplit \
                 RegexFullMatch Tokenizer BertTokenizer",
                "strings",
            ),
            (
                "TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor",
                "tree",
            ),
            ("SVMClassifier SVMRegressor", "support vectors"),
            ("PyOp", "foreign code"),
        ] {
            for operator in operators.split_whitespace() {
                let refusal = refusal(known(operator)).unwrap();
                assert_eq!(refusal.operator, operator);
                assert!(
                    refusal.reason.contains(word),
                    "{operator}: {}",
                    refusal.reason
                );
            }
        }
        for operator in ["LSTM", "GRU", "RNN"] {
            for direction in [&b"reverse"[..], b"bidirectional", b"Reverse", b""] {
                let node = Node {
                    direction: Some(direction),
                    ..known(operator)
                };
                assert_eq!(refusal(node).unwrap().operator, operator);
            }
        }
    }

    #[test]
    fn names_are_shortened_and_printable() {
        let name = format!("\u{1b}[2J{}", "x".repeat(1_000));
        let node = Node {
            name: &name,
            operator: &name,
            ..Node::default()
        };
        let message = refusal(node).unwrap().to_string();
        assert!(
            message.len() < 300 && !message.contains('\u{1b}'),
            "{message}"
        );
    }
}
