//! Refresh tokens: the newest one of each login.
//!
//! They live as long as the process. Over a restart a refresh token is a value of the credential,
//! which a store keeps: [`RefreshTokens::keep`] is then called with what is read again. A device's
//! outlasts its access token, because what it could ask with instead may be used up.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::secret::Secret;
use crate::values::Values;

/// The most logins of which something is remembered. There is one for each device; others are left
/// where a secret changes.
const MOST: usize = 1 << 20;
/// What was not touched for so long is dropped, where its like can be had again.
const OLD: Duration = Duration::from_hours(24);
/// Fewer than these are not looked through for what is old.
const FEW: usize = 1024;

/// What a refresh token came of: a digest of the grant's secrets, of the client, and of what a
/// device asks for in its own way. With others, it is not theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Basis([u64; 2]);

/// The newest refresh tokens.
#[derive(Debug)]
pub(super) struct RefreshTokens {
    /// Their keys live as long as the process.
    hashers: [RandomState; 2],
    /// True if their like can be had again.
    expendable: bool,
    kept: Mutex<HashMap<Basis, (Kept, Instant)>>,
}

/// What is known of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    /// Nothing yet.
    Nothing,
    /// Its newest refresh token.
    Token(Secret),
    /// This was one, and nobody knows whether it is used up.
    InDoubt(Secret),
}

impl RefreshTokens {
    /// None yet. `expendable`: their like can be had again.
    pub(super) fn new(expendable: bool) -> Self {
        Self { hashers: Default::default(), expendable, kept: Mutex::default() }
    }

    /// The basis that consists of these parts, in their order, and of a device's `own` values, in
    /// any.
    pub(super) fn basis(&self, parts: &[Option<Secret>], own: &Values) -> Basis {
        let parts: Vec<Option<&str>> =
            parts.iter().map(|part| part.as_ref().map(Secret::expose)).collect();
        let mut own: Vec<(&str, &str)> =
            own.iter().map(|(name, secret)| (name, secret.expose())).collect();
        own.sort_unstable();
        Basis(self.hashers.each_ref().map(|hasher| hasher.hash_one((&parts, &own))))
    }

    /// What is known of the login on that basis. What others have brought is no longer of use: a
    /// new password owes nothing to what the old one returned.
    pub(super) fn current(&self, basis: Basis) -> Kept {
        self.lock().get(&basis).map_or(Kept::Nothing, |(kept, _)| kept.clone())
    }

    /// Takes the place of the one before.
    pub(super) fn keep(&self, token: Secret, basis: Basis) {
        self.set(basis, Kept::Token(token));
    }

    /// It comes from a store, where it is the newest that is known to be good; whether that is so of
    /// one that this process has sent, nobody knows.
    pub(super) fn restore(&self, token: Secret, basis: Basis) {
        if self.current(basis) != Kept::InDoubt(token.clone()) {
            self.keep(token, basis);
        }
    }

    /// It is used up, or nobody knows whether it is.
    pub(super) fn doubt(&self, token: Secret, basis: Basis) {
        self.set(basis, Kept::InDoubt(token));
    }

    /// There is none any more.
    pub(super) fn forget(&self, basis: Basis) {
        self.lock().remove(&basis);
    }

    fn set(&self, basis: Basis, kept: Kept) {
        let (mut all, now) = (self.lock(), Instant::now());
        // As often as it has to grow, which is less and less often.
        if self.expendable && all.len() >= FEW && all.len() == all.capacity() {
            all.retain(|_, (_, since)| now.saturating_duration_since(*since) < OLD);
        }
        if all.len() >= MOST && !all.contains_key(&basis) {
            let any = all.keys().next().copied();
            any.and_then(|any| all.remove(&any));
        }
        all.insert(basis, (kept, now));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Basis, (Kept, Instant)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_belongs_to_the_secrets_that_it_came_of() {
        let tokens = RefreshTokens::new(true);
        let basis = |parts: &[&str]| {
            let parts: Vec<_> = parts.iter().map(|part| Some(Secret::new(*part))).collect();
            tokens.basis(&parts, &Values::default())
        };
        let (old, new) = (basis(&["user", "old"]), basis(&["user", "new"]));
        assert_eq!(old, basis(&["user", "old"]));
        assert_ne!(basis(&["ab", "c"]), basis(&["a", "bc"]));
        assert_eq!(tokens.current(old), Kept::Nothing);
        tokens.keep(Secret::new("r1"), old);
        assert_eq!(tokens.current(old), Kept::Token(Secret::new("r1")));
        assert_eq!(tokens.current(new), Kept::Nothing, "another password");
        tokens.keep(Secret::new("r2"), new);
        tokens.doubt(Secret::new("r2"), new);
        assert_eq!(tokens.current(new), Kept::InDoubt(Secret::new("r2")));
        tokens.restore(Secret::new("r2"), new);
        assert_eq!(tokens.current(new), Kept::InDoubt(Secret::new("r2")), "no surer than before");
        tokens.keep(Secret::new("r3"), new);
        assert_eq!(tokens.current(new), Kept::Token(Secret::new("r3")));
        assert_eq!(tokens.current(old), Kept::Token(Secret::new("r1")), "another device's");
        assert!(!format!("{tokens:?}").contains("r3"));
        tokens.forget(new);
        assert_eq!(tokens.current(new), Kept::Nothing);
    }

    #[test]
    fn a_devices_own_values_are_part_of_what_a_refresh_token_came_of() {
        let tokens = RefreshTokens::new(true);
        let basis = |own: &[(&str, &str)]| {
            let own = own.iter().map(|(name, value)| (*name, Secret::new(*value)));
            tokens.basis(&[Some(Secret::new("user"))], &own.collect())
        };
        let both = [("scope", "read"), ("audience", "x")];
        assert_eq!(basis(&both), basis(&[both[1], both[0]]), "in any order");
        assert_ne!(basis(&both), basis(&both[..1]));
        assert_ne!(basis(&both[..1]), basis(&[("scope", "write")]));
        assert_ne!(basis(&both[..1]), basis(&[("audience", "read")]), "another name");
        assert_ne!(basis(&both[..1]), basis(&[]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_makes_room_only_where_its_like_can_be_had_again() {
        for expendable in [true, false] {
            let tokens = RefreshTokens::new(expendable);
            let basis = |number: usize| {
                let part = Some(Secret::new(number.to_string()));
                tokens.basis(&[part], &Values::default())
            };
            for day in 0..10 {
                for number in day * FEW..(day + 1) * FEW {
                    tokens.keep(Secret::new("r"), basis(number));
                }
                tokio::time::advance(OLD).await;
            }
            let len = tokens.lock().len();
            assert_eq!(len < 5 * FEW, expendable, "{len}");
            assert!(len >= FEW, "{len}");
        }
    }
}
