//! The endpoint over real loopback sockets, and `quorate status` against it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use quorate_core::{
    event::StoreReport,
    health::{
        BusHealth, CertificateHealth, ChannelHealth, CommandsHealth, Condition, Counters,
        DeliveryHealth, LinkHealth, ModelHealth, QuantityHealth, SensorHealth, StoreHealth,
    },
    units::{Mono, Seq},
    vote::{ChannelState, Quality, Reason},
};

use super::*;
use crate::status::{StatusError, run};

fn sample() -> Health {
    let channel = |sensor: &str, included, state, reason| ChannelHealth {
        sensor: sensor.into(),
        included,
        state,
        reason,
        since: Mono(40_000),
    };
    Health {
        now: Mono(100_000),
        started: Mono(10_000),
        condition: Condition::Degraded,
        sensors: vec![SensorHealth {
            id: "t-3".into(),
            value: Some(20.5),
            taken: Some(Mono(99_500)),
            fault: Some("timeout"),
            fault_permanent: false,
            fault_since: Some(Mono(95_000)),
            breaker: Some("open"),
            retry: Some(Mono(104_000)),
        }],
        buses: vec![BusHealth {
            id: "i2c1".into(),
            state: "open",
            since: Mono(96_000),
            cause: Some("timeout"),
            retry: Some(Mono(101_000)),
            remedy: Some("power it off and on".into()),
            openings: 2,
            recovery: Some("not-permitted"),
        }],
        quantities: vec![QuantityHealth {
            id: "room".into(),
            unit: "°C".into(),
            tick: Some(Mono(99_900)),
            value: Some(20.25),
            uncertainty: Some(0.125),
            quality: Quality::Degraded,
            quality_since: Mono(40_000),
            used: 2,
            channels: vec![
                channel("t-1", true, ChannelState::Healthy, None),
                channel("t-2", true, ChannelState::Healthy, None),
                channel("t-3", false, ChannelState::Quarantined, Some(Reason::Drift)),
            ],
        }],
        models: vec![ModelHealth {
            id: "press".into(),
            version: "1".into(),
            digest: "00".into(),
            state: "running",
            since: Mono(20_000),
            score: Some(2.5),
            threshold: Some(2.0),
            alarm: true,
            fault: None,
            retry: None,
            drift: Vec::new(),
            trial: None,
        }],
        store: StoreHealth {
            state: "ok",
            detail: None,
            since: Mono(10_000),
            retry: None,
            storing: 1,
            seq_next: Seq(77),
            report: StoreReport {
                pending: 12,
                pending_bytes: 3_400,
                disk_bytes: 65_536,
            },
        },
        link: Some(LinkHealth {
            state: "down",
            since: Mono(70_000),
            fault: Some("refused".into()),
            retry: Some(Mono(104_000)),
            inflight: 0,
            broker: 0,
            delivery: DeliveryHealth {
                state: "ok",
                since: Mono(10_000),
                reason: None,
                day_bytes: 1_200,
                confirmed: None,
            },
        }),
        certificates: vec![CertificateHealth {
            role: "server",
            not_after_unix_ms: 0,
            state: "expired",
            seen: Mono(50_000),
        }],
        commands: CommandsHealth {
            state: "listening",
            in_progress: 0,
        },
        stalled: vec![],
        counters: Counters {
            votes: [1, 2, 3, 4],
            records: 76,
            records_gone: [0, 1, 0, 0, 0, 0, 0],
            ..Counters::default()
        },
    }
}

fn histogram(durations_us: [u64; 2]) -> crate::timing::HistogramView {
    let histogram = crate::timing::Histogram::default();
    for duration_us in durations_us {
        histogram.count(duration_us);
    }
    histogram.view()
}

/// A picture at a time, with one of everything in it.
pub(crate) fn shown(now: Mono) -> Shown {
    let health = Health { now, ..sample() };
    Shown {
        wall: WallAnchor {
            mono: now,
            unix_ms: 1_700_000_000_000,
            synced: true,
        },
        health,
        epoch: Epoch(5),
        polls_dropped: 6,
        timing: vec![BusTiming {
            bus: "i2c1".into(),
            lateness: histogram([40, 900]),
            transfer: histogram([300, 400]),
        }],
    }
}

fn show(publisher: &Publisher, health: Health) {
    let now = health.now;
    publisher.publish(Shown {
        health,
        ..shown(now)
    });
}

fn serve(timeout: Duration) -> (Publisher, SocketAddr, JoinHandle<()>) {
    let (publisher, watcher) = publisher(BootId([7; 16]));
    let mut options = Options::new("127.0.0.1:0".parse().unwrap(), "dev".into(), "1.2.3");
    options.headers_timeout = timeout;
    let (address, thread) = spawn(options, watcher).unwrap();
    (publisher, address, thread)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Whatever comes back until the server closes; a reset counts as closed.
fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let answer = raw(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes(),
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head[9..12].parse().unwrap(),
        head.to_ascii_lowercase(),
        body.into(),
    )
}

