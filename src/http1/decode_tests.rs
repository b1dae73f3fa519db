use super::*;
use crate::http1::encode::{self, Case};
use crate::http1::framing::Framing;
use bytes::BytesMut;
use http::uri::PathAndQuery;
use proptest::prelude::*;
use std::fmt::Debug;
use std::task::{Context, Poll, Waker};

const STRICT: HeadSyntax =
    HeadSyntax { max_bytes: 64 << 10, max_fields: 100, lenient: false, remember_spelling: false };

const LENIENT: HeadSyntax = HeadSyntax { lenient: true, ..STRICT };

/// Lines that are no fields; a lenient reader goes on behind them.
const NO_FIELDS: &[&[u8]] = &[
    b": 1",
    b":",
    b"x",
    b"no field",
    b"no field: 1",
    b"x(y): 1",
    b"x\"y: 1",
    b"x/y: 1",
    b"[x]: 1",
    b"@: 1",
    b"x\xe4: 1",
    b"\xe4: 1",
    b"x\x01: 1",
    b"x\x7f: 1",
    b"x-c:\x08",
    b"x-c: \x1b[1m",
    b"x-c: a\x01b",
    b"x-c: a\x7f",
];

/// Lines that could be read in two ways, so that nobody goes on behind them.
const NEVER_FIELDS: &[&[u8]] = &[
    b"x-c: a\0b",
    b"x-c: \0",
    b"x-c\0: 1",
    b"\0",
    b"no field\0",
    b"x-c: a\rb",
    b"x-c:\rb",
    b"x-c: 1\r",
    b"x-c\r: 1",
    b"\rx-c: 1",
    b"no field\rx-c: 1",
];

fn fill(input: &mut Input, mut bytes: &[u8]) {
    let mut cx = Context::from_waker(Waker::noop());
    while !bytes.is_empty() {
        let filled = input.poll_fill(&mut bytes, &mut cx);
        assert!(matches!(filled, Poll::Ready(Ok(1..))), "{filled:?}");
    }
}

fn filled(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    fill(&mut input, bytes);
    input
}

