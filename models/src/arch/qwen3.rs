//! Qwen3 (arXiv:2505.09388): a norm on each query and key head instead of biases; from a Hugging Face folder or a GGUF file.

use super::decoder::folder::{DEFAULTS, Defaults};
use super::decoder::keys::Keys;
use super::decoder::{self, Biases, Spec};
use super::qwen2;
use crate::LoadError;
use crate::config::Json;
use crate::registry::{Built, Checkpoint};

/// Those of `Qwen3Config`.
const QWEN3: Defaults = Defaults {
    head_dim: Some(128),
    positions: 32_768,
    ..DEFAULTS
};

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let spec = match &checkpoint.gguf {
        Some(meta) => Spec::gguf(&Keys::new(meta, &[])?, false)?,
        None => folder(&checkpoint.folder()?.1)?,
    };
    let spec = Spec {
        head_norms: true,
        ..spec
    };
    decoder::build(checkpoint, &spec)
}

fn folder(json: &Json) -> Result<Spec, LoadError> {
    let bias = json.bool_or("attention_bias", false)?;
    Ok(Spec {
        biases: Biases {
            qkv: bias,
            out: bias,
            mlp: false,
        },
        ..qwen2::folder(json, &QWEN3)?
    })
}
