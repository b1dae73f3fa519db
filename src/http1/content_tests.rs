use super::*;
use crate::http1::encode::{Case, chunk, last_chunk};
use bytes::BytesMut;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Waker;
use tokio::io::ReadBuf;

const NO_SIZE: End = End::Malformed("a chunk's size is no number");
const LONG_CHUNK: End = End::Malformed("a chunk is longer than it says");
const LONG_LINE: End = End::Malformed("too long a chunk extension");
const MANY_EXTENSIONS: End = End::Malformed("too many chunk extensions");
const NO_TRAILER: End = End::Malformed("a trailer is malformed");
const MANY_TRAILERS: End = End::Malformed("too many trailers");
const LINE_FEED: End = End::Malformed("a line ends in a line feed alone");

/// What could be taken for a part of the message in front of it.
const BEHIND: &[&[u8]] =
    &[b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"x-c: 3\r\n\r\n", b"5\r\nagain\r\n0\r\n\r\n"];

/// A stream that gives one piece at a time, and every other time says that there is none yet.
struct Wire<'b> {
    pieces: VecDeque<&'b [u8]>,
    /// Whether it ends behind them, or nothing more is known.
    ends: bool,
    asked: bool,
}

impl<'b> Wire<'b> {
    fn new(pieces: impl IntoIterator<Item = &'b [u8]>, ends: bool) -> Self {
        // No bytes would be the end.
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { pieces, ends, asked: false }
    }

    fn is_dry(&self) -> bool {
        self.pieces.is_empty() && !self.ends
    }

    fn rest(&self) -> Vec<u8> {
        self.pieces.iter().copied().flatten().copied().collect()
    }
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.asked = !self.asked;
        if self.asked {
            return Poll::Pending;
        }
        let Some(piece) = self.pieces.pop_front() else {
            return if self.ends { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let (now, later) = piece.split_at(piece.len().min(buffer.remaining()));
        buffer.put_slice(now);
        if !later.is_empty() {
            self.pieces.push_front(later);
        }
        Poll::Ready(Ok(()))
    }
}

/// A stream that fails.
struct Broken;

impl AsyncRead for Broken {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

/// How reading came to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Whole,
    Truncated,
    Malformed(&'static str),
    Unread,
    /// It did not; there is only nothing more to read for now.
    Waiting,
}

#[derive(Debug, PartialEq)]
struct Got {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    end: End,
}

fn whole(data: &[u8], trailers: &[(&'static str, &'static str)]) -> Got {
    let trailers = (!trailers.is_empty()).then(|| map(trailers));
    Got { data: data.to_vec(), trailers, end: End::Whole }
}

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for &(name, value) in fields {
        headers.append(name, HeaderValue::from_static(value));
    }
    headers
}

/// Reads content to its end.
fn read(framing: Framing, input: &mut Input, wire: &mut Wire<'_>) -> Got {
    let mut cx = Context::from_waker(Waker::noop());
    let mut content = Content::new(framing);
    let mut data: Vec<u8> = Vec::new();
    let mut trailers = None;
    let end = loop {
        match content.poll_frame(input, wire, &mut cx) {
            Poll::Pending if wire.is_dry() => break End::Waiting,
            Poll::Pending => {}
            Poll::Ready(None) => break End::Whole,
            Poll::Ready(Some(Err(ContentFailure::Truncated))) => break End::Truncated,
            Poll::Ready(Some(Err(ContentFailure::Malformed(why)))) => break End::Malformed(why),
            Poll::Ready(Some(Err(ContentFailure::Read(_)))) => break End::Unread,
            Poll::Ready(Some(Ok(frame))) => {
                assert!(trailers.is_none(), "something comes behind the trailers");
                match frame.into_data() {
                    Ok(piece) => {
                        assert!(!piece.is_empty(), "a piece is empty");
                        data.extend_from_slice(&piece);
                    }
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
        }
    };
    assert_eq!(content.has_ended(), end == End::Whole, "{end:?}");
    if end != End::Waiting {
        let more = content.poll_frame(input, wire, &mut cx);
        if end == End::Whole {
            assert!(matches!(more, Poll::Ready(None)), "behind the end: {more:?}");
        } else {
            assert!(matches!(more, Poll::Ready(Some(Err(_)))), "it broke off: {more:?}");
        }
    }
    Got { data, trailers, end }
}

/// What was neither read nor lost.
fn rest(input: &mut Input, wire: &Wire<'_>) -> Vec<u8> {
    [&input.take_all()[..], &wire.rest()[..]].concat()
}

fn fill(input: &mut Input, mut bytes: &[u8]) {
    let mut cx = Context::from_waker(Waker::noop());
    while !bytes.is_empty() {
        let filled = input.poll_fill(&mut bytes, &mut cx);
        assert!(matches!(filled, Poll::Ready(Ok(1..))), "{filled:?}");
    }
}

/// Every way to get `bytes` in two pieces, and byte by byte.
fn deliveries(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let halves = (0..=bytes.len()).map(|at| {
        let (first, second) = bytes.split_at(at);
        vec![first, second]
    });
    halves.chain([bytes.chunks(1).collect()]).collect()
}

/// Pieces of `bytes` that are as long as `sizes` say, over and over.
fn cut<'b>(mut bytes: &'b [u8], sizes: &[usize]) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, later) = bytes.split_at(bytes.len().min(*size));
        pieces.push(piece);
        bytes = later;
    }
    pieces
}

