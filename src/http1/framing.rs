//! Where a message ends (RFC 9112 §6).

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode, Version};

/// How the end of a message's content is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// It has so many bytes.
    Length(u64),
    /// It comes in chunks (RFC 9112 §7.1).
    Chunked,
    /// It ends with the connection: an answer only.
    UntilClose,
}

/// How the content of a request is framed. Whatever two readers could take for two things is refused
/// (RFC 9112 §6.1, §6.3, §11.2).
///
/// # Errors
/// With what is wrong.
pub fn of_request(version: Version, headers: &HeaderMap) -> Result<Framing, &'static str> {
    let length = headers.contains_key(CONTENT_LENGTH);
    if headers.contains_key(TRANSFER_ENCODING) {
        return in_chunks(version, headers, length);
    }
    if !length {
        return Ok(Framing::Empty);
    }
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    match (values.next().and_then(read_length), values.next()) {
        (Some(0), None) => Ok(Framing::Empty),
        (Some(length), None) => Ok(Framing::Length(length)),
        (_, Some(_)) => Err("more than one Content-Length"),
        (None, None) => Err("a Content-Length that is no number"),
    }
}

/// How the content of an answer is framed; `to_head` if the request's method was HEAD. A length that
/// is there more than once, always the same, becomes one.
///
/// # Errors
/// With what is wrong.
pub fn of_response(
    to_head: bool,
    status: StatusCode,
    version: Version,
    headers: &mut HeaderMap,
) -> Result<Framing, &'static str> {
    let bodiless = to_head
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let length = one_length(headers)?;
    if headers.contains_key(TRANSFER_ENCODING) {
        if bodiless {
            return Ok(Framing::Empty);
        }
        return in_chunks(version, headers, length.is_some());
    }
    Ok(match length {
        _ if bodiless => Framing::Empty,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    })
}

/// The length that the fields of an answer say, which is one if they say it more than once.
fn one_length(headers: &mut HeaderMap) -> Result<Option<u64>, &'static str> {
    let wrong = "a Content-Length that is no number, or several that differ";
    let mut said = None;
    let mut values = 0;
    for value in headers.get_all(CONTENT_LENGTH) {
        for member in value.as_bytes().split(|byte| *byte == b',') {
            let length = digits(member.trim_ascii()).ok_or(wrong)?;
            if said.is_some_and(|said| said != length) {
                return Err(wrong);
            }
            said = Some(length);
            values += 1;
        }
    }
    if let Some(length) = said
        && values > 1
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(said)
}

fn read_length(value: &HeaderValue) -> Option<u64> {
    digits(value.as_bytes())
}

/// Digits and nothing else: no sign, no space.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |length, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

/// What has a transfer coding comes in chunks, or is not understood.
fn in_chunks(
    version: Version,
    headers: &HeaderMap,
    has_length: bool,
) -> Result<Framing, &'static str> {
    if has_length {
        return Err("both Transfer-Encoding and Content-Length");
    }
    if version != Version::HTTP_11 {
        return Err("a transfer coding in HTTP/1.0");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_some_and(|c| c.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !chunked || codings.next().is_some() {
        return Err("a transfer coding other than chunked");
    }
    Ok(Framing::Chunked)
}

/// True if the connection may outlast a message of this version with these fields
/// (RFC 9112 §9.3).
pub fn lasts(version: Version, headers: &HeaderMap) -> bool {
    !connection_says(headers, b"close")
        && (version != Version::HTTP_10 || connection_says(headers, b"keep-alive"))
}

fn connection_says(headers: &HeaderMap, option: &[u8]) -> bool {
    let values = headers.get_all(CONNECTION);
    let mut options = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|said| said.trim_ascii().eq_ignore_ascii_case(option))
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
