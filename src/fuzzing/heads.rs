//! Heads: however their bytes come, what is read is the same; what is accepted strictly is what the
//! grammar says and nothing else; what is written is read back.

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Version};

use super::wire::{Cut, fill};
use super::{by_name, flags};
use crate::http1::{self, Case, Framing, HeadError, HeadSyntax, Input, RequestHead, ResponseHead};

/// Flags: 1 lenient, 2 spelling, 4 short heads, 8 few fields.
fn syntax(flags: u8) -> HeadSyntax {
    HeadSyntax {
        max_bytes: if flags & 4 == 0 { 4096 } else { 96 },
        max_fields: if flags & 8 == 0 { 100 } else { 3 },
        lenient: flags & 1 != 0,
        remember_spelling: flags & 2 != 0,
    }
}

/// What was read, and what is left behind it.
struct Read<T> {
    head: Result<Option<T>, HeadError>,
    rest: Vec<u8>,
}

fn read<T>(
    bytes: &[u8],
    cut: Cut,
    head: impl Fn(&mut Input) -> Result<Option<T>, HeadError>,
) -> Read<T> {
    let mut input = Input::default();
    let mut pieces = cut.pieces(bytes).into_iter();
    let mut found = head(&mut input);
    while matches!(found, Ok(None)) {
        let Some(piece) = pieces.next() else { break };
        fill(&mut input, piece);
        found = head(&mut input);
    }
    let mut rest = input.take_all().to_vec();
    pieces.for_each(|piece| rest.extend_from_slice(piece));
    Read { head: found, rest }
}

/// Names in lower case, and values.
type Fields = Vec<(String, Vec<u8>)>;

/// Fields as the grammar has them (RFC 9112 §5): no folding, no space before the colon, no control
/// characters. The first line comes apart.
fn strictly(head: &[u8]) -> Option<(Vec<u8>, Fields)> {
    let head = head.strip_suffix(b"\r\n\r\n")?;
    let text: Vec<u8> = head.to_vec();
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut bytes = text.into_iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' if bytes.peek() == Some(&b'\n') => {
                bytes.next();
                lines.push(std::mem::take(&mut line));
            }
            b'\t' | b' '..=b'~' | 0x80.. => line.push(byte),
            _ => return None,
        }
    }
    lines.push(line);
    let mut lines = lines.into_iter();
    let first = lines.next()?;
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let mut fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(token) {
            return None;
        }
        let name = String::from_utf8(name.to_ascii_lowercase()).ok()?;
        fields.push((name, value.trim_ascii().to_vec()));
    }
    Some((first, fields))
}

/// The fields that were read are those that the grammar finds, in their order.
fn check_strict(bytes: &[u8], rest: &[u8], headers: &HeaderMap) -> Vec<u8> {
    assert!(bytes.ends_with(rest), "what is left is the end of what came");
    let mut head = &bytes[..bytes.len() - rest.len()];
    while let Some(after) = head.strip_prefix(b"\r\n") {
        head = after;
    }
    let (first, fields) = strictly(head).expect("what is accepted strictly follows the grammar");
    let mut expected = std::collections::BTreeMap::<String, Vec<Vec<u8>>>::new();
    for (name, value) in fields {
        expected.entry(name).or_default().push(value);
    }
    assert_eq!(by_name(headers), expected, "fields");
    first
}

