//! What encoder architectures share at their upper end: from what a checkpoint is for, and from the files beside config.json,
//! to the [`Top`] of the model and the [`Head`] that says what its rows mean.

use crate::config::modules::Embedding;
use crate::config::{Json, head, modules};
use crate::layers::pooling::Pooling;
use crate::layers::top::{Select, Stage, StageSpec, Top};
use crate::registry::{Checkpoint, Kind};
use crate::weights::Weights;
use crate::{Head, LoadError};
use koma_kernels::Then;
use std::path::Path;

/// What an architecture has between hidden states and logits.
pub(crate) struct Heads<'a> {
    /// Width of the hidden states.
    pub(crate) hidden: usize,
    /// What a sequence classifier makes of a text's tokens, before its layers.
    pub(crate) pooling: Pooling,
    /// The layer of a sequence classifier before the last.
    pub(crate) before: &'a dyn Fn(&Weights) -> Result<Stage, LoadError>,
    /// Whether token classifiers have that layer too.
    pub(crate) before_tokens: bool,
    /// Name of a sequence classifier's last layer; a token classifier's is `classifier`.
    pub(crate) last: &'a str,
}

/// Reads top and head.
pub(crate) fn read(
    checkpoint: &mut Checkpoint,
    heads: &Heads<'_>,
) -> Result<(Top, Head), LoadError> {
    let (folder, json) = checkpoint.folder()?;
    let weights = &mut checkpoint.weights;
    match checkpoint.kind {
        Kind::Classifier => {
            modules::only_transformer(&folder)?;
            let head = head::read(&folder, &json)?;
            let before = (heads.before)(weights)?;
            let last = last(weights, heads, (heads.last, &head))?;
            let top = Top {
                select: Select::Pool(vec![heads.pooling]),
                stages: vec![before, last],
            };
            Ok((top, head))
        }
        Kind::TokenClassifier => tokens(weights, heads, (&folder, &json)),
        Kind::Embedder | Kind::Decoder => {
            let embedding = modules::embedding(&folder, heads.hidden)?;
            let mut stages = Vec::with_capacity(embedding.dense.len());
            for dense in &embedding.dense {
                let Some(name) = dense.path.to_str() else {
                    let reason = "the name of a module's folder is not UTF-8".to_owned();
                    let path = folder.join(&dense.path);
                    return Err(LoadError::File { path, reason });
                };
                weights.add_folder(name)?;
                let spec = StageSpec {
                    name: format!("{name}.linear"),
                    outputs: dense.outputs,
                    inputs: dense.inputs,
                    bias: dense.bias,
                    then: dense.then,
                };
                stages.push(Stage::load(weights, spec)?);
            }
            let mut head = Head::embedding(embedding.normalize, width(&embedding, heads.hidden));
            head.prompts = modules::prompts(&folder, embedding.include_prompt)?;
            let select = Select::Pool(embedding.poolings);
            Ok((Top { select, stages }, head))
        }
    }
}

fn tokens(
    weights: &Weights,
    heads: &Heads<'_>,
    (folder, json): (&Path, &Json),
) -> Result<(Top, Head), LoadError> {
    modules::only_transformer(folder)?;
    let head = head::tokens(json)?;
    let mut stages = Vec::with_capacity(2);
    if heads.before_tokens {
        stages.push((heads.before)(weights)?);
    }
    stages.push(last(weights, heads, ("classifier", &head))?);
    let select = Select::Tokens;
    Ok((Top { select, stages }, head))
}

/// The layer that gives logits: one row of weights per label.
fn last(
    weights: &Weights,
    heads: &Heads<'_>,
    (name, head): (&str, &Head),
) -> Result<Stage, LoadError> {
    let shape = (head.labels.len(), heads.hidden);
    Stage::load(weights, StageSpec::new(name, shape, Then::Store))
}

/// Values of an embedder's vectors.
fn width(embedding: &Embedding, hidden: usize) -> usize {
    let pooled = hidden * embedding.poolings.len();
    embedding.dense.last().map_or(pooled, |dense| dense.outputs)
}
