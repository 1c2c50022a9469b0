//! Which path answers what.
//!
//! Owns: paths, methods, headers of the answer and the check of the Host header. Must not: compute health; the shapes
//! come from [`super::status`] and [`super::metrics`].

use std::{
    collections::hash_map::RandomState,
    fmt::Write as _,
    hash::{BuildHasher as _, Hasher as _},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode, Uri,
    body::Bytes,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use quorate_core::health::Condition;

use super::{Snapshot, Watcher, metrics, status};

/// A picture that has not been renewed for this long tells that the agent's loop hangs.
pub(super) const STALE: Duration = Duration::from_secs(10);

const PAGE: &str = include_str!("page.html");
const NONCE: &str = "{{nonce}}";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const DENY_ALL: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// What every answer needs.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) device: String,
    pub(super) version: &'static str,
    /// It listens on loopback, so a request for any other name was rebound by DNS.
    pub(super) local_only: bool,
    pub(super) watcher: Watcher,
}

struct Answer {
    status: StatusCode,
    kind: &'static str,
    policy: String,
    body: String,
}

impl Answer {
    fn new(status: StatusCode, kind: &'static str, body: String) -> Self {
        Self {
            status,
            kind,
            policy: DENY_ALL.into(),
            body,
        }
    }

    fn refusal(status: StatusCode, text: &str) -> Self {
        Self::new(status, TEXT, format!("{text}\n"))
    }
}

impl Site {
    /// Answers one request; the body of the request is never read.
    pub(super) fn answer(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Response<Full<Bytes>> {
        let answer = if self.local_only && !host_is_local(uri, headers) {
            Answer::refusal(
                StatusCode::MISDIRECTED_REQUEST,
                "this endpoint answers to loopback names only",
            )
        } else if !matches!(*method, Method::GET | Method::HEAD) {
            Answer::refusal(StatusCode::METHOD_NOT_ALLOWED, "read-only: GET or HEAD")
        } else {
            self.read(uri.path())
        };
        let mut response = Response::new(Full::new(Bytes::from(answer.body)));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        let fixed: [(HeaderName, &'static str); 6] = [
            (header::CONTENT_TYPE, answer.kind),
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CONNECTION, "close"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Ok(policy) = HeaderValue::from_str(&answer.policy) {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        if answer.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    fn read(&self, path: &str) -> Answer {
        let snapshot = self.watcher.latest();
        let snapshot = snapshot.as_ref();
        match path {
            "/" => page(),
            "/livez" => live(snapshot),
            "/readyz" => ready(snapshot),
            "/healthz" => self.health(snapshot),
            "/metrics" => {
                let body = metrics::text(self.version, &self.device, snapshot.map(Arc::as_ref));
                Answer::new(StatusCode::OK, METRICS, body)
            }
            "/api/v1/status" => snapshot.map_or_else(
                || {
                    let body = r#"{"schema":1,"condition":"starting"}"#;
                    Answer::new(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "application/json",
                        body.into(),
                    )
                },
                |snapshot| {
                    let body = status::picture(&self.device, self.version, snapshot).to_string();
                    Answer::new(StatusCode::OK, "application/json", body)
                },
            ),
            "/api/v1/events" => {
                let body = self.watcher.events_json();
                Answer::new(StatusCode::OK, "application/json", body)
            }
            _ => Answer::refusal(
                StatusCode::NOT_FOUND,
                "no such page; there are / /livez /readyz /healthz /metrics /api/v1/status /api/v1/events",
            ),
        }
    }

    fn health(&self, snapshot: Option<&Arc<Snapshot>>) -> Answer {
        let checks = snapshot.map_or_else(Vec::new, |snapshot| status::checks(snapshot));
        let verdict = if snapshot.is_some() {
            status::worst(&checks)
        } else {
            status::Verdict::Fail
        };
        let body = status::health_json(&self.device, self.version, verdict, &checks).to_string();
        Answer::new(
            code(verdict != status::Verdict::Fail),
            "application/health+json",
            body,
        )
    }
}

const fn code(well: bool) -> StatusCode {
    if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Alive: no stage is stalled and the loop shows itself. An agent that starts is alive.
fn live(snapshot: Option<&Arc<Snapshot>>) -> Answer {
    let Some(snapshot) = snapshot else {
        return Answer::new(StatusCode::OK, TEXT, "ok\n".into());
    };
    let stale = snapshot.published.elapsed() >= STALE;
    let body = if stale {
        "stalled: the agent has not renewed its picture\n".into()
    } else if snapshot.shown.health.stalled.is_empty() {
        "ok\n".into()
    } else {
        format!("stalled: {}\n", snapshot.shown.health.stalled.join(", "))
    };
    Answer::new(
        code(!stale && snapshot.shown.health.stalled.is_empty()),
        TEXT,
        body,
    )
}

/// Ready: results are made and kept. Degraded is ready, offline is ready.
fn ready(snapshot: Option<&Arc<Snapshot>>) -> Answer {
    let Some(snapshot) = snapshot else {
        return Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, "[-]agent starting");
    };
    let checks = status::checks(snapshot);
    let mut body = String::new();
    for check in &checks {
        let sign = if check.verdict == status::Verdict::Fail {
            '-'
        } else {
            '+'
        };
        // Writing to a string cannot fail; a line break in a name would forge a line.
        let name = check.name.replace(char::is_control, " ");
        let detail = check.detail.replace(char::is_control, " ");
        let _ = writeln!(body, "[{sign}]{name} {detail}");
    }
    let well = status::worst(&checks) != status::Verdict::Fail
        && snapshot.shown.health.condition != Condition::Failing;
    body.push_str(if well { "ready\n" } else { "not ready\n" });
    Answer::new(code(well), TEXT, body)
}

fn page() -> Answer {
    // Keyed by the system's randomness, so nobody outside can foretell it.
    let part = || RandomState::new().build_hasher().finish();
    let nonce = format!("{:016x}{:016x}", part(), part());
    let mut answer = Answer::new(
        StatusCode::OK,
        "text/html; charset=utf-8",
        PAGE.replace(NONCE, &nonce),
    );
    answer.policy = format!(
        "{DENY_ALL}; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:"
    );
    answer
}

/// A page of another site can make a browser resolve its own name to 127.0.0.1; the Host header gives it away.
fn host_is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = headers
        .get_all(header::HOST)
        .iter()
        .all(|host| host.to_str().is_ok_and(authority_is_local));
    named
        && uri
            .authority()
            .is_none_or(|authority| authority_is_local(authority.as_str()))
}

fn authority_is_local(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(host, _)| host),
        None => authority
            .split_once(':')
            .map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
