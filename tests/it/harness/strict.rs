//! An upstream that believes nothing: it reads requests with a strict parser of its own, shared with
//! nobody, and says in sentences what is wrong with what a proxy sends it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::until;
use super::upstream::Upstream;

/// The most that is kept of what a connection sends without making a request of it.
const LONGEST: usize = 4 << 20;

/// Fields that concern one connection only (RFC 9110 §7.6.1), or begin another protocol.
const HOP_BY_HOP: [&str; 8] = [
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// What must hold for every request.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Each of these fields is there once, with this value. Names in lower case.
    pub(crate) credentials: Vec<(String, String)>,
    /// The path that none may lead out of.
    pub(crate) base: String,
    /// The path that none may lead to.
    pub(crate) closed: String,
    /// The path where the handshake of a WebSocket may arrive.
    pub(crate) websocket: String,
    /// Whatever the RFCs leave to a proxy is its own affair: to say whether its connection lasts, to
    /// write lengths and codings as the caller did, to speak HTTP/1.0, to write the target in
    /// absolute form, and to leave control characters in values that end no line.
    pub(crate) lax: bool,
}

/// A request as it was on the wire. Texts are one character per byte.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrived {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// False if the connection ended before the request did.
    pub(crate) complete: bool,
    /// What the parser found to be wrong.
    odd: Vec<String>,
    /// What it found to be right, but not the only way to write it.
    loose: Vec<String>,
}

impl Arrived {
    /// Method and target.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// All values of a field; its name in lower case.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter(|(written, _)| written.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect()
    }

    /// Everything that is wrong with it, received by a server that is called `host`.
    pub(crate) fn violations(&self, rules: &Rules, host: &str) -> Vec<String> {
        let mut found = self.odd.clone();
        if !rules.lax {
            found.extend(self.loose.iter().cloned());
        }
        if self.values("host") != [host] {
            found.push(format!("Host is {:?} and not {host:?} once", self.values("host")));
        }
        for (name, value) in &rules.credentials {
            if self.values(name) != [value] {
                found.push(format!("{name} is not exactly ours: {:?}", self.values(name)));
            }
            let twins = self.fields.iter().filter(|(written, _)| fold(written) == *name);
            for (twin, _) in twins.filter(|(written, _)| !written.eq_ignore_ascii_case(name)) {
                found.push(format!("a twin of {name}: {twin}"));
            }
        }
        let absolute = self.target.strip_prefix("http://").filter(|_| rules.lax);
        let target = match absolute.and_then(|target| target.strip_prefix(host)) {
            Some(target) => target,
            None => self.target.as_str(),
        };
        let websocket = path_of(target) == rules.websocket;
        for (name, value) in &self.fields {
            let name = name.to_ascii_lowercase();
            let value = value.to_ascii_lowercase();
            let own = rules.lax && matches!(value.as_str(), "close" | "keep-alive");
            let allowed = match name.as_str() {
                "connection" => own || (websocket && value == "upgrade"),
                "upgrade" => websocket && value == "websocket",
                name => !HOP_BY_HOP.contains(&name),
            };
            if !allowed {
                found.push(format!("a hop-by-hop field: {name}: {value}"));
            }
        }
        for (name, _) in &self.trailers {
            let folded = fold(name);
            let credential = rules.credentials.iter().any(|(name, _)| *name == folded);
            let frames = matches!(folded.as_str(), "host" | "transfer-encoding" | "connection")
                || folded.starts_with("content-")
                || HOP_BY_HOP.contains(&folded.as_str());
            if credential || frames {
                found.push(format!("a trailer that must not be one: {name}"));
            }
        }
        found.extend(where_it_leads(path_of(target), rules));
        found
    }
}

