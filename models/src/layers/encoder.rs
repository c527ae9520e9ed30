//! [`PostNormEncoder`]: the encoder of BERT and its kin. Summed embeddings, then layers whose attention and MLP are each
//! followed by residual and layer norm, then a [`Top`]. Architectures differ in the names of their tensors, in how they
//! number positions and in whether they read segments; all of that is data here.

use super::linear::{Linear, Parts};
use super::top::{Select, StageSpec, Top};
use super::{apart, embedding};
use crate::config::Json;
use crate::registry::collect_layers;
use crate::weights::{Precision, Weights};
use crate::{Batch, LoadError, Workspace};
use koma_kernels::{
    AttnSpec, Cx, Error, HeadLayout, PackedWeight, Rows, Then, embed, gather_rows, layer_norm,
    varlen, varlen_one,
};

/// Weight, bias and epsilon of a layer norm.
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) eps: f32,
}

impl Norm {
    /// Reads `NAME.weight` and, with `bias`, `NAME.bias`, of `width` values.
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        width: usize,
        (bias, eps): (bool, f32),
    ) -> Result<Self, LoadError> {
        Ok(Self {
            weight: weights.vector(&format!("{name}.weight"), width)?,
            bias: if bias {
                weights.vector(&format!("{name}.bias"), width)?
            } else {
                vec![0.0; width]
            },
            eps,
        })
    }

    /// Normalises the rows of `x` in place.
    pub(crate) fn forward(&self, cx: &Cx, x: &mut Rows) {
        layer_norm(cx, x, &self.weight, &self.bias, self.eps);
    }
}

/// Bidirectional attention with `heads` heads over `hidden` values. `reach`: how many tokens to each side are seen; none is
/// all. `halves`: see [`AttnSpec`].
pub(crate) fn attention(
    (heads, hidden): (usize, usize),
    reach: Option<usize>,
    halves: bool,
) -> AttnSpec {
    let dim = hidden / heads;
    AttnSpec {
        layout: HeadLayout {
            q_heads: heads,
            kv_heads: heads,
            k_dim: dim,
            v_dim: dim,
        },
        scale: 1.0 / (dim as f32).sqrt(),
        causal: false,
        window: reach.map(|reach| reach + 1),
        cap: None,
        halves,
    }
}

/// How tokens find their row in the table of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// By their number, from 0.
    Plain,
    /// Behind the row of the padding token, counting tokens that are not padding; the padding token has its own row (`RoBERTa`,
    /// which has it from fairseq).
    AfterPadding(u32),
}

impl Positions {
    /// Rows of the table that no token but the padding uses.
    pub fn offset(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::AfterPadding(padding) => padding as usize + 1,
        }
    }

    /// The row of each token of `batch`; `numbers` is room for them.
    fn of<'a>(self, batch: &'a Batch, numbers: &'a mut Vec<u32>) -> &'a [u32] {
        let Self::AfterPadding(padding) = self else {
            return &batch.positions;
        };
        numbers.clear();
        for bounds in batch.cu_seqlens.windows(2) {
            let mut last = padding;
            let ids = &batch.ids[bounds[0] as usize..bounds[1] as usize];
            numbers.extend(ids.iter().map(|id| {
                if *id == padding {
                    return padding;
                }
                last += 1;
                last
            }));
        }
        numbers
    }
}

/// The sizes of a post-norm encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Values of a token's row.
    pub hidden: usize,
    /// Values between the two products of an MLP.
    pub inner: usize,
    /// Heads of attention; a divisor of `hidden`. Scores are divided by the square root of a head's width.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Rows of the table of words.
    pub vocab: usize,
    /// Rows of the table of positions.
    pub positions: usize,
    /// Rows of the table of segments; 0 if there is none.
    pub types: usize,
    /// Added to the variance in every norm.
    pub eps: f32,
    /// Between the two products of an MLP: [`Then::GeluErf`], [`Then::GeluTanh`] or [`Then::Relu`].
    pub activation: Then,
}

