//! [`Requests`]: bodies of requests, each a pure function of seed, series and index, with prompts of exact length.
//!
//! Where a prompt may be token ids, it is. Elsewhere it is words that most tokenizers have as one token each; how many are
//! needed is found out from what the server counts.

use super::client::Served;
use crate::args::Endpoint;
use crate::commands::bench::random::Random;
use crate::config::BenchServeConfig;
use anyhow::ensure;
use serde_json::{Value, json};
use std::ops::Range;

/// Frequent English words: one token each, with the space before them, in the vocabularies in use.
const WORDS: [&str; 64] = [
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by",
    "on", "not", "he", "his", "but", "at", "are", "this", "have", "from", "they", "which", "one",
    "you", "were", "all", "her", "she", "there", "would", "their", "we", "him", "been", "has",
    "when", "who", "will", "no", "more", "if", "out", "so", "up", "said", "what", "its", "about",
    "than", "into", "them", "can", "only", "other", "time", "new", "some", "could", "these", "two",
];
/// Words of a query; the rest of a pair is the document.
const QUERY: usize = 4;

/// Makes the bodies of one command.
#[derive(Debug)]
pub(super) struct Requests {
    endpoint: Endpoint,
    model: Served,
    input_len: usize,
    output_len: Option<usize>,
    documents: usize,
    ids: Range<u32>,
    seed: u64,
    /// Words of a text; of each document.
    words: usize,
    /// The last attempt: words, and tokens of a text.
    fitted: Option<(usize, f64)>,
    force_length: bool,
    /// Where ids might stand: because it was asked for, or the server takes none.
    writes_words: bool,
}

