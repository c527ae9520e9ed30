use super::writer::WEIGHTS_FILE;
use super::*;
use crate::arch::tests::{golden, open};
use crate::files::Hasher;
use crate::manifest::{Status, Task};
use safetensors::{Dtype as Stored, SafeTensors, serialize_to_file, tensor::TensorView};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

const FIXTURES: [&str; 9] = [
    "distilbert_classify",
    "bert_classify",
    "bert_cross",
    "roberta_classify",
    "xlm_roberta_cross",
    "bert_embed_mean",
    "bert_embed_concat",
    "bert_embed_dense",
    "xlm_roberta_embed_cls",
];

fn options(out: PathBuf) -> ExportOptions {
    ExportOptions {
        out,
        batches: vec![4, 1],
        seqs: Some(vec![16, 32]),
        weights: None,
        precision: Precision::F32,
        force: false,
    }
}

fn quietly(model: &Blueprint, options: &ExportOptions) -> Result<Manifest, ExportError> {
    export(model, options, &Stop::default(), &|_, _| ())
}

/// Names and contents of the files in a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes
        .windows(part.len())
        .any(|window| window == part.as_bytes())
}

#[test]
fn two_exports_are_the_same_bytes_and_hold_no_path() {
    for name in FIXTURES {
        let model = open(&golden(name));
        for (weights, precision) in [
            (Weights::Inline, Precision::F32),
            (Weights::Separate, Precision::F32),
            (Weights::Separate, Precision::Bf16),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let [first, second] = ["first", "second"].map(|out| {
                let out = folder.path().join(out);
                let options = ExportOptions {
                    weights: Some(weights),
                    precision,
                    ..options(out.clone())
                };
                let manifest = quietly(&model, &options).unwrap();
                assert_eq!(Manifest::read(&out).unwrap(), manifest, "{name}");
                manifest.check_source(&golden(name)).unwrap();
                manifest.check_weights(&golden(name)).unwrap();
                let facts = (&model.identity, model.head.as_ref().unwrap(), &model.limits);
                manifest.check_model(&out, facts).unwrap();
                contents(&out)
            });
            assert!(first == second, "{name}");
            // Modules, ONNX, manifest; weights; in bf16 the ONNX file's own, in f32.
            let files = match (weights, precision) {
                (Weights::Inline, _) => 6,
                (Weights::Separate, Precision::F32) => 7,
                (Weights::Separate, Precision::Bf16) => 8,
            };
            assert_eq!(first.len(), files, "{name}: {:?}", first.keys());
            for (file, bytes) in &first {
                for path in [
                    folder.path(),
                    &golden(name),
                    Path::new(env!("CARGO_MANIFEST_DIR")),
                ] {
                    assert!(!contains(bytes, path.to_str().unwrap()), "{name}: {file}");
                }
            }
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "{name}");
        }
    }
}

#[test]
fn separate_weights_are_the_checkpoints_own() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&golden("bert_embed_dense"));
    for precision in [Precision::F32, Precision::Bf16] {
        let out = folder.path().join(format!("{precision:?}"));
        let options = ExportOptions {
            weights: Some(Weights::Separate),
            precision,
            ..options(out.clone())
        };
        let manifest = quietly(&model, &options).unwrap();
        let bytes = fs::read(out.join(WEIGHTS_FILE)).unwrap();
        let written = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(written.len(), manifest.numerics.param_order.len());
        for name in &manifest.numerics.param_order {
            let tensor = written.tensor(name).unwrap();
            let pieces = model.tensors.values(name, tensor.shape()).unwrap();
            let values: Vec<f32> = pieces.flat_map(|piece| piece.unwrap()).collect();
            let matrix = !name.contains("embeddings") && tensor.shape().len() == 2;
            let expected: Vec<u8> = if matrix && precision == Precision::Bf16 {
                assert_eq!(tensor.dtype(), Stored::BF16, "{name}");
                let rounded = values.iter().map(|x| half::bf16::from_f32(*x));
                rounded.flat_map(half::bf16::to_le_bytes).collect()
            } else {
                assert_eq!(tensor.dtype(), Stored::F32, "{name}");
                values.into_iter().flat_map(f32::to_le_bytes).collect()
            };
            assert!(tensor.data() == expected, "{name}");
        }
    }
}

#[test]
fn weights_go_inline_until_the_copies_are_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = quietly(
        &open(&golden("bert_cross")),
        &options(folder.path().join("a")),
    )
    .unwrap();
    assert_eq!(manifest.numerics.weights, Weights::Inline);
    assert!(manifest.buckets.iter().all(|b| b.hlo.bytes > 100_000));
    let shapes: Vec<_> = manifest.buckets.iter().map(|b| (b.batch, b.seq)).collect();
    assert_eq!(shapes, [(1, 16), (1, 32), (4, 16), (4, 32)]);
    assert_eq!(
        (manifest.task, manifest.status),
        (Task::TextRanking, Status::Exported)
    );
}

