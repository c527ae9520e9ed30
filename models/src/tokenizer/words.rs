//! [`Words`]: what turns a stretch of text into tokens, a model of the library or one of our own.
//!
//! Owns: nothing but the choice; added tokens, normalizers and templates are the library's around it. Must not know: files.

use super::sentencepiece::SentencePiece;
use serde::{Deserialize, Deserializer};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{
    DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result,
    Token, TokenizerImpl,
};

/// The library's tokenizer around [`Words`].
pub(super) type Inner = TokenizerImpl<
    Words,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// See the module.
pub(super) enum Words {
    /// What `tokenizer.json` can name.
    Library(Box<ModelWrapper>),
    /// Merges by score, which the library's byte pairs cannot express (they rank pairs, not what pairs make).
    SentencePiece(SentencePiece),
}

impl Words {
    /// What the model itself gives for text without a token. A unigram model does not tell; all of them call it so.
    pub(super) fn unknown(&self) -> Option<&str> {
        match self {
            Self::Library(model) => match model.as_ref() {
                ModelWrapper::WordPiece(model) => Some(&model.unk_token),
                ModelWrapper::WordLevel(model) => Some(&model.unk_token),
                ModelWrapper::BPE(model) => model.unk_token.as_deref(),
                ModelWrapper::Unigram(_) => Some("<unk>"),
            },
            Self::SentencePiece(_) => Some("<unk>"),
        }
    }

    /// Whether the spelling of a token tells that it goes on with a word (`##ing`).
    pub(super) fn marks_continuation(&self) -> bool {
        let Self::Library(model) = self else {
            return false;
        };
        let prefix = match model.as_ref() {
            ModelWrapper::WordPiece(model) => Some(&model.continuing_subword_prefix),
            ModelWrapper::BPE(model) => model.continuing_subword_prefix.as_ref(),
            _ => None,
        };
        prefix.is_some_and(|prefix| !prefix.is_empty())
    }
}

impl<M: Into<ModelWrapper>> From<M> for Words {
    fn from(model: M) -> Self {
        Self::Library(Box::new(model.into()))
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        ModelWrapper::deserialize(deserializer).map(Self::from)
    }
}

impl Model for Words {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        match self {
            Self::Library(model) => model.tokenize(text),
            Self::SentencePiece(model) => Ok(model.tokenize(text)?),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Library(model) => model.token_to_id(token),
            Self::SentencePiece(model) => model.id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Library(model) => model.id_to_token(id),
            Self::SentencePiece(model) => model.token(id).map(str::to_owned),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Library(model) => model.get_vocab(),
            Self::SentencePiece(model) => model.vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Library(model) => model.get_vocab_size(),
            Self::SentencePiece(model) => model.len(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        match self {
            Self::Library(model) => model.save(folder, prefix),
            Self::SentencePiece(_) => {
                Err("a tokenizer of a GGUF file has no file of its own".into())
            }
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Self::Library(model) => model.get_trainer(),
            Self::SentencePiece(_) => BpeTrainer::default().into(),
        }
    }
}
