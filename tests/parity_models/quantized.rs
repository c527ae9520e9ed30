//! Folders with quantized matrices: exact against the dequantized values, packed within measured bounds.

use crate::decoders::{LOGITS, check, last_logits, same_bits, sequence};
use crate::encoders::{batching, rows_off};
use crate::open;
use koma_models::Dtype;
use koma_tests::golden::{Case, ids};
use serde_json::Value;
use std::path::Path;

/// Names, formats, and whether everything but the quantized matrices (and with it the tied head) is bf16.
const CASES: [(&str, &str, bool); 23] = [
    ("quant_gptq", "INT4", false),
    ("quant_gptq_asym", "INT4", false),
    ("quant_gptq_v2_order", "INT4", false),
    ("quant_gptq8", "INT8", false),
    ("quant_awq", "INT4", false),
    ("quant_awq_128", "INT4", false),
    ("quant_ct_int4", "INT4", true),
    ("quant_ct_int4_order", "INT4", false),
    ("quant_ct_int8", "INT8", true),
    ("quant_ct_int8_asym", "INT8", false),
    ("quant_ct_int8_packed", "INT8", false),
    ("quant_ct_fp8", "FP8", true),
    ("quant_ct_fp8_tensor", "FP8", false),
    ("quant_fp8", "FP8", true),
    ("quant_fp8_tensor", "FP8", true),
    ("quant_fp8_static", "FP8", true),
    ("quant_fp8_static_scalar", "FP8", true),
    ("quant_ct_fp8_static", "FP8", true),
    ("quant_ct_int8_static", "INT8", true),
    ("quant_gptq_biases", "INT4", false),
    ("quant_experts_gptq", "INT4", false),
    ("quant_experts_awq", "INT4", false),
    ("quant_experts_fp8", "FP8", true),
];

/// How far packed products may move logits. Integers round activations to int8 in blocks of 32 (measured: 1.9e-2 to 3.9e-2); FP8
/// leaves them as they are (1.4e-6), but a bf16 head rounds them to 8 bits (2.2e-3).
fn packed_bound(format: &str, bf16: bool) -> f32 {
    match (format, bf16) {
        ("FP8", false) => LOGITS,
        ("FP8", true) => 5e-3,
        _ => 5e-2,
    }
}

/// The same for integers in experts (measured: GPTQ 2.3e-2, AWQ 6.0e-2).
const EXPERTS: f32 = 8e-2;

/// A copy of a folder in which the scales of one matrix are 0.
fn without(model: &Path, stem: &str) -> tempfile::TempDir {
    let copy = crate::edited(model, |_| {});
    let path = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let head: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let scales = |name: &&String| {
        let part = name.strip_prefix(stem).unwrap_or_default();
        part.starts_with("weight_scale") || part == "scales"
    };
    let name = head.as_object().unwrap().keys().find(scales).unwrap();
    let ends = ids(&head[name]["data_offsets"]);
    bytes[start + ends[0] as usize..start + ends[1] as usize].fill(0);
    std::fs::write(&path, bytes).unwrap();
    copy
}

#[test]
fn quantized_folders_match_transformers_on_dequantized_weights() {
    for (name, format, bf16) in CASES {
        let case = Case::read(name);
        let exact = open(&case.model(), Dtype::F32).unwrap();
        assert_eq!(exact.identity.format, "F32");
        check(&exact, &case, &case.json, "");

        let packed = open(&case.model(), Dtype::Auto).unwrap();
        assert_eq!(packed.identity.format, format, "{name}");
        assert_eq!(packed.identity.parameters, exact.identity.parameters);
        let file = case.model().join("model.safetensors").metadata().unwrap();
        let (held, stored) = (packed.weight_bytes, file.len() as usize);
        assert!(
            100 * held <= 110 * stored,
            "{name}: {held} of {stored} bytes"
        );

        let bound = if name.contains("experts") && format != "FP8" {
            EXPERTS
        } else {
            packed_bound(format, bf16)
        };
        let off = last_logits(&packed, &case, &case.json, "");
        assert!(
            off <= bound,
            "{name}: packed weights move logits by {off:e}"
        );
        let prompt = ids(&case.json["prompts"][2]["ids"]);
        let logits = sequence(&packed, &prompt).feed_chunks(&prompt, prompt.len());
        for chunk in [1, 3, 16] {
            let chunked = sequence(&packed, &prompt).feed_chunks(&prompt, chunk);
            assert!(same_bits(&logits, &chunked), "{name}: chunks of {chunk}");
        }

        // The control: one matrix of one layer is lost.
        let lost = if name.contains("experts") {
            "model.layers.0.self_attn.v_proj."
        } else {
            "model.layers.0.mlp.down_proj."
        };
        let lost = without(&case.model(), lost);
        let lost = open(lost.path(), Dtype::Auto).unwrap();
        let off = last_logits(&lost, &case, &case.json, "");
        assert!(
            off > 10.0 * bound,
            "{name}: a lost matrix moves logits by {off:e} only"
        );
    }
}

/// How far packed products may move scores, which are shares of 1. Measured: INT8 3.3e-2, FP8 1.1e-6.
const ENCODERS: [(&str, &str, f32); 2] = [
    ("quant_bert_int8", "INT8", 5e-2),
    ("quant_bert_fp8", "FP8", 1e-5),
];

/// In f32 they are among the classifiers of `encoders.rs`.
#[test]
fn quantized_encoders_match_transformers_on_dequantized_weights() {
    for (name, format, bound) in ENCODERS {
        let case = Case::read(name);
        let packed = open(&case.model(), Dtype::Auto).unwrap();
        assert_eq!(packed.identity.format, format, "{name}");
        let (_, off) = rows_off(&case, &packed, None, "scores");
        assert!(
            off <= bound,
            "{name}: packed weights move scores by {off:e}"
        );
        batching(&case, &packed);
        let lost = without(&case.model(), "bert.encoder.layer.0.output.dense.");
        let lost = open(lost.path(), Dtype::Auto).unwrap();
        let (_, off) = rows_off(&case, &lost, None, "scores");
        assert!(
            off > 10.0 * bound,
            "{name}: a lost matrix moves scores by {off:e} only"
        );
    }
}
