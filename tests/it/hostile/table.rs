//! The table in `docs/security-tests.md`: written from what was run, and checked against the cases.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::corpus::Case;
use super::{Class, Sight};

const BEGIN: &str = "<!-- from here on written by the tests -->\n";
const END: &str = "<!-- up to here -->\n";

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security-tests.md")
}

/// Class by class, how many cases there are.
fn counts(cases: &[Case]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for case in cases {
        *counts.entry(case.class.as_str()).or_default() += 1;
    }
    counts
}

/// Writes what is between the marks.
pub(crate) fn write(cases: &[Case], sights: &[Sight]) {
    let document = std::fs::read_to_string(path()).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let text = format!("{before}{BEGIN}\n{}\n{END}{after}", table(cases, sights));
    std::fs::write(path(), text).unwrap();
}

fn table(cases: &[Case], sights: &[Sight]) -> String {
    let mut text = "| class | cases | countersign right |".to_owned();
    for sight in sights {
        let _ = write!(text, " {} {} right |", sight.name, sight.version);
    }
    let _ = write!(text, "\n|---|---|---|{}", "---|".repeat(sights.len()));
    let right = |sight: &Sight, class: &str| match sight.classes.get(class) {
        None => "not configured".to_owned(),
        Some(Class { cases, wrong }) => format!("{} of {cases}", cases - wrong.len()),
    };
    for (class, count) in counts(cases) {
        let _ = write!(text, "\n| {class} | {count} | {count} |");
        for sight in sights {
            let _ = write!(text, " {} |", right(sight, class));
        }
    }
    let _ = write!(text, "\n| **all** | {0} | {0} |", cases.len());
    for sight in sights {
        let run: usize = sight.classes.values().map(|class| class.cases).sum();
        let wrong: usize = sight.classes.values().map(|class| class.wrong.len()).sum();
        let _ = write!(text, " {} of {run} |", run - wrong);
    }
    for sight in sights {
        let (name, version) = (sight.name, &sight.version);
        let _ = write!(
            text,
            "\n\n<details>\n<summary>What went wrong with {name} {version}, and the first thing that \
             was wrong with it</summary>\n"
        );
        for (class, Class { wrong, .. }) in &sight.classes {
            for (name, faults) in wrong {
                let fault = faults.first().map_or("", String::as_str);
                let fault: String = fault.chars().take(120).collect();
                let _ = write!(text, "\n- {class}: {name}. `{}`", fault.replace('`', "'"));
            }
        }
        text.push_str("\n\n</details>");
    }
    text.push('\n');
    text
}

/// Checks that the document counts the cases that there are.
pub(crate) fn check(cases: &[Case]) {
    let document = std::fs::read_to_string(path()).unwrap();
    let (_, rest) = document.split_once(BEGIN).unwrap();
    let (table, _) = rest.split_once(END).unwrap();
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, class, cases, right, ..] = cells[..] else { return None };
        Some((class, (cases.parse::<usize>().ok()?, right.parse::<usize>().ok()?)))
    });
    let written: BTreeMap<&str, (usize, usize)> = rows.collect();
    let mut expected: BTreeMap<&str, (usize, usize)> =
        counts(cases).into_iter().map(|(class, count)| (class, (count, count))).collect();
    expected.insert("**all**", (cases.len(), cases.len()));
    assert_eq!(
        written, expected,
        "docs/security-tests.md: write it anew with COUNTERSIGN_HOSTILE_TABLE=1"
    );
}
