//! The hub's cache folders: `models--OWNER--NAME/snapshots/COMMIT/`, with links into `blobs/` and names in `refs/`.

use super::{Cached, DEPTH, Folder, Other, entries, file_name, outlined, walk};
use koma_engine::models::{LoadOptions, Source};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Lists the models in the cache `path`; a folder that is not there is empty.
///
/// # Errors
/// If it cannot be read.
pub(in super::super) fn list(path: &Path) -> anyhow::Result<Folder> {
    let mut folder = Folder {
        path: path.to_owned(),
        models: Vec::new(),
        others: Vec::new(),
    };
    for repo in entries(path)? {
        let name = file_name(&repo);
        let Some(name) = name.strip_prefix("models--") else {
            continue;
        };
        repository(&repo, &name.replacen("--", "/", 1), &mut folder)?;
    }
    let by_name = |a: &Cached, b: &Cached| (&a.source, &a.commit).cmp(&(&b.source, &b.commit));
    folder.models.sort_by(by_name);
    Ok(folder)
}

fn repository(repo: &Path, name: &str, folder: &mut Folder) -> anyhow::Result<()> {
    let mut unfinished = false;
    for path in entries(&repo.join("blobs"))? {
        if path.extension().is_none_or(|end| end != "incomplete") {
            continue;
        }
        unfinished = true;
        let bytes = fs::metadata(&path).map_or(0, |found| found.blocks() * 512);
        let what = "unfinished download";
        folder.others.push(Other { what, path, bytes });
    }
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
        folder.models.append(&mut found);
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
        from: "hub",
        origins: Vec::new(),
        commit: Some(file_name(snapshot)),
        path: path.to_owned(),
        bytes,
        unfinished: false,
        outline: outlined(&from, &LoadOptions::default()),
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
