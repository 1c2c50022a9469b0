//! A noisy line: corrupt, lost, repeated and reordered frames, and a device that starts anew. No wrong sample may come out.
//!
//! `QUORATE_WIRE_FRAMES` sets how many frames (200,000 unless told otherwise).

use std::io::Write as _;
use std::time::Instant;

use fastrand::Rng;
use quorate_wire::{
    Capabilities, ENCODED_BYTES_MAX, Hello, Host, Message, PAYLOAD_BYTES_MAX, SampleBlock, Sender,
};

/// A firmware whose samples count up from 0 at each start; the channel follows from the value.
struct Device {
    sender: Sender,
    session: u16,
    count: u32,
}

impl Device {
    fn start(session: u16) -> Self {
        Self {
            sender: Sender::new(session),
            session,
            count: 0,
        }
    }

    fn frame(&mut self, message: &Message<'_>) -> Vec<u8> {
        let mut payload = [0; PAYLOAD_BYTES_MAX];
        let mut out = [0; ENCODED_BYTES_MAX];
        let (kind, length) = message
            .encode(&mut payload)
            .expect("a message of the test is in its limits");
        let length = self
            .sender
            .encode(kind, &payload[..length], &mut out)
            .expect("it fits");
        out[..length].to_vec()
    }

    fn hello(&mut self) -> Vec<u8> {
        self.frame(&Message::Hello(Hello {
            capabilities: Capabilities::default(),
            channels: 3,
            device_us: u64::from(self.count) * 100,
            name: "noisy line",
        }))
    }

    fn samples(&mut self) -> Vec<u8> {
        let value = |count: u32| f32::from(u16::try_from(count % 60_000).unwrap_or(0));
        let bytes = value(self.count).to_le_bytes();
        let channel = u8::try_from((self.count % 60_000) % 3).unwrap_or(0);
        let frame = self.frame(&Message::Samples(SampleBlock::good(
            channel,
            u64::from(self.count) * 100,
            100,
            &bytes,
        )));
        self.count += 1;
        frame
    }
}

#[derive(Debug, Default)]
struct Outcome {
    sent: u64,
    samples: u64,
    wrong: u64,
    starts: u64,
    not_resynchronised: u64,
}

/// Sends frames over a line where 1 % are corrupt, 1 % lost, and some repeated or swapped.
fn run(frames: u64, seed: u64) -> (Outcome, quorate_wire::Counters) {
    let mut rng = Rng::with_seed(seed);
    let mut device = Device::start(1);
    let mut host = Host::new(900);
    let mut outcome = Outcome::default();
    let (mut now_us, mut wait_for_hello) = (1_000_000_u64, false);
    let mut highest: Option<(u16, u32)> = None;
    let mut held: Option<Vec<u8>> = None;
    let mut clean_run = 0_u32;
    while outcome.sent < frames {
        outcome.sent += 1;
        now_us += 100;
        if rng.u32(..50_000) == 0 {
            device = Device::start(device.session.wrapping_add(1));
            outcome.starts += 1;
        }
        let mut out = [0; ENCODED_BYTES_MAX];
        while host.due(now_us, &mut out).is_some() {
            wait_for_hello = !host.is_up(now_us);
        }
        let mut frame = if core::mem::take(&mut wait_for_hello) {
            device.hello()
        } else {
            device.samples()
        };
        let noise = rng.u32(..1000);
        let mut clean = false;
        match noise {
            0..10 => {
                for _ in 0..=rng.usize(..3) {
                    let at = rng.usize(..frame.len());
                    frame[at] ^= 1 << rng.u32(..8);
                }
            }
            10..20 => frame.clear(),
            20..23 => frame = frame.repeat(2),
            23..26 => {
                // It comes after the next one.
                held = Some(frame);
                clean_run = 0;
                continue;
            }
            _ => clean = true,
        }
        frame.extend(held.take().unwrap_or_default());
        let (before, up) = (host.counters(), host.is_up(now_us));
        host.receive(&frame, now_us, |sample| {
            outcome.samples += 1;
            let value = sample.value.unwrap_or(f32::NAN);
            let wrapped = device.count.saturating_sub(1);
            // Only the device's newest samples can be right: at most three frames are on the way.
            let candidate = (0..3_u32)
                .filter_map(|back| wrapped.checked_sub(back))
                .find(|count| f32::from(u16::try_from(count % 60_000).unwrap_or(0)) == value);
            let order = candidate.is_some_and(|count| {
                highest.is_none_or(|(session, last)| session != device.session || count > last)
            });
            let channel =
                candidate.is_some_and(|count| u32::from(sample.channel) == (count % 60_000) % 3);
            if !order || !channel || sample.taken_us > now_us {
                outcome.wrong += 1;
            }
            highest = candidate.map(|count| (device.session, count));
        });
        let after = host.counters();
        // A clean frame after a clean frame of a known session is taken, whatever came before.
        if clean
            && clean_run >= 1
            && up
            && after.unknown == before.unknown
            && after.accepted == before.accepted
        {
            outcome.not_resynchronised += 1;
        }
        clean_run = if clean { clean_run + 1 } else { 0 };
    }
    (outcome, host.counters())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wrong_sample_comes_out_of_a_noisy_line() {
        let frames = std::env::var("QUORATE_WIRE_FRAMES")
            .ok()
            .and_then(|frames| frames.parse().ok())
            .unwrap_or(200_000);
        let started = Instant::now();
        let (outcome, counters) = run(frames, 7);
        writeln!(
            std::io::stderr(),
            "{outcome:?} {counters:?} in {:?}",
            started.elapsed()
        )
        .expect("standard error");
        assert_eq!(outcome.wrong, 0);
        assert_eq!(outcome.not_resynchronised, 0);
        assert!(outcome.samples > frames * 96 / 100);
        assert!(counters.corrupt > frames / 200 && counters.lost > frames / 100);
        assert!(counters.repeated > 0 && counters.late > 0);
        assert!(counters.starts > outcome.starts, "{outcome:?} {counters:?}");
    }

    /// 10,000 samples a second in blocks of ten: what the host's side takes of a core. The limit has room for slow machines.
    #[test]
    fn ten_thousand_samples_a_second_take_little_of_a_core() {
        let mut device = Device::start(1);
        let mut host = Host::new(2);
        let mut line = device.hello();
        let values: Vec<u8> = (0..10_u8)
            .flat_map(|at| f32::from(at).to_le_bytes())
            .collect();
        for at in 0..100_000_u64 {
            let block = SampleBlock::good(1, at * 1000, 100, &values);
            line.extend(device.frame(&Message::Samples(block)));
        }
        let started = Instant::now();
        let mut samples = 0_u32;
        for (at, part) in (0_u64..).zip(line.chunks(512)) {
            host.receive(part, 1_000_000 + at, |_| samples += 1);
        }
        let elapsed = started.elapsed();
        assert_eq!(samples, 1_000_000);
        // A million samples are a hundred seconds of the line.
        let share = elapsed.as_secs_f64() / 100.0;
        writeln!(std::io::stderr(), "{:.3} % of a core", share * 100.0).expect("standard error");
        assert!(share < 0.05, "{share}");
    }
}
