//! `POST /api/reload`, and what `/api/status` says of the last reload.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{Response, StatusCode};
use serde::Serialize;

use super::answer::{Content, json};
use super::sight::seconds;
use crate::control::{Outcome, Refusal, Reload};

/// A reload, as it is sent.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// When it ended, in seconds since 1970.
    at_s: f64,
    ago_s: f64,
    /// Who asked for it: "signal", "file" or "admin".
    cause: &'static str,
    /// "unchanged", "taken" or "refused".
    outcome: &'static str,
    changes: Vec<String>,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    message: String,
    line: Option<usize>,
    column: Option<usize>,
    hint: Option<String>,
    /// What `countersign check` prints of it.
    report: String,
}

impl Shown {
    /// How a reload is shown at `now`.
    pub(super) fn of(reload: &Reload, now: SystemTime) -> Self {
        let (changes, problems) = match &reload.outcome {
            Outcome::Unchanged => Default::default(),
            Outcome::Taken { changes } => (changes.clone(), Vec::new()),
            Outcome::Refused { problems } => {
                (Vec::new(), problems.iter().map(Problem::from).collect())
            }
        };
        Self {
            at_s: seconds(reload.at.duration_since(UNIX_EPOCH).unwrap_or_default()),
            ago_s: seconds(now.duration_since(reload.at).unwrap_or_default()),
            cause: reload.cause.word(),
            outcome: reload.outcome.word(),
            changes,
            problems,
        }
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let (line, column) = refusal.place.unzip();
        Self {
            message: refusal.message.clone(),
            line,
            column,
            hint: refusal.hint.clone(),
            report: refusal.report.clone(),
        }
    }
}

/// The answer to whoever asked for it.
pub(super) fn answer(reload: &Reload, now: SystemTime) -> Response<Content> {
    let mut response = json(&Shown::of(reload, now));
    if let Outcome::Refused { .. } = reload.outcome {
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    }
    response
}
