//! `[log]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RawSize;

/// Logging. Everything but data goes to standard error.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// The least important messages that are written. Default: "info".
    pub level: Option<RawLevel>,
    /// "text" for people, "json" for machines; "auto" is text on a terminal, else json.
    /// Default: "auto".
    pub format: Option<RawLogFormat>,
    /// One line per request: "off" (then still at level debug), "text" or "json".
    /// Default: "off".
    pub access: Option<RawAccess>,
    /// Write to this file instead of standard error. It is opened again when it is rotated.
    pub file: Option<String>,
    /// Where the lines per request go, if not where the others go: a file, or "-" for standard
    /// output.
    pub access_file: Option<String>,
    /// Lines that wait to be written, in all; beyond that they are dropped and counted.
    /// Default: "4MiB".
    pub buffer: Option<RawSize>,
    /// The field that says what a request is called, in its line, in problem documents, and to the
    /// upstream: the caller's own if it sends one, else a new one. "off": none.
    /// Default: "X-Request-Id".
    pub request_id: Option<String>,
}

/// A log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum RawLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum RawLogFormat {
    Auto,
    Text,
    Json,
}

/// How access lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum RawAccess {
    Off,
    Text,
    Json,
}
