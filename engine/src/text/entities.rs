//! [`entities`]: from one row of label probabilities per token to named places in a text, as transformers'
//! `TokenClassificationPipeline` finds them.
//!
//! Owns: which tokens are one word, how labels of a word's tokens are settled, `B-` and `I-`. Must not know: models, HTTP.
//!
//! Invariant: places count characters (Unicode scalar values) of the text, not bytes.

use koma_models::Tokenizer;
use koma_models::tokenizer::Located;

/// How tokens become entities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Aggregation {
    /// Each token by itself.
    #[default]
    None,
    /// Neighbouring tokens of one label are one entity.
    Simple,
    /// As simple, over words; a word has the label of its first token.
    First,
    /// As simple, over words; a word has the label that is likeliest on average.
    Average,
    /// As simple, over words; a word has the label of its surest token.
    Max,
}

impl Aggregation {
    /// All of them, by their names in transformers.
    pub const NAMED: [(&str, Self); 5] = [
        ("none", Self::None),
        ("simple", Self::Simple),
        ("first", Self::First),
        ("average", Self::Average),
        ("max", Self::Max),
    ];
}

/// A token, or several that belong together, and its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// The label; without what stands before the first `-` where tokens were merged.
    pub label: String,
    /// Its probability: of the token, or the mean of the tokens or words.
    pub score: f32,
    /// Number of the token among all of the input's, the added ones included; none where tokens were merged.
    pub index: Option<usize>,
    /// The token's spelling, or what the tokenizer makes of those of several.
    pub word: String,
    /// First character.
    pub start: usize,
    /// Behind the last character.
    pub end: usize,
}

/// A text and what a token classifier said of it.
#[derive(Debug, Clone, Copy)]
pub struct Tagged<'a> {
    /// What split the text.
    pub tokenizer: &'a Tokenizer,
    /// Names of the labels.
    pub labels: &'a [String],
    /// The text.
    pub text: &'a str,
    /// Its tokens.
    pub tokens: &'a Located,
    /// Probabilities, `[tokens, labels]`.
    pub probabilities: &'a [f32],
}

/// The entities of `tagged` in their order, without those whose label is in `ignored` (compared as [`Entity::label`] is).
pub fn entities(tagged: &Tagged<'_>, aggregation: Aggregation, ignored: &[String]) -> Vec<Entity> {
    let pieces = pieces(tagged);
    let found = match aggregation {
        Aggregation::None => pieces.iter().map(|piece| piece.entity(tagged)).collect(),
        Aggregation::Simple => {
            let single = |piece: &Piece<'_>| piece.entity(tagged);
            let tokens: Vec<Entity> = pieces.iter().map(single).collect();
            merge(tagged.tokenizer, &tokens)
        }
        _ => merge(tagged.tokenizer, &words(tagged, &pieces, aggregation)),
    };
    let kept = |entity: &Entity| !ignored.contains(&entity.label);
    found.into_iter().filter(kept).collect()
}

/// A token of the text itself.
struct Piece<'a> {
    word: String,
    probabilities: &'a [f32],
    index: usize,
    start: usize,
    end: usize,
    /// Whether it goes on with the word of the token before it.
    continues: bool,
}

impl Piece<'_> {
    fn entity(&self, tagged: &Tagged<'_>) -> Entity {
        let best = best(self.probabilities);
        Entity {
            label: tagged.labels[best].clone(),
            score: self.probabilities[best],
            index: Some(self.index),
            word: self.word.clone(),
            start: self.start,
            end: self.end,
        }
    }
}

/// The place of the largest value, the first of equals.
fn best(values: &[f32]) -> usize {
    let better = |best: usize, i: usize| if values[i] > values[best] { i } else { best };
    (0..values.len()).reduce(better).unwrap_or(0)
}

