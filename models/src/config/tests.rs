//! Fields, ranges, and the two spellings.

use super::chat::TokenFiles;
use super::modules::{Dense, Embedding, embedding, max_length, only_transformer, prompts};
use super::rope::{Rope, Scaling};
use super::{Json, head};
use crate::layers::pooling::Pooling;
use crate::{HeadKind, LoadError, Tokenizer};
use koma_kernels::Then;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn object(value: Value) -> Json {
    match value {
        Value::Object(map) => Json::new(Path::new("config.json"), map),
        other => panic!("{other} is no object"),
    }
}

/// A folder with these files.
fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    }
    folder
}

/// The error names `field`.
#[track_caller]
fn fails<T>(result: Result<T, LoadError>, field: &str) {
    let Err(error) = result else {
        panic!("{field} was accepted")
    };
    let message = error.to_string();
    assert!(message.contains(field), "`{field}` in: {message}");
}

#[test]
fn fields_are_read_in_their_ranges() {
    let config = object(json!({
        "n": 4, "negative": -1, "fraction": 1.5, "text": "4", "huge": 1u64 << 62, "nothing": null, "zero": 0.0
    }));
    assert_eq!(config.size("n", 1..=4).unwrap(), 4);
    assert_eq!(config.find_size("nothing", 1..=4).unwrap(), None);
    for field in ["negative", "fraction", "text", "huge", "nothing", "absent"] {
        fails(
            config.size(field, 1..=1 << 20),
            &format!("config.json: field `{field}`"),
        );
    }
    fails(config.size("n", 1..=3), "from 1 to 3, got 4");
    fails(config.positive("zero"), "`zero`");
    fails(config.bool_or("n", true), "`n`");
    fails(config.find_str("n"), "`n`");
}

#[test]
fn both_spellings_of_rope_mean_the_same() {
    let read = |value| Rope::read(&object(value));
    let llama3 = json!({
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32
    });
    let with = |extra: Value| {
        let mut all = llama3.clone();
        all.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        all
    };
    let new = json!({"rope_parameters": with(json!({"rope_type": "llama3", "rope_theta": 500.0}))});
    let old = json!({"rope_theta": 500.0, "rope_scaling": with(json!({"type": "llama3"}))});
    let table = read(new).unwrap().table(16, false);
    assert_eq!(table, read(old).unwrap().table(16, false));
    let plain = read(json!({"rope_theta": 500.0, "rope_scaling": null}))
        .unwrap()
        .table(16, false);
    assert_eq!(
        table.inv_freq[0], plain.inv_freq[0],
        "high frequencies stay"
    );
    assert_eq!(
        table.inv_freq[7],
        plain.inv_freq[7] / 8.0,
        "low ones are divided"
    );
    assert_eq!(read(json!({})).unwrap().theta, 10_000.0);

    let linear = |factor: f64| json!({"rope_type": "linear", "factor": factor});
    for (both, factor) in [
        (
            json!({"rope_scaling": linear(2.0), "rope_parameters": linear(3.0)}),
            2.0,
        ),
        (
            json!({"rope_scaling": {}, "rope_parameters": linear(3.0)}),
            3.0,
        ),
        (
            json!({"rope_scaling": null, "rope_parameters": linear(3.0), "partial_rotary_factor": 1}),
            3.0,
        ),
    ] {
        assert_eq!(read(both).unwrap().scaling, Scaling::Linear(factor));
    }
    let inside = json!({"rope_theta": 5.0, "rope_scaling": {"type": "default", "rope_theta": 7.0}});
    assert_eq!(read(inside).unwrap().theta, 7.0);
    fails(
        read(json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}})),
        "rope_scaling.type",
    );
    fails(
        read(json!({"rope_parameters": {"rope_type": "linear"}})),
        "rope_parameters.factor",
    );
    fails(
        read(json!({"rope_parameters": {"partial_rotary_factor": 0.5}})),
        "partial_rotary_factor",
    );
    fails(read(json!({"rope_theta": "much"})), "rope_theta");
    let upside_down = with(json!({"type": "llama3", "low_freq_factor": 4.0}));
    fails(
        read(json!({"rope_scaling": upside_down})),
        "rope_scaling.high_freq_factor",
    );
}

