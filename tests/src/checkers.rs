//! The checkers: what must hold in every run, each a plain function with a plain error.
//!
//! Owns: the properties and their tolerances. Must not: know how the world makes its faults. The world hands over facts
//! that it saw with its own eyes (its medium, its broker), never what the agent says of itself, but for the bounds.

use std::fmt;

use quorate_core::{
    config::{Order, OutboxConfig, STORING_RECORDS_MAX},
    units::{Mono, Seq},
    vote::{ChannelState, Quality, Vote},
};

/// Farthest that a vote may lie from the truth while at most one of three channels is faulty, in units of the quantity.
///
/// The channels of the world have an accuracy of 0.5 and noise within 0.15. A channel is told from its siblings once it
/// is farther off than what both accuracies explain (1.0); below that it may pull the value by its share of the weight.
/// The truth moves by less than 0.03 a second and a reading may stand for 12.5 s: 0.4 more.
pub const VOTE_TOLERANCE: f64 = 1.5;
/// Votes after a start that are not judged: the channels are still being learned.
pub const LEARNING_VOTES: usize = 60;
/// After healing no record may wait longer than this, in milliseconds: linger, commit and a round trip, generously.
pub const BACKLOG_AGE_MS_MAX: u64 = 30_000;
/// A stroke may come this much later than its rhythm, in milliseconds.
pub const STROKE_SLACK_MS: u64 = 500;

/// The checkers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checker {
    /// Nothing is published that is not durable.
    DurableBeforePublish,
    /// Nothing is forgotten before the broker took it.
    TakenBeforeForget,
    /// One (epoch, seq) names one payload for ever.
    OneNameOnePayload,
    /// Every durable record reaches the broker or is named as gone.
    EveryRecordArrives,
    /// After healing the backlog is gone and nothing is in flight.
    BacklogDrains,
    /// The vote stays near the truth while at most one channel is faulty.
    VoteNearTruth,
    /// Every tick of an up period has one vote, in order of time.
    EveryTickOnce,
    /// The watchdog is stroked while all is well, and not while a worker owes for too long.
    WatchdogTellsTheTruth,
    /// The same seed gives the same run.
    SameSeedSameRun,
    /// What the core keeps in memory and in flight is bounded.
    MemoryBounded,
    /// With a receiver that confirms, nothing is forgotten before it has it.
    ConfirmedBeforeForget,
    /// Live records go first where that was asked for, and a message says truly whether it is backlog.
    OrderKept,
    /// Limits of messages and bytes are kept.
    RateKept,
    /// What somebody asked for again arrives again.
    RecalledArrives,
    /// No record is dated before there was such a record.
    NothingFrom1970,
    /// After healing the device is at the preferred broker.
    PreferredAgain,
    /// What a message says of the records around its own is true: a receiver believes it.
    StandingTrue,
}

impl Checker {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::DurableBeforePublish,
        Self::TakenBeforeForget,
        Self::OneNameOnePayload,
        Self::EveryRecordArrives,
        Self::BacklogDrains,
        Self::VoteNearTruth,
        Self::EveryTickOnce,
        Self::WatchdogTellsTheTruth,
        Self::SameSeedSameRun,
        Self::MemoryBounded,
        Self::ConfirmedBeforeForget,
        Self::OrderKept,
        Self::RateKept,
        Self::RecalledArrives,
        Self::NothingFrom1970,
        Self::PreferredAgain,
        Self::StandingTrue,
    ];
}

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which property.
    pub checker: Checker,
    /// What was seen.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.checker, self.message)
    }
}

impl std::error::Error for Violation {}

/// The outcome of a checker.
pub type Check = Result<(), Violation>;

/// The property, or what was seen instead.
///
/// # Errors
/// When `holds` is false.
pub fn ensure(holds: bool, checker: Checker, message: impl FnOnce() -> String) -> Check {
    if holds {
        Ok(())
    } else {
        let message = message();
        Err(Violation { checker, message })
    }
}

