//! Notes of what was given up on purpose: so many records of a range, and why.
//!
//! Owns: the notes and their bytes. Must not: know which of the range it was; the databases do.
//!
//! Invariant: there are at most [`NOTES_MAX`]; of more, two of one cause become one that spans both.

use quorate_core::{event::GoneCause, units::Seq};

use super::finding::Gone;

/// Notes that are kept apart.
pub(super) const NOTES_MAX: usize = 16;

/// Bytes of one on the medium.
const BYTES: usize = 25;

/// Stands where otherwise the number of ranges stands, which is never so high.
const MARK: [u8; 4] = [0xff; 4];

/// What was given up and is not known to the receiver yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes(Vec<Note>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    gone: Gone,
    /// Losses that became this one, and that the receiver learns of one by one. After a start it is told as one.
    parts: u32,
}

/// The causes that are noted like this, by their number on the medium.
const CAUSES: [GoneCause; 3] = [GoneCause::Displaced, GoneCause::Thinned, GoneCause::Expired];

impl Notes {
    pub(super) fn is_of(cause: GoneCause) -> bool {
        CAUSES.contains(&cause)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Gone> {
        self.0.iter().map(|note| note.gone)
    }

    pub(super) fn add(&mut self, gone: Gone) {
        self.0.push(Note { gone, parts: 1 });
        if self.0.len() <= NOTES_MAX {
            return;
        }
        // With three causes there are two of one cause: the oldest such pair becomes one.
        let pair = (0..self.0.len()).find_map(|at| {
            let alike = |note: &Note| note.gone.cause == self.0[at].gone.cause;
            let next = self.0[at + 1..].iter().position(alike)?;
            Some((at, at + 1 + next))
        });
        if let Some((at, next)) = pair {
            let other = self.0.remove(next);
            let note = &mut self.0[at];
            note.gone.first = note.gone.first.min(other.gone.first);
            note.gone.last = note.gone.last.max(other.gone.last);
            note.gone.count = note.gone.count.saturating_add(other.gone.count);
            note.parts = note.parts.saturating_add(other.parts);
        }
    }

    /// The receiver knows of one loss, or of several that the core has told as one: then of all that lie within.
    pub(super) fn settle(&mut self, first: Seq, last: Seq, cause: GoneCause) {
        let alike = |note: &Note| note.gone.cause == cause;
        let within =
            |note: &Note| alike(note) && note.gone.first >= first && note.gone.last <= last;
        let around =
            |note: &Note| alike(note) && note.gone.first <= first && note.gone.last >= last;
        let same = |note: &Note| within(note) && around(note) && note.parts == 1;
        if let Some(at) = self.0.iter().position(same) {
            self.0.remove(at);
        } else if self.0.iter().any(within) {
            self.0.retain(|note| !within(note));
        } else if let Some(at) = self.0.iter().position(around) {
            let note = &mut self.0[at];
            note.parts = note.parts.saturating_sub(1);
            if note.parts == 0 {
                self.0.remove(at);
            }
        }
    }

    /// Nothing at all where there are none, as before there were notes.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        if self.0.is_empty() {
            return;
        }
        bytes.extend_from_slice(&MARK);
        bytes.push(u8::try_from(self.0.len()).unwrap_or(u8::MAX));
        for note in self.all() {
            let cause = CAUSES.iter().position(|cause| *cause == note.cause);
            bytes.push(cause.and_then(|at| u8::try_from(at).ok()).unwrap_or(0));
            for word in [note.first.0, note.last.0, note.count] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let Some(rest) = bytes.strip_prefix(&MARK) else {
            return Some(Self::default());
        };
        let (count, rest) = rest.split_first()?;
        let (notes, rest) = rest.split_at_checked(usize::from(*count).checked_mul(BYTES)?)?;
        let mut decoded = Self::default();
        for note in notes.chunks_exact(BYTES) {
            let word = |at: usize| note[at..at + 8].try_into().map(u64::from_le_bytes).ok();
            let gone = Gone {
                cause: *CAUSES.get(usize::from(note[0]))?,
                first: Seq(word(1)?),
                last: Seq(word(9)?),
                count: word(17)?,
            };
            decoded.0.push(Note { gone, parts: 1 });
        }
        *bytes = rest;
        Some(decoded)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{CAUSES, Gone, GoneCause, NOTES_MAX, Notes, Seq};

    fn note(first: u64, last: u64, cause: GoneCause) -> Gone {
        Gone {
            first: Seq(first),
            last: Seq(last),
            count: 3,
            cause,
        }
    }

    #[test]
    fn they_are_bounded_and_none_is_lost() {
        let mut notes = Notes::default();
        for number in 0..200 {
            notes.add(note(number, number + 9, GoneCause::Thinned));
        }
        notes.add(note(7, 8, GoneCause::Expired));
        notes.add(note(9, 10, GoneCause::Displaced));
        assert!(notes.0.len() <= NOTES_MAX);
        let counted: u64 = notes.all().map(|it| it.count).sum();
        assert_eq!(counted, 202 * 3);
        for cause in CAUSES {
            assert!(notes.all().any(|it| it.cause == cause));
        }
        let mut bytes = Vec::new();
        notes.encode(&mut bytes);
        bytes.push(7);
        let mut rest = &bytes[..];
        let again = Notes::decode(&mut rest).unwrap();
        assert!(again.all().eq(notes.all()));
        assert_eq!(rest, [7]);
        // Each that was told is settled, and the last settles what they became.
        for number in 0..200 {
            assert!(
                notes.all().any(|it| it.cause == GoneCause::Thinned),
                "{number}"
            );
            notes.settle(Seq(number), Seq(number + 9), GoneCause::Thinned);
        }
        assert_eq!(notes.0.len(), 2);
    }

    #[test]
    fn the_same_note_twice_is_settled_twice_and_a_wider_range_settles_all_within() {
        let mut notes = Notes::default();
        notes.add(note(1, 100, GoneCause::Thinned));
        notes.add(note(1, 100, GoneCause::Thinned));
        notes.add(note(20, 30, GoneCause::Expired));
        notes.settle(Seq(1), Seq(100), GoneCause::Thinned);
        assert_eq!(notes.0.len(), 2);
        notes.settle(Seq(0), Seq(200), GoneCause::Thinned);
        assert!(notes.all().eq([note(20, 30, GoneCause::Expired)]));
        notes.settle(Seq(40), Seq(50), GoneCause::Expired);
        assert_eq!(notes.0.len(), 1);
    }
}
