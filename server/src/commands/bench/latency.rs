//! `koma bench latency`: how long the requests of a batch take, from the moment all of them are there.

use super::load::{Arrivals, Load};
use super::times::{self, Times};
use super::{environment, report};
use crate::config::BenchConfig;
use koma_engine::ModelInfo;
use serde_json::{Value, json};

/// The schema of [`Report::json`]; a change that breaks readers takes the next number.
const SCHEMA: &str = "koma.bench.latency/1";

/// The result.
#[derive(Debug)]
pub(super) struct Report {
    facts: Value,
    title: String,
    times: Vec<Times>,
}

impl Report {
    pub(super) fn new(
        config: &BenchConfig,
        info: &ModelInfo,
        load: &Load,
        runs: &[Arrivals],
    ) -> Self {
        Self {
            facts: json!({
                "schema": SCHEMA,
                "environment": environment::of_model(&config.process, info),
                "model": report::model(config, info),
                "settings": report::settings(config, info, load),
            }),
            title: report::title(config, info, load),
            times: measured(load.output_len.is_some(), runs),
        }
    }

    pub(super) fn json(&self) -> Value {
        let mut json = self.facts.clone();
        json["results"] = times::json(&self.times);
        json
    }

    pub(super) fn table(&self) -> String {
        format!("{}\n\n{}", self.title, times::table(&self.times))
    }
}

/// Times of all requests of all runs. Times per token, and those of single tokens, need two of them.
fn measured(generates: bool, runs: &[Arrivals]) -> Vec<Times> {
    let requests = || {
        runs.iter()
            .flatten()
            .filter(|arrivals| !arrivals.is_empty())
    };
    let last = |arrivals: &Vec<f64>| arrivals.last().copied().unwrap_or(0.0);
    let batch = |run: &Arrivals| run.iter().map(last).fold(0.0, f64::max);
    let mut all = Vec::new();
    if generates {
        let first = requests().map(|arrivals| arrivals[0]);
        all.push((
            "time_to_first_token",
            "time to first token",
            first.collect(),
        ));
        all.push((
            "time_per_output_token",
            "time per output token",
            requests().filter_map(|a| per_token(a)).collect(),
        ));
        all.push((
            "inter_token_latency",
            "inter-token latency",
            requests()
                .flat_map(|a| a.windows(2).map(|pair| pair[1] - pair[0]))
                .collect(),
        ));
    }
    all.push(("end_to_end", "end to end", requests().map(last).collect()));
    all.push(("batch", "whole batch", runs.iter().map(batch).collect()));
    let times = all.into_iter().map(|(key, title, seconds)| Times {
        key,
        title,
        seconds,
    });
    times.collect()
}

/// Mean time of the tokens after the first.
fn per_token(arrivals: &[f64]) -> Option<f64> {
    let (first, last) = (arrivals.first()?, arrivals.last()?);
    let later = arrivals.len().checked_sub(1).filter(|n| *n > 0)?;
    Some((last - first) / later as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(generates: bool, runs: &[Arrivals], expected: &[(&str, &[f64])]) {
        let times = measured(generates, runs);
        let found: Vec<(&str, &[f64])> = times
            .iter()
            .map(|times| (times.key, times.seconds.as_slice()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_generation_has_all_times_and_a_batch_the_time_of_its_last() {
        let runs = [
            vec![vec![0.5, 0.75, 1.5], vec![1.0, 1.25, 2.0]],
            vec![vec![1.0], vec![0.5]],
        ];
        check(
            true,
            &runs,
            &[
                ("time_to_first_token", &[0.5, 1.0, 1.0, 0.5]),
                ("time_per_output_token", &[0.5, 0.5]),
                ("inter_token_latency", &[0.25, 0.75, 0.25, 0.75]),
                ("end_to_end", &[1.5, 2.0, 1.0, 0.5]),
                ("batch", &[2.0, 1.0]),
            ],
        );
    }

    #[test]
    fn an_encoder_has_whole_times_only() {
        let runs = [vec![vec![0.5], vec![0.25]]];
        check(
            false,
            &runs,
            &[("end_to_end", &[0.5, 0.25]), ("batch", &[0.5])],
        );
    }
}
