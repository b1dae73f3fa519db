//! A caller of HTTP/2 that says what no library would, frame by frame.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::until;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// How long a caller waits whose bytes are not taken: the other side may hold it back.
const HELD_BACK: Duration = Duration::from_secs(5);

/// The most that is kept of what is received on a connection.
const KEPT: usize = 1 << 20;

/// A frame on the wire.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Fields in HPACK: literals that no table remembers (RFC 7541 §6.2.2). One byte per character.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let bytes: Vec<u8> = text.chars().map(|char| u8::try_from(char).unwrap()).collect();
            length(&mut block, bytes.len());
            block.extend(bytes);
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
pub(crate) fn length(block: &mut Vec<u8>, mut number: usize) {
    if number < 127 {
        block.push(u8::try_from(number).unwrap());
        return;
    }
    block.push(127);
    number -= 127;
    while number > 127 {
        block.push(u8::try_from(number % 128).unwrap() | 128);
        number /= 128;
    }
    block.push(u8::try_from(number).unwrap());
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With an answer; the word is there if it is countersign's own.
    Answered(u16, Option<String>),
    Reset(u32),
    /// With the connection.
    Gone,
}

#[derive(Debug, Default)]
struct Received {
    frames: Vec<(u8, u8, u32, Vec<u8>)>,
    kept: usize,
    ended: bool,
}

/// One connection. Closed when dropped.
pub(crate) struct Abuser {
    writing: OwnedWriteHalf,
    received: Arc<Mutex<Received>>,
    reader: Option<JoinHandle<()>>,
    /// What is not read from, if nothing is read.
    _deaf: Option<OwnedReadHalf>,
}

impl Abuser {
    /// Says the preface and `settings`, and reads whatever comes.
    pub(crate) async fn open(address: SocketAddr, settings: &[u8]) -> Self {
        let (reading, writing) = TcpStream::connect(address).await.unwrap().into_split();
        let received: Arc<Mutex<Received>> = Arc::default();
        let reader = Some(tokio::spawn(read(reading, Arc::clone(&received))));
        let mut abuser = Self { writing, received, reader, _deaf: None };
        abuser.preface(settings).await;
        abuser
    }

    /// The same, but never reads anything.
    pub(crate) async fn deaf(address: SocketAddr, settings: &[u8]) -> Self {
        let (reading, writing) = TcpStream::connect(address).await.unwrap().into_split();
        let received = Arc::default();
        let mut abuser = Self { writing, received, reader: None, _deaf: Some(reading) };
        abuser.preface(settings).await;
        abuser
    }

    async fn preface(&mut self, settings: &[u8]) {
        assert!(self.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
        assert!(self.say(&frame(SETTINGS, 0, 0, settings)).await);
    }

    /// True if all of it was taken; false if the other side has ended the connection, or takes
    /// nothing for a while.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(HELD_BACK, self.writing.write_all(bytes)).await, Ok(Ok(())))
    }

    /// True if the other side has ended the connection, or said that it will.
    pub(crate) fn is_refused(&self) -> bool {
        let received = self.received.lock().unwrap();
        received.ended || received.frames.iter().any(|(kind, ..)| *kind == GOAWAY)
    }

    /// Waits until the other side has ended the connection, or said that it will.
    pub(crate) async fn refused(&self) {
        until("the connection is refused", || self.is_refused()).await;
    }

    /// How many streams the other side has reset.
    pub(crate) fn resets(&self) -> usize {
        let received = self.received.lock().unwrap();
        received.frames.iter().filter(|(kind, ..)| *kind == RST_STREAM).count()
    }

    /// Waits until a stream has ended.
    pub(crate) async fn ending(&self, stream: u32) -> Ending {
        let mut ending = None;
        until("the stream ends", || {
            ending = ending_of(&self.received.lock().unwrap(), stream);
            ending.is_some()
        })
        .await;
        ending.unwrap()
    }
}

impl Drop for Abuser {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

async fn read(mut reading: OwnedReadHalf, received: Arc<Mutex<Received>>) {
    loop {
        let mut head = [0; 9];
        if reading.read_exact(&mut head).await.is_err() {
            break;
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        if reading.read_exact(&mut payload).await.is_err() {
            break;
        }
        let mut received = received.lock().unwrap();
        received.kept += payload.len();
        if received.kept > KEPT {
            payload.clear();
        }
        received.frames.push((kind, flags, u32::from_be_bytes(stream), payload));
    }
    received.lock().unwrap().ended = true;
}

fn ending_of(received: &Received, stream: u32) -> Option<Ending> {
    let (mut status, mut content) = (None, Vec::new());
    for (kind, flags, of, payload) in &received.frames {
        match *kind {
            // A 4xx before a reset is an answer as well.
            RST_STREAM if *of == stream && status.is_none() => {
                return Some(Ending::Reset(u32::from_be_bytes(payload[..4].try_into().unwrap())));
            }
            HEADERS if *of == stream => status = status.or(Some(status_of(payload))),
            DATA if *of == stream => content.extend_from_slice(payload),
            _ => {}
        }
        if matches!(*kind, HEADERS | DATA) && *of == stream && flags & END_STREAM != 0 {
            let problem: serde_json::Value = serde_json::from_slice(&content).unwrap_or_default();
            let word = problem["type"].as_str().and_then(|word| word.rsplit(':').next());
            let own = problem["status"].as_u64().and_then(|status| u16::try_from(status).ok());
            let status = own.unwrap_or(status.unwrap_or_default());
            return Some(Ending::Answered(status, word.map(ToOwned::to_owned)));
        }
    }
    received.ended.then_some(Ending::Gone)
}

/// The status, if the static table has it (RFC 7541, Appendix A); else 0. countersign's own answers
/// say it in their content as well.
fn status_of(block: &[u8]) -> u16 {
    let first = block.iter().find(|byte| **byte & 0xe0 != 0x20).copied().unwrap_or_default();
    match first {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        _ => 0,
    }
}
