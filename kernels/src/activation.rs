//! Activation functions on single values, by the vector code of the products' epilogues, and the soft cap on rows. Exact and
//! tanh GELU are two functions on purpose: they differ by up to 5e-4, and a checkpoint means one of them.

use crate::cpu::activation as vector;
use crate::cpu::isa::{Portable, dispatch};
use crate::cpu::shared::Shared;
use crate::{Cx, Rows};

/// Exact GELU, `x/2 (1 + erf(x / sqrt 2))` (Hendrycks and Gimpel, arXiv:1606.08415; Hugging Face `gelu`).
pub fn gelu_erf(x: f32) -> f32 {
    // SAFETY: the portable path needs no features.
    unsafe { vector::gelu_erf::<Portable>([x; 16])[0] }
}

/// The tanh form of GELU (Hugging Face `gelu_new`, `gelu_pytorch_tanh`).
pub fn gelu_tanh(x: f32) -> f32 {
    // SAFETY: the portable path needs no features.
    unsafe { vector::gelu_tanh::<Portable>([x; 16])[0] }
}

/// The sigmoid-weighted unit `SiLU`, `x / (1 + exp(-x))`.
pub fn silu(x: f32) -> f32 {
    // SAFETY: the portable path needs no features.
    unsafe { vector::silu::<Portable>([x; 16])[0] }
}

/// `gate = silu(gate) * up`, value by value: what is behind two projections that are not stacked into one ([`crate::Then::SiluMul`]).
///
/// # Panics
/// If the shapes differ.
#[track_caller]
pub fn silu_mul(cx: &Cx, gate: &mut Rows, up: &Rows) {
    let (rows, width) = (gate.rows(), gate.width());
    assert_eq!((rows, width), (up.rows(), up.width()), "silu_mul: shapes");
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::silu_mul(stream, gate, up);
    }
    let gate = Shared::new(gate.as_mut_slice());
    cx.run_rows(rows, 20 * width, &|range| {
        let values = range.start * width..range.end * width;
        let up = &up.as_slice()[values.clone()];
        // SAFETY: ranges of rows do not overlap.
        let gate = unsafe { gate.part(values) };
        gate.iter_mut()
            .zip(up)
            .for_each(|(gate, up)| *gate = silu(*gate) * up);
    });
}

/// Bends each value to `cap * tanh(x / cap)`, in place (the soft cap on Gemma 2's logits, arXiv:2408.00118).
pub fn soft_cap(cx: &Cx, x: &mut Rows, cap: f32) {
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::soft_cap(stream, x, cap);
    }
    let (rows, width) = (x.rows(), x.width());
    let x = Shared::new(x.as_mut_slice());
    cx.run_rows(rows, 20 * width, &|range| {
        // SAFETY: ranges of rows do not overlap.
        let values = unsafe { x.part(range.start * width..range.end * width) };
        dispatch(cx.isa(), vector::Cap { values, most: cap });
    });
}
