//! Phi-3 (arXiv:2404.14219) and Phi-4: q, k, v in one matrix, gate and up in another, a part of each head rotated, `LongRoPE`;
//! from a Hugging Face folder or a GGUF file.
//!
//! `LongRoPE` (arXiv:2402.13753) has two sets of frequencies: one for requests up to the length of the first training, one for
//! longer ones, which then holds for their earlier tokens, too. A cache cannot change what it holds, so one set is chosen when
//! the model is loaded: that for longer requests, whatever the length of each, if longer ones were asked for
//! ([`crate::LoadOptions::max_len`]), as llama.cpp and vLLM do; else the other, and the window is that of the first training.

use super::decoder::folder::{DEFAULTS, Defaults, Rotation, rotary_dim};
use super::decoder::keys::Keys;
use super::decoder::{self, Spec};
use crate::LoadError;
use crate::config::Json;
use crate::config::rope::{Rope, parameters};
use crate::registry::{Built, Checkpoint, MAX};
use crate::weights::Weights;
use koma_kernels::{HeadLayout, RopeTable};

/// Those of `Phi3Config`.
const PHI: Defaults = Defaults {
    positions: 4096,
    eps: 1e-5,
    rope,
    ..DEFAULTS
};
const ORIGINAL: &str = "original_max_position_embeddings";
/// Keys and tensors of GGUF files.
const WINDOW: &str = "attention.sliding_window";
const ATTN_FACTOR: &str = "rope.scaling.attn_factor";
const ORIGINAL_KEY: &str = "rope.scaling.original_context_length";
const SHORT_FACTORS: &str = "rope_factors_short.weight";
const LONG_FACTORS: &str = "rope_factors_long.weight";
const IGNORABLE: &[&str] = &["*rotary_emb.inv_freq", SHORT_FACTORS, LONG_FACTORS];

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let asked = checkpoint.max_len;
    let spec = match &checkpoint.gguf {
        Some(meta) => {
            let keys = Keys::new(meta, &[WINDOW, ATTN_FACTOR])?;
            gguf(&keys, &checkpoint.weights, asked)?
        }
        None => folder(&checkpoint.folder()?.1, asked)?,
    };
    let spec = Spec {
        fused: true,
        ..spec
    };
    let mut built = decoder::build(checkpoint, &spec)?;
    if checkpoint.gguf.is_some() {
        built.ignorable = IGNORABLE;
    }
    Ok(built)
}

/// `asked`: tokens that a request will have at most, if that is known.
fn folder(json: &Json, asked: Option<usize>) -> Result<Spec, LoadError> {
    let mut spec = Spec::folder(json, &PHI)?;
    if let Some(scaling) = LongRope::read(json)?
        && !shorten(&mut spec, scaling.original, asked)
    {
        let dim = rotary_dim(json, &spec.layout)?;
        spec.kinds[0].rope = scaling.table(LONG, dim)?;
    }
    if let Some(window) = json.find_size("sliding_window", 1..=MAX.positions)? {
        spec.slide(window, None, |_| true);
    }
    Ok(spec)
}

/// Whether the short factors are those to take; they then bound requests by the length up to which they hold.
fn shorten(spec: &mut Spec, original: usize, asked: Option<usize>) -> bool {
    let most = spec.positions;
    if asked.is_some_and(|asked| original < asked.min(most)) {
        tracing::info!(
            "this model rotates by its factors for requests of more than {original} tokens, since such were asked for: \
             shorter requests have other answers than with a shorter limit"
        );
        return false;
    }
    if original < most {
        tracing::warn!(
            "requests of this model are limited to the {original} tokens of its first training, of {most}: a larger \
             limit that is asked for when it is loaded takes the factors for longer ones, for all requests"
        );
        spec.positions = original;
    }
    true
}

/// The factors of config.json.
const SHORT: &str = "short_factor";
const LONG: &str = "long_factor";

