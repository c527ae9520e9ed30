//! [`Pieces`]: the bytes of every token, worked out once from the tokenizer's decoder.
//!
//! Owns: how a decoder spells tokens (byte-level letters, `▁`, `<0x0A>`, `##`). Must not know: encoding, files.
//!
//! Invariant: for valid UTF-8 the bytes of tokens one after another are what the library's decoder gives; a decoder whose
//! text does not grow token by token is refused.

use super::words::Inner;
use serde_json::Value;

/// Ids at most: far above any vocabulary, low enough that a damaged file cannot take memory for its ids.
const MAX_IDS: usize = 1 << 24;

/// Bytes of all tokens, side by side.
pub(super) struct Pieces {
    rules: Rules,
    bytes: Vec<u8>,
    /// Where the bytes of each id end; they begin where those of the id before end.
    ends: Vec<usize>,
    kinds: Vec<Kind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Absent,
    Text,
    Special,
}

impl Pieces {
    /// The table of `tokenizer`.
    ///
    /// # Errors
    /// The reason, if its decoder is not one that can be followed token by token.
    pub(super) fn of(tokenizer: &Inner) -> Result<Self, String> {
        let rules = Rules::of(tokenizer)?;
        let last = tokenizer.get_vocab(true).into_values().max();
        let len = last.map_or(0, |id| id as usize + 1);
        if len == 0 {
            return Err("the vocabulary is empty".to_owned());
        }
        if len > MAX_IDS {
            return Err(format!("id {} is not below {MAX_IDS}", len - 1));
        }
        let added = tokenizer.get_added_tokens_decoder();
        let mut pieces = Self {
            rules,
            bytes: Vec::new(),
            ends: Vec::with_capacity(len),
            kinds: Vec::with_capacity(len),
        };
        for id in 0..len as u32 {
            let kind = match tokenizer.id_to_token(id) {
                None => Kind::Absent,
                Some(token) => {
                    pieces.bytes.extend(pieces.rules.apply(&token, false));
                    let special = added.get(&id).is_some_and(|token| token.special);
                    if special { Kind::Special } else { Kind::Text }
                }
            };
            pieces.ends.push(pieces.bytes.len());
            pieces.kinds.push(kind);
        }
        Ok(pieces)
    }

    /// One more than the largest id.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of `id` inside a text, special or not; none if there is no such token.
    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        if *self.kinds.get(id)? == Kind::Absent {
            return None;
        }
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.bytes[start..self.ends[id]])
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Special)
    }

    /// Whether the token that begins a text may have other bytes there than inside it.
    pub(super) fn first_differs(&self) -> bool {
        self.rules.strip_first
            || self.rules.steps.iter().any(|step| match step {
                Step::Metaspace { drop_first, .. } => *drop_first,
                Step::WordPiece { .. } | Step::Joined => true,
                _ => false,
            })
    }

    /// Bytes of the token spelled `token` where it begins a text.
    pub(super) fn first_bytes(&self, token: &str) -> Vec<u8> {
        self.rules.apply(token, true)
    }
}

/// A decoder, as steps on one token.
struct Rules {
    steps: Vec<Step>,
    /// A space that begins the whole text is dropped.
    strip_first: bool,
}

enum Step {
    /// Every letter stands for a byte (GPT-2's table).
    ByteLevel,
    /// `<0x0A>` stands for a byte.
    ByteFallback,
    Replace {
        from: String,
        to: String,
    },
    /// `▁` stands for a space; in the first token for nothing.
    Metaspace {
        letter: char,
        drop_first: bool,
    },
    /// A space before every token but those with the prefix.
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    /// No decoder: tokens joined by spaces.
    Joined,
}

impl Rules {
    fn of(tokenizer: &Inner) -> Result<Self, String> {
        let mut rules = Self {
            steps: Vec::new(),
            strip_first: false,
        };
        match tokenizer.get_decoder() {
            None => rules.steps.push(Step::Joined),
            Some(decoder) => {
                let decoder = serde_json::to_value(decoder).map_err(|e| e.to_string())?;
                rules.add(&decoder, &mut false)?;
            }
        }
        Ok(rules)
    }

