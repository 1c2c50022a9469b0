//! `manifest.toml` as serde reads it, format 1. Nothing here is checked beyond its type.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) id: String,
    pub(super) version: String,
    pub(super) release: Option<u64>,
    pub(super) agent_version_min: Option<String>,
    pub(super) licence: String,
    pub(super) onnx_sha256: String,
    pub(super) onnx_bytes: u64,
    pub(super) preprocessing: String,
    pub(super) window: Window,
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
    #[serde(default)]
    pub(super) missing: Missing,
    #[serde(default)]
    pub(super) budgets: Budgets,
    pub(super) training: Training,
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
