//! What sentence-transformers puts around an encoder: poolings side by side, Dense modules, prompts, shorter vectors.

use crate::encoders::{hidden_states, inputs};
use crate::{edited, open};
use koma_models::{Dtype, HeadKind, Loaded};
use koma_tests::forward::{Input, encode, encode_skipping, encoder};
use koma_tests::golden::{Case, apart};
use serde_json::Value;

const TOLERANCE: f32 = 1e-5;
const CASES: [&str; 4] = [
    "bert_embed_concat",
    "bert_embed_dense",
    "bert_embed_prompts",
    "bert_embed_prompted",
];

/// The largest difference of finished rows, the first `keep` values of each, from `expected`.
fn off(case: &Case, loaded: &Loaded, rows: Vec<Vec<f32>>, (keep, expected): (usize, &str)) -> f32 {
    let head = loaded.head.as_ref().unwrap();
    let rows = rows.into_iter().enumerate().map(|(i, mut row)| {
        row.truncate(keep);
        head.activate(&mut row);
        apart(&row, case.tensor(expected).row(i))
    });
    rows.fold(0f32, f32::max)
}

#[test]
fn vectors_match_sentence_transformers() {
    for name in CASES {
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        let head = loaded.head.as_ref().unwrap();
        let normalize = case.json["normalize"].as_bool().unwrap();
        assert_eq!(head.kind, HeadKind::Embed { normalize }, "{name}");
        assert_eq!(head.width, case.tensor("embeddings").shape[1], "{name}");
        let rows = encode(encoder(&loaded), &inputs(&case));
        let far = off(&case, &loaded, rows.clone(), (usize::MAX, "embeddings"));
        assert!(far <= TOLERANCE, "{name}: off by {far:e}");
        for size in case.json["dimensions"].as_array().unwrap() {
            let keep = size.as_u64().unwrap() as usize;
            let tensor = format!("dimensions.{keep}");
            let far = off(&case, &loaded, rows.clone(), (keep, &tensor));
            assert!(far <= TOLERANCE, "{name}: {tensor} is off by {far:e}");
        }
        hidden_states(&case, &loaded);
    }
}

/// Prompts go before the text; their tokens are pooled or not, as `1_Pooling` says.
#[test]
fn prompts_match_sentence_transformers() {
    for name in ["bert_embed_prompts", "bert_embed_prompted"] {
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        let (tokenizer, prompts) = (&loaded.tokenizer, &loaded.head.as_ref().unwrap().prompts);
        let expected = &case.json["prompts"];
        assert_eq!(prompts.default.as_deref(), expected["default"].as_str());
        assert_eq!(Some(prompts.pooled), expected["pooled"].as_bool());
        for prompt in expected["names"].as_array().unwrap() {
            let prompt = prompt.as_str().unwrap();
            let text = &prompts.named[prompt];
            let texts = case.json["inputs"].as_array().unwrap().iter();
            let texts = texts.map(|input| format!("{text}{}", input["text"].as_str().unwrap()));
            let inputs: Vec<Input> = texts
                .map(|text| (tokenizer.encode(&text, true).unwrap().ids, Vec::new()))
                .collect();
            // Without the last added token.
            let length = tokenizer.encode(text, true).unwrap().ids.len() as u32 - 1;
            let far = |skip: u32| {
                let rows = encode_skipping(encoder(&loaded), &inputs, &vec![skip; inputs.len()]);
                off(
                    &case,
                    &loaded,
                    rows,
                    (usize::MAX, &format!("prompt.{prompt}")),
                )
            };
            let asked = !prompts.pooled && !text.is_empty();
            let (right, wrong) = if asked { (length, 0) } else { (0, length) };
            assert!(
                far(right) <= TOLERANCE,
                "{name} {prompt}: off by {:e}",
                far(right)
            );
            assert!(
                far(wrong) > 1e-2,
                "{name} {prompt}: off by {:e} only",
                far(wrong)
            );
        }
    }
}

/// The negative controls: another order of the poolings, another activation, no bias.
#[test]
fn a_wrong_detail_is_noticed() {
    for (name, file, field, value) in [
        (
            "bert_embed_concat",
            "1_Pooling/config.json",
            "pooling_mode",
            {
                Value::from(
                    [
                        "max",
                        "cls",
                        "mean",
                        "mean_sqrt_len_tokens",
                        "lasttoken",
                        "weightedmean",
                    ]
                    .as_slice(),
                )
            },
        ),
        (
            "bert_embed_dense",
            "2_Dense/config.json",
            "activation_function",
            { Value::from("torch.nn.modules.linear.Identity") },
        ),
        (
            "bert_embed_dense",
            "4_Dense/config.json",
            "activation_function",
            { Value::from("torch.nn.modules.activation.ReLU") },
        ),
    ] {
        let case = Case::read(name);
        let folder = edited(&case.model(), |_| {});
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config[field] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let loaded = open(folder.path(), Dtype::F32).unwrap();
        let rows = encode(encoder(&loaded), &inputs(&case));
        let far = off(&case, &loaded, rows, (usize::MAX, "embeddings"));
        assert!(
            far > 1e-3,
            "{name}: {file} {field} moves vectors by {far:e} only"
        );
    }
}

/// Every tensor of a Dense module is used, and must be there.
#[test]
fn dense_tensors_are_accounted_for() {
    let case = Case::read("bert_embed_dense");
    let folder = edited(&case.model(), |_| {});
    let path = folder.path().join("3_Dense/config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    // It has no bias.
    std::fs::write(&path, text.replace("\"bias\": false", "\"bias\": true")).unwrap();
    let message = open(folder.path(), Dtype::F32).err().unwrap().to_string();
    assert!(message.contains("3_Dense.linear.bias"), "{message}");
    let path = folder.path().join("2_Dense/model.safetensors");
    std::fs::rename(&path, path.with_extension("bin")).unwrap();
    let message = open(folder.path(), Dtype::F32).err().unwrap().to_string();
    assert!(
        message.contains("2_Dense") && message.contains("pickle"),
        "{message}"
    );
}
