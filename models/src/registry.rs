//! The architectures: one table, and what they all are given and give back.
//!
//! A new architecture is one file in `arch/` and one line in [`TABLE`] (one more in [`GGUF_NAMES`] if GGUF files of it are read).

use crate::arch::{
    bert, distilbert, gemma2, gemma3, llama, mistral, mixtral, modernbert, phi3, qwen2, qwen3,
    qwen3_moe, roberta,
};
use crate::config::Json;
use crate::error;
use crate::gguf::GgufMeta;
use crate::weights::Weights;
use crate::{Head, Limits, LoadError, Model};
use rayon::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an architecture is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Generates.
    Decoder,
    /// Makes a vector of a text. Embedders are often trained from, and name, a model that fills gaps; its head is left out.
    Embedder,
    /// Gives labels or a score to a text or a pair.
    Classifier,
    /// Gives a label to each token of a text.
    TokenClassifier,
}

impl Kind {
    /// In words.
    fn task(self) -> &'static str {
        match self {
            Self::Decoder => "generate",
            Self::Embedder => "embed",
            Self::Classifier => "classify, rerank",
            Self::TokenClassifier => "classify tokens",
        }
    }
}

type Build = fn(&mut Checkpoint) -> Result<Built, LoadError>;

/// A line of the table: the name in config.json's `architectures`, what it is for, and what builds it.
pub(crate) type Architecture = (&'static str, Kind, Build);

/// The architectures.
const TABLE: &[Architecture] = &[
    ("LlamaForCausalLM", Kind::Decoder, llama::build),
    ("Qwen3MoeForCausalLM", Kind::Decoder, qwen3_moe::build),
    ("MixtralForCausalLM", Kind::Decoder, mixtral::build),
    ("MistralForCausalLM", Kind::Decoder, mistral::build),
    ("Qwen2ForCausalLM", Kind::Decoder, qwen2::build),
    ("Qwen3ForCausalLM", Kind::Decoder, qwen3::build),
    ("Gemma2ForCausalLM", Kind::Decoder, gemma2::build),
    ("Gemma3ForCausalLM", Kind::Decoder, gemma3::build),
    (
        "Gemma3ForConditionalGeneration",
        Kind::Decoder,
        gemma3::build_inside,
    ),
    ("Phi3ForCausalLM", Kind::Decoder, phi3::build),
    ("BertModel", Kind::Embedder, bert::build),
    ("BertForMaskedLM", Kind::Embedder, bert::build),
    (
        "BertForSequenceClassification",
        Kind::Classifier,
        bert::build,
    ),
    (
        "BertForTokenClassification",
        Kind::TokenClassifier,
        bert::build,
    ),
    ("DistilBertModel", Kind::Embedder, distilbert::build),
    ("DistilBertForMaskedLM", Kind::Embedder, distilbert::build),
    (
        "DistilBertForSequenceClassification",
        Kind::Classifier,
        distilbert::build,
    ),
    (
        "DistilBertForTokenClassification",
        Kind::TokenClassifier,
        distilbert::build,
    ),
    ("RobertaModel", Kind::Embedder, roberta::build),
    ("RobertaForMaskedLM", Kind::Embedder, roberta::build),
    (
        "RobertaForSequenceClassification",
        Kind::Classifier,
        roberta::build,
    ),
    (
        "RobertaForTokenClassification",
        Kind::TokenClassifier,
        roberta::build,
    ),
    ("XLMRobertaModel", Kind::Embedder, roberta::build),
    ("XLMRobertaForMaskedLM", Kind::Embedder, roberta::build),
    (
        "XLMRobertaForSequenceClassification",
        Kind::Classifier,
        roberta::build,
    ),
    (
        "XLMRobertaForTokenClassification",
        Kind::TokenClassifier,
        roberta::build,
    ),
    ("ModernBertModel", Kind::Embedder, modernbert::build),
    ("ModernBertForMaskedLM", Kind::Embedder, modernbert::build),
    (
        "ModernBertForSequenceClassification",
        Kind::Classifier,
        modernbert::build,
    ),
    (
        "ModernBertForTokenClassification",
        Kind::TokenClassifier,
        modernbert::build,
    ),
];

/// GGUF's `general.architecture` and the name that it has in [`TABLE`].
const GGUF_NAMES: &[(&str, &str)] = &[
    ("llama", "LlamaForCausalLM"),
    ("mistral3", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gemma2", "Gemma2ForCausalLM"),
    ("gemma3", "Gemma3ForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
    ("qwen3moe", "Qwen3MoeForCausalLM"),
];

/// The same for files that have experts, where that makes another architecture.
const GGUF_NAMES_WITH_EXPERTS: &[(&str, &str)] = &[("llama", "MixtralForCausalLM")];

/// A checkpoint that is being built.
pub(crate) struct Checkpoint {
    /// What it is for.
    pub(crate) kind: Kind,
    /// Metadata, if it is a GGUF file.
    pub(crate) gguf: Option<Arc<GgufMeta>>,
    /// The folder and its config.json, if it is a folder.
    pub(crate) folder: Option<(PathBuf, Json)>,
    pub(crate) weights: Weights,
    /// See [`crate::LoadOptions::max_len`].
    pub(crate) max_len: Option<usize>,
}

impl Checkpoint {
    /// Folder and config.json, for architectures that are read from folders only.
    pub(crate) fn folder(&self) -> Result<(PathBuf, Json), LoadError> {
        self.folder.clone().ok_or_else(|| LoadError::File {
            path: self.weights.path().to_owned(),
            reason: "this architecture is read from a Hugging Face folder only".to_owned(),
        })
    }
}

/// What an architecture's `build` gives back.
pub(crate) struct Built {
    pub(crate) model: Model,
    /// Tensors that may be in a checkpoint and are not used ([`Weights::finish`]).
    pub(crate) ignorable: &'static [&'static str],
    /// Meaning of the output rows (encoders).
    pub(crate) head: Option<Head>,
    /// `max_len` being the position table or the trained context.
    pub(crate) limits: Limits,
    /// Rows of the table of segments; none if the model does not look at them.
    pub(crate) segments: Option<usize>,
}

/// Largest sizes that a configuration may name: far above any model, low enough that no product of two overflows.
pub(crate) struct Max {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) layers: usize,
    pub(crate) vocab: usize,
    pub(crate) positions: usize,
    pub(crate) experts: usize,
}

/// See [`Max`].
pub(crate) const MAX: Max = Max {
    width: 1 << 20,
    heads: 1 << 12,
    head_dim: 1 << 12,
    layers: 1 << 12,
    vocab: 1 << 26,
    positions: 1 << 30,
    experts: 1 << 12,
};

/// An architecture that can be loaded, as documentation lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supported {
    /// As in config.json's `architectures`.
    pub name: &'static str,
    /// What it is for.
    pub task: &'static str,
    /// GGUF's `general.architecture` of files that are read as this one; none if none are.
    pub gguf: Vec<&'static str>,
}

