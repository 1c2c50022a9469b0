//! Sabotage: one broken world per property, so that every checker is seen to catch what it is for.

use crate::checkers::Checker;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// A record goes to the broker when it is handed to the store.
    PublishBeforeStore,
    /// A commit is confirmed that was never flushed.
    LyingDisk,
    /// A message is deleted when it is sent.
    ForgetBeforeAck,
    /// After a restart sequence numbers go on from the highest record that is left.
    SeqFromMaxKey,
    /// The medium loses a record now and then and says nothing.
    DropsSilently,
    /// Records are given up and nobody tells.
    SilentDiscard,
    /// The medium makes room for new records and forgets what it dropped.
    ForgetsNotes,
    /// Deletions are ignored.
    KeepsDelivered,
    /// A voted value is changed before it is stored.
    TwistedVote,
    /// A vote repeats the time of the one before.
    RepeatedTick,
    /// A vote is left out.
    SkippedTick,
    /// Strokes of the watchdog are swallowed.
    DeafWatchdog,
    /// The watchdog is stroked whatever is owed.
    BlindWatchdog,
    /// A delay depends on something other than the seed.
    Nondeterministic,
    /// The agent is told of a larger Receive Maximum than the broker's.
    FloodsBroker,
}

impl Sabotage {
    /// Every kind with the checker that must catch it.
    pub const ALL: [(Self, Checker); 15] = [
        (Self::PublishBeforeStore, Checker::DurableBeforePublish),
        (Self::LyingDisk, Checker::DurableBeforePublish),
        (Self::ForgetBeforeAck, Checker::TakenBeforeForget),
        (Self::SeqFromMaxKey, Checker::OneNameOnePayload),
        (Self::DropsSilently, Checker::EveryRecordArrives),
        (Self::SilentDiscard, Checker::EveryRecordArrives),
        (Self::ForgetsNotes, Checker::EveryRecordArrives),
        (Self::KeepsDelivered, Checker::BacklogDrains),
        (Self::TwistedVote, Checker::VoteNearTruth),
        (Self::RepeatedTick, Checker::EveryTickOnce),
        (Self::SkippedTick, Checker::EveryTickOnce),
        (Self::DeafWatchdog, Checker::WatchdogTellsTheTruth),
        (Self::BlindWatchdog, Checker::WatchdogTellsTheTruth),
        (Self::Nondeterministic, Checker::SameSeedSameRun),
        (Self::FloodsBroker, Checker::MemoryBounded),
    ];
}
