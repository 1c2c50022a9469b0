//! The far end of the chain: what is read, and what need not be kept.
//!
//! Owns: loading, forgetting, recalling, and the naming of what cannot be read. Must not: write a record.
//!
//! Invariants: a load never passes over an intact record that waits; what is deleted without having been shown was
//! named first. Reading needs no space on the medium.

use std::sync::Arc;

use quorate_core::{
    event::{GoneCause, StoreFault, StoredRecord},
    units::{Epoch, Seq},
};

use super::{
    Outbox,
    chain::{self, Reader},
    finding::Gone,
    guard::{fault, io_fault},
    note::Notes,
    ranges::Ranges,
    value,
};

/// Databases whose index is kept: the one that is drained, and one that overlaps it.
const READERS_MAX: usize = 2;

/// Loads that fail at a place which the medium cannot read before its records are given up and named.
const UNREADABLE_LOADS: u32 = 3;

/// Where a run of records lies.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// In the complete database of this index.
    Complete(usize),
    Head,
}

/// What one load has gathered.
#[derive(Debug)]
struct Page {
    records: Vec<StoredRecord>,
    bytes: usize,
    records_max: usize,
    bytes_max: usize,
    full: bool,
}

impl Page {
    fn new(records_max: u32, bytes_max: u32) -> Self {
        Self {
            records: Vec::new(),
            bytes: 0,
            records_max: usize::try_from(records_max).unwrap_or(usize::MAX).max(1),
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            full: false,
        }
    }

    /// Returns whether there is room for more.
    fn take(&mut self, seq: Seq, payload: Arc<[u8]>) -> bool {
        self.bytes = self.bytes.saturating_add(payload.len());
        let over = self.records.len() >= self.records_max || self.bytes > self.bytes_max;
        if over && !self.records.is_empty() {
            self.full = true;
            return false;
        }
        self.records.push(StoredRecord { seq, payload });
        true
    }
}

impl Outbox {
    /// Reads records that wait, with `after < seq <= through`, at most so many and so many payload bytes, but one in
    /// any case. Damaged ones are left out and remembered for [`Self::remove_damaged`].
    ///
    /// # Errors
    /// The medium cannot be read.
    pub fn load(
        &self,
        after: Seq,
        through: Seq,
        records_max: u32,
        bytes_max: u32,
    ) -> Result<Vec<StoredRecord>, StoreFault> {
        let hidden = &self.progress.done;
        let page = self.gather(hidden, (after, through), Page::new(records_max, bytes_max))?;
        let shown = page
            .records
            .last()
            .filter(|_| page.full)
            .map_or(through.0, |record| record.seq.0)
            .min(self.progress.seq_next.saturating_sub(1));
        if shown > after.0 {
            self.loaded_through
                .set(self.loaded_through.get().max(shown));
            self.unseen.borrow_mut().remove(after.0 + 1, shown);
        }
        Ok(page.records)
    }

    /// Reads records of this or an earlier epoch that are still there, delivered or not; otherwise as [`Self::load`].
    ///
    /// # Errors
    /// The medium cannot be read.
    pub fn replay(
        &self,
        epoch: Epoch,
        range: (Seq, Seq),
        records_max: u32,
        bytes_max: u32,
    ) -> Result<Vec<StoredRecord>, StoreFault> {
        let mut hidden = Ranges::default();
        if epoch.0 != self.meta.epoch {
            for database in self.databases.iter().filter(|it| it.name.epoch != epoch.0) {
                hidden.insert_all(&database.seqs);
            }
            if let Some(head) = &self.head {
                hidden.insert_all(&head.seqs);
            }
        }
        Ok(self
            .gather(&hidden, range, Page::new(records_max, bytes_max))?
            .records)
    }

    /// Lets records that are delivered but still there wait again, and returns how many. Durable with the next commit.
    pub fn recall(&mut self, first: Seq, last: Seq) -> u64 {
        self.finish_opening();
        let mut again = Ranges::default();
        for seqs in self.held() {
            again.insert_all(&seqs.within(first.0, last.0));
        }
        again = again
            .without(&again.without(&self.progress.done))
            .without(&self.owed);
        for (from, to) in again.parts() {
            self.progress.done.remove(*from, *to);
        }
        self.unseen.get_mut().insert_all(&again);
        self.progress_is_new = true;
        self.note_progress(false);
        again.count()
    }

    fn gather(
        &self,
        hidden: &Ranges,
        (after, through): (Seq, Seq),
        mut page: Page,
    ) -> Result<Page, StoreFault> {
        let Some(mut from) = after.0.checked_add(1) else {
            return Ok(page);
        };
        while !page.full && from <= through.0 {
            let Some((source, first, last)) = self.next_run(hidden, from) else {
                break;
            };
            if first > through.0 {
                break;
            }
            let last = last.min(through.0);
            match source {
                Source::Complete(at) => self.read_complete(at, first, last, &mut page)?,
                Source::Head => self.read_head(first, last, &mut page)?,
            }
            let Some(next) = last.checked_add(1) else {
                break;
            };
            from = next;
        }
        Ok(page)
    }

