//! The file of devices: CSV, TOML or JSON in, a [`Table`] or every problem out.
//!
//! Nothing of a cell is repeated in a message: rows get mixed up, and then a password stands where
//! a name should be.

use std::fs::Metadata;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;
use zeroize::Zeroizing;

use super::document::{self, NodeValue};
use super::shape::nearest;
use crate::credential::devices::table::{Cell, Table, cell};
use crate::credential::devices::{Column, DeviceProblem, DevicesError, DevicesSpec, Form, Place};
use crate::credential::secret_ref::SecretRef;
use crate::permissions::Check;

/// The column that says which device it is.
const DEVICE: &str = "device";
/// The largest file that is read.
const MAX_FILE: u64 = 256 << 20;
/// The longest name of a device, in bytes.
pub const MAX_DEVICE: usize = 256;
/// How many problems are told; a file that is another altogether has one per line.
const MAX_PROBLEMS: usize = 100;

/// How a file of devices is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values (RFC 4180) with a line of names.
    Csv,
    /// `[[device]]` tables.
    Toml,
    /// A list of objects.
    Json,
}

impl Format {
    /// As the ending of the name says; CSV if it says nothing.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Self::Toml,
            Some("json") => Self::Json,
            _ => Self::Csv,
        }
    }
}

/// Reads the file that `spec` names. Secrets in it are not resolved.
///
/// # Errors
/// With everything that is wrong with it.
pub fn read(spec: &DevicesSpec, check: Check) -> Result<Table, DevicesError> {
    let error = |problems| DevicesError { file: spec.file.clone(), problems };
    let whole = |message: String| error(vec![DeviceProblem::new(None, message)]);
    let (text, opened) = text_of(&spec.file).map_err(whole)?;
    let table = parse(&text, Format::of(&spec.file), &spec.columns).map_err(error)?;
    if table.holds_secrets()
        && let Err(exposed) = check.secret(&spec.file, &opened)
    {
        let problem = DeviceProblem::new(None, format!("it holds secrets, and {exposed}"));
        let hint = "or write the secrets as env:NAME or file:PATH; check_permissions = false lets \
                    the file be";
        return Err(error(vec![problem.hint(hint)]));
    }
    Ok(table)
}

fn text_of(path: &Path) -> Result<(Zeroizing<String>, Metadata), String> {
    let cannot = |error: std::io::Error| format!("it cannot be read: {}", error.kind());
    let file = std::fs::File::open(path).map_err(cannot)?;
    let opened = file.metadata().map_err(cannot)?;
    let length = opened.len();
    if length > MAX_FILE {
        return Err(format!("it is larger than {} MiB", MAX_FILE >> 20));
    }
    // All at once: growing would leave copies of secrets behind.
    let size = usize::try_from(length).unwrap_or_default().saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(cannot)?;
    let text = String::from_utf8(std::mem::take(&mut *bytes));
    let text = text.map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok((Zeroizing::new(text), opened))
}

/// Reads `text`.
///
/// # Errors
/// With everything that is wrong with it.
pub fn parse(text: &str, format: Format, columns: &[Column]) -> Result<Table, Vec<DeviceProblem>> {
    let mut reader = Reader { known: columns, problems: Vec::new(), left_out: 0 };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let table = match format {
        Format::Csv => reader.csv(text),
        Format::Toml => {
            let entries = reader.toml(text);
            reader.entries(text.len(), &entries)
        }
        Format::Json => {
            let entries = reader.json(text);
            reader.entries(text.len(), &entries)
        }
    };
    if table.is_empty() && reader.problems.is_empty() {
        let hint = "a line of names (device, …), then one line per device";
        reader.problem(DeviceProblem::new(None, "there is no device in it").hint(hint));
    }
    if reader.left_out > 0 {
        let message = format!("and {} more", reader.left_out);
        reader.problems.push(DeviceProblem::new(None, message));
    }
    if reader.problems.is_empty() { Ok(table.finish()) } else { Err(reader.problems) }
}

