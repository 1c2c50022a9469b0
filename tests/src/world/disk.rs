//! The medium: records behind a volatile cache, made durable by group commits.
//!
//! Writes go to a log in order; a sync makes the whole log durable. A power cut keeps any prefix of the log that was not
//! synced: a commit is there as a whole or not at all, with the sequence number that follows it.

use std::collections::BTreeMap;

use fastrand::Rng;
use quorate_core::{event::StoredRecord, units::Seq};

use super::sabotage::Sabotage;

/// One entry of the log.
#[derive(Clone, Debug)]
enum Entry {
    Put(Vec<StoredRecord>),
    Delete(Seq, Seq),
}

/// What one commit did.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    /// Runs of sequence numbers without a gap, one answer each.
    pub(crate) runs: Vec<(Seq, Seq)>,
    /// Records that are durable now and may not have been before.
    pub(crate) durable: Vec<StoredRecord>,
}

/// The medium.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    durable: BTreeMap<Seq, StoredRecord>,
    /// What a read sees.
    live: BTreeMap<Seq, StoredRecord>,
    seq_next: Seq,
    log: Vec<Entry>,
    waiting: Vec<StoredRecord>,
    committing: Vec<StoredRecord>,
    pub(crate) busy: bool,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            seq_next: Seq(1),
            ..Self::default()
        }
    }

    /// Takes a record; true when a commit must be begun for it.
    pub(crate) fn put(&mut self, record: StoredRecord) -> bool {
        self.waiting.push(record);
        !std::mem::replace(&mut self.busy, true)
    }

    pub(crate) fn delete(&mut self, first: Seq, last: Seq) {
        while let Some(seq) = self.live.range(first..=last).map(|(seq, _)| *seq).next() {
            self.live.remove(&seq);
        }
        self.log.push(Entry::Delete(first, last));
    }

    /// What waits goes into the log.
    pub(crate) fn begin(&mut self) {
        self.committing = std::mem::take(&mut self.waiting);
        self.committing.sort_by_key(|record| record.seq);
        self.log.push(Entry::Put(self.committing.clone()));
    }

    /// The sync came back. On failure the records are dropped from the log, or `arrives` all the same.
    pub(crate) fn finish(&mut self, fails: bool, arrives: bool, sabotage: Sabotage) -> Commit {
        let records = std::mem::take(&mut self.committing);
        let runs = records
            .chunk_by(|one, next| next.seq.0.saturating_sub(one.seq.0) <= 1)
            .filter_map(|run| Some((run.first()?.seq, run.last()?.seq)))
            .collect();
        if fails && !arrives {
            self.log.retain(|entry| matches!(entry, Entry::Delete(..)));
            return Commit {
                runs,
                durable: Vec::new(),
            };
        }
        for record in &records {
            self.live.insert(record.seq, record.clone());
        }
        if sabotage == Sabotage::LyingDisk {
            return Commit {
                runs,
                durable: Vec::new(),
            };
        }
        for entry in std::mem::take(&mut self.log) {
            self.apply(entry);
        }
        if sabotage == Sabotage::DropsSilently
            && let Some(lost) = records.iter().find(|record| record.seq.0 % 100 == 7)
        {
            self.durable.remove(&lost.seq);
            self.live.remove(&lost.seq);
        }
        Commit {
            runs,
            durable: records,
        }
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Put(records) => {
                for record in records {
                    self.seq_next = self.seq_next.max(record.seq.next());
                    self.durable.insert(record.seq, record);
                }
            }
            Entry::Delete(first, last) => {
                while let Some(seq) = self.durable.range(first..=last).map(|(seq, _)| *seq).next() {
                    self.durable.remove(&seq);
                }
            }
        }
    }

    /// Power fails and returns. Returns the records that turned out durable.
    pub(crate) fn power_cut(&mut self, random: &mut Rng) -> Vec<StoredRecord> {
        let mut log = std::mem::take(&mut self.log);
        // A command that the store's thread had not yet taken up is gone; one that it had is in the log, in order.
        log.truncate(random.usize(0..=log.len()));
        let mut found = Vec::new();
        for entry in log {
            if let Entry::Put(records) = &entry {
                found.extend(records.iter().cloned());
            }
            self.apply(entry);
        }
        self.waiting.clear();
        self.committing.clear();
        self.busy = false;
        self.live = self.durable.clone();
        found
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn seq_next(&self, sabotage: Sabotage) -> Seq {
        if sabotage == Sabotage::SeqFromMaxKey {
            let last = self.durable.last_key_value();
            last.map_or(Seq(1), |(seq, _)| seq.next())
        } else {
            self.seq_next
        }
    }

    pub(crate) fn load(
        &self,
        after: Seq,
        through: Seq,
        records_max: u32,
        bytes_max: u32,
    ) -> Vec<StoredRecord> {
        let mut bytes = 0;
        let mut found: Vec<StoredRecord> = Vec::new();
        if after >= through {
            return found;
        }
        let most = usize::try_from(records_max).unwrap_or(usize::MAX);
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        for record in self
            .live
            .range(after.next()..=through)
            .map(|(_, record)| record)
        {
            bytes += record.payload.len();
            if found.len() >= most || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(record.clone());
        }
        found
    }

    /// What a read sees in a range.
    pub(crate) fn live(&self, first: Seq, last: Seq) -> impl Iterator<Item = Seq> + '_ {
        self.live.range(first..=last).map(|(seq, _)| *seq)
    }

    pub(crate) fn oldest(&self) -> Option<Seq> {
        self.live.first_key_value().map(|(seq, _)| *seq)
    }

    pub(crate) fn pending(&self) -> u64 {
        u64::try_from(self.live.len()).unwrap_or(u64::MAX)
    }
}
