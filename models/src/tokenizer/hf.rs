//! `tokenizer.json` of a Hugging Face folder, with what the files beside it change; for BERT's classes `vocab.txt`, where it is alone.
//!
//! `tokenizer_config.json` names special tokens that `tokenizer.json` may not mark as such and the side on which texts are
//! cut, and for the classes of BERT and `RoBERTa` it has the last word on some options (transformers 5: `BertTokenizer.__init__`).

use super::words::{Inner, Words};
use super::{Tokenizer, wordpiece};
use crate::LoadError;
use crate::config::{Json, read_bounded};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::{AddedToken, PostProcessorWrapper, PreTokenizerWrapper, TruncationDirection};

/// Bytes of a `tokenizer.json` at most: eight times the largest ones.
const MAX_BYTES: u64 = 256 << 20;
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
        let model = json_beside(path, "config.json")?;
        let class = class(&config, &model);
        refuse_class(&class, &config).map_err(refuse)?;
        let words = path.with_file_name(wordpiece::VOCAB);
        let mut inner = if path.exists() {
            read(path, &model)?
        } else if is_bert(&class) && words.exists() {
            let named = |field: &str| text_of(&config[field]).or(text_of(&specials[field]));
            wordpiece::folder(&words, named)?
        } else {
            return Err(refuse(why_missing(path)));
        };
        refuse_dropout(&inner).map_err(refuse)?;
        apply_bert_options(&mut inner, &class, &config).map_err(refuse)?;
        apply_roberta_options(&mut inner, &class, &config).map_err(refuse)?;
        mark_special(&mut inner, &[&config, &specials]).map_err(refuse)?;
        let cut = cut_side(&config).map_err(refuse)?;
        let mut tokenizer = Self::new(inner, path)?;
        tokenizer.cut = cut.unwrap_or(tokenizer.cut);
        let named = [&config, &specials].map(|file| text_of(&file["unk_token"]));
        let named = named.into_iter().flatten().next();
        tokenizer.unknown = named
            .and_then(|token| tokenizer.id(token))
            .or(tokenizer.unknown);
        Ok(tokenizer)
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

/// The tokenizer of the file `path`, without tokens that the model, whose config.json `model` is, has no row for.
fn read(path: &Path, model: &Value) -> Result<Inner, LoadError> {
    let bytes = read_bounded(path, MAX_BYTES)?.into_bytes();
    let damaged = |reason: String| LoadError::Tokenizer {
        path: path.to_owned(),
        reason,
    };
    let inner = Inner::from_bytes(&bytes).map_err(|e| damaged(e.to_string()))?;
    let embedded = [model, &model["text_config"]].map(|part| part["vocab_size"].as_u64());
    match embedded.into_iter().flatten().next() {
        Some(vocab) if inner.get_vocab_size(true) as u64 > vocab => {
            let bytes = without_rows(&bytes, vocab, path).map_err(|e| damaged(e.to_string()))?;
            Inner::from_bytes(bytes).map_err(|e| damaged(e.to_string()))
        }
        _ => Ok(inner),
    }
}

/// `tokenizer.json` without added tokens that the model has no row for (Gemma 3's image token in its text-only models).
/// Their text is then ordinary text.
fn without_rows(bytes: &[u8], vocab: u64, path: &Path) -> serde_json::Result<Vec<u8>> {
    let mut json: Value = serde_json::from_slice(bytes)?;
    if let Some(added) = json["added_tokens"].as_array_mut() {
        added.retain(|token| {
            let has_row = token["id"].as_u64().is_none_or(|id| id < vocab);
            if !has_row {
                tracing::warn!(path = %path.display(), token = %token["content"], "the model has no row for this token, it is left out");
            }
            has_row
        });
    }
    serde_json::to_vec(&json)
}

/// The file `name` in the folder of `path`; null if there is none.
fn json_beside(path: &Path, name: &str) -> Result<Value, LoadError> {
    let path = path.with_file_name(name);
    if !path.exists() {
        return Ok(Value::Null);
    }
    Json::read_value(&path)
}

/// The tokenizer's class as transformers finds it: `tokenizer_class` of `tokenizer_config.json` or of config.json, else the
/// one that belongs to config.json's `model_type`. Empty if nothing names one.
fn class(config: &Value, model: &Value) -> String {
    let named = [config, model].map(|file| file["tokenizer_class"].as_str());
    let usual = match model["model_type"].as_str() {
        Some("bert" | "distilbert") => "BertTokenizer",
        Some("roberta") => "RobertaTokenizer",
        _ => "",
    };
    let class = named.into_iter().flatten().next().unwrap_or(usual);
    class.to_owned()
}

/// `truncation_side` of `tokenizer_config.json`.
fn cut_side(config: &Value) -> Result<Option<TruncationDirection>, String> {
    match &config["truncation_side"] {
        Value::Null => Ok(None),
        Value::String(side) if side == "right" => Ok(Some(TruncationDirection::Right)),
        Value::String(side) if side == "left" => Ok(Some(TruncationDirection::Left)),
        other => Err(format!(
            "`truncation_side` of tokenizer_config.json is {other}; known are \"left\" and \"right\""
        )),
    }
}

