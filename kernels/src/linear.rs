//! Matrix product with a packed weight, and what is fused behind it.

use crate::{Cx, PackedWeight, Rows, activation};

/// What happens to a product before it is stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added first; `[weight.rows()]`.
    pub bias: Option<&'a [f32]>,
    /// Then this.
    pub then: Then,
}

impl<'a> Epilogue<'a> {
    /// No bias, then `then`.
    pub fn then(then: Then) -> Self {
        Self { bias: None, then }
    }

    /// `bias`, then `then`.
    pub fn bias(bias: Option<&'a [f32]>, then: Then) -> Self {
        Self { bias, then }
    }
}

/// The last part of an [`Epilogue`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Then {
    /// Store the product.
    #[default]
    Store,
    /// Add the product to what `out` holds (a residual).
    Add,
    /// Exact GELU.
    GeluErf,
    /// GELU, tanh form.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// Hyperbolic tangent (BERT's pooler).
    Tanh,
    /// The weight's rows are `[gate; up]`; store `silu(gate) * up`, half as wide.
    SiluMul,
}

/// `out = then(x * weight^T + bias)`. `x`: `[rows, weight.cols()]`; `out` becomes `[rows, weight.rows()]`, half of that
/// for [`Then::SiluMul`]; for [`Then::Add`] it must have that shape already. Block formats and bf16 round the activations
/// as [`PackedWeight`] says.
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn linear(cx: &Cx, x: &Rows, weight: &PackedWeight, epilogue: Epilogue<'_>, out: &mut Rows) {
    assert_eq!(x.width(), weight.cols(), "linear: input width");
    let n = weight.rows();
    let width = if epilogue.then == Then::SiluMul {
        n / 2
    } else {
        n
    };
    if epilogue.then == Then::Add {
        assert_eq!(
            (out.rows(), out.width()),
            (x.rows(), width),
            "linear: residual shape"
        );
    } else {
        out.reset(x.rows(), width);
    }
    if let Some(bias) = epilogue.bias {
        assert_eq!(bias.len(), n, "linear: bias");
    }
    let _ = cx;
    let mut column = vec![0.0; weight.cols()];
    let mut full = vec![0.0; x.rows() * n];
    for o in 0..n {
        weight.dequantize_row(o, &mut column);
        for r in 0..x.rows() {
            let dot: f32 = x.row(r).iter().zip(&column).map(|(a, b)| a * b).sum();
            full[r * n + o] = dot + epilogue.bias.map_or(0.0, |b| b[o]);
        }
    }
    for (r, y) in full.chunks_exact(n.max(1)).enumerate() {
        for (o, out) in out.row_mut(r).iter_mut().enumerate() {
            *out = match epilogue.then {
                Then::Store => y[o],
                Then::Add => *out + y[o],
                Then::GeluErf => activation::gelu_erf(y[o]),
                Then::GeluTanh => activation::gelu_tanh(y[o]),
                Then::Relu => y[o].max(0.0),
                Then::Tanh => y[o].tanh(),
                Then::SiluMul => activation::silu(y[o]) * y[o + width],
            };
        }
    }
}
