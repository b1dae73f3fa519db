//! The table in docs/responses.md.

use std::collections::BTreeMap;

use super::outcome::{Outcome, Seen};

const TITLE: &str = "## When something fails";

/// Compares the rows about `who` with what was seen. All that differs is told at once, with the row
/// as it would be right.
pub(super) fn compare(who: &str, seen: Vec<Seen>) {
    let mut documented = rows(who);
    let mut wrong = Vec::new();
    for Seen { fault, outcomes, not_fine } in seen {
        for outcome in not_fine {
            wrong.push(format!("no part of the fault, or after it: {who}, {fault}: {outcome:?}"));
        }
        let row = documented.remove(fault);
        for outcome in outcomes {
            if row.as_ref().is_none_or(|row| !agrees(row, &outcome)) {
                let Outcome { status, word, error, retry_after, detail } = outcome;
                wrong.push(format!(
                    "seen, and documented otherwise or not at all:\n\
                     | {who} | {fault} | {status} | `{word}` | `{error}` | {retry_after} | {detail} |"
                ));
            }
        }
    }
    for fault in documented.keys() {
        wrong.push(format!("documented, and not looked at: {who}, {fault}"));
    }
    assert!(wrong.is_empty(), "docs/responses.md is wrong:\n{}", wrong.join("\n"));
}

/// The cells of a row behind `who` and the fault.
type Row = [String; 5];

fn rows(who: &str) -> BTreeMap<String, Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/responses.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split_once(TITLE).unwrap_or_else(|| panic!("no {TITLE}")).1;
    let section = section.split("\n## ").next().unwrap();
    // The first two lines are the head of the table.
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let mut rows = BTreeMap::new();
    for line in lines {
        let cells = line.trim_matches('|').split('|');
        let cells: Vec<String> = cells.map(|cell| cell.trim().replace('`', "")).collect();
        let [said, fault, row @ ..] = &cells[..] else { panic!("no row: {line}") };
        assert!(["upstream", "token endpoint"].contains(&&**said), "who is that: {line}");
        let row: Row = row.to_vec().try_into().unwrap_or_else(|_| panic!("seven cells: {line}"));
        if said == who {
            assert!(rows.insert(fault.clone(), row).is_none(), "twice: {line}");
        }
    }
    rows
}

fn agrees(row: &Row, seen: &Outcome) -> bool {
    let [status, word, error, retry_after, detail] = row;
    *status == seen.status
        && *word == seen.word
        && *error == seen.error
        && *retry_after == seen.retry_after
        && !detail.is_empty()
        && seen.detail.ends_with(&**detail)
}
