//! The picture of the agent in the Prometheus text format 0.0.4.
//!
//! Owns: names, help and labels. Invariants: a family is written once with HELP and TYPE before its samples; names hold
//! `a-z` and `_` and end in their unit; the number of series is bounded by the configuration.

mod buses;

use std::fmt::Write as _;

use quorate_core::{
    command::Refused,
    health::{Condition, Counters, Health},
    units::Mono,
};

use super::{
    Snapshot,
    routes::STALE,
    status::{GONE, QUALITIES, days_left},
};

/// What a delivery can be.
const DELIVERY: [&str; 6] = [
    "ok",
    "refused",
    "quota",
    "no-consumer",
    "watermark-late",
    "budget-used-up",
];

type Labels<'a> = &'a [(&'a str, &'a str)];

#[derive(Default)]
struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    fn gauge(&mut self, family: &'static str, help: &str) {
        self.head(family, "gauge", help);
    }

    fn head(&mut self, family: &'static str, kind: &str, help: &str) {
        self.family = family;
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    fn sample(&mut self, labels: Labels<'_>, value: impl std::fmt::Display) {
        self.text.push_str(self.family);
        for (index, (name, label)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{name}=\"{}\"", escaped(label));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    fn one(&mut self, family: &'static str, help: &str, value: impl std::fmt::Display) {
        self.gauge(family, help);
        self.sample(&[], value);
    }

    fn counter(&mut self, family: &'static str, help: &str, value: u64) {
        self.head(family, "counter", help);
        self.sample(&[], value);
    }
}

fn escaped(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn seconds(now: Mono, earlier: Mono) -> f64 {
    std::time::Duration::from_millis(now.since_ms(earlier)).as_secs_f64()
}

/// The whole exposition; before the first picture only who the agent is and that it is not yet up.
pub(super) fn text(version: &str, device: &str, snapshot: Option<&Snapshot>) -> String {
    let mut out = Exposition::default();
    out.gauge(
        "quorate_build_info",
        "Version of the agent and name of the device; always 1.",
    );
    out.sample(&[("device", device), ("version", version)], 1);
    let fresh = snapshot.is_some_and(|snapshot| snapshot.published.elapsed() < STALE);
    out.one(
        "quorate_up",
        "The agent's loop renews its picture.",
        u8::from(fresh),
    );
    if let Some(snapshot) = snapshot {
        let health = &snapshot.shown.health;
        whole(&mut out, health);
        sensors(&mut out, health);
        buses::write(&mut out, snapshot);
        quantities(&mut out, health);
        channels(&mut out, health);
        models(&mut out, health);
        store_and_link(&mut out, health);
        certificates(&mut out, snapshot);
        counters(&mut out, &health.counters, snapshot.shown.polls_dropped);
        link_counters(&mut out, &health.counters);
    }
    out.text
}

fn whole(out: &mut Exposition, health: &Health) {
    out.one(
        "quorate_uptime_seconds",
        "Time since the agent started.",
        seconds(health.now, health.started),
    );
    out.gauge(
        "quorate_condition",
        "1 for the condition that the agent is in.",
    );
    for condition in [Condition::Ok, Condition::Degraded, Condition::Failing] {
        out.sample(
            &[("condition", condition.as_str())],
            u8::from(condition == health.condition),
        );
    }
    out.one(
        "quorate_stalled_stages",
        "Stages that owe work for too long.",
        health.stalled.len(),
    );
}

fn sensors(out: &mut Exposition, health: &Health) {
    out.gauge("quorate_sensor_fault", "1 while the probe complains.");
    for sensor in &health.sensors {
        out.sample(&[("sensor", &sensor.id)], u8::from(sensor.fault.is_some()));
    }
    out.gauge(
        "quorate_sensor_age_seconds",
        "Age of the newest valid value of a sensor.",
    );
    for sensor in &health.sensors {
        if let Some(taken) = sensor.taken {
            out.sample(&[("sensor", &sensor.id)], seconds(health.now, taken));
        }
    }
}

fn quantities(out: &mut Exposition, health: &Health) {
    out.gauge(
        "quorate_quantity_value",
        "The voted value, in the unit of the label.",
    );
    for one in &health.quantities {
        if let Some(value) = one.value {
            out.sample(&[("quantity", &one.id), ("unit", &one.unit)], value);
        }
    }
    out.gauge(
        "quorate_quantity_uncertainty",
        "Standard uncertainty of the voted value, in the unit of the label.",
    );
    for one in &health.quantities {
        if let Some(uncertainty) = one.uncertainty {
            out.sample(&[("quantity", &one.id), ("unit", &one.unit)], uncertainty);
        }
    }
    out.gauge(
        "quorate_quantity_quality",
        "1 for the quality that the newest vote has.",
    );
    for one in &health.quantities {
        for quality in QUALITIES {
            let labels = [("quantity", one.id.as_str()), ("quality", quality.as_str())];
            out.sample(&labels, u8::from(quality == one.quality));
        }
    }
    out.gauge(
        "quorate_quantity_channels_used",
        "Channels in the voted value.",
    );
    for one in &health.quantities {
        out.sample(&[("quantity", &one.id)], one.used);
    }
    out.gauge("quorate_quantity_age_seconds", "Age of the newest vote.");
    for one in &health.quantities {
        if let Some(tick) = one.tick {
            out.sample(&[("quantity", &one.id)], seconds(health.now, tick));
        }
    }
}

fn channels(out: &mut Exposition, health: &Health) {
    let all = || {
        health
            .quantities
            .iter()
            .flat_map(|one| one.channels.iter().map(move |channel| (one, channel)))
    };
    out.gauge(
        "quorate_channel_included",
        "1 when the sensor's sample is in the newest vote.",
    );
    for (one, channel) in all() {
        out.sample(
            &[("quantity", &one.id), ("sensor", &channel.sensor)],
            u8::from(channel.included),
        );
    }
    out.gauge(
        "quorate_channel_state",
        "1 for the state that the channel is in, with its reason.",
    );
    for (one, channel) in all() {
        let reason = channel.reason.map_or("", |reason| reason.as_str());
        let labels = [
            ("quantity", one.id.as_str()),
            ("sensor", channel.sensor.as_str()),
            ("state", channel.state.as_str()),
            ("reason", reason),
        ];
        out.sample(&labels, 1);
    }
}

fn models(out: &mut Exposition, health: &Health) {
    out.gauge(
        "quorate_model_info",
        "Version and state of the model; always 1.",
    );
    for model in &health.models {
        out.sample(
            &[
                ("model", &model.id),
                ("version", &model.version),
                ("state", model.state),
            ],
            1,
        );
    }
    out.gauge("quorate_model_score", "The newest score.");
    for model in &health.models {
        if let Some(score) = model.score {
            out.sample(&[("model", &model.id)], score);
        }
    }
    out.gauge(
        "quorate_model_threshold",
        "The score raises an alarm above this.",
    );
    for model in &health.models {
        if let Some(threshold) = model.threshold {
            out.sample(&[("model", &model.id)], threshold);
        }
    }
    out.gauge(
        "quorate_model_alarm",
        "1 when the newest score raised the alarm.",
    );
    for model in &health.models {
        out.sample(&[("model", &model.id)], u8::from(model.alarm));
    }
}

fn certificates(out: &mut Exposition, snapshot: &Snapshot) {
    out.gauge(
        "quorate_certificate_expiry_days",
        "Whole days until the certificate is good no longer, by the clock of the device.",
    );
    for certificate in &snapshot.shown.health.certificates {
        let days_left = days_left(snapshot.shown.wall, certificate);
        out.sample(&[("role", certificate.role)], days_left);
    }
}

fn store_and_link(out: &mut Exposition, health: &Health) {
    let store = &health.store;
    out.one(
        "quorate_store_up",
        "Records become durable.",
        u8::from(store.state == "ok"),
    );
    out.one(
        "quorate_store_storing_records",
        "Records made and not yet durable.",
        store.storing,
    );
    out.one(
        "quorate_outbox_pending_records",
        "Records that wait for delivery.",
        store.report.pending,
    );
    out.one(
        "quorate_outbox_pending_bytes",
        "Bytes of the records that wait.",
        store.report.pending_bytes,
    );
    out.one(
        "quorate_outbox_disk_bytes",
        "Bytes that the store takes on the medium.",
        store.report.disk_bytes,
    );
    if let Some(link) = &health.link {
        out.one(
            "quorate_link_up",
            "There is a connection to the broker.",
            u8::from(link.state == "up"),
        );
        out.one(
            "quorate_link_inflight_messages",
            "Messages without an acknowledgement.",
            link.inflight,
        );
        out.one(
            "quorate_link_broker",
            "Which broker it is, in order of preference from 0.",
            link.broker,
        );
        out.gauge(
            "quorate_delivery_state",
            "1 for what keeps records from arriving although there is a connection.",
        );
        for state in DELIVERY {
            out.sample(&[("state", state)], u8::from(state == link.delivery.state));
        }
    }
}

fn counters(out: &mut Exposition, counters: &Counters, polls_dropped: u64) {
    out.counter(
        "quorate_polls_dropped_total",
        "Samples that were not asked for because their bus was busy.",
        polls_dropped,
    );
    out.counter(
        "quorate_samples_total",
        "Samples that arrived with a value.",
        counters.samples,
    );
    out.counter(
        "quorate_sample_faults_total",
        "Probe faults in place of a sample.",
        counters.sample_faults,
    );
    out.head("quorate_votes_total", "counter", "Votes by quality.");
    for (quality, count) in QUALITIES.iter().zip(counters.votes) {
        out.sample(&[("quality", quality.as_str())], count);
    }
    out.counter(
        "quorate_ticks_missed_total",
        "Ticks passed over because the agent was late.",
        counters.ticks_missed,
    );
    out.counter(
        "quorate_inferences_total",
        "Inferences that gave an output.",
        counters.inferences,
    );
    out.counter(
        "quorate_inference_faults_total",
        "Inferences that failed.",
        counters.inference_faults,
    );
    let skipped = "Windows not run because the model was still busy.";
    out.counter(
        "quorate_inferences_skipped_total",
        skipped,
        counters.inferences_skipped,
    );
    out.counter("quorate_records_total", "Records made.", counters.records);
    out.counter(
        "quorate_records_stored_total",
        "Records that became durable.",
        counters.records_stored,
    );
    out.counter(
        "quorate_store_faults_total",
        "Commits that failed.",
        counters.store_faults,
    );
}

fn link_counters(out: &mut Exposition, counters: &Counters) {
    out.counter(
        "quorate_records_acked_total",
        "Records delivered and acknowledged.",
        counters.records_acked,
    );
    out.head(
        "quorate_records_gone_total",
        "counter",
        "Records lost by cause.",
    );
    for (cause, count) in GONE.iter().zip(counters.records_gone) {
        out.sample(&[("cause", cause)], count);
    }
    out.counter(
        "quorate_batches_published_total",
        "Messages handed to the link.",
        counters.batches_published,
    );
    let unread = "Messages that the broker threw away because nobody subscribes.";
    out.counter(
        "quorate_no_subscribers_total",
        unread,
        counters.no_subscribers,
    );
    out.counter(
        "quorate_sent_bytes_total",
        "Bytes of the messages that carried records.",
        counters.bytes_sent,
    );
    out.counter(
        "quorate_records_set_aside_total",
        "Records set aside because the broker refuses them.",
        counters.records_set_aside,
    );
    out.counter(
        "quorate_records_recalled_total",
        "Delivered records that wait again.",
        counters.records_recalled,
    );
    out.counter(
        "quorate_watermarks_refused_total",
        "Watermarks that could not be of this store.",
        counters.watermarks_refused,
    );
    out.counter(
        "quorate_connects_total",
        "Connections made.",
        counters.connects,
    );
    out.counter(
        "quorate_link_faults_total",
        "Connections lost and attempts that failed.",
        counters.link_faults,
    );
    commands(out, counters);
}

fn commands(out: &mut Exposition, counters: &Counters) {
    out.counter(
        "quorate_commands_accepted_total",
        "Commands that were taken.",
        counters.commands_accepted,
    );
    out.counter(
        "quorate_commands_done_total",
        "Commands that did what they were to.",
        counters.commands_done,
    );
    out.counter(
        "quorate_commands_failed_total",
        "Commands that were taken and failed.",
        counters.commands_failed,
    );
    out.head(
        "quorate_commands_refused_total",
        "counter",
        "Commands that were not taken, by reason.",
    );
    for (reason, count) in Refused::ALL.iter().zip(counters.commands_refused) {
        out.sample(&[("reason", reason.as_str())], count);
    }
}
