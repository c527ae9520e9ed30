//! `ModernBERT` (Warner et al., arXiv:2412.13663): embedder, sequence or token classifier, from a Hugging Face folder. Rotary
//! positions with a base for each kind of layer, layers that see all of a text between layers that see the neighbourhood of
//! a token, gated MLPs, norms before and not behind (none before the first layer's attention), hardly any biases.

use super::tops::{self, Heads};
use crate::config::Json;
use crate::config::rope::{Rope, Scaling};
use crate::layers::apart;
use crate::layers::encoder::{Norm, activation, attention};
use crate::layers::linear::Linear;
use crate::layers::pooling::Pooling;
use crate::layers::top::{Stage, StageSpec, Top};
use crate::registry::{Built, Checkpoint, MAX, collect_layers};
use crate::weights::Weights;
use crate::{Batch, Encoder, Limits, LoadError, Model, Workspace};
use koma_kernels::{
    AttnSpec, Cx, Error, PackedWeight, RopeTable, Rows, Then, embed, gather_rows, rope,
    rope_angles, varlen, varlen_one,
};
use serde_json::Value;

/// The head of pre-training; embedders may come with it.
const IGNORABLE: &[&str] = &["head.*", "decoder.*"];

/// What a layer attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// All of the text (`full_attention`).
    Global,
    /// Tokens near by (`sliding_attention`).
    Local,
}

struct Config {
    hidden: usize,
    inner: usize,
    heads: usize,
    layers: Vec<Reach>,
    vocab: usize,
    positions: usize,
    eps: f32,
    activation: Then,
    /// Tokens to each side that a local layer sees.
    neighbours: usize,
    rope: [RopeTable; 2],
    biases: Biases,
    pooling: Pooling,
    classifier_activation: Then,
}

/// Which parts have biases.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "config.json has these four")]
struct Biases {
    norm: bool,
    attention: bool,
    mlp: bool,
    classifier: bool,
}

impl Config {
    fn read(json: &Json) -> Result<Self, LoadError> {
        let hidden = json.size("hidden_size", 1..=MAX.width)?;
        let range = 1..=MAX.width;
        let heads = json.divisor("num_attention_heads", range, ("hidden_size", hidden))?;
        let local = json.find_size("local_attention", 1..=MAX.positions)?;
        let head_dim = hidden / heads;
        if !head_dim.is_multiple_of(2) {
            let reason = format!("heads of {head_dim} values cannot be rotated in pairs");
            return Err(json.error("num_attention_heads", reason));
        }
        Ok(Self {
            hidden,
            inner: json.size("intermediate_size", 1..=MAX.width)?,
            heads,
            layers: layers(json)?,
            vocab: json.size("vocab_size", 1..=MAX.vocab)?,
            positions: json.size("max_position_embeddings", 1..=MAX.positions)?,
            eps: json.positive_or("norm_eps", 1e-5)? as f32,
            activation: gated(json, "hidden_activation")?,
            neighbours: local.unwrap_or(128) / 2,
            rope: [
                rope_table(
                    json,
                    ("full_attention", "global_rope_theta"),
                    (160_000.0, head_dim),
                )?,
                rope_table(
                    json,
                    ("sliding_attention", "local_rope_theta"),
                    (10_000.0, head_dim),
                )?,
            ],
            biases: Biases {
                norm: json.bool_or("norm_bias", false)?,
                attention: json.bool_or("attention_bias", false)?,
                mlp: json.bool_or("mlp_bias", false)?,
                classifier: json.bool_or("classifier_bias", false)?,
            },
            pooling: match json.find_str("classifier_pooling")? {
                None | Some("cls") => Pooling::Cls,
                Some("mean") => Pooling::Mean,
                Some(other) => {
                    let reason = format!("`{other}` is not supported; supported are cls and mean");
                    return Err(json.error("classifier_pooling", reason));
                }
            },
            classifier_activation: activation(json, "classifier_activation")?,
        })
    }

    fn norm(&self, weights: &Weights, name: &str) -> Result<Norm, LoadError> {
        Norm::load(weights, name, self.hidden, (self.biases.norm, self.eps))
    }
}

