//! [`Tokenizer`]: text to ids and back, from `tokenizer.json` ([`hf`]) or from GGUF metadata ([`gguf`]).
//!
//! Owns: both directions, and the bytes of each token ([`pieces`]). Must not know: prompts, chat templates, limits.
//!
//! Invariants: truncation and padding of the file are switched off, limits are the engine's business. Text of ids is the
//! lossy UTF-8 reading of their bytes one after another, so that whole texts and streams of tokens cannot differ. A
//! tokenizer that cannot be reproduced exactly does not load.

mod gguf;
mod hf;
mod pieces;
mod sentencepiece;
#[cfg(test)]
mod tests;
mod wordpiece;
mod words;

use crate::LoadError;
use pieces::Pieces;
use std::ops::Range;
use std::path::Path;
use tokenizers::utils::truncation::truncate_encodings;
use tokenizers::{
    Decoder, Encoding, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy,
};
use words::Inner;

/// Ids of one or two texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment of each token: 1 for the second text of a pair where the tokenizer says so.
    pub type_ids: Vec<u32>,
}

impl Encoded {
    /// Keeps the last `count` tokens, as `truncate_prompt_tokens` of vLLM does with prompts of decoders.
    pub fn keep_last(&mut self, count: usize) {
        for list in [&mut self.ids, &mut self.type_ids] {
            list.drain(..list.len().saturating_sub(count));
        }
    }
}

/// Ids of a text and where its tokens stand in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Located {
    /// The ids.
    pub encoded: Encoded,
    /// The characters (Unicode scalar values, not bytes) of the text that each token stands for; none for a token that the
    /// tokenizer's template added.
    pub places: Vec<Option<Range<usize>>>,
}

/// A text that many pairs begin with, split into tokens once.
#[derive(Debug)]
pub struct First(Encoding);

/// A tokenizer and the byte form of its tokens.
pub struct Tokenizer {
    inner: Inner,
    pieces: Pieces,
    /// The side on which [`Tokenizer::encode_within`] cuts.
    cut: TruncationDirection,
    /// What stands for text that has no token.
    unknown: Option<u32>,
}

impl Tokenizer {
    /// Wraps the library's tokenizer: no truncation, no padding, bytes of every token known. `path` is for messages.
    fn new(mut inner: Inner, path: &Path) -> Result<Self, LoadError> {
        let refuse = |reason: String| LoadError::Tokenizer {
            path: path.to_owned(),
            reason,
        };
        let cut = inner
            .get_truncation()
            .map_or(TruncationDirection::Right, |t| t.direction);
        inner
            .with_truncation(None)
            .map_err(|e| refuse(e.to_string()))?
            .with_padding(None);
        let pieces = Pieces::of(&inner).map_err(refuse)?;
        let unknown = inner.get_model().unknown();
        let unknown = unknown.and_then(|token| inner.token_to_id(token));
        Ok(Self {
            inner,
            pieces,
            cut,
            unknown,
        })
    }

    /// Ids of `text`. `special`: whether the tokenizer's own template adds its tokens (`[CLS]`, begin of sequence).
    /// Special tokens written in the text are recognised.
    ///
    /// # Errors
    /// The library's message, if the text cannot be encoded (an unknown token without an unknown id).
    pub fn encode(&self, text: &str, special: bool) -> Result<Encoded, String> {
        take(self.inner.encode_fast(text, special))
    }