#[test]
fn default_lengths_are_those_that_the_model_takes() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&golden("bert_cross"));
    assert_eq!(model.limits.max_len, 64);
    let options = ExportOptions {
        seqs: None,
        batches: vec![1],
        ..options(folder.path().join("a"))
    };
    let seqs = |max_len| -> Vec<usize> {
        let buckets = buckets(&options, max_len).unwrap();
        buckets.into_iter().map(|(_, seq)| seq).collect()
    };
    assert_eq!(seqs(64), [32, 64]);
    assert_eq!(seqs(512), [32, 64, 128]);
    assert_eq!(seqs(20), [20]);
}

#[test]
fn buckets_that_are_not_possible_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&golden("bert_cross"));
    let cases: [(&[usize], &[usize], &str); 7] = [
        (
            &[1],
            &[65],
            "bucket of batch 1 and seq 65: the model takes texts of at most 64 tokens",
        ),
        (&[0], &[16], "batch 0 is not from 1 to"),
        (&[1], &[0], "seq 0 is not from 1 to"),
        (&[1 << 21], &[16], "batch 2097152 is not from 1 to"),
        (&[1, 4, 1], &[16], "batch 1 is there twice"),
        (&[1], &[16, 16], "seq 16 is there twice"),
        (&[], &[16], "there is no batch"),
    ];
    for (batches, seqs, expected) in cases {
        let options = ExportOptions {
            batches: batches.to_vec(),
            seqs: Some(seqs.to_vec()),
            ..options(folder.path().join("a"))
        };
        let error = quietly(&model, &options).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(contents(folder.path()).is_empty());
}

#[test]
fn a_folder_that_is_there_is_replaced_only_with_force_and_only_if_it_is_an_export() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a");
    let model = open(&golden("distilbert_classify"));
    let mut options = options(out.clone());
    quietly(&model, &options).unwrap();
    let before = contents(&out);
    let error = quietly(&model, &options).unwrap_err().to_string();
    assert!(
        error.contains("is there already; --force replaces it"),
        "{error}"
    );
    assert!(contents(&out) == before);

    options.force = true;
    options.batches = vec![2];
    let manifest = quietly(&model, &options).unwrap();
    assert_eq!(Manifest::read(&out).unwrap(), manifest);
    // A module, the ONNX file, the tokenizer or what it is bound to, the manifest.
    assert_eq!(contents(&out).len(), 4);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    fs::remove_file(out.join("manifest.json")).unwrap();
    let error = quietly(&model, &options).unwrap_err().to_string();
    assert!(
        error.contains("is no export, so it is not replaced"),
        "{error}"
    );
    assert_eq!(contents(&out).len(), 3);
    options.out = folder.path().join("none/a");
    let error = quietly(&model, &options).unwrap_err().to_string();
    assert!(error.contains("none/a: "), "{error}");
}

/// A file system that is full after so many bytes.
struct Full<'a>(Box<dyn Write + 'a>, &'a Cell<u64>);

impl Write for Full<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.1.get();
        if left == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let count = self.0.write(&bytes[..bytes.len().min(left as usize)])?;
        self.1.set(left - count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_leaves_what_was_there() {
    thread_local!(static LEFT: Cell<u64> = const { Cell::new(0) });
    struct Counted(Box<dyn Write>);
    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            LEFT.with(|left| Full(Box::new(&mut self.0), left).write(bytes))
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }
    let full = |path: &Path| -> io::Result<Box<dyn Write>> {
        Ok(Box::new(Counted(folder::create(path)?)))
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a");
    let model = open(&golden("distilbert_classify"));
    let mut options = options(out.clone());
    options.weights = Some(Weights::Separate);
    let all: u64 = {
        quietly(&model, &options).unwrap();
        let before = contents(&out);
        let length = |(name, bytes): (&String, &Vec<u8>)| {
            if name == "manifest.json" {
                0
            } else {
                bytes.len() as u64
            }
        };
        before.iter().map(length).sum()
    };
    let before = contents(&out);
    options.force = true;
    let weights = before[WEIGHTS_FILE].len() as u64;
    for (left, name) in [
        (0, WEIGHTS_FILE),
        (100, WEIGHTS_FILE),
        (weights - 1, WEIGHTS_FILE),
        (weights, "b1_s16.hlo.pb"),
        (weights + 50, "b1_s16.hlo.pb"),
        (all - 1, "model.onnx"),
    ] {
        LEFT.with(|l| l.set(left));
        let error = export_with(
            &model,
            &options,
            &Stop::default(),
            (&full, MAX_BYTES),
            &|_, _| (),
        )
        .unwrap_err()
        .to_string();
        let path = out.join(name);
        assert!(error.starts_with(path.to_str().unwrap()), "{left}: {error}");
        assert!(contents(&out) == before, "{left}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{left}");
    }
    LEFT.with(|l| l.set(all));
    export_with(
        &model,
        &options,
        &Stop::default(),
        (&full, MAX_BYTES),
        &|_, _| (),
    )
    .unwrap();
    assert!(contents(&out) == before);
}

#[test]
fn an_interrupted_export_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&golden("distilbert_classify"));
    let options = options(folder.path().join("a"));
    let stop = Stop::default();
    let progress = |done: u64, _: u64| {
        if done > 0 {
            stop.stop();
        }
    };
    let error = export(&model, &options, &stop, &progress).unwrap_err();
    assert!(matches!(error, ExportError::Stopped(_)), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    export(&model, &options, &Stop::default(), &|_, _| ()).unwrap();
}