/// What the world knows of one sequence number.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// The payload that was on the medium, flushed, at some time.
    pub durable: Option<std::sync::Arc<[u8]>>,
    /// The payload that the broker saw first, whether it took it or threw it away.
    pub seen: Option<std::sync::Arc<[u8]>>,
    /// How often the broker took it.
    pub taken: u32,
    /// How often the receiver got it.
    pub ingested: u32,
    /// When somebody asked for it again, until it arrives.
    pub recalled_ms: Option<u64>,
    /// When the agent was told that it is durable.
    pub told_ms: Option<u64>,
    /// The broker refused it, alone, because of what it holds.
    pub refused: bool,
    /// The agent gave it up.
    pub discarded: bool,
    /// The medium dropped it to make room.
    pub dropped: bool,
    /// An event that reached the broker names it as gone.
    pub named_gone: bool,
    /// When it became durable first, in milliseconds of the world.
    pub durable_ms: u64,
}

/// A record goes to the broker: it must be on the medium with these bytes.
///
/// # Errors
/// When it is not, or was never.
pub fn durable_before_publish(seq: Seq, life: &Life) -> Check {
    ensure(
        life.durable.is_some(),
        Checker::DurableBeforePublish,
        || format!("{seq:?} was published and is not durable"),
    )
}

/// A record is deleted as delivered.
///
/// # Errors
/// When the broker does not have it.
pub fn taken_before_forget(seq: Seq, life: &Life) -> Check {
    ensure(
        life.taken > 0 || life.discarded,
        Checker::TakenBeforeForget,
        || format!("{seq:?} was forgotten and the broker does not have it"),
    )
}

/// A record is deleted as delivered while the receiver confirms.
///
/// # Errors
/// When the receiver does not have it.
pub fn confirmed_before_forget(seq: Seq, life: &Life, confirms: bool) -> Check {
    ensure(
        !confirms || life.ingested > 0 || life.discarded,
        Checker::ConfirmedBeforeForget,
        || format!("{seq:?} was forgotten and the receiver does not have it"),
    )
}

/// After healing: everything that was asked for again has arrived since.
///
/// # Errors
/// The first that has not.
pub fn recalled_arrives(lives: &[Life], now_ms: u64) -> Check {
    for (seq, life) in lives.iter().enumerate() {
        let asked_ms = life
            .recalled_ms
            .filter(|_| !life.named_gone && !life.dropped);
        ensure(
            asked_ms.is_none_or(|asked_ms| asked_ms + BACKLOG_AGE_MS_MAX >= now_ms),
            Checker::RecalledArrives,
            || format!("seq {seq} was asked for again at {asked_ms:?} ms and did not come"),
        )?;
    }
    Ok(())
}

/// A message with `live` records of this connection among `count`.
///
/// # Errors
/// When it has both kinds, or says otherwise.
pub fn historical_is_true(historical: bool, live: usize, count: usize) -> Check {
    let expected = if historical { 0 } else { count };
    ensure(live == expected, Checker::OrderKept, || {
        format!("{live} of {count} records are live in a message with historical = {historical}")
    })
}

/// A record that is kept, and that a message says is not there or does not come.
///
/// # Errors
/// When the broker has never taken it.
pub fn standing_is_true(seq: Seq, life: &Life, said: &str) -> Check {
    ensure(life.taken > 0, Checker::StandingTrue, || {
        format!("{seq:?} is kept and was never taken, and a message says that it is {said}")
    })
}

/// A backlog goes while a live record waits.
///
/// # Errors
/// When live records go first and it waits for too long.
pub fn live_goes_first(order: Order, waiting: Seq, waits_ms: u64, waits_ms_max: u64) -> Check {
    ensure(
        order != Order::LiveFirst || waits_ms <= waits_ms_max,
        Checker::OrderKept,
        || format!("backlog was sent while {waiting:?} has waited for {waits_ms} ms"),
    )
}

/// Messages of a stretch of time.
#[derive(Clone, Copy, Debug)]
pub struct MessageRate {
    /// How many.
    pub messages: u64,
    /// Their bytes, but for the last, whose size nobody knew before.
    pub bytes: u64,
    /// How long, in milliseconds.
    pub within_ms: u64,
}

