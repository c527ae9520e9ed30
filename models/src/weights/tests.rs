//! Conversion, accounting and damaged files.

use super::*;
use crate::Dtype;
use candle_core::quantized::{GgmlDType, QTensor, ggml_file::qtensor_from_ggml};
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype as SafeDtype, TensorView};
use std::sync::{Arc, Mutex};

type Given<'a> = (&'a str, SafeDtype, Vec<usize>, Vec<u8>);

/// Writes a safetensors file.
fn write(path: &Path, tensors: &[Given<'_>]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            *name,
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn one(dtype: SafeDtype, bytes: Vec<u8>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("model.safetensors"),
        &[("w", dtype, vec![2, 2], bytes)],
    );
    folder
}

fn open(folder: &Path, dtype: Dtype) -> Weights {
    let options = LoadOptions {
        dtype,
        ..LoadOptions::default()
    };
    Weights::folder(folder, &options).unwrap()
}

fn rows(weight: &PackedWeight) -> Vec<f32> {
    let mut values = vec![0.0; weight.rows() * weight.cols()];
    for (r, row) in values.chunks_exact_mut(weight.cols()).enumerate() {
        weight.dequantize_row(r, row);
    }
    values
}

/// A plan must not read a head of gigabytes to see whether it repeats the embedding.
#[test]
fn what_is_the_same_without_contents_is_told_by_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = vec![0; 12_288];
    other[6000] = 1;
    let mut last = vec![0; 12_288];
    last[12_287] = 1;
    let shape = || vec![64, 48];
    write(
        &folder.path().join("model.safetensors"),
        &[
            ("a", SafeDtype::F32, shape(), vec![0; 12_288]),
            ("again", SafeDtype::F32, shape(), vec![0; 12_288]),
            ("other", SafeDtype::F32, shape(), other),
            ("last", SafeDtype::F32, shape(), last),
            ("turned", SafeDtype::F32, vec![48, 64], vec![0; 12_288]),
        ],
    );
    let mut weights = open(folder.path(), Dtype::Auto);
    let same = |weights: &Weights, name| weights.same("a", name).unwrap();
    let names = ["again", "other", "last", "turned"];
    assert_eq!(
        names.map(|n| same(&weights, n)),
        [true, false, false, false]
    );
    weights.contain(Contents::None);
    assert_eq!(names.map(|n| same(&weights, n)), [true, true, false, false]);
}

/// A precision, the format it becomes, and the values.
type Wanted = (Dtype, Format, [f32; 4]);

/// Every stored type in every precision: the format, and values as exact as it allows.
#[test]
fn stored_types_and_wanted_precisions() {
    let values = [1.0f32, -2.5, 0.1, 1000.25];
    let f64s = values
        .iter()
        .flat_map(|v| f64::from(*v).to_le_bytes())
        .collect();
    let f16s = values
        .iter()
        .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
        .collect();
    let bf16s = values
        .iter()
        .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())
        .collect();
    let f16 = values.map(|v| half::f16::from_f32(v).to_f32());
    let bf16 = values.map(|v| half::bf16::from_f32(v).to_f32());
    let f16_bf16 = f16.map(|v| half::bf16::from_f32(v).to_f32());
    let cases: [(SafeDtype, Vec<u8>, [Wanted; 3]); 4] = [
        (
            SafeDtype::F64,
            f64s,
            [
                (Dtype::Auto, Format::F32, values),
                (Dtype::F32, Format::F32, values),
                (Dtype::Bf16, Format::Bf16, bf16),
            ],
        ),
        (
            SafeDtype::F32,
            f32s(&values),
            [
                (Dtype::Auto, Format::F32, values),
                (Dtype::F32, Format::F32, values),
                (Dtype::Bf16, Format::Bf16, bf16),
            ],
        ),
        (
            SafeDtype::F16,
            f16s,
            [
                (Dtype::Auto, Format::F16, f16),
                (Dtype::F32, Format::F32, f16),
                (Dtype::Bf16, Format::Bf16, f16_bf16),
            ],
        ),
        (
            SafeDtype::BF16,
            bf16s,
            [
                (Dtype::Auto, Format::Bf16, bf16),
                (Dtype::F32, Format::F32, bf16),
                (Dtype::Bf16, Format::Bf16, bf16),
            ],
        ),
    ];
    for (stored, bytes, wanted) in cases {
        let folder = one(stored, bytes);
        for (dtype, format, expected) in wanted {
            let weights = open(folder.path(), dtype);
            let matrix = weights.matrix("w", 2, 2).unwrap();
            assert_eq!(
                (matrix.format(), rows(&matrix)),
                (format, expected.to_vec()),
                "{stored:?} {dtype:?}"
            );
            assert_eq!(weights.memory(), matrix.bytes());
            assert_eq!(
                (weights.format(), weights.parameters()),
                (format.name().to_owned(), 4)
            );
            weights.finish(&[]).unwrap();
        }
    }
}

