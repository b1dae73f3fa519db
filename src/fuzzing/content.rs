//! Content: however it is cut, what is read of it is the same, and it is what a second reader finds.

use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::wire::{Cut, Wire, fill};
use super::{by_name, flags};
use crate::http1::{self, Case, Content, ContentFailure, Framing, Input};

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Whole,
    Truncated,
    Malformed,
}

#[derive(Debug)]
struct Got {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    end: End,
    /// What was not read.
    rest: Vec<u8>,
}

/// Reads content to its end. `ahead` was received with the head.
fn read(framing: Framing, bytes: &[u8], ahead: usize, cut: Cut) -> Got {
    let (ahead, later) = bytes.split_at(ahead.min(bytes.len()));
    let mut input = Input::default();
    fill(&mut input, ahead);
    let mut wire = Wire::new(cut.pieces(later));
    let mut cx = Context::from_waker(Waker::noop());
    let mut content = Content::new(framing);
    let (mut data, mut trailers) = (Vec::new(), None);
    let end = loop {
        let left = content.size_hint();
        match content.poll_frame(&mut input, &mut wire, &mut cx) {
            Poll::Pending => {}
            Poll::Ready(None) => break End::Whole,
            Poll::Ready(Some(Err(ContentFailure::Truncated))) => break End::Truncated,
            Poll::Ready(Some(Err(ContentFailure::Malformed(_)))) => break End::Malformed,
            Poll::Ready(Some(Err(ContentFailure::Read(error)))) => panic!("{error}"),
            Poll::Ready(Some(Ok(frame))) => {
                assert!(trailers.is_none(), "nothing comes behind the trailers");
                match frame.into_data() {
                    Ok(piece) => {
                        let length = u64::try_from(piece.len()).unwrap();
                        assert!(length > 0, "no piece is empty");
                        assert!(left.upper().is_none_or(|most| length <= most), "more than said");
                        data.extend_from_slice(&piece);
                    }
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
        }
    };
    assert_eq!(content.has_ended(), end == End::Whole);
    let again = content.poll_frame(&mut input, &mut wire, &mut cx);
    match end {
        End::Whole => assert!(matches!(again, Poll::Ready(None)), "an end is an end"),
        _ => assert!(matches!(again, Poll::Ready(Some(Err(_)))), "what broke off stays so"),
    }
    let mut rest = input.take_all().to_vec();
    rest.extend(wire.rest());
    Got { data, trailers, end, rest }
}

/// Content in chunks, read in the simplest way there is: data, the trailer section, the length of
/// all. `None` for what is not well-formed or not complete.
fn simply(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>, usize)> {
    let mut data = Vec::new();
    let mut at = 0;
    let end_of_line = |at: usize| {
        let rest = bytes.get(at..)?;
        rest.windows(2).position(|pair| pair == b"\r\n").map(|end| at + end)
    };
    loop {
        let end = end_of_line(at)?;
        let line = std::str::from_utf8(&bytes[at..end]).ok().map_or_else(
            || bytes[at..end].iter().map(|byte| char::from(*byte)).collect::<String>(),
            str::to_owned,
        );
        let size = line.split(';').next()?.trim_end_matches([' ', '\t']);
        if line.contains(|c: char| c.is_ascii_control() && c != '\t')
            || size.is_empty()
            || !size.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return None;
        }
        let size = usize::from_str_radix(size, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        data.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    let trailers = at;
    loop {
        let end = end_of_line(at)?;
        let empty = end == at;
        at = end + 2;
        if empty {
            return Some((data, bytes[trailers..at].to_vec(), at));
        }
    }
}

/// Flags: 1 and 2 the framing, 4 and 8 how much came with the head.
pub fn content(bytes: &[u8]) {
    let Some((flags, bytes)) = flags(bytes) else { return };
    let framing = match flags & 3 {
        2 => Framing::Length(u64::from(flags >> 2) * 7 + 1),
        3 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let ahead = bytes.len() * usize::from(flags >> 2) / 3;
    let whole = read(framing, bytes, bytes.len(), Cut::Whole);
    for cut in Cut::ways(bytes) {
        let cut_up = read(framing, bytes, ahead, cut);
        assert_eq!(whole.end, cut_up.end, "{cut:?}");
        if whole.end == End::Whole {
            assert_eq!(whole.data, cut_up.data, "{cut:?}");
            assert_eq!(whole.trailers, cut_up.trailers, "{cut:?}");
            assert_eq!(whole.rest, cut_up.rest, "{cut:?}");
        } else {
            // The piece before what is wrong may be handed out or not.
            let (one, other) = (&whole.data, &cut_up.data);
            assert!(one.starts_with(other) || other.starts_with(one), "{cut:?}");
        }
    }
    match framing {
        Framing::Chunked => in_chunks(bytes, &whole),
        Framing::Length(length) => {
            let length = usize::try_from(length).unwrap();
            assert_eq!(whole.end == End::Whole, bytes.len() >= length);
            assert_eq!(whole.data, bytes[..length.min(bytes.len())]);
        }
        _ => assert_eq!((whole.end, &whole.data[..]), (End::Whole, bytes)),
    }
}

fn in_chunks(bytes: &[u8], whole: &Got) {
    let simple = simply(bytes);
    if whole.end != End::Whole {
        if let Some((_, trailers, length)) = simple {
            // Refused beyond the grammar: bounds, and trailers, which are not read here.
            assert!(
                trailers != b"\r\n" || length > 1000 || bytes.len() > 1000 || {
                    bytes.split(|byte| *byte == b'\n').any(|line| line.len() > 15)
                }
            );
        }
        return;
    }
    let (data, trailers, length) = simple.expect("what is accepted is well-formed");
    assert_eq!(whole.data, data);
    assert_eq!(whole.rest, bytes[length..], "it ends where it says");
    assert_eq!(whole.trailers.is_some(), trailers != b"\r\n");

    // Written and read again it is the same.
    let mut out = BytesMut::new();
    for piece in data.chunks(5) {
        http1::chunk(&mut out, piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    http1::last_chunk(&mut out, whole.trailers.as_ref(), Case::Title);
    out.extend_from_slice(b"behind");
    let out: Bytes = out.freeze();
    let again = read(Framing::Chunked, &out, 0, Cut::Odd(7));
    assert_eq!((again.end, &again.data), (End::Whole, &whole.data));
    assert_eq!(again.trailers.as_ref().map(by_name), whole.trailers.as_ref().map(by_name));
    assert_eq!(again.rest, b"behind");
}
