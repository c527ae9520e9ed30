//! `YaRN` (Peng et al., arXiv:2309.00071): high frequencies stay, low ones are divided, those between are mixed, and attention is
//! sharpened. As transformers computes it (`_compute_yarn_parameters`), in f32 where it does.

use super::super::Json;
use crate::LoadError;
use std::f64::consts::PI;

/// The turns within the original window above which a frequency stays, and below which it is divided, by default.
pub(crate) const TURNS: [f64; 2] = [32.0, 1.0];

/// What describes the scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Yarn {
    /// How many times the window became longer.
    factor: f64,
    /// Tokens of the window before.
    original: f64,
    /// See [`TURNS`].
    turns: [f64; 2],
    /// Whether the mixed part begins and ends at whole frequencies.
    whole: bool,
    /// On cosines and sines.
    attention: f64,
}

impl Yarn {
    /// The usual one, but for [`TURNS`].
    pub(crate) fn new(factor: f64, original: f64, turns: [f64; 2]) -> Self {
        Self {
            factor,
            original,
            turns,
            whole: true,
            attention: sharper(factor, 1.0),
        }
    }

    /// Reads the object of a rotation. The original window may stand beside it, where it counts more, and is
    /// `max_position_embeddings` if nothing says it (transformers: `standardize_rope_params`).
    ///
    /// # Errors
    /// [`LoadError::Config`] naming the field, also one that is not known here.
    pub(super) fn read(json: &Json, config: &Json) -> Result<Self, LoadError> {
        const ORIGINAL: &str = "original_max_position_embeddings";
        json.only_fields(&[
            "rope_type",
            "type",
            "rope_theta",
            "partial_rotary_factor",
            "factor",
            ORIGINAL,
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            "finetuned",
        ])?;
        let original = match (config.value(ORIGINAL), json.value(ORIGINAL)) {
            (Some(_), _) => config.positive(ORIGINAL)?,
            (None, Some(_)) => json.positive(ORIGINAL)?,
            (None, None) if config.value("max_position_embeddings").is_some() => {
                config.positive("max_position_embeddings")?
            }
            (None, None) => return Err(json.error(ORIGINAL, "is missing")),
        };
        let factor = json.positive("factor")?;
        let scales = ["mscale", "mscale_all_dim"];
        let attention = if scales.iter().all(|field| json.value(field).is_some()) {
            let [of, by] = scales.map(|field| json.positive(field));
            sharper(factor, of?) / sharper(factor, by?)
        } else {
            sharper(factor, 1.0)
        };
        let turns = [
            json.positive_or("beta_fast", TURNS[0])?,
            json.positive_or("beta_slow", TURNS[1])?,
        ];
        if turns[0] <= turns[1] {
            let reason = format!(
                "{} must be above beta_slow, which is {}",
                turns[0], turns[1]
            );
            return Err(json.error("beta_fast", reason));
        }
        Ok(Self {
            factor,
            original,
            turns,
            whole: json.bool_or("truncate", true)?,
            attention: json.positive_or("attention_factor", attention)?,
        })
    }

    /// Tokens of the longer window.
    pub(crate) fn window(&self) -> usize {
        // Saturates.
        (self.original * self.factor) as usize
    }

    /// On cosines and sines.
    pub(super) fn attention(&self) -> f32 {
        self.attention as f32
    }

    /// The frequencies for `dim` rotated values, from those before, whose base is `theta`.
    pub(super) fn scale(&self, frequencies: &mut [f32], dim: usize, theta: f64) {
        // The frequency that turns so often within the original window.
        let number = |turns: f64| {
            let dim = dim as f64;
            dim * (self.original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
        };
        let [mut low, mut high] = self.turns.map(number);
        if self.whole {
            (low, high) = (low.floor(), high.ceil());
        }
        low = low.max(0.0);
        high = high.min(dim as f64 - 1.0);
        if low == high {
            high += 0.001;
        }
        for (i, frequency) in frequencies.iter_mut().enumerate() {
            let ramp = (i as f32 - low as f32) / (high - low) as f32;
            let keep = 1.0 - ramp.clamp(0.0, 1.0);
            let divided = *frequency / self.factor as f32;
            *frequency = divided * (1.0 - keep) + *frequency * keep;
        }
    }
}

/// How much attention is sharpened, before `scale` is squared by query and key.
fn sharper(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * scale * factor.ln() + 1.0
    }
}
