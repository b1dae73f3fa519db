use super::*;
use http::HeaderName;

const TE: &str = "transfer-encoding";
const CL: &str = "content-length";

const BOTH: &str = "both Transfer-Encoding and Content-Length";
const OLD: &str = "a transfer coding in HTTP/1.0";
const OTHER: &str = "a transfer coding other than chunked";

/// The most that fits, and one more.
const MOST: &str = "18446744073709551615";
const TOO_MUCH: &str = "18446744073709551616";

/// These are no lengths, whoever says them.
const NO_LENGTHS: &[&str] = &[
    "",
    "+5",
    "-1",
    "-0",
    "0x5",
    "5.0",
    "5e3",
    "5 5",
    "5_000",
    "5;",
    "five",
    "\u{665}",
    TOO_MUCH,
    "18446744073709551620",
    "99999999999999999999",
    "100000000000000000000000000000",
];

/// These are not chunked and nothing else.
const NO_CODINGS: &[&str] = &[
    "",
    ",",
    "chunked, chunked",
    "gzip, chunked",
    "chunked, gzip",
    "gzip",
    "identity",
    "identity, chunked",
    ",chunked",
    "chunked,",
    "xchunked",
    "chunkedx",
    "chunke",
    "x chunked",
    "chunked;q=1",
    "\"chunked\"",
    "chun\u{212a}ed",
];

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    headers
}

fn request(fields: &[(&str, &str)]) -> Result<Framing, &'static str> {
    of_request(Version::HTTP_11, &map(fields))
}

fn response(fields: &[(&str, &str)]) -> Result<Framing, &'static str> {
    of_response(false, StatusCode::OK, Version::HTTP_11, &mut map(fields))
}

#[test]
fn who_says_nothing_sends_nothing_or_sends_until_the_end() {
    for version in [Version::HTTP_10, Version::HTTP_11] {
        let mut fields = map(&[("host", "api.example.com"), ("connection", "close")]);
        assert_eq!(of_request(version, &fields), Ok(Framing::Empty), "{version:?}");
        let answer = of_response(false, StatusCode::OK, version, &mut fields);
        assert_eq!(answer, Ok(Framing::UntilClose), "{version:?}");
    }
}

#[test]
fn chunked_is_chunked_in_any_case() {
    for coding in ["chunked", "Chunked", "CHUNKED", "chunKED"] {
        assert_eq!(request(&[(TE, coding)]), Ok(Framing::Chunked), "request: {coding}");
        assert_eq!(response(&[(TE, coding)]), Ok(Framing::Chunked), "answer: {coding}");
    }
}

#[test]
fn every_coding_but_chunked_alone_is_refused() {
    for coding in NO_CODINGS {
        assert_eq!(request(&[(TE, coding)]), Err(OTHER), "request: {coding:?}");
        assert_eq!(response(&[(TE, coding)]), Err(OTHER), "answer: {coding:?}");
    }
    for two in [["chunked", "chunked"], ["gzip", "chunked"], ["chunked", "gzip"], ["", "chunked"]] {
        let fields = two.map(|coding| (TE, coding));
        assert_eq!(request(&fields), Err(OTHER), "request: {two:?}");
        assert_eq!(response(&fields), Err(OTHER), "answer: {two:?}");
    }
}

#[test]
fn a_coding_and_a_length_are_refused_in_either_order() {
    for length in ["0", "5", MOST] {
        for coding in ["chunked", "gzip", "identity", ""] {
            for fields in [[(TE, coding), (CL, length)], [(CL, length), (TE, coding)]] {
                assert_eq!(request(&fields), Err(BOTH), "request: {fields:?}");
                assert_eq!(response(&fields), Err(BOTH), "answer: {fields:?}");
            }
        }
    }
    for length in NO_LENGTHS {
        let fields = [(TE, "chunked"), (CL, length)];
        assert_eq!(request(&fields), Err(BOTH), "request: {length:?}");
        assert!(response(&fields).is_err(), "answer: {length:?}");
    }
}

