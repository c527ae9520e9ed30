//! Matrix product with a packed weight, and what is fused behind it.

use crate::cpu::gemm::{Cut, Gated, Product};
use crate::cpu::isa::dispatch;
use crate::cpu::quantize::{self, Activations};
use crate::cpu::shared::Shared;
use crate::cx::{Scratch, reserve};
use crate::grouped::Code;
use crate::{Cx, Format, Isa, Op, PackedWeight, Rows};
use std::slice::from_ref;

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
    grouped(cx, x, (&[0, x.rows()], from_ref(weight)), epilogue, out);
}

/// Checks that the shapes agree, and gives `out` its own.
#[track_caller]
pub(crate) fn shape(x: &Rows, weights: &[PackedWeight], epilogue: Epilogue<'_>, out: &mut Rows) {
    let (n, cols) = weights.first().map_or((0, 0), |w| (w.rows(), w.cols()));
    let same = weights.iter().all(|w| (w.rows(), w.cols()) == (n, cols));
    assert!(same, "linear: weights of different shape");
    assert_eq!(x.width(), cols, "linear: input width");
    let width = if epilogue.then.is_gated() { n / 2 } else { n };
    if epilogue.then == Then::Add {
        let residual = (out.rows(), out.width());
        assert_eq!(residual, (x.rows(), width), "linear: residual shape");
    } else {
        out.reset(x.rows(), width);
    }
    if let Some(bias) = epilogue.bias {
        assert_eq!(bias.len(), n, "linear: bias");
    }
}

/// As [`linear`], with several weights of one shape: rows `starts[i]..starts[i + 1]` of `x` go through `weights[i]`, all in
/// the same parallel regions. `starts`: `[weights.len() + 1]`, ascending from 0 to `x.rows()`.
#[track_caller]
pub(crate) fn grouped(
    cx: &Cx,
    x: &Rows,
    (starts, weights): (&[usize], &[PackedWeight]),
    epilogue: Epilogue<'_>,
    out: &mut Rows,
) {
    assert_eq!(starts.len(), weights.len() + 1, "linear: groups");
    assert_eq!(starts.last(), Some(&x.rows()), "linear: rows of the groups");
    shape(x, weights, epilogue, out);
    let (n, cols, width) = (
        weights.first().map_or(0, PackedWeight::rows),
        x.width(),
        out.width(),
    );
    let gated = epilogue.then.is_gated();
    if x.rows() == 0 || width == 0 {
        return;
    }
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::grouped(stream, x, (starts, weights), epilogue, out);
    }
    let mut scratch = cx.scratch();
    let Scratch {
        acts,
        gathered,
        product,
        groups,
        ..
    } = &mut *scratch;
    let acts = reserve(acts, fill(groups, starts, weights, cx.isa()));
    let reordered = weights.iter().any(|w| w.order().is_some());
    let gathered = reserve(gathered, if reordered { x.rows() * cols } else { 0 });
    // Where gate and up of an output are not in the same place of two pairs: whole rows first.
    let twice = gated && !width.is_multiple_of(crate::cpu::pack::PAIR);
    let full = reserve(product, if twice { x.rows() * n } else { 0 });
    let describe = |ops: &mut Vec<Op>| trace(ops, (x.rows(), weights), epilogue.then);
    let work = || {
        if reordered {
            gather(cx, x, (starts, weights), gathered);
            activations(cx, gathered, weights, groups, acts);
        } else {
            activations(cx, x.as_slice(), weights, groups, acts);
        }
        if twice {
            let store = Epilogue::bias(epilogue.bias, Then::Store);
            multiply(cx, weights, (groups, acts), store, (&mut *full, n));
            gate(cx, full, epilogue.then, out);
        } else {
            let out = (out.as_mut_slice(), width);
            multiply(cx, weights, (groups, acts), epilogue, out);
        }
    };
    cx.operation(describe, work);
}

/// `act(gate) * up` of rows `[gate | up]`. `full`: `[out.rows(), 2 * out.width()]`.
fn gate(cx: &Cx, full: &[f32], then: Then, out: &mut Rows) {
    let (rows, width) = (out.rows(), out.width());
    let out = Shared::new(out.as_mut_slice());
    cx.run_rows(rows, 20 * width, &|rows| {
        let kernel = Gated {
            then,
            full: &full[rows.start * 2 * width..rows.end * 2 * width],
            // SAFETY: ranges of rows do not overlap.
            out: unsafe { out.part(rows.start * width..rows.end * width) },
            width,
        };
        dispatch(cx.isa(), kernel);
    });
}

/// The products of `rows` rows with these weights; with several as if each got as many rows as the others.
fn trace(ops: &mut Vec<Op>, (rows, weights): (usize, &[PackedWeight]), then: Then) {
    let groups = weights.len().min(rows);
    for (i, weight) in weights.iter().take(groups).enumerate() {
        ops.push(Op::Product {
            format: weight.format(),
            rows: rows / groups + usize::from(i < rows % groups),
            outputs: weight.rows(),
            cols: weight.cols(),
            then,
        });
    }
}

