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
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) meaning: String,
    pub(super) threshold: Option<f64>,
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
