//! The connection and the broker behind it.
//!
//! A message travels on one connection; what is on its way when that breaks arrives or does not. The broker takes it,
//! throws it away or refuses it, and its answer may come, come late, come twice or not at all.

use std::sync::Arc;

use quorate_core::{
    event::{AckOutcome, Event, LinkFault, StoredRecord},
    units::{BatchId, Seq},
};

use super::{
    Pending, World,
    faults::{Window, chance},
    sabotage::Sabotage,
};
use crate::checkers::{self, Check, Checker, Life, ensure};

/// MQTT 5 reason: quota exceeded.
const REASON_QUOTA: u8 = 0x97;
/// MQTT 5 reason: not authorised.
const REASON_NOT_AUTHORISED: u8 = 0x87;
/// MQTT 5 reasons that blame the message itself: packet too large, payload format invalid.
const REASONS_OF_PAYLOAD: [u8; 2] = [0x95, 0x99];
/// What a message has around its records, as the core reckons it, in bytes.
const ENVELOPE_BYTES: usize = 2_048;

/// The connection as the device has it.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Counts connections; what belongs to an older one is stale.
    pub(crate) connection: u64,
    pub(crate) open: bool,
    pub(crate) up: bool,
    packet_bytes_max: usize,
    pub(crate) inflight_max: u16,
    /// Which broker it is.
    pub(crate) broker: usize,
}

impl Network {
    pub(crate) fn drop_connection(&mut self) {
        self.connection += 1;
        self.open = false;
        self.up = false;
    }
}

fn lost(cause: &'static str) -> Event {
    Event::LinkDown {
        fault: LinkFault {
            cause,
            detail: String::new(),
        },
    }
}

impl World {
    fn offline(&self) -> bool {
        let open = |window: Option<Window>| window.is_some_and(|it| it.is_open(self.now_ms));
        let away = self.preferred_dead || open(self.mix.preferred_away);
        open(self.mix.outage) || (self.network.broker == 0 && self.brokers() > 1 && away)
    }

    pub(crate) fn connect(&mut self, broker: usize) {
        self.network.broker = if self.options.sabotage == Sabotage::DialsTheFirst {
            0
        } else {
            broker
        };
        self.network.drop_connection();
        self.network.open = true;
        let connection = self.network.connection;
        let hangs = chance(&mut self.random, self.mix.connect_hangs);
        if hangs {
            return;
        }
        let fails = chance(&mut self.random, self.mix.connect_fails);
        let delay_ms = self.random.u64(20..=500);
        if fails || self.offline() {
            self.later(delay_ms * 4, Pending::Break { connection });
        } else {
            self.later(delay_ms, Pending::Connected { connection });
        }
    }

    pub(crate) fn connected(&mut self, connection: u64) -> Check {
        if connection != self.network.connection || !self.network.open {
            return Ok(());
        }
        self.network.up = true;
        let packet_bytes_max = [4_096, 20_000, 70_000, 268_435_455][self.random.usize(0..4)];
        let inflight_max = [1, 3, 20, 65_535][self.random.usize(0..4)];
        self.network.packet_bytes_max = usize::try_from(packet_bytes_max).unwrap_or(usize::MAX);
        self.network.inflight_max = inflight_max;
        if self.mix.link_life_ms > 0 {
            let life_ms = self.random.u64(0..=2 * self.mix.link_life_ms);
            self.later(life_ms, Pending::Break { connection });
        }
        let told = if self.options.sabotage == Sabotage::FloodsBroker {
            self.network.inflight_max = 1;
            20
        } else {
            inflight_max
        };
        self.link_came_up();
        self.deliver(Event::LinkUp {
            packet_bytes_max,
            inflight_max: told,
        })
    }

    pub(crate) fn break_link(&mut self, connection: u64) -> Check {
        if connection != self.network.connection || !self.network.open {
            return Ok(());
        }
        self.network.drop_connection();
        self.deliver(lost("closed"))
    }

    pub(crate) fn disconnect(&mut self) {
        if self.network.open {
            self.network.drop_connection();
            let delay_ms = self.random.u64(1..=20);
            self.tell_later(delay_ms, lost("disconnected"));
        }
    }

    pub(crate) fn publish(&mut self, batch: BatchId, records: Vec<StoredRecord>) -> Check {
        for record in &records {
            checkers::durable_before_publish(record.seq, self.life(record.seq))?;
        }
        self.check_memory()?;
        let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
        let room = self.network.packet_bytes_max.saturating_sub(ENVELOPE_BYTES);
        ensure(
            !self.network.up || records.len() == 1 || bytes <= room,
            Checker::MemoryBounded,
            || format!("a message of {bytes} bytes where {room} fit"),
        )?;
        if self.network.up {
            let connection = self.network.connection;
            let delay_ms = self.random.u64(5..=200) + self.not_of_the_seed();
            self.later(
                delay_ms,
                Pending::Arrives {
                    connection,
                    batch,
                    records,
                },
            );
            let bytes = u64::try_from(bytes + 300).unwrap_or(u64::MAX);
            let told_ms = self.random.u64(0..=3);
            self.check_rate(bytes)?;
            self.tell_later(told_ms, Event::Sent { batch, bytes });
        }
        Ok(())
    }