#[test]
fn yarn_reads_every_field_and_refuses_others() {
    let read = |value| Rope::read(&object(value));
    let with = |more: Value| {
        let mut inner =
            json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        let more = more.as_object().unwrap().clone();
        inner.as_object_mut().unwrap().extend(more);
        json!({"rope_scaling": inner})
    };
    let table = |value| read(value).unwrap().table(16, false);
    let usual = table(with(json!({})));
    let sharper = (0.1 * 4f64.ln() + 1.0) as f32;
    assert_eq!(usual.scale, sharper);
    let plain = table(json!({}));
    assert_eq!(usual.inv_freq[0], plain.inv_freq[0], "high ones stay");
    assert_eq!(
        usual.inv_freq[7],
        plain.inv_freq[7] / 4.0,
        "low ones do not"
    );
    assert_eq!(read(with(json!({}))).unwrap().window(), Some(256));
    assert_eq!(read(json!({})).unwrap().window(), None);
    for (more, same) in [
        (
            json!({"beta_fast": 32, "beta_slow": 1, "truncate": true}),
            true,
        ),
        (
            json!({"attention_factor": sharper, "finetuned": true}),
            true,
        ),
        (json!({"mscale": 1.0}), true),
        (json!({"factor": 2.0}), false),
        (json!({"original_max_position_embeddings": 512}), false),
        (json!({"beta_slow": 3}), false),
        (json!({"truncate": false}), false),
        (json!({"attention_factor": 1.0}), false),
        (json!({"mscale": 1.0, "mscale_all_dim": 0.5}), false),
    ] {
        assert_eq!(table(with(more.clone())) == usual, same, "{more}");
    }
    // The window before may stand beside, and be the only one.
    let mut beside = with(json!({"original_max_position_embeddings": null}));
    fails(
        read(beside.clone()),
        "rope_scaling.original_max_position_embeddings",
    );
    beside["max_position_embeddings"] = json!(64);
    assert_eq!(table(beside.clone()), usual);
    beside["original_max_position_embeddings"] = json!(32);
    assert_ne!(table(beside), usual);
    for (more, field) in [
        (
            json!({"extrapolation_factor": 1.0}),
            "rope_scaling.extrapolation_factor",
        ),
        (json!({"factor": null}), "rope_scaling.factor"),
        (json!({"factor": -1}), "rope_scaling.factor"),
        (json!({"beta_fast": 1}), "rope_scaling.beta_fast"),
        (json!({"truncate": 1}), "rope_scaling.truncate"),
        (
            json!({"mscale": "x", "mscale_all_dim": 1.0}),
            "rope_scaling.mscale",
        ),
        (json!({"rope_theta": 1.0}), "rope_scaling.rope_theta"),
    ] {
        fails(read(with(more)), field);
    }
}

