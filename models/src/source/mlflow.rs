//! `MLflow` models of the transformers flavor: weights in one folder, the tokenizer in another, and `MLmodel` to say so.
//!
//! Owns: where the parts lie. Must not know: what they mean. They are shown as one folder of links, nothing is copied.

use super::links;
use crate::LoadError;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// The file that describes a model.
pub(super) const MLMODEL: &str = "MLmodel";
const FLAVOR: &str = "flavors.transformers";
const WEIGHTS: &str = "flavors.transformers.model_binary";
const ORIGIN: &str = "flavors.transformers.source_model_name";
/// Changes the weights.
const ADAPTER: &str = "flavors.transformers.peft_adaptor";
/// Changes the prompts.
const TEMPLATE: &str = "metadata.prompt_template";

/// A folder of links to the parts of the model in `folder`, below the folder `cache`.
///
/// # Errors
/// [`LoadError::Config`] naming the field of `MLmodel` that is missing or not supported, [`LoadError::Io`].
pub(super) fn view(folder: &Path, cache: &Path) -> Result<PathBuf, LoadError> {
    let path = folder.join(MLMODEL);
    let text = std::fs::read_to_string(&path).map_err(|error| LoadError::Io {
        path: path.clone(),
        error,
    })?;
    let fields = fields(&text);
    let refuse = |field: &str, reason: String| LoadError::Config {
        path: path.clone(),
        field: field.to_owned(),
        reason,
    };
    if !fields.contains_key(FLAVOR) {
        let reason = "has no `transformers`, the one flavor that is supported".to_owned();
        return Err(refuse("flavors", reason));
    }
    for field in [ADAPTER, TEMPLATE] {
        let set = fields.get(field).map_or("", String::as_str);
        if !["", "null", "~"].contains(&set) {
            return Err(refuse(field, "is not supported".to_owned()));
        }
    }
    let find = |field: &str| fields.get(field).map(String::as_str);
    let Some(weights) = find(WEIGHTS) else {
        let origin = find(ORIGIN).unwrap_or("its source");
        let reason = format!("is missing: the weights were not saved; load {origin} itself");
        return Err(refuse(WEIGHTS, reason));
    };
    let part = |name: &str| {
        let inside = Path::new(name).components();
        let inside = inside
            .into_iter()
            .all(|c| matches!(c, Component::Normal(_)));
        match folder.join(name) {
            part if inside && part.is_dir() => Ok(part),
            _ => Err(refuse(
                WEIGHTS,
                format!("`{name}` is not a folder of the model"),
            )),
        }
    };
    let mut parts = vec![part(weights)?];
    let components = folder.join("components");
    if components.join("tokenizer").is_dir() {
        parts.push(components.join("tokenizer"));
    }
    let mut links = BTreeMap::new();
    for part in &parts {
        collect(part, Path::new(""), &mut links).map_err(|error| LoadError::Io {
            path: part.clone(),
            error,
        })?;
    }
    links::folder_of(&links, cache).map_err(|error| LoadError::Io {
        path: cache.to_owned(),
        error,
    })
}

/// Adds the files below `folder` by their names in it; a name that is there already stays.
fn collect(
    folder: &Path,
    below: &Path,
    links: &mut BTreeMap<PathBuf, PathBuf>,
) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder.join(below))? {
        let name = below.join(entry?.file_name());
        let path = folder.join(&name).canonicalize()?;
        if path.is_dir() {
            collect(folder, &name, links)?;
        } else {
            links.entry(name).or_insert(path);
        }
    }
    Ok(())
}

/// The fields of nested maps, joined by dots, with their plain values: as much of YAML as `MLmodel` needs. Lists and texts of
/// several lines are left out.
fn fields(text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut open: Vec<(usize, String)> = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let Some((key, value)) = line.trim().split_once(':') else {
            continue;
        };
        if key.is_empty() || key.starts_with(['-', '#', '"', '\'', '{']) {
            continue;
        }
        open.retain(|(at, _)| *at < indent);
        open.push((indent, key.to_owned()));
        let path: Vec<_> = open.iter().map(|(_, key)| key.as_str()).collect();
        let value = value.trim().trim_matches(['\'', '"']);
        fields.insert(path.join("."), value.to_owned());
    }
    fields
}
