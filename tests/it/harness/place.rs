//! A directory of a test's own, for secrets and whatever lies beside them.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{private_directory, quoted};

/// A directory that nobody else can enter.
pub(crate) struct Place(TempDir);

impl Place {
    /// With a file of this content under each of these names.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let place = Self(private_directory());
        for (name, text) in files {
            place.write(name, text);
        }
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The path of that name as a TOML string.
    pub(crate) fn quoted(&self, name: &str) -> String {
        quoted(self.path(name).to_str().unwrap())
    }

    /// A reference to the secret of that name.
    pub(crate) fn file(&self, name: &str) -> String {
        format!("{{ file = {} }}", self.quoted(name))
    }

    /// `[token_store]` in a file here, with this key.
    pub(crate) fn store(&self, key: &str) -> String {
        format!("[token_store]\nkind = \"file\"\npath = {}\nkey = {key}\n", self.quoted("tokens"))
    }
}
