//! Opening the file or files of a GGUF model.

use super::files::Files;
use super::{Entry, Stored};
use crate::LoadError;
use crate::gguf::{Gguf, GgufMeta, Split};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Reads the head of a GGUF file, and of the other parts if it is the first part of a split model: the keys of the first,
/// the tensors of all.
pub(super) fn open(path: &Path) -> Result<(GgufMeta, Files, BTreeMap<String, Entry>), LoadError> {
    let first = Files::open([path.to_owned()])?;
    let Gguf { meta, tensors } = Gguf::parse(path, &first.map_all(0)?)?;
    let mut entries = BTreeMap::new();
    add(&mut entries, 0, path, tensors)?;
    let Some(split) = Split::of(&meta)? else {
        return Ok((meta, first, entries));
    };
    let paths = split.paths(path, &meta)?;
    let count = paths.len();
    let missing = |(i, path): (usize, &PathBuf)| LoadError::File {
        path: path.clone(),
        reason: format!("part {} of {count} of the model is missing", i + 1),
    };
    let absent = paths.iter().enumerate().find(|(_, path)| !path.is_file());
    if let Some(absent) = absent {
        return Err(missing(absent));
    }
    let files = Files::open(paths.iter().cloned())?;
    for (i, path) in paths.iter().enumerate().skip(1) {
        let part = Gguf::parse(path, &files.map_all(i)?)?;
        split.check(&meta, i, &part.meta)?;
        add(&mut entries, i, path, part.tensors)?;
    }
    if entries.len() != split.tensors {
        let reason = format!(
            "is {}, but the {count} parts have {} tensors",
            split.tensors,
            entries.len()
        );
        return Err(meta.error("split.tensors.count", reason));
    }
    Ok((meta, files, entries))
}

fn add(
    entries: &mut BTreeMap<String, Entry>,
    file: usize,
    path: &Path,
    tensors: std::collections::HashMap<String, crate::gguf::GgufTensor>,
) -> Result<(), LoadError> {
    for (name, tensor) in tensors {
        if entries.contains_key(&name) {
            return Err(LoadError::Tensor {
                name,
                path: path.to_owned(),
                reason: "is also in another part of the model".to_owned(),
            });
        }
        let entry = Entry {
            file,
            range: tensor.range,
            shape: tensor.shape,
            stored: Stored::As(tensor.format),
            used: OnceLock::new(),
        };
        entries.insert(name, entry);
    }
    Ok(())
}
