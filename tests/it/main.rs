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
mod admin_changes;
mod admin_page;
#[cfg(target_os = "linux")]
mod alerts;
mod answers;
#[cfg(target_os = "linux")]
mod browser;
mod bytes;
#[cfg(unix)]
mod canary;
mod chunks;
mod connections;
#[cfg(target_os = "linux")]
mod descriptors;
#[cfg(target_os = "linux")]
mod device_commands;
#[cfg(target_os = "linux")]
mod device_store;
mod devices;
mod devo;
mod devo_sdk;
mod docs;
mod early;
mod edges;
mod exec;
mod faults;
mod fields;
mod framing;
mod grpc;
#[cfg(target_os = "linux")]
mod half_open;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod hostile_http2;
mod http2;
mod isolation;
#[cfg(target_os = "linux")]
mod large_content;
mod legacy;
mod limits;
mod listener_tls;
mod listeners;
mod login;
mod login_renewal;
#[cfg(target_os = "linux")]
mod logs;
#[cfg(target_os = "linux")]
mod loops;
#[cfg(target_os = "linux")]
mod memory;
mod metrics;
mod oauth;
mod oauth_commands;
mod oauth_devices;
mod oauth_discovery;
#[cfg(target_os = "linux")]
mod oauth_kills;
mod oauth_login;
mod oauth_refresh;
mod oauth_servers;
#[cfg(all(target_os = "linux", feature = "otlp"))]
mod otlp;
#[cfg(target_os = "linux")]
mod page;
#[cfg(target_os = "linux")]
mod process;
mod proxy_connect;
mod redirects;
#[cfg(target_os = "linux")]
mod redis_store;
mod reload;
mod reload_load;
mod renewal;
mod replay;
#[cfg(target_os = "linux")]
mod replicas;
mod request_ids;
mod sandbox;
mod scrub;
mod secret_files;
#[cfg(target_os = "linux")]
mod service;
mod sight;
mod skew;
mod slow_callers;
mod status_command;
#[cfg(target_os = "linux")]
mod stopping;
mod streaming;
mod targets;
mod tls;
#[cfg(target_os = "linux")]
mod token_store;
#[cfg(target_os = "linux")]
mod upgrade;
#[cfg(target_os = "linux")]
mod walk;
mod websocket;
