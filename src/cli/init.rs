//! `countersign init`: a starter configuration, and what to do with it.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use super::output::{Failure, print, say};
use crate::config::{self, starter};

pub(super) fn init(kind: &str) -> Result<ExitCode, Failure> {
    let text = starter::starter(kind).unwrap_or_default();
    print(text)?;
    if std::io::stdout().is_terminal() {
        say(format!("Save it: countersign init {kind} > countersign.toml"));
    }
    say(next(text));
    Ok(ExitCode::SUCCESS)
}

/// The next steps. Standard output has the file and nothing else.
fn next(text: &str) -> String {
    let config = config::load(text, &|_| None).config;
    let secrets = config.map(|config| config.secrets()).unwrap_or_default();
    let mut places: Vec<String> = secrets.iter().map(ToString::to_string).collect();
    places.sort();
    places.dedup();
    format!(
        "Next: put your own values in; provide the {}; then countersign check --live, and \
         countersign run",
        places.join(" and the ")
    )
}
