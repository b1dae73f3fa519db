//! What a fleet does to the token endpoints: how often each account is given a token, and how many
//! there are in a second.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Counts over all tokens that were handed out, by logins and by renewals.
#[derive(Debug, Default)]
pub(super) struct Tally {
    tokens: Mutex<Given>,
    own: AtomicU64,
    others: AtomicU64,
}

#[derive(Debug, Default)]
struct Given {
    accounts: HashMap<String, Account>,
    most_of_one: u64,
    too_early: u64,
    second: i64,
    in_second: u64,
    most_in_second: u64,
}

#[derive(Debug, Default)]
struct Account {
    given: u64,
    /// When the newest token was handed out, and when half of its lifetime is over.
    half_time_ms: i64,
}

impl Tally {
    /// A token was handed out to `login` at `now_ms`, to live until `expires_ms`.
    pub(super) fn given(&self, login: &str, now_ms: i64, expires_ms: i64) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let second = now_ms.div_euclid(1000);
        if tokens.second != second {
            (tokens.second, tokens.in_second) = (second, 0);
        }
        tokens.in_second += 1;
        tokens.most_in_second = tokens.most_in_second.max(tokens.in_second);
        if !tokens.accounts.contains_key(login) {
            tokens.accounts.insert(login.to_owned(), Account::default());
        }
        let Some(account) = tokens.accounts.get_mut(login) else { return };
        account.given += 1;
        let given = account.given;
        let early = given > 1 && now_ms < account.half_time_ms;
        account.half_time_ms = now_ms.saturating_add(expires_ms.saturating_sub(now_ms) / 2);
        tokens.most_of_one = tokens.most_of_one.max(given);
        tokens.too_early += u64::from(early);
    }

    /// A call that names an account by its login was made with a token of that account, or not.
    pub(super) fn named(&self, own: bool) {
        if own { &self.own } else { &self.others }.fetch_add(1, Relaxed);
    }

    /// The counts by name.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let accounts = u64::try_from(tokens.accounts.len()).unwrap_or(u64::MAX);
        vec![
            ("accounts_with_tokens", accounts),
            ("most_tokens_of_one_account", tokens.most_of_one),
            // Before half of the lifetime of the former one is over.
            ("tokens_too_early", tokens.too_early),
            ("most_tokens_in_one_second", tokens.most_in_second),
            ("calls_for_own_login", self.own.load(Relaxed)),
            ("calls_for_another_login", self.others.load(Relaxed)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(tally: &Tally) -> Vec<u64> {
        tally.counters().into_iter().map(|(_, count)| count).collect()
    }

    #[test]
    fn tokens_are_counted_by_account_and_by_second() {
        let tally = Tally::default();
        tally.given("one", 1_000, 61_000);
        tally.given("two", 1_999, 61_999);
        tally.given("one", 52_000, 112_000);
        assert_eq!(counts(&tally), [2, 2, 0, 2, 0, 0]);
        tally.given("two", 31_998, 91_998);
        assert_eq!(counts(&tally), [2, 2, 1, 2, 0, 0], "a millisecond too early");
        tally.given("one", 52_001, 112_001);
        assert_eq!(counts(&tally), [2, 3, 2, 2, 0, 0], "the newest token counts");
    }

    #[test]
    fn calls_are_counted_by_whose_token_they_carry() {
        let tally = Tally::default();
        for own in [true, false, true] {
            tally.named(own);
        }
        assert_eq!(counts(&tally), [0, 0, 0, 0, 2, 1]);
    }
}
