//! Row normalisations.

use crate::{Cx, Rows};

/// RMS norm of each row: `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, arXiv:1910.07467).
/// `x`, `out`: `[rows, width]`; `weight`: `[width]`.
///
/// # Panics
/// If the widths differ.
#[track_caller]
pub fn rms_norm(cx: &Cx, x: &Rows, weight: &[f32], eps: f32, out: &mut Rows) {
    assert_eq!(x.width(), weight.len(), "rms_norm: width and weight");
    let _ = cx;
    out.reset(x.rows(), x.width());
    for r in 0..x.rows() {
        let row = x.row(r);
        let mean = row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for ((o, v), w) in out.row_mut(r).iter_mut().zip(row).zip(weight) {
            *o = v * scale * w;
        }
    }
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
    let _ = cx;
    for r in 0..x.rows() {
        let row = x.row_mut(r);
        let n = row.len() as f32;
        let mean = row.iter().sum::<f32>() / n;
        let var = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
        let scale = 1.0 / (var + eps).sqrt();
        for ((v, w), b) in row.iter_mut().zip(weight).zip(bias) {
            *v = (*v - mean) * scale * w + b;
        }
    }
}
