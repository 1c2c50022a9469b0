//! The simulated world: one device, its sensors, its medium, its broker and its clock, from one seed.
//!
//! Owns: virtual time and the order of everything that happens. Must not: read a clock; a run is a function of its
//! [`Options`]. An hour of chaos is followed by healing, after which nothing may be left over.

mod disk;
mod faults;
mod network;
mod perform;
mod plant;
mod receiver;
mod sabotage;
mod trace;
mod watch;

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    fmt,
    sync::atomic::{AtomicU64, Ordering as Memory},
};

use fastrand::Rng;
use quorate_core::{
    agent::Agent,
    checkpoint::Checkpoint,
    config::{Config, Recovered},
    event::{AckOutcome, Action, Event, StoredRecord},
    record::Body,
    units::{BatchId, BootId, Epoch, Mono, Seq},
};

pub use self::sabotage::Sabotage;
use self::{
    disk::Disk,
    faults::{Mix, chance},
    network::Network,
    receiver::Sending,
    trace::Trace,
    watch::{Period, Watch},
};
use crate::checkers::{self, Check, Checker, LEARNING_VOTES, Life, Violation, ensure};

/// World time at which the first boot comes, in milliseconds.
const START_MS: u64 = 10_000;
/// A monotonic clock stands at this when the agent starts, in milliseconds.
const BOOT_MS: u64 = 5_000;
/// The service manager ends an agent that has not stroked for this long, in milliseconds.
const WATCHDOG_MS: u64 = 30_000;
/// After healing the world looks for a moment with nothing in flight for this long, in milliseconds.
const QUIET_MS: u64 = 10_000;
/// So many ticks at one instant are one too many.
const TICKS_AT_ONCE_MAX: u32 = 1_000;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The whole run follows from it.
    pub seed: u64,
    /// How long faults happen, in milliseconds.
    pub chaos_ms: u64,
    /// How long the world then has to get well, in milliseconds.
    pub heal_ms: u64,
    /// What is broken on purpose.
    pub sabotage: Sabotage,
    /// Writes every event and action to standard error.
    pub trace: bool,
}

impl Options {
    /// An hour of chaos and ten minutes of healing.
    #[must_use]
    pub const fn hour(seed: u64) -> Self {
        Self {
            seed,
            chaos_ms: 3_600_000,
            heal_ms: 600_000,
            sabotage: Sabotage::None,
            trace: false,
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Hash over every event and action.
    pub hash: u64,
    /// Simulated time in milliseconds.
    pub device_ms: u64,
    /// Events given to the agent.
    pub events: u64,
    /// Actions performed.
    pub actions: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Restarts by the watchdog.
    pub watchdog_restarts: u64,
    /// Records that the broker took, repeats included.
    pub taken: u64,
    /// Records that the broker took again.
    pub repeats: u64,
    /// Records that made room for others.
    pub dropped: u64,
    /// Records given up because the broker refuses them for ever.
    pub discarded: u64,
    /// Votes compared with the truth.
    pub votes_judged: u64,
}

/// A run that broke a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// World time in milliseconds.
    pub at_ms: u64,
    /// The property.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "seed {} at {} ms: {}\nreplay: SEED={} TRACE=1 cargo test -p quorate-tests --test world one_seed -- --nocapture",
            self.seed, self.at_ms, self.violation, self.seed
        )
    }
}

impl std::error::Error for Failure {}

/// Something that will happen.
#[derive(Debug)]
enum Pending {
    Tell {
        boot: u64,
        event: Event,
    },
    CommitBegins {
        boot: u64,
    },
    CommitEnds {
        boot: u64,
    },
    Wall {
        boot: u64,
    },
    Connected {
        connection: u64,
    },
    Break {
        connection: u64,
    },
    Arrives {
        connection: u64,
        batch: BatchId,
        records: Vec<StoredRecord>,
    },
    Acknowledged {
        connection: u64,
        batch: BatchId,
        outcome: AckOutcome,
    },
    Receiver,
    Restart,
}

/// Ordered so that the heap gives the earliest first, and of one instant the one that was scheduled first.
#[derive(Debug)]
struct Entry {
    at_ms: u64,
    order: u64,
    pending: Pending,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ms, other.order).cmp(&(self.at_ms, self.order))
    }
}

/// The world.
#[derive(Debug)]
struct World {
    options: Options,
    random: Rng,
    mix: Mix,
    /// Quantities of which never more than one sensor is bad; a voter remembers what two bad ones taught it.
    single: Vec<bool>,
    config: Config,
    now_ms: u64,
    order: u64,
    heap: BinaryHeap<Entry>,
    agent: Option<Agent>,
    boot: u64,
    frozen_until_ms: u64,
    wake_late_ms: u64,
    ticks_at_once: u32,
    disk: Disk,
    network: Network,
    sending: Sending,
    /// The preferred one of two brokers never is there.
    preferred_dead: bool,
    watch: Watch,
    period: Period,
    lives: Vec<Life>,
    checkpoint: Option<Checkpoint>,
    wall_sync_ms: u64,
    wall_offset_ms: i64,
    actions: Vec<Action>,
    trace: Trace,
    outcome: Outcome,
}

