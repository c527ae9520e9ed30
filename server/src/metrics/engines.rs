//! [`Families`]: the series that are read from the engines at scrape time.

use super::ENGINE;
use koma_engine::models::kernels::Team;
use koma_engine::models::{Device, NeuronCounts};
use koma_engine::{EngineHandle, Health, ModelInfo, Stats, StepRecord};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;

/// What is read of an engine; [`EngineHandle`] outside of tests. No method waits for a step.
pub(super) trait Source {
    fn stats(&self) -> Stats;
    fn health(&self) -> Health;
    fn steps(&self, last: usize) -> Vec<StepRecord>;
}

impl Source for EngineHandle {
    fn stats(&self) -> Stats {
        self.stats()
    }

    fn health(&self) -> Health {
        self.health()
    }

    fn steps(&self, last: usize) -> Vec<StepRecord> {
        self.steps(last)
    }
}

/// Name, help and kind of a series.
#[derive(Clone, Copy)]
struct Series {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
}

const fn counter(name: &'static str, help: &'static str) -> Series {
    let kind = MetricType::COUNTER;
    Series { name, help, kind }
}

const fn gauge(name: &'static str, help: &'static str) -> Series {
    let kind = MetricType::GAUGE;
    Series { name, help, kind }
}

type Number = fn(&Stats) -> f64;
type Count = fn(&Stats) -> u64;

/// Series that are plain numbers of [`Stats`]: the table to add a line to.
const PLAIN: &[(Series, Number)] = &[
    (
        gauge("vllm:num_requests_running", "Requests that run."),
        |s| s.running as f64,
    ),
    (
        gauge("vllm:num_requests_waiting", "Requests that wait."),
        |s| s.waiting as f64,
    ),
    (counter("vllm:num_preemptions_total", "Preemptions."), |s| {
        s.preemptions as f64
    }),
    (
        counter(
            "vllm:prompt_tokens_total",
            "Prompt tokens of admitted requests.",
        ),
        |s| s.prompt_tokens as f64,
    ),
    (
        counter("vllm:generation_tokens_total", "Output tokens."),
        |s| s.generation_tokens as f64,
    ),
    (counter("koma_steps_total", "Steps of the engine."), |s| {
        s.steps as f64
    }),
    (
        counter(
            "koma_computed_tokens_total",
            "Tokens computed, prompt and output, recomputed ones again.",
        ),
        |s| s.computed_tokens as f64,
    ),
];

/// The same, for models with a cache only.
const CACHE: &[(Series, Number)] = &[
    (
        gauge(
            "vllm:kv_cache_usage_perc",
            "Part of the cache blocks that requests hold, 0 to 1.",
        ),
        |s| s.blocks_used as f64 / s.blocks_total.max(1) as f64,
    ),
    (
        counter(
            "vllm:prefix_cache_queries_total",
            "Tokens looked up in the prefix cache.",
        ),
        |s| s.prefix_queries as f64,
    ),
    (
        counter(
            "vllm:prefix_cache_hits_total",
            "Tokens found in the prefix cache.",
        ),
        |s| s.prefix_hits as f64,
    ),
    (
        counter(
            "vllm:prompt_tokens_cached_total",
            "Prompt tokens that came from the prefix cache.",
        ),
        |s| s.prompt_tokens_cached as f64,
    ),
];

const FINISHED: Series = counter(
    "vllm:request_success_total",
    "Requests that ended, by reason.",
);

/// vLLM's finish reasons; a pooling request that got its result counts as `stop` there.
const REASONS: &[(&str, Count)] = &[
    ("stop", |s| s.finished_stop + s.finished_pooled),
    ("length", |s| s.finished_length),
    ("abort", |s| s.finished_aborted),
    ("error", |s| s.finished_failed),
];

const CACHE_INFO: Series = gauge("vllm:cache_config_info", "Settings of the cache; always 1.");
const MODEL_INFO: Series = gauge("koma_model_info", "What a model is; always 1.");
const PARAMETERS: Series = gauge("koma_model_parameters", "Parameters of a model.");
const WEIGHT_BYTES: Series = gauge("koma_model_weight_bytes", "Memory of a model's weights.");
const ALIVE: Series = gauge(
    "koma_engine_alive",
    "1 while the engine thread of a model lives.",
);
const STALLED: Series = gauge(
    "koma_engine_stalled_seconds",
    "Time since the last step ended while work is pending, else 0.",
);
const TEAM_THREADS: Series = gauge("koma_team_threads", "Threads that compute all models.");
const TEAM_REGIONS: Series = counter("koma_team_regions_total", "Parallel regions that ended.");
const TEAM_YIELDS: Series = counter(
    "koma_team_yields_total",
    "Times long work made room for short work in the middle of a region.",
);
const TEAM_LATENCY_FIRST: Series = counter(
    "koma_team_latency_first_total",
    "Times short work went before long work that waited.",
);
const RESIDENT: Series = gauge(
    "process_resident_memory_bytes",
    "Resident memory of the process.",
);

