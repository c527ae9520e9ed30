//! The fields of config.json that decoders share.

use super::{Heads, Kind, Spec};
use crate::LoadError;
use crate::config::Json;
use crate::config::rope::Rope;
use crate::registry::MAX;
use koma_kernels::Then;
use serde_json::Value;

/// The names of [`Heads`]' fields.
const FIELDS: [&str; 3] = ["num_attention_heads", "num_key_value_heads", "head_dim"];

/// What an architecture has where config.json is silent: the defaults of its configuration class in transformers.
pub(in crate::arch) struct Defaults {
    /// `head_dim`; none: the hidden size divided by the heads.
    pub(in crate::arch) head_dim: Option<usize>,
    /// `max_position_embeddings`.
    pub(in crate::arch) positions: usize,
    /// `rms_norm_eps`.
    pub(in crate::arch) eps: f64,
    /// `tie_word_embeddings`.
    pub(in crate::arch) tied: bool,
    /// The field that names the activation.
    pub(in crate::arch) activation: &'static str,
}

/// Those of Llama, which most share.
pub(in crate::arch) const DEFAULTS: Defaults = Defaults {
    head_dim: None,
    positions: 2048,
    eps: 1e-6,
    tied: false,
    activation: "hidden_act",
};

impl Spec {
    /// From config.json: full attention in all layers, no biases, one rotation for all.
    ///
    /// # Errors
    /// [`LoadError::Config`] naming the field.
    pub(in crate::arch) fn folder(json: &Json, defaults: &Defaults) -> Result<Self, LoadError> {
        json.expect_only(defaults.activation, &Value::from("silu"))?;
        let hidden = json.size("hidden_size", 1..=MAX.width)?;
        let q = json.size("num_attention_heads", 1..=MAX.heads)?;
        let heads = Heads {
            q,
            kv: json
                .find_size("num_key_value_heads", 1..=MAX.heads)?
                .unwrap_or(q),
            dim: json
                .find_size("head_dim", 1..=MAX.head_dim)?
                .or(defaults.head_dim),
        };
        let layout = heads.layout(hidden);
        let layout = layout.map_err(|(field, reason)| json.error(FIELDS[field], reason))?;
        let rope = Rope::read(json)?.table(layout.k_dim, false);
        Ok(Self {
            hidden,
            inner: json.size("intermediate_size", 1..=MAX.width)?,
            vocab: json.size("vocab_size", 1..=MAX.vocab)?,
            positions: json
                .find_size("max_position_embeddings", 1..=MAX.positions)?
                .unwrap_or(defaults.positions),
            layout,
            scale: 1.0 / (layout.k_dim as f32).sqrt(),
            kinds: vec![Kind { window: None, rope }],
            layers: vec![0; json.size("num_hidden_layers", 1..=MAX.layers)?],
            eps: json.positive_or("rms_norm_eps", defaults.eps)? as f32,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
            activation: Then::SiluMul,
            embedding_scale: 1.0,
            tied: Some(json.bool_or("tie_word_embeddings", defaults.tied)?),
        })
    }
}
