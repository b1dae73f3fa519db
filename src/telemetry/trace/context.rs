//! W3C Trace Context: how a trace goes on from the caller to the upstream.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The field that says which trace a request belongs to.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add to that. Means nothing without it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The flag of a trace that is kept.
pub const SAMPLED: u8 = 1;
/// The flag of a trace whose identifier is random (Trace Context, level 2).
pub const RANDOM: u8 = 2;

/// What a trace is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// A new one.
    pub fn random() -> Self {
        // Zero is no trace.
        Self(fastrand::u128(1..).to_be_bytes())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for this share of all traces, and for the same ones wherever the share is the same.
    pub fn is_in(&self, share: f64) -> bool {
        // The last 56 bits are random, as the specification calls for; a double holds 53 of them.
        let drawn = u128::from_be_bytes(self.0) >> 3 & ((1 << 53) - 1);
        #[expect(clippy::cast_precision_loss, reason = "53 bits")]
        let drawn = drawn as f64 / (1_u64 << 53) as f64;
        drawn < share
    }
}

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What a span is called within its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId([u8; 8]);

impl SpanId {
    /// A new one.
    pub fn random() -> Self {
        Self(fastrand::u64(1..).to_be_bytes())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Display for SpanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that what follows is part of.
    pub parent: SpanId,
    /// What its flags say, of those that are known.
    pub flags: u8,
}

impl TraceContext {
    /// What a caller says; `None` if it says nothing, or nothing that can be read.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let value = all.next()?;
        if all.next().is_some() { None } else { Self::parse(value.to_str().ok()?) }
    }

    /// Reads a `traceparent`. Later versions may have more behind what is known.
    fn parse(text: &str) -> Option<Self> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let [version] = lower_hex(parts.next()?)?;
        let (trace, parent) = (lower_hex(parts.next()?)?, lower_hex(parts.next()?)?);
        let [flags] = lower_hex(parts.next()?)?;
        let more_fits = more.is_empty() || (version != 0 && more.starts_with('-'));
        let fits = version != 0xff && more_fits && parts.next().is_none();
        let there = trace != [0; 16] && parent != [0; 8];
        (fits && there).then_some(Self {
            trace: TraceId(trace),
            parent: SpanId(parent),
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// True if whoever began it keeps it.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// As a `traceparent`.
    pub fn value(&self) -> HeaderValue {
        let Self { trace, parent, flags } = self;
        let text = format!("00-{trace}-{parent}-{flags:02x}");
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Exactly as many digits as it takes.
fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_the_specification_calls_valid_is_read_and_written_alike() {
        let context = TraceContext::parse(TRACED).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.parent.to_string(), "00f067aa0ba902b7");
        assert_eq!(context.value(), TRACED);
        let unsampled = TRACED.replace("b7-01", "b7-00");
        assert!(!TraceContext::parse(&unsampled).unwrap().is_sampled());
        // Flags that are not known are left out; that the trace is random is passed on.
        let flags = TraceContext::parse(&TRACED.replace("b7-01", "b7-fe")).unwrap();
        assert!(!flags.is_sampled());
        assert_eq!(flags.value(), TRACED.replace("b7-01", "b7-02"));
        // A later version.
        let later = format!("{}-what-the-future-will-be-like", TRACED.replace("00-4b", "cc-4b"));
        assert_eq!(TraceContext::parse(&later), Some(context));
    }

    #[test]
    fn what_it_calls_invalid_is_no_context() {
        for wrong in [
            "",
            "00",
            &TRACED[..54],
            &format!("{TRACED}-"),
            &format!("{TRACED}0"),
            &TRACED.replace("00-4b", "cc-4b").replace("b7-01", "b7-01x"),
            &TRACED.replace("00-4b", "ff-4b"),
            &TRACED.to_uppercase(),
            &TRACED.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &TRACED.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &TRACED.replace("00f0", "00é"),
            &TRACED.replace('-', "."),
            &TRACED.replace("36-00", "3-600"),
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
        let mut twice = HeaderMap::new();
        twice.append(TRACEPARENT, HeaderValue::from_static(TRACED));
        assert!(TraceContext::of(&twice).is_some());
        twice.append(TRACEPARENT, HeaderValue::from_static(TRACED));
        assert_eq!(TraceContext::of(&twice), None);
    }

    #[test]
    fn a_share_of_all_traces_is_about_that_share() {
        fastrand::seed(7);
        let all: Vec<TraceId> = (0..10_000).map(|_| TraceId::random()).collect();
        let count = |share| all.iter().filter(|trace| trace.is_in(share)).count();
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        assert!((900..1_100).contains(&count(0.1)), "{}", count(0.1));
    }
}
