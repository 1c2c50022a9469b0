//! What has arrived of each stream, and what is still missing.
//!
//! Owns: the arithmetic of base, records and absences. Must not: store or send anything. Pure.
//!
//! Invariant: the watermark never passes a number that may still hold a record which we do not have: it ends at the first
//! gap that the device has not called empty itself.

use std::collections::BTreeMap;

use super::batch::Batch;
use crate::store::ranges::Ranges;

/// Most streams (pairs of device and epoch).
const STREAMS_MAX: usize = 65_536;
/// Most gaps of one stream; a device whose batches say what they follow has none for long.
const PARTS_MAX: usize = 65_536;

/// One stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    base: u64,
    /// Records that are here and numbers that hold none.
    known: Ranges,
    /// Numbers that hold none.
    absent: Ranges,
}

/// What one batch changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The stream is new and begins above this number.
    pub base: Option<u64>,
    /// Numbers that the batch says hold nothing, as ranges.
    pub absent: Vec<(u64, u64)>,
}

/// The limits are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more streams or gaps than this collector keeps account of")]
pub struct Full;

impl Stream {
    /// Everything up to here is stored, or holds no record, or is older than the stream's first batch.
    #[must_use]
    pub fn through(&self) -> u64 {
        let first = self.known.run_from(self.base.saturating_add(1));
        match first {
            Some((first, last)) if first == self.base.saturating_add(1) => last,
            _ => self.base,
        }
    }

    /// Numbers between the base and the highest that are neither here nor known to hold nothing, as ranges.
    #[must_use]
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        let Some(last) = self.known.last() else {
            return Vec::new();
        };
        let all = Ranges::of(self.base.saturating_add(1), last);
        all.without(&self.known).parts().to_vec()
    }

    /// Numbers that hold no record.
    #[must_use]
    pub fn absent(&self) -> u64 {
        self.absent.count()
    }

    /// Where the account begins.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Whether the record is here already.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        self.known.contains(seq) && !self.absent.contains(seq)
    }
}

/// All streams.
#[derive(Clone, Debug, Default)]
pub struct Account {
    streams: BTreeMap<(String, u64), Stream>,
}

impl Account {
    /// A stream, where it is known.
    #[must_use]
    pub fn stream(&self, device: &str, epoch: u64) -> Option<&Stream> {
        self.streams.get(&(device.to_owned(), epoch))
    }

    /// Every stream, by device and epoch.
    pub fn streams(&self) -> impl Iterator<Item = (&str, u64, &Stream)> {
        let streams = self.streams.iter();
        streams.map(|((device, epoch), stream)| (device.as_str(), *epoch, stream))
    }

    /// A stream that is stored begins above `base`.
    pub(super) fn restore(&mut self, device: &str, epoch: u64, base: u64) {
        let stream = self.streams.entry((device.to_owned(), epoch)).or_default();
        stream.base = base;
    }

    /// Numbers of a stream that are stored: records, or `absent` ones that hold none.
    pub(super) fn restore_range(&mut self, key: (&str, u64), first: u64, last: u64, absent: bool) {
        let stream = self.streams.entry((key.0.to_owned(), key.1)).or_default();
        stream.known.insert(first, last);
        if absent {
            stream.absent.insert(first, last);
        }
    }