/// What an architecture calls the parts of a layer, behind `LAYERS.i.` and before `.weight` and `.bias`.
#[derive(Debug)]
pub struct Names {
    /// Before the number of a layer.
    pub layers: &'static str,
    /// The products that give queries, keys and values.
    pub qkv: [&'static str; 3],
    /// The product behind attention.
    pub attn_out: &'static str,
    /// The norm behind that and the residual.
    pub attn_norm: &'static str,
    /// The first product of the MLP.
    pub up: &'static str,
    /// The second.
    pub down: &'static str,
    /// The norm behind that and the residual.
    pub mlp_norm: &'static str,
}

/// A post-norm encoder as data, for who computes it by other means than [`crate::Encoder::forward`]. Names of tensors are the
/// architecture's; [`crate::Tensors`] knows how the checkpoint spells them.
///
/// `norm(words[id] + positions[n] + types[segment])` of the tables `embeddings.word_embeddings`, `.position_embeddings` and
/// `.token_type_embeddings` and the norm `embeddings.LayerNorm`; then each layer `x = attn_norm(x + attn_out(attention(q, k, v)))`,
/// `x = mlp_norm(x + down(activation(up(x))))`, all products with a bias; then `select` and the stages.
#[derive(Debug, Clone)]
pub struct EncoderSpec {
    /// Sizes.
    pub sizes: Sizes,
    /// Names of a layer's parts.
    pub names: &'static Names,
    /// How tokens find their row in the table of positions.
    pub numbering: Positions,
    /// Whether segments are looked at; if not and there is a table of them, all tokens take its row 0.
    pub reads_segments: bool,
    /// Which rows go on behind the layers.
    pub select: Select,
    /// The dense layers they go through.
    pub stages: Vec<StageSpec>,
}

struct Layer {
    qkv: Linear,
    attn_out: Linear,
    attn_norm: Norm,
    up: Linear,
    down: Linear,
    mlp_norm: Norm,
}

/// See the module.
pub(crate) struct PostNormEncoder {
    /// `[vocab, hidden]`.
    words: PackedWeight,
    /// `[segments, hidden]`, where the architecture has segments.
    types: Option<PackedWeight>,
    /// Whether the segments of the batch are looked at; row 0 for all tokens otherwise.
    reads_segments: bool,
    /// `[positions, hidden]`.
    positions: PackedWeight,
    numbering: Positions,
    norm: Norm,
    layers: Vec<Layer>,
    attention: AttnSpec,
    top: Top,
    sizes: Sizes,
    names: &'static Names,
}

impl PostNormEncoder {
    /// Reads the embeddings and the layers. Segments are looked at where positions are [`Positions::Plain`]: `RoBERTa` has a
    /// table of them, and its tokenizers give none.
    pub(crate) fn load(
        weights: &Weights,
        sizes: &Sizes,
        names: &'static Names,
        (numbering, top): (Positions, Top),
    ) -> Result<Self, LoadError> {
        let table = |name: &str, rows| {
            let name = format!("embeddings.{name}_embeddings.weight");
            weights.table(&name, rows, sizes.hidden)
        };
        let types = match sizes.types {
            0 => None,
            types => Some(table("token_type", types)?),
        };
        let load = |i| Layer::load(weights, sizes, (names, i));
        let layers = collect_layers(sizes.layers, load)?;
        let halves = layers.iter().all(|l: &Layer| l.qkv.rounds());
        Ok(Self {
            words: table("word", sizes.vocab)?,
            types,
            reads_segments: numbering == Positions::Plain,
            positions: table("position", sizes.positions)?,
            numbering,
            norm: sizes.norm(weights, "embeddings.LayerNorm")?,
            layers,
            attention: attention((sizes.heads, sizes.hidden), None, halves),
            top,
            sizes: sizes.clone(),
            names,
        })
    }
}

impl Sizes {
    fn norm(&self, weights: &Weights, name: &str) -> Result<Norm, LoadError> {
        Norm::load(weights, name, self.hidden, (true, self.eps))
    }
}

impl Layer {
    fn load(
        weights: &Weights,
        sizes: &Sizes,
        (names, i): (&Names, usize),
    ) -> Result<Self, LoadError> {
        let (hidden, inner) = (sizes.hidden, sizes.inner);
        let name = |part: &str| format!("{}.{i}.{part}", names.layers);
        let one = |part: &str, shape| Linear::load_one(weights, &name(part), shape, true);
        let qkv = Parts {
            outputs: &names.qkv.map(|part| (name(part), hidden)),
            cols: hidden,
            bias: true,
            precision: Precision::Any,
        };
        Ok(Self {
            qkv: Linear::load(weights, &qkv)?,
            attn_out: one(names.attn_out, (hidden, hidden))?,
            attn_norm: sizes.norm(weights, &name(names.attn_norm))?,
            up: one(names.up, (inner, hidden))?,
            down: one(names.down, (hidden, inner))?,
            mlp_norm: sizes.norm(weights, &name(names.mlp_norm))?,
        })
    }
}

impl crate::Encoder for PostNormEncoder {
    fn forward(&self, cx: &Cx, batch: &Batch, work: &mut Workspace) -> Result<(), Error> {
        apart::forward(cx, batch, work, &|cx, batch, work| {
            self.rows(cx, batch, work);
        });
        Ok(())
    }

