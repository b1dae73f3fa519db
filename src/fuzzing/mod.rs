//! Fuzz targets: what must hold for any bytes.
//!
//! One body per target, for two runners: cargo-fuzz (`fuzz/`), which looks for new inputs for as long
//! as it is let, and a bounded run over the seeds and mutations of them that is part of the tests
//! (`smoke`). A target panics where a property is broken. Wherever it can, it compares with a second,
//! simpler implementation of the same thing, which is written here and shares no code with the first.
//!
//! Not part of the API: the module is there in tests and with the feature `fuzzing` only.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::match_same_arms,
    clippy::similar_names,
    clippy::wildcard_enum_match_arm,
    clippy::missing_panics_doc,
    reason = "a broken property is a panic here, and nothing of this is in the program"
)]

mod answers;
mod callers;
mod config;
mod content;
mod credential;
mod devices;
mod heads;
mod paths;
mod sign;
#[cfg(test)]
mod smoke;
mod wire;

pub use answers::rewrite;
pub use callers::{guard, headers, websocket};
pub use config::{config, quote, units};
pub use content::content;
pub use credential::{reply, secret, times};
pub use devices::devices;
pub use heads::{request_head, response_head};
pub use paths::{path, route};
pub use sign::{signature, template};

/// A function that panics where a property is broken.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its seeds in `fuzz/seeds`.
pub const TARGETS: [(&str, Target); 18] = [
    ("config", config),
    ("content", content),
    ("devices", devices),
    ("guard", guard),
    ("headers", headers),
    ("path", path),
    ("quote", quote),
    ("reply", reply),
    ("request_head", request_head),
    ("response_head", response_head),
    ("rewrite", rewrite),
    ("route", route),
    ("secret", secret),
    ("signature", signature),
    ("template", template),
    ("times", times),
    ("units", units),
    ("websocket", websocket),
];

/// The first byte as four flags, and the rest. A digit, so that a seed can be read.
fn flags(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    Some((first & 0x0f, rest))
}

/// What stands before the first line feed, and what behind it.
fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

/// Lines such as `name: value` as fields. What is no field is left out.
fn fields(bytes: &[u8]) -> http::HeaderMap {
    let mut fields = http::HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = http::HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

/// The values of each field, by its name.
fn by_name(fields: &http::HeaderMap) -> std::collections::BTreeMap<String, Vec<Vec<u8>>> {
    let mut all = std::collections::BTreeMap::<String, Vec<Vec<u8>>>::new();
    for (name, value) in fields {
        all.entry(name.as_str().to_owned()).or_default().push(value.as_bytes().to_vec());
    }
    all
}
