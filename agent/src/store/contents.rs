//! What a database holds, without reading it: how much of each class, and how old.
//!
//! Owns: the account that a head keeps and a seal carries. Must not: read a file.

use quorate_core::class::{Class, label};

use super::head;

/// Bytes of an account on the medium.
const BYTES: usize = 41;

/// What stands for no time.
const NO_TIME: i64 = i64::MIN;

/// What a database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Bytes of records, as they are counted, by class from least to most.
    pub(super) bytes: [u64; 4],
    /// When the newest record was made whose clock was synchronised, in milliseconds since 1970.
    pub(super) newest_unix_ms: Option<i64>,
    /// The record that came last has such a time, so that all before it are no newer.
    pub(super) last_is_dated: bool,
}

impl Contents {
    /// Counts a record; returns its time.
    pub(super) fn add(&mut self, payload: &[u8]) -> Option<i64> {
        let label = label(payload);
        let bytes = &mut self.bytes[label.class.index()];
        *bytes = bytes.saturating_add(head::weight(payload.len()));
        self.last_is_dated = label.unix_ms.is_some();
        self.newest_unix_ms = self.newest_unix_ms.max(label.unix_ms);
        label.unix_ms
    }

    /// The class that matters least of those that it holds.
    pub(super) fn lowest(&self) -> Option<Class> {
        let held = |class: &Class| self.bytes[class.index()] > 0;
        Class::ALL.into_iter().find(held)
    }

    /// Bytes of everything but events.
    pub(super) fn bytes_below_events(&self) -> u64 {
        let below = Class::ALL.iter().filter(|class| **class < Class::Event);
        below.map(|class| self.bytes[class.index()]).sum()
    }

    /// Whether everything in it was made before then.
    pub(super) fn is_older_than(&self, unix_ms: i64) -> bool {
        self.last_is_dated && self.newest_unix_ms.is_some_and(|newest| newest < unix_ms)
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        for count in self.bytes {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        let newest = self.newest_unix_ms.unwrap_or(NO_TIME);
        bytes.extend_from_slice(&newest.to_le_bytes());
        bytes.push(u8::from(self.last_is_dated));
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (own, rest) = bytes.split_at_checked(BYTES)?;
        let word = |at: usize| own[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let newest = i64::from_le_bytes(own[32..40].try_into().ok()?);
        let contents = Self {
            bytes: [word(0)?, word(8)?, word(16)?, word(24)?],
            newest_unix_ms: (newest != NO_TIME).then_some(newest),
            last_is_dated: own[40] != 0,
        };
        *bytes = rest;
        Some(contents)
    }
}
