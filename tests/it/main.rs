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

mod harness;

mod devo;
mod login;
mod renewal;
mod replay;
