//! BERT, `DistilBERT`, `RoBERTa`, XLM-RoBERTa, `ModernBERT`: classifiers, cross-encoders, embedders.

use crate::decoders::same_bits;
use crate::{edited, layers, open};
use koma_kernels::Isa;
use koma_models::{Dtype, HeadKind, Loaded, Workspace};
use koma_tests::forward::{Input, encode, encode_traced, encoder};
use koma_tests::golden::{self, Case, apart, ids, worst};
use serde_json::Value;

/// Of hidden states and logits.
const HIDDEN: f32 = 1e-4;
/// Of scores and embeddings, absolute: the only score of a text has nothing beside it to be a share of.
const SCORES: f32 = 1e-5;
const CLASSIFIERS: [&str; 20] = [
    "bert_classify",
    "bert_cross",
    "bert_cross_labels",
    "bert_cross_now",
    "bert_cross_old",
    "bert_gelu_tanh",
    "bert_multilabel",
    "bert_regression",
    "distilbert_classify",
    "distilbert_multilabel",
    "modernbert_biases",
    "modernbert_classify",
    "modernbert_cross",
    "modernbert_mean",
    "quant_bert_fp8",
    "quant_bert_int8",
    "roberta_classify",
    "roberta_cross",
    "xlm_roberta_classify",
    "xlm_roberta_cross",
];
const EMBEDDERS: [&str; 8] = [
    "bert_embed_cls",
    "bert_embed_last",
    "bert_embed_max",
    "bert_embed_mean",
    "distilbert_embed_mean",
    "modernbert_embed_mean",
    "roberta_embed_mean",
    "xlm_roberta_embed_cls",
];

pub(crate) fn inputs(case: &Case) -> Vec<Input> {
    let inputs = case.json["inputs"].as_array().unwrap().iter();
    inputs
        .map(|i| (ids(&i["ids"]), ids(&i["type_ids"])))
        .collect()
}

/// The inputs that fit: longer ones are there for other tests.
fn fitting(case: &Case, loaded: &Loaded) -> Vec<(usize, Input)> {
    let all = inputs(case).into_iter().enumerate();
    all.filter(|(_, (ids, _))| ids.len() <= loaded.limits.max_len)
        .collect()
}

/// The largest difference of raw rows and of final rows over all inputs, packed into one batch.
pub(crate) fn rows_off(case: &Case, loaded: &Loaded, raw: Option<&str>, last: &str) -> (f32, f32) {
    let inputs = fitting(case, loaded);
    assert!(!inputs.is_empty());
    let packed: Vec<Input> = inputs.iter().map(|(_, input)| input.clone()).collect();
    let rows = encode(encoder(loaded), &packed);
    let (mut worst_raw, mut worst_last) = (0f32, 0f32);
    for ((i, _), mut row) in inputs.into_iter().zip(rows) {
        if let Some(raw) = raw {
            // A share of the largest of all inputs' logits: the only logit of a text may be next to nothing.
            let tensor = case.tensor(raw);
            let largest = tensor.values.iter().fold(0f32, |m, v| m.max(v.abs()));
            worst_raw = worst_raw.max(apart(&row, tensor.row(i)) / largest);
        }
        loaded.head.as_ref().unwrap().activate(&mut row);
        worst_last = worst_last.max(apart(&row, case.tensor(last).row(i)));
    }
    (worst_raw, worst_last)
}

pub(crate) fn hidden_states(case: &Case, loaded: &Loaded) {
    let which = case.json["hidden_states_of"].as_u64().unwrap() as usize;
    let inputs = &inputs(case)[which..=which];
    let work = encode_traced(encoder(loaded), inputs, Workspace::traced());
    let states = work.trace.unwrap();
    assert_eq!(states.len(), layers(&case.model()) + 1, "hidden states");
    for (layer, state) in states.iter().enumerate() {
        let off = worst(
            state.as_slice(),
            &case.tensor(&format!("hidden.{layer}")).values,
        );
        assert!(off <= HIDDEN, "layer {layer} is off by {off:e}");
    }
}

/// Alone, in another order, and without segments where they are all 0: the same bits.
pub(crate) fn batching(case: &Case, loaded: &Loaded) {
    let inputs: Vec<Input> = fitting(case, loaded).into_iter().map(|(_, i)| i).collect();
    let packed = encode(encoder(loaded), &inputs);
    let turned: Vec<Input> = inputs.iter().rev().cloned().collect();
    let turned = encode(encoder(loaded), &turned);
    for (i, (ids, types)) in inputs.iter().enumerate() {
        let alone = encode(encoder(loaded), &[(ids.clone(), types.clone())]);
        assert!(same_bits(&alone[0], &packed[i]), "input {i} alone");
        let other = &turned[inputs.len() - 1 - i];
        assert!(same_bits(other, &packed[i]), "input {i} in another order");
        if types.iter().all(|t| *t == 0) {
            let bare = encode(encoder(loaded), &[(ids.clone(), Vec::new())]);
            assert!(
                same_bits(&bare[0], &packed[i]),
                "input {i} without segments"
            );
        }
    }
}