/// Runs one seed.
///
/// # Errors
/// The first property that did not hold.
pub fn run(options: Options) -> Result<Outcome, Failure> {
    let mut world = World::new(options);
    world.run().map_err(|violation| Failure {
        seed: options.seed,
        at_ms: world.now_ms,
        violation,
    })?;
    world.outcome.hash = world.trace.hash();
    world.outcome.device_ms = world.now_ms - START_MS;
    Ok(world.outcome)
}

/// Runs one seed twice and compares.
///
/// # Errors
/// The first property that did not hold, or that the runs differ.
pub fn run_twice(options: Options) -> Result<Outcome, Failure> {
    let first = run(options)?;
    let second = run(options)?;
    checkers::same_seed_same_run(first.hash, second.hash).map_err(|violation| Failure {
        seed: options.seed,
        at_ms: first.device_ms,
        violation,
    })?;
    Ok(first)
}

impl World {
    fn new(options: Options) -> Self {
        let mut random = Rng::with_seed(options.seed);
        let quantities = random.usize(2..=3);
        let mut mix = Mix::draw(&mut random, quantities);
        let (mut outbox, mut link) = plant::sending(&mut random);
        let mut preferred_dead = link.brokers > 1 && random.u8(0..4) == 0;
        options
            .sabotage
            .prepare(&mut mix, &mut outbox, &mut link, &mut preferred_dead);
        let sending = Sending::new(outbox.clone());
        options.sabotage.misconfigure(&mut outbox, &mut link);
        Self {
            sending,
            preferred_dead,
            single: mix.bad_sensors.iter().map(|bad| bad.len() <= 1).collect(),
            disk: Disk::new(mix.records_max),
            mix,
            random,
            config: plant::config(quantities, (outbox, link)),
            now_ms: START_MS,
            order: 0,
            heap: BinaryHeap::new(),
            agent: None,
            boot: 0,
            frozen_until_ms: 0,
            wake_late_ms: 0,
            ticks_at_once: 0,
            network: Network::default(),
            watch: Watch::new(START_MS),
            period: Period::new(START_MS, Mono(0), Seq(1), quantities),
            lives: Vec::new(),
            checkpoint: None,
            wall_sync_ms: 0,
            wall_offset_ms: 0,
            actions: Vec::new(),
            trace: Trace::new(options.trace),
            outcome: Outcome::default(),
            options,
        }
    }

    fn run(&mut self) -> Check {
        ensure(
            self.config.validate().is_ok(),
            Checker::EveryTickOnce,
            || "the world's own configuration is not valid".into(),
        )?;
        self.trace
            .say(self.now_ms, || format!("fault mix: {:?}", self.mix));
        self.later(0, Pending::Restart);
        self.later(0, Pending::Receiver);
        let chaos_end_ms = START_MS + self.options.chaos_ms;
        while self.next_ms() < chaos_end_ms {
            self.step()?;
        }
        self.mix = self.mix.healed();
        let heal_end_ms = chaos_end_ms + self.options.heal_ms;
        while self.next_ms() < heal_end_ms {
            self.step()?;
        }
        while self.inflight() > 0 && self.next_ms() < heal_end_ms + QUIET_MS {
            self.step()?;
        }
        self.check_end()
    }

    /// When the next thing happens.
    fn next_ms(&self) -> u64 {
        let scheduled = self.heap.peek().map_or(u64::MAX, |entry| entry.at_ms);
        scheduled.min(self.wake_ms())
    }

    fn wake_ms(&self) -> u64 {
        let Some(agent) = &self.agent else {
            return u64::MAX;
        };
        let due_ms = self.period.origin_ms + agent.next_deadline().0 + self.wake_late_ms;
        due_ms.max(self.frozen_until_ms).max(self.now_ms)
    }

    fn step(&mut self) -> Check {
        let wake_ms = self.wake_ms();
        let scheduled = self.heap.peek().map_or(u64::MAX, |entry| entry.at_ms);
        if wake_ms < scheduled {
            self.ticks_at_once = if wake_ms == self.now_ms {
                self.ticks_at_once + 1
            } else {
                0
            };
            ensure(
                self.ticks_at_once < TICKS_AT_ONCE_MAX,
                Checker::MemoryBounded,
                || "the agent asks for a tick at the same instant for ever".into(),
            )?;
            self.now_ms = wake_ms;
            return self.deliver(Event::Tick);
        }
        let Some(entry) = self.heap.pop() else {
            return Ok(());
        };
        self.now_ms = self.now_ms.max(entry.at_ms);
        self.happen(entry.pending)
    }

