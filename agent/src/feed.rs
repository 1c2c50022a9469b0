//! Feeds: values that other programs send, as channels of a vote.
//!
//! Owns: the newest value of each channel that is configured, and how old it may be. Must not: know how it came.
//!
//! Invariants: a value is given once; one that is older than its channel allows is `stale`; a channel that nobody
//! configured takes no memory; what cannot be understood is counted and never becomes a value.

pub mod message;
pub mod program;
pub mod socket;

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use quorate_core::units::Mono;
use quorate_firmware_bridge::{Probe, SampleFault};

use crate::clock::Clock;
use message::Message;

/// Longest line or datagram in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// One channel of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// What its messages carry as `sensor`.
    pub name: String,
    /// The unit that a message may name; one that names another is not believed.
    pub unit: Option<String>,
    /// The oldest value that is given, in milliseconds.
    pub age_ms_max: u64,
}

#[derive(Debug)]
struct Slot {
    channel: Channel,
    newest: Option<(Mono, Result<f64, SampleFault>)>,
    /// When the newest message for it came, or the feed began.
    heard: Mono,
}

#[derive(Debug)]
struct Inner {
    slots: BTreeMap<String, Slot>,
    /// Why nothing can come now.
    fault: Option<SampleFault>,
    refused: u64,
}

/// Where the messages of one feed go.
#[derive(Clone, Debug)]
pub struct Inbox {
    inner: Arc<Mutex<Inner>>,
    clock: Clock,
}

impl Inbox {
    /// An inbox for these channels.
    #[must_use]
    pub fn new(channels: &[Channel], clock: Clock) -> Self {
        let slot = |channel: &Channel| {
            let slot = Slot {
                channel: channel.clone(),
                newest: None,
                heard: clock.now(),
            };
            (channel.name.clone(), slot)
        };
        let inner = Inner {
            slots: channels.iter().map(slot).collect(),
            fault: None,
            refused: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            clock,
        }
    }

    /// Takes one line or datagram.
    pub fn take(&self, bytes: &[u8]) {
        let now = self.clock.now();
        let message = Message::parse(bytes);
        let mut inner = self.lock();
        inner.fault = None;
        let taken = message.is_ok_and(|message| inner.accept(now, &message));
        if !taken {
            inner.refuse();
        }
    }

    /// Counts something that was too long to be read.
    pub fn refuse(&self) {
        self.lock().refuse();
    }

    /// Says why nothing can come now.
    pub fn fail(&self, fault: SampleFault) {
        self.lock().fault = Some(fault);
    }

    /// Something can come again.
    pub fn begin(&self) {
        self.lock().fault = None;
    }

