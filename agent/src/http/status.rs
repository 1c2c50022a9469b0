//! The picture of the agent as JSON, and the checks drawn from it.
//!
//! Owns: the shape of `/api/v1/status` (schema 1, docs/status.md) and of `/healthz`. Must not: print any setting, which
//! could be a secret.

use quorate_core::{
    command::Refused,
    health::{
        BusHealth, CertificateHealth, Counters, DriftHealth, Health, LinkHealth, ModelHealth,
        QuantityHealth, SensorHealth, StoreHealth,
    },
    model::TrialHealth,
    record::time_text,
    units::{Mono, WallAnchor},
    vote::Quality,
};
use serde_json::{Map, Value, json};

use super::{Snapshot, routes::STALE};

/// Causes of [`Counters::records_gone`], in its order.
pub(super) const GONE: [&str; 7] = [
    "full",
    "damaged",
    "not-stored",
    "refused",
    "displaced",
    "thinned",
    "expired",
];
/// Qualities of [`Counters::votes`], in its order.
pub(super) const QUALITIES: [Quality; 4] = [
    Quality::Good,
    Quality::Degraded,
    Quality::Uncertain,
    Quality::Bad,
];

/// What one check found, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Pass,
    Warn,
    Fail,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One component and how it is.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
}

fn check(name: impl Into<String>, verdict: Verdict, detail: impl Into<String>) -> Check {
    Check {
        name: name.into(),
        verdict,
        detail: detail.into(),
    }
}

/// The worst of all; `Pass` of none.
pub(super) fn worst(checks: &[Check]) -> Verdict {
    checks
        .iter()
        .map(|check| check.verdict)
        .max()
        .unwrap_or(Verdict::Pass)
}

/// One check per component. Only what keeps results from being made or kept fails.
pub(super) fn checks(snapshot: &Snapshot) -> Vec<Check> {
    let fresh = snapshot.published.elapsed() < STALE;
    let agent = if fresh {
        check("agent", Verdict::Pass, "ok")
    } else {
        check("agent", Verdict::Fail, "its picture is not renewed")
    };
    let parts = parts(&snapshot.shown.health);
    std::iter::once(agent).chain(parts).collect()
}

/// One check per component that the core knows.
pub(super) fn parts(health: &Health) -> Vec<Check> {
    let fails_unless = |well| if well { Verdict::Pass } else { Verdict::Fail };
    let running = health.stalled.is_empty();
    let stages = if running {
        "ok".into()
    } else {
        format!("stalled: {}", health.stalled.join(", "))
    };
    let kept = health.store.state == "ok";
    let mut checks = vec![
        check("stages", fails_unless(running), stages),
        check(
            "store",
            fails_unless(kept),
            with(health.store.state, health.store.detail.as_deref()),
        ),
    ];
    for quantity in &health.quantities {
        let detail = quantity.quality.as_str();
        checks.push(check(
            format!("quantity:{}", quantity.id),
            warns_unless(detail == "good"),
            detail,
        ));
    }
    checks.extend(health.sensors.iter().map(sensor_check));
    checks.extend(health.buses.iter().map(bus_check));
    for model in &health.models {
        let well = matches!(model.state, "running" | "filling" | "standby");
        checks.push(check(
            format!("model:{}", model.id),
            warns_unless(well),
            with(model.state, model.fault.as_deref()),
        ));
    }
    for certificate in &health.certificates {
        checks.push(check(
            format!("certificate:{}", certificate.role),
            warns_unless(certificate.state == "valid"),
            certificate.state,
        ));
    }
    if health.commands.state == "refused" {
        checks.push(check("commands", Verdict::Warn, "refused by the broker"));
    }
    if let Some(link) = &health.link {
        checks.push(check(
            "link",
            warns_unless(link.state == "up"),
            with(link.state, link.fault.as_deref()),
        ));
        let detail = link
            .delivery
            .reason
            .map(|code| format!("reason code {code:#04x}"));
        checks.push(check(
            "delivery",
            warns_unless(link.delivery.state == "ok"),
            with(link.delivery.state, detail.as_deref()),
        ));
    }
    checks
}

