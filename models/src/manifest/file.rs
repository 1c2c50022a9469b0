//! `manifest.toml` as serde reads it, format 1. Nothing here is checked beyond its type.

use serde::Deserialize;

use super::{Kind, ManifestError, refuse, shorten};
use crate::digest::Digest;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) id: String,
    pub(super) version: String,
    pub(super) release: Option<u64>,
    pub(super) agent_version_min: Option<String>,
    pub(super) licence: String,
    pub(super) kind: Option<String>,
    pub(super) onnx_sha256: Option<String>,
    pub(super) onnx_bytes: Option<u64>,
    pub(super) model_sha256: Option<String>,
    pub(super) model_bytes: Option<u64>,
    pub(super) preprocessing: String,
    pub(super) window: Window,
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
    #[serde(default)]
    pub(super) missing: Missing,
    #[serde(default)]
    pub(super) budgets: Budgets,
    #[serde(default)]
    pub(super) drift: Drift,
    pub(super) training: Training,
}

impl Manifest {
    /// The kind of the model, and digest and length of its file: each kind has its own keys.
    pub(super) fn model(&self) -> Result<(Kind, Digest, u64), ManifestError> {
        let kind = match &self.kind {
            None => Kind::Onnx,
            Some(text) => match Kind::parse(text) {
                Some(kind) => kind,
                None => {
                    let found = shorten(text);
                    return refuse(
                        "kind",
                        format!("expected `onnx`, `pca` or `forest`, found `{found}`"),
                    );
                }
            },
        };
        let of_onnx = (self.onnx_sha256.as_ref(), self.onnx_bytes);
        let of_native = (self.model_sha256.as_ref(), self.model_bytes);
        let ((sha256, bytes), strangers) = match kind {
            Kind::Onnx => (of_onnx, of_native),
            Kind::Pca | Kind::Forest => (of_native, of_onnx),
        };
        let (sha256_key, bytes_key) = kind.keys();
        if strangers != (None, None) {
            let kind = kind.as_str();
            return refuse(
                "kind",
                format!(
                    "a model of kind `{kind}` has the keys `{sha256_key}` and `{bytes_key}` only"
                ),
            );
        }
        let Some(sha256) = sha256 else {
            return refuse(sha256_key, "this key is missing");
        };
        let Some(bytes) = bytes else {
            return refuse(bytes_key, "this key is missing");
        };
        match Digest::from_hex(sha256) {
            Some(digest) => Ok((kind, digest, bytes)),
            None => refuse(sha256_key, "expected 64 hexadecimal digits"),
        }
    }
}

/// What the drift monitors compare with.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drift {
    #[serde(default)]
    pub(super) inputs: Vec<DriftInput>,
    #[serde(default)]
    pub(super) outputs: Vec<DriftOutput>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DriftInput {
    pub(super) quantity: String,
    pub(super) mean: f64,
    pub(super) deviation: f64,
    pub(super) quantiles: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DriftOutput {
    pub(super) name: String,
    pub(super) mean: f64,
    pub(super) deviation: f64,
    pub(super) quantiles: Vec<f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budgets {
    pub(super) load_ms_max: Option<u64>,
    pub(super) p99_us_max: Option<u64>,
    pub(super) memory_bytes_max: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    pub(super) length: u32,
    pub(super) period_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    pub(super) quantity: String,
    pub(super) unit: String,
    pub(super) range: [f64; 2],
    pub(super) mean: f64,
    pub(super) scale: f64,
    pub(super) impute: Option<Impute>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "rule")]
pub(super) enum Impute {
    Hold { hold_s: f64 },
    Mean {},
    Value { value: f64 },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "rule")]
pub(super) enum Missing {
    // Braces: of a variant without them serde takes keys that it does not know.
    Abstain {},
    Impute {},
    Fallback { model: String },
}

impl Default for Missing {
    fn default() -> Self {
        Self::Abstain {}
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) meaning: String,
    pub(super) threshold: Option<f64>,
    pub(super) hysteresis: Option<f64>,
    pub(super) range: Option<[f64; 2]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Training {
    pub(super) script: String,
    pub(super) seed: u64,
    pub(super) data: String,
    pub(super) figures: Figures,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Figures {
    pub(super) f1: f64,
    pub(super) false_alarms_percent: f64,
    pub(super) missed_percent: f64,
}
