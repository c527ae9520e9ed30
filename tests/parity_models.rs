//! Models against their references: every golden case of `golden/`, with a negative control beside each tolerance.
//!
//! "Within 1e-4" means the largest difference as a share of the largest expected value of the same tensor
//! (`golden::worst`); scores and embeddings are compared absolutely (`golden::apart`).

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that is not as its README says ends the test"
)]

#[path = "parity_models/caches.rs"]
mod caches;
#[path = "parity_models/decoders.rs"]
mod decoders;
#[path = "parity_models/encoders.rs"]
mod encoders;
#[path = "parity_models/experts.rs"]
mod experts;
#[path = "parity_models/families.rs"]
mod families;
#[path = "parity_models/files.rs"]
mod files;
#[path = "parity_models/gguf.rs"]
mod gguf;
#[path = "parity_models/poolings.rs"]
mod poolings;
#[path = "parity_models/quantized.rs"]
mod quantized;
#[path = "parity_models/real.rs"]
mod real;
#[path = "parity_models/tokens.rs"]
mod tokens;

use koma_models::{Dtype, LoadError, LoadOptions, Loaded, Source, load, outline};
use std::path::Path;

/// Loads a folder or a GGUF file, and holds every checkpoint of these tests to what its files' heads said before.
fn open(path: &Path, dtype: Dtype) -> Result<Loaded, LoadError> {
    let options = LoadOptions {
        name: "test".to_owned(),
        dtype,
        ..LoadOptions::default()
    };
    let source = Source::parse(path.to_str().expect("UTF-8"))?;
    let before = outline(&source, &options);
    let loaded = load(&source, &options)?;
    let (before, mut after) = (before?, loaded.outline());
    // An encoder's window may be cut by what is not read before.
    assert!(after.limits.max_len <= before.limits.max_len);
    after.limits = before.limits;
    assert_eq!(before, after, "{}", path.display());
    Ok(loaded)
}

/// A copy of a model folder in which `edit` changed config.json.
fn edited(model: &Path, edit: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    copy_folder(model, copy.path());
    let path = copy.path().join("config.json");
    let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    copy
}

/// Layers of an encoder's folder, as its config.json counts them.
fn layers(model: &Path) -> usize {
    let text = std::fs::read_to_string(model.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let count = config.get("num_hidden_layers").or(config.get("n_layers"));
    count.and_then(serde_json::Value::as_u64).unwrap() as usize
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
