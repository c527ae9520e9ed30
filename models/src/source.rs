//! [`Source`]: what the user's text means, and [`fetch`], which makes a folder or file on this machine of it.
//!
//! Owns: names of sources, caches, what of a repository is needed. Must not know: what is in the files.
//!
//! Invariant: what stands under its own name in a cache is whole and was checked; all else has a name that no model has.

mod archive;
#[cfg(any(feature = "hub", feature = "s3"))]
mod choose;
#[cfg(feature = "s3")]
mod credentials;
mod folder;
#[cfg(feature = "hub")]
mod hub;
mod kept;
mod links;
mod mlflow;
mod options;
#[cfg(any(feature = "hub", feature = "s3"))]
mod partial;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod sigv4;
#[cfg(test)]
mod tests;
#[cfg(any(feature = "hub", feature = "s3"))]
mod transfer;

pub use folder::models_in;
pub use kept::{Kept, KeptFrom, KeptModel, KeptOther, OtherKind, kept};
pub use options::{FetchOptions, HubOptions, S3Options, Secret};

use crate::gguf::Split;
use crate::{LoadError, LoadOptions, Source};
use sha2::Digest;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

impl Source {
    /// A folder, `.gguf` or `.tar.gz` file that exists, else `s3://bucket/prefix`, else `owner/name`, `owner/name@revision`,
    /// `owner/name:FORMAT` or `owner/name:FILE.gguf` on the hub.
    ///
    /// # Errors
    /// [`LoadError::Source`] if it is none of them.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        let path = PathBuf::from(text);
        let is_gguf = folder::is_gguf(&path);
        if path.is_dir() {
            return Ok(Self::Folder(path));
        }
        if path.is_file() {
            return match path {
                path if is_gguf => Ok(Self::Gguf(path)),
                path if folder::is_archive(&path) => Ok(Self::Archive(path)),
                _ => Err(error(
                    text,
                    "is a file, but neither a .gguf nor a .tar.gz file; a model is one of them or a folder",
                )),
            };
        }
        if let Some(place) = text.strip_prefix("s3://") {
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
            if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(allowed) {
                return Err(error(
                    text,
                    format!("`{bucket}` cannot be the name of a bucket"),
                ));
            }
            return Ok(Self::S3 {
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
            });
        }
        let (name, file) = part(text, ':');
        let (repo, revision) = part(name, '@');
        let word = |s: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !s.is_empty() && s.chars().all(allowed) && !s.starts_with('.') && !s.contains("..")
        };
        let words = |s: &str| s.split('/').all(word);
        let is_repo = match repo.split_once('/') {
            Some((owner, name)) => word(owner) && word(name) && (!is_gguf || file.is_some()),
            None => false,
        };
        if !is_repo || !revision.is_none_or(words) || !file.is_none_or(words) {
            return Err(error(
                text,
                "there is no such folder or file, and it is neither s3://bucket/prefix nor a repository of the hub (owner/name, with \
                 @revision and, for one GGUF file, :FORMAT or :FILE.gguf)",
            ));
        }
        Ok(Self::Hub {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }

    /// A name for the model: the stem of the file (without the number of its part) or folder, or the repository's name.
    pub fn stem(&self) -> String {
        let name = match self {
            Self::Folder(path) => path.file_name(),
            Self::Gguf(path) | Self::Archive(path) => path.file_stem(),
            Self::Hub { repo, .. } => Path::new(repo).file_name(),
            Self::S3 { bucket, prefix } => match Path::new(prefix) {
                path if folder::is_gguf(path) || folder::is_archive(path) => path.file_stem(),
                path => path.file_name().or(Some(bucket.as_ref())),
            },
        };
        let name = name.map_or_else(|| "model".into(), |n| n.to_string_lossy());
        let is_gguf = match self {
            Self::Gguf(_) => true,
            Self::S3 { prefix, .. } => folder::is_gguf(Path::new(prefix)),
            _ => false,
        };
        let name = if is_gguf {
            Split::named(&name).map_or(&*name, |(name, _)| name)
        } else {
            name.strip_suffix(".tar").unwrap_or(&name)
        };
        name.to_owned()
    }
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A folder with a config.json, or one whose lack of it is the reader's to say.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

/// The folder or GGUF file on this machine that `source` leads to, fetched or unpacked if it is not there yet. A local one
/// costs a look.
///
/// # Errors
/// [`LoadError`] naming the address, file or field, never a secret; no half of a file is left under its own name.
pub(crate) fn fetch(source: &Source, options: &LoadOptions) -> Result<Found, LoadError> {
    match source {
        Source::Folder(path) => folder::model_in(path, &from_anywhere(path), options),
        Source::Gguf(path) => Ok(Found::Gguf(path.clone())),
        Source::Archive(path) => folder::model_of_archive(path, &from_anywhere(path), options),
        #[cfg(feature = "hub")]
        Source::Hub {
            repo,
            revision,
            file,
        } => {
            let revision = revision.as_deref().unwrap_or("main");
            let file = file.as_deref();
            let wanted = hub::Repository {
                repo,
                revision,
                file,
            };
            hub::fetch(&wanted, options, transfer::Pace::USUAL)
        }
        #[cfg(not(feature = "hub"))]
        Source::Hub { repo, .. } => Err(left_out(repo, "hub")),
        #[cfg(feature = "s3")]
        Source::S3 { bucket, prefix } => s3::fetch(bucket, prefix, options, transfer::Pace::USUAL),
        #[cfg(not(feature = "s3"))]
        Source::S3 { bucket, .. } => Err(left_out(bucket, "s3")),
    }
}

/// The path as it can be given in any folder.
fn from_anywhere(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.to_string_lossy().into_owned()
}

/// Hexadecimal digest of a file, before which `hasher` may have heard something already.
fn digest(path: &Path, mut hasher: impl Digest) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

/// Writes a file in one step; others may read it as far as the umask allows.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let mut new = tempfile::Builder::new()
        .permissions(mode)
        .tempfile_in(folder)?;
    new.write_all(bytes)?;
    new.persist(path).map(drop).map_err(|e| e.error)
}

/// Hexadecimal digits of `bytes`.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What stands before and after the first `sign`.
fn part(text: &str, sign: char) -> (&str, Option<&str>) {
    match text.split_once(sign) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn error(source_name: &str, reason: impl Into<String>) -> LoadError {
    LoadError::Source {
        source_name: source_name.to_owned(),
        reason: reason.into(),
    }
}

/// The names of all files below `folder`, through links.
#[cfg(feature = "hub")]
fn names_in(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut open = vec![String::new()];
    while let Some(below) = open.pop() {
        for entry in std::fs::read_dir(folder.join(&below))? {
            let name = below.clone() + &entry?.file_name().to_string_lossy();
            if folder.join(&name).is_dir() {
                open.push(name + "/");
            } else {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

/// What waits for the network: on the thread that asks.
#[cfg(any(feature = "hub", feature = "s3"))]
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(|e| e.to_string())
}

/// A source that this build leaves out.
#[cfg(not(all(feature = "hub", feature = "s3")))]
fn left_out(source_name: &str, feature: &str) -> LoadError {
    error(
        source_name,
        format!(
            "cannot be fetched: this program was built without the feature `{feature}`; give a folder or a file"
        ),
    )
}