/// A device as TOML and JSON have it: keys and values.
type Entry = (Place, Vec<(String, String)>);

struct Reader<'r> {
    known: &'r [Column],
    problems: Vec<DeviceProblem>,
    left_out: usize,
}

impl Reader<'_> {
    fn problem(&mut self, problem: DeviceProblem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.left_out += 1;
        }
    }

    fn at(&mut self, place: Place, message: impl Into<String>) {
        self.problem(DeviceProblem::new(Some(place), message));
    }

    fn csv(&mut self, text: &str) -> Table {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .comment(Some(b'#'))
            .from_reader(text.as_bytes());
        let mut record = csv::StringRecord::new();
        let mut names: Option<Vec<String>> = None;
        let mut columns: Vec<Option<Column>> = Vec::new();
        let mut table = Table::new(Vec::new(), 0);
        loop {
            match reader.read_record(&mut record) {
                Ok(true) => {}
                Ok(false) => return table,
                // The text is UTF-8 and may have any number of cells, so this does not happen.
                Err(_) => {
                    self.problem(DeviceProblem::new(None, "it is not CSV"));
                    return table;
                }
            }
            let place = record.position().map_or(Place::Line(0), |begun| line_of(text, begun));
            let Some(names) = &names else {
                let written: Vec<String> = record.iter().map(str::to_owned).collect();
                let known = self.header(place, &written);
                table = Table::new(known.iter().flatten().cloned().collect(), text.len());
                columns = known;
                names = Some(written);
                continue;
            };
            if record.len() != names.len() {
                let message =
                    format!("{} cells where there are {} columns", record.len(), names.len());
                let hint = "a cell with a comma in it stands in double quotes";
                self.problem(DeviceProblem::new(Some(place), message).hint(hint));
                continue;
            }
            let device = names.iter().position(|name| name == DEVICE);
            let device = device.and_then(|at| record.get(at));
            let cells: Vec<&str> = columns
                .iter()
                .zip(&record)
                .filter_map(|(c, text)| c.as_ref().and(Some(text)))
                .collect();
            // Without that column there is nothing to tell of any line.
            if let Some(device) = device {
                self.row(&mut table, place, device, &cells);
            }
        }
    }

    /// The columns that these names stand for.
    fn header(&mut self, place: Place, names: &[String]) -> Vec<Option<Column>> {
        if names.len() == 1 && names.iter().any(|name| name.contains([';', '\t'])) {
            let problem = DeviceProblem::new(Some(place), "the columns are not parted by commas");
            self.problem(problem.hint("save the sheet as \"CSV, comma-separated\""));
            return vec![None];
        }
        if !names.iter().any(|name| name == DEVICE) {
            // Without a line of names this is a device, and a name may be a password.
            let known = self.known.iter().map(|column| column.name.as_str());
            let known: Vec<&str> = std::iter::once(DEVICE).chain(known).collect();
            let hint =
                format!("the first line holds the names of the columns: {}", known.join(","));
            let message = format!("the column '{DEVICE}' is missing");
            self.problem(DeviceProblem::new(Some(place), message).hint(hint));
            return vec![None; names.len()];
        }
        let mut columns = Vec::with_capacity(names.len());
        for (at, name) in names.iter().enumerate() {
            if names.iter().take(at).any(|other| other == name) {
                self.at(place, format!("the column '{name}' is there twice"));
            }
            columns.push(if name == DEVICE { None } else { self.column(place, name) });
        }
        self.complete(Some(place), &names.iter().map(String::as_str).collect::<Vec<_>>());
        columns
    }

    fn column(&mut self, place: Place, name: &str) -> Option<Column> {
        let known = self.known.iter().find(|column| column.name == name);
        if known.is_none() {
            let mut names: Vec<&str> = self.known.iter().map(|c| c.name.as_str()).collect();
            names.push(DEVICE);
            let hint = match nearest(name, &names) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!(
                    "known here: {}; what all devices share stays in the configuration",
                    names.join(", ")
                ),
            };
            let message = format!("there is no column '{name}' here");
            self.problem(DeviceProblem::new(Some(place), message).hint(hint));
        }
        known.cloned()
    }

    /// Every column that there has to be is there.
    fn complete(&mut self, place: Option<Place>, names: &[&str]) {
        let missing = self.known.iter().filter(|column| column.required);
        let missing = missing.filter(|column| !names.contains(&column.name.as_str()));
        let missing: Vec<String> = missing.map(|column| column.name.clone()).collect();
        for name in missing {
            let hint = "add it, or set it in the configuration if it is the same for all devices";
            let message = format!("the column '{name}' is missing");
            self.problem(DeviceProblem::new(place, message).hint(hint));
        }
    }

    /// Adds a device, unless something is wrong with it.
    fn row(&mut self, table: &mut Table, place: Place, device: &str, cells: &[&str]) {
        let before = self.problems.len() + self.left_out;
        if let Some(message) = wrong_name(device) {
            self.at(place, message);
        }
        for (column, text) in table.columns().iter().zip(cells) {
            if let Some(message) = wrong_cell(column, text) {
                self.at(place, message);
            }
        }
        if self.problems.len() + self.left_out > before {
            return;
        }
        if let Err(other) = table.push(place, device, cells.iter().copied()) {
            self.at(place, format!("this device is there already, at {other}"));
        }
    }

    fn toml(&mut self, text: &str) -> Vec<Entry> {
        let line = |at: usize| {
            let before = text.get(..at).unwrap_or_default();
            u32::try_from(before.matches('\n').count() + 1).unwrap_or(u32::MAX)
        };
        let (document, problems) = document::parse(text);
        for problem in problems {
            let place = problem.span.map(|span| Place::Line(line(span.start)));
            // The parser's own words may repeat what it read.
            self.problem(DeviceProblem::new(place, "this is not TOML"));
        }
        let NodeValue::Table(top) = &document.value else { return Vec::new() };
        let mut entries = Vec::new();
        for entry in top {
            let NodeValue::Array(items) = &entry.node.value else {
                let place = Place::Line(line(entry.node.span.start));
                self.at(place, "there are only [[device]] tables here");
                continue;
            };
            if entry.key != DEVICE {
                self.at(Place::Line(line(entry.node.span.start)), "only [[device]] is known here");
                continue;
            }
            // Counted on, so that a long file is not counted from its beginning for every device.
            let (mut counted, mut at_line) = (0, 1);
            for item in items {
                let start = item.span.start.max(counted);
                let between = text.get(counted..start).unwrap_or_default();
                at_line += u32::try_from(between.matches('\n').count()).unwrap_or_default();
                counted = start;
                let place = Place::Line(at_line);
                let NodeValue::Table(pairs) = &item.value else {
                    self.at(place, "a device is a table");
                    continue;
                };
                let mut cells = Vec::with_capacity(pairs.len());
                for pair in pairs {
                    if let NodeValue::String(text) = &pair.node.value {
                        cells.push((pair.key.clone(), text.clone()));
                    } else {
                        self.at(place, format!("'{}' is not a text", pair.key));
                    }
                }
                entries.push((place, cells));
            }
        }
        entries
    }

    fn json(&mut self, text: &str) -> Vec<Entry> {
        let items = match serde_json::from_str::<Vec<Value>>(text) {
            Ok(items) => items,
            Err(error) => {
                let place = u32::try_from(error.line()).ok().map(Place::Line);
                let problem = DeviceProblem::new(place, "this is not a list in JSON");
                self.problem(problem.hint("[{ \"device\": \"…\", \"login\": \"…\" }, …]"));
                return Vec::new();
            }
        };
        let mut entries = Vec::new();
        for (number, item) in (1..).zip(items) {
            let place = Place::Entry(number);
            let Value::Object(pairs) = item else {
                self.at(place, "a device is an object");
                continue;
            };
            let mut cells = Vec::with_capacity(pairs.len());
            for (key, value) in pairs {
                match value {
                    Value::String(text) => cells.push((key, text)),
                    Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::Array(_)
                    | Value::Object(_) => self.at(place, format!("'{key}' is not a text")),
                }
            }
            entries.push((place, cells));
        }
        entries
    }

    /// A table of what TOML or JSON had.
    fn entries(&mut self, bytes: usize, entries: &[Entry]) -> Table {
        let used = |column: &&Column| {
            let mut keys = entries.iter().flat_map(|(_, cells)| cells);
            column.required || keys.any(|(key, _)| *key == column.name)
        };
        let columns: Vec<Column> = self.known.iter().filter(used).cloned().collect();
        let mut table = Table::new(columns.clone(), bytes);
        for (place, cells) in entries {
            let text = |name: &str| cells.iter().find(|(key, _)| key == name).map(|(_, t)| &**t);
            for (key, _) in cells.iter().filter(|(key, _)| key != DEVICE) {
                self.column(*place, key);
            }
            let Some(device) = text(DEVICE) else {
                self.at(*place, format!("'{DEVICE}' is missing"));
                continue;
            };
            let row: Vec<&str> =
                columns.iter().map(|column| text(&column.name).unwrap_or_default()).collect();
            self.row(&mut table, *place, device, &row);
        }
        table
    }
}

