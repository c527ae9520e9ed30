//! [`Report`]: a measurement as a table for people and as JSON for programs.

use super::environment;
use super::load::{Load, Run};
use super::summary::Summary;
use crate::config::BenchConfig;
use koma_engine::ModelInfo;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The schema of [`Report::json`]; a change that breaks readers takes the next number.
pub(super) const SCHEMA: &str = "koma.bench.throughput/1";

/// One quantity with all its samples: one per run, or one per request for times of requests.
#[derive(Debug, Clone, PartialEq)]
struct Quantity {
    /// In the JSON.
    key: &'static str,
    /// In the table.
    title: &'static str,
    /// From the samples' unit to the table's.
    scale: f64,
    samples: Vec<f64>,
}

/// The result.
#[derive(Debug)]
pub(super) struct Report {
    environment: Value,
    model: Value,
    settings: Value,
    title: String,
    quantities: Vec<Quantity>,
    runs: Vec<Run>,
}

impl Report {
    pub(super) fn new(config: &BenchConfig, info: &ModelInfo, load: &Load, runs: Vec<Run>) -> Self {
        Self {
            environment: environment::of_model(&config.process, info),
            model: model(config, info),
            settings: settings(config, info, load),
            title: title(config, info, load),
            quantities: quantities(load, &runs),
            runs,
        }
    }

    pub(super) fn json(&self) -> Value {
        let results: Map<String, Value> = self
            .quantities
            .iter()
            .filter_map(|quantity| {
                let s = Summary::of(&quantity.samples)?;
                let summary = json!({
                    "median": s.median, "min": s.min, "p25": s.p25, "p75": s.p75, "max": s.max,
                    "samples": quantity.samples,
                });
                Some((quantity.key.to_owned(), summary))
            })
            .collect();
        let run = |run: &Run| {
            json!({
                "batches": run.batches,
                "seconds": run.seconds,
                "prefill_seconds": run.prefill_seconds,
                "decode_tokens": run.decode_tokens,
                "first_seconds": run.first,
            })
        };
        json!({
            "schema": SCHEMA,
            "environment": self.environment,
            "model": self.model,
            "settings": self.settings,
            "results": results,
            "runs": self.runs.iter().map(run).collect::<Vec<_>>(),
        })
    }

    pub(super) fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.title);
        let head = ["median", "min", "p25", "p75", "max"];
        let row = |title: &str, cells: [String; 5]| {
            let cells = cells.map(|cell| format!("{cell:>12}")).concat();
            format!("{title:<24}{cells}\n")
        };
        text += &row("", head.map(str::to_owned));
        for quantity in &self.quantities {
            if let Some(s) = Summary::of(&quantity.samples) {
                let numbers = [s.median, s.min, s.p25, s.p75, s.max];
                text += &row(quantity.title, numbers.map(|n| number(n * quantity.scale)));
            }
        }
        text
    }
}

/// What was measured, for the JSON.
pub(super) fn model(config: &BenchConfig, info: &ModelInfo) -> Value {
    json!({
        "name": info.identity.name,
        "source": config.model.root,
        "architecture": info.identity.architecture,
        "format": info.identity.format,
        "parameters": info.identity.parameters,
        "weights_hash": info.identity.weights_hash,
        "weight_bytes": info.weight_bytes,
    })
}

/// How it was measured, for the JSON.
pub(super) fn settings(config: &BenchConfig, info: &ModelInfo, load: &Load) -> Value {
    json!({
        "batch": load.batch,
        "input_len": load.input_len,
        "shortest_input": load.shortest_input,
        "output_len": load.output_len,
        "runs": config.runs,
        "warmup": config.warmup,
        "seed": config.seed,
        "dtype": format!("{:?}", config.model.dtype).to_lowercase(),
        "kv_dtype": info.config.kv_dtype.name(),
        "max_running": info.config.max_running,
        "max_batch_tokens": info.config.max_batch_tokens,
        "block_size": info.config.block_size,
        "cache_bytes": info.config.cache_bytes,
        "prefix_cache": info.config.prefix_cache,
    })
}

/// Both, for people.
pub(super) fn title(config: &BenchConfig, info: &ModelInfo, load: &Load) -> String {
    let identity = &info.identity;
    let mut text = format!(
        "{}: {} {}, {:.1} M parameters\n",
        identity.name,
        identity.architecture,
        identity.format,
        identity.parameters as f64 / 1e6
    );
    let output = load
        .output_len
        .map(|output| format!(" + {output}"))
        .unwrap_or_default();
    let input = if load.shortest_input == load.input_len {
        load.input_len.to_string()
    } else {
        format!("{} to {}", load.shortest_input, load.input_len)
    };
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "{} x {input}{output} tokens, {} runs after {} to warm up, {} threads, {}{}",
        load.batch,
        config.runs,
        config.warmup,
        config.process.threads,
        config.process.isa.name(),
        if cfg!(debug_assertions) {
            " (not a release build)"
        } else {
            ""
        }
    );
    text
}

