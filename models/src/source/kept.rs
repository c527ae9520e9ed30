//! [`kept`]: what was unpacked and fetched into the folder for data, and where it came from.
//!
//! Owns: the notes of origins beside what is kept. Must not know: how it came there, what the files mean.
//!
//! Invariant: a model is only what stands under its own name, and thus is whole; all else there is told apart from it.

use super::folder;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Unpacked archives, in the folder for data.
pub(super) const ARCHIVES: &str = "archives";
/// How the folder begins that an archive is being unpacked into.
pub(super) const UNPACKING: &str = ".unpacking-";
/// What was fetched from S3, in the folder for data: contents, and folders of links to them.
pub(super) const S3: &str = "s3";
pub(super) const S3_BLOBS: &str = "blobs";
pub(super) const S3_MODELS: &str = "models";
/// How a file ends that is on its way.
pub(super) const INCOMPLETE: &str = ".incomplete";

/// What is in a folder for data, besides the hub's cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// By their folders.
    pub models: Vec<KeptModel>,
    /// What takes up the disk, but is no model.
    pub others: Vec<KeptOther>,
}

/// A model that was unpacked or fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptModel {
    /// Its folder, a source by itself.
    pub folder: PathBuf,
    /// How it came there.
    pub from: KeptFrom,
    /// The sources it was given as, the first first; none if that was not noted.
    pub origins: Vec<String>,
}

/// How a model came to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptFrom {
    /// Unpacked from an archive.
    Archive,
    /// Fetched from S3.
    S3,
}

/// Bytes that are no model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOther {
    /// A file, or a folder.
    pub path: PathBuf,
    /// What they are.
    pub what: OtherKind,
    /// On the disk.
    pub bytes: u64,
}

/// What bytes are that are no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherKind {
    /// A file that was fetched in part; the next attempt goes on from it.
    Download,
    /// An archive that was unpacked in part, now or in a process that was ended.
    Unpacking,
    /// A fetched archive; what was unpacked from it is a model of its own.
    Packed,
}

/// Lists what is in the folder for data `data`; nothing if it is not there. Nothing is written and nothing is fetched.
///
/// # Errors
/// If a folder cannot be read.
pub fn kept(data: &Path) -> io::Result<Kept> {
    let mut kept = Kept::default();
    for path in entries(&data.join(ARCHIVES))? {
        if begins(&path, UNPACKING) {
            kept.other(&path, OtherKind::Unpacking, on_disk(&path)?);
        } else {
            kept.folder(path, KeptFrom::Archive)?;
        }
    }
    for path in entries(&data.join(S3).join(S3_MODELS))? {
        kept.folder(path, KeptFrom::S3)?;
    }
    for path in entries(&data.join(S3).join(S3_BLOBS))? {
        if path.to_string_lossy().ends_with(INCOMPLETE) {
            kept.other(&path, OtherKind::Download, on_disk(&path)?);
        }
    }
    Ok(kept)
}

impl Kept {
    /// Notes and folders without a name are none.
    fn folder(&mut self, folder: PathBuf, from: KeptFrom) -> io::Result<()> {
        if begins(&folder, ".") || !folder.is_dir() {
            return Ok(());
        }
        if let Some(archive) = folder::packed(&folder) {
            let bytes = on_disk(&archive)?;
            self.other(&archive, OtherKind::Packed, bytes);
            return Ok(());
        }
        let origins = origins(&folder);
        self.models.push(KeptModel {
            folder,
            from,
            origins,
        });
        Ok(())
    }

    fn other(&mut self, path: &Path, what: OtherKind, bytes: u64) {
        let path = path.to_owned();
        self.others.push(KeptOther { path, what, bytes });
    }
}

/// Notes beside `folder` that the source `origin` leads to it. That is for people: where it cannot be written, it is left out.
pub(super) fn note(folder: &Path, origin: &str) {
    let mut origins = origins(folder);
    // A line each.
    if origin.contains('\n') || origins.iter().any(|known| known == origin) {
        return;
    }
    origins.push(origin.to_owned());
    let path = note_of(folder);
    if let Err(error) = super::write_whole(&path, (origins.join("\n") + "\n").as_bytes()) {
        tracing::debug!("{}: {error}", path.display());
    }
}

fn origins(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(note_of(folder)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The names of what is kept are hashes, without dots.
fn note_of(folder: &Path) -> PathBuf {
    folder.with_extension("from")
}

fn begins(path: &Path, with: &str) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(with)
}

/// What is in `folder`, by name; nothing if it is not there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let read = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", folder.display())))?,
    };
    let paths = read.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Bytes that a file, or all files below a folder, take up: fewer than their length if they are there in part. What is gone
/// meanwhile takes none.
fn on_disk(path: &Path) -> io::Result<u64> {
    let Ok(found) = std::fs::metadata(path) else {
        return Ok(0);
    };
    if !found.is_dir() {
        return Ok(found.blocks() * 512);
    }
    entries(path)?.iter().map(|path| on_disk(path)).sum()
}
