//! [`Report`]: memory and speed to be expected, as text for people and as JSON for programs.

use crate::commands::bench::environment;
use crate::config::PlanConfig;
use koma_engine::models::Outline;
use koma_engine::{Forecast, ForecastLoad, Phase};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The schema of [`Report::json`]; a change that breaks readers takes the next number.
const SCHEMA: &str = "koma.plan/1";
const MIB: f64 = 1024.0 * 1024.0;

/// Bytes of memory, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// What can be had: the smaller of machine and container.
    pub(super) available: usize,
    pub(super) weights: usize,
    pub(super) cache: usize,
    /// Tokens that the cache holds; 0 for a model without one.
    pub(super) cache_tokens: usize,
    /// Activations, at most.
    pub(super) steps: usize,
    pub(super) tokenizer: usize,
    /// The program itself.
    pub(super) process: usize,
}

impl Memory {
    fn sum(&self) -> usize {
        let parts = [
            self.weights,
            self.cache,
            self.steps,
            self.tokenizer,
            self.process,
        ];
        parts.into_iter().fold(0, usize::saturating_add)
    }
}

/// The result.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) config: PlanConfig,
    pub(super) outline: Outline,
    pub(super) load: ForecastLoad,
    /// Tokens of a step.
    pub(super) max_batch_tokens: usize,
    pub(super) memory: Memory,
    pub(super) found: Forecast,
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let Self {
            config,
            outline,
            load,
            memory,
            max_batch_tokens,
            found,
        } = self;
        json!({
            "schema": SCHEMA,
            "environment": environment::of_process(&config.process),
            "model": {
                "name": config.model.name,
                "source": config.model.root,
                "architecture": outline.architecture,
                "format": outline.format,
                "parameters": outline.parameters,
                "max_len": outline.limits.max_len,
            },
            "settings": {
                "batch": load.batch,
                "input_len": load.input_len,
                "output_len": load.output_len,
                "dtype": format!("{:?}", config.model.dtype).to_lowercase(),
                "kv_dtype": config.model.kv_dtype.name(),
                "max_running": config.model.max_running,
                "max_batch_tokens": max_batch_tokens,
            },
            "memory_bytes": {
                "available": memory.available,
                "weights": memory.weights,
                "cache": memory.cache,
                "step_buffers": memory.steps,
                "tokenizer": memory.tokenizer,
                "process": memory.process,
                "in_all": memory.sum(),
            },
            "cache_tokens": memory.cache_tokens,
            "expected": self.speed(),
            "products": found.formats.iter().map(|rate| {
                let value = json!({
                    "bytes_per_second": rate.bytes,
                    "operations_per_second": rate.operations,
                });
                (rate.format.name().to_owned(), value)
            }).collect::<Map<_, _>>(),
        })
    }

    /// Seconds of the whole load.
    fn seconds(&self) -> f64 {
        let later = self.load.output_len.saturating_sub(1) as f64;
        let decode = self.found.decode.as_ref().map_or(0.0, Phase::seconds);
        self.found.prefill.seconds() + later * decode
    }

    /// Keys as in the results of `koma bench throughput`, where both have them.
    fn speed(&self) -> Value {
        let (prefill, load) = (&self.found.prefill, &self.load);
        let mut speed = json!({"phases": {"prefill": phase(prefill)}});
        if let (Some(decode), Some(alone)) = (&self.found.decode, &self.found.decode_alone) {
            speed["phases"]["decode"] = phase(decode);
            speed["phases"]["decode_alone"] = phase(alone);
            speed["prefill_tokens_per_second"] = json!(prefill.rate());
            speed["decode_tokens_per_second"] = json!(decode.rate());
            speed["decode_alone_tokens_per_second"] = json!(alone.rate());
            speed["time_to_first_token_seconds"] = json!(prefill.seconds());
        }
        let tokens = load.batch * (load.input_len + load.output_len);
        speed["end_to_end_seconds"] = json!(self.seconds());
        speed["total_tokens_per_second"] = json!(tokens as f64 / self.seconds());
        speed
    }

    pub(super) fn text(&self) -> String {
        let (config, outline) = (&self.config, &self.outline);
        let title = format!(
            "{}: {} {}, {:.1} M parameters, at most {} tokens a request",
            config.model.name,
            outline.architecture,
            outline.format,
            outline.parameters as f64 / 1e6,
            outline.limits.max_len
        );
        format!("{title}\n\n{}\n{}", self.memory_table(), self.speed_table())
    }

    fn memory_table(&self) -> String {
        let (memory, model) = (&self.memory, &self.config.model);
        let cache = match memory.cache_tokens {
            0 => "none".to_owned(),
            n => format!("{n} tokens"),
        };
        let steps = format!(
            "at most: {} tokens or {} requests in a step",
            self.max_batch_tokens, model.max_running
        );
        let free = format!(
            "of {:.1} MiB that can be had",
            memory.available as f64 / MIB
        );
        let rows = [
            ("weights", memory.weights, ""),
            ("cache", memory.cache, cache.as_str()),
            ("step buffers", memory.steps, steps.as_str()),
            ("tokenizer", memory.tokenizer, ""),
            ("process", memory.process, ""),
            ("in all", memory.sum(), free.as_str()),
        ];
        let line = |(name, bytes, note): (&str, usize, &str)| {
            let line = format!("  {name:<16}{:>10.1} MiB   {note}", bytes as f64 / MIB);
            line.trim_end().to_owned() + "\n"
        };
        rows.into_iter().map(line).collect()
    }

    fn speed_table(&self) -> String {
        let (process, load, found) = (&self.config.process, &self.load, &self.found);
        let output = match load.output_len {
            0 => String::new(),
            n => format!(" + {n}"),
        };
        let profile = if cfg!(debug_assertions) {
            " (not a release build)"
        } else {
            ""
        };
        let mut text = format!(
            "expected for {} x {}{output} tokens, {} threads, {}{profile}\n",
            load.batch,
            load.input_len,
            process.threads,
            process.isa.name(),
        );
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "  {:<24}{:>12}{:>12}{:>12}{:>12}{:>12}",
            "", "tokens/s", "ms", "products", "attention", "rest"
        );
        let first = if found.decode.is_some() {
            "prompts"
        } else {
            "all inputs"
        };
        let together = format!("a token for {}", load.batch);
        let alone = found.decode_alone.as_ref().filter(|_| load.batch > 1);
        for (name, phase) in [
            (first, Some(&found.prefill)),
            (together.as_str(), found.decode.as_ref()),
            ("a token for 1 alone", alone),
        ] {
            text += &phase.map(|phase| row(name, phase)).unwrap_or_default();
        }
        let _ = writeln!(text, "  all of it takes {:.3} s", self.seconds());
        for rate in &found.formats {
            let _ = writeln!(
                text,
                "  {} products: up to {:.1} GB/s of weights, {:.1} G operations/s",
                rate.format.name(),
                rate.bytes / 1e9,
                rate.operations / 1e9
            );
        }
        text
    }
}