    /// The next run of records of one database that no other one interrupts.
    fn next_run(&self, hidden: &Ranges, from: u64) -> Option<(Source, u64, u64)> {
        let mut best: Option<(Source, u64, u64)> = None;
        let offer = |best: &mut Option<(Source, u64, u64)>, source: Source, seqs: &Ranges| {
            let Some((first, last)) = seqs.run_without(hidden, from) else {
                return;
            };
            *best = Some(match *best {
                None => (source, first, last),
                // Of two that have the same record, the one that was offered first.
                Some((before, low, high)) if low <= first => {
                    let end = if first > low {
                        high.min(first - 1)
                    } else {
                        high
                    };
                    (before, low, end)
                }
                Some((_, low, _)) => (source, first, last.min(low - 1)),
            });
        };
        if let Some(head) = &self.head {
            offer(&mut best, Source::Head, &head.seqs);
        }
        for (at, database) in self.databases.iter().enumerate() {
            if best.is_some_and(|(_, _, high)| database.name.first > high) {
                // They are sorted: none of the rest can interrupt.
                return best;
            }
            offer(&mut best, Source::Complete(at), &database.seqs);
        }
        best
    }

    fn read_complete(
        &self,
        at: usize,
        first: u64,
        last: u64,
        page: &mut Page,
    ) -> Result<(), StoreFault> {
        let Some(database) = self.databases.get(at) else {
            return Ok(());
        };
        let mut readers = self.readers.borrow_mut();
        let known = readers
            .iter()
            .position(|reader| reader.generation == database.name.generation);
        let reader = match known {
            Some(at) => readers.remove(at),
            None => {
                readers.truncate(READERS_MAX - 1);
                let reader = Reader::open(&database.path, database.name);
                let reader = reader.map_err(|error| io_fault(&error))?;
                if reader.is_partial && !database.is_partial {
                    self.try_again()?;
                }
                reader
            }
        };
        readers.insert(0, reader);
        for seq in first..=last {
            match readers[0].read(seq) {
                Ok(Some(payload)) => {
                    self.unreadable.set(0);
                    if !page.take(Seq(seq), payload) {
                        break;
                    }
                }
                Ok(None) => self.damaged.borrow_mut().insert(seq, seq),
                // The medium cannot read this place: the rest of the database is not lost with it.
                Err(error) if value::is_unreadable(&error) => {
                    self.try_again()?;
                    self.damaged.borrow_mut().insert(seq, seq);
                }
                Err(error) => return Err(io_fault(&error)),
            }
        }
        Ok(())
    }

    /// A place that cannot be read may be the next time; after some times it is given up.
    fn try_again(&self) -> Result<(), StoreFault> {
        let times = self.unreadable.get();
        if times >= UNREADABLE_LOADS {
            return Ok(());
        }
        self.unreadable.set(times + 1);
        Err(fault("input-output", "the medium cannot read a place"))
    }

    fn read_head(&self, first: u64, last: u64, page: &mut Page) -> Result<(), StoreFault> {
        let Some(head) = &self.head else {
            return Ok(());
        };
        let mut next = first;
        if !self.head_is_suspect.get() {
            let outcome = head.read(first, last, &mut |seq, payload| {
                let room = page.take(seq, payload);
                if room {
                    next = seq.0.saturating_add(1);
                }
                room
            });
            if outcome.is_ok() {
                return Ok(());
            }
            self.head_is_suspect.set(true);
        }
        // What sled does not show, its file may.
        let mut reader = Reader::open(&head.path, head.name).map_err(|error| io_fault(&error))?;
        for seq in next..=last {
            match reader.read(seq).map_err(|error| io_fault(&error))? {
                Some(payload) => {
                    if !page.take(Seq(seq), payload) {
                        break;
                    }
                }
                None => self.damaged.borrow_mut().insert(seq, seq),
            }
        }
        Ok(())
    }

    /// Gives up what [`Self::load`] found damaged; see [`Self::take_gone`].
    ///
    /// # Errors
    /// The store cannot be written; then they are found again.
    pub fn remove_damaged(&mut self) -> Result<(), StoreFault> {
        let damaged = std::mem::take(self.damaged.get_mut());
        let damaged = damaged.without(&self.progress.done);
        if damaged.is_empty() {
            return Ok(());
        }
        self.report_gone(&damaged, GoneCause::Damaged);
        let unseen = self.unseen.get_mut();
        *unseen = unseen.without(&damaged);
        self.settle(&damaged);
        Ok(())
    }

    /// Names records that are gone, one range after another.
    pub(super) fn report_gone(&mut self, seqs: &Ranges, cause: GoneCause) {
        self.owed.insert_all(seqs);
        if cause == GoneCause::Full {
            self.progress.full.insert_all(seqs);
        }
        for (first, last) in seqs.parts() {
            self.gone.push(Gone {
                first: Seq(*first),
                last: Seq(*last),
                count: (last - first).saturating_add(1),
                cause,
            });
        }
    }

