//! [`FetchOptions`]: where to fetch from and to. Whoever calls has read the environment; nothing here does.

use crate::LoadError;
use std::path::PathBuf;

/// Text that must not be shown. Its debug form is three stars.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// How to get at models that are not folders on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchOptions {
    /// Folder for what is fetched and unpacked. Without one, sources that need it are refused.
    pub data_dir: Option<PathBuf>,
    /// The Hugging Face hub.
    pub hub: HubOptions,
}

impl FetchOptions {
    /// The folder `name` for things that can be fetched again.
    ///
    /// # Errors
    /// [`LoadError::Source`] naming `source_name` if there is no folder for data.
    pub(crate) fn cache(&self, name: &str, source_name: &str) -> Result<PathBuf, LoadError> {
        let folder = self.data_dir.as_ref().map(|folder| folder.join(name));
        folder.ok_or_else(|| {
            super::error(
                source_name,
                "needs a folder for data, and none is configured",
            )
        })
    }
}

/// Settings of the Hugging Face hub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubOptions {
    /// The cache, in the layout of the hub's own tools; in the folder for data if none.
    pub cache: Option<PathBuf>,
    /// Address; the public hub if none.
    pub endpoint: Option<String>,
    /// What opens private and gated repositories.
    pub token: Option<Secret>,
    /// Nothing is asked; what is in the cache must do.
    pub offline: bool,
}
