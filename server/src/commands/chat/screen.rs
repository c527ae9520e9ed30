//! [`Screen`]: replies on standard output, remarks on standard error.
//!
//! Invariant: at a terminal no control character of a reply gets through (a model's text must not move the cursor or set the
//! title); into a pipe a reply goes as it is. Colours only at a terminal that wants them.

use crate::output;
use std::borrow::Cow;
use std::io::IsTerminal;

const DIM: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

pub(super) struct Screen {
    at_terminal: bool,
    dim: bool,
    /// Whether the text of a reply stands at the start of a line.
    at_start: bool,
}

impl Screen {
    pub(super) fn new(at_terminal: bool, color: bool) -> Self {
        Self {
            at_terminal,
            dim: color && std::io::stderr().is_terminal(),
            at_start: true,
        }
    }

    /// Part of a reply.
    ///
    /// # Errors
    /// As [`output::print`].
    pub(super) fn text(&mut self, text: &str) -> anyhow::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.at_start = text.ends_with('\n');
        if self.at_terminal {
            output::print(&visible(text))
        } else {
            output::print(text)
        }
    }

    /// A reply ends with a line's end.
    ///
    /// # Errors
    /// As [`output::print`].
    pub(super) fn end_of_text(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.at_start, true) {
            return Ok(());
        }
        output::print("\n")
    }

    /// Something about the conversation; lines without an end.
    pub(super) fn remark(&self, text: &str) {
        let text = visible(text);
        output::note(&if self.dim {
            format!("{DIM}{text}{PLAIN}\n")
        } else {
            format!("{text}\n")
        });
    }
}

/// `text` with control characters, apart from tab and line's end, shown as what they are.
fn visible(text: &str) -> Cow<'_, str> {
    let control = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if control(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_sent() {
        assert_eq!(visible("häagen\tdazs\n"), "häagen\tdazs\n");
        assert_eq!(
            visible("a\u{1b}[2Jb\r\u{9b}\u{7f}"),
            "a\\u{1b}[2Jb\\r\\u{9b}\\u{7f}"
        );
    }
}
