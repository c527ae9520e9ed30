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
use crate::weights::{Precision, Weights};
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
    /// Scaled products of queries and keys are bent so that none is beyond this.
    pub(super) attn_cap: Option<f32>,
    /// The same for logits.
    pub(super) logit_cap: Option<f32>,
    /// Of all norms.
    pub(super) eps: f32,
    /// What is added to the stored weights of all norms.
    pub(super) norm_offset: f32,
    /// Whether each query and key head has a norm, before it is rotated.
    pub(super) head_norms: bool,
    /// Whether the results of attention and MLP have norms, too, before they are added.
    pub(super) post_norms: bool,
    /// Whether the checkpoint holds q, k, v in one matrix, and gate and up in another.
    pub(super) fused: bool,
    pub(super) biases: Biases,
    /// Of a dense MLP: a gated one.
    pub(super) activation: Then,
    /// Factor on the embeddings.
    pub(super) embedding_scale: f32,
    /// Whether the head is the embedding, if the configuration says; else it is where there is no head.
    pub(super) tied: Option<bool>,
}

/// Which products have biases.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Biases {
    /// Those of q, k, v.
    pub(super) qkv: bool,
    /// That of attention's output.
    pub(super) out: bool,
    /// Those of a dense MLP.
    pub(super) mlp: bool,
}

/// A kind of attention.
pub(super) struct Kind {
    /// Tokens seen, itself included; none is all.
    pub(super) window: Option<usize>,
    pub(super) rope: RopeTable,
}

impl Spec {
    /// Gives the layers for which `sliding` is true a window of `window` tokens and the rotation `rope` (none: that of the
    /// others).
    pub(super) fn slide(
        &mut self,
        window: usize,
        rope: Option<RopeTable>,
        sliding: impl Fn(usize) -> bool,
    ) {
        if window >= self.positions && rope.is_none() {
            return; // no request can outgrow it
        }
        let rope = rope.unwrap_or_else(|| self.kinds[0].rope.clone());
        let slides: Vec<bool> = (0..self.layers.len()).map(sliding).collect();
        let kind = Kind {
            window: Some(window).filter(|w| *w < self.positions),
            rope,
        };
        if slides.iter().all(|s| *s) {
            self.kinds = vec![kind];
        } else if slides.contains(&true) {
            self.kinds.push(kind);
            self.layers = slides.into_iter().map(usize::from).collect();
        }
    }
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
    checkpoint.weights.spelled(match &checkpoint.gguf {
        None => names::folder,
        Some(_) if spec.post_norms => names::gguf_post_norms,
        Some(_) => names::gguf,
    });
    let weights = &checkpoint.weights;
    let embedding = weights.fine(EMBEDDING, spec.vocab, spec.hidden)?;
    let embedding = Arc::new(weights.settled(embedding)?);
    let tied = match spec.tied {
        Some(tied) => tied && !has_another_head(weights)?,
        None => !weights.has(HEAD),
    };
    let model = LayeredDecoder {
        layers: collect_layers(spec.layers.len(), |i| {
            layer(weights, spec, i, mlp(weights, i)?)
        })?,
        norm: norm(weights, spec, "model.norm", spec.hidden)?,
        head: if tied {
            Linear::shared(Arc::clone(&embedding))
        } else {
            Linear::load_fine(weights, "lm_head", (spec.vocab, spec.hidden), false)?
        },
        embedding,
        embedding_scale: spec.embedding_scale,
        logit_cap: spec.logit_cap,
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
            cap: spec.attn_cap,
            halves: false,
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

/// The weights of a norm over `width` values.
fn norm(weights: &Weights, spec: &Spec, name: &str, width: usize) -> Result<Vec<f32>, LoadError> {
    let mut norm = weights.vector(&format!("{name}.weight"), width)?;
    for w in &mut norm {
        *w += spec.norm_offset;
    }
    Ok(norm)
}

fn layer(weights: &Weights, spec: &Spec, i: usize, mlp: Mlp) -> Result<DecoderLayer, LoadError> {
    let (hidden, layout) = (spec.hidden, &spec.layout);
    let name = |part: &str| format!("model.layers.{i}.{part}");
    let norm = |part: &str, width| norm(weights, spec, &name(part), width);
    let norm_if = |wanted: bool, part, width| wanted.then(|| norm(part, width)).transpose();
    // Llama's second norm stands before the MLP, whatever its name says.
    let mlp_norm = if spec.post_norms {
        "pre_feedforward_layernorm"
    } else {
        "post_attention_layernorm"
    };
    let (q, kv) = (layout.out_width(), layout.kv_heads * layout.k_dim);
    let qkv: &[_] = if spec.fused {
        &[("self_attn.qkv_proj", q + 2 * kv)]
    } else {
        &[
            ("self_attn.q_proj", q),
            ("self_attn.k_proj", kv),
            ("self_attn.v_proj", kv),
        ]
    };
    let out = (hidden, q);
    let kind = spec.layers[i];
    let query_norm = norm_if(spec.head_norms, "self_attn.q_norm", layout.k_dim)?;
    let key_norm = norm_if(spec.head_norms, "self_attn.k_norm", layout.k_dim)?;
    Ok(DecoderLayer {
        place: (
            kind,
            spec.layers[..i].iter().filter(|k| **k == kind).count(),
        ),
        attn_norm: norm("input_layernorm", hidden)?,
        qkv: stack(weights, i, qkv, (hidden, spec.biases.qkv))?,
        head_norms: query_norm.zip(key_norm),
        attn_out: Linear::load_one(weights, &name("self_attn.o_proj"), out, spec.biases.out)?,
        attn_post_norm: norm_if(spec.post_norms, "post_attention_layernorm", hidden)?,
        mlp_norm: norm(mlp_norm, hidden)?,
        mlp,
        mlp_post_norm: norm_if(spec.post_norms, "post_feedforward_layernorm", hidden)?,
    })
}

/// The matrices `parts` of layer `i` (names and rows), with `cols` columns each.
fn stack(
    weights: &Weights,
    i: usize,
    parts: &[(&str, usize)],
    (cols, bias): (usize, bool),
) -> Result<Linear, LoadError> {
    let whole = |(part, rows): &(&str, usize)| (format!("model.layers.{i}.{part}"), *rows);
    let outputs: Vec<_> = parts.iter().map(whole).collect();
    Linear::load(
        weights,
        &Parts {
            outputs: &outputs,
            cols,
            bias,
            precision: Precision::Any,
        },
    )
}

/// The MLP of layer `i` if it is dense.
pub(super) fn dense(weights: &Weights, spec: &Spec, i: usize) -> Result<Mlp, LoadError> {
    let gate_up: &[_] = if spec.fused {
        &[("mlp.gate_up_proj", 2 * spec.inner)]
    } else {
        &[("mlp.gate_proj", spec.inner), ("mlp.up_proj", spec.inner)]
    };
    let down = &[("mlp.down_proj", spec.hidden)];
    Ok(Mlp::Gated(GatedMlp {
        gate_up: stack(weights, i, gate_up, (spec.hidden, spec.biases.mlp))?,
        down: stack(weights, i, down, (spec.inner, spec.biases.mlp))?,
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
