//! A program whose standard output is a feed: one JSON object a line.
//!
//! Owns: the life of the process. Must not: read a line's meaning.
//!
//! Invariants: no shell; an empty environment but for what is configured; a process group of its own, which is killed as a
//! whole when the feed ends and when the program ends; when the agent is killed, the program alone is; a program that ends
//! is started again after a pause that doubles up to `PAUSE_MAX`; one that floods is read no faster than `BYTES_PER_SECOND_MAX`.

use std::{
    io::{self, Read},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use quorate_firmware_bridge::SampleFault;
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

use super::{Inbox, Lines};
use crate::clock::Clock;

/// The pause before the first new start, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A program that ran for so long was well: the pause begins anew.
const WELL_MS: u64 = 60_000;
/// Most bytes of standard output that are read in a second.
const BYTES_PER_SECOND_MAX: usize = 1024 * 1024;
/// Most lines of standard error that are logged in a minute.
const ERROR_LINES_MAX: u32 = 10;
const MINUTE_MS: u64 = 60_000;
const READ_BYTES: usize = 8 * 1024;
/// Most characters of a line of standard error that are logged.
const ERROR_CHARACTERS_MAX: usize = 200;

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The program, with an absolute path, and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
}

/// A program that runs until this is dropped.
#[derive(Debug)]
pub struct Program {
    group: Arc<Mutex<Option<Pid>>>,
    stop: Option<Sender<()>>,
}

