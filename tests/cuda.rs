//! Whole models on the stand-ins of a GPU: the device code runs on the processor, below the same models and the same engine. They
//! give what the references and the CPU give; and what fails on a device fails the requests that it computed, and no others.

use koma_engine::{
    EngineConfig, EngineHandle, Event, EventStream, NewRequest, PoolingParams, RequestError,
    SamplingOptions, SamplingParams, Task,
};
use koma_kernels::cuda::stand_in::Device as StandIn;
use koma_kernels::cuda::{Gpu, Upload};
use koma_kernels::{Class, Cx, Isa, KvDtype, Team};
use koma_models::{Dtype, LoadError, LoadOptions, Loaded, Source, load};
use koma_tests::forward::{Input, Sequence, context, decoder, encode_on, encoder};
use koma_tests::golden::{self, Case, ids, worst};
use std::sync::{Arc, Mutex};

const DECODERS: [&str; 6] = [
    "llama",
    "qwen3",
    "mistral",
    "gemma2",
    "qwen3_moe",
    "mixtral",
];
/// Of the largest logit.
const LOGITS: f32 = 1e-4;

fn open(case: &str, dtype: Dtype) -> Loaded {
    open_on(case, dtype, None).expect("a golden model loads")
}

/// The model, its weights on `gpu` as they are read.
fn open_on(case: &str, dtype: Dtype, gpu: Option<&Arc<Gpu>>) -> Result<Loaded, LoadError> {
    let options = LoadOptions {
        name: case.to_owned(),
        dtype,
        upload: gpu.map(|gpu| Upload::new(gpu).expect("a stream")),
        ..LoadOptions::default()
    };
    let path = golden::root().join(case);
    let source = match path.extension() {
        Some(_) => Source::Gguf(path),
        None => Source::Folder(path.join("model")),
    };
    load(&source, &options)
}

/// A device that nobody else uses.
fn device() -> (StandIn, Arc<Gpu>) {
    let device = StandIn::new();
    let gpu = Gpu::open(device.number(), 0.9).expect("a device of the stand-in");
    (device, gpu)
}

fn on(gpu: &Arc<Gpu>) -> Cx {
    context(1).on(gpu).expect("a stream")
}

#[test]
fn decoders_agree_with_their_references() {
    for name in DECODERS {
        let (case, loaded) = (Case::read(name), open(name, Dtype::F32));
        let (stand_in, gpu) = device();
        let prompts = case.json["prompts"].as_array().expect("prompts");
        for (i, prompt) in prompts.iter().enumerate() {
            stand_in.set("seed", i as i64);
            let (prompt, greedy) = (ids(&prompt["ids"]), ids(&prompt["greedy"]));
            let expected = &case.tensor(&format!("logits.{i}")).values;
            let run = |chunk: usize| {
                let room = prompt.len() + 64;
                let mut sequence = Sequence::on(on(&gpu), decoder(&loaded), KvDtype::F32, room);
                let logits = sequence.feed_chunks(&prompt, chunk);
                (logits, sequence)
            };
            let (logits, mut whole) = run(prompt.len());
            let off = worst(&logits, expected);
            assert!(off <= LOGITS, "{name} {i}: logits are off by {off:e}");
            let few = greedy.len().min(8);
            assert_eq!(whole.greedy(few), greedy[..few], "{name} {i}: tokens");
            let off = worst(&run(5).0, expected);
            assert!(off <= LOGITS, "{name} {i}: in chunks, off by {off:e}");
        }
        assert!(stand_in.count("launch:rms_norm") > 0, "it ran there");
    }
}

