//! `tokenizer.ggml.model` = `llama`: the vocabulary of sentencepiece's byte pairs.
//!
//! As llama.cpp reads it: a space is spelled `▁`, one is put before the text and again after each control or user-defined
//! token (`add_space_prefix`), characters without a piece become byte tokens.

use super::{ADD_SPACE, SCORES, TOKENS, TYPES, UNKNOWN};
use crate::LoadError;
use crate::gguf::GgufMeta;
use crate::tokenizer::sentencepiece::{Fallback, Piece, PieceKind, SentencePiece};
use crate::tokenizer::words::{Inner, Words};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};

/// How pieces spell a space.
const SPACE: &str = "▁";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const EXTRA_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";

/// The tokenizer but for its added tokens and template.
pub(super) fn read(meta: &GgufMeta) -> Result<Inner, LoadError> {
    if meta.keys().any(|key| key == CHARSMAP) {
        return Err(meta.error(CHARSMAP, "is not supported for `llama`"));
    }
    if meta.find(EXTRA_SPACES)?.unwrap_or(false) {
        return Err(meta.error(EXTRA_SPACES, "true is not supported for `llama`"));
    }
    let pieces = pieces(meta)?;
    let fallback = fallback(meta, &pieces)?;
    let model = SentencePiece::new(pieces, fallback).map_err(|e| meta.error(TOKENS, e))?;
    let mut inner = Inner::new(Words::SentencePiece(model));
    let prefix = meta.find(ADD_SPACE)?.unwrap_or(true);
    spaces(&mut inner, prefix).map_err(|e| meta.error(ADD_SPACE, e.to_string()))?;
    Ok(inner)
}

fn spaces(inner: &mut Inner, prefix: bool) -> tokenizers::Result<()> {
    let mut before: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        before.push(Prepend::new(SPACE.to_owned()).into());
    }
    before.push(Replace::new(" ", SPACE)?.into());
    inner.with_normalizer(Some(Sequence::new(before)))?;
    let mut after = vec![
        Replace::new(SPACE, " ")?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if prefix {
        after.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(Decoders::new(after)));
    Ok(())
}

/// The vocabulary: texts, scores and kinds, of one length.
pub(super) fn pieces(meta: &GgufMeta) -> Result<Vec<Piece>, LoadError> {
    let tokens: &[String] = meta.get(TOKENS)?;
    let scores: &[f32] = meta.get(SCORES)?;
    let types: &[i64] = meta.get(TYPES)?;
    for (key, len) in [(SCORES, scores.len()), (TYPES, types.len())] {
        if len != tokens.len() {
            return Err(meta.error(key, format!("{len} values for {} tokens", tokens.len())));
        }
    }
    let mut pieces = Vec::with_capacity(tokens.len());
    for (id, ((text, score), number)) in tokens.iter().zip(scores).zip(types).enumerate() {
        let Some(kind) = PieceKind::from_number(*number) else {
            let reason = format!("token {id} is of type {number}, not 1 to 6");
            return Err(meta.error(TYPES, reason));
        };
        if !score.is_finite() {
            return Err(meta.error(SCORES, format!("{score} of token {id} is not finite")));
        }
        let (text, score) = (text.clone(), *score);
        pieces.push(Piece { text, score, kind });
    }
    Ok(pieces)
}

/// The byte tokens if they are all there, else the unknown token if there is one.
fn fallback(meta: &GgufMeta, pieces: &[Piece]) -> Result<Fallback, LoadError> {
    let mut ids = [None; 256];
    for (id, piece) in pieces.iter().enumerate() {
        if piece.kind != PieceKind::Byte {
            continue;
        }
        let digits = piece
            .text
            .strip_prefix("<0x")
            .and_then(|t| t.strip_suffix('>'));
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        let Some(byte) = byte else {
            let reason = format!("token {id}, `{}`, is of the type of bytes", piece.text);
            return Err(meta.error(TYPES, reason));
        };
        ids[usize::from(byte)] = Some(id as u32);
    }
    let found = ids.iter().flatten().count();
    if found == 256 {
        return Ok(Fallback::Bytes(Box::new(
            ids.map(Option::unwrap_or_default),
        )));
    }
    if found > 0 {
        return Err(meta.error(TYPES, format!("{found} tokens for bytes, not 256 or none")));
    }
    match meta.find::<u32>(UNKNOWN)? {
        Some(id) if id as usize >= pieces.len() => {
            Err(meta.error(UNKNOWN, format!("{id} is not below {}", pieces.len())))
        }
        Some(id) => Ok(Fallback::Unknown(id)),
        None => Ok(Fallback::None),
    }
}
