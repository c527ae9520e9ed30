//! The decoders beside Llama: from folders and from GGUF files, with what each adds misread as its control.

use crate::decoders::{LOGITS, check, last_logits};
use crate::{edited, open};
use koma_kernels::GroupKind;
use koma_models::gguf::Gguf;
use koma_models::{Dtype, LoadOptions, Source, load, outline};
use koma_tests::forward::decoder;
use koma_tests::golden::Case;
use serde_json::{Value, json};

/// Name of the case, and the cache groups of the model: window (0: none) and layers of each.
pub(crate) const CASES: [(&str, &[(usize, usize)]); 17] = [
    ("mistral", &[(13, 2)]),
    ("mistral_full", &[(0, 2)]),
    ("qwen2", &[(0, 2)]),
    ("qwen2_yarn", &[(0, 2)]),
    ("qwen2_yarn_betas", &[(0, 2)]),
    ("qwen2_window", &[(0, 1), (13, 2)]),
    ("qwen3", &[(0, 2)]),
    ("gemma2", &[(0, 1), (13, 2)]),
    ("gemma3", &[(0, 1), (13, 3)]),
    ("gemma3_old", &[(0, 1), (13, 6)]),
    ("gemma3_pictures", &[(0, 1), (13, 1)]),
    ("phi3", &[(13, 2)]),
    ("phi3_longrope", &[(0, 2)]),
    ("llama_biases", &[(0, 2)]),
    ("qwen3_biases", &[(0, 2)]),
    ("gemma2_biases", &[(0, 1), (13, 1)]),
    ("gemma3_biases", &[(0, 1), (13, 1)]),
];

#[test]
fn folders_match_transformers() {
    for (name, groups) in CASES {
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        let made = decoder(&loaded).cache_groups();
        let made: Vec<_> = made
            .into_iter()
            .map(|group| match group.kind {
                GroupKind::Full(_) => (0, group.layers),
                GroupKind::Sliding { window, .. } => (window, group.layers),
                GroupKind::Recurrent { .. } => panic!("{name}: no layer has a state"),
            })
            .collect();
        assert_eq!(made, groups, "{name}: cache groups");
        let source = Source::Folder(case.model());
        let options = LoadOptions {
            dtype: Dtype::F32,
            ..LoadOptions::default()
        };
        // What is known before loading is what was loaded.
        assert_eq!(
            outline(&source, &options).unwrap(),
            loaded.outline(),
            "{name}"
        );
        check(&loaded, &case, &case.json, "");
        let stored = open(&case.model(), Dtype::Auto).unwrap();
        assert!(stored.weight_bytes < loaded.weight_bytes, "{name}");
    }
}

#[test]
fn gguf_files_match_transformers() {
    let mut architectures = Vec::new();
    for (name, _) in CASES {
        let case = Case::read(name);
        let path = case.folder.join("model.gguf");
        if !path.exists() {
            continue;
        }
        let loaded = open(&path, Dtype::F32).unwrap();
        assert_eq!(loaded.identity.architecture, case.json["architecture"]);
        // Where a file cannot say what the folder does, it has answers of its own.
        match &case.json["gguf"] {
            Value::Null => check(&loaded, &case, &case.json, ""),
            own => check(&loaded, &case, own, "gguf."),
        }
        architectures.push(loaded.identity.architecture);
    }
    architectures.dedup();
    assert_eq!(
        architectures.join(" "),
        "MistralForCausalLM Qwen2ForCausalLM Qwen3ForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM Phi3ForCausalLM LlamaForCausalLM"
    );
}

/// `LongRoPE` has other factors for longer requests: they hold for all of them where longer ones were asked for.
#[test]
fn a_longer_limit_takes_the_factors_for_it() {
    let case = Case::read("phi3_longrope_long");
    for path in [case.model(), case.folder.join("model.gguf")] {
        let source = Source::parse(path.to_str().unwrap()).unwrap();
        let asked = |max_len| LoadOptions {
            dtype: Dtype::F32,
            max_len,
            ..LoadOptions::default()
        };
        for limit in [17, 512, 9999] {
            let long = load(&source, &asked(Some(limit))).unwrap();
            check(&long, &case, &case.json, "");
            assert_eq!(long.limits.max_len, 512);
            let known = outline(&source, &asked(Some(limit))).unwrap();
            assert_eq!(known, long.outline());
        }
        for limit in [None, Some(16)] {
            let short = load(&source, &asked(limit)).unwrap();
            assert_eq!(short.limits.max_len, 16);
            let off = last_logits(&short, &case, &case.json, "");
            assert!(off > 10.0 * LOGITS, "logits move by {off:e} only");
        }
    }
}