/// Block formats and groups: few rows see the weights as they are, more see them rounded to bf16, as their own values are.
#[test]
fn packed_weights_agree_with_the_same_values_in_f32() {
    // What is not quantized in a folder is f16 or bf16, and so are activations before it.
    for (case, bound) in [
        ("gguf_blocks/llama-q4_1.gguf", LOGITS),
        ("gguf_blocks/llama-q8_0.gguf", LOGITS),
        ("gguf_types/llama-mixed.gguf", LOGITS),
        ("quant_gptq", 1e-3),
        ("quant_awq", 1e-3),
        ("quant_fp8", 1e-2),
    ] {
        let (packed, exact) = (open(case, Dtype::Auto), open(case, Dtype::F32));
        let (stand_in, gpu) = device();
        let prompt: Vec<u32> = (0..30).map(|t| (t * 13) % 200 + 5).collect();
        let run = |cx: Cx, loaded: &Loaded, chunk: usize| {
            Sequence::on(cx, decoder(loaded), KvDtype::F32, 64).feed_chunks(&prompt, chunk)
        };
        let expected = run(context(1), &exact, 30);
        let off = worst(&run(on(&gpu), &packed, 6), &expected);
        assert!(off <= bound, "{case}: off by {off:e}");
        assert!(stand_in.count("launch:residual_rms_norm") > 0, "{case}");
        let off = worst(&run(on(&gpu), &packed, 30), &expected);
        // The other way was taken, where few rows are exact.
        assert!(off > LOGITS, "{case}: rounded to bf16, {off:e}");
        assert!(off <= 3e-2, "{case}: rounded to bf16, off by {off:e}");
    }
}

/// FP8 of weights and activations is near f32, and not the same, whether the weights are made here or are a checkpoint's own.
#[test]
fn fp8_is_near_f32() {
    let prompt: Vec<u32> = (0..30).map(|t| (t * 13) % 200 + 5).collect();
    let run = |cx: Cx, loaded: &Loaded, chunk: usize| {
        Sequence::on(cx, decoder(loaded), KvDtype::F32, 64).feed_chunks(&prompt, chunk)
    };
    for case in ["llama", "qwen3_moe", "quant_ct_fp8", "quant_fp8_tensor"] {
        let (stand_in, _) = device();
        stand_in.set("capability", 89);
        let gpu = Gpu::open(stand_in.number(), 0.9).expect("a device of the stand-in");
        let loaded = open_on(case, Dtype::Fp8, Some(&gpu)).expect("it loads");
        let expected = run(context(1), &open(case, Dtype::F32), 30);
        let got = run(on(&gpu), &loaded, 30);
        let off = worst(&got, &expected);
        // Four bits of each factor, through the layers of a tiny model.
        assert!(off <= 0.2, "{case}: off by {off:e}");
        assert!(off > 1e-3, "{case}: nothing was rounded, {off:e}");
        assert!(stand_in.count("launch:take_e4m3") > 0, "{case}");
        // In FP8 as well, experts read nothing: one copy, of the logits.
        if case == "qwen3_moe" {
            let reads = stand_in.count("cuMemcpyDtoH");
            run(on(&gpu), &loaded, 30);
            assert_eq!(stand_in.count("cuMemcpyDtoH"), reads + 1, "{case}");
        }
        // As a checkpoint is without it: activations stay as they are.
        let auto = run(on(&gpu), &open(case, Dtype::Auto), 30);
        let off = worst(&auto, &got);
        assert!(off > 1e-3, "{case}: activations were not rounded, {off:e}");
    }
}

/// Where nothing multiplies FP8, or a checkpoint's scales do not allow it, loading says so.
#[test]
fn fp8_is_refused_where_there_is_none() {
    let refused = |case: &str, capability: i64, library: i64| {
        let (stand_in, _) = device();
        stand_in.set("capability", capability);
        stand_in.set("library", library);
        let gpu = Gpu::open(stand_in.number(), 0.9).expect("a device of the stand-in");
        let error = open_on(case, Dtype::Fp8, Some(&gpu)).err();
        error.expect("refused").to_string()
    };
    let error = refused("llama", 80, 1);
    assert!(
        error.contains("compute capability 8.0") && error.contains("8.9 or higher"),
        "{error}"
    );
    let error = refused("llama", 90, 0);
    assert!(error.contains("libcublasLt.so.13"), "{error}");
    let error = refused("quant_fp8", 90, 1);
    assert!(
        error.contains("a scale for each 32 columns") && error.contains("dtype auto"),
        "{error}"
    );
    for case in ["llama", "bert_classify", "gguf_blocks/llama-q8_0.gguf"] {
        let error = open_on(case, Dtype::Fp8, None).err().expect("refused");
        let error = error.to_string();
        assert!(
            error.contains("by the CPU") && error.contains("--device cuda:N"),
            "{error}"
        );
    }
}

