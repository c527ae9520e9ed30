//! Rotary embedding: from config.json (`rope_parameters`, or `rope_theta` and `rope_scaling` in older files) to frequencies.

pub(crate) mod yarn;

use super::Json;
use crate::LoadError;
use koma_kernels::RopeTable;
pub(crate) use yarn::Yarn;

/// How frequencies are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    None,
    /// All divided by a factor (position interpolation, arXiv:2306.15595).
    Linear(f64),
    /// Low frequencies divided by `factor`, high ones kept, a smooth part between (Llama 3.1).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// See [`Yarn`].
    Yarn(Yarn),
}

/// Base and scaling of a rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rope {
    pub(crate) theta: f64,
    pub(crate) scaling: Scaling,
}

impl Rope {
    /// Reads either spelling. Where both are there `rope_scaling` counts, unless it is empty (transformers:
    /// `convert_rope_params_to_dict`). A base inside wins over one beside it.
    ///
    /// # Errors
    /// [`LoadError::Config`] for a scaling type that is not implemented, by its name, or a bad number.
    pub(crate) fn read(config: &Json) -> Result<Self, LoadError> {
        if let (part, Some(json)) = partial(config)? {
            return Err(json.error(PARTIAL, format!("{part} is not supported, only 1")));
        }
        Self::read_partial(config)
    }

    /// As [`Rope::read`], for an architecture that may rotate a part of each head, see [`partial`].
    pub(crate) fn read_partial(config: &Json) -> Result<Self, LoadError> {
        let theta = config.positive_or("rope_theta", 10_000.0)?;
        match parameters(config)? {
            Some(inner) => Self::within(&inner, config, theta),
            None => Ok(Self {
                theta,
                scaling: Scaling::None,
            }),
        }
    }

    /// Reads the object of one rotation in `config`; its base is `theta` unless it says another.
    pub(crate) fn within(inner: &Json, config: &Json, theta: f64) -> Result<Self, LoadError> {
        let theta = inner.positive_or("rope_theta", theta)?;
        let scaling = Scaling::read(inner, config)?;
        if matches!(scaling, Scaling::Yarn(_)) && theta <= 1.0 {
            let reason = format!("{theta} is not above 1, as this scaling needs it");
            return Err(inner.error("rope_theta", reason));
        }
        Ok(Self { theta, scaling })
    }

    /// Tokens of the window that the scaling makes of a shorter one, where it says so.
    pub(crate) fn window(&self) -> Option<usize> {
        match &self.scaling {
            Scaling::Yarn(yarn) => Some(yarn.window()),
            _ => None,
        }
    }

    /// Inverse frequencies for heads of `dim` rotated values: `theta^(-2i/dim)`, then scaled, in f32 where transformers
    /// computes in f32 (`modeling_rope_utils.py`).
    pub(crate) fn table(&self, dim: usize, interleaved: bool) -> RopeTable {
        let inv_freq = (0..dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / dim as f32;
            1.0 / self.theta.powf(f64::from(exponent)) as f32
        });
        let mut inv_freq: Vec<f32> = inv_freq.collect();
        let mut scale = 1.0;
        if let Scaling::Yarn(yarn) = &self.scaling {
            yarn.scale(&mut inv_freq, dim, self.theta);
            scale = yarn.attention();
        } else {
            for frequency in &mut inv_freq {
                *frequency = self.scaling.apply(*frequency);
            }
        }
        RopeTable {
            inv_freq,
            scale,
            interleaved,
        }
    }
}

const PARTIAL: &str = "partial_rotary_factor";

/// The object that describes the rotation, in either spelling.
pub(crate) fn parameters(config: &Json) -> Result<Option<Json>, LoadError> {
    let old = config.find_inner("rope_scaling")?;
    match old.filter(|old| !old.is_empty()) {
        Some(old) => Ok(Some(old)),
        None => config.find_inner("rope_parameters"),
    }
}

/// The part of each head that is rotated, and the object that says so, if it is not all of it.
pub(crate) fn partial(config: &Json) -> Result<(f64, Option<Json>), LoadError> {
    let inner = parameters(config)?;
    for json in inner.into_iter().chain([config.clone()]) {
        let part = json.positive_or(PARTIAL, 1.0)?;
        if part < 1.0 {
            return Ok((part, Some(json)));
        }
        if part > 1.0 {
            return Err(json.error(PARTIAL, format!("{part} is more than 1")));
        }
    }
    Ok((1.0, None))
}

impl Scaling {
    fn read(json: &Json, config: &Json) -> Result<Self, LoadError> {
        let field = if json.value("rope_type").is_some() {
            "rope_type"
        } else {
            "type"
        };
        match json.find_str(field)? {
            None | Some("default") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear(json.positive("factor")?)),
            Some("llama3") => {
                let (low, high) = (
                    json.positive("low_freq_factor")?,
                    json.positive("high_freq_factor")?,
                );
                if low >= high {
                    let reason = format!("{high} must be above low_freq_factor, which is {low}");
                    return Err(json.error("high_freq_factor", reason));
                }
                Ok(Self::Llama3 {
                    factor: json.positive("factor")?,
                    low,
                    high,
                    original: json.positive("original_max_position_embeddings")?,
                })
            }
            Some("yarn") => Yarn::read(json, config).map(Self::Yarn),
            Some(other) => {
                let reason = format!(
                    "`{other}` is not supported; supported are default, linear, llama3, yarn"
                );
                Err(json.error(field, reason))
            }
        }
    }

    fn apply(self, inv_freq: f32) -> f32 {
        match self {
            Self::None | Self::Yarn(_) => inv_freq,
            Self::Linear(factor) => inv_freq / factor as f32,
            Self::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let (factor, low, high) = (factor as f32, low as f32, high as f32);
                let wavelength = 2.0 * std::f32::consts::PI / inv_freq;
                let turns = original as f32 / wavelength;
                if turns < low {
                    inv_freq / factor
                } else if turns > high {
                    inv_freq
                } else {
                    let smooth = (turns - low) / (high - low);
                    (1.0 - smooth) * inv_freq / factor + smooth * inv_freq
                }
            }
        }
    }
}
