//! The store's thread: gathers records into commits and tells the core what became of them.
//!
//! Owns: the [`Outbox`] while the agent runs. Must not: say `Stored` before the medium has the records.

use std::{
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use quorate_core::{
    event::{Event, StoredRecord, Worker},
    units::Seq,
};

use super::{Options, Outbox};
use crate::threads;

/// Commands that may wait.
const COMMANDS_MAX: usize = 8_192;

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
            let next = match self.due {
                Some(due) => commands.recv_deadline(due),
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
                    self.tell(Event::StoreReport(self.outbox.report()))?;
                }
                Ok(Command::Discard { first, last }) => {
                    // One that fails is refused by the broker again, and discarded again.
                    self.outbox.discard(first, last);
                    self.tell_gone()?;
                    self.tell(Event::StoreReport(self.outbox.report()))?;
                }
                Ok(Command::Recall { first, last }) => {
                    let count = self.outbox.recall(first, last);
                    self.tell(Event::Recalled { first, last, count })?;
                    self.tell(Event::StoreReport(self.outbox.report()))?;
                }
                Ok(Command::Settle { first, last }) => self.outbox.acknowledge_loss(first, last),
                Err(RecvTimeoutError::Timeout) => self.commit()?,
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

    fn commit(&mut self) -> Result<(), Gone> {
        self.due = None;
        let mut records = std::mem::take(&mut self.waiting);
        if records.is_empty() {
            return Ok(());
        }
        records.sort_by_key(|record| record.seq);
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

    fn tell_gone(&mut self) -> Result<(), Gone> {
        for gone in self.outbox.take_gone() {
            self.tell(gone.event())?;
        }
        Ok(())
    }

    fn tell(&self, event: Event) -> Result<(), Gone> {
        self.events.send(event).map_err(|_| Gone)
    }
}
