//! `quorate events`: what happened lately, as the running agent recorded it.
//!
//! Owns: the account of events for people. Must not: trust the answer; what is printed has no control characters.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use serde_json::Value;

use crate::status::{self, StatusError, clean};

/// Where the agent gives its last events.
const PATH: &str = "/api/v1/events";

/// Asks the agent at `address` for its last events and writes them oldest first, one a line; with `json` each as the
/// record that is stored and sent.
///
/// # Errors
/// When nothing answers, when the answer is not an agent's, or when `output` fails.
pub fn run(address: SocketAddr, json: bool, output: &mut impl Write) -> Result<(), StatusError> {
    let answer = status::ask_json(address, PATH)?;
    let foreign = |what: &str| StatusError::Foreign {
        address,
        what: what.into(),
    };
    let events = answer["events"]
        .as_array()
        .ok_or_else(|| foreign("its answer holds no events"))?;
    for event in events {
        if json {
            writeln!(output, "{event}")?;
        } else {
            account(event, output)?;
        }
    }
    Ok(())
}

/// `2026-11-24T22:00:00.000Z  sensor bearing-c: healthy -> quarantined (stuck), detail`
fn account(event: &Value, output: &mut impl Write) -> io::Result<()> {
    let body = &event["body"];
    let field = |name: &str| {
        body[name]
            .as_str()
            .map(clean)
            .filter(|text| !text.is_empty())
    };
    match event["time"].as_str() {
        Some(time) => write!(output, "{}", clean(time))?,
        None => {
            let mono_ms = event["mono_ms"].as_u64().unwrap_or(0);
            write!(output, "{}.{:03} s", mono_ms / 1_000, mono_ms % 1_000)?;
        }
    }
    write!(output, "  {}", field("what").unwrap_or_else(|| "?".into()))?;
    if let Some(subject) = field("subject") {
        write!(output, " {subject}")?;
    }
    match (field("from"), field("to")) {
        (Some(from), Some(to)) => write!(output, ": {from} -> {to}")?,
        (None, Some(to)) => write!(output, ": {to}")?,
        (Some(from), None) => write!(output, ": {from} ->")?,
        (None, None) => {}
    }
    if let Some(reason) = field("reason") {
        write!(output, " ({reason})")?;
    }
    if let (Some(first), Some(last)) = (body["first_seq"].as_u64(), body["last_seq"].as_u64()) {
        write!(output, ", records {first} to {last}")?;
    }
    if let Some(detail) = field("detail") {
        write!(output, ", {detail}")?;
    }
    writeln!(output)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::account;

    fn line(event: serde_json::Value) -> String {
        let mut output = Vec::new();
        account(&event, &mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let event = json!({"time": "2026-11-24T22:00:00.000Z", "body": {"what": "sensor", "subject": "bearing-c",
            "from": "healthy", "to": "quarantined", "reason": "stuck"}});
        assert_eq!(
            line(event),
            "2026-11-24T22:00:00.000Z  sensor bearing-c: healthy -> quarantined (stuck)\n"
        );
        let event = json!({"mono_ms": 12_034, "body": {"what": "records-gone", "first_seq": 3, "last_seq": 9,
            "detail": "a\u{1b}[2Jb\nc"}});
        assert_eq!(
            line(event),
            "12.034 s  records-gone, records 3 to 9, a [2Jb c\n"
        );
        assert_eq!(line(json!(null)), "0.000 s  ?\n");
    }
}
