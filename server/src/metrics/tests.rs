use super::engines::Source;
use super::*;
use koma_engine::models::kernels::{KvDtype, Team};
use koma_engine::models::{ChatAssets, Device, Identity, Limits, NeuronBucket, NeuronCounters};
use koma_engine::{
    EngineConfig, FinishReason, Health, Stats, StepRecord, TaskKind, Timings, Usage,
};
use std::sync::Mutex;
use std::time::Duration;

/// An engine whose numbers the test sets.
struct Fake {
    stats: Mutex<Stats>,
    health: Health,
    steps: Mutex<Vec<StepRecord>>,
}

impl Fake {
    fn new(stats: Stats) -> Self {
        Self {
            stats: Mutex::new(stats),
            health: Health {
                broken_device: false,
                alive: true,
                pending: true,
                since_progress: Duration::from_millis(1500),
            },
            steps: Mutex::default(),
        }
    }

    fn step(&self, tokens: u32) {
        let mut stats = self.stats.lock().unwrap();
        stats.steps += 1;
        self.steps.lock().unwrap().push(StepRecord {
            step: stats.steps,
            tokens,
            ..StepRecord::default()
        });
    }
}

impl Source for Fake {
    fn stats(&self) -> Stats {
        *self.stats.lock().unwrap()
    }

    fn health(&self) -> Health {
        self.health
    }

    fn steps(&self, last: usize) -> Vec<StepRecord> {
        let steps = self.steps.lock().unwrap();
        steps[steps.len().saturating_sub(last)..].to_vec()
    }
}

fn info(name: &str, task: TaskKind, blocks: usize) -> ModelInfo {
    ModelInfo {
        identity: Identity {
            name: name.into(),
            architecture: "LlamaForCausalLM".into(),
            format: "Q4_1".into(),
            parameters: 135_000_000,
            weights_hash: "abc123".into(),
        },
        tasks: vec![task],
        limits: Limits {
            max_len: 2048,
            vocab: 49_152,
        },
        head: None,
        chat: ChatAssets::default(),
        config: EngineConfig {
            kv_dtype: KvDtype::Bf16,
            ..EngineConfig::default()
        },
        weight_bytes: 90_000_000,
        blocks,
        device: Device::Cpu,
    }
}

fn chat_stats() -> Stats {
    Stats {
        running: 2,
        waiting: 3,
        blocks_used: 25,
        blocks_total: 100,
        prompt_tokens: 40,
        prompt_tokens_cached: 16,
        computed_tokens: 60,
        generation_tokens: 36,
        prefix_queries: 40,
        prefix_hits: 16,
        preemptions: 1,
        finished_stop: 4,
        finished_length: 5,
        finished_aborted: 6,
        finished_failed: 7,
        ..Stats::default()
    }
}

fn metrics(names: &[&str]) -> Metrics {
    let build = Build {
        version: "1.2.3",
        commit: "deadbeef",
        isa: "avx2",
    };
    let names = names.iter().map(|name| (*name).to_owned());
    Metrics::new(names, &build, Arc::new(Team::new(2)))
}

/// The lines of `text` that are values of `name`.
fn series<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let begins = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    };
    text.lines().filter(begins).collect()
}

#[test]
fn engine_series_have_vllms_names_and_labels() {
    let info = info("chat", TaskKind::Generate, 100);
    let text = metrics(&["chat"]).text(&[(&info, &Fake::new(chat_stats()))], false);
    let plain = "{engine=\"0\",model_name=\"chat\"}";
    for (name, value) in [
        ("vllm:num_requests_running", "2"),
        ("vllm:num_requests_waiting", "3"),
        ("vllm:kv_cache_usage_perc", "0.25"),
        ("vllm:prefix_cache_queries_total", "40"),
        ("vllm:prefix_cache_hits_total", "16"),
        ("vllm:num_preemptions_total", "1"),
        ("vllm:prompt_tokens_total", "40"),
        ("vllm:prompt_tokens_cached_total", "16"),
        ("vllm:generation_tokens_total", "36"),
        ("koma_computed_tokens_total", "60"),
        ("koma_engine_alive", "1"),
        ("koma_engine_stalled_seconds", "1.5"),
    ] {
        assert_eq!(series(&text, name), [format!("{name}{plain} {value}")]);
    }
    let finished = "vllm:request_success_total{engine=\"0\",finished_reason=";
    for (reason, value) in [("stop", 4), ("length", 5), ("abort", 6), ("error", 7)] {
        let line = format!("{finished}\"{reason}\",model_name=\"chat\"}} {value}");
        assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
    }
    assert_eq!(
        series(&text, "vllm:cache_config_info"),
        [
            "vllm:cache_config_info{block_size=\"16\",cache_dtype=\"bf16\",enable_prefix_caching=\"true\",engine=\"0\",model_name=\"chat\",num_gpu_blocks=\"100\"} 1"
        ]
    );
    assert_eq!(
        series(&text, "koma_model_info"),
        [
            "koma_model_info{architecture=\"LlamaForCausalLM\",device=\"cpu\",engine=\"0\",format=\"Q4_1\",max_len=\"2048\",model_name=\"chat\",tasks=\"generation\",weights_hash=\"abc123\"} 1"
        ]
    );
    assert_eq!(
        series(&text, "koma_build_info"),
        ["koma_build_info{commit=\"deadbeef\",isa=\"avx2\",version=\"1.2.3\"} 1"]
    );
    assert_eq!(series(&text, "koma_team_threads"), ["koma_team_threads 2"]);
    let regions = "koma_team_regions_total";
    assert_eq!(series(&text, regions), [format!("{regions} 0")]);
    assert_eq!(series(&text, "koma_ready"), ["koma_ready 0"]);
}

