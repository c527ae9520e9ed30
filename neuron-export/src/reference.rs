//! [`Reference`]: inputs, and the output rows that a graph should give for them. Either Koma's own exact f32 forward of the
//! checkpoint, or what another library answered, from a file.
//!
//! Must not know: what is compared with it.

use crate::manifest::{InputName, Manifest, Task};
use koma_models::kernels::{Cx, Error};
use koma_models::{Batch, Encoder, Loaded, Model, Workspace};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Rows that are computed together.
const TOGETHER: usize = 8;

/// An input, and its output row as the graph should give it: before the activation, vectors as they are served.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment of each.
    pub type_ids: Vec<u32>,
    /// The output row.
    pub expected: Vec<f32>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// What gave the rows, with its version and precision.
    pub name: String,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Why there is no reference.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The model has no rows to compare.
    #[error("the model `{0}` generates: it has no row for a text")]
    Decoder(String),
    /// The forward failed.
    #[error("the reference cannot be computed: {0}")]
    Forward(#[from] Error),
    /// A file of expected values is wrong.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The `case.json` beside expected values, as far as it is read. The form is that of Koma's own fixtures.
#[derive(Deserialize)]
struct Case {
    inputs: Vec<CaseInput>,
    made_with: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct CaseInput {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
}

impl Reference {
    /// Koma's own rows for inputs that fill the buckets of `manifest` in different ways. `loaded`: the checkpoint in f32.
    ///
    /// # Errors
    /// [`ReferenceError`] if it is no encoder, or memory is short.
    pub fn of_model(loaded: &Loaded, manifest: &Manifest, cx: &Cx) -> Result<Self, ReferenceError> {
        let (Model::Encoder(encoder), Some(head)) = (&loaded.model, &loaded.head) else {
            let name = loaded.identity.name.clone();
            return Err(ReferenceError::Decoder(name));
        };
        let mut rows = inputs(manifest);
        for some in rows.chunks_mut(TOGETHER) {
            compute(encoder.as_ref(), cx, some)?;
        }
        if manifest.task == Task::Embedding {
            // As other libraries' vectors are; who compares scales what a graph gives.
            for row in &mut rows {
                head.activate(&mut row.expected);
            }
        }
        Ok(Self {
            name: format!("koma {} f32", env!("CARGO_PKG_VERSION")),
            rows,
        })
    }

    /// The inputs of `case.json` and the rows of `expected.safetensors` in `folder`: the tensor `logits`, or `embeddings`.
    ///
    /// # Errors
    /// [`ReferenceError::File`] that names the file and what is wrong in it.
    pub fn golden(folder: &Path, manifest: &Manifest) -> Result<Self, ReferenceError> {
        let wrong = |file: &str, reason: String| ReferenceError::File {
            path: folder.join(file),
            reason,
        };
        let read = |file: &str| {
            let bytes = std::fs::read(folder.join(file));
            bytes.map_err(|error| wrong(file, error.to_string()))
        };
        let case: Case = serde_json::from_slice(&read("case.json")?)
            .map_err(|error| wrong("case.json", error.to_string()))?;
        let expected = |reason: String| wrong("expected.safetensors", reason);
        let bytes = read("expected.safetensors")?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| expected(e.to_string()))?;
        let name = match manifest.task {
            Task::Embedding => "embeddings",
            _ => "logits",
        };
        let tensor = tensors
            .tensor(name)
            .map_err(|e| expected(format!("`{name}`: {e}")))?;
        let width = manifest.outputs.first().map_or(0, |output| output.width);
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [case.inputs.len(), width] {
            return Err(expected(format!(
                "`{name}` is {:?} {:?}, expected F32 [{}, {width}]",
                tensor.dtype(),
                tensor.shape(),
                case.inputs.len()
            )));
        }
        let values = tensor.data().chunks_exact(4);
        let values: Vec<f32> = values
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let mut rows = Vec::with_capacity(case.inputs.len());
        for (i, (input, expected)) in case
            .inputs
            .into_iter()
            .zip(values.chunks(width.max(1)))
            .enumerate()
        {
            let out = input
                .ids
                .iter()
                .any(|id| *id as usize >= manifest.tokenizer.vocab_size);
            if input.ids.is_empty() || out || input.ids.len() != input.type_ids.len() {
                let reason = format!(
                    "`inputs[{i}]`: ids and type_ids do not fit each other or the vocabulary"
                );
                return Err(wrong("case.json", reason));
            }
            rows.push(Row {
                ids: input.ids,
                type_ids: input.type_ids,
                expected: expected.to_vec(),
            });
        }
        Ok(Self {
            name: made_with(&case.made_with),
            rows,
        })
    }
}

impl Reference {
    /// The largest magnitude of all expected values, at least 1.
    pub fn scale(&self) -> f64 {
        let values = self.rows.iter().flat_map(|row| &row.expected);
        f64::from(values.fold(1.0, |most, value| value.abs().max(most)))
    }
}

/// `transformers 5.23.0 (torch 2.15.0) f32`.
fn made_with(versions: &serde_json::Map<String, serde_json::Value>) -> String {
    let version = |name: &str| versions.get(name).and_then(|v| v.as_str()).unwrap_or("?");
    format!(
        "transformers {} (torch {}) f32",
        version("transformers"),
        version("torch")
    )
}

/// Inputs for the buckets of `manifest`, without expected rows: for each length of a bucket some that fill it, nearly fill it and
/// leave it nearly empty. Ids are a pure function of the manifest.
fn inputs(manifest: &Manifest) -> Vec<Row> {
    let mut seqs: Vec<usize> = manifest.buckets.iter().map(|b| b.seq).collect();
    seqs.sort_unstable();
    seqs.dedup();
    let lengths = |s: usize| [s, s - s / 8, s.div_ceil(2), s.div_ceil(3), 3.min(s), 1];
    let mut lengths: Vec<usize> = seqs.into_iter().flat_map(lengths).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let segments = manifest
        .inputs
        .iter()
        .any(|i| i.name == InputName::TokenTypeIds);
    let mut random = Random(0x4b6f_6d61);
    // Two texts of each length.
    let twice = lengths.into_iter().flat_map(|length| [length, length]);
    twice
        .map(|length| random.row(length, segments, manifest))
        .collect()
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % most
    }

    /// A text of `length` tokens, none of them the padding's, in which the second segment begins somewhere.
    fn row(&mut self, length: usize, segments: bool, manifest: &Manifest) -> Row {
        let tokenizer = &manifest.tokenizer;
        let mut id = || {
            let id = self.below(tokenizer.vocab_size as u64) as u32;
            if id == tokenizer.pad_id {
                other_id(manifest)
            } else {
                id
            }
        };
        let ids: Vec<u32> = (0..length).map(|_| id()).collect();
        let second = self.below(length as u64) as usize;
        let type_of = |at: usize| u32::from(segments && at > second);
        Row {
            ids,
            type_ids: (0..length).map(type_of).collect(),
            expected: Vec::new(),
        }
    }
}

