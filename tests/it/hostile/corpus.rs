//! The cases in `tests/hostile`, as they are written there.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What stands in every case of a file unless the case says otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    class: String,
    #[serde(default)]
    peers: Peers,
    case: Vec<Written>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    listener: Option<String>,
    send: String,
    #[serde(default)]
    shut: bool,
    answer: Expected,
    upstream: Vec<Entry>,
    #[serde(default)]
    cut: Vec<String>,
    peers: Option<Peers>,
}

/// How another proxy is judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peers {
    /// Nothing more may arrive than with countersign.
    #[default]
    Same,
    /// One request, written anew and clean, is as good as a refusal.
    Mend,
    /// It is a matter of configuration that others do not have.
    Skip,
}

/// What the caller has to see.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expected {
    /// The final answers, in order.
    pub(crate) status: Vec<u16>,
    /// The word of the last answer, which is countersign's own then.
    pub(crate) reason: Option<String>,
    /// Whether the connection ends with it.
    pub(crate) closed: Option<bool>,
}

/// A request that has to arrive, as it is written: its line alone, or more about it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Entry {
    Line(String),
    Full(Wanted),
}

impl Entry {
    pub(crate) fn wanted(&self) -> Wanted {
        match self {
            Self::Line(request) => Wanted { request: request.clone(), ..Wanted::default() },
            Self::Full(wanted) => wanted.clone(),
        }
    }
}

/// A request that has to arrive.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Method and target.
    pub(crate) request: String,
    pub(crate) content: Option<String>,
    /// Fields with exactly this one value.
    #[serde(default)]
    pub(crate) has: std::collections::BTreeMap<String, String>,
    /// Fields that are not there.
    #[serde(default)]
    pub(crate) lacks: Vec<String>,
}

/// One trick, and what has to come of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) class: String,
    pub(crate) name: String,
    pub(crate) listener: String,
    send: String,
    pub(crate) shut: bool,
    pub(crate) answer: Expected,
    pub(crate) upstream: Vec<Wanted>,
    /// Requests that may arrive in part, but never as a whole.
    pub(crate) cut: Vec<String>,
    pub(crate) peers: Peers,
}

impl Case {
    /// The bytes to send to a proxy that is addressed as `host`.
    pub(crate) fn bytes(&self, host: &str) -> Vec<u8> {
        bytes(&self.send, host)
    }
}

/// Where the data of the tests is.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile")
}

/// All cases of HTTP/1, class by class.
pub(crate) fn all() -> Vec<Case> {
    let files = std::fs::read_dir(directory().join("http1")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| cases(file)).collect()
}

fn cases(path: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(path).unwrap();
    let file: File =
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(path.file_stem().unwrap().to_str(), Some(file.class.as_str()));
    let class = file.class;
    let cases = file.case.into_iter().map(|case| Case {
        class: class.clone(),
        name: case.name,
        listener: case.listener.unwrap_or_else(|| "plain".to_owned()),
        send: case.send,
        shut: case.shut,
        answer: case.answer,
        upstream: case.upstream.iter().map(Entry::wanted).collect(),
        cut: case.cut,
        peers: case.peers.unwrap_or(file.peers),
    });
    cases.collect()
}

/// A text as bytes: each character up to U+00FF is one, `{{host}}` is the address, and `{{x*9}}`
/// nine times what stands before the last asterisk.
pub(crate) fn bytes(text: &str, host: &str) -> Vec<u8> {
    let plain = |text: &str| -> Vec<u8> {
        text.chars().map(|char| u8::try_from(char).expect("one byte per character")).collect()
    };
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (marker, after) = after.split_once("}}").expect("every marker ends");
        bytes.extend(plain(before));
        if marker == "host" {
            bytes.extend(host.as_bytes());
        } else {
            let (what, times) = marker.rsplit_once('*').expect("a marker is host or WHAT*TIMES");
            bytes.extend(plain(what).repeat(times.parse().expect("a number of times")));
        }
        rest = after;
    }
    bytes.extend(plain(rest));
    bytes
}
