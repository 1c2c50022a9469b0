//! The reference firmware as a process on a pseudo-terminal, read by the host's side.
//!
//! Needs a C compiler, as the workspace does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use quorate_firmware_bridge::SampleFault;
use quorate_firmware_bridge::chips::{Chip, Values};
use quorate_firmware_bridge::linux::serial::{Parity, SerialLine};
use quorate_firmware_bridge::wire::{Line, WireChip};

/// Compiles the reference firmware with the warnings of a careful project.
fn firmware(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("wire/c/reference_firmware.c");
    let program = folder.join("reference_firmware");
    let status = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-o"])
        .args([&program, &source])
        .status()
        .expect("a C compiler");
    assert!(status.success());
    program
}

/// The two ends of a line: one file, and the name of the other.
fn pseudo_terminal() -> (File, PathBuf) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let host = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&host)
        .and_then(|()| unlockpt(&host))
        .expect("its other end");
    let name = ptsname(&host, Vec::new()).expect("its name");
    let name = name.into_string().expect("an ASCII path");
    (File::from(host), name.into())
}

/// The master side of a pseudo-terminal as a line.
struct Master(File);

impl Line for Master {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, SampleFault> {
        rustix::io::read(&self.0, bytes).or(Ok(0))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, SampleFault> {
        rustix::io::write(&self.0, bytes).or(Ok(0))
    }
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn now_us(start: Instant) -> Box<dyn Fn() -> u64 + Send> {
    Box::new(move || 1_000_000 + u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// Asks until a channel answers as it should, ten seconds at most.
fn until(
    chip: &mut impl Chip,
    channel: usize,
    wanted: impl Fn(Result<f64, SampleFault>) -> bool,
) -> Result<f64, SampleFault> {
    let start = Instant::now();
    loop {
        let mut values = Values::default();
        let answer = match chip.measure(channel, &mut values) {
            Ok(()) => values.take(channel).unwrap_or(Err(SampleFault::Malformed)),
            Err(fault) => Err(fault),
        };
        if wanted(answer) || start.elapsed() > Duration::from_secs(10) {
            return answer;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firmware_in_c_is_read_and_its_reboot_and_death_are_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = firmware(folder.path());
        let (host, device) = pseudo_terminal();
        rustix::io::ioctl_fionbio(&host, true).expect("a line that does not wait");
        let start = |session: &str| {
            let child = Command::new(&program).arg(&device).arg(session).spawn();
            Process(child.expect("the firmware starts"))
        };
        let mut process = start("7");
        let mut chip = WireChip::new(Master(host), now_us(Instant::now()), vec![(0, 2000)]);
        assert_eq!(until(&mut chip, 1, |answer| answer.is_ok()), Ok(21.5));
        let open = Err(SampleFault::OpenCircuit);
        assert_eq!(until(&mut chip, 2, |answer| answer == open), open);
        assert_eq!(
            until(&mut chip, 3, |answer| answer == Err(SampleFault::Malformed)),
            Err(SampleFault::Malformed)
        );
        let high = until(&mut chip, 0, |answer| {
            answer.is_ok_and(|value| value > 100.0)
        });
        assert!(high.is_ok_and(|value| value > 100.0), "{high:?}");
        // Another process is another start: it counts from zero again.
        drop(process);
        process = start("8");
        let low = until(&mut chip, 0, |answer| {
            answer.is_ok_and(|value| value < 100.0)
        });
        assert!(low.is_ok_and(|value| value < 100.0), "{low:?}");
        assert!(format!("{chip:?}").contains("starts: 2"), "{chip:?}");
        // A silent one is down after the watchdog's time, not zero and not its last value.
        drop(process);
        let silent = until(&mut chip, 0, |answer| answer == Err(SampleFault::Timeout));
        assert_eq!(silent, Err(SampleFault::Timeout));
    }

    #[test]
    fn a_line_opens_as_a_file_and_its_end_is_noticed() {
        let (host, device) = pseudo_terminal();
        let mut line = SerialLine::open(&device, 115_200, Parity::None).expect("the other end");
        let mut bytes = [0; 8];
        assert_eq!(line.read(&mut bytes), Ok(0));
        // Raw: what a terminal would turn into something else comes as it is.
        rustix::io::write(&host, b"\x03\r\n\x00").expect("room");
        assert_eq!(line.read(&mut bytes), Ok(4));
        assert_eq!(&bytes[..4], b"\x03\r\n\x00");
        assert_eq!(line.write(b"\n"), Ok(1));
        let count = rustix::io::read(&host, &mut bytes).expect("a byte");
        assert_eq!(&bytes[..count], b"\n");
        drop(host);
        assert_eq!(line.read(&mut bytes), Err(SampleFault::Missing));
        let missing =
            SerialLine::open(Path::new("/dev/ttyThatIsNotThere"), 9600, Parity::None).err();
        assert_eq!(missing, Some(SampleFault::Missing));
        assert!(SerialLine::open(Path::new("/dev/null"), 9600, Parity::None).is_err());
    }
}
