//! What becomes of an encoder's raw output row: probabilities, a score, a normalised vector.

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
    /// A pooled vector; `normalize` to unit length as the checkpoint's modules say.
    Embed {
        /// Whether the vector is divided by its Euclidean length.
        normalize: bool,
    },
}

/// An encoder's head: its meaning, and the names of its outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The meaning.
    pub kind: HeadKind,
    /// Label names by index (`id2label`); empty for embeddings.
    pub labels: Vec<String>,
}

impl Head {
    /// Turns a raw row into what the task promises, in place. Softmax is shifted by the largest value, so any finite
    /// row is safe; a zero vector is not divided by its length.
    pub fn activate(&self, row: &mut [f32]) {
        match self.kind {
            HeadKind::SingleLabel => softmax(row),
            HeadKind::MultiLabel | HeadKind::Score { sigmoid: true } => {
                row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
            }
            HeadKind::Regression
            | HeadKind::Score { sigmoid: false }
            | HeadKind::Embed { normalize: false } => {}
            HeadKind::Embed { normalize: true } => {
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
                row.iter_mut().for_each(|x| *x /= length);
            }
        }
    }
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}
