#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;
use crate::testing::Parts;

/// Replaces `from` by `to` in the shipped manifest and parses it.
fn parse_with(from: &str, to: &str) -> Result<Manifest, ManifestError> {
    let shipped = Parts::shipped().manifest;
    assert!(
        shipped.contains(from),
        "the shipped manifest has no `{from}`"
    );
    Manifest::parse(&shipped.replacen(from, to, 1))
}

fn check_refused(from: &str, to: &str, expected: &[&str]) {
    let message = parse_with(from, to).unwrap_err().to_string();
    for part in expected {
        assert!(
            message.contains(part),
            "`{to}` gave `{message}`, without `{part}`"
        );
    }
}

#[test]
fn shipped_manifest_says_what_the_model_is() {
    let manifest = Manifest::parse(&Parts::shipped().manifest).unwrap();
    assert_eq!(manifest.id, "bearing-anomaly");
    assert_eq!(
        (manifest.window.length, manifest.window.period_ms),
        (32, 1000)
    );
    let inputs: Vec<_> = manifest
        .inputs
        .iter()
        .map(|input| (input.quantity.as_str(), input.unit.as_str()))
        .collect();
    let expected = [
        ("bearing-temperature", "celsius"),
        ("vibration-rms", "mm/s"),
        ("motor-current", "A"),
    ];
    assert_eq!(inputs, expected);
    assert_eq!(manifest.window_elements(), 96);
    assert_eq!(manifest.preprocessing, Preprocessing::Standardise);
    assert_eq!(manifest.outputs[0].name, "score");
    assert!(manifest.score_threshold() > 0.0);
    // The bar: the shipped figures may not fall below it when somebody trains again.
    let figures = manifest.training.figures;
    assert!(
        figures.f1 >= 0.85 && figures.false_alarms_percent <= 5.0,
        "{figures:?}"
    );
}

#[test]
fn syntax_errors_name_line_and_key() {
    let cases: [(&str, &str, &[&str]); 7] = [
        ("format = 1", "format = ", &["line 2", "`format =`"]),
        (
            "version =",
            "verison =",
            &["line 4, column 1", "unknown field `verison`"],
        ),
        ("seed = 20261124", "seed = -1", &["`seed = -1`"]),
        (
            "length = 32",
            "length = \"32\"",
            &["expected u32", "`length = \"32\"`"],
        ),
        (
            "length = 32",
            "length = 4294967296",
            &["`length = 4294967296`"],
        ),
        ("period_ms = 1000", "", &["missing field `period_ms`"]),
        (
            "range = [-40.0, 125.0]",
            "range = [-40.0]",
            &["`range = [-40.0]`"],
        ),
    ];
    for (from, to, expected) in cases {
        check_refused(from, to, expected);
        let error = parse_with(from, to).unwrap_err();
        assert!(matches!(error, ManifestError::Syntax { .. }), "{error:?}");
    }
}

#[test]
fn wrong_values_name_their_key() {
    let long = format!("id = \"{}\"", "a".repeat(65));
    let cases: [(&str, &str, &[&str]); 21] = [
        (
            "format = 1",
            "format = 2",
            &["`format`", "expected 1, found 2"],
        ),
        ("id = \"bearing-anomaly\"", "id = \"\"", &["`id`"]),
        (
            "id = \"bearing-anomaly\"",
            "id = \"a/b\"",
            &["`id`", "`a/b`"],
        ),
        ("id = \"bearing-anomaly\"", &long, &["`id`", "1 to 64"]),
        ("version = \"1\"", "version = \"\"", &["`version`"]),
        (
            "licence = \"MIT",
            "licence = \"\\u0007MIT",
            &["`licence`", "control"],
        ),
        (
            "onnx_sha256 = \"",
            "onnx_sha256 = \"0",
            &["`onnx_sha256`", "64 hexadecimal"],
        ),
        (
            "onnx_bytes = ",
            "onnx_bytes = 67108865 #",
            &["`onnx_bytes`", "67108864"],
        ),
        (
            "\"standardise\"",
            "\"normalise\"",
            &["`preprocessing`", "found `normalise`"],
        ),
        ("length = 32", "length = 0", &["`window.length`"]),
        (
            "length = 32",
            "length = 21846",
            &["`window.length`", "exceed 65536"],
        ),
        ("period_ms = 1000", "period_ms = 0", &["`window.period_ms`"]),
        (
            "quantity = \"vibration-rms\"",
            "quantity = \"motor-current\"",
            &["`inputs[2].quantity`", "twice"],
        ),
        ("unit = \"mm/s\"", "unit = \"\"", &["`inputs[1].unit`"]),
        (
            "range = [-40.0, 125.0]",
            "range = [5.0, 5.0]",
            &["`inputs[0].range`", "[5, 5]"],
        ),
        (
            "range = [-40.0, 125.0]",
            "range = [nan, 5.0]",
            &["`inputs[0].range`", "NaN"],
        ),
        ("mean = ", "mean = 1e39 #", &["`inputs[0].mean`", "32 bits"]),
        (
            "scale = ",
            "scale = 0.0 #",
            &["`inputs[0].scale`", "above 0"],
        ),
        (
            "threshold = ",
            "# threshold",
            &["`outputs[0].threshold`", "the score"],
        ),
        (
            "threshold = ",
            "threshold = inf #",
            &["`outputs[0].threshold`", "inf"],
        ),
        (
            "f1 = ",
            "f1 = 1.5 #",
            &["`training.figures.f1`", "0 to 1, found 1.5"],
        ),
    ];
    for (from, to, expected) in cases {
        check_refused(from, to, expected);
        let error = parse_with(from, to).unwrap_err();
        assert!(matches!(error, ManifestError::Value { .. }), "{error:?}");
    }
}