    /// What a batch would change, before it is stored.
    ///
    /// # Errors
    /// The limits are reached.
    pub fn consider(&self, batch: &Batch) -> Result<Change, Full> {
        let known = self.stream(&batch.device, batch.epoch);
        let full = match known {
            Some(stream) => stream.known.parts().len() >= PARTS_MAX,
            None => self.streams.len() >= STREAMS_MAX,
        };
        if full {
            return Err(Full);
        }
        let first = batch.records.first().map(|record| record.seq);
        let base = known.is_none().then(|| {
            // Without a word of the device nothing older can be told from what comes later.
            let before = first.map_or(0, |first| first.saturating_sub(1));
            batch.settled.or(batch.after).unwrap_or(before).min(before)
        });
        let mut holes = Vec::new();
        if let (Some(after), Some(first)) = (batch.after, first) {
            holes.push((after.saturating_add(1), first.saturating_sub(1)));
        }
        for pair in batch.records.windows(2) {
            holes.push((pair[0].seq.saturating_add(1), pair[1].seq.saturating_sub(1)));
        }
        let floor = base.unwrap_or_else(|| known.map_or(0, |stream| stream.base));
        let mut absent = Ranges::default();
        for (first, last) in holes {
            absent.insert(first.max(floor.saturating_add(1)), last);
        }
        let absent = match known {
            // A record that is here was delivered before and is gone from the device since.
            Some(stream) => absent.without(&stream.known),
            None => absent,
        };
        Ok(Change {
            base,
            absent: absent.parts().to_vec(),
        })
    }

    /// The batch and its change are stored.
    pub fn enter(&mut self, batch: &Batch, change: &Change) {
        let key = (batch.device.clone(), batch.epoch);
        let stream = self.streams.entry(key).or_default();
        if let Some(base) = change.base {
            stream.base = base;
        }
        for record in &batch.records {
            stream.known.insert(record.seq, record.seq);
            // What was called empty and comes all the same is here.
            if stream.absent.contains(record.seq) {
                stream.absent.remove(record.seq, record.seq);
            }
        }
        for (first, last) in &change.absent {
            stream.known.insert(*first, *last);
            stream.absent.insert(*first, *last);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::collect::batch::Record;

    fn batch(settled: Option<u64>, after: Option<u64>, seqs: &[u64]) -> Batch {
        let record = |seq: &u64| Record {
            seq: *seq,
            fields: serde_json::Map::new(),
        };
        Batch {
            device: "a".to_owned(),
            epoch: 1,
            settled,
            after,
            records: seqs.iter().map(record).collect(),
        }
    }

    fn enter(account: &mut Account, batch: &Batch) -> u64 {
        let change = account.consider(batch).unwrap();
        account.enter(batch, &change);
        account.stream("a", 1).unwrap().through()
    }

    #[test]
    fn the_watermark_stops_at_a_gap_until_the_device_says_what_it_is() {
        let mut account = Account::default();
        assert_eq!(enter(&mut account, &batch(Some(0), Some(0), &[1, 2])), 2);
        assert_eq!(enter(&mut account, &batch(Some(0), Some(5), &[6, 9])), 2);
        let gaps = account.stream("a", 1).unwrap().gaps();
        assert_eq!(
            gaps,
            [(3, 5)],
            "7 and 8 stand within a batch and hold nothing"
        );
        assert_eq!(enter(&mut account, &batch(Some(2), Some(2), &[4])), 4);
        assert_eq!(enter(&mut account, &batch(Some(2), Some(4), &[6])), 9);
        let stream = account.stream("a", 1).unwrap();
        assert_eq!((stream.gaps(), stream.absent()), (vec![], 4));
        assert!(stream.holds(9) && !stream.holds(5));
    }

    #[test]
    fn live_records_first_do_not_confirm_the_backlog() {
        let mut account = Account::default();
        assert_eq!(
            enter(&mut account, &batch(Some(0), Some(99), &[100, 101])),
            0
        );
        assert_eq!(enter(&mut account, &batch(Some(0), Some(0), &[1, 50])), 50);
        assert_eq!(
            enter(&mut account, &batch(Some(50), Some(50), &[51, 99])),
            101
        );
    }

    #[test]
    fn a_late_collector_begins_where_the_device_has_settled() {
        let mut account = Account::default();
        assert_eq!(enter(&mut account, &batch(Some(70), Some(79), &[80])), 70);
        assert_eq!(enter(&mut account, &batch(Some(70), Some(70), &[71])), 71);
        assert_eq!(account.stream("a", 1).unwrap().gaps(), [(72, 79)]);
        let mut account = Account::default();
        assert_eq!(enter(&mut account, &batch(None, None, &[5, 6])), 6);
    }
}