/// An id that is not the padding's, if there are two.
pub(crate) fn other_id(manifest: &Manifest) -> u32 {
    let last = manifest.tokenizer.vocab_size as u32 - 1;
    match manifest.tokenizer.pad_id {
        pad if pad == last => last.saturating_sub(1),
        _ => last,
    }
}

/// Fills in the expected rows, all in one packed batch.
pub(crate) fn compute(encoder: &dyn Encoder, cx: &Cx, rows: &mut [Row]) -> Result<(), Error> {
    let mut batch = Batch::default();
    batch.clear(0);
    for row in rows.iter() {
        batch.ids.extend_from_slice(&row.ids);
        batch.type_ids.extend_from_slice(&row.type_ids);
        batch.positions.extend(0..row.ids.len() as u32);
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.kv_lens.push(row.ids.len() as u32);
    }
    let mut work = Workspace::default();
    encoder.forward(cx, &batch, &mut work)?;
    if let Some((_, error)) = work.failed.drain(..).next() {
        return Err(error);
    }
    for (i, row) in rows.iter_mut().enumerate() {
        row.expected = work.output.row(i).to_vec();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::sample;

    #[test]
    fn inputs_fill_the_buckets_in_different_ways_and_never_hold_padding() {
        let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut manifest = sample(folder.path(), source.path());
        let rows = inputs(&manifest);
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        assert_eq!(lengths, [1, 1, 3, 3, 4, 4, 7, 7, 8, 8]);
        assert_eq!(rows, inputs(&manifest));
        for row in &rows {
            assert!(
                row.ids.iter().all(|id| (1..10).contains(id)),
                "{:?}",
                row.ids
            );
            assert!(row.type_ids.iter().all(|t| *t == 0));
        }
        assert_ne!(rows[8].ids, rows[9].ids);
        manifest.tokenizer.pad_id = 9;
        assert_eq!(other_id(&manifest), 8);
        let mut token_types = manifest.inputs[1].clone();
        (token_types.name, token_types.param) = (InputName::TokenTypeIds, 2);
        manifest.inputs.push(token_types);
        let rows = inputs(&manifest);
        assert!(rows.iter().any(|row| row.type_ids.contains(&1)));
        assert!(
            rows.iter()
                .all(|row| row.type_ids[0] == 0 && !row.ids.contains(&9))
        );
    }

    /// `case.json` and `expected.safetensors` with these inputs and this tensor.
    fn golden(inputs: &str, tensor: (&str, &[usize])) -> Result<Reference, String> {
        let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let manifest = sample(folder.path(), source.path());
        let case = format!(
            "{{\"inputs\": {inputs}, \"made_with\": {{\"transformers\": \"5\", \"torch\": \"2\"}}}}"
        );
        std::fs::write(source.path().join("case.json"), case).unwrap();
        let (name, shape) = tensor;
        let values: Vec<u8> = (0..shape.iter().product::<usize>())
            .flat_map(|i| (i as f32).to_le_bytes())
            .collect();
        let view =
            safetensors::tensor::TensorView::new(Dtype::F32, shape.to_vec(), &values).unwrap();
        let bytes = safetensors::serialize([(name, view)], None).unwrap();
        std::fs::write(source.path().join("expected.safetensors"), bytes).unwrap();
        Reference::golden(source.path(), &manifest).map_err(|error| error.to_string())
    }

    #[test]
    fn expected_values_are_read_from_a_case() {
        let inputs =
            r#"[{"ids": [1, 2], "type_ids": [0, 1], "text": "x"}, {"ids": [3], "type_ids": [0]}]"#;
        let reference = golden(inputs, ("logits", &[2, 2])).unwrap();
        assert_eq!(reference.name, "transformers 5 (torch 2) f32");
        assert_eq!(reference.rows[0].type_ids, [0, 1]);
        assert_eq!(reference.rows[1].expected, [2.0, 3.0]);
        for (inputs, tensor, part) in [
            (inputs, ("logit", &[2, 2][..]), "`logits`"),
            (inputs, ("logits", &[2, 3]), "expected F32 [2, 2]"),
            (
                r#"[{"ids": [10], "type_ids": [0]}]"#,
                ("logits", &[1, 2]),
                "inputs[0]",
            ),
            (
                r#"[{"ids": [1], "type_ids": []}]"#,
                ("logits", &[1, 2]),
                "inputs[0]",
            ),
            (r#"[{"ids": [1]}]"#, ("logits", &[1, 2]), "type_ids"),
        ] {
            let error = golden(inputs, tensor).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
