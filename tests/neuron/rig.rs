//! [`Rig`]: a golden model with its compiled export, and a stand-in for the device.

use koma_neuron_export::manifest::Weights;
use koma_neuron_export::serving::ServingOptions;
use koma_tests::artifact::{golden, make};
use koma_tests::fake_nrt::FakeNrt;
use std::path::PathBuf;
use tempfile::TempDir;

/// Rows and tokens of the buckets.
const BUCKETS: (&[usize], &[usize]) = (&[1, 4], &[16, 32]);

/// See the module.
pub(crate) struct Rig {
    pub(crate) model: PathBuf,
    pub(crate) artifact: TempDir,
    pub(crate) fake: FakeNrt,
    /// What the separate weights add up to.
    pub(crate) weights: f64,
}

impl Rig {
    /// `conf`: what the stand-in is told.
    pub(crate) fn new(model: &str, weights: Weights, conf: &str) -> Self {
        let (model, artifact) = (golden(model), tempfile::tempdir().unwrap());
        Self {
            weights: make(&model, artifact.path(), BUCKETS, weights),
            model,
            artifact,
            fake: FakeNrt::new(conf),
        }
    }

    pub(crate) fn options(&self) -> ServingOptions {
        ServingOptions {
            artifact: self.artifact.path().to_owned(),
            model: self.model.clone(),
            instance: Some("inf2.xlarge".to_owned()),
        }
    }
}

/// A text for each number: from 1 to 32 tokens.
pub(crate) fn text(number: usize) -> Vec<u32> {
    let len = 1 + (number * 13) % 32;
    (0..len)
        .map(|k| ((number * 31 + k * 7) % 300) as u32)
        .collect()
}
