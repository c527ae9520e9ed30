use super::*;
use koma_models::{Head, HeadKind, Identity, Limits};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A consistent artifact in `folder` with one bucket and separate weights, and the checkpoint `source` that it names.
pub(crate) fn sample(folder: &Path, source: &Path) -> Manifest {
    for (name, text) in [("b1_s8.hlo.pb", "hlo"), ("weights.safetensors", "weights")] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        std::fs::write(source.join(name), name).unwrap();
    }
    let file = |name: &str| files::file_ref(folder, name).unwrap();
    let of_source = |name: &str| files::file_ref(source, name).unwrap();
    let (hlo, config) = (file("b1_s8.hlo.pb"), of_source("config.json"));
    let json = json!({
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "status": "exported",
        "exporter": {"version": "0.1.0"},
        "source": {
            "architecture": "BertForSequenceClassification",
            "weights_hash": "12",
            "config_sha256": config.sha256,
            "weights": [of_source("model.safetensors")],
            "files": [of_source("tokenizer_config.json")],
        },
        "task": "sequence-classification",
        "activation": "softmax",
        "labels": ["no", "yes"],
        "tokenizer": {
            "file": "tokenizer.json",
            "sha256": of_source("tokenizer.json").sha256,
            "max_length": 8,
            "pad_id": 0,
            "vocab_size": 10,
        },
        "inputs": [
            {"name": "input_ids", "param": 0, "dtype": "s32"},
            {"name": "attention_mask", "param": 1, "dtype": "s32"},
        ],
        "outputs": [{"name": "logits", "index": 0, "dtype": "f32", "width": 2}],
        "numerics": {
            "compute": "f32",
            "gelu": "erf-as-7.1.26",
            "mask_value": -1e9,
            "weights": "separate",
            "param_order": ["a.weight"],
            "weights_file": file("weights.safetensors"),
        },
        "buckets": [{
            "batch": 1,
            "seq": 8,
            "hlo": {"file": hlo.file, "sha256": hlo.sha256, "bytes": hlo.bytes, "opcodes": ["add"]},
            "parity": null,
            "neff": null,
        }],
        "portable": [],
    });
    serde_json::from_value(json).unwrap()
}

fn parity(max_abs: f64) -> Parity {
    Parity {
        reference: "a".to_owned(),
        runner: "b".to_owned(),
        cases: 4,
        max_abs,
        argmax_agreement: Some(1.0),
        tolerance: 1e-5,
        scale: 1.0,
    }
}

#[test]
fn what_is_written_is_read() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut manifest = sample(folder.path(), source.path());
    manifest.write(folder.path()).unwrap();
    let first = std::fs::read(folder.path().join(FILE)).unwrap();
    assert_eq!(Manifest::read(folder.path()).unwrap(), manifest);
    manifest.write(folder.path()).unwrap();
    assert_eq!(std::fs::read(folder.path().join(FILE)).unwrap(), first);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn a_device_does_without_the_files_that_it_does_not_read() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut manifest = sample(folder.path(), source.path());
    manifest.write(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("b1_s8.hlo.pb")).unwrap();
    assert!(Manifest::read(folder.path()).is_err());
    assert_eq!(Manifest::read_compiled(folder.path()).unwrap(), manifest);
    std::fs::write(folder.path().join("weights.safetensors"), "Weights").unwrap();
    let error = Manifest::read_compiled(folder.path()).unwrap_err();
    assert!(error.to_string().contains("weights.safetensors"), "{error}");
}

#[test]
fn a_status_is_earned() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut manifest = sample(folder.path(), source.path());
    let neff = Neff {
        file: "b1_s8.neff".to_owned(),
        sha256: "0".repeat(64),
        bytes: 0,
        target: Target::Inf2,
        compiler: "neuronx-cc 2".to_owned(),
        flags: Vec::new(),
        neff_version: [2, 0],
        num_tpb: 1,
        io: BTreeMap::new(),
        unverified: true,
        device_parity: Some(parity(1e-6)),
    };
    let mut step = |change: &dyn Fn(&mut Bucket), expected| {
        change(&mut manifest.buckets[0]);
        assert_eq!(manifest.earned(), expected);
    };
    step(&|_| (), Status::Exported);
    step(&|b| b.parity = Some(parity(1e-3)), Status::Exported);
    step(&|b| b.parity = Some(parity(f64::NAN)), Status::Exported);
    step(
        &|b| {
            let tolerance = 1e-3;
            b.parity = Some(Parity {
                tolerance,
                ..parity(1e-6)
            });
        },
        Status::Exported,
    );
    step(&|b| b.parity = Some(parity(1e-6)), Status::HloVerified);
    step(&|b| b.neff = Some(neff.clone()), Status::HloVerified);
    step(
        &|b| b.neff.as_mut().unwrap().unverified = false,
        Status::DeviceVerified,
    );
    step(
        &|b| b.neff.as_mut().unwrap().device_parity = None,
        Status::NeffCompiled,
    );
    step(
        &|b| b.parity.as_mut().unwrap().argmax_agreement = Some(0.9),
        Status::Exported,
    );
    step(
        &|b| b.parity.as_mut().unwrap().argmax_agreement = None,
        Status::NeffCompiled,
    );
    step(&|b| b.parity.as_mut().unwrap().cases = 0, Status::Exported);
}

