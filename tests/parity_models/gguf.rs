//! Blocks of every GGUF type, and models that are split into files.

use crate::decoders::{check, last_logits, same_bits};
use crate::open;
use koma_kernels::PackedWeight;
use koma_models::gguf::Gguf;
use koma_models::{Dtype, LoadError, Source};
use koma_tests::golden::Case;
use std::path::{Path, PathBuf};

/// Random blocks of every type of `gguf_types`, value by value as the `gguf` package gives them.
#[test]
fn blocks_of_every_type_have_the_values_of_the_reference() {
    let case = Case::read("gguf_types");
    let path = case.folder.join("blocks.gguf");
    let bytes = std::fs::read(&path).unwrap();
    let gguf = Gguf::parse(&path, &bytes).unwrap();
    assert_eq!(gguf.tensors.len(), 10);
    for (kind, tensor) in &gguf.tensors {
        assert_eq!(tensor.format.name(), kind);
        let expected = case.tensor(&format!("blocks.{kind}"));
        let (rows, cols) = (expected.shape[0], expected.shape[1]);
        let data = &bytes[tensor.range.clone()];
        let weight = PackedWeight::from_bytes(rows, cols, tensor.format, data).unwrap();
        let mut values = vec![0.0; cols];
        for row in 0..rows {
            weight.dequantize_row(row, &mut values);
            assert!(same_bits(&values, expected.row(row)), "{kind} row {row}");
        }
        // The control: any flipped bit of the last row's values is seen.
        let mut flipped = data.to_vec();
        *flipped.iter_mut().rev().nth(40).unwrap() ^= 1;
        let weight = PackedWeight::from_bytes(rows, cols, tensor.format, &flipped).unwrap();
        weight.dequantize_row(rows - 1, &mut values);
        assert!(!same_bits(&values, expected.row(rows - 1)), "{kind}");
    }
}

/// Rows that cannot be cut into blocks of 256 name their tensor.
#[test]
fn rows_that_are_no_whole_blocks_are_named() {
    let case = Case::read("gguf_types");
    let path = case.folder.join("llama-mixed.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    let name = b"blk.0.attn_q.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4;
    bytes[at..at + 8].copy_from_slice(&255u64.to_le_bytes());
    let message = Gguf::parse(&path, &bytes).unwrap_err().to_string();
    for word in ["blk.0.attn_q.weight", "255", "blocks of 256", "Q4_K"] {
        assert!(message.contains(word), "`{word}` in: {message}");
    }
}

/// The parts of the split fixture, copied into a folder of their own.
struct Parts {
    folder: tempfile::TempDir,
    names: Vec<String>,
}

impl Parts {
    fn new(case: &Case) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = case.json["split"]["parts"].as_array().unwrap();
        let names: Vec<_> = names
            .iter()
            .map(|n| n.as_str().unwrap().to_owned())
            .collect();
        for name in &names {
            std::fs::copy(case.folder.join(name), folder.path().join(name)).unwrap();
        }
        Self { folder, names }
    }

    fn path(&self, part: usize) -> PathBuf {
        self.folder.path().join(&self.names[part])
    }

    /// Puts `value` behind the key and type of `key` in a part.
    fn set(&self, part: usize, key: &str, value: &[u8]) -> &Self {
        let mut bytes = std::fs::read(self.path(part)).unwrap();
        let at = bytes
            .windows(key.len())
            .position(|w| w == key.as_bytes())
            .unwrap();
        let at = at + key.len() + 4;
        bytes[at..at + value.len()].copy_from_slice(value);
        std::fs::write(self.path(part), bytes).unwrap();
        self
    }

    /// Opening `part` fails with all of `words`.
    #[track_caller]
    fn fails(&self, part: usize, words: &[&str]) {
        let message = match open(&self.path(part), Dtype::Auto) {
            Ok(_) => panic!("no error"),
            Err(error) => error.to_string(),
        };
        for word in words {
            assert!(message.contains(word), "`{word}` in: {message}");
        }
    }
}