#[test]
fn probes_tell_starting_degraded_failing_and_stalled_apart() {
    let (publisher, address, thread) = serve(HEADERS_TIMEOUT);
    let codes =
        || ["/livez", "/readyz", "/healthz", "/api/v1/status"].map(|path| get(address, path).0);
    assert_eq!(codes(), [200, 503, 503, 503], "starting");
    show(&publisher, sample());
    assert_eq!(codes(), [200, 200, 200, 200], "degraded and offline");
    let ready = get(address, "/readyz").2;
    assert!(
        ready.contains("[+]store ok\n") && ready.contains("[+]link down: refused\n"),
        "{ready}"
    );
    let healthz: serde_json::Value = serde_json::from_str(&get(address, "/healthz").2).unwrap();
    assert_eq!(healthz["status"], "warn");
    assert_eq!(healthz["checks"]["sensor:t-3"][0]["output"], "timeout");
    let mut failing = sample();
    failing.store.state = "full";
    failing.store.detail = Some("no\nspace".into());
    show(&publisher, failing);
    assert_eq!(codes(), [200, 503, 503, 200], "store fails");
    assert!(
        get(address, "/readyz")
            .2
            .contains("[-]store full: no space\n")
    );
    let mut stalled = sample();
    stalled.stalled = vec!["store"];
    show(&publisher, stalled);
    assert_eq!(codes(), [503, 503, 503, 200], "stalled");
    drop(publisher);
    thread.join().unwrap();
}

#[test]
fn a_picture_that_is_not_renewed_is_not_alive() {
    let (publisher, address, _thread) = serve(HEADERS_TIMEOUT);
    let stale = Snapshot {
        shown: shown(Mono(100_000)),
        boot: BootId::default(),
        published: Instant::now().checked_sub(routes::STALE).unwrap(),
    };
    publisher.sender.send_replace(Some(Arc::new(stale)));
    assert_eq!(
        ["/livez", "/readyz", "/healthz"].map(|path| get(address, path).0),
        [503; 3]
    );
    assert!(get(address, "/metrics").2.contains("\nquorate_up 0\n"));
}

#[test]
fn bad_requests_are_refused_and_the_server_goes_on() {
    let (publisher, address, _thread) = serve(HEADERS_TIMEOUT);
    show(&publisher, sample());
    let begins = |request: &str, status: &str| {
        let answer = raw(address, request.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request:?} gave {answer:?}"
        );
        answer
    };
    let post = begins(
        "POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        "405",
    );
    assert!(post.to_ascii_lowercase().contains("allow: get, head"));
    begins("GET /nothing HTTP/1.1\r\nHost: localhost:1\r\n\r\n", "404");
    begins("GET /livez HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "200");
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "192.168.0.1",
        "[",
        "",
    ] {
        begins(
            &format!("GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            "421",
        );
    }
    begins(
        "GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "421",
    );
    begins("\u{1}\u{2}garbage\r\n\r\n", "400");
    begins(
        &format!(
            "GET / HTTP/1.1\r\nX: {}\r\n\r\n",
            "a".repeat(HEADERS_BYTES_MAX)
        ),
        "431",
    );
    let many: String = (0..200).map(|index| format!("X{index}: a\r\n")).collect();
    begins(&format!("GET / HTTP/1.1\r\n{many}\r\n"), "431");
    let head = raw(address, b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
        "{head:?}"
    );
    assert_eq!(get(address, "/livez").0, 200);
}

