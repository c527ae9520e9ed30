//! `tokenizer.ggml.model` = `bert`: `WordPiece`.
//!
//! llama.cpp's converter spells pieces that begin a word with `▁` and drops the `##` of the others; control tokens stay as
//! they are. The file does not say whether the tokenizer lower-cases: one that does has no piece with a capital letter.

use super::{BOS, EOS, SEP, TOKENS, TYPES, UNKNOWN};
use crate::LoadError;
use crate::gguf::GgufMeta;
use crate::tokenizer::wordpiece::{self, INSIDE};
use crate::tokenizer::words::Inner;
use tokenizers::models::bpe::Vocab;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::processors::template::TemplateProcessing;

/// The tokenizer but for its added tokens.
pub(super) fn read(meta: &GgufMeta) -> Result<Inner, LoadError> {
    let tokens: &[String] = meta.get(TOKENS)?;
    let types = super::types(meta, tokens)?;
    let control = |id: usize| types.get(id) == Some(&super::CONTROL);
    let mut vocab = Vocab::default();
    let mut lowercase = true;
    for (id, token) in tokens.iter().enumerate() {
        let piece = spelled(token, control(id));
        lowercase &= control(id) || bracketed(token) || !token.contains(char::is_uppercase);
        if let Some(other) = vocab.insert(piece, id as u32) {
            let reason = format!("`{token}` is there twice, as {other} and as {id}");
            return Err(meta.error(TOKENS, reason));
        }
    }
    let unknown: u32 = meta.get(UNKNOWN)?;
    let unknown = super::token(meta, UNKNOWN, tokens, unknown)?;
    let mut inner = wordpiece::build(vocab, unknown.clone()).map_err(|e| meta.error(TOKENS, e))?;
    inner
        .with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))
        .map_err(|e| meta.error(TYPES, e.to_string()))?;
    inner.with_post_processor(Some(template(meta, tokens)?));
    Ok(inner)
}

/// The piece as `WordPiece` has it.
fn spelled(token: &str, control: bool) -> String {
    match token.strip_prefix('▁') {
        _ if control => token.to_owned(),
        Some(begin) => begin.to_owned(),
        // Older converters left all of them alone.
        None if bracketed(token) => token.to_owned(),
        None => format!("{INSIDE}{token}"),
    }
}

fn bracketed(token: &str) -> bool {
    token.len() > 2 && token.starts_with('[') && token.ends_with(']')
}

/// The begin and end tokens around texts.
fn template(meta: &GgufMeta, tokens: &[String]) -> Result<TemplateProcessing, LoadError> {
    let text = |key: &str, id: u32| Ok((super::token(meta, key, tokens, id)?.as_str(), id));
    let begin = text(BOS, meta.get(BOS)?)?;
    let end = match meta.find(SEP)? {
        Some(id) => text(SEP, id)?,
        None => text(EOS, meta.get(EOS)?)?,
    };
    wordpiece::template(begin, end).map_err(|reason| meta.error(BOS, reason))
}
