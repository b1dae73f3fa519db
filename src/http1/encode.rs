//! Writing heads and chunks.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use bytes::{BufMut as _, BytesMut};
use http::header::HeaderName;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};

use super::framing::Framing;
use super::spelling::{Reason, Spelling};

/// How names of fields are written.
#[derive(Debug, Clone, Copy)]
pub enum Case<'s> {
    /// As `x-name`.
    Lower,
    /// As `X-Name`.
    Title,
    /// As the other side wrote them, and those that are not its own as `X-Name`.
    As(&'s Spelling),
}

/// Writes the head of a request.
pub fn request_head(
    out: &mut BytesMut,
    method: &Method,
    target: &PathAndQuery,
    headers: &HeaderMap,
    framing: Framing,
    case: Case<'_>,
) {
    make_room(out);
    put(out, &[method.as_str().as_bytes(), b" ", target.as_str().as_bytes(), b" HTTP/1.1\r\n"]);
    fields(out, headers, case);
    frame(out, framing, case);
    out.put_slice(b"\r\n");
}

/// Writes the head of an answer. The version is ours, whatever the other side's
/// (RFC 9110 §2.5).
pub fn response_head(
    out: &mut BytesMut,
    status: StatusCode,
    reason: Option<&Reason>,
    headers: &HeaderMap,
    framing: Framing,
    case: Case<'_>,
) {
    make_room(out);
    let usual = || status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = reason.map_or_else(usual, |reason| &reason.0);
    put(out, &[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"]);
    fields(out, headers, case);
    frame(out, framing, case);
    out.put_slice(b"\r\n");
}

/// Enough for most heads.
const ROOM: usize = 512;

fn make_room(out: &mut BytesMut) {
    if out.capacity() == 0 {
        *out = BytesMut::with_capacity(ROOM);
    } else {
        out.reserve(ROOM);
    }
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.put_slice(part);
    }
}

/// Says where the content ends, unless the fields have said so.
fn frame(out: &mut BytesMut, framing: Framing, case: Case<'_>) {
    match framing {
        Framing::Empty | Framing::UntilClose => {}
        Framing::Length(length) => {
            name(out, &http::header::CONTENT_LENGTH, case);
            let mut digits = [0; 20];
            put(out, &[b": ", decimal(length, &mut digits), b"\r\n"]);
        }
        Framing::Chunked => {
            name(out, &http::header::TRANSFER_ENCODING, case);
            out.put_slice(b": chunked\r\n");
        }
    }
}

/// Writes one more field of a head.
fn field(out: &mut BytesMut, written: &[u8], value: &[u8]) {
    put(out, &[written, b": ", value, b"\r\n"]);
}

fn fields(out: &mut BytesMut, headers: &HeaderMap, case: Case<'_>) {
    match case {
        Case::Lower => {
            for (name, value) in headers {
                field(out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        Case::Title => {
            for (name, value) in headers {
                title(out, name);
                field(out, b"", value.as_bytes());
            }
        }
        Case::As(spelling) => {
            for name in headers.keys() {
                let mut written = spelling.of(name);
                for value in headers.get_all(name) {
                    match written.next() {
                        Some(written) => out.put_slice(written),
                        None => title(out, name),
                    }
                    field(out, b"", value.as_bytes());
                }
            }
        }
    }
}

fn name(out: &mut BytesMut, name: &HeaderName, case: Case<'_>) {
    match case {
        Case::Lower => out.put_slice(name.as_str().as_bytes()),
        Case::Title | Case::As(_) => title(out, name),
    }
}

fn title(out: &mut BytesMut, name: &HeaderName) {
    let mut begins = true;
    for byte in name.as_str().bytes() {
        out.put_u8(if begins { byte.to_ascii_uppercase() } else { byte });
        begins = byte == b'-';
    }
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

/// Writes what comes before a chunk of `length` bytes, which is more than none.
pub fn chunk(out: &mut BytesMut, length: usize) {
    let mut digits = [0; 16];
    let mut number = length;
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef".get(number & 15).copied().unwrap_or_default();
        number >>= 4;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    put(out, &[digits.get(start..).unwrap_or_default(), b"\r\n"]);
}

/// Writes the end of chunked content, with these trailers.
pub fn last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>, case: Case<'_>) {
    out.put_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(out, trailers, case);
    }
    out.put_slice(b"\r\n");
}

thread_local! {
    static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Adds the field that says when an answer was made: `now` (RFC 9110 §6.6.1).
pub fn date(headers: &mut HeaderMap, now: SystemTime) {
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    DATE.with_borrow_mut(|(made, text)| {
        if *made != second {
            (*made, *text) = (second, httpdate::fmt_http_date(now));
        }
        if let Ok(date) = http::HeaderValue::from_str(text) {
            headers.insert(http::header::DATE, date);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::HeaderValue;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn lengths_are_written_in_the_base_of_their_place() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 65_535, 1 << 40, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
        for number in [1_usize, 9, 10, 15, 16, 255, 256, 4096, 65_535, usize::MAX] {
            assert_eq!(written(|out| chunk(out, number)), format!("{number:x}\r\n"));
        }
    }

    #[test]
    fn names_are_spelled_as_asked() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-a", "2"), ("x-a", "3"), ("etag", "e")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut spelling = Spelling::default();
        let name = HeaderName::from_static("x-a");
        spelling.add(&name, Bytes::from_static(b"X-a"));
        spelling.add(&name, Bytes::from_static(b"x-A"));
        let head = |case| {
            let framing = Framing::Chunked;
            written(|out| response_head(out, StatusCode::OK, None, &headers, framing, case))
        };
        assert_eq!(
            head(Case::Lower),
            "HTTP/1.1 200 OK\r\nx-a: 1\r\nx-a: 2\r\nx-a: 3\r\netag: e\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        assert_eq!(
            head(Case::Title),
            "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nX-A: 3\r\nEtag: e\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        assert_eq!(
            head(Case::As(&spelling)),
            "HTTP/1.1 200 OK\r\nX-a: 1\r\nx-A: 2\r\nX-A: 3\r\nEtag: e\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn a_request_says_its_length_once() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("api.example.com"));
        let target = PathAndQuery::from_static("/a?b");
        let head = |framing| {
            written(|out| {
                request_head(out, &Method::POST, &target, &headers, framing, Case::Lower);
            })
        };
        assert_eq!(
            head(Framing::Length(12)),
            "POST /a?b HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 12\r\n\r\n"
        );
        assert_eq!(head(Framing::Empty), "POST /a?b HTTP/1.1\r\nhost: api.example.com\r\n\r\n");
    }

    #[test]
    fn a_date_is_that_of_its_second() {
        let mut headers = HeaderMap::new();
        for seconds in [784_111_777, 784_111_778, 784_111_777] {
            date(&mut headers, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            let text = format!("Sun, 06 Nov 1994 08:49:{} GMT", seconds - 784_111_740);
            assert_eq!(headers.get("date").unwrap(), &text);
        }
    }
}
