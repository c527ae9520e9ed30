//! The engine against itself: the bits of an answer (tokens and log-probabilities, scores, vectors) are the same alone, in a
//! batch, in chunks of any size, after a prefix hit and after preemption. Tiny checkpoints with real architectures.

use koma_engine::models::kernels::{Class, Isa, KvDtype, Team};
use koma_engine::models::{Dtype, LoadOptions, Source, load};
use koma_engine::{
    EngineConfig, EngineHandle, Event, EventStream, NewRequest, PoolingParams, SamplingOptions,
    SamplingParams, Task,
};
use koma_tests::golden;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What the longest of the requests below needs; a cache of little more is tight for a model with a window, too.
const MAX_LEN_BLOCKS: usize = 11;

/// A tiny checkpoint at a precision.
#[derive(Clone, Copy)]
struct Checkpoint(&'static str, Dtype);

/// An engine, and the team it computes on.
struct Engine {
    handle: EngineHandle,
    team: Arc<Team>,
}

fn start(Checkpoint(case, dtype): Checkpoint, config: EngineConfig) -> Engine {
    let options = LoadOptions {
        name: case.to_owned(),
        dtype,
        ..LoadOptions::default()
    };
    let source = match Path::new(case).extension() {
        Some(_) => Source::Gguf(golden::root().join(case)),
        None => Source::Folder(golden::root().join(case).join("model")),
    };
    let mut loaded = load(&source, &options).expect("a golden model loads");
    loaded.limits.max_len = loaded.limits.max_len.min(MAX_LEN_BLOCKS * 16);
    let team = Arc::new(Team::new(2));
    let handle = EngineHandle::start(loaded, config, Arc::clone(&team), Isa::detect())
        .expect("the engine starts");
    Engine { handle, team }
}

fn config() -> EngineConfig {
    EngineConfig {
        cache_bytes: 64 << 20,
        kv_dtype: KvDtype::Bf16,
        class: Class::Throughput,
        ..EngineConfig::default()
    }
}

/// A generation request: prompts of many lengths, sampled with a seed of their own, some with shared prefixes.
fn prompt(i: usize) -> NewRequest {
    let shared: Vec<u32> = (0..(i % 4) * 24)
        .map(|t| (t as u32 * 7) % 200 + 5)
        .collect();
    let own = (0..=(i * 11) % 70).map(|t| ((t * 13 + i * 29) as u32) % 200 + 5);
    let options = SamplingOptions {
        max_tokens: Some(20 + i as i64 % 13),
        temperature: Some(if i.is_multiple_of(3) { 0.0 } else { 0.9 }),
        top_p: Some(0.95),
        seed: Some(i as i64),
        ignore_eos: true,
        logprobs: Some(3),
        ..SamplingOptions::default()
    };
    request(
        shared.into_iter().chain(own).collect(),
        Task::Generate(SamplingParams::new(&options, 256).expect("valid options")),
    )
}

fn request(prompt: Vec<u32>, task: Task) -> NewRequest {
    NewRequest {
        prompt,
        type_ids: Vec::new(),
        task,
        priority: 0,
        queue_deadline: None,
        deadline: None,
        cache_salt: [0; 32],
    }
}

/// Everything a request heard, as bits, without its times and cache counts.
fn outcome(mut events: EventStream) -> Vec<String> {
    let mut heard = Vec::new();
    while let Some(event) = events.blocking_next() {
        heard.push(match event {
            Event::Token { child, id, logprob } => {
                let l = logprob.expect("log-probabilities were asked for");
                let top: Vec<_> = l.top.iter().map(|(id, p)| (*id, p.to_bits())).collect();
                format!("{child} {id} {:08x} {top:x?}", l.logprob.to_bits())
            }
            Event::Finished { child, reason, .. } => format!("{child} {reason:?}"),
            Event::Pooled { values, .. } => {
                let bits: Vec<_> = values.iter().map(|v| v.to_bits()).collect();
                format!("{bits:08x?}")
            }
            Event::Failed(error) => panic!("a request failed: {error}"),
        });
    }
    assert!(!heard.is_empty());
    heard
}

fn one_at_a_time(engine: &Engine, requests: &[NewRequest]) -> Vec<Vec<String>> {
    requests
        .iter()
        .map(|r| outcome(engine.handle.submit(r.clone()).expect("admitted")))
        .collect()
}

/// Submits all while the team is held, so that the engine finds them waiting: they certainly share steps.
fn together(engine: &Engine, requests: &[NewRequest]) -> Vec<Vec<String>> {
    let streams = Mutex::new(Vec::new());
    engine.team.run(Class::Latency, 1, &|_| {
        let submit = |r: &NewRequest| engine.handle.submit(r.clone()).expect("admitted");
        *streams.lock().expect("one chunk") = requests.iter().map(submit).collect();
    });
    let streams = streams.into_inner().expect("one chunk");
    let heard = streams.into_iter().map(outcome).collect();
    let steps = engine.handle.steps(usize::MAX);
    assert!(steps.iter().any(|s| s.requests > 1), "no step was shared");
    heard
}

#[test]
fn generation_has_the_same_bits_in_any_company() {
    for checkpoint in [
        Checkpoint("llama", Dtype::F32),
        Checkpoint("llama", Dtype::Bf16),
        Checkpoint("qwen3_moe", Dtype::Bf16),
        Checkpoint("mixtral", Dtype::F32),
        Checkpoint("gguf_experts/llama-experts.gguf", Dtype::Auto),
        Checkpoint("gguf_blocks/llama-q4_1.gguf", Dtype::Auto),
        Checkpoint("gguf_blocks/llama-q8_0.gguf", Dtype::Auto),
        Checkpoint("gguf_types/llama-mixed.gguf", Dtype::Auto),
        Checkpoint("gguf_experts_k/qwen3moe-experts.gguf", Dtype::Auto),
        Checkpoint("quant_gptq_v2_order", Dtype::Auto),
        Checkpoint("quant_awq", Dtype::Auto),
        Checkpoint("quant_ct_int8", Dtype::Auto),
        Checkpoint("quant_fp8", Dtype::Auto),
        Checkpoint("quant_experts_gptq", Dtype::Auto),
        // One cache group with a window, and two groups.
        Checkpoint("mistral", Dtype::F32),
        Checkpoint("gemma2", Dtype::Bf16),
    ] {
        check_generation(checkpoint, KvDtype::Bf16);
    }
}

#[test]
fn so_has_generation_with_a_cache_of_int8() {
    for checkpoint in [
        Checkpoint("llama", Dtype::F32),
        Checkpoint("gguf_blocks/llama-q4_1.gguf", Dtype::Auto),
        Checkpoint("mistral", Dtype::F32),
        Checkpoint("gemma2", Dtype::Bf16),
    ] {
        let answers = check_generation(checkpoint, KvDtype::Int8);
        let exact = EngineConfig {
            kv_dtype: KvDtype::F32,
            ..config()
        };
        let others = one_at_a_time(&start(checkpoint, exact), &[prompt(1)]);
        assert_ne!(others[0], answers[1], "{} is cached in int8", checkpoint.0);
    }
}

/// Returns the answers.
fn check_generation(checkpoint: Checkpoint, kv_dtype: KvDtype) -> Vec<Vec<String>> {
    let config = || EngineConfig {
        kv_dtype,
        ..config()
    };
    let name = checkpoint.0;
    let requests: Vec<_> = (0..24).map(prompt).collect();
    let without_hits = EngineConfig {
        prefix_cache: false,
        ..config()
    };
    let alone = one_at_a_time(&start(checkpoint, without_hits), &requests);

    let engine = start(checkpoint, config());
    assert_eq!(together(&engine, &requests), alone, "{name} in a batch");
    let hits = engine.handle.stats().prefix_hits;
    assert_eq!(together(&engine, &requests), alone, "{name} after hits");
    assert!(
        engine.handle.stats().prefix_hits > hits,
        "the second round hits the prefix cache"
    );

    for max_batch_tokens in [1, 5, 16, 33] {
        let config = EngineConfig {
            max_batch_tokens,
            ..config()
        };
        let engine = start(checkpoint, config);
        let heard: Vec<_> = requests
            .iter()
            .map(|r| engine.handle.submit(r.clone()).expect("admitted"))
            .collect();
        let heard: Vec<_> = heard.into_iter().map(outcome).collect();
        assert_eq!(heard, alone, "{name} in steps of {max_batch_tokens} tokens");
    }

    let info = engine.handle.info();
    let block_bytes = info.config.cache_bytes / info.blocks;
    let blocks = info.limits.max_len.div_ceil(16);
    let tight = EngineConfig {
        cache_bytes: block_bytes * (blocks + 1),
        watermark: 0.0,
        ..config()
    };
    let engine = start(checkpoint, tight);
    // Short ones first: many begin, and then there is no room for all of them to grow.
    let mut order: Vec<_> = (0..requests.len()).collect();
    order.sort_by_key(|&i| requests[i].prompt.len());
    let (short_first, answers): (Vec<_>, Vec<_>) = order
        .iter()
        .map(|&i| (requests[i].clone(), alone[i].clone()))
        .unzip();
    assert_eq!(together(&engine, &short_first), answers, "{name} preempted");
    assert!(
        engine.handle.stats().preemptions > 0,
        "the tight cache of {name} preempts"
    );
    alone
}

/// Blocks that one request of `prompt` and `output` tokens holds at most, in steps of at most 16 tokens.
fn most_blocks(source: &Path, (prompt, output): (usize, usize)) -> u32 {
    let options = LoadOptions::default();
    let loaded = load(&Source::Folder(source.to_owned()), &options).expect("it loads");
    let config = EngineConfig {
        max_batch_tokens: 16,
        prefix_cache: false,
        ..config()
    };
    let team = Arc::new(Team::new(2));
    let engine = EngineHandle::start(loaded, config, team, Isa::detect()).expect("it starts");
    let options = SamplingOptions {
        max_tokens: Some(output as i64),
        ignore_eos: true,
        logprobs: Some(0),
        ..SamplingOptions::default()
    };
    let params = SamplingParams::new(&options, 256).expect("valid options");
    let ids = (0..prompt).map(|t| (t * 13 % 200) as u32 + 5).collect();
    let events = engine.submit(request(ids, Task::Generate(params)));
    assert_eq!(outcome(events.expect("admitted")).len(), output + 1);
    let steps = engine.steps(usize::MAX).into_iter();
    steps.map(|step| step.blocks_used).max().expect("steps")
}

/// A model whose layers see 13 tokens holds those and the tokens of a step, not all of a request.
#[test]
fn blocks_behind_a_window_are_freed() {
    let window = golden::root().join("mistral/model");
    let lengths = (100, 92);
    assert!(most_blocks(&window, lengths) <= 3, "13 + 16 tokens");
    // The control: the same model without its window.
    let without = tempfile::tempdir().expect("a temporary folder");
    for file in std::fs::read_dir(&window).expect("a folder") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), without.path().join(file.file_name())).expect("a copy");
    }
    let path = without.path().join("config.json");
    let text = std::fs::read_to_string(&path).expect("config.json");
    let text = text.replace("\"sliding_window\": 13", "\"sliding_window\": null");
    std::fs::write(&path, text).expect("config.json");
    assert_eq!(most_blocks(without.path(), lengths), 12, "192 tokens");
}