/// The limits, each with one second's worth at once, and one message beyond that of bytes.
///
/// # Errors
/// When there were more.
pub fn rate_kept(promised: &OutboxConfig, rate: MessageRate) -> Check {
    let seconds = rate.within_ms / 1_000 + 1;
    let messages_max = u64::from(promised.messages_per_second_max) * seconds;
    // A debt is paid before the next message.
    let bytes_max = u64::from(promised.bytes_per_second_max) * seconds
        + u64::from(promised.batch_bytes_max)
        + 2_048;
    let messages = messages_max == 0 || rate.messages <= messages_max + 1;
    let bytes = promised.bytes_per_second_max == 0 || rate.bytes <= bytes_max;
    ensure(messages && bytes, Checker::RateKept, || {
        format!("{rate:?} where {messages_max} messages and {bytes_max} bytes are allowed")
    })
}

/// The date of a record that the broker sees.
///
/// # Errors
/// When it lies before the first release.
pub fn nothing_from_1970(seq: Seq, payload: &[u8]) -> Check {
    let text = String::from_utf8_lossy(payload);
    let time = text
        .split("\"time\":\"")
        .nth(1)
        .and_then(|rest| rest.get(..4));
    ensure(
        time.is_none_or(|year| year >= "2026"),
        Checker::NothingFrom1970,
        || format!("{seq:?} is dated {}", time.unwrap_or_default()),
    )
}

/// Where the device is after healing.
///
/// # Errors
/// When it is elsewhere.
pub fn preferred_again(elsewhere: bool) -> Check {
    ensure(!elsewhere, Checker::PreferredAgain, || {
        "the preferred broker is there and another one is used".into()
    })
}

/// A record is deleted as refused.
///
/// # Errors
/// When the broker did not refuse it.
pub fn refused_before_discard(seq: Seq, life: &Life) -> Check {
    ensure(life.refused, Checker::TakenBeforeForget, || {
        format!("{seq:?} was discarded and the broker never refused it alone")
    })
}

/// The broker sees a payload under a name.
///
/// # Errors
/// When it has seen another payload under the same name.
pub fn one_name_one_payload(seq: Seq, life: &Life, payload: &[u8]) -> Check {
    let same = life.seen.as_deref().is_none_or(|seen| seen == payload);
    ensure(same, Checker::OneNameOnePayload, || {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let first = text(life.seen.as_deref().unwrap_or_default());
        format!(
            "{seq:?} names two payloads:\n  {first}\n  {}",
            text(payload)
        )
    })
}

/// After healing: every durable record older than the allowed backlog has arrived or is named as gone.
///
/// # Errors
/// The first that has not.
pub fn every_record_arrives(lives: &[Life], now_ms: u64) -> Check {
    for (seq, life) in lives.iter().enumerate() {
        let due = life.durable.is_some() && life.durable_ms + BACKLOG_AGE_MS_MAX < now_ms;
        ensure(
            !due || life.ingested > 0 || life.named_gone,
            Checker::EveryRecordArrives,
            || {
                format!(
                    "seq {seq} was durable at {} ms and neither arrived nor was named as gone ({})",
                    life.durable_ms,
                    if life.discarded {
                        "discarded"
                    } else {
                        "not discarded"
                    }
                )
            },
        )?;
    }
    Ok(())
}

/// After healing: nothing old waits on the medium and nothing is in flight.
///
/// # Errors
/// What is left.
pub fn backlog_drains(oldest_durable_ms: Option<u64>, now_ms: u64, inflight: u64) -> Check {
    let young = oldest_durable_ms.is_none_or(|oldest| now_ms - oldest <= BACKLOG_AGE_MS_MAX);
    ensure(young && inflight == 0, Checker::BacklogDrains, || {
        format!(
            "oldest waiting record of {oldest_durable_ms:?} ms at {now_ms} ms, {inflight} messages in flight"
        )
    })
}