/// `layer_types`, or every third layer global (`global_attn_every_n_layers`) in older files.
fn layers(json: &Json) -> Result<Vec<Reach>, LoadError> {
    const FIELD: &str = "layer_types";
    let count = json.size("num_hidden_layers", 1..=MAX.layers)?;
    let Some(list) = json.find_array(FIELD)? else {
        let every = json.find_size("global_attn_every_n_layers", 1..=MAX.layers)?;
        let global = |i: usize| i.is_multiple_of(every.unwrap_or(3));
        let reach = |i| {
            if global(i) {
                Reach::Global
            } else {
                Reach::Local
            }
        };
        return Ok((0..count).map(reach).collect());
    };
    if list.len() != count {
        let reason = format!("has {} entries for {count} layers", list.len());
        return Err(json.error(FIELD, reason));
    }
    let reach = |(i, kind): (usize, &Value)| match kind.as_str() {
        Some("full_attention") => Ok(Reach::Global),
        Some("sliding_attention") => Ok(Reach::Local),
        _ => {
            let reason = "expected full_attention or sliding_attention";
            Err(json.error(&format!("{FIELD}.{i}"), reason))
        }
    };
    list.iter().enumerate().map(reach).collect()
}

/// The rotation of one kind of layer: the object of its name in `rope_parameters`, or `old` beside it.
fn rope_table(
    json: &Json,
    (kind, old): (&str, &str),
    (base, dim): (f64, usize),
) -> Result<RopeTable, LoadError> {
    json.expect_only("rope_scaling", &Value::Null)?;
    if json.is_null(old) {
        // Releases disagree: the base of the other layers, or the usual one.
        return Err(json.error(old, "null is not supported, only a number"));
    }
    let mut theta = json.positive_or(old, base)?;
    let inner = match json.find_inner("rope_parameters")? {
        Some(parameters) => parameters.find_inner(kind)?,
        None => None,
    };
    if let Some(inner) = inner {
        inner.expect_only("rope_type", &Value::from("default"))?;
        inner.expect_only("partial_rotary_factor", &Value::from(1.0))?;
        theta = inner.positive_or("rope_theta", theta)?;
    }
    let scaling = Scaling::None;
    Ok(Rope { theta, scaling }.table(dim, false))
}

/// The activation of a gated product.
fn gated(json: &Json, field: &str) -> Result<Then, LoadError> {
    match activation(json, field)? {
        Then::GeluErf => Ok(Then::GeluErfMul),
        Then::GeluTanh => Ok(Then::GeluTanhMul),
        _ => Err(json.error(field, "is not supported in a gated MLP; supported is GELU")),
    }
}

struct Layer {
    reach: Reach,
    /// None before the first layer.
    attn_norm: Option<Norm>,
    qkv: Linear,
    attn_out: Linear,
    mlp_norm: Norm,
    /// Rows `[gate; up]`.
    gate_up: Linear,
    down: Linear,
}

struct ModernBert {
    /// `[vocab, hidden]`.
    words: PackedWeight,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    final_norm: Norm,
    /// Of global and of local layers.
    rope: [RopeTable; 2],
    attention: [AttnSpec; 2],
    activation: Then,
    top: Top,
}

/// With and without the prefix of classifiers.
fn spellings(name: &str) -> Vec<String> {
    vec![format!("model.{name}"), name.to_owned()]
}

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let (_, json) = checkpoint.folder()?;
    let config = Config::read(&json)?;
    let hidden = config.hidden;
    checkpoint.weights.spelled(spellings);
    let heads = Heads {
        hidden,
        pooling: config.pooling,
        before: &|weights| {
            let spec = StageSpec {
                bias: config.biases.classifier,
                ..StageSpec::new("head.dense", (hidden, hidden), config.classifier_activation)
            };
            let mut stage = Stage::load(weights, spec)?;
            stage.norm = Some(config.norm(weights, "head.norm")?);
            Ok(stage)
        },
        before_tokens: true,
        last: "classifier",
    };
    let (top, head) = tops::read(checkpoint, &heads)?;
    let weights = &checkpoint.weights;
    let layers = collect_layers(config.layers.len(), |i| layer(weights, &config, i))?;
    let halves = layers.iter().all(|l: &Layer| l.qkv.rounds());
    let model = ModernBert {
        words: weights.table("embeddings.tok_embeddings.weight", config.vocab, hidden)?,
        embedding_norm: config.norm(weights, "embeddings.norm")?,
        layers,
        final_norm: config.norm(weights, "final_norm")?,
        attention: [None, Some(config.neighbours)]
            .map(|neighbours| attention((config.heads, hidden), neighbours, halves)),
        rope: config.rope,
        activation: config.activation,
        top,
    };
    Ok(Built {
        model: Model::Encoder(Box::new(model)),
        ignorable: IGNORABLE,
        head: Some(head),
        segments: None,
        limits: Limits {
            max_len: config.positions,
            vocab: config.vocab,
        },
    })
}

