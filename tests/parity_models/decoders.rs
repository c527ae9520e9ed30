//! Llama from folders and from GGUF files of every block type.

use crate::{edited, open};
use koma_kernels::{KvDtype, PackedWeight};
use koma_models::gguf::Gguf;
use koma_models::{Dtype, Loaded, Workspace};
use koma_tests::forward::{Sequence, decoder};
use koma_tests::golden::{Case, ids, worst};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

pub(crate) const LOGITS: f32 = 1e-4;
pub(crate) const FOLDERS: [&str; 6] = [
    "llama",
    "llama_old",
    "llama_head_dim",
    "llama3_rope",
    "llama_linear_rope",
    "llama_yarn",
];

pub(crate) fn sequence<'a>(loaded: &'a Loaded, prompt: &[u32]) -> Sequence<'a> {
    Sequence::new(decoder(loaded), KvDtype::F32, prompt.len() + 64)
}

/// The largest difference of the last logits over all prompts.
pub(crate) fn last_logits(loaded: &Loaded, case: &Case, fields: &Value, prefix: &str) -> f32 {
    let prompts = fields["prompts"].as_array().unwrap().iter().enumerate();
    let each = prompts.map(|(i, prompt)| {
        let prompt = ids(&prompt["ids"]);
        let logits = sequence(loaded, &prompt).feed_chunks(&prompt, prompt.len());
        worst(&logits, &case.tensor(&format!("{prefix}logits.{i}")).values)
    });
    each.fold(0.0, f32::max)
}

/// Logits, greedy tokens, hidden states, chunks and end ids of one decoder.
pub(crate) fn check(loaded: &Loaded, case: &Case, fields: &Value, prefix: &str) {
    let off = last_logits(loaded, case, fields, prefix);
    assert!(off <= LOGITS, "{prefix}: logits are off by {off:e}");
    // A GGUF file names one end id; others are found by their text.
    let named = ids(&fields["stop_ids"]);
    let (first, more) = loaded.chat.eos_ids.split_at(named.len());
    let by_text = |id: &u32| loaded.tokenizer.token(*id).as_deref() == Some("<|endoftext|>");
    assert_eq!(first, named, "end ids");
    assert!(more.iter().all(by_text), "end ids {more:?}");

    for prompt in fields["prompts"].as_array().unwrap() {
        let (prompt, greedy) = (ids(&prompt["ids"]), ids(&prompt["greedy"]));
        let mut whole = sequence(loaded, &prompt);
        let logits = whole.feed_chunks(&prompt, prompt.len());
        assert_eq!(
            whole.greedy(greedy.len()),
            greedy,
            "{prefix}: greedy tokens"
        );
        for chunk in [1, 3, 16] {
            let chunked = sequence(loaded, &prompt).feed_chunks(&prompt, chunk);
            assert!(
                same_bits(&logits, &chunked),
                "chunks of {chunk} give other bits"
            );
        }
    }

    let which = fields["hidden_states_of"].as_u64().unwrap() as usize;
    assert_eq!(fields["all_logits_of"].as_u64().unwrap() as usize, which);
    let prompt = ids(&fields["prompts"][which]["ids"]);
    let mut traced = sequence(loaded, &prompt);
    traced.work = Workspace::traced();
    let off = worst(
        traced.feed(&prompt, true).as_slice(),
        &case.tensor(&format!("{prefix}all_logits")).values,
    );
    assert!(
        off <= LOGITS,
        "{prefix}: logits of all tokens are off by {off:e}"
    );
    let states = traced.work.trace.take().unwrap();
    let groups = decoder(loaded).cache_groups();
    let layers: usize = groups.iter().map(|group| group.layers).sum();
    assert!(layers > 1);
    assert_eq!(states.len(), layers + 1, "hidden states");
    for (layer, state) in states.iter().enumerate() {
        let expected = case.tensor(&format!("{prefix}hidden.{layer}"));
        let off = worst(state.as_slice(), &expected.values);
        assert!(off <= LOGITS, "{prefix}: layer {layer} is off by {off:e}");
    }
    let expected = &case.tensor(&format!("{prefix}hidden.norm")).values;
    let off = worst(traced.work.normed.as_slice(), expected);
    assert!(off <= LOGITS, "{prefix}: the last norm is off by {off:e}");
}

