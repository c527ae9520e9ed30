//! [`Report`]: what a server's clients saw, as a table for people and as JSON for programs.

use super::outcome::{Outcome, Series};
use super::pace;
use super::request::Requests;
use super::totals::{Goals, Totals};
use crate::commands::bench::environment;
use crate::commands::bench::times::{self, Tail};
use crate::config::{BenchServeConfig, Pace};
use anyhow::{bail, ensure};
use serde_json::{Value, json};
use std::fmt::Write;

/// The schema of [`Report::json`]; a change that breaks readers takes the next number.
pub(super) const SCHEMA: &str = "koma.bench.serve/1";

/// The result.
#[derive(Debug)]
pub(super) struct Report {
    facts: Value,
    title: String,
    goals: Goals,
    series: Vec<Series>,
}

impl Series {
    fn json(&self, goals: &Goals) -> Value {
        let mut json = Totals::of(self, goals).json();
        let (key, value) = match self.pace {
            Pace::Concurrency(n) => ("concurrency", json!(n)),
            Pace::Rate(rate) => ("rate", json!(rate)),
        };
        json[key] = value;
        json["results"] = times::json(&self.times(goals.output.is_some()));
        json["requests"] = self.outcomes.iter().map(Outcome::json).collect();
        json
    }

    fn table(&self, goals: &Goals) -> String {
        let totals = Totals::of(self, goals);
        let rate = |count| number(totals.rate(count));
        let mut text = format!(
            "{}: {} of {} requests answered in {:.1} s\n  {} requests/s",
            pace::name(self.pace),
            totals.answered,
            self.outcomes.len(),
            totals.seconds,
            rate(totals.answered)
        );
        // Writing to a String does not fail.
        let _ = write!(text, ", {} input tokens/s", rate(totals.input_tokens));
        if goals.output.is_some() {
            let _ = write!(text, ", {} output tokens/s", rate(totals.output_tokens));
        }
        if let Some(good) = totals.good {
            let _ = write!(text, "; good: {good}, {} requests/s", rate(good));
        }
        text.push('\n');
        text += &times::table(&self.times(goals.output.is_some()));
        if let (Pace::Rate(_), Some(late)) = (self.pace, Tail::of(&self.lateness())) {
            let [p99, max] = [late.p99, late.max].map(|s| s * 1e3);
            let _ = writeln!(
                text,
                "  sent late (counted in the times): p99 {p99:.2} ms, most {max:.2} ms"
            );
        }
        text += &lengths("inputs", totals.inputs, goals.input);
        if let Some(cached) = totals.cached_tokens.filter(|cached| *cached > 0) {
            let _ = writeln!(
                text,
                "  {cached} of {} input tokens were in the server's cache and not computed; prompts of another --seed are not",
                totals.input_tokens
            );
        }
        text += &lengths("outputs", totals.outputs, goals.output.unwrap_or(0));
        for (kind, (count, message)) in &totals.faults {
            let _ = writeln!(text, "  failed: {count} x {kind} (the first: {message})");
        }
        text
    }
}

/// Whether lengths were as asked for.
fn lengths(what: &str, [exact, other, unknown]: [usize; 3], asked: usize) -> String {
    match (exact, other, unknown) {
        (0, 0, 0) => String::new(),
        (_, 0, 0) => format!("  {what}: all of {asked} tokens, as the server counts\n"),
        _ => format!(
            "  {what}: {exact} of {asked} tokens as the server counts, {other} of another length, {unknown} not counted\n"
        ),
    }
}

