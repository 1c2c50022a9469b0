//! The figures of `docs/store.md`: fills, opens and drains a store as the agent does, one JSON line for each run.
//!
//! `store_bench fill PATH RECORDS BATCH [DEVICE]`: appends records of 200 bytes, then ends as by a kill. With a block
//! device such as `loop0` that holds nothing else, its bytes and flushes are counted too.
//! `store_bench open PATH`: how long until the first record is read, in a fresh process.
//! `store_bench drain PATH BATCH`: loads and forgets until nothing waits, and closes.
//! `store_bench endure PATH SECONDS LAG`: appends 256 and drains 256 in turn, so many records apart; a line a minute.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use quorate::store::{self, Opened, Options};
use quorate_core::{event::StoredRecord, units::Seq};
use serde_json::{Value, json};

/// Bytes of one record.
const RECORD_BYTES: usize = 200;
/// Room for everything: nothing makes room here.
const SIZE_BYTES_MAX: u64 = 64 << 30;
/// Payload bytes that one load may bring.
const LOAD_BYTES_MAX: u32 = 64 << 20;
/// Records that are appended and drained at once while it endures.
const ENDURE_RECORDS: u64 = 256;
/// A line comes this often while it endures.
const REPORT: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["fill", path, count, batch] => fill(Path::new(path), count, batch, None),
        ["fill", path, count, batch, device] => fill(Path::new(path), count, batch, Some(device)),
        ["open", path] => open(Path::new(path)),
        ["drain", path, batch] => drain(Path::new(path), batch),
        ["endure", path, seconds, lag] => endure(Path::new(path), seconds, lag),
        _ => Err("expected fill, open, drain or endure, and what they need".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell where this fails.
            let _ = writeln!(io::stderr(), "store_bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(path: &Path) -> Options {
    Options {
        size_bytes_max: SIZE_BYTES_MAX,
        ..Options::at(path)
    }
}

fn opened(path: &Path) -> Result<Opened, Failure> {
    let opened = store::open(&options(path))?;
    for finding in &opened.findings {
        tell(&json!({"finding": finding.to_string()}))?;
    }
    Ok(opened)
}

fn tell(line: &Value) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

fn records(first: u64, count: u64) -> Vec<StoredRecord> {
    let record = |seq: u64| {
        let head = format!("{{\"seq\":{seq},\"kind\":\"vote\",\"body\":\"");
        let mut payload = head.into_bytes();
        payload.resize(RECORD_BYTES - 2, b'x');
        payload.extend_from_slice(b"\"}");
        StoredRecord {
            seq: Seq(seq),
            payload: payload.into(),
        }
    };
    (first..first + count).map(record).collect()
}

fn fill(path: &Path, count: &str, batch: &str, device: Option<&str>) -> Result<(), Failure> {
    let (count, batch): (u64, u64) = (count.parse()?, batch.parse()?);
    let mut opened = opened(path)?;
    let mut next = opened.seq_next.0;
    let end = next + count;
    let before = device.map(Device::read).transpose()?;
    let start = Instant::now();
    let mut commits = 0_u64;
    let mut slowest = Duration::ZERO;
    while next < end {
        let group = records(next, batch.min(end - next));
        let begun = Instant::now();
        opened
            .outbox
            .append(&group)
            .map_err(|fault| format!("{}: {}", fault.cause, fault.detail))?;
        slowest = slowest.max(begun.elapsed());
        next += batch.min(end - next);
        commits += 1;
    }
    let elapsed = start.elapsed();
    let mut line = json!({
        "what": "fill", "records": count, "batch": batch, "commits": commits,
        "records_per_second": per_second(count, elapsed),
        "slowest_commit_ms": slowest.as_millis(),
        "memory_kib_max": status_of("VmHWM:")?,
        "store_bytes": opened.outbox.report().disk_bytes,
    });
    if let (Some(before), Some(device)) = (before, device) {
        let after = Device::read(device)?;
        let each = |amount: u64, of: u64| f64_of(amount) / f64_of(of.max(1));
        line["device_bytes_per_record"] = json!(each(after.bytes - before.bytes, count));
        line["flushes_per_commit"] = json!(each(after.flushes - before.flushes, commits));
    }
    tell(&line)?;
    // As after a kill: nothing is closed.
    std::process::abort()
}

fn open(path: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    let opened = opened(path)?;
    let open_ms = millis(start.elapsed());
    let first = opened
        .outbox
        .load(Seq(0), Seq(u64::MAX), 1, LOAD_BYTES_MAX)
        .map_err(|fault| fault.detail)?;
    tell(&json!({
        "what": "open", "open_ms": open_ms, "first_record_ms": millis(start.elapsed()),
        "first_seq": first.first().map(|record| record.seq.0),
        "pending": opened.outbox.report().pending,
        "memory_kib_max": status_of("VmHWM:")?,
    }))
}

fn drain(path: &Path, batch: &str) -> Result<(), Failure> {
    let batch: u32 = batch.parse()?;
    let mut opened = opened(path)?;
    let start = Instant::now();
    let (mut cursor, mut count) = (Seq(0), 0_u64);
    while let Some((first, last, found)) = take(&mut opened, cursor, batch)? {
        let expected = last.0 - first.0 + 1;
        if found != expected {
            return Err(format!("{found} records of {expected}").into());
        }
        (cursor, count) = (last, count + found);
    }
    let elapsed = start.elapsed();
    opened.outbox.close().map_err(|fault| fault.detail)?;
    tell(&json!({
        "what": "drain", "records": count, "records_per_second": per_second(count, elapsed),
        "memory_kib_max": status_of("VmHWM:")?, "store_bytes": bytes_below(path)?,
    }))
}

/// Loads and forgets once: lowest, highest, how many.
fn take(opened: &mut Opened, after: Seq, most: u32) -> Result<Option<(Seq, Seq, u64)>, Failure> {
    let page = opened
        .outbox
        .load(after, Seq(u64::MAX), most, LOAD_BYTES_MAX)
        .map_err(|fault| fault.detail)?;
    let (Some(first), Some(last)) = (page.first(), page.last()) else {
        return Ok(None);
    };
    let count = opened
        .outbox
        .forget(first.seq, last.seq)
        .map_err(|fault| fault.detail)?;
    Ok(Some((first.seq, last.seq, count)))
}

fn endure(path: &Path, seconds: &str, lag: &str) -> Result<(), Failure> {
    let (limit, lag): (u64, u64) = (seconds.parse()?, lag.parse()?);
    let mut opened = opened(path)?;
    let start = Instant::now();
    let mut next = opened.seq_next.0;
    let (mut cursor, mut reported, mut slowest) = (Seq(next - 1), start, Duration::ZERO);
    let most = u32::try_from(ENDURE_RECORDS)?;
    let first = next;
    while start.elapsed().as_secs() < limit {
        let begun = Instant::now();
        opened
            .outbox
            .append(&records(next, ENDURE_RECORDS))
            .map_err(|fault| format!("{}: {}", fault.cause, fault.detail))?;
        slowest = slowest.max(begun.elapsed());
        next += ENDURE_RECORDS;
        if next - cursor.0 > lag {
            let taken = take(&mut opened, cursor, most)?.ok_or("nothing waits")?;
            if (taken.0, taken.2) != (cursor.next(), ENDURE_RECORDS) {
                return Err(format!("{taken:?} after {cursor:?}").into());
            }
            cursor = taken.1;
        }
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            let gone = opened.outbox.take_gone();
            if !gone.is_empty() {
                return Err(format!("{gone:?}").into());
            }
            tell(&json!({
                "what": "endure", "seconds": start.elapsed().as_secs(), "records": next - first,
                "pending": opened.outbox.report().pending,
                "memory_kib": status_of("VmRSS:")?, "memory_kib_max": status_of("VmHWM:")?,
                "descriptors": fs::read_dir("/proc/self/fd")?.count(),
                "threads": status_of("Threads:")?,
                "store_bytes": bytes_below(path)?, "slowest_commit_ms": slowest.as_millis(),
            }))?;
            slowest = Duration::ZERO;
        }
    }
    Ok(())
}

/// What a block device has done.
struct Device {
    bytes: u64,
    flushes: u64,
}

impl Device {
    fn read(name: &str) -> Result<Self, Failure> {
        let text = fs::read_to_string(PathBuf::from("/sys/block").join(name).join("stat"))?;
        let words: Vec<u64> = text
            .split_ascii_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let word = |at: usize| words.get(at).copied().ok_or("a short line of statistics");
        Ok(Self {
            bytes: word(6)? * 512,
            flushes: word(15)?,
        })
    }
}

/// A number of `/proc/self/status`.
fn status_of(key: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_ascii_whitespace().next());
    Ok(number.ok_or("no such line")?.parse()?)
}

/// Bytes of all files below a directory.
fn bytes_below(path: &Path) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let data = entry.metadata()?;
        sum += if data.is_dir() {
            bytes_below(&entry.path())?
        } else {
            data.blocks() * 512
        };
    }
    Ok(sum)
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    (f64_of(count) / elapsed.as_secs_f64()).round()
}

fn millis(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Exact for everything that is counted here, which is below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
fn f64_of(count: u64) -> f64 {
    count as f64
}
