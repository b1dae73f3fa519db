//! HTTP/1.1 on the wire (RFC 9112), for both sides of the proxy: heads, framing and content.
//!
//! A proxy needs of it what a server or client library hides: interim answers in both directions,
//! the cause of every refusal, how names were spelled, and where exactly a message ended. The
//! grammar of heads is httparse's.

mod content;
mod decode;
mod encode;
mod framing;
mod input;
mod output;
mod spelling;

pub use content::{Content, ContentFailure};
pub use decode::{HeadError, HeadSyntax, RequestHead, ResponseHead};
pub use encode::{Case, chunk, date, last_chunk, request_head, response_head};
pub use framing::{Framing, lasts, of_request, of_response};
pub use input::Input;
pub use output::Output;
pub use spelling::{Reason, Spelling};
