//! Reading heads. The grammar is httparse's; what may follow from a head is decided here.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request};

use super::input::Input;
use super::spelling::{Reason, Spelling};

/// Fields that most heads have fewer of: room for so many is there at once.
const USUAL_FIELDS: usize = 64;

/// How a caller begins who takes us for a server of HTTPS (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How a server of HTTPS answers who does not begin so.
const TLS_ALERT: u8 = 0x15;

/// Room for fields that are added later, so that the map need not grow.
const ADDED: usize = 8;

/// The longest target that a [`Uri`] takes.
const LONGEST_TARGET: usize = u16::MAX as usize - 1;

/// How heads are read.
#[derive(Debug, Clone, Copy)]
pub struct HeadSyntax {
    /// The longest head, in bytes.
    pub max_bytes: usize,
    /// The most fields.
    pub max_fields: usize,
    /// Leave out lines that are no fields, take line feeds for line ends, and such.
    pub lenient: bool,
    /// Remember how names were written.
    pub remember_spelling: bool,
}

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, target, version and fields.
    pub parts: request::Parts,
    /// How the names of the fields were written, if that is remembered.
    pub spelling: Option<Spelling>,
}

/// The head of an answer.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The version: 1.0 or 1.1.
    pub version: Version,
    /// The fields.
    pub headers: HeaderMap,
    /// How the names of the fields were written, if that is remembered.
    pub spelling: Option<Spelling>,
    /// The reason, where it is not the usual one.
    pub reason: Option<Reason>,
}

/// Why bytes are no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// It is longer than allowed, and the first line alone is already.
    TooLongTarget,
    /// It is longer than allowed.
    TooLarge,
    /// It has more fields than allowed.
    TooManyFields,
    /// This is wrong with it.
    Malformed(&'static str),
}

impl Input {
    /// The head of a request, if all of it is here.
    ///
    /// # Errors
    /// When it never can be one.
    pub fn request_head(&mut self, syntax: HeadSyntax) -> Result<Option<RequestHead>, HeadError> {
        // Some callers end their content with a line end that does not belong to it
        // (RFC 9112 §2.2).
        while self.bytes().starts_with(b"\r\n")
            || (syntax.lenient && self.bytes().starts_with(b"\n"))
        {
            let length = if self.bytes().starts_with(b"\n") { 1 } else { 2 };
            self.skip(length);
        }
        if self.bytes().first() == Some(&TLS_HANDSHAKE) {
            // It would wait for us for as long as we wait for a line.
            return Err(HeadError::Malformed("TLS where plain HTTP is spoken"));
        }
        let Some(head) = self.head(syntax)? else { return Ok(None) };
        read_request(&head, syntax).map(Some)
    }

    /// The head of an answer, if all of it is here.
    ///
    /// # Errors
    /// When it never can be one.
    pub fn response_head(&mut self, syntax: HeadSyntax) -> Result<Option<ResponseHead>, HeadError> {
        if self.bytes().first() == Some(&TLS_ALERT) {
            // All that a server under TLS says to a request without it, and no line will follow.
            return Err(HeadError::Malformed("TLS where plain HTTP is spoken"));
        }
        let Some(head) = self.head(syntax)? else { return Ok(None) };
        read_response(&head, syntax).map(Some)
    }

    /// The bytes of a head.
    fn head(&mut self, syntax: HeadSyntax) -> Result<Option<Bytes>, HeadError> {
        let length = self
            .head_length(!syntax.lenient)
            .map_err(|_| HeadError::Malformed("a line ends in a line feed alone"))?;
        match length {
            Some(length) if length <= syntax.max_bytes => Ok(Some(self.take(length))),
            None if self.len() <= syntax.max_bytes => Ok(None),
            _ => {
                let first = self.bytes().get(..syntax.max_bytes).unwrap_or_default();
                let one_line = memchr::memchr(b'\n', first).is_none();
                Err(if one_line { HeadError::TooLongTarget } else { HeadError::TooLarge })
            }
        }
    }
}