fn quantities(load: &Load, runs: &[Run]) -> Vec<Quantity> {
    let by_run = |key, title, value: &dyn Fn(&Run) -> Option<f64>| Quantity {
        key,
        title,
        scale: 1.0,
        samples: runs.iter().filter_map(value).collect(),
    };
    let requests = |run: &Run| (run.batches * load.batch) as f64;
    let inputs = |run: &Run| (run.batches * load.input_tokens()) as f64;
    let outputs = |run: &Run| requests(run) * load.output_len.unwrap_or(0) as f64;
    let times = runs.iter().flat_map(|run| run.first.iter().copied());
    let mut all = Vec::new();
    if load.output_len.is_some() {
        all.push(by_run(
            "prefill_tokens_per_second",
            "prefill, tokens/s",
            &|run| Some(inputs(run) / run.prefill_seconds),
        ));
        all.push(by_run(
            "decode_tokens_per_second",
            "decode, tokens/s",
            &|run| {
                let rate = run.decode_tokens as f64 / run.decode_seconds();
                (run.decode_tokens > 0).then_some(rate)
            },
        ));
    }
    all.push(by_run(
        "total_tokens_per_second",
        "total, tokens/s",
        &|run| Some((inputs(run) + outputs(run)) / run.seconds),
    ));
    all.push(by_run("requests_per_second", "requests/s", &|run| {
        Some(requests(run) / run.seconds)
    }));
    let (key, title) = match load.output_len {
        Some(_) => ("time_to_first_token_seconds", "time to first token, ms"),
        None => ("latency_seconds", "latency, ms"),
    };
    all.push(Quantity {
        key,
        title,
        scale: 1e3,
        samples: times.collect(),
    });
    all
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
    use super::*;

    fn load(output_len: Option<usize>) -> Load {
        Load {
            batch: 2,
            input_len: 100,
            shortest_input: 100,
            output_len,
            vocab: 50,
            seed: 0,
        }
    }

    fn run(seconds: f64, first: [f64; 2], decode_tokens: usize) -> Run {
        Run {
            batches: 1,
            seconds,
            prefill_seconds: first[1],
            first: first.to_vec(),
            decode_tokens,
        }
    }

    fn check(load: &Load, runs: &[Run], expected: &[(&str, &[f64])]) {
        let quantities = quantities(load, runs);
        let found: Vec<(&str, &[f64])> = quantities
            .iter()
            .map(|quantity| (quantity.key, quantity.samples.as_slice()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_generation_has_rates_of_both_phases_by_run_and_times_by_request() {
        let runs = [run(1.5, [0.25, 0.5], 8), run(4.0, [1.0, 2.0], 10)];
        check(
            &load(Some(50)),
            &runs,
            &[
                ("prefill_tokens_per_second", &[400.0, 100.0]),
                ("decode_tokens_per_second", &[8.0, 5.0]),
                ("total_tokens_per_second", &[200.0, 75.0]),
                ("requests_per_second", &[2.0 / 1.5, 0.5]),
                ("time_to_first_token_seconds", &[0.25, 0.5, 1.0, 2.0]),
            ],
        );
    }

    #[test]
    fn without_a_token_after_the_first_there_is_no_decode_rate() {
        let found = quantities(&load(Some(1)), &[run(0.5, [0.25, 0.5], 0)]);
        let decode = found.iter().find(|q| q.key == "decode_tokens_per_second");
        assert!(decode.is_some_and(|quantity| quantity.samples.is_empty()));
    }

    #[test]
    fn an_encoder_has_latencies_and_no_phases() {
        check(
            &load(None),
            &[run(0.5, [0.25, 0.5], 0)],
            &[
                ("total_tokens_per_second", &[400.0]),
                ("requests_per_second", &[4.0]),
                ("latency_seconds", &[0.25, 0.5]),
            ],
        );
    }

    #[test]
    fn a_run_of_several_batches_has_the_rate_of_all() {
        let several = Run {
            batches: 4,
            ..run(2.0, [0.25, 0.5], 0)
        };
        check(
            &load(None),
            &[several],
            &[
                ("total_tokens_per_second", &[400.0]),
                ("requests_per_second", &[4.0]),
                ("latency_seconds", &[0.25, 0.5]),
            ],
        );
    }

    #[test]
    fn the_json_names_its_schema_and_holds_every_sample() {
        let runs = vec![run(1.0, [0.25, 0.5], 8)];
        let report = Report {
            environment: json!({"cpu": null}),
            model: json!({"name": "chat"}),
            settings: json!({"batch": 2}),
            title: "chat".to_owned(),
            quantities: quantities(&load(Some(50)), &runs),
            runs,
        };
        let json = report.json();
        assert_eq!(json["schema"], "koma.bench.throughput/1");
        let first = &json["results"]["time_to_first_token_seconds"];
        assert_eq!(first["samples"], json!([0.25, 0.5]));
        assert_eq!(first["median"], 0.375);
        assert_eq!(json["runs"][0]["first_seconds"], json!([0.25, 0.5]));
        let table = report.table();
        let line =
            "time to first token, ms       375.00      250.00      312.50      437.50      500.00";
        assert!(table.lines().any(|have| have == line), "{table}");
    }
}
