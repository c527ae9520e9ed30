//! What a folder on disk holds: a model, or something that leads to one.
//!
//! Owns: the layouts that people arrive with (`SageMaker`, `MLflow`, one folder in another). Must not know: the network,
//! what the files mean.

use super::{Found, archive, kept, mlflow};
use crate::gguf::Split;
use crate::{LoadError, LoadOptions, Phase};
use std::path::{Path, PathBuf};

/// Folders in folders at most.
const MAX_DEPTH: usize = 3;

/// Where a folder leads.
enum Lead {
    /// It holds a config.json.
    Itself,
    /// It describes a model by `MLmodel`.
    MlFlow,
    /// It holds one GGUF file (or the first part of one).
    Gguf(PathBuf),
    /// It holds one archive.
    Archive(PathBuf),
    /// It holds one folder.
    Inner(PathBuf),
    Nowhere,
}

/// The model that `folder` leads to: itself if it holds a config.json, else its one `MLflow` model, GGUF file (or the
/// first part of one), archive or folder. A folder that leads nowhere is given back: what it lacks is then said by its name.
/// `origin`: the source that led to it.
pub(super) fn model_in(
    folder: &Path,
    origin: &str,
    options: &LoadOptions,
) -> Result<Found, LoadError> {
    // What is given back if it leads nowhere.
    let mut given = folder.to_owned();
    let mut folder = given.clone();
    for _ in 0..MAX_DEPTH {
        folder = match lead(&folder)? {
            Lead::Itself => return Ok(Found::Folder(folder)),
            Lead::MlFlow => {
                let cache = options.fetch.cache("mlflow", &folder.to_string_lossy())?;
                return mlflow::view(&folder, &cache).map(Found::Folder);
            }
            Lead::Gguf(path) => return Ok(Found::Gguf(path)),
            Lead::Archive(path) => {
                given = unpack(&path, origin, options)?;
                given.clone()
            }
            Lead::Inner(path) => path,
            Lead::Nowhere => break,
        };
    }
    Ok(Found::Folder(given))
}

/// The archive that `folder` leads to, if it leads to one.
pub(super) fn packed(folder: &Path) -> Option<PathBuf> {
    match end(folder) {
        Ok(Lead::Archive(path)) => Some(path),
        _ => None,
    }
}

/// The models in `folder`, each a source by itself: the folder if it is a model, else each GGUF file, archive and folder in it
/// that leads to one, by name. None if the folder is not there.
///
/// # Errors
/// [`LoadError::Io`] if the folder cannot be read.
pub fn models_in(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    if let Lead::Itself | Lead::MlFlow = lead(folder)? {
        return Ok(vec![folder.to_owned()]);
    }
    let mut models = Vec::new();
    for path in entries(folder)? {
        let leads = if is_folder(&path) {
            // What may not be read is no model of ours (`lost+found`).
            end(&path).is_ok_and(|lead| !matches!(lead, Lead::Nowhere))
        } else {
            path.is_file() && (is_model(&path) || is_archive(&path))
        };
        if leads {
            models.push(path);
        }
    }
    Ok(models)
}

/// Where a folder leads at last, through folders that hold nothing else.
fn end(folder: &Path) -> Result<Lead, LoadError> {
    let mut folder = folder.to_owned();
    for _ in 0..MAX_DEPTH {
        match lead(&folder)? {
            Lead::Inner(path) => folder = path,
            lead => return Ok(lead),
        }
    }
    Ok(Lead::Nowhere)
}

fn lead(folder: &Path) -> Result<Lead, LoadError> {
    if folder.join("config.json").is_file() {
        return Ok(Lead::Itself);
    }
    if folder.join(mlflow::MLMODEL).is_file() {
        return Ok(Lead::MlFlow);
    }
    let entries = entries(folder)?;
    let one = |wanted: &dyn Fn(&Path) -> bool| {
        let mut found = entries.iter().filter(|path| wanted(path));
        found.next().filter(|_| found.next().is_none()).cloned()
    };
    let gguf = one(&is_model).map(Lead::Gguf);
    let archive = || one(&is_archive).map(Lead::Archive);
    let inner = || one(&is_folder).map(Lead::Inner);
    Ok(gguf
        .or_else(archive)
        .or_else(inner)
        .unwrap_or(Lead::Nowhere))
}

/// The model in an archive.
pub(super) fn model_of_archive(
    path: &Path,
    origin: &str,
    options: &LoadOptions,
) -> Result<Found, LoadError> {
    model_in(&unpack(path, origin, options)?, origin, options)
}

fn unpack(path: &Path, origin: &str, options: &LoadOptions) -> Result<PathBuf, LoadError> {
    let cache = options
        .fetch
        .cache(kept::ARCHIVES, &path.to_string_lossy())?;
    let progress = |done, total| options.report(Phase::Unpacking, done, total);
    let folder = archive::unpack(path, &cache, &progress)?;
    kept::note(&folder, origin);
    Ok(folder)
}

/// Visible entries, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let failed = |error| LoadError::Io {
        path: folder.to_owned(),
        error,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether `path` is a GGUF file, by its name.
pub(super) fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// Whether `path` is a projector for images that stands beside a model, by its name.
pub(super) fn is_projector(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains("mmproj")
}

/// Whether `path` is another than the first part of a split model, by its name.
fn is_later_part(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let part = stem.and_then(Split::named);
    part.is_some_and(|(_, part)| part > 1)
}

/// Whether `path` is a GGUF file that stands for a model, by its name.
fn is_model(path: &Path) -> bool {
    is_gguf(path) && !is_later_part(path) && !is_projector(path)
}

/// Whether there may be a model in `path`.
fn is_folder(path: &Path) -> bool {
    path.is_dir() && !path.ends_with("code")
}

/// Whether `path` is a packed model, by its name.
pub(super) fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    [".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
}
