//! `tokenizer.ggml.model` = `bert`: `WordPiece`.
//!
//! llama.cpp's converter spells pieces that begin a word with `▁` and drops the `##` of the others; control tokens stay as
//! they are. The file does not say whether the tokenizer lower-cases: one that does has no piece with a capital letter.

use super::{BOS, EOS, SEP, TOKENS, TYPES, UNKNOWN};
use crate::LoadError;
use crate::gguf::GgufMeta;
use crate::tokenizer::words::Inner;
use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};

/// How pieces that go on with a word begin.
const INSIDE: &str = "##";
/// BERT's own limit: longer words are unknown.
const WORD_LETTERS: usize = 100;

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
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token(unknown.clone())
        .continuing_subword_prefix(INSIDE.to_owned())
        .max_input_chars_per_word(WORD_LETTERS)
        .build()
        .map_err(|e| meta.error(TOKENS, e.to_string()))?;
    let mut inner = Inner::new(model.into());
    inner
        .with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))
        .map_err(|e| meta.error(TYPES, e.to_string()))?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    inner.with_decoder(Some(Decoder::new(INSIDE.to_owned(), true)));
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

/// `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`, the last two in the second segment.
fn template(meta: &GgufMeta, tokens: &[String]) -> Result<TemplateProcessing, LoadError> {
    let special = |name: &str, key: &str, id: u32| {
        let token = super::token(meta, key, tokens, id)?;
        SpecialToken::new(name.to_owned(), vec![id], vec![token.clone()])
            .map_err(|e| meta.error(key, e.to_string()))
    };
    let begin = special("BEGIN", BOS, meta.get(BOS)?)?;
    let end = match meta.find(SEP)? {
        Some(id) => special("END", SEP, id)?,
        None => special("END", EOS, meta.get(EOS)?)?,
    };
    let failed = |reason: String| meta.error(BOS, reason);
    TemplateProcessing::builder()
        .try_single("BEGIN:0 $A:0 END:0")
        .map_err(failed)?
        .try_pair("BEGIN:0 $A:0 END:0 $B:1 END:1")
        .map_err(failed)?
        .special_tokens(vec![begin, end])
        .build()
        .map_err(|e| failed(e.to_string()))
}
