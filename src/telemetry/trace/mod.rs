//! Traces: a request as spans, in the terms of OpenTelemetry, exported by OTLP over HTTP.
//!
//! [`context`] is what callers and upstreams are told (W3C Trace Context), [`spans`] what is noted
//! of a request, [`tracer`] decides which ones and takes what is noted, and `export` sends it, in
//! the form that `message` has.

pub mod context;
#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod message;
pub mod spans;
pub mod tracer;

#[cfg(feature = "otlp")]
pub use export::Exporter;

/// True if this program can export traces.
pub const BUILT_IN: bool = cfg!(feature = "otlp");
