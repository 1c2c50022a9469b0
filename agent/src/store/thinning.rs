//! Room by importance: old databases are made anew with a part of their records, or given up whole.
//!
//! Owns: what goes first with `drop-lowest-priority` and `thin`, and the making of one database from others. Must not:
//! give up what may be on its way to the broker, or an event while there is something else to give up.
//!
//! Invariants: until the seal of the new database is on the medium, nothing has changed; from then on it stands for the
//! old ones, and says in the same bytes what was left out and that this is to be told. Thinning keeps whole blocks of
//! numbers, so that what was measured together is kept together, and repeats itself at the old end: a store of many
//! databases has a few coarse ones and the rest whole.

use std::{cmp::Reverse, collections::BTreeMap, ops::Range};

use quorate_core::{
    class::{Class, label},
    event::{GoneCause, StoreFault, StoredRecord},
    units::Seq,
};

use super::{
    Outbox,
    chain::{self, Database, Reader},
    contents::Contents,
    finding::Gone,
    guard::{fault, io_fault},
    head::{self, Head},
    note::Notes,
    ranges::Ranges,
    side::{Origin, Seal},
};

/// Numbers of a block, which is kept or left out whole.
const BLOCK_RECORDS: u64 = 32;

/// From here on nothing but events is kept.
const LEVEL_MAX: u8 = 48;

/// Databases that are made into one at most.
const GROUP_MAX: usize = 8;

/// Bytes that one commit of a new database takes.
const COMMIT_BYTES: u64 = 128 << 10;

/// Which records stay.
struct Rule {
    cause: GoneCause,
    /// Only blocks whose number is a multiple of two to this.
    level: u8,
    /// This class goes; `None` where blocks of all but events go.
    class: Option<Class>,
}

impl Rule {
    fn keeps(&self, seq: u64, class: Class) -> bool {
        match self.class {
            Some(lowest) => class > lowest,
            None => {
                let every = 1_u64.checked_shl(u32::from(self.level)).unwrap_or(0);
                let block = seq / BLOCK_RECORDS;
                class == Class::Event || (self.level < LEVEL_MAX && block.is_multiple_of(every))
            }
        }
    }
}

/// What is read from the old databases.
#[derive(Default)]
struct Sorted {
    kept: Vec<StoredRecord>,
    left_out: Ranges,
    damaged: Ranges,
}

impl Outbox {
    /// Records of these numbers may be on their way to the broker: neither age nor importance makes them go.
    pub(super) fn hold_in_flight(&mut self, seqs: Ranges) {
        self.in_flight = seqs;
    }

    /// Gives up the class that matters least, oldest first. False where nothing can go like this.
    pub(super) fn displace(&mut self) -> bool {
        let lowest = |store: &Self| {
            let held = (0..store.databases.len()).filter(|at| store.may_go(*at));
            let classes = held.filter_map(|at| store.contents_of(at)?.lowest());
            classes.min()
        };
        self.count_all();
        let in_head = self.head.as_ref().and_then(|head| head.contents.lowest());
        if in_head.is_some_and(|class| lowest(self).is_none_or(|other| class < other)) {
            self.seal_head();
        }
        let Some(class) = lowest(self) else {
            return false;
        };
        let has = |at: usize| {
            let bytes = self.contents_of(at).map_or(0, |it| it.bytes[class.index()]);
            if self.may_go(at) { bytes } else { 0 }
        };
        let Some(from) = (0..self.databases.len()).find(|at| has(*at) > 0) else {
            return false;
        };
        let whole = |at: usize| self.contents_of(at).map_or(0, |it| it.bytes.iter().sum());
        if whole(from) == has(from) {
            return self.drop_whole(from, GoneCause::Displaced);
        }
        let bytes_max = self.options.database_bytes_max();
        let (mut to, mut goes, mut stays) = (from, 0_u64, 0_u64);
        while to < self.databases.len() && to - from < GROUP_MAX && has(to) > 0 {
            let kept: u64 = whole(to) - has(to);
            if to > from && (goes >= bytes_max || stays + kept > bytes_max) {
                break;
            }
            goes += has(to);
            stays += kept;
            to += 1;
        }
        let rule = Rule {
            cause: GoneCause::Displaced,
            level: 0,
            class: Some(class),
        };
        self.make_anew(from..to, &rule).is_ok()
    }

    /// Makes one database of two old ones that are equally coarse, with half of what is no event. False where nothing
    /// can be gained like this.
    pub(super) fn thin(&mut self) -> bool {
        self.count_all();
        let gains = |at: usize| {
            let sum = |count: &dyn Fn(&Contents) -> u64| -> u64 {
                let both = [at, at + 1].into_iter();
                both.filter_map(|at| self.contents_of(at)).map(count).sum()
            };
            let whole = sum(&|contents| contents.bytes.iter().sum());
            let soft = sum(&Contents::bytes_below_events);
            self.may_go(at) && self.may_go(at + 1) && soft > whole / 4
        };
        let Some(at) = self.pair_to_thin(&gains) else {
            return false;
        };
        let level = |at: usize| self.databases[at].origin.level;
        let rule = Rule {
            cause: GoneCause::Thinned,
            level: level(at)
                .max(level(at + 1))
                .saturating_add(1)
                .min(LEVEL_MAX),
            class: None,
        };
        self.make_anew(at..at + 2, &rule).is_ok()
    }

