//! What was exported: the checkpoint, what it is for, how text becomes ids.

use crate::files::FileRef;
use serde::{Deserialize, Serialize};

/// The checkpoint an artifact was made from. Its place is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// As in config.json's `architectures`.
    pub architecture: String,
    /// [`koma_models::Identity::weights_hash`]: what serving compares, without reading all weights.
    pub weights_hash: String,
    /// sha256 of config.json.
    pub config_sha256: String,
    /// The files of weights. Names are below the checkpoint's folder.
    pub weights: Vec<FileRef>,
    /// The other files ([`super::BOUND_FILES`]) that change what the model answers, but for config.json and tokenizer.json.
    pub files: Vec<FileRef>,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Labels for a text or a pair; the output row has one raw logit per label.
    SequenceClassification,
    /// One score for a pair of texts (cross-encoder); the output row is the raw score.
    TextRanking,
    /// A vector of a text; the output row is that vector, not yet divided by its length.
    #[serde(rename = "sentence-embedding")]
    Embedding,
}

/// What the host makes of an output row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Nothing.
    None,
    /// Of the row.
    Softmax,
    /// Of each value.
    Sigmoid,
}

/// How the graph makes one vector of a text's tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pooling {
    /// sentence-transformers' names (`mean`, `cls`, `max`, `mean_sqrt_len_tokens`, `weightedmean`, `lasttoken`) of the vectors that
    /// are put side by side.
    pub modes: Vec<String>,
    /// Whether the host divides the vector by its Euclidean length; the graph never does.
    pub normalize: bool,
}

/// From text to ids. The file is the checkpoint's; an artifact holds no copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerInfo {
    /// `tokenizer.json`.
    pub file: String,
    /// Of that file.
    pub sha256: String,
    /// Most tokens of a text or pair that the model takes, special tokens included.
    pub max_length: usize,
    /// The id that fills up rows, on the right, under a mask of 0.
    pub pad_id: u32,
    /// Ids are below this. A device does not check it.
    pub vocab_size: usize,
}