fn fold(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// Whether one of the ways in which servers read a path leads it astray.
fn where_it_leads(path: &str, rules: &Rules) -> Option<String> {
    let inside = |path: &str, base: &str| {
        path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_closed = |read: &str| {
        // Whether case counts is for whoever configures it to know.
        inside(read, &rules.closed)
            || (!rules.lax && inside(&read.to_ascii_lowercase(), &rules.closed))
    };
    if !inside(path, &rules.base) {
        return Some(format!("the path {path:?} is not below {:?}", rules.base));
    }
    for reading in readings(path) {
        match reading {
            None => return Some(format!("{path:?} can be read as leading above the root")),
            Some(read) if !inside(&read, &rules.base) => {
                return Some(format!("{path:?} can be read as {read:?}"));
            }
            Some(read) if is_closed(&read) => {
                return Some(format!("{path:?} can be read as {read:?}, which is closed"));
            }
            Some(_) => {}
        }
    }
    None
}

/// A path as careful and careless servers read it: decoded up to three times, backslashes as
/// slashes or not, parameters cut off or not, empty segments counted or not. `None` for more `..`
/// than there are segments.
fn readings(path: &str) -> Vec<Option<String>> {
    let mut decoded = vec![path.to_owned()];
    for layer in 0..3 {
        decoded.push(percent_decoded(&decoded[layer]));
    }
    let mut readings = Vec::new();
    for text in &decoded {
        for choices in 0..8 {
            let (backslashes, parameters, empty) =
                (choices & 1 > 0, choices & 2 > 0, choices & 4 > 0);
            let text = if backslashes { text.replace('\\', "/") } else { text.clone() };
            let segments = text.split('/').skip(1).map(|segment| match segment.split_once(';') {
                Some((name, _)) if parameters => name,
                _ => segment,
            });
            readings.push(resolved(segments, empty));
        }
    }
    readings
}

fn resolved<'s>(segments: impl Iterator<Item = &'s str>, empty: bool) -> Option<String> {
    let mut stack = Vec::new();
    for segment in segments {
        match segment {
            "." => {}
            "" if !empty => {}
            ".." => {
                stack.pop()?;
            }
            name => stack.push(name),
        }
    }
    Some(format!("/{}", stack.join("/")))
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = rest.get(1..3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        if let ('%', Some(digits)) = (first, digits) {
            decoded.push(char::from(u8::from_str_radix(digits, 16).unwrap()));
            rest = &rest[3..];
        } else {
            decoded.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    decoded
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Something that was read, and what is behind it; `None` if it is not all here.
pub(crate) type Read<'b, T> = Result<Option<(T, &'b [u8])>, String>;

/// One line.
fn line(bytes: &[u8]) -> Read<'_, &[u8]> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
    let Some((b'\r', line)) = line.split_last() else {
        return Err(format!("a line feed alone ends {:?}", latin1(line)));
    };
    if line.contains(&b'\r') {
        return Err(format!("a carriage return alone in {:?}", latin1(line)));
    }
    if line.contains(&0) {
        return Err(format!("a NUL in {:?}", latin1(line)));
    }
    Ok(Some((line, rest)))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// Reads field lines up to the empty one.
fn fields<'b>(mut bytes: &'b [u8], loose: &mut Vec<String>) -> Read<'b, Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let Some((line, rest)) = line(bytes)? else { return Ok(None) };
        bytes = rest;
        if line.is_empty() {
            return Ok(Some((fields, bytes)));
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err(format!("a line without a colon: {:?}", latin1(line)));
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) {
            return Err(format!("a field's name is no token: {:?}", latin1(name)));
        }
        if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            loose.push(format!("a control character in {:?}", latin1(line)));
        }
        fields.push((latin1(name), latin1(value.trim_ascii())));
    }
}

/// Reads a head; behind it is the content.
fn head(bytes: &[u8]) -> Read<'_, Arrived> {
    let Some((first, rest)) = line(bytes)? else { return Ok(None) };
    let parts: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(format!("no request line: {:?}", latin1(first)));
    };
    let plain = |byte: &u8| *byte > b' ' && *byte != 127;
    if !is_token(method) || !target.iter().all(plain) {
        return Err(format!("no request line: {:?}", latin1(first)));
    }
    let (mut odd, mut loose) = (Vec::new(), Vec::new());
    let Some((fields, rest)) = fields(rest, &mut loose)? else { return Ok(None) };
    match version {
        b"HTTP/1.1" => {}
        b"HTTP/1.0" => loose.push("the version is 1.0".to_owned()),
        _ => odd.push(format!("the version is {:?}", latin1(version))),
    }
    if target.contains(&b'#') {
        odd.push("the target has a fragment".to_owned());
    }
    let (method, target) = (latin1(method), latin1(target));
    Ok(Some((Arrived { method, target, fields, odd, loose, ..Arrived::default() }, rest)))
}