/// Blocks as candle dequantizes them, bit for bit, in the exact mode and packed.
#[test]
fn blocks_dequantize_as_in_candle() {
    let kinds = [
        (Format::Q8_0, GgmlDType::Q8_0),
        (Format::Q4_0, GgmlDType::Q4_0),
        (Format::Q4_1, GgmlDType::Q4_1),
    ];
    for (format, candle) in kinds {
        let values: Vec<f32> = (0..128).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
        let tensor = Tensor::from_vec(values, (2, 64), &Device::Cpu).unwrap();
        let quantized = QTensor::quantize(&tensor, candle).unwrap();
        let bytes = quantized.data().unwrap().to_vec();
        let reference = qtensor_from_ggml(candle, &bytes, vec![2, 64], &Device::Cpu).unwrap();
        let reference: Vec<f32> = reference
            .dequantize(&Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let ours = rows(&PackedWeight::from_bytes(2, 64, format, &bytes).unwrap());
        let same = ours
            .iter()
            .zip(&reference)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{format:?}");
    }
}

fn message<T>(result: Result<T, LoadError>) -> String {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_tensor_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let four = || f32s(&[1.0; 4]);
    let tensors: Vec<Given<'_>> = vec![
        ("a.w", SafeDtype::F32, vec![2, 2], four()),
        ("a.b", SafeDtype::F32, vec![4], four()),
        ("position_ids", SafeDtype::I64, vec![1], vec![0; 8]),
        ("old.inv_freq", SafeDtype::F32, vec![4], four()),
    ];
    write(&folder.path().join("model.safetensors"), &tensors);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let options = LoadOptions {
        progress: Some({
            let seen = Arc::clone(&seen);
            Arc::new(move |p: crate::LoadProgress| seen.lock().unwrap().push((p.done, p.total)))
        }),
        ..LoadOptions::default()
    };
    let weights = Weights::folder(folder.path(), &options).unwrap();
    assert!(weights.has("a.w") && !weights.has("b.w"));
    weights.matrix("a.w", 2, 2).unwrap();
    assert!(message(weights.vector("a.b", 3)).contains("`a.b`"));
    assert!(message(weights.matrix("a.c", 2, 2)).contains("`a.c` is missing"));
    assert!(message(weights.vector("position_ids", 1)).contains("I64"));
    let unused = message(weights.finish(&["*position_ids", "old.*"]));
    assert!(
        unused.contains("a.b") && !unused.contains("inv_freq"),
        "{unused}"
    );
    weights.vector("a.b", 4).unwrap();
    weights.vector("a.b", 4).unwrap();
    weights.finish(&["*position_ids", "*inv_*"]).unwrap();
    assert!(
        weights.finish(&["position_ids", "inv_freq"]).is_err(),
        "patterns are no substrings"
    );
    assert_eq!(
        *seen.lock().unwrap(),
        [(16, 56), (32, 56), (56, 56)],
        "a tensor counts once"
    );
}

#[test]
fn shards_are_joined_and_the_index_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let tensor =
        |name, value: f32| -> Given<'_> { (name, SafeDtype::F32, vec![1], f32s(&[value])) };
    write(&path("one.safetensors"), &[tensor("a", 1.0)]);
    write(&path("two.safetensors"), &[tensor("b", 2.0)]);
    let index = |map: serde_json::Value| {
        let text = serde_json::json!({ "weight_map": map }).to_string();
        std::fs::write(path("model.safetensors.index.json"), text).unwrap();
        Weights::folder(folder.path(), &LoadOptions::default())
    };
    let good = serde_json::json!({"a": "one.safetensors", "b": "two.safetensors"});
    let weights = index(good).unwrap();
    assert_eq!(
        (
            weights.vector("a", 1).unwrap()[0],
            weights.vector("b", 1).unwrap()[0]
        ),
        (1.0, 2.0)
    );
    let hash = weights.hash().unwrap();

    for (file, word) in [
        ("../one.safetensors", "weight_map.b"),
        ("/one.safetensors", "weight_map.b"),
        ("sub/one.safetensors", "weight_map.b"),
        ("two.bin", "weight_map.b"),
        ("one.safetensors", "`b` is missing"),
        ("three.safetensors", "three.safetensors"),
    ] {
        let map = serde_json::json!({"a": "one.safetensors", "b": file});
        let message = message(index(map));
        assert!(message.contains(word), "`{word}` in: {message}");
    }
    assert!(message(index(serde_json::json!({}))).contains("weight_map"));

    write(
        &path("two.safetensors"),
        &[tensor("a", 1.0), tensor("b", 2.0)],
    );
    let map = serde_json::json!({"a": "one.safetensors", "b": "two.safetensors"});
    assert!(message(index(map)).contains("`a` is also in another file"));
    write(
        &path("model.safetensors"),
        &[tensor("a", 1.0), tensor("b", 2.0)],
    );
    let joined = Weights::folder(folder.path(), &LoadOptions::default()).unwrap();
    assert_eq!(
        joined.hash().unwrap(),
        hash,
        "another sharding is the same model"
    );
    write(
        &path("model.safetensors"),
        &[tensor("a", 1.0), tensor("b", 2.5)],
    );
    let other = Weights::folder(folder.path(), &LoadOptions::default()).unwrap();
    assert_ne!(
        other.hash().unwrap(),
        hash,
        "other values are another model"
    );
}

#[test]
fn pickle_files_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let open = || message(Weights::folder(folder.path(), &LoadOptions::default()));
    assert!(open().contains("neither model.safetensors nor"));
    std::fs::write(folder.path().join("training_args.bin"), "x").unwrap();
    assert!(open().contains("neither model.safetensors nor"));
    std::fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(open().contains("`pytorch_model.bin` is a pickle"));
}

/// Cut at any byte, a file is an error that names it.
#[test]
fn cut_files_are_named() {
    let folder = one(SafeDtype::F32, f32s(&[1.0; 4]));
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let message = message(Weights::folder(folder.path(), &LoadOptions::default()));
        assert!(
            message.contains("model.safetensors"),
            "cut to {len}: {message}"
        );
    }
}
