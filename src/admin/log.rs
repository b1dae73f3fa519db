//! `/api/log`: what is logged, and changing it for a while.

use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::answer::{Content, json, text};
use crate::config::{AccessLog, Level, units};
use crate::telemetry;

/// What a change asks for. What is left out stays as it is.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Change {
    level: Option<Level>,
    access: Option<AccessLog>,
    /// How long it lasts: a duration, or "always" for as long as the process runs.
    #[serde(rename = "for")]
    time: Option<String>,
    /// Back to what the configuration says, now.
    reset: bool,
    /// Open the files of the log anew.
    reopen: bool,
}

impl Change {
    fn read(content: Value) -> Result<Self, String> {
        let change: Self = Self::deserialize(content).map_err(|error| {
            format!(
                "{error}; for example {{\"level\": \"debug\", \"for\": \"10m\"}}, \
                 {{\"access\": \"json\"}}, {{\"reset\": true}} or {{\"reopen\": true}}"
            )
        })?;
        let changes = change.level.is_some() || change.access.is_some();
        if change.reset && changes {
            return Err("'reset' goes back to what is configured, and takes nothing else".into());
        }
        if change.time.is_some() && !changes {
            return Err("'for' says how long 'level' or 'access' last, and neither is there".into());
        }
        if change == Self::default() {
            return Err("it asks for nothing: level, access, reset or reopen".into());
        }
        Ok(change)
    }

    fn make(self) -> Result<(), String> {
        let time = match self.time.as_deref() {
            None => Some(telemetry::DEFAULT_CHANGE),
            Some("always") => None,
            Some(text) => Some(units::duration(text)?),
        };
        if self.reopen {
            telemetry::reopen();
        }
        if self.reset {
            telemetry::turn_back();
        } else if self.level.is_some() || self.access.is_some() {
            telemetry::change(self.level, self.access, time);
        }
        Ok(())
    }
}

/// What is logged now.
pub(super) fn shown() -> Response<Content> {
    match telemetry::state() {
        Some(state) => json(&state),
        None => text(StatusCode::NOT_FOUND, "this process has no log of its own"),
    }
}

/// Changes it as `content` says.
pub(super) fn change(content: Value) -> Response<Content> {
    match Change::read(content).and_then(Change::make) {
        Ok(()) => shown(),
        Err(why) => text(StatusCode::BAD_REQUEST, &why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_is_wrong_with_it() {
        let wrong = |content: &str| {
            let change = Change::read(serde_json::from_str(content).unwrap_or_default());
            change.err().unwrap_or_else(|| panic!("{content}"))
        };
        assert!(wrong("").contains("for example"));
        assert!(wrong("{\"level\": \"loud\"}").contains("`loud`"));
        assert!(wrong("{\"levl\": \"debug\"}").contains("`levl`"));
        assert!(wrong("{}").contains("nothing"));
        assert!(wrong("{\"for\": \"10m\"}").contains("neither"));
        assert!(wrong("{\"reset\": true, \"level\": \"debug\"}").contains("nothing else"));
        let change = Change::read(serde_json::json!({ "level": "debug", "for": "soon" })).unwrap();
        assert!(change.make().unwrap_err().contains("not a duration"));
    }
}