#[test]
fn the_head_follows_problem_type_labels_and_activation() {
    let identity = "torch.nn.modules.linear.Identity";
    let sigmoid = "torch.nn.modules.activation.Sigmoid";
    let empty = folder(&[]);
    let now = folder(&[(
        "config_sentence_transformers.json",
        json!({"activation_fn": identity}),
    )]);
    let score = |sigmoid| HeadKind::Score { sigmoid };
    let one = json!({"0": "LABEL_0"});
    let cases = [
        (&empty, json!({}), HeadKind::SingleLabel),
        (&now, json!({}), HeadKind::SingleLabel),
        (&empty, json!({"num_labels": 1}), score(true)),
        (&empty, json!({"id2label": one}), score(true)),
        (&now, json!({"id2label": one}), score(false)),
        (
            &empty,
            json!({"id2label": one, "sbert_ce_default_activation_function": identity}),
            score(false),
        ),
        (
            &empty,
            json!({"id2label": one, "sentence_transformers": {"activation_fn": identity}}),
            score(false),
        ),
        (
            &empty,
            json!({"id2label": one, "sentence_transformers": {"activation_fn": sigmoid}}),
            score(true),
        ),
        (
            &empty,
            json!({"id2label": one, "problem_type": "regression"}),
            HeadKind::Regression,
        ),
        (
            &now,
            json!({"id2label": one, "problem_type": "regression"}),
            score(false),
        ),
        (
            &empty,
            json!({"sentence_transformers": {"activation_fn": sigmoid}}),
            HeadKind::MultiLabel,
        ),
        (
            &empty,
            json!({"problem_type": "multi_label_classification"}),
            HeadKind::MultiLabel,
        ),
        (
            &empty,
            json!({"problem_type": "single_label_classification"}),
            HeadKind::SingleLabel,
        ),
    ];
    for (folder, config, kind) in cases {
        let head = head::read(folder.path(), &object(config.clone())).unwrap();
        assert_eq!(head.kind, kind, "{config}");
    }
    let many = json!({"id2label": {"10": "k", "2": "c", "0": "a", "1": "b", "3": "d", "4": "e", "5": "f", "6": "g", "7": "h", "8": "i", "9": "j"}});
    let labels = head::read(empty.path(), &object(many)).unwrap().labels;
    assert_eq!(labels.concat(), "abcdefghijk", "by number, not by text");

    for (config, field) in [
        (json!({"problem_type": "guessing"}), "problem_type"),
        (json!({"id2label": {"0": "a", "2": "b"}}), "id2label.2"),
        (json!({"id2label": {"0": "a", "1": 5}}), "id2label.1"),
        (json!({"id2label": {}}), "id2label"),
        (json!({"id2label": one, "num_labels": 3}), "id2label"),
        (
            json!({"sbert_ce_default_activation_function": "torch.nn.Tanh"}),
            "sbert_ce_default_activation_function",
        ),
    ] {
        fails(head::read(empty.path(), &object(config)), field);
    }
}

fn modules(kinds: &[&str]) -> Value {
    let list = kinds.iter().enumerate().map(|(i, kind)| {
        let path = if i == 0 { String::new() } else { format!("{i}_{kind}") };
        json!({"idx": i, "name": "x", "path": path, "type": format!("sentence_transformers.models.{kind}")})
    });
    list.collect()
}

#[test]
fn poolings_are_read_in_both_spellings() {
    let bare = folder(&[]);
    let default = embedding(bare.path(), 8).unwrap();
    let plain = Embedding {
        poolings: vec![Pooling::Mean],
        include_prompt: true,
        dense: Vec::new(),
        normalize: false,
    };
    assert_eq!(default, plain);
    for (config, poolings) in [
        (
            json!({"pooling_mode": "lasttoken", "embedding_dimension": 8}),
            vec![Pooling::Last],
        ),
        (json!({"pooling_mode": ["cls"]}), vec![Pooling::Cls]),
        (
            json!({"pooling_mode": ["weightedmean", "max", "weightedmean"]}),
            vec![Pooling::WeightedMean, Pooling::Max, Pooling::WeightedMean],
        ),
        (json!({}), vec![Pooling::Mean]),
        (
            json!({"pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": true}),
            vec![Pooling::Max],
        ),
        (
            json!({
                "pooling_mode_lasttoken": true, "pooling_mode_weightedmean_tokens": true, "pooling_mode_max_tokens": true,
                "pooling_mode_mean_sqrt_len_tokens": true, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true
            }),
            vec![
                Pooling::Cls,
                Pooling::Max,
                Pooling::Mean,
                Pooling::MeanSqrtLen,
                Pooling::WeightedMean,
                Pooling::Last,
            ],
        ),
    ] {
        let files = [
            (
                "modules.json",
                modules(&["Transformer", "Pooling", "Normalize"]),
            ),
            ("1_Pooling/config.json", config),
        ];
        let read = embedding(folder(&files).path(), 8).unwrap();
        let normalize = true;
        let expected = Embedding {
            poolings,
            normalize,
            ..plain.clone()
        };
        assert_eq!(read, expected);
    }
    for (config, field) in [
        (json!({"pooling_mode": "cls+mean"}), "pooling_mode"),
        (json!({"pooling_mode": ["cls", "sum"]}), "pooling_mode"),
        (json!({"pooling_mode": []}), "pooling_mode"),
        (json!({"include_prompt": 1}), "include_prompt"),
        (
            json!({"pooling_mode_cls_token": true}),
            "pooling_mode_mean_tokens",
        ),
        (json!({"pooling_mode_mean_tokens": false}), "pooling_mode"),
        (
            json!({"word_embedding_dimension": 4}),
            "word_embedding_dimension",
        ),
    ] {
        let files = [
            ("modules.json", modules(&["Transformer", "Pooling"])),
            ("1_Pooling/config.json", config),
        ];
        fails(embedding(folder(&files).path(), 8), field);
    }
}