/// An engine and the team that it computes on.
struct Engine {
    handle: EngineHandle,
    team: Arc<Team>,
}

fn start(case: &str, gpu: Option<&Arc<Gpu>>, config: EngineConfig) -> Engine {
    let mut loaded = open_on(case, Dtype::F32, gpu).expect("a golden model loads");
    loaded.limits.max_len = loaded.limits.max_len.min(11 * 16);
    let team = Arc::new(Team::new(1));
    let handle = EngineHandle::start(loaded, config, Arc::clone(&team), Isa::detect());
    let handle = handle.expect("the engine starts");
    Engine { handle, team }
}

fn config() -> EngineConfig {
    EngineConfig {
        cache_bytes: 8 << 20,
        kv_dtype: KvDtype::F32,
        class: Class::Throughput,
        ..EngineConfig::default()
    }
}

/// Requests of many lengths, some with shared prefixes, some greedy and some drawn.
fn prompt(i: usize) -> NewRequest {
    let shared: Vec<u32> = (0..(i % 3) * 24)
        .map(|t| (t as u32 * 7) % 200 + 5)
        .collect();
    let own = (0..=(i * 11) % 40).map(|t| ((t * 13 + i * 29) as u32) % 200 + 5);
    let options = SamplingOptions {
        max_tokens: Some(18 + i as i64 % 5),
        temperature: Some(if i % 2 == 1 { 0.8 } else { 0.0 }),
        top_p: Some(0.95),
        top_k: Some(if i % 4 == 1 { 40 } else { 0 }),
        seed: Some(i as i64),
        min_tokens: Some(if i == 3 { 4 } else { 0 }),
        ignore_eos: i != 3,
        logprobs: Some(1),
        ..SamplingOptions::default()
    };
    let task = Task::Generate(SamplingParams::new(&options, 256).expect("valid options"));
    request(shared.into_iter().chain(own).collect(), task)
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

/// What a request heard: its tokens with their log-probabilities, or its values; or why it failed.
fn outcome(mut events: EventStream) -> Result<(Vec<u32>, Vec<f32>), RequestError> {
    let (mut tokens, mut values) = (Vec::new(), Vec::new());
    while let Some(event) = events.blocking_next() {
        match event {
            Event::Token { id, logprob, .. } => {
                tokens.push(id);
                values.extend(logprob.map(|logprob| logprob.logprob));
            }
            Event::Pooled { values: all, .. } => values = all,
            Event::Finished { .. } => {}
            Event::Failed(error) => return Err(error),
        }
    }
    Ok((tokens, values))
}

/// Submits all while the team is held, so that they share steps.
fn together(engine: &Engine, requests: &[NewRequest]) -> Vec<EventStream> {
    let streams = Mutex::new(Vec::new());
    engine.team.run(Class::Latency, 1, &|_| {
        let submit = |r: &NewRequest| engine.handle.submit(r.clone()).expect("admitted");
        *streams.lock().expect("one chunk") = requests.iter().map(submit).collect();
    });
    streams.into_inner().expect("one chunk")
}

#[track_caller]
fn same(what: &str, got: EventStream, expected: &(Vec<u32>, Vec<f32>)) {
    let (tokens, values) = outcome(got).expect("no failure");
    assert_eq!(tokens, expected.0, "{what}");
    for (got, expected) in values.iter().zip(&expected.1) {
        assert!((got - expected).abs() <= 1e-3, "{what}: {got} {expected}");
    }
    assert_eq!(values.len(), expected.1.len(), "{what}");
}

/// The same tokens as the CPU's, alone, in a batch with prefix hits, with a cache so small that requests give way, and beside
/// requests that are given up.
#[test]
fn an_engine_gives_the_tokens_of_the_cpu() {
    for case in ["llama", "qwen3", "mistral"] {
        let requests: Vec<NewRequest> = (0..7).map(prompt).collect();
        let cpu = start(case, None, config());
        let expected: Vec<_> = requests
            .iter()
            .map(|r| outcome(cpu.handle.submit(r.clone()).expect("admitted")).expect("tokens"))
            .collect();
        let (stand_in, gpu) = device();
        let engine = start(case, Some(&gpu), config());
        for round in ["in a batch", "after prefix hits"] {
            let streams = together(&engine, &requests);
            for (stream, expected) in streams.into_iter().zip(&expected) {
                same(&format!("{case} {round}"), stream, expected);
            }
        }
        assert!(engine.handle.stats().prefix_hits > 0, "{case}");
        // In a step the host waits for ids, and for nothing else.
        let (waits, steps) = (
            stand_in.count("cuMemcpyDtoH"),
            stand_in.count("launch:choose_tokens"),
        );
        assert_eq!(waits, steps, "{case}");
        // Steps that came again were replayed.
        let replayed = stand_in.count("cuGraphLaunch");
        assert!(replayed > 5, "{case}: {replayed} of {steps}");
        // Some clients leave at once.
        let mut streams = together(&engine, &requests);
        streams.truncate(3);
        for (stream, expected) in streams.into_iter().zip(&expected) {
            same(&format!("{case}, others left"), stream, expected);
        }
        let blocks = cpu.handle.info().blocks;
        let tight = EngineConfig {
            cache_bytes: (8 << 20) / blocks * 12,
            prefix_cache: false,
            ..config()
        };
        let engine = start(case, Some(&gpu), tight);
        let streams = together(&engine, &requests);
        for (stream, expected) in streams.into_iter().zip(&expected) {
            same(&format!("{case}, tight"), stream, expected);
        }
        assert!(engine.handle.stats().preemptions > 0, "{case}");
    }
}

/// Whichever stream is early or late, with graphs or without, and where none can be made: the same tokens.
#[test]
fn the_order_of_streams_and_graphs_change_no_token() {
    let requests: Vec<NewRequest> = (0..7).map(prompt).collect();
    let run = |settings: &[(&str, i64)], graphs: bool| {
        let (stand_in, gpu) = device();
        for (what, value) in settings {
            stand_in.set(what, *value);
        }
        let config = EngineConfig { graphs, ..config() };
        let engine = start("llama", Some(&gpu), config);
        let streams = together(&engine, &requests);
        let outcomes = streams.into_iter().map(|s| outcome(s).expect("tokens"));
        let outcomes: Vec<_> = outcomes.collect();
        (outcomes, stand_in.count("cuGraphLaunch"))
    };
    let (expected, replayed) = run(&[], true);
    assert!(replayed > 5, "{replayed}");
    for (settings, graphs) in [
        ([("hurry", 1)], true),
        ([("hurry", 2)], true),
        ([("hurry", 3)], true),
        ([("hurry", 0)], false),
        ([("fail_capture", 1)], true),
    ] {
        let (got, replayed) = run(&settings, graphs);
        assert!(got == expected, "{settings:?} {graphs}");
        let can = graphs && settings[0].0 == "hurry";
        assert_eq!(replayed > 0, can, "{settings:?} {graphs}");
    }
}

/// Which experts a token goes to never comes home: in a step the host waits for ids alone.
#[test]
fn experts_are_picked_on_the_device() {
    // Alike, of two formats, and with columns in orders of their own.
    for case in [
        "qwen3_moe",
        "mixtral",
        "gguf_experts_k/qwen3moe-experts.gguf",
        "quant_experts_gptq",
    ] {
        let requests: Vec<NewRequest> = (0..3).map(prompt).collect();
        let cpu = start(case, None, config());
        let (stand_in, gpu) = device();
        let engine = start(case, Some(&gpu), config());
        let read = stand_in.count("cuMemcpyDtoH");
        let expected = together(&cpu, &requests);
        for (got, expected) in together(&engine, &requests).into_iter().zip(expected) {
            same(case, got, &outcome(expected).expect("tokens"));
        }
        let waits = stand_in.count("cuMemcpyDtoH") - read;
        assert_eq!(waits, stand_in.count("launch:choose_tokens"), "{case}");
        assert!(stand_in.count("launch:sort_by_expert") > waits, "{case}");
    }
}

/// Every kind of cache that only devices have: logits near those of the exact cache, and an engine that generates; on the CPU an
/// error that names the flag.
#[test]
fn caches_of_a_device_store_fewer_bits() {
    let case = Case::read("llama");
    let prompt = ids(&case.json["prompts"][0]["ids"]);
    let expected = &case.tensor("logits.0").values;
    for (dtype, least, most) in [
        (KvDtype::F16, 1e-6, 2e-3),
        (KvDtype::Bf16, 1e-6, 2e-2),
        (KvDtype::Fp8, 1e-4, 2e-1),
    ] {
        let (_stand_in, gpu) = device();
        // Weights stay on the device that first uses them.
        let loaded = open("llama", Dtype::F32);
        let room = prompt.len() + 64;
        let mut sequence = Sequence::on(on(&gpu), decoder(&loaded), dtype, room);
        let off = worst(&sequence.feed_chunks(&prompt, 5), expected);
        assert!(off > least && off <= most, "{dtype:?}: off by {off:e}");
        // What is left of a prompt behind a prefix hit may be too short for tiles, and then has other bits.
        let config = EngineConfig {
            kv_dtype: dtype,
            prefix_cache: false,
            ..config()
        };
        let engine = start("llama", Some(&gpu), config.clone());
        let requests: Vec<NewRequest> = (0..4).map(self::prompt).collect();
        let alone: Vec<_> = requests
            .iter()
            .map(|r| outcome(engine.handle.submit(r.clone()).expect("admitted")))
            .collect();
        for (got, alone) in together(&engine, &requests).into_iter().zip(alone) {
            let (got, alone) = (outcome(got).expect("tokens"), alone.expect("tokens"));
            assert_eq!(got, alone, "{dtype:?}: the company changes nothing");
        }
        let loaded = open("llama", Dtype::F32);
        let team = Arc::new(Team::new(1));
        let here = EngineHandle::start(loaded, config, team, Isa::detect());
        let error = here.err().map(|error| error.to_string());
        let named = error
            .as_deref()
            .is_some_and(|e| e.contains("--kv-dtype") && e.contains("int8"));
        assert_eq!(named, dtype != KvDtype::Bf16, "{dtype:?}: {error:?}");
    }
}

/// Prompts go through tensor cores behind every cache of fewer than 32 bits: logits near the exact ones, in chunks, too, and while the
/// text goes on near the CPU's, where it has such a cache. (Not its tokens: CPU paths round queries in ways of their own, and two tokens of
/// random weights may be nearly as likely.)
#[test]
fn prompts_go_through_tiles() {
    for (name, dtype, kernel, most) in [
        ("llama", KvDtype::Bf16, "bf16", 2e-2),
        ("mistral", KvDtype::Bf16, "bf16", 2e-2),
        ("qwen3_moe", KvDtype::Int8, "int8_bf16", 2e-2),
        ("mixtral", KvDtype::F16, "f16", 2e-3),
        ("llama", KvDtype::Fp8, "fp8_bf16", 2e-1),
    ] {
        let (case, loaded) = (Case::read(name), open(name, Dtype::F32));
        let (stand_in, gpu) = device();
        let prompts = case.json["prompts"].as_array().expect("prompts");
        let (prompt, expected) = (ids(&prompts[2]["ids"]), case.tensor("logits.2"));
        let room = prompt.len() + 64;
        let run = |cx: Cx, dtype, chunk: usize| {
            let mut sequence = Sequence::on(cx, decoder(&loaded), dtype, room);
            let logits = sequence.feed_chunks(&prompt, chunk);
            (logits, sequence.greedy(8))
        };
        let along = |cx: Cx, tokens: &[u32]| -> Vec<f32> {
            let mut sequence = Sequence::on(cx, decoder(&loaded), dtype, room);
            let mut all = sequence.feed_chunks(&prompt, prompt.len());
            let next = |token: &u32| sequence.feed_chunks(&[*token], 1);
            all.extend(tokens.iter().flat_map(next));
            all
        };
        let (logits, tokens) = run(on(&gpu), dtype, prompt.len());
        let off = worst(&logits, &expected.values);
        let what = format!("{name} {dtype:?}");
        assert!(
            off > 1e-6 && off <= most,
            "{what}: logits are off by {off:e}"
        );
        let kernel = format!("launch:attention_tiles_{kernel}_d64");
        assert!(stand_in.count(&kernel) > 0, "{what}: {kernel}");
        if matches!(dtype, KvDtype::Bf16 | KvDtype::Int8) {
            let cpu = along(context(1), &tokens);
            let off = worst(&along(on(&gpu), &tokens), &cpu);
            assert!(off <= most, "{what}: off the CPU's by {off:e}");
            let other = worst(&along(on(&gpu), &tokens[1..]), &cpu[cpu.len() / 9..]);
            assert!(other > 2.0 * most, "{what}: another text is far: {other:e}");
        }
        // In chunks of 11 tokens, each of which goes there, too.
        let launched = stand_in.count(&kernel);
        let (logits, again) = run(on(&gpu), dtype, 11);
        let off = worst(&logits, &expected.values);
        assert!(off <= most, "{what}: in chunks, off by {off:e}");
        assert_eq!(again, tokens, "{what}: in chunks");
        assert!(stand_in.count(&kernel) > launched + 2, "{what}: {kernel}");
    }
}

/// Nobody's wish is the best that a device has: bf16, or f16 where it does not multiply bf16. A wish is kept.
#[test]
fn a_device_without_bf16_stores_f16() {
    for (capability, auto, stored) in [
        (75, true, KvDtype::F16),
        (80, true, KvDtype::Bf16),
        (75, false, KvDtype::Bf16),
    ] {
        let (stand_in, _) = device();
        stand_in.set("capability", capability);
        let gpu = Gpu::open(stand_in.number(), 0.9).expect("a device of the stand-in");
        let config = EngineConfig {
            kv_dtype: KvDtype::Bf16,
            kv_auto: auto,
            ..config()
        };
        let engine = start("llama", Some(&gpu), config);
        assert_eq!(engine.handle.info().config.kv_dtype, stored);
        let streams = together(&engine, &[prompt(2)]);
        for stream in streams {
            assert!(!outcome(stream).expect("tokens").0.is_empty());
        }
        let tiles = |kind: &str| stand_in.count(&format!("launch:attention_tiles_{kind}_d64")) > 0;
        let expected = [capability == 80, stored == KvDtype::F16];
        assert_eq!(
            [tiles("bf16"), tiles("f16")],
            expected,
            "{capability} {auto}"
        );
    }
}

/// Models share what a device has: each keeps its weights and the memory of its largest step, and caches get what is left.
#[test]
fn caches_take_what_is_left_of_a_device() {
    let (stand_in, _) = device();
    stand_in.set("memory", 512 << 20);
    let gpu = Gpu::open(stand_in.number(), 0.75).expect("a device of the stand-in");
    let limit = gpu.memory().1;
    assert_eq!(limit, 384 << 20);
    let parts = |parts| EngineConfig {
        cache_parts: Some(parts),
        max_batch_tokens: 256,
        max_running: 16,
        ..config()
    };
    let encoder = start("bert_classify", Some(&gpu), parts(1));
    let first = start("llama", Some(&gpu), parts(2));
    let second = start("qwen3", Some(&gpu), parts(1));
    let (used, _) = gpu.memory();
    assert!(used < limit && used > limit / 8 * 7, "{used} of {limit}");
    for (engine, case) in [(&first, "llama"), (&second, "qwen3")] {
        // More than the 8 MiB that the configuration names.
        assert!(engine.handle.info().config.cache_bytes > 16 << 20, "{case}");
        let cpu = start(case, None, config());
        let requests: Vec<NewRequest> = (0..7).map(prompt).collect();
        let expected = together(&cpu, &requests);
        for (got, expected) in together(engine, &requests).into_iter().zip(expected) {
            same(case, got, &outcome(expected).expect("tokens"));
        }
    }
    let text = request(vec![5; 60], Task::Pool(PoolingParams::default()));
    outcome(encoder.handle.submit(text).expect("admitted")).expect("values");
    assert!(gpu.memory().0 <= limit);
}

#[test]
fn weights_on_a_device_are_on_no_host() {
    let (stand_in, gpu) = device();
    let loaded = open_on("llama", Dtype::F32, Some(&gpu)).expect("it loads");
    let copies = stand_in.count("cuMemcpyHtoD");
    let prompt = [5, 9, 13, 70];
    let expected = Sequence::on(
        context(1),
        decoder(&open("llama", Dtype::F32)),
        KvDtype::F32,
        64,
    )
    .feed_chunks(&prompt, 4);
    let got = Sequence::on(on(&gpu), decoder(&loaded), KvDtype::F32, 64).feed_chunks(&prompt, 4);
    assert!(worst(&got, &expected) <= LOGITS);
    assert!(copies > 5, "weights went while they were read");
    let here = std::panic::AssertUnwindSafe(|| {
        Sequence::on(context(1), decoder(&loaded), KvDtype::F32, 64).feed_chunks(&prompt, 4)
    });
    assert!(std::panic::catch_unwind(here).is_err(), "the host has them");
    // No room: the error says how much there is.
    let (small, _) = device();
    small.set("memory", 1 << 16);
    let gpu = Gpu::open(small.number(), 0.9).expect("a device of the stand-in");
    let error = open_on("llama", Dtype::F32, Some(&gpu))
        .err()
        .expect("no room");
    let error = error.to_string();
    assert!(
        error.contains("no memory for") && error.contains("of 58982 are left"),
        "{error}"
    );
}

#[test]
fn encoders_give_the_values_of_the_cpu() {
    for case in ["distilbert_classify", "bert_classify", "bert_embed_mean"] {
        let texts: Vec<NewRequest> = [3, 40, 1, 17]
            .iter()
            .map(|len| {
                let ids = (0..*len).map(|t| (t * 7) % 90 + 5).collect();
                request(ids, Task::Pool(PoolingParams::default()))
            })
            .collect();
        let cpu = start(case, None, config());
        let (stand_in, gpu) = device();
        let engine = start(case, Some(&gpu), config());
        let expected = together(&cpu, &texts).into_iter().map(outcome);
        let expected: Vec<_> = expected.map(|values| values.expect("values")).collect();
        // The weights of norms go to the device first, between a product and its norm.
        for _ in 0..2 {
            for (got, expected) in together(&engine, &texts).into_iter().zip(&expected) {
                same(case, got, expected);
            }
        }
        assert!(stand_in.count("launch:layer_norm") > 0, "it ran there");
        assert!(stand_in.count("launch:residual_layer_norm") > 0, "{case}");
    }
}

/// Encoders whose products round to 16 bits attend in tiles, near the CPU's values of the same weights; those in f32 do not.
#[test]
fn encoders_in_bf16_attend_in_tiles() {
    for case in ["distilbert_classify", "bert_embed_mean", "modernbert_cross"] {
        let texts: Vec<Input> = [3, 40, 1, 17]
            .iter()
            .map(|len| ((0..*len).map(|t| (t * 7) % 90 + 5).collect(), Vec::new()))
            .collect();
        for (dtype, bound) in [(Dtype::Bf16, 3e-2), (Dtype::F32, 1e-4)] {
            let loaded = open(case, dtype);
            let (stand_in, gpu) = device();
            let expected = encode_on(&context(1), encoder(&loaded), &texts);
            let got = encode_on(&on(&gpu), encoder(&loaded), &texts);
            for (got, expected) in got.iter().zip(&expected) {
                let off = worst(got, expected);
                assert!(off <= bound, "{case} {dtype:?}: off by {off:e}");
            }
            let tiles = stand_in.count("launch:attention_tiles_bf16_d64");
            assert_eq!(tiles > 0, dtype == Dtype::Bf16, "{case} {dtype:?}");
        }
    }
}

/// Pooled rows come home, and no row of a token: in one copy, of as many bytes as the values that are told.
#[test]
fn only_pooled_rows_come_home() {
    for case in ["bert_embed_mean", "bert_classify", "distilbert_classify"] {
        let (stand_in, gpu) = device();
        let engine = start(case, Some(&gpu), config());
        let text = |len: u32| {
            let ids = (0..len).map(|t| (t * 7) % 90 + 5).collect();
            request(ids, Task::Pool(PoolingParams::default()))
        };
        let (copies, bytes) = (stand_in.count("cuMemcpyDtoH"), stand_in.count("bytes_home"));
        let mut values = 0;
        for stream in together(&engine, &[text(3), text(40), text(17)]) {
            values += outcome(stream).expect("values").1.len() as i64;
        }
        let (copies, bytes) = (
            stand_in.count("cuMemcpyDtoH") - copies,
            stand_in.count("bytes_home") - bytes,
        );
        assert_eq!(bytes, 4 * values, "{case}");
        assert!((1..=3).contains(&copies), "{case}: a copy a step, {copies}");
    }
}

/// No memory: the requests of that step fail, later ones do not. A launch that fails, or a device that is gone: all fail, and the
/// engine says that its device is broken; another engine on another device does not notice.
#[test]
fn what_fails_on_a_device_fails_its_requests_only() {
    for (what, value, broken) in [
        ("memory", 1, false),
        ("fail_launch", 1, true),
        ("lose", 1, true),
    ] {
        let (_other_device, other_gpu) = device();
        let other = start("llama", Some(&other_gpu), config());
        let (stand_in, gpu) = device();
        let engine = start("llama", Some(&gpu), config());
        let good = outcome(engine.handle.submit(prompt(1)).expect("admitted")).expect("tokens");
        stand_in.set(what, value);
        // Long enough that no memory of the step before fits.
        let options = SamplingOptions {
            max_tokens: Some(1),
            ..SamplingOptions::default()
        };
        let task = Task::Generate(SamplingParams::new(&options, 256).expect("valid options"));
        let long = request((0..150).map(|t| t % 200 + 5).collect(), task);
        let failed = outcome(engine.handle.submit(long).expect("admitted"));
        let failed = failed.expect_err("the device failed");
        let expected = if broken { "broken" } else { "busy" };
        assert!(failed.to_string().contains(expected), "{what}: {failed}");
        assert_eq!(engine.handle.health().broken_device, broken, "{what}");
        if !broken {
            stand_in.set("memory", 1 << 30);
            let again = engine.handle.submit(prompt(1)).expect("admitted");
            same("after a failure", again, &good);
        }
        let there = other.handle.submit(prompt(1)).expect("admitted");
        same("on another device", there, &good);
        assert!(!other.handle.health().broken_device);
    }
}
