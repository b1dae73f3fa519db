//! The integration tests: the proxy as callers and upstreams see it, over real sockets.
//!
//! [`harness`] starts things; every other file is one subject. Each test has a proxy, a stand-in and
//! ports of its own, so they run side by side.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::too_many_lines,
    reason = "tests"
)]

mod cli;
mod harness;

mod admin;
mod answers;
mod bytes;
#[cfg(unix)]
mod canary;
mod chunks;
mod connections;
mod devo;
mod devo_sdk;
mod early;
mod edges;
mod fields;
mod framing;
mod grpc;
#[cfg(unix)]
mod hostile;
#[cfg(target_os = "linux")]
mod hostile_http2;
mod http2;
mod isolation;
mod legacy;
mod limits;
mod listeners;
mod login;
mod proxy_connect;
mod redirects;
mod renewal;
mod replay;
mod secret_files;
mod streaming;
mod targets;
mod tls;
mod websocket;
