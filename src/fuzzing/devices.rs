//! The file of devices.

use crate::config::devices::{Format, parse};
use crate::credential::devices::{Column, Form};

fn columns() -> [Column; 3] {
    [("login", Form::Text, true), ("password", Form::Secret, true), ("guid", Form::Guid, false)]
        .map(|(name, form, required)| Column {
            name: name.to_owned(),
            value: name.to_owned(),
            form,
            required,
        })
}

/// A file of devices in each of its forms: whatever is taken can be found, each device once and with
/// all that it needs; whatever is not says why.
pub fn devices(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let columns = columns();
    for format in [Format::Csv, Format::Toml, Format::Json] {
        match parse(text, format, &columns) {
            Err(problems) => assert!(!problems.is_empty()),
            Ok(table) => {
                assert!(!table.is_empty());
                for row in 0..table.len() {
                    let device = table.device(row);
                    assert!((1..=256).contains(&device.len()), "{device:?}");
                    assert_eq!(table.find(device), Some(row), "{device:?}");
                    let cells: Vec<&str> =
                        table.cells(row).map(|(column, _)| column.name.as_str()).collect();
                    for column in &columns {
                        let count = cells.iter().filter(|name| **name == column.name).count();
                        let least = usize::from(column.required);
                        assert!((least..=1).contains(&count), "{}: {count}", column.name);
                    }
                }
                assert_eq!(table.find("no device is called that"), None);
            }
        }
    }
}