    fn spec(&self) -> Option<EncoderSpec> {
        let plain = self.top.stages.iter().all(|stage| stage.norm.is_none());
        plain.then(|| EncoderSpec {
            sizes: self.sizes.clone(),
            names: self.names,
            numbering: self.numbering,
            reads_segments: self.reads_segments && self.types.is_some(),
            select: self.top.select.clone(),
            stages: self.top.stages.iter().map(|s| s.spec.clone()).collect(),
        })
    }
}

impl PostNormEncoder {
    /// Computes `batch`, the result in `work.output`.
    fn rows(&self, cx: &Cx, batch: &Batch, work: &mut Workspace) {
        let w = &mut *work;
        // [tokens, hidden]
        embed(cx, &batch.ids, &self.words, &mut w.hidden);
        if let Some(types) = &self.types {
            let segments: &[u32] = if self.reads_segments {
                &batch.type_ids
            } else {
                &[]
            };
            embedding::add(cx, segments, types, &mut w.side, &mut w.hidden);
        }
        let positions = self.numbering.of(batch, &mut w.positions);
        embedding::add(cx, positions, &self.positions, &mut w.side, &mut w.hidden);
        self.norm.forward(cx, &mut w.hidden);
        w.record();
        let picked = w.trace.is_none() && self.top.pick(batch, &mut w.picked);
        for (i, layer) in self.layers.iter().enumerate() {
            self.layer(cx, batch, (layer, picked && i + 1 == self.layers.len()), w);
            w.record();
        }
        self.top.forward(cx, batch, picked, work);
    }

    /// Computes a layer on `work.hidden`, `[tokens, hidden]`, in place; with `pick` only those rows of it that were picked.
    fn layer(&self, cx: &Cx, batch: &Batch, (layer, pick): (&Layer, bool), work: &mut Workspace) {
        let (w, seqs) = (work, &batch.cu_seqlens);
        layer
            .qkv
            .forward(cx, &w.hidden, Then::Store, &mut w.side, &mut w.qkv);
        if pick {
            let one = (&seqs[..], &w.picked[..]);
            varlen_one(cx, &w.qkv, one, &self.attention, &mut w.attended);
            gather_rows(cx, &w.hidden, &w.picked, &mut w.normed);
            std::mem::swap(&mut w.hidden, &mut w.normed);
        } else {
            varlen(cx, &w.qkv, seqs, &self.attention, &mut w.attended);
        }
        layer
            .attn_out
            .forward(cx, &w.attended, Then::Add, &mut w.side, &mut w.hidden);
        layer.attn_norm.forward(cx, &mut w.hidden);
        layer.up.forward(
            cx,
            &w.hidden,
            self.sizes.activation,
            &mut w.side,
            &mut w.inner,
        );
        layer
            .down
            .forward(cx, &w.inner, Then::Add, &mut w.side, &mut w.hidden);
        layer.mlp_norm.forward(cx, &mut w.hidden);
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
