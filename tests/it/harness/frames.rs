//! An upstream that speaks HTTP/2 frame by frame, for what no library would say.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status: 200`, by its number in the static table of RFC 7541.
const OK: [u8; 1] = [0x88];

/// Error codes of RFC 9113 §7.
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;

/// One connection.
pub(crate) struct Frames {
    stream: TcpStream,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frames {
    /// Takes the preface and says ours; `None` if the other side goes away.
    pub(crate) async fn accept(mut stream: TcpStream) -> Option<Self> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.ok()?;
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Self { stream };
        frames.write(SETTINGS, 0, 0, &[]).await;
        Some(frames)
    }

    /// The stream of the next request, once all of it is there; `None` when there are no more.
    pub(crate) async fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.read().await?;
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await,
                PING if frame.flags & ACK == 0 => self.write(PING, ACK, 0, &frame.payload).await,
                HEADERS | DATA if frame.flags & END_STREAM != 0 => return Some(frame.stream),
                _ => {}
            }
        }
    }

    /// Answers 200 without content.
    pub(crate) async fn answer(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS | END_STREAM, stream, &OK).await;
    }

    /// Begins an answer with content, of which there is more to come.
    pub(crate) async fn begin(&mut self, stream: u32, content: &[u8]) {
        self.write(HEADERS, END_HEADERS, stream, &OK).await;
        self.write(DATA, 0, stream, content).await;
    }

    /// Ends a stream with an error.
    pub(crate) async fn reset(&mut self, stream: u32, error: u32) {
        self.write(RST_STREAM, 0, stream, &error.to_be_bytes()).await;
    }

    /// Says that nothing after the stream `last` was or will be looked at.
    pub(crate) async fn go_away(&mut self, last: u32) {
        let no_error = 0_u32;
        let payload = [last.to_be_bytes(), no_error.to_be_bytes()].concat();
        self.write(GOAWAY, 0, 0, &payload).await;
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).await.ok()?;
        // The first bit is reserved.
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Some(Frame { kind, flags, stream, payload })
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        // Who has had enough may be gone.
        let _ = self.stream.write_all(&frame).await;
    }
}
