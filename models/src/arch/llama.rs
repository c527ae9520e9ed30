//! Llama (Touvron et al., arXiv:2302.13971) and what is built like it, from a Hugging Face folder or a GGUF file.

use super::decoder::experts;
use super::decoder::folder::DEFAULTS;
use super::decoder::keys::Keys;
use super::decoder::{self, Biases, Spec};
use crate::LoadError;
use crate::config::Json;
use crate::registry::{Built, Checkpoint};
use crate::weights::Weights;

/// Llama 3.1's scaling in GGUF files: one divisor for each frequency.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let spec = match &checkpoint.gguf {
        Some(meta) => {
            // A file whose `expert_count` is not 0 is Mixtral's, see the registry.
            let [_, used] = experts::KEYS;
            let keys = Keys::new(meta, &experts::KEYS)?;
            if let Some(n) = keys.find::<u32>(used)?.filter(|n| *n > 0) {
                return Err(keys.error(used, format!("{n}, but there are no experts")));
            }
            gguf(&keys, &checkpoint.weights)?
        }
        None => folder(&checkpoint.folder()?.1)?,
    };
    decoder::build(checkpoint, &spec)
}

/// What files of the architecture `llama` say, whatever their MLPs are.
pub(super) fn gguf(keys: &Keys<'_>, weights: &Weights) -> Result<Spec, LoadError> {
    let mut spec = Spec::gguf(keys, true)?;
    if weights.has(ROPE_FACTORS) {
        let frequencies = &mut spec.kinds[0].rope.inv_freq;
        let factors = weights.vector(ROPE_FACTORS, frequencies.len())?;
        frequencies
            .iter_mut()
            .zip(factors)
            .for_each(|(f, d)| *f /= d);
    }
    // No key says it; llama.cpp, too, takes what is there.
    let has = |part: &str| weights.has(&format!("blk.0.{part}.bias"));
    spec.biases = Biases {
        qkv: has("attn_q"),
        out: has("attn_output"),
        mlp: has("ffn_down"),
    };
    Ok(spec)
}

fn folder(json: &Json) -> Result<Spec, LoadError> {
    let bias = json.bool_or("attention_bias", false)?;
    Ok(Spec {
        biases: Biases {
            qkv: bias,
            out: bias,
            mlp: json.bool_or("mlp_bias", false)?,
        },
        ..Spec::folder(json, &DEFAULTS)?
    })
}
