//! The fields of config.json that decoders share.

use super::{Biases, Heads, Kind, Spec};
use crate::LoadError;
use crate::config::Json;
use crate::config::rope::{self, Rope};
use crate::registry::MAX;
use koma_kernels::{HeadLayout, RopeTable, Then};
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
    /// The field that names the activation, the name that it may have there, and the gate that this means.
    pub(in crate::arch) activation: (&'static str, &'static str, Then),
    /// How the rotation is read, and the longer window that its scaling is for, where it says so.
    pub(in crate::arch) rope: fn(&Json, &HeadLayout) -> Result<Rotation, LoadError>,
}

/// A rotation, and a window.
pub(in crate::arch) type Rotation = (RopeTable, Option<usize>);

/// Those of Llama, which most share.
pub(in crate::arch) const DEFAULTS: Defaults = Defaults {
    head_dim: None,
    positions: 2048,
    eps: 1e-6,
    tied: false,
    activation: ("hidden_act", "silu", Then::SiluMul),
    rope: |json, layout| {
        let rope = Rope::read(json)?;
        Ok((rope.table(layout.k_dim, false), rope.window()))
    },
};

/// Values of each head that are rotated, where that may be a part.
///
/// # Errors
/// [`LoadError::Config`] if `partial_rotary_factor` leaves nothing, or half of a pair.
pub(in crate::arch) fn rotary_dim(json: &Json, layout: &HeadLayout) -> Result<usize, LoadError> {
    let (part, said) = rope::partial(json)?;
    let dim = (layout.k_dim as f64 * part) as usize;
    if dim == 0 || !dim.is_multiple_of(2) {
        let reason = format!("{part} of {} values are {dim}, not pairs", layout.k_dim);
        return Err(said
            .unwrap_or_else(|| json.clone())
            .error("partial_rotary_factor", reason));
    }
    Ok(dim)
}

/// `layer_types`, if there: whether each of `count` layers has a window.
///
/// # Errors
/// [`LoadError::Config`] for another number of layers or another type.
pub(in crate::arch) fn layer_types(
    json: &Json,
    count: usize,
) -> Result<Option<Vec<bool>>, LoadError> {
    const FIELD: &str = "layer_types";
    let Some(types) = json.find_array(FIELD)? else {
        return Ok(None);
    };
    if types.len() != count {
        let reason = format!("{} types for {count} layers", types.len());
        return Err(json.error(FIELD, reason));
    }
    let slides = types.iter().map(|kind| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => {
            let reason = format!(
                "{kind} is not supported; supported are full_attention and sliding_attention"
            );
            Err(json.error(FIELD, reason))
        }
    });
    slides.collect::<Result<_, _>>().map(Some)
}

/// `sliding_window`: none where the field is null, 4096 where it is absent (the default of all that have it).
pub(in crate::arch) fn sliding_window(json: &Json) -> Result<Option<usize>, LoadError> {
    const FIELD: &str = "sliding_window";
    match json.find_size(FIELD, 1..=MAX.positions)? {
        None if !json.is_null(FIELD) => Ok(Some(4096)),
        found => Ok(found),
    }
}

/// A positive number, none where the field is null, `default` where it is absent.
pub(in crate::arch) fn positive_or_null(
    json: &Json,
    field: &str,
    default: Option<f32>,
) -> Result<Option<f32>, LoadError> {
    match json.value(field) {
        Some(_) => Ok(Some(json.positive(field)? as f32)),
        None if json.is_null(field) => Ok(None),
        None => Ok(default),
    }
}

impl Spec {
    /// From config.json: full attention in all layers, no biases, one rotation for all.
    ///
    /// # Errors
    /// [`LoadError::Config`] naming the field.
    pub(in crate::arch) fn folder(json: &Json, defaults: &Defaults) -> Result<Self, LoadError> {
        let (field, name, activation) = defaults.activation;
        json.expect_only(field, &Value::from(name))?;
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
        let (rope, window) = (defaults.rope)(json, &layout)?;
        let positions = json
            .find_size("max_position_embeddings", 1..=MAX.positions)?
            .unwrap_or(defaults.positions);
        // Files name the window before or after it was made longer.
        let positions = positions.max(window.unwrap_or(0)).min(MAX.positions);
        Ok(Self {
            hidden,
            inner: json.size("intermediate_size", 1..=MAX.width)?,
            vocab: json.size("vocab_size", 1..=MAX.vocab)?,
            positions,
            layout,
            scale: 1.0 / (layout.k_dim as f32).sqrt(),
            kinds: vec![Kind { window: None, rope }],
            layers: vec![0; json.size("num_hidden_layers", 1..=MAX.layers)?],
            eps: json.positive_or("rms_norm_eps", defaults.eps)? as f32,
            attn_cap: None,
            logit_cap: None,
            norm_offset: 0.0,
            head_norms: false,
            post_norms: false,
            fused: false,
            biases: Biases::default(),
            activation,
            embedding_scale: 1.0,
            tied: Some(json.bool_or("tie_word_embeddings", defaults.tied)?),
        })
    }
}
