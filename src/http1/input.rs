//! What has been received and not yet used.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

/// How much is read at once where it is not known how much there is.
const SCRATCH: usize = 16 << 10;

/// How much content is read at once, in bytes.
const PIECE: usize = 64 << 10;

thread_local! {
    /// What is read goes here first, and from here to a place that is as large as it needs: a
    /// connection that waits holds no buffer, and the memory that is written to stays in the
    /// processor's cache. Borrowed while a stream is read, so streams do not read through another
    /// `Input`.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Bytes that were received and not yet used.
#[derive(Debug, Default)]
pub struct Input {
    bytes: BytesMut,
    /// How far they were searched for the end of a head.
    searched: usize,
    /// Where the line begins that the search is in.
    line: usize,
    /// So much came last time that there is likely more than is worth copying.
    in_bulk: bool,
}

impl Input {
    /// True if there is nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of them.
    pub fn take_all(&mut self) -> Bytes {
        self.search_anew();
        std::mem::take(&mut self.bytes).freeze()
    }

    /// The first `length` of them, or all there are.
    pub(super) fn take(&mut self, length: usize) -> Bytes {
        if length >= self.bytes.len() {
            return self.take_all();
        }
        self.search_anew();
        self.bytes.split_to(length).freeze()
    }

    /// Drops the first `length` of them.
    pub(super) fn skip(&mut self, length: usize) {
        self.search_anew();
        if length >= self.bytes.len() {
            self.bytes = BytesMut::new();
        } else {
            self.bytes.advance(length);
        }
    }

    /// Reads what is there; 0 at the end.
    ///
    /// # Errors
    /// When reading fails.
    pub fn poll_fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        READ.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(stream).poll_read(cx, &mut read))?;
            self.add(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// A piece of at most `most` bytes, which is more than none; empty at the end.
    ///
    /// # Errors
    /// When reading fails.
    pub(super) fn poll_piece(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        most: u64,
    ) -> Poll<io::Result<Bytes>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if !self.bytes.is_empty() {
            return Poll::Ready(Ok(self.take(most)));
        }
        if self.in_bulk && most > SCRATCH {
            let length = most.min(PIECE);
            let mut piece = BytesMut::with_capacity(length);
            let mut limited = (&mut piece).limit(length);
            let mut reading = std::pin::pin!(stream.read_buf(&mut limited));
            let read = ready!(std::future::Future::poll(reading.as_mut(), cx))?;
            self.in_bulk = read >= SCRATCH;
            // A piece must not keep much more memory than it fills.
            let filled = read > length / 2;
            let piece = if filled { piece.freeze() } else { Bytes::copy_from_slice(&piece) };
            return Poll::Ready(Ok(piece));
        }
        READ.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(stream).poll_read(cx, &mut read))?;
            let filled = read.filled();
            self.in_bulk = filled.len() == SCRATCH;
            let (piece, rest) = filled.split_at_checked(most).unwrap_or((filled, &[]));
            self.add(rest);
            Poll::Ready(Ok(Bytes::copy_from_slice(piece)))
        })
    }

    /// The length of the head, its empty line included, if all of it is here. Each byte is looked at
    /// once, however slowly they come.
    ///
    /// # Errors
    /// With `strict`, when a line ends in a line feed alone: two readers of the same bytes may not
    /// agree on what it ends (RFC 9112 §2.2).
    pub(super) fn head_length(&mut self, strict: bool) -> Result<Option<usize>, BareLineFeed> {
        let bytes = &self.bytes[..];
        while let Some(found) =
            memchr::memchr(b'\n', bytes.get(self.searched..).unwrap_or_default())
        {
            let end = self.searched + found;
            let line = bytes.get(self.line..end).unwrap_or_default();
            if strict && line.last() != Some(&b'\r') {
                return Err(BareLineFeed);
            }
            if line.is_empty() || line == b"\r" {
                return Ok(Some(end + 1));
            }
            (self.searched, self.line) = (end + 1, end + 1);
        }
        self.searched = bytes.len();
        Ok(None)
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.bytes.is_empty() {
            // As much memory as it takes and no more.
            self.bytes = BytesMut::from(bytes);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn search_anew(&mut self) {
        (self.searched, self.line) = (0, 0);
    }
}

/// A line ends in a line feed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BareLineFeed;

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

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

    /// Sizes around those at which reading changes.
    const SIZES: &[usize] =
        &[1, 2, 1000, SCRATCH - 1, SCRATCH, SCRATCH + 1, PIECE - 1, PIECE, PIECE + 1, usize::MAX];

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn fill(input: &mut Input, stream: &mut &[u8]) -> usize {
        let filled = input.poll_fill(stream, &mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(filled)) = filled else { panic!("not filled: {filled:?}") };
        filled
    }

    fn piece(input: &mut Input, stream: &mut &[u8], most: usize) -> Bytes {
        let most = u64::try_from(most).unwrap();
        let piece = input.poll_piece(stream, &mut Context::from_waker(Waker::noop()), most);
        let Poll::Ready(Ok(piece)) = piece else { panic!("no piece: {piece:?}") };
        piece
    }

    fn filled(bytes: &[u8]) -> Input {
        let (mut input, mut stream) = (Input::default(), bytes);
        while !stream.is_empty() {
            fill(&mut input, &mut stream);
        }
        input
    }

    #[test]
    fn what_is_read_comes_behind_what_is_there() {
        let mut input = Input::default();
        assert!(input.is_empty());
        for (bytes, all) in [("he", "he"), ("l", "hel"), ("", "hel"), ("lo", "hello")] {
            assert_eq!(fill(&mut input, &mut bytes.as_bytes()), bytes.len(), "{bytes:?}");
            assert_eq!(input.bytes(), all.as_bytes(), "{bytes:?}");
            assert_eq!((input.len(), input.is_empty()), (all.len(), false), "{bytes:?}");
        }
        assert_eq!(input.take_all(), "hello");
        assert!(input.is_empty());
        assert_eq!(fill(&mut input, &mut &b""[..]), 0);
        assert!(input.take_all().is_empty());
    }

    #[test]
    fn much_is_read_in_parts() {
        let expected = sample(2 * SCRATCH + 5);
        let (mut input, mut stream) = (Input::default(), &expected[..]);
        for part in [SCRATCH, SCRATCH, 5, 0, 0] {
            assert_eq!(fill(&mut input, &mut stream), part, "{} to come", stream.len());
        }
        assert!(input.take_all() == expected);
    }

    #[test]
    fn nothing_is_lost_when_reading_has_to_wait_or_fails() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut waiting, theirs) = tokio::io::duplex(64);
        let mut input = filled(b"hello");
        assert!(input.poll_fill(&mut waiting, &mut cx).is_pending());
        assert!(matches!(input.poll_fill(&mut Broken, &mut cx), Poll::Ready(Err(_))));
        // What is there comes first.
        let got = input.poll_piece(&mut waiting, &mut cx, 3);
        assert!(matches!(&got, Poll::Ready(Ok(piece)) if piece == "hel"), "{got:?}");
        let got = input.poll_piece(&mut Broken, &mut cx, u64::MAX);
        assert!(matches!(&got, Poll::Ready(Ok(piece)) if piece == "lo"), "{got:?}");
        for most in SIZES {
            let wanted = u64::try_from(*most).unwrap();
            assert!(input.poll_piece(&mut waiting, &mut cx, wanted).is_pending(), "{most}");
            let got = input.poll_piece(&mut Broken, &mut cx, wanted);
            assert!(matches!(got, Poll::Ready(Err(_))), "{most}: {got:?}");
            assert!(input.is_empty(), "{most}");
        }
        drop(theirs);
        assert!(matches!(input.poll_fill(&mut waiting, &mut cx), Poll::Ready(Ok(0))));
    }

    #[test]
    fn a_piece_is_never_larger_than_asked_for() {
        let expected = sample(3 * PIECE + 7);
        for most in SIZES {
            // None of it, some of it, or all of it was read before.
            for ahead in [0, 1, 999, SCRATCH, expected.len()] {
                let (early, mut stream) = expected.split_at(ahead);
                let mut input = filled(early);
                let mut all = Vec::new();
                loop {
                    let piece = piece(&mut input, &mut stream, *most);
                    if piece.is_empty() {
                        break;
                    }
                    assert!(piece.len() <= *most, "{} of {most} bytes", piece.len());
                    all.extend_from_slice(&piece);
                }
                assert!(all == expected, "{most} at once, {ahead} ahead: {} bytes", all.len());
                assert!(input.is_empty() && stream.is_empty(), "{most} at once, {ahead} ahead");
            }
        }
    }

    #[test]
    fn what_is_more_than_was_asked_for_is_kept() {
        let (mut input, mut stream) = (Input::default(), &b"hello world"[..]);
        assert_eq!(piece(&mut input, &mut stream, 5), "hello");
        assert_eq!(input.bytes(), b" world");
        assert!(stream.is_empty());
        let mut stream = &b"!"[..];
        assert_eq!(piece(&mut input, &mut stream, 1), " ");
        assert_eq!(piece(&mut input, &mut stream, 100), "world");
        assert_eq!(stream, b"!");
        assert_eq!(piece(&mut input, &mut stream, 100), "!");
        assert_eq!(piece(&mut input, &mut stream, 100), "");
    }

    #[test]
    fn no_more_than_asked_for_is_read_of_large_content() {
        let expected = sample(2 * PIECE);
        for (most, length) in
            [(SCRATCH + 1, SCRATCH + 1), (PIECE, PIECE), (PIECE + 1, PIECE), (usize::MAX, PIECE)]
        {
            let (mut input, mut stream) = (Input::default(), &expected[..]);
            input.in_bulk = true;
            let piece = piece(&mut input, &mut stream, most);
            assert_eq!(piece.len(), length, "{most}");
            assert!(piece == expected[..length], "{most}");
            assert!(input.is_empty(), "{most}");
            assert_eq!(stream.len(), expected.len() - length, "{most}");
        }
    }

    #[test]
    fn what_comes_slowly_takes_no_more_memory_than_it_needs() {
        let expected = sample(3 * SCRATCH);
        let (mut input, mut stream) = (Input::default(), &expected[..]);
        let first = piece(&mut input, &mut stream, usize::MAX);
        assert!(first == expected[..SCRATCH] && input.in_bulk, "so much came that there is more");
        assert!(piece(&mut input, &mut stream, usize::MAX) == expected[SCRATCH..]);
        assert!(input.in_bulk);
        let mut slow = &b"slow"[..];
        assert_eq!(piece(&mut input, &mut slow, usize::MAX), "slow");
        assert!(!input.in_bulk, "the next one is read into no buffer of its own");
    }

    #[test]
    fn bytes_are_taken_and_skipped_from_the_front() {
        for length in 0..8 {
            let first = &b"hello"[..length.min(5)];
            let rest = &b"hello"[length.min(5)..];
            let mut input = filled(b"hello");
            assert_eq!(input.take(length), first, "take {length}");
            assert_eq!(input.bytes(), rest, "take {length}");
            let mut input = filled(b"hello");
            input.skip(length);
            assert_eq!(input.bytes(), rest, "skip {length}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_comes() {
        for (head, strict) in [
            ("\r\n", true),
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\na: b\r\n\r\n", true),
            ("a\rb\r\r\n\r\r\n\r\n", true),
            ("\n", false),
            ("GET / HTTP/1.1\n\n", false),
            ("GET / HTTP/1.1\r\na: b\n\r\n", false),
            ("GET / HTTP/1.1\na: b\r\n\n", false),
        ] {
            for behind in ["", "\r\n\r\n", "hello\n\n"] {
                let all = format!("{head}{behind}").into_bytes();
                for asked in [true, false].into_iter().filter(|asked| strict || !asked) {
                    for cut in 0..=all.len() {
                        let case = format!("{head:?} and {behind:?} in two at {cut}");
                        let (first, mut second) = all.split_at(cut);
                        let mut input = filled(first);
                        let early = (cut >= head.len()).then_some(head.len());
                        assert_eq!(input.head_length(asked), Ok(early), "{case}");
                        fill(&mut input, &mut second);
                        assert_eq!(input.head_length(asked), Ok(Some(head.len())), "{case}");
                        // It is not lost by having been found.
                        assert_eq!(input.head_length(asked), Ok(Some(head.len())), "{case}");
                    }
                    let mut input = Input::default();
                    for (at, byte) in all.iter().enumerate() {
                        fill(&mut input, &mut &[*byte][..]);
                        let found = (at + 1 >= head.len()).then_some(head.len());
                        let case = format!("{head:?} and {behind:?}, byte {at}");
                        assert_eq!(input.head_length(asked), Ok(found), "{case}");
                        if found.is_none() {
                            assert_eq!(input.searched, input.len(), "{case}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_line_feed_alone_is_seen_as_soon_as_it_comes() {
        for text in ["\n", "a\n", "a\r\nb\n", "a\r\n\n", "\r\r\n\n", "a\r \n"] {
            let mut input = Input::default();
            for (at, byte) in text.bytes().enumerate() {
                fill(&mut input, &mut &[byte][..]);
                let expected = if at + 1 < text.len() { Ok(None) } else { Err(BareLineFeed) };
                assert_eq!(input.head_length(true), expected, "byte {at} of {text:?}");
            }
            assert_eq!(filled(text.as_bytes()).head_length(true), Err(BareLineFeed), "{text:?}");
            // Behind a head, it is none of the head's.
            let mut behind = filled(format!("x\r\n\r\n{text}").as_bytes());
            assert_eq!(behind.head_length(true), Ok(Some(5)), "{text:?}");
        }
    }

    #[test]
    fn the_search_begins_anew_behind_what_was_used() {
        let mut input = filled(b"a: 1\r\n\r\nhello\r\nb\r\n\r\nc");
        assert_eq!(input.head_length(true), Ok(Some(8)));
        assert_eq!(input.take(8), "a: 1\r\n\r\n");
        assert_eq!(input.head_length(true), Ok(Some(12)));
        assert_eq!(piece(&mut input, &mut &b""[..], 5), "hello");
        // What was found before is somewhere else now.
        assert_eq!(input.head_length(true), Ok(Some(2)));
        input.skip(2);
        assert_eq!(input.head_length(true), Ok(Some(5)));
        input.skip(5);
        assert_eq!(input.head_length(true), Ok(None));
        assert_eq!(input.take_all(), "c");
        assert_eq!(input.head_length(true), Ok(None));
        fill(&mut input, &mut &b"\r\n"[..]);
        assert_eq!(input.head_length(true), Ok(Some(2)));
    }
}
