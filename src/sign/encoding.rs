//! How digests and times are written as text.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::unix_ms;

/// How a digest is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// Lower-case hexadecimal digits.
    #[default]
    Hex,
    /// Upper-case hexadecimal digits.
    HexUpper,
    /// Standard base64 with padding (RFC 4648 §4).
    Base64,
    /// URL-safe base64 without padding (RFC 4648 §5).
    Base64url,
}

impl Encoding {
    /// `digest` as text.
    pub fn encode(self, digest: &[u8]) -> String {
        match self {
            Self::Hex => hex::encode(digest),
            Self::HexUpper => hex::encode_upper(digest),
            Self::Base64 => STANDARD.encode(digest),
            Self::Base64url => URL_SAFE_NO_PAD.encode(digest),
        }
    }
}

/// How the time of signing is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimestampFormat {
    /// Milliseconds since 1970: `1700000000123`.
    #[default]
    UnixMs,
    /// Seconds since 1970: `1700000000`.
    UnixS,
    /// RFC 3339 in UTC, whole seconds: `2023-11-14T22:13:20Z`.
    Rfc3339,
    /// ISO 8601 basic format in UTC: `20231114T221320Z`.
    Iso8601Basic,
    /// The form of the `Date` field (RFC 9110 §5.6.7): `Tue, 14 Nov 2023 22:13:20 GMT`.
    HttpDate,
}

impl TimestampFormat {
    /// The time `at` as text.
    pub fn format(self, at: SystemTime) -> String {
        let calendar = |format| {
            let seconds = i64::try_from(unix_ms(at) / 1000).unwrap_or_default();
            let time = Timestamp::from_second(seconds).unwrap_or_default();
            time.strftime(format).to_string()
        };
        match self {
            Self::UnixMs => unix_ms(at).to_string(),
            Self::UnixS => (unix_ms(at) / 1000).to_string(),
            Self::Rfc3339 => calendar("%Y-%m-%dT%H:%M:%SZ"),
            Self::Iso8601Basic => calendar("%Y%m%dT%H%M%SZ"),
            Self::HttpDate => httpdate::fmt_http_date(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_are_written_as_documented() {
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let written = |format: TimestampFormat| format.format(at);
        assert_eq!(written(TimestampFormat::UnixMs), "1700000000123");
        assert_eq!(written(TimestampFormat::UnixS), "1700000000");
        assert_eq!(written(TimestampFormat::Rfc3339), "2023-11-14T22:13:20Z");
        assert_eq!(written(TimestampFormat::Iso8601Basic), "20231114T221320Z");
        assert_eq!(written(TimestampFormat::HttpDate), "Tue, 14 Nov 2023 22:13:20 GMT");
    }

    #[test]
    fn digests_are_written_as_documented() {
        let digest = [0xfb, 0xff, 0x00];
        assert_eq!(Encoding::Hex.encode(&digest), "fbff00");
        assert_eq!(Encoding::HexUpper.encode(&digest), "FBFF00");
        assert_eq!(Encoding::Base64.encode(&digest), "+/8A");
        assert_eq!(Encoding::Base64url.encode(&digest), "-_8A");
    }
}
