//! Mixtral (Jiang et al., arXiv:2401.04088): Mistral's attention, and experts in every layer. GGUF files call it `llama`, with
//! an `expert_count`.

use super::decoder::experts::{ExpertsSpec, KEYS, Names};
use super::decoder::folder::{DEFAULTS, Defaults};
use super::decoder::keys::Keys;
use super::decoder::{Spec, build_with};
use super::llama;
use crate::LoadError;
use crate::config::Json;
use crate::registry::{Built, Checkpoint, MAX};

const NAMES: Names = Names {
    block: "block_sparse_moe",
    each: ["w1", "w3", "w2"],
};

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let (spec, experts) = match &checkpoint.gguf {
        Some(meta) => {
            let keys = Keys::new(meta, &KEYS)?;
            let spec = llama::gguf(&keys, &checkpoint.weights)?;
            let experts = ExpertsSpec::gguf(&keys, spec.inner)?;
            (spec, experts)
        }
        None => folder(&checkpoint.folder()?.1)?,
    };
    build_with(checkpoint, &spec, |weights, i| {
        experts.load(weights, &spec, i)
    })
}

fn folder(json: &Json) -> Result<(Spec, ExpertsSpec), LoadError> {
    const DEFAULT: Defaults = Defaults {
        positions: 1 << 17,
        eps: 1e-5,
        ..DEFAULTS
    };
    // Transformers' default for this model is not the usual one.
    if ["rope_theta", "rope_parameters"]
        .iter()
        .all(|f| json.value(f).is_none())
    {
        return Err(json.error("rope_theta", "is missing"));
    }
    let mut spec = Spec::folder(json, &DEFAULT)?;
    if let Some(window) = json.find_size("sliding_window", 1..=MAX.positions)? {
        spec.slide(window, None, |_| true);
    }
    let experts = ExpertsSpec::folder(json, spec.inner, NAMES)?;
    Ok((spec, experts))
}