impl Program {
    /// Starts it on a thread of its own.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn spawn(options: Options, inbox: Inbox, clock: Clock) -> io::Result<Self> {
        let group = Arc::new(Mutex::new(None));
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let running = Running {
            options,
            inbox,
            clock,
            group: Arc::clone(&group),
            stopped,
        };
        std::thread::Builder::new()
            .name("program".into())
            .spawn(move || running.run())?;
        Ok(Self {
            group,
            stop: Some(stop),
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // First the end of the channel, so that nothing is started after the kill.
        self.stop = None;
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = *group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

struct Running {
    options: Options,
    inbox: Inbox,
    clock: Clock,
    group: Arc<Mutex<Option<Pid>>>,
    stopped: Receiver<()>,
}

impl Running {
    fn run(&self) {
        let mut pause = PAUSE_MIN;
        loop {
            let began = self.clock.now();
            let fault = match self.start() {
                Ok(Some(child)) => {
                    self.inbox.begin();
                    self.attend(child);
                    SampleFault::Exited
                }
                Ok(None) => return,
                Err(error) => {
                    let program = self.options.argv.first();
                    tracing::warn!(?program, %error, "the program of a source cannot be started");
                    match error.kind() {
                        io::ErrorKind::NotFound => SampleFault::Missing,
                        io::ErrorKind::PermissionDenied => SampleFault::Permission,
                        _ => SampleFault::Exited,
                    }
                }
            };
            self.inbox.fail(fault);
            if self.clock.now().since_ms(began) >= WELL_MS {
                pause = PAUSE_MIN;
            }
            let waited = self.stopped.recv_timeout(pause);
            if waited == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Starts the program, unless the feed has ended.
    fn start(&self) -> io::Result<Option<Child>> {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopped() {
            return Ok(None);
        }
        let empty = || io::Error::from(io::ErrorKind::NotFound);
        let (program, arguments) = self.options.argv.split_first().ok_or_else(empty)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(
                self.options
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // SAFETY: between fork and exec this makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)
            });
        }
        let child = command.spawn()?;
        *group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Some(child))
    }

    fn is_stopped(&self) -> bool {
        matches!(
            self.stopped.try_recv(),
            Err(crossbeam_channel::TryRecvError::Disconnected)
        )
    }

    /// Reads what it says until it ends, then takes its whole group with it.
    fn attend(&self, mut child: Child) {
        if let Some(errors) = child.stderr.take() {
            let clock = self.clock;
            let logging = std::thread::Builder::new()
                .name("program-errors".into())
                .spawn(move || log(errors, clock));
            if logging.is_err() {
                tracing::warn!("standard error of a program is not read");
            }
        }
        if let Some(output) = child.stdout.take() {
            self.read(output);
        }
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
        match child.wait() {
            Ok(status) => tracing::warn!(%status, "the program of a source has ended"),
            Err(error) => tracing::warn!(%error, "the program of a source has ended"),
        }
    }

    fn read(&self, mut output: impl Read) {
        let (mut bytes, mut lines) = ([0; READ_BYTES], Lines::default());
        let (mut second, mut count) = (self.clock.now(), 0);
        loop {
            match output.read(&mut bytes) {
                Ok(0) => return,
                Ok(read) => {
                    lines.push(&bytes[..read], |line| match line {
                        Some(line) => self.inbox.take(line),
                        None => self.inbox.refuse(),
                    });
                    count += read;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            let passed_ms = self.clock.now().since_ms(second);
            if count >= BYTES_PER_SECOND_MAX && passed_ms < 1_000 {
                let rest = Duration::from_millis(1_000 - passed_ms);
                if self.stopped.recv_timeout(rest) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
            if self.clock.now().since_ms(second) >= 1_000 {
                (second, count) = (self.clock.now(), 0);
            }
        }
    }
}

/// Logs standard error, at most so many lines a minute, until it ends.
fn log(mut errors: impl Read, clock: Clock) {
    let (mut bytes, mut lines) = ([0; READ_BYTES], Lines::default());
    let (mut minute, mut logged, mut left_out) = (clock.now(), 0_u32, 0_u64);
    loop {
        let read = match errors.read(&mut bytes) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        lines.push(&bytes[..read], |line| {
            if clock.now().since_ms(minute) >= MINUTE_MS {
                if left_out > 0 {
                    tracing::warn!(left_out, "a program of a source says more than is logged");
                }
                (minute, logged, left_out) = (clock.now(), 0, 0);
            }
            if logged >= ERROR_LINES_MAX {
                left_out += 1;
                return;
            }
            logged += 1;
            let text = String::from_utf8_lossy(line.unwrap_or(b"(a line that is too long)"));
            let said: String = text.chars().take(ERROR_CHARACTERS_MAX).collect();
            tracing::info!(?said, "a program of a source");
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Options, Program};
    use crate::{
        clock::Clock,
        feed::{Channel, FeedProbe, Inbox},
    };
    use quorate_firmware_bridge::{Probe, SampleFault};
    use std::{path::Path, sync::Arc, time::Duration};

    fn probe(argv: &[&str]) -> FeedProbe {
        let channel = Channel {
            name: "a".into(),
            unit: None,
            age_ms_max: 60_000,
        };
        let inbox = Inbox::new(&[channel], Clock::real());
        let options = Options {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            environment: vec![("NAME".into(), "a".into())],
        };
        let program = Program::spawn(options, inbox.clone(), Clock::real()).unwrap();
        FeedProbe::new(inbox, "a", Arc::new(program))
    }

    /// Asks until there is an answer other than this.
    fn until_not(
        probe: &mut FeedProbe,
        answer: Result<f64, SampleFault>,
    ) -> Result<f64, SampleFault> {
        loop {
            let sample = probe.sample();
            if sample != answer {
                return sample;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    const WAITING: Result<f64, SampleFault> = Err(SampleFault::NotReady);

    #[test]
    fn a_program_is_read_and_its_end_is_a_cause_until_it_runs_again() {
        let script = "echo \"{\\\"sensor\\\":\\\"$NAME\\\",\\\"value\\\":21.5}\"; echo oh >&2; echo ${HOME:-none}";
        let mut probe = probe(&["/bin/sh", "-c", script]);
        assert_eq!(until_not(&mut probe, WAITING), Ok(21.5));
        assert_eq!(until_not(&mut probe, WAITING), Err(SampleFault::Exited));
        let again = until_not(&mut probe, Err(SampleFault::Exited));
        assert!(again == Ok(21.5) || again == WAITING, "{again:?}");
    }

    #[test]
    fn a_program_that_is_not_there_is_missing() {
        let mut probe = probe(&["/bin/program-that-is-not-there"]);
        assert_eq!(until_not(&mut probe, WAITING), Err(SampleFault::Missing));
    }

    #[test]
    fn the_whole_group_ends_with_the_feed() {
        let script = "sleep 600 & echo \"{\\\"sensor\\\":\\\"a\\\",\\\"value\\\":$!}\"; wait";
        let mut probe = probe(&["/bin/sh", "-c", script]);
        let child = until_not(&mut probe, WAITING).unwrap();
        let stat = format!("/proc/{child}/stat");
        assert!(Path::new(&stat).exists());
        drop(probe);
        // Killed, it is gone, or waits for its new parent to notice.
        let ended = || std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "));
        while !ended() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}