    fn happen(&mut self, pending: Pending) -> Check {
        match pending {
            Pending::Tell { boot, event } if boot == self.boot => self.deliver(event),
            Pending::CommitBegins { boot } if boot == self.boot => {
                self.begin_commit();
                Ok(())
            }
            Pending::CommitEnds { boot } if boot == self.boot => self.end_commit(),
            Pending::Wall { boot } if boot == self.boot => {
                self.check_memory()?;
                self.maybe_freeze();
                self.read_wall()
            }
            Pending::Connected { connection } => self.connected(connection),
            Pending::Break { connection } => self.break_link(connection),
            Pending::Arrives {
                connection,
                batch,
                records,
            } => self.arrives(connection, batch, &records),
            Pending::Acknowledged {
                connection,
                batch,
                outcome,
            } => {
                if connection == self.network.connection && self.network.up {
                    self.deliver(Event::Acked { batch, outcome })
                } else {
                    Ok(())
                }
            }
            Pending::Receiver => self.receiver_acts(),
            Pending::Restart => self.restart(),
            // What belonged to an earlier boot is gone with it.
            Pending::Tell { .. }
            | Pending::CommitBegins { .. }
            | Pending::CommitEnds { .. }
            | Pending::Wall { .. } => Ok(()),
        }
    }

    /// Gives the agent an event and performs what it asks for; power may fail between any two deeds.
    fn deliver(&mut self, event: Event) -> Check {
        if self.agent.is_none() {
            return Ok(());
        }
        if self.now_ms < self.frozen_until_ms {
            let thaw_ms = self.frozen_until_ms - self.now_ms;
            self.tell_later(thaw_ms, event);
            return Ok(());
        }
        let now = self.mono();
        let stall_ms = self.config.vitals.stall_ms;
        self.watch.note_debt(self.now_ms, stall_ms);
        self.watch.heard(&event);
        self.heard(&event);
        self.trace.event(self.now_ms, &event);
        self.outcome.events += 1;
        let mut actions = std::mem::take(&mut self.actions);
        let is_tick = event == Event::Tick;
        if let Some(agent) = &mut self.agent {
            agent.handle(now, event, &mut actions);
        }
        if is_tick {
            self.period.told = now;
            self.wake_late_ms = self.random.u64(0..=2);
        }
        self.sabotage(&mut actions);
        self.observe(&actions)?;
        self.note_live(&actions);
        let any = !actions.is_empty();
        for action in actions.drain(..) {
            if self.power_fails(&action) {
                self.actions = Vec::new();
                return self.power_cut();
            }
            self.perform(action)?;
        }
        self.actions = actions;
        if any && self.power_fails(&Action::StrokeWatchdog) {
            return self.power_cut();
        }
        self.watch.note_debt(self.now_ms, stall_ms);
        self.watch
            .check(self.now_ms, self.config.vitals.stroke_ms)?;
        if self.now_ms - self.watch.stroked_ms > WATCHDOG_MS {
            self.outcome.watchdog_restarts += 1;
            return self.power_cut();
        }
        Ok(())
    }

    /// Judges votes when they are made, before anything can happen to them.
    fn observe(&mut self, actions: &[Action]) -> Check {
        for action in actions {
            let Action::Store { record } = action else {
                continue;
            };
            let Some((quantity, votes)) = self.period.record(record)? else {
                continue;
            };
            let single = self.single[quantity];
            if let Body::Vote { vote, .. } = &record.body
                && single
                && votes > LEARNING_VOTES
            {
                let truth = plant::truth(quantity, self.period.origin_ms + record.stamp.mono.0);
                checkers::vote_near_truth(quantity, vote, truth)?;
                self.outcome.votes_judged += 1;
            }
        }
        Ok(())
    }

    fn power_fails(&mut self, action: &Action) -> bool {
        // Most deeds are polls, before which a cut is of little interest.
        let ppm = match action {
            Action::Poll { .. } => self.mix.power_cut_ppm / 8,
            Action::Discard { .. } => self.mix.power_cut_ppm * 100,
            _ => self.mix.power_cut_ppm,
        };
        ppm > 0 && self.random.u32(0..1_000_000) < ppm
    }

