//! Certificates: until when those of a connection are good, and when that is told.
//!
//! Owns: what counts as soon. Must not: read a certificate, or judge whom to trust; TLS does.
//!
//! | from | to | when |
//! |---|---|---|
//! | - , Valid | Soon | [`WARNING_DAYS`] or fewer are left |
//! | - , Valid, Soon | Expired | none is left |
//! | any | Valid | a renewed certificate is seen |

use crate::{health::CertificateHealth, units::Mono};

/// Days before its end from which a certificate is told of.
pub const WARNING_DAYS: i64 = 30;
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This device's own.
    Client,
    /// The broker's.
    Server,
}

impl Role {
    /// The word used in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    not_after_unix_ms: i64,
    state: &'static str,
    seen: Mono,
}

/// The newest certificates that were seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Certificates {
    known: [Option<Known>; 2],
}

/// A certificate whose state is another one than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) role: Role,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) days_left: i64,
}

impl Certificates {
    pub(crate) fn see(&mut self, now: Mono, role: Role, not_after_unix_ms: i64) {
        let known = &mut self.known[index(role)];
        let state = known.map_or("valid", |known| known.state);
        *known = Some(Known {
            not_after_unix_ms,
            state,
            seen: now,
        });
    }

    /// Looks at them at a time that can be believed.
    pub(crate) fn judge(&mut self, unix_ms: i64) -> impl Iterator<Item = Changed> {
        [Role::Client, Role::Server]
            .map(|role| {
                let known = self.known[index(role)].as_mut()?;
                let left_ms = known.not_after_unix_ms.saturating_sub(unix_ms);
                let to = if left_ms <= 0 {
                    "expired"
                } else if left_ms <= WARNING_DAYS * DAY_MS {
                    "expires-soon"
                } else {
                    "valid"
                };
                let from = core::mem::replace(&mut known.state, to);
                (from != to).then_some(Changed {
                    role,
                    from,
                    to,
                    days_left: left_ms.div_euclid(DAY_MS),
                })
            })
            .into_iter()
            .flatten()
    }

    pub(crate) fn health(&self) -> impl Iterator<Item = CertificateHealth> {
        let entry = |role| {
            let known = self.known[index(role)]?;
            Some(CertificateHealth {
                role: role.as_str(),
                not_after_unix_ms: known.not_after_unix_ms,
                state: known.state,
                seen: known.seen,
            })
        };
        [Role::Client, Role::Server]
            .map(entry)
            .into_iter()
            .flatten()
    }
}

const fn index(role: Role) -> usize {
    match role {
        Role::Client => 0,
        Role::Server => 1,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{Certificates, DAY_MS, Role};
    use crate::units::Mono;

    #[test]
    fn it_is_told_once_thirty_days_before_and_again_when_renewed() {
        let mut certificates = Certificates::default();
        let told = |certificates: &mut Certificates, day: i64| -> Vec<_> {
            let changed = certificates.judge(day * DAY_MS);
            changed.map(|it| (it.role, it.to, it.days_left)).collect()
        };
        certificates.see(Mono(0), Role::Server, 100 * DAY_MS);
        assert_eq!(told(&mut certificates, 69), []);
        assert_eq!(
            told(&mut certificates, 70),
            [(Role::Server, "expires-soon", 30)]
        );
        certificates.see(Mono(1), Role::Server, 100 * DAY_MS);
        assert_eq!(
            told(&mut certificates, 71),
            [],
            "another connection is no news"
        );
        assert_eq!(told(&mut certificates, 100), [(Role::Server, "expired", 0)]);
        certificates.see(Mono(2), Role::Server, 300 * DAY_MS);
        assert_eq!(told(&mut certificates, 101), [(Role::Server, "valid", 199)]);
    }
}
