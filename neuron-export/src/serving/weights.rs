//! [`Weights`]: the separate weights of an artifact, as they go to a device.

use super::ServingError;
use super::plan::dtype;
use crate::manifest::{Dtype, Manifest};
use koma_models::kernels::neuron;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// The file, read, and what of it are the parameters.
pub(super) struct Weights {
    path: PathBuf,
    file: Vec<u8>,
    names: Vec<String>,
    /// Type and shape of each.
    pub(super) kinds: Vec<(neuron::Dtype, Vec<u32>)>,
}

impl Weights {
    /// Those of the artifact `folder`; none if they are inside of the compiled modules.
    ///
    /// # Errors
    /// If the file cannot be read, or lacks a parameter.
    pub(super) fn read(manifest: &Manifest, folder: &Path) -> Result<Option<Self>, ServingError> {
        let Some(reference) = &manifest.numerics.weights_file else {
            return Ok(None);
        };
        let path = folder.join(&reference.file);
        let file = std::fs::read(&path).map_err(|error| ServingError::Io {
            what: path.display().to_string(),
            error,
        })?;
        let mut weights = Self {
            names: manifest.numerics.param_order.clone(),
            kinds: Vec::new(),
            path,
            file,
        };
        weights.kinds = weights.each(|_, tensor| {
            let kind = match tensor.dtype() {
                safetensors::Dtype::F32 => Dtype::F32,
                safetensors::Dtype::BF16 => Dtype::Bf16,
                other => return Err(format!("has the type {other:?}")),
            };
            let sizes = tensor.shape().iter().map(|size| u32::try_from(*size));
            let shape = sizes
                .collect::<Result<_, _>>()
                .map_err(|_| "is too large".to_owned())?;
            Ok((dtype(kind), shape))
        })?;
        Ok(Some(weights))
    }

    /// What `one` makes of the number and the bytes of each parameter, in the order of the manifest.
    pub(super) fn each_bytes<T>(
        &self,
        mut one: impl FnMut(usize, &str, &[u8]) -> Result<T, ServingError>,
    ) -> Result<Vec<T>, ServingError> {
        let tensors = self.tensors()?;
        let names = self.names.iter().enumerate();
        names
            .map(|(i, name)| {
                let tensor = tensors
                    .tensor(name)
                    .map_err(|error| self.wrong(name, &error))?;
                one(i, name, tensor.data())
            })
            .collect()
    }

    fn each<T>(
        &self,
        one: impl Fn(&str, &safetensors::tensor::TensorView<'_>) -> Result<T, String>,
    ) -> Result<Vec<T>, ServingError> {
        let tensors = self.tensors()?;
        let names = self.names.iter();
        names
            .map(|name| {
                let tensor = tensors
                    .tensor(name)
                    .map_err(|error| self.wrong(name, &error))?;
                one(name, &tensor).map_err(|reason| self.wrong(name, &reason))
            })
            .collect()
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, ServingError> {
        SafeTensors::deserialize(&self.file).map_err(|error| ServingError::Tensors {
            path: self.path.clone(),
            reason: format!("damaged or cut off: {error}"),
        })
    }

    fn wrong(&self, name: &str, reason: &dyn std::fmt::Display) -> ServingError {
        ServingError::Tensors {
            path: self.path.clone(),
            reason: format!("weight `{name}`: {reason}"),
        }
    }
}
