//! [`Source`]: what the user's text means, and fetching from the hub.

use crate::{LoadError, LoadOptions, Source};
use std::path::{Path, PathBuf};

/// What is needed of a repository: configuration, tokenizer, safetensors, and sentence-transformers' modules.
#[cfg(feature = "hub")]
const NEEDED: [&str; 4] = ["*.json", "*.jinja", "*.safetensors", "1_Pooling/*.json"];

impl Source {
    /// A folder or `.gguf` file that exists, else `owner/name` or `owner/name@revision` on the hub.
    ///
    /// # Errors
    /// [`LoadError::Source`] if it is none of them.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        let path = PathBuf::from(text);
        let is_gguf = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if path.is_dir() {
            return Ok(Self::Folder(path));
        }
        if path.is_file() {
            return if is_gguf {
                Ok(Self::Gguf(path))
            } else {
                Err(error(
                    text,
                    "is a file, but not a .gguf file; a model is a folder or a .gguf file",
                ))
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

    /// A name for the model: the stem of the file or folder, or the repository's name.
    pub fn stem(&self) -> String {
        let name = match self {
            Self::Folder(path) => path.file_name(),
            Self::Gguf(path) => path.file_stem(),
            Self::Hub { repo, .. } => Path::new(repo).file_name(),
        };
        name.map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned())
    }
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
    if let Some(folder) = &options.cache_dir {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_path_first_and_a_repository_second() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tiny.gguf");
        let other = folder.path().join("tiny.bin");
        std::fs::write(&file, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let text = |p: &Path| p.to_str().unwrap().to_owned();

        assert_eq!(
            Source::parse(&text(folder.path())).unwrap(),
            Source::Folder(folder.path().to_owned())
        );
        let gguf = Source::parse(&text(&file)).unwrap();
        assert_eq!((gguf.stem().as_str(), &gguf), ("tiny", &Source::Gguf(file)));
        let hub = Source::parse("owner/some-Model.v2@main").unwrap();
        assert_eq!(hub.stem(), "some-Model.v2");
        assert_eq!(
            hub,
            Source::Hub {
                repo: "owner/some-Model.v2".to_owned(),
                revision: Some("main".to_owned())
            }
        );
        for wrong in [
            "",
            "name",
            "a/b/c",
            "/nowhere/model",
            "./model",
            "../x/y",
            "a/..",
            "a/b@",
            "a b/c",
            "models/missing.gguf",
            &text(&other),
        ] {
            let message = Source::parse(wrong).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{wrong}: ")), "{message}");
        }
    }
}
