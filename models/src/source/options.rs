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
    /// S3 and what speaks like it.
    pub s3: S3Options,
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

/// Settings of S3. Credentials: the keys if there are any, else the container's service, else the machine's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Region; us-east-1 if none, and where a bucket says it is.
    pub region: Option<String>,
    /// Address of another service than AWS; buckets are then the first part of the path.
    pub endpoint: Option<String>,
    /// Name of a key.
    pub access_key: Option<String>,
    /// The key.
    pub secret_key: Option<Secret>,
    /// Of a session that ends.
    pub session_token: Option<Secret>,
    /// Address of the container's service for credentials.
    pub container: Option<String>,
    /// What that service wants to be shown.
    pub container_token: Option<Secret>,
    /// The file that holds it, which is read each time: it changes. Wins over `container_token`.
    pub container_token_file: Option<PathBuf>,
    /// The token of a role that is had from STS. That is not supported: with it and without keys nothing is fetched, lest
    /// another role is taken for it.
    pub web_identity: Option<PathBuf>,
    /// Address of the machine's service for credentials; it is not asked if none.
    pub instance: Option<String>,
}
