//! What commands say: results on standard output, remarks on standard error.
//!
//! Must not know: what is said. Invariant: a reader that closes standard output ends the command quietly, as [`Closed`].

use anyhow::Context;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

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

/// Where a result goes. A place that cannot be written to is an error before anything is measured.
#[derive(Debug)]
pub(crate) enum Results {
    /// The text to standard output.
    Text,
    /// The JSON to standard output.
    Json,
    /// The text to standard output and the JSON to a file, which gets its name when it is whole.
    File(PathBuf),
    /// The same to a device or a pipe, which is open.
    Device(PathBuf, File),
}

impl Results {
    /// `path`: of the JSON; `-` is standard output, without the text.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::Text);
        };
        if path == Path::new("-") {
            return Ok(Self::Json);
        }
        // Behind links, which shall stay.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            let file = OpenOptions::new().write(true).open(&path);
            let file = file.with_context(|| unwritable(&path))?;
            return Ok(Self::Device(path, file));
        }
        // Gone at once: nothing is left if the measurement is given up.
        beside(&path).with_context(|| unwritable(&path))?;
        Ok(Self::File(path))
    }

    /// Writes the result. The text is printed even if the JSON cannot be written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(self, json: &Value, text: &str) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(json).context("the result as JSON")? + "\n";
        let (path, written) = match self {
            Self::Text => return print(text),
            Self::Json => return print(&json),
            Self::Device(path, mut file) => (path, file.write_all(json.as_bytes())),
            Self::File(path) => {
                let written = beside(&path).and_then(|mut new| {
                    new.write_all(json.as_bytes())?;
                    new.persist(&path).map(drop).map_err(|error| error.error)
                });
                (path, written)
            }
        };
        print(text)?;
        written.with_context(|| unwritable(&path))
    }
}

/// A new file in the folder of `path`.
fn beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    tempfile::Builder::new()
        .prefix(".koma-")
        .permissions(PermissionsExt::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
}

fn unwritable(path: &Path) -> String {
    format!("--json: {} cannot be written", path.display())
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
    fn a_result_gets_its_name_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        std::fs::write(&path, "old").unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        let count = || std::fs::read_dir(folder.path()).unwrap().count();
        // Until there is a result nothing changes.
        let _given_up = Results::open(Some(&path)).unwrap();
        assert_eq!((read().as_str(), count()), ("old", 1));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let results = Results::open(Some(&link)).unwrap();
        assert_eq!(read(), "old");
        results.write(&serde_json::json!({"a": 1}), "").unwrap();
        assert_eq!(read(), "{\n  \"a\": 1\n}\n");
        assert!(link.is_symlink() && count() == 2);
        // A device stays one.
        let null = Path::new("/dev/null");
        let results = Results::open(Some(null)).unwrap();
        results.write(&Value::Null, "").unwrap();
        assert!(!std::fs::metadata(null).unwrap().is_file());
        for wrong in ["none/result.json", ""] {
            let error = Results::open(Some(&folder.path().join(wrong))).unwrap_err();
            let error = format!("{error:#}");
            assert!(
                error.contains("--json: ") && error.contains("cannot be written: "),
                "{error}"
            );
        }
        assert_eq!(count(), 2);
    }

    #[test]
    fn clipped_text_is_one_line_of_so_many_characters() {
        assert_eq!(clip("häagen\n\u{1b}[1m", 20), "häagen  [1m");
        assert_eq!(clip("häagen", 6), "häagen");
        assert_eq!(clip("häagen", 5), "häag…");
        assert_eq!(clip("", 5), "");
    }
}
