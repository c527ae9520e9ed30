//! [`Manifest`]: what an artifact is, `manifest.json` in its folder.
//!
//! Owns: the fields and their meaning (of the checkpoint in [`source`], of what goes in and out in [`graph`], of the files in
//! [`products`]), what must hold between them ([`check`]), what binds an artifact to a checkpoint ([`bind`]), which status it has
//! earned ([`evidence`]). Must not know: how anything in it was made.
//!
//! Invariants: a manifest that was read is consistent, and every file it names is in its folder with the bytes it says. It claims
//! no [`Status`] that it has no evidence for. It holds no time and no path of the machine it was made on, so that equal exports
//! are equal files.

mod bind;
mod check;
mod evidence;
mod graph;
mod products;
mod source;
#[cfg(test)]
pub(crate) mod tests;

use crate::files::{self, FileRef};
pub use bind::BOUND_FILES;
pub use evidence::{
    Parity, SMALL, SPREAD_BF16, SPREAD_F32, Spread, Status, TOLERANCE_BF16, TOLERANCE_DEVICE,
    TOLERANCE_F32, TOLERANCE_SMALL,
};
pub use graph::{Dtype, Gelu, Input, InputName, Numerics, Output, Precision, Weights};
pub use products::{Bucket, Exporter, Hlo, Neff, Portable, PortableKind, Target};
use serde::{Deserialize, Serialize};
pub use source::{Activation, Checkpoint, Pooling, Task, TokenizerInfo};
use std::io;
use std::path::{Path, PathBuf};

/// Name of the manifest in an artifact.
pub const FILE: &str = "manifest.json";
/// [`Manifest::format`] of every manifest.
pub const FORMAT: &str = "neuron-export";
/// [`Manifest::format_version`] of the manifests that this version writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// Largest manifest that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Why an artifact is refused. Every message names the file and, where there is one, the field.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file is missing, damaged, or not the one that the manifest names.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A field of the manifest is wrong, or does not fit another field, or the model it shall be used with.
    #[error("{}: field `{field}`: {reason}", path.display())]
    Field {
        /// The manifest.
        path: PathBuf,
        /// The field, such as `buckets[1].hlo.file`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// See the module. Fields are in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// How far the artifact is proven; [`Manifest::earned`] on every writing.
    pub status: Status,
    /// What wrote the HLO modules.
    pub exporter: Exporter,
    /// The checkpoint.
    pub source: Checkpoint,
    /// What the model is for.
    pub task: Task,
    /// What the host makes of an output row ([`Task::Embedding`]: see [`Pooling::normalize`]).
    pub activation: Activation,
    /// Label names by index of the output row; empty for [`Task::Embedding`].
    pub labels: Vec<String>,
    /// How the graph makes one vector of a text's tokens; only for [`Task::Embedding`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// From text to ids.
    pub tokenizer: TokenizerInfo,
    /// The inputs, in the order of their parameter numbers, from 0. Each is `[batch, seq]`.
    pub inputs: Vec<Input>,
    /// The outputs, in the order of their places in the result tuple. Each is `[batch, width]`.
    pub outputs: Vec<Output>,
    /// How the graph computes.
    pub numerics: Numerics,
    /// The shapes, in ascending order of batch, then seq.
    pub buckets: Vec<Bucket>,
    /// The HLO modules' answers against each other's; none if they were not executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// The same model in formats that other runtimes read.
    pub portable: Vec<Portable>,
}

impl Manifest {
    /// Reads and checks the manifest of the artifact `folder`, and every file that it names there (all bytes are read).
    ///
    /// # Errors
    /// [`ManifestError`]: no manifest, another format version, an unknown field, fields that do not fit, files that are missing or
    /// have other bytes.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let manifest = Self::read_alone(folder)?;
        manifest.check_files(folder, &|_| true)?;
        Ok(manifest)
    }

    /// As [`Manifest::read`], but of the files only those that a device reads are looked at: modules and separate weights.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn read_compiled(folder: &Path) -> Result<Self, ManifestError> {
        let manifest = Self::read_alone(folder)?;
        let read = |field: &str| {
            field.rsplit('.').next() == Some("neff") || field == "numerics.weights_file"
        };
        manifest.check_files(folder, &read)?;
        Ok(manifest)
    }

    /// Reads and checks the manifest, and no other file.
    pub(crate) fn read_alone(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(FILE);
        let manifest = check::parse(&path)?;
        manifest.check(&path)?;
        Ok(manifest)
    }

    /// Reads the manifest of the artifact `folder` again, changes it by `change`, and writes it: what others have found since this
    /// one was read stays, and nobody else updates it meanwhile. The manifest as it then is.
    ///
    /// # Errors
    /// [`ManifestError::Field`] if its HLO modules are not those of this one any more; as [`Manifest::write`]. It is then as it was.
    pub(crate) fn update(
        &self,
        folder: &Path,
        change: impl FnOnce(&mut Self),
    ) -> Result<Self, ManifestError> {
        let path = folder.to_owned();
        let held = files::hold(folder).map_err(|error| ManifestError::Io { path, error })?;
        let mut now = Self::read_alone(folder)?;
        let modules = |manifest: &Self| -> Vec<(usize, usize, Hlo)> {
            let buckets = manifest.buckets.iter();
            buckets.map(|b| (b.batch, b.seq, b.hlo.clone())).collect()
        };
        if modules(self) != modules(&now) {
            return Err(ManifestError::Field {
                path: folder.join(FILE),
                field: "buckets".to_owned(),
                reason:
                    "the export was made anew meanwhile; what was found of the old one is dropped"
                        .to_owned(),
            });
        }
        change(&mut now);
        now.write(folder)?;
        drop(held);
        Ok(now)
    }

    /// Writes the manifest of the artifact `folder`, with the status that it has earned. A manifest that was there is replaced as a
    /// whole or stays.
    ///
    /// # Errors
    /// [`ManifestError::Field`] if it does not hold together, so that what is written can be read; [`ManifestError::Io`].
    pub fn write(&mut self, folder: &Path) -> Result<(), ManifestError> {
        let path = folder.join(FILE);
        self.status = self.earned();
        self.check(&path)?;
        files::replace(folder, FILE, self.to_json().as_bytes())
            .map_err(|error| ManifestError::Io { path, error })
    }

    /// As it is written.
    ///
    /// # Panics
    /// Never: everything in it is JSON.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        json.expect("structs with named fields, lists and texts are JSON") + "\n"
    }

    /// All files of the artifact beside the manifest, each with the field that names it.
    pub fn files(&self) -> Vec<(String, FileRef)> {
        let mut files = Vec::new();
        if let Some(file) = &self.numerics.weights_file {
            files.push(("numerics.weights_file".to_owned(), file.clone()));
        }
        for (i, bucket) in self.buckets.iter().enumerate() {
            files.push((format!("buckets[{i}].hlo"), bucket.hlo.file_ref()));
            if let Some(neff) = &bucket.neff {
                files.push((format!("buckets[{i}].neff"), neff.file_ref()));
            }
        }
        for (i, portable) in self.portable.iter().enumerate() {
            files.push((format!("portable[{i}]"), portable.file_ref()));
            let own = portable.data.as_ref();
            let own = own.filter(|data| self.numerics.weights_file.as_ref() != Some(*data));
            files.extend(own.map(|data| (format!("portable[{i}].data"), data.clone())));
        }
        files
    }
}