const fn warns_unless(well: bool) -> Verdict {
    if well { Verdict::Pass } else { Verdict::Warn }
}

fn sensor_check(sensor: &SensorHealth) -> Check {
    check(
        format!("sensor:{}", sensor.id),
        warns_unless(sensor.fault.is_none()),
        sensor.fault.unwrap_or("ok"),
    )
}

fn bus_check(bus: &BusHealth) -> Check {
    let detail = bus.remedy.as_deref().or(bus.cause);
    check(
        format!("bus:{}", bus.id),
        warns_unless(bus.state == "closed"),
        with(bus.state, detail),
    )
}

/// The parts that are not well.
pub(super) fn faults(health: &Health) -> Vec<(String, String)> {
    let unwell = parts(health)
        .into_iter()
        .filter(|check| check.verdict != Verdict::Pass);
    unwell.map(|check| (check.name, check.detail)).collect()
}

fn with(state: &str, detail: Option<&str>) -> String {
    detail.map_or_else(|| state.into(), |detail| format!("{state}: {detail}"))
}

/// The answer of `/healthz`, after the expired draft "Health Check Response Format for HTTP APIs".
pub(super) fn health_json(
    device: &str,
    version: &str,
    verdict: Verdict,
    checks: &[Check],
) -> Value {
    let components: Map<String, Value> = checks
        .iter()
        .map(|check| {
            (
                check.name.clone(),
                json!([{"status": check.verdict.as_str(), "output": check.detail}]),
            )
        })
        .collect();
    json!({
        "status": verdict.as_str(),
        "version": "1",
        "releaseId": version,
        "serviceId": device,
        "checks": components,
    })
}

/// The answer of `/api/v1/status`.
pub(super) fn picture(device: &str, version: &str, snapshot: &Snapshot) -> Value {
    let health = &snapshot.shown.health;
    let now = health.now;
    json!({
        "schema": 1,
        "device": device,
        "version": version,
        "boot": snapshot.boot.to_string(),
        "epoch": snapshot.shown.epoch.0,
        "wall_unix_ms": snapshot.shown.wall.unix_ms,
        "wall_synced": snapshot.shown.wall.synced,
        "picture_age_ms": u64::try_from(snapshot.published.elapsed().as_millis()).unwrap_or(u64::MAX),
        "uptime_ms": now.since_ms(health.started),
        "condition": health.condition.as_str(),
        "sensors": health.sensors.iter().map(|sensor| sensor_json(now, sensor)).collect::<Vec<_>>(),
        "buses": buses_json(snapshot),
        "quantities": health.quantities.iter().map(|one| quantity_json(now, one)).collect::<Vec<_>>(),
        "models": health.models.iter().map(|model| model_json(now, model)).collect::<Vec<_>>(),
        "store": store_json(health),
        "link": health.link.as_ref().map(|link| link_json(now, link)),
        "certificates": health.certificates.iter().map(|one| certificate_json(snapshot.shown.wall, one)).collect::<Vec<_>>(),
        "commands": {"state": health.commands.state, "in_progress": health.commands.in_progress},
        "stalled": health.stalled,
        "counters": counters_json(&health.counters, snapshot.shown.polls_dropped),
    })
}

/// Days until a certificate is good no longer, by this device's clock; below 0 when it no longer is.
pub(super) fn days_left(wall: WallAnchor, certificate: &CertificateHealth) -> i64 {
    let left_ms = certificate.not_after_unix_ms.saturating_sub(wall.unix_ms);
    left_ms.div_euclid(86_400_000)
}

fn certificate_json(wall: WallAnchor, certificate: &CertificateHealth) -> Value {
    json!({
        "role": certificate.role,
        "not_after": time_text(certificate.not_after_unix_ms),
        "days_left": days_left(wall, certificate),
        "state": certificate.state,
    })
}

