//! `quorate status`: asks the running agent how it is.
//!
//! Owns: one bounded request to the endpoint and the account for people. Must not: trust the answer; it may come from
//! anything that listens there, so it is bounded and printed without control characters.

use std::{
    io::{self, Read as _, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(2);
/// A picture of thousands of sensors stays well below this.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A picture older than this is shown with a warning.
const STALE_MS: u64 = 10_000;

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nothing answers there.
    #[error(
        "no agent answers at {address}: {source}; start it with `quorate run`, or give its address with --address"
    )]
    Absent {
        /// The asked address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Something answers that is no agent, or one that only starts.
    #[error("{address} does not answer as an agent does: {what}")]
    Foreign {
        /// The asked address.
        address: SocketAddr,
        /// What was wrong.
        what: String,
    },
    /// The account cannot be written.
    #[error("cannot write the account: {0}")]
    Output(#[from] io::Error),
}

/// Asks the agent at `address` and writes its account, or the JSON as it came.
///
/// # Errors
/// When nothing answers, when the answer is not an agent's, or when `output` fails.
pub fn run(address: SocketAddr, json: bool, output: &mut impl Write) -> Result<(), StatusError> {
    let (body, picture) = asked(address, "/api/v1/status")?;
    if json {
        writeln!(output, "{body}")?;
    } else {
        account(&picture, output)?;
    }
    Ok(())
}

/// The answer to one question to the agent's endpoint.
///
/// # Errors
/// When nothing answers, or when the answer is not an agent's.
pub fn ask_json(address: SocketAddr, path: &str) -> Result<Value, StatusError> {
    asked(address, path).map(|(_, json)| json)
}

fn asked(address: SocketAddr, path: &str) -> Result<(String, Value), StatusError> {
    let answer = ask(address, path).map_err(|source| StatusError::Absent { address, source })?;
    let foreign = |what: &str| StatusError::Foreign {
        address,
        what: what.into(),
    };
    let answer = String::from_utf8(answer).map_err(|_| foreign("no text"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| foreign("no HTTP"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "503" {
        return Err(foreign(
            "it is starting and has not shown itself yet; ask again in a moment",
        ));
    }
    if status != "200" {
        let line = head.lines().next().unwrap_or_default();
        return Err(foreign(&clean(line)));
    }
    let json: Value = serde_json::from_str(body).map_err(|_| foreign("no JSON, or cut off"))?;
    if json["schema"] != 1 {
        return Err(foreign(
            "its answer is not of schema 1; use the `quorate` of the same version",
        ));
    }
    Ok((body.to_owned(), json))
}

fn ask(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + TIMEOUT;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    // One deadline for the whole answer, or a server that drips one byte at a time would hold us for ever.
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(answer);
        }
        answer.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if u64::try_from(answer.len()).is_ok_and(|length| length > ANSWER_BYTES_MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is longer than 4 MiB",
            ));
        }
    }
}

fn account(picture: &Value, output: &mut impl Write) -> io::Result<()> {
    let uptime = lasted(&picture["uptime_ms"]);
    let condition = text(&picture["condition"]);
    writeln!(
        output,
        "{} {condition}, up {uptime}, version {}",
        text(&picture["device"]),
        text(&picture["version"])
    )?;
    if picture["picture_age_ms"]
        .as_u64()
        .is_some_and(|age_ms| age_ms > STALE_MS)
    {
        writeln!(
            output,
            "warning: this picture is {} old; the agent hangs",
            lasted(&picture["picture_age_ms"])
        )?;
    }
    for stage in list(&picture["stalled"]) {
        writeln!(output, "stalled   {}", text(stage))?;
    }
    for quantity in list(&picture["quantities"]) {
        account_quantity(quantity, output)?;
    }
    account_parts(picture, output)?;
    account_delivery(picture, output)
}