const NEURON_EXECUTIONS: Series = counter(
    "koma_neuron_executions_total",
    "Executions on Neuron cores, by shape (rows x tokens) and core.",
);
const NEURON_TOKENS: Series = counter(
    "koma_neuron_tokens_total",
    "Tokens of requests in executions on Neuron cores.",
);
const NEURON_PADDING: Series = counter(
    "koma_neuron_padding_tokens_total",
    "Places in executions on Neuron cores that no token filled.",
);
const NEURON_RERUNS: Series = counter(
    "koma_neuron_cpu_reruns_total",
    "Executions that gave no numbers and were done again on the CPU.",
);
const NEURON_ERRORS: Series = counter(
    "koma_neuron_errors_total",
    "Executions on Neuron cores that failed, by NRT_STATUS.",
);

type Labels = Vec<(&'static str, String)>;

fn cache_labels(info: &ModelInfo) -> Labels {
    let config = &info.config;
    vec![
        ("block_size", config.block_size.to_string()),
        ("cache_dtype", config.kv_dtype.name().to_owned()),
        ("enable_prefix_caching", config.prefix_cache.to_string()),
        ("num_gpu_blocks", info.blocks.to_string()),
    ]
}

fn model_labels(info: &ModelInfo) -> Labels {
    let tasks: Vec<&str> = info.tasks.iter().map(|task| task.name()).collect();
    vec![
        ("architecture", info.identity.architecture.clone()),
        ("device", info.device.name().to_owned()),
        ("format", info.identity.format.clone()),
        ("max_len", info.limits.max_len.to_string()),
        ("tasks", tasks.join(",")),
        ("weights_hash", info.identity.weights_hash.clone()),
    ]
}

fn with<'a>(
    labels: &[(&'a str, &'a str)],
    more: &'a [(&'static str, String)],
) -> Vec<(&'a str, &'a str)> {
    let more = more.iter().map(|(name, value)| (*name, value.as_str()));
    labels.iter().copied().chain(more).collect()
}

/// Families under construction, in the order of their first value.
#[derive(Default)]
pub(super) struct Families {
    index: HashMap<&'static str, usize>,
    families: Vec<MetricFamily>,
}

impl Families {
    /// Adds a model's series, as they are now.
    pub(super) fn model(&mut self, info: &ModelInfo, source: &dyn Source) {
        let stats = source.stats();
        let health = source.health();
        let labels = [
            ("model_name", info.identity.name.as_str()),
            ("engine", ENGINE),
        ];
        for (series, value) in PLAIN {
            self.push(*series, &labels, value(&stats));
        }
        for (reason, value) in REASONS {
            let labels = [labels[0], labels[1], ("finished_reason", *reason)];
            self.push(FINISHED, &labels, value(&stats) as f64);
        }
        if info.blocks > 0 {
            for (series, value) in CACHE {
                self.push(*series, &labels, value(&stats));
            }
            self.push(CACHE_INFO, &with(&labels, &cache_labels(info)), 1.0);
        }
        self.push(MODEL_INFO, &with(&labels, &model_labels(info)), 1.0);
        self.push(PARAMETERS, &labels, info.identity.parameters as f64);
        self.push(WEIGHT_BYTES, &labels, info.weight_bytes as f64);
        self.push(ALIVE, &labels, f64::from(u8::from(health.alive)));
        let stalled = if health.pending {
            health.since_progress.as_secs_f64()
        } else {
            0.0
        };
        self.push(STALLED, &labels, stalled);
        if let Device::Neuron(counters) = &info.device {
            self.neuron(&counters.counts(), &labels);
        }
    }

    /// Adds what the Neuron cores of a model have done.
    fn neuron(&mut self, counts: &NeuronCounts, labels: &[(&str, &str)]) {
        for (bucket, core, count) in &counts.executions {
            let shape = format!("{}x{}", bucket.batch, bucket.seq);
            let more = [("bucket", shape), ("core", core.to_string())];
            self.push(NEURON_EXECUTIONS, &with(labels, &more), *count as f64);
        }
        self.push(NEURON_TOKENS, labels, counts.tokens as f64);
        self.push(NEURON_PADDING, labels, counts.padding as f64);
        self.push(NEURON_RERUNS, labels, counts.reruns as f64);
        for (status, count) in &counts.errors {
            let more = [("status", status.to_string())];
            self.push(NEURON_ERRORS, &with(labels, &more), *count as f64);
        }
    }

    fn push(&mut self, series: Series, labels: &[(&str, &str)], value: f64) {
        let at = *self.index.entry(series.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(series.name.to_owned());
            family.set_help(series.help.to_owned());
            family.set_field_type(series.kind);
            self.families.push(family);
            self.families.len() - 1
        });
        let mut pairs: Vec<LabelPair> = labels
            .iter()
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            })
            .collect();
        pairs.sort_by(|a, b| a.name().cmp(b.name()));
        let mut metric = Metric::from_label(pairs);
        if series.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.families[at].mut_metric().push(metric);
    }

    /// What the team has done.
    pub(super) fn team(&mut self, team: &Team) {
        let stats = team.stats();
        self.push(TEAM_THREADS, &[], team.threads() as f64);
        self.push(TEAM_REGIONS, &[], stats.regions as f64);
        self.push(TEAM_YIELDS, &[], stats.yields as f64);
        self.push(TEAM_LATENCY_FIRST, &[], stats.latency_first as f64);
    }

    /// Memory of this process; left out where there is no `/proc`.
    pub(super) fn process(&mut self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse::<f64>().ok());
        if let Some(kib) = resident {
            self.push(RESIDENT, &[], kib * 1024.0);
        }
    }

    pub(super) fn into_vec(self) -> Vec<MetricFamily> {
        self.families
    }
}
