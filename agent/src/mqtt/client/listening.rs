//! What comes from the other side of a connection: subscriptions, commands, the watermark, and the answers.
//!
//! Owns: the order of SUBACKs. Must not: believe a message; others check it.

use quorate_core::{
    command::{CommandEvent, ReplyTo},
    event::Event,
};

use super::{
    super::{
        Incoming,
        outlet::Outlet,
        protocol::{Outgoing, Queued},
        setup, watermark,
    },
    Session,
};
use crate::inflight::Message;

/// The answer where the real one is too large for the broker.
const REPLY_TOO_LARGE: &str = r#"{"outcome":"unknown","reason":"too-large-for-the-broker"}"#;

/// What was subscribed to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Watermark,
    Commands,
}

impl Session<'_> {
    /// Answers a command; an answer that cannot be sent is lost, its record is not.
    pub(super) fn reply(&mut self, to: ReplyTo, payload: String) {
        let Some(packet_bytes_max) = self.packet_bytes_max else {
            return;
        };
        let ReplyTo { topic, correlation } = to;
        let answer = |payload: String| Outgoing {
            topic: topic.clone(),
            payload: payload.into_bytes(),
            retain: false,
            about: Some(("application/json", Vec::new())),
            correlation: correlation.clone(),
        };
        let mut queued = self.client.publish(answer(payload), packet_bytes_max);
        if queued == Queued::TooLarge {
            let short = answer(REPLY_TOO_LARGE.to_owned());
            queued = self.client.publish(short, packet_bytes_max);
        }
        if matches!(queued, Queued::Taken(_)) {
            self.inflight.queued(Message::Reply);
        } else {
            tracing::warn!("the answer to a command cannot be sent");
        }
    }

    /// Hands a message to those who check it; nobody waits for them.
    pub(super) fn message(&self, incoming: Incoming, outlet: &mut Outlet) {
        if incoming.topic == watermark::topic(&self.options.topic) {
            match watermark::parse(&incoming.payload) {
                Ok(event) => outlet.push(event),
                Err(error) => tracing::debug!(%error, "a watermark that is none"),
            }
            return;
        }
        let Some(sender) = &self.options.incoming else {
            return;
        };
        if sender.try_send(incoming).is_err() {
            tracing::debug!("commands come faster than they can be checked");
        }
    }

    pub(super) fn subscribe(&mut self, outlet: &mut Outlet) {
        if self.options.watermark {
            if self.client.subscribe(watermark::topic(&self.options.topic)) {
                self.asked.push_back(Asked::Watermark);
            } else {
                tracing::warn!("the client takes no subscription to the watermark");
            }
        }
        if self.options.incoming.is_none() {
            return;
        }
        let filter = setup::commands_filter(self.options);
        if self.deaf || !self.client.subscribe(filter) {
            subscribed(false, outlet);
        } else {
            self.asked.push_back(Asked::Commands);
        }
    }

    /// The broker answers subscriptions in their order.
    pub(super) fn subscription_answered(&mut self, accepted: bool, outlet: &mut Outlet) {
        match self.asked.pop_front() {
            Some(Asked::Commands) => subscribed(accepted, outlet),
            // The core says what follows: the watermark is late.
            Some(Asked::Watermark) if !accepted => {
                tracing::warn!("the broker refuses the subscription to the watermark");
            }
            Some(Asked::Watermark) | None => {}
        }
    }
}

fn subscribed(accepted: bool, outlet: &mut Outlet) {
    outlet.push(Event::Command(CommandEvent::Subscribed { accepted }));
}
