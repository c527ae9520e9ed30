//! What becomes of an encoder's raw output row: probabilities, a score, a normalised vector.

use std::collections::BTreeMap;

/// What an encoder's output row means.
#[derive(Debug, Clone, PartialEq)]
pub enum HeadKind {
    /// One of several labels: softmax.
    SingleLabel,
    /// Each label by itself: sigmoid.
    MultiLabel,
    /// A number: as it is.
    Regression,
    /// A cross-encoder's relevance score; `sigmoid` as the checkpoint's activation says (identity otherwise).
    Score {
        /// Whether the score goes through a sigmoid.
        sigmoid: bool,
    },
    /// One of several labels for each token: softmax. The only kind with one row per token.
    Tokens,
    /// A pooled vector; `normalize` to unit length as the checkpoint's modules say.
    Embed {
        /// Whether the vector is divided by its Euclidean length.
        normalize: bool,
    },
}

/// An encoder's head: its meaning, the names of its outputs, and what it wants before its inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The meaning.
    pub kind: HeadKind,
    /// Label names by index (`id2label`); empty for embeddings.
    pub labels: Vec<String>,
    /// Values of an output row.
    pub width: usize,
    /// Texts that belong before inputs (embedders).
    pub prompts: Prompts,
}

/// Texts that an embedder was trained to see before its inputs (sentence-transformers' `prompts`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompts {
    /// Texts by name.
    pub named: BTreeMap<String, String>,
    /// The one for inputs that name none; among `named`.
    pub default: Option<String>,
    /// Whether a prompt's tokens take part in the pooled vector.
    pub pooled: bool,
}

impl Prompts {
    /// The text before queries; empty if there is none.
    pub fn query(&self) -> &str {
        self.first_of(&["query"])
    }

    /// The text before what is searched, by the first of the names that sentence-transformers looks for; empty if there is none.
    pub fn document(&self) -> &str {
        self.first_of(&["document", "passage", "corpus"])
    }

    /// The text before inputs that name none; empty if there is none.
    pub fn usual(&self) -> &str {
        let name = self.default.as_deref();
        self.first_of(name.as_slice())
    }

    fn first_of(&self, names: &[&str]) -> &str {
        let found = names.iter().find_map(|name| self.named.get(*name));
        found.map_or("", String::as_str)
    }
}

impl Head {
    /// A head whose rows have one value per label.
    pub fn labelled(kind: HeadKind, labels: Vec<String>) -> Self {
        Self {
            kind,
            width: labels.len(),
            labels,
            prompts: Prompts::default(),
        }
    }

    /// The head of an embedder with vectors of `width` values.
    pub fn embedding(normalize: bool, width: usize) -> Self {
        Self {
            kind: HeadKind::Embed { normalize },
            labels: Vec::new(),
            width,
            prompts: Prompts::default(),
        }
    }

    /// Whether it gives one row per token, and not one per input.
    pub fn is_per_token(&self) -> bool {
        self.kind == HeadKind::Tokens
    }

    /// Turns a raw row into what the task promises, in place. Softmax is shifted by the largest value, so any finite
    /// row is safe; a zero vector is not divided by its length.
    pub fn activate(&self, row: &mut [f32]) {
        match self.kind {
            HeadKind::SingleLabel | HeadKind::Tokens => softmax(row),
            HeadKind::MultiLabel | HeadKind::Score { sigmoid: true } => {
                for x in row {
                    *x = 1.0 / (1.0 + (-*x).exp());
                }
            }
            HeadKind::Regression
            | HeadKind::Score { sigmoid: false }
            | HeadKind::Embed { normalize: false } => {}
            HeadKind::Embed { normalize: true } => {
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
                for x in row {
                    *x /= length;
                }
            }
        }
    }
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in &mut *row {
        *x = (*x - max).exp();
    }
    let sum: f32 = row.iter().sum();
    for x in row {
        *x /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activated(kind: HeadKind, row: &[f32]) -> Vec<f32> {
        let mut row = row.to_vec();
        Head::labelled(kind, Vec::new()).activate(&mut row);
        row
    }

    #[test]
    fn each_head_keeps_its_promise() {
        let huge = activated(HeadKind::SingleLabel, &[-1e30, 3e30, 1e30]);
        assert_eq!(huge, [0.0, 1.0, 0.0]);
        let row = [0.0, 2f32.ln()];
        let softmax = activated(HeadKind::SingleLabel, &row);
        assert!((softmax[0] - 1.0 / 3.0).abs() < 1e-6 && (softmax[1] - 2.0 / 3.0).abs() < 1e-6);
        let sigmoid = activated(HeadKind::MultiLabel, &row);
        assert!((sigmoid[0] - 0.5).abs() < 1e-6 && (sigmoid[1] - 2.0 / 3.0).abs() < 1e-6);
        let extreme = activated(HeadKind::Score { sigmoid: true }, &[-1e30, 1e30]);
        assert_eq!(extreme, [0.0, 1.0]);
        let same = [
            HeadKind::Regression,
            HeadKind::Score { sigmoid: false },
            HeadKind::Embed { normalize: false },
        ];
        for kind in same {
            assert_eq!(activated(kind, &[3.0, -4.0]), [3.0, -4.0]);
        }
        let normalize = HeadKind::Embed { normalize: true };
        assert_eq!(activated(normalize.clone(), &[3.0, -4.0]), [0.6, -0.8]);
        assert_eq!(activated(normalize, &[0.0, 0.0]), [0.0, 0.0]);
    }
}
