//! BERT (Devlin et al., arXiv:1810.04805): embedder, sequence or token classifier, from a Hugging Face folder.

use super::tops::{self, Heads};
use crate::config::Json;
use crate::layers::encoder::{Names, Positions, PostNormEncoder, Sizes, activation};
use crate::layers::pooling::Pooling;
use crate::layers::top::{Stage, StageSpec};
use crate::registry::{Built, Checkpoint, Kind, MAX};
use crate::{Limits, LoadError, Model};
use koma_kernels::Then;
use serde_json::Value;

/// The counting buffer of older versions, and the heads of pre-training.
const IGNORABLE: &[&str] = &["*embeddings.position_ids", "cls.*"];
/// The same, and the pooler that only sequence classifiers use.
const IGNORABLE_WITHOUT_POOLER: &[&str] = &[
    "*embeddings.position_ids",
    "cls.*",
    "pooler.*",
    "bert.pooler.*",
];

/// The names of a layer's parts, `RoBERTa`'s too.
pub(super) const NAMES: Names = Names {
    layers: "encoder.layer",
    qkv: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ],
    attn_out: "attention.output.dense",
    attn_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    mlp_norm: "output.LayerNorm",
};

/// The sizes in config.json, with at least `segments` segments.
pub(super) fn sizes(json: &Json, segments: usize) -> Result<Sizes, LoadError> {
    json.expect_only("position_embedding_type", &Value::from("absolute"))?;
    json.expect_only("is_decoder", &Value::from(false))?;
    let hidden = json.size("hidden_size", 1..=MAX.width)?;
    Ok(Sizes {
        hidden,
        inner: json.size("intermediate_size", 1..=MAX.width)?,
        heads: json.divisor(
            "num_attention_heads",
            1..=MAX.width,
            ("hidden_size", hidden),
        )?,
        layers: json.size("num_hidden_layers", 1..=MAX.layers)?,
        vocab: json.size("vocab_size", 1..=MAX.vocab)?,
        positions: json.size("max_position_embeddings", 1..=MAX.positions)?,
        types: json
            .find_size("type_vocab_size", segments..=MAX.width)?
            .unwrap_or(2),
        eps: json.positive_or("layer_norm_eps", 1e-12)? as f32,
        activation: activation(json, "hidden_act")?,
    })
}

/// With and without the prefix of classifiers, and the names that layer norms had in the first releases.
fn spellings(name: &str) -> Vec<String> {
    let mut names = vec![format!("bert.{name}"), name.to_owned()];
    let old = name
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta");
    if old != name {
        names.extend([format!("bert.{old}"), old]);
    }
    names
}

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let (_, json) = checkpoint.folder()?;
    // Tokenizers give pairs the segments 0 and 1.
    let sizes = sizes(&json, 2)?;
    let hidden = sizes.hidden;
    checkpoint.weights.spelled(spellings);
    let heads = Heads {
        hidden,
        pooling: Pooling::Cls,
        before: &|weights| {
            let spec = StageSpec::new("pooler.dense", (hidden, hidden), Then::Tanh);
            Stage::load(weights, spec)
        },
        before_tokens: false,
        last: "classifier",
    };
    let (top, head) = tops::read(checkpoint, &heads)?;
    let numbering = Positions::Plain;
    let model = PostNormEncoder::load(&checkpoint.weights, &sizes, &NAMES, (numbering, top))?;
    Ok(Built {
        model: Model::Encoder(Box::new(model)),
        ignorable: match checkpoint.kind {
            Kind::Classifier => IGNORABLE,
            _ => IGNORABLE_WITHOUT_POOLER,
        },
        head: Some(head),
        segments: Some(sizes.types),
        limits: Limits {
            max_len: sizes.positions,
            vocab: sizes.vocab,
        },
    })
}
