#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, net::TcpListener};

use super::*;

/// A device with two simulated sensors; `more` is added to its configuration.
fn device(folder: &Path, more: &str) -> std::path::PathBuf {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let path = folder.join("quorate.toml");
    let text = format!(
        "[device]\nid = \"press-07\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n[outbox]\npath = \"{}\"\nsize_max = \"64 MiB\"\n{more}",
        folder.join("outbox").display()
    );
    fs::write(&path, text).unwrap();
    path
}

fn states(findings: &[Finding], area: &str) -> Vec<State> {
    let of = findings.iter().filter(|finding| finding.area == area);
    of.map(|finding| finding.state).collect()
}

#[test]
fn a_wrong_configuration_is_one_problem_and_the_board_is_looked_at_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = device(folder.path(), "nonsense = 1\n");
    let findings = examine(&path);
    assert_eq!(states(&findings, "configuration"), [State::Problem]);
    assert!(findings[0].found.contains("nonsense"), "{:?}", findings[0]);
    assert!(!states(&findings, "clock").is_empty());
    let mut output = Vec::new();
    let outcome = run(&path, false, &mut output).unwrap_err();
    assert_eq!(
        (outcome.status(), outcome.to_string().as_str()),
        (1, "one problem")
    );
    assert!(
        String::from_utf8(output)
            .unwrap()
            .starts_with("PROBLEM  configuration")
    );
}

#[test]
fn a_broker_that_is_not_there_is_named_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let more = format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{closed}\"\n");
    let findings = examine(&device(folder.path(), &more));
    assert_eq!(
        states(&findings, "configuration"),
        [State::Ok],
        "{findings:?}"
    );
    let broker: Vec<_> = findings.iter().filter(|it| it.area == "broker").collect();
    assert_eq!(broker.len(), 1);
    assert!(broker[0].found.contains("refused"), "{broker:?}");
    assert!(broker[0].remedy.is_some());
    assert!(!states(&findings, "store").contains(&State::Problem));
    assert_eq!(states(&findings, "agent"), [State::Warning]);
}

#[test]
fn an_outbox_in_the_place_of_a_file_is_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let path = device(folder.path(), "");
    fs::write(folder.path().join("outbox"), "no folder").unwrap();
    assert_eq!(states(&examine(&path), "store"), [State::Problem]);
}

#[test]
fn the_account_for_programs_is_one_object() {
    let mut output = Vec::new();
    let findings = [Finding::warning("clock", "not \u{1b}synchronised", "wait")];
    write(&findings, true, &mut output).unwrap();
    let body: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(body["findings"][0]["state"], "warning");
    assert_eq!(body["findings"][0]["remedy"], "wait");
    let mut output = Vec::new();
    write(&findings, false, &mut output).unwrap();
    assert!(!output.contains(&0x1b));
}