fn retry_ms(now: Mono, retry: Option<Mono>) -> Option<u64> {
    retry.map(|at| at.since_ms(now))
}

fn sensor_json(now: Mono, sensor: &SensorHealth) -> Value {
    json!({
        "id": sensor.id,
        "value": sensor.value,
        "age_ms": sensor.taken.map(|taken| now.since_ms(taken)),
        "fault": sensor.fault,
        "fault_permanent": sensor.fault_permanent,
        "fault_since_ms": sensor.fault_since.map(|since| now.since_ms(since)),
        "breaker": sensor.breaker,
        "retry_ms": retry_ms(now, sensor.retry),
    })
}

/// The buses that are guarded or were asked, by name: one may be only one of both.
fn buses_json(snapshot: &Snapshot) -> Vec<Value> {
    let health = &snapshot.shown.health;
    let timing = &snapshot.shown.timing;
    let mut names: Vec<&str> = health.buses.iter().map(|bus| bus.id.as_str()).collect();
    names.extend(timing.iter().map(|timing| timing.bus.as_str()));
    names.sort_unstable();
    names.dedup();
    let bus = |name: &&str| {
        let guarded = health.buses.iter().find(|bus| bus.id == **name);
        let timing = timing.iter().find(|timing| timing.bus == **name);
        let quantiles = |view: &crate::timing::HistogramView| {
            json!({
                "count": view.count(),
                "p99_us": view.quantile_us(990),
                "max_us": view.max_us,
            })
        };
        json!({
            "id": name,
            "breaker": guarded.map(|bus| bus.state),
            "since_ms": guarded.map(|bus| health.now.since_ms(bus.since)),
            "cause": guarded.and_then(|bus| bus.cause),
            "remedy": guarded.and_then(|bus| bus.remedy.as_deref()),
            "retry_ms": retry_ms(health.now, guarded.and_then(|bus| bus.retry)),
            "openings": guarded.map(|bus| bus.openings),
            "reset": guarded.and_then(|bus| bus.recovery),
            "lateness": timing.map(|timing| quantiles(&timing.lateness)),
            "transfer": timing.map(|timing| quantiles(&timing.transfer)),
        })
    };
    names.iter().map(bus).collect()
}

fn quantity_json(now: Mono, quantity: &QuantityHealth) -> Value {
    let channels: Vec<Value> = quantity
        .channels
        .iter()
        .map(|channel| {
            json!({
                "sensor": channel.sensor,
                "included": channel.included,
                "state": channel.state.as_str(),
                "reason": channel.reason.map(|reason| reason.as_str()),
                "since_ms": now.since_ms(channel.since),
            })
        })
        .collect();
    json!({
        "id": quantity.id,
        "unit": quantity.unit,
        "value": quantity.value,
        "uncertainty": quantity.uncertainty,
        "quality": quantity.quality.as_str(),
        "since_ms": now.since_ms(quantity.quality_since),
        "age_ms": quantity.tick.map(|tick| now.since_ms(tick)),
        "used": quantity.used,
        "channels": channels,
    })
}

fn model_json(now: Mono, model: &ModelHealth) -> Value {
    json!({
        "id": model.id,
        "version": model.version,
        "digest": model.digest,
        "state": model.state,
        "since_ms": now.since_ms(model.since),
        "score": model.score,
        "threshold": model.threshold,
        "alarm": model.alarm,
        "fault": model.fault,
        "retry_ms": retry_ms(now, model.retry),
        "drift": model.drift.iter().map(|drift| drift_json(now, drift)).collect::<Vec<_>>(),
        "trial": model.trial.as_ref().map(|trial| trial_json(now, trial)),
    })
}

