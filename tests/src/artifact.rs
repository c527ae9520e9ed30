//! Exports of the golden models whose compiled modules are toys ([`crate::fake_nrt`]): manifests as `koma export` and
//! `koma export compile` write them, over modules that the stand-in for the Neuron runtime computes.

use crate::fake_nrt::toy_neff;
use koma_models::{HeadKind, LoadOptions, Loaded, Source, load};
use koma_neuron_export::file_ref;
use koma_neuron_export::manifest::{
    Activation, BOUND_FILES, Bucket, Checkpoint, Dtype, Exporter, FORMAT, FORMAT_VERSION, Gelu,
    Hlo, Input, InputName, Manifest, Neff, Numerics, Output, Pooling, Precision, Status, Target,
    Task, TokenizerInfo, Weights,
};
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names in the toy modules of the integer inputs: as compilers number them.
pub const INPUTS: [&str; 3] = ["input0", "input1", "input2"];
/// Separate weights: name, shape, and the value of each of their numbers.
pub const WEIGHTS: [(&str, [usize; 2], f32); 2] =
    [("encoder.w", [3, 4], 2.0), ("head.w", [2, 5], -1.0)];
/// What they add up to.
pub const WEIGHTS_SUM: f32 = 3.0 * 4.0 * 2.0 - 2.0 * 5.0;

/// The folder of the golden model `name`.
pub fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    folder.join(name).join("model")
}

/// The model in `folder`.
///
/// # Panics
/// If it cannot be loaded.
pub fn loaded(folder: &Path) -> Loaded {
    let options = LoadOptions {
        name: "intent".to_owned(),
        ..LoadOptions::default()
    };
    load(&Source::Folder(folder.to_owned()), &options).expect("a golden model")
}

/// Writes an export of the model in the folder `model` to the folder `artifact`, compiled in these `buckets` (batch, sequence).
///
/// # Panics
/// If it cannot be made.
pub fn make(
    model: &Path,
    artifact: &Path,
    buckets: &[(usize, usize)],
    weights: Weights,
) -> Manifest {
    std::fs::create_dir_all(artifact).expect("a folder");
    let loaded = loaded(model);
    let mut manifest = manifest(model, &loaded, weights);
    if weights == Weights::Separate {
        write_weights(artifact);
        manifest.numerics.param_order = WEIGHTS.map(|(name, ..)| name.to_owned()).to_vec();
        manifest.numerics.weights_file =
            Some(file_ref(artifact, "weights.safetensors").expect("it was just written"));
    }
    for &(batch, seq) in buckets {
        let hlo = format!("b{batch}_s{seq}.hlo.pb");
        std::fs::write(artifact.join(&hlo), "no device reads it").expect("a file");
        let hlo = file_ref(artifact, &hlo).expect("it was just written");
        manifest.buckets.push(Bucket {
            batch,
            seq,
            hlo: Hlo {
                file: hlo.file,
                sha256: hlo.sha256,
                bytes: hlo.bytes,
                opcodes: Vec::new(),
            },
            parity: None,
            neff: None,
        });
    }
    for number in 0..buckets.len() {
        compile(artifact, &mut manifest, number, None);
    }
    manifest.write(artifact).expect("a consistent manifest");
    manifest
}

/// Gives bucket `number` a compiled module: `neff`, or the toy with the tensors that the manifest says. The manifest is not written.
///
/// # Panics
/// If it cannot be written.
pub fn compile(artifact: &Path, manifest: &mut Manifest, number: usize, neff: Option<Vec<u8>>) {
    let Bucket { batch, seq, .. } = manifest.buckets[number];
    let names = &INPUTS[..manifest.inputs.len()];
    let separate = manifest.numerics.weights == Weights::Separate;
    let weights = if separate { &WEIGHTS[..] } else { &[] };
    let numbered: Vec<String> = (names.len()..)
        .take(weights.len())
        .map(|i| format!("input{i}"))
        .collect();
    let params = numbered.iter().zip(weights);
    let toy = || {
        let shapes: Vec<_> = params
            .clone()
            .map(|(name, w)| (name.as_str(), w.1.to_vec()))
            .collect();
        toy_neff(names, (batch, seq, manifest.outputs[0].width), &shapes)
    };
    let neff = neff.unwrap_or_else(toy);
    let file = format!("b{batch}_s{seq}.neff");
    std::fs::write(artifact.join(&file), neff).expect("a file");
    let neff = file_ref(artifact, &file).expect("it was just written");
    let inputs = manifest.inputs.iter().zip(names);
    let inputs = inputs.map(|(input, name)| (input.name.name().to_owned(), (*name).to_owned()));
    let params = numbered.iter().zip(weights);
    let params = params.map(|(name, weight)| (weight.0.to_owned(), name.clone()));
    let output = (manifest.outputs[0].name.clone(), "output0".to_owned());
    let io: BTreeMap<_, _> = inputs.chain(params).chain([output]).collect();
    manifest.buckets[number].neff = Some(Neff {
        file: neff.file,
        sha256: neff.sha256,
        bytes: neff.bytes,
        target: Target::Inf2,
        compiler: "a toy".to_owned(),
        flags: Vec::new(),
        neff_version: [2, 0],
        num_tpb: 1,
        io,
        unverified: false,
        device_parity: None,
    });
}

