//! `koma models`: what a running server has loaded, and what is in the local caches.
//!
//! Owns: what is shown of it. Must not know: how a cache is laid out ([`cache`]), what a server says ([`served`]).

mod cache;
mod served;

use super::start;
use crate::config::ModelsConfig;
use crate::output::{self, table};
use cache::{Cached, Folder};
use serde_json::{Value, json};
use served::Served;
use std::fmt::Write;

/// Prints both lists.
///
/// # Errors
/// If the server does not answer, or a folder cannot be read.
pub(crate) fn models(config: &ModelsConfig) -> anyhow::Result<()> {
    let served = match &config.url {
        Some(url) => {
            let asked = served::ask(url, config.api_key.as_ref());
            Some((url, start::runtime()?.block_on(asked)?))
        }
        None => None,
    };
    let hubs = config.caches.iter().map(|path| cache::list_hub(path));
    let data = config.data.iter().map(|path| cache::list_data(path));
    let folders = hubs.chain(data).collect::<anyhow::Result<Vec<Folder>>>()?;
    if config.json {
        let served = served.map(|(url, models)| {
            json!({"url": url, "models": models.iter().map(Served::json).collect::<Vec<_>>()})
        });
        let cached: Vec<Value> = folders.iter().map(Folder::json).collect();
        let all = json!({"server": served, "cached": cached});
        return output::print(&format!("{all:#}\n"));
    }
    let mut text = String::new();
    if let Some((url, models)) = served {
        // Writing to a String does not fail.
        let _ = writeln!(text, "at {url}");
        text += &table(&rows(&Served::HEAD, models.iter().map(Served::row)));
        text.push('\n');
    }
    for folder in &folders {
        show(folder, &mut text);
    }
    output::print(&text)
}

fn show(folder: &Folder, text: &mut String) {
    let path = folder.path.display();
    let remarks = folder.remarks();
    if folder.models.is_empty() && remarks.is_empty() {
        // Writing to a String does not fail.
        let _ = writeln!(text, "nothing in {path}");
        return;
    }
    let _ = writeln!(text, "in {path}");
    if !folder.models.is_empty() {
        let models = folder.models.iter().map(Cached::row);
        text.push_str(&table(&rows(&Cached::HEAD, models)));
    }
    for model in &folder.models {
        if let Some(problem) = model.problem() {
            let _ = writeln!(text, "  {}: {problem}", model.source);
        }
    }
    for remark in remarks {
        let _ = writeln!(text, "  {remark}");
    }
}

fn rows<const N: usize>(
    head: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Vec<Vec<String>> {
    let head = head.map(str::to_owned).to_vec();
    std::iter::once(head)
        .chain(rows.map(|row| row.to_vec()))
        .collect()
}

/// Bytes for people; `-` for none.
fn size(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    match bytes as f64 / MIB {
        0.0 => "-".to_owned(),
        mib if mib >= 1024.0 => format!("{:.1} GiB", mib / 1024.0),
        mib => format!("{mib:.1} MiB"),
    }
}
