//! How calls fail, and the text forms of that and of a span of time.

use std::{fmt, str::FromStr, time::Duration};

use jiff::SignedDuration;

use super::SwitchError;

/// How calls fail instead of being answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failure {
    /// They do not: the call is judged and answered.
    #[default]
    None,
    /// 429, with `Retry-After` in seconds if given.
    TooManyRequests {
        /// The value of `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// 500 with an error in the vendor's form.
    ServerError,
    /// 200 without content.
    EmptyOk,
    /// 200 that claims to be JSON and is not.
    Garbage,
    /// No answer; the connection stays open (for ten minutes at most).
    Hang,
    /// No answer; the connection is closed.
    CloseConnection,
    /// 200 with well-formed JSON that says the call failed.
    SuccessFalse,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::TooManyRequests { retry_after: None } => "too_many_requests",
            Self::TooManyRequests { retry_after: Some(seconds) } => {
                return write!(f, "too_many_requests:{seconds}");
            }
            Self::ServerError => "server_error",
            Self::EmptyOk => "empty_ok",
            Self::Garbage => "garbage",
            Self::Hang => "hang",
            Self::CloseConnection => "close_connection",
            Self::SuccessFalse => "success_false",
        })
    }
}

/// What a failure may be called.
const FORMS: &str = "none, too_many_requests, too_many_requests:SECONDS, server_error, empty_ok, \
                     garbage, hang, close_connection or success_false";

impl FromStr for Failure {
    type Err = SwitchError;

    /// Reads what `Display` writes; `-` may stand for `_`, and `too_many_requests:30` sets
    /// `Retry-After`.
    fn from_str(text: &str) -> Result<Self, SwitchError> {
        let name = text.replace('-', "_");
        Ok(match name.as_str() {
            "none" => Self::None,
            "too_many_requests" => Self::TooManyRequests { retry_after: None },
            "server_error" => Self::ServerError,
            "empty_ok" => Self::EmptyOk,
            "garbage" => Self::Garbage,
            "hang" => Self::Hang,
            "close_connection" => Self::CloseConnection,
            "success_false" => Self::SuccessFalse,
            other => match other.strip_prefix("too_many_requests:").map(str::parse) {
                Some(Ok(seconds)) => Self::TooManyRequests { retry_after: Some(seconds) },
                Some(Err(_)) | None => {
                    return Err(SwitchError::BadValue {
                        key: "failure".to_owned(),
                        expected: FORMS,
                    });
                }
            },
        })
    }
}

/// A span of time that can be read from a command line: `250ms`, `5s`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = SwitchError;

    fn from_str(text: &str) -> Result<Self, SwitchError> {
        text.parse::<SignedDuration>()
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok())
            .map(Self)
            .ok_or_else(|| SwitchError::BadValue {
                key: "period".to_owned(),
                expected: "a number and a unit, such as 250ms, 5s or 24h",
            })
    }
}

/// How far one clock is ahead of another, in milliseconds, read from a command line: `1h`, `-90s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset(pub i64);

impl FromStr for Offset {
    type Err = SwitchError;

    fn from_str(text: &str) -> Result<Self, SwitchError> {
        let read = text.parse::<SignedDuration>().ok();
        let offset = read.and_then(|duration| i64::try_from(duration.as_millis()).ok());
        offset.map(Self).ok_or_else(|| SwitchError::BadValue {
            key: "offset".to_owned(),
            expected: "a number and a unit, such as 1h or -90s",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_what_they_write() {
        for failure in [
            Failure::None,
            Failure::TooManyRequests { retry_after: None },
            Failure::TooManyRequests { retry_after: Some(30) },
            Failure::ServerError,
            Failure::EmptyOk,
            Failure::Garbage,
            Failure::Hang,
            Failure::CloseConnection,
            Failure::SuccessFalse,
        ] {
            assert_eq!(failure.to_string().parse(), Ok(failure));
        }
        assert_eq!("close-connection".parse(), Ok(Failure::CloseConnection));
        assert!("too_many_requests:soon".parse::<Failure>().is_err());
        assert!("".parse::<Failure>().is_err());
    }

    #[test]
    fn periods_are_read_with_their_unit() {
        assert_eq!("250ms".parse(), Ok(Period(Duration::from_millis(250))));
        assert_eq!("1h30m".parse(), Ok(Period(Duration::from_mins(90))));
        assert!("5".parse::<Period>().is_err());
        assert!("-5s".parse::<Period>().is_err());
        assert_eq!("1h".parse(), Ok(Offset(3_600_000)));
        assert_eq!("-90s".parse(), Ok(Offset(-90_000)));
        assert!("1".parse::<Offset>().is_err());
    }
}
