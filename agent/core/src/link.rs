//! The link: when to connect, when to give a connection up, and how long to wait before the next attempt.
//!
//! Owns: the state of the connection as the core sees it. Must not: know what is sent over it.
//!
//! | from | to | when |
//! |---|---|---|
//! | Down | Connecting | the delay has passed ([`Action::Connect`]) |
//! | Connecting | Up | [`crate::event::Event::LinkUp`] |
//! | Connecting, Up | Down | [`crate::event::Event::LinkDown`] |
//!
//! Of several brokers the first is preferred. The next one is tried after so many connections in a row that delivered
//! nothing; after a time at another one the connection is ended with nothing in flight and the first is tried again.

use alloc::{format, string::String, vec::Vec};

use crate::{
    config::LinkConfig,
    event::{Action, LinkFault},
    health::{DeliveryHealth, LinkHealth},
    units::Mono,
};

/// A delay is never shorter than this: a broker that accepts and drops at once must not be hammered.
const DELAY_MS_MIN: u64 = 100;
/// The exponent stops growing here; the cap of the configuration is reached long before.
const DOUBLINGS_MAX: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down { retry: Mono },
    Connecting { given_up: bool },
    Up,
}

/// The connection to the broker.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    config: LinkConfig,
    state: State,
    since: Mono,
    attempts: u32,
    fault: Option<LinkFault>,
    broker: usize,
    /// Connections in a row, to this broker, that delivered nothing.
    barren: u32,
    /// The connection is to end, as soon as nothing is in flight, so that the preferred broker can be tried.
    draining: bool,
    /// It was asked to end for that.
    returning: bool,
}

