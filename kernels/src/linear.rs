//! Matrix product with a packed weight, and what is fused behind it.

use crate::cpu::gemm::{Cut, Gated, Product};
use crate::cpu::isa::dispatch;
use crate::cpu::quantize::{self, Activations};
use crate::cpu::shared::Shared;
use crate::cx::{Scratch, reserve};
use crate::{Cx, PackedWeight, Rows};

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
    /// As [`Then::SiluMul`], with exact GELU.
    GeluErfMul,
    /// As [`Then::SiluMul`], with the tanh form of GELU.
    GeluTanhMul,
}

impl Then {
    /// Whether the weight's rows are `[gate; up]` and the output is half as wide (Shazeer, arXiv:2002.05202).
    pub fn is_gated(self) -> bool {
        matches!(self, Self::SiluMul | Self::GeluErfMul | Self::GeluTanhMul)
    }
}

/// `out = then(x * weight^T + bias)`. `x`: `[rows, weight.cols()]`; `out` becomes `[rows, weight.rows()]`, half of that
/// where [`Then::is_gated`]; for [`Then::Add`] it must have that shape already. Block formats and bf16 round the activations
/// as [`PackedWeight`] says.
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn linear(cx: &Cx, x: &Rows, weight: &PackedWeight, epilogue: Epilogue<'_>, out: &mut Rows) {
    assert_eq!(x.width(), weight.cols(), "linear: input width");
    let n = weight.rows();
    let gated = epilogue.then.is_gated();
    let width = if gated { n / 2 } else { n };
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
    if x.rows() == 0 || width == 0 {
        return;
    }
    let mut scratch = cx.scratch();
    let Scratch { acts, product, .. } = &mut *scratch;
    let acts = reserve(acts, quantize::dwords(weight.format(), x.rows(), x.width()));
    activations(cx, x, weight, acts);
    if gated && !width.is_multiple_of(crate::cpu::pack::PAIR) {
        // Gate and up of an output are not in the same place of two pairs: whole rows first.
        let full = reserve(product, x.rows() * n);
        let store = Epilogue::bias(epilogue.bias, Then::Store);
        multiply(cx, weight, (x.rows(), acts), store, (full, n));
        let out = Shared::new(out.as_mut_slice());
        cx.run_rows(x.rows(), 20 * width, &|rows| {
            let kernel = Gated {
                then: epilogue.then,
                full: &full[rows.start * n..rows.end * n],
                // SAFETY: ranges of rows do not overlap.
                out: unsafe { out.part(rows.start * width..rows.end * width) },
                width,
            };
            dispatch(cx.isa(), kernel);
        });
    } else {
        multiply(
            cx,
            weight,
            (x.rows(), acts),
            epilogue,
            (out.as_mut_slice(), width),
        );
    }
}

/// Brings the activations into the kernel's form.
fn activations(cx: &Cx, x: &Rows, weight: &PackedWeight, acts: &mut [u32]) {
    /// A multiple of every path's group of rows.
    const STEP: usize = 12;
    let (all, cols) = (x.rows(), x.width());
    let to = Shared::new(acts);
    cx.run_rows(all.div_ceil(STEP), STEP * 2 * cols, &|steps| {
        let kernel = Activations {
            format: weight.format(),
            x: x.as_slice(),
            cols,
            all,
            rows: steps.start * STEP..all.min(steps.end * STEP),
            to: &to,
        };
        dispatch(cx.isa(), kernel);
    });
}

/// The product itself. `out`: `[rows, width]`.
fn multiply(
    cx: &Cx,
    weight: &PackedWeight,
    (rows, acts): (usize, &[u32]),
    epilogue: Epilogue<'_>,
    (out, width): (&mut [f32], usize),
) {
    let product = Product {
        weight,
        rows,
        acts,
        epilogue,
        out: Shared::new(out),
        width,
    };
    let cut = Cut::new(&product, cx.isa(), cx.team().threads());
    cx.run(cut.chunks(), &|chunk| {
        dispatch(cx.isa(), cut.part(&product, chunk));
    });
}
