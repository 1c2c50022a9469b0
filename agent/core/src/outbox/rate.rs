//! How fast records may be sent, and how much in a day.
//!
//! Owns: the token buckets and the day's budget, on monotonic time. Must not: know what is sent.
//!
//! Bytes are those of the MQTT packets that carry records, as [`crate::event::Event::Sent`] tells them; before the size
//! of one message is known no other is made, so that a limit is passed by one message at most. A day is 24 hours from
//! the first start of the agent; a restart goes on with the one that was going on (see [`crate::checkpoint::Day`]).

use crate::{
    checkpoint::Day,
    config::OutboxConfig,
    units::{BatchId, Mono},
};

/// A day in milliseconds.
const DAY_MS: u64 = 86_400_000;
/// A bucket counts in thousandths, so that a millisecond's share is whole.
const THOUSANDTHS: i64 = 1_000;

/// A token bucket that holds one second's worth. What is taken may exceed what is there; the debt is waited for.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Tokens a second; 0 for no limit.
    per_second: i64,
    level: i64,
    at: Mono,
}

impl Bucket {
    fn new(per_second: u32, now: Mono) -> Self {
        let per_second = i64::from(per_second);
        Self {
            per_second,
            level: per_second * THOUSANDTHS,
            at: now,
        }
    }

    fn level(&self, now: Mono) -> i64 {
        let passed_ms = i64::try_from(now.since_ms(self.at)).unwrap_or(i64::MAX);
        self.level
            .saturating_add(self.per_second.saturating_mul(passed_ms))
            .min(self.per_second * THOUSANDTHS)
    }

    fn take(&mut self, now: Mono, tokens: u64) {
        if self.per_second > 0 {
            let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
            self.level = self
                .level(now)
                .saturating_sub(tokens.saturating_mul(THOUSANDTHS));
            self.at = now;
        }
    }

    /// When the next may be taken.
    fn due(&self) -> Mono {
        if self.per_second == 0 {
            return Mono(0);
        }
        let missing = THOUSANDTHS.saturating_sub(self.level).max(0);
        let wait_ms = missing.saturating_add(self.per_second - 1) / self.per_second;
        self.at.plus_ms(u64::try_from(wait_ms).unwrap_or(0))
    }
}

/// The limits and what was used of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    messages: Bucket,
    bytes: Bucket,
    /// Bytes in a day; 0 for no limit.
    day_bytes_max: u64,
    day_ends: Mono,
    day_bytes: u64,
    /// A message whose size is not known yet.
    unknown: Option<BatchId>,
}

impl Rate {
    pub(super) fn new(config: &OutboxConfig, now: Mono) -> Self {
        Self {
            messages: Bucket::new(config.messages_per_second_max, now),
            bytes: Bucket::new(config.bytes_per_second_max, now),
            day_bytes_max: config.bytes_per_day_max,
            day_ends: now.plus_ms(DAY_MS),
            day_bytes: 0,
            unknown: None,
        }
    }

    /// A message is handed to the link.
    pub(super) fn published(&mut self, now: Mono, batch: BatchId) {
        self.messages.take(now, 1);
        if self.bytes.per_second > 0 || self.day_bytes_max > 0 {
            self.unknown = Some(batch);
        }
    }

    /// It takes so many bytes on the wire.
    pub(super) fn sent(&mut self, now: Mono, batch: BatchId, bytes: u64) {
        self.settled(batch);
        self.bytes.take(now, bytes);
        self.turn_day(now);
        self.day_bytes = self.day_bytes.saturating_add(bytes);
    }

    /// The message was answered, or never sent.
    pub(super) fn settled(&mut self, batch: BatchId) {
        self.unknown = self.unknown.filter(|unknown| *unknown != batch);
    }

    pub(super) fn link_down(&mut self) {
        self.unknown = None;
    }

    pub(super) fn turn_day(&mut self, now: Mono) {
        if now >= self.day_ends {
            let days = now.since_ms(self.day_ends) / DAY_MS + 1;
            self.day_ends = self.day_ends.plus_ms(days * DAY_MS);
            self.day_bytes = 0;
        }
    }

    /// What a restart must know of the day, where its bytes are limited.
    pub(super) fn day(&self, now: Mono) -> Option<Day> {
        (self.day_bytes_max > 0).then(|| Day {
            bytes: self.day_bytes,
            left_ms: self.day_ends.since_ms(now),
        })
    }

