//! Exports of the golden models as `koma export` makes them, whose compiled modules are toys ([`crate::fake_nrt`]), which the stand-in
//! for the Neuron runtime computes.

use crate::fake_nrt::toy_neff;
use koma_models::{LoadOptions, Loaded, Source, blueprint, load};
use koma_neuron_export::export::{ExportOptions, export};
use koma_neuron_export::manifest::{Bucket, Manifest, Neff, Precision, Target, Weights};
use koma_neuron_export::{Stop, file_ref};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names in the toy modules of the integer inputs: as compilers number them.
pub const INPUTS: [&str; 3] = ["input0", "input1", "input2"];

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
    load(&source(folder), &options()).expect("a golden model")
}

fn source(folder: &Path) -> Source {
    Source::Folder(folder.to_owned())
}

fn options() -> LoadOptions {
    LoadOptions {
        name: "intent".to_owned(),
        ..LoadOptions::default()
    }
}

/// Exports the model in the folder `model` to the folder `artifact`, compiled in the buckets of these `sizes` (rows, tokens). What the
/// separate weights add up to; 0 if there are none.
///
/// # Panics
/// If it cannot be made.
pub fn make(
    model: &Path,
    artifact: &Path,
    (batches, seqs): (&[usize], &[usize]),
    weights: Weights,
) -> f64 {
    let blueprint = blueprint(&source(model), &options()).expect("a golden model");
    let options = ExportOptions {
        out: artifact.to_owned(),
        batches: batches.to_vec(),
        seqs: Some(seqs.to_vec()),
        weights: Some(weights),
        precision: Precision::F32,
        force: true,
    };
    let mut manifest =
        export(&blueprint, &options, &Stop::default(), &|_, _| ()).expect("it can be exported");
    for number in 0..manifest.buckets.len() {
        compile(artifact, &mut manifest, number, None);
    }
    manifest.write(artifact).expect("a consistent manifest");
    // In the order in which the stand-in adds.
    let values = separate(artifact, &manifest).into_iter();
    values.flat_map(|(_, values)| values).map(f64::from).sum()
}

/// Shape and values of the separate weights, in the order of their parameters.
fn separate(artifact: &Path, manifest: &Manifest) -> Vec<(Vec<usize>, Vec<f32>)> {
    let Some(file) = &manifest.numerics.weights_file else {
        return Vec::new();
    };
    let bytes = std::fs::read(artifact.join(&file.file)).expect("a file of the export");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let one = |name: &String| {
        let tensor = tensors.tensor(name).expect("every parameter is in it");
        let (values, _) = tensor.data().as_chunks();
        let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes));
        (tensor.shape().to_vec(), values.collect())
    };
    manifest.numerics.param_order.iter().map(one).collect()
}

/// Gives bucket `number` a compiled module: `neff`, or the toy with the tensors that the manifest says. The manifest is not written.
///
/// # Panics
/// If it cannot be written.
pub fn compile(artifact: &Path, manifest: &mut Manifest, number: usize, neff: Option<Vec<u8>>) {
    let Bucket { batch, seq, .. } = manifest.buckets[number];
    let names = &INPUTS[..manifest.inputs.len()];
    let params = &manifest.numerics.param_order;
    let numbered: Vec<String> = (names.len()..names.len() + params.len())
        .map(|i| format!("input{i}"))
        .collect();
    let toy = || {
        let weights = separate(artifact, manifest).into_iter();
        let shapes: Vec<_> = numbered
            .iter()
            .map(String::as_str)
            .zip(weights.map(|(shape, _)| shape))
            .collect();
        toy_neff(names, (batch, seq, manifest.outputs[0].width), &shapes)
    };
    let neff = neff.unwrap_or_else(toy);
    let file = format!("b{batch}_s{seq}.neff");
    std::fs::write(artifact.join(&file), neff).expect("a file");
    let neff = file_ref(artifact, &file).expect("it was just written");
    let inputs = manifest.inputs.iter().zip(names);
    let inputs = inputs.map(|(input, name)| (input.name.name().to_owned(), (*name).to_owned()));
    let params = params.iter().cloned().zip(numbered);
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
