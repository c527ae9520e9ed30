//! Where results go: text to standard output and JSON to a file, or JSON alone.

use anyhow::Context;
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// Writes a result: `text` to standard output and the JSON to a file, if there is one; the JSON alone for `-`.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(path: Option<&Path>, json: &Value, text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let json = || serde_json::to_string_pretty(json).context("the result as JSON");
    match path {
        Some(path) if path == Path::new("-") => writeln!(out, "{}", json()?)?,
        Some(path) => {
            std::fs::write(path, json()? + "\n")
                .with_context(|| format!("--json: {} cannot be written", path.display()))?;
            write!(out, "{text}")?;
        }
        None => write!(out, "{text}")?,
    }
    Ok(())
}
