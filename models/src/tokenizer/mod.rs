//! [`Tokenizer`]: text to ids and back, from `tokenizer.json` ([`hf`]) or from GGUF metadata ([`gguf`]).
//!
//! Invariant: truncation and padding of the file are switched off; limits are the engine's business.

/// Ids of one or two texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment of each token: 1 for the second text of a pair where the tokenizer says so.
    pub type_ids: Vec<u32>,
}

/// A tokenizer and the byte form of its tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Bytes of each token as they appear in text; empty for special tokens.
    bytes: Vec<Vec<u8>>,
    special: Vec<bool>,
}

impl Tokenizer {
    /// Ids of `text`. `special`: whether the tokenizer's own template adds its tokens ([CLS], begin of sequence).
    /// Special tokens written in the text are recognised.
    ///
    /// # Errors
    /// The library's message, if the text cannot be encoded (an unknown token without an unknown id).
    pub fn encode(&self, text: &str, special: bool) -> Result<Encoded, String> {
        self.take(self.inner.encode_fast(text, special))
    }

    /// Ids of a pair of texts, with the tokenizer's template.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Encoded, String> {
        self.take(self.inner.encode_fast((first, second), true))
    }

    #[expect(clippy::unused_self, reason = "contract")]
    fn take(&self, encoding: tokenizers::Result<tokenizers::Encoding>) -> Result<Encoded, String> {
        let encoding = encoding.map_err(|e| e.to_string())?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
        })
    }

    /// Text of `ids`. Invalid UTF-8 becomes U+FFFD; `skip_special` leaves special tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.inner.decode(ids, skip_special).unwrap_or_default()
    }

    /// The bytes that token `id` adds to a text; none if there is no such token; empty for a special token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id as usize).map(Vec::as_slice)
    }

    /// Whether `id` is a special token (end of text, role markers).
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The token's own spelling in the vocabulary (`Ġthe`, `##ing`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token's spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }
}
