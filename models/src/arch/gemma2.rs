//! Gemma 2 (arXiv:2408.00118): soft caps, norms on both sides of attention and MLP, every other layer with a window, scaled
//! embeddings, a GELU gate; from a Hugging Face folder or a GGUF file. [`gemma`] is what Gemma 3 shares.

use super::decoder::folder::{DEFAULTS, Defaults, layer_types, positive_or_null, sliding_window};
use super::decoder::keys::Keys;
use super::decoder::{self, Spec};
use crate::LoadError;
use crate::config::Json;
use crate::registry::{Built, Checkpoint, MAX};
use koma_kernels::Then;
use serde_json::Value;

/// Those of `Gemma2Config`.
pub(super) const GEMMA: Defaults = Defaults {
    head_dim: Some(256),
    positions: 8192,
    tied: true,
    activation: ("hidden_activation", "gelu_pytorch_tanh", Then::GeluTanhMul),
    ..DEFAULTS
};
/// Keys of GGUF files.
pub(super) const WINDOW: &str = "attention.sliding_window";
const ATTN_CAP: &str = "attn_logit_softcapping";
pub(super) const LOGIT_CAP: &str = "final_logit_softcapping";

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let spec = match &checkpoint.gguf {
        Some(meta) => gguf(&Keys::new(meta, &[WINDOW, ATTN_CAP, LOGIT_CAP])?)?,
        None => folder(&checkpoint.folder()?.1)?,
    };
    decoder::build(checkpoint, &spec)
}

fn folder(json: &Json) -> Result<Spec, LoadError> {
    let mut spec = gemma(Spec::folder(json, &GEMMA)?);
    shared_fields(json, &mut spec)?;
    let types = layer_types(json, spec.layers.len())?;
    spec.slide(window(json)?, None, |i| match &types {
        Some(slides) => slides[i],
        None => i % 2 == 0,
    });
    spec.attn_cap = positive_or_null(json, ATTN_CAP, Some(50.0))?;
    spec.logit_cap = positive_or_null(json, LOGIT_CAP, Some(30.0))?;
    Ok(spec)
}

/// `sliding_window`, which a Gemma must have.
pub(super) fn window(json: &Json) -> Result<usize, LoadError> {
    sliding_window(json)?.ok_or_else(|| json.error("sliding_window", "is null"))
}

/// What both Gemmas read the same way from config.json.
pub(super) fn shared_fields(json: &Json, spec: &mut Spec) -> Result<(), LoadError> {
    json.expect_only("use_bidirectional_attention", &Value::from(false))?;
    let bias = json.bool_or("attention_bias", false)?;
    (spec.biases.qkv, spec.biases.out) = (bias, bias);
    spec.scale = json.positive_or("query_pre_attn_scalar", 256.0)?.powf(-0.5) as f32;
    spec.norm_offset = 1.0;
    Ok(())
}

pub(super) fn gguf(keys: &Keys<'_>) -> Result<Spec, LoadError> {
    let mut spec = gemma(Spec::gguf(keys, false)?);
    spec.activation = Then::GeluTanhMul;
    spec.scale = largest_scale(&spec, 46);
    let window = keys.find_size(WINDOW, MAX.positions)?.unwrap_or(4096);
    spec.slide(window, None, |i| i % 2 == 0);
    spec.attn_cap = Some(keys.find_positive(ATTN_CAP)?.unwrap_or(50.0));
    spec.logit_cap = Some(keys.find_positive(LOGIT_CAP)?.unwrap_or(30.0));
    Ok(spec)
}

/// The factor on the products of a GGUF file, which does not say it: as llama.cpp, that of the head size, except for the
/// model of 27 billion parameters, known by its number of layers, whose queries are scaled by hidden size over heads.
pub(super) fn largest_scale(spec: &Spec, layers_of_27b: usize) -> f32 {
    if spec.layers.len() == layers_of_27b {
        1.0 / ((spec.hidden / spec.layout.q_heads) as f32).sqrt()
    } else {
        spec.scale
    }
}

/// What makes a Gemma of a Llama, from Gemma 2 on.
pub(super) fn gemma(spec: Spec) -> Spec {
    Spec {
        embedding_scale: (spec.hidden as f32).sqrt(),
        post_norms: true,
        ..spec
    }
}
