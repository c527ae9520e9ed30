//! The sizes of a Llama, from config.json or from GGUF metadata.

use crate::LoadError;
use crate::config::Json;
use crate::config::rope::{Rope, Scaling};
use crate::gguf::GgufMeta;
use crate::registry::MAX;
use koma_kernels::HeadLayout;
use serde_json::Value;

pub(super) struct Config {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) vocab: usize,
    pub(super) positions: usize,
    pub(super) layout: HeadLayout,
    pub(super) eps: f32,
    pub(super) rope: Rope,
    pub(super) attention_bias: bool,
    pub(super) mlp_bias: bool,
    /// Whether the head is the embedding.
    pub(super) tied: bool,
}

/// The names of [`Heads`]' fields in config.json and in GGUF metadata.
const FIELDS: [&str; 3] = ["num_attention_heads", "num_key_value_heads", "head_dim"];
const KEYS: [&str; 3] = [
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
];

/// Numbers of heads, and their size if it is given.
struct Heads {
    q: usize,
    kv: usize,
    dim: Option<usize>,
}

impl Heads {
    /// Heads that can be grouped and rotated; on failure which field is wrong (0: q, 1: kv, 2: dim) and why.
    fn layout(&self, hidden: usize) -> Result<HeadLayout, (usize, String)> {
        let Self { q, kv, dim } = *self;
        if dim.is_none() && !hidden.is_multiple_of(q) {
            return Err((
                0,
                format!("{q} heads do not divide the hidden size {hidden}"),
            ));
        }
        if !q.is_multiple_of(kv) {
            let reason = format!("{q} query heads cannot share {kv} key and value heads");
            return Err((1, reason));
        }
        let dim = dim.unwrap_or(hidden / q);
        if !dim.is_multiple_of(2) {
            return Err((2, format!("{dim} is odd, so it cannot be rotated in pairs")));
        }
        Ok(HeadLayout {
            q_heads: q,
            kv_heads: kv,
            k_dim: dim,
            v_dim: dim,
        })
    }
}

impl Config {
    /// From config.json.
    pub(super) fn folder(json: &Json) -> Result<Self, LoadError> {
        json.expect_only("hidden_act", &Value::from("silu"))?;
        let hidden = json.size("hidden_size", 1..=MAX.width)?;
        let q = json.size("num_attention_heads", 1..=MAX.heads)?;
        let heads = Heads {
            q,
            kv: json
                .find_size("num_key_value_heads", 1..=MAX.heads)?
                .unwrap_or(q),
            dim: json.find_size("head_dim", 1..=MAX.head_dim)?,
        };
        let layout = heads.layout(hidden);
        Ok(Self {
            hidden,
            inner: json.size("intermediate_size", 1..=MAX.width)?,
            layers: json.size("num_hidden_layers", 1..=MAX.layers)?,
            vocab: json.size("vocab_size", 1..=MAX.vocab)?,
            positions: json
                .find_size("max_position_embeddings", 1..=MAX.positions)?
                .unwrap_or(2048),
            layout: layout.map_err(|(field, reason)| json.error(FIELDS[field], reason))?,
            eps: json.positive_or("rms_norm_eps", 1e-6)? as f32,
            rope: Rope::read(json)?,
            attention_bias: json.bool_or("attention_bias", false)?,
            mlp_bias: json.bool_or("mlp_bias", false)?,
            tied: json.bool_or("tie_word_embeddings", false)?,
        })
    }

    /// From the keys `llama.*`. A key that is not known could change what is computed, so it is refused.
    pub(super) fn gguf(meta: &GgufMeta, tied: bool) -> Result<Self, LoadError> {
        refuse_unknown(meta)?;
        let hidden = size(meta, "llama.embedding_length", MAX.width)?;
        let q = size(meta, "llama.attention.head_count", MAX.heads)?;
        let heads = Heads {
            q,
            kv: find_size(meta, "llama.attention.head_count_kv", MAX.heads)?.unwrap_or(q),
            dim: find_size(meta, "llama.attention.key_length", MAX.head_dim)?,
        };
        let layout = heads.layout(hidden);
        let layout = layout.map_err(|(key, reason)| meta.error(KEYS[key], reason))?;
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            if let Some(n) = meta.find::<usize>(key)?.filter(|n| *n != layout.k_dim) {
                let reason = format!("{n} is not supported, only the head size {}", layout.k_dim);
                return Err(meta.error(key, reason));
            }
        }
        let vocab = match find_size(meta, "llama.vocab_size", MAX.vocab)? {
            Some(vocab) => vocab,
            None => meta.get::<&[String]>("tokenizer.ggml.tokens")?.len(),
        };
        Ok(Self {
            hidden,
            inner: size(meta, "llama.feed_forward_length", MAX.width)?,
            layers: size(meta, "llama.block_count", MAX.layers)?,
            vocab,
            positions: size(meta, "llama.context_length", MAX.positions)?,
            layout,
            eps: positive(meta, "llama.attention.layer_norm_rms_epsilon", None)?,
            rope: Rope {
                theta: f64::from(positive(meta, "llama.rope.freq_base", Some(10_000.0))?),
                scaling: scaling(meta)?,
            },
            attention_bias: false,
            mlp_bias: false,
            tied,
        })
    }
}