fn layer(weights: &Weights, config: &Config, i: usize) -> Result<Layer, LoadError> {
    let (hidden, inner, biases) = (config.hidden, config.inner, config.biases);
    let name = |part: &str| format!("layers.{i}.{part}");
    let one = |part: &str, shape, bias| Linear::load_one(weights, &name(part), shape, bias);
    Ok(Layer {
        reach: config.layers[i],
        attn_norm: match i {
            0 => None,
            _ => Some(config.norm(weights, &name("attn_norm"))?),
        },
        qkv: one("attn.Wqkv", (3 * hidden, hidden), biases.attention)?,
        attn_out: one("attn.Wo", (hidden, hidden), biases.attention)?,
        mlp_norm: config.norm(weights, &name("mlp_norm"))?,
        gate_up: one("mlp.Wi", (2 * inner, hidden), biases.mlp)?,
        down: one("mlp.Wo", (hidden, inner), biases.mlp)?,
    })
}

impl Encoder for ModernBert {
    fn forward(&self, cx: &Cx, batch: &Batch, work: &mut Workspace) -> Result<(), Error> {
        apart::forward(cx, batch, work, &|cx, batch, work| {
            self.rows(cx, batch, work);
        });
        Ok(())
    }
}

impl ModernBert {
    /// Computes `batch`, the result in `work.output`.
    fn rows(&self, cx: &Cx, batch: &Batch, work: &mut Workspace) {
        let w = &mut *work;
        // [tokens, hidden]
        embed(cx, &batch.ids, &self.words, &mut w.hidden);
        self.embedding_norm.forward(cx, &mut w.hidden);
        w.angles.resize_with(self.rope.len(), Rows::new);
        for (table, angles) in self.rope.iter().zip(&mut w.angles) {
            rope_angles(cx, &batch.positions, table, angles);
        }
        let picked = w.trace.is_none() && self.top.pick(batch, &mut w.picked);
        for (i, layer) in self.layers.iter().enumerate() {
            w.record();
            self.layer(cx, batch, (layer, picked && i + 1 == self.layers.len()), w);
        }
        self.final_norm.forward(cx, &mut w.hidden);
        // As transformers counts hidden states: the last one is behind the last norm.
        w.record();
        self.top.forward(cx, batch, picked, work);
    }

    /// Computes a layer on `work.hidden`, `[tokens, hidden]`, in place; with `pick` only those rows of it that were picked.
    fn layer(&self, cx: &Cx, batch: &Batch, (layer, pick): (&Layer, bool), work: &mut Workspace) {
        let w = work;
        let kind = layer.reach as usize;
        let spec = &self.attention[kind];
        w.normed.copy_from(&w.hidden);
        if let Some(norm) = &layer.attn_norm {
            norm.forward(cx, &mut w.normed);
        }
        layer
            .qkv
            .forward(cx, &w.normed, Then::Store, &mut w.side, &mut w.qkv);
        rope(cx, &mut w.qkv, &spec.layout, &w.angles[kind], false);
        let seqs = &batch.cu_seqlens;
        if pick {
            varlen_one(cx, &w.qkv, (seqs, &w.picked), spec, &mut w.attended);
            gather_rows(cx, &w.hidden, &w.picked, &mut w.normed);
            std::mem::swap(&mut w.hidden, &mut w.normed);
        } else {
            varlen(cx, &w.qkv, seqs, spec, &mut w.attended);
        }
        layer
            .attn_out
            .forward(cx, &w.attended, Then::Add, &mut w.side, &mut w.hidden);
        w.normed.copy_from(&w.hidden);
        layer.mlp_norm.forward(cx, &mut w.normed);
        layer
            .gate_up
            .forward(cx, &w.normed, self.activation, &mut w.side, &mut w.inner);
        layer
            .down
            .forward(cx, &w.inner, Then::Add, &mut w.side, &mut w.hidden);
    }
}
