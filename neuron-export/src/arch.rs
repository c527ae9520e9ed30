//! Architectures: from a model as data ([`koma_models::Blueprint`]) to its [`Graph`].
//!
//! Owns: which architectures can be exported, and the operations that each is made of. Must not know: files, formats.
//!
//! Invariant: the graph computes what Koma's own forward computes, row by row, whatever stands under a mask of 0.

mod encoder;
mod parts;
mod pooling;
#[cfg(test)]
pub(crate) mod tests;

use crate::graph::Graph;
use crate::manifest::Precision;
pub(crate) use encoder::MASK_VALUE;
use koma_models::spec::EncoderSpec;
use koma_models::{Blueprint, HeadKind, LoadError};

/// Names of config.json's `architectures` that can be exported.
pub const EXPORTABLE: [&str; 12] = [
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertModel",
    "DistilBertForMaskedLM",
    "DistilBertForSequenceClassification",
    "DistilBertModel",
    "RobertaForMaskedLM",
    "RobertaForSequenceClassification",
    "RobertaModel",
    "XLMRobertaForMaskedLM",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaModel",
];

/// Why there is no graph of a model.
#[derive(Debug, thiserror::Error)]
pub enum ArchError {
    /// Its architecture is not one of [`EXPORTABLE`].
    #[error("architecture `{name}` cannot be exported; those that can are {}", EXPORTABLE.join(", "))]
    Architecture {
        /// The architecture.
        name: String,
    },
    /// Something in its configuration has no place in the graph.
    #[error("{0}")]
    Unsupported(String),
    /// A tensor is missing.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What can be exported of a model, if it can be: its layers.
///
/// # Errors
/// [`ArchError::Architecture`], or [`ArchError::Unsupported`] for prompts whose tokens are not pooled.
pub fn supported(model: &Blueprint) -> Result<&EncoderSpec, ArchError> {
    let name = &model.identity.architecture;
    let exportable = EXPORTABLE.contains(&name.as_str());
    let (Some(spec), Some(head), true) = (&model.spec, &model.head, exportable) else {
        let name = name.clone();
        return Err(ArchError::Architecture { name });
    };
    let prompts = &head.prompts;
    let embeds = matches!(head.kind, HeadKind::Embed { .. });
    if embeds && !prompts.pooled && prompts.named.values().any(|text| !text.is_empty()) {
        return Err(ArchError::Unsupported(
            "`include_prompt` of the pooling is false: a graph cannot leave the tokens of a prompt out".to_owned(),
        ));
    }
    Ok(spec)
}

/// The graph of a model.
///
/// # Errors
/// As [`supported`]; [`ArchError::Load`] for a tensor that is missing.
pub fn graph(model: &Blueprint, precision: Precision) -> Result<Graph, ArchError> {
    let spec = supported(model)?;
    encoder::build(&model.tensors, spec, precision)
}