/// The line of the record after what begins at `begun`: empty lines and comments come first.
fn line_of(text: &str, begun: &csv::Position) -> Place {
    let rest = usize::try_from(begun.byte()).ok().and_then(|at| text.get(at..));
    let lines = rest.unwrap_or_default().split('\n');
    let skipped = lines.take_while(|line| line.starts_with('#') || line.trim_end().is_empty());
    let line = begun.line().saturating_add(u64::try_from(skipped.count()).unwrap_or_default());
    Place::Line(u32::try_from(line).unwrap_or(u32::MAX))
}

fn wrong_name(device: &str) -> Option<String> {
    if device.is_empty() {
        return Some(format!("'{DEVICE}' is missing"));
    }
    if device.trim() != device || device.chars().any(char::is_control) {
        return Some(format!("'{DEVICE}' has a space at an end, or a character that is none"));
    }
    (device.len() > MAX_DEVICE).then(|| format!("'{DEVICE}' is longer than {MAX_DEVICE} bytes"))
}

fn wrong_cell(column: &Column, text: &str) -> Option<String> {
    let name = &column.name;
    if text.is_empty() {
        return column.required.then(|| format!("'{name}' is missing"));
    }
    if text.chars().any(char::is_control) {
        return Some(format!("'{name}' has a character that is none, such as a line break"));
    }
    if text.trim() != text {
        return Some(format!("'{name}' begins or ends with a space"));
    }
    match (column.form, cell(text, column.form)) {
        (Form::Secret, Cell::Value(SecretRef::Env(name_of)))
            if name_of.is_empty() || name_of.contains(['=', '$']) =>
        {
            Some(format!("'{name}': after env: comes the name of an environment variable"))
        }
        (Form::Secret, Cell::Value(SecretRef::File(path))) if path.as_os_str().is_empty() => {
            Some(format!("'{name}': after file: comes a path"))
        }
        (Form::User, _) if text.contains(':') => {
            Some(format!("'{name}' must not hold ':' (RFC 7617 has no way to write it)"))
        }
        (Form::Guid, _) if !is_guid(text) => Some(format!("'{name}' is not a GUID")),
        _ => None,
    }
}

/// `3f2b8c1e-5a4d-4e6f-9b7a-0c1d2e3f4a5b`.
pub(super) fn is_guid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let hexadecimal = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    lengths == [8, 4, 4, 4, 12] && hexadecimal
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
