//! The documents: links lead somewhere, what is generated is current, what is shown is so.

pub(crate) mod page;

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use page::{Page, top};

/// `path` without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(plain.pop(), "{}: out of the top", path.display()),
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    plain
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let pages = Page::all();
    let anchors: HashMap<&Path, Vec<String>> =
        pages.iter().map(|page| (page.path.as_path(), page.anchors())).collect();
    let (mut looked_at, mut anchored, mut broken) = (0, 0, Vec::new());
    for page in &pages {
        for (line, target) in page.links() {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            looked_at += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() {
                page.path.clone()
            } else {
                plain(&page.path.parent().unwrap().join(file))
            };
            let heading =
                || anchors.get(file.as_path()).is_some_and(|a| a.iter().any(|a| a == anchor));
            anchored += usize::from(!anchor.is_empty());
            if !top().join(&file).exists() || !anchor.is_empty() && !heading() {
                broken.push(format!("{}:{line}: {target}", page.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "these lead nowhere:\n{}", broken.join("\n"));
    assert!(looked_at > 200 && anchored > 100, "{looked_at} links, {anchored} to headings");
}

/// mdBook turns them into links to pages that it does not make.
#[test]
fn no_page_of_the_book_links_to_a_page_outside_of_it() {
    let (mut looked_at, mut outside) = (0, Vec::new());
    for page in Page::all().iter().filter(|page| page.path.starts_with("docs")) {
        for (line, target) in page.links() {
            let (file, _) = target.split_once('#').unwrap_or((&target, ""));
            let is_page = Path::new(file).extension().is_some_and(|ending| ending == "md");
            if target.contains("://") || !is_page {
                continue;
            }
            looked_at += 1;
            if !plain(&page.path.parent().unwrap().join(file)).starts_with("docs") {
                outside.push(format!("{}:{line}: {target}", page.path.display()));
            }
        }
    }
    assert!(outside.is_empty(), "name these instead:\n{}", outside.join("\n"));
    assert!(looked_at > 100, "{looked_at}");
}

#[test]
fn the_summary_of_the_book_lists_every_page_once() {
    let listed: Vec<PathBuf> = Page::read("docs/SUMMARY.md")
        .links()
        .into_iter()
        .map(|(_, target)| target.into())
        .collect();
    let pages: BTreeSet<PathBuf> = Page::all()
        .into_iter()
        .filter_map(|page| page.path.strip_prefix("docs").map(Path::to_path_buf).ok())
        .filter(|page| page != Path::new("SUMMARY.md"))
        .collect();
    assert!(pages.len() > 15, "{pages:?}");
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), pages);
    assert_eq!(listed.len(), pages.len(), "one is listed twice");
}

/// Where `COUNTERSIGN_UPDATE_DOCS` is set, the page is written anew instead.
fn is_current(path: &str, arguments: &[&str]) {
    let made = Command::new(env!("CARGO_BIN_EXE_countersign")).args(arguments).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let made = String::from_utf8(made.stdout).unwrap();
    if std::env::var_os("COUNTERSIGN_UPDATE_DOCS").is_some() {
        std::fs::write(top().join(path), &made).unwrap();
    }
    let kept = Page::read(path).text;
    let differs = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
    assert!(
        kept == made,
        "{path} is not what `countersign {}` prints; write it anew with \
         COUNTERSIGN_UPDATE_DOCS=1 cargo test --test it docs::\nthe first line that differs: \
         {differs:#?}",
        arguments.join(" ")
    );
}

#[test]
fn the_reference_of_all_keys_is_current() {
    is_current("docs/reference.md", &["schema", "--markdown"]);
}

#[test]
fn the_reference_of_all_commands_is_current() {
    is_current("docs/commands.md", &["man", "--markdown"]);
}

/// Those that begin with a comment that is the name of a file are meant to be saved as it is.
#[test]
fn complete_configurations_in_the_documents_load_without_a_problem() {
    let mut loaded = 0;
    for page in Page::all() {
        for block in page.blocks() {
            if block.info != "toml" || !block.text.starts_with("# countersign.toml\n") {
                continue;
            }
            let outcome = countersign::config::load(&block.text, &|_| None);
            let at = format!("{}:{}", page.path.display(), block.line);
            assert!(outcome.problems.is_empty(), "{at}: {:#?}", outcome.problems);
            assert!(outcome.config.is_some(), "{at}");
            loaded += 1;
        }
    }
    assert!(loaded >= 4, "{loaded}");
}

/// Each word of an answer, and each anchor that an alert leads to.
#[test]
fn troubleshooting_knows_every_answer_and_every_alert() {
    let troubleshooting = Page::read("docs/troubleshooting.md");
    let answers = Page::read("docs/responses.md").text;
    let words: BTreeSet<&str> = answers
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(_, rest)| rest.starts_with(['4', '5']))
        .map(|(word, _)| word)
        .collect();
    assert!(words.len() > 35, "{words:?}");
    let unknown: Vec<&str> = words
        .into_iter()
        .filter(|word| !troubleshooting.text.contains(&format!("`{word}`")))
        .collect();
    assert!(unknown.is_empty(), "docs/troubleshooting.md does not know {unknown:?}");

    let anchors = troubleshooting.anchors();
    let mut alerts: BTreeSet<String> = [
        "token-about-to-end",
        "credential-failing",
        "devices-failing",
        "error-share",
        "upstream-errors",
        "clock-skew",
        "reload-refused",
        "gate-closed",
        "not-ready",
    ]
    .map(str::to_owned)
    .into();
    for entry in std::fs::read_dir(top().join("deploy")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for after in text.split("troubleshooting.md#").skip(1) {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
            alerts.insert(after[..end.unwrap_or(after.len())].to_owned());
        }
    }
    let missing: Vec<&String> = alerts.iter().filter(|alert| !anchors.contains(alert)).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md has no {missing:?}");
}