#[test]
fn neuron_cores_are_counted_by_shape_core_and_status() {
    let mut info = info("intent", TaskKind::Classify, 0);
    let shape = |batch, seq| NeuronBucket { batch, seq };
    let counters = NeuronCounters::new(vec![shape(1, 32), shape(4, 64)], 2);
    counters.execution(1, 0, 100);
    counters.execution(1, 0, 56);
    counters.execution(0, 1, 32);
    counters.rerun();
    counters.error(1003);
    counters.error(5);
    counters.error(5);
    info.device = Device::Neuron(Arc::new(counters));
    let text = metrics(&["intent"]).text(&[(&info, &Fake::new(chat_stats()))], false);
    let of = "engine=\"0\",model_name=\"intent\"";
    for (name, labels, value) in [
        ("executions_total", "bucket=\"1x32\",core=\"0\",", 0),
        ("executions_total", "bucket=\"1x32\",core=\"1\",", 1),
        ("executions_total", "bucket=\"4x64\",core=\"0\",", 2),
        ("tokens_total", "", 188),
        ("padding_tokens_total", "", 2 * 256 - 156),
        ("cpu_reruns_total", "", 1),
    ] {
        let line = format!("koma_neuron_{name}{{{labels}{of}}} {value}");
        assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
    }
    for (status, value) in [(5, 2), (1003, 1)] {
        let line = format!("koma_neuron_errors_total{{{of},status=\"{status}\"}} {value}");
        assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
    }
    assert!(series(&text, "koma_model_info")[0].contains("device=\"neuron\""));
}

#[test]
fn every_family_is_written_once_with_its_kind() {
    let metrics = metrics(&["a", "b"]);
    metrics.http("/health", 200, Duration::ZERO);
    metrics.refused("a", "too_long");
    let (a, b) = (
        info("a", TaskKind::Generate, 8),
        info("b", TaskKind::Classify, 0),
    );
    let (chat, idle) = (Fake::new(chat_stats()), Fake::new(Stats::default()));
    let text = metrics.text(&[(&a, &chat), (&b, &idle)], true);
    let mut kinds: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .collect();
    let all = kinds.len();
    kinds.dedup();
    assert_eq!(kinds.len(), all);
    for line in kinds {
        let words: Vec<&str> = line.split(' ').collect();
        let total = words[2].ends_with("_total") && words[2] != "vllm:iteration_tokens_total";
        assert_eq!(words[3] == "counter", total, "{line}");
    }
}

#[test]
fn a_model_without_a_cache_has_no_cache_and_token_series() {
    let metrics = metrics(&["intent"]);
    metrics.finished(&Finished {
        model: "intent",
        task: TaskKind::Classify,
        reason: FinishReason::Stop,
        usage: Usage::default(),
        timings: Timings::default(),
        elapsed: Duration::from_millis(4),
        n: 1,
        max_tokens: None,
    });
    let fake = Fake::new(Stats {
        finished_pooled: 9,
        ..Stats::default()
    });
    let text = metrics.text(&[(&info("intent", TaskKind::Classify, 0), &fake)], true);
    for absent in [
        "kv_cache_usage",
        "prefix_cache",
        "cache_config",
        "first_token",
    ] {
        assert!(!text.contains(absent), "{absent}");
    }
    assert!(text.contains("finished_reason=\"stop\",model_name=\"intent\"} 9"));
    check_histogram(&text, "intent", "e2e_request_latency_seconds", 1, "0.004");
}

