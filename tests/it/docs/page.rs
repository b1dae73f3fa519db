//! A page of Markdown: what links and tests need of it.

use std::path::{Path, PathBuf};

/// A page and where it is.
pub(crate) struct Page {
    /// From the top of the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// What stands between two fences.
pub(crate) struct Block {
    /// The word behind the first fence.
    pub(crate) info: String,
    pub(crate) text: String,
    /// Where it begins.
    pub(crate) line: usize,
}

pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Page {
    pub(crate) fn read(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let text = std::fs::read_to_string(top().join(&path));
        Self { text: text.unwrap_or_else(|error| panic!("{}: {error}", path.display())), path }
    }

    /// All of the repository.
    pub(crate) fn all() -> Vec<Self> {
        let mut found = Vec::new();
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(top().join(&directory)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let path = directory.join(&name);
                let is_directory = entry.file_type().unwrap().is_dir();
                if is_directory && !["target", "book", ".git", "corpus"].contains(&name.as_str()) {
                    directories.push(path);
                } else if !is_directory && path.extension().is_some_and(|ending| ending == "md") {
                    found.push(Self::read(path));
                }
            }
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        found
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, Block)> = None;
        for (index, line) in self.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(info)) => {
                    let (info, text) = (info.trim().to_owned(), String::new());
                    open = Some((indent, Block { info, text, line: index + 1 }));
                }
                (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
                (Some((indent, block)), None) => {
                    block.text.push_str(line.get(*indent..).unwrap_or(line.trim_start()));
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fence is not closed", self.path.display());
        blocks
    }

    /// The lines that are no code, with their numbers; code within them is taken out.
    fn prose(&self) -> Vec<(usize, String)> {
        let mut fenced = false;
        let mut prose = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if !fenced {
                let parts = line.split('`').step_by(2);
                prose.push((index + 1, parts.collect::<Vec<_>>().join("`")));
            }
        }
        prose
    }

    /// The targets of links and pictures, each with its line.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (number, line) in self.prose() {
            for after in line.split("](").skip(1) {
                let target = after.split([')', ' ']).next().unwrap();
                links.push((number, target.to_owned()));
            }
        }
        links
    }

    /// What its headings are called in links, as code hosts and mdBook have it.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        let mut fenced = false;
        for line in self.text.lines() {
            fenced ^= line.trim_start().starts_with("```");
            let heading = line.trim_start_matches('#');
            if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
                continue;
            }
            let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let anchor: String =
                kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect();
            let again = anchors.iter().filter(|other| **other == anchor).count();
            anchors.push(if again == 0 { anchor } else { format!("{anchor}-{again}") });
        }
        anchors
    }
}
