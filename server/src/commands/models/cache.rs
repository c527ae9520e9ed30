//! The hub's cache folders: `models--OWNER--NAME/snapshots/COMMIT/`, with links into `blobs/` and names in `refs/`.
//!
//! Must not know: what a model's files mean; [`outline`] says that. Invariant: nothing is written and nothing is fetched; a
//! model that cannot be loaded is listed with the reason.

use super::size;
use anyhow::Context;
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
}

/// A model in a cache.
#[derive(Debug)]
pub(super) struct Cached {
    /// What to give `koma` to load it.
    pub(super) source: String,
    /// Branches and tags that mean it.
    refs: Vec<String>,
    commit: String,
    path: PathBuf,
    /// Of its files.
    bytes: u64,
    /// Whether a file of the repository is there in part.
    unfinished: bool,
    outline: Result<Outline, String>,
}

/// Lists the models in the cache `path`; a folder that is not there is empty.
///
/// # Errors
/// If it cannot be read.
pub(super) fn list(path: &Path) -> anyhow::Result<Folder> {
    let mut models = Vec::new();
    for repo in entries(path)? {
        let name = file_name(&repo);
        let Some(name) = name.strip_prefix("models--") else {
            continue;
        };
        repository(&repo, &name.replacen("--", "/", 1), &mut models)?;
    }
    models.sort_by(|a, b| (&a.source, &a.commit).cmp(&(&b.source, &b.commit)));
    let path = path.to_owned();
    Ok(Folder { path, models })
}

fn repository(repo: &Path, name: &str, models: &mut Vec<Cached>) -> anyhow::Result<()> {
    let blobs = entries(&repo.join("blobs"))?;
    let unfinished = blobs
        .iter()
        .any(|blob| blob.extension().is_some_and(|end| end == "incomplete"));
    let refs = refs(&repo.join("refs"))?;
    for snapshot in entries(&repo.join("snapshots"))? {
        if !snapshot.is_dir() {
            continue;
        }
        let commit = file_name(&snapshot);
        let refs: Vec<String> = refs
            .iter()
            .filter(|(_, of)| *of == commit)
            .map(|(name, _)| name.clone())
            .collect();
        let mut found = snapshot_models(&snapshot, name, &refs)?;
        for model in &mut found {
            model.unfinished = unfinished;
        }
        models.append(&mut found);
    }
    Ok(())
}

/// The models of a snapshot: each GGUF file (of a split one the first part stands for all), and the folder if it holds
/// anything else.
fn snapshot_models(snapshot: &Path, name: &str, refs: &[String]) -> anyhow::Result<Vec<Cached>> {
    let mut files = Vec::new();
    walk(snapshot, DEPTH, &mut files)?;
    let is_gguf = |path: &Path| {
        path.extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
    };
    let (gguf, other): (Vec<_>, Vec<_>) = files.into_iter().partition(|(path, _)| is_gguf(path));
    let model = |source: String, path: &Path, bytes: u64, from: Source| Cached {
        source,
        refs: refs.to_vec(),
        commit: file_name(snapshot),
        path: path.to_owned(),
        bytes,
        unfinished: false,
        outline: read(&from),
    };
    let mut models = Vec::new();
    for (path, bytes) in &gguf {
        let bytes = match part(path) {
            Some((_, number)) if number != 1 => continue,
            Some((stem, _)) => {
                let same = |(path, _): &&(PathBuf, u64)| part(path).is_some_and(|(s, _)| s == stem);
                gguf.iter().filter(same).map(|(_, bytes)| bytes).sum()
            }
            None => *bytes,
        };
        let source = path.to_string_lossy().into_owned();
        models.push(model(source, path, bytes, Source::Gguf(path.clone())));
    }
    let weights = |path: &Path| path.extension().is_some_and(|end| end == "safetensors");
    if gguf.is_empty() || other.iter().any(|(path, _)| weights(path)) {
        let source = match refs {
            refs if refs.iter().any(|name| name == "main") => name.to_owned(),
            [first, ..] => format!("{name}@{first}"),
            [] => format!("{name}@{}", file_name(snapshot)),
        };
        let bytes = other.iter().map(|(_, bytes)| bytes).sum();
        let from = Source::Folder(snapshot.to_owned());
        models.push(model(source, snapshot, bytes, from));
    }
    Ok(models)
}

/// Stem and number of a part of a split GGUF file, `STEM-00002-of-00003.gguf`.
fn part(path: &Path) -> Option<(String, u32)> {
    let stem = path.with_extension("");
    let (rest, count) = stem.to_str()?.rsplit_once("-of-")?;
    let (rest, number) = rest.rsplit_once('-')?;
    let number = number.parse().ok()?;
    Some((format!("{rest}-of-{count}"), number))
}

fn read(source: &Source) -> Result<Outline, String> {
    outline(source, &LoadOptions::default()).map_err(|error| error.to_string())
}

/// Branches and tags with their commits.
fn refs(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    walk(folder, DEPTH, &mut files)?;
    let one = |(path, _): &(PathBuf, u64)| {
        let name = path.strip_prefix(folder).ok()?.to_str()?.to_owned();
        let commit = fs::read_to_string(path).ok()?;
        Some((name, commit.trim().to_owned()))
    };
    Ok(files.iter().filter_map(one).collect())
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
        json!({"folder": self.path, "models": models})
    }
}

impl Cached {
    pub(super) const HEAD: [&'static str; 6] = [
        "model",
        "revision",
        "architecture",
        "format",
        "parameters",
        "size",
    ];

    pub(super) fn row(&self) -> [String; 6] {
        let commit = self.commit.get(..8).unwrap_or(&self.commit);
        let revision = match self.refs.first() {
            Some(name) => format!("{name} {commit}"),
            None => commit.to_owned(),
        };
        let known = self.outline.as_ref().ok();
        let text = |of: fn(&Outline) -> String| known.map_or("-".to_owned(), of);
        [
            self.source.clone(),
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