/// What config.json says of the scaling.
struct LongRope {
    theta: f64,
    /// The object that has the factors: one divisor for each frequency, twice.
    inner: Json,
    original: usize,
    /// Factor on cosines and sines.
    attention: f32,
}

impl LongRope {
    /// None where nothing is scaled.
    fn read(json: &Json) -> Result<Option<Self>, LoadError> {
        let Some(inner) = parameters(json)? else {
            return Ok(None);
        };
        let field = ["rope_type", "type"]
            .into_iter()
            .find(|field| inner.value(field).is_some());
        match field
            .map(|field| inner.find_str(field))
            .transpose()?
            .flatten()
        {
            None | Some("default") => return Ok(None),
            // transformers takes the older names for the same.
            Some("longrope" | "su" | "yarn") => {}
            Some(other) => {
                let reason = format!("`{other}` is not supported; supported are default, longrope");
                return Err(inner.error(field.unwrap_or("rope_type"), reason));
            }
        }
        let original = json.find_size(ORIGINAL, 2..=MAX.positions)?.unwrap_or(4096);
        let positions = json
            .find_size("max_position_embeddings", 1..=MAX.positions)?
            .unwrap_or(PHI.positions);
        let factor = inner.positive_or("factor", positions as f64 / original as f64)?;
        let default = longer(factor, original);
        let theta = json.positive_or("rope_theta", 10_000.0)?;
        Ok(Some(Self {
            theta: inner.positive_or("rope_theta", theta)?,
            original,
            attention: inner.positive_or("attention_factor", default)? as f32,
            inner,
        }))
    }

    /// The rotation of `dim` values by the factors of the field `which`; the others are checked, too.
    fn table(&self, which: &str, dim: usize) -> Result<RopeTable, LoadError> {
        for field in [SHORT, LONG] {
            let len = self.inner.numbers(field)?.len();
            if len != dim / 2 {
                let reason = format!("{len} factors for {} frequencies", dim / 2);
                return Err(self.inner.error(field, reason));
            }
        }
        let factors = self.inner.numbers(which)?;
        let inv_freq = factors.iter().enumerate().map(|(i, factor)| {
            let exponent = (2 * i) as f32 / dim as f32;
            1.0 / (factor * self.theta.powf(f64::from(exponent)) as f32)
        });
        Ok(RopeTable {
            inv_freq: inv_freq.collect(),
            scale: self.attention,
            interleaved: false,
        })
    }
}

/// How much attention is sharpened where the window became `factor` times as long.
fn longer(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        (1.0 + factor.ln() / (original as f64).ln()).sqrt()
    }
}

fn rope(json: &Json, layout: &HeadLayout) -> Result<Rotation, LoadError> {
    let dim = rotary_dim(json, layout)?;
    let table = match LongRope::read(json)? {
        Some(scaling) => scaling.table(SHORT, dim)?,
        None => Rope::read_partial(json)?.table(dim, false),
    };
    Ok((table, None))
}

/// As [`folder`].
fn gguf(keys: &Keys<'_>, weights: &Weights, asked: Option<usize>) -> Result<Spec, LoadError> {
    let mut spec = Spec::gguf(keys, false)?;
    if weights.has(SHORT_FACTORS) {
        let original = keys.size(ORIGINAL_KEY, MAX.positions)?;
        let factors = if shorten(&mut spec, original, asked) {
            SHORT_FACTORS
        } else {
            LONG_FACTORS
        };
        let rope = &mut spec.kinds[0].rope;
        let factors = weights.vector(factors, rope.inv_freq.len())?;
        rope.inv_freq
            .iter_mut()
            .zip(factors)
            .for_each(|(f, d)| *f /= d);
        rope.scale = keys.find_positive(ATTN_FACTOR)?.unwrap_or(1.0);
    }
    // 0 stands for none.
    if let Some(window) = keys.find::<usize>(WINDOW)?.filter(|w| *w > 0) {
        spec.slide(window, None, |_| true);
    }
    Ok(spec)
}
