//! [`Outcome`]: one request and its times; [`Series`]: all requests of one pace.

use super::answer::{Answer, Fault};
use crate::args::Goodput;
use crate::commands::bench::times::Times;
use crate::config::Pace;
use serde_json::{Value, json};
use std::time::Duration;

/// One request. Times count from the start of its series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// When it should have been sent: its times count from here.
    pub(super) due: Duration,
    pub(super) sent: Duration,
    pub(super) ended: Duration,
    pub(super) answer: Result<Answer, Fault>,
}

/// All requests of one pace, in the order they were due.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) pace: Pace,
    pub(super) outcomes: Vec<Outcome>,
}

/// What a request that was answered took, in seconds since it was due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spans {
    pub(super) first: f64,
    /// None with one token.
    pub(super) per_token: Option<f64>,
    pub(super) whole: f64,
}

impl Outcome {
    pub(super) fn spans(&self) -> Option<Spans> {
        let answer = self.answer.as_ref().ok()?;
        let waited = self.sent.saturating_sub(self.due);
        let first = answer.texts.first().copied().unwrap_or(answer.end);
        let last = answer.texts.last().copied().unwrap_or(answer.end);
        let later = tokens(answer).saturating_sub(1);
        Some(Spans {
            first: (waited + first).as_secs_f64(),
            per_token: (later > 0).then(|| last.saturating_sub(first).as_secs_f64() / later as f64),
            whole: (waited + answer.end).as_secs_f64(),
        })
    }

    pub(super) fn is_good(&self, limits: Goodput) -> bool {
        let within = |seconds: f64, limit: Option<f64>| limit.is_none_or(|ms| seconds * 1e3 <= ms);
        self.spans().is_some_and(|spans| {
            within(spans.first, limits.ttft)
                && within(spans.per_token.unwrap_or(0.0), limits.tpot)
                && within(spans.whole, limits.e2e)
        })
    }

    pub(super) fn json(&self) -> Value {
        let seconds = |at: Duration| at.as_secs_f64();
        let mut json = json!({
            "due": seconds(self.due), "sent": seconds(self.sent), "ended": seconds(self.ended),
        });
        match &self.answer {
            Ok(answer) => {
                json["input_tokens"] = json!(answer.input);
                json["output_tokens"] = json!(answer.output);
                json["cached_tokens"] = json!(answer.cached);
                json["texts"] = answer.texts.iter().map(|at| seconds(*at)).collect();
            }
            Err(fault) => {
                json["error"] = json!({"kind": fault.kind.to_string(), "message": fault.message});
            }
        }
        json
    }
}

/// Output tokens: as the server counts, else one for each event with text.
pub(super) fn tokens(answer: &Answer) -> usize {
    answer.output.unwrap_or(answer.texts.len())
}

impl Series {
    pub(super) fn times(&self, generates: bool) -> Vec<Times> {
        let spans: Vec<Spans> = self.outcomes.iter().filter_map(Outcome::spans).collect();
        let answers = self.outcomes.iter().filter_map(|o| o.answer.as_ref().ok());
        let gaps = answers.flat_map(|answer| answer.texts.windows(2));
        let mut all = Vec::new();
        if generates {
            let first = spans.iter().map(|spans| spans.first).collect();
            all.push(("time_to_first_token", "time to first token", first));
            let each = spans.iter().filter_map(|spans| spans.per_token).collect();
            all.push(("time_per_output_token", "time per output token", each));
            let gaps = gaps
                .map(|pair| pair[1].saturating_sub(pair[0]).as_secs_f64())
                .collect();
            all.push(("inter_token_latency", "inter-token latency", gaps));
        }
        let whole = spans.iter().map(|spans| spans.whole).collect();
        all.push(("end_to_end", "end to end", whole));
        let times = all.into_iter().map(|(key, title, seconds)| Times {
            key,
            title,
            seconds,
        });
        times.collect()
    }

    /// How late requests were sent: the client's own fault.
    pub(super) fn lateness(&self) -> Vec<f64> {
        let late = |outcome: &Outcome| outcome.sent.saturating_sub(outcome.due).as_secs_f64();
        self.outcomes.iter().map(late).collect()
    }
}
