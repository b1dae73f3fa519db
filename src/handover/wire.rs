//! What the two processes say to each other: frames of one length, each with one socket at most.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// How the new process begins.
pub(super) const HELLO: [u8; 16] = *b"countersign up 1";
/// What the new process says once it serves.
pub(super) const SERVING: u8 = b'G';
/// What the old process answers if it ends now.
pub(super) const ENDING: u8 = b'K';
/// What the old process says if it goes on.
pub(super) const GOING_ON: u8 = b'N';

/// The length of a frame: more than an address has.
const FRAME: usize = 512;
/// What is before the text of a frame: its kind and its length.
const HEAD: usize = 3;

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A listening socket; the text is its address.
    Socket,
    /// The same, of the admin listener.
    Admin,
    /// The same, whose path is to be removed by whoever has it last.
    SocketAndPath,
    /// The socket at which the next upgrade is asked for. Nothing follows.
    Upgrade,
    /// There will be none; the text is why. Nothing follows.
    Refused,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Socket, Self::Admin, Self::SocketAndPath, Self::Upgrade, Self::Refused];

    fn letter(self) -> u8 {
        match self {
            Self::Socket => b'S',
            Self::Admin => b'A',
            Self::SocketAndPath => b'P',
            Self::Upgrade => b'U',
            Self::Refused => b'R',
        }
    }
}

/// A frame that was received.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) socket: Option<OwnedFd>,
}

/// Sends a frame. A text that is too long is cut.
pub(super) fn send(
    mut stream: &UnixStream,
    kind: Kind,
    text: &str,
    socket: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let text = text.as_bytes();
    let text = text.get(..FRAME - HEAD).unwrap_or(text);
    let mut frame = Vec::with_capacity(FRAME);
    frame.push(kind.letter());
    frame.extend(u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    frame.extend(text);
    frame.resize(FRAME, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = socket.as_slice();
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("there is no room for a socket"));
    }
    let frames = [IoSlice::new(&frame)];
    let sent = retry_on_intr(|| sendmsg(stream, &frames, &mut control, SendFlags::NOSIGNAL))?;
    stream.write_all(frame.get(sent..).unwrap_or_default())
}

/// Receives a frame.
pub(super) fn receive(stream: &UnixStream) -> io::Result<Frame> {
    let mut frame = [0; FRAME];
    let (mut read, mut socket) = (0, None);
    while read < FRAME {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let rest = frame.get_mut(read..).unwrap_or_default();
        let mut rest = [IoSliceMut::new(rest)];
        // Where there is a time limit a signal interrupts it, whatever its handler says.
        let message =
            retry_on_intr(|| recvmsg(stream, &mut rest, &mut control, RecvFlags::CMSG_CLOEXEC))?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read += message.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                socket = sockets.last().or(socket);
            }
        }
    }
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "it says something else");
    let [letter, high, low, text @ ..] = frame;
    let kind = Kind::ALL.into_iter().find(|kind| kind.letter() == letter).ok_or_else(odd)?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let text = text.get(..length).ok_or_else(odd)?;
    let text = String::from_utf8(text.to_vec()).map_err(|_| odd())?;
    Ok(Frame { kind, text, socket })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_socket_comes_with_its_address_and_listens_where_it_did() {
        let (one, other) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        send(&one, Kind::Socket, "127.0.0.1:0", Some(listener.as_fd())).unwrap();
        send(&one, Kind::SocketAndPath, "unix:/x", Some(one.as_fd())).unwrap();
        send(&one, Kind::Refused, &"ä".repeat(300), None).unwrap();
        let frame = receive(&other).unwrap();
        assert_eq!((frame.kind, frame.text.as_str()), (Kind::Socket, "127.0.0.1:0"));
        let taken = std::net::TcpListener::from(frame.socket.unwrap());
        drop(listener);
        assert_eq!(taken.local_addr().unwrap(), address);
        let caller = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(taken.accept().unwrap().1, caller.local_addr().unwrap());
        let frame = receive(&other).unwrap();
        assert_eq!((frame.kind, frame.text.as_str()), (Kind::SocketAndPath, "unix:/x"));
        assert!(frame.socket.is_some());
        // Cut in the middle of a letter: said as what it is.
        assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(one);
        // Its other end is still open in a frame that was received and dropped; then it ends.
        drop(frame);
        assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
