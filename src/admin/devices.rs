//! `GET /api/credentials/NAME/devices`: the devices of a credential, page by page.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::sight::{Sight, seconds};
use crate::credential::devices::sight::{Census, DeviceState, Sighted, Wanted};

/// How many devices are on a page unless it is said.
const LIMIT: usize = 100;
/// The most that can be asked for.
pub const MAX_LIMIT: usize = 1_000;

/// A page of devices, as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page {
    /// The credential's name.
    pub credential: String,
    /// How many devices are in which state, whatever is asked for.
    pub counts: Counts,
    /// In the order of the file.
    pub devices: Vec<Shown>,
    /// What to send as `after` for the next page; null on the last.
    pub next: Option<String>,
}

/// How many devices are in which state.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Counts {
    /// In the file: the sum of the others.
    pub known: usize,
    /// With a usable token.
    pub fresh: usize,
    /// A login is in flight or waits for its turn.
    pub renewing: usize,
    /// The last login failed.
    pub failing: usize,
    /// The last login was refused.
    pub refused: usize,
    /// Nobody asks for it.
    pub idle: usize,
}

impl From<Census> for Counts {
    fn from(census: Census) -> Self {
        let Census { known, fresh, renewing, failing, refused, idle } = census;
        Self { known, fresh, renewing, failing, refused, idle }
    }
}

impl Counts {
    /// The state of them all in one word: the worst that there is.
    pub(super) fn state(&self, closed: bool) -> &'static str {
        match self {
            _ if closed => "failing",
            Self { refused: 1.., .. } => "refused",
            Self { failing: 1.., .. } => "failing",
            Self { renewing: 1.., .. } => "renewing",
            Self { fresh: 1.., .. } => "fresh",
            _ => "idle",
        }
    }
}

/// A device, as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shown {
    /// Its name.
    pub device: String,
    /// "fresh", "renewing", "failing", "refused" or "idle".
    pub state: String,
    /// How long its token is still good; null if there is none or it does not end.
    pub expires_in_s: Option<f64>,
    /// Logins that failed in a row.
    pub failures: u16,
    /// Why the last login failed; null if it did not.
    pub error: Option<String>,
    /// The word for that.
    pub error_word: Option<String>,
    /// When the next login is due, if one is.
    pub next_attempt_in_s: Option<f64>,
    /// How long ago a request came.
    pub idle_for_s: Option<f64>,
}

impl From<Sighted> for Shown {
    fn from(sighted: Sighted) -> Self {
        let (error, error_word) = sighted.error.unzip();
        Self {
            device: sighted.device,
            state: sighted.state.word().to_owned(),
            expires_in_s: sighted.expires_in.map(seconds),
            failures: sighted.failures,
            error,
            error_word: error_word.map(str::to_owned),
            next_attempt_in_s: sighted.next_in.map(seconds),
            idle_for_s: sighted.idle_for.map(seconds),
        }
    }
}

/// Why there is no page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoPage {
    /// There is no such thing.
    Missing(String),
    /// The query says something that cannot be.
    Query(String),
}

/// What a query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    state: Option<DeviceState>,
    search: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

impl Query {
    fn parse(query: &str) -> Result<Self, NoPage> {
        let mut parsed = Self::default();
        let wrong = |what: String| Err(NoPage::Query(what));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let Ok(value) = percent_decode_str(&value).decode_utf8().map(Cow::into_owned) else {
                return wrong(format!("'{key}' is not UTF-8 text"));
            };
            match key {
                "state" => match DeviceState::of_word(&value) {
                    Some(state) => parsed.state = Some(state),
                    None => return wrong(format!("'state' is one of {}", words())),
                },
                "search" => parsed.search = Some(value),
                "after" => parsed.after = Some(value),
                "limit" => match value.parse() {
                    Ok(limit @ 1..=MAX_LIMIT) => parsed.limit = Some(limit),
                    _ => return wrong(format!("'limit' is a number from 1 to {MAX_LIMIT}")),
                },
                _ => return wrong("known here: state, search, limit, after".to_owned()),
            }
        }
        Ok(parsed)
    }
}

/// The words of all states.
pub(crate) fn words() -> String {
    DeviceState::ALL.map(DeviceState::word).join(", ")
}

/// The page of `credential` that `query` asks for.
///
/// # Errors
/// With the reason, for a person.
pub(super) fn page(sight: &Sight, credential: &str, query: &str) -> Result<Page, NoPage> {
    let Some(known) = sight.credential(credential) else {
        return Err(NoPage::Missing(format!("there is no credential '{credential}'")));
    };
    let Some(pool) = known.identity.cache.devices() else {
        let message = format!("the credential '{credential}' has no devices");
        return Err(NoPage::Missing(message));
    };
    let query = Query::parse(query)?;
    let wanted = Wanted {
        state: query.state,
        search: query.search.as_deref(),
        after: query.after.as_deref(),
        limit: query.limit.unwrap_or(LIMIT),
    };
    let Some(found) = pool.page(&wanted) else {
        return Err(NoPage::Query("there is no device of the name in 'after'".to_owned()));
    };
    let next = found.devices.last().filter(|_| found.more).map(|last| last.device.clone());
    Ok(Page {
        credential: credential.to_owned(),
        counts: pool.census().into(),
        devices: found.devices.into_iter().map(Shown::from).collect(),
        next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_with_its_escapes_and_what_is_wrong_is_said() {
        let query = Query::parse("state=refused&search=line+%C3%BC%26&limit=1000&after=a%2Fb");
        let expected = Query {
            state: Some(DeviceState::Refused),
            search: Some("line ü&".to_owned()),
            after: Some("a/b".to_owned()),
            limit: Some(1_000),
        };
        assert_eq!(query, Ok(expected));
        assert_eq!(Query::parse(""), Ok(Query::default()));
        for (wrong, word) in [
            ("state=tired", "fresh, renewing"),
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("limit=-1", "from 1 to 1000"),
            ("search=%ff", "UTF-8"),
            ("page=2", "known here"),
        ] {
            let Err(NoPage::Query(message)) = Query::parse(wrong) else { panic!("{wrong}") };
            assert!(message.contains(word), "{wrong}: {message}");
        }
    }
}
