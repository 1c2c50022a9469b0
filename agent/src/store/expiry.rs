//! Age: records that nobody wants any more.
//!
//! Owns: what is given up to `ttl`. Must not: read a clock; whoever asks says what time it is, and asks only while the
//! clock is synchronised.
//!
//! Invariants: databases go whole, by the newest record in them whose own clock was synchronised; what may be on its
//! way to the broker stays. So a record stays for up to an eighth of the time to live beyond it.

use quorate_core::event::GoneCause;

use super::Outbox;

/// A database takes records for no longer than this part of the time to live.
const SPAN_PARTS: u64 = 8;

impl Outbox {
    /// Gives up what is older than [`super::Options::ttl_ms`] at this time, in milliseconds since 1970; see
    /// [`Self::take_gone`].
    pub fn expire(&mut self, unix_ms: i64) {
        let Some(ttl_ms) = self.options.ttl_ms else {
            return;
        };
        let span_ms = ttl_ms / SPAN_PARTS;
        let head = self.head.as_ref().filter(|head| !head.seqs.is_empty());
        let span_begins = unix_ms.saturating_sub_unsigned(span_ms);
        if head.is_some_and(|head| head.oldest_unix_ms.is_some_and(|at| at < span_begins)) {
            self.seal_head();
        }
        let dead = unix_ms.saturating_sub_unsigned(ttl_ms);
        self.count_all();
        // They are in order: what lies before one that is too old is older.
        let old = self.databases.iter().rposition(|it| {
            it.contents
                .as_ref()
                .is_some_and(|it| it.is_older_than(dead))
        });
        let Some(end) = old else { return };
        for at in (0..=end).rev() {
            if self.may_go(at) && self.databases[at].pending(&self.progress.done) > 0 {
                self.drop_whole(at, GoneCause::Expired);
            }
        }
    }
}