    /// The first of the two: half of the databases stay whole, and the rest is spread over the levels, so that each
    /// level covers twice the time of the one before it.
    fn pair_to_thin(&self, gains: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut oldest_pair = BTreeMap::new();
        let mut counts = BTreeMap::<u8, usize>::new();
        let mut any = None;
        for (at, database) in self.databases.iter().enumerate() {
            let level = database.origin.level;
            *counts.entry(level).or_default() += 1;
            let Some(next) = self.databases.get(at + 1) else {
                continue;
            };
            if gains(at) {
                any = any.or(Some(at));
                if next.origin.level == level {
                    oldest_pair.entry(level).or_insert(at);
                }
            }
        }
        let count = |level: u8| counts.get(&level).copied().unwrap_or(0);
        let coarse = oldest_pair.keys().copied().filter(|level| *level > 0);
        let fullest = coarse.max_by_key(|level| (count(*level), Reverse(*level)));
        let is_whole_enough = count(0) * 2 <= self.databases.len();
        let level = match fullest {
            Some(level) if is_whole_enough || !oldest_pair.contains_key(&0) => level,
            _ => 0,
        };
        oldest_pair.get(&level).copied().or(any)
    }

    fn contents_of(&self, at: usize) -> Option<&Contents> {
        self.databases.get(at)?.contents.as_ref()
    }

    /// Whether a database is readable and nothing of it may be on its way.
    pub(super) fn may_go(&self, at: usize) -> bool {
        self.databases.get(at).is_some_and(|database| {
            let (first, last) = (database.seqs.first(), database.seqs.last());
            let flying = self
                .in_flight
                .within(first.unwrap_or(0), last.unwrap_or(0))
                .without(&self.progress.done);
            !database.is_partial && flying.is_empty()
        })
    }

    /// Counts what nobody has counted: databases of an earlier form, and the one that a crash left.
    pub(super) fn count_all(&mut self) {
        for database in &mut self.databases {
            if database.contents.is_some() {
                continue;
            }
            let Ok(mut reader) = Reader::open(&database.path, database.name) else {
                continue;
            };
            let mut contents = Contents::default();
            for (first, last) in database.seqs.parts() {
                for seq in *first..=*last {
                    if let Ok(Some(payload)) = reader.read(seq) {
                        contents.add(&payload);
                    }
                }
            }
            database.contents = Some(contents);
        }
    }

    /// Gives up a database whole, for a reason that is noted. False where the medium refuses.
    pub(super) fn drop_whole(&mut self, at: usize, cause: GoneCause) -> bool {
        let Some(database) = self.databases.get(at) else {
            return false;
        };
        let waited = database.seqs.without(&self.progress.done);
        let before = self.progress.clone();
        let note = note_of(&waited, cause);
        // From the moment that this is on the medium they are done, and to be told.
        self.progress.notes_add(note);
        self.progress.done.insert_all(&waited);
        if self.write_progress(true).is_err() {
            self.progress = before;
            return false;
        }
        self.moment();
        self.gone.extend(note);
        self.progress_is_new = true;
        let unseen = self.unseen.get_mut();
        *unseen = unseen.without(&waited);
        self.delete(at)
    }

    /// Makes one database of some that lie side by side, with what the rule keeps, and deletes them.
    fn make_anew(&mut self, at: Range<usize>, rule: &Rule) -> Result<(), StoreFault> {
        self.check_free_space()?;
        let sorted = self.sort(at.clone(), rule)?;
        if sorted.kept.is_empty() && at.len() == 1 {
            return match self.drop_whole(at.start, rule.cause) {
                true => Ok(()),
                false => Err(fault("input-output", "a database cannot be deleted")),
            };
        }
        let sources = &self.databases[at.clone()];
        let first = sources.iter().map(|it| it.name.first).min().unwrap_or(0);
        let mut dropped = sorted.left_out.clone();
        let mut replaces = Vec::new();
        for source in sources {
            dropped.insert_all(&source.origin.dropped);
            replaces.push(source.name.generation);
            replaces.extend(&source.origin.replaces);
        }
        let mut head = self.create_head(first)?;
        self.moment();
        if let Err(fault) = commit_in_parts(&mut head, &sorted.kept) {
            head.discard();
            return Err(fault);
        }
        self.moment();
        let note = note_of(&sorted.left_out, rule.cause);
        let mut progress = self.progress.clone();
        progress.notes_add(note);
        progress.number = progress.number.saturating_add(1);
        let contents = head.contents.clone();
        let (name, path, seqs, bytes) = head.close();
        let reader = Reader::open(&path, name);
        let is_whole = |it: &Reader| seqs.without(&it.seqs()).is_empty() && !it.is_partial;
        let whole = reader.ok().filter(is_whole);
        let seal = Seal {
            epoch: name.epoch,
            seqs,
            bytes,
            disk_bytes: chain::disk_bytes(&path),
            progress: progress.told(&self.owed),
            contents: Some(contents),
            origin: Origin {
                level: rule.level,
                replaces,
                dropped,
            },
        };
        let is_sealed =
            whole.is_some_and(|reader| reader.trim().is_ok() && seal.write(&path).is_ok());
        if !is_sealed {
            let _ = std::fs::remove_dir_all(&path);
            return Err(fault("input-output", "a database cannot be made anew"));
        }
        self.moment();
        self.progress = progress;
        self.progress_is_new = true;
        self.gone.extend(note);
        self.stand_for(at, Database::sealed(name, path, seal));
        self.damaged.get_mut().insert_all(&sorted.damaged);
        self.remove_damaged()
    }

