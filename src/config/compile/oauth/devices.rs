//! What each device has of its own: the values that the configuration leaves out.

use crate::config::compile::credential::Builder;
use crate::config::raw::RawOauth;
use crate::credential::devices::Column;

/// The columns of the file of devices, as they turn out to be needed.
#[derive(Debug)]
pub(super) struct Columns {
    /// There are devices at all.
    many: bool,
    names: Vec<(&'static str, bool)>,
}

impl Columns {
    pub(super) fn new(many: bool) -> Self {
        Self { many, names: Vec::new() }
    }

    /// True if there are devices, which have a value of this name then.
    pub(super) fn take(&mut self, name: &'static str, required: bool) -> bool {
        if self.many {
            self.names.push((name, required));
        }
        self.many
    }

    pub(super) fn into_columns(self, builder: &Builder<'_, '_>) -> Vec<Column> {
        let column =
            |(name, required): (&'static str, bool)| Column { required, ..builder.column(name) };
        self.names.into_iter().map(column).collect()
    }

    /// What a device may ask for by itself.
    pub(super) fn take_optional(&mut self, raw: &RawOauth) {
        for (name, is_shared) in [
            ("scope", raw.scope.is_some()),
            // In `extra` it may be a secret.
            ("audience", raw.audience.is_some() || has_extra(raw, "audience")),
        ] {
            if !is_shared {
                self.take(name, false);
            }
        }
    }
}

fn has_extra(raw: &RawOauth, name: &str) -> bool {
    raw.extra.as_ref().is_some_and(|extra| extra.contains_key(name))
}
