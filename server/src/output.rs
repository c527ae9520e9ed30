//! What commands say: results on standard output, remarks on standard error.
//!
//! Must not know: what is said. Invariant: a reader that closes standard output ends the command quietly, as [`Closed`].

use anyhow::Context;
use serde_json::Value;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(crate) struct Closed;

/// Writes `text` to standard output, now.
///
/// # Errors
/// [`Closed`], or what the system says.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// As [`print()`], for bytes.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("standard output"),
    }
}

/// Writes a result: `text` to standard output and the JSON to a file, if there is one; the JSON alone for `-`.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write(path: Option<&Path>, json: &Value, text: &str) -> anyhow::Result<()> {
    let json = || serde_json::to_string_pretty(json).context("the result as JSON");
    match path {
        Some(path) if path == Path::new("-") => print(&(json()? + "\n")),
        Some(path) => {
            std::fs::write(path, json()? + "\n")
                .with_context(|| format!("--json: {} cannot be written", path.display()))?;
            print(text)
        }
        None => print(text),
    }
}

/// Writes a remark to standard error. Nothing is left to do if that is closed.
pub(crate) fn note(text: &str) {
    let _ = write!(std::io::stderr(), "{text}");
}

/// Rows of equal length as lines of aligned columns: the first to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        format!("  {}\n", cells.join("   "))
    };
    rows.iter().map(line).collect()
}

/// `text` in one line and at most `most` characters, for a table or a heading; control characters become spaces.
pub(crate) fn clip(text: &str, most: usize) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut clipped: String = text.chars().map(plain).take(most).collect();
    if text.chars().nth(most).is_some() {
        clipped.pop();
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["model", "len"]), row(["a", "2048"])]);
        assert_eq!(text, "  model    len\n  a       2048\n");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn clipped_text_is_one_line_of_so_many_characters() {
        assert_eq!(clip("häagen\n\u{1b}[1m", 20), "häagen  [1m");
        assert_eq!(clip("häagen", 6), "häagen");
        assert_eq!(clip("häagen", 5), "häag…");
        assert_eq!(clip("", 5), "");
    }
}