/// Rows of activations in `format` that are made at a time: whole groups of rows, where a format has them on some path.
fn step(format: Format) -> usize {
    match format {
        Format::F32 | Format::F16 | Format::Bf16 | Format::Int8 => 12,
        Format::Grouped(groups) if groups.code == Code::Fp8 => 12,
        _ => 4,
    }
}

/// Rows that go through one weight, and their share of the regions that all groups have together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Group {
    /// Number of the weight.
    weight: usize,
    /// The first row, and how many there are (never none).
    start: usize,
    rows: usize,
    /// Where the activations begin, and how many dwords they take.
    acts: usize,
    dwords: usize,
    /// Number of the first [`step`] of activations.
    first_step: usize,
    /// Number of the first chunk of the product, and how it is cut.
    first_chunk: usize,
    cut: Cut,
}

/// The groups that have rows; returns the dwords of all activations.
fn fill(groups: &mut Vec<Group>, starts: &[usize], weights: &[PackedWeight], isa: Isa) -> usize {
    groups.clear();
    let (mut acts, mut first_step) = (0, 0);
    for (weight, ends) in starts.windows(2).enumerate() {
        let (start, rows) = (ends[0], ends[1] - ends[0]);
        if rows == 0 {
            continue;
        }
        let shape = (rows, weights[weight].cols());
        let dwords = quantize::dwords(weights[weight].format(), shape, isa);
        groups.push(Group {
            weight,
            start,
            rows,
            acts,
            dwords,
            first_step,
            ..Group::default()
        });
        acts += dwords;
        first_step += rows.div_ceil(step(weights[weight].format()));
    }
    acts
}

/// The group that `at` belongs to, where `first` tells what each begins with.
fn group_of(groups: &[Group], at: usize, first: impl Fn(&Group) -> usize) -> &Group {
    &groups[groups.partition_point(|g| first(g) <= at) - 1]
}

/// The columns of each row of `x` in the order of its weight's. `to`: as `x`.
fn gather(cx: &Cx, x: &Rows, (starts, weights): (&[usize], &[PackedWeight]), to: &mut [f32]) {
    let cols = x.width();
    let to = Shared::new(to);
    cx.run_rows(x.rows(), cols, &|rows| {
        for r in rows {
            // SAFETY: a row belongs to one range.
            let to = unsafe { to.part(r * cols..(r + 1) * cols) };
            let from = x.row(r);
            let weight = starts.partition_point(|start| *start <= r) - 1;
            match weights[weight].order() {
                Some(order) => {
                    for (to, col) in to.iter_mut().zip(order) {
                        *to = from[*col as usize];
                    }
                }
                None => to.copy_from_slice(from),
            }
        }
    });
}

/// Brings the activations into the kernel's form. `x`: `[rows, cols]`.
fn activations(cx: &Cx, x: &[f32], weights: &[PackedWeight], groups: &[Group], acts: &mut [u32]) {
    let cols = weights[0].cols();
    let to = Shared::new(acts);
    let height = |g: &Group| step(weights[g.weight].format());
    let all = groups.iter().map(|g| g.rows.div_ceil(height(g))).sum();
    let most = groups.iter().map(height).max().unwrap_or(1);
    cx.run_rows(all, most * 2 * cols, &|steps| {
        let mut at = steps.start;
        while at < steps.end {
            let group = group_of(groups, at, |g| g.first_step);
            let Group { start, rows, .. } = *group;
            let height = height(group);
            let end = rows.div_ceil(height).min(steps.end - group.first_step);
            let kernel = Activations {
                format: weights[group.weight].format(),
                x: &x[start * cols..(start + rows) * cols],
                cols,
                all: rows,
                rows: (at - group.first_step) * height..rows.min(end * height),
                to: &to.slice(group.acts..group.acts + group.dwords),
            };
            dispatch(cx.isa(), kernel);
            at = group.first_step + end;
        }
    });
}

/// The products themselves. `out`: `[rows, width]`.
fn multiply(
    cx: &Cx,
    weights: &[PackedWeight],
    (groups, acts): (&mut [Group], &[u32]),
    epilogue: Epilogue<'_>,
    (out, width): (&mut [f32], usize),
) {
    let out = Shared::new(out);
    // Several groups keep the team busy together.
    let threads = cx.threads().div_ceil(groups.len());
    let mut chunks = 0;
    for group in groups.iter_mut() {
        let weight = &weights[group.weight];
        group.cut = Cut::new(weight, (group.rows, width), cx.isa(), threads);
        group.first_chunk = chunks;
        chunks += group.cut.chunks();
    }
    let groups = &*groups;
    cx.run(chunks, &|chunk| {
        let group = group_of(groups, chunk, |g| g.first_chunk);
        let product = Product {
            weight: &weights[group.weight],
            rows: group.rows,
            acts: &acts[group.acts..group.acts + group.dwords],
            epilogue,
            out: out.slice(group.start * width..(group.start + group.rows) * width),
            width,
        };
        let part = group.cut.part(&product, chunk - group.first_chunk);
        dispatch(cx.isa(), part);
    });
}
