#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::testing::{Graph, Parts};

fn parse(text: &str) -> Result<Golden, GoldenError> {
    let parts = Parts::small(&Graph::mean_square().onnx());
    Golden::parse(text, &Manifest::parse(&parts.manifest).unwrap())
}

fn small() -> String {
    Parts::small(&Graph::mean_square().onnx()).golden
}

fn check_refused(from: &str, to: &str, expected: &str) {
    let text = small();
    assert!(text.contains(from), "no `{from}`");
    let message = parse(&text.replacen(from, to, 1)).unwrap_err().to_string();
    assert!(
        message.contains(expected),
        "`{to}` gave `{message}`, without `{expected}`"
    );
}

#[test]
fn whole_file_is_read() {
    let golden = parse(&small()).unwrap();
    assert_eq!(golden.vectors().len(), 32);
    assert_eq!(golden.vectors()[8].name, "v8");
    assert_eq!(golden.vectors()[8].input, [1.0; 4]);
    assert_eq!(golden.tolerance().distance_max(-2.0), 1e-6 + 2.0 * 1e-5);
}

#[test]
fn wrong_values_name_their_key() {
    let cases = [
        (
            "\"format\":1",
            "\"format\":2",
            "`format`: expected 1, found 2",
        ),
        (
            "\"absolute\":1e-6",
            "\"absolute\":-1",
            "`tolerance.absolute`",
        ),
        (
            "\"absolute\":1e-6",
            "\"absolute\":1e39",
            "`tolerance.absolute`",
        ),
        (
            "\"relative\":1e-5",
            "\"relative\":0.06",
            "`tolerance.relative`",
        ),
        (
            "[0,0,0,0]",
            "[0,0,0]",
            "`vectors[0].input`: expected 4 numbers, found 3",
        ),
        (
            "[0,0,0,0]",
            "[0,0,1e39,0]",
            "`vectors[0].input[2]`: expected a finite",
        ),
        (
            "\"outputs\":[0]",
            "\"outputs\":[0,0]",
            "`vectors[0].outputs`: expected 1 numbers, found 2",
        ),
        (
            "\"name\":\"v0\"",
            "\"label\":\"v0\"",
            "unknown field `label`",
        ),
        ("[0,0,0,0]", "\"zeros\"", "invalid type"),
    ];
    for (from, to, expected) in cases {
        check_refused(from, to, expected);
    }
}

#[test]
fn too_few_vectors_prove_nothing() {
    let text = small();
    let last = text.rfind(",{").unwrap();
    let message = parse(&format!("{}]}}", &text[..last]))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`vectors`: expected 32 to 1024, found 31"),
        "{message}"
    );
}

#[test]
fn every_truncation_is_called_one() {
    let text = small();
    for end in 0..text.len() {
        let error = parse(&text[..end]).unwrap_err();
        assert!(
            matches!(error, GoldenError::Truncated { .. }),
            "{end}: {error:?}"
        );
    }
}

#[test]
fn garbage_is_refused_briefly() {
    let long = format!("{{\"{}\":1}}", "x".repeat(10_000));
    for text in [
        "\u{0}",
        "[]",
        "null",
        "{}",
        "golden",
        &"[".repeat(100_000),
        &long,
    ] {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.len() < 300, "{message}");
    }
}
