//! Finding and reading the configuration file.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::hint;
use super::output::{Failure, say};
use crate::app::{Origin, StartError};
use crate::config::problem::{Report, any_error};
use crate::config::{Config, Loaded, load_with_process_environment};
use crate::credential::store::open::OpenError;
use crate::stamp::Stamp;

/// A configuration text and what came of it.
pub(super) struct Source {
    /// What the text is called.
    pub(super) name: String,
    text: String,
    /// What came of it.
    pub(super) loaded: Loaded,
    origin: Origin,
}

impl Source {
    /// Reads the configuration at `path`, or where it usually is.
    pub(super) fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let (name, text, origin) = match path {
            Some(path) if path == Path::new("-") => {
                let mut text = String::new();
                let read = std::io::stdin().lock().read_to_string(&mut text);
                read.map_err(|error| {
                    Failure::configuration(format!("standard input cannot be read: {error}"))
                })?;
                ("standard input".to_owned(), text, Origin::StandardInput)
            }
            Some(path) => read(path)?,
            None => read(&find()?)?,
        };
        let loaded = load_with_process_environment(&text);
        Ok(Self { name, text, loaded, origin })
    }

    /// Where to read it again.
    pub(super) fn origin(&mut self) -> Origin {
        std::mem::take(&mut self.origin)
    }

    /// Every problem, as a person reads it; empty if there is none.
    pub(super) fn report(&self) -> String {
        Report { name: &self.name, text: &self.text, loaded: &self.loaded }.to_string()
    }

    /// The configuration. Problems are written to standard error.
    pub(super) fn config(self) -> Result<Config, Failure> {
        let report = self.report();
        if !report.is_empty() {
            say(report.trim_end());
        }
        match self.loaded.config {
            Some(config) if !any_error(&self.loaded.problems) => Ok(config),
            _ => Err(Failure::silent(2)),
        }
    }
}

/// Why a program could not start, with the status that fits.
pub(super) fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Secrets(errors) => {
            let mut message = "secrets cannot be read".to_owned();
            for error in &errors {
                let _ = write!(message, "\n  {}: {}", error.reference, error.reason);
            }
            Failure::configuration(message).hint(hint::secrets(&errors))
        }
        StartError::Store(error @ (OpenError::InUse(_) | OpenError::Io(..))) => {
            Failure::runtime(&error)
        }
        StartError::Devices(errors) => {
            let mut message = "devices cannot be read".to_owned();
            for error in errors {
                for problem in &error.problems {
                    let _ = write!(message, "\n  {}: {problem}", error.file.display());
                }
            }
            Failure::configuration(message)
        }
        StartError::Tls { .. }
        | StartError::Store(_)
        | StartError::Passed(_)
        | StartError::Credential { .. }
        | StartError::Host(_)
        | StartError::Proxy(_) => Failure::configuration(super::output::chain(&error)),
        StartError::Bind(ref bind) => Failure::runtime(&error).hint(hint::bind(bind)),
        StartError::System(_) => Failure::runtime(&error),
    }
}

fn read(path: &Path) -> Result<(String, String, Origin), Failure> {
    let origin = Origin::File(path.to_owned(), Stamp::of_blocking(path));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((path.display().to_string(), text, origin)),
        Err(error) => {
            let message = format!("{} cannot be read: {error}", path.display());
            Err(Failure::configuration(message))
        }
    }
}

fn find() -> Result<PathBuf, Failure> {
    let candidates = candidates();
    if let Some(found) = candidates.iter().find(|candidate| candidate.exists()) {
        return Ok(found.clone());
    }
    let looked: Vec<String> =
        candidates.iter().map(|candidate| format!("\n  {}", candidate.display())).collect();
    Err(Failure::configuration(format!(
        "there is no configuration; looked for{}\n\
         Make one with: countersign init twinzo-device > countersign.toml",
        looked.concat()
    )))
}

fn candidates() -> Vec<PathBuf> {
    let mut candidates = vec![PathBuf::from("countersign.toml")];
    let home = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let user = home("XDG_CONFIG_HOME")
        .or_else(|| home("APPDATA"))
        .map(PathBuf::from)
        .or_else(|| home("HOME").map(|home| PathBuf::from(home).join(".config")));
    candidates.extend(user.map(|user| user.join("countersign").join("countersign.toml")));
    candidates.push(PathBuf::from("/etc/countersign/countersign.toml"));
    candidates
}
