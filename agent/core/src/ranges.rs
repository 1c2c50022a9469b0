//! Ranges of sequence numbers: what is still to be sent, and what is set aside.
//!
//! Owns: their arithmetic. Must not: know what a range means.
//!
//! Invariants: the parts are in order, apart from each other by at least one number, and at most [`PARTS_MAX`]; where
//! there would be more, the two that are nearest become one, so that a set may hold more than it was given, never less.

use alloc::{vec, vec::Vec};

use crate::units::Seq;

/// Parts that are kept apart.
const PARTS_MAX: usize = 64;

/// A set of sequence numbers, as inclusive ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    parts: Vec<(Seq, Seq)>,
}

impl Ranges {
    /// Everything from `first` on, what does not exist yet included.
    pub(crate) fn from(first: Seq) -> Self {
        Self {
            parts: vec![(first, Seq(u64::MAX))],
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn parts(&self) -> &[(Seq, Seq)] {
        &self.parts
    }

    pub(crate) fn contains(&self, seq: Seq) -> bool {
        self.next(seq).is_some_and(|(first, _)| first == seq)
    }

    /// What the first part from `seq` on has left, from `seq`.
    pub(crate) fn next(&self, seq: Seq) -> Option<(Seq, Seq)> {
        let part = self.parts.iter().find(|(_, last)| *last >= seq)?;
        Some((part.0.max(seq), part.1))
    }

    pub(crate) fn insert(&mut self, first: Seq, last: Seq) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        self.parts.retain(|part| {
            let apart = part.1.next() < first || last.next() < part.0;
            if !apart {
                first = first.min(part.0);
                last = last.max(part.1);
            }
            apart
        });
        let place = self.parts.partition_point(|part| part.0 < first);
        self.parts.insert(place, (first, last));
        while self.parts.len() > PARTS_MAX {
            let gap = |place: &usize| self.parts[place + 1].0.0 - self.parts[*place].1.0;
            let Some(nearest) = (0..self.parts.len() - 1).min_by_key(gap) else {
                return;
            };
            self.parts[nearest].1 = self.parts[nearest + 1].1;
            self.parts.remove(nearest + 1);
        }
    }

    pub(crate) fn remove(&mut self, first: Seq, last: Seq) {
        if first > last {
            return;
        }
        let mut left = Vec::with_capacity(self.parts.len());
        for &(from, to) in &self.parts {
            if from < first {
                left.push((from, to.min(Seq(first.0.saturating_sub(1)))));
            }
            if to > last {
                left.push((from.max(last.next()), to));
            }
        }
        self.parts = left;
    }

    /// The parts of `first..=last` that are not in here.
    pub(crate) fn gaps(&self, first: Seq, last: Seq) -> Vec<(Seq, Seq)> {
        let mut whole = Self::default();
        whole.insert(first, last);
        for &(from, to) in &self.parts {
            whole.remove(from, to);
        }
        whole.parts
    }
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeSet, vec};

    use super::{PARTS_MAX, Ranges};
    use crate::units::Seq;

    #[test]
    fn parts_join_split_and_end() {
        let mut ranges = Ranges::from(Seq(1));
        ranges.remove(Seq(5), Seq(9));
        assert_eq!(ranges.parts(), [(Seq(1), Seq(4)), (Seq(10), Seq(u64::MAX))]);
        assert_eq!(ranges.next(Seq(5)), Some((Seq(10), Seq(u64::MAX))));
        assert_eq!(ranges.gaps(Seq(4), Seq(7)), vec![(Seq(5), Seq(7))]);
        ranges.insert(Seq(5), Seq(9));
        assert_eq!(ranges, Ranges::from(Seq(1)));
        ranges.remove(Seq(1), Seq(u64::MAX));
        assert!(ranges.is_empty() && ranges.next(Seq(0)).is_none());
    }

    /// Against a plain set, over whatever a generator thinks of.
    #[test]
    fn ranges_are_sets() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
        for _ in 0..3_000 {
            let first = random.u64(0..100);
            let last = first + random.u64(0..12);
            if random.bool() {
                ranges.insert(Seq(first), Seq(last));
                set.extend(first..=last);
            } else {
                ranges.remove(Seq(first), Seq(last));
                set.retain(|seq| !(first..=last).contains(seq));
            }
            for seq in 0..=115 {
                assert_eq!(ranges.contains(Seq(seq)), set.contains(&seq));
            }
            let apart = |pair: &[(Seq, Seq)]| pair[0].1.next() < pair[1].0;
            assert!(ranges.parts().windows(2).all(apart));
        }
    }

    #[test]
    fn too_many_parts_become_fewer_and_lose_nothing() {
        let mut ranges = Ranges::default();
        for index in 0..1_000 {
            ranges.insert(Seq(3 * index), Seq(3 * index));
        }
        assert!(ranges.parts().len() <= PARTS_MAX);
        assert!((0..1_000).all(|index| ranges.contains(Seq(3 * index))));
    }
}