    /// Goes on with a day that began before a restart.
    pub(super) fn resume(&mut self, now: Mono, day: Day) {
        self.day_bytes = self.day_bytes.saturating_add(day.bytes);
        self.day_ends = now.plus_ms(day.left_ms.min(DAY_MS));
    }

    /// The day's bytes are used up; nothing goes before the next day.
    pub(super) fn is_used_up(&self) -> bool {
        self.day_bytes_max > 0 && self.day_bytes >= self.day_bytes_max
    }

    /// When the next message may go; `None` until the size of one before it is known.
    pub(super) fn due(&self) -> Option<Mono> {
        if self.unknown.is_some() {
            return None;
        }
        let day = if self.is_used_up() {
            self.day_ends
        } else {
            Mono(0)
        };
        Some(self.messages.due().max(self.bytes.due()).max(day))
    }

    pub(super) const fn day_bytes(&self) -> u64 {
        self.day_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{DAY_MS, Rate};
    use crate::{
        config::OutboxConfig,
        units::{BatchId, Mono},
    };

    fn rate(messages: u32, bytes: u32, day: u64) -> Rate {
        let config = OutboxConfig {
            messages_per_second_max: messages,
            bytes_per_second_max: bytes,
            bytes_per_day_max: day,
            ..OutboxConfig::default()
        };
        Rate::new(&config, Mono(0))
    }

    /// Sends messages of `bytes` as soon as each may go, for `until`. Returns how many.
    fn drive(rate: &mut Rate, bytes: u64, until: Mono) -> u64 {
        let (mut now, mut count) = (Mono(0), 0);
        loop {
            rate.turn_day(now);
            let due = rate.due().expect("the size of every message is told");
            if due > until {
                return count;
            }
            now = now.max(due);
            rate.turn_day(now);
            if rate.due().is_some_and(|due| due > now) {
                continue;
            }
            rate.published(now, BatchId(count));
            rate.sent(now, BatchId(count), bytes);
            count += 1;
        }
    }

    #[test]
    fn messages_and_bytes_keep_to_their_rate() {
        // One second's worth at once, then the rate.
        assert_eq!(drive(&mut rate(3, 0, 0), 1, Mono(10_000)), 3 + 30);
        assert_eq!(drive(&mut rate(1, 0, 0), 1, Mono(10_000)), 1 + 10);
        // 1,000 a second in messages of 2,500: each is waited for.
        let sent = drive(&mut rate(0, 1_000, 0), 2_500, Mono(100_000));
        assert!((40..=42).contains(&sent), "{sent}");
    }

    #[test]
    fn a_day_ends_and_begins() {
        let mut one = rate(0, 0, 10_000);
        let sent = drive(&mut one, 3_000, Mono(DAY_MS - 1));
        assert_eq!(sent, 4, "passed by one message at most");
        assert!(one.is_used_up());
        assert_eq!(one.due(), Some(Mono(DAY_MS)));
        one.turn_day(Mono(DAY_MS));
        assert!(!one.is_used_up() && one.day_bytes() == 0);
    }

    #[test]
    fn a_restart_goes_on_with_the_day() {
        let mut one = rate(0, 0, 10_000);
        drive(&mut one, 3_000, Mono(1_000));
        let day = one.day(Mono(5_000)).expect("bytes are limited");
        assert_eq!((day.bytes, day.left_ms), (12_000, DAY_MS - 5_000));
        let mut next = rate(0, 0, 10_000);
        next.resume(Mono(100), day);
        assert!(next.is_used_up(), "a restart buys no bytes");
        assert_eq!(next.due(), Some(Mono(100 + DAY_MS - 5_000)));
        next.turn_day(Mono(100 + DAY_MS - 5_000));
        assert!(!next.is_used_up());
        assert!(rate(0, 0, 0).day(Mono(0)).is_none(), "nothing to save");
    }

    #[test]
    fn nothing_goes_until_the_size_is_known() {
        let mut one = rate(0, 1_000, 0);
        one.published(Mono(5), BatchId(1));
        assert_eq!(one.due(), None);
        one.settled(BatchId(2));
        assert_eq!(one.due(), None, "another message");
        one.settled(BatchId(1));
        assert!(one.due().is_some());
        let mut free = rate(0, 0, 0);
        free.published(Mono(5), BatchId(1));
        assert_eq!(free.due(), Some(Mono(0)), "without a limit nothing waits");
    }
}
