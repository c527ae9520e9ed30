//! Models on Neuron cores, as an engine drives them: routing, padding, order of rows, what becomes of failures, what is refused.
//!
//! The stand-in computes the same toy as [`toy`], so each answer is known to the last bit.

use crate::rig::{Rig, text};
use koma_engine::{
    EngineConfig, EngineHandle, Event, NewRequest, PoolingParams, RequestError, SubmitError, Task,
};
use koma_kernels::{Class, Isa, Team};
use koma_models::{Device, NeuronCounts};
use koma_neuron_export::file_ref;
use koma_neuron_export::manifest::{Manifest, Weights};
use koma_neuron_export::serving::{Cores, ServingError, ServingOptions, prepare};
use koma_tests::artifact::{self, compile, golden, loaded, make};
use koma_tests::fake_nrt::{FakeNrt, neff, toy, toy_neff};
use std::path::Path;
use std::sync::Arc;

impl Rig {
    /// Starts an engine over the cores. The engine alone keeps them.
    fn engine(&self) -> EngineHandle {
        let model = loaded(&self.model);
        let cores = Cores::start(Some(&self.fake.library())).unwrap();
        let prepared = prepare(&model, &cores, &self.options()).unwrap();
        let config = EngineConfig {
            class: Class::Latency,
            ..EngineConfig::default()
        };
        let team = Arc::new(Team::new(1));
        EngineHandle::start(prepared.attach(model).unwrap(), config, team, Isa::detect()).unwrap()
    }

    /// Why it is refused. All is given back then.
    fn refused(&self, options: &ServingOptions) -> ServingError {
        let model = loaded(&self.model);
        let cores = Cores::start(Some(&self.fake.library())).unwrap();
        let refused = prepare(&model, &cores, options)
            .err()
            .expect("it is refused");
        drop(cores);
        self.fake.check_released();
        refused
    }
}