fn account_parts(picture: &Value, output: &mut impl Write) -> io::Result<()> {
    for sensor in list(&picture["sensors"])
        .iter()
        .filter(|sensor| !sensor["fault"].is_null())
    {
        let since = lasted(&sensor["fault_since_ms"]);
        writeln!(
            output,
            "sensor    {}: {} for {since}",
            text(&sensor["id"]),
            text(&sensor["fault"])
        )?;
    }
    for model in list(&picture["models"]) {
        let alarm = if model["alarm"] == true {
            ", ALARM"
        } else {
            ""
        };
        let (score, threshold) = (number(&model["score"]), number(&model["threshold"]));
        let state = text(&model["state"]);
        write!(
            output,
            "model     {}: {state}, score {score} of {threshold}{alarm}",
            text(&model["id"])
        )?;
        let trial = &model["trial"];
        if trial.is_object() {
            let (phase, state) = (text(&trial["phase"]), text(&trial["state"]));
            write!(
                output,
                ", version {} on trial: {phase}, {state}",
                text(&trial["version"])
            )?;
        }
        ended(&model["fault"], &model["retry_ms"], output)?;
    }
    Ok(())
}

fn account_delivery(picture: &Value, output: &mut impl Write) -> io::Result<()> {
    let store = &picture["store"];
    let (records, bytes) = (&store["pending_records"], &store["pending_bytes"]);
    write!(
        output,
        "store     {}, {} records ({} bytes) wait",
        text(&store["state"]),
        number(records),
        number(bytes)
    )?;
    ended(&store["detail"], &store["retry_ms"], output)?;
    let link = &picture["link"];
    if link.is_null() {
        writeln!(output, "link      none configured")?;
    } else {
        write!(
            output,
            "link      {} for {}",
            text(&link["state"]),
            lasted(&link["since_ms"])
        )?;
        ended(&link["fault"], &link["retry_ms"], output)?;
    }
    let lost: u64 = picture["counters"]["records_gone"]
        .as_object()
        .map_or(0, |causes| {
            causes
                .values()
                .filter_map(Value::as_u64)
                .fold(0, u64::saturating_add)
        });
    writeln!(
        output,
        "records   {} made, {lost} lost",
        number(&picture["counters"]["records"])
    )
}

/// The end of a line: the fault and the next try, where there are any.
fn ended(fault: &Value, retry_ms: &Value, output: &mut impl Write) -> io::Result<()> {
    if !fault.is_null() {
        write!(output, ", {}", text(fault))?;
    }
    if !retry_ms.is_null() {
        write!(output, ", next try in {}", lasted(retry_ms))?;
    }
    writeln!(output)
}

fn account_quantity(quantity: &Value, output: &mut impl Write) -> io::Result<()> {
    let (value, uncertainty) = (number(&quantity["value"]), number(&quantity["uncertainty"]));
    let channels = list(&quantity["channels"]);
    writeln!(
        output,
        "quantity  {}: {value} ± {uncertainty} {}, {} for {}, {} of {} channels",
        text(&quantity["id"]),
        text(&quantity["unit"]),
        text(&quantity["quality"]),
        lasted(&quantity["since_ms"]),
        number(&quantity["used"]),
        channels.len(),
    )?;
    for channel in channels
        .iter()
        .filter(|channel| channel["included"] != true)
    {
        let reason = if channel["reason"].is_null() {
            "not in the newest vote".into()
        } else {
            text(&channel["reason"])
        };
        let (state, since) = (text(&channel["state"]), lasted(&channel["since_ms"]));
        writeln!(
            output,
            "          out: {}, {reason}, {state} for {since}",
            text(&channel["sensor"])
        )?;
    }
    Ok(())
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn text(value: &Value) -> String {
    clean(value.as_str().unwrap_or("?"))
}

/// What a terminal would obey is not printed.
pub(crate) fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

pub(crate) fn number(value: &Value) -> String {
    match (value.as_u64(), value.as_f64()) {
        (Some(whole), _) => whole.to_string(),
        (None, Some(real)) => format!("{real:.3}"),
        (None, None) => "-".into(),
    }
}

fn lasted(value: &Value) -> String {
    let Some(all_ms) = value.as_u64() else {
        return "?".into();
    };
    let (all_s, part) = (all_ms / 1_000, all_ms % 1_000 / 100);
    match all_s {
        0..60 => format!("{all_s}.{part} s"),
        60..3_600 => format!("{} min {} s", all_s / 60, all_s % 60),
        3_600..86_400 => format!("{} h {} min", all_s / 3_600, all_s / 60 % 60),
        _ => format!("{} d {} h", all_s / 86_400, all_s / 3_600 % 24),
    }
}