impl Report {
    pub(super) fn new(config: &BenchServeConfig, requests: &Requests, series: Vec<Series>) -> Self {
        let endpoint = format!("{:?}", config.endpoint).to_lowercase();
        let output = config.output_len.map(|output| format!(" + {output}"));
        let documents = match config.documents {
            1 => String::new(),
            n => format!("{n} x "),
        };
        let forced = config.output_len.map(|_| requests.forces_length());
        let mut remarks = String::new();
        if forced == Some(false) {
            remarks += "; the server does not take ignore_eos: outputs may end early";
        }
        if requests.writes_words() && !config.words {
            remarks += "; the server does not take token ids: prompts are words";
        }
        let model = requests.model();
        let mut environment = environment::describe();
        environment["device"] = json!(model.device);
        Self {
            facts: json!({
                "schema": SCHEMA,
                "environment": environment,
                "server": {
                    "url": config.url,
                    "endpoint": endpoint,
                    "model": model.name,
                    "weights_hash": model.weights_hash,
                },
                "settings": {
                    "requests": config.requests,
                    "warmup": config.warmup,
                    "input_len": config.input_len,
                    "words": requests.writes_words(),
                    "output_len": config.output_len,
                    "documents": config.documents,
                    "ignore_eos": forced,
                    "token_ids": requests.writes_ids(),
                    "seed": config.seed,
                    "timeout_seconds": config.timeout.as_secs(),
                    "new_connections": config.new_connections,
                    "goodput_ms": config.goodput.map(|limits| json!({
                        "ttft": limits.ttft, "tpot": limits.tpot, "e2e": limits.e2e,
                    })),
                },
            }),
            title: format!(
                "{} {endpoint}, model {}: {documents}{}{} tokens, seed {}, {} requests before to warm up{remarks}\n",
                config.url,
                model.name,
                config.input_len,
                output.unwrap_or_default(),
                config.seed,
                config.warmup
            ),
            goals: Goals {
                input: requests.input_tokens(),
                output: config.output_len,
                goodput: config.goodput,
            },
            series,
        }
    }

    /// Whether this is what was asked for.
    ///
    /// # Errors
    /// If there are fewer than `asked` series, or one has no answer.
    pub(super) fn check(&self, asked: usize) -> anyhow::Result<()> {
        let failed = |series: &&Series| series.outcomes.iter().all(|one| one.answer.is_err());
        if let Some(series) = self.series.iter().find(failed) {
            bail!("{}: no request was answered", pace::name(series.pace));
        }
        let there = self.series.len();
        ensure!(
            there == asked,
            "stopped: {there} of {asked} measurements are whole"
        );
        Ok(())
    }

    pub(super) fn json(&self) -> Value {
        let mut json = self.facts.clone();
        let one = |series: &Series| series.json(&self.goals);
        json["series"] = self.series.iter().map(one).collect();
        json
    }