/// Requests.
pub fn request_head(bytes: &[u8]) {
    let Some((flags, bytes)) = flags(bytes) else { return };
    let syntax = syntax(flags);
    let whole = read(bytes, Cut::Whole, |input| input.request_head(syntax));
    for cut in Cut::ways(bytes) {
        let cut_up = read(bytes, cut, |input| input.request_head(syntax));
        match (&whole.head, &cut_up.head) {
            (Ok(Some(one)), Ok(Some(other))) => {
                assert_eq!(one.parts.method, other.parts.method, "{cut:?}");
                assert_eq!(one.parts.uri, other.parts.uri, "{cut:?}");
                assert_eq!(one.parts.version, other.parts.version, "{cut:?}");
                assert_eq!(one.parts.headers, other.parts.headers, "{cut:?}");
                assert_eq!(whole.rest, cut_up.rest, "{cut:?}");
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            (one, other) => panic!("{one:?} as a whole, {other:?} {cut:?}"),
        }
    }
    let Ok(Some(head)) = whole.head else { return };
    assert!(bytes.len() - whole.rest.len() >= 2);
    let RequestHead { parts, spelling } = head;
    assert!(parts.headers.len() <= syntax.max_fields, "fields");
    assert!(!parts.uri.to_string().contains('#'), "a fragment");
    if !syntax.lenient {
        let first = check_strict(bytes, &whole.rest, &parts.headers);
        let version = if parts.version == Version::HTTP_10 { "1.0" } else { "1.1" };
        let begin = format!("{} ", parts.method);
        assert!(first.starts_with(begin.as_bytes()), "method");
        assert!(first.ends_with(format!(" HTTP/{version}").as_bytes()), "version");
        let target = &first[begin.len()..first.len() - " HTTP/1.1".len()];
        assert!(target.iter().all(u8::is_ascii_graphic) || !target.is_ascii(), "target");
        if target.starts_with(b"/") {
            let kept = parts.uri.path_and_query().expect("a path").as_str();
            assert_eq!(kept.as_bytes(), target, "a target is kept byte for byte");
        }
    }
    let framing = http1::of_request(parts.version, &parts.headers);
    check_request_framing(framing, parts.version, &parts.headers);
    let Ok(framing) = framing else { return };

    // Written and read again it is the same.
    let Some(target) = parts.uri.path_and_query().filter(|target| target.as_str().starts_with('/'))
    else {
        return;
    };
    for case in cases(spelling.as_ref()) {
        rewritten_request(&parts.method, target, &parts.headers, framing, case);
    }
}

fn cases(spelling: Option<&http1::Spelling>) -> impl Iterator<Item = Case<'_>> {
    [Case::Lower, Case::Title].into_iter().chain(spelling.map(Case::As))
}

fn without_framing(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    headers
}

const GENEROUS: HeadSyntax =
    HeadSyntax { max_bytes: 1 << 20, max_fields: 512, lenient: false, remember_spelling: false };

fn rewritten_request(
    method: &Method,
    target: &PathAndQuery,
    headers: &HeaderMap,
    framing: Framing,
    case: Case<'_>,
) {
    let headers = without_framing(headers);
    let mut out = BytesMut::new();
    http1::request_head(&mut out, method, target, &headers, framing, case);
    out.extend_from_slice(b"behind");
    let again = read(&out, Cut::Whole, |input| input.request_head(GENEROUS));
    let head = again.head.expect("what is written is well-formed").expect("and complete");
    assert_eq!(again.rest, b"behind");
    assert_eq!(head.parts.method, *method);
    assert_eq!(head.parts.uri.path_and_query(), Some(target));
    assert_eq!(http1::of_request(Version::HTTP_11, &head.parts.headers), Ok(framing));
    assert_eq!(by_name(&without_framing(&head.parts.headers)), by_name(&headers));
}

/// How a request may be framed, said once more (RFC 9112 §6.3).
fn check_request_framing(
    framing: Result<Framing, &'static str>,
    version: Version,
    headers: &HeaderMap,
) {
    let lengths: Vec<&[u8]> =
        headers.get_all(CONTENT_LENGTH).iter().map(http::HeaderValue::as_bytes).collect();
    let codings: Vec<&[u8]> =
        headers.get_all(TRANSFER_ENCODING).iter().map(http::HeaderValue::as_bytes).collect();
    let number = |text: &[u8]| {
        let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        digits.then(|| std::str::from_utf8(text).unwrap().parse::<u64>().ok()).flatten()
    };
    let expected = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Some(Framing::Empty),
        ([length], []) => match number(length) {
            Some(0) => Some(Framing::Empty),
            Some(length) => Some(Framing::Length(length)),
            None => None,
        },
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => {
            (version == Version::HTTP_11).then_some(Framing::Chunked)
        }
        _ => None,
    };
    assert_eq!(framing.ok(), expected, "framing of {headers:?}");
}