    /// A message reaches the broker, or the place where it would be.
    pub(crate) fn arrives(
        &mut self,
        connection: u64,
        batch: BatchId,
        records: &[StoredRecord],
    ) -> Check {
        if self.offline() {
            let notice_ms = self.random.u64(0..=30_000);
            self.later(notice_ms, Pending::Break { connection });
            return Ok(());
        }
        if connection != self.network.connection && self.random.bool() {
            return Ok(());
        }
        for record in records {
            let life = self.life(record.seq);
            checkers::one_name_one_payload(record.seq, life, &record.payload)?;
            checkers::nothing_from_1970(record.seq, &record.payload)?;
            life.seen.get_or_insert_with(|| Arc::clone(&record.payload));
        }
        let outcome = self.judge(records);
        self.trace
            .say(self.now_ms, || format!("  broker: {batch:?} {outcome:?}"));
        match outcome {
            AckOutcome::Taken => self.take(records)?,
            AckOutcome::Refused { reason } if records.len() == 1 => {
                self.life(records[0].seq).refused |= REASONS_OF_PAYLOAD.contains(&reason);
                if reason == REASON_NOT_AUTHORISED {
                    self.refused_alone(records[0].seq)?;
                }
            }
            AckOutcome::Refused { .. } | AckOutcome::NoSubscribers => {}
        }
        self.acknowledge(connection, batch, outcome);
        Ok(())
    }

    fn judge(&mut self, records: &[StoredRecord]) -> AckOutcome {
        let every = self.mix.poison_every;
        let poisoned = |record: &StoredRecord| {
            every > 0 && record.seq.0 % every == 5 && has(&record.payload, b"\"kind\":\"vote\"")
        };
        if records.iter().any(poisoned) {
            let reason = REASONS_OF_PAYLOAD[self.random.usize(0..2)];
            return AckOutcome::Refused { reason };
        }
        let forbidden = self.mix.forbidden_every;
        let stands_out = |record: &StoredRecord| forbidden > 0 && record.seq.0 % forbidden == 9;
        let closed = self.mix.forbidden.is_some_and(|it| it.is_open(self.now_ms));
        if closed || records.iter().any(stands_out) {
            let reason = REASON_NOT_AUTHORISED;
            return AckOutcome::Refused { reason };
        }
        if self
            .mix
            .unheard
            .is_some_and(|window| window.is_open(self.now_ms))
        {
            return AckOutcome::NoSubscribers;
        }
        if chance(&mut self.random, self.mix.refused) {
            return AckOutcome::Refused {
                reason: REASON_QUOTA,
            };
        }
        AckOutcome::Taken
    }

    fn take(&mut self, records: &[StoredRecord]) -> Check {
        for record in records {
            let life = self.life(record.seq);
            life.taken += 1;
            if life.taken > 1 {
                self.outcome.repeats += 1;
            }
            self.outcome.taken += 1;
        }
        self.pass_on(records)
    }

    /// What a subscriber learns from an event that names records as gone.
    pub(crate) fn read_gone(&mut self, payload: &[u8]) {
        let Ok(record) = serde_json::from_slice::<serde_json::Value>(payload) else {
            return;
        };
        let body = &record["body"];
        let (Some(first), Some(last)) = (body["first_seq"].as_u64(), body["last_seq"].as_u64())
        else {
            return;
        };
        let (refused, full) = (body["reason"] == "refused", body["reason"] == "full");
        for seq in first..=last {
            let life: &mut Life = self.life(Seq(seq));
            // What was never stored must not be on the medium, so naming it excuses nothing there.
            life.named_gone |= (refused && life.discarded) || (full && life.dropped);
        }
    }

    fn acknowledge(&mut self, connection: u64, batch: BatchId, outcome: AckOutcome) {
        if chance(&mut self.random, self.mix.ack_lost) {
            return;
        }
        let mut delay_ms = self.random.u64(5..=200);
        if chance(&mut self.random, self.mix.ack_late) {
            delay_ms += self.random.u64(1_000..=30_000);
        }
        let answer = Pending::Acknowledged {
            connection,
            batch,
            outcome,
        };
        self.later(delay_ms, answer);
        if chance(&mut self.random, self.mix.ack_twice) {
            let again = Pending::Acknowledged {
                connection,
                batch,
                outcome,
            };
            self.later(delay_ms + 7, again);
        }
        if chance(&mut self.random, self.mix.ack_unknown) {
            let unknown = Pending::Acknowledged {
                connection,
                batch: BatchId(batch.0 + 1_000_000),
                outcome,
            };
            self.later(3, unknown);
        }
    }
}

pub(crate) fn has(payload: &[u8], what: &[u8]) -> bool {
    payload.windows(what.len()).any(|window| window == what)
}
