//! The medium: records behind a volatile cache, made durable by group commits.
//!
//! Writes go to a log in order; a sync makes the whole log durable. A power cut keeps any prefix of the log that was not
//! synced: a commit is there as a whole or not at all, with the sequence number that follows it.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use quorate_core::{
    event::{GoneCause, StoredRecord},
    units::Seq,
};

use super::sabotage::Sabotage;

/// Records that make room at once.
const ROOM_RECORDS: usize = 50;

/// Delivered records that are kept for whoever asks for them again.
const KEPT_RECORDS_MAX: usize = 500;

/// A note of what is gone: its range, how many, why.
pub(crate) type Note = (Seq, Seq, u64, GoneCause);

/// One entry of the log; each is on the medium as a whole or not at all.
#[derive(Clone, Debug)]
enum Entry {
    /// Records, and the room that was made for them.
    Put(Vec<StoredRecord>, Option<Note>),
    Delete(Seq, Seq),
    /// A deletion that must be known.
    Discard(Note),
    Settle(Seq, Seq, GoneCause),
    /// Delivered records wait again.
    Recall(Vec<StoredRecord>),
}

/// What one commit did.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    /// Runs of sequence numbers without a gap, one answer each.
    pub(crate) runs: Vec<(Seq, Seq)>,
    /// Records that are durable now and may not have been before.
    pub(crate) durable: Vec<StoredRecord>,
    /// What made room for them.
    pub(crate) gone: Option<Note>,
}

/// The medium.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    durable: BTreeMap<Seq, StoredRecord>,
    /// Losses that nobody has settled yet.
    notes: Vec<Note>,
    /// Most records that it holds.
    records_max: usize,
    /// What a read sees.
    live: BTreeMap<Seq, StoredRecord>,
    /// Wait again and were not read since; a deletion that was asked for before does not mean them.
    unseen: BTreeSet<Seq>,
    /// Delivered, and not yet overwritten.
    kept: BTreeMap<Seq, StoredRecord>,
    seq_next: Seq,
    log: Vec<Entry>,
    waiting: Vec<StoredRecord>,
    committing: Vec<StoredRecord>,
    pub(crate) busy: bool,
}

impl Disk {
    pub(crate) fn new(records_max: usize) -> Self {
        Self {
            seq_next: Seq(1),
            records_max,
            ..Self::default()
        }
    }

    /// Takes a record; true when a commit must be begun for it.
    pub(crate) fn put(&mut self, record: StoredRecord) -> bool {
        self.waiting.push(record);
        !std::mem::replace(&mut self.busy, true)
    }

    /// Delivered records that are still there wait again. Returns which.
    pub(crate) fn recall(&mut self, first: Seq, last: Seq) -> Vec<Seq> {
        let kept: Vec<_> = self
            .kept
            .range(first..=last)
            .map(|(_, it)| it.clone())
            .collect();
        let again = kept
            .into_iter()
            .filter(|it| !self.live.contains_key(&it.seq));
        let again: Vec<StoredRecord> = again.collect();
        for record in &again {
            self.live.insert(record.seq, record.clone());
            self.unseen.insert(record.seq);
        }
        self.log.push(Entry::Recall(again.clone()));
        again.iter().map(|record| record.seq).collect()
    }

    pub(crate) fn delete(&mut self, first: Seq, last: Seq) {
        // A range with holes is as many ranges.
        let unseen: Vec<Seq> = self.unseen.range(first..=last).copied().collect();
        let mut from = first;
        for seq in unseen {
            if from < seq {
                self.delete_seen(from, Seq(seq.0 - 1));
            }
            from = seq.next();
        }
        if from <= last {
            self.delete_seen(from, last);
        }
    }

    fn delete_seen(&mut self, first: Seq, last: Seq) {
        for (seq, record) in self.live.range(first..=last) {
            self.kept.insert(*seq, record.clone());
        }
        while self.kept.len() > KEPT_RECORDS_MAX {
            self.kept.pop_first();
        }
        remove(&mut self.live, first, last);
        self.log.push(Entry::Delete(first, last));
    }

    /// Deletes and notes it; the note, where there was anything.
    pub(crate) fn discard(&mut self, first: Seq, last: Seq) -> Option<Note> {
        let count = remove(&mut self.live, first, last);
        let note = (first, last, count, GoneCause::Refused);
        (count > 0).then(|| self.log.push(Entry::Discard(note)))?;
        Some(note)
    }

    pub(crate) fn settle(&mut self, first: Seq, last: Seq, cause: GoneCause) {
        self.log.push(Entry::Settle(first, last, cause));
    }

