//! `WordPiece` as BERT has it, whatever its vocabulary is read from: a GGUF file's keys, or a folder's `vocab.txt` ([`folder`]).
//!
//! Owns: everything around the vocabulary but the normalizer of a folder, which depends on options.

use super::words::Inner;
use crate::LoadError;
use crate::config::read_bounded;
use std::path::Path;
use tokenizers::AddedToken;
use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};

/// The file that has a token in each line, in the order of ids.
pub(super) const VOCAB: &str = "vocab.txt";
/// How pieces that go on with a word begin.
pub(super) const INSIDE: &str = "##";
/// BERT's own limit: longer words are unknown.
const WORD_LETTERS: usize = 100;
/// Bytes of [`VOCAB`] at most: four times the largest vocabularies.
const MAX_BYTES: u64 = 16 << 20;

/// The tokenizer but for its normalizer, its template and its added tokens.
pub(super) fn build(vocab: Vocab, unknown: String) -> Result<Inner, String> {
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token(unknown)
        .continuing_subword_prefix(INSIDE.to_owned())
        .max_input_chars_per_word(WORD_LETTERS)
        .build()
        .map_err(|e| e.to_string())?;
    let mut inner = Inner::new(model.into());
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    inner.with_decoder(Some(Decoder::new(INSIDE.to_owned(), true)));
    Ok(inner)
}

/// `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`, the last two in the second segment; `begin`, `end`: text and id of the two.
pub(super) fn template(begin: (&str, u32), end: (&str, u32)) -> Result<TemplateProcessing, String> {
    let special = |name: &str, (text, id): (&str, u32)| {
        SpecialToken::new(name.to_owned(), vec![id], vec![text.to_owned()])
            .map_err(|e| e.to_string())
    };
    TemplateProcessing::builder()
        .try_single("BEGIN:0 $A:0 END:0")?
        .try_pair("BEGIN:0 $A:0 END:0 $B:1 END:1")?
        .special_tokens(vec![special("BEGIN", begin)?, special("END", end)?])
        .build()
        .map_err(|e| e.to_string())
}

/// The tokenizer of a folder that has no `tokenizer.json`, but for its normalizer, as transformers makes it (`BertTokenizer`).
/// `named`: the text of a special token (`cls_token`), where the folder names it.
///
/// # Errors
/// If the file cannot be read, or lacks a token that is needed.
pub(super) fn folder<'a>(
    path: &Path,
    named: impl Fn(&str) -> Option<&'a str>,
) -> Result<Inner, LoadError> {
    let refuse = |reason: String| LoadError::Tokenizer {
        path: path.to_owned(),
        reason,
    };
    let text = read_bounded(path, MAX_BYTES)?;
    // As the library reads it: of a token that is there twice the last line counts.
    let lines = text.lines().zip(0u32..);
    let vocab: Vocab = lines
        .map(|(line, id)| (line.trim_end().to_owned(), id))
        .collect();
    let named = |field, usual| named(field).unwrap_or(usual).to_owned();
    let unknown = named("unk_token", "[UNK]");
    let (begin, end) = (named("cls_token", "[CLS]"), named("sep_token", "[SEP]"));
    let others = [named("pad_token", "[PAD]"), named("mask_token", "[MASK]")];
    let id = |token: &str| {
        let found = vocab.get(token).copied();
        found.ok_or_else(|| refuse(format!("has no `{token}`")))
    };
    id(&unknown)?;
    let template = template((&begin, id(&begin)?), (&end, id(&end)?)).map_err(refuse)?;
    let special = [&unknown, &begin, &end].into_iter().chain(&others);
    let special: Vec<_> = special
        .filter(|token| vocab.contains_key(*token))
        .map(|token| AddedToken::from(token.as_str(), true))
        .collect();
    let mut inner = build(vocab, unknown).map_err(refuse)?;
    inner.with_post_processor(Some(template));
    inner
        .add_tokens(special)
        .map_err(|e| refuse(e.to_string()))?;
    Ok(inner)
}