    /// Ids of a pair of texts, with the tokenizer's template.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Encoded, String> {
        take(self.inner.encode_fast((first, second), true))
    }

    /// Ids of one or two texts with the tokenizer's template, cut so that all together are at most `max_len`. The texts are
    /// cut at their ends (at their starts where the tokenizer's files say so), the longer of two first, and the template's tokens stay, as transformers does with
    /// `truncation=True`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; if `max_len` does not hold the template's own tokens.
    pub fn encode_within(
        &self,
        first: &str,
        second: Option<&str>,
        max_len: usize,
    ) -> Result<Encoded, String> {
        let encode = |text| {
            self.inner
                .encode_fast(text, false)
                .map_err(|e| e.to_string())
        };
        let second = second.map(encode).transpose()?;
        take(Ok(self.fit(encode(first)?, second, max_len)?))
    }

    /// Splits a text that many pairs begin with.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn first(&self, text: &str) -> Result<First, String> {
        let encoding = self.inner.encode_fast(text, false);
        encoding.map(First).map_err(|e| e.to_string())
    }

    /// Ids of the pair of `first` and `second`, as [`Tokenizer::encode_pair`]; cut as [`Tokenizer::encode_within`] does, if there
    /// is a `max_len`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_within`].
    pub fn pair_with(
        &self,
        first: &First,
        second: &str,
        max_len: Option<usize>,
    ) -> Result<Encoded, String> {
        let second = self.first(second)?.0;
        self.paired(first, second, max_len)
    }

    /// Ids of the pairs of `first` with each part of `second`: parts of `most` tokens, the last of what is left. Fewer tokens to a
    /// part where `window` tokens do not hold that many beside `first`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn pairs_with(
        &self,
        first: &First,
        second: &str,
        (most, window): (usize, usize),
    ) -> Result<Vec<Encoded>, String> {
        let taken = self.added_to_pairs() + first.0.len();
        // A first text that leaves no room is the caller's to refuse.
        let most = most.min(window.saturating_sub(taken)).max(1);
        let mut second = self.first(second)?.0;
        second.truncate(most, 0, TruncationDirection::Right);
        let rest = second.take_overflowing();
        let parts = std::iter::once(second).chain(rest);
        parts.map(|part| self.paired(first, part, None)).collect()
    }

    fn added_to_pairs(&self) -> usize {
        let template = self.inner.get_post_processor();
        template.map_or(0, |template| template.added_tokens(true))
    }

    fn paired(
        &self,
        first: &First,
        second: Encoding,
        max_len: Option<usize>,
    ) -> Result<Encoded, String> {
        let first = first.0.clone();
        take(match max_len {
            Some(max_len) => Ok(self.fit(first, Some(second), max_len)?),
            None => self.inner.post_process(first, Some(second), true),
        })
    }

    /// Ids of one text with the tokenizer's template, cut to `max_len` as [`Tokenizer::encode_within`] does (none: not cut),
    /// and the places of its tokens in it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_within`].
    pub fn locate(&self, text: &str, max_len: Option<usize>) -> Result<Located, String> {
        let whole = max_len.is_none();
        let encoding = self.inner.encode_char_offsets(text, whole);
        let mut encoding = encoding.map_err(|e| e.to_string())?;
        if let Some(max_len) = max_len {
            encoding = self.fit(encoding, None, max_len)?;
        }
        let added = encoding.get_special_tokens_mask().iter();
        let place =
            |(added, (start, end)): (&u32, &(usize, usize))| (*added == 0).then_some(*start..*end);
        Ok(Located {
            places: added.zip(encoding.get_offsets()).map(place).collect(),
            encoded: take(Ok(encoding))?,
        })
    }

    /// Cuts texts without the template's tokens so that all together are at most `max_len`, and adds those.
    fn fit(
        &self,
        first: Encoding,
        second: Option<Encoding>,
        max_len: usize,
    ) -> Result<Encoding, String> {
        let template = self.inner.get_post_processor();
        let added = template.map_or(0, |template| template.added_tokens(second.is_some()));
        let room = max_len
            .checked_sub(added)
            .ok_or_else(|| format!("{max_len} tokens do not hold the {added} special tokens"))?;
        let params = TruncationParams {
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            direction: self.cut,
            ..TruncationParams::default()
        };
        let (mut first, mut second) =
            truncate_encodings(first, second, &params).map_err(|e| e.to_string())?;
        // The parts cut off would be paired each with each.
        first.take_overflowing();
        if let Some(second) = &mut second {
            second.take_overflowing();
        }
        let whole = self.inner.post_process(first, second, true);
        whole.map_err(|e| e.to_string())
    }

    /// What the tokenizer's decoder makes of tokens, as transformers' `convert_tokens_to_string`.
    pub fn join(&self, tokens: Vec<String>) -> String {
        let spaced = tokens.join(" ");
        match self.inner.get_decoder() {
            Some(decoder) => decoder.decode(tokens).unwrap_or(spaced),
            None => spaced,
        }
    }

    /// Whether the spelling of a token tells that it goes on with a word (`##ing`).
    pub fn marks_continuation(&self) -> bool {
        self.inner.get_model().marks_continuation()
    }

    /// The id that stands for text without a token, if there is one.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Text of `ids`. Invalid UTF-8 becomes U+FFFD; `skip_special` leaves special tokens out; ids without a token add
    /// nothing. Spaces before punctuation are left as the tokens have them.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::new();
        let mut first = true;
        for &id in ids {
            if skip_special && self.is_special(id) {
                continue;
            }
            first &= !self.append(id, first, &mut bytes);
        }
        String::from_utf8(bytes)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    /// Appends the bytes of token `id` to `text`, special tokens included. `first`: nothing came before it in the text
    /// (some tokenizers drop the space that begins a text). Returns whether there is such a token.
    pub fn append(&self, id: u32, first: bool, text: &mut Vec<u8>) -> bool {
        if first && self.pieces.first_differs() {
            let token = self.inner.id_to_token(id);
            if let Some(token) = &token {
                text.extend(self.pieces.first_bytes(token));
            }
            return token.is_some();
        }
        let bytes = self.pieces.bytes(id);
        text.extend_from_slice(bytes.unwrap_or_default());
        bytes.is_some()
    }

    /// The bytes that token `id` adds inside a text; none if there is no such token; empty for a special token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        if self.is_special(id) {
            return Some(&[]);
        }
        self.pieces.bytes(id)
    }

    /// Whether `id` is a special token (end of text, role markers).
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.is_special(id)
    }

    /// The token's own spelling in the vocabulary (`Ġthe`, `##ing`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token's spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// One more than the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

fn take(encoding: tokenizers::Result<Encoding>) -> Result<Encoded, String> {
    let encoding = encoding.map_err(|e| e.to_string())?;
    Ok(Encoded {
        ids: encoding.get_ids().to_vec(),
        type_ids: encoding.get_type_ids().to_vec(),
    })
}
