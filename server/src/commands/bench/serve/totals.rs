//! [`Totals`]: counts and rates of a series.

use super::answer::Answer;
use super::outcome::{Series, tokens};
use crate::args::Goodput;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Lengths that were asked for, and limits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Goals {
    pub(super) input: usize,
    pub(super) output: Option<usize>,
    pub(super) goodput: Option<Goodput>,
}

/// Requests, rates and lengths of a series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Totals {
    pub(super) answered: usize,
    /// From the start to the end of the last.
    pub(super) seconds: f64,
    pub(super) input_tokens: usize,
    pub(super) output_tokens: usize,
    /// Input tokens that the server found in its cache; none if it does not say.
    pub(super) cached_tokens: Option<usize>,
    /// Requests that kept all limits.
    pub(super) good: Option<usize>,
    /// Requests whose input the server counted as asked for, otherwise, and not at all.
    pub(super) inputs: [usize; 3],
    /// The same of outputs.
    pub(super) outputs: [usize; 3],
    /// Failures by kind, with the message of the first.
    pub(super) faults: BTreeMap<String, (usize, String)>,
}

impl Totals {
    pub(super) fn of(series: &Series, goals: &Goals) -> Self {
        let outcomes = || series.outcomes.iter();
        let answers: Vec<&Answer> = outcomes().filter_map(|o| o.answer.as_ref().ok()).collect();
        let compare = |counts: &dyn Fn(&Answer) -> Option<usize>, asked: usize| {
            let mut found = [0; 3];
            for answer in &answers {
                found[counts(answer).map_or(2, |n| usize::from(n != asked))] += 1;
            }
            found
        };
        let mut faults: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for fault in outcomes().filter_map(|o| o.answer.as_ref().err()) {
            let entry = faults.entry(fault.kind.to_string());
            entry.or_insert_with(|| (0, fault.message.clone())).0 += 1;
        }
        let ends = outcomes().map(|outcome| outcome.ended.as_secs_f64());
        Self {
            answered: answers.len(),
            seconds: ends.fold(0.0, f64::max),
            input_tokens: answers.iter().map(|a| a.input.unwrap_or(goals.input)).sum(),
            output_tokens: match goals.output {
                Some(_) => answers.iter().map(|answer| tokens(answer)).sum(),
                None => 0,
            },
            cached_tokens: answers
                .iter()
                .filter_map(|answer| answer.cached)
                .fold(None, |sum: Option<usize>, cached| {
                    Some(sum.unwrap_or(0) + cached)
                }),
            good: goals
                .goodput
                .map(|limits| outcomes().filter(|o| o.is_good(limits)).count()),
            inputs: compare(&|answer| answer.input, goals.input),
            outputs: goals
                .output
                .map_or([0; 3], |asked| compare(&|answer| answer.output, asked)),
            faults,
        }
    }

    pub(super) fn rate(&self, count: usize) -> f64 {
        count as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    pub(super) fn json(&self) -> Value {
        let lengths = |[exact, other, unknown]: [usize; 3]| json!({"exact": exact, "other": other, "not_counted": unknown});
        let faults: BTreeMap<_, _> = self.faults.iter().map(|(kind, (n, _))| (kind, n)).collect();
        json!({
            "answered": self.answered,
            "failed": faults.values().copied().sum::<usize>(),
            "errors": faults,
            "seconds": self.seconds,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_input_tokens": self.cached_tokens,
            "requests_per_second": self.rate(self.answered),
            "input_tokens_per_second": self.rate(self.input_tokens),
            "output_tokens_per_second": self.rate(self.output_tokens),
            "total_tokens_per_second": self.rate(self.input_tokens + self.output_tokens),
            "good_requests": self.good,
            "good_requests_per_second": self.good.map(|good| self.rate(good)),
            "input_lengths": lengths(self.inputs),
            "output_lengths": lengths(self.outputs),
        })
    }
}