fn check_histogram(text: &str, model: &str, name: &str, count: u32, sum: &str) {
    let labels = format!("{{engine=\"0\",model_name=\"{model}\"}}");
    for (part, value) in [("count", count.to_string().as_str()), ("sum", sum)] {
        let name = format!("vllm:{name}_{part}");
        assert_eq!(series(text, &name), [format!("{name}{labels} {value}")]);
    }
}

#[test]
fn steps_are_observed_once_each() {
    let metrics = metrics(&["chat"]);
    let fake = Fake::new(Stats::default());
    let info = info("chat", TaskKind::Generate, 8);
    let check = |count, sum| {
        let text = metrics.text(&[(&info, &fake)], true);
        check_histogram(&text, "chat", "iteration_tokens_total", count, sum);
    };
    check(0, "0");
    fake.step(10);
    fake.step(3);
    check(2, "13");
    check(2, "13");
    fake.step(1);
    check(3, "14");
}

#[test]
fn requests_fill_the_histograms() {
    let metrics = metrics(&["chat"]);
    let ms = Duration::from_millis;
    metrics.first_token("chat", ms(30));
    metrics.next_tokens("chat", 1, ms(20));
    metrics.next_tokens("chat", 2, ms(40)); // two at once are two gaps of 20 ms
    metrics.finished(&Finished {
        model: "chat",
        task: TaskKind::Generate,
        reason: FinishReason::Length,
        usage: Usage {
            prompt: 7,
            cached: 0,
            completion: 4,
        },
        timings: Timings {
            queued: ms(10),
            prefill: ms(20),
            decode: ms(60),
        },
        elapsed: ms(100),
        n: 2,
        max_tokens: Some(4),
    });
    let info = info("chat", TaskKind::Generate, 8);
    let text = metrics.text(&[(&info, &Fake::new(chat_stats()))], true);
    for (name, count, sum) in [
        ("time_to_first_token_seconds", 1, "0.03"),
        ("inter_token_latency_seconds", 3, "0.06"),
        ("request_time_per_output_token_seconds", 1, "0.02"),
        ("e2e_request_latency_seconds", 1, "0.1"),
        ("request_queue_time_seconds", 1, "0.01"),
        ("request_inference_time_seconds", 1, "0.08"),
        ("request_prefill_time_seconds", 1, "0.02"),
        ("request_decode_time_seconds", 1, "0.06"),
        ("request_prompt_tokens", 1, "7"),
        ("request_generation_tokens", 1, "4"),
        ("request_params_n", 1, "2"),
        ("request_params_max_tokens", 1, "4"),
    ] {
        check_histogram(&text, "chat", name, count, sum);
    }
    let bucket =
        "inter_token_latency_seconds_bucket{engine=\"0\",model_name=\"chat\",le=\"0.025\"} 3";
    assert!(text.contains(bucket), "{text}");
}

#[test]
fn labels_are_bounded_whatever_clients_send() {
    let metrics = metrics(&["chat"]);
    metrics.refused("chat", "too_long");
    metrics.refused("made-up-1", "model_not_found");
    metrics.refused("made-up-2", "model_not_found");
    metrics.first_token("made-up-3", Duration::ZERO);
    let text = metrics.text(&[], false);
    assert!(!text.contains("made-up"), "{text}");
    let unknown = "koma_refused_total{code=\"model_not_found\",model_name=\"unknown\"} 2";
    assert!(text.lines().any(|line| line == unknown), "{text}");
}

#[test]
fn http_requests_are_counted_by_route_and_status() {
    let metrics = metrics(&[]);
    for status in [200, 200, 404] {
        metrics.http("/v1/models", status, Duration::from_millis(2));
    }
    let text = metrics.text(&[], true);
    assert_eq!(
        series(&text, "koma_http_requests_total"),
        [
            "koma_http_requests_total{route=\"/v1/models\",status=\"200\"} 2",
            "koma_http_requests_total{route=\"/v1/models\",status=\"404\"} 1",
        ]
    );
    assert_eq!(
        series(&text, "koma_http_request_seconds_count"),
        ["koma_http_request_seconds_count{route=\"/v1/models\"} 3"]
    );
    assert_eq!(series(&text, "koma_ready"), ["koma_ready 1"]);
}
