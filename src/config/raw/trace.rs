//! `[trace]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{RawSecret, RawTls};

/// Traces of requests, exported to a collector by OTLP over HTTP.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTrace {
    /// The collector: `"http://127.0.0.1:4318"`; `/v1/traces` is added.
    pub endpoint: Option<String>,
    /// Fields that the collector wants to see, such as a token.
    pub headers: BTreeMap<String, RawSecret>,
    /// What the collector calls this process. Default: "countersign".
    pub service_name: Option<String>,
    /// The share of requests that is traced, from 0.0 to 1.0, of those whose caller has not decided
    /// it. Default: 1.0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: Option<f64>,
    /// How long the collector may take to answer. Default: "10s".
    pub timeout: Option<String>,
    /// Requests that wait to be exported; beyond that they are dropped and counted. Default: 2048.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue: Option<u64>,
    /// Requests that are exported at once. Default: 512.
    #[schemars(range(min = 1, max = 10_000))]
    pub batch: Option<u64>,
    /// How long a request waits for others before it is exported. Default: "5s".
    pub delay: Option<String>,
    /// Tell which device sent a request. Default: false.
    pub devices: Option<bool>,
    /// Allow a secret over plain HTTP to a collector that is not loopback. Default: false.
    pub allow_plaintext: Option<bool>,
    /// TLS to the collector.
    pub tls: RawTls,
}
