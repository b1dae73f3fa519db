//! Tables for people: columns as wide as what is in them, lines no longer than the terminal.

use std::fmt::Write as _;

use anstyle::Style;

use super::output::{STRONG, styled};
use crate::telemetry::harmful::is_harmful;

/// What is between two columns.
const GAP: usize = 2;
/// A column that is not the last takes no more than this.
const WIDEST: usize = 40;
/// The sign that there was more.
pub(super) const CUT: char = '\u{2026}';
/// The last column keeps this much of a terminal, however narrow.
const LEAST: usize = 12;

/// What stands in one place of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    style: Option<Style>,
    right: bool,
}

impl Cell {
    /// Text, from the left. What a terminal would obey is taken out of it.
    pub(super) fn text(text: &str) -> Self {
        Self { text: visible(text), ..Self::default() }
    }

    /// A number or a time, to the right.
    pub(super) fn number(text: impl Into<String>) -> Self {
        Self { text: text.into(), right: true, ..Self::default() }
    }

    /// What is not there, where a number would be.
    pub(super) fn none() -> Self {
        Self::number("-")
    }

    pub(super) fn in_style(self, style: Style) -> Self {
        Self { style: Some(style), ..self }
    }
}

/// The table under its `head`, each line no longer than `width` if there is one.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: &[[Cell; N]],
    width: Option<usize>,
) -> String {
    let right =
        |column: usize| rows.iter().any(|row| row.get(column).is_some_and(|cell| cell.right));
    let mut titles: Vec<Cell> = head.iter().map(|title| Cell::text(title)).collect();
    for (column, title) in titles.iter_mut().enumerate() {
        title.right = right(column);
    }
    let mut widths = [0; N];
    let lines = std::iter::once(titles.as_slice()).chain(rows.iter().map(<[Cell; N]>::as_slice));
    for line in lines {
        for (column, (widest, cell)) in widths.iter_mut().zip(line).enumerate() {
            let length = cell.text.chars().count();
            let most = if column + 1 < N { WIDEST } else { usize::MAX };
            *widest = (*widest).max(length).min(most);
        }
    }
    fit(width, &mut widths);
    let mut text = String::new();
    let _ = writeln!(text, "{}", styled(STRONG, line(&titles, &widths, false)));
    for row in rows {
        let _ = writeln!(text, "{}", line(row, &widths, true));
    }
    text
}

/// Takes from the last column first, then from the first, which is a name.
fn fit<const N: usize>(width: Option<usize>, widths: &mut [usize; N]) {
    let Some(width) = width else { return };
    let mut excess =
        (widths.iter().sum::<usize>() + GAP * N.saturating_sub(1)).saturating_sub(width);
    for place in [N.saturating_sub(1), 0] {
        if let Some(column) = widths.get_mut(place) {
            let spare = column.saturating_sub(LEAST).min(excess);
            *column -= spare;
            excess -= spare;
        }
    }
}

fn line(cells: &[Cell], widths: &[usize], in_colour: bool) -> String {
    let mut line = String::new();
    let last = cells.len().saturating_sub(1);
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let text = cut(&cell.text, *width);
        let padding = " ".repeat(width.saturating_sub(text.chars().count()));
        let text = match cell.style {
            Some(style) if in_colour => styled(style, text),
            _ => text,
        };
        if cell.right {
            line.push_str(&padding);
        }
        line.push_str(&text);
        if column < last {
            if !cell.right {
                line.push_str(&padding);
            }
            line.push_str(&" ".repeat(GAP));
        }
    }
    line.trim_end().to_owned()
}

/// No more than `width` characters of `text`, the last one a sign that there were more.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(std::iter::once(CUT)).collect()
}

/// `text` without characters that a terminal would obey, or that turn what follows around.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(|c| if is_harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// How wide the terminal is that standard output goes to; `None` if it goes elsewhere.
pub(super) fn terminal_width() -> Option<usize> {
    use std::io::IsTerminal as _;
    if !std::io::stdout().is_terminal() {
        return None;
    }
    #[cfg(unix)]
    let width = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col);
    #[cfg(not(unix))]
    let width: Option<u16> = None;
    width.filter(|width| *width > 0).map(usize::from)
}

#[cfg(test)]
mod tests {
    use super::super::output::BAD;
    use super::*;

    fn shown(width: Option<usize>) -> Vec<String> {
        let row = |name: &str, ends: &str, error: &str| {
            [Cell::text(name), Cell::number(ends).in_style(BAD), Cell::text(error)]
        };
        let rows = vec![
            row("plant", "50 min", ""),
            row(
                "a-name-that-is-long",
                "-",
                "the endpoint says\u{1b}[2J no, and goes on to say why",
            ),
        ];
        let text = table(["NAME", "ENDS IN", "ERROR"], &rows, width);
        let text = anstream::adapter::strip_str(&text).to_string();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_nothing_is_obeyed() {
        let long =
            "a-name-that-is-long        -  the endpoint says\u{fffd}[2J no, and goes on to say why";
        assert_eq!(
            shown(None),
            ["NAME                 ENDS IN  ERROR", "plant                 50 min", long,]
        );
    }

    #[test]
    fn lines_fit_a_terminal_and_say_that_they_were_cut() {
        let lines = shown(Some(50));
        assert!(lines.iter().all(|line| line.chars().count() <= 50), "{lines:#?}");
        assert!(lines[2].ends_with('\u{2026}') && lines[2].starts_with("a-name-that-is-long"));
        let narrow = shown(Some(36));
        assert!(narrow.iter().all(|line| line.chars().count() <= 36), "{narrow:#?}");
        assert!(narrow[2].starts_with("a-name-that-\u{2026}"), "{narrow:#?}");
    }

    #[test]
    fn what_turns_text_around_is_shown_as_a_sign_of_its_own() {
        assert_eq!(visible("a\u{202e}b\u{7}c\u{9b}d"), "a\u{fffd}b\u{fffd}c\u{fffd}d");
        for harmful in ['\u{61c}', '\u{2028}', '\u{2029}', '\u{feff}'] {
            assert_eq!(visible(&format!("a{harmful}b")), "a\u{fffd}b");
        }
    }
}
