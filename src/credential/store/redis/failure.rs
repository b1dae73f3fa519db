//! Why Redis does not do what is asked, in words. What a server says is not repeated: it may quote
//! what it was sent, and that may be the password.

use std::time::Duration;

use ::redis::{ErrorKind, RedisError};

const WRONG_PASSWORD: &str = "it does not accept the user name and the password";

/// Why there is no use in a connection, or none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing is wrong with the configuration, as far as one can tell.
    #[error("{0}")]
    Away(String),
    /// Not in time.
    #[error("it did not answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// It does not let us in, or not do what is needed.
    #[error("{0}")]
    Refused(&'static str),
    /// Sealed with another key.
    #[error(
        "the key is not the one that what is there was sealed with; put the former key back, or set \
         another prefix, and every credential logs in anew"
    )]
    WrongKey,
    /// Something else is there.
    #[error("what is there under this prefix is no token store; set another prefix")]
    Foreign,
    /// A later version wrote it.
    #[error("what is there was written by a later version of countersign")]
    Later,
}

impl Failure {
    /// True if it is not going to pass by itself.
    pub(super) fn is_lasting(&self) -> bool {
        !matches!(self, Self::Away(_) | Self::Silent(_))
    }
}

impl From<&RedisError> for Failure {
    fn from(error: &RedisError) -> Self {
        let code = error.code().unwrap_or_default();
        if is_full(error) {
            return Self::Away(describe(error));
        }
        match code {
            "WRONGPASS" => Self::Refused(WRONG_PASSWORD),
            "NOAUTH" => Self::Refused("it wants a password, and the configuration has none"),
            "NOPERM" => Self::Refused(
                "the user may not do all that is needed (NOPERM); the documentation lists it",
            ),
            "MOVED" | "CROSSSLOT" => Self::Refused("it is a node of a cluster; set cluster = true"),
            "WRONGTYPE" => Self::Foreign,
            // What version 5 says.
            "ERR" if says(error, "invalid password") => Self::Refused(WRONG_PASSWORD),
            "ERR" if says(error, "AUTH") && says(error, "password") => {
                Self::Refused("it has no password, and the configuration has one")
            }
            // It runs no scripts, or not what is in them. In passing it says other words than this.
            "ERR" => Self::Refused(
                "it does not run our scripts (ERR): it is older than version 5, or the user may not \
                 do all that is needed; the documentation lists it",
            ),
            _ => Self::Away(describe(error)),
        }
    }
}

/// True if the server has no room for another connection, which is all that it says to it.
fn is_full(error: &RedisError) -> bool {
    says(error, "max number of clients")
}

/// True if these words are among the server's.
fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(words))
}

/// What an error comes to, without the server's own words.
pub(super) fn describe(error: &RedisError) -> String {
    let code = error.code().unwrap_or_default();
    if is_full(error) {
        return "it has as many clients as it takes (maxclients)".to_owned();
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        // The client keeps the reason for itself.
        return "it did not let us in: the user name or the password is wrong, or it has as many \
                clients as it takes"
            .to_owned();
    }
    let known = match code {
        "READONLY" => "it is a replica, which takes no writes",
        "LOADING" => "it is loading its data",
        "MASTERDOWN" => "it is a replica whose master is away",
        "CLUSTERDOWN" => "the cluster is down",
        "OOM" => "it has no memory left",
        "MISCONF" => "it cannot write to its disk, and takes no writes",
        "NOREPLICAS" => "it has too few replicas, and takes no writes",
        _ => "",
    };
    if !known.is_empty() {
        return format!("{known} ({code})");
    }
    if !code.is_empty() {
        let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
        return format!("it answers with an error ({code})");
    }
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    if error.is_io_error() {
        // The system's words, or those of rustls.
        return error.to_string();
    }
    if error.kind() == ErrorKind::MasterNameNotFoundBySentinel {
        return "the Sentinels know of no such master, or it is down".to_owned();
    }
    format!("the connection failed: {}", error.category())
}

/// True if nothing can be expected of the connection any more. What is wrong with one key is wrong
/// with that one only.
pub(super) fn ends_connection(error: &RedisError) -> bool {
    !matches!(error.code(), Some("ERR" | "WRONGTYPE" | "EXECABORT"))
}
