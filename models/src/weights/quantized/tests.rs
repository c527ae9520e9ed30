//! Every golden folder bit for bit, and what is wrong with folders and fields.

use super::*;
use crate::LoadOptions;
use crate::weights::Contents;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as SafeDtype, TensorView};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CASES: [&str; 15] = [
    "quant_gptq",
    "quant_gptq_asym",
    "quant_gptq_v2_order",
    "quant_gptq8",
    "quant_awq",
    "quant_awq_128",
    "quant_ct_int4",
    "quant_ct_int4_order",
    "quant_ct_int8",
    "quant_ct_int8_asym",
    "quant_ct_int8_packed",
    "quant_ct_fp8",
    "quant_ct_fp8_tensor",
    "quant_fp8",
    "quant_fp8_tensor",
];

fn golden(case: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    folder.join(case)
}

fn json_at(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn open(folder: &Path, dtype: Dtype) -> Result<Weights, LoadError> {
    let options = LoadOptions {
        dtype,
        ..LoadOptions::default()
    };
    let config = Json::read(&folder.join("config.json"))?;
    let mut weights = Weights::folder(folder, &options)?;
    weights.quantized_by(Scheme::read(&config)?);
    Ok(weights)
}

/// Names, shapes and hashes of the matrices of a case.
fn matrices(case: &str) -> Vec<(String, Shape, String)> {
    let json = json_at(&golden(case).join("case.json"));
    let all = json["matrices"].as_object().unwrap();
    let size = |v: &Value| v.as_u64().unwrap() as usize;
    all.iter()
        .map(|(name, of)| {
            let shape = (size(&of["shape"][0]), size(&of["shape"][1]));
            (
                name.clone(),
                shape,
                of["sha256"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

/// Hexadecimal sha256 of the values of a weight.
fn hash(weight: &PackedWeight) -> String {
    let (mut hash, mut row) = (Sha256::new(), vec![0.0; weight.cols()]);
    for r in 0..weight.rows() {
        weight.dequantize_row(r, &mut row);
        for value in &row {
            hash.update(value.to_le_bytes());
        }
    }
    let digits = hash.finalize().into_iter().flat_map(|b| [b >> 4, b & 15]);
    digits
        .filter_map(|d| char::from_digit(d.into(), 16))
        .collect()
}

/// Dequantized or as they are packed, all matrices have the reference's bits; what heads tell before is what is held.
#[test]
fn golden_matrices_are_bit_equal() {
    for case in CASES {
        let folder = golden(case).join("model");
        let all = matrices(case);
        assert_eq!(all.len(), 14, "{case}");
        for dtype in [Dtype::Auto, Dtype::F32] {
            let weights = open(&folder, dtype).unwrap();
            let mut hollow = open(&folder, dtype).unwrap();
            hollow.contain(Contents::None);
            for (name, (rows, cols), expected) in &all {
                let weight = weights.matrix(name, *rows, *cols).unwrap();
                assert_eq!(&hash(&weight), expected, "{case} {name} {dtype:?}");
                let grouped = matches!(weight.format(), Format::Grouped(_));
                assert_eq!(grouped, dtype == Dtype::Auto, "{case} {name}");
                hollow.matrix(name, *rows, *cols).unwrap();
            }
            assert_eq!(weights.memory(), hollow.memory(), "{case}");
            assert_eq!(weights.parameters(), hollow.parameters(), "{case}");
            let values: usize = all.iter().map(|(_, (rows, cols), _)| rows * cols).sum();
            assert_eq!(weights.parameters(), values as u64, "{case}");
        }
    }
}

type Tensors = BTreeMap<String, (SafeDtype, Vec<usize>, Vec<u8>)>;

/// The stem of the matrix that the cases below break.
const STEM: &str = "model.layers.0.mlp.down_proj";

/// What loading that matrix says after `edit` changed the tensors and the configuration of a case.
fn load(case: &str, edit: impl FnOnce(&mut Tensors, &mut Value)) -> Result<PackedWeight, String> {
    let from = golden(case).join("model");
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = read
        .iter()
        .map(|(n, t)| {
            (
                n.to_owned(),
                (t.dtype(), t.shape().to_vec(), t.data().to_vec()),
            )
        })
        .collect();
    let mut config = json_at(&from.join("config.json"));
    edit(&mut tensors, &mut config);
    let folder = tempfile::tempdir().unwrap();
    let views = tensors
        .iter()
        .map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let name = format!("{STEM}.weight");
    let all = matrices(case);
    let (_, (rows, cols), _) = all.iter().find(|(n, ..)| *n == name).unwrap();
    let weights = open(folder.path(), Dtype::Auto).map_err(|e| e.to_string())?;
    let loaded = weights.matrix(&name, *rows, *cols);
    loaded.map_err(|e| e.to_string())
}

/// Fails unless the message has all of `words`.
#[track_caller]
fn refused(case: &str, words: &[&str], edit: impl FnOnce(&mut Tensors, &mut Value)) {
    match load(case, edit) {
        Ok(_) => panic!("{case}: no error about {words:?}"),
        Err(message) => {
            for word in words {
                assert!(message.contains(word), "{case}: `{word}` in: {message}");
            }
        }
    }
}

/// The data of a part of the matrix.
fn part<'a>(tensors: &'a mut Tensors, part: &str) -> &'a mut Vec<u8> {
    &mut tensors.get_mut(&format!("{STEM}.{part}")).unwrap().2
}

/// The cases are sound before they are broken.
#[test]
fn unbroken_folders_load() {
    for case in CASES {
        let weight = load(case, |_, _| {}).unwrap();
        assert!(matches!(weight.format(), Format::Grouped(_)), "{case}");
    }
}

#[test]
fn missing_parts_are_named() {
    for (case, parts) in [
        ("quant_gptq", &["scales", "qzeros"][..]),
        ("quant_gptq_v2_order", &["g_idx"]),
        ("quant_awq", &["scales", "qzeros"]),
        ("quant_ct_int4", &["weight_scale", "weight_shape"]),
        (
            "quant_ct_int4_order",
            &["weight_zero_point", "weight_g_idx"],
        ),
        ("quant_ct_int8", &["weight_scale"]),
        ("quant_ct_fp8", &["weight_scale"]),
        ("quant_fp8", &["weight_scale_inv"]),
    ] {
        for part in parts {
            let name = format!("{STEM}.{part}");
            let words = [name.as_str(), "is missing"];
            refused(case, &words, |tensors, _| {
                tensors.remove(&name).unwrap();
            });
        }
    }
}

#[test]
fn wrong_shapes_and_types_are_named() {
    for case in CASES {
        let names: Vec<String> = {
            let bytes = std::fs::read(golden(case).join("model/model.safetensors")).unwrap();
            let all = SafeTensors::deserialize(&bytes).unwrap();
            let names = all.names().into_iter().map(String::from);
            names
                .filter(|n| n.starts_with(STEM) && !n.contains(".bias"))
                .collect()
        };
        assert!(names.len() > 1, "{case}");
        for name in names {
            refused(case, &[&name, "has shape"], |tensors, _| {
                let (_, shape, _) = tensors.get_mut(&name).unwrap();
                shape.splice(0..0, [1, 1, 1]);
            });
            refused(case, &[&name, "type U8"], |tensors, _| {
                let (dtype, shape, bytes) = tensors.get_mut(&name).unwrap();
                *dtype = SafeDtype::U8;
                let last = bytes.len() / shape.iter().product::<usize>().max(1);
                if last > 1 {
                    shape.push(last);
                }
            });
        }
    }
}

#[test]
fn wrong_values_are_named() {
    let nan = half::f16::NAN.to_le_bytes();
    refused(
        "quant_gptq",
        &["down_proj.scales", "number 1", "NaN"],
        |t, _| {
            part(t, "scales")[2..4].copy_from_slice(&nan);
        },
    );
    refused("quant_fp8", &["scale_inv", "inf"], |t, _| {
        part(t, "weight_scale_inv")[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    for code in [0x7f, 0xff] {
        for case in ["quant_fp8", "quant_ct_fp8"] {
            refused(
                case,
                &["down_proj.weight", "row 1, column 3 is NaN"],
                |t, _| {
                    part(t, "weight")[96 + 3] = code;
                },
            );
        }
    }
    refused(
        "quant_gptq_asym",
        &["qzeros", "output 0, group 0", "15"],
        |t, _| {
            part(t, "qzeros")[0] |= 15;
        },
    );
    refused("quant_gptq", &["qzeros", "`sym`"], |t, _| {
        part(t, "qzeros")[0] ^= 1;
    });
    for group in [7u32, u32::MAX, 0] {
        refused("quant_gptq_v2_order", &["g_idx", "group"], |t, _| {
            let bytes = part(t, "g_idx");
            let at = bytes.chunks_exact(4).position(|b| b[0] == 1).unwrap();
            bytes[4 * at..4 * at + 4].copy_from_slice(&group.to_le_bytes());
        });
    }
    refused(
        "quant_ct_int4",
        &["weight_shape", "expected [64, 96]"],
        |t, _| {
            part(t, "weight_shape")[0] ^= 1;
        },
    );
    // Four bits, a byte each.
    let four = |config: &mut Value| {
        config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 4.into();
    };
    refused(
        "quant_ct_int8",
        &["down_proj.weight", "no 4 bits"],
        |_, c| four(c),
    );
}

/// Sets a field of the configuration; the message must have all of `words`.
fn set(case: &str, pointer: &str, value: Value, words: &[&str]) {
    refused(case, words, |_, config| {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let path = format!("/quantization_config{parent}");
        config.pointer_mut(&path).unwrap()[last] = value;
    });
}

/// As [`set`]; the message must name the field too.
fn field(case: &str, pointer: &str, value: Value, words: &[&str]) {
    let name = format!("{}`", pointer.rsplit('/').next().unwrap());
    set(case, pointer, value, &[&[name.as_str()], words].concat());
}

#[test]
fn unsupported_fields_are_named() {
    for (case, name, value, words) in [
        (
            "quant_gptq",
            "/quant_method",
            json!("bitsandbytes"),
            &["bitsandbytes"][..],
        ),
        ("quant_gptq", "/bits", json!(3), &["3"]),
        ("quant_gptq", "/bits", json!("4"), &[]),
        ("quant_gptq", "/group_size", json!(48), &[]),
        ("quant_gptq", "/group_size", json!(0), &[]),
        (
            "quant_gptq",
            "/checkpoint_format",
            json!("marlin"),
            &["marlin"],
        ),
        ("quant_gptq", "/is_marlin_format", json!(true), &["true"]),
        ("quant_gptq", "/dynamic", json!({"-:lm_head": {}}), &[]),
        ("quant_gptq", "/surprise", json!(1), &["is not known"]),
        ("quant_awq", "/bits", json!(8), &["8"]),
        ("quant_awq", "/version", json!("gemv"), &["gemv"]),
        ("quant_awq", "/zero_point", json!(false), &["false"]),
        (
            "quant_fp8",
            "/activation_scheme",
            json!("sometimes"),
            &["sometimes"],
        ),
        ("quant_fp8", "/fmt", json!("e5m2"), &["e5m2"]),
        ("quant_fp8", "/weight_block_size", json!([16, 48]), &[]),
        ("quant_fp8", "/weight_block_size", json!([0, 32]), &[]),
        ("quant_fp8", "/weight_block_size", json!([16]), &[]),
        ("quant_fp8", "/kv_cache_scheme", json!({"num_bits": 8}), &[]),
    ] {
        field(case, name, value, words);
    }
}

#[test]
fn unsupported_fields_of_compressed_tensors_are_named() {
    for (name, value, words) in [
        ("/format", json!("marlin-24"), &["marlin-24"][..]),
        ("/format", json!("nvfp4-pack-quantized"), &["nvfp4"]),
        ("/kv_cache_scheme", json!({"num_bits": 8}), &[]),
        ("/transform_config", json!({"a": 1}), &[]),
        ("/config_groups", json!({}), &[]),
        ("/ignore", json!(["re:("]), &["re:("]),
    ] {
        field("quant_ct_int8", name, value, words);
    }
    let group = |name: &str| format!("/config_groups/group_0{name}");
    for (name, value, words) in [
        ("/weights/num_bits", json!(2), &["2"][..]),
        ("/weights/type", json!("complex"), &["complex"]),
        ("/weights/strategy", json!("block"), &["block"]),
        ("/weights/dynamic", json!(true), &["true"]),
        ("/weights/group_size", json!(16), &[]),
        ("/weights/actorder", json!("sideways"), &["sideways"]),
        ("/output_activations", json!({"num_bits": 8}), &[]),
    ] {
        field("quant_ct_int8", &group(name), value, words);
    }
    // Wrong together with something else, which is then what is named.
    let words = ["group_0.format", "int-quantized"];
    set(
        "quant_ct_int8",
        &group("/weights/type"),
        json!("float"),
        &words,
    );
    let words = ["down_proj.weight_scale", "has shape"];
    set(
        "quant_ct_int8",
        &group("/weights/strategy"),
        json!("tensor"),
        &words,
    );
}

#[test]
fn other_groups_do_not_fit() {
    for (case, size) in [
        ("quant_gptq", 64),
        ("quant_awq", -1),
        ("quant_gptq_asym", 32),
    ] {
        refused(case, &["down_proj.scales", "has shape"], |_, config| {
            config["quantization_config"]["group_size"] = size.into();
        });
    }
    refused(
        "quant_fp8",
        &["weight_scale_inv", "has shape"],
        |_, config| {
            config["quantization_config"]["weight_block_size"] = json!([32, 32]);
        },
    );
}

/// Which group a module belongs to: one that names it, then one whose pattern fits, then one of all linear layers.
#[test]
fn modules_find_their_group() {
    let name = |config: &mut Value, targets: Value| {
        config["quantization_config"]["config_groups"]["group_0"]["targets"] = targets;
    };
    for target in [
        STEM,
        "re:.*mlp.*",
        "re:model.layers.\\d+.mlp.(up|down)_proj$",
        "Linear",
    ] {
        load("quant_ct_int4", |_, config| name(config, json!([target]))).unwrap();
    }
    for target in ["re:mlp", "down_proj", "re:.*(?<!down)_proj$", "Embedding"] {
        refused("quant_ct_int4", &[STEM, "targets it"], |_, config| {
            name(config, json!([target]));
        });
    }
    for entry in [STEM, "re:.*down_proj", "Linear"] {
        refused("quant_ct_int4", &[STEM, "`ignore`"], |_, config| {
            config["quantization_config"]["ignore"] = json!([entry]);
        });
    }
    // A closer target decides: the other group would read four bits as eight.
    for (all, close) in [("Linear", "re:.*down_proj"), ("re:.*", STEM)] {
        load("quant_ct_int4", |_, config| {
            let groups = &mut config["quantization_config"]["config_groups"];
            let mut other = groups["group_0"].clone();
            other["weights"]["num_bits"] = 8.into();
            other["targets"] = json!([all]);
            groups["group_0"]["targets"] = json!([close]);
            let right = groups["group_0"].clone();
            *groups = json!({"group_0": other, "group_1": right});
        })
        .unwrap();
    }
}
