//! The brokers: whether each lets this device in, and until when the certificates are good.
//!
//! Owns: one connection to each, by the client that the agent uses. Must not: publish or subscribe to anything, or take the
//! place of a running agent: the client id has a suffix of its own.

use crossbeam_channel::RecvTimeoutError;
use quorate_core::{certificate::Role, event::Event};

use super::Finding;
use crate::{clock::Clock, commands::mqtt_options, mqtt, settings::Settings};

/// Beyond the configured time to connect, in milliseconds, so that the client gives up first.
const PATIENCE_MS: u64 = 5_000;
/// Days before its end from which a certificate is worth a warning.
const CERTIFICATE_DAYS_MIN: i64 = 30;
/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// Connects to each configured broker once.
pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    let Some(options) = mqtt_options(settings) else {
        return vec![Finding::not_examined(
            "broker",
            "none configured: records stay here",
        )];
    };
    let urls = std::iter::once(&options.url).chain(&options.fallback_urls);
    let urls: Vec<_> = urls.cloned().collect();
    let mut findings = Vec::new();
    for url in urls {
        let options = mqtt::Options {
            url: url.clone(),
            fallback_urls: Vec::new(),
            client_id: format!("{}-doctor", options.client_id),
            watermark: false,
            ..options.clone()
        };
        findings.extend(connect(&url.to_string(), options));
    }
    findings
}

fn connect(name: &str, options: mqtt::Options) -> Vec<Finding> {
    let clock = Clock::real();
    let end = clock
        .now()
        .plus_ms(options.connect_timeout_ms.saturating_add(PATIENCE_MS));
    let (sender, events) = crossbeam_channel::bounded(64);
    let (commands, thread) = match mqtt::spawn(options, sender) {
        Ok(link) => link,
        Err(error) => {
            let found = format!("{name}: not tried: {error}");
            return vec![Finding::not_examined("broker", found)];
        }
    };
    let mut findings = Vec::new();
    if commands
        .try_send(mqtt::Command::Connect { broker: 0 })
        .is_err()
    {
        findings.push(Finding::not_examined(
            "broker",
            format!("{name}: not tried"),
        ));
    }
    while findings.is_empty() || !findings.iter().any(is_final) {
        let left = clock.until(end);
        match events.recv_timeout(left) {
            Ok(event) => findings.extend(told(name, event)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                findings.push(Finding::problem(
                    "broker",
                    format!("{name}: no answer in time"),
                    "look at the network, and at mqtt.connect_timeout_ms",
                ));
            }
        }
    }
    // A client that does not end is dropped with the process.
    let _ = commands.try_send(mqtt::Command::Stop);
    drop(thread);
    findings
}

/// Whether it ends the examination: what is said of a certificate does not.
fn is_final(finding: &Finding) -> bool {
    !finding.found.contains("certificate of")
}

fn told(name: &str, event: Event) -> Option<Finding> {
    match event {
        Event::LinkUp { .. } => Some(Finding::ok(
            "broker",
            format!("{name}: lets this device in"),
        )),
        Event::LinkDown { fault } => {
            let found = format!("{name}: {}: {}", fault.cause, fault.detail);
            let remedy = "docs/mqtt.md has what each cause means";
            Some(Finding::problem("broker", found, remedy))
        }
        Event::Certificate {
            role,
            not_after_unix_ms,
        } => Some(certificate(name, role, not_after_unix_ms)),
        _ => None,
    }
}

fn certificate(name: &str, role: Role, not_after_unix_ms: i64) -> Finding {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let days = not_after_unix_ms.saturating_sub(now_ms).div_euclid(DAY_MS);
    let whose = match role {
        Role::Client => "this device",
        Role::Server => "the broker",
    };
    if days < 0 {
        let found = format!("{name}: the certificate of {whose} has expired");
        Finding::problem(
            "broker",
            found,
            "renew it; the files are read anew for every connection",
        )
    } else if days < CERTIFICATE_DAYS_MIN {
        let found = format!("{name}: the certificate of {whose} ends in {days} days");
        Finding::warning(
            "broker",
            found,
            "renew it; the files are read anew for every connection",
        )
    } else {
        Finding::ok(
            "broker",
            format!("{name}: the certificate of {whose} is good for {days} days"),
        )
    }
}
