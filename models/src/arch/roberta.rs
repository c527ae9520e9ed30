//! `RoBERTa` (Liu et al., arXiv:1907.11692) and XLM-RoBERTa (Conneau et al., arXiv:1911.02116): embedder, sequence or token
//! classifier, from a Hugging Face folder. A BERT whose positions begin behind the padding token's row, whose tokenizers give
//! no segments, and whose classifier has a dense layer of its own in place of the pooler.

use super::bert::{self, NAMES};
use super::tops::{self, Heads};
use crate::layers::encoder::{Positions, PostNormEncoder};
use crate::layers::pooling::Pooling;
use crate::layers::top::{Stage, StageSpec};
use crate::registry::{Built, Checkpoint};
use crate::{Limits, LoadError, Model};
use koma_kernels::Then;

/// The counting buffer of older versions, the head of pre-training, and the pooler, which no task here uses.
const IGNORABLE: &[&str] = &[
    "*embeddings.position_ids",
    "lm_head.*",
    "pooler.*",
    "roberta.pooler.*",
];

/// With and without the prefix of classifiers.
fn spellings(name: &str) -> Vec<String> {
    vec![format!("roberta.{name}"), name.to_owned()]
}

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let (_, json) = checkpoint.folder()?;
    let sizes = bert::sizes(&json, 1)?;
    let hidden = sizes.hidden;
    let padding = json.find_size("pad_token_id", 0..=sizes.vocab - 1)?;
    let numbering = Positions::AfterPadding(padding.unwrap_or(1) as u32);
    let Some(max_len @ 1..) = sizes.positions.checked_sub(numbering.offset()) else {
        let reason = format!(
            "{} leave no room behind the {} that the padding token takes",
            sizes.positions,
            numbering.offset()
        );
        return Err(json.error("max_position_embeddings", reason));
    };
    checkpoint.weights.spelled(spellings);
    let heads = Heads {
        hidden,
        pooling: Pooling::Cls,
        before: &|weights| {
            let spec = StageSpec::new("classifier.dense", (hidden, hidden), Then::Tanh);
            Stage::load(weights, spec)
        },
        before_tokens: false,
        last: "classifier.out_proj",
    };
    let (top, head) = tops::read(checkpoint, &heads)?;
    let model = PostNormEncoder::load(&checkpoint.weights, &sizes, &NAMES, (numbering, top))?;
    Ok(Built {
        model: Model::Encoder(Box::new(model)),
        ignorable: IGNORABLE,
        head: Some(head),
        segments: None,
        limits: Limits {
            max_len,
            vocab: sizes.vocab,
        },
    })
}
