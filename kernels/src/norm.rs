//! Row normalisations.

use crate::cpu::isa::dispatch;
use crate::cpu::norm::{Layer, Rms, RmsInPlace};
use crate::cpu::shared::Shared;
use crate::{Cx, HeadLayout, Rows};

/// RMS norm of each row: `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, arXiv:1910.07467).
/// `x`, `out`: `[rows, width]`; `weight`: `[width]`.
///
/// # Panics
/// If the widths differ.
#[track_caller]
pub fn rms_norm(cx: &Cx, x: &Rows, weight: &[f32], eps: f32, out: &mut Rows) {
    out.reset(x.rows(), x.width());
    rms::<false>(cx, x, (weight, eps), out);
}

/// As [`rms_norm`], added to what `out` holds (a norm between a branch and its residual).
///
/// # Panics
/// If the shapes differ.
#[track_caller]
pub fn rms_norm_add(cx: &Cx, x: &Rows, weight: &[f32], eps: f32, out: &mut Rows) {
    assert_eq!(x.rows(), out.rows(), "rms_norm_add: rows");
    assert_eq!(x.width(), out.width(), "rms_norm_add: residual width");
    rms::<true>(cx, x, (weight, eps), out);
}

#[track_caller]
fn rms<const ADD: bool>(cx: &Cx, x: &Rows, (weight, eps): (&[f32], f32), out: &mut Rows) {
    assert_eq!(x.width(), weight.len(), "rms_norm: width and weight");
    assert!(!weight.is_empty(), "rms_norm: no width");
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::rms_norm(stream, x, (weight, eps), ADD, out);
    }
    let width = weight.len();
    let (x, rows) = (x.as_slice(), out.rows());
    let out = Shared::new(out.as_mut_slice());
    cx.run_rows(rows, 2 * width, &|range| {
        let range = range.start * width..range.end * width;
        // SAFETY: ranges of rows do not overlap.
        let out = unsafe { out.part(range.clone()) };
        let kernel = Rms::<ADD> {
            x: &x[range],
            out,
            weight,
            eps,
        };
        dispatch(cx.isa(), kernel);
    });
}

/// RMS norm of each query head with `query` and of each key head with `key`, in place (Qwen3 and Gemma 3, before rope).
/// `qkv`: `[tokens, layout.qkv_width()]`; `query`, `key`: `[k_dim]`.
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn rms_norm_heads(
    cx: &Cx,
    qkv: &mut Rows,
    layout: &HeadLayout,
    (query, key): (&[f32], &[f32]),
    eps: f32,
) {
    assert_eq!(qkv.width(), layout.qkv_width(), "rms_norm_heads: width");
    assert_eq!(query.len(), layout.k_dim, "rms_norm_heads: query");
    assert_eq!(key.len(), layout.k_dim, "rms_norm_heads: key");
    assert!(!key.is_empty(), "rms_norm_heads: no width");
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::rms_norm_heads(stream, qkv, layout, (query, key), eps);
    }
    let (rows, width) = (qkv.rows(), qkv.width());
    let q = layout.q_heads * layout.k_dim;
    let k = layout.kv_heads * layout.k_dim;
    let qkv = Shared::new(qkv.as_mut_slice());
    cx.run_rows(rows, 2 * (q + k), &|range| {
        for at in range.map(|r| r * width) {
            for (part, weight) in [(at..at + q, query), (at + q..at + q + k, key)] {
                // SAFETY: a row belongs to one range.
                let x = unsafe { qkv.part(part) };
                dispatch(cx.isa(), RmsInPlace { x, weight, eps });
            }
        }
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
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::layer_norm(stream, x, (weight, bias), eps);
    }
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
