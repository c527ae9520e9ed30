//! Qwen3-MoE (Qwen team, arXiv:2505.09388): Qwen3's attention; most layers have experts, some may be dense.

use super::decoder::experts::{self, ExpertsSpec, NAMES};
use super::decoder::folder::{DEFAULTS, Defaults};
use super::decoder::keys::Keys;
use super::decoder::{Biases, Spec, build_with, dense};
use crate::LoadError;
use crate::config::Json;
use crate::registry::{Built, Checkpoint, MAX};

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let (spec, experts, sparse) = match &checkpoint.gguf {
        Some(meta) => {
            const INNER: &str = "expert_feed_forward_length";
            let [count, used] = experts::KEYS;
            let keys = Keys::new(meta, &[count, used, INNER])?;
            let experts = ExpertsSpec::gguf(&keys, keys.size(INNER, MAX.width)?)?;
            let spec = Spec::gguf(&keys, false)?;
            let sparse = vec![true; spec.layers.len()];
            (spec, experts, sparse)
        }
        None => folder(&checkpoint.folder()?.1)?,
    };
    let spec = Spec {
        head_norms: true,
        ..spec
    };
    build_with(checkpoint, &spec, |weights, i| {
        if sparse[i] {
            experts.load(weights, &spec, i)
        } else {
            dense(weights, &spec, i)
        }
    })
}

/// The configuration, and which layers have experts.
fn folder(json: &Json) -> Result<(Spec, ExpertsSpec, Vec<bool>), LoadError> {
    const DEFAULT: Defaults = Defaults {
        positions: 1 << 15,
        ..DEFAULTS
    };
    let bias = json.bool_or("attention_bias", false)?;
    let mut spec = Spec {
        biases: Biases {
            qkv: bias,
            out: bias,
            mlp: false,
        },
        ..Spec::folder(json, &DEFAULT)?
    };
    if json.bool_or("use_sliding_window", false)? {
        let window = match json.find_size("sliding_window", 1..=MAX.positions)? {
            None if !json.is_null("sliding_window") => Some(4096),
            found => found,
        };
        if let Some(window) = window {
            spec.slide(window, None, |_| true);
        }
    }
    let inner = json.size("moe_intermediate_size", 1..=MAX.width)?;
    let mut experts = ExpertsSpec::folder(json, inner, NAMES)?;
    experts.renormalise = json.bool_or("norm_topk_prob", false)?;
    let sparse = sparse(json, spec.layers.len())?;
    Ok((spec, experts, sparse))
}

/// Every `decoder_sparse_step`th layer has experts, unless `mlp_only_layers` names it.
fn sparse(json: &Json, layers: usize) -> Result<Vec<bool>, LoadError> {
    const DENSE: &str = "mlp_only_layers";
    let step = json
        .find_size("decoder_sparse_step", 1..=MAX.layers)?
        .unwrap_or(1);
    let mut sparse: Vec<bool> = (1..=layers).map(|i| i.is_multiple_of(step)).collect();
    for value in json.find_array(DENSE)?.unwrap_or_default() {
        let layer = value.as_u64().and_then(|i| usize::try_from(i).ok());
        match layer.and_then(|i| sparse.get_mut(i)) {
            Some(layer) => *layer = false,
            None => return Err(json.error(DENSE, format!("{value} is not one of {layers} layers"))),
        }
    }
    Ok(sparse)
}