/// One vote with at most one faulty channel, after learning.
///
/// # Errors
/// When a value that calls itself good or degraded lies too far off.
pub fn vote_near_truth(quantity: usize, vote: &Vote, truth: f64) -> Check {
    let judged = matches!(vote.quality, Quality::Good | Quality::Degraded)
        && vote
            .verdicts
            .iter()
            .all(|verdict| verdict.state != ChannelState::Learning);
    let off = vote.value.map_or(0.0, |value| (value - truth).abs());
    ensure(
        !judged || off <= VOTE_TOLERANCE,
        Checker::VoteNearTruth,
        || format!("quantity {quantity}: vote {vote:?} is {off:.2} from the truth {truth:.2}"),
    )
}

/// The votes of one quantity in one up period.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// First tick expected.
    pub first: Mono,
    /// Time between ticks in milliseconds.
    pub period_ms: u64,
    /// Last instant that the agent was told of.
    pub end: Mono,
}

/// Checks the ticks of one quantity, in the order of their records. Returns how many ticks are missing.
///
/// # Errors
/// When a tick comes twice, goes back or lies beside the grid.
pub fn every_tick_once(grid: Grid, ticks: &[Mono]) -> Result<u64, Violation> {
    let mut next = grid.first;
    let mut missing = 0;
    for &tick in ticks {
        let on_grid = tick >= next && tick.since_ms(next) % grid.period_ms == 0;
        ensure(on_grid, Checker::EveryTickOnce, || {
            format!("a vote of {tick:?} where {next:?} was next")
        })?;
        missing += tick.since_ms(next) / grid.period_ms;
        next = tick.plus_ms(grid.period_ms);
    }
    if grid.end > next {
        missing += grid.end.since_ms(next).div_ceil(grid.period_ms);
    }
    Ok(missing)
}

/// The ticks that are missing must be explained: passed over and counted, or in records never handed to the store.
///
/// # Errors
/// When they are not.
pub fn missing_ticks_explained(missing: u64, counted: u64, unseen: u64, frozen: bool) -> Check {
    ensure(
        missing <= counted + unseen && missing + unseen >= counted && (frozen || counted == 0),
        Checker::EveryTickOnce,
        || {
            format!(
                "{missing} ticks have no vote; {counted} were counted as missed, {unseen} records were not stored, frozen: {frozen}"
            )
        },
    )
}

/// A stroke arrives while the oldest debt of a worker is this old.
///
/// # Errors
/// When it is older than the limit.
pub fn no_stroke_while_stalled(debt_ms: u64, stall_ms: u64) -> Check {
    ensure(debt_ms <= stall_ms, Checker::WatchdogTellsTheTruth, || {
        format!("stroked while a worker has owed for {debt_ms} ms")
    })
}

/// Nothing has been owed for long since `well_ms`: a stroke must have come by now.
///
/// # Errors
/// When it has not.
pub fn strokes_while_well(since_ms: u64, stroke_ms: u64) -> Check {
    ensure(
        since_ms <= stroke_ms + STROKE_SLACK_MS,
        Checker::WatchdogTellsTheTruth,
        || format!("no stroke for {since_ms} ms while all is well"),
    )
}

/// Two runs of one seed.
///
/// # Errors
/// When they differ.
pub fn same_seed_same_run(first: u64, second: u64) -> Check {
    ensure(first == second, Checker::SameSeedSameRun, || {
        format!("trace hashes {first:016x} and {second:016x}")
    })
}

/// What the core holds at once.
///
/// # Errors
/// When a limit is passed.
pub fn memory_bounded(inflight: u64, inflight_max: u64, storing: u64) -> Check {
    let storing_max = u64::try_from(STORING_RECORDS_MAX).unwrap_or(u64::MAX);
    ensure(
        inflight <= inflight_max && storing <= storing_max,
        Checker::MemoryBounded,
        || {
            format!(
                "{inflight} of {inflight_max} messages in flight, {storing} of {storing_max} records waiting"
            )
        },
    )
}