#[test]
fn classifiers_match_transformers() {
    for name in CLASSIFIERS {
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        let head = loaded.head.as_ref().unwrap();
        let labels: Vec<&str> = case.json["labels"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(head.labels, labels, "{name}");
        assert_eq!(loaded.limits.max_len as u64, case.json["limit"], "{name}");
        let (raw, scores) = rows_off(&case, &loaded, Some("logits"), "scores");
        assert!(raw <= HIDDEN, "{name}: logits are off by {raw:e}");
        assert!(scores <= SCORES, "{name}: scores are off by {scores:e}");
        hidden_states(&case, &loaded);
        batching(&case, &loaded);
    }
}

#[test]
fn embedders_match_sentence_transformers() {
    for name in EMBEDDERS {
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        let normalize = case.json["normalize"].as_bool().unwrap();
        assert_eq!(
            loaded.head.as_ref().unwrap().kind,
            HeadKind::Embed { normalize }
        );
        let limit = case.json["limit"].as_u64().unwrap() as usize;
        assert_eq!(loaded.limits.max_len, limit, "{name}");
        let (_, off) = rows_off(&case, &loaded, None, "embeddings");
        assert!(off <= SCORES, "{name}: embeddings are off by {off:e}");
        hidden_states(&case, &loaded);
        batching(&case, &loaded);

        let cut = ids(&case.json["too_long"]["truncated_ids"]);
        assert_eq!(cut.len(), limit);
        let mut row = encode(encoder(&loaded), &[(cut, Vec::new())]).remove(0);
        loaded.head.as_ref().unwrap().activate(&mut row);
        let off = apart(&row, &case.tensor("too_long").values);
        assert!(
            off <= SCORES,
            "{name}: the text cut to the limit is off by {off:e}"
        );
    }
}

/// What int8 may cost these tiny models, as a share of the largest value: their rows of some random values are rougher than a
/// trained model's. Paths sum in other orders, which rounds other activations: without AVX-512 the worst model costs 0.111.
fn int8_bound() -> f32 {
    if Isa::detect() == Isa::Avx512 {
        0.1
    } else {
        0.12
    }
}

#[test]
fn int8_is_near_transformers() {
    for name in CLASSIFIERS.into_iter().chain(EMBEDDERS) {
        let case = Case::read(name);
        if name.starts_with("quant_") {
            continue;
        }
        let last = if EMBEDDERS.contains(&name) {
            "embeddings"
        } else {
            "scores"
        };
        let values = &case.tensor(last).values;
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = |dtype| {
            let loaded = open(&case.model(), dtype).unwrap();
            let (_, off) = rows_off(&case, &loaded, None, last);
            (loaded, off / largest)
        };
        let (loaded, rough) = off(Dtype::Int8);
        assert!(rough <= int8_bound(), "{name} is off by {rough:e}");
        let (_, exact) = off(Dtype::F32);
        assert!(rough > exact, "{name}: {rough:e} is not int8");
        batching(&case, &loaded);
    }
}

#[test]
fn int8_is_refused_for_what_generates() {
    for model in [
        Case::read("llama").model(),
        golden::root().join("gguf_blocks/llama-q4_1.gguf"),
    ] {
        let message = open(&model, Dtype::Int8).err().unwrap().to_string();
        for part in ["int8 is for encoders", "Q8_0", "bf16"] {
            assert!(message.contains(part), "{message}");
        }
    }
}

/// The negative control: the other form of GELU, another epsilon, another activation of the score.
#[test]
fn a_wrong_detail_is_noticed() {
    let theta = |kind: &str, theta: f64| {
        let mut both = serde_json::json!({
            "full_attention": {"rope_type": "default", "rope_theta": 160_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}
        });
        both[kind]["rope_theta"] = theta.into();
        both
    };
    let cases: [(&str, &str, Value); 17] = [
        ("roberta_classify", "pad_token_id", 0.into()),
        ("roberta_classify", "layer_norm_eps", 1e-2.into()),
        ("xlm_roberta_cross", "pad_token_id", 0.into()),
        ("modernbert_classify", "local_attention", 6.into()),
        (
            "modernbert_classify",
            "rope_parameters",
            theta("full_attention", 500.0),
        ),
        (
            "modernbert_classify",
            "rope_parameters",
            theta("sliding_attention", 50.0),
        ),
        ("modernbert_classify", "classifier_pooling", "mean".into()),
        ("modernbert_mean", "local_rope_theta", 50.0.into()),
        ("modernbert_mean", "global_attn_every_n_layers", 2.into()),
        ("modernbert_biases", "hidden_activation", "gelu".into()),
        ("modernbert_biases", "classifier_activation", "relu".into()),
        ("bert_classify", "hidden_act", "gelu_new".into()),
        ("bert_gelu_tanh", "hidden_act", "gelu".into()),
        ("distilbert_classify", "activation", "gelu_new".into()),
        ("bert_classify", "layer_norm_eps", 1e-5.into()),
        (
            "bert_multilabel",
            "problem_type",
            "single_label_classification".into(),
        ),
        (
            "bert_cross_old",
            "sbert_ce_default_activation_function",
            "torch.nn.Sigmoid".into(),
        ),
    ];
    for (name, field, value) in cases {
        let case = Case::read(name);
        let folder = edited(&case.model(), |config| config[field] = value);
        let loaded = open(folder.path(), Dtype::F32).unwrap();
        let (_, off) = rows_off(&case, &loaded, Some("logits"), "scores");
        assert!(
            off > 3.0 * SCORES,
            "{name}: {field} moves scores by {off:e} only"
        );
    }
}

/// The negative control of segments: a pair without them is another answer.
#[test]
fn segments_matter() {
    let case = Case::read("bert_cross_old");
    let loaded = open(&case.model(), Dtype::F32).unwrap();
    let (ids, types) = inputs(&case).remove(0);
    assert!(types.contains(&1));
    let row = encode(encoder(&loaded), &[(ids, Vec::new())]).remove(0);
    assert!(worst(&row, case.tensor("logits").row(0)) > 1e-2);
}

/// A template whose segments the model has no rows for is refused at load, by name.
#[test]
fn segments_beyond_the_table_are_refused() {
    let case = Case::read("bert_cross");
    let folder = edited(&case.model(), |_| {});
    let path = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    for kind in ["single", "pair"] {
        let mut changed = file.clone();
        let parts = changed["post_processor"][kind].as_array_mut().unwrap();
        let last = parts.last_mut().unwrap().as_object_mut().unwrap();
        last.values_mut().next().unwrap()["type_id"] = 2.into();
        std::fs::write(&path, changed.to_string()).unwrap();
        let Err(error) = open(folder.path(), Dtype::F32) else {
            panic!("{kind}: the type id 2 was accepted");
        };
        let message = error.to_string();
        assert!(message.contains("tokenizer.json"), "{message}");
        assert!(message.contains("type id 2"), "{message}");
    }
    // The control: the file as it is.
    file["version"] = "1.0".into();
    std::fs::write(&path, file.to_string()).unwrap();
    open(folder.path(), Dtype::F32).unwrap();
}

/// `dtype` or `torch_dtype` decides what `auto` makes of wider matrices, and nothing else.
#[test]
fn auto_rounds_to_the_precision_that_config_json_names() {
    let format = |name: &str, field: &str, value: &str, dtype: Dtype| {
        let folder = edited(&Case::read(name).model(), |config| {
            let config = config.as_object_mut().unwrap();
            config.remove("dtype");
            config.remove("torch_dtype");
            config.insert(field.to_owned(), value.into());
        });
        open(folder.path(), dtype).map(|loaded| loaded.identity.format)
    };
    for (name, field, value, dtype, expected) in [
        ("bert_cross", "dtype", "float32", Dtype::Auto, "F32"),
        ("bert_cross", "dtype", "bfloat16", Dtype::Auto, "BF16"),
        (
            "bert_cross",
            "torch_dtype",
            "torch.float16",
            Dtype::Auto,
            "F16",
        ),
        ("bert_cross", "torch_dtype", "bfloat16", Dtype::F32, "F32"),
        ("bert_cross_now", "dtype", "float32", Dtype::Auto, "BF16"),
        ("bert_cross_now", "dtype", "float16", Dtype::Auto, "BF16"),
        ("bert_cross", "unrelated", "float16", Dtype::Auto, "F32"),
    ] {
        let got = format(name, field, value, dtype).unwrap();
        assert_eq!(got, expected, "{name}: {field} {value} {dtype:?}");
    }
    for field in ["dtype", "torch_dtype"] {
        let error = format("bert_cross", field, "int8", Dtype::F32).unwrap_err();
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
    }
}

/// Embedders often name the model that they were trained from, which fills gaps: it is read without its head.
#[test]
fn embedders_may_name_a_model_that_fills_gaps() {
    for name in EMBEDDERS {
        let case = Case::read(name);
        let folder = edited(&case.model(), |config| {
            let named = config["architectures"][0].as_str().unwrap();
            let gaps = named.replace("Model", "ForMaskedLM");
            assert_ne!(named, gaps);
            config["architectures"][0] = gaps.into();
        });
        let loaded = open(folder.path(), Dtype::F32).unwrap();
        let (_, off) = rows_off(&case, &loaded, None, "embeddings");
        assert!(off <= SCORES, "{name}: embeddings are off by {off:e}");
    }
}

/// The negative control of pooling: the file's mode decides.
#[test]
fn another_pooling_is_noticed() {
    let case = Case::read("bert_embed_mean");
    let folder = edited(&case.model(), |_| {});
    std::fs::write(
        folder.path().join("1_Pooling/config.json"),
        r#"{"pooling_mode": "cls"}"#,
    )
    .unwrap();
    let loaded = open(folder.path(), Dtype::F32).unwrap();
    let (_, off) = rows_off(&case, &loaded, None, "embeddings");
    assert!(
        off > 1e-2,
        "another pooling moves embeddings by {off:e} only"
    );
}
