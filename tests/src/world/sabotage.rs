//! Sabotage: one broken world per property, so that every checker is seen to catch what it is for.

use quorate_core::config::{ConfirmBy, LinkConfig, Order, OutboxConfig};

use super::faults::Mix;
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
    /// With a receiver that confirms, records go when the broker has them.
    ForgetsOnPuback,
    /// A record that the broker refuses for what it may is given up.
    GivesUpRefused,
    /// The backlog goes before live records.
    BacklogFirst,
    /// Limits of messages are not kept.
    DeafToRate,
    /// Records that wait again are not sent.
    ForgetsRecall,
    /// The wall clock is believed before it is set.
    BelievesTheClock,
    /// Whichever broker is asked for, the first is dialled.
    DialsTheFirst,
    /// The preferred broker is not tried again.
    StaysAway,
    /// A message says that everything before its end is settled.
    SettlesTooMuch,
    /// A message says that nothing stands before it.
    HidesWhatStandsBefore,
}

impl Sabotage {
    /// Every kind with the checker that must catch it.
    pub const ALL: [(Self, Checker); 25] = [
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
        (Self::ForgetsOnPuback, Checker::ConfirmedBeforeForget),
        (Self::GivesUpRefused, Checker::TakenBeforeForget),
        (Self::BacklogFirst, Checker::OrderKept),
        (Self::DeafToRate, Checker::RateKept),
        (Self::ForgetsRecall, Checker::RecalledArrives),
        (Self::BelievesTheClock, Checker::NothingFrom1970),
        (Self::DialsTheFirst, Checker::EveryRecordArrives),
        (Self::StaysAway, Checker::PreferredAgain),
        (Self::SettlesTooMuch, Checker::StandingTrue),
        (Self::HidesWhatStandsBefore, Checker::StandingTrue),
    ];

    /// Gives the world what the sabotage needs in order to do harm.
    pub(crate) fn prepare(
        self,
        mix: &mut Mix,
        outbox: &mut OutboxConfig,
        link: &mut LinkConfig,
        preferred_dead: &mut bool,
    ) {
        match self {
            Self::SilentDiscard => mix.poison_every = 400,
            Self::ForgetsNotes => mix.records_max = 200,
            Self::ForgetsOnPuback => {
                outbox.confirm = ConfirmBy::Watermark;
                mix.broker_loses = 100;
            }
            Self::HidesWhatStandsBefore => {
                outbox.confirm = ConfirmBy::Puback;
                outbox.order = Order::LiveFirst;
                outbox.messages_per_second_max = 2;
            }
            Self::GivesUpRefused => mix.forbidden_every = 500,
            Self::BacklogFirst => {
                outbox.confirm = ConfirmBy::Puback;
                outbox.order = Order::LiveFirst;
                outbox.messages_per_second_max = 2;
            }
            Self::DeafToRate => outbox.messages_per_second_max = 1,
            Self::ForgetsRecall => {
                outbox.confirm = ConfirmBy::Puback;
                mix.recalls = 100;
                // A restart would look for what waits.
                mix.power_cut_ppm = 0;
                mix.commit_hangs_ppm = 0;
            }
            Self::DialsTheFirst => {
                link.brokers = 2;
                *preferred_dead = true;
            }
            Self::StaysAway => {
                link.brokers = 2;
                *preferred_dead = false;
                mix.connect_fails = 500;
                mix.link_life_ms = 5_000;
            }
            _ => {}
        }
    }

    /// What of it the device is not told as it was promised.
    pub(crate) fn misconfigure(self, outbox: &mut OutboxConfig, link: &mut LinkConfig) {
        match self {
            Self::BacklogFirst => outbox.order = Order::OldestFirst,
            Self::DeafToRate => outbox.messages_per_second_max = 0,
            Self::StaysAway => link.failback_ms = u64::MAX / 2,
            _ => {}
        }
    }
}
