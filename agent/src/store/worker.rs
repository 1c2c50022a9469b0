//! The store's thread: gathers records into commits and tells the core what became of them.
//!
//! Owns: the [`Outbox`] while the agent runs. Must not: say `Stored` before the medium has the records.

use std::{
    collections::VecDeque,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use quorate_core::{
    event::{Event, GoneCause, StoredRecord, Worker},
    units::Seq,
};

use super::{Options, Outbox, ranges::Ranges};
use crate::{clock::Clock, threads};

/// Commands that may wait.
const COMMANDS_MAX: usize = 8_192;

/// The age of records is looked at so often in their time to live, within these limits.
const EXPIRY_PARTS: u64 = 100;
const EXPIRY_MS_MIN: u64 = 1_000;
const EXPIRY_MS_MAX: u64 = 60_000;

/// What the store is asked.
#[derive(Clone, Debug)]
pub enum Command {
    /// Make a record durable.
    Store(StoredRecord),
    /// Read records, as in `Action::Load`.
    Load {
        /// Exclusive lower end.
        after: Seq,
        /// Inclusive upper end.
        through: Seq,
        /// Most records.
        records_max: u32,
        /// Most payload bytes.
        bytes_max: u32,
    },
    /// Delete what is delivered.
    Forget {
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
    },
    /// Delete what can never be delivered.
    Discard {
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
    },
    /// Let delivered records that are still kept wait again.
    Recall {
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
    },
    /// Forget the notes of these losses: the receiver knows.
    Settle {
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
        /// Of this cause.
        cause: GoneCause,
    },
    /// Commit what waits, close and end.
    Close,
}

/// Starts the thread. It ends after [`Command::Close`] or when either channel loses its other end, with a last commit.
///
/// # Panics
/// The system gives no thread; there is nothing to run without one.
#[must_use]
pub fn spawn(
    outbox: Outbox,
    options: &Options,
    events: Sender<Event>,
) -> (Sender<Command>, JoinHandle<()>) {
    let (sender, commands) = crossbeam_channel::bounded(COMMANDS_MAX);
    let told = events.clone();
    let mut keeper = Keeper {
        outbox,
        events,
        waiting: Vec::new(),
        interval: Duration::from_millis(options.commit_interval_ms),
        records_max: usize::try_from(options.commit_records_max)
            .unwrap_or(usize::MAX)
            .max(1),
        due: None,
        in_flight_for: Duration::from_millis(options.in_flight_ms),
        in_flight: VecDeque::new(),
        expiry: options.ttl_ms.map(Expiry::new),
    };
    if options.commit_interval_ms == 0 {
        keeper.records_max = 1;
    }
    let thread = threads::spawn("store", Worker::Store, &told, move || keeper.run(&commands))
        .expect("a process that starts can start a thread");
    (sender, thread)
}

/// The core is gone.
struct Gone;

struct Keeper {
    outbox: Outbox,
    events: Sender<Event>,
    waiting: Vec<StoredRecord>,
    interval: Duration,
    records_max: usize,
    due: Option<Instant>,
    in_flight_for: Duration,
    /// What was read lately and not forgotten since: it may be on its way.
    in_flight: VecDeque<(Instant, Seq, Seq)>,
    expiry: Option<Expiry>,
}

/// When the age of records is looked at.
struct Expiry {
    clock: Clock,
    period: Duration,
    next: Instant,
}

impl Expiry {
    fn new(ttl_ms: u64) -> Self {
        let period_ms = (ttl_ms / EXPIRY_PARTS).clamp(EXPIRY_MS_MIN, EXPIRY_MS_MAX);
        Self {
            clock: Clock::real(),
            period: Duration::from_millis(period_ms),
            next: Instant::now(),
        }
    }
}

impl Keeper {
    fn run(mut self, commands: &Receiver<Command>) {
        // When nobody listens any more, what waits is still committed.
        let _ = self.serve(commands);
        let _ = self.commit();
        // A close that fails leaves the store as after a crash; the next opening checks it.
        let _ = self.outbox.close();
    }

    fn serve(&mut self, commands: &Receiver<Command>) -> Result<(), Gone> {
        loop {
            self.expire()?;
            let expiry = self.expiry.as_ref().map(|expiry| expiry.next);
            let next = match self.due.into_iter().chain(expiry).min() {
                Some(next) => commands.recv_deadline(next),
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(Command::Store(record)) => {
                    self.waiting.push(record);
                    let due = *self
                        .due
                        .get_or_insert_with(|| Instant::now() + self.interval);
                    if self.waiting.len() >= self.records_max || Instant::now() >= due {
                        self.commit()?;
                    }
                }
                Ok(Command::Load {
                    after,
                    through,
                    records_max,
                    bytes_max,
                }) => {
                    self.load(after, through, records_max, bytes_max)?;
                }
                Ok(Command::Forget { first, last }) => {
                    // A deletion that fails means repeats after a restart, which receivers drop.
                    let _ = self.outbox.forget(first, last);
                    self.in_flight
                        .retain(|(_, from, to)| *from < first || *to > last);
                    self.tell(Event::StoreReport(self.outbox.report()))?;
                }
                Ok(Command::Discard { first, last }) => {
                    // One that fails is refused by the broker again, and discarded again.
                    self.outbox.discard(first, last);
                    self.tell_gone()?;
                    self.tell(Event::StoreReport(self.outbox.report()))?;
                }
                Ok(Command::Settle { first, last, cause }) => {
                    self.outbox.acknowledge_loss(first, last, cause);
                }
                Ok(Command::Recall { first, last }) => {
                    let count = self.outbox.recall(first, last);
                    self.tell(Event::Recalled { first, last, count })?;
                    self.tell(Event::StoreReport(self.outbox.report()))?;
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.due.is_some_and(|due| Instant::now() >= due) {
                        self.commit()?;
                    }
                }
                Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn load(
        &mut self,
        after: Seq,
        through: Seq,
        records_max: u32,
        bytes_max: u32,
    ) -> Result<(), Gone> {
        let outcome = self.outbox.load(after, through, records_max, bytes_max);
        if let Ok(records) = &outcome
            && let (Some(first), Some(last)) = (records.first(), records.last())
        {
            let (first, last) = (first.seq, last.seq);
            self.in_flight
                .retain(|(_, from, to)| (*from, *to) != (first, last));
            self.in_flight.push_back((Instant::now(), first, last));
        }
        // What is damaged is left out now and deleted with the next success at the latest.
        let _ = self.outbox.remove_damaged();
        self.tell_gone()?;
        self.tell(match outcome {
            Ok(records) => Event::Loaded {
                after,
                through,
                records,
            },
            Err(fault) => Event::LoadFailed { fault },
        })
    }

    /// Gives up what is too old, while the wall clock can be believed.
    fn expire(&mut self) -> Result<(), Gone> {
        let Some(expiry) = &mut self.expiry else {
            return Ok(());
        };
        if Instant::now() < expiry.next {
            return Ok(());
        }
        expiry.next = Instant::now() + expiry.period;
        let wall = expiry.clock.wall();
        if !wall.synced {
            return Ok(());
        }
        self.hold_in_flight();
        self.outbox.expire(wall.unix_ms);
        if self.tell_gone()? {
            self.tell(Event::StoreReport(self.outbox.report()))?;
        }
        Ok(())
    }

    fn hold_in_flight(&mut self) {
        let limit = self.in_flight_for;
        while let Some((since, ..)) = self.in_flight.front()
            && since.elapsed() > limit
        {
            self.in_flight.pop_front();
        }
        let mut seqs = Ranges::default();
        for (_, first, last) in &self.in_flight {
            seqs.insert(first.0, last.0);
        }
        self.outbox.hold_in_flight(seqs);
    }

    fn commit(&mut self) -> Result<(), Gone> {
        self.due = None;
        let mut records = std::mem::take(&mut self.waiting);
        if records.is_empty() {
            return Ok(());
        }
        records.sort_by_key(|record| record.seq);
        self.hold_in_flight();
        let outcome = self.outbox.append(&records);
        // One answer for each run without a gap: what lies in a gap was not part of this commit.
        for run in records.chunk_by(|one, next| next.seq.0.saturating_sub(one.seq.0) <= 1) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let (first, last) = (first.seq, last.seq);
            self.tell(match &outcome {
                Ok(()) => Event::Stored { first, last },
                Err(fault) => Event::StoreFailed {
                    first,
                    last,
                    fault: fault.clone(),
                },
            })?;
        }
        self.tell_gone()?;
        self.tell(Event::StoreReport(self.outbox.report()))
    }

    /// Returns whether there was anything to tell.
    fn tell_gone(&mut self) -> Result<bool, Gone> {
        let gone = self.outbox.take_gone();
        for gone in &gone {
            self.tell(gone.event())?;
        }
        Ok(!gone.is_empty())
    }

    fn tell(&self, event: Event) -> Result<(), Gone> {
        self.events.send(event).map_err(|_| Gone)
    }
}
