//! The trial of a model in a process of its own, because the runtime may abort or hang on a hostile file.
//!
//! Owns: starting, limiting and ending that process, and naming how it ended. Must not: load a model itself.
//!
//! Invariant: whatever the file does, [`Trial::run`] returns within its time, and the process is gone.

use std::{
    io::{Read, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use quorate_models::Budgets;
use serde::{Deserialize, Serialize};

/// Most bytes that are kept of what the process says.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Most characters of a detail.
const DETAIL_CHARACTERS_MAX: usize = 400;

/// How a trial is done.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The program: this one.
    pub program: PathBuf,
    /// What stands before the trial's own arguments.
    pub arguments: Vec<String>,
    /// Most address space of the process, bytes.
    pub memory_bytes: u64,
    /// Most processor time, seconds.
    pub cpu_s: u64,
    /// Longest wall time.
    pub limit: Duration,
}

impl Default for Trial {
    /// This program, 1 GiB, a minute of processor time, two minutes.
    fn default() -> Self {
        Self {
            // Also right after the file was replaced by an update.
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec!["model-trial".to_owned()],
            memory_bytes: 1 << 30,
            cpu_s: 60,
            limit: Duration::from_secs(120),
        }
    }
}

/// What a trial found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Time of loading, golden vectors included, milliseconds, rounded up.
    pub load_ms: u64,
    /// 99 % of the inferences took at most so long, microseconds.
    pub p99_us: u64,
    /// Peak of memory above that of the empty process, bytes; none where the system does not tell.
    pub memory_bytes: Option<u64>,
    /// Inferences that were measured.
    pub inferences: u64,
}

/// Why a model did not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{cause}: {detail}")]
pub struct Refusal {
    /// In one kebab-case word: `operator`, `golden`, `cannot-load`, `panicked`, `aborted`, `timeout`, `out-of-memory`,
    /// `over-budget`, `failed`, `wrong-part`, `not-started`.
    pub cause: String,
    /// In words, bounded.
    pub detail: String,
}

/// What the process writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Measured(Measured),
    Refused(Refusal),
}

impl Trial {
    /// Tries a bundle ([`quorate_models::package::Parts::framed`]) against its budgets.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn run(&self, framed: &[u8], budgets: Budgets) -> Result<Measured, Refusal> {
        let measured = self.measure(framed)?;
        let over = |name: &str, found: u64, most: Option<u64>| match most {
            Some(most) if found > most => Err(refusal(
                "over-budget",
                &format!("{name}: measured {found}, at most {most} allowed"),
            )),
            _ => Ok(()),
        };
        over("load_ms", measured.load_ms, budgets.load_ms_max)?;
        over("p99_us", measured.p99_us, budgets.p99_us_max)?;
        let memory_bytes = measured.memory_bytes.unwrap_or(0);
        over("memory_bytes", memory_bytes, budgets.memory_bytes_max)?;
        Ok(measured)
    }

    fn measure(&self, framed: &[u8]) -> Result<Measured, Refusal> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .arg(self.memory_bytes.to_string())
            .arg(self.cpu_s.to_string())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| refusal("not-started", &error.to_string()))?;
        let Some((answer, complaint, in_time)) = self.converse(&mut child, framed) else {
            end(&mut child);
            return Err(refusal("not-started", "its standard streams are missing"));
        };
        // Its end was decided when its output closed; a kill after that changes no status.
        let status = end(&mut child);
        match serde_json::from_str(&answer) {
            Ok(Answer::Measured(measured)) => Ok(measured),
            Ok(Answer::Refused(refused)) => Err(refusal(&refused.cause, &refused.detail)),
            Err(_) if !in_time => Err(refusal(
                "timeout",
                &format!("no answer within {} s", self.limit.as_secs_f64()),
            )),
            Err(_) => Err(death(status, &complaint)),
        }
    }

    /// Feeds the process and reads what it says: its answer, its complaint, and whether it ended in time.
    fn converse(&self, child: &mut Child, framed: &[u8]) -> Option<(String, String, bool)> {
        let mut input = child.stdin.take()?;
        let output = child.stdout.take()?;
        let error = child.stderr.take()?;
        let (sender, answers) = crossbeam_channel::bounded(1);
        thread::scope(|scope| {
            // A process that dies before it has read everything closes the pipe, and this ends.
            scope.spawn(move || {
                let _ = input.write_all(framed);
            });
            let complaint = scope.spawn(move || read(error));
            scope.spawn(move || sender.send(read(output)));
            let answer = answers.recv_timeout(self.limit);
            let in_time = answer.is_ok();
            // Only a dead process is sure to close its ends of the pipes.
            let _ = child.kill();
            let answer = answer.or_else(|_| answers.recv()).unwrap_or_default();
            Some((answer, complaint.join().unwrap_or_default(), in_time))
        })
    }
}