    /// What has not been settled.
    pub(crate) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// What waits goes into the log.
    pub(crate) fn begin(&mut self) {
        self.committing = std::mem::take(&mut self.waiting);
        self.committing.sort_by_key(|record| record.seq);
        let room = self.make_room();
        self.log.push(Entry::Put(self.committing.clone(), room));
    }

    /// The oldest that must go for the records of this commit.
    fn make_room(&self) -> Option<Note> {
        let new = self
            .committing
            .iter()
            .filter(|record| !self.live.contains_key(&record.seq));
        let excess = (self.live.len() + new.count()).saturating_sub(self.records_max);
        // As the real store, which drops a whole part at a time.
        let excess = excess.next_multiple_of(ROOM_RECORDS);
        let lowest = self.committing.first()?.seq;
        let oldest: Vec<_> = self
            .live
            .range(..lowest)
            .take(excess)
            .map(|(seq, _)| *seq)
            .collect();
        let count = u64::try_from(oldest.len()).unwrap_or(u64::MAX);
        Some((*oldest.first()?, *oldest.last()?, count, GoneCause::Full))
    }

    /// The sync came back. On failure the records are dropped from the log, or `arrives` all the same.
    pub(crate) fn finish(&mut self, fails: bool, arrives: bool, sabotage: Sabotage) -> Commit {
        let records = std::mem::take(&mut self.committing);
        let runs = records
            .chunk_by(|one, next| next.seq.0.saturating_sub(one.seq.0) <= 1)
            .filter_map(|run| Some((run.first()?.seq, run.last()?.seq)))
            .collect();
        if fails && !arrives {
            self.log.retain(|entry| !matches!(entry, Entry::Put(..)));
            return Commit {
                runs,
                ..Commit::default()
            };
        }
        let room = |entry: &Entry| match entry {
            Entry::Put(_, room) => *room,
            _ => None,
        };
        let gone = self.log.iter().find_map(room);
        if let Some((first, last, ..)) = gone {
            remove(&mut self.live, first, last);
        }
        for record in &records {
            self.live.insert(record.seq, record.clone());
        }
        if sabotage == Sabotage::LyingDisk {
            return Commit {
                runs,
                ..Commit::default()
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
        if sabotage == Sabotage::ForgetsNotes {
            self.notes.clear();
        }
        Commit {
            runs,
            durable: records,
            gone,
        }
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Put(records, room) => {
                if let Some(note) = room {
                    remove(&mut self.durable, note.0, note.1);
                    self.notes.push(note);
                }
                for record in records {
                    self.seq_next = self.seq_next.max(record.seq.next());
                    self.durable.insert(record.seq, record);
                }
            }
            Entry::Delete(first, last) => {
                remove(&mut self.durable, first, last);
            }
            Entry::Discard(note) => {
                remove(&mut self.durable, note.0, note.1);
                self.notes.push(note);
            }
            Entry::Recall(records) => {
                let again = records.into_iter().map(|record| (record.seq, record));
                self.durable.extend(again);
            }
            Entry::Settle(first, last, cause) => self
                .notes
                .retain(|note| note.3 != cause || note.0 < first || note.1 > last),
        }
    }

    /// Power fails and returns. Returns the records that turned out durable.
    pub(crate) fn power_cut(&mut self, random: &mut Rng) -> Vec<StoredRecord> {
        let mut log = std::mem::take(&mut self.log);
        // A command that the store's thread had not yet taken up is gone; one that it had is in the log, in order.
        log.truncate(random.usize(0..=log.len()));
        let mut found = Vec::new();
        for entry in log {
            if let Entry::Put(records, _) = &entry {
                found.extend(records.iter().cloned());
            }
            self.apply(entry);
        }
        self.waiting.clear();
        self.committing.clear();
        self.busy = false;
        self.live = self.durable.clone();
        self.unseen.clear();
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
        &mut self,
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
        for record in &found {
            self.unseen.remove(&record.seq);
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

    pub(crate) fn is_live(&self, seq: Seq) -> bool {
        self.live.contains_key(&seq)
    }

    pub(crate) fn pending(&self) -> u64 {
        u64::try_from(self.live.len()).unwrap_or(u64::MAX)
    }
}

/// Removes a range and returns how many there were.
fn remove(records: &mut BTreeMap<Seq, StoredRecord>, first: Seq, last: Seq) -> u64 {
    let mut count = 0;
    while let Some(seq) = records.range(first..=last).map(|(seq, _)| *seq).next() {
        records.remove(&seq);
        count += 1;
    }
    count
}