#[test]
fn limits_hold_at_their_edge() {
    assert_eq!(
        parse_with("length = 32", "length = 21845")
            .unwrap()
            .window_elements(),
        65_535
    );
    assert!(parse_with("onnx_bytes = ", "onnx_bytes = 67108864 #").is_ok());
    let id = format!("id = \"{}\"", "a".repeat(64));
    assert!(parse_with("id = \"bearing-anomaly\"", &id).is_ok());

    let shipped = Parts::shipped().manifest;
    let room = usize::try_from(MANIFEST_BYTES_MAX).unwrap() - shipped.len();
    let filled = format!("{shipped}{}", "#".repeat(room));
    assert!(Manifest::parse(&filled).is_ok());
    let bytes = MANIFEST_BYTES_MAX + 1;
    assert_eq!(
        Manifest::parse(&format!("{filled}#")),
        Err(ManifestError::TooLarge { bytes })
    );
}

#[test]
fn error_messages_stay_short() {
    let huge = format!("version = \"{}\nunknown = 1", "x".repeat(60_000));
    let error = parse_with("version = \"1\"", &huge).unwrap_err();
    assert!(
        error.to_string().len() < 1_000,
        "{} bytes",
        error.to_string().len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in ".{0,200}") {
        prop_assert!(Manifest::parse(&text).is_err());
    }

    /// A piece of the shipped manifest replaced by anything: refused or valid, never a panic.
    #[test]
    fn no_edit_panics(at in 0.0..1.0_f64, length in 0_usize..20, text in "[\\PC\n]{0,8}") {
        let shipped: Vec<char> = Parts::shipped().manifest.chars().collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
        let start = (at * f64::from(u32::try_from(shipped.len()).unwrap())) as usize;
        let end = (start + length).min(shipped.len());
        let edited: String =
            shipped[..start].iter().copied().chain(text.chars()).chain(shipped[end..].iter().copied()).collect();
        if let Ok(manifest) = Manifest::parse(&edited) {
            prop_assert!((1..=WINDOW_ELEMENTS_MAX).contains(&manifest.window_elements()));
            prop_assert!(manifest.score_threshold().is_finite());
        }
    }
}

#[test]
fn release_budgets_and_agent_version_are_optional_and_checked() {
    let shipped = Manifest::parse(&Parts::shipped().manifest).unwrap();
    assert_eq!(
        (shipped.release, shipped.budgets),
        (Some(1), Budgets::default())
    );
    assert!(!shipped.needs_newer_agent("0.0.0"));
    let more = "release = 7\nagent_version_min = \"0.2.10\"";
    let manifest = parse_with("release = 1", more).unwrap();
    assert_eq!(manifest.release, Some(7));
    for (agent, too_old) in [
        ("0.2.9", true),
        ("0.2.10", false),
        ("0.2.10-rc.1", false),
        ("0.10.0", false),
        ("1.0.0", false),
        ("nonsense", true),
    ] {
        assert_eq!(manifest.needs_newer_agent(agent), too_old, "{agent}");
    }
    let budgets =
        "[budgets]\nload_ms_max = 100\np99_us_max = 500\nmemory_bytes_max = 1000000\n[window]";
    let manifest = parse_with("[window]", budgets).unwrap();
    assert_eq!(manifest.budgets.p99_us_max, Some(500));
    check_refused("release = 1", "release = 0", &["`release`", "at least 1"]);
    check_refused("release = 1", "release = -1", &["`release = -1`"]);
    for wrong in ["1.2", "1.2.3.4", "a.b.c", ""] {
        let line = format!("agent_version_min = \"{wrong}\"\nlicence");
        check_refused("licence", &line, &["`agent_version_min`", "three numbers"]);
    }
    for key in ["load_ms_max", "p99_us_max", "memory_bytes_max"] {
        let line = format!("[budgets]\n{key} = 0\n[window]");
        check_refused(
            "[window]",
            &line,
            &[&format!("`budgets.{key}`"), "at least 1"],
        );
    }
    check_refused(
        "[window]",
        "[budgets]\nwatts = 1\n[window]",
        &["line 12", "`watts`"],
    );
}