/// All architectures, in the order of the table.
pub fn architectures() -> Vec<Supported> {
    let line = |(name, kind, _): &Architecture| {
        let names = GGUF_NAMES.iter().chain(GGUF_NAMES_WITH_EXPERTS);
        Supported {
            name,
            task: kind.task(),
            gguf: names.filter(|(_, n)| n == name).map(|(g, _)| *g).collect(),
        }
    };
    TABLE.iter().map(line).collect()
}

/// The line of the table for a name of config.json.
pub(crate) fn find(name: &str) -> Result<Architecture, LoadError> {
    let line = TABLE.iter().find(|(known, ..)| *known == name);
    line.copied().ok_or_else(|| LoadError::UnknownArchitecture {
        name: error::shortened(name.to_owned()),
        known: TABLE
            .iter()
            .map(|(n, ..)| *n)
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// The line of the table for a GGUF file.
pub(crate) fn find_gguf(meta: &GgufMeta) -> Result<Architecture, LoadError> {
    let name: &str = meta.get("general.architecture")?;
    let experts = meta.find::<u32>(&format!("{name}.expert_count"))?;
    let with_experts = experts.is_some_and(|n| n > 0);
    let special = GGUF_NAMES_WITH_EXPERTS.iter().filter(|_| with_experts);
    let mut names = special.chain(GGUF_NAMES);
    match names.find(|(known, _)| *known == name) {
        Some((_, architecture)) => find(architecture),
        None => Err(LoadError::UnknownArchitecture {
            name: error::shortened(name.to_owned()),
            known: GGUF_NAMES
                .iter()
                .map(|(n, _)| *n)
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// Layers `0..count`, read in parallel. Of several errors it is the lowest layer's that is
/// returned, whichever thread was first; layers above one that failed are not begun.
pub(crate) fn collect_layers<T: Send>(
    count: usize,
    layer: impl Fn(usize) -> Result<T, LoadError> + Sync + Send,
) -> Result<Vec<T>, LoadError> {
    let failed = AtomicUsize::new(usize::MAX);
    let read: Vec<_> = (0..count)
        .into_par_iter()
        .map(|i| {
            if failed.load(Ordering::Relaxed) < i {
                return None;
            }
            let layer = layer(i);
            if layer.is_err() {
                failed.fetch_min(i, Ordering::Relaxed);
            }
            Some(layer)
        })
        .collect();
    read.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_layers_that_fail_the_lowest_is_named() {
        for _ in 0..200 {
            let error = collect_layers(64, |i| match i {
                0..3 => Ok(i),
                _ => Err(LoadError::MissingTensor {
                    name: format!("layer {i}"),
                    path: PathBuf::new(),
                }),
            });
            let message = error.unwrap_err().to_string();
            assert!(message.contains("`layer 3`"), "{message}");
        }
        assert_eq!(collect_layers(3, Ok).unwrap(), [0, 1, 2]);
    }
}