fn chunked<'b>(
    pieces: impl IntoIterator<Item = &'b [u8]>,
    trailers: Option<&HeaderMap>,
) -> Vec<u8> {
    let mut out = BytesMut::new();
    for piece in pieces {
        chunk(&mut out, piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    last_chunk(&mut out, trailers, Case::Lower);
    out.to_vec()
}

/// So many bytes, not all alike.
fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn next(content: &mut Content, input: &mut Input) -> Frame<Bytes> {
    let mut cx = Context::from_waker(Waker::noop());
    let polled = content.poll_frame(input, &mut Wire::new([], false), &mut cx);
    let Poll::Ready(Some(Ok(frame))) = polled else { panic!("no frame") };
    frame
}

#[test]
fn content_is_the_same_however_it_comes() {
    let trailers = [("x-a", "1"), ("x-a", "2"), ("x-b", "")];
    for (framing, message, expected) in [
        (Framing::Empty, b"".as_slice(), whole(b"", &[])),
        (Framing::Length(0), b"", whole(b"", &[])),
        (Framing::Length(1), b"h", whole(b"h", &[])),
        (Framing::Length(11), b"hello world", whole(b"hello world", &[])),
        (Framing::Chunked, b"0\r\n\r\n", whole(b"", &[])),
        (Framing::Chunked, b"000\r\n\r\n", whole(b"", &[])),
        (Framing::Chunked, b"0;x=y\r\n\r\n", whole(b"", &[])),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\n", whole(b"hello", &[])),
        (
            Framing::Chunked,
            b"5\r\nhello\r\n6;a=\"b\"\r\n world\r\n0\r\n\r\n",
            whole(b"hello world", &[]),
        ),
        (Framing::Chunked, b"A\r\n0123456789\r\n0\r\n\r\n", whole(b"0123456789", &[])),
        (Framing::Chunked, b"a\r\n0123456789\r\n0\r\n\r\n", whole(b"0123456789", &[])),
        // Fifteen digits.
        (Framing::Chunked, b"000000000000005\r\nhello\r\n0\r\n\r\n", whole(b"hello", &[])),
        (Framing::Chunked, b"1  \r\na\r\n1 \t;x\r\nb\r\n0 \r\n\r\n", whole(b"ab", &[])),
        (Framing::Chunked, b"1;a=\xe4\tb; c\r\na\r\n0\r\n\r\n", whole(b"a", &[])),
        (Framing::Chunked, b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", whole(b"0\r\n\r\n\r\n", &[])),
        (Framing::Chunked, b"0\r\nx-a: 1\r\n\r\n", whole(b"", &[("x-a", "1")])),
        (
            Framing::Chunked,
            b"5\r\nhello\r\n0\r\nx-a: 1\r\nX-A:  2 \r\nx-b:\r\n\r\n",
            whole(b"hello", &trailers),
        ),
    ] {
        for &behind in BEHIND {
            let bytes = [message, behind].concat();
            for pieces in deliveries(&bytes) {
                // None, or the first of them, came together with the head.
                for ahead in [0, 1] {
                    let (early, late) = pieces.split_at(ahead.min(pieces.len()));
                    let mut input = Input::default();
                    for piece in early {
                        fill(&mut input, piece);
                    }
                    let mut wire = Wire::new(late.iter().copied(), true);
                    let got = read(framing, &mut input, &mut wire);
                    let case = format!("{framing:?}, {ahead} ahead of {pieces:?}");
                    assert_eq!(got, expected, "{case}");
                    assert_eq!(rest(&mut input, &wire), behind, "behind: {case}");
                }
            }
        }
    }
}

#[test]
fn content_until_the_connection_closes_is_all_that_comes() {
    for message in [b"".as_slice(), b"h", b"hello world", b"0\r\n\r\n"] {
        for pieces in deliveries(message) {
            for ahead in [0, 1] {
                let (early, late) = pieces.split_at(ahead.min(pieces.len()));
                for ends in [true, false] {
                    let mut input = Input::default();
                    for piece in early {
                        fill(&mut input, piece);
                    }
                    let mut wire = Wire::new(late.iter().copied(), ends);
                    let got = read(Framing::UntilClose, &mut input, &mut wire);
                    let end = if ends { End::Whole } else { End::Waiting };
                    let expected = Got { data: message.to_vec(), trailers: None, end };
                    assert_eq!(got, expected, "{ahead} ahead of {pieces:?}, ends: {ends}");
                }
            }
        }
    }
}

#[test]
fn what_is_behind_stays_for_the_next_message() {
    for (framing, message) in [
        (Framing::Empty, b"".as_slice()),
        (Framing::Length(5), b"hello"),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\n"),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\nx-a: 1\r\n\r\n"),
    ] {
        for &behind in BEHIND {
            let mut input = Input::default();
            fill(&mut input, &[message, behind].concat());
            read(framing, &mut input, &mut Wire::new([], false));
            assert_eq!(input.take_all(), behind, "{framing:?}: {message:?}");
        }
    }
}

#[test]
fn content_that_breaks_off_is_not_whole() {
    for (framing, message, content) in [
        (Framing::Length(11), b"hello world".as_slice(), b"hello world".as_slice()),
        (Framing::Chunked, b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n", b"hello world"),
        (Framing::Chunked, b"5\r\nhello\r\n0;x\r\nx-a: 1\r\nx-b: 2\r\n\r\n", b"hello"),
        (Framing::Chunked, b"0\r\n\r\n", b""),
    ] {
        for length in 0..message.len() {
            let here = &message[..length];
            for size in [1, message.len()] {
                for (ends, end) in [(true, End::Truncated), (false, End::Waiting)] {
                    let case = format!("{framing:?}: {length} of {message:?}, {size} at once");
                    let mut wire = Wire::new(here.chunks(size), ends);
                    let got = read(framing, &mut Input::default(), &mut wire);
                    assert_eq!((got.end, got.trailers), (end, None), "{case}");
                    assert!(content.starts_with(&got.data), "{case}");
                }
            }
        }
    }
}

#[test]
fn content_that_cannot_be_read_is_not_whole() {
    let mut cx = Context::from_waker(Waker::noop());
    let long = Framing::Length(1 << 20);
    for framing in [Framing::Length(5), long, Framing::Chunked, Framing::UntilClose] {
        let (mut content, mut input) = (Content::new(framing), Input::default());
        let polled = content.poll_frame(&mut input, &mut Broken, &mut cx);
        let failed = matches!(&polled, Poll::Ready(Some(Err(ContentFailure::Read(_)))));
        assert!(failed, "{framing:?}: {polled:?}");
        for _ in 0..2 {
            assert!(!content.has_ended(), "{framing:?}");
            assert_eq!(content.size_hint().exact(), None, "{framing:?}");
            let polled = content.poll_frame(&mut input, &mut Broken, &mut cx);
            assert!(matches!(polled, Poll::Ready(Some(Err(_)))), "{framing:?}: {polled:?}");
        }
    }
}

#[test]
fn chunks_that_are_malformed_are_refused_however_they_come() {
    for (message, why) in [
        (b"g\r\nhello\r\n0\r\n\r\n".as_slice(), NO_SIZE),
        (b"\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"-1\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"+1\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"0x5\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5h\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b" 5\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5 5\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5,\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b";a\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"\"5\"\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        // Sixteen digits.
        (b"0000000000000005\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"10000000000000005\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        // Lines that end otherwise.
        (b"5\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5;a\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5\n\rhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5\r\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5\rhello\r\n0\r\n\r\n", NO_SIZE),
        (b"\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5\r\nhello\r\n0\n\r\n", NO_SIZE),
        // Control characters.
        (b"5\0\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5;a\0b\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5;a\rb\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5;a\x7f\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5\x0b;a\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        (b"5\x0c;a\r\nhello\r\n0\r\n\r\n", NO_SIZE),
        // Chunks that do not end where they say.
        (b"3\r\nhello\r\n0\r\n\r\n", LONG_CHUNK),
        (b"4\r\nhello\r\n0\r\n\r\n", LONG_CHUNK),
        (b"7\r\nhello\r\n0\r\n\r\n", LONG_CHUNK),
        (b"5\r\nhello\n0\r\n\r\n", LONG_CHUNK),
        (b"5\r\nhello\r0\r\n\r\n", LONG_CHUNK),
        (b"5\r\nhello0\r\n\r\n", LONG_CHUNK),
    ] {
        for pieces in deliveries(message) {
            let mut wire = Wire::new(pieces.iter().copied(), true);
            let got = read(Framing::Chunked, &mut Input::default(), &mut wire);
            assert_eq!(got.end, why, "{pieces:?}");
        }
    }
}

#[test]
fn trailers_that_are_malformed_are_refused_however_they_come() {
    for (section, why) in [
        (b"x-a : 1\r\n\r\n".as_slice(), NO_TRAILER),
        (b"x-a\t: 1\r\n\r\n", NO_TRAILER),
        (b"x-b: 1\r\nx-a : 1\r\n\r\n", NO_TRAILER),
        (b" x-a: 1\r\n\r\n", NO_TRAILER),
        (b": 1\r\n\r\n", NO_TRAILER),
        (b"x-a\r\n\r\n", NO_TRAILER),
        (b"x(a): 1\r\n\r\n", NO_TRAILER),
        (b"x-\xe4: 1\r\n\r\n", NO_TRAILER),
        (b"x-a: 1\r\n 2\r\n\r\n", NO_TRAILER),
        (b"x-a: a\0b\r\n\r\n", NO_TRAILER),
        (b"x-a: a\x7fb\r\n\r\n", NO_TRAILER),
        (b"x-a: a\rb\r\n\r\n", NO_TRAILER),
        (b"x-a: 1\r\r\n\r\n", NO_TRAILER),
        (b"GET / HTTP/1.1\r\n\r\n", NO_TRAILER),
        (b"\n", LINE_FEED),
        (b"x-a: 1\n\r\n", LINE_FEED),
        (b"x-a: 1\r\n\n", LINE_FEED),
        (b"x-a: 1\r\nx-b: 2\n\r\n", LINE_FEED),
    ] {
        for front in [b"0\r\n".as_slice(), b"5\r\nhello\r\n0\r\n"] {
            let message = [front, section].concat();
            for pieces in deliveries(&message) {
                let mut wire = Wire::new(pieces.iter().copied(), true);
                let got = read(Framing::Chunked, &mut Input::default(), &mut wire);
                assert_eq!((got.end, got.trailers), (why, None), "{pieces:?}");
            }
        }
    }
}

#[test]
fn what_surrounds_chunks_is_limited() {
    let extended = |chunks: usize, last: usize| {
        let chunk = format!("1;{}\r\nx\r\n", "a".repeat(999));
        format!("{}0;{}\r\n\r\n", chunk.repeat(chunks), "a".repeat(last - 1))
    };
    let spaces = format!("1{}\r\nx\r\n", " ".repeat(999));
    let line = |length: usize| {
        let extension = "a".repeat(length - "5;\r\n".len());
        format!("5;{extension}\r\nhello\r\n0\r\n\r\n")
    };
    let trailers = |length: usize| {
        let value = "a".repeat(length - "x: \r\n\r\n".len());
        format!("0\r\nx: {value}\r\n\r\n")
    };
    let fields = |count: usize| format!("0\r\n{}\r\n", "x-a: 1\r\n".repeat(count));
    for (case, message, end) in [
        ("the longest line", line(CHUNK_LINE), End::Whole),
        ("too long a line", line(CHUNK_LINE + 1), LONG_LINE),
        ("a line without an end", format!("5;{}", "a".repeat(5000)), LONG_LINE),
        ("nothing but digits", "0".repeat(5000), LONG_LINE),
        ("as many extensions as may be", extended(16, EXTENSIONS - 16_000), End::Whole),
        ("one byte of extensions more", extended(16, EXTENSIONS - 15_999), MANY_EXTENSIONS),
        ("a chunk with extensions more", extended(17, 1), MANY_EXTENSIONS),
        ("too many spaces", spaces.repeat(17), MANY_EXTENSIONS),
        ("the longest trailers", trailers(TRAILERS), End::Whole),
        ("too long trailers", trailers(TRAILERS + 1), MANY_TRAILERS),
        ("trailers without an end", format!("0\r\nx: {}", "a".repeat(TRAILERS)), MANY_TRAILERS),
        ("as many trailers as may be", fields(TRAILER_FIELDS), End::Whole),
        ("one trailer more", fields(TRAILER_FIELDS + 1), NO_TRAILER),
    ] {
        for size in [1, 7, 1000, 1 << 20] {
            for ends in [true, false] {
                let mut wire = Wire::new(message.as_bytes().chunks(size), ends);
                let got = read(Framing::Chunked, &mut Input::default(), &mut wire);
                assert_eq!(got.end, end, "{case}, {size} bytes at once, ends: {ends}");
            }
        }
    }
}

#[test]
fn the_last_piece_is_known_to_be_the_last() {
    let (mut content, mut input) = (Content::new(Framing::Chunked), Input::default());
    fill(&mut input, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nGET");
    assert_eq!(next(&mut content, &mut input).into_data().unwrap(), "he");
    assert!(!content.has_ended(), "one chunk of two");
    assert_eq!(next(&mut content, &mut input).into_data().unwrap(), "llo");
    assert!(content.has_ended(), "two chunks of two");
    assert_eq!(content.size_hint().exact(), Some(0));
    assert_eq!(input.take_all(), "GET");

    let (mut content, mut input) = (Content::new(Framing::Length(5)), Input::default());
    fill(&mut input, b"he");
    assert_eq!(next(&mut content, &mut input).into_data().unwrap(), "he");
    assert!(!content.has_ended(), "two bytes of five");
    fill(&mut input, b"lloGET");
    assert_eq!(next(&mut content, &mut input).into_data().unwrap(), "llo");
    assert!(content.has_ended(), "five bytes of five");
    assert_eq!(input.take_all(), "GET");
}

#[test]
fn the_last_piece_is_not_the_last_while_its_end_is_missing() {
    for end in [b"".as_slice(), b"\r", b"\r\n", b"\r\n0", b"\r\n0\r\n", b"\r\n0\r\n\r"] {
        let (mut content, mut input) = (Content::new(Framing::Chunked), Input::default());
        fill(&mut input, &[b"5\r\nhello".as_slice(), end].concat());
        assert_eq!(next(&mut content, &mut input).into_data().unwrap(), "hello");
        assert!(!content.has_ended(), "{end:?}");
        let mut missing = &b"\r\n0\r\n\r\n"[end.len()..];
        let mut cx = Context::from_waker(Waker::noop());
        let got = content.poll_frame(&mut input, &mut missing, &mut cx);
        assert!(matches!(got, Poll::Ready(None)), "{end:?}: {got:?}");
        assert!(content.has_ended() && input.is_empty(), "{end:?}");
    }
}

#[test]
fn trailers_that_came_with_the_last_piece_are_not_lost() {
    let (mut content, mut input) = (Content::new(Framing::Chunked), Input::default());
    fill(&mut input, b"5\r\nhello\r\n0\r\nx-a: 1\r\nx-a: 2\r\n\r\nx-b: 3\r\n\r\n");
    assert_eq!(next(&mut content, &mut input).into_data().unwrap(), "hello");
    assert!(!content.has_ended(), "trailers are still to come");
    let trailers = next(&mut content, &mut input).into_trailers().unwrap();
    assert_eq!(trailers, map(&[("x-a", "1"), ("x-a", "2")]));
    assert!(content.has_ended(), "nothing comes behind trailers");
    assert_eq!(input.take_all(), "x-b: 3\r\n\r\n");
}

#[test]
fn how_much_is_to_come_is_known_of_a_length_only() {
    for (framing, expected) in [
        (Framing::Empty, Some(0)),
        (Framing::Length(0), Some(0)),
        (Framing::Length(5), Some(5)),
        (Framing::Length(u64::MAX), Some(u64::MAX)),
        (Framing::Chunked, None),
        (Framing::UntilClose, None),
    ] {
        let content = Content::new(framing);
        assert_eq!(content.size_hint().exact(), expected, "{framing:?}");
        assert_eq!(content.has_ended(), expected == Some(0), "{framing:?}");
    }
    let (mut content, mut input) = (Content::new(Framing::Length(u64::MAX)), Input::default());
    fill(&mut input, b"hello");
    next(&mut content, &mut input);
    assert_eq!(content.size_hint().exact(), Some(u64::MAX - 5));
}

#[test]
fn large_content_is_read_whole() {
    let expected = sample(1 << 20);
    for (framing, message, behind) in [
        (Framing::Length(1 << 20), expected.clone(), b"GET".as_slice()),
        (Framing::Chunked, chunked(expected.chunks(100_000), None), b"GET"),
        (Framing::Chunked, chunked([&expected[..]], None), b"GET"),
        (Framing::UntilClose, expected.clone(), b""),
    ] {
        let all = [&message[..], behind].concat();
        for size in [1000, 16 << 10, 100_000, 2 << 20] {
            for ahead in [0, 1, 1000, 50_000] {
                let (early, late) = all.split_at(ahead);
                let mut input = Input::default();
                fill(&mut input, early);
                let mut wire = Wire::new(late.chunks(size), true);
                let got = read(framing, &mut input, &mut wire);
                let case = format!("{framing:?}, {ahead} bytes ahead, {size} at once");
                assert_eq!(got.end, End::Whole, "{case}");
                // A mebibyte is not to be printed.
                assert!(got.data == expected, "{case}: {} bytes", got.data.len());
                assert_eq!(rest(&mut input, &wire), behind, "{case}");
            }
        }
    }
}

proptest! {
    #[test]
    fn what_was_written_in_chunks_is_read_again(
        pieces in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..300),
            0..20,
        ),
        has_trailers in any::<bool>(),
        behind in proptest::collection::vec(any::<u8>(), 0..40),
        sizes in proptest::collection::vec(1_usize..400, 1..8),
        ahead in 0_usize..1000,
    ) {
        let trailers = has_trailers.then(|| map(&[("x-a", "1"), ("x-b", "2"), ("x-a", "3")]));
        let message = chunked(pieces.iter().map(Vec::as_slice), trailers.as_ref());
        let all = [message, behind.clone()].concat();
        let (early, late) = all.split_at(ahead.min(all.len()));
        let mut input = Input::default();
        fill(&mut input, early);
        let mut wire = Wire::new(cut(late, &sizes), true);
        let got = read(Framing::Chunked, &mut input, &mut wire);
        prop_assert_eq!(got, Got { data: pieces.concat(), trailers, end: End::Whole });
        prop_assert_eq!(rest(&mut input, &wire), behind);
    }

    #[test]
    fn whatever_comes_means_the_same_in_any_pieces(
        tokens in proptest::collection::vec(
            proptest::sample::select(vec![
                "0", "1", "2", "a", "x", ";x", " ", "\r\n", "\r\n", "\r", "\n", "x: 1", ":",
                "1\r\na\r\n", "2\r\nab\r\n", "0\r\n", "0\r\n\r\n",
            ]),
            0..12,
        ),
        sizes in proptest::collection::vec(1_usize..6, 1..8),
    ) {
        let all = tokens.concat();
        let mut once = (Input::default(), Wire::new([all.as_bytes()], true));
        let mut often = (Input::default(), Wire::new(cut(all.as_bytes(), &sizes), true));
        let at_once = read(Framing::Chunked, &mut once.0, &mut once.1);
        let in_pieces = read(Framing::Chunked, &mut often.0, &mut often.1);
        prop_assert_eq!(&at_once.end, &in_pieces.end);
        prop_assert_eq!(&at_once.trailers, &in_pieces.trailers);
        if matches!(at_once.end, End::Malformed(_)) {
            // A piece in front of what is wrong may be gone with it.
            prop_assert!(in_pieces.data.starts_with(&at_once.data));
        } else {
            prop_assert_eq!(&at_once.data, &in_pieces.data);
        }
        if at_once.end == End::Whole {
            prop_assert_eq!(rest(&mut once.0, &once.1), rest(&mut often.0, &often.1));
        }
    }
}