/// Without buckets.
fn manifest(model: &Path, loaded: &Loaded, weights: Weights) -> Manifest {
    let sha256 = |name| file_ref(model, name).expect("a file of the model").sha256;
    let head = loaded.head.as_ref().expect("an encoder");
    let (task, activation) = match head.kind {
        HeadKind::SingleLabel => (Task::SequenceClassification, Activation::Softmax),
        HeadKind::MultiLabel => (Task::SequenceClassification, Activation::Sigmoid),
        HeadKind::Score { sigmoid: true } => (Task::TextRanking, Activation::Sigmoid),
        HeadKind::Score { sigmoid: false } => (Task::TextRanking, Activation::None),
        HeadKind::Embed { .. } => (Task::Embedding, Activation::None),
        _ => panic!("no export for {:?}", head.kind),
    };
    let pooling = match head.kind {
        HeadKind::Embed { normalize } => Some(Pooling {
            modes: vec!["mean".to_owned()],
            normalized: normalize,
        }),
        _ => None,
    };
    let name = match task {
        Task::Embedding => "embedding",
        Task::SequenceClassification | Task::TextRanking => "logits",
    };
    let mut inputs = vec![InputName::InputIds, InputName::AttentionMask];
    if loaded.identity.architecture.starts_with("Bert") {
        inputs.push(InputName::TokenTypeIds);
    }
    let bound = BOUND_FILES.iter().filter(|name| model.join(name).is_file());
    Manifest {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        status: Status::Exported,
        exporter: Exporter {
            version: "0.1.0".to_owned(),
        },
        source: Checkpoint {
            architecture: loaded.identity.architecture.clone(),
            weights_hash: loaded.identity.weights_hash.clone(),
            config_sha256: sha256("config.json"),
            weights: vec![file_ref(model, "model.safetensors").expect("a file of the model")],
            files: bound
                .map(|name| file_ref(model, name).expect("a file of the model"))
                .collect(),
        },
        task,
        activation,
        labels: head.labels.clone(),
        pooling,
        tokenizer: TokenizerInfo {
            file: "tokenizer.json".to_owned(),
            sha256: sha256("tokenizer.json"),
            max_length: loaded.limits.max_len,
            pad_id: 0,
            vocab_size: loaded.limits.vocab,
        },
        inputs: inputs
            .into_iter()
            .enumerate()
            .map(|(param, name)| Input {
                name,
                param,
                dtype: Dtype::S32,
            })
            .collect(),
        outputs: vec![Output {
            name: name.to_owned(),
            index: 0,
            dtype: Dtype::F32,
            width: head.width,
        }],
        numerics: Numerics {
            compute: Precision::F32,
            gelu: Gelu::Erf,
            mask_value: -1e9,
            weights,
            param_order: Vec::new(),
            weights_file: None,
        },
        buckets: Vec::new(),
        portable: Vec::new(),
    }
}

fn write_weights(artifact: &Path) {
    let bytes = WEIGHTS.map(|(_, shape, value)| value.to_le_bytes().repeat(shape[0] * shape[1]));
    let tensors = WEIGHTS.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (*name, view.expect("as many bytes as the shape says"))
    });
    let file = artifact.join("weights.safetensors");
    safetensors::serialize_to_file(tensors, None, &file).expect("a file");
}
