//! Problems with a configuration: what, where, and the way out.

use std::fmt::Write as _;
use std::ops::Range;

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
/// Lines that hold a literal secret are not quoted.
#[derive(Debug)]
pub struct Report<'a> {
    /// What the text is called: a path, or `standard input`.
    pub name: &'a str,
    /// The text.
    pub text: &'a str,
    /// Its problems.
    pub problems: &'a [Problem],
}

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted: Vec<&Problem> = self.problems.iter().collect();
        sorted.sort_by_key(|problem| {
            problem.span.as_ref().map_or((usize::MAX, usize::MAX), |span| (span.start, span.end))
        });
        let mut out = String::new();
        for problem in sorted {
            self.render(problem, &mut out)?;
        }
        let errors =
            self.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        let warnings = self.problems.len() - errors;
        let mut counts = Vec::new();
        if errors > 0 {
            counts.push(format!("{errors} {}", if errors == 1 { "error" } else { "errors" }));
        }
        if warnings > 0 {
            let noun = if warnings == 1 { "warning" } else { "warnings" };
            counts.push(format!("{warnings} {noun}"));
        }
        if !counts.is_empty() {
            writeln!(out, "{}: {}", self.name, counts.join(", "))?;
        }
        f.write_str(&out)
    }
}

impl Report<'_> {
    fn render(&self, problem: &Problem, out: &mut String) -> std::fmt::Result {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let key =
            if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
        writeln!(out, "{severity}: {key}{}", problem.message)?;
        if let Some(place) = problem.span.clone().and_then(|span| Place::of(self.text, span)) {
            writeln!(out, "  --> {}:{}:{}", self.name, place.line, place.column)?;
            let number = place.line.to_string();
            let gutter = " ".repeat(number.len());
            let line = if holds_a_literal_secret(place.text) {
                "(not shown: it holds a secret)".to_owned()
            } else {
                place.text.to_owned()
            };
            writeln!(out, "{gutter} |\n{number} | {line}")?;
            if line == place.text {
                let indent = " ".repeat(place.column - 1);
                writeln!(out, "{gutter} | {indent}{}", "^".repeat(place.width))?;
            }
            if let Some(hint) = &problem.hint {
                writeln!(out, "{gutter} = hint: {hint}")?;
            }
        } else {
            writeln!(out, "  --> {}", self.name)?;
            if let Some(hint) = &problem.hint {
                writeln!(out, "  = hint: {hint}")?;
            }
        }
        writeln!(out)
    }
}

/// A line on which somebody wrote a secret, on purpose (`value = …`) or by mistake, must not be
/// repeated on a terminal or in a log.
fn holds_a_literal_secret(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    let Some((before, after)) = lower.split_once('=') else {
        return false;
    };
    let names_one = ["password", "secret", "token", "api_key", "_key", "key "]
        .iter()
        .any(|word| before.contains(word));
    let literal = after.trim_start().starts_with(['"', '\'']);
    (names_one && literal) || lower.contains("value =") || lower.contains("value=")
}

struct Place<'t> {
    line: usize,
    /// In characters, from 1.
    column: usize,
    width: usize,
    text: &'t str,
}

impl<'t> Place<'t> {
    fn of(text: &'t str, span: Range<usize>) -> Option<Self> {
        let start = span.start.min(text.len());
        let before = text.get(..start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text.get(line_start..)?.lines().next().unwrap_or_default();
        let end = span.end.clamp(start, line_start + line.len());
        Some(Self {
            line: before.matches('\n').count() + 1,
            column: text.get(line_start..start)?.chars().count() + 1,
            width: text.get(start..end).map_or(1, |marked| marked.chars().count().max(1)),
            text: line,
        })
    }
}
