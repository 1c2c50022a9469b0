//! The plant: the true values, the sensors that measure them, and the configuration of the device.

use fastrand::Rng;
use quorate_core::{
    config::{
        Config, ConfirmBy, GuardConfig, LinkConfig, ModelConfig, ModelInput, Order, OutboxConfig,
        QuantityConfig, SensorConfig, VitalsConfig,
    },
    event::ProbeFault,
    units::{QuantityId, SensorId},
    vote::{Kind, OnQuorumLoss, OnSplit},
};

use super::faults::{BadSensor, SensorFault};

/// Sensors of one quantity.
pub(crate) const CHANNELS: usize = 3;
/// Periods of the quantities in milliseconds.
const PERIODS_MS: [u64; 3] = [1_000, 5_000, 1_000];
/// A healthy sensor lies within this of the truth.
const NOISE: f64 = 0.15;

/// How the device of a seed sends: one draw of everything that the configuration leaves open.
pub(crate) fn sending(random: &mut Rng) -> (OutboxConfig, LinkConfig) {
    let outbox = OutboxConfig {
        confirm: [ConfirmBy::Puback, ConfirmBy::Puback, ConfirmBy::Watermark][random.usize(0..3)],
        watermark_timeout_ms: 30_000,
        order: [Order::OldestFirst, Order::LiveFirst][random.usize(0..2)],
        messages_per_second_max: [0, 0, 2][random.usize(0..3)],
        bytes_per_second_max: [0, 0, 20_000][random.usize(0..3)],
        ..OutboxConfig::default()
    };
    let link = LinkConfig {
        backoff_ms_max: 60_000,
        brokers: random.usize(1..=2),
        failback_ms: 60_000,
        ..LinkConfig::default()
    };
    (outbox, link)
}

/// The configuration: two or three quantities of three sensors, one model over the first two.
pub(crate) fn config(quantities: usize, (outbox, link): (OutboxConfig, LinkConfig)) -> Config {
    let sensor = |index: usize| SensorConfig {
        device: None,
        id: format!("sensor-{index}"),
        range: Some((-50.0, 150.0)),
    };
    let id = |index: usize| u16::try_from(index).expect("a handful of sensors");
    let quantity = |index: usize| QuantityConfig {
        kind: Kind::Scalar,
        labels: Vec::new(),
        id: format!("quantity-{index}"),
        unit: "Cel".into(),
        sensors: (0..CHANNELS)
            .map(|channel| SensorId(id(index * CHANNELS + channel)))
            .collect(),
        period_ms: PERIODS_MS[index],
        timeout_ms: PERIODS_MS[index] * 5 / 2,
        lead_ms: 200,
        accuracy_absolute: Some(0.5),
        accuracy_relative: 0.0,
        sources_min: 2,
        fail_count: 3,
        clear_count: 20,
        on_split: OnSplit::Weighted,
        on_quorum_loss: OnQuorumLoss::Hold,
        hold_age_ms_max: 10_000,
    };
    let input = |index: u16| ModelInput {
        quantity: QuantityId(index),
        mean: 40.0,
        scale: 10.0,
        range: Some((-40.0, 140.0)),
        impute: None,
    };
    Config {
        status_codes: true,
        device: "simulated".into(),
        sensors: (0..quantities * CHANNELS).map(sensor).collect(),
        quantities: (0..quantities).map(quantity).collect(),
        models: vec![ModelConfig {
            id: "anomaly".into(),
            version: "1".into(),
            digest: "00".repeat(32),
            window: 8,
            inputs: vec![input(0), input(1)],
            outputs: vec!["score".into()],
            threshold: Some(0.9),
            ..ModelConfig::default()
        }],
        outbox,
        link: Some(link),
        vitals: VitalsConfig::default(),
        guard: GuardConfig::default(),
    }
}

/// The true value of a quantity: a slow wave, below 0.03 a second.
pub(crate) fn truth(quantity: usize, now_ms: u64) -> f64 {
    let [base, period_s] = [[30.0, 1_500.0], [50.0, 2_100.0], [40.0, 1_900.0]][quantity];
    let seconds = f64::from(u32::try_from(now_ms / 1000).unwrap_or(u32::MAX))
        + f64::from(u32::try_from(now_ms % 1000).unwrap_or(0)) / 1000.0;
    base + 5.0 * (seconds * core::f64::consts::TAU / period_s).sin()
}

/// What a sensor answers, and after how long; nothing when it never does.
pub(crate) struct Answer {
    pub(crate) delay_ms: u64,
    pub(crate) taken_before_ms: u64,
    pub(crate) value: Result<f64, ProbeFault>,
}

/// One sample of a channel at `now_ms`, with the fault that it has at that time.
pub(crate) fn sample(
    random: &mut Rng,
    quantity: usize,
    bad: Option<&BadSensor>,
    now_ms: u64,
) -> Option<Answer> {
    let delay_ms = random.u64(5..=50);
    let noise = (random.f64() * 2.0 - 1.0) * NOISE;
    let healthy = truth(quantity, now_ms + delay_ms) + noise;
    let mut answer = Answer {
        delay_ms,
        taken_before_ms: random.u64(0..=3),
        value: Ok(healthy),
    };
    let Some(bad) = bad else { return Some(answer) };
    let began_ms = bad.window.began_ms(now_ms);
    match bad.fault {
        SensorFault::Stuck => answer.value = Ok(truth(quantity, began_ms)),
        SensorFault::Bias(offset) => answer.value = Ok(healthy + offset),
        SensorFault::Drift => {
            let minutes = u32::try_from((now_ms - began_ms) / 1000).unwrap_or(u32::MAX);
            answer.value = Ok(healthy + f64::from(minutes) / 60.0);
        }
        SensorFault::Noisy => answer.value = Ok(healthy + noise * 40.0),
        SensorFault::Spikes => {
            if random.u32(0..5) == 0 {
                answer.value = Ok(healthy + if random.bool() { 20.0 } else { -20.0 });
            }
        }
        SensorFault::NotANumber => answer.value = Ok(f64::NAN),
        SensorFault::Probe { permanent } => {
            answer.value = Err(ProbeFault {
                cause: "no-acknowledge",
                permanent,
                reach: quorate_core::event::Reach::Device,
            });
        }
        SensorFault::Silent => return None,
        SensorFault::Late => {
            let late_ms = random.u64(300..=4_000);
            answer.delay_ms += late_ms;
            answer.taken_before_ms += late_ms;
        }
    }
    Some(answer)
}