    /// Gives up the records from `first` to `last` and returns how many there were. A record that came into the store
    /// after its range was loaded, and that no load has shown since, stays. Durable with the next commit or close:
    /// after a power cut they may come back, as repeats.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn forget(&mut self, first: Seq, last: Seq) -> Result<u64, StoreFault> {
        let last = last.0.min(self.progress.seq_next.saturating_sub(1));
        if first.0 > last {
            return Ok(0);
        }
        let range = Ranges::of(first.0, last).without(self.unseen.get_mut());
        Ok(self.settle(&range))
    }

    /// Gives up records that can never be delivered and names them; see [`Self::take_gone`].
    pub fn discard(&mut self, first: Seq, last: Seq) {
        let last = last.0.min(self.progress.seq_next.saturating_sub(1));
        if first.0 > last {
            return;
        }
        let mut waiting = Ranges::default();
        for seqs in self.held() {
            waiting.insert_all(&seqs.within(first.0, last).without(&self.progress.done));
        }
        if !waiting.is_empty() {
            self.report_gone(&waiting, GoneCause::Refused);
            self.settle(&waiting);
        }
    }

    /// The receiver knows that these are gone: no opening names them again.
    pub fn acknowledge_loss(&mut self, first: Seq, last: Seq, cause: GoneCause) {
        if Notes::is_of(cause) {
            self.progress.notes.settle(first, last, cause);
        } else if self.is_partial {
            return;
        } else {
            self.owed.remove(first.0, last.0);
            self.progress.full.remove(first.0, last.0);
        }
        self.progress_is_new = true;
        self.note_progress(false);
        if !self.options.retain_acked {
            self.delete_done();
        }
    }

    /// What every database holds.
    pub(super) fn held(&self) -> impl Iterator<Item = &Ranges> {
        let head = self.head.as_ref().map(|head| &head.seqs);
        let complete = self.databases.iter().map(|database| &database.seqs);
        complete.chain(head)
    }

    /// Marks records as done, deletes the databases that are, and returns how many records waited until now.
    pub(super) fn settle(&mut self, range: &Ranges) -> u64 {
        self.finish_opening();
        let before = self.waiting_within(range);
        self.progress.done.insert_all(range);
        let after = self.waiting_within(range);
        self.collapse();
        self.progress_is_new = true;
        self.note_progress(false);
        if !self.options.retain_acked {
            self.delete_done();
        }
        before - after
    }

    fn waiting_within(&self, range: &Ranges) -> u64 {
        let (Some(first), Some(last)) = (range.first(), range.last()) else {
            return 0;
        };
        let touched = self.held().filter(|seqs| {
            seqs.first().is_some_and(|it| it <= last) && seqs.last().is_some_and(|it| it >= first)
        });
        touched
            .map(|seqs| {
                seqs.within(first, last)
                    .without(&self.progress.done)
                    .count()
            })
            .sum()
    }

    /// Everything before the oldest record that waits is done: one range instead of many.
    fn collapse(&mut self) {
        let oldest = self.next_run(&self.progress.done, 0);
        let end = oldest.map_or(self.progress.seq_next, |(_, first, _)| first);
        self.progress.done.insert(0, end.saturating_sub(1));
    }

    /// Deletes complete databases of which nothing waits. What was given up stays until the receiver knows: a medium that
    /// cannot be read now may be read after the next start.
    pub(super) fn delete_done(&mut self) {
        let known = self.progress.done.without(&self.owed);
        let mut at = 0;
        while let Some(database) = self.databases.get(at) {
            let stays = database.is_partial || database.pending(&known) > 0;
            if stays || !self.delete(at) {
                at += 1;
            }
        }
    }

    /// Deletes one complete database; false where the medium refuses.
    pub(super) fn delete(&mut self, at: usize) -> bool {
        let Some(database) = self.databases.get(at) else {
            return false;
        };
        // What is done must be known durably first, or what is deleted would be missed.
        let dropped = database.origin.dropped.without(&self.owed);
        self.progress.done.insert_all(&dropped);
        let noted = self.write_progress(true);
        let Some(database) = self.databases.get(at) else {
            return false;
        };
        if noted.is_err() || chain::delete(&self.options.path, &database.path).is_err() {
            return false;
        }
        let generation = database.name.generation;
        self.readers
            .get_mut()
            .retain(|reader| reader.generation != generation);
        self.databases.remove(at);
        true
    }

    /// Lowest and highest sequence number that waits.
    ///
    /// # Errors
    /// None at present; the store may have to be read for it.
    pub fn ends(&self) -> Result<Option<(Seq, Seq)>, StoreFault> {
        let done = &self.progress.done;
        let Some((_, first, _)) = self.next_run(done, 0) else {
            return Ok(None);
        };
        let last = self
            .held()
            .filter_map(|seqs| seqs.without(done).last())
            .max();
        Ok(Some((Seq(first), Seq(last.unwrap_or(first)))))
    }
}