#[test]
fn a_split_model_is_the_whole_one() {
    let case = Case::read("gguf_types");
    let file = &case.json["files"][0];
    let whole = case.folder.join(case.json["split"]["of"].as_str().unwrap());
    assert!(whole.ends_with(file["file"].as_str().unwrap()));
    let parts = Parts::new(&case);
    for dtype in [Dtype::F32, Dtype::Auto] {
        let (whole, split) = (
            open(&whole, dtype).unwrap(),
            open(&parts.path(0), dtype).unwrap(),
        );
        assert_eq!(split.identity, whole.identity);
        assert_eq!(split.weight_bytes, whole.weight_bytes);
        let off = [&whole, &split].map(|m| last_logits(m, &case, file, "Q5_0."));
        assert!(same_bits(&off[..1], &off[1..]), "{off:?}");
    }
    check(
        &open(&parts.path(0), Dtype::F32).unwrap(),
        &case,
        file,
        "Q5_0.",
    );
    let source = Source::parse(parts.path(0).to_str().unwrap()).unwrap();
    assert_eq!(source.stem(), "split");
    // A folder of parts leads to the first.
    let folder = open(parts.folder.path(), Dtype::Auto).unwrap();
    assert_eq!(folder.identity, open(&whole, Dtype::Auto).unwrap().identity);
}

#[test]
fn parts_that_do_not_fit_together_are_named() {
    let case = Case::read("gguf_types");
    let parts = || Parts::new(&case);
    let short = |v: u16| v.to_le_bytes();

    parts().fails(1, &["split.no", "part 2 of 3", "split-00001-of-00003.gguf"]);
    let missing = parts();
    std::fs::remove_file(missing.path(2)).unwrap();
    missing.fails(0, &["split-00003-of-00003.gguf", "part 3 of 3", "missing"]);
    let swapped = parts();
    let aside = swapped.folder.path().join("aside");
    std::fs::rename(swapped.path(1), &aside).unwrap();
    std::fs::rename(swapped.path(2), swapped.path(1)).unwrap();
    std::fs::rename(aside, swapped.path(2)).unwrap();
    swapped.fails(0, &["split-00002-of-00003.gguf", "split.no", "part 2 of 3"]);
    let renamed = parts();
    let name = renamed.folder.path().join("model.gguf");
    std::fs::rename(renamed.path(0), &name).unwrap();
    let error = open(&name, Dtype::Auto).map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, LoadError::File { path, .. } if *path == name),
        "{error}"
    );
    assert!(
        error.to_string().contains("NAME-00001-of-00003.gguf"),
        "{error}"
    );

    parts()
        .set(1, "split.count", &short(2))
        .fails(0, &["00002-of-00003", "split.count"]);
    parts()
        .set(1, "split.count", &short(0))
        .fails(0, &["00002-of-00003", "split.count"]);
    parts()
        .set(2, "split.no", &short(1))
        .fails(0, &["00003-of-00003", "split.no"]);
    parts()
        .set(0, "split.no", &short(7))
        .fails(0, &["split.no", "not below the 3"]);
    parts()
        .set(0, "split.count", &short(u16::MAX))
        .fails(0, &["65535"]);
    let less = 5u32.to_le_bytes();
    parts()
        .set(1, "split.tensors.count", &less)
        .fails(0, &["00002-of-", "split.tensors.count"]);
    let all = parts();
    for part in 0..3 {
        all.set(part, "split.tensors.count", &less);
    }
    all.fails(0, &["split.tensors.count", "is 5"]);

    // A tensor of the second part under the name of one that the first part has too.
    let twice = parts();
    let names = |part: usize| {
        let bytes = std::fs::read(twice.path(part)).unwrap();
        let gguf = Gguf::parse(Path::new("part"), &bytes).unwrap();
        gguf.tensors.into_keys().collect::<Vec<_>>()
    };
    let (first, mut second) = (names(0), names(1));
    second.retain(|name| first.iter().any(|f| f.len() == name.len()));
    let other = first.iter().find(|f| f.len() == second[0].len()).unwrap();
    let mut bytes = std::fs::read(twice.path(1)).unwrap();
    let at = bytes
        .windows(other.len())
        .position(|w| w == second[0].as_bytes())
        .unwrap();
    bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
    std::fs::write(twice.path(1), bytes).unwrap();
    twice.fails(0, &["00002-of-00003", other, "also in another part"]);
}
