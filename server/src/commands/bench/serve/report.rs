//! [`Report`]: what a server's clients saw, as a table for people and as JSON for programs.

use super::answer::{Answer, Fault};
use super::pace;
use super::request::Requests;
use crate::args::Goodput;
use crate::commands::bench::environment;
use crate::commands::bench::times::{self, Tail, Times};
use crate::config::{BenchServeConfig, Pace};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// The schema of [`Report::json`]; a change that breaks readers takes the next number.
pub(super) const SCHEMA: &str = "koma.bench.serve/1";

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

/// Lengths that were asked for, and limits.
#[derive(Debug, Clone, PartialEq)]
struct Goals {
    input: usize,
    output: Option<usize>,
    goodput: Option<Goodput>,
}

/// The result.
#[derive(Debug)]
pub(super) struct Report {
    facts: Value,
    title: String,
    goals: Goals,
    series: Vec<Series>,
}

/// What a request that was answered took, in seconds since it was due.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spans {
    first: f64,
    /// None with one token.
    per_token: Option<f64>,
    whole: f64,
}

impl Outcome {
    fn spans(&self) -> Option<Spans> {
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

    fn is_good(&self, limits: Goodput) -> bool {
        let within = |seconds: f64, limit: Option<f64>| limit.is_none_or(|ms| seconds * 1e3 <= ms);
        self.spans().is_some_and(|spans| {
            within(spans.first, limits.ttft)
                && within(spans.per_token.unwrap_or(0.0), limits.tpot)
                && within(spans.whole, limits.e2e)
        })
    }

    fn json(&self) -> Value {
        let seconds = |at: Duration| at.as_secs_f64();
        let mut json = json!({
            "due": seconds(self.due), "sent": seconds(self.sent), "ended": seconds(self.ended),
        });
        match &self.answer {
            Ok(answer) => {
                json["input_tokens"] = json!(answer.input);
                json["output_tokens"] = json!(answer.output);
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
fn tokens(answer: &Answer) -> usize {
    answer.output.unwrap_or(answer.texts.len())
}

/// Requests, rates and lengths of a series.
#[derive(Debug, Clone, PartialEq)]
struct Totals {
    answered: usize,
    /// From the start to the end of the last.
    seconds: f64,
    input_tokens: usize,
    output_tokens: usize,
    /// Requests that kept all limits.
    good: Option<usize>,
    /// Requests whose input the server counted as asked for, otherwise, and not at all.
    inputs: [usize; 3],
    /// The same of outputs.
    outputs: [usize; 3],
    /// Failures by kind, with the message of the first.
    faults: BTreeMap<String, (usize, String)>,
}

impl Totals {
    fn of(series: &Series, goals: &Goals) -> Self {
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

    fn rate(&self, count: usize) -> f64 {
        count as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    fn json(&self) -> Value {
        let lengths = |[exact, other, unknown]: [usize; 3]| json!({"exact": exact, "other": other, "not_counted": unknown});
        let faults: BTreeMap<_, _> = self.faults.iter().map(|(kind, (n, _))| (kind, n)).collect();
        json!({
            "answered": self.answered,
            "failed": faults.values().copied().sum::<usize>(),
            "errors": faults,
            "seconds": self.seconds,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
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

impl Series {
    fn times(&self, generates: bool) -> Vec<Times> {
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
    fn lateness(&self) -> Vec<f64> {
        let late = |outcome: &Outcome| outcome.sent.saturating_sub(outcome.due).as_secs_f64();
        self.outcomes.iter().map(late).collect()
    }

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
        let unforced = match forced {
            Some(false) => "; the server does not take ignore_eos: outputs may end early",
            _ => "",
        };
        Self {
            facts: json!({
                "schema": SCHEMA,
                "environment": environment::describe(),
                "server": {"url": config.url, "endpoint": endpoint, "model": requests.model()},
                "settings": {
                    "requests": config.requests,
                    "warmup": config.warmup,
                    "input_len": config.input_len,
                    "output_len": config.output_len,
                    "documents": config.documents,
                    "ignore_eos": forced,
                    "seed": config.seed,
                    "timeout_seconds": config.timeout.as_secs(),
                    "goodput_ms": config.goodput.map(|limits| json!({
                        "ttft": limits.ttft, "tpot": limits.tpot, "e2e": limits.e2e,
                    })),
                },
            }),
            title: format!(
                "{} {endpoint}, model {}: {documents}{}{} tokens, seed {}, {} requests before to warm up{unforced}\n",
                config.url,
                requests.model(),
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
    use super::super::answer::FaultKind;
    use super::*;

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
        assert_eq!(json["rate"], 2.0);
        assert_eq!(json["requests"].as_array().unwrap().len(), 7);
        assert_eq!(json["requests"][4]["error"]["kind"], "http 503");
        assert_eq!(
            json["results"]["time_to_first_token"]["samples"],
            json!([0.1, 0.2, 0.1, 0.01])
        );
        let table = series.table(&GOALS);
        for part in [
            "2 a second: 4 of 7 requests answered in 0.9 s",
            "good: 2, 2.22 requests/s",
            "failed: 2 x http 503 (the first: why)",
            "outputs: 2 of 5 tokens as the server counts, 1 of another length, 1 not counted",
        ] {
            assert!(table.contains(part), "`{part}` in\n{table}");
        }
    }
}