impl Requests {
    pub(super) fn new(config: &BenchServeConfig, model: Served) -> Self {
        Self {
            endpoint: config.endpoint,
            model,
            input_len: config.input_len,
            output_len: config.output_len,
            documents: config.documents,
            ids: config.token_ids.clone(),
            seed: config.seed,
            words: config.input_len,
            fitted: None,
            force_length: config.output_len.is_some(),
            writes_words: config.words,
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    pub(super) fn model(&self) -> &Served {
        &self.model
    }

    /// Whether outputs are made exactly as long as asked (`ignore_eos`, `min_tokens`).
    pub(super) fn forces_length(&self) -> bool {
        self.force_length
    }

    /// For servers that do not know these fields.
    pub(super) fn do_not_force_length(&mut self) {
        self.force_length = false;
    }

    /// Whether inputs are token ids, which need not be fitted.
    pub(super) fn writes_ids(&self) -> bool {
        !self.writes_words && !matches!(self.endpoint, Endpoint::Chat | Endpoint::Rerank)
    }

    /// Whether inputs are words though the endpoint might take ids.
    pub(super) fn writes_words(&self) -> bool {
        self.writes_words
    }

    /// For servers that take no token ids.
    pub(super) fn write_words(&mut self) {
        self.writes_words = true;
    }

    /// Tokens that the server should count in the input of each request.
    pub(super) fn input_tokens(&self) -> usize {
        self.input_len.saturating_mul(self.documents)
    }

    /// Changes how long texts are, after the input of a request had `found` tokens. False if nothing is to be changed.
    ///
    /// # Errors
    /// If no text is so short: the template, the query and special tokens take more.
    pub(super) fn fit(&mut self, found: usize) -> anyhow::Result<bool> {
        let each = found as f64 / self.documents as f64;
        let asked = self.input_len as f64;
        ensure!(
            self.words > 1 || each <= asked,
            "--input-len: {asked} tokens are too few; with what the server adds, one word makes {each}"
        );
        // The secant through the last two attempts: what the server adds to a text is not known.
        let per_word = match self.fitted.replace((self.words, each)) {
            Some((words, before)) => (each - before) / (self.words as f64 - words as f64),
            None => each / self.words as f64,
        };
        let more = ((asked - each) / per_word.max(0.5)).round();
        let words = (self.words as f64 + more).max(1.0) as usize;
        Ok(std::mem::replace(&mut self.words, words) != words)
    }

    /// The body of request `index` of `series`.
    pub(super) fn body(&self, series: u64, index: u64) -> String {
        let series = Random::new(self.seed, series).next();
        let mut random = Random::new(series, index);
        let mut body = json!({"model": self.model.name});
        match self.endpoint {
            Endpoint::Completions => body["prompt"] = self.input(&mut random),
            Endpoint::Embeddings | Endpoint::Classify => body["input"] = self.input(&mut random),
            Endpoint::Chat => {
                body["messages"] =
                    json!([{"role": "user", "content": text(&mut random, self.words)}]);
            }
            Endpoint::Rerank => {
                body["query"] = json!(text(&mut random, QUERY));
                let documents = (0..self.documents).map(|_| text(&mut random, self.words));
                body["documents"] = documents.collect();
            }
        }
        if let Some(output) = self.output_len {
            body["max_tokens"] = json!(output);
            body["temperature"] = json!(0);
            body["stream"] = json!(true);
            body["stream_options"] = json!({"include_usage": true});
            if self.force_length {
                body["ignore_eos"] = json!(true);
                body["min_tokens"] = json!(output);
            }
        }
        body.to_string()
    }

    fn input(&self, random: &mut Random) -> Value {
        if self.writes_words {
            return json!(text(random, self.words));
        }
        let range = u64::from(self.ids.end - self.ids.start);
        let ids = (0..self.input_len).map(|_| u64::from(self.ids.start) + random.below(range));
        ids.collect()
    }
}

fn text(random: &mut Random, words: usize) -> String {
    let word = |_| WORDS[random.below(WORDS.len() as u64) as usize];
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(documents: usize, input_len: usize) -> Requests {
        Requests {
            endpoint: Endpoint::Rerank,
            model: Served::unknown("m".to_owned()),
            input_len,
            output_len: None,
            documents,
            ids: 5..9,
            seed: 0,
            words: input_len,
            fitted: None,
            force_length: false,
            writes_words: false,
        }
    }

    #[test]
    fn texts_become_as_long_as_asked() {
        // A server that adds `extra` tokens to each text and has `per_word` for a word.
        let check = |extra: usize, per_word: usize, expected: Result<usize, &str>| {
            let mut requests = requests(3, 100);
            let fitted = (0..8).find_map(|_| {
                let found = 3 * (extra + per_word * requests.words);
                match requests.fit(found) {
                    Ok(true) => None,
                    ended => Some(ended.map(|_| requests.words)),
                }
            });
            let fitted = fitted.expect("it ends");
            match expected {
                Ok(words) => assert_eq!(fitted.unwrap(), words),
                Err(part) => assert!(fitted.unwrap_err().to_string().contains(part)),
            }
        };
        check(0, 1, Ok(100));
        check(17, 1, Ok(83));
        check(99, 1, Ok(1));
        check(10, 3, Ok(30));
        check(150, 1, Err("--input-len"));
    }

    #[test]
    fn bodies_depend_on_seed_series_and_index_only() {
        let (a, b) = (requests(2, 6), requests(2, 6));
        assert_eq!(a.body(1, 2), b.body(1, 2));
        assert_ne!(a.body(1, 2), a.body(1, 3));
        assert_ne!(a.body(1, 2), a.body(2, 2));
        let body: Value = serde_json::from_str(&a.body(1, 2)).unwrap();
        assert_eq!(body["documents"].as_array().map(Vec::len), Some(2));
        assert_eq!(
            body["query"].as_str().map(|q| q.split(' ').count()),
            Some(4)
        );
        assert_eq!(body.get("max_tokens"), None);
        let ids = Requests {
            endpoint: Endpoint::Completions,
            output_len: Some(7),
            force_length: true,
            ..requests(1, 50)
        };
        let body: Value = serde_json::from_str(&ids.body(0, 0)).unwrap();
        let prompt: Vec<u64> = serde_json::from_value(body["prompt"].clone()).unwrap();
        assert_eq!(prompt.len(), 50);
        assert!(prompt.iter().all(|id| (5..9).contains(id)));
        assert_eq!(
            (&body["max_tokens"], &body["min_tokens"]),
            (&json!(7), &json!(7))
        );
        assert_eq!(body["ignore_eos"], true);
    }
}
