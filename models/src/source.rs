//! [`Source`]: what the user's text means, and [`fetch`], which makes a folder or file on this machine of it.
//!
//! Owns: names of sources, caches, what of a repository is needed. Must not know: what is in the files.
//!
//! Invariant: what stands under its own name in a cache is whole and was checked; all else has a name that no model has.

mod archive;
mod folder;
mod mlflow;
mod options;
#[cfg(test)]
mod tests;

pub use options::{FetchOptions, HubOptions, Secret};

use crate::gguf::Split;
use crate::{LoadError, LoadOptions, Source};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is needed of a repository: configuration, tokenizer, safetensors, and sentence-transformers' modules.
#[cfg(feature = "hub")]
const NEEDED: [&str; 4] = ["*.json", "*.jinja", "*.safetensors", "1_Pooling/*.json"];

impl Source {
    /// A folder, `.gguf` or `.tar.gz` file that exists, else `owner/name` or `owner/name@revision` on the hub.
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
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let word = |s: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !s.is_empty() && s.chars().all(allowed) && !s.starts_with('.') && !s.contains("..")
        };
        let is_repo = match repo.split_once('/') {
            Some((owner, name)) => word(owner) && word(name) && !is_gguf,
            None => false,
        };
        if !is_repo || revision.is_some_and(str::is_empty) {
            return Err(error(
                text,
                "there is no such folder or file, and it is not a repository of the hub (owner/name or owner/name@revision)",
            ));
        }
        Ok(Self::Hub {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }

    /// A name for the model: the stem of the file (without the number of its part) or folder, or the repository's name.
    pub fn stem(&self) -> String {
        let name = match self {
            Self::Folder(path) => path.file_name(),
            Self::Gguf(path) | Self::Archive(path) => path.file_stem(),
            Self::Hub { repo, .. } => Path::new(repo).file_name(),
        };
        let name = name.map_or_else(|| "model".into(), |n| n.to_string_lossy());
        let name = match self {
            Self::Gguf(_) => Split::named(&name).map_or(&*name, |(name, _)| name),
            _ => name.strip_suffix(".tar").unwrap_or(&name),
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
        Source::Folder(path) => folder::model_in(path, options),
        Source::Gguf(path) => Ok(Found::Gguf(path.clone())),
        Source::Archive(path) => folder::model_of_archive(path, options),
        Source::Hub { repo, revision } => {
            download(repo, revision.as_deref(), options).map(Found::Folder)
        }
    }
}

/// Hexadecimal sha256 and length of a file.
fn digest(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hex(&hasher.finalize()), bytes));
        }
        hasher.update(&buffer[..count]);
        bytes += count as u64;
    }
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

fn error(source_name: &str, reason: impl Into<String>) -> LoadError {
    LoadError::Source {
        source_name: source_name.to_owned(),
        reason: reason.into(),
    }
}

/// Fetches the needed files of a repository and gives back their folder. What is in the hub's cache is not fetched again;
/// where the hub cannot be reached, what is there must do.
#[cfg(feature = "hub")]
pub(crate) fn download(
    repo: &str,
    revision: Option<&str>,
    options: &LoadOptions,
) -> Result<PathBuf, LoadError> {
    let fail = |e: hf_hub::HFError| {
        let reason =
            format!("could not be fetched from the hub, and is not complete in its cache: {e}");
        error(repo, reason)
    };
    let mut client = hf_hub::HFClient::builder();
    if let Some(folder) = &options.fetch.hub.cache {
        client = client.cache_dir(folder);
    }
    let client = client.build_sync().map_err(fail)?;
    let (owner, name) = repo.split_once('/').unwrap_or(("", repo));
    let model = client.model(owner, name);
    let fetch = |offline: bool| {
        model
            .snapshot_download()
            .maybe_revision(revision)
            .allow_patterns(NEEDED.map(str::to_owned).to_vec())
            .local_files_only(offline)
            .send()
    };
    fetch(false).or_else(|online| fetch(true).map_err(|_| fail(online)))
}

/// This build cannot fetch.
#[cfg(not(feature = "hub"))]
pub(crate) fn download(
    repo: &str,
    _revision: Option<&str>,
    _options: &LoadOptions,
) -> Result<PathBuf, LoadError> {
    Err(error(
        repo,
        "this build cannot fetch from the hub (feature `hub`); give a folder or a .gguf file",
    ))
}
