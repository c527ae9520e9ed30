//! BERT (Devlin et al., arXiv:1810.04805): embedder or sequence classifier, from a Hugging Face folder.

use crate::config::{Json, head, modules};
use crate::layers::encoder::{EncoderLayer, EncoderSpec, Norm, PostNormEncoder, Top, activation};
use crate::layers::linear::{Linear, Parts};
use crate::registry::{Built, Checkpoint, Kind, MAX, collect_layers};
use crate::weights::Weights;
use crate::{Head, HeadKind, Limits, LoadError, Model};
use koma_kernels::Then;
use serde_json::Value;

/// The counting buffer of older versions, and the heads of pre-training.
const IGNORABLE: &[&str] = &["*embeddings.position_ids", "cls.*"];
const IGNORABLE_FOR_EMBEDDING: &[&str] = &[
    "*embeddings.position_ids",
    "cls.*",
    "pooler.*",
    "bert.pooler.*",
];

/// The sizes of a BERT.
struct Config {
    hidden: usize,
    inner: usize,
    heads: usize,
    layers: usize,
    vocab: usize,
    positions: usize,
    types: usize,
    eps: f32,
    activation: Then,
}

impl Config {
    fn read(json: &Json) -> Result<Self, LoadError> {
        json.expect_only("position_embedding_type", &Value::from("absolute"))?;
        json.expect_only("is_decoder", &Value::from(false))?;
        let config = Self {
            hidden: json.size("hidden_size", 1..=MAX.width)?,
            inner: json.size("intermediate_size", 1..=MAX.width)?,
            heads: json.size("num_attention_heads", 1..=MAX.width)?,
            layers: json.size("num_hidden_layers", 1..=MAX.layers)?,
            vocab: json.size("vocab_size", 1..=MAX.vocab)?,
            positions: json.size("max_position_embeddings", 1..=MAX.positions)?,
            // Tokenizers give pairs the segments 0 and 1.
            types: json
                .find_size("type_vocab_size", 2..=MAX.width)?
                .unwrap_or(2),
            eps: json.positive_or("layer_norm_eps", 1e-12)? as f32,
            activation: activation(json, "hidden_act")?,
        };
        if !config.hidden.is_multiple_of(config.heads) {
            let reason = format!(
                "{} heads do not divide hidden_size {}",
                config.heads, config.hidden
            );
            return Err(json.error("num_attention_heads", reason));
        }
        Ok(config)
    }
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
    let (folder, json) = checkpoint.folder()?;
    let config = Config::read(&json)?;
    checkpoint.weights.spelled(spellings);
    let weights = &checkpoint.weights;
    let (top, head) = match checkpoint.kind {
        Kind::Classifier => {
            modules::only_transformer(&folder)?;
            let head = head::read(&folder, &json)?;
            (classifier(weights, config.hidden, head.labels.len())?, head)
        }
        Kind::Embedder | Kind::Decoder => {
            let embedding = modules::embedding(&folder, config.hidden)?;
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
            config.hidden,
        )
    };
    let model = PostNormEncoder {
        words: table("word", config.vocab)?,
        types: Some(table("token_type", config.types)?),
        positions: table("position", config.positions)?,
        norm: norm(weights, "embeddings.LayerNorm", &config)?,
        layers: collect_layers(config.layers, |i| layer(weights, &config, i))?,
        spec: EncoderSpec::new(config.heads, config.hidden, config.activation),
        top,
    };
    Ok(Built {
        model: Model::Encoder(Box::new(model)),
        ignorable: match checkpoint.kind {
            Kind::Classifier => IGNORABLE,
            Kind::Embedder | Kind::Decoder => IGNORABLE_FOR_EMBEDDING,
        },
        head: Some(head),
        segments: Some(config.types),
        limits: Limits {
            max_len: config.positions,
            vocab: config.vocab,
        },
    })
}

fn classifier(weights: &Weights, hidden: usize, labels: usize) -> Result<Top, LoadError> {
    Ok(Top::Classify {
        dense: Linear::load_one(weights, "pooler.dense", (hidden, hidden), true)?,
        activation: Then::Tanh,
        classifier: Linear::load_one(weights, "classifier", (labels, hidden), true)?,
    })
}

fn norm(weights: &Weights, name: &str, config: &Config) -> Result<Norm, LoadError> {
    Ok(Norm {
        weight: weights.vector(&format!("{name}.weight"), config.hidden)?,
        bias: weights.vector(&format!("{name}.bias"), config.hidden)?,
        eps: config.eps,
    })
}

fn layer(weights: &Weights, config: &Config, i: usize) -> Result<EncoderLayer, LoadError> {
    let (hidden, inner) = (config.hidden, config.inner);
    let name = |part: &str| format!("encoder.layer.{i}.{part}");
    let one = |part: &str, shape| Linear::load_one(weights, &name(part), shape, true);
    let qkv = ["query", "key", "value"].map(|p| (name(&format!("attention.self.{p}")), hidden));
    Ok(EncoderLayer {
        qkv: Linear::load(
            weights,
            &Parts {
                outputs: &qkv,
                cols: hidden,
                bias: true,
            },
        )?,
        attn_out: one("attention.output.dense", (hidden, hidden))?,
        attn_norm: norm(weights, &name("attention.output.LayerNorm"), config)?,
        up: one("intermediate.dense", (inner, hidden))?,
        down: one("output.dense", (hidden, inner))?,
        mlp_norm: norm(weights, &name("output.LayerNorm"), config)?,
    })
}