#[test]
fn a_slow_client_is_cut_off_and_a_hundred_clients_are_served() {
    let (publisher, address, _thread) = serve(Duration::from_millis(300));
    show(&publisher, sample());
    // More than the limit, none of which ever ends its headers; the probe behind them is served once they are cut off.
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(address);
            stream.write_all(b"GET /livez HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    assert_eq!(get(address, "/livez").0, 200);
    for mut stream in slow {
        let mut answer = Vec::new();
        // A timeout of the read here would mean that the server kept the connection.
        let kind = stream
            .read_to_end(&mut answer)
            .err()
            .map(|error| error.kind());
        assert!(
            matches!(kind, None | Some(io::ErrorKind::ConnectionReset)),
            "{kind:?}"
        );
    }
}

#[test]
fn every_metric_has_help_type_and_a_plain_name() {
    let (publisher, address, _thread) = serve(HEADERS_TIMEOUT);
    let mut health = sample();
    health.quantities[0].id = "a\"b\\c\nd".into();
    show(&publisher, health);
    let (_, head, body) = get(address, "/metrics");
    assert!(head.contains("content-type: text/plain; version=0.0.4"));
    let (mut helps, mut types, mut series) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for line in body.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        if line.starts_with("# HELP") {
            assert!(helps.insert(words[2]) && !words[3].is_empty(), "{line}");
        } else if line.starts_with("# TYPE") {
            assert!(
                types.insert(words[2]) && matches!(words[3], "gauge" | "counter" | "histogram"),
                "{line}"
            );
            assert_eq!(
                words[3] == "counter",
                words[2].ends_with("_total"),
                "{line}"
            );
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let name = key.split('{').next().unwrap();
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{line}"
            );
            // A histogram has three kinds of series.
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|ending| name.strip_suffix(ending))
                .filter(|family| types.contains(family))
                .unwrap_or(name);
            assert!(helps.contains(family) && types.contains(family), "{line}");
            assert!(value.parse::<f64>().is_ok() && series.insert(key), "{line}");
        }
    }
    assert!(
        body.contains(r#"quorate_quantity_value{quantity="a\"b\\c\nd",unit="°C"} 20.25"#),
        "{body}"
    );
    assert!(body.contains("\nquorate_votes_total{quality=\"bad\"} 4\n"));
    for line in [
        "quorate_sensor_breaker_state{sensor=\"t-3\",state=\"open\"} 1",
        "quorate_bus_breaker_state{bus=\"i2c1\",state=\"open\"} 1",
        "quorate_bus_breaker_openings_total{bus=\"i2c1\"} 2",
        "quorate_sample_lateness_seconds_bucket{bus=\"i2c1\",le=\"0.001\"} 2",
        "quorate_sample_lateness_seconds_bucket{bus=\"i2c1\",le=\"+Inf\"} 2",
        "quorate_sample_lateness_seconds_sum{bus=\"i2c1\"} 0.00094",
    ] {
        assert!(body.contains(&format!("\n{line}\n")), "{line}\n{body}");
    }
    assert!(body.contains("state=\"quarantined\",reason=\"drift\"} 1\n"));
}

#[test]
fn the_page_holds_everything_and_its_policy_fits() {
    let (_publisher, address, _thread) = serve(HEADERS_TIMEOUT);
    let ((_, head, body), (_, again, _)) = (get(address, "/"), get(address, "/"));
    let nonce = |head: &str| head.split("script-src 'nonce-").nth(1).unwrap()[..32].to_string();
    assert_ne!(nonce(&head), nonce(&again));
    assert_eq!(
        body.matches(&format!("nonce=\"{}\"", nonce(&head))).count(),
        2
    );
    assert!(head.contains("frame-ancestors 'none'") && head.contains("nosniff"));
    assert!(!body.contains("http://") && !body.contains("https://") && !body.contains("{{"));
}

#[test]
fn a_port_in_use_names_the_address_and_what_to_do() {
    let (_publisher, address, _thread) = serve(HEADERS_TIMEOUT);
    let (_other, watcher) = publisher(BootId::default());
    let error = spawn(Options::new(address, "b".into(), "1"), watcher)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("[http]"),
        "{error}"
    );
}

#[test]
fn the_last_events_are_given_as_they_were_recorded() {
    let (publisher, address, _thread) = serve(HEADERS_TIMEOUT);
    let record = br#"{"seq":7,"mono_ms":1500,"kind":"event","body":{"what":"link","to":"up"}}"#;
    publisher.tell(&Arc::from(&record[..]));
    let mut account = Vec::new();
    crate::events_command::run(address, false, &mut account).unwrap();
    assert_eq!(String::from_utf8(account).unwrap(), "1.500 s  link: up\n");
    let mut records = Vec::new();
    crate::events_command::run(address, true, &mut records).unwrap();
    let given: serde_json::Value = serde_json::from_slice(&records).unwrap();
    assert_eq!(given["seq"], 7);
}

#[test]
fn status_gives_an_account_or_the_json_as_it_came() {
    let (publisher, address, thread) = serve(HEADERS_TIMEOUT);
    assert!(
        matches!(
            run(address, false, &mut Vec::new()),
            Err(StatusError::Foreign { .. })
        ),
        "starting"
    );
    show(&publisher, sample());
    let mut account = Vec::new();
    run(address, false, &mut account).unwrap();
    let golden = "dev degraded, up 1 min 30 s, version 1.2.3
quantity  room: 20.250 ± 0.125 °C, degraded for 1 min 0 s, 2 of 3 channels
          out: t-3, drift, quarantined for 1 min 0 s
sensor    t-3: timeout for 5.0 s
model     press: running, score 2.500 of 2.000, ALARM
store     ok, 12 records (3400 bytes) wait
link      down for 30.0 s, refused, next try in 4.0 s
records   76 made, 1 lost
";
    assert_eq!(String::from_utf8(account).unwrap(), golden);
    let mut json = Vec::new();
    run(address, true, &mut json).unwrap();
    let picture: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(picture["boot"], "07070707-0707-0707-0707-070707070707");
    assert_eq!(picture["quantities"][0]["channels"][2]["reason"], "drift");
    drop(publisher);
    thread.join().unwrap();
    let error = run(address, false, &mut Vec::new()).unwrap_err();
    assert!(
        matches!(error, StatusError::Absent { .. }) && error.to_string().contains("quorate run"),
        "{error}"
    );
}
