//! How far a long command is, on a terminal: one line that is written over.

use std::io::{IsTerminal as _, Write as _};

/// How many of so many are done.
pub(super) struct Progress {
    what: &'static str,
    done: usize,
    of: usize,
    /// Nothing is shown where nobody looks, or where there is only one.
    shown: bool,
}

impl Progress {
    pub(super) fn of(what: &'static str, of: usize) -> Self {
        let shown = of > 1 && std::io::stderr().is_terminal();
        Self { what, done: 0, of, shown }
    }

    /// One more is done.
    pub(super) fn step(&mut self) {
        self.done += 1;
        self.show();
    }

    /// Shows how far it is.
    pub(super) fn show(&self) {
        if self.shown && self.done < self.of {
            self.write(&self.line());
        }
    }

    /// Makes place for a line of something else.
    pub(super) fn clear(&self) {
        if self.shown {
            self.write("\r\x1b[K");
        }
    }

    fn line(&self) -> String {
        format!("\r\x1b[K{} of {} {}\u{2026}", self.done, self.of, self.what)
    }

    #[expect(clippy::unused_self, reason = "it is where this one is shown")]
    fn write(&self, text: &str) {
        let mut err = std::io::stderr().lock();
        // There is nowhere left to complain to.
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_is_done() {
        let mut progress = Progress { what: "routes", done: 0, of: 3, shown: false };
        progress.step();
        progress.step();
        assert_eq!(progress.line(), "\r\x1b[K2 of 3 routes\u{2026}");
    }
}