/// Answers.
pub fn response_head(bytes: &[u8]) {
    let Some((flags, bytes)) = flags(bytes) else { return };
    let syntax = syntax(flags);
    let whole = read(bytes, Cut::Whole, |input| input.response_head(syntax));
    for cut in Cut::ways(bytes) {
        let cut_up = read(bytes, cut, |input| input.response_head(syntax));
        match (&whole.head, &cut_up.head) {
            (Ok(Some(one)), Ok(Some(other))) => {
                assert_eq!((one.status, one.version), (other.status, other.version), "{cut:?}");
                assert_eq!(one.headers, other.headers, "{cut:?}");
                assert_eq!(whole.rest, cut_up.rest, "{cut:?}");
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            (one, other) => panic!("{one:?} as a whole, {other:?} {cut:?}"),
        }
    }
    let Ok(Some(head)) = whole.head else { return };
    let ResponseHead { status, version, mut headers, spelling, reason } = head;
    assert!(headers.len() <= syntax.max_fields, "fields");
    if !syntax.lenient {
        let first = check_strict(bytes, &whole.rest, &headers);
        let minor = u8::from(version != Version::HTTP_10);
        let begin = format!("HTTP/1.{minor} {}", status.as_str());
        assert!(first.starts_with(begin.as_bytes()), "the status line");
    }
    for to_head in [true, false] {
        let mut headers = headers.clone();
        let framing = http1::of_response(to_head, status, version, &mut headers);
        check_response_framing(framing, to_head, status, version, &headers);
    }
    let Ok(framing) = http1::of_response(false, status, version, &mut headers) else { return };
    // What has no content because it says so has to go on saying so.
    let says_so = framing == Framing::Empty && headers.contains_key(CONTENT_LENGTH);
    let written = if says_so { Framing::Length(0) } else { framing };
    let headers = without_framing(&headers);
    for case in cases(spelling.as_ref()) {
        let mut out = BytesMut::new();
        http1::response_head(&mut out, status, reason.as_ref(), &headers, written, case);
        out.extend_from_slice(b"behind");
        let again = read(&out, Cut::Whole, |input| input.response_head(GENEROUS));
        let mut head = again.head.expect("what is written is well-formed").expect("and complete");
        assert_eq!(again.rest, b"behind");
        assert_eq!(head.status, status);
        let read = http1::of_response(false, status, Version::HTTP_11, &mut head.headers);
        assert_eq!(read, Ok(framing));
        assert_eq!(by_name(&without_framing(&head.headers)), by_name(&headers));
    }
}

/// How an answer may be framed, said once more (RFC 9112 §6.3).
fn check_response_framing(
    framing: Result<Framing, &'static str>,
    to_head: bool,
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
) {
    let bodiless = to_head || status.as_u16() < 200 || matches!(status.as_u16(), 204 | 304);
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    let coded = headers.contains_key(TRANSFER_ENCODING);
    match framing {
        Ok(Framing::Empty) => assert!(bodiless || (lengths == 1 && !coded)),
        Ok(Framing::Length(length)) => {
            assert!(!bodiless && !coded && lengths == 1, "{headers:?}");
            let said = headers[CONTENT_LENGTH].to_str().unwrap().trim();
            assert_eq!(said.parse(), Ok(length), "the field says what is read");
        }
        Ok(Framing::Chunked) => {
            assert!(!bodiless && lengths == 0 && version == Version::HTTP_11);
            assert_eq!(headers.get_all(TRANSFER_ENCODING).iter().count(), 1);
            assert!(headers[TRANSFER_ENCODING].as_bytes().eq_ignore_ascii_case(b"chunked"));
        }
        Ok(Framing::UntilClose) => assert!(!bodiless && !coded && lengths == 0),
        Err(_) => assert!(coded || lengths > 0, "nothing to be wrong"),
    }
}