fn trial_json(now: Mono, trial: &TrialHealth) -> Value {
    json!({
        "phase": trial.phase,
        "version": trial.version,
        "digest": trial.digest,
        "since_ms": now.since_ms(trial.since),
        "left_ms": trial.until.map(|until| until.since_ms(now)),
        "state": trial.state,
        "rule": trial.rule,
        "answers": trial.answers,
        "errors": trial.errors,
        "skipped": trial.skipped,
        "pairs": trial.pairs,
        "disagreement": trial.disagreement,
        "difference": trial.difference,
        "latency_p99_us": trial.latency_p99_us,
        "inputs_good": trial.inputs_good,
        "drift": trial.drift,
    })
}

fn drift_json(now: Mono, drift: &DriftHealth) -> Value {
    let seen = &drift.seen;
    json!({
        "kind": drift.kind,
        "name": drift.name,
        "state": seen.state,
        "rows": seen.rows,
        "mean": seen.mean,
        "deviation": seen.deviation,
        "block_rows": seen.block_rows,
        "alarms": seen.alarms,
        "stability_index": seen.stability_index,
        "moved": drift.moved,
        "up": drift.up,
        "since_ms": drift.since.map(|since| now.since_ms(since)),
    })
}

fn store_json(health: &Health) -> Value {
    let store: &StoreHealth = &health.store;
    json!({
        "state": store.state,
        "detail": store.detail,
        "since_ms": health.now.since_ms(store.since),
        "retry_ms": retry_ms(health.now, store.retry),
        "storing_records": store.storing,
        "seq_next": store.seq_next.0,
        "pending_records": store.report.pending,
        "pending_bytes": store.report.pending_bytes,
        "disk_bytes": store.report.disk_bytes,
    })
}

fn link_json(now: Mono, link: &LinkHealth) -> Value {
    json!({
        "state": link.state,
        "since_ms": now.since_ms(link.since),
        "fault": link.fault,
        "retry_ms": retry_ms(now, link.retry),
        "inflight": link.inflight,
        "broker": link.broker,
        "delivery": {
            "state": link.delivery.state,
            "since_ms": now.since_ms(link.delivery.since),
            "reason_code": link.delivery.reason,
            "day_bytes": link.delivery.day_bytes,
            "confirmed_through": link.delivery.confirmed.map(|seq| seq.0),
        },
    })
}

fn counters_json(counters: &Counters, polls_dropped: u64) -> Value {
    let votes: Map<String, Value> = QUALITIES
        .iter()
        .zip(counters.votes)
        .map(|(quality, count)| (quality.as_str().into(), count.into()))
        .collect();
    let gone: Map<String, Value> = GONE
        .iter()
        .zip(counters.records_gone)
        .map(|(cause, count)| ((*cause).into(), count.into()))
        .collect();
    let refused: Map<String, Value> = Refused::ALL
        .iter()
        .zip(counters.commands_refused)
        .map(|(reason, count)| (reason.as_str().into(), count.into()))
        .collect();
    json!({
        "samples": counters.samples,
        "sample_faults": counters.sample_faults,
        "polls_dropped": polls_dropped,
        "votes": votes,
        "ticks_missed": counters.ticks_missed,
        "inferences": counters.inferences,
        "inference_faults": counters.inference_faults,
        "inferences_skipped": counters.inferences_skipped,
        "records": counters.records,
        "records_stored": counters.records_stored,
        "store_faults": counters.store_faults,
        "records_acked": counters.records_acked,
        "records_gone": gone,
        "batches_published": counters.batches_published,
        "no_subscribers": counters.no_subscribers,
        "bytes_sent": counters.bytes_sent,
        "records_set_aside": counters.records_set_aside,
        "records_recalled": counters.records_recalled,
        "watermarks_refused": counters.watermarks_refused,
        "connects": counters.connects,
        "link_faults": counters.link_faults,
        "commands_accepted": counters.commands_accepted,
        "commands_done": counters.commands_done,
        "commands_failed": counters.commands_failed,
        "commands_refused": refused,
    })
}
