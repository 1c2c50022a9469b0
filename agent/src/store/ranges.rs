//! Sets of sequence numbers, kept as ranges.
//!
//! Owns: their arithmetic and their bytes. Must not: know what a set stands for.
//!
//! Invariant: the parts are sorted, disjoint and never adjacent, so that a gapless set is one part whatever its size.

/// A set of numbers as inclusive ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Everything from `first` to `last`; nothing where they cross.
    pub(crate) fn of(first: u64, last: u64) -> Self {
        let mut ranges = Self::default();
        ranges.insert(first, last);
        ranges
    }

    pub(crate) fn parts(&self) -> &[(u64, u64)] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, (first, last)| {
            sum.saturating_add((last - first).saturating_add(1))
        })
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.0.first().map(|part| part.0)
    }

    pub(crate) fn last(&self) -> Option<u64> {
        self.0.last().map(|part| part.1)
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.run_from(number).is_some_and(|run| run.0 == number)
    }

    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        // The parts that touch the new one become one with it.
        let from = self
            .0
            .partition_point(|part| part.1.saturating_add(1) < first);
        let to = self
            .0
            .partition_point(|part| part.0 <= last.saturating_add(1));
        let (mut low, mut high) = (first, last);
        if let Some(part) = self.0.get(from).filter(|_| from < to) {
            low = low.min(part.0);
            high = high.max(self.0[to - 1].1);
        }
        self.0.splice(from..to, [(low, high)]);
    }

    pub(crate) fn remove(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let from = self.0.partition_point(|part| part.1 < first);
        let to = self.0.partition_point(|part| part.0 <= last);
        if from >= to {
            return;
        }
        let (low, high) = (self.0[from].0, self.0[to - 1].1);
        let before = (low < first).then(|| (low, first - 1));
        let after = (high > last).then(|| (last + 1, high));
        self.0.splice(from..to, before.into_iter().chain(after));
    }

    pub(crate) fn insert_all(&mut self, other: &Self) {
        for (first, last) in &other.0 {
            self.insert(*first, *last);
        }
    }

    /// What is here and not there.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut rest = Self::default();
        let mut from = 0;
        while let Some((first, last)) = self.run_without(other, from) {
            rest.0.push((first, last));
            let Some(next) = last.checked_add(1) else {
                break;
            };
            from = next;
        }
        rest
    }

    /// What is here and within `first` to `last`.
    pub(crate) fn within(&self, first: u64, last: u64) -> Self {
        let parts = self.0.iter();
        let clipped = parts.map(|part| (part.0.max(first), part.1.min(last)));
        Self(clipped.filter(|part| part.0 <= part.1).collect())
    }

    /// The first run at or above `from`.
    pub(crate) fn run_from(&self, from: u64) -> Option<(u64, u64)> {
        let at = self.0.partition_point(|part| part.1 < from);
        self.0.get(at).map(|part| (part.0.max(from), part.1))
    }

    /// The first run at or above `from` of what is here and not in `other`.
    pub(crate) fn run_without(&self, other: &Self, from: u64) -> Option<(u64, u64)> {
        let mut from = from;
        loop {
            let (first, last) = self.run_from(from)?;
            match other.run_from(first) {
                Some((from_there, to)) if from_there == first => from = to.checked_add(1)?,
                Some((from_there, _)) => return Some((first, last.min(from_there - 1))),
                None => return Some((first, last)),
            }
        }
    }

    /// Its bytes, with at most so many parts: the lowest.
    pub(crate) fn encode(&self, parts_max: usize, bytes: &mut Vec<u8>) {
        let parts = &self.0[..self.0.len().min(parts_max)];
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&count.to_le_bytes());
        for (first, last) in parts {
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&last.to_le_bytes());
        }
    }

    /// Takes a set from the front of `bytes`; `None` for what [`Self::encode`] does not make.
    pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let (parts, rest) = rest.split_at_checked(count.checked_mul(16)?)?;
        let mut ranges = Self::default();
        for part in parts.chunks_exact(16) {
            let first = u64::from_le_bytes(part[..8].try_into().ok()?);
            let last = u64::from_le_bytes(part[8..].try_into().ok()?);
            let sorted = ranges
                .last()
                .is_none_or(|before| first.checked_sub(before).is_some_and(|gap| gap > 1));
            if first > last || !sorted {
                return None;
            }
            ranges.0.push((first, last));
        }
        *bytes = rest;
        Some(ranges)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Ranges;

    fn set(ranges: &Ranges) -> BTreeSet<u64> {
        ranges
            .parts()
            .iter()
            .flat_map(|(first, last)| *first..=*last)
            .collect()
    }

    proptest! {
        #[test]
        fn they_agree_with_a_set(
            steps in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..12), 0..40),
            others in prop::collection::vec((0_u64..60, 0_u64..12), 0..10),
            from in 0_u64..80,
        ) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (put, first, length) in steps {
                let numbers = first..first + length;
                let Some(last) = (first + length).checked_sub(1) else { continue };
                if put {
                    ranges.insert(first, last);
                    model.extend(numbers);
                } else {
                    ranges.remove(first, last);
                    model.retain(|number| !numbers.contains(number));
                }
                prop_assert_eq!(&set(&ranges), &model);
                prop_assert!(ranges.parts().windows(2).all(|two| two[0].1 + 1 < two[1].0));
            }
            let mut other = Ranges::default();
            for (first, length) in others {
                other.insert(first, first + length);
            }
            let apart: BTreeSet<u64> = model.difference(&set(&other)).copied().collect();
            prop_assert_eq!(set(&ranges.without(&other)), apart.clone());
            prop_assert_eq!(ranges.run_without(&other, from).map(|run| run.0), apart.range(from..).next().copied());
            prop_assert_eq!(ranges.contains(from), model.contains(&from));
            prop_assert_eq!(ranges.count(), u64::try_from(model.len()).unwrap());
            let mut bytes = Vec::new();
            ranges.encode(usize::MAX, &mut bytes);
            prop_assert_eq!(Ranges::decode(&mut &bytes[..]), Some(ranges));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Ranges::decode(&mut &bytes[..]);
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_safe() {
        let mut ranges = Ranges::of(0, u64::MAX);
        ranges.remove(5, 5);
        assert_eq!(ranges.parts(), [(0, 4), (6, u64::MAX)]);
        assert_eq!(ranges.without(&Ranges::of(3, u64::MAX)), Ranges::of(0, 2));
        ranges.insert(5, u64::MAX);
        assert_eq!(ranges, Ranges::of(0, u64::MAX));
    }
}
