//! Row normalisations.

use crate::cpu::isa::dispatch;
use crate::cpu::norm::{Layer, Rms};
use crate::cpu::shared::Shared;
use crate::{Cx, Rows};

/// RMS norm of each row: `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, arXiv:1910.07467).
/// `x`, `out`: `[rows, width]`; `weight`: `[width]`.
///
/// # Panics
/// If the widths differ.
#[track_caller]
pub fn rms_norm(cx: &Cx, x: &Rows, weight: &[f32], eps: f32, out: &mut Rows) {
    assert_eq!(x.width(), weight.len(), "rms_norm: width and weight");
    assert!(!weight.is_empty(), "rms_norm: no width");
    let width = weight.len();
    out.reset(x.rows(), width);
    let (x, rows) = (x.as_slice(), out.rows());
    let out = Shared::new(out.as_mut_slice());
    cx.run_rows(rows, 2 * width, &|range| {
        let range = range.start * width..range.end * width;
        // SAFETY: ranges of rows do not overlap.
        let out = unsafe { out.part(range.clone()) };
        let kernel = Rms {
            x: &x[range],
            out,
            weight,
            eps,
        };
        dispatch(cx.isa(), kernel);
    });
}

/// Layer norm of each row in place: `x = (x - mean) / sqrt(var + eps) * weight + bias` (Ba et al., arXiv:1607.06450;
/// population variance, as `PyTorch`). `x`: `[rows, width]`; `weight`, `bias`: `[width]`.
///
/// # Panics
/// If the widths differ.
#[track_caller]
pub fn layer_norm(cx: &Cx, x: &mut Rows, weight: &[f32], bias: &[f32], eps: f32) {
    assert_eq!(x.width(), weight.len(), "layer_norm: width and weight");
    assert_eq!(x.width(), bias.len(), "layer_norm: width and bias");
    assert!(!weight.is_empty(), "layer_norm: no width");
    let (rows, width) = (x.rows(), weight.len());
    let x = Shared::new(x.as_mut_slice());
    cx.run_rows(rows, 3 * width, &|range| {
        // SAFETY: ranges of rows do not overlap.
        let x = unsafe { x.part(range.start * width..range.end * width) };
        let kernel = Layer {
            x,
            weight,
            bias,
            eps,
        };
        dispatch(cx.isa(), kernel);
    });
}
