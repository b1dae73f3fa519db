//! The tokens a stand-in has handed out.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::{super::faults::whole_ms, Account, Switches};

/// Tokens remembered at most, unless there are so many accounts that each has fewer than four. Beyond
/// it those nearest to their end are forgotten, which revokes
/// them.
const LIMIT: usize = 100_000;

/// What a login or a renewal answers: the keys in the recorded order, the times in Unix
/// milliseconds.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Grant {
    client: String,
    token: String,
    pub(super) expiration: i64,
    pub(super) created: i64,
    branch: String,
}

/// The tokens and whom they speak for. Several tokens of one account are good at the same time.
pub(super) struct Tokens(Mutex<HashMap<String, Issued>>, usize);

impl Default for Tokens {
    fn default() -> Self {
        Self::for_accounts(1)
    }
}

struct Issued {
    account: Arc<Account>,
    expires_ms: i64,
    generation: u64,
}

impl Issued {
    fn is_good(&self, switches: &Switches) -> bool {
        self.generation == switches.generation() && switches.now_ms() < self.expires_ms
    }
}

impl Tokens {
    /// None yet, for so many accounts.
    pub(super) fn for_accounts(count: usize) -> Self {
        Self(Mutex::default(), LIMIT.max(count.saturating_mul(4)))
    }

    /// Hands out a token; `None` if the system has no random numbers.
    pub(super) fn issue(&self, account: &Arc<Account>, switches: &Switches) -> Option<Grant> {
        let mut random = [0; 32];
        SystemRandom::new().fill(&mut random).ok()?;
        let token = STANDARD.encode(random);
        let created = switches.now_ms();
        let expiration = created.saturating_add(whole_ms(switches.token_lifetime()));
        let mut tokens = self.lock();
        if tokens.len() >= self.1 {
            make_room(&mut tokens, switches, self.1);
        }
        let issued = Issued {
            account: Arc::clone(account),
            expires_ms: expiration,
            generation: switches.generation(),
        };
        tokens.insert(token.clone(), issued);
        Some(Grant {
            client: account.client_guid.clone(),
            token,
            expiration,
            created,
            branch: account.branch_guid.clone(),
        })
    }

    /// Whom a token speaks for, if it is known, not expired and not revoked.
    pub(super) fn find(&self, token: &[u8], switches: &Switches) -> Option<Arc<Account>> {
        let token = std::str::from_utf8(token).ok()?;
        let tokens = self.lock();
        let issued = tokens.get(token)?;
        issued.is_good(switches).then(|| Arc::clone(&issued.account))
    }

    /// Takes a token back; false if it was not good any more.
    pub(super) fn revoke(&self, token: &[u8], switches: &Switches) -> bool {
        let Ok(token) = std::str::from_utf8(token) else {
            return false;
        };
        self.lock().remove(token).is_some_and(|issued| issued.is_good(switches))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Issued>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.lock().len())
    }
}

/// Forgets what is over; if nothing is, the half that ends first, so that the work is not done at
/// every login.
fn make_room(tokens: &mut HashMap<String, Issued>, switches: &Switches, limit: usize) {
    tokens.retain(|_, issued| issued.is_good(switches));
    if tokens.len() < limit {
        return;
    }
    let mut ends: Vec<i64> = tokens.values().map(|issued| issued.expires_ms).collect();
    let middle = ends.len() / 2;
    let (_, median, _) = ends.select_nth_unstable(middle);
    let median = *median;
    tokens.retain(|_, issued| issued.expires_ms > median);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;

    fn issue(tokens: &Tokens, switches: &Switches) -> Grant {
        tokens.issue(&Arc::new(Account::default()), switches).unwrap()
    }

    #[test]
    fn a_grant_has_the_recorded_shape() {
        let grant = issue(&Tokens::default(), &Switches::default());
        assert_eq!(grant.token.len(), 44);
        assert!(grant.token.ends_with('='));
        assert_eq!(grant.expiration - grant.created, 86_399_996);

        let text = serde_json::to_string(&grant).unwrap();
        let places = ["Client", "Token", "Expiration", "Created", "Branch"]
            .map(|key| text.find(key).unwrap());
        assert!(places.is_sorted());
    }

    #[test]
    fn a_token_is_good_until_the_clock_reaches_its_end() {
        let (tokens, switches) = (Tokens::default(), Switches::default());
        switches.set_token_lifetime(Duration::from_hours(1));
        let grant = issue(&tokens, &switches);
        assert!(tokens.find(grant.token.as_bytes(), &switches).is_some());

        switches.set_clock_offset_ms(3_600_000);
        assert!(tokens.find(grant.token.as_bytes(), &switches).is_none());
        assert!(!tokens.revoke(grant.token.as_bytes(), &switches));
    }

    #[test]
    fn several_tokens_are_good_at_once_and_revoked_one_by_one_or_all_together() {
        let (tokens, switches) = (Tokens::default(), Switches::default());
        let [first, second, third] = [(); 3].map(|()| issue(&tokens, &switches));
        assert!(tokens.revoke(first.token.as_bytes(), &switches));
        assert!(tokens.find(first.token.as_bytes(), &switches).is_none());
        assert!(tokens.find(second.token.as_bytes(), &switches).is_some());

        switches.revoke_all();
        assert!(tokens.find(second.token.as_bytes(), &switches).is_none());
        assert!(tokens.find(third.token.as_bytes(), &switches).is_none());
        assert!(tokens.find(issue(&tokens, &switches).token.as_bytes(), &switches).is_some());
    }

    #[test]
    fn the_table_stays_within_its_limit() {
        let (tokens, switches) = (Tokens::default(), Switches::default());
        let account = Arc::new(Account::default());
        {
            let mut table = tokens.lock();
            for (expires_ms, number) in (i64::MAX - 200_000..).zip(0..LIMIT) {
                let issued = Issued { account: Arc::clone(&account), expires_ms, generation: 0 };
                table.insert(number.to_string(), issued);
            }
        }
        let grant = issue(&tokens, &switches);
        assert!(tokens.lock().len() < LIMIT);
        assert!(tokens.find(grant.token.as_bytes(), &switches).is_some());
    }
}
