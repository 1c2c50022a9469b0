//! The breaker: stops asking a part that keeps failing, and tries it again later.
//!
//! Owns: one state machine. Must not: know what it guards.
//!
//! | from | to | when |
//! |---|---|---|
//! | Closed | Open | [`FAILURES_MAX`] failures in a row |
//! | Open | HalfOpen | the back-off has passed and the part is asked once |
//! | HalfOpen | Closed | that one attempt succeeded |
//! | HalfOpen | Open | that one attempt failed; the back-off doubles |

use crate::units::Mono;

/// Failures in a row that open the breaker.
pub(crate) const FAILURES_MAX: u32 = 3;
/// First back-off in milliseconds.
pub(crate) const BACKOFF_MS_MIN: u64 = 1_000;
/// Longest back-off in milliseconds.
pub(crate) const BACKOFF_MS_MAX: u64 = 300_000;

/// One breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaker {
    Closed { failures: u32 },
    Open { until: Mono, backoff_ms: u64 },
    HalfOpen { backoff_ms: u64 },
}

impl Breaker {
    pub(crate) const fn new() -> Self {
        Self::Closed { failures: 0 }
    }

    /// Whether the part may be asked now; in the open state, asking makes it half-open.
    pub(crate) fn admit(&mut self, now: Mono) -> bool {
        match *self {
            Self::Closed { .. } => true,
            Self::HalfOpen { .. } => false,
            Self::Open { until, backoff_ms } => {
                let due = now >= until;
                if due {
                    *self = Self::HalfOpen { backoff_ms };
                }
                due
            }
        }
    }

    pub(crate) fn succeed(&mut self) {
        *self = Self::new();
    }

    pub(crate) fn fail(&mut self, now: Mono, random: &mut fastrand::Rng) {
        *self = match *self {
            Self::Closed { failures } if failures + 1 < FAILURES_MAX => Self::Closed {
                failures: failures + 1,
            },
            Self::Closed { .. } => Self::open(now, BACKOFF_MS_MIN, random),
            Self::HalfOpen { backoff_ms } | Self::Open { backoff_ms, .. } => {
                Self::open(now, (backoff_ms * 2).min(BACKOFF_MS_MAX), random)
            }
        };
    }

    /// When the part is tried again, while it is not.
    pub(crate) const fn retry(&self) -> Option<Mono> {
        match self {
            Self::Open { until, .. } => Some(*until),
            Self::Closed { .. } | Self::HalfOpen { .. } => None,
        }
    }

    /// Equal jitter: half of the back-off for certain, the other half at random.
    fn open(now: Mono, backoff_ms: u64, random: &mut fastrand::Rng) -> Self {
        let delay_ms = backoff_ms / 2 + random.u64(0..=backoff_ms / 2);
        Self::Open {
            until: now.plus_ms(delay_ms),
            backoff_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BACKOFF_MS_MIN, Breaker, FAILURES_MAX};
    use crate::units::Mono;

    #[test]
    fn it_opens_tries_once_and_closes() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut breaker = Breaker::new();
        for _ in 0..FAILURES_MAX {
            assert!(breaker.admit(Mono(0)));
            breaker.fail(Mono(0), &mut random);
        }
        assert!(
            !breaker.admit(Mono(BACKOFF_MS_MIN / 2 - 1)),
            "just before the shortest back-off"
        );
        assert!(breaker.admit(Mono(BACKOFF_MS_MIN)), "just at the longest");
        assert!(
            !breaker.admit(Mono(BACKOFF_MS_MIN)),
            "only one attempt at a time"
        );
        breaker.fail(Mono(BACKOFF_MS_MIN), &mut random);
        assert!(
            matches!(breaker, Breaker::Open { backoff_ms, .. } if backoff_ms == 2 * BACKOFF_MS_MIN)
        );
        assert!(breaker.admit(Mono(10 * BACKOFF_MS_MIN)));
        breaker.succeed();
        assert_eq!(breaker, Breaker::new());
    }
}
