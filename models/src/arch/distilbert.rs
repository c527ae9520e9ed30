//! `DistilBERT` (Sanh et al., arXiv:1910.01108): embedder or sequence classifier, from a Hugging Face folder. A BERT without
//! segments and pooler, under names of its own.

use crate::config::{Json, head, modules};
use crate::layers::encoder::{EncoderLayer, EncoderSpec, Norm, PostNormEncoder, Top, activation};
use crate::layers::linear::{Linear, Parts};
use crate::registry::{Built, Checkpoint, Kind, MAX, collect_layers};
use crate::weights::Weights;
use crate::{Head, HeadKind, Limits, LoadError, Model};
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

/// The sizes of a `DistilBERT`.
struct Config {
    hidden: usize,
    inner: usize,
    heads: usize,
    layers: usize,
    vocab: usize,
    positions: usize,
    activation: Then,
}

impl Config {
    fn read(json: &Json) -> Result<Self, LoadError> {
        let config = Self {
            hidden: json.size("dim", 1..=MAX.width)?,
            inner: json.size("hidden_dim", 1..=MAX.width)?,
            heads: json.size("n_heads", 1..=MAX.width)?,
            layers: json.size("n_layers", 1..=MAX.layers)?,
            vocab: json.size("vocab_size", 1..=MAX.vocab)?,
            positions: json.size("max_position_embeddings", 1..=MAX.positions)?,
            activation: activation(json, "activation")?,
        };
        if !config.hidden.is_multiple_of(config.heads) {
            let reason = format!("{} heads do not divide dim {}", config.heads, config.hidden);
            return Err(json.error("n_heads", reason));
        }
        Ok(config)
    }
}

/// With and without the prefix of classifiers.
fn spellings(name: &str) -> Vec<String> {
    vec![format!("distilbert.{name}"), name.to_owned()]
}

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let (folder, json) = checkpoint.folder()?;
    let config = Config::read(&json)?;
    checkpoint.weights.spelled(spellings);
    let weights = &checkpoint.weights;
    let hidden = config.hidden;
    let (top, head) = match checkpoint.kind {
        Kind::Classifier => {
            modules::only_transformer(&folder)?;
            let head = head::read(&folder, &json)?;
            let top = Top::Classify {
                dense: Linear::load_one(weights, "pre_classifier", (hidden, hidden), true)?,
                activation: Then::Relu,
                classifier: Linear::load_one(
                    weights,
                    "classifier",
                    (head.labels.len(), hidden),
                    true,
                )?,
            };
            (top, head)
        }
        Kind::Embedder | Kind::Decoder => {
            let embedding = modules::embedding(&folder, hidden)?;
            let normalize = embedding.normalize;
            let head = Head {
                kind: HeadKind::Embed { normalize },
                labels: Vec::new(),
            };
            (Top::Pool(embedding.pooling), head)
        }
    };
    let table = |name: &str, rows| {
        weights.matrix(
            &format!("embeddings.{name}_embeddings.weight"),
            rows,
            hidden,
        )
    };
    let model = PostNormEncoder {
        words: table("word", config.vocab)?,
        types: None,
        positions: table("position", config.positions)?,
        norm: norm(weights, "embeddings.LayerNorm", hidden)?,
        layers: collect_layers(config.layers, |i| layer(weights, &config, i))?,
        spec: EncoderSpec::new(config.heads, hidden, config.activation),
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

fn norm(weights: &Weights, name: &str, hidden: usize) -> Result<Norm, LoadError> {
    Ok(Norm {
        weight: weights.vector(&format!("{name}.weight"), hidden)?,
        bias: weights.vector(&format!("{name}.bias"), hidden)?,
        eps: NORM_EPS,
    })
}

fn layer(weights: &Weights, config: &Config, i: usize) -> Result<EncoderLayer, LoadError> {
    let (hidden, inner) = (config.hidden, config.inner);
    let name = |part: &str| format!("transformer.layer.{i}.{part}");
    let one = |part: &str, shape| Linear::load_one(weights, &name(part), shape, true);
    let qkv = ["q_lin", "k_lin", "v_lin"].map(|p| (name(&format!("attention.{p}")), hidden));
    Ok(EncoderLayer {
        qkv: Linear::load(
            weights,
            &Parts {
                outputs: &qkv,
                cols: hidden,
                bias: true,
            },
        )?,
        attn_out: one("attention.out_lin", (hidden, hidden))?,
        attn_norm: norm(weights, &name("sa_layer_norm"), hidden)?,
        up: one("ffn.lin1", (inner, hidden))?,
        down: one("ffn.lin2", (hidden, inner))?,
        mlp_norm: norm(weights, &name("output_layer_norm"), hidden)?,
    })
}
