//! [`SentencePiece`]: byte pairs merged by the score of what they make (sentencepiece `bpe_model.cc`, llama.cpp's `SPM`).
//!
//! Owns: merging, and what becomes of characters outside of the vocabulary. Must not know: spaces, special tokens,
//! metadata keys.
//!
//! Invariant: of all neighbours that make a piece of the vocabulary the best score is merged first, of equal scores the
//! leftmost; work grows with `n log n` of the text.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use tokenizers::Token;

/// What a token of the vocabulary is. The numbers are those of the format (sentencepiece's `ModelProto.SentencePiece.Type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// 1: text.
    Normal,
    /// 2: what stands for unknown text.
    Unknown,
    /// 3: role markers and the like; never made from text.
    Control,
    /// 4: text that is matched whole.
    UserDefined,
    /// 5: may be made on the way to something longer, but is taken apart again.
    Unused,
    /// 6: one byte of a character without a piece.
    Byte,
}

impl PieceKind {
    /// The kind with this number.
    pub(super) fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined | Self::Unused)
    }
}

/// One entry of the vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) text: String,
    /// Finite.
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// See the module.
pub(super) struct SentencePiece {
    pieces: Vec<Piece>,
    ids: HashMap<String, u32>,
    fallback: Fallback,
}

/// What stands for a character without a piece.
pub(super) enum Fallback {
    /// One token for each byte, by byte.
    Bytes(Box<[u32; 256]>),
    /// One token for all neighbours of the kind.
    Unknown(u32),
    /// Nothing: such text is an error.
    None,
}

/// A stretch of the text; an empty one was merged into its left neighbour.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

/// No neighbour.
const NONE: usize = usize::MAX;

/// Two neighbours that together are a piece.
#[derive(PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when the pair was found: one of them may have grown since.
    len: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = self.score.total_cmp(&other.score);
        by_score.then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl SentencePiece {
    /// A vocabulary in order of ids.
    ///
    /// # Errors
    /// The text that is there twice, with both ids.
    pub(super) fn new(pieces: Vec<Piece>, fallback: Fallback) -> Result<Self, String> {
        let mut ids = HashMap::with_capacity(pieces.len());
        for (id, piece) in pieces.iter().enumerate() {
            if let Some(other) = ids.insert(piece.text.clone(), id as u32) {
                let text = &piece.text;
                return Err(format!("`{text}` is there twice, as {other} and as {id}"));
            }
        }
        Ok(Self {
            pieces,
            ids,
            fallback,
        })
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(super) fn token(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(|p| p.text.as_str())
    }

    pub(super) fn vocab(&self) -> HashMap<String, u32> {
        self.ids.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The id of `text` if it can be made from text, with its kind and score.
    fn piece(&self, text: &str) -> Option<(u32, &Piece)> {
        let id = self.id(text)?;
        let piece = &self.pieces[id as usize];
        piece.kind.is_text().then_some((id, piece))
    }

    /// Tokens of `text`, with their places in it.
    ///
    /// # Errors
    /// A character that nothing stands for.
    pub(super) fn tokenize(&self, text: &str) -> Result<Vec<Token>, String> {
        let mut apart = HashMap::new();
        let mut tokens = Vec::new();
        let mut last_unknown = false;
        for symbol in self.merge(text, &mut apart) {
            // Unused pieces fall apart into what they were made of; the stack holds what is still to the right.
            let mut stack = vec![symbol];
            while let Some((start, end)) = stack.pop() {
                let part = &text[start..end];
                match self.piece(part) {
                    Some((_, piece))
                        if piece.kind == PieceKind::Unused && apart.contains_key(part) =>
                    {
                        let middle = start + apart[part];
                        stack.extend([(middle, end), (start, middle)]);
                    }
                    Some((id, _)) => {
                        tokens.push(Token::new(id, part.to_owned(), (start, end)));
                        last_unknown = false;
                    }
                    None => {
                        self.fall_back(part, (start, end), last_unknown, &mut tokens)?;
                        last_unknown = true;
                    }
                }
            }
        }
        Ok(tokens)
    }

    /// Merges until nothing can be merged: the places of what is left, from left to right. `apart`: for unused pieces, the
    /// bytes of the left one of the two that made them.
    fn merge<'a>(&self, text: &'a str, apart: &mut HashMap<&'a str, usize>) -> Vec<(usize, usize)> {
        let count = text.chars().count();
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, letter))| Symbol {
                start,
                end: start + letter.len_utf8(),
                previous: i.checked_sub(1).unwrap_or(NONE),
                next: if i + 1 < count { i + 1 } else { NONE },
            })
            .collect();
        let mut pairs = BinaryHeap::new();
        let mut look =
            |symbols: &[Symbol], left: usize, right: usize, pairs: &mut BinaryHeap<Pair>| {
                if left == NONE || right == NONE {
                    return;
                }
                let (start, end) = (symbols[left].start, symbols[right].end);
                let whole = &text[start..end];
                if let Some((_, piece)) = self.piece(whole) {
                    if piece.kind == PieceKind::Unused {
                        apart.insert(whole, symbols[left].end - start);
                    }
                    let (score, len) = (piece.score, end - start);
                    pairs.push(Pair {
                        score,
                        left,
                        right,
                        len,
                    });
                }
            };
        for right in 1..symbols.len() {
            look(&symbols, right - 1, right, &mut pairs);
        }
        while let Some(Pair {
            left, right, len, ..
        }) = pairs.pop()
        {
            let (a, b) = (symbols[left], symbols[right]);
            let gone = a.start == a.end || b.start == b.end;
            if gone || b.end - a.start != len {
                continue;
            }
            symbols[left] = Symbol {
                end: b.end,
                next: b.next,
                ..a
            };
            symbols[right].end = b.start;
            if b.next != NONE {
                symbols[b.next].previous = left;
            }
            look(&symbols, a.previous, left, &mut pairs);
            look(&symbols, left, b.next, &mut pairs);
        }
        let left = symbols.into_iter().filter(|s| s.start < s.end);
        left.map(|s| (s.start, s.end)).collect()
    }

    fn fall_back(
        &self,
        part: &str,
        place: (usize, usize),
        last_unknown: bool,
        tokens: &mut Vec<Token>,
    ) -> Result<(), String> {
        match &self.fallback {
            Fallback::Bytes(ids) => tokens.extend(part.bytes().map(|byte| {
                let id = ids[usize::from(byte)];
                Token::new(id, self.pieces[id as usize].text.clone(), place)
            })),
            Fallback::Unknown(_) if last_unknown => {
                if let Some(token) = tokens.last_mut() {
                    token.offsets.1 = place.1;
                }
            }
            Fallback::Unknown(id) => tokens.push(Token::new(*id, part.to_owned(), place)),
            Fallback::None => {
                return Err(format!(
                    "`{part}` is not in the vocabulary, which has no unknown token"
                ));
            }
        }
        Ok(())
    }
}