#[test]
fn different_work_gives_different_bits() {
    let engine = start(Checkpoint("llama", Dtype::F32), config());
    let (a, b) = (
        outcome(engine.handle.submit(prompt(1)).expect("admitted")),
        outcome(engine.handle.submit(prompt(2)).expect("admitted")),
    );
    assert_ne!(a, b, "the comparison would see a difference");
}

#[test]
fn children_compute_their_prompt_once() {
    let engine = start(Checkpoint("llama", Dtype::F32), config());
    let (length, children, output) = (37, 4, 6);
    let options = SamplingOptions {
        n: Some(children),
        max_tokens: Some(output),
        ignore_eos: true,
        seed: Some(5),
        logprobs: Some(0),
        ..SamplingOptions::default()
    };
    let params = SamplingParams::new(&options, 256).expect("valid options");
    let heard = outcome(
        engine
            .handle
            .submit(request((5..5 + length).collect(), Task::Generate(params)))
            .expect("admitted"),
    );
    let computed = engine.handle.stats().computed_tokens;
    assert_eq!(
        computed,
        u64::from(length) + (children * (output - 1)) as u64
    );
    let texts: std::collections::BTreeSet<_> = (0..children)
        .map(|c| {
            heard
                .iter()
                .filter(|h| h.starts_with(&format!("{c} ")))
                .map(|h| &h[2..])
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(texts.len() > 1, "children have noise of their own");
}

#[test]
fn encoders_have_the_same_bits_in_any_batch() {
    for case in [
        "bert_classify",
        "bert_cross",
        "distilbert_classify",
        "bert_embed_mean",
        "bert_embed_cls",
        "bert_embed_concat",
        "bert_embed_dense",
        "bert_tokens",
        "roberta_cross",
        "xlm_roberta_embed_cls",
        "xlm_roberta_tokens",
        "modernbert_mean",
        "modernbert_embed_mean",
        "modernbert_tokens",
    ] {
        check_encoder(Checkpoint(case, Dtype::F32));
        check_encoder(Checkpoint(case, Dtype::Bf16));
        check_encoder(Checkpoint(case, Dtype::Int8));
    }
    check_encoder(Checkpoint("quant_bert_int8", Dtype::Auto));
    check_encoder(Checkpoint("quant_bert_fp8", Dtype::Auto));
}

fn check_encoder(checkpoint: Checkpoint) {
    let case = checkpoint.0;
    let config = EngineConfig {
        class: Class::Latency,
        ..config()
    };
    let engine = start(checkpoint, config.clone());
    let longest = engine.handle.info().limits.max_len - 1;
    let requests: Vec<_> = (0..20).map(|i| pooled(case, i, longest)).collect();
    let alone = one_at_a_time(&engine, &requests);
    assert_eq!(together(&engine, &requests), alone, "{case} in a batch");
    let small = EngineConfig {
        max_batch_tokens: 64,
        ..config
    };
    assert_eq!(
        together(&start(checkpoint, small), &requests),
        alone,
        "{case} in small batches"
    );
    assert_ne!(alone[0], alone[1], "{case} tells inputs apart");
}

/// A request for an encoder, up to `longest` tokens long.
fn pooled(case: &str, i: usize, longest: usize) -> NewRequest {
    let ids: Vec<u32> = (0..=(i * 7) % longest)
        .map(|t| ((t * 31 + i * 17) % 210) as u32 + 5)
        .collect();
    let segment = |t: usize| u32::from(case == "bert_cross" && t > 8);
    let type_ids = (0..ids.len()).map(segment).collect();
    // Every third vector is of the tokens behind a prompt, and shorter.
    let cut = case.contains("_embed_") && i % 3 == 2;
    let params = PoolingParams {
        skip: if cut { ids.len() / 2 } else { 0 },
        dimensions: cut.then_some(5),
        raw: i % 5 == 4,
    };
    NewRequest {
        type_ids,
        ..request(ids, Task::Pool(params))
    }
}