impl Link {
    /// The first attempt comes at once.
    pub(crate) fn new(config: LinkConfig, now: Mono) -> Self {
        Self {
            config,
            state: State::Down { retry: now },
            since: now,
            attempts: 0,
            fault: None,
            broker: 0,
            barren: 0,
            draining: false,
            returning: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Which broker it is or will be.
    pub(crate) const fn broker(&self) -> usize {
        self.broker
    }

    /// Since when an attempt is under way.
    pub(crate) fn connecting_since(&self) -> Option<Mono> {
        matches!(self.state, State::Connecting { .. }).then_some(self.since)
    }

    pub(crate) fn transition_to_up(&mut self, now: Mono) {
        self.state = State::Up;
        self.since = now;
        self.fault = None;
    }

    pub(crate) fn transition_to_down(
        &mut self,
        now: Mono,
        fault: LinkFault,
        random: &mut fastrand::Rng,
    ) {
        self.choose_broker();
        let ceiling_ms = match self.attempts {
            0 => self.config.first_retry_ms_max,
            attempts => {
                let doublings = (attempts - 1).min(DOUBLINGS_MAX);
                self.config
                    .backoff_ms_min
                    .saturating_mul(1 << doublings)
                    .min(self.config.backoff_ms_max)
            }
        };
        self.attempts = self.attempts.saturating_add(1);
        self.state = State::Down {
            retry: now.plus_ms(random.u64(0..=ceiling_ms).max(DELAY_MS_MIN)),
        };
        self.since = now;
        self.fault = Some(fault);
    }

    fn choose_broker(&mut self) {
        self.draining = false;
        if core::mem::take(&mut self.returning) {
            self.broker = 0;
            self.barren = 0;
            // The others of a fleet return at the same time.
            self.attempts = 0;
            return;
        }
        self.barren = self.barren.saturating_add(1);
        if self.barren >= self.config.failover_attempts {
            self.barren = 0;
            self.broker = (self.broker + 1) % self.config.brokers.max(1);
        }
    }

    /// Something was delivered: the next loss starts the back-off anew.
    pub(crate) fn delivered(&mut self) {
        self.attempts = 0;
        self.barren = 0;
    }

    /// When it is time to end this connection and try the preferred broker again.
    fn failback(&self) -> Option<Mono> {
        let elsewhere = self.broker != 0 && self.is_up() && !self.draining;
        elsewhere.then(|| self.since.plus_ms(self.config.failback_ms))
    }

    /// Whether the preferred broker is to be tried again as soon as nothing is in flight.
    pub(crate) fn wants_failback(&mut self, now: Mono) -> bool {
        self.draining |= self.failback().is_some_and(|failback| now >= failback);
        self.draining
    }

    /// Nothing is in flight: the connection may end.
    pub(crate) fn return_to_preferred(&mut self, actions: &mut Vec<Action>) {
        if !core::mem::replace(&mut self.returning, true) {
            actions.push(Action::Disconnect { cause: "failback" });
        }
    }

    pub(crate) fn advance(&mut self, now: Mono, actions: &mut Vec<Action>) {
        match self.state {
            State::Down { retry } if now >= retry => {
                self.state = State::Connecting { given_up: false };
                self.since = now;
                actions.push(Action::Connect {
                    broker: self.broker,
                });
            }
            State::Connecting { given_up: false } if now >= self.connect_deadline() => {
                self.state = State::Connecting { given_up: true };
                actions.push(Action::Disconnect { cause: "timeout" });
            }
            State::Down { .. } | State::Connecting { .. } | State::Up => {}
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        match self.state {
            State::Down { retry } => Some(retry),
            State::Connecting { given_up: false } => Some(self.connect_deadline()),
            State::Up => self.failback(),
            State::Connecting { given_up: true } => None,
        }
    }

    fn connect_deadline(&self) -> Mono {
        self.since.plus_ms(self.config.connect_timeout_ms)
    }

    pub(crate) fn health(&self, inflight: u64, delivery: DeliveryHealth) -> LinkHealth {
        LinkHealth {
            state: match self.state {
                State::Down { .. } => "down",
                State::Connecting { .. } => "connecting",
                State::Up => "up",
            },
            since: self.since,
            fault: self.fault.as_ref().map(describe),
            retry: match self.state {
                State::Down { retry } => Some(retry),
                State::Connecting { .. } | State::Up => None,
            },
            inflight,
            broker: self.broker,
            delivery,
        }
    }
}

fn describe(fault: &LinkFault) -> String {
    if fault.detail.is_empty() {
        fault.cause.into()
    } else {
        format!("{}: {}", fault.cause, fault.detail)
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::String, vec, vec::Vec};

    use super::Link;
    use crate::{
        config::LinkConfig,
        event::{Action, LinkFault},
        units::Mono,
    };

    fn lost() -> LinkFault {
        LinkFault {
            cause: "closed",
            detail: String::new(),
        }
    }

    #[test]
    fn attempts_spread_and_back_off() {
        let config = LinkConfig::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut link = Link::new(config, Mono(0));
        let mut now = Mono(0);
        for attempt in 0..12 {
            let mut actions = Vec::new();
            link.advance(now, &mut actions);
            assert_eq!(
                actions,
                vec![Action::Connect { broker: 0 }],
                "attempt {attempt}"
            );
            link.transition_to_down(now, lost(), &mut random);
            let retry = link
                .next_deadline()
                .expect("a link that is down has a next attempt");
            assert!(retry.since_ms(now) <= config.backoff_ms_max);
            now = retry;
        }
    }

    #[test]
    fn a_silent_attempt_is_given_up_once() {
        let mut link = Link::new(LinkConfig::default(), Mono(0));
        let mut actions = Vec::new();
        link.advance(Mono(0), &mut actions);
        link.advance(Mono(29_999), &mut actions);
        assert_eq!(actions.len(), 1, "just before the timeout");
        link.advance(Mono(30_000), &mut actions);
        link.advance(Mono(40_000), &mut actions);
        assert_eq!(actions[1..], [Action::Disconnect { cause: "timeout" }]);
    }

    /// One attempt that fails. Returns the broker and the time of the next.
    fn fail(link: &mut Link, now: Mono, random: &mut fastrand::Rng) -> (usize, Mono) {
        let mut actions = Vec::new();
        link.advance(now, &mut actions);
        let [Action::Connect { broker }] = actions[..] else {
            unreachable!("{actions:?}");
        };
        link.transition_to_down(now, lost(), random);
        (broker, link.next_deadline().unwrap_or(now))
    }

    #[test]
    fn brokers_are_tried_in_turn_and_the_preferred_one_again() {
        let config = LinkConfig {
            brokers: 3,
            ..LinkConfig::default()
        };
        let mut random = fastrand::Rng::with_seed(7);
        let mut link = Link::new(config, Mono(0));
        let (mut now, mut tried) = (Mono(0), Vec::new());
        for _ in 0..8 {
            let (broker, next) = fail(&mut link, now, &mut random);
            tried.push(broker);
            now = next;
        }
        assert_eq!(tried, vec![0, 0, 1, 1, 2, 2, 0, 0]);
        let mut actions = Vec::new();
        link.advance(now, &mut actions);
        assert_eq!(actions, vec![Action::Connect { broker: 1 }]);
        link.transition_to_up(now);
        link.delivered();
        let failback = now.plus_ms(config.failback_ms);
        assert_eq!(link.next_deadline(), Some(failback));
        assert!(!link.wants_failback(Mono(failback.0 - 1)));
        assert!(link.wants_failback(failback));
        actions.clear();
        link.return_to_preferred(&mut actions);
        link.return_to_preferred(&mut actions);
        assert_eq!(actions, vec![Action::Disconnect { cause: "failback" }]);
        assert_eq!(link.next_deadline(), None, "it waits for the end");
        assert!(link.wants_failback(failback));
        link.transition_to_down(failback, lost(), &mut random);
        let next = link.next_deadline().unwrap_or(failback);
        assert!(next.since_ms(failback) <= config.first_retry_ms_max);
        assert_eq!(fail(&mut link, next, &mut random).0, 0);
    }

    #[test]
    fn a_connection_that_delivered_is_no_reason_to_go_elsewhere() {
        let config = LinkConfig {
            brokers: 2,
            ..LinkConfig::default()
        };
        let mut random = fastrand::Rng::with_seed(7);
        let mut link = Link::new(config, Mono(0));
        let mut now = Mono(0);
        for _ in 0..20 {
            let mut actions = Vec::new();
            link.advance(now, &mut actions);
            assert_eq!(actions, vec![Action::Connect { broker: 0 }]);
            link.transition_to_up(now);
            link.delivered();
            link.transition_to_down(now, lost(), &mut random);
            now = link.next_deadline().unwrap_or(now);
        }
    }
}