/// A request, if all of it is here, and what is behind it.
///
/// # Errors
/// With what makes it none, whatever follows.
pub(crate) fn read(bytes: &[u8]) -> Read<'_, Arrived> {
    let Some((mut request, rest)) = head(bytes)? else { return Ok(None) };
    let codings = request.values("transfer-encoding").join(",");
    let lengths = request.values("content-length").join(",");
    let rest = if !codings.is_empty() {
        if !codings.eq_ignore_ascii_case("chunked") {
            return Err(format!("{}: Transfer-Encoding is {codings:?}", request.line()));
        }
        if codings != "chunked" {
            request.loose.push(format!("Transfer-Encoding is {codings:?}"));
        }
        if !lengths.is_empty() {
            request.odd.push("it is framed in two ways".to_owned());
        }
        let Some(rest) = chunks(&mut request, rest)? else { return Ok(None) };
        rest
    } else if lengths.is_empty() {
        rest
    } else {
        let wrong = format!("Content-Length is {lengths:?}");
        let digits = lengths.bytes().all(|byte| byte.is_ascii_digit());
        let length: Option<usize> = lengths.parse().ok().filter(|_| digits);
        let length = length.ok_or(format!("{}: {wrong}", request.line()))?;
        if length.to_string() != lengths {
            request.loose.push(wrong);
        }
        let Some((content, rest)) = rest.split_at_checked(length) else { return Ok(None) };
        request.content = content.to_vec();
        rest
    };
    request.complete = true;
    Ok(Some((request, rest)))
}

fn chunks<'b>(request: &mut Arrived, mut bytes: &'b [u8]) -> Result<Option<&'b [u8]>, String> {
    loop {
        let Some((size, rest)) = line(bytes)? else { return Ok(None) };
        let digits = latin1(size);
        let line_of_request = request.line();
        let wrong = || format!("{line_of_request}: a chunk of the size {digits:?}");
        if digits.is_empty() || digits.len() > 8 || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err(wrong());
        }
        let size = usize::from_str_radix(&digits, 16).map_err(|_| wrong())?;
        if size == 0 {
            let Some((trailers, rest)) = fields(rest, &mut request.loose)? else {
                return Ok(None);
            };
            request.trailers = trailers;
            return Ok(Some(rest));
        }
        let Some((chunk, rest)) = rest.split_at_checked(size) else { return Ok(None) };
        if rest.len() < 2 {
            return Ok(None);
        }
        let Some(rest) = rest.strip_prefix(b"\r\n") else {
            return Err(format!("{}: a chunk is longer than it says", request.line()));
        };
        request.content.extend_from_slice(chunk);
        bytes = rest;
    }
}

/// What has been received.
#[derive(Debug, Default)]
struct Record {
    arrived: Vec<Arrived>,
    violations: Vec<String>,
    /// Connections in the middle of a request or its answer.
    busy: usize,
    most_busy: usize,
}

/// The server. It answers 200, with as much content as a target that ends in `size=N` asks for; one
/// that ends in `hold` it never answers. Stops when dropped.
pub(crate) struct Strict {
    upstream: Upstream,
    record: Arc<Mutex<Record>>,
}

impl Strict {
    pub(crate) async fn start(rules: Rules) -> Self {
        let record: Arc<Mutex<Record>> = Arc::default();
        let for_all = Arc::clone(&record);
        let upstream = Upstream::raw(move |stream| {
            let (rules, record) = (rules.clone(), Arc::clone(&for_all));
            async move {
                let host = stream.local_addr().unwrap().to_string();
                let mut connection = Connection { rules, host, record, is_busy: false };
                // How it went is for the other side to tell.
                let _ = connection.serve(stream).await;
                connection.busy(false);
            }
        })
        .await;
        Self { upstream, record }
    }

