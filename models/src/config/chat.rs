//! Chat template, special tokens and end ids of a model folder.

use super::{Json, read_text};
use crate::{ChatAssets, LoadError, Tokenizer};
use serde_json::Value;
use std::path::Path;

/// The files that say something about a folder's tokens, each read once.
pub(crate) struct TokenFiles {
    /// `tokenizer_config.json`.
    pub(crate) tokenizer: Option<Json>,
    /// `special_tokens_map.json`.
    specials: Option<Json>,
    generation: Option<Json>,
}

impl TokenFiles {
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        Ok(Self {
            tokenizer: Json::read_if_there(&folder.join("tokenizer_config.json"))?,
            specials: Json::read_if_there(&folder.join("special_tokens_map.json"))?,
            generation: Json::read_if_there(&folder.join("generation_config.json"))?,
        })
    }

    /// `tokenizer_config.json`'s `model_max_length`; none if absent or the huge number that stands for "no limit".
    pub(crate) fn max_length(&self) -> Result<Option<usize>, LoadError> {
        let Some(json) = &self.tokenizer else {
            return Ok(None);
        };
        match json.value("model_max_length").map(Value::as_f64) {
            None => Ok(None),
            Some(Some(n)) if n >= 1e15 => Ok(None),
            Some(Some(_)) => json.find_size("model_max_length", 1..=1 << 50),
            Some(None) => Err(json.error("model_max_length", "expected a number")),
        }
    }

    /// Template, tokens and end ids of a decoder with `vocab` ids. End ids: those of `generation_config.json`, else of
    /// config.json, and the tokenizer's end token, which a chat template may end its turns with.
    pub(crate) fn chat(
        &self,
        folder: &Path,
        config: &Json,
        tokenizer: &Tokenizer,
        vocab: usize,
    ) -> Result<ChatAssets, LoadError> {
        let bos_token = self.token("bos_token")?;
        let eos_token = self.token("eos_token")?;
        let mut eos_ids = match &self.generation {
            Some(json) => end_ids(json, vocab)?,
            None => Vec::new(),
        };
        if eos_ids.is_empty() {
            eos_ids = end_ids(config, vocab)?;
        }
        let end = tokenizer.id(&eos_token);
        eos_ids.extend(end.filter(|id| !eos_ids.contains(id)));
        Ok(ChatAssets {
            template: self.template(folder)?,
            bos_token,
            eos_token,
            eos_ids,
        })
    }

    /// `chat_template.jinja`, else `chat_template.json`, else the field of `tokenizer_config.json`.
    fn template(&self, folder: &Path) -> Result<Option<String>, LoadError> {
        let jinja = folder.join("chat_template.jinja");
        if jinja.is_file() {
            return read_text(&jinja).map(Some);
        }
        if let Some(json) = Json::read_if_there(&folder.join("chat_template.json"))? {
            return named_template(&json);
        }
        match &self.tokenizer {
            Some(json) => named_template(json),
            None => Ok(None),
        }
    }

    /// A token's text: a string, or the `content` of an object. Empty if there is none.
    fn token(&self, field: &str) -> Result<String, LoadError> {
        for json in [&self.tokenizer, &self.specials].into_iter().flatten() {
            let text = match json.value(field) {
                Some(Value::Object(_)) => match json.find_inner(field)? {
                    Some(inner) => inner.find_str("content")?.map(str::to_owned),
                    None => None,
                },
                _ => json.find_str(field)?.map(str::to_owned),
            };
            if let Some(text) = text {
                return Ok(text);
            }
        }
        Ok(String::new())
    }
}

/// A template as a text, or the one called `default` of a list of `{name, template}`.
fn named_template(json: &Json) -> Result<Option<String>, LoadError> {
    const FIELD: &str = "chat_template";
    let Some(Value::Array(list)) = json.value(FIELD) else {
        return Ok(json.find_str(FIELD)?.map(str::to_owned));
    };
    let named = |name: &str| {
        list.iter()
            .find(|t| t.get("name").and_then(Value::as_str) == Some(name))
    };
    match named("default").and_then(|t| t.get("template")?.as_str()) {
        Some(template) => Ok(Some(template.to_owned())),
        None => Err(json.error(FIELD, "is a list without a template named `default`")),
    }
}

/// `eos_token_id`: a number or a list of them.
fn end_ids(json: &Json, vocab: usize) -> Result<Vec<u32>, LoadError> {
    const FIELD: &str = "eos_token_id";
    let one = |value: &Value| match value.as_u64() {
        Some(id) if id < vocab as u64 => Ok(id as u32),
        _ => Err(json.error(FIELD, format!("expected ids below {vocab}, got {value}"))),
    };
    match json.value(FIELD) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}
