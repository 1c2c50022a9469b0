//! The trace of a run: a hash over every event and action, and their text on request.

use quorate_core::event::{Action, Event};

/// Folds what happens into one number; FNV with a rotation, over whole words.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    shown: bool,
}

impl Trace {
    pub(crate) const fn new(shown: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            shown,
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn word(&mut self, word: u64) {
        self.hash = (self.hash ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    pub(crate) fn say(&self, now_ms: u64, what: impl FnOnce() -> String) {
        if self.shown {
            eprintln!("{now_ms:>9} {}", what());
        }
    }

    pub(crate) fn event(&mut self, now_ms: u64, event: &Event) {
        self.say(now_ms, || format!("> {}", shorten(&format!("{event:?}"))));
        self.word(now_ms);
        match event {
            Event::Tick => self.word(1),
            Event::Sample {
                sensor,
                taken,
                value,
            } => {
                self.word(u64::from(sensor.0));
                self.word(taken.0);
                self.word(value.map_or(2, f64::to_bits));
            }
            Event::Stored { first, last } => {
                self.word(first.0);
                self.word(last.0);
            }
            other => self.bytes(format!("{other:?}").as_bytes()),
        }
    }

    pub(crate) fn action(&mut self, now_ms: u64, action: &Action) {
        self.say(now_ms, || format!("  {}", shorten(&format!("{action:?}"))));
        match action {
            Action::Poll { sensor, tick } => {
                self.word(u64::from(sensor.0));
                self.word(tick.0);
            }
            Action::Store { record } => self.word(record.seq.0),
            Action::StrokeWatchdog => self.word(3),
            Action::Publish { batch, records, .. } => {
                self.word(batch.0);
                records.iter().for_each(|record| self.word(record.seq.0));
            }
            other => self.bytes(format!("{other:?}").as_bytes()),
        }
    }
}

/// Payloads are bytes; nobody reads them as numbers.
fn shorten(text: &str) -> String {
    text.chars().take(400).collect()
}
