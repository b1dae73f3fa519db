//! [`Table`]: what a file of devices says, compactly: one text for all cells and a few numbers per
//! device, because there may be a hundred thousand of them.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::BuildHasher as _;
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;
use zeroize::Zeroizing;

use super::{Column, Form, Place};
use crate::credential::secret_ref::SecretRef;
use crate::secret::Secret;

/// No row.
const NONE: u32 = u32::MAX;

/// Devices and their cells, by the name of the device. Look-up allocates nothing.
pub struct Table {
    /// The columns that the file has, in the order of the cells.
    columns: Vec<Column>,
    /// The names of the devices and their cells, one after the other.
    text: Zeroizing<String>,
    /// Where each of them ends: the name and one cell per column, row after row.
    ends: Vec<u32>,
    places: Vec<Place>,
    /// Open addressing: rows by the hash of the name.
    index: Vec<u32>,
    hasher: RandomState,
}

/// What a cell says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Nothing.
    Empty,
    /// A value, or where it is.
    Value(SecretRef),
}

impl Table {
    /// An empty table with these columns, for about `bytes` of text.
    pub(crate) fn new(columns: Vec<Column>, bytes: usize) -> Self {
        Self {
            columns,
            // All at once: growing would leave copies of secrets behind.
            text: Zeroizing::new(String::with_capacity(bytes)),
            ends: Vec::new(),
            places: Vec::new(),
            index: Vec::new(),
            hasher: RandomState::default(),
        }
    }

    /// Adds a device.
    ///
    /// # Errors
    /// With the place of the other device if there is one of that name.
    pub(crate) fn push<'c>(
        &mut self,
        place: Place,
        device: &'c str,
        cells: impl IntoIterator<Item = &'c str>,
    ) -> Result<(), Place> {
        if let Some(other) = self.find(device) {
            return Err(self.place(other));
        }
        let row = self.places.len();
        for piece in std::iter::once(device).chain(cells) {
            self.text.push_str(piece);
            self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        }
        self.places.push(place);
        self.enter(row);
        Ok(())
    }

    /// Gives back what was set aside for more.
    pub(crate) fn finish(mut self) -> Self {
        self.ends.shrink_to_fit();
        self.places.shrink_to_fit();
        self
    }

    fn enter(&mut self, row: usize) {
        // Half of it stays empty, so that a search ends soon.
        if self.places.len() * 2 > self.index.len() {
            self.index = vec![NONE; (self.places.len() * 2).next_power_of_two().max(16)];
            for row in 0..self.places.len() {
                self.enter_at(row);
            }
        } else {
            self.enter_at(row);
        }
    }

    fn enter_at(&mut self, row: usize) {
        let mask = self.index.len().wrapping_sub(1);
        let mut at = self.start(self.device(row));
        while let Some(place) = self.index.get_mut(at & mask) {
            if *place == NONE {
                *place = u32::try_from(row).unwrap_or(NONE);
                return;
            }
            at += 1;
        }
    }

    fn start(&self, device: &str) -> usize {
        let mask = self.index.len().wrapping_sub(1);
        usize::try_from(self.hasher.hash_one(device)).unwrap_or_default() & mask
    }

    /// The row of a device.
    pub fn find(&self, device: &str) -> Option<usize> {
        let mask = self.index.len().wrapping_sub(1);
        let mut at = self.start(device);
        loop {
            let row = *self.index.get(at & mask)?;
            if row == NONE {
                return None;
            }
            let row = row as usize;
            if self.device(row) == device {
                return Some(row);
            }
            at += 1;
        }
    }

    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The name of the device in `row`; empty where there is none.
    pub fn device(&self, row: usize) -> &str {
        self.piece(row, 0)
    }

    /// Where the device in `row` stands in the file.
    pub fn place(&self, row: usize) -> Place {
        self.places.get(row).copied().unwrap_or(Place::Line(0))
    }

    /// The columns that the file has.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn piece(&self, row: usize, piece: usize) -> &str {
        let at = row * (self.columns.len() + 1) + piece;
        let begin = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let end = self.ends.get(at).copied().unwrap_or_default();
        self.text.get(begin.unwrap_or_default() as usize..end as usize).unwrap_or_default()
    }

    /// The cells of `row` that say something, with their columns.
    pub fn cells(&self, row: usize) -> impl Iterator<Item = (&Column, SecretRef)> {
        let cells = self.columns.iter().enumerate();
        cells.filter_map(move |(index, column)| {
            match cell(self.piece(row, index + 1), column.form) {
                Cell::Empty => None,
                Cell::Value(reference) => Some((column, reference)),
            }
        })
    }

    /// True if `row` says the same as `other_row` of `other`, whose columns may stand in another
    /// order.
    pub fn is_same(&self, row: usize, other: &Self, other_row: usize) -> bool {
        let names = |table: &Self| table.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        if self.columns == other.columns {
            return (0..=self.columns.len())
                .all(|piece| self.piece(row, piece) == other.piece(other_row, piece));
        }
        let said = |table: &Self, row: usize| -> BTreeSet<(String, String)> {
            let pieces = names(table).into_iter().enumerate();
            let said = pieces.map(|(at, name)| (name, table.piece(row, at + 1).to_owned()));
            said.filter(|(_, text)| !text.is_empty()).collect()
        };
        said(self, row) == said(other, other_row)
    }

    /// True if a secret stands in the file itself.
    pub fn holds_secrets(&self) -> bool {
        let secret = |column: &Column| column.form == Form::Secret;
        if !self.columns.iter().any(secret) {
            return false;
        }
        let literal = |reference: &SecretRef| matches!(reference, SecretRef::Value(_));
        (0..self.len())
            .any(|row| self.cells(row).any(|(column, cell)| secret(column) && literal(&cell)))
    }

    /// The files that cells name.
    pub fn files(&self) -> impl Iterator<Item = (usize, PathBuf)> {
        (0..self.len()).flat_map(|row| {
            self.cells(row).filter_map(move |(_, reference)| match reference {
                SecretRef::File(path) => Some((row, path)),
                SecretRef::Env(_)
                | SecretRef::Exec(_)
                | SecretRef::Systemd(_)
                | SecretRef::Value(_) => None,
            })
        })
    }

    /// The files that stand for the directories of all files that cells name, and those that are
    /// symbolic links, which may lead elsewhere.
    pub fn directories(&self) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        let mut files = Vec::new();
        for (_, path) in self.files() {
            let directory = path.parent().map(Path::to_owned).unwrap_or_default();
            if seen.insert(directory) || path.is_symlink() {
                files.push(path);
            }
        }
        files
    }
}

/// What `text` in a cell of that form says.
pub fn cell(text: &str, form: Form) -> Cell {
    if text.is_empty() {
        return Cell::Empty;
    }
    Cell::Value(match form {
        Form::Secret => match (text.strip_prefix("env:"), text.strip_prefix("file:")) {
            (Some(name), _) => SecretRef::Env(name.to_owned()),
            (_, Some(path)) => SecretRef::File(path.into()),
            (None, None) => SecretRef::Value(Secret::new(text)),
        },
        // As all the vendor's software writes them.
        Form::Guid => SecretRef::Value(Secret::new(text.to_ascii_lowercase())),
        Form::Text | Form::User => SecretRef::Value(Secret::new(text)),
    })
}

/// Only how many: names of devices are many, and cells may be secrets.
impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} devices)", self.len())
    }
}
