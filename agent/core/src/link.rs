//! The link: when to connect, when to give a connection up, and how long to wait before the next attempt.
//!
//! Owns: the state of the connection as the core sees it. Must not: know what is sent over it.
//!
//! | from | to | when |
//! |---|---|---|
//! | Down | Connecting | the delay has passed ([`Action::Connect`]) |
//! | Connecting | Up | [`crate::event::Event::LinkUp`] |
//! | Connecting, Up | Down | [`crate::event::Event::LinkDown`] |

use alloc::{format, string::String, vec::Vec};

use crate::{
    config::LinkConfig,
    event::{Action, LinkFault},
    health::LinkHealth,
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
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == State::Up
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

    /// Something was delivered: the next loss starts the back-off anew.
    pub(crate) fn delivered(&mut self) {
        self.attempts = 0;
    }

    pub(crate) fn advance(&mut self, now: Mono, actions: &mut Vec<Action>) {
        match self.state {
            State::Down { retry } if now >= retry => {
                self.state = State::Connecting { given_up: false };
                self.since = now;
                actions.push(Action::Connect);
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
            State::Connecting { given_up: true } | State::Up => None,
        }
    }

    fn connect_deadline(&self) -> Mono {
        self.since.plus_ms(self.config.connect_timeout_ms)
    }

    pub(crate) fn health(&self, inflight: u64) -> LinkHealth {
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
            assert_eq!(actions, vec![Action::Connect], "attempt {attempt}");
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
}