fn request(text: &[u8], syntax: HeadSyntax) -> RequestHead {
    match filled(text).request_head(syntax) {
        Ok(Some(head)) => head,
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn response(text: &[u8], syntax: HeadSyntax) -> ResponseHead {
    match filled(text).response_head(syntax) {
        Ok(Some(head)) => head,
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn refused_request(text: &[u8], syntax: HeadSyntax) -> Option<HeadError> {
    filled(text).request_head(syntax).err()
}

fn refused_response(text: &[u8], syntax: HeadSyntax) -> Option<HeadError> {
    filled(text).response_head(syntax).err()
}

fn is_malformed(error: Option<HeadError>) -> bool {
    matches!(error, Some(HeadError::Malformed(_)))
}

fn listed(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

fn names<'s>(spelling: &'s Spelling, name: &'static str) -> Vec<&'s [u8]> {
    spelling.of(&HeaderName::from_static(name)).map(|written| &written[..]).collect()
}

/// Puts a line among the fields of a head.
fn with_line(first: &str, line: &[u8]) -> Vec<u8> {
    [first.as_bytes(), b"\r\nx-a: 1\r\n", line, b"\r\nx-b: 2\r\n\r\n"].concat()
}

fn with_fields(first: &str, count: usize) -> Vec<u8> {
    let mut text = format!("{first}\r\n");
    for number in 0..count {
        text.push_str(&format!("x-{number}: v\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// Checks that `head`, with `behind` behind it, is the same head however it comes.
fn comes<T: Debug>(
    head: &[u8],
    behind: &[u8],
    read: impl Fn(&mut Input) -> Result<Option<T>, HeadError>,
) {
    let case = head.escape_ascii().to_string();
    let all = [head, behind].concat();
    let mut input = filled(&all);
    let expected = format!("{:?}", read(&mut input).unwrap().expect(&case));
    assert_eq!(input.take_all(), behind, "behind {case}");

    for length in 0..head.len() {
        let mut input = filled(&all[..length]);
        let early = read(&mut input);
        assert!(matches!(early, Ok(None)), "{length} bytes of {case}: {early:?}");
        fill(&mut input, &all[length..]);
        let got = format!("{:?}", read(&mut input).unwrap().expect(&case));
        assert_eq!(got, expected, "{length} bytes at first of {case}");
        assert_eq!(input.take_all(), behind, "{length} bytes at first of {case}");
    }

    let mut input = Input::default();
    for (at, byte) in all.iter().enumerate() {
        fill(&mut input, &[*byte]);
        if at + 1 < head.len() {
            let early = read(&mut input);
            assert!(matches!(early, Ok(None)), "byte {at} of {case}: {early:?}");
        } else if at + 1 == head.len() {
            let got = format!("{:?}", read(&mut input).unwrap().expect(&case));
            assert_eq!(got, expected, "byte by byte: {case}");
            assert!(input.is_empty(), "byte by byte: {case}");
        }
    }
    assert_eq!(input.take_all(), behind, "byte by byte: {case}");
}

#[test]
fn a_request_line_is_read_as_it_was_written() {
    for (line, method, target, version) in [
        ("GET / HTTP/1.1", "GET", "/", Version::HTTP_11),
        ("GET / HTTP/1.0", "GET", "/", Version::HTTP_10),
        ("POST /a/b?c=d&e HTTP/1.1", "POST", "/a/b?c=d&e", Version::HTTP_11),
        ("POST /?http://a/ HTTP/1.1", "POST", "/?http://a/", Version::HTTP_11),
        ("PUT //a//../%00%2f HTTP/1.1", "PUT", "//a//../%00%2f", Version::HTTP_11),
        ("GET /\u{e4}?\u{f6} HTTP/1.1", "GET", "/\u{e4}?\u{f6}", Version::HTTP_11),
        ("GET http://a.test/x?y=1 HTTP/1.1", "GET", "http://a.test/x?y=1", Version::HTTP_11),
        ("GET http://a.test:80 HTTP/1.0", "GET", "http://a.test:80/", Version::HTTP_10),
        ("OPTIONS * HTTP/1.1", "OPTIONS", "*", Version::HTTP_11),
        ("CONNECT a.test:443 HTTP/1.1", "CONNECT", "a.test:443", Version::HTTP_11),
        ("CONNECT [::1]:443 HTTP/1.1", "CONNECT", "[::1]:443", Version::HTTP_11),
        ("get / HTTP/1.1", "get", "/", Version::HTTP_11),
        ("POSTS / HTTP/1.1", "POSTS", "/", Version::HTTP_11),
        ("X!#$%&'*+-.^_`|~09az / HTTP/1.1", "X!#$%&'*+-.^_`|~09az", "/", Version::HTTP_11),
    ] {
        for syntax in [STRICT, LENIENT] {
            let head = request(format!("{line}\r\nhost: a\r\n\r\n").as_bytes(), syntax);
            assert_eq!(head.parts.method.as_str(), method, "{line}");
            assert_eq!(head.parts.uri.to_string(), target, "{line}");
            assert_eq!(head.parts.version, version, "{line}");
            assert_eq!(listed(&head.parts.headers), [("host", b"a".as_slice())], "{line}");
            assert!(head.spelling.is_none(), "{line}");
        }
    }
}

#[test]
fn a_target_is_taken_apart_by_its_form() {
    let uri = |line: &str| request(format!("{line} HTTP/1.1\r\n\r\n").as_bytes(), STRICT).parts.uri;
    let origin = uri("GET /a?b");
    assert_eq!((origin.host(), origin.path(), origin.query()), (None, "/a", Some("b")));
    let absolute = uri("GET http://a.test:8080/a?b");
    assert_eq!(absolute.authority().unwrap(), "a.test:8080");
    assert_eq!((absolute.path(), absolute.query()), ("/a", Some("b")));
    let authority = uri("CONNECT a.test:443");
    assert_eq!(authority.authority().unwrap(), "a.test:443");
    assert!(authority.path_and_query().is_none(), "authority form");
    let asterisk = uri("OPTIONS *");
    assert_eq!((asterisk.host(), asterisk.path()), (None, "*"));
}

#[test]
fn fields_are_read_in_their_order_whatever_their_bytes() {
    let text = b"GET / HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\nx-b:\r\nx-a:2\r\nx-c: \t \r\n\
        x-d:\t v \t \r\nx-e: \xe4\xff\x80\r\nX-a: 3\r\nx-f: a\tb  c\r\nx-g: :\"(),;\r\n\
        !#$%&'*+-.^_`|~09: t\r\nx-a: 1\r\n\r\n";
    let expected: &[(&str, &[u8])] = &[
        ("host", b"a.test"),
        ("x-a", b"1"),
        ("x-a", b"2"),
        ("x-a", b"3"),
        ("x-a", b"1"),
        ("x-b", b""),
        ("x-c", b""),
        ("x-d", b"v"),
        ("x-e", b"\xe4\xff\x80"),
        ("x-f", b"a\tb  c"),
        ("x-g", b":\"(),;"),
        ("!#$%&'*+-.^_`|~09", b"t"),
    ];
    for syntax in [STRICT, LENIENT] {
        let head = request(text, syntax);
        assert_eq!(listed(&head.parts.headers), expected, "request, {syntax:?}");
        let answer = [b"HTTP/1.1 200 OK".as_slice(), &text[b"GET / HTTP/1.1".len()..]].concat();
        let head = response(&answer, syntax);
        assert_eq!(listed(&head.headers), expected, "answer, {syntax:?}");
    }
}

#[test]
fn line_ends_in_front_of_a_request_are_skipped() {
    let head = "GET / HTTP/1.1\r\n\r\n";
    for (front, strict) in [
        ("", true),
        ("\r\n", true),
        ("\r\n\r\n\r\n", true),
        ("\n", false),
        ("\r\n\n", false),
        ("\n\r\n\n", false),
    ] {
        let text = format!("{front}{head}");
        request(text.as_bytes(), LENIENT);
        let refused = is_malformed(refused_request(text.as_bytes(), STRICT));
        assert_eq!(refused, !strict, "{front:?}");
    }
    for front in ["\r", "\r\r\n", " ", " \r\n", "\0", "\t\r\n"] {
        let text = format!("{front}{head}");
        for syntax in [STRICT, LENIENT] {
            assert!(is_malformed(refused_request(text.as_bytes(), syntax)), "{front:?}");
        }
    }
    for front in ["\r\n", "\n"] {
        let text = format!("{front}HTTP/1.1 200 OK\r\n\r\n");
        for syntax in [STRICT, LENIENT] {
            let error = refused_response(text.as_bytes(), syntax);
            assert!(is_malformed(error), "in front of an answer: {front:?}");
        }
    }
}

#[test]
fn spelling_is_remembered_only_if_asked_for() {
    let fields = "X-Name: 1\r\nx-name: 2\r\nETag: e\r\nX-NAME: 3\r\n\r\n";
    let ask = format!("GET / HTTP/1.1\r\n{fields}").into_bytes();
    let answer = format!("HTTP/1.1 200 OK\r\n{fields}").into_bytes();
    for syntax in [STRICT, LENIENT] {
        assert!(request(&ask, syntax).spelling.is_none(), "request, {syntax:?}");
        assert!(response(&answer, syntax).spelling.is_none(), "answer, {syntax:?}");
        let syntax = HeadSyntax { remember_spelling: true, ..syntax };
        let spellings = [request(&ask, syntax).spelling, response(&answer, syntax).spelling];
        for spelling in spellings.map(Option::unwrap) {
            let expected = [b"X-Name".as_slice(), b"x-name", b"X-NAME"];
            assert_eq!(names(&spelling, "x-name"), expected, "{spelling:?}");
            assert_eq!(names(&spelling, "etag"), [b"ETag".as_slice()], "{spelling:?}");
            assert!(names(&spelling, "host").is_empty(), "{spelling:?}");
        }
    }
}

#[test]
fn a_head_may_be_as_long_as_allowed_and_no_longer() {
    for length in [64, 65, 1000, 20_000] {
        let padded = |first: &str| {
            let value = "a".repeat(length - first.len() - "\r\nx: \r\n\r\n".len());
            format!("{first}\r\nx: {value}\r\n\r\n").into_bytes()
        };
        for lenient in [false, true] {
            let enough = HeadSyntax { max_bytes: length, lenient, ..STRICT };
            let less = HeadSyntax { max_bytes: length - 1, ..enough };
            let case = format!("{length} bytes, lenient: {lenient}");

            let ask = padded("GET / HTTP/1.1");
            assert_eq!(ask.len(), length, "{case}");
            request(&ask, enough);
            assert_eq!(refused_request(&ask, less), Some(HeadError::TooLarge), "{case}");
            let behind = [&ask[..], &ask[..]].concat();
            request(&behind, enough);
            assert_eq!(refused_request(&behind, less), Some(HeadError::TooLarge), "{case}");

            let answer = padded("HTTP/1.1 200 OK");
            response(&answer, enough);
            assert_eq!(refused_response(&answer, less), Some(HeadError::TooLarge), "{case}");
        }
    }
}

#[test]
fn a_head_is_refused_as_soon_as_it_is_too_long() {
    let syntax = HeadSyntax { max_bytes: 64, ..STRICT };
    let long = "a".repeat(100);
    for (text, error) in [
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), HeadError::TooLongTarget),
        (format!("GET /{long}"), HeadError::TooLongTarget),
        (format!("{long} / HTTP/1.1\r\n\r\n"), HeadError::TooLongTarget),
        (format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), HeadError::TooLarge),
        (format!("GET / HTTP/1.1\r\nx: {long}"), HeadError::TooLarge),
        (format!("GET / HTTP/1.1\r\n{long}: 1\r\n\r\n"), HeadError::TooLarge),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(20)), HeadError::TooLarge),
        // With its end, the first line has as many bytes as are allowed, and one more.
        (format!("GET /{} HTTP/1.1\r\n\r\n", &long[..48]), HeadError::TooLarge),
        (format!("GET /{} HTTP/1.1\r\n\r\n", &long[..49]), HeadError::TooLongTarget),
    ] {
        assert_eq!(refused_request(text.as_bytes(), syntax), Some(error), "at once: {text:?}");
        let mut input = Input::default();
        for (at, byte) in text.bytes().take(65).enumerate() {
            fill(&mut input, &[byte]);
            let got = input.request_head(syntax);
            if at < 64 {
                assert!(matches!(got, Ok(None)), "byte {at} of {text:?}: {got:?}");
            } else {
                assert_eq!(got.err(), Some(error), "byte {at} of {text:?}");
            }
        }
    }
}

#[test]
fn line_ends_in_front_do_not_make_a_head_longer() {
    let head = "GET / HTTP/1.1\r\n\r\n";
    let syntax = HeadSyntax { max_bytes: head.len(), ..STRICT };
    request(format!("{}{head}", "\r\n".repeat(100)).as_bytes(), syntax);
}

#[test]
fn there_may_be_as_many_fields_as_allowed_and_no_more() {
    for max_fields in [0, 1, 10, 63, 64, 65, 100, 1000] {
        for lenient in [false, true] {
            let syntax = HeadSyntax { max_fields, lenient, ..STRICT };
            for count in [0, max_fields / 2, max_fields] {
                let case = format!("{count} of {max_fields} fields, lenient: {lenient}");
                let head = request(&with_fields("GET / HTTP/1.1", count), syntax);
                assert_eq!(head.parts.headers.len(), count, "{case}");
                let head = response(&with_fields("HTTP/1.1 200 OK", count), syntax);
                assert_eq!(head.headers.len(), count, "{case}");
            }
            for count in [max_fields + 1, max_fields + 70] {
                let case = format!("{count} of {max_fields} fields, lenient: {lenient}");
                let error = refused_request(&with_fields("GET / HTTP/1.1", count), syntax);
                assert_eq!(error, Some(HeadError::TooManyFields), "{case}");
                let error = refused_response(&with_fields("HTTP/1.1 200 OK", count), syntax);
                assert_eq!(error, Some(HeadError::TooManyFields), "{case}");
            }
        }
    }
}

#[test]
fn fields_of_one_name_are_several_fields() {
    for max_fields in [10, 64, 100] {
        let syntax = HeadSyntax { max_fields, ..STRICT };
        let text = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(count));
        let head = request(text(max_fields).as_bytes(), syntax);
        assert_eq!(head.parts.headers.len(), max_fields);
        let error = refused_request(text(max_fields + 1).as_bytes(), syntax);
        assert_eq!(error, Some(HeadError::TooManyFields), "{max_fields}");
    }
}

#[test]
fn a_first_line_that_is_no_request_line_is_refused() {
    for line in [
        b"GET".as_slice(),
        b"GET ",
        b"GET /",
        b"GET / ",
        b"GET HTTP/1.1",
        b"GET  HTTP/1.1",
        b" GET / HTTP/1.1",
        b"/ HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET\0 / HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"G\xc4T / HTTP/1.1",
        b"GET: / HTTP/1.1",
        // Targets.
        b"GET /a b HTTP/1.1",
        b"GET /a\tb HTTP/1.1",
        b"GET /a\0b HTTP/1.1",
        b"GET /a\x7fb HTTP/1.1",
        b"GET /a\x01b HTTP/1.1",
        b"GET /a\rb HTTP/1.1",
        b"GET /a\xff HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET /a?b#c HTTP/1.1",
        b"GET # HTTP/1.1",
        b"GET http://a.test/#b HTTP/1.1",
        b"CONNECT a.test:443#b HTTP/1.1",
        b"GET http:// HTTP/1.1",
        b"GET http://[::1 HTTP/1.1",
        b"GET http://a@/ HTTP/1.1",
        b"GET a/b HTTP/1.1",
        b"GET ?a HTTP/1.1",
        // Versions.
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.2",
        b"GET / HTTP/0.9",
        b"GET / HTTP/1.10",
        b"GET / HTTP/1.",
        b"GET / HTTP/1",
        b"GET / HTTP/11",
        b"GET / HTTP",
        b"GET / http/1.1",
        b"GET / Http/1.1",
        b"GET / HTTPS/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / HTTP/1.1 x",
        b"GET / HTTP/1.1\t",
        b"GET / HTTP/1.1\0",
        b"GET / HTTP/1.1\r",
        b"GET / HTTP/1.1\rx: 1",
        b"PRI * HTTP/2.0",
    ] {
        for syntax in [STRICT, LENIENT] {
            for rest in [b"\r\n\r\n".as_slice(), b"\r\nhost: a.test\r\nx-long: abcdef\r\n\r\n"] {
                let text = [line, rest].concat();
                let error = refused_request(&text, syntax);
                assert!(is_malformed(error), "{}, {syntax:?}: {error:?}", text.escape_ascii());
            }
        }
    }
}

#[test]
fn only_a_lenient_reader_takes_more_than_one_space() {
    for line in ["GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET   /    HTTP/1.1"] {
        let text = format!("{line}\r\n\r\n");
        let error = refused_request(text.as_bytes(), STRICT);
        assert!(is_malformed(error), "{line}: {error:?}");
        assert_eq!(request(text.as_bytes(), LENIENT).parts.uri, "/", "{line}");
    }
}

#[test]
fn lines_that_are_no_fields_are_refused_or_left_out() {
    let expected = [("x-a", b"1".as_slice()), ("x-b", b"2")];
    for line in NO_FIELDS {
        let case = line.escape_ascii();
        let ask = with_line("GET / HTTP/1.1", line);
        let error = refused_request(&ask, STRICT);
        assert!(is_malformed(error), "request: {case}: {error:?}");
        let head = request(&ask, LENIENT);
        assert_eq!(listed(&head.parts.headers), expected, "request: {case}");

        let answer = with_line("HTTP/1.1 200 OK", line);
        let error = refused_response(&answer, STRICT);
        assert!(is_malformed(error), "answer: {case}: {error:?}");
        let head = response(&answer, LENIENT);
        assert_eq!(listed(&head.headers), expected, "answer: {case}");
    }
}

#[test]
fn lines_that_could_be_read_in_two_ways_are_always_refused() {
    for line in NEVER_FIELDS {
        for syntax in [STRICT, LENIENT] {
            let case = format!("{}, {syntax:?}", line.escape_ascii());
            let error = refused_request(&with_line("GET / HTTP/1.1", line), syntax);
            assert!(is_malformed(error), "request: {case}: {error:?}");
            let error = refused_response(&with_line("HTTP/1.1 200 OK", line), syntax);
            assert!(is_malformed(error), "answer: {case}: {error:?}");
        }
    }
}

#[test]
fn a_space_before_the_colon_is_refused_or_means_nothing() {
    for line in [b"x-c : 1".as_slice(), b"x-c\t: 1", b"x-c \t : 1"] {
        let case = line.escape_ascii();
        let ask = with_line("GET / HTTP/1.1", line);
        let error = refused_request(&ask, STRICT);
        assert!(is_malformed(error), "request: {case}: {error:?}");
        assert!(!request(&ask, LENIENT).parts.headers.contains_key("x-c"), "request: {case}");

        let answer = with_line("HTTP/1.1 200 OK", line);
        let error = refused_response(&answer, STRICT);
        assert!(is_malformed(error), "answer: {case}: {error:?}");
        assert_eq!(response(&answer, LENIENT).headers["x-c"], "1", "answer: {case}");
    }
}

#[test]
fn a_request_has_no_lines_that_go_on() {
    for line in [b" y".as_slice(), b"\ty", b" ", b" x-c: 1"] {
        let case = line.escape_ascii();
        let ask = with_line("GET / HTTP/1.1", line);
        let error = refused_request(&ask, STRICT);
        assert!(is_malformed(error), "{case}: {error:?}");
        let head = request(&ask, LENIENT);
        let expected = [("x-a", b"1".as_slice()), ("x-b", b"2")];
        assert_eq!(listed(&head.parts.headers), expected, "{case}");
        let first = [b"GET / HTTP/1.1\r\n".as_slice(), line, b"\r\n\r\n"].concat();
        let error = refused_request(&first, STRICT);
        assert!(is_malformed(error), "first of all: {case}: {error:?}");
    }
}

#[test]
fn lines_of_an_answer_that_go_on_are_one_line() {
    for (fields, expected) in [
        ("x-c: 1\r\n 2\r\n", "1 2"),
        ("x-c: 1\r\n\t2\r\n", "1 2"),
        ("x-c: 1 \r\n \t 2\t\r\n", "1 2"),
        ("x-c: 1\r\n 2\r\n 3 4\r\n\t5\r\n", "1 2 3 4 5"),
        ("x-c:\r\n 1\r\n", "1"),
        ("x-c: \r\n \r\n 1\r\n", "1"),
        ("x-c: 1\r\n \r\n", "1"),
        ("x-c: 1\r\n \r\n 2\r\n", "1 2"),
        ("x-c: 1\n 2\n", "1 2"),
        ("x-c: a\r\n b: c\r\n", "a b: c"),
    ] {
        let text = format!("HTTP/1.1 200 OK\r\nx-a: 1\r\n{fields}x-b: 2\r\n\r\n");
        let error = refused_response(text.as_bytes(), STRICT);
        assert!(is_malformed(error), "{fields:?}: {error:?}");

        let headers = response(text.as_bytes(), LENIENT).headers;
        let value = headers["x-c"].to_str().unwrap();
        // How many spaces there are does not matter.
        let words: Vec<_> = value.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        assert_eq!(words.join(" "), expected, "{fields:?}");
        assert_eq!(headers.len(), 3, "{fields:?}");
        assert_eq!(headers["x-a"], "1", "{fields:?}");
        assert_eq!(headers["x-b"], "2", "{fields:?}");
    }
}

#[test]
fn line_feeds_alone_end_lines_for_a_lenient_reader_only() {
    for fields in [
        "\nx-a: 1\r\nx-b: 2\r\n\r\n",
        "\r\nx-a: 1\nx-b: 2\r\n\r\n",
        "\r\nx-a: 1\r\nx-b: 2\n\r\n",
        "\r\nx-a: 1\r\nx-b: 2\r\n\n",
        "\nx-a: 1\nx-b: 2\n\n",
    ] {
        let expected = [("x-a", b"1".as_slice()), ("x-b", b"2")];
        let ask = format!("GET / HTTP/1.1{fields}").into_bytes();
        let answer = format!("HTTP/1.1 200 OK{fields}").into_bytes();
        assert!(is_malformed(refused_request(&ask, STRICT)), "request: {fields:?}");
        assert!(is_malformed(refused_response(&answer, STRICT)), "answer: {fields:?}");
        let head = request(&ask, LENIENT);
        assert_eq!(listed(&head.parts.headers), expected, "request: {fields:?}");
        let head = response(&answer, LENIENT);
        assert_eq!(listed(&head.headers), expected, "answer: {fields:?}");
        assert!(head.reason.is_none(), "answer: {fields:?}");
    }
}

#[test]
fn a_caller_who_begins_with_tls_is_told_at_once() {
    let mut input = filled(b"\x16\x03\x01\x02");
    let refused = input.request_head(STRICT).map(|head| head.is_some());
    assert_eq!(refused, Err(HeadError::Malformed("TLS where plain HTTP is spoken")));
}

#[test]
fn a_line_feed_alone_is_refused_before_the_head_has_come() {
    for text in ["\n", "GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nx-a: 1\n", "x\n"] {
        let error = refused_request(text.as_bytes(), STRICT);
        assert!(is_malformed(error), "{text:?}: {error:?}");
        let error = refused_response(text.as_bytes(), STRICT);
        assert!(is_malformed(error), "{text:?}: {error:?}");
    }
}

#[test]
fn a_status_line_is_read_as_it_was_written() {
    // With the reason where it is not the usual one.
    for (line, status, version, reason) in [
        ("HTTP/1.1 200 OK", 200, Version::HTTP_11, None),
        ("HTTP/1.0 200 OK", 200, Version::HTTP_10, None),
        ("HTTP/1.1 100 Continue", 100, Version::HTTP_11, None),
        ("HTTP/1.1 404 Not Found", 404, Version::HTTP_11, None),
        ("HTTP/1.1 200 Fine", 200, Version::HTTP_11, Some("Fine")),
        ("HTTP/1.1 200 ok", 200, Version::HTTP_11, Some("ok")),
        ("HTTP/1.1 200  OK", 200, Version::HTTP_11, Some(" OK")),
        ("HTTP/1.1 200 Not Found", 200, Version::HTTP_11, Some("Not Found")),
        ("HTTP/1.0 503 Out\tof: \"order\"", 503, Version::HTTP_10, Some("Out\tof: \"order\"")),
        ("HTTP/1.1 299 Odd", 299, Version::HTTP_11, Some("Odd")),
        ("HTTP/1.1 999 Odder", 999, Version::HTTP_11, Some("Odder")),
        ("HTTP/1.1 200 ", 200, Version::HTTP_11, Some("")),
        ("HTTP/1.1 200", 200, Version::HTTP_11, Some("")),
        ("HTTP/1.1 299", 299, Version::HTTP_11, Some("")),
    ] {
        for syntax in [STRICT, LENIENT] {
            let head = response(format!("{line}\r\nx-a: 1\r\n\r\n").as_bytes(), syntax);
            assert_eq!(head.status.as_u16(), status, "{line}");
            assert_eq!(head.version, version, "{line}");
            let kept = head.reason.as_ref().map(|reason| &reason.0[..]);
            assert_eq!(kept, reason.map(str::as_bytes), "{line}");
            assert_eq!(listed(&head.headers), [("x-a", b"1".as_slice())], "{line}");
        }
    }
}

#[test]
fn a_first_line_that_is_no_status_line_is_refused() {
    for line in [
        b"HTTP/1.1".as_slice(),
        b"HTTP/1.1 ",
        b"HTTP/1.1 OK",
        b"HTTP/1.1 099 x",
        b"HTTP/1.1 000 x",
        b"HTTP/1.1 1000 x",
        b"HTTP/1.1 2000",
        b"HTTP/1.1 20 x",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2x0 x",
        b"HTTP/1.1 +20 x",
        b"HTTP/1.1 -20 x",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200\0",
        b"HTTP/1.1 200\r",
        b"HTTP/1.1 200 a\0b",
        b"HTTP/1.1 200 a\x01b",
        b"HTTP/1.1 200 a\x7fb",
        b"HTTP/1.1 200 a\rb",
        b"HTTP/1.1 200 OK\r",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/2 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/1.10 200 OK",
        b"HTTP/1. 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"200 OK",
        b" HTTP/1.1 200 OK",
        b"\0HTTP/1.1 200 OK",
        b"<html>",
        b"GET / HTTP/1.1",
    ] {
        for syntax in [STRICT, LENIENT] {
            let text = [line, b"\r\nx-a: 1\r\n\r\n"].concat();
            let error = refused_response(&text, syntax);
            assert!(is_malformed(error), "{}, {syntax:?}: {error:?}", line.escape_ascii());
        }
    }
}

#[test]
fn a_request_head_is_the_same_however_it_comes() {
    let remembering = HeadSyntax { remember_spelling: true, ..STRICT };
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n",
        "POST http://a.test/b?c HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\nx-a:\r\nX-a: 2\r\n\r\n",
        "\r\n\r\nCONNECT a.test:443 HTTP/1.1\r\nhost: a.test\r\n\r\n",
    ] {
        for behind in ["", "\r\n", "hello", "GET / HTTP/1.1\r\n\r\n", "\n\0\r"] {
            for syntax in [STRICT, LENIENT, remembering] {
                comes(head.as_bytes(), behind.as_bytes(), |input| input.request_head(syntax));
            }
        }
    }
    for head in ["GET / HTTP/1.1\nx-a: 1\n\n", "\n\r\nGET  /  HTTP/1.1\r\nno field\r\nx: 1\n\r\n"] {
        comes(head.as_bytes(), b"hello", |input| input.request_head(LENIENT));
    }
}

#[test]
fn a_response_head_is_the_same_however_it_comes() {
    let remembering = HeadSyntax { remember_spelling: true, ..STRICT };
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200\r\nServer: x\r\n\r\n",
        "HTTP/1.1 404 Gone for good\r\nX-A: 1\r\nx-a:\r\nX-a: 2\r\n\r\n",
    ] {
        for behind in ["", "\r\n", "hello", "HTTP/1.1 200 OK\r\n\r\n", "\n\0\r"] {
            for syntax in [STRICT, LENIENT, remembering] {
                comes(head.as_bytes(), behind.as_bytes(), |input| input.response_head(syntax));
            }
        }
    }
    for head in ["HTTP/1.1 200\nx-a: 1\n 2\n\n", "HTTP/1.1 200 OK\r\nx-a: 1\r\n 2\r\nx : 1\n\r\n"] {
        comes(head.as_bytes(), b"hello", |input| input.response_head(LENIENT));
    }
}

#[test]
fn heads_that_came_together_are_read_one_by_one() {
    let mut input = filled(
        b"POST /1 HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello\r\n\
          GET /2 HTTP/1.0\r\n\r\n\
          GET /3 HTTP/1.1\r\nx-a: 1\r\n\r\n\
          GET /4 HTTP",
    );
    let target = |input: &mut Input| {
        let head = input.request_head(STRICT).unwrap();
        head.map(|head| head.parts.uri.to_string())
    };
    assert_eq!(target(&mut input).as_deref(), Some("/1"));
    assert_eq!(input.take(5), "hello");
    assert_eq!(target(&mut input).as_deref(), Some("/2"));
    assert_eq!(target(&mut input).as_deref(), Some("/3"));
    assert_eq!(target(&mut input), None);
    fill(&mut input, b"/1.1\r\n\r\n");
    assert_eq!(target(&mut input).as_deref(), Some("/4"));
    assert_eq!(target(&mut input), None);
    assert!(input.is_empty());

    let mut input = filled(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx-a: 1\r\n\r\nhello");
    let status = |input: &mut Input| {
        let head = input.response_head(STRICT).unwrap();
        head.map(|head| head.status.as_u16())
    };
    assert_eq!(status(&mut input), Some(100));
    assert_eq!(status(&mut input), Some(200));
    assert_eq!(input.take_all(), "hello");
}

proptest! {
    #[test]
    fn heads_that_were_written_are_read_again(
        target in "/[a-z0-9/]{0,12}(\\?[a-z=&]{0,8})?",
        fields in proptest::collection::vec(
            ("x-[a-z]{1,2}", "([!-~]([ -~]{0,20}[!-~])?)?"),
            0..80,
        ),
        status in 100_u16..1000,
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let target: PathAndQuery = target.parse().unwrap();
        let (none, case) = (Framing::Empty, Case::Title);

        let mut out = BytesMut::new();
        encode::request_head(&mut out, &Method::POST, &target, &headers, none, case);
        out.extend_from_slice(&behind);
        let mut input = filled(&out);
        let head = input.request_head(STRICT).unwrap().unwrap();
        prop_assert_eq!(head.parts.method, Method::POST);
        prop_assert_eq!(head.parts.uri.path_and_query(), Some(&target));
        prop_assert_eq!(&head.parts.headers, &headers);
        prop_assert_eq!(input.take_all(), &behind[..]);

        let mut out = BytesMut::new();
        let status = StatusCode::from_u16(status).unwrap();
        encode::response_head(&mut out, status, None, &headers, none, case);
        out.extend_from_slice(&behind);
        let mut input = filled(&out);
        let head = input.response_head(STRICT).unwrap().unwrap();
        prop_assert_eq!(head.status, status);
        prop_assert_eq!(&head.headers, &headers);
        prop_assert_eq!(input.take_all(), &behind[..]);
    }

    #[test]
    fn whatever_comes_is_a_head_or_is_refused(
        lines in proptest::collection::vec(
            proptest::collection::vec(
                proptest::sample::select(vec![
                    b"x-a: 1".as_slice(), b"x", b"X-A", b":", b" ", b"\t", b"1", b",", b"/", b"#",
                    b"GET", b"HTTP/1.1", b"200", b"\r", b"\0", b"\x01", b"\x7f", b"\xe4",
                ]),
                0..6,
            ),
            0..8,
        ),
        end in proptest::sample::select(vec!["\r\n", "\n"]),
        first in proptest::sample::select(vec!["GET / HTTP/1.1\r\n", "HTTP/1.1 200 OK\r\n", "x"]),
        max_bytes in proptest::sample::select(vec![0_usize, 1, 20, 100, 64 << 10]),
        lenient in any::<bool>(),
    ) {
        let mut text = first.as_bytes().to_vec();
        for line in lines {
            text.extend_from_slice(&line.concat());
            text.extend_from_slice(end.as_bytes());
        }
        text.extend_from_slice(b"\r\n\r\n");
        let syntax = HeadSyntax { max_bytes, lenient, ..STRICT };
        // All of it is here, so that there is nothing to wait for.
        let got = filled(&text).request_head(syntax);
        prop_assert!(!matches!(got, Ok(None)), "request");
        let got = filled(&text).response_head(syntax);
        prop_assert!(!matches!(got, Ok(None)), "answer");
    }
}
