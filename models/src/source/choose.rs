//! What of a repository or bucket is fetched: the files that loading reads, and no others.
//!
//! Owns: which names those are. Must not know: where they lie.

use super::folder::{is_archive, is_gguf, is_projector};
use super::mlflow::MLMODEL;
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// Names that an error shows before it counts the rest.
const SHOWN: usize = 10;

/// The words of a tokenizer, in files of old models.
const VOCAB: &str = "vocab.txt";

/// What to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// In order.
    pub(super) files: Vec<String>,
    /// The GGUF file to open, if it is one.
    pub(super) gguf: Option<String>,
}

/// Chooses from `names`. `wanted`: the name of a GGUF file, or its format (`Q4_K_M`).
///
/// # Errors
/// Why there is no model, or more than one, among them.
pub(super) fn choose(names: &[String], wanted: Option<&str>) -> Result<Choice, String> {
    let normal = |name: &str| {
        let mut parts = Path::new(name).components();
        parts.all(|part| matches!(part, Component::Normal(_)))
    };
    if let Some(name) = names.iter().find(|name| !normal(name)) {
        return Err(format!("`{name}` leads out of a folder"));
    }
    let has = |name: &str| names.iter().any(|n| n == name);
    if let Some(wanted) = wanted {
        return one_gguf(names, Some(wanted));
    }
    let at_root = |end: &str| {
        let ends = move |name: &&String| !name.contains('/') && name.ends_with(end);
        names.iter().filter(ends).cloned().collect::<BTreeSet<_>>()
    };
    let weights = weights(names);
    if has("config.json") && !weights.is_empty() {
        let mut files = weights;
        files.append(&mut at_root(".json"));
        files.append(&mut at_root(".jinja"));
        // Where it is all there is of a tokenizer.
        let words = Some(VOCAB.to_owned()).filter(|name| has(name) && !has("tokenizer.json"));
        files.extend(words);
        files.extend(module_files(names)?);
        let files = files.into_iter().collect();
        return Ok(Choice { files, gguf: None });
    }
    if has(MLMODEL) {
        let part = |name: &&String| {
            let inside = name.starts_with("model/") || name.starts_with("components/");
            let read = [".json", ".jinja", ".safetensors", VOCAB]
                .iter()
                .any(|end| name.ends_with(end));
            *name == MLMODEL || inside && read
        };
        let files = names.iter().filter(part).cloned().collect();
        return Ok(Choice { files, gguf: None });
    }
    if names.iter().any(|name| is_gguf(Path::new(name))) {
        return one_gguf(names, None);
    }
    let archives = names.iter().filter(|name| is_archive(Path::new(name)));
    match archives.collect::<Vec<_>>().as_slice() {
        [archive] => {
            let files = vec![(*archive).clone()];
            return Ok(Choice { files, gguf: None });
        }
        [] => {}
        several => return Err(format!("holds several archives: {}", list(several))),
    }
    if let Some(name) = names.iter().find(|name| is_pickle(name)) {
        return Err(format!(
            "holds its weights only as pickles (`{name}`), which can run code when they are read; convert it to safetensors once"
        ));
    }
    let lacks = if has("config.json") {
        "safetensors"
    } else {
        "config.json"
    };
    Err(format!(
        "holds no model: no {lacks}, no GGUF file and no archive"
    ))
}

/// The weights at the root: of the parts and the whole only what an index or the usual name stands for, since some
/// repositories hold them twice.
fn weights(names: &[String]) -> BTreeSet<String> {
    let all = names
        .iter()
        .filter(|n| !n.contains('/') && n.ends_with(".safetensors"));
    let all: BTreeSet<String> = all.cloned().collect();
    let kept = |wanted: &dyn Fn(&str) -> bool| -> BTreeSet<String> {
        all.iter().filter(|n| wanted(n)).cloned().collect()
    };
    if names.iter().any(|n| n == "model.safetensors.index.json") {
        let parts = kept(&|name| name.starts_with("model-"));
        return if parts.is_empty() { all } else { parts };
    }
    if all.contains("model.safetensors") {
        return kept(&|name| name == "model.safetensors");
    }
    all
}

/// Files of sentence-transformers' modules, which lie in folders such as `1_Pooling` and `2_Dense`.
fn module_files(names: &[String]) -> Result<Vec<String>, String> {
    let is_module = |folder: &str| {
        let number = folder.split_once('_').map_or("", |(number, _)| number);
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    let mut files = Vec::new();
    for name in names {
        let Some((folder, file)) = name.split_once('/') else {
            continue;
        };
        if !is_module(folder) || file.contains('/') {
            continue;
        }
        let safe = format!("{folder}/model.safetensors");
        if is_pickle(file) && !names.contains(&safe) {
            return Err(format!(
                "holds the weights of `{folder}` only as a pickle (`{name}`), which can run code when it is read; convert it to \
                 safetensors once"
            ));
        }
        if [".json", ".safetensors"]
            .iter()
            .any(|end| file.ends_with(end))
        {
            files.push(name.clone());
        }
    }
    Ok(files)
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".ckpt"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The one GGUF file that `wanted` means, with its parts if it is split.
fn one_gguf(names: &[String], wanted: Option<&str>) -> Result<Choice, String> {
    let all: Vec<&String> = names
        .iter()
        .filter(|name| is_gguf(Path::new(name)))
        .collect();
    let is_wanted = |name: &str| {
        if let Some(wanted) = wanted.filter(|wanted| is_gguf(Path::new(wanted))) {
            return whole(name) == whole(wanted);
        }
        if is_projector(Path::new(name)) {
            return false;
        }
        let Some(wanted) = wanted else { return true };
        let stem = whole(name).0.to_ascii_lowercase();
        let format = wanted.to_ascii_lowercase();
        stem.strip_suffix(&format)
            .is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_', '/']))
    };
    let mut files: Vec<&String> = all.iter().copied().filter(|name| is_wanted(name)).collect();
    files.sort();
    let kinds: BTreeSet<_> = files.iter().map(|name| whole(name)).collect();
    let hint = "name one as SOURCE:FILE.gguf or SOURCE:FORMAT";
    match (files.first(), kinds.len()) {
        (Some(first), 1) => Ok(Choice {
            gguf: Some((*first).clone()),
            files: files.iter().copied().cloned().collect(),
        }),
        (None, _) => {
            let what = wanted.unwrap_or("one");
            Err(format!(
                "holds no GGUF file `{what}`; it holds {}",
                list(&all)
            ))
        }
        (Some(_), _) => Err(format!(
            "holds several GGUF files ({hint}): {}",
            list(&files)
        )),
    }
}

/// What all parts of a split file have in common: `m-00001-of-00003.gguf` is one of the 00003 of `m`.
fn whole(name: &str) -> (&str, Option<&str>) {
    let stem = name.get(..name.len().saturating_sub(5)).unwrap_or(name);
    let part = stem
        .len()
        .checked_sub("-00001-of-00003".len())
        .and_then(|at| stem.split_at_checked(at));
    match part {
        Some((before, part)) if part.starts_with('-') && part.get(6..10) == Some("-of-") => {
            (before, part.get(10..))
        }
        _ => (stem, None),
    }
}

fn list(names: &[&String]) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN).map(|name| name.as_str()).collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match shown.as_slice() {
        [] => "none".to_owned(),
        shown => format!("{}{more}", shown.join(", ")),
    }
}
