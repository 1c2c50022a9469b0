//! Messages at which the other side ends the connection instead of answering.
//!
//! Owns: which records may be to blame, and when they are tried again. Must not: give a record up.
//!
//! A connection that ends with messages in flight may have been cut, or one of them made the broker (or something on the
//! way) end it: nobody says which. So the next connection sends these one at a time. The message that is the first
//! unanswered one of [`IN_A_ROW`] connections in a row, and was alone on the last, is set aside, and the others go on.
//! What is set aside is tried again after a pause, half of it and alone, until a record stands alone; that one is tried
//! ever less often.
//!
//! Invariants: what is set aside stays in the store. A healthy record is set aside for one pause at a time at most, and
//! costs no connection. Memory is bounded by [`PARTS_MAX`] and by [`Ranges`].

use alloc::vec::Vec;

use crate::{
    ranges::Ranges,
    units::{Mono, Seq},
};

/// Connections in a row that ended with the same message as the first unanswered one, after which it is set aside. One may
/// be a cut of the link.
const IN_A_ROW: u32 = 2;
/// Extents that are set aside at once; of more the oldest goes back among the others, and is found again.
const PARTS_MAX: usize = 16;
/// Pause before half of several records is tried, in milliseconds.
const HALVES_MS: u64 = 5_000;
/// First pause before a single record is tried again, in milliseconds; it doubles up to [`ALONE_MS_MAX`].
const ALONE_MS_MIN: u64 = 30_000;
/// Longest pause before a single record is tried again, in milliseconds: each try costs a connection.
const ALONE_MS_MAX: u64 = 3_600_000;

/// An extent in which a record is that ends connections.
#[derive(Clone, Copy, Debug)]
struct Part {
    first: Seq,
    last: Seq,
    /// When it is tried again; `None` while it is being tried.
    retry: Option<Mono>,
    pause_ms: u64,
    /// It ended a connection as a single record.
    found: bool,
}

impl Part {
    fn touches(&self, first: Seq, last: Seq) -> bool {
        self.first <= last && first <= self.last
    }
}

/// What is known of connections that ended without an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Closing {
    parts: Vec<Part>,
    /// The records of the parts that are set aside.
    aside: Ranges,
    /// Records that were in flight when it ended so: their messages go one at a time.
    careful: Ranges,
    /// The message that was the first unanswered one when the last connections ended, and how many did.
    head: Option<(Seq, u32)>,
}

impl Closing {
    /// Records that are set aside.
    pub(super) fn records(&self) -> &Ranges {
        &self.aside
    }

    /// A single record is known to end connections.
    pub(super) fn is_found(&self) -> bool {
        self.parts.iter().any(|part| part.found)
    }

    /// A message that begins here goes only while nothing else is in flight.
    pub(super) fn is_alone(&self, first: Seq) -> bool {
        self.careful.contains(first) || self.tries(first)
    }

    /// It begins in what ended a connection and is tried again.
    fn tries(&self, first: Seq) -> bool {
        self.parts
            .iter()
            .any(|part| part.retry.is_none() && part.touches(first, first))
    }

    /// How far a message from `first` may reach of `through`: half of a part, and not into one from before.
    pub(super) fn within(&self, first: Seq, through: Seq) -> Seq {
        let end = self.parts.iter().filter_map(|part| {
            if first < part.first {
                Some(Seq(part.first.0 - 1))
            } else if first <= part.last {
                // The whole of it ended a connection.
                let half = (part.last.0 - part.first.0).div_ceil(2).max(1);
                let end = Seq(part.first.0.saturating_add(half - 1)).max(first);
                Some(part.last.min(end))
            } else {
                None
            }
        });
        let careful = self.careful.parts().iter().map(|(from, _)| *from);
        let before = careful
            .filter(|from| first < *from)
            .map(|from| Seq(from.0 - 1));
        end.chain(before).fold(through, Seq::min)
    }

