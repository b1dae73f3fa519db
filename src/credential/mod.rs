//! Getting a credential: sources, the task that keeps one fresh, and the cache requests read.
//!
//! A [`CredentialSource`] fetches once; the [`refresher`] owns a source and decides when; the
//! [`cache`] is what requests see. None of them knows how a credential is applied: they publish
//! whatever a function makes of it.

pub mod cache;
pub mod devices;
pub mod fixed;
pub mod http;
pub mod keeper;
mod link;
pub mod login;
pub mod oauth;
pub mod record;
pub mod refresher;
pub mod reply;
pub mod schedule;
pub mod secret_ref;
pub mod secrets;
pub mod source;
mod spent;
pub mod store;

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use ::http::StatusCode;

use crate::clock::Deadline;
use crate::connect::DialError;
use crate::values::Values;

/// Named secret values with an end of life.
#[derive(Debug, Clone, Default)]
pub struct Credential {
    /// The values.
    pub values: Values,
    /// When they end; `None` if they do not.
    pub expires: Option<Deadline>,
    /// The whole lifetime, from which the time of renewal is drawn; `None` if it does not end.
    pub lifetime: Option<Duration>,
    /// How far the clock of the token endpoint is ahead of ours, in milliseconds, if it said.
    pub clock_skew_ms: Option<i64>,
}

/// Where a credential comes from.
///
/// One call is one attempt: no cache, no retry, no time limit of the whole.
pub trait CredentialSource: Debug + Send + Sync + 'static {
    /// Fetches a credential. `current` is the one to be replaced, for sources that can renew it.
    ///
    /// # Errors
    /// With the reason, which says whether trying again soon can help.
    fn fetch(
        &self,
        current: Option<&Credential>,
    ) -> impl Future<Output = Result<Credential, FetchError>> + Send;

    /// A store has kept `credential` over a restart. Called before the first fetch, if at all.
    fn restored(&self, credential: &Credential) {
        let _ = credential;
    }

    /// The names of the values that the next [`fetch`](Self::fetch) with `current` may use up, where
    /// others can be had without them. A store forgets them before they are sent, so that they are
    /// not sent a second time by another process, or by the next if this one is killed.
    fn uses_up(&self, current: Option<&Credential>) -> Vec<String> {
        let _ = current;
        Vec::new()
    }

    /// True if a credential that has ended is of use for [`fetch`](Self::fetch), because it holds a
    /// value for renewals that lives longer.
    fn renews_ended(&self) -> bool {
        false
    }

    /// Tells the endpoint that `current` will not be used any more, where it wants to know. One
    /// attempt, whose failure changes nothing.
    fn give_up(&self, current: &Credential) -> impl Future<Output = ()> + Send {
        let _ = current;
        std::future::ready(())
    }
}

/// Why a credential could not be fetched. Holds no secret and nothing of the endpoint's answer but
/// its status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The token endpoint could not be reached.
    #[error("the token endpoint {authority} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port.
        authority: String,
        /// What went wrong on the way.
        reason: DialError,
    },
    /// The connection broke or what came over it was not HTTP.
    #[error("the exchange with the token endpoint {authority} failed: {reason}")]
    Broken {
        /// Host and port.
        authority: String,
        /// What went wrong with it.
        reason: String,
    },
    /// No answer in time.
    #[error("the token endpoint did not answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// An answer that asks to come back later, or a failure on the other side.
    #[error("the token endpoint answered {status}")]
    Unavailable {
        /// Its status.
        status: StatusCode,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// The token endpoint understood and said no: trying the same again does not help.
    #[error("{0}")]
    Refused(Refusal),
    /// The metadata of an authorization server do not lead to its token endpoint.
    #[error("the authorization server's metadata cannot be used: {0}")]
    Discovery(oauth::DiscoveryError),
    /// The answer is not what the configuration says it would be.
    #[error("the token endpoint's answer cannot be used: {0}")]
    Reply(#[from] reply::ReplyError),
    /// The values do not fit the scheme that is to use them.
    #[error("the fetched values cannot be used: {0}")]
    Bind(#[from] crate::sign::BindError),
    /// A secret of a device cannot be read.
    #[error("a secret of this device cannot be read: {0}")]
    Secret(String),
    /// A request to the token endpoint could not be put together.
    #[error("the login request cannot be built: {0}")]
    Request(String),
    /// A panic.
    #[error("a mistake in countersign ended the attempt")]
    Panicked,
}

/// How a token endpoint said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// By status.
    #[error("the token endpoint refused the login: it answered {0}; check the login and password")]
    Status(StatusCode),
    /// By a success status with an answer that says otherwise.
    #[error(
        "the token endpoint refused the login: its answer reports a failure at '{0}'; check the \
         login and password"
    )]
    Condition(String),
    /// By one of the codes of OAuth 2.0.
    #[error("the token endpoint refused the login: it answered {code}; {}", .code.hint())]
    OAuth {
        /// The code.
        code: oauth::ErrorCode,
    },
    /// There is nothing to ask with: a person has to log in, and nobody has.
    #[error("nobody is logged in; stop countersign, and run: countersign login {credential}")]
    NobodyIsLoggedIn {
        /// The credential.
        credential: String,
    },
    /// The login of a person is over.
    #[error(
        "the login has ended ({}); stop countersign, and run: countersign login {credential}",
        .because.brief()
    )]
    LoginHasEnded {
        /// The credential.
        credential: String,
        /// What the server answered.
        because: Box<Refusal>,
    },
}

impl Refusal {
    /// What the endpoint answered, without advice.
    fn brief(&self) -> String {
        match self {
            Self::Status(status) => format!("the token endpoint answered {status}"),
            Self::OAuth { code } => format!("the token endpoint answered {code}"),
            Self::Condition(_) | Self::NobodyIsLoggedIn { .. } | Self::LoginHasEnded { .. } => {
                "the token endpoint refused it".to_owned()
            }
        }
    }
}

impl FetchError {
    /// True if the endpoint said no, so that the same attempt would only lock the account.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// True if the same attempt may succeed soon.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Timeout(_)
            | Self::Unavailable { .. } => true,
            Self::Refused(_)
            | Self::Discovery(_)
            | Self::Reply(_)
            | Self::Bind(_)
            | Self::Secret(_)
            | Self::Request(_)
            | Self::Panicked => false,
        }
    }

    /// How long the endpoint asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Timeout(_)
            | Self::Refused(_)
            | Self::Discovery(_)
            | Self::Reply(_)
            | Self::Bind(_)
            | Self::Secret(_)
            | Self::Request(_)
            | Self::Panicked => None,
        }
    }

    /// Every [`word`](Self::word): metrics have them all from the start, so that the first of a kind
    /// is an increase.
    pub const WORDS: [&'static str; 11] = [
        "unreachable",
        "broken",
        "timeout",
        "unavailable",
        "refused",
        "discovery",
        "reply",
        "bind",
        "secret",
        "request",
        "panicked",
    ];

    /// One word for metrics and logs; one of [`WORDS`](Self::WORDS).
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Broken { .. } => "broken",
            Self::Timeout(_) => "timeout",
            Self::Unavailable { .. } => "unavailable",
            Self::Refused(_) => "refused",
            Self::Discovery(_) => "discovery",
            Self::Reply(_) => "reply",
            Self::Bind(_) => "bind",
            Self::Secret(_) => "secret",
            Self::Request(_) => "request",
            Self::Panicked => "panicked",
        }
    }
}