/// Runs `parse` with room for as many fields as there are.
fn with_room<'b, T>(
    syntax: HeadSyntax,
    mut parse: impl FnMut(&mut [MaybeUninit<httparse::Header<'b>>]) -> Result<T, HeadError>,
) -> Result<T, HeadError> {
    let mut usual = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    match usual.get_mut(..syntax.max_fields) {
        Some(room) => parse(room),
        None => match parse(&mut usual) {
            Err(HeadError::TooManyFields) => {
                let mut more = Vec::new();
                more.resize_with(syntax.max_fields.min(syntax.max_bytes), MaybeUninit::uninit);
                parse(&mut more)
            }
            parsed => parsed,
        },
    }
}

fn read_request(head: &Bytes, syntax: HeadSyntax) -> Result<RequestHead, HeadError> {
    let mut config = httparse::ParserConfig::default();
    config
        .ignore_invalid_headers_in_requests(syntax.lenient)
        .allow_multiple_spaces_in_request_line_delimiters(syntax.lenient);
    with_room(syntax, |room| {
        let mut parsed = httparse::Request::new(&mut []);
        let status = config.parse_request_with_uninit_headers(&mut parsed, head, room);
        complete(status)?;
        let method = parsed.method.unwrap_or_default();
        let target = parsed.path.unwrap_or_default();
        if target.len() > LONGEST_TARGET {
            return Err(HeadError::TooLongTarget);
        }
        if target.contains('#') {
            return Err(HeadError::Malformed("a fragment in the target"));
        }
        let mut parts = http::Request::new(()).into_parts().0;
        parts.method = Method::from_bytes(method.as_bytes())
            .map_err(|_| HeadError::Malformed("the method is no token"))?;
        parts.uri = Uri::from_maybe_shared(head.slice_ref(target.as_bytes()))
            .map_err(|_| HeadError::Malformed("the target is no target"))?;
        parts.version = version(parsed.version);
        let mut spelling = syntax.remember_spelling.then(Spelling::default);
        parts.headers = fields(head, parsed.headers, syntax, spelling.as_mut())?;
        Ok(RequestHead { parts, spelling })
    })
}

fn read_response(head: &Bytes, syntax: HeadSyntax) -> Result<ResponseHead, HeadError> {
    let mut config = httparse::ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(syntax.lenient)
        .allow_obsolete_multiline_headers_in_responses(syntax.lenient)
        .ignore_invalid_headers_in_responses(syntax.lenient);
    with_room(syntax, |room| {
        let mut parsed = httparse::Response::new(&mut []);
        let status = config.parse_response_with_uninit_headers(&mut parsed, head, room);
        complete(status)?;
        let status = StatusCode::from_u16(parsed.code.unwrap_or_default())
            .map_err(|_| HeadError::Malformed("the status is no status"))?;
        let mut spelling = syntax.remember_spelling.then(Spelling::default);
        let headers = fields(head, parsed.headers, syntax, spelling.as_mut())?;
        let reason = parsed.reason.filter(|said| status.canonical_reason() != Some(*said));
        let reason = reason.map(|said| Reason(head.slice_ref(said.as_bytes())));
        Ok(ResponseHead { status, version: version(parsed.version), headers, spelling, reason })
    })
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

fn complete(parsed: httparse::Result<usize>) -> Result<(), HeadError> {
    use httparse::Error as E;
    let why = match parsed {
        Ok(httparse::Status::Complete(_)) => return Ok(()),
        Ok(httparse::Status::Partial) => "the head ends early",
        Err(E::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(E::HeaderName) => "a field's name is no token",
        Err(E::HeaderValue) => "a field's value has a control character",
        Err(E::NewLine) => "a line end that is none",
        Err(E::Status) => "the status line is none",
        Err(E::Token) => "the first line is no request line",
        Err(E::Version) => "the version is not HTTP/1.0 or HTTP/1.1",
    };
    Err(HeadError::Malformed(why))
}

fn fields(
    head: &Bytes,
    parsed: &[httparse::Header<'_>],
    syntax: HeadSyntax,
    mut spelling: Option<&mut Spelling>,
) -> Result<HeaderMap, HeadError> {
    let mut fields =
        HeaderMap::try_with_capacity(parsed.len() + ADDED).map_err(|_| HeadError::TooManyFields)?;
    for field in parsed {
        let wrong = |_| HeadError::Malformed("a field is malformed");
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| HeadError::Malformed("a field's name is no token"))?;
        let folded = syntax.lenient && memchr::memchr2(b'\r', b'\n', field.value).is_some();
        let value = if folded {
            // A line that goes on is one line (RFC 9112 §5.2).
            let space = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
            HeaderValue::from_maybe_shared(field.value.iter().map(space).collect::<Bytes>())
                .map_err(wrong)?
        } else {
            HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(wrong)?
        };
        if let Some(spelling) = &mut spelling {
            spelling.add(&name, head.slice_ref(field.name.as_bytes()));
        }
        fields.try_append(name, value).map_err(|_| HeadError::TooManyFields)?;
    }
    Ok(fields)
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
