//! Problems with a configuration: what, where, and the way out.

use std::fmt::Write as _;
use std::ops::Range;

use super::Loaded;
use super::quote::{Quote, Quoter, known_path};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing starts while there is one.
    Error,
    /// Works, but is worth a thought.
    Warning,
}

/// Something wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Which key: `route[0].upstream`; empty for the whole file.
    pub path: String,
    /// Where in the text, in bytes.
    pub span: Option<Range<usize>>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// True if the text could not even be read as TOML there.
    pub syntax: bool,
}

impl Problem {
    /// A problem that keeps the program from starting.
    pub fn error(
        path: impl Into<String>,
        span: Option<Range<usize>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            path: path.into(),
            span,
            message: message.into(),
            hint: None,
            syntax: false,
        }
    }

    /// A problem that does not.
    pub fn warning(
        path: impl Into<String>,
        span: Option<Range<usize>>,
        message: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, span, message) }
    }

    /// The same problem with a way out.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// True if one of `problems` keeps the program from starting.
pub fn any_error(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}

/// The problems of one text, in the order of their places, as a person reads them.
///
/// Values that may be secrets are masked in the quoted lines.
#[derive(Debug)]
pub struct Report<'a> {
    /// What the text is called: a path, or `standard input`.
    pub name: &'a str,
    /// The text.
    pub text: &'a str,
    /// What came of it.
    pub loaded: &'a Loaded,
}

/// One problem, as a person reads it. Values that may be secrets are masked.
#[derive(Debug)]
pub struct Entry {
    /// How bad it is.
    pub severity: Severity,
    /// Which key, and what is wrong, in one line.
    pub message: String,
    /// Line and column, from 1.
    pub place: Option<(usize, usize)>,
    /// What to do.
    pub hint: Option<String>,
    /// All of it, with the line that it is about.
    pub text: String,
}

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self.entries();
        for entry in &entries {
            f.write_str(&entry.text)?;
        }
        let is_error = |entry: &&Entry| entry.severity == Severity::Error;
        let errors = entries.iter().filter(is_error).count();
        let warnings = entries.len() - errors;
        let mut counts = Vec::new();
        if errors > 0 {
            counts.push(format!("{errors} {}", if errors == 1 { "error" } else { "errors" }));
        }
        if warnings > 0 {
            let noun = if warnings == 1 { "warning" } else { "warnings" };
            counts.push(format!("{warnings} {noun}"));
        }
        if !counts.is_empty() {
            writeln!(f, "{}: {}", self.name, counts.join(", "))?;
        }
        Ok(())
    }
}

impl Report<'_> {
    /// The problems one by one.
    pub fn entries(&self) -> Vec<Entry> {
        let mut sorted: Vec<&Problem> = self.loaded.problems.iter().collect();
        sorted.sort_by_key(|problem| {
            problem.span.as_ref().map_or((usize::MAX, usize::MAX), |span| (span.start, span.end))
        });
        let quoter = Quoter::new(self.text, &self.loaded.masks);
        // On a line that TOML could not read, values cannot be told from the rest.
        let unread: Vec<usize> = sorted
            .iter()
            .filter(|problem| problem.syntax)
            .filter_map(|problem| quoter.quote(problem.span.as_ref()?, true))
            .map(|quote| quote.line)
            .collect();
        sorted.into_iter().map(|problem| self.entry(problem, &quoter, &unread)).collect()
    }

    fn entry(&self, problem: &Problem, quoter: &Quoter<'_>, unread: &[usize]) -> Entry {
        let quote = problem.span.as_ref().and_then(|span| quoter.quote(span, false));
        let is_unread = quote.as_ref().is_some_and(|quote| unread.contains(&quote.line));
        let (mut path, mut message) = (problem.path.as_str(), problem.message.clone());
        let quote = if is_unread {
            // What seems a key there may be anything.
            let (known, unknown) = known_path(path);
            path = known;
            if !unknown.is_empty() {
                message = message.replace(&format!("'{unknown}'"), "***");
            }
            problem.span.as_ref().and_then(|span| quoter.quote(span, true))
        } else {
            quote
        };
        let key = if path.is_empty() { String::new() } else { format!("{path}: ") };
        let mut entry = Entry {
            severity: problem.severity,
            message: format!("{key}{message}"),
            place: quote.as_ref().map(|quote| (quote.line, quote.column)),
            hint: problem.hint.clone(),
            text: String::new(),
        };
        // Writing to a text does not fail.
        let _ = self.render(&mut entry, quote.as_ref());
        entry
    }

    fn render(&self, entry: &mut Entry, quote: Option<&Quote>) -> std::fmt::Result {
        let severity = match entry.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let out = &mut entry.text;
        writeln!(out, "{severity}: {}", entry.message)?;
        let gutter = if let Some(quote) = quote {
            writeln!(out, "  --> {}:{}:{}", self.name, quote.line, quote.column)?;
            let number = quote.line.to_string();
            let gutter = " ".repeat(number.len());
            writeln!(out, "{gutter} |\n{number} | {}", quote.shown)?;
            let indent = " ".repeat(quote.indent);
            writeln!(out, "{gutter} | {indent}{}", "^".repeat(quote.width))?;
            gutter
        } else {
            writeln!(out, "  --> {}", self.name)?;
            " ".to_owned()
        };
        if let Some(hint) = &entry.hint {
            writeln!(out, "{gutter} = hint: {hint}")?;
        }
        writeln!(out)
    }
}