fn row(name: &str, phase: &Phase) -> String {
    let [all, products, attention, rest] =
        [phase.seconds(), phase.products, phase.attention, phase.rest]
            .map(|seconds| format!("{:.2}", seconds * 1e3));
    format!(
        "  {name:<24}{:>12.1}{all:>12}{products:>12}{attention:>12}{rest:>12}\n",
        phase.rate()
    )
}

fn phase(phase: &Phase) -> Value {
    json!({
        "tokens": phase.tokens,
        "tokens_per_second": phase.rate(),
        "seconds": phase.seconds(),
        "products_seconds": phase.products,
        "attention_seconds": phase.attention,
        "rest_seconds": phase.rest,
        "bytes": phase.bytes,
        "operations": phase.operations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, Environment};
    use crate::config::Surroundings;
    use clap::Parser;
    use koma_engine::FormatRate;
    use koma_engine::models::Limits;
    use koma_engine::models::kernels::Format;

    fn report(output_len: usize) -> Report {
        let cli = Cli::try_parse_from(["koma", "plan", "a/b", "--batch", "2"]);
        let Ok(Command::Plan(args)) = cli.map(|cli| cli.command) else {
            panic!("another command");
        };
        let around = Surroundings {
            cores: 3,
            sagemaker: "/nowhere".into(),
            ..Surroundings::default()
        };
        let phase = |tokens, products| Phase {
            tokens,
            products,
            attention: 0.25,
            rest: 0.25,
            bytes: 1.0,
            operations: 2.0,
        };
        let decode = (output_len > 0).then(|| phase(2, 0.0));
        Report {
            config: PlanConfig::resolve(&args, &Environment::default(), &around).unwrap(),
            outline: Outline {
                architecture: "Foo".to_owned(),
                format: "Q4_1".to_owned(),
                parameters: 1_500_000,
                limits: Limits {
                    max_len: 99,
                    vocab: 9,
                },
                cache_groups: Vec::new(),
                weight_bytes: 1 << 20,
            },
            load: ForecastLoad {
                batch: 2,
                input_len: 100,
                output_len,
            },
            max_batch_tokens: 512,
            memory: Memory {
                available: 10 << 20,
                weights: 1 << 20,
                cache: 2 << 20,
                cache_tokens: 48,
                steps: 3 << 20,
                tokenizer: 1 << 19,
                process: 1 << 19,
            },
            found: Forecast {
                step_bytes: 3 << 20,
                prefill: phase(200, 1.5),
                decode,
                decode_alone: decode,
                formats: vec![FormatRate {
                    format: Format::Q4_1,
                    bytes: 1.5e10,
                    operations: 4e11,
                }],
            },
        }
    }

    #[test]
    fn times_of_both_phases_make_the_whole() {
        let json = report(5).json();
        let expected = &json["expected"];
        assert_eq!(expected["prefill_tokens_per_second"], 100.0);
        assert_eq!(expected["decode_tokens_per_second"], 4.0);
        assert_eq!(expected["time_to_first_token_seconds"], 2.0);
        assert_eq!(expected["end_to_end_seconds"], 4.0);
        assert_eq!(expected["total_tokens_per_second"], 210.0 / 4.0);
        assert_eq!(json["memory_bytes"]["in_all"], 7 << 20);
        assert_eq!(json["cache_tokens"], 48);
        let json = report(0).json();
        assert_eq!(json["expected"]["total_tokens_per_second"], 100.0);
        assert_eq!(json["expected"].get("decode_tokens_per_second"), None);
    }

    #[test]
    fn the_text_shows_parts_of_memory_and_of_time() {
        let text = report(5).text();
        for line in [
            "  weights                1.0 MiB",
            "  cache                  2.0 MiB   48 tokens",
            "  in all                 7.0 MiB   of 10.0 MiB that can be had",
            "  prompts                        100.0     2000.00     1500.00      250.00      250.00",
            "  all of it takes 4.000 s",
            "  Q4_1 products: up to 15.0 GB/s of weights, 400.0 G operations/s",
        ] {
            assert!(text.lines().any(|have| have == line), "`{line}` in\n{text}");
        }
        assert!(text.contains("expected for 2 x 100 + 5 tokens, 3 threads"));
        assert!(report(0).text().contains("all inputs"));
    }
}