    /// Messages that were not taken.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    fn sample(&self, name: &str) -> Result<f64, SampleFault> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let fault = inner.fault;
        let slot = inner.slots.get_mut(name).ok_or(SampleFault::Missing)?;
        let age_ms_max = slot.channel.age_ms_max;
        match slot.newest.take() {
            Some((taken, value)) if now.since_ms(taken) <= age_ms_max => value,
            Some(_) => Err(SampleFault::Stale),
            None => Err(match fault {
                Some(fault) => fault,
                None if now.since_ms(slot.heard) <= age_ms_max => SampleFault::NotReady,
                None => SampleFault::Stale,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics; what a panic elsewhere left is whole.
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn accept(&mut self, now: Mono, message: &Message) -> bool {
        let Some(slot) = self.slots.get_mut(&message.sensor) else {
            return false;
        };
        slot.heard = now;
        let strange = message
            .unit
            .as_ref()
            .is_some_and(|unit| slot.channel.unit.as_ref().is_some_and(|own| own != unit));
        let value = if strange {
            Err(SampleFault::Malformed)
        } else {
            message.value
        };
        // A clock that was set back cannot make a value younger than it is.
        let taken = Mono(now.0.saturating_sub(message.age_ms));
        slot.newest = Some((taken, value));
        true
    }

    /// The first refusals, and one in a thousand, are worth a line.
    fn refuse(&mut self) {
        self.refused += 1;
        if self.refused <= 3 || self.refused.is_multiple_of(1_000) {
            tracing::warn!(
                refused = self.refused,
                "a message of a source was not understood"
            );
        }
    }
}

/// One channel of a feed as a probe. While there is one, the feed goes on.
pub struct FeedProbe {
    inbox: Inbox,
    channel: String,
    _running: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for FeedProbe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FeedProbe")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

impl FeedProbe {
    /// A channel; `running` ends the feed when the last probe of it is dropped.
    #[must_use]
    pub fn new(inbox: Inbox, channel: &str, running: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            inbox,
            channel: channel.into(),
            _running: running,
        }
    }
}

impl Probe for FeedProbe {
    fn sample(&mut self) -> Result<f64, SampleFault> {
        self.inbox.sample(&self.channel)
    }
}

/// Cuts a stream into lines of bounded length.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    /// The rest of a line that is too long is thrown away.
    skipping: bool,
}

impl Lines {
    /// Hands on every line that ends in these bytes; `None` for one that was too long.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Option<&[u8]>)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if self.line.len() + text.len() > MESSAGE_BYTES_MAX {
                self.skipping = true;
                self.line.clear();
            }
            if !self.skipping {
                self.line.extend_from_slice(text);
            }
            if ends {
                let whole = !std::mem::take(&mut self.skipping);
                if !whole || !self.line.trim_ascii().is_empty() {
                    each(whole.then_some(self.line.as_slice()));
                }
                self.line.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Channel, FeedProbe, Inbox, Lines, MESSAGE_BYTES_MAX};
    use crate::clock::Clock;
    use proptest::prelude::*;
    use quorate_firmware_bridge::{Probe, SampleFault};
    use std::sync::Arc;

    fn inbox(age_ms_max: u64) -> (Inbox, FeedProbe) {
        let channel = Channel {
            name: "a".into(),
            unit: Some("celsius".into()),
            age_ms_max,
        };
        let inbox = Inbox::new(&[channel], Clock::real());
        let probe = FeedProbe::new(inbox.clone(), "a", Arc::new(()));
        (inbox, probe)
    }

    #[test]
    fn a_value_is_given_once_and_an_old_one_never() {
        let (inbox, mut probe) = inbox(60_000);
        assert_eq!(probe.sample(), Err(SampleFault::NotReady));
        inbox.take(br#"{"sensor": "a", "value": 21.5, "unit": "celsius"}"#);
        assert_eq!(probe.sample(), Ok(21.5));
        assert_eq!(probe.sample(), Err(SampleFault::NotReady));
        inbox.take(br#"{"sensor": "a", "value": 21.5, "age_ms": 60001}"#);
        assert_eq!(probe.sample(), Err(SampleFault::Stale));
        inbox.take(br#"{"sensor": "a", "value": 70, "unit": "fahrenheit"}"#);
        assert_eq!(probe.sample(), Err(SampleFault::Malformed));
        inbox.take(br#"{"sensor": "a", "fault": "open-circuit"}"#);
        assert_eq!(probe.sample(), Err(SampleFault::OpenCircuit));
        inbox.take(br#"{"sensor": "b", "value": 1}"#);
        inbox.take(b"nonsense");
        assert_eq!(inbox.refused(), 2);
        inbox.fail(SampleFault::Exited);
        assert_eq!(probe.sample(), Err(SampleFault::Exited));
    }

    proptest! {
        #[test]
        fn lines_are_whole_and_bounded(
            lines in proptest::collection::vec(proptest::collection::vec(1_u8..=9, 1..80), 0..20),
            cut in 1_usize..50,
        ) {
            let stream: Vec<u8> = lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
            let mut found = Vec::new();
            let mut cutter = Lines::default();
            for piece in stream.chunks(cut) {
                cutter.push(piece, |line| found.extend(line.map(<[u8]>::to_vec)));
            }
            prop_assert_eq!(found, lines.into_iter().filter(|line| !line.trim_ascii().is_empty()).collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_it_panic_or_grow(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            let mut cutter = Lines::default();
            let (inbox, mut probe) = inbox(60_000);
            for piece in bytes.chunks(512) {
                cutter.push(piece, |line| line.map_or_else(|| inbox.refuse(), |line| inbox.take(line)));
                prop_assert!(cutter.line.len() <= MESSAGE_BYTES_MAX);
            }
            prop_assert!(probe.sample().is_err());
        }
    }
}