    fn power_cut(&mut self) -> Check {
        self.trace.say(self.now_ms, || "power is cut".into());
        self.outcome.power_cuts += 1;
        let agent = self.agent.take();
        if let Some(agent) = &agent {
            self.check_period(agent)?;
        }
        self.network.drop_connection();
        let found = self.disk.power_cut(&mut self.random);
        self.device_restarted();
        self.make_durable(&found);
        // Its pending events stay in the heap and find that their boot is over.
        self.boot += 1;
        let off_ms = self.random.u64(500..=5_000);
        self.later(off_ms, Pending::Restart);
        Ok(())
    }

    fn restart(&mut self) -> Check {
        self.boot += 1;
        self.frozen_until_ms = 0;
        let mut boot = [0; 16];
        boot.fill_with(|| self.random.u8(..));
        let recovered = Recovered {
            epoch: Epoch(1),
            seq_next: self.disk.seq_next(self.options.sabotage),
            boot: BootId(boot),
            seed: self.random.u64(..),
        };
        let started = Mono(BOOT_MS);
        let origin_ms = self.now_ms - BOOT_MS;
        let quantities = self.config.quantities.len();
        self.period = Period::new(origin_ms, started, recovered.seq_next, quantities);
        self.watch = Watch::new(self.now_ms);
        self.wall_sync_ms = self.random.u64(5_000..=400_000);
        self.agent = Some(Agent::recover(self.config.clone(), recovered, started));
        for note in self.disk.notes().to_vec() {
            self.note_dropped(note);
            self.tell_gone(note);
        }
        self.read_wall()?;
        match self.checkpoint.clone() {
            Some(checkpoint) => self.deliver(Event::Checkpoint(checkpoint)),
            None => Ok(()),
        }
    }

    /// The process is stopped for a while, as by a debugger or a machine without memory.
    fn maybe_freeze(&mut self) {
        if chance(&mut self.random, self.mix.freeze) {
            self.frozen_until_ms = self.now_ms + self.random.u64(1_000..=20_000);
            self.period.frozen = true;
            self.watch.excuse(self.frozen_until_ms);
        }
    }

    fn check_memory(&self) -> Check {
        let Some(agent) = &self.agent else {
            return Ok(());
        };
        let health = agent.health(self.mono());
        let limit = self
            .config
            .outbox
            .inflight_batches_max
            .min(u32::from(self.network.inflight_max));
        let inflight = health.link.map_or(0, |link| link.inflight);
        let inflight = if self.network.up { inflight } else { 0 };
        checkers::memory_bounded(inflight, u64::from(limit), health.store.storing)
    }

    fn check_period(&self, agent: &Agent) -> Check {
        self.period.check(&self.config, agent)
    }

    fn inflight(&self) -> u64 {
        let health = self.agent.as_ref().map(|agent| agent.health(self.mono()));
        health
            .and_then(|health| health.link)
            .map_or(0, |link| link.inflight)
    }

    fn check_end(&mut self) -> Check {
        let oldest = self.disk.oldest();
        let oldest_ms = oldest.map(|seq| self.life(seq).durable_ms);
        // First what was lost: a backlog that is stuck is the milder finding of the two.
        checkers::every_record_arrives(&self.lives, self.now_ms)?;
        checkers::recalled_arrives(&self.lives, self.now_ms)?;
        let elsewhere = self.brokers() > 1 && !self.preferred_dead && self.network.broker > 0;
        checkers::preferred_again(elsewhere)?;
        checkers::backlog_drains(oldest_ms, self.now_ms, self.inflight())?;
        self.agent
            .as_ref()
            .map_or(Ok(()), |agent| self.check_period(agent))
    }

    fn life(&mut self, seq: Seq) -> &mut Life {
        let index = usize::try_from(seq.0).unwrap_or(0);
        if self.lives.len() <= index {
            self.lives.resize_with(index + 1, Life::default);
        }
        &mut self.lives[index]
    }

    fn mono(&self) -> Mono {
        self.mono_at(self.now_ms)
    }

    fn mono_at(&self, at_ms: u64) -> Mono {
        Mono(at_ms.saturating_sub(self.period.origin_ms))
    }

    fn later(&mut self, delay_ms: u64, pending: Pending) {
        self.order += 1;
        self.heap.push(Entry {
            at_ms: self.now_ms + delay_ms,
            order: self.order,
            pending,
        });
    }

    /// Something that ends with this boot.
    fn here(&mut self, delay_ms: u64, pending: impl FnOnce(u64) -> Pending) {
        self.later(delay_ms, pending(self.boot));
    }

    fn tell_later(&mut self, delay_ms: u64, event: Event) {
        self.here(delay_ms, |boot| Pending::Tell { boot, event });
    }

    /// 0 but for the sabotage that makes two runs of one seed differ.
    fn not_of_the_seed(&self) -> u64 {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        if self.options.sabotage == Sabotage::Nondeterministic {
            CALLS.fetch_add(1, Memory::Relaxed) % 977
        } else {
            0
        }
    }
}