/// Changes to a manifest that holds, each with a part of what its refusal says.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "/format",
        r#""other""#,
        r#"field `format`: expected "neuron-export", got "other""#,
    ),
    (
        "/format_version",
        "2",
        "field `format_version`: is 2; this version of Koma reads 1",
    ),
    ("/format_version", r#""1""#, "field `format_version`"),
    (
        "/status",
        r#""hlo-verified""#,
        "field `status`: is HloVerified",
    ),
    ("/status", r#""perfect""#, "perfect"),
    ("/exporter/by", "1", "unknown field `by`"),
    ("/source/weights", "[]", "`source.weights`: is empty"),
    (
        "/source/weights/0/file",
        r#""../x""#,
        "`source.weights`: `../x` is not the name of a file inside",
    ),
    (
        "/source/files/0/file",
        r#""model.safetensors""#,
        "`source.files`: `model.safetensors` is listed twice",
    ),
    (
        "/source/files/0/sha256",
        r#""0""#,
        "`source.files`: `0` is not a sha256",
    ),
    (
        "/task",
        r#""text-ranking""#,
        "field `task`: TextRanking cannot have 2 labels",
    ),
    (
        "/task",
        r#""sentence-embedding""#,
        "field `task`: Embedding cannot have 2 labels",
    ),
    ("/labels", "[]", "field `task`"),
    (
        "/pooling",
        r#"{"modes": ["mean"], "normalize": true}"#,
        "field `pooling`",
    ),
    (
        "/tokenizer/file",
        r#""/etc/passwd""#,
        "field `tokenizer.file`",
    ),
    ("/tokenizer/pad_id", "10", "field `tokenizer.pad_id`"),
    ("/tokenizer/max_length", "0", "field `tokenizer`"),
    ("/inputs", "[]", "field `inputs`"),
    ("/inputs/0/name", r#""attention_mask""#, "field `inputs`"),
    (
        "/inputs/1/param",
        "2",
        "field `inputs[1].param`: expected 1",
    ),
    ("/inputs/1/dtype", r#""f32""#, "field `inputs[1].dtype`"),
    ("/outputs", "[]", "field `outputs`"),
    ("/outputs/0/name", r#""embedding""#, "field `outputs[0]`"),
    ("/outputs/0/width", "3", "field `outputs[0].width`"),
    (
        "/numerics/weights",
        r#""inline""#,
        "field `numerics.weights_file`",
    ),
    (
        "/numerics/weights_file",
        "null",
        "field `numerics.weights_file`",
    ),
    (
        "/numerics/param_order",
        "[]",
        "field `numerics.param_order`",
    ),
    (
        "/numerics/param_order",
        r#"["a", "b", "a"]"#,
        "`numerics.param_order`: `a` is there twice",
    ),
    ("/buckets", "[]", "field `buckets`: is empty"),
    (
        "/buckets/0/batch",
        "0",
        "field `buckets[0]`: batch and seq must be positive",
    ),
    (
        "/buckets/0/seq",
        "9",
        "field `buckets[0]`: seq 9 is above tokenizer.max_length, 8",
    ),
    (
        "/buckets/0/hlo/file",
        r#""/b1_s8.hlo.pb""#,
        "field `buckets[0].hlo`",
    ),
    (
        "/buckets/0/hlo/file",
        r#""a/b1_s8.hlo.pb""#,
        "field `buckets[0].hlo`",
    ),
    (
        "/buckets/0/hlo/file",
        r#""manifest.json""#,
        "`buckets[0].hlo`: `manifest.json` is named twice",
    ),
    (
        "/buckets/0/hlo/file",
        r#""weights.safetensors""#,
        "`weights.safetensors` is named twice",
    ),
    (
        "/buckets/0/hlo/file",
        r#""b2_s8.hlo.pb""#,
        "b2_s8.hlo.pb: is missing",
    ),
    (
        "/buckets/0/hlo/bytes",
        "4",
        "b1_s8.hlo.pb: has 3 bytes, expected 4",
    ),
    (
        "/buckets/0/hlo/sha256",
        r#""0000000000000000000000000000000000000000000000000000000000000000""#,
        "b1_s8.hlo.pb: has sha256",
    ),
];

#[test]
fn a_manifest_that_does_not_hold_together_is_refused() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let good = serde_json::to_value(sample(folder.path(), source.path())).unwrap();
    let bucket = good["buckets"][0].to_string();
    let twice = format!("[{bucket}, {bucket}]");
    let twice = (
        "/buckets",
        twice.as_str(),
        "field `buckets[1]`: buckets must ascend",
    );
    for (pointer, value, expected) in WRONG.iter().chain([&twice]) {
        let value: Value = serde_json::from_str(value).unwrap();
        let mut json = good.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match json.pointer_mut(parent).unwrap() {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
            object => object[key] = value,
        }
        std::fs::write(folder.path().join(FILE), json.to_string()).unwrap();
        let error = Manifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{pointer}: {error}");
    }
    for (text, expected) in [
        ("", "not JSON"),
        ("[]", "field `format`"),
        ("{\"format\"", "not JSON"),
    ] {
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let error = Manifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    std::fs::remove_file(folder.path().join(FILE)).unwrap();
    let error = Manifest::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("the folder is not an export"), "{error}");
}

#[test]
fn a_manifest_that_does_not_hold_together_is_not_written() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut manifest = sample(folder.path(), source.path());
    manifest.buckets.clear();
    let error = manifest.write(folder.path()).unwrap_err().to_string();
    assert!(error.contains("field `buckets`"), "{error}");
    assert!(!folder.path().join(FILE).exists());
}

#[test]
fn an_artifact_is_bound_to_its_model() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let manifest = sample(folder.path(), source.path());
    let labels = || ["no", "yes"].map(str::to_owned).to_vec();
    let head = Head::labelled(HeadKind::SingleLabel, labels());
    let limits = Limits {
        max_len: 8,
        vocab: 10,
    };
    let identity = Identity {
        name: "intent".to_owned(),
        architecture: "BertForSequenceClassification".to_owned(),
        format: "F32".to_owned(),
        parameters: 1,
        weights_hash: "12".to_owned(),
    };
    let error = |identity: &Identity, head: &Head, limits: &Limits| {
        let checked = manifest.check_model(folder.path(), (identity, head, limits));
        checked.map_or_else(|e| e.to_string(), |()| String::new())
    };
    assert_eq!(error(&identity, &head, &limits), "");
    let other = Identity {
        weights_hash: "13".to_owned(),
        ..identity.clone()
    };
    let text = error(&other, &head, &limits);
    assert!(
        text.contains("`source.weights_hash`: is \"12\", but that of the model `intent` is \"13\""),
        "{text}"
    );
    let other = Identity {
        architecture: "BertModel".to_owned(),
        ..identity.clone()
    };
    assert!(error(&other, &head, &limits).contains("`source.architecture`"));
    let other = Head::labelled(HeadKind::MultiLabel, labels());
    assert!(error(&identity, &other, &limits).contains("`task`"));
    let swapped = labels().into_iter().rev().collect();
    let other = Head::labelled(HeadKind::SingleLabel, swapped);
    assert!(error(&identity, &other, &limits).contains("`labels`"));
    let other = Limits {
        vocab: 11,
        ..limits
    };
    assert!(error(&identity, &head, &other).contains("`tokenizer.vocab_size`"));
}

#[test]
fn an_artifact_is_bound_to_the_files_of_its_checkpoint() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let manifest = sample(folder.path(), source.path());
    manifest.check_source(source.path()).unwrap();
    manifest.check_weights(source.path()).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let path = source.path().join(name);
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, "other").unwrap();
        let error = manifest
            .check_source(source.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(name) && error.contains("another checkpoint"),
            "{error}"
        );
        std::fs::write(&path, before).unwrap();
    }
    std::fs::write(source.path().join("modules.json"), "[]").unwrap();
    let error = manifest
        .check_source(source.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("modules.json: was not there"), "{error}");
    std::fs::write(source.path().join("model.safetensors"), "x").unwrap();
    let error = manifest
        .check_weights(source.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("model.safetensors: has 1 bytes"), "{error}");
}