#[test]
fn other_modules_are_named() {
    for (kinds, named) in [
        (&["Transformer", "Dense", "Pooling"][..], "Dense"),
        (&["Transformer", "Pooling", "LayerNorm"], "LayerNorm"),
        (&["Transformer", "Pooling", "Normalize", "Dense"], "Dense"),
        (&["Transformer", "WordWeights"], "WordWeights"),
        (&["BoW"], "BoW"),
        (&["Transformer"], "Pooling"),
        (&[], "empty"),
    ] {
        let files = [
            ("modules.json", modules(kinds)),
            ("1_Pooling/config.json", json!({})),
        ];
        fails(embedding(folder(&files).path(), 8), named);
    }
    let extra = folder(&[("modules.json", modules(&["Transformer", "Dense"]))]);
    fails(only_transformer(extra.path()), "Dense");
    let outside = json!([
        {"path": "", "type": "Transformer"}, {"path": "../other", "type": "Pooling"}
    ]);
    fails(
        embedding(folder(&[("modules.json", outside)]).path(), 8),
        "../other",
    );
    let prompted = folder(&[(
        "config_sentence_transformers.json",
        json!({"default_prompt_name": "query"}),
    )]);
    fails(only_transformer(prompted.path()), "default_prompt_name");
}

#[test]
fn prompts_are_read_and_the_default_is_one_of_them() {
    let read = |config| {
        let files = folder(&[("config_sentence_transformers.json", config)]);
        prompts(files.path(), false)
    };
    let all =
        json!({"prompts": {"query": "query: ", "passage": null}, "default_prompt_name": "query"});
    let all = read(all).unwrap();
    assert_eq!(all.named["query"], "query: ");
    assert_eq!(all.named["passage"], "");
    assert_eq!((all.default.as_deref(), all.pooled), (Some("query"), false));
    let none = prompts(folder(&[]).path(), true).unwrap();
    assert!(none.named.is_empty() && none.default.is_none() && none.pooled);
    let bare = json!({"prompts": {}, "default_prompt_name": null});
    assert!(read(bare).unwrap().named.is_empty());
    for (config, field) in [
        (json!({"prompts": {"query": 5}}), "prompts.query"),
        (json!({"prompts": ["query: "]}), "prompts"),
        (
            json!({"prompts": {"query": "q"}, "default_prompt_name": "passage"}),
            "default_prompt_name",
        ),
    ] {
        fails(read(config), field);
    }
}

#[test]
fn dense_modules_follow_one_another() {
    let read = |configs: &[Value]| {
        let kinds = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"];
        let mut files = vec![
            ("modules.json", modules(&kinds)),
            (
                "1_Pooling/config.json",
                json!({"pooling_mode": ["cls", "max"]}),
            ),
        ];
        let names = ["2_Dense/config.json", "3_Dense/config.json"];
        files.extend(names.into_iter().zip(configs.iter().cloned()));
        embedding(folder(&files).path(), 8)
    };
    let first = json!({"in_features": 16, "out_features": 5});
    let second = json!({
        "in_features": 5, "out_features": 3, "bias": false, "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "sentence_embedding", "module_output_name": null, "use_residual": false
    });
    let good = read(&[first.clone(), second.clone()]).unwrap();
    let dense = |path: &str, inputs, outputs, (bias, then)| Dense {
        path: path.into(),
        inputs,
        outputs,
        bias,
        then,
    };
    assert!(good.normalize);
    assert_eq!(
        good.dense,
        [
            dense("2_Dense", 16, 5, (true, Then::Tanh)),
            dense("3_Dense", 5, 3, (false, Then::Store)),
        ]
    );
    for (field, value) in [
        ("in_features", json!(6)),
        ("out_features", json!(0)),
        ("bias", json!("no")),
        (
            "activation_function",
            json!("torch.nn.modules.activation.Softplus"),
        ),
        ("module_input_name", json!("token_embeddings")),
        ("module_output_name", json!("other")),
        ("use_residual", json!(true)),
    ] {
        let mut wrong = second.clone();
        wrong[field] = value;
        fails(read(&[first.clone(), wrong]), field);
    }
}

