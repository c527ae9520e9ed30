//! What counts as proof: usual tolerances, and the status that follows from what was found.
//!
//! Must not know: how anything is executed. Invariant: a check that was told to let more pass than usual earns nothing.

use super::{Bucket, Manifest, Neff, Precision};
use serde::{Deserialize, Serialize};

/// Largest difference in f32 of models with up to [`SMALL`] bytes of weights.
pub const TOLERANCE_SMALL: f64 = 1e-5;
/// Largest difference in f32 of larger ones: sums are longer.
pub const TOLERANCE_F32: f64 = 1e-4;
/// Largest difference with matrix products in bf16.
pub const TOLERANCE_BF16: f64 = 5e-2;
/// Largest difference of a device that computes in f32, for values of at most 1: what AWS's own exporters ask of such models.
pub const TOLERANCE_DEVICE: f64 = 1e-3;
/// How far the answers of two buckets to one input may lie apart in f32, where values are at most 1: they are the same sums. Measured on
/// all fixtures: at most 1.1e-6.
pub const SPREAD_F32: f64 = 1e-5;
/// As [`SPREAD_F32`] with matrix products in bf16, where the last bit of a sum can decide how an operand is rounded. Measured on all
/// fixtures, in up to 24 buckets of 1 to 8 rows: at most 3.4e-3, of most 1e-7.
pub const SPREAD_BF16: f64 = 1e-2;
/// Bytes of the weights of a small model's files.
pub const SMALL: u64 = 8 << 20;

/// A tolerance is read back from text, which may cost its last bit.
const LAST_BIT: f64 = 1.0 + 1e-9;

/// How far an artifact is proven. Each stage needs what the one before it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Written and linted.
    Exported,
    /// Every bucket's HLO was executed, and agrees with the reference ([`Bucket::parity`]).
    HloVerified,
    /// Every bucket has a NEFF of a compiler that is supported.
    NeffCompiled,
    /// Every bucket's NEFF was executed on a Neuron device, and agrees with the reference ([`Neff::device_parity`]).
    DeviceVerified,
}

/// How far computed rows are from a reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parity {
    /// What gave the expected rows, with its version and precision.
    pub reference: String,
    /// What executed the artifact, with its version.
    pub runner: String,
    /// Rows compared.
    pub cases: usize,
    /// Largest absolute difference of two values.
    pub max_abs: f64,
    /// Part of the rows with the same largest value, of those where the reference's two largest values are more than
    /// 2 x tolerance apart; none where there are no labels to choose from.
    pub argmax_agreement: Option<f64>,
    /// The largest difference that is accepted.
    pub tolerance: f64,
    /// The largest magnitude that was expected, at least 1: tolerances grow with it.
    pub scale: f64,
}

/// How far apart the buckets' answers to one input lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Largest absolute difference of two values, over all inputs.
    pub max_abs: f64,
    /// The largest that is accepted.
    pub tolerance: f64,
}

impl Parity {
    /// Whether rows were compared, and are close enough.
    pub fn holds(&self) -> bool {
        let agrees = self.argmax_agreement.is_none_or(|part| part == 1.0);
        self.cases > 0 && self.max_abs <= self.tolerance && agrees
    }

    /// Whether it holds with a tolerance that is not above the usual one, `usual` for values of at most 1.
    fn proves(&self, usual: f64) -> bool {
        self.holds() && self.tolerance <= usual * self.scale * LAST_BIT
    }
}

impl Spread {
    /// Whether the answers are close enough.
    pub fn holds(&self) -> bool {
        self.max_abs <= self.tolerance
    }
}

impl Manifest {
    /// The usual tolerance of what computes in `precision`, for values of at most 1.
    pub fn tolerance(&self, precision: Precision) -> f64 {
        let bytes: u64 = self.source.weights.iter().map(|file| file.bytes).sum();
        match precision {
            Precision::Bf16 => TOLERANCE_BF16,
            Precision::F32 if bytes <= SMALL => TOLERANCE_SMALL,
            Precision::F32 => TOLERANCE_F32,
        }
    }

    /// The usual tolerance of a compiled module, for values of at most 1.
    pub fn tolerance_on_device(&self, neff: &Neff) -> f64 {
        let cast = neff.flags.iter().any(|flag| flag == "bf16");
        if cast || self.numerics.compute == Precision::Bf16 {
            TOLERANCE_BF16
        } else {
            TOLERANCE_DEVICE
        }
    }

    /// How far the answers of two buckets to one input may lie apart, for values of at most 1.
    pub fn spread_tolerance(&self) -> f64 {
        match self.numerics.compute {
            Precision::Bf16 => SPREAD_BF16,
            Precision::F32 => SPREAD_F32,
        }
    }

    /// The status that there is evidence for. Where a tolerance above the usual one was asked for, there is none.
    pub fn earned(&self) -> Status {
        let proves = |parity: &Option<Parity>, usual| {
            let parity = parity.as_ref();
            parity.is_some_and(|parity| parity.proves(usual))
        };
        let all = |has: &dyn Fn(&Bucket) -> bool| self.buckets.iter().all(has);
        let usual = self.tolerance(self.numerics.compute);
        let compiled = |b: &Bucket| b.neff.as_ref().is_some_and(|n| !n.unverified);
        let on_device = |b: &Bucket| {
            let neff = b.neff.as_ref();
            neff.is_some_and(|n| proves(&n.device_parity, self.tolerance_on_device(n)))
        };
        let scale = all_scales(&self.buckets);
        let near = self
            .spread
            .as_ref()
            .map_or(self.buckets.len() == 1, |spread| {
                spread.holds() && spread.tolerance <= self.spread_tolerance() * scale * LAST_BIT
            });
        if !near || !all(&|b| proves(&b.parity, usual)) {
            Status::Exported
        } else if !all(&compiled) {
            Status::HloVerified
        } else if !all(&on_device) {
            Status::NeffCompiled
        } else {
            Status::DeviceVerified
        }
    }
}

/// The largest magnitude that was compared, at least 1.
fn all_scales(buckets: &[Bucket]) -> f64 {
    let scales = buckets
        .iter()
        .filter_map(|b| Some(b.parity.as_ref()?.scale));
    scales.fold(1.0, f64::max)
}
