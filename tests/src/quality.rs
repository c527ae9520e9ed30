//! How far the computed probabilities of a text are from exact ones: perplexity and mean Kullback-Leibler divergence.
//!
//! The protocol is that of llama.cpp's `llama-perplexity`, so that its figures on the same file and text compare: the text is
//! cut into chunks of [`CHUNK`] tokens, each computed alone, and every token of the second half of a chunk but the last is asked
//! what comes next.

use crate::forward::Sequence;
use koma_kernels::KvDtype;
use koma_models::Decoder;

/// Tokens of a chunk.
pub const CHUNK: usize = 512;

/// Sums over the tokens that were asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quality {
    /// -log of the probability of the token that came, of each, exact.
    pub exact: Vec<f64>,
    /// The same as computed.
    pub computed: Vec<f64>,
    /// Divergence of the computed distribution from the exact one, of each, in nats.
    pub divergence: Vec<f64>,
    /// Tokens whose likeliest next token is the same.
    pub same_top: usize,
}

/// `e` to the mean.
pub fn perplexity(losses: &[f64]) -> f64 {
    mean(losses).exp()
}

/// The mean of some values; NaN of none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard error of that mean.
pub fn standard_error(values: &[f64]) -> f64 {
    let middle = mean(values);
    let squares: f64 = values.iter().map(|v| (v - middle).powi(2)).sum();
    let n = values.len() as f64;
    (squares / (n - 1.0) / n).sqrt()
}

impl Quality {
    /// Takes one token in: both rows of logits, `[vocab]`, and the token that came next.
    ///
    /// # Panics
    /// If `next` is not in the vocabulary.
    pub fn add(&mut self, exact: &[f32], computed: &[f32], next: u32) {
        let (p, q) = (log_softmax(exact), log_softmax(computed));
        self.exact.push(-p[next as usize]);
        self.computed.push(-q[next as usize]);
        let terms = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q));
        self.divergence.push(terms.sum());
        self.same_top += usize::from(top(&p) == top(&q));
    }

    /// Takes a whole text in, computed by `model` with its cache in `kv` and exactly by `exact` in f32.
    ///
    /// # Panics
    /// If a model fails.
    pub fn of(
        exact: &dyn Decoder,
        (model, kv): (&dyn Decoder, KvDtype),
        text: &[u32],
        chunks: usize,
    ) -> Self {
        let mut found = Self::default();
        for chunk in text.chunks_exact(CHUNK).take(chunks) {
            let mut truth = Sequence::new(exact, KvDtype::F32, CHUNK);
            let mut tried = Sequence::new(model, kv, CHUNK);
            let (truth, tried) = (truth.feed(chunk, true), tried.feed(chunk, true));
            for at in CHUNK / 2..CHUNK - 1 {
                found.add(truth.row(at), tried.row(at), chunk[at + 1]);
            }
        }
        found
    }
}

/// Logarithms of the softmax, in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most = f64::from(most);
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - most).exp()).sum();
    let norm = most + sum.ln();
    logits.iter().map(|l| f64::from(*l) - norm).collect()
}

fn top(values: &[f64]) -> Option<usize> {
    (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_diverge_by_nothing_and_others_by_the_formula() {
        // Probabilities 1/4, 3/4 and 1/2, 1/2.
        let (exact, computed) = ([0.0, 3f32.ln()], [5.0, 5.0]);
        let mut found = Quality::default();
        found.add(&exact, &exact, 1);
        found.add(&exact, &computed, 0);
        let expected = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!(found.divergence[0].abs() < 1e-12);
        assert!((found.divergence[1] - expected).abs() < 1e-7);
        let losses = [-(0.75f64.ln()), -(0.25f64.ln())];
        for (a, b) in found.exact.iter().zip(losses) {
            assert!((a - b).abs() < 1e-7);
        }
        assert!((perplexity(&found.computed[1..]) - 2.0).abs() < 1e-12);
        assert_eq!(found.same_top, 2); // of equals the last, which is also the likeliest here
    }

    #[test]
    fn errors_of_means_shrink_with_their_number() {
        assert_eq!(mean(&[1.0, 2.0, 3.0, 4.0]), 2.5);
        let error = standard_error(&[1.0, 2.0, 3.0, 4.0]);
        assert!((error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
