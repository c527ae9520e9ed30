//! The encoder of BERT and its kin: summed embeddings, layers whose attention and MLP are each followed by residual and layer
//! norm, and a pooling or classifier on top. Architectures differ in names and in which parts they have.

use super::embedding;
use super::linear::Linear;
use super::{gather, pooling::Pooling};
use crate::config::Json;
use crate::{Batch, LoadError, Workspace};
use koma_kernels::{
    AttnSpec, Cx, Error, HeadLayout, PackedWeight, Rows, Then, embed, layer_norm, varlen,
};

/// Weight, bias and epsilon of a layer norm.
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) eps: f32,
}

impl Norm {
    /// Normalises the rows of `x` in place.
    pub(crate) fn forward(&self, cx: &Cx, x: &mut Rows) {
        layer_norm(cx, x, &self.weight, &self.bias, self.eps);
    }
}

/// One layer.
pub(crate) struct EncoderLayer {
    pub(crate) qkv: Linear,
    pub(crate) attn_out: Linear,
    pub(crate) attn_norm: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) mlp_norm: Norm,
}

/// What all layers of an encoder have in common.
#[derive(Clone, Copy)]
pub(crate) struct EncoderSpec {
    pub(crate) attention: AttnSpec,
    pub(crate) activation: Then,
}

impl EncoderSpec {
    /// Full attention with `heads` heads over `hidden` values.
    pub(crate) fn new(heads: usize, hidden: usize, activation: Then) -> Self {
        let dim = hidden / heads;
        Self {
            attention: AttnSpec {
                layout: HeadLayout {
                    q_heads: heads,
                    kv_heads: heads,
                    k_dim: dim,
                    v_dim: dim,
                },
                scale: 1.0 / (dim as f32).sqrt(),
                causal: false,
                window: None,
                cap: None,
            },
            activation,
        }
    }
}

impl EncoderLayer {
    /// Computes the layer on `work.hidden`, `[tokens, hidden]`, in place.
    pub(crate) fn forward(&self, cx: &Cx, batch: &Batch, spec: &EncoderSpec, work: &mut Workspace) {
        let w = work;
        self.qkv
            .forward(cx, &w.hidden, Then::Store, &mut w.side, &mut w.qkv);
        varlen(
            cx,
            &w.qkv,
            &batch.cu_seqlens,
            &spec.attention,
            &mut w.attended,
        );
        self.attn_out
            .forward(cx, &w.attended, Then::Add, &mut w.side, &mut w.hidden);
        self.attn_norm.forward(cx, &mut w.hidden);
        self.up
            .forward(cx, &w.hidden, spec.activation, &mut w.side, &mut w.inner);
        self.down
            .forward(cx, &w.inner, Then::Add, &mut w.side, &mut w.hidden);
        self.mlp_norm.forward(cx, &mut w.hidden);
    }
}

/// What makes one row of a request's hidden states.
pub(crate) enum Top {
    /// One vector.
    Pool(Pooling),
    /// Logits, from the first token's hidden state.
    Classify {
        dense: Linear,
        activation: Then,
        classifier: Linear,
    },
}

/// A whole encoder.
pub(crate) struct PostNormEncoder {
    /// `[vocab, hidden]`.
    pub(crate) words: PackedWeight,
    /// `[segments, hidden]`, where the architecture has segments.
    pub(crate) types: Option<PackedWeight>,
    /// `[positions, hidden]`.
    pub(crate) positions: PackedWeight,
    pub(crate) norm: Norm,
    pub(crate) layers: Vec<EncoderLayer>,
    pub(crate) spec: EncoderSpec,
    pub(crate) top: Top,
}

impl crate::Encoder for PostNormEncoder {
    fn forward(&self, cx: &Cx, batch: &Batch, work: &mut Workspace) -> Result<(), Error> {
        // [tokens, hidden]
        embed(cx, &batch.ids, &self.words, &mut work.hidden);
        if let Some(types) = &self.types {
            embedding::add(cx, &batch.type_ids, types, &mut work.side, &mut work.hidden);
        }
        embedding::add(
            cx,
            &batch.positions,
            &self.positions,
            &mut work.side,
            &mut work.hidden,
        );
        self.norm.forward(cx, &mut work.hidden);
        work.record();
        for layer in &self.layers {
            layer.forward(cx, batch, &self.spec, work);
            work.record();
        }
        let w = work;
        match &self.top {
            Top::Pool(pooling) => pooling.forward(&w.hidden, &batch.cu_seqlens, &mut w.output),
            Top::Classify {
                dense,
                activation,
                classifier,
            } => {
                // The first token of each request: [requests, hidden]
                let first = batch.cu_seqlens[..batch.requests()].iter().copied();
                gather(&w.hidden, first, &mut w.normed);
                dense.forward(cx, &w.normed, *activation, &mut w.side, &mut w.attended);
                classifier.forward(cx, &w.attended, Then::Store, &mut w.side, &mut w.output);
            }
        }
        Ok(())
    }
}

/// The activation that config.json names in `field`. `gelu` is the exact form; the tanh form has names of its own.
pub(crate) fn activation(config: &Json, field: &str) -> Result<Then, LoadError> {
    match config.find_str(field)? {
        None | Some("gelu") => Ok(Then::GeluErf),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Then::GeluTanh),
        Some("relu") => Ok(Then::Relu),
        Some(other) => {
            let reason = format!(
                "`{other}` is not supported; supported are gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu"
            );
            Err(config.error(field, reason))
        }
    }
}