#[test]
fn what_appears_meanwhile_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&golden("distilbert_classify"));
    let options = options(folder.path().join("a"));
    let theirs = options.out.join("theirs");
    let progress = |_: u64, _: u64| {
        fs::create_dir_all(&options.out).unwrap();
        fs::write(&theirs, "kept").unwrap();
    };
    let error = export(&model, &options, &Stop::default(), &progress).unwrap_err();
    assert!(error.to_string().contains("is there already"), "{error}");
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "kept");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn progress_ends_at_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&golden("distilbert_classify"));
    let last = Cell::new((0, 0));
    let progress = |done: u64, total: u64| {
        assert!(done >= last.get().0, "{done} of {total}");
        last.set((done, total));
    };
    let options = options(folder.path().join("a"));
    export(&model, &options, &Stop::default(), &progress).unwrap();
    let (done, total) = last.get();
    // What stands beside the weights is not foreseen.
    assert!(total > 0 && done >= total, "{done} of {total}");
}

#[test]
fn what_one_message_cannot_hold_goes_into_a_file_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&golden("distilbert_classify"));
    let graph = arch::graph(&model, Precision::F32).unwrap();
    let weights: u64 = weight_values(&graph).iter().map(Values::bytes).sum();
    let make = |name: &str, precision, longest| {
        let out = folder.path().join(name);
        let options = ExportOptions {
            weights: Some(Weights::Inline),
            precision,
            ..options(out.clone())
        };
        export_with(
            &model,
            &options,
            &Stop::default(),
            (&folder::create, longest),
            &|_, _| (),
        )
    };
    // The modules in bf16 are short enough, ONNX in f32 is not.
    let manifest = make("a", Precision::Bf16, weights).unwrap();
    let data = manifest.portable[0].data.as_ref().unwrap();
    assert_eq!(data.file, "model.onnx.safetensors");
    assert!(data.bytes > weights && manifest.portable[0].bytes < weights / 4);
    let read = fs::read(folder.path().join("a").join(&data.file)).unwrap();
    assert_eq!(
        SafeTensors::deserialize(&read).unwrap().len(),
        weight_values(&graph).len()
    );
    assert_eq!(Manifest::read(&folder.path().join("a")).unwrap(), manifest);
    let inside = make("b", Precision::Bf16, MAX_BYTES).unwrap();
    assert!(inside.portable[0].data.is_none() && inside.portable[0].bytes > weights);
    // Nor are the modules in f32, which have no other file to go to.
    let error = make("c", Precision::F32, weights).unwrap_err().to_string();
    assert!(
        error.contains("bucket of batch 1 and seq 16")
            && error.contains("write weights separately"),
        "{error}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A checkpoint without one of its tensors is refused as loading refuses it.
#[test]
fn a_checkpoint_with_a_missing_tensor_is_refused() {
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in contents(&golden("distilbert_classify")) {
        fs::write(copy.path().join(name), bytes).unwrap();
    }
    let path = copy.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let lost = "distilbert.transformer.layer.1.ffn.lin2.weight";
    let kept: Vec<(String, TensorView<'_>)> = tensors
        .tensors()
        .into_iter()
        .filter(|(name, _)| name != lost)
        .collect();
    assert_eq!(kept.len() + 1, tensors.len());
    serialize_to_file(kept, None, &path).unwrap();
    let source = koma_models::Source::Folder(copy.path().to_owned());
    let error = koma_models::blueprint(&source, &koma_models::LoadOptions::default());
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains(&format!("tensor `{lost}` is missing")),
        "{error}"
    );
}

#[test]
fn hashes_while_writing_are_those_of_the_file() {
    let mut hasher = Hasher::default();
    hasher.update(b"a");
    hasher.update(b"bc");
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hasher.finish(), (sha256.to_owned(), 3));
}
