//! `tokenizer.json` of a Hugging Face folder, with what the files beside it change.
//!
//! `tokenizer_config.json` names special tokens that `tokenizer.json` may not mark as such, and for BERT classes it has the
//! last word on lower-casing (transformers: `BertTokenizerFast.__init__`).

use super::Tokenizer;
use crate::LoadError;
use serde_json::Value;
use std::path::Path;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{AddedToken, Tokenizer as Inner};

/// Fields of `tokenizer_config.json` and `special_tokens_map.json` that name one special token each.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder. `path` is that of its `tokenizer.json`, whether or not there is one.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`] if the file is damaged, or the tokenizer cannot be reproduced exactly: one that exists only
    /// in Python (slow, `MeCab`), one that draws lots, a decoder that is not known. [`LoadError::File`] for damage beside it.
    pub fn from_file(path: &Path) -> Result<Self, LoadError> {
        let refuse = |reason: String| LoadError::Tokenizer {
            path: path.to_owned(),
            reason,
        };
        let config = json_beside(path, "tokenizer_config.json")?;
        let specials = json_beside(path, "special_tokens_map.json")?;
        refuse_class(&config).map_err(refuse)?;
        if !path.exists() {
            return Err(refuse(why_missing(path)));
        }
        let bytes = std::fs::read(path).map_err(|error| LoadError::Io {
            path: path.to_owned(),
            error,
        })?;
        let mut inner = Inner::from_bytes(bytes).map_err(|e| refuse(e.to_string()))?;
        refuse_dropout(&inner).map_err(refuse)?;
        apply_bert_options(&mut inner, &config).map_err(refuse)?;
        mark_special(&mut inner, &[&config, &specials]).map_err(refuse)?;
        Self::new(inner, path)
    }

    /// The tokenizer in `json`, the contents of a `tokenizer.json` with nothing beside it.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`] as for [`Tokenizer::from_file`].
    pub fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        let path = Path::new("tokenizer.json");
        let refuse = |reason: String| LoadError::Tokenizer {
            path: path.to_owned(),
            reason,
        };
        let inner = Inner::from_bytes(json).map_err(|e| refuse(e.to_string()))?;
        refuse_dropout(&inner).map_err(refuse)?;
        Self::new(inner, path)
    }
}

/// The file `name` in the folder of `path`; null if there is none.
fn json_beside(path: &Path, name: &str) -> Result<Value, LoadError> {
    let path = path.with_file_name(name);
    if !path.exists() {
        return Ok(Value::Null);
    }
    let bytes = std::fs::read(&path).map_err(|error| LoadError::Io {
        path: path.clone(),
        error,
    })?;
    serde_json::from_slice(&bytes).map_err(|e| LoadError::File {
        path,
        reason: e.to_string(),
    })
}

fn refuse_class(config: &Value) -> Result<(), String> {
    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    if class != "BertJapaneseTokenizer" {
        return Ok(());
    }
    let words = config["word_tokenizer_type"].as_str().unwrap_or("basic");
    Err(format!(
        "`tokenizer_class` is {class} with `word_tokenizer_type` {words}, which splits words outside of tokenizer.json \
         (MeCab, Sudachi, Juman++) and cannot be reproduced here; use a model with a fast tokenizer"
    ))
}

fn why_missing(path: &Path) -> String {
    let has = |name: &str| path.with_file_name(name).exists();
    let slow = [
        "spiece.model",
        "sentencepiece.bpe.model",
        "tokenizer.model",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
    ];
    let found: Vec<_> = slow.into_iter().filter(|name| has(name)).collect();
    if found.is_empty() {
        return "there is no tokenizer.json".to_owned();
    }
    format!(
        "there is no tokenizer.json, only the files of a slow tokenizer ({}); convert it once with \
         AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        found.join(", ")
    )
}

fn refuse_dropout(inner: &Inner) -> Result<(), String> {
    match inner.get_model() {
        ModelWrapper::BPE(bpe) if bpe.dropout.is_some_and(|p| p > 0.0) => Err(
            "`model.dropout` is above 0: the tokenizer would give other ids from call to call"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

/// Options of BERT classes in `tokenizer_config.json` win over the normalizer of `tokenizer.json`.
fn apply_bert_options(inner: &mut Inner, config: &Value) -> Result<(), String> {
    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    if !class.starts_with("Bert") && !class.starts_with("DistilBert") {
        return Ok(());
    }
    let Some(NormalizerWrapper::BertNormalizer(normalizer)) = inner.get_normalizer() else {
        return Ok(());
    };
    let mut normalizer = *normalizer;
    if let Some(lower) = config["do_lower_case"].as_bool() {
        normalizer.lowercase = lower;
    }
    if let Some(split) = config["tokenize_chinese_chars"].as_bool() {
        normalizer.handle_chinese_chars = split;
    }
    if let Some(strip) = config.get("strip_accents") {
        normalizer.strip_accents = strip.as_bool();
    }
    inner
        .with_normalizer(Some(normalizer))
        .map_err(|e| e.to_string())?;
    Ok(())
}

/// Marks the tokens that the files beside `tokenizer.json` call special, as far as they are in the vocabulary.
fn mark_special(inner: &mut Inner, files: &[&Value]) -> Result<(), String> {
    let mut tokens = Vec::new();
    for file in files {
        let decoder = file["added_tokens_decoder"].as_object();
        tokens.extend(
            decoder
                .into_iter()
                .flat_map(|map| map.values())
                .filter_map(added_token),
        );
        let lists = ["additional_special_tokens", "extra_special_tokens"];
        let more = lists
            .iter()
            .filter_map(|name| file[name].as_array())
            .flatten();
        let named = NAMED.iter().map(|name| &file[name]);
        tokens.extend(named.chain(more).filter_map(special_token));
    }
    let known = inner.get_added_tokens_decoder();
    tokens.retain(|token| match inner.token_to_id(&token.content) {
        Some(id) => !known.contains_key(&id),
        None => false,
    });
    inner.add_tokens(tokens).map_err(|e| e.to_string())?;
    Ok(())
}

/// A token named as special: its text, or an object with its text and how it matches.
fn special_token(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(content) => Some(AddedToken::from(content.as_str(), true)),
        _ => added_token(value).map(|token| token.special(true)),
    }
}

fn added_token(value: &Value) -> Option<AddedToken> {
    let flag = |name: &str| value[name].as_bool().unwrap_or(false);
    let content = value["content"].as_str()?;
    Some(
        AddedToken::from(content, flag("special"))
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized")),
    )
}