/// The scaling of Llama 3 is a tensor in these files: what each frequency is divided by.
#[test]
fn a_gguf_file_with_a_tensor_of_frequencies_matches_its_folder() {
    let case = Case::read("llama3_rope");
    let path = koma_tests::golden::root().join("gguf_rope_freqs/model.gguf");
    check(&open(&path, Dtype::F32).unwrap(), &case, &case.json, "");
    // The control: multiplied instead, which is divided by the inverse.
    let mut bytes = std::fs::read(&path).unwrap();
    let gguf = Gguf::parse(&path, &bytes).unwrap();
    let factors = bytes[gguf.tensors["rope_freqs.weight"].range.clone()].chunks_exact_mut(4);
    factors.for_each(|b| {
        let factor = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        b.copy_from_slice(&(1.0 / factor).to_le_bytes());
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inverse.gguf");
    std::fs::write(&path, bytes).unwrap();
    let off = last_logits(&open(&path, Dtype::F32).unwrap(), &case, &case.json, "");
    assert!(off > 10.0 * LOGITS, "logits move by {off:e} only");
}

/// The negative controls: each field that a family adds, with another value, is far outside of the tolerance.
#[test]
fn a_misread_field_is_noticed() {
    let full = json!({"rope_type": "default", "rope_theta": 1e6});
    let cases = [
        ("mistral", "sliding_window", json!(14)),
        ("mistral", "sliding_window", Value::Null),
        ("mistral_full", "sliding_window", json!(13)),
        ("qwen2", "rope_theta", json!(9e5)),
        ("qwen2_yarn", "rope_scaling", Value::Null),
        (
            "qwen2_yarn",
            "rope_scaling",
            json!({"type": "linear", "factor": 4.0}),
        ),
        ("qwen2_window", "max_window_layers", json!(2)),
        ("qwen2_window", "use_sliding_window", json!(false)),
        ("qwen3", "rms_norm_eps", json!(1e-3)),
        ("gemma2", "attn_logit_softcapping", Value::Null),
        ("gemma2", "final_logit_softcapping", Value::Null),
        ("gemma2", "query_pre_attn_scalar", json!(20)),
        ("gemma2", "sliding_window", json!(12)),
        (
            "gemma3",
            "rope_parameters",
            json!({"full_attention": full, "sliding_attention": full}),
        ),
        ("gemma3_old", "rope_local_base_freq", json!(2e4)),
        ("gemma3_old", "sliding_window_pattern", json!(3)),
        ("phi3", "sliding_window", json!(12)),
        (
            "phi3_longrope",
            "original_max_position_embeddings",
            json!(64),
        ),
    ];
    for (name, field, value) in cases {
        let case = Case::read(name);
        let folder = edited(&case.model(), |config| config[field] = value);
        let loaded = open(folder.path(), Dtype::F32).unwrap();
        let off = last_logits(&loaded, &case, &case.json, "");
        assert!(
            off > 10.0 * LOGITS,
            "{name}: {field} moves logits by {off:e} only"
        );
    }
}

/// `YaRN` is for a window several times as long as the one that files may name.
#[test]
fn a_window_made_longer_is_served() {
    let case = Case::read("qwen2_yarn");
    let limits = |path: &std::path::Path| open(path, Dtype::F32).unwrap().limits.max_len;
    assert_eq!(limits(&case.model()), 256);
    assert_eq!(limits(&case.folder.join("model.gguf")), 256);
    let named = edited(&case.model(), |config| {
        config["max_position_embeddings"] = json!(1000);
    });
    assert_eq!(limits(named.path()), 1000);
    let plain = edited(&case.model(), |config| config["rope_scaling"] = Value::Null);
    assert_eq!(limits(plain.path()), 64);
}

/// A field that asks for something else than what is computed is refused by its name.
#[test]
fn what_cannot_be_computed_is_refused() {
    let dynamic = json!({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0});
    let cases = [
        (
            "mistral",
            "layer_types",
            json!(["full_attention", "full_attention"]),
        ),
        ("mistral", "hidden_act", json!("gelu")),
        ("qwen2_window", "layer_types", json!(["chunked_attention"])),
        (
            "qwen2_window",
            "layer_types",
            json!(["chunked_attention", "", ""]),
        ),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
        ),
        ("qwen2", "rope_scaling", dynamic.clone()),
        ("gemma2", "use_bidirectional_attention", json!(true)),
        ("gemma2", "hidden_activation", json!("relu")),
        ("gemma2", "sliding_window", Value::Null),
        ("gemma2", "attn_logit_softcapping", json!(-1)),
        ("gemma3", "attn_logit_softcapping", json!(50.0)),
        ("gemma3", "rope_parameters", dynamic),
        (
            "phi3",
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
        ),
        ("phi3", "partial_rotary_factor", json!(0.05)),
        (
            "phi3_longrope",
            "rope_parameters",
            json!({"type": "su", "long_factor": [1.0]}),
        ),
    ];
    for (name, field, value) in cases {
        let edit = |config: &mut Value| {
            config
                .as_object_mut()
                .unwrap()
                .insert(field.to_owned(), value);
            if field == "partial_rotary_factor" {
                config["rope_parameters"] = Value::Null;
            }
        };
        let folder = edited(&Case::read(name).model(), edit);
        let Err(error) = open(folder.path(), Dtype::F32) else {
            panic!("{name}: {field} was accepted")
        };
        let message = error.to_string();
        assert!(message.contains(field), "{name}: {field} in: {message}");
    }
}

/// Embedders that are made of a decoder (Qwen3-Embedding) have its architecture, and modules that say what they are.
#[test]
fn an_embedder_made_of_a_decoder_is_refused() {
    let folder = edited(&Case::read("qwen3").model(), |_| {});
    let module = |name: &str, path: &str| json!({"type": format!("sentence_transformers.models.{name}"), "path": path});
    let modules = folder.path().join("modules.json");
    let write = |list: Value| std::fs::write(&modules, list.to_string()).unwrap();
    write(json!([
        module("Transformer", ""),
        module("Pooling", "1_Pooling")
    ]));
    let error = open(folder.path(), Dtype::F32).map(|_| ()).unwrap_err();
    for word in ["modules.json", "Pooling"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    write(json!([module("Transformer", "")]));
    open(folder.path(), Dtype::F32).unwrap();
}

/// The spelling of the released Phi-3 files means the same as today's.
#[test]
fn older_long_rope_means_the_same() {
    let case = Case::read("phi3_longrope");
    let folder = edited(&case.model(), |config| {
        let fields = config.as_object_mut().unwrap();
        let mut rope = fields.remove("rope_parameters").unwrap();
        let inner = rope.as_object_mut().unwrap();
        for moved in ["rope_theta", "partial_rotary_factor"] {
            fields.insert(moved.to_owned(), inner.remove(moved).unwrap());
        }
        inner.retain(|name, _| name.ends_with("_factor"));
        inner.insert("type".to_owned(), "su".into());
        fields.insert("rope_scaling".to_owned(), rope);
    });
    let loaded = open(folder.path(), Dtype::F32).unwrap();
    let off = last_logits(&loaded, &case, &case.json, "");
    assert!(off <= LOGITS, "logits are off by {off:e}");
}

/// `LongRoPE` has other frequencies for longer requests, so these are not admitted.
#[test]
fn long_rope_bounds_the_window() {
    let case = Case::read("phi3_longrope");
    for path in [case.model(), case.folder.join("model.gguf")] {
        let loaded = open(&path, Dtype::F32).unwrap();
        assert_eq!(loaded.limits.max_len, 128);
    }
}
