//! The files of a checkpoint: finding them, mapping them, reading the heads of safetensors.

use super::{Entry, Stored};
use crate::LoadError;
use crate::config::Json;
use koma_kernels::Format;
use memmap2::{Mmap, MmapOptions};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Open files of weights.
pub(super) struct Files(Vec<(PathBuf, File)>);

impl Files {
    pub(super) fn open(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, LoadError> {
        let open = |path: PathBuf| match File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(LoadError::Io { path, error }),
        };
        paths
            .into_iter()
            .map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Where they are.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(path, _)| path.as_path())
    }

    /// Adds `more` behind these; gives how many were there before.
    pub(super) fn append(&mut self, more: Self) -> usize {
        let before = self.0.len();
        self.0.extend(more.0);
        before
    }

    /// A map of bytes of file `file`, for as long as they are converted.
    pub(super) fn map(&self, file: usize, range: Range<usize>) -> Result<Mmap, LoadError> {
        let (path, file) = &self.0[file];
        let mut options = MmapOptions::new();
        options.offset(range.start as u64).len(range.len());
        // SAFETY: the map is private and read-only, and it is dropped before loading ends. The bytes are only ever read as
        // `u8`, for which every value is valid. What remains is the rule of every mapped file: nobody may cut the file
        // short or rewrite it in place while the model loads; a model folder is replaced by renaming, never edited.
        let map = unsafe { options.map(file) };
        map.map_err(|error| LoadError::Io {
            path: path.clone(),
            error,
        })
    }

    /// A map of the whole of file `file`.
    pub(super) fn map_all(&self, file: usize) -> Result<Mmap, LoadError> {
        let (path, handle) = &self.0[file];
        let len = handle.metadata().map(|m| m.len() as usize);
        match len {
            Ok(0) => Err(file_error(path, "the file is empty".to_owned())),
            Ok(len) => self.map(file, 0..len),
            Err(error) => Err(LoadError::Io {
                path: path.clone(),
                error,
            }),
        }
    }
}

fn file_error(path: &Path, reason: String) -> LoadError {
    LoadError::File {
        path: path.to_owned(),
        reason,
    }
}

/// Opens the safetensors of a folder and reads their heads.
pub(super) fn open_folder(folder: &Path) -> Result<(Files, BTreeMap<String, Entry>), LoadError> {
    let index = folder.join(INDEX);
    let (paths, expected) = if folder.join(SINGLE).is_file() {
        (vec![folder.join(SINGLE)], BTreeMap::new())
    } else if index.is_file() {
        read_index(folder, &index)?
    } else {
        return Err(file_error(folder, no_weights(folder)));
    };
    let files = Files::open(paths)?;
    let mut entries = BTreeMap::new();
    for (i, (path, _)) in files.0.iter().enumerate() {
        for (name, entry) in read_head(&files, i)? {
            if entries.insert(name.clone(), entry).is_some() {
                let reason = format!("tensor `{name}` is also in another file of the checkpoint");
                return Err(file_error(path, reason));
            }
        }
    }
    for (name, path) in expected {
        let there = entries
            .get(&name)
            .is_some_and(|e: &Entry| files.0[e.file].0 == path);
        if !there {
            return Err(LoadError::MissingTensor { name, path });
        }
    }
    Ok((files, entries))
}

/// Why a folder has no weights that can be read.
fn no_weights(folder: &Path) -> String {
    let pickle = |name: &str| {
        let path = Path::new(name);
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        ["bin", "pt", "pth", "ckpt", "pkl"].contains(&kind)
    };
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| pickle(name) && name != "training_args.bin")
        .collect();
    names.sort();
    match names.first() {
        Some(name) => format!(
            "`{name}` is a pickle file, which can run code when it is read, so it is refused; convert it to {SINGLE}"
        ),
        None => format!("there is neither {SINGLE} nor {INDEX}"),
    }
}

type Shards = (Vec<PathBuf>, BTreeMap<String, PathBuf>);

/// The shards, and which tensor the index says is in which.
fn read_index(folder: &Path, index: &Path) -> Result<Shards, LoadError> {
    let json = Json::read(index)?;
    let map = json.object("weight_map")?;
    let mut expected = BTreeMap::new();
    for (name, file) in map {
        let field = format!("weight_map.{name}");
        let file = file
            .as_str()
            .ok_or_else(|| json.error(&field, "expected a file name"))?;
        let mut parts = Path::new(file).components();
        let plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        );
        if !plain || !file.ends_with(".safetensors") {
            let reason = format!("`{file}` is not the name of a safetensors file in this folder");
            return Err(json.error(&field, reason));
        }
        expected.insert(name.clone(), folder.join(file));
    }
    let paths: BTreeSet<PathBuf> = expected.values().cloned().collect();
    if paths.is_empty() {
        return Err(json.error("weight_map", "is empty"));
    }
    Ok((paths.into_iter().collect(), expected))
}

/// The tensors of one safetensors file. The crate checks the header's length, its JSON, and that the tensors' ranges fit
/// their shapes, follow one another without gaps and fill the file.
fn read_head(files: &Files, file: usize) -> Result<Vec<(String, Entry)>, LoadError> {
    let path = &files.0[file].0;
    let map = files.map_all(file)?;
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
        file_error(
            path,
            format!("damaged or cut off safetensors header or data: {e}"),
        )
    })?;
    let data = size_of::<u64>() + header;
    let entries = metadata.tensors().into_iter().map(|(name, info)| {
        let (start, end) = info.data_offsets;
        let entry = Entry {
            file,
            range: data + start..data + end,
            shape: info.shape.clone(),
            stored: stored(info.dtype),
            used: OnceLock::new(),
        };
        (name, entry)
    });
    Ok(entries.collect())
}

fn stored(dtype: safetensors::Dtype) -> Stored {
    match dtype {
        safetensors::Dtype::F64 => Stored::F64,
        safetensors::Dtype::F32 => Stored::As(Format::F32),
        safetensors::Dtype::F16 => Stored::As(Format::F16),
        safetensors::Dtype::BF16 => Stored::As(Format::Bf16),
        other => Stored::Other(format!("{other:?}")),
    }
}
