//! Qwen2 and Qwen2.5 (arXiv:2407.10671): biases on q, k, v, and windows in the upper layers where `use_sliding_window` says
//! so; from a Hugging Face folder or a GGUF file.

use super::decoder::folder::{DEFAULTS, Defaults, layer_types, sliding_window};
use super::decoder::keys::Keys;
use super::decoder::{self, Biases, Spec};
use crate::LoadError;
use crate::config::Json;
use crate::registry::{Built, Checkpoint, MAX};

/// Those of `Qwen2Config`.
const QWEN: Defaults = Defaults {
    positions: 32_768,
    ..DEFAULTS
};

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let spec = match &checkpoint.gguf {
        Some(meta) => Spec::gguf(&Keys::new(meta, &[])?, false)?,
        None => folder(&checkpoint.folder()?.1, &QWEN)?,
    };
    let spec = Spec {
        biases: Biases {
            qkv: true,
            ..Biases::default()
        },
        ..spec
    };
    decoder::build(checkpoint, &spec)
}

/// The fields that Qwen2 and Qwen3 share.
pub(super) fn folder(json: &Json, defaults: &Defaults) -> Result<Spec, LoadError> {
    let mut spec = Spec::folder(json, defaults)?;
    let layers = spec.layers.len();
    let window = if json.bool_or("use_sliding_window", false)? {
        sliding_window(json)?
    } else {
        None
    };
    let first = json
        .find_size("max_window_layers", 0..=MAX.layers)?
        .unwrap_or(28);
    let types = layer_types(json, layers)?;
    match (window, types) {
        (Some(window), Some(slides)) => spec.slide(window, None, |i| slides[i]),
        (Some(window), None) => spec.slide(window, None, |i| i >= first),
        (None, Some(slides)) if slides.contains(&true) => {
            let reason = "names windows, but `use_sliding_window` and `sliding_window` give none";
            return Err(json.error("layer_types", reason));
        }
        (None, _) => {}
    }
    Ok(spec)
}