    /// Adds the steps of `decoder`, as `tokenizer.json` spells it. `fused`: an earlier step joins all tokens.
    fn add(&mut self, decoder: &Value, fused: &mut bool) -> Result<(), String> {
        let text = |name: &str| decoder[name].as_str().unwrap_or_default().to_owned();
        let step = match decoder["type"].as_str().unwrap_or_default() {
            "Sequence" => {
                for decoder in decoder["decoders"].as_array().into_iter().flatten() {
                    self.add(decoder, fused)?;
                }
                return Ok(());
            }
            "Fuse" => {
                *fused = true;
                return Ok(());
            }
            "Strip"
                if *fused
                    && decoder["content"] == " "
                    && decoder["start"] == 1
                    && decoder["stop"] == 0 =>
            {
                self.strip_first = true;
                return Ok(());
            }
            "ByteLevel" => Step::ByteLevel,
            "ByteFallback" => Step::ByteFallback,
            "Replace" if decoder["pattern"]["String"].is_string() => Step::Replace {
                from: decoder["pattern"]["String"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                to: text("content"),
            },
            "Metaspace" => Step::Metaspace {
                letter: text("replacement").chars().next().unwrap_or('▁'),
                drop_first: decoder["prepend_scheme"] != "never",
            },
            "WordPiece" => Step::WordPiece {
                prefix: text("prefix"),
                cleanup: decoder["cleanup"] == true,
            },
            _ => return Err(format!("decoder {decoder} is not supported")),
        };
        if *fused {
            return Err(format!(
                "decoder {decoder} after the tokens are fused is not supported"
            ));
        }
        self.steps.push(step);
        Ok(())
    }

    /// Bytes of the token spelled `token`, at the beginning of a text or inside it.
    fn apply(&self, token: &str, first: bool) -> Vec<u8> {
        let mut text = token.to_owned();
        let mut bytes = None;
        for step in &self.steps {
            match step {
                Step::ByteLevel => bytes = byte_level(&text),
                Step::ByteFallback => bytes = bytes.or_else(|| byte_token(&text)),
                Step::Replace { from, to } => text = text.replace(from, to),
                Step::Metaspace { letter, drop_first } => {
                    text = text.replace(*letter, if first && *drop_first { "" } else { " " });
                }
                Step::WordPiece { prefix, cleanup } => {
                    text = word_piece(&text, first, prefix);
                    if *cleanup {
                        text = clean_up(&text);
                    }
                }
                Step::Joined if first => {}
                Step::Joined => text.insert(0, ' '),
            }
        }
        let mut bytes = bytes.unwrap_or_else(|| text.into_bytes());
        if first && self.strip_first && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }
}

/// The bytes that the letters stand for; none if one of them stands for no byte (an added token in plain text).
fn byte_level(token: &str) -> Option<Vec<u8>> {
    token.chars().map(letter_byte).collect()
}

/// Inverse of GPT-2's table (`encoder.py: bytes_to_unicode`): printable Latin-1 stands for itself, the other 68 bytes are
/// the letters from U+0100, in order.
fn letter_byte(letter: char) -> Option<u8> {
    let code = letter as u32;
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The byte of a token `<0xHH>`.
fn byte_token(token: &str) -> Option<Vec<u8>> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok().map(|byte| vec![byte])
}

fn word_piece(token: &str, first: bool, prefix: &str) -> String {
    match token.strip_prefix(prefix) {
        _ if first => token.to_owned(),
        Some(rest) => rest.to_owned(),
        None => format!(" {token}"),
    }
}

/// The library's clean-up of spaces, which it does within each token (`decoders/wordpiece.rs`).
fn clean_up(token: &str) -> String {
    const PAIRS: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    PAIRS
        .iter()
        .fold(token.to_owned(), |text, (from, to)| text.replace(from, to))
}
