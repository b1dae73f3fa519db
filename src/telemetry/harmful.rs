//! Characters that do harm where text of somebody else's is shown.

/// True for what ends lines, speaks to terminals, turns the direction of writing, or cannot be seen
/// and is no part of any writing.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
        )
}