/// Everything that comes, of which the first part is kept.
fn read(mut source: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = source
        .by_ref()
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut kept);
    let _ = std::io::copy(&mut source, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

fn end(child: &mut Child) -> Option<ExitStatus> {
    let _ = child.kill();
    child.wait().ok()
}

/// How a process died that gave no answer.
fn death(status: Option<ExitStatus>, complaint: &str) -> Refusal {
    let last = complaint.lines().rev().find(|line| !line.trim().is_empty());
    let said = last.unwrap_or("it said nothing");
    let signal = status.and_then(|status| status.signal());
    let is_memory = complaint.contains("memory allocation of");
    match signal {
        _ if is_memory => refusal("out-of-memory", said),
        Some(libc::SIGXCPU) => refusal("timeout", "its processor time is used up"),
        Some(libc::SIGKILL) => refusal("timeout", "killed by the system: time or memory"),
        Some(signal) => refusal("aborted", &format!("signal {signal}: {said}")),
        None => refusal("aborted", said),
    }
}

fn refusal(cause: &str, detail: &str) -> Refusal {
    let bounded = |text: &str, most: usize| -> String {
        let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        shown.take(most).collect()
    };
    Refusal {
        cause: bounded(cause, 32),
        detail: bounded(detail, DETAIL_CHARACTERS_MAX),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// A shell script in the place of the process.
    fn script(text: &str, limit_ms: u64) -> Refusal {
        let trial = Trial {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), text.into()],
            limit: Duration::from_millis(limit_ms),
            ..Trial::default()
        };
        // More than a pipe holds, so that a process that does not read would block its writer.
        trial
            .run(&vec![0; 300_000], Budgets::default())
            .unwrap_err()
    }

    #[test]
    fn every_death_has_its_name() {
        assert_eq!(script("kill -ABRT $$", 20_000).cause, "aborted");
        assert_eq!(script("kill -SEGV $$", 20_000).cause, "aborted");
        assert_eq!(script("exit 7", 20_000).cause, "aborted");
        assert_eq!(script("kill -XCPU $$", 20_000).cause, "timeout");
        let memory = "echo 'memory allocation of 99 bytes failed' >&2; kill -ABRT $$";
        assert_eq!(script(memory, 20_000).cause, "out-of-memory");
        let garbage = script("head -c 300000 /dev/zero; echo '{}'", 20_000);
        assert_eq!(garbage.cause, "aborted");
        let refused = r#"echo '{"refused":{"cause":"operator","detail":"x"}}'"#;
        assert_eq!(script(refused, 20_000).cause, "operator");
    }

    #[test]
    fn what_hangs_is_ended_in_time() {
        assert_eq!(
            script("cat > /dev/null; exec sleep 60", 200).cause,
            "timeout"
        );
        assert_eq!(script("exec sleep 60", 200).cause, "timeout");
        // Its output is closed, and it hangs all the same.
        assert_eq!(
            script("exec >&- 2>&-; exec sleep 60", 20_000).cause,
            "timeout"
        );
    }

    #[test]
    fn a_budget_that_is_passed_is_named() {
        let answer = r#"{"measured":{"load_ms":5,"p99_us":70,"memory_bytes":900,"inferences":9}}"#;
        let trial = Trial {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), format!("cat > /dev/null; echo '{answer}'")],
            ..Trial::default()
        };
        let measured = trial.run(&[], Budgets::default()).unwrap();
        assert_eq!((measured.load_ms, measured.p99_us), (5, 70));
    }
}
