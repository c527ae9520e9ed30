//! [`Histograms`]: vLLM's histograms of requests and steps, over all models.

use super::{ENGINE, VALID};
use crate::Finished;
use koma_engine::{ModelInfo, TaskKind};
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};
use std::time::Duration;

// Bucket bounds as in vLLM, in seconds, tokens and requests.
const LATENCY: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
pub(super) const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const PER_TOKEN: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const STEP_TOKENS: [f64; 13] = [
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
/// 1, 2 and 5 times the powers of ten, as vLLM makes them from a model's window.
const TOKENS: [f64; 16] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5,
];
const CHILDREN: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];

/// Every histogram with the labels `model_name` and `engine`.
#[derive(Debug)]
pub(super) struct Histograms {
    first_token: HistogramVec,
    inter_token: HistogramVec,
    per_output_token: HistogramVec,
    e2e: HistogramVec,
    queue: HistogramVec,
    inference: HistogramVec,
    prefill: HistogramVec,
    decode: HistogramVec,
    prompt_tokens: HistogramVec,
    generation_tokens: HistogramVec,
    params_n: HistogramVec,
    params_max_tokens: HistogramVec,
    iteration_tokens: HistogramVec,
}

impl Histograms {
    pub(super) fn new(registry: &Registry) -> Self {
        let family = |name: &str, help: &str, buckets: &[f64]| {
            let options =
                HistogramOpts::new(format!("vllm:{name}"), help).buckets(buckets.to_vec());
            let family = HistogramVec::new(options, &["model_name", "engine"]).expect(VALID);
            registry.register(Box::new(family.clone())).expect(VALID);
            family
        };
        let seconds = |name: &str, help: &str| family(&format!("{name}_seconds"), help, &LATENCY);
        Self {
            first_token: family(
                "time_to_first_token_seconds",
                "From arrival to the first token.",
                &FIRST_TOKEN,
            ),
            inter_token: family(
                "inter_token_latency_seconds",
                "Between two tokens of a stream.",
                &PER_TOKEN,
            ),
            per_output_token: family(
                "request_time_per_output_token_seconds",
                "Mean of a request's output tokens after the first.",
                &PER_TOKEN,
            ),
            e2e: seconds("e2e_request_latency", "From arrival to the end."),
            queue: seconds("request_queue_time", "From submission to the first step."),
            inference: seconds("request_inference_time", "From the first step to the end."),
            prefill: seconds(
                "request_prefill_time",
                "From the first step to the first token, or to the result.",
            ),
            decode: seconds("request_decode_time", "From the first token to the last."),
            prompt_tokens: family("request_prompt_tokens", "Prompt of a request.", &TOKENS),
            generation_tokens: family("request_generation_tokens", "Output of a request.", &TOKENS),
            params_n: family("request_params_n", "Continuations asked for.", &CHILDREN),
            params_max_tokens: family(
                "request_params_max_tokens",
                "Most output tokens asked for.",
                &TOKENS,
            ),
            iteration_tokens: family("iteration_tokens_total", "Tokens of a step.", &STEP_TOKENS),
        }
    }

    /// Makes the series of a model exist, empty: those about output only if it generates.
    pub(super) fn touch(&self, info: &ModelInfo) {
        let name = &info.identity.name;
        for family in [&self.e2e, &self.queue, &self.inference, &self.prefill] {
            of(family, name);
        }
        of(&self.prompt_tokens, name);
        of(&self.iteration_tokens, name);
        if info.tasks.contains(&TaskKind::Generate) {
            for family in [
                &self.first_token,
                &self.inter_token,
                &self.per_output_token,
                &self.decode,
                &self.generation_tokens,
                &self.params_n,
                &self.params_max_tokens,
            ] {
                of(family, name);
            }
        }
    }

    pub(super) fn iteration_tokens(&self, model: &str) -> Histogram {
        of(&self.iteration_tokens, model)
    }

    pub(super) fn first_token(&self, model: &str, after: Duration) {
        of(&self.first_token, model).observe(after.as_secs_f64());
    }

    /// `tokens` that arrive together share the gap, so that count and sum are those of single tokens.
    pub(super) fn next_tokens(&self, model: &str, tokens: usize, gap: Duration) {
        let histogram = of(&self.inter_token, model);
        for _ in 0..tokens {
            histogram.observe(gap.as_secs_f64() / tokens as f64);
        }
    }

    pub(super) fn finished(&self, model: &str, finished: &Finished<'_>) {
        let (usage, timings) = (finished.usage, finished.timings);
        let see = |family: &HistogramVec, value: f64| of(family, model).observe(value);
        see(&self.e2e, finished.elapsed.as_secs_f64());
        see(&self.queue, timings.queued.as_secs_f64());
        see(
            &self.inference,
            (timings.prefill + timings.decode).as_secs_f64(),
        );
        see(&self.prefill, timings.prefill.as_secs_f64());
        see(&self.prompt_tokens, usage.prompt as f64);
        if finished.task != TaskKind::Generate {
            return;
        }
        let decode = timings.decode.as_secs_f64();
        see(&self.decode, decode);
        see(&self.generation_tokens, usage.completion as f64);
        see(&self.params_n, f64::from(finished.n));
        if let Some(most) = finished.max_tokens {
            see(&self.params_max_tokens, most as f64);
        }
        if usage.completion > 1 {
            see(
                &self.per_output_token,
                decode / (usage.completion - 1) as f64,
            );
        }
    }
}

fn of(family: &HistogramVec, model: &str) -> Histogram {
    family.with_label_values(&[model, ENGINE])
}