fn pieces<'a>(tagged: &Tagged<'a>) -> Vec<Piece<'a>> {
    let (tokenizer, tokens) = (tagged.tokenizer, tagged.tokens);
    let chars: Vec<char> = tagged.text.chars().collect();
    let slice = |start: usize, end: usize| {
        let end = end.min(chars.len());
        chars[start.min(end)..end].iter()
    };
    let marked = tokenizer.marks_continuation();
    let rows = tagged
        .probabilities
        .chunks_exact(tagged.labels.len().max(1));
    let all = tokens.encoded.ids.iter().zip(&tokens.places).zip(rows);
    all.enumerate()
        .filter_map(|(index, ((id, place), probabilities))| {
            let (start, end) = place.clone().map(|place| (place.start, place.end))?;
            let spelled = tokenizer.token(*id).unwrap_or_default();
            let unknown = tokenizer.unknown() == Some(*id);
            let continues = if marked {
                spelled.chars().count() != slice(start, end).count()
            } else {
                // Words are what spaces part.
                start > 0 && !slice(start - 1, start + 1).any(|c| *c == ' ')
            };
            Some(Piece {
                word: if unknown {
                    slice(start, end).collect()
                } else {
                    spelled
                },
                probabilities,
                index,
                start,
                end,
                continues: continues && !unknown,
            })
        })
        .collect()
}

/// One entity per word.
fn words(tagged: &Tagged<'_>, pieces: &[Piece<'_>], aggregation: Aggregation) -> Vec<Entity> {
    pieces
        .chunk_by(|_, next| next.continues)
        .map(|word| {
            let (first, last) = (&word[0], &word[word.len() - 1]);
            let probabilities = match aggregation {
                Aggregation::Average => mean(word),
                Aggregation::Max => surest(word).to_vec(),
                _ => first.probabilities.to_vec(),
            };
            let best = best(&probabilities);
            let tokens = word.iter().map(|piece| piece.word.clone());
            Entity {
                label: tagged.labels[best].clone(),
                score: probabilities[best],
                index: None,
                word: tagged.tokenizer.join(tokens.collect()),
                start: first.start,
                end: last.end,
            }
        })
        .collect()
}

fn mean(word: &[Piece<'_>]) -> Vec<f32> {
    let mut sums = vec![0.0; word[0].probabilities.len()];
    for piece in word {
        let row = sums.iter_mut().zip(piece.probabilities);
        row.for_each(|(sum, p)| *sum += p);
    }
    sums.iter().map(|sum| sum / word.len() as f32).collect()
}

/// The probabilities of the token whose likeliest label is the likeliest; the first of equals.
fn surest<'a>(word: &[Piece<'a>]) -> &'a [f32] {
    let tops: Vec<f32> = word
        .iter()
        .map(|piece| piece.probabilities[best(piece.probabilities)])
        .collect();
    word[best(&tops)].probabilities
}

/// Joins neighbours of one name, unless the later one begins anew (`B-`).
fn merge(tokenizer: &Tokenizer, entities: &[Entity]) -> Vec<Entity> {
    let goes_on = |before: &Entity, next: &Entity| {
        let ((_, name), (begins, next)) = (tag(&before.label), tag(&next.label));
        name == next && !begins
    };
    entities
        .chunk_by(goes_on)
        .map(|group| {
            let (first, last) = (&group[0], &group[group.len() - 1]);
            let sum: f32 = group.iter().map(|entity| entity.score).sum();
            let words = group.iter().map(|entity| entity.word.clone());
            let name = first.label.split_once('-').map(|(_, name)| name);
            Entity {
                label: name.unwrap_or(&first.label).to_owned(),
                score: sum / group.len() as f32,
                index: None,
                word: tokenizer.join(words.collect()),
                start: first.start,
                end: last.end,
            }
        })
        .collect()
}

/// Whether a label begins an entity, and the entity's name.
fn tag(label: &str) -> (bool, &str) {
    match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
        (Some(name), _) => (true, name),
        (None, Some(name)) => (false, name),
        (None, None) => (false, label),
    }
}