pub(crate) fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn llama_folders_match_transformers() {
    for name in FOLDERS {
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        assert_eq!(loaded.identity.format, "F32");
        check(&loaded, &case, &case.json, "");
        let stored = open(&case.model(), Dtype::Auto).unwrap();
        assert!(stored.weight_bytes <= loaded.weight_bytes, "{name}");
    }
}

/// The negative control: another base of the rotation or another epsilon is far outside of the tolerance.
#[test]
fn a_wrong_rotation_or_epsilon_is_noticed() {
    let cases = [
        (
            "llama",
            "rope_parameters",
            serde_json::json!({"rope_type": "default", "rope_theta": 9000.0}),
        ),
        ("llama", "rms_norm_eps", 1e-4.into()),
        ("llama_old", "rope_theta", 9000.0.into()),
        (
            "llama_linear_rope",
            "rope_scaling",
            serde_json::json!({"type": "linear", "factor": 2.6}),
        ),
        (
            "llama3_rope",
            "rope_parameters",
            serde_json::json!({"rope_type": "default", "rope_theta": 10000.0}),
        ),
        (
            "llama_yarn",
            "rope_parameters",
            serde_json::json!({
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128
            }),
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

/// How far packed products may move logits. F32 and F16 keep activations in f32; BF16 rounds them to 8 bits (measured:
/// 9.3e-3), block formats to int8 in blocks of 32 (measured: `Q8_0` 2.5e-2, `Q4_0` 2.4e-2, `Q4_1` 1.9e-2).
fn packed_bound(kind: &str) -> f32 {
    match kind {
        "F32" | "F16" => LOGITS,
        "BF16" => 1.2e-2,
        _ => 3e-2,
    }
}

/// A copy of a GGUF file in which all bytes of one tensor are 0.
fn without(path: &Path, tensor: &str, folder: &Path) -> PathBuf {
    let mut bytes = std::fs::read(path).unwrap();
    let range = Gguf::parse(path, &bytes).unwrap().tensors[tensor]
        .range
        .clone();
    bytes[range].fill(0);
    let copy = folder.join("without.gguf");
    std::fs::write(&copy, bytes).unwrap();
    copy
}

#[test]
fn gguf_files_match_transformers_on_dequantized_weights() {
    for case in ["gguf_blocks", "gguf_types"].map(Case::read) {
        for file in case.json["files"].as_array().unwrap() {
            check_gguf(&case, file);
        }
    }
}

fn check_gguf(case: &Case, file: &Value) {
    let path = case.folder.join(file["file"].as_str().unwrap());
    let kind = file["type"].as_str().unwrap();
    let exact = open(&path, Dtype::F32).unwrap();
    check(&exact, case, file, &format!("{kind}."));
    let fast = open(&path, Dtype::Auto).unwrap();
    let format = file.get("format").map_or(kind, |f| f.as_str().unwrap());
    assert_eq!(fast.identity.format, format, "{kind}: what most values are");
    let off = last_logits(&fast, case, file, &format!("{kind}."));
    let bound = packed_bound(kind);
    assert!(
        off <= bound,
        "{kind}: packed weights move logits by {off:e}"
    );
    // The control: one matrix of one layer is lost.
    let folder = tempfile::tempdir().unwrap();
    let lost = without(&path, "blk.0.attn_v.weight", folder.path());
    let lost = open(&lost, Dtype::Auto).unwrap();
    let off = last_logits(&lost, case, file, &format!("{kind}."));
    assert!(
        off > 10.0 * bound,
        "{kind}: a lost matrix moves logits by {off:e} only"
    );
}

/// A head of its own in a checkpoint that calls itself tied is used; one that repeats the embedding is not kept twice.
#[test]
fn a_head_beside_a_tied_embedding_counts_if_it_differs() {
    let tie = |config: &mut Value| config["tie_word_embeddings"] = true.into();
    let case = Case::read("llama");
    let folder = edited(&case.model(), tie);
    let loaded = open(folder.path(), Dtype::F32).unwrap();
    let off = last_logits(&loaded, &case, &case.json, "");
    assert!(off <= LOGITS, "logits are off by {off:e}");

    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let head: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let range = |name: &str| {
        let ends = ids(&head[name]["data_offsets"]);
        start + ends[0] as usize..start + ends[1] as usize
    };
    let to = range("lm_head.weight").start;
    bytes.copy_within(range("model.embed_tokens.weight"), to);
    std::fs::write(&path, bytes).unwrap();
    let tied = open(folder.path(), Dtype::F32).unwrap();
    assert!(tied.weight_bytes < loaded.weight_bytes);
    let off = last_logits(&tied, &case, &case.json, "");
    assert!(off > 10.0 * LOGITS, "the head moves logits by {off:e} only");
}

/// The negative control of the GGUF path: another base in the file's metadata.
#[test]
fn a_wrong_rotation_in_gguf_metadata_is_noticed() {
    let case = Case::read("gguf_blocks");
    let file = &case.json["files"][0];
    let mut bytes = std::fs::read(case.folder.join(file["file"].as_str().unwrap())).unwrap();
    let key = b"llama.rope.freq_base";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&9000f32.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.gguf");
    std::fs::write(&path, bytes).unwrap();
    let loaded = open(&path, Dtype::F32).unwrap();
    let off = last_logits(&loaded, &case, file, "F32.");
    assert!(off > 10.0 * LOGITS, "the base moves logits by {off:e} only");
}

/// Every tensor of every block type, dequantized as the `gguf` Python package does, bit for bit.
#[test]
fn gguf_blocks_dequantize_bit_equal() {
    let cases = ["gguf_blocks", "gguf_types"].map(Case::read);
    let files = |case: &Case| case.json["files"].as_array().unwrap().clone();
    for (case, file) in cases
        .iter()
        .flat_map(|c| files(c).into_iter().map(move |f| (c, f)))
    {
        let path = case.folder.join(file["file"].as_str().unwrap());
        let kind = file["type"].as_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let gguf = Gguf::parse(&path, &bytes).unwrap();
        let hashes = file["sha256"].as_object().unwrap();
        assert_eq!(hashes.len(), gguf.tensors.len());
        for (name, expected) in hashes {
            let tensor = &gguf.tensors[name];
            let cols = *tensor.shape.last().unwrap();
            let rows = tensor.shape.iter().product::<usize>() / cols;
            let data = &bytes[tensor.range.clone()];
            let hash = |data: &[u8]| {
                let weight = PackedWeight::from_bytes(rows, cols, tensor.format, data).unwrap();
                let mut row = vec![0.0; cols];
                let mut hash = Sha256::new();
                for r in 0..rows {
                    weight.dequantize_row(r, &mut row);
                    for value in &row {
                        hash.update(value.to_le_bytes());
                    }
                }
                let digits = hash.finalize().into_iter().flat_map(|b| [b >> 4, b & 15]);
                let digits = digits.filter_map(|d| char::from_digit(d.into(), 16));
                digits.collect::<String>()
            };
            let expected = expected.as_str().unwrap();
            assert_eq!(hash(data), expected, "{kind} {name}");
            // The control: one flipped bit of the data.
            let mut flipped = data.to_vec();
            // (The last 32 bytes of a Q8_K block are sums, which say nothing new.)
            *flipped.iter_mut().rev().nth(40).unwrap() ^= 1;
            assert_ne!(hash(&flipped), expected, "{kind} {name}");
        }
    }
}
