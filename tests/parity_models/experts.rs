//! Decoders with experts: Qwen3-MoE and Mixtral from folders, fused or expert by expert, and from GGUF files.

use crate::decoders::{LOGITS, check, last_logits};
use crate::{edited, open};
use koma_models::{Dtype, Loaded};
use koma_tests::golden::{Case, worst};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) const FOLDERS: [&str; 6] = [
    "qwen3_moe",
    "qwen3_moe_fused",
    "qwen3_moe_window",
    "qwen3_moe_biases",
    "mixtral",
    "mixtral_window",
];

#[test]
fn folders_with_experts_match_transformers() {
    for name in FOLDERS {
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        assert_eq!(
            loaded.identity.architecture,
            case.json["architecture"].as_str().unwrap()
        );
        check(&loaded, &case, &case.json, "");
        let stored = open(&case.model(), Dtype::Auto).unwrap();
        assert!(
            2 * stored.weight_bytes <= loaded.weight_bytes + 64 * 1024,
            "{name}"
        );
    }
}

/// The negative control: another number of experts, weights that are (not) renormalised, a lost window.
#[test]
fn wrong_picks_are_noticed() {
    for (name, field, value) in [
        ("qwen3_moe", "norm_topk_prob", json!(false)),
        ("qwen3_moe", "num_experts_per_tok", json!(1)),
        ("qwen3_moe_fused", "norm_topk_prob", json!(true)),
        ("qwen3_moe_biases", "norm_topk_prob", json!(false)),
        ("mixtral", "num_experts_per_tok", json!(1)),
        ("mixtral_window", "sliding_window", json!(null)),
        ("qwen3_moe_window", "use_sliding_window", json!(false)),
        ("qwen3_moe_window", "sliding_window", json!(null)),
        ("quant_experts_gptq", "num_experts_per_tok", json!(1)),
        ("quant_experts_awq", "num_experts_per_tok", json!(1)),
        ("quant_experts_fp8", "norm_topk_prob", json!(false)),
    ] {
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

/// How far packed products may move logits where no token's experts change. Measured: 3.4e-2 for the mixture of `Q8_0`, `Q4_0`
/// and `Q4_1`.
const PACKED: f32 = 5e-2;

#[test]
fn gguf_files_with_experts_match_transformers_on_dequantized_weights() {
    for case in ["gguf_experts", "gguf_experts_k", "gguf_experts_apart"].map(Case::read) {
        for file in case.json["files"].as_array().unwrap() {
            check_gguf(&case, file);
        }
    }
}

fn check_gguf(case: &Case, file: &Value) {
    let arch = file["arch"].as_str().unwrap();
    let path = case.folder.join(file["file"].as_str().unwrap());
    let exact = open(&path, Dtype::F32).unwrap();
    assert_eq!(
        exact.identity.architecture,
        file["architecture"].as_str().unwrap()
    );
    check(&exact, case, file, &format!("{arch}."));
    let fast = open(&path, Dtype::Auto).unwrap();
    let off = all_logits(&fast, case, file, arch);
    assert!(
        off <= PACKED,
        "{arch}: packed weights move logits by {off:e}"
    );
    // The control: one expert fewer.
    let folder = tempfile::tempdir().unwrap();
    let used = format!("{arch}.expert_used_count");
    let fewer = open(&with_key(&path, &used, 1, folder.path()), Dtype::Auto).unwrap();
    let off = all_logits(&fewer, case, file, arch);
    assert!(
        off > 5.0 * PACKED,
        "{arch}: a lost expert moves logits by {off:e} only"
    );
}

/// The largest difference of the logits of all tokens of one prompt.
fn all_logits(loaded: &Loaded, case: &Case, file: &Value, arch: &str) -> f32 {
    let which = file["all_logits_of"].as_u64().unwrap() as usize;
    let prompt = koma_tests::golden::ids(&file["prompts"][which]["ids"]);
    let mut sequence = crate::decoders::sequence(loaded, &prompt);
    let expected = case.tensor(&format!("{arch}.all_logits"));
    worst(sequence.feed(&prompt, true).as_slice(), &expected.values)
}

/// A copy of a GGUF file in which a 32-bit key has another value.
fn with_key(path: &Path, key: &str, value: u32, folder: &Path) -> PathBuf {
    let mut bytes = std::fs::read(path).unwrap();
    let places = bytes.windows(key.len()).position(|w| w == key.as_bytes());
    let at = places.unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let copy = folder.join("changed.gguf");
    std::fs::write(&copy, bytes).unwrap();
    copy
}

/// The message of a file that must not load.
fn refusal(path: &Path) -> String {
    match open(path, Dtype::Auto) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(e) => e.to_string(),
    }
}

/// Case, field of config.json, its value, and what the error must name.
const WRONG: [[&str; 4]; 16] = [
    [
        "qwen3_moe",
        "num_local_experts",
        "5",
        "layers.0.mlp.gate.weight",
    ],
    ["qwen3_moe", "num_local_experts", "0", "num_local_experts"],
    [
        "qwen3_moe",
        "num_local_experts",
        "null",
        "num_local_experts",
    ],
    ["qwen3_moe", "num_experts", "7", "num_experts"],
    [
        "qwen3_moe",
        "num_experts_per_tok",
        "7",
        "num_experts_per_tok",
    ],
    [
        "qwen3_moe",
        "moe_intermediate_size",
        "33",
        "experts.0.gate_proj.weight",
    ],
    ["qwen3_moe", "mlp_only_layers", "[3]", "mlp_only_layers"],
    ["qwen3_moe", "mlp_only_layers", "[\"1\"]", "mlp_only_layers"],
    ["qwen3_moe", "mlp_only_layers", "[]", "layers.1.mlp"],
    [
        "qwen3_moe",
        "decoder_sparse_step",
        "0",
        "decoder_sparse_step",
    ],
    ["qwen3_moe", "norm_topk_prob", "\"yes\"", "norm_topk_prob"],
    [
        "qwen3_moe_fused",
        "num_experts",
        "4",
        "layers.1.mlp.experts.gate_up_proj",
    ],
    [
        "mixtral",
        "num_local_experts",
        "3",
        "block_sparse_moe.gate.weight",
    ],
    ["mixtral", "num_experts_per_tok", "5", "num_experts_per_tok"],
    ["mixtral", "rope_parameters", "null", "rope_theta"],
    ["mixtral", "sliding_window", "\"wide\"", "sliding_window"],
];

#[test]
fn wrong_numbers_of_experts_are_named() {
    for [name, field, value, words] in WRONG {
        let case = Case::read(name);
        let value: Value = serde_json::from_str(value).unwrap();
        let folder = edited(&case.model(), |config| config[field] = value.clone());
        let message = refusal(folder.path());
        assert!(message.contains(words), "{name} {field} {value}: {message}");
    }
}

#[test]
fn a_missing_expert_is_named() {
    for (name, there, gone) in [
        (
            "qwen3_moe",
            "layers.2.mlp.experts.3.up_proj.w",
            "layers.2.mlp.experts.9.up_proj.w",
        ),
        (
            "mixtral",
            "block_sparse_moe.experts.3.w2.w",
            "block_sparse_moe.experts.9.w2.w",
        ),
        (
            "mixtral_window",
            "layers.0.mlp.experts.down_proj",
            "layers.0.mlp.experts.down_prij",
        ),
    ] {
        let case = Case::read(name);
        let folder = edited(&case.model(), |_| ());
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes
            .windows(there.len())
            .position(|w| w == there.as_bytes());
        let at = at.unwrap();
        bytes[at..at + gone.len()].copy_from_slice(gone.as_bytes());
        std::fs::write(&path, bytes).unwrap();
        let message = refusal(folder.path());
        assert!(
            message.contains(there) && message.contains("missing"),
            "{name}: {message}"
        );
    }
}

#[test]
fn wrong_numbers_of_experts_in_gguf_files_are_named() {
    let case = Case::read("gguf_experts");
    let folder = tempfile::tempdir().unwrap();
    for (file, key, value, words) in [
        (
            "llama-experts",
            "expert_used_count",
            5,
            "llama.expert_used_count",
        ),
        (
            "llama-experts",
            "expert_used_count",
            0,
            "llama.expert_used_count",
        ),
        (
            "llama-experts",
            "expert_count",
            3,
            "blk.0.ffn_gate_exps.weight",
        ),
        // Without experts it is an ordinary Llama, which has none to use.
        (
            "llama-experts",
            "expert_count",
            0,
            "llama.expert_used_count",
        ),
        (
            "qwen3moe-experts",
            "expert_used_count",
            6,
            "qwen3moe.expert_used_count",
        ),
        (
            "qwen3moe-experts",
            "expert_feed_forward_length",
            31,
            "blk.0.ffn_gate_exps.weight",
        ),
        (
            "qwen3moe-experts",
            "expert_feed_forward_length",
            0,
            "qwen3moe.expert_feed_forward_length",
        ),
    ] {
        let path = case.folder.join(format!("{file}.gguf"));
        let arch = file.strip_suffix("-experts").unwrap();
        let message = refusal(&with_key(
            &path,
            &format!("{arch}.{key}"),
            value,
            folder.path(),
        ));
        assert!(message.contains(words), "{arch}.{key} {value}: {message}");
    }
}