    /// The connection ended with these in flight, each message of runs without a gap. What is set aside for it is in
    /// [`Closing::records`] and must not be sent; returns a record that is found to be the one, for the first time.
    pub(super) fn ended(
        &mut self,
        now: Mono,
        flights: &[Vec<(Seq, Seq)>],
        unsent: &mut Ranges,
    ) -> Option<Seq> {
        let head = flights.iter().min_by_key(|runs| runs.first())?;
        let (first, last) = (head.first()?.0, head.last()?.1);
        let times = match self.head {
            Some((seq, times)) if seq == first => times.saturating_add(1),
            _ => 1,
        };
        if flights.len() > 1 || (!self.tries(first) && times < IN_A_ROW) {
            // Brokers answer in order, so the first is the likeliest.
            self.head = Some((first, times));
            self.suspect(flights);
            return None;
        }
        self.head = None;
        let known = self.set_aside(now, (first, last), unsent);
        for &(first, last) in head {
            self.aside.insert(first, last);
            self.careful.remove(first, last);
            unsent.remove(first, last);
        }
        (first == last && !known).then_some(first)
    }

    fn suspect(&mut self, flights: &[Vec<(Seq, Seq)>]) {
        for &(first, last) in flights.iter().flatten() {
            self.careful.insert(first, last);
        }
    }

    /// Returns whether it stood alone before.
    fn set_aside(&mut self, now: Mono, (first, last): (Seq, Seq), unsent: &mut Ranges) -> bool {
        let single = |part: &&Part| part.found && part.first == first && part.last == last;
        let before = self.parts.iter().find(single).map(|part| part.pause_ms);
        // What was suspected with it is not: it is tried with the others.
        self.parts.retain(|part| !part.touches(first, last));
        while self.parts.len() >= PARTS_MAX {
            let oldest = self.parts.remove(0);
            self.release(oldest, unsent);
        }
        let pause_ms = if first == last {
            (before.unwrap_or(0) * 2).clamp(ALONE_MS_MIN, ALONE_MS_MAX)
        } else {
            HALVES_MS
        };
        self.parts.push(Part {
            first,
            last,
            retry: Some(now.plus_ms(pause_ms)),
            pause_ms,
            found: first == last,
        });
        before.is_some()
    }

    fn release(&mut self, part: Part, unsent: &mut Ranges) {
        for &(first, last) in self.aside.parts() {
            if part.touches(first, last) {
                unsent.insert(first.max(part.first), last.min(part.last));
            }
        }
        self.aside.remove(part.first, part.last);
    }

    /// What these are true of is tried again. Returns whether something is.
    fn try_again(&mut self, unsent: &mut Ranges, due: impl Fn(&Part) -> bool) -> bool {
        let mut any = false;
        for place in 0..self.parts.len() {
            let part = self.parts[place];
            if due(&part) {
                self.parts[place].retry = None;
                self.release(part, unsent);
                any = true;
            }
        }
        any
    }

    /// These were taken, or are no more. `unsent` gets nothing of it.
    pub(super) fn gone(&mut self, first: Seq, last: Seq) {
        self.careful.remove(first, last);
        if self.parts.is_empty() {
            return;
        }
        for part in &mut self.parts {
            if first <= part.first && part.first <= last {
                part.first = last.next();
            }
        }
        self.parts.retain(|part| part.first <= part.last);
        self.aside.remove(first, last);
    }

    /// Some of these wait again, or are no more: they are tried as if their time had come.
    pub(super) fn recalled(&mut self, first: Seq, last: Seq, unsent: &mut Ranges) {
        self.try_again(unsent, |part| part.touches(first, last));
    }

    /// What is set aside and due is tried again. Returns whether something is.
    pub(super) fn advance(&mut self, now: Mono, unsent: &mut Ranges) -> bool {
        self.try_again(unsent, |part| part.retry.is_some_and(|retry| now >= retry))
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.parts.iter().filter_map(|part| part.retry).min()
    }
}
