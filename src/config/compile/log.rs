//! Logging.

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE};

use crate::config::context::Context;
use crate::config::raw::RawLog;
use crate::config::{
    AccessLog, CredentialConfig, Level, ListenerConfig, LogConfig, LogFormat, LogTarget,
};

/// As [`LogConfig::buffer`]: some ten thousand lines.
const BUFFER: u64 = 4 << 20;
/// A line per request is as long as its path.
const LEAST_BUFFER: usize = 64 << 10;

pub(super) fn log(
    context: &mut Context<'_>,
    raw: &RawLog,
    listeners: &[ListenerConfig],
    credentials: &[CredentialConfig],
) -> LogConfig {
    let access_file = raw.access_file.as_deref().and_then(|text| access_file(context, text));
    let buffer = context.size("log.buffer", raw.buffer.as_ref(), BUFFER);
    let buffer = usize::try_from(buffer).unwrap_or(usize::MAX);
    if !(LEAST_BUFFER..=1 << 30).contains(&buffer) {
        let hint = Some("between \"64KiB\" and \"1GiB\"");
        context.error("log.buffer", "no such amount of lines can wait", hint);
    }
    if raw.file.as_ref().is_some_and(String::is_empty) {
        context.error("log.file", "this is not the path of a file", None);
    }
    LogConfig {
        level: raw.level.unwrap_or(Level::Info),
        format: raw.format.unwrap_or(LogFormat::Auto),
        access: raw.access.unwrap_or(AccessLog::Off),
        file: raw.file.as_ref().map(Into::into),
        access_file,
        buffer,
        request_id: request_id(context, raw.request_id.as_deref(), listeners, credentials),
    }
}

fn access_file(context: &mut Context<'_>, text: &str) -> Option<LogTarget> {
    match text {
        "" => {
            let hint = Some("a path, or \"-\" for standard output");
            context.error("log.access_file", "this is not the path of a file", hint);
            None
        }
        "-" => Some(LogTarget::Stdout),
        path => Some(LogTarget::File(path.into())),
    }
}

/// As most gateways and libraries call it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The field that says what a request is called. What it says is logged and repeated, so that none
/// will do in which a secret can be: then there is none by default, and none may be named.
fn request_id(
    context: &mut Context<'_>,
    raw: Option<&str>,
    listeners: &[ListenerConfig],
    credentials: &[CredentialConfig],
) -> Option<HeaderName> {
    const PATH: &str = "log.request_id";
    let field = match raw {
        None => REQUEST_ID,
        Some("off") => return None,
        Some(name) => context.field_name(PATH, name)?,
    };
    let is_of_callers = listeners
        .iter()
        .filter_map(|listener| listener.access.caller_token.as_ref()?.header.as_ref())
        .any(|header| *header == field);
    let owner = credentials.iter().find(|credential| credential.owned.contains(&field));
    let message = if [AUTHORIZATION, COOKIE].contains(&field) {
        format!("the field '{field}' holds secrets, which a log must not")
    } else if is_of_callers {
        format!("the field '{field}' holds the token of callers, which a log must not")
    } else if let Some(owner) = owner {
        format!("'{field}' belongs to the credential '{}'", owner.name)
    } else {
        return Some(field);
    };
    if raw.is_some() {
        let hint = Some("name one that only says what a request is called, or \"off\"");
        context.error(PATH, message, hint);
    }
    None
}