    /// How it is called.
    pub(crate) fn host(&self) -> String {
        self.upstream.address().to_string()
    }

    /// What has arrived since the last time, in order.
    pub(crate) fn take(&self) -> Vec<Arrived> {
        std::mem::take(&mut self.record.lock().unwrap().arrived)
    }

    /// What was wrong since the last time.
    pub(crate) fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.record.lock().unwrap().violations)
    }

    /// Requests in flight.
    #[cfg(target_os = "linux")]
    pub(crate) fn in_flight(&self) -> usize {
        self.record.lock().unwrap().busy
    }

    /// The most requests in flight at once.
    #[cfg(target_os = "linux")]
    pub(crate) fn most_in_flight(&self) -> usize {
        self.record.lock().unwrap().most_busy
    }

    /// Waits until no request is in flight.
    pub(crate) async fn idle(&self) {
        until("the upstream is idle", || self.record.lock().unwrap().busy == 0).await;
    }
}

struct Connection {
    rules: Rules,
    host: String,
    record: Arc<Mutex<Record>>,
    is_busy: bool,
}

impl Connection {
    fn busy(&mut self, is_busy: bool) {
        if self.is_busy != is_busy {
            self.is_busy = is_busy;
            let mut record = self.record.lock().unwrap();
            record.busy = if is_busy { record.busy + 1 } else { record.busy - 1 };
            record.most_busy = record.most_busy.max(record.busy);
        }
    }

    fn violation(&self, what: String) {
        self.record.lock().unwrap().violations.push(what);
    }

    fn add(&self, request: Arrived) {
        let line = request.line();
        for wrong in request.violations(&self.rules, &self.host) {
            self.violation(format!("{line}: {wrong}"));
        }
        self.record.lock().unwrap().arrived.push(request);
    }

    async fn serve(&mut self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut bytes: Vec<u8> = Vec::new();
        let mut asked_for_content = false;
        loop {
            let parsed = match read(&bytes) {
                Ok(parsed) => parsed.map(|(request, rest)| (request, rest.len())),
                Err(wrong) => {
                    self.violation(wrong);
                    return Ok(());
                }
            };
            if let Some((request, behind)) = parsed {
                let target = request.target.clone();
                let without_content = request.method == "HEAD";
                bytes.drain(..bytes.len() - behind);
                if behind > 0 {
                    let line = request.line();
                    let what = format!("{line}: behind it came {:?}", latin1(&bytes));
                    self.violation(what);
                }
                self.add(request);
                if target.ends_with("hold") {
                    if stream.read(&mut [0]).await? > 0 {
                        self.violation(format!("{target}: something came behind it"));
                    }
                    return Ok(());
                }
                answer(&mut stream, &target, without_content).await?;
                asked_for_content = false;
                self.busy(!bytes.is_empty());
                continue;
            }
            if !asked_for_content
                && let Ok(Some((request, _))) = head(&bytes)
                && !request.values("expect").is_empty()
            {
                asked_for_content = true;
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            if bytes.len() > LONGEST {
                self.violation("a request without end".to_owned());
                return Ok(());
            }
            let ended = !matches!(stream.read_buf(&mut bytes).await, Ok(read) if read > 0);
            self.busy(!bytes.is_empty() && !ended);
            if ended {
                match head(&bytes) {
                    Ok(Some((request, _))) => self.add(request),
                    _ if bytes.is_empty() => {}
                    _ => self.violation(format!("a head breaks off: {:?}", latin1(&bytes))),
                }
                return Ok(());
            }
        }
    }
}

async fn answer(
    stream: &mut TcpStream,
    target: &str,
    without_content: bool,
) -> std::io::Result<()> {
    let size = target.rsplit_once("size=").and_then(|(_, size)| size.parse().ok());
    let length: usize = size.unwrap_or(4);
    // In one piece: the other side's answer waits for the second of two.
    let mut piece = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    let mut left = if without_content { 0 } else { length };
    loop {
        let more = left.min(1 << 14);
        piece.resize(piece.len() + more, b'x');
        stream.write_all(&piece).await?;
        left -= more;
        if left == 0 {
            return Ok(());
        }
        piece.clear();
    }
}