#[test]
fn length_limits() {
    let limit = |value| max_length(folder(&[("sentence_bert_config.json", value)]).path(), None);
    assert_eq!(
        limit(json!({"max_seq_length": 256, "do_lower_case": false})).unwrap(),
        Some(256)
    );
    assert_eq!(limit(json!({"max_seq_length": null})).unwrap(), None);
    fails(limit(json!({"max_seq_length": 0})), "max_seq_length");
    fails(limit(json!({"do_lower_case": true})), "do_lower_case");
    for (value, expected) in [
        (json!(512), Some(512)),
        (json!(1e30), None),
        (json!(null), None),
    ] {
        let files = folder(&[("tokenizer_config.json", json!({"model_max_length": value}))]);
        let read = TokenFiles::read(files.path())
            .unwrap()
            .max_length()
            .unwrap();
        assert_eq!(read, expected);
    }
}

/// A number that is 0 or infinite where it is computed with.
#[test]
fn numbers_that_f32_cannot_hold_are_refused() {
    for value in [json!(1e-60), json!(1e60), json!(0.0), json!(-1.0)] {
        let json = object(json!({"rms_norm_eps": value}));
        fails(json.positive_or("rms_norm_eps", 1.0), "rms_norm_eps");
        fails(json.positive("rms_norm_eps"), "rms_norm_eps");
    }
    let json = object(json!({"rms_norm_eps": 1e-12}));
    assert_eq!(json.positive("rms_norm_eps").unwrap(), 1e-12);
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
        .join("model")
}

#[test]
fn templates_tokens_and_end_ids_come_from_any_of_their_files() {
    let tokenizer = Tokenizer::from_file(&golden("llama").join("tokenizer.json")).unwrap();
    let chat = |files: &[(&str, Value)], config: Value| {
        let folder = folder(files);
        let read = TokenFiles::read(folder.path())?;
        read.chat(folder.path(), &object(config), &tokenizer, 320)
    };
    let named = json!([{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]);
    let tokens = json!({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "<|im_end|>", "chat_template": named});
    let both = chat(
        &[
            ("tokenizer_config.json", tokens.clone()),
            ("generation_config.json", json!({"eos_token_id": [2, 0]})),
        ],
        json!({"eos_token_id": 5}),
    )
    .unwrap();
    assert_eq!(
        (both.bos_token.as_str(), both.eos_token.as_str()),
        ("<s>", "<|im_end|>")
    );
    assert_eq!(
        (both.template.as_deref(), both.eos_ids),
        (Some("D"), vec![2, 0])
    );
    let file = chat(
        &[
            ("tokenizer_config.json", tokens.clone()),
            ("chat_template.json", json!({"chat_template": "J"})),
        ],
        json!({"eos_token_id": 5}),
    )
    .unwrap();
    assert_eq!(
        (file.template.as_deref(), file.eos_ids),
        (Some("J"), vec![5, tokenizer.id("<|im_end|>").unwrap()]),
        "the tokenizer's end token is one whatever the files list"
    );
    let token = chat(
        &[("tokenizer_config.json", tokens)],
        json!({"eos_token_id": null}),
    )
    .unwrap();
    assert_eq!(token.eos_ids, [tokenizer.id("<|im_end|>").unwrap()]);

    let elsewhere = chat(
        &[
            ("tokenizer_config.json", json!({"bos_token": "<a>"})),
            (
                "special_tokens_map.json",
                json!({"bos_token": "<b>", "eos_token": {"content": "<|im_end|>"}}),
            ),
        ],
        json!({}),
    )
    .unwrap();
    assert_eq!(
        (elsewhere.bos_token.as_str(), elsewhere.eos_token.as_str()),
        ("<a>", "<|im_end|>")
    );

    fails(chat(&[], json!({"eos_token_id": 320})), "eos_token_id");
    fails(chat(&[], json!({"eos_token_id": "end"})), "eos_token_id");
    let nameless = json!({"chat_template": [{"name": "tool", "template": "T"}]});
    fails(
        chat(&[("tokenizer_config.json", nameless)], json!({})),
        "chat_template",
    );
}
