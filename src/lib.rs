//! countersign: a local authenticating reverse proxy. Unsigned HTTP in, authenticated HTTP out.
//!
//! The modules in reading order:
//!
//! - [`secret`], [`clock`], [`skew`], [`values`], [`template`]: the small things everything is made of;
//! - [`sign`]: applying a credential: from a request to the fields that authenticate it;
//! - [`http1`]: HTTP/1.1 on the wire; [`connect`], [`tls`]: reaching a host; [`local`]: tasks of a
//!   worker;
//! - [`credential`]: getting one: sources, the task that renews, the cache that requests read;
//! - [`config`]: from the text of the file to what runs;
//! - [`observe`]: what becomes of requests, counted;
//! - [`proxy`]: one request, from the caller's head to the last byte of the answer;
//! - [`server`]: listeners and workers; [`admin`]: the admin listener; [`explain`]: what would happen to
//!   a request;
//! - [`app`]: wiring; [`control`]: what is asked of the running program; [`telemetry`]: logs and traces;
//!   [`private`]: keeping memory to oneself; [`sandbox`]: confinement;
//!   [`permissions`]: who else can get at a file;
//!   [`stamp`]: noticing that one changes; [`cli`]: the commands;
//! - [`mock`]: stand-ins of the vendors' APIs, for the demo and the tests.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connect;
pub mod control;
pub mod credential;
pub mod explain;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handover;
pub mod http1;
pub mod local;
pub mod mock;
pub mod notify;
pub mod observe;
pub mod permissions;
pub mod private;
pub mod proxy;
pub mod sandbox;
pub mod secret;
pub mod server;
pub mod sign;
pub mod skew;
pub mod stamp;
pub mod telemetry;
pub mod template;
pub mod tls;
pub mod values;