fn find_size(meta: &GgufMeta, key: &str, max: usize) -> Result<Option<usize>, LoadError> {
    match meta.find::<usize>(key)? {
        Some(n) if n == 0 || n > max => Err(meta.error(key, format!("{n} is not in 1 to {max}"))),
        found => Ok(found),
    }
}

fn size(meta: &GgufMeta, key: &str, max: usize) -> Result<usize, LoadError> {
    find_size(meta, key, max)?.ok_or_else(|| meta.error(key, "is missing"))
}

fn positive(meta: &GgufMeta, key: &str, default: Option<f32>) -> Result<f32, LoadError> {
    let number = match default {
        Some(default) => meta.find(key)?.unwrap_or(default),
        None => meta.get::<f32>(key)?,
    };
    if number > 0.0 {
        Ok(number)
    } else {
        Err(meta.error(key, format!("{number} is not positive")))
    }
}

fn scaling(meta: &GgufMeta) -> Result<Scaling, LoadError> {
    const KIND: &str = "llama.rope.scaling.type";
    const FACTOR: &str = "llama.rope.scaling.factor";
    // The one key of older files.
    const OLD: &str = "llama.rope.scale_linear";
    match meta.find::<&str>(KIND)? {
        Some("none") => Ok(Scaling::None),
        // As llama.cpp: linear where no type is named.
        None | Some("linear") => {
            let old = positive(meta, OLD, Some(1.0))?;
            Ok(match positive(meta, FACTOR, Some(old))? {
                1.0 => Scaling::None,
                factor => Scaling::Linear(factor.into()),
            })
        }
        Some(other) => {
            let reason = format!("`{other}` is not supported; supported are none and linear");
            Err(meta.error(KIND, reason))
        }
    }
}

/// Fails on a `llama.*` key whose meaning is not implemented.
fn refuse_unknown(meta: &GgufMeta) -> Result<(), LoadError> {
    const KNOWN: [&str; 20] = [
        "embedding_length",
        "feed_forward_length",
        "block_count",
        "context_length",
        "vocab_size",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        // These say how a model came to be, not how it is computed.
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
        "tensor_data_layout",
        // Only their 0 is known, see below.
        "expert_count",
        "expert_used_count",
    ];
    for key in ["llama.expert_count", "llama.expert_used_count"] {
        if meta.find::<u32>(key)?.is_some_and(|n| n > 0) {
            return Err(meta.error(key, "a mixture of experts is not supported"));
        }
    }
    let mut keys: Vec<&str> = meta.keys().collect();
    keys.sort_unstable();
    let unknown = keys.into_iter().find(|key| {
        let name = key.strip_prefix("llama.");
        name.is_some_and(|name| !KNOWN.contains(&name))
    });
    match unknown {
        Some(key) => Err(meta.error(
            key,
            "this key is not known, so what it asks for cannot be done",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value as Meta;
    use std::path::Path;

    #[test]
    fn a_factor_without_a_type_is_linear() {
        let (kind, factor, old) = (
            "llama.rope.scaling.type",
            "llama.rope.scaling.factor",
            "llama.rope.scale_linear",
        );
        let text = |text: &str| Meta::Str(text.to_owned());
        for (pairs, expected) in [
            (vec![], Scaling::None),
            (vec![(factor, Meta::Float(4.0))], Scaling::Linear(4.0)),
            (vec![(old, Meta::Float(2.0))], Scaling::Linear(2.0)),
            (
                vec![(factor, Meta::Float(4.0)), (old, Meta::Float(2.0))],
                Scaling::Linear(4.0),
            ),
            (
                vec![(factor, Meta::Float(4.0)), (kind, text("none"))],
                Scaling::None,
            ),
            (
                vec![(factor, Meta::Float(4.0)), (kind, text("linear"))],
                Scaling::Linear(4.0),
            ),
        ] {
            let what = format!("{pairs:?}");
            let values = pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            let meta = GgufMeta::new(Path::new("x.gguf"), values);
            assert_eq!(scaling(&meta).unwrap(), expected, "{what}");
        }
    }
}
