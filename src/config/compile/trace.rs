//! Traces.

use std::time::Duration;

use http::Uri;
use http::header::CONTENT_TYPE;

use super::credential::placeholder;
use crate::config::context::Context;
use crate::config::document::join;
use crate::config::raw::RawTrace;
use crate::config::{Origin, TraceConfig};
use crate::telemetry::trace::BUILT_IN;

/// Where OTLP over HTTP takes traces, below the configured URL.
const TRACES: &str = "/v1/traces";
/// The port on which collectors speak gRPC, and the one for HTTP.
const GRPC: u16 = 4317;

const HINT: &str = "endpoint = \"http://127.0.0.1:4318\"";

pub(super) fn trace(context: &mut Context<'_>, raw: &RawTrace) -> Option<TraceConfig> {
    if !BUILT_IN {
        let hint = "leave [trace] out, or build with the feature \"otlp\", as releases are";
        context.error("trace", "this program was built without traces", Some(hint));
        return None;
    }
    let timeout = context.duration("trace.timeout", raw.timeout.as_deref(), seconds(10));
    let delay = context.duration("trace.delay", raw.delay.as_deref(), seconds(5));
    let sample = raw.sample.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample) {
        let hint = Some("0.1 traces every tenth request");
        context.error("trace.sample", "a share is between 0.0 and 1.0", hint);
    }
    let service_name = raw.service_name.as_deref().unwrap_or("countersign");
    if service_name.is_empty() {
        context.error("trace.service_name", "the name is empty", None);
    }
    let count = |value: Option<u64>, default: usize| {
        value.map_or(default, |value| usize::try_from(value).unwrap_or(usize::MAX))
    };
    let queue = count(raw.queue, 2048);
    let batch = count(raw.batch, 512);
    if batch > queue {
        let (at, more) = match raw.batch {
            Some(_) => ("trace.batch", "lower it, or raise 'queue'"),
            None => ("trace.queue", "lower 'batch', which is 512 by default, too"),
        };
        context.error(at, "a batch can never be full: fewer requests may wait", Some(more));
    }
    let headers = headers(context, raw);
    let tls = context.tls("trace.tls", &raw.tls);
    let endpoint = context.require(raw.endpoint.as_deref(), "trace.endpoint", HINT)?;
    let (origin, url) = context.url("trace.endpoint", endpoint)?;
    if origin.port() == GRPC {
        let hint = "OTLP over HTTP is at port 4318 of most collectors";
        context.warning("trace.endpoint", "port 4317 is that of gRPC, as a rule", hint);
    }
    let secret = !raw.headers.is_empty() && raw.allow_plaintext != Some(true);
    if secret && !origin.is_secure() && !origin.is_loopback() {
        let hint = "use https://, or allow_plaintext = true if the way is safe";
        let message = format!("the secrets of 'headers' would go to {origin} unencrypted");
        context.error("trace.endpoint", message, Some(hint));
    }
    Some(TraceConfig {
        endpoint: complete(&origin, url.path())?,
        headers,
        service_name: service_name.to_owned(),
        sample,
        timeout,
        queue,
        batch,
        delay,
        devices: raw.devices == Some(true),
        tls,
    })
}

fn headers(
    context: &mut Context<'_>,
    raw: &RawTrace,
) -> Vec<(http::HeaderName, crate::credential::secret_ref::SecretRef)> {
    let mut headers = Vec::new();
    for (name, secret) in &raw.headers {
        let at = join("trace.headers", name);
        let secret = context.secret(&at, secret).unwrap_or_else(placeholder);
        let Some(name) = context.field_name(&at, name) else { continue };
        if name == CONTENT_TYPE {
            context.error(&at, "what is sent is always application/x-protobuf", None);
        }
        headers.push((name, secret));
    }
    headers
}

/// The configured URL with the path for traces, as OTEL_EXPORTER_OTLP_ENDPOINT is read; a URL that has
/// it already is taken as it is.
fn complete(origin: &Origin, path: &str) -> Option<Uri> {
    let base = path.trim_end_matches('/');
    let base = base.strip_suffix(TRACES).unwrap_or(base);
    format!("{origin}{base}{TRACES}").parse().ok()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use crate::config::load;

    fn told(section: &str) -> Vec<String> {
        let text = format!(
            "{section}\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nupstream = \"http://u.test\"\n"
        );
        let problems = load(&text, &|_| None).problems;
        problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
    }

    #[test]
    fn the_path_for_traces_is_added_once() {
        for (endpoint, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://c.test/otlp", "https://c.test/otlp/v1/traces"),
            ("https://c.test/otlp/v1/traces", "https://c.test/otlp/v1/traces"),
        ] {
            let text = format!(
                "[trace]\nendpoint = \"{endpoint}\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
                 [[route]]\nupstream = \"http://u.test\"\n"
            );
            let trace = load(&text, &|_| None).config.unwrap().trace.unwrap();
            assert_eq!(trace.endpoint.to_string(), expected);
        }
    }

    #[test]
    fn what_cannot_work_is_said() {
        assert_eq!(told("[trace]"), ["trace.endpoint: 'endpoint' is missing"]);
        let with =
            |more: &str| told(&format!("[trace]\nendpoint = \"http://c.test:4318\"\n{more}"));
        assert_eq!(with("sample = 0.5\nqueue = 10\nbatch = 10"), [""; 0]);
        assert_eq!(with("sample = 1.5"), ["trace.sample: a share is between 0.0 and 1.0"]);
        assert_eq!(
            with("queue = 10"),
            ["trace.queue: a batch can never be full: fewer requests may wait"]
        );
        assert_eq!(
            with("headers = { X-Key = { env = \"KEY\" } }"),
            ["trace.endpoint: the secrets of 'headers' would go to http://c.test:4318 unencrypted"]
        );
        assert_eq!(
            with("headers = { X-Key = { env = \"KEY\" } }\nallow_plaintext = true"),
            [""; 0]
        );
        assert_eq!(
            told("[trace]\nendpoint = \"http://127.0.0.1:4317\""),
            ["trace.endpoint: port 4317 is that of gRPC, as a rule"]
        );
        assert_eq!(
            with("headers = { Content-Type = { env = \"KEY\" } }\nallow_plaintext = true"),
            ["trace.headers.Content-Type: what is sent is always application/x-protobuf"]
        );
    }
}