    /// The new database takes the place of those it was made from.
    fn stand_for(&mut self, at: Range<usize>, mut made: Database) {
        made.disk_bytes = chain::disk_bytes(&made.path);
        self.note_progress(true);
        self.moment();
        let sources: Vec<_> = self.databases.drain(at).collect();
        let unseen = self.unseen.get_mut();
        *unseen = unseen.without(&made.origin.dropped);
        for source in sources {
            let generation = source.name.generation;
            self.readers
                .get_mut()
                .retain(|reader| reader.generation != generation);
            if chain::delete(&self.options.path, &source.path).is_ok() {
                made.origin.replaces.retain(|it| *it != generation);
            }
            self.moment();
        }
        self.insert(made);
    }

    /// A moment at which the process may end.
    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, reason = "the tests look at the store here")
    )]
    fn moment(&self) {
        #[cfg(test)]
        tests::look(&self.options.path);
    }

    /// Reads what waits in these databases, and parts it.
    fn sort(&self, at: Range<usize>, rule: &Rule) -> Result<Sorted, StoreFault> {
        let mut sorted = Sorted::default();
        for source in &self.databases[at] {
            let mut reader =
                Reader::open(&source.path, source.name).map_err(|error| io_fault(&error))?;
            if reader.is_partial {
                return Err(fault("input-output", "the medium cannot read a place"));
            }
            let waiting = source.seqs.without(&self.progress.done);
            for seq in waiting
                .parts()
                .iter()
                .flat_map(|(first, last)| *first..=*last)
            {
                match reader.read(seq).map_err(|error| io_fault(&error))? {
                    None => sorted.damaged.insert(seq, seq),
                    Some(payload) if rule.keeps(seq, label(&payload).class) => {
                        sorted.kept.push(StoredRecord {
                            seq: Seq(seq),
                            payload,
                        });
                    }
                    Some(_) => sorted.left_out.insert(seq, seq),
                }
            }
        }
        sorted.kept.sort_by_key(|record| record.seq);
        Ok(sorted)
    }
}

/// One note for all of a set.
fn note_of(seqs: &Ranges, cause: GoneCause) -> Option<Gone> {
    Some(Gone {
        first: Seq(seqs.first()?),
        last: Seq(seqs.last()?),
        count: seqs.count(),
        cause,
    })
}

impl super::Progress {
    fn notes_add(&mut self, note: Option<Gone>) {
        debug_assert!(note.is_none_or(|note| Notes::is_of(note.cause)));
        if let Some(note) = note {
            self.notes.add(note);
        }
    }
}

fn commit_in_parts(head: &mut Head, records: &[StoredRecord]) -> Result<(), StoreFault> {
    let mut start = 0;
    let mut bytes = 0;
    for (at, record) in records.iter().enumerate() {
        bytes += head::weight(record.payload.len());
        if bytes >= COMMIT_BYTES || at + 1 == records.len() {
            let part: Vec<_> = records[start..=at].iter().collect();
            head.commit(&part, None)?;
            (start, bytes) = (at + 1, 0);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    //! A way for the tests to see the store at every moment of a rewriting.

    use std::{cell::RefCell, path::Path};

    type Look = Box<dyn FnMut(&Path)>;

    thread_local! {
        static LOOK: RefCell<Option<Look>> = const { RefCell::new(None) };
    }

    /// From now on `look` sees the store at every such moment of this thread.
    pub(in super::super) fn look_with(look: Look) {
        LOOK.set(Some(look));
    }

    pub(super) fn look(store: &Path) {
        // A look that opens a store of its own is not looked at.
        if let Some(mut look) = LOOK.take() {
            look(store);
            LOOK.set(Some(look));
        }
    }
}