/// A token's text: a string, or the `content` of an object.
fn text_of(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

fn refuse_class(class: &str, config: &Value) -> Result<(), String> {
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

/// The model, which is one of the library's.
fn library(inner: &Inner) -> Option<&ModelWrapper> {
    match inner.get_model() {
        Words::Library(model) => Some(model),
        Words::SentencePiece(_) => None,
    }
}

fn refuse_dropout(inner: &Inner) -> Result<(), String> {
    match library(inner) {
        Some(ModelWrapper::BPE(bpe)) if bpe.dropout.is_some_and(|p| p > 0.0) => Err(
            "`model.dropout` is above 0: the tokenizer would give other ids from call to call"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

fn is_bert(class: &str) -> bool {
    let class = class.strip_suffix("Fast").unwrap_or(class);
    ["BertTokenizer", "DistilBertTokenizer"].contains(&class)
}

/// BERT classes make their normalizer from `tokenizer_config.json`, whatever `tokenizer.json` has; an option that is not
/// there has its default.
fn apply_bert_options(inner: &mut Inner, class: &str, config: &Value) -> Result<(), String> {
    if !is_bert(class) || !matches!(library(inner), Some(ModelWrapper::WordPiece(_))) {
        return Ok(());
    }
    let option = |name: &str| option(config, name);
    let strip = match config.get("strip_accents") {
        // As lower-casing is.
        Some(Value::Null) => None,
        _ => option("strip_accents")?,
    };
    let chinese = option("tokenize_chinese_chars")?.unwrap_or(true);
    let lower = option("do_lower_case")?.unwrap_or(true);
    let normalizer = BertNormalizer::new(true, chinese, strip, lower);
    inner
        .with_normalizer(Some(normalizer))
        .map_err(|e| e.to_string())?;
    Ok(())
}

/// `RoBERTa`'s class too has the last word on whether a text begins with a space, and on whether the place of a token leaves
/// the space before it out, whatever `tokenizer.json` has (transformers: `RobertaTokenizer.__init__`).
fn apply_roberta_options(inner: &mut Inner, class: &str, config: &Value) -> Result<(), String> {
    if class.strip_suffix("Fast").unwrap_or(class) != "RobertaTokenizer" {
        return Ok(());
    }
    let space = option(config, "add_prefix_space")?.unwrap_or(false);
    let trim = option(config, "trim_offsets")?.unwrap_or(true);
    if let Some(PreTokenizerWrapper::ByteLevel(bytes)) = inner.get_pre_tokenizer() {
        let bytes = bytes.add_prefix_space(space);
        inner.with_pre_tokenizer(Some(bytes));
    }
    if let Some(PostProcessorWrapper::Roberta(template)) = inner.get_post_processor() {
        let template = template.clone().add_prefix_space(space).trim_offsets(trim);
        inner.with_post_processor(Some(template));
    }
    Ok(())
}

/// A truth value of `tokenizer_config.json`.
fn option(config: &Value, name: &str) -> Result<Option<bool>, String> {
    match config.get(name) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(format!(
            "`{name}` of tokenizer_config.json is {other}, expected true or false"
        )),
    }
}

/// Marks the tokens that the files beside `tokenizer.json` call special, as far as they are in the vocabulary. How they
/// match is what `tokenizer.json` says if it has them among its added tokens.
fn mark_special(inner: &mut Inner, files: &[&Value]) -> Result<(), String> {
    let mut tokens = BTreeMap::new();
    for file in files {
        let decoder = file["added_tokens_decoder"].as_object();
        for value in decoder.into_iter().flat_map(|map| map.values()) {
            add(&mut tokens, value, false);
        }
        let lists = ["additional_special_tokens", "extra_special_tokens"];
        let more = lists
            .iter()
            .filter_map(|name| file[name].as_array())
            .flatten();
        for value in NAMED.iter().map(|name| &file[name]).chain(more) {
            add(&mut tokens, value, true);
        }
    }
    let known = inner.get_added_tokens_decoder();
    let changed = tokens.into_values().filter_map(|token| {
        let id = inner.token_to_id(&token.content)?;
        match known.get(&id) {
            None => Some(token),
            Some(known) if token.special && !known.special => Some(known.clone().special(true)),
            Some(_) => None,
        }
    });
    let changed: Vec<_> = changed.collect();
    inner.add_tokens(changed).map_err(|e| e.to_string())?;
    Ok(())
}

/// Adds the token that `value` names: its text, or an object with its text and how it matches. A text alone leaves what an
/// object said; special once is special.
fn add(tokens: &mut BTreeMap<String, AddedToken>, value: &Value, special: bool) {
    let token = match value {
        Value::String(content) if !tokens.contains_key(content) => {
            AddedToken::from(content.as_str(), special)
        }
        Value::String(content) => tokens[content].clone(),
        _ => match added_token(value) {
            Some(token) => token,
            None => return,
        },
    };
    let before = tokens.get(&token.content).is_some_and(|t| t.special);
    let special = special || before || token.special;
    tokens.insert(token.content.clone(), token.special(special));
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