#[test]
fn there_is_no_coding_in_http_1_0() {
    for coding in ["chunked", "gzip", "gzip, chunked", ""] {
        let mut fields = map(&[(TE, coding)]);
        assert_eq!(of_request(Version::HTTP_10, &fields), Err(OLD), "request: {coding:?}");
        let answer = of_response(false, StatusCode::OK, Version::HTTP_10, &mut fields);
        assert_eq!(answer, Err(OLD), "answer: {coding:?}");
    }
}

#[test]
fn a_length_is_digits() {
    for (said, length) in [
        ("1", 1),
        ("5", 5),
        ("10", 10),
        ("007", 7),
        ("000000000000000000000000000000", 0),
        ("000000000000000000000000000005", 5),
        ("0", 0),
        (MOST, u64::MAX),
    ] {
        let expected = if length == 0 { Framing::Empty } else { Framing::Length(length) };
        assert_eq!(request(&[(CL, said)]), Ok(expected), "request: {said}");
        assert_eq!(response(&[(CL, said)]), Ok(expected), "answer: {said}");
        let old = of_request(Version::HTTP_10, &map(&[(CL, said)]));
        assert_eq!(old, Ok(expected), "request in HTTP/1.0: {said}");
    }
}

#[test]
fn a_length_is_nothing_but_digits() {
    for said in NO_LENGTHS {
        assert!(request(&[(CL, said)]).is_err(), "request: {said:?}");
        assert!(response(&[(CL, said)]).is_err(), "answer: {said:?}");
    }
    for said in [" 5", "5 ", "5\t", "5,", ",5", "5, 5", "5,5", ","] {
        assert!(request(&[(CL, said)]).is_err(), "request: {said:?}");
    }
    for said in ["5,", ",5", ",", "5,,5"] {
        assert!(response(&[(CL, said)]).is_err(), "answer: {said:?}");
    }
}

#[test]
fn a_length_that_is_there_twice_is_refused_in_a_request() {
    for two in [["5", "5"], ["5", "6"], ["0", "0"], ["5", ""], ["", "5"], ["x", "y"]] {
        let fields = two.map(|length| (CL, length));
        assert_eq!(request(&fields), Err("more than one Content-Length"), "{two:?}");
    }
}

#[test]
fn a_length_that_an_answer_says_again_becomes_one() {
    for (said, length) in [
        (["5", "5"].as_slice(), "5"),
        (&["5", "5", "5"], "5"),
        (&["5, 5"], "5"),
        (&["5,5"], "5"),
        (&["5 ,\t5"], "5"),
        (&["5, 5", "5"], "5"),
        (&["05", "5"], "5"),
        (&["0", "0"], "0"),
        (&[MOST, MOST], MOST),
    ] {
        let fields: Vec<_> = said.iter().map(|said| (CL, *said)).collect();
        // One who asked with HEAD gets the fields, too.
        for to_head in [false, true] {
            let mut headers = map(&fields);
            headers.insert("etag", HeaderValue::from_static("e"));
            let framing = of_response(to_head, StatusCode::OK, Version::HTTP_11, &mut headers);
            let expected = match length {
                "0" => Framing::Empty,
                length => Framing::Length(length.parse().unwrap()),
            };
            let expected = if to_head { Framing::Empty } else { expected };
            assert_eq!(framing, Ok(expected), "{said:?}, HEAD: {to_head}");
            let expected = map(&[(CL, length), ("etag", "e")]);
            assert_eq!(headers, expected, "{said:?}, HEAD: {to_head}");
        }
    }
}

#[test]
fn a_length_that_is_said_once_stays_as_it_is() {
    for said in ["5", "05", "0", "00"] {
        let mut headers = map(&[(CL, said)]);
        of_response(false, StatusCode::OK, Version::HTTP_11, &mut headers).unwrap();
        assert_eq!(headers, map(&[(CL, said)]), "{said}");
    }
}

#[test]
fn lengths_that_differ_are_refused() {
    for said in [
        ["5", "6"].as_slice(),
        &["5, 6"],
        &["5,6"],
        &["5", "5", "6"],
        &["5, 5", "5, 6"],
        &["0", "5"],
        &["5", ""],
        &["5", "x"],
        &["5", "55"],
        &[MOST, TOO_MUCH],
    ] {
        let fields: Vec<_> = said.iter().map(|said| (CL, *said)).collect();
        assert!(response(&fields).is_err(), "{said:?}");
    }
}

