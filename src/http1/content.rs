//! Reading content, however it is framed (RFC 9112 §6, §7.1).

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncRead;

use super::framing::Framing;
use super::input::Input;

/// The longest line in front of a chunk, its extensions included.
const CHUNK_LINE: usize = 1 << 10;

/// Everything that is said in chunk extensions and then dropped, per message (RFC 9112 §7.1.1).
const EXTENSIONS: usize = 16 << 10;

/// The most that may follow chunked content.
const TRAILERS: usize = 16 << 10;

/// The most trailers.
const TRAILER_FIELDS: usize = 64;

/// The content of a message, as far as it is still to be read.
#[derive(Debug)]
pub struct Content(State);

#[derive(Debug)]
enum State {
    Ended,
    Length(u64),
    Chunked(Chunked),
    /// All but these trailers was read.
    Trailers(HeaderMap),
    UntilClose,
    /// It broke off: what follows on the connection is not to be believed.
    Failed,
}

#[derive(Debug)]
struct Chunked {
    next: Next,
    /// Room left for chunk extensions.
    extensions: usize,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    /// The line that says how long the next chunk is.
    Size,
    /// So many bytes of a chunk.
    Piece(u64),
    /// The line end behind a chunk.
    LineEnd,
    Trailers,
}

/// Why content broke off.
#[derive(Debug, thiserror::Error)]
pub enum ContentFailure {
    /// Reading failed.
    #[error("reading failed: {0}")]
    Read(#[from] io::Error),
    /// The connection ended before the content.
    #[error("the connection ended before the content")]
    Truncated,
    /// It is not framed as it says.
    #[error("{0}")]
    Malformed(&'static str),
}

impl Content {
    /// Content that is still to be read as a whole.
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Empty | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => {
                State::Chunked(Chunked { next: Next::Size, extensions: EXTENSIONS })
            }
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Gives it up: it never ends.
    pub fn abandon(&mut self) {
        self.0 = State::Failed;
    }

    /// True if all of it was read. Content that broke off never has.
    pub fn has_ended(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    /// How much is still to come.
    pub fn size_hint(&self) -> SizeHint {
        match self.0 {
            State::Ended => SizeHint::with_exact(0),
            State::Length(left) => SizeHint::with_exact(left),
            State::Chunked(_) | State::Trailers(_) | State::UntilClose | State::Failed => {
                SizeHint::default()
            }
        }
    }

    /// The next piece, or the trailers; `None` at the end.
    ///
    /// # Errors
    /// When it breaks off, and ever after: the connection is of no more use.
    pub fn poll_frame(
        &mut self,
        input: &mut Input,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentFailure>>> {
        let polled = ready!(self.poll_next(input, stream, cx));
        match &polled {
            Ok(Some(_)) => {}
            Ok(None) => self.0 = State::Ended,
            Err(_) => self.0 = State::Failed,
        }
        Poll::Ready(polled.transpose())
    }

    fn poll_next(
        &mut self,
        input: &mut Input,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, ContentFailure>> {
        match &mut self.0 {
            State::Ended => Poll::Ready(Ok(None)),
            State::Failed => Poll::Ready(Err(ContentFailure::Malformed("it broke off before"))),
            State::Trailers(trailers) => {
                let trailers = std::mem::take(trailers);
                self.0 = State::Ended;
                Poll::Ready(Ok(Some(Frame::trailers(trailers))))
            }
            State::Length(left) => {
                let piece = ready!(input.poll_piece(stream, cx, *left))?;
                if piece.is_empty() {
                    return Poll::Ready(Err(ContentFailure::Truncated));
                }
                *left -= length_of(&piece);
                if *left == 0 {
                    self.0 = State::Ended;
                }
                Poll::Ready(Ok(Some(Frame::data(piece))))
            }
            State::UntilClose => {
                let piece = ready!(input.poll_piece(stream, cx, u64::MAX))?;
                Poll::Ready(Ok((!piece.is_empty()).then(|| Frame::data(piece))))
            }
            State::Chunked(chunked) => loop {
                if let Next::Piece(left) = &mut chunked.next {
                    let piece = ready!(input.poll_piece(stream, cx, *left))?;
                    if piece.is_empty() {
                        return Poll::Ready(Err(ContentFailure::Truncated));
                    }
                    *left -= length_of(&piece);
                    if *left == 0 {
                        chunked.next = Next::LineEnd;
                        // Whoever has the last piece should know that it is the last one.
                        if let Some(trailers) = chunked.advance(input)? {
                            self.0 = State::after(trailers);
                        }
                    }
                    return Poll::Ready(Ok(Some(Frame::data(piece))));
                }
                match chunked.advance(input)? {
                    Some(trailers) => {
                        self.0 = State::after(trailers);
                        return self.poll_next(input, stream, cx);
                    }
                    None if matches!(chunked.next, Next::Piece(_)) => {}
                    None => {
                        if ready!(input.poll_fill(stream, cx))? == 0 {
                            return Poll::Ready(Err(ContentFailure::Truncated));
                        }
                    }
                }
            },
        }
    }
}

fn length_of(piece: &Bytes) -> u64 {
    u64::try_from(piece.len()).unwrap_or(u64::MAX)
}

impl State {
    /// What is left when all content was read, and these trailers.
    fn after(trailers: HeaderMap) -> Self {
        if trailers.is_empty() { Self::Ended } else { Self::Trailers(trailers) }
    }
}

impl Chunked {
    /// Reads what is between chunks, as far as it is here. Ends with a chunk that begins, or with
    /// the trailers; otherwise more is needed.
    fn advance(&mut self, input: &mut Input) -> Result<Option<HeaderMap>, ContentFailure> {
        loop {
            match self.next {
                Next::Piece(_) => return Ok(None),
                Next::LineEnd => match input.bytes() {
                    [b'\r', b'\n', ..] => {
                        input.skip(2);
                        self.next = Next::Size;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(ContentFailure::Malformed("a chunk is longer than it says")),
                },
                Next::Size => {
                    let bytes = input.bytes();
                    let line = bytes.get(..CHUNK_LINE.min(bytes.len())).unwrap_or_default();
                    let Some(end) = memchr::memchr(b'\n', line) else {
                        if bytes.len() >= CHUNK_LINE {
                            return Err(ContentFailure::Malformed("too long a chunk extension"));
                        }
                        return Ok(None);
                    };
                    let (size, extension) = read_size(line.get(..end).unwrap_or_default())?;
                    self.extensions = self
                        .extensions
                        .checked_sub(extension)
                        .ok_or(ContentFailure::Malformed("too many chunk extensions"))?;
                    input.skip(end + 1);
                    self.next = if size == 0 { Next::Trailers } else { Next::Piece(size) };
                }
                Next::Trailers => {
                    // What nearly always is there: nothing.
                    if input.bytes().starts_with(b"\r\n") {
                        input.skip(2);
                        return Ok(Some(HeaderMap::new()));
                    }
                    let malformed =
                        |_| ContentFailure::Malformed("a line ends in a line feed alone");
                    let length = input.head_length(true).map_err(malformed)?;
                    return match length {
                        Some(length) if length <= TRAILERS => {
                            read_trailers(&input.take(length)).map(Some)
                        }
                        None if input.len() < TRAILERS => Ok(None),
                        _ => Err(ContentFailure::Malformed("too many trailers")),
                    };
                }
            }
        }
    }
}

/// Reads `line`, which has its carriage return still, as the size of a chunk, and says how long the
/// extensions are.
fn read_size(line: &[u8]) -> Result<(u64, usize), ContentFailure> {
    let malformed = ContentFailure::Malformed("a chunk's size is no number");
    let Some((b'\r', line)) = line.split_last() else { return Err(malformed) };
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (number, extension) = line.split_at_checked(digits).unwrap_or_default();
    // Fifteen digits are more than anybody sends, and cannot overflow.
    if number.is_empty() || number.len() > 15 {
        return Err(malformed);
    }
    // Some servers fill the line up with spaces; before an extension they are allowed
    // (RFC 9112 §7.1.1).
    let well_formed = matches!(extension.trim_ascii_start(), [] | [b';', ..]);
    if !well_formed || extension.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(malformed);
    }
    let size = number.iter().fold(0, |size: u64, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        (size << 4) | u64::from(digit)
    });
    Ok((size, extension.len()))
}

fn read_trailers(section: &Bytes) -> Result<HeaderMap, ContentFailure> {
    let malformed = || ContentFailure::Malformed("a trailer is malformed");
    let mut room = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
    let parsed = httparse::parse_headers(section, &mut room);
    let Ok(httparse::Status::Complete((_, parsed))) = parsed else { return Err(malformed()) };
    let mut trailers = HeaderMap::new();
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_maybe_shared(section.slice_ref(field.value))
            .map_err(|_| malformed())?;
        trailers.append(name, value);
    }
    Ok(trailers)
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