    pub(super) fn table(&self) -> String {
        let one = |series: &Series| format!("\n{}", series.table(&self.goals));
        let tables: String = self.series.iter().map(one).collect();
        format!("{}{tables}", self.title)
    }
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Answer, Fault, FaultKind};
    use super::super::outcome::Spans;
    use super::*;
    use crate::args::Goodput;
    use std::time::Duration;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn outcome(due: u64, sent: u64, texts: &[u64], end: u64) -> Outcome {
        Outcome {
            due: ms(due),
            sent: ms(sent),
            ended: ms(sent + end),
            answer: Ok(Answer {
                texts: texts.iter().map(|at| ms(*at)).collect(),
                end: ms(end),
                input: Some(10),
                output: Some(5),
                cached: None,
            }),
        }
    }

    fn failed(kind: FaultKind) -> Outcome {
        Outcome {
            answer: Err(Fault::new(kind, "why")),
            ..outcome(0, 0, &[], 900)
        }
    }

    const GOALS: Goals = Goals {
        input: 10,
        output: Some(5),
        goodput: Some(Goodput {
            ttft: Some(150.0),
            tpot: Some(50.0),
            e2e: None,
        }),
    };

    #[test]
    fn times_count_from_when_a_request_was_due_and_tokens_as_the_server_counts() {
        // Sent 40 ms late; five tokens in three events.
        let spans = outcome(100, 140, &[60, 160, 260], 270).spans().unwrap();
        let expected = Spans {
            first: 0.1,
            per_token: Some(0.05),
            whole: 0.31,
        };
        assert_eq!(spans, expected);
        let mut alone = outcome(0, 0, &[60], 60);
        alone.answer.as_mut().unwrap().output = Some(1);
        assert_eq!(alone.spans().unwrap().per_token, None);
    }

    #[test]
    fn failures_are_counted_by_kind_and_are_never_good() {
        let mut short = outcome(0, 0, &[100, 200], 200);
        short.answer.as_mut().unwrap().output = Some(2);
        let mut unknown = outcome(0, 0, &[10, 20, 30], 30);
        unknown.answer.as_mut().unwrap().input = None;
        unknown.answer.as_mut().unwrap().output = None;
        let series = Series {
            pace: Pace::Rate(2.0),
            outcomes: vec![
                outcome(0, 0, &[100, 200, 300], 300),
                outcome(0, 100, &[100, 200, 300], 300),
                short,
                unknown,
                failed(FaultKind::Status(503)),
                failed(FaultKind::Disconnected),
                failed(FaultKind::Status(503)),
            ],
        };
        let totals = Totals::of(&series, &GOALS);
        assert_eq!(totals.answered, 4);
        assert_eq!(totals.seconds, 0.9);
        assert_eq!((totals.input_tokens, totals.output_tokens), (40, 15));
        // The second was late, the third slow for each token.
        assert_eq!(totals.good, Some(2));
        assert_eq!(totals.inputs, [3, 0, 1]);
        assert_eq!(totals.outputs, [2, 1, 1]);
        let faults: Vec<(&str, usize)> = totals
            .faults
            .iter()
            .map(|(kind, (n, _))| (kind.as_str(), *n))
            .collect();
        assert_eq!(faults, [("disconnected", 1), ("http 503", 2)]);
        let json = series.json(&GOALS);
        assert_eq!(json["failed"], 3);
        assert_eq!(json["cached_input_tokens"], Value::Null);
        assert_eq!(json["rate"], 2.0);
        assert_eq!(json["requests"].as_array().unwrap().len(), 7);
        assert_eq!(json["requests"][4]["error"]["kind"], "http 503");
        assert_eq!(
            json["results"]["time_to_first_token"]["samples"],
            json!([0.1, 0.2, 0.1, 0.01])
        );
        let table = series.table(&GOALS);
        assert!(!table.contains("cache"), "{table}");
        for part in [
            "2 a second: 4 of 7 requests answered in 0.9 s",
            "good: 2, 2.22 requests/s",
            "failed: 2 x http 503 (the first: why)",
            "outputs: 2 of 5 tokens as the server counts, 1 of another length, 1 not counted",
        ] {
            assert!(table.contains(part), "`{part}` in\n{table}");
        }
    }
    #[test]
    fn what_the_server_had_cached_is_said_with_a_way_out() {
        let mut outcomes = [0, 4, 6].map(|cached| {
            let mut outcome = outcome(0, 0, &[100], 100);
            outcome.answer.as_mut().unwrap().cached = Some(cached);
            outcome
        });
        let mut series = Series {
            pace: Pace::Concurrency(1),
            outcomes: outcomes.to_vec(),
        };
        assert_eq!(series.json(&GOALS)["cached_input_tokens"], 10);
        let table = series.table(&GOALS);
        let expected = "  10 of 30 input tokens were in the server's cache and not computed; prompts of another --seed are not\n";
        assert!(table.contains(expected), "{table}");
        for outcome in &mut outcomes {
            outcome.answer.as_mut().unwrap().cached = Some(0);
        }
        series.outcomes = outcomes.to_vec();
        assert_eq!(series.json(&GOALS)["cached_input_tokens"], 0);
        assert!(!series.table(&GOALS).contains("cache"));
    }

    #[test]
    fn a_series_without_an_answer_has_no_table_of_times() {
        let series = Series {
            pace: Pace::Concurrency(1),
            outcomes: vec![failed(FaultKind::Status(503))],
        };
        let table = series.table(&GOALS);
        assert!(
            table.contains("0 of 1 requests answered") && !table.contains("p99"),
            "{table}"
        );
    }
}
