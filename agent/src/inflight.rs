//! Which message a packet identifier of this connection stands for.
//!
//! Owns: the order in which messages were handed to the client, and the identifiers that the client gave them. Must
//! not: outlive a connection, know MQTT or the clock. Pure.
//!
//! Invariant: an acknowledgement names exactly one message that was sent and not yet acknowledged, or it is an error;
//! nothing is ever guessed. The client gives identifiers in the order in which it was handed the messages (all QoS 1,
//! one queue), and reuses one only after its acknowledgement.

use std::collections::{BTreeMap, VecDeque};

use quorate_core::units::BatchId;

/// What was handed to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Records of the outbox.
    Batch(BatchId),
    /// The retained status.
    Status,
    /// The answer to a command.
    Reply,
    /// The retained status that says the agent has stopped; the last message of a connection.
    Farewell,
}

/// The client and the broker disagree about what is in flight; only a new connection helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflightError {
    /// The client sent a message that it was not given.
    #[error("packet {0} was sent without a message")]
    NothingQueued(u16),
    /// The client gave an identifier twice.
    #[error("packet identifier {0} was given twice")]
    IdInUse(u16),
    /// The broker acknowledged what is not in flight.
    #[error("packet {0} was acknowledged but is not in flight")]
    NotInFlight(u16),
}

/// The messages of one connection that are not acknowledged. The caller bounds their number.
#[derive(Debug, Default)]
pub struct Inflight {
    queued: VecDeque<Message>,
    sent: BTreeMap<u16, Message>,
}

impl Inflight {
    /// The client took `message` into its queue.
    pub fn queued(&mut self, message: Message) {
        self.queued.push_back(message);
    }

    /// The client sent the oldest queued message as packet `packet`.
    ///
    /// # Errors
    /// When nothing is queued or the identifier is in use.
    pub fn sent(&mut self, packet: u16) -> Result<(), InflightError> {
        if self.sent.contains_key(&packet) {
            return Err(InflightError::IdInUse(packet));
        }
        let message = self
            .queued
            .pop_front()
            .ok_or(InflightError::NothingQueued(packet))?;
        self.sent.insert(packet, message);
        Ok(())
    }

    /// The broker acknowledged packet `packet`: which message that was. The identifier is free again.
    ///
    /// # Errors
    /// When no such packet is in flight, as with a second acknowledgement.
    pub fn acknowledged(&mut self, packet: u16) -> Result<Message, InflightError> {
        self.sent
            .remove(&packet)
            .ok_or(InflightError::NotInFlight(packet))
    }

    /// Messages that are queued or sent and not acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued.len().saturating_add(self.sent.len())
    }

    /// Whether everything is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.sent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn batch(number: u64) -> Message {
        Message::Batch(BatchId(number))
    }

    #[test]
    fn acknowledgements_out_of_order_find_their_message() {
        let mut inflight = Inflight::default();
        for number in 1..=3 {
            inflight.queued(batch(number));
        }
        for packet in 1..=3 {
            inflight.sent(packet).unwrap();
        }
        assert_eq!(inflight.acknowledged(3), Ok(batch(3)));
        assert_eq!(inflight.acknowledged(1), Ok(batch(1)));
        assert_eq!(inflight.acknowledged(2), Ok(batch(2)));
        assert!(inflight.is_empty());
    }

    #[test]
    fn an_identifier_is_reused_only_after_its_acknowledgement() {
        let mut inflight = Inflight::default();
        inflight.queued(batch(1));
        inflight.queued(batch(2));
        inflight.sent(1).unwrap();
        assert_eq!(inflight.sent(1), Err(InflightError::IdInUse(1)));
        assert_eq!(inflight.acknowledged(1), Ok(batch(1)));
        inflight.sent(1).unwrap();
        assert_eq!(inflight.acknowledged(1), Ok(batch(2)));
    }

    #[test]
    fn a_second_or_unknown_acknowledgement_is_an_error() {
        let mut inflight = Inflight::default();
        inflight.queued(Message::Status);
        assert_eq!(
            inflight.acknowledged(1),
            Err(InflightError::NotInFlight(1)),
            "queued is not sent"
        );
        inflight.sent(1).unwrap();
        assert_eq!(inflight.acknowledged(7), Err(InflightError::NotInFlight(7)));
        assert_eq!(inflight.acknowledged(1), Ok(Message::Status));
        assert_eq!(inflight.acknowledged(1), Err(InflightError::NotInFlight(1)));
    }

    #[test]
    fn a_packet_without_a_message_is_an_error() {
        let mut inflight = Inflight::default();
        assert_eq!(inflight.sent(1), Err(InflightError::NothingQueued(1)));
        assert_eq!(inflight.len(), 0);
    }
}
