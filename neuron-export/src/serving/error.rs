//! [`ServingError`]: why a model is not served by a Neuron device.

use crate::manifest::ManifestError;
use crate::neff::NeffError;
use koma_models::kernels::neuron::{NeuronError, Status};
use std::path::PathBuf;

/// Why a model is not served by a Neuron device. Every message names the file, field or tensor.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// There is no artifact.
    #[error("{}: there is no such folder; `koma export` makes it", .0.display())]
    NoArtifact(PathBuf),
    /// The artifact is damaged, or of another model.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A compiled module is damaged.
    #[error(transparent)]
    Neff(#[from] NeffError),
    /// The artifact was not compiled, wholly.
    #[error("{}: the bucket {batch} x {seq} was not compiled; `koma export compile` does it", folder.display())]
    NotCompiled {
        /// The artifact.
        folder: PathBuf,
        /// Rows.
        batch: usize,
        /// Tokens of a row.
        seq: usize,
    },
    /// It was compiled for another kind of machine.
    #[error("the artifact was compiled for {target}, but this machine is {instance}")]
    Target {
        /// As in the manifest.
        target: &'static str,
        /// This machine's type.
        instance: String,
    },
    /// A compiled module has other tensors than the manifest says.
    #[error("{}: {reason}", path.display())]
    Tensors {
        /// The module.
        path: PathBuf,
        /// The tensor, and what is wrong with it.
        reason: String,
    },
    /// This model cannot be served so.
    #[error("{0}")]
    Unfit(String),
    /// The runtime has no cores for this process.
    #[error("no Neuron device: the runtime sees no core; see NEURON_RT_VISIBLE_CORES")]
    NoCore,
    /// The device, or its runtime, refuses.
    #[error("{what}: {error}")]
    Device {
        /// What it refuses.
        what: String,
        /// How.
        error: NeuronError,
    },
    /// A file cannot be read, or there is no thread to be had.
    #[error("{what}: {error}")]
    Io {
        /// What.
        what: String,
        /// The system's error.
        error: std::io::Error,
    },
}

impl ServingError {
    /// Whether this machine has no device for the model: the CPU may then do it. All else is wrong with the artifact, and stays
    /// wrong on any machine.
    pub fn no_device(&self) -> bool {
        let invalid = Status(2);
        match self {
            Self::NoArtifact(_) | Self::Target { .. } | Self::NoCore => true,
            Self::Device { error, .. } => match error {
                NeuronError::Library(_) | NeuronError::Started => true,
                NeuronError::Status { status, .. } => *status != invalid,
                NeuronError::Contract(_) => false,
            },
            _ => false,
        }
    }

    pub(super) fn decoder() -> Self {
        Self::Unfit("generating models are not served by Neuron devices, only encoders".to_owned())
    }

    pub(super) fn device(what: impl Into<String>) -> impl FnOnce(NeuronError) -> Self {
        let what = what.into();
        |error| Self::Device { what, error }
    }
}
