//! [`Detokenizer`]: ids to text as they come.
//!
//! Owns: bytes that are not yet a whole character. Must not know: how tokens spell bytes, stop strings.
//!
//! Invariant: all text given out, put together, is the lossy UTF-8 reading of all bytes put together; a character is given
//! out once it is whole, and not before.

use koma_models::Tokenizer;
use std::sync::Arc;

/// The longest character of UTF-8.
const MAX_CHAR: usize = 4;

/// The text of one growing sequence of ids. Special tokens add nothing.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// Nothing came before in the text.
    first: bool,
    /// The beginning of a character: at most 3 bytes between calls.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Text that goes on after the ids `prompt` (its last few are enough): a space at its beginning is kept, and a
    /// character that the prompt began is ended. With an empty prompt the text is that of the ids alone.
    pub fn new(tokenizer: &Arc<Tokenizer>, prompt: &[u32]) -> Self {
        let mut tail = Vec::new();
        for &id in prompt.iter().rev() {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            tail.splice(..0, bytes.iter().copied());
            if tail.len() >= MAX_CHAR {
                break;
            }
        }
        Self {
            tokenizer: Arc::clone(tokenizer),
            first: tail.is_empty(),
            pending: unfinished(&tail).to_vec(),
        }
    }

    /// Takes the next id; appends to `text` what is now certain.
    pub fn push(&mut self, id: u32, text: &mut String) {
        if self.tokenizer.is_special(id) {
            return;
        }
        let added = self.tokenizer.append(id, self.first, &mut self.pending);
        self.first &= !added;
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = bad;
                    let Some(len) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[len..];
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
    }

    /// Ends the text: a character that was not ended becomes U+FFFD.
    pub fn finish(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}

/// The beginning of a character at the end of `bytes`.
fn unfinished(bytes: &[u8]) -> &[u8] {
    let from = bytes.len().saturating_sub(MAX_CHAR - 1);
    (from..bytes.len())
        .map(|start| &bytes[start..])
        .find(|tail| {
            std::str::from_utf8(tail)
                .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
