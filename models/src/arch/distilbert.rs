//! `DistilBERT` (Sanh et al., arXiv:1910.01108): embedder, sequence or token classifier, from a Hugging Face folder. A BERT
//! without segments and pooler, under names of its own.

use super::tops::{self, Heads};
use crate::config::Json;
use crate::layers::encoder::{Names, Positions, PostNormEncoder, Sizes, activation};
use crate::layers::pooling::Pooling;
use crate::layers::top::{Stage, StageSpec};
use crate::registry::{Built, Checkpoint, MAX};
use crate::{Limits, LoadError, Model};
use koma_kernels::Then;

/// The counting buffer of older versions, and the head of pre-training.
const IGNORABLE: &[&str] = &[
    "*embeddings.position_ids",
    "vocab_transform.*",
    "vocab_layer_norm.*",
    "vocab_projector.*",
];

/// The architecture's own constant; config.json does not name it.
const NORM_EPS: f32 = 1e-12;

const NAMES: Names = Names {
    layers: "transformer.layer",
    qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attn_out: "attention.out_lin",
    attn_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    mlp_norm: "output_layer_norm",
};

fn sizes(json: &Json) -> Result<Sizes, LoadError> {
    let hidden = json.size("dim", 1..=MAX.width)?;
    Ok(Sizes {
        hidden,
        inner: json.size("hidden_dim", 1..=MAX.width)?,
        heads: json.divisor("n_heads", 1..=MAX.width, ("dim", hidden))?,
        layers: json.size("n_layers", 1..=MAX.layers)?,
        vocab: json.size("vocab_size", 1..=MAX.vocab)?,
        positions: json.size("max_position_embeddings", 1..=MAX.positions)?,
        types: 0,
        eps: NORM_EPS,
        activation: activation(json, "activation")?,
    })
}

/// With and without the prefix of classifiers.
fn spellings(name: &str) -> Vec<String> {
    vec![format!("distilbert.{name}"), name.to_owned()]
}

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let (_, json) = checkpoint.folder()?;
    let sizes = sizes(&json)?;
    let hidden = sizes.hidden;
    checkpoint.weights.spelled(spellings);
    let heads = Heads {
        hidden,
        pooling: Pooling::Cls,
        before: &|weights| {
            let spec = StageSpec::new("pre_classifier", (hidden, hidden), Then::Relu);
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
        ignorable: IGNORABLE,
        head: Some(head),
        segments: None,
        limits: Limits {
            max_len: sizes.positions,
            vocab: sizes.vocab,
        },
    })
}