#[test]
fn some_answers_have_no_content_whatever_they_say() {
    let said: [&[(&str, &str)]; 8] = [
        &[],
        &[(CL, "0")],
        &[(CL, "5")],
        &[(CL, MOST)],
        &[(TE, "chunked")],
        &[(TE, "gzip, chunked")],
        &[(TE, "chunked"), (CL, "5")],
        &[("connection", "close")],
    ];
    let bodiless = [
        (true, 200),
        (true, 206),
        (true, 404),
        (true, 500),
        (false, 100),
        (false, 101),
        (false, 103),
        (false, 199),
        (false, 204),
        (false, 304),
    ];
    for (to_head, status) in bodiless {
        for fields in said {
            for version in [Version::HTTP_10, Version::HTTP_11] {
                let status = StatusCode::from_u16(status).unwrap();
                let framing = of_response(to_head, status, version, &mut map(fields));
                let case = format!("{status}, HEAD: {to_head}, {version:?}: {fields:?}");
                assert_eq!(framing, Ok(Framing::Empty), "{case}");
            }
        }
    }
}

#[test]
fn other_answers_have_content_as_they_say() {
    for status in [200, 201, 203, 205, 206, 300, 301, 303, 305, 400, 404, 500, 599, 999] {
        let status = StatusCode::from_u16(status).unwrap();
        for (fields, expected) in [
            ([].as_slice(), Framing::UntilClose),
            (&[(CL, "5")], Framing::Length(5)),
            (&[(CL, "0")], Framing::Empty),
            (&[(TE, "chunked")], Framing::Chunked),
        ] {
            let framing = of_response(false, status, Version::HTTP_11, &mut map(fields));
            assert_eq!(framing, Ok(expected), "{status}: {fields:?}");
        }
    }
}

#[test]
fn what_the_connection_is_to_do_is_found_in_every_list() {
    // Each with whether it says `close` and whether it says `keep-alive`.
    for (values, close, keep_alive) in [
        ([].as_slice(), false, false),
        (&["close"], true, false),
        (&["Close"], true, false),
        (&["CLOSE"], true, false),
        (&["keep-alive"], false, true),
        (&["Keep-Alive"], false, true),
        (&["keep-alive, close"], true, true),
        (&["close,keep-alive"], true, true),
        (&["x-a,close"], true, false),
        (&["x-a ,\tClose\t, x-b"], true, false),
        (&[" , ,close,,"], true, false),
        (&["x-a", "close"], true, false),
        (&["close", "x-a"], true, false),
        (&["x-a, x-b", "x-c, Keep-Alive", "x-d"], false, true),
        (&["keep-alive", "close"], true, true),
        (&["closed"], false, false),
        (&["clos"], false, false),
        (&["not-close"], false, false),
        (&["not close"], false, false),
        (&["close;x"], false, false),
        (&["\"close\""], false, false),
        (&["close keep-alive"], false, false),
        (&["keepalive"], false, false),
        (&["keep-alive=1"], false, false),
        (&["upgrade"], false, false),
        (&[""], false, false),
        (&[","], false, false),
        (&["\u{e4}, close"], true, false),
    ] {
        let fields: Vec<_> = values.iter().map(|value| ("connection", *value)).collect();
        let headers = map(&fields);
        assert_eq!(lasts(Version::HTTP_11, &headers), !close, "{values:?}");
        assert_eq!(lasts(Version::HTTP_10, &headers), keep_alive && !close, "{values:?}");
    }
}

#[test]
fn no_other_field_says_what_the_connection_is_to_do() {
    for name in ["proxy-connection", "keep-alive", "x-connection", "close"] {
        for value in ["close", "keep-alive"] {
            let headers = map(&[(name, value)]);
            assert!(lasts(Version::HTTP_11, &headers), "{name}: {value}");
            assert!(!lasts(Version::HTTP_10, &headers), "{name}: {value}");
        }
    }
}