/// The raw row of a text.
fn ask(engine: &EngineHandle, ids: &[u32], types: &[u32]) -> Result<Vec<f32>, RequestError> {
    let request = NewRequest {
        prompt: ids.to_vec(),
        type_ids: types.to_vec(),
        task: Task::Pool(PoolingParams {
            raw: true,
            ..PoolingParams::default()
        }),
        priority: 0,
        queue_deadline: None,
        deadline: None,
        cache_salt: [0; 32],
    };
    match engine.submit(request).unwrap().blocking_next() {
        Some(Event::Pooled { values, .. }) => Ok(values),
        Some(Event::Failed(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn counts(engine: &EngineHandle) -> NeuronCounts {
    let Device::Neuron(counters) = &engine.info().device else {
        panic!("on another device");
    };
    counters.counts()
}

/// Ends the engine; then nobody has the cores any more.
fn end(engine: &EngineHandle) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(engine.shutdown(std::time::Instant::now()));
}

/// Asks from 8 threads at once; the number of wrong answers.
fn wrong_answers(engine: &EngineHandle, width: usize, weights: f64) -> usize {
    let wrong = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let wrong = &wrong;
            scope.spawn(move || {
                for number in 0..60 {
                    let ids = text(number * 8 + thread);
                    let types: Vec<u32> = (0..ids.len()).map(|k| u32::from(k > 3)).collect();
                    let heeded = if width == 3 { &[] } else { &types[..] };
                    let row = ask(engine, &ids, &types).unwrap();
                    if row != toy(&ids, heeded, width, weights) {
                        wrong.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    wrong.into_inner()
}

#[test]
fn answers_are_those_of_the_device_whatever_runs_together() {
    // The classifier reads no segments; the cross-encoder and the embedder do.
    let models = [
        ("distilbert_classify", 3),
        ("bert_cross", 1),
        ("bert_embed_mean", 32),
    ];
    for (model, width) in models {
        for weights in [Weights::Inline, Weights::Separate] {
            let rig = Rig::new(model, weights, "cores 2");
            let engine = rig.engine();
            let wrong = wrong_answers(&engine, width, rig.weights);
            assert_eq!(wrong, 0, "{model} {weights:?}");
            let counts = counts(&engine);
            let asked: usize = (0..480).map(|number| text(number).len()).sum();
            assert_eq!(counts.tokens, asked as u64);
            let places = counts
                .executions
                .iter()
                .map(|(b, _, n)| (b.batch * b.seq) as u64 * n);
            assert_eq!(counts.padding, places.sum::<u64>() - asked as u64);
            for core in 0..2 {
                let on_core = counts.executions.iter().filter(|(_, c, _)| *c == core);
                assert!(
                    on_core.map(|(_, _, n)| n).sum::<u64>() > 0,
                    "core {core} is used"
                );
            }
            assert_eq!((counts.reruns, counts.errors.len()), (0, 0));
            end(&engine);
            rig.fake.check_released();
            let closed = rig.fake.closed();
            let executions: u64 = counts.executions.iter().map(|(_, _, n)| n).sum();
            assert_eq!(closed["executions"], executions);
            // On each core inputs and output of each bucket, and each weight once.
            let inputs = if width == 3 { 2 } else { 3 };
            let manifest = Manifest::read(rig.artifact.path()).unwrap();
            let separate = manifest.numerics.param_order.len() as u64;
            assert_eq!(separate > 20, weights == Weights::Separate);
            assert_eq!(closed["tensors_made"], 2 * (4 * (inputs + 1) + separate));
        }
    }
}

#[test]
fn rows_that_a_runtime_swaps_are_noticed() {
    let rig = Rig::new("distilbert_classify", Weights::Inline, "swap 1");
    // One bucket, so that each text has rows beside it.
    make(
        &rig.model,
        rig.artifact.path(),
        (&[4], &[32]),
        Weights::Inline,
    );
    assert!(wrong_answers(&rig.engine(), 3, 0.0) > 0);
}

#[test]
fn a_text_that_no_bucket_holds_is_refused_at_admission() {
    let rig = Rig::new("distilbert_classify", Weights::Inline, "");
    let engine = rig.engine();
    assert_eq!(engine.info().limits.max_len, 32);
    let mut request = NewRequest {
        prompt: vec![1; 33],
        type_ids: Vec::new(),
        task: Task::Pool(PoolingParams::default()),
        priority: 0,
        queue_deadline: None,
        deadline: None,
        cache_salt: [0; 32],
    };
    let refused = engine.submit(request.clone()).err();
    assert!(
        matches!(
            refused,
            Some(SubmitError::TooLong {
                max: 32,
                prompt: 33,
                ..
            })
        ),
        "{refused:?}"
    );
    request.prompt = vec![100_000];
    assert!(matches!(
        engine.submit(request).err(),
        Some(SubmitError::Param(_))
    ));
    assert_eq!(
        ask(&engine, &[1; 32], &[]).unwrap(),
        toy(&[1; 32], &[], 3, 0.0)
    );
}

#[test]
fn what_is_no_number_is_computed_by_the_cpu() {
    let rig = Rig::new(
        "distilbert_classify",
        Weights::Inline,
        "nrt_execute 1003 1 1",
    );
    let alone = {
        let team = Arc::new(Team::new(1));
        let config = EngineConfig::default();
        EngineHandle::start(loaded(&rig.model), config, team, Isa::detect()).unwrap()
    };
    let engine = rig.engine();
    let ids = text(9);
    let on_device = toy(&ids, &[], 3, 0.0);
    assert_eq!(ask(&engine, &ids, &[]).unwrap(), on_device);
    assert_eq!(
        ask(&engine, &ids, &[]),
        ask(&alone, &ids, &[]),
        "as the CPU alone"
    );
    assert_eq!(ask(&engine, &ids, &[]).unwrap(), on_device);
    let counts = counts(&engine);
    assert_eq!((counts.reruns, counts.errors.get(&1003)), (1, Some(&1)));
    end(&engine);
    rig.fake.check_released();
}

#[test]
fn a_failed_execution_fails_its_requests_and_the_next_one_works() {
    let table = [
        (5, RequestError::DeviceTimeout, false),
        (7, RequestError::DeviceBusy, false),
        (1005, RequestError::DeviceBusy, false),
        (6, RequestError::DeviceBroken, true),
    ];
    for (status, error, broken) in table {
        let conf = format!("nrt_execute {status} 0 1");
        let rig = Rig::new("distilbert_classify", Weights::Inline, &conf);
        let engine = rig.engine();
        assert_eq!(ask(&engine, &text(4), &[]), Err(error), "{status}");
        assert_eq!(
            ask(&engine, &text(4), &[]).unwrap(),
            toy(&text(4), &[], 3, 0.0)
        );
        assert_eq!(engine.health().broken_device, broken, "{status}");
        assert_eq!(counts(&engine).errors.get(&status), Some(&1));
        end(&engine);
        rig.fake.check_released();
    }
    let rig = Rig::new(
        "distilbert_classify",
        Weights::Inline,
        "nrt_execute 1004 0 1",
    );
    let engine = rig.engine();
    let failed = ask(&engine, &text(4), &[]);
    assert!(
        matches!(&failed, Err(RequestError::Step(why)) if why.contains("1004")),
        "{failed:?}"
    );
}

/// A manifest changed as `change` says, and how its refusal must read.
fn check_refusal(weights: Weights, change: impl FnOnce(&Path, &mut Manifest), parts: &[&str]) {
    let rig = Rig::new("distilbert_classify", weights, "");
    let folder = rig.artifact.path();
    let mut manifest = Manifest::read(folder).unwrap();
    change(folder, &mut manifest);
    manifest.write(folder).unwrap();
    let refused = rig.refused(&rig.options());
    assert!(
        !refused.no_device(),
        "it is the artifact's fault: {refused}"
    );
    let message = refused.to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
}

#[test]
fn an_export_of_another_model_is_refused() {
    let other = || "0".repeat(64);
    let inline = Weights::Inline;
    check_refusal(
        inline,
        |_, m| m.source.weights_hash = other(),
        &["source.weights_hash"],
    );
    check_refusal(
        inline,
        |_, m| m.source.config_sha256 = other(),
        &["config.json"],
    );
    check_refusal(
        inline,
        |_, m| m.tokenizer.sha256 = other(),
        &["tokenizer.json"],
    );
    check_refusal(inline, |_, m| m.labels.swap(0, 1), &["labels"]);
    check_refusal(
        inline,
        |_, m| m.tokenizer.vocab_size -= 1,
        &["tokenizer.vocab_size"],
    );
    let architecture = |_: &Path, m: &mut Manifest| m.source.architecture = "BertModel".to_owned();
    check_refusal(inline, architecture, &["source.architecture", "BertModel"]);
    let activation = |_: &Path, m: &mut Manifest| {
        m.activation = koma_neuron_export::manifest::Activation::Sigmoid;
    };
    check_refusal(inline, activation, &["task", "Sigmoid"]);
}

/// The hash by which a loaded model is known is of samples of its tensors; what is served is bound to every byte.
#[test]
fn a_weight_that_no_sample_shows_is_noticed() {
    let rig = Rig::new("distilbert_classify", Weights::Inline, "");
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&rig.model).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let words = &tensors["distilbert.embeddings.word_embeddings.weight"]["data_offsets"];
    let middle = words[0]
        .as_u64()
        .unwrap()
        .midpoint(words[1].as_u64().unwrap());
    bytes[header + middle as usize] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let hash = |folder: &Path| loaded(folder).identity.weights_hash;
    assert_eq!(hash(copy.path()), hash(&rig.model), "no sample shows it");
    let changed = Rig {
        model: copy.path().to_owned(),
        ..rig
    };
    let refused = changed.refused(&changed.options());
    let message = refused.to_string();
    assert!(
        !refused.no_device()
            && message.contains("model.safetensors")
            && message.contains("another checkpoint"),
        "{message}"
    );
}

#[test]
fn prompts_that_a_module_cannot_leave_out_are_refused() {
    // Its prompts are no part of the pooled vector; the artifact is another model's, which would be told after this.
    let rig = Rig::new("bert_embed_mean", Weights::Inline, "");
    let options = ServingOptions {
        model: golden("bert_embed_prompts"),
        ..rig.options()
    };
    let cores = Cores::start(Some(&rig.fake.library())).unwrap();
    let refused = prepare(&loaded(&options.model), &cores, &options)
        .err()
        .unwrap();
    assert!(
        !refused.no_device() && refused.to_string().contains("prompts"),
        "{refused}"
    );
}

/// The module of the third bucket is `neff`.
fn replaced(neff: Vec<u8>) -> impl FnOnce(&Path, &mut Manifest) {
    move |folder, manifest| compile(folder, manifest, 2, Some(neff))
}

#[test]
fn a_damaged_export_is_refused() {
    let inline = Weights::Inline;
    let file = "b4_s16.neff";
    let tampered = |folder: &Path, _: &mut Manifest| {
        let path = folder.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    check_refusal(inline, tampered, &[file, "sha256"]);
    let none = |_: &Path, m: &mut Manifest| m.buckets[2].neff = None;
    check_refusal(inline, none, &["4 x 16", "koma export compile"]);
    let whole = toy_neff(&artifact::INPUTS[..2], (4, 16, 3), &[]);
    check_refusal(
        inline,
        replaced(whole[..whole.len() - 1].to_vec()),
        &[file, "header says"],
    );
    let shape = toy_neff(&artifact::INPUTS[..2], (4, 32, 3), &[]);
    check_refusal(
        inline,
        replaced(shape),
        &[file, "shape", "`input0`", "[4, 32]", "[4, 16]"],
    );
    let wide = toy_neff(&artifact::INPUTS[..2], (4, 16, 4), &[]);
    check_refusal(inline, replaced(wide), &[file, "shape", "`output0`"]);
    let more = toy_neff(&artifact::INPUTS, (4, 16, 3), &[]);
    check_refusal(inline, replaced(more), &[file, "`input2`", "does not know"]);
    let less = toy_neff(&artifact::INPUTS[..1], (4, 16, 3), &[]);
    check_refusal(inline, replaced(less), &[file, "no tensor `input1`"]);
    let float = neff("in input0 10 4 16\nin input1 8 4 16\nout output0 10 4 3\n");
    check_refusal(
        inline,
        replaced(float),
        &[file, "type", "`input0`", "F32", "I32"],
    );
    let io = |_: &Path, m: &mut Manifest| {
        let neff = m.buckets[0].neff.as_mut().unwrap();
        neff.io.remove("logits");
    };
    check_refusal(inline, io, &["io", "`logits`"]);
    let unknown = |_: &Path, m: &mut Manifest| {
        m.numerics.param_order.push("missing.w".to_owned());
        for bucket in &mut m.buckets {
            let io = &mut bucket.neff.as_mut().unwrap().io;
            io.insert("missing.w".to_owned(), "input9".to_owned());
        }
    };
    check_refusal(
        Weights::Separate,
        unknown,
        &["weights.safetensors", "`missing.w`"],
    );
    let cut = |folder: &Path, m: &mut Manifest| {
        let name = "weights.safetensors";
        let bytes = std::fs::read(folder.join(name)).unwrap();
        std::fs::write(folder.join(name), &bytes[..bytes.len() - 4]).unwrap();
        m.numerics.weights_file = Some(file_ref(folder, name).unwrap());
        m.portable.clear();
    };
    check_refusal(Weights::Separate, cut, &["weights.safetensors", "damaged"]);
}

#[test]
fn without_a_device_for_it_the_cpu_may_take_over() {
    let rig = Rig::new("distilbert_classify", Weights::Inline, "");
    let trainium = ServingOptions {
        instance: Some("trn1.2xlarge".to_owned()),
        ..rig.options()
    };
    let refused = rig.refused(&trainium);
    assert!(
        refused.no_device() && refused.to_string().contains("inf2"),
        "{refused}"
    );
    let nowhere = ServingOptions {
        artifact: rig.artifact.path().join("neuron"),
        ..rig.options()
    };
    let missing = nowhere.check_folder().unwrap_err();
    assert!(
        missing.no_device() && missing.to_string().contains("koma export"),
        "{missing}"
    );
    for conf in [
        "nrt_load 9 0 0",
        "nrt_load 10 0 0",
        "nrt_tensor_allocate 4 0 0",
        "nrt_load 9 3 0",
    ] {
        let rig = Rig::new("distilbert_classify", Weights::Separate, conf);
        let refused = rig.refused(&rig.options());
        assert!(refused.no_device(), "{refused}");
    }
    let invalid = Rig::new("distilbert_classify", Weights::Inline, "nrt_load 2 0 0");
    assert!(!invalid.refused(&invalid.options()).no_device());
    for conf in ["nrt_init 1 0 0", "nrt_init 6 0 0", "cores 0"] {
        let fake = FakeNrt::new(conf);
        let error = Cores::start(Some(&fake.library())).err().unwrap();
        assert!(
            error.no_device() && error.to_string().contains("no Neuron device"),
            "{error}"
        );
    }
}
