//! What the decoders in this folder share: [`Spec`], read from config.json ([`folder`]) or GGUF metadata ([`keys`]), and from
//! a spec and a checkpoint to a model ([`build`]).
//!
//! Owns: the common fields and keys, the names of tensors, the order of loading. Must not know: an architecture. A new one is
//! a file that reads its own fields into a [`Spec`]; what it needs and the spec cannot say becomes a field of the spec.
//!
//! Invariant: a spec can be computed: sizes are in range and fit together.

pub(super) mod experts;
pub(super) mod folder;
pub(super) mod keys;
mod names;

use crate::layers::decoder::{AttentionKind, DecoderLayer, LayeredDecoder};
use crate::layers::linear::{Linear, Parts};
use crate::layers::mlp::{GatedMlp, Mlp};
use crate::registry::{Built, Checkpoint, collect_layers};
use crate::weights::Weights;
use crate::{Limits, LoadError, Model};
use koma_kernels::{AttnSpec, HeadLayout, RopeTable, Then};
use std::sync::Arc;

/// Frequencies that older versions saved, and a head that a tied checkpoint repeats.
const IGNORABLE: &[&str] = &["*rotary_emb.inv_freq"];
const IGNORABLE_IF_TIED: &[&str] = &["*rotary_emb.inv_freq", "lm_head.weight"];
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// All that a decoder is, except its weights.
pub(super) struct Spec {
    pub(super) hidden: usize,
    /// Inside of a dense MLP.
    pub(super) inner: usize,
    pub(super) vocab: usize,
    pub(super) positions: usize,
    pub(super) layout: HeadLayout,
    /// Factor on the dot products of attention.
    pub(super) scale: f32,
    /// The kinds of attention, and which of them each layer has.
    pub(super) kinds: Vec<Kind>,
    pub(super) layers: Vec<usize>,
    /// Of all norms.
    pub(super) eps: f32,
    /// Biases of q, k, v, of attention's output, and of the MLP.
    pub(super) qkv_bias: bool,
    pub(super) out_bias: bool,
    pub(super) mlp_bias: bool,
    /// Of a dense MLP: a gated one.
    pub(super) activation: Then,
    /// Factor on the embeddings.
    pub(super) embedding_scale: f32,
    /// Whether the head is the embedding, if the configuration says; else it is where there is no head.
    pub(super) tied: Option<bool>,
}

/// A kind of attention.
pub(super) struct Kind {
    /// Tokens seen, itself included; none is all.
    pub(super) window: Option<usize>,
    pub(super) rope: RopeTable,
}

/// Reads the weights of a decoder with dense MLPs. See [`crate::registry`].
pub(super) fn build(checkpoint: &mut Checkpoint, spec: &Spec) -> Result<Built, LoadError> {
    build_with(checkpoint, spec, |weights, i| dense(weights, spec, i))
}

/// As [`build`], with the MLPs that `mlp` reads for each layer.
pub(super) fn build_with(
    checkpoint: &mut Checkpoint,
    spec: &Spec,
    mlp: impl Fn(&Weights, usize) -> Result<Mlp, LoadError> + Sync + Send,
) -> Result<Built, LoadError> {
    checkpoint.weights.spelled(if checkpoint.gguf.is_some() {
        names::gguf
    } else {
        names::folder
    });
    let weights = &checkpoint.weights;
    let embedding = Arc::new(weights.matrix(EMBEDDING, spec.vocab, spec.hidden)?);
    let tied = match spec.tied {
        Some(tied) => tied && !has_another_head(weights)?,
        None => !weights.has(HEAD),
    };
    let model = LayeredDecoder {
        layers: collect_layers(spec.layers.len(), |i| {
            layer(weights, spec, i, mlp(weights, i)?)
        })?,
        norm: weights.vector("model.norm.weight", spec.hidden)?,
        head: if tied {
            Linear::shared(Arc::clone(&embedding))
        } else {
            Linear::load_one(weights, "lm_head", (spec.vocab, spec.hidden), false)?
        },
        embedding,
        embedding_scale: spec.embedding_scale,
        kinds: spec
            .kinds
            .iter()
            .map(|kind| attention(spec, kind))
            .collect(),
        eps: spec.eps,
    };
    Ok(Built {
        model: Model::Decoder(Box::new(model)),
        ignorable: if tied { IGNORABLE_IF_TIED } else { IGNORABLE },
        head: None,
        segments: None,
        limits: Limits {
            max_len: spec.positions,
            vocab: spec.vocab,
        },
    })
}

fn attention(spec: &Spec, kind: &Kind) -> AttentionKind {
    AttentionKind {
        spec: AttnSpec {
            layout: spec.layout,
            scale: spec.scale,
            causal: true,
            window: kind.window,
        },
        rope: kind.rope.clone(),
    }
}

/// Whether a checkpoint that calls itself tied has a head all the same, with other values than the embedding; it is then
/// not tied (as in transformers 5).
fn has_another_head(weights: &Weights) -> Result<bool, LoadError> {
    let another = weights.has(HEAD) && !weights.same(HEAD, EMBEDDING)?;
    if another {
        tracing::warn!(path = %weights.path().display(), "`tie_word_embeddings` is true, but `{HEAD}` is not the embedding: it is used as it is");
    }
    Ok(another)
}

fn layer(weights: &Weights, spec: &Spec, i: usize, mlp: Mlp) -> Result<DecoderLayer, LoadError> {
    let HeadLayout {
        q_heads,
        kv_heads,
        k_dim,
        ..
    } = spec.layout;
    let (hidden, q, kv) = (spec.hidden, q_heads * k_dim, kv_heads * k_dim);
    let name = |part: &str| format!("model.layers.{i}.{part}");
    let qkv = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
    let qkv = qkv.map(|(part, rows)| (name(&format!("self_attn.{part}")), rows));
    let kind = spec.layers[i];
    Ok(DecoderLayer {
        place: (
            kind,
            spec.layers[..i].iter().filter(|k| **k == kind).count(),
        ),
        attn_norm: weights.vector(&name("input_layernorm.weight"), hidden)?,
        qkv: Linear::load(
            weights,
            &Parts {
                outputs: &qkv,
                cols: hidden,
                bias: spec.qkv_bias,
            },
        )?,
        attn_out: Linear::load_one(
            weights,
            &name("self_attn.o_proj"),
            (hidden, q),
            spec.out_bias,
        )?,
        mlp_norm: weights.vector(&name("post_attention_layernorm.weight"), hidden)?,
        mlp,
    })
}

/// The MLP of layer `i` if it is dense.
pub(super) fn dense(weights: &Weights, spec: &Spec, i: usize) -> Result<Mlp, LoadError> {
    let name = |part: &str| format!("model.layers.{i}.mlp.{part}");
    let gate_up = ["gate_proj", "up_proj"].map(|part| (name(part), spec.inner));
    let down = (spec.hidden, spec.inner);
    Ok(Mlp::Gated(GatedMlp {
        gate_up: Linear::load(
            weights,
            &Parts {
                outputs: &gate_up,
                cols: spec.hidden,
                bias: spec.mlp_bias,
            },
        )?,
        down: Linear::load_one(weights, &name("down_proj"), down, spec.mlp_bias)?,
        activation: spec.activation,
    }))
}

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
