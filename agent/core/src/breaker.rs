//! The breaker: stops asking a part that keeps failing, and tries it again later.
//!
//! Owns: one state machine. Must not: know what it guards.
//!
//! | from | to | when |
//! |---|---|---|
//! | Closed | Open | [`Limits::failures_max`] failures in a row |
//! | Open | HalfOpen | the back-off has passed and the part is asked once |
//! | HalfOpen | Closed | that one attempt succeeded |
//! | HalfOpen | Open | that one attempt failed; the back-off doubles |

use crate::units::Mono;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Failures in a row that open it; at least 1.
    pub(crate) failures_max: u32,
    /// First back-off in milliseconds.
    pub(crate) backoff_ms_min: u64,
    /// Longest back-off in milliseconds.
    pub(crate) backoff_ms_max: u64,
}

/// Those of a model.
pub(crate) const MODEL: Limits = Limits {
    failures_max: 3,
    backoff_ms_min: 1_000,
    backoff_ms_max: 300_000,
};

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

    /// One failure, with the limits of a model.
    pub(crate) fn fail(&mut self, now: Mono, random: &mut fastrand::Rng) {
        self.fail_within(now, MODEL, random);
    }

    /// One failure.
    pub(crate) fn fail_within(&mut self, now: Mono, limits: Limits, random: &mut fastrand::Rng) {
        *self = match *self {
            Self::Closed { failures } if failures + 1 < limits.failures_max => Self::Closed {
                failures: failures + 1,
            },
            Self::Closed { .. } => Self::open(now, limits.backoff_ms_min, random),
            Self::HalfOpen { backoff_ms } | Self::Open { backoff_ms, .. } => {
                let doubled_ms = backoff_ms.saturating_mul(2);
                let most_ms = limits.backoff_ms_max.max(limits.backoff_ms_min);
                Self::open(
                    now,
                    doubled_ms.clamp(limits.backoff_ms_min, most_ms),
                    random,
                )
            }
        };
    }

    /// Opens with a back-off that was reached before.
    pub(crate) fn open_with(&mut self, now: Mono, backoff_ms: u64, random: &mut fastrand::Rng) {
        *self = Self::open(now, backoff_ms, random);
    }

    /// Lets an open breaker be tried at once.
    pub(crate) const fn hasten(&mut self, now: Mono) {
        if let Self::Open { until, .. } = self {
            *until = now;
        }
    }

    /// The back-off, while it is not closed.
    pub(crate) const fn backoff_ms(&self) -> Option<u64> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { backoff_ms, .. } | Self::HalfOpen { backoff_ms } => Some(*backoff_ms),
        }
    }

    /// The word used in answers and metrics.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        }
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
    use super::{Breaker, MODEL};
    use crate::units::Mono;

    const BACKOFF_MS_MIN: u64 = MODEL.backoff_ms_min;

    #[test]
    fn it_opens_tries_once_and_closes() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut breaker = Breaker::new();
        for _ in 0..MODEL.failures_max {
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
