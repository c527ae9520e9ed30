//! What is in the local caches: the hub's ([`hub`]), and what Koma unpacked and fetched itself ([`data`]).
//!
//! Must not know: what a model's files mean; [`outline`] says that. Invariant: nothing is fetched or unpacked; a model that
//! cannot be loaded is listed with the reason, and what is there in part is no model.

mod data;
mod hub;

use super::size;
use anyhow::Context;
pub(super) use data::list as list_data;
pub(super) use hub::list as list_hub;
use koma_engine::models::{LoadOptions, Outline, Source, outline};
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Folders in folders that are looked at: repositories have one or two levels.
const DEPTH: usize = 4;

/// A cache folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// By name.
    pub(super) models: Vec<Cached>,
    /// What takes up its disk besides.
    pub(super) others: Vec<Other>,
}

/// A model in a cache.
#[derive(Debug)]
pub(super) struct Cached {
    /// What to give `koma` to load it.
    pub(super) source: String,
    /// How it came there: `hub`, `S3`, `archive`.
    from: &'static str,
    /// The sources that it was unpacked or fetched as.
    origins: Vec<String>,
    /// Branches and tags that mean it.
    refs: Vec<String>,
    /// Of a repository.
    commit: Option<String>,
    path: PathBuf,
    /// Of its files.
    bytes: u64,
    /// Whether a file of the repository is there in part.
    unfinished: bool,
    outline: Result<Outline, String>,
}

/// What is no model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Other {
    /// In words, for one of them.
    what: &'static str,
    path: PathBuf,
    /// On the disk.
    bytes: u64,
}

/// What a model would be; its folder must hold the tokenizer too, which an outline does not read.
fn outlined(source: &Source, options: &LoadOptions) -> Result<Outline, String> {
    let found = outline(source, options).map_err(|error| error.to_string())?;
    match source {
        Source::Folder(path)
            if path.join("config.json").exists() && !path.join("tokenizer.json").exists() =>
        {
            Err(format!("{}: tokenizer.json is missing", path.display()))
        }
        _ => Ok(found),
    }
}

/// The files below `folder` with their sizes, links followed; a link to nothing counts nothing.
fn walk(folder: &Path, depth: usize, files: &mut Vec<(PathBuf, u64)>) -> anyhow::Result<()> {
    for path in entries(folder)? {
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() && depth > 0 => walk(&path, depth - 1, files)?,
            Ok(found) if found.is_file() => files.push((path, found.len())),
            _ => {}
        }
    }
    Ok(())
}

/// What is in `folder`, by name; nothing if it is not there.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| folder.display().to_string())?,
    };
    let mut paths: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

impl Folder {
    pub(super) fn json(&self) -> Value {
        let models: Vec<Value> = self.models.iter().map(Cached::json).collect();
        let others = self.others.iter();
        let others = others.map(|o| json!({"what": o.what, "path": o.path, "bytes": o.bytes}));
        let others: Vec<Value> = others.collect();
        json!({"folder": self.path, "models": models, "others": others})
    }

    /// A line for each kind of what is no model.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut kinds: Vec<(&str, usize, u64)> = Vec::new();
        for other in &self.others {
            match kinds.iter_mut().find(|kind| kind.0 == other.what) {
                Some((_, count, bytes)) => (*count, *bytes) = (*count + 1, *bytes + other.bytes),
                None => kinds.push((other.what, 1, other.bytes)),
            }
        }
        let line = |(what, count, bytes): (&str, usize, u64)| {
            format!("no models: {count} x {what}, {} on the disk", size(bytes))
        };
        kinds.into_iter().map(line).collect()
    }
}

impl Cached {
    pub(super) const HEAD: [&'static str; 7] = [
        "model",
        "from",
        "revision",
        "architecture",
        "format",
        "parameters",
        "size",
    ];

    pub(super) fn row(&self) -> [String; 7] {
        let commit = self.commit.clone();
        let commit = commit.unwrap_or_else(|| file_name(&self.path));
        let commit = commit.get(..8).unwrap_or(&commit);
        let revision = match self.refs.first() {
            Some(name) => format!("{name} {commit}"),
            None => commit.to_owned(),
        };
        let known = self.outline.as_ref().ok();
        let text = |of: fn(&Outline) -> String| known.map_or("-".to_owned(), of);
        [
            self.source.clone(),
            self.from.to_owned(),
            revision,
            text(|outline| outline.architecture.clone()),
            text(|outline| outline.format.clone()),
            text(|outline| format!("{:.1} M", outline.parameters as f64 / 1e6)),
            size(self.bytes),
        ]
    }

    /// Why it cannot be loaded, if so.
    pub(super) fn problem(&self) -> Option<String> {
        let reason = self.outline.as_ref().err()?;
        let unfinished = if self.unfinished {
            " (a download is unfinished)"
        } else {
            ""
        };
        Some(format!("{reason}{unfinished}"))
    }

    fn json(&self) -> Value {
        let known = self.outline.as_ref().ok();
        json!({
            "source": self.source,
            "from": self.from,
            "origins": self.origins,
            "refs": self.refs,
            "commit": self.commit,
            "path": self.path,
            "bytes": self.bytes,
            "architecture": known.map(|o| &o.architecture),
            "format": known.map(|o| &o.format),
            "parameters": known.map(|o| o.parameters),
            "weight_bytes": known.map(|o| o.weight_bytes),
            "max_model_len": known.map(|o| o.limits.max_len),
            "problem": self.problem(),
        })
    }
}

#[cfg(test)]
mod tests;
