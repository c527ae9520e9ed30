//! The product of activations with a packed weight, for one row and for many.
//!
//! Invariant: a sum over the columns runs in one order that depends on their number and the format only. A row's
//! accumulators never meet another row's.
//!
//! Block formats keep the weights of a block in registers while up to [`ROWS`] rows pass by (their sums wait in the
//! first-level cache). Panels (F32, F16, BF16) keep the sums of a group of rows in registers and let the weights pass.

use super::activation;
use super::isa::{Kernel, Simd};
use super::pack::{PAIR, TILE, Unit};
use super::quantize::BLOCK_DWORDS;
use super::shared::Shared;
use crate::{Epilogue, Format, Isa, PackedWeight, Then};
use std::ops::Range;

/// Rows whose sums are held at a time; a multiple of every path's group of rows.
const ROWS: usize = 48;
/// Steps over K after which a panel's sums are added to the total: a shorter chain loses less.
const SEGMENT: usize = 256;
/// How far ahead of a few rows the weights of block formats are asked for, bytes; panels come faster unasked.
const AHEAD: usize = 8192;

const Q8_0: u8 = 0;
const Q4_0: u8 = 1;
const Q4_1: u8 = 2;
const F32: u8 = 3;
const F16: u8 = 4;
const BF16: u8 = 5;

/// Rows of the group that begins where `left` rows are left.
#[inline(always)]
pub(crate) fn group_rows<S: Simd>(left: usize) -> usize {
    let fits = |n: &usize| *n <= left && *n <= S::ROWS;
    [12, 8, 6, 4, 3, 2].into_iter().find(fits).unwrap_or(1)
}

/// A product: everything that its chunks share.
pub(crate) struct Product<'a> {
    pub(crate) weight: &'a PackedWeight,
    /// Rows of activations.
    pub(crate) rows: usize,
    /// As `quantize` makes them.
    pub(crate) acts: &'a [u32],
    pub(crate) epilogue: Epilogue<'a>,
    /// `[rows, width]`
    pub(crate) out: Shared<'a, f32>,
    pub(crate) width: usize,
}

/// How a product is cut: chunks of `rows` rows and `pairs` pairs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cut {
    rows: usize,
    pairs: usize,
    row_chunks: usize,
    pair_chunks: usize,
}

impl Cut {
    /// Chunks of about 50 us, fewer than four a thread only where they would be shorter than 3 us. `width`: as in
    /// [`Product`].
    pub(crate) fn new(
        weight: &PackedWeight,
        (all, width): (usize, usize),
        isa: Isa,
        threads: usize,
    ) -> Self {
        // ns of one row with one pair (at modest speed: multiply-adds a ns), and of reading one pair from memory
        let speed = match isa {
            Isa::Portable => 2,
            Isa::Avx2 => 15,
            Isa::Avx512 => 60,
        };
        let row_cost = (PAIR * weight.cols()).div_ceil(speed);
        let pairs = width.div_ceil(PAIR);
        let read = weight.bytes() / weight.rows().div_ceil(PAIR).max(1) / 15;
        let rows = (50_000 / row_cost / ROWS * ROWS).clamp(ROWS, 4 * ROWS);
        let cost = (row_cost * rows.min(all)).max(read).max(1);
        let row_chunks = all.div_ceil(rows);
        let enough = (pairs * row_chunks).div_ceil(4 * threads);
        let shortest = 3_000usize.div_ceil(cost);
        let pairs_each = enough.max(shortest).min(50_000 / cost).max(1);
        Self {
            rows,
            pairs: pairs_each,
            row_chunks,
            pair_chunks: pairs.div_ceil(pairs_each),
        }
    }

    pub(crate) fn chunks(&self) -> usize {
        self.row_chunks * self.pair_chunks
    }

    /// Part number `chunk`: those of the same weights follow each other.
    pub(crate) fn part<'a>(&self, product: &'a Product<'a>, chunk: usize) -> Part<'a> {
        let (pair, row) = (chunk / self.row_chunks, chunk % self.row_chunks);
        let pairs = product.width.div_ceil(PAIR);
        Part {
            product,
            rows: row * self.rows..product.rows.min((row + 1) * self.rows),
            pairs: pair * self.pairs..pairs.min((pair + 1) * self.pairs),
        }
    }
}

/// Some rows of some pairs of a product.
pub(crate) struct Part<'a> {
    product: &'a Product<'a>,
    rows: Range<usize>,
    pairs: Range<usize>,
}

impl Kernel for Part<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe {
            match self.product.weight.format() {
                Format::Q8_0 => self.each::<S, Q8_0>(),
                Format::Q4_0 => self.each::<S, Q4_0>(),
                Format::Q4_1 => self.each::<S, Q4_1>(),
                Format::F32 => self.each::<S, F32>(),
                Format::F16 => self.each::<S, F16>(),
                Format::Bf16 => self.each::<S, BF16>(),
            }
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    unsafe fn each<S: Simd, const F: u8>(&self) {
        let p = self.product;
        // SAFETY: as the caller promises, see `isa`.
        unsafe {
            let zero = [[S::splat(0.0); 2]; ROWS];
            let (mut sums, mut ups) = (zero, zero);
            for pair in self.pairs.clone() {
                let mut row = self.rows.start;
                while row < self.rows.end {
                    let rows = row..self.rows.end.min(row + ROWS);
                    row = rows.end;
                    multiply::<S, F>(p, pair, rows.clone(), &mut sums);
                    if p.epilogue.then.is_gated() {
                        // `Product` is made only where the upper half begins with a pair.
                        multiply::<S, F>(p, pair + p.width / PAIR, rows.clone(), &mut ups);
                    }
                    for half in 0..2 {
                        finish::<S>(p, pair * PAIR + half * TILE, rows.clone(), (&sums, &ups));
                    }
                }
            }
        }
    }
}

/// Sums of up to [`ROWS`] rows with the 32 outputs of a pair.
type Sums<S> = [[<S as Simd>::F; 2]; ROWS];

/// The sums of some rows with one pair of the weight.
#[inline(always)]
unsafe fn multiply<S: Simd, const F: u8>(
    p: &Product<'_>,
    pair: usize,
    rows: Range<usize>,
    sums: &mut Sums<S>,
) {
    let cols = p.weight.cols();
    let unit = Unit::of(p.weight.format());
    let lines = unit.pair_lines(cols);
    let w = p.weight.lines()[pair * lines..(pair + 1) * lines]
        .as_ptr()
        .cast::<u8>();
    let steps = cols.div_ceil(unit.cols);
    let sums = &mut sums[..rows.len()];
    // SAFETY: as the caller promises, see `isa`. `w` has `lines` lines; the activations of these rows lie inside `acts`,
    // whose length `linear` made for this format.
    unsafe {
        for sum in sums.iter_mut() {
            *sum = [S::splat(0.0); 2];
        }
        if matches!(F, Q8_0 | Q4_0 | Q4_1) {
            let a = p.acts[rows.start * BLOCK_DWORDS..].as_ptr();
            blocks::<S, F>(w, steps, (a, p.rows * BLOCK_DWORDS), sums);
            return;
        }
        let mut row = rows.start;
        while row < rows.end {
            let n = group_rows::<S>(p.rows - row);
            let a = p.acts[row * steps..(row + n) * steps].as_ptr();
            let sums = &mut sums[row - rows.start..];
            match n {
                12 => panel::<S, F, 12>(w, steps, a, sums),
                8 => panel::<S, F, 8>(w, steps, a, sums),
                6 => panel::<S, F, 6>(w, steps, a, sums),
                4 => panel::<S, F, 4>(w, steps, a, sums),
                3 => panel::<S, F, 3>(w, steps, a, sums),
                2 => panel::<S, F, 2>(w, steps, a, sums),
                _ => panel::<S, F, 1>(w, steps, a, sums),
            }
            row += n;
        }
    }
}

/// `R` rows with a pair, value by value (two by two for bf16). `a`: `[steps, R]` dwords.
#[inline(always)]
unsafe fn panel<S: Simd, const F: u8, const R: usize>(
    w: *const u8,
    steps: usize,
    a: *const u32,
    sums: &mut [[S::F; 2]],
) {
    let stride = if F == F16 { 64 } else { 128 };
    if R > S::ROWS {
        return;
    }
    let mut first = 0;
    while first < steps {
        let end = steps.min(first + SEGMENT);
        // SAFETY: as the caller promises, see `isa`; `step < steps`.
        unsafe {
            let mut c = [[S::splat(0.0); 2]; R];
            for step in first..end {
                let (w, a) = (w.add(step * stride), a.add(step * R));
                if F == BF16 {
                    for (r, c) in c.iter_mut().enumerate() {
                        c[0] = S::dot2_bf16(c[0], w, *a.add(r));
                        c[1] = S::dot2_bf16(c[1], w.add(64), *a.add(r));
                    }
                } else {
                    let w = if F == F32 {
                        [S::load(w.cast()), S::load(w.add(64).cast())]
                    } else {
                        [S::load_f16(w.cast()), S::load_f16(w.add(32).cast())]
                    };
                    for (r, c) in c.iter_mut().enumerate() {
                        let a = S::splat(f32::from_bits(*a.add(r)));
                        c[0] = S::fma(w[0], a, c[0]);
                        c[1] = S::fma(w[1], a, c[1]);
                    }
                }
            }
            for (sum, c) in sums.iter_mut().zip(c) {
                *sum = [S::add(sum[0], c[0]), S::add(sum[1], c[1])];
            }
        }
        first = end;
    }
}

/// The 8 groups of 4 weights of a block, for 16 outputs.
#[inline(always)]
unsafe fn load_block<S: Simd, const F: u8>(p: *const u8) -> [S::B; 8] {
    // SAFETY: as the caller promises, see `isa`: 8 lines for Q8_0, 4 otherwise.
    unsafe {
        let mut w = [S::load_bytes(p); 8];
        if F == Q8_0 {
            for (j, w) in w.iter_mut().enumerate() {
                *w = S::load_bytes(p.add(64 * j));
            }
        } else {
            for j in 0..4 {
                [w[j], w[j + 4]] = S::load_nibbles(p.add(64 * j));
            }
        }
        w
    }
}

/// Rows with a pair, block by block. `a`: the first row's first block, and the dwords from block to block.
#[inline(always)]
unsafe fn blocks<S: Simd, const F: u8>(
    mut w: *const u8,
    blocks: usize,
    (a, stride): (*const u32, usize),
    sums: &mut [[S::F; 2]],
) {
    let (head, tile) = match F {
        Q8_0 => (64, 512),
        Q4_0 => (64, 256),
        _ => (128, 256),
    };
    for b in 0..blocks {
        // SAFETY: as the caller promises, see `isa`; block `b` of the pair is at `w`, of the activations at `a`.
        unsafe {
            if sums.len() <= 4 {
                for line in 0..(head + 2 * tile) / 64 {
                    S::prefetch(w.wrapping_add(AHEAD + 64 * line));
                }
            }
            let w0 = load_block::<S, F>(w.add(head));
            let w1 = load_block::<S, F>(w.add(head + tile));
            let d = [S::load_f16(w.cast()), S::load_f16(w.add(32).cast())];
            let m = if F == Q4_1 {
                [S::load_f16(w.add(64).cast()), S::load_f16(w.add(96).cast())]
            } else {
                d
            };
            let mut a = a.add(b * stride);
            for sum in sums.iter_mut() {
                let correction = *a.add(8);
                let start = if F == Q4_1 { 0 } else { correction as i32 };
                let mut i = [S::isplat(start); 2];
                for j in 0..8 {
                    let q = *a.add(j) as i32;
                    if F == Q8_0 {
                        i = [S::dot4_bytes(i[0], w0[j], q), S::dot4_bytes(i[1], w1[j], q)];
                    } else {
                        i = [
                            S::dot4_nibbles(i[0], w0[j], q),
                            S::dot4_nibbles(i[1], w1[j], q),
                        ];
                    }
                }
                let scale = S::splat(f32::from_bits(*a.add(9)));
                for t in 0..2 {
                    sum[t] = S::fma(S::to_f32(i[t]), S::mul(d[t], scale), sum[t]);
                    if F == Q4_1 {
                        sum[t] = S::fma(m[t], S::splat(f32::from_bits(correction)), sum[t]);
                    }
                }
                a = a.add(BLOCK_DWORDS);
            }
            w = w.add(head + 2 * tile);
        }
    }
}

/// Bias, activation and store of the outputs from `col` on, at most 16.
#[inline(always)]
unsafe fn finish<S: Simd>(
    p: &Product<'_>,
    col: usize,
    rows: Range<usize>,
    (sums, ups): (&Sums<S>, &Sums<S>),
) {
    if col >= p.width {
        return;
    }
    let (n, half) = (TILE.min(p.width - col), col / TILE % 2);
    // SAFETY: as the caller promises, see `isa`; `n` outputs from `col` on exist, and this chunk alone has them.
    unsafe {
        let zero = S::splat(0.0);
        let bias = p.epilogue.bias.map(|b| &b[col..]);
        let [bias, up_bias] = match bias {
            None => [zero; 2],
            Some(b) if p.epilogue.then.is_gated() => [
                S::load_part(b.as_ptr(), n),
                S::load_part(b[p.width..].as_ptr(), n),
            ],
            Some(b) => [S::load_part(b.as_ptr(), n), zero],
        };
        for (i, row) in rows.enumerate() {
            let at = row * p.width + col;
            let out = p.out.part(at..at + n).as_mut_ptr();
            let v = S::add(sums[i][half], bias);
            let v = match p.epilogue.then {
                Then::Store => v,
                Then::Add => S::add(S::load_part(out, n), v),
                Then::GeluErf => activation::gelu_erf::<S>(v),
                Then::GeluTanh => activation::gelu_tanh::<S>(v),
                Then::Relu => S::max(zero, v),
                Then::Tanh => activation::tanh::<S>(v),
                gated => gate::<S>(gated, v, S::add(ups[i][half], up_bias)),
            };
            S::store_part(out, n, v);
        }
    }
}

/// `act(v) * up`, with the activation of a gated epilogue.
#[inline(always)]
unsafe fn gate<S: Simd>(then: Then, v: S::F, up: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let v = match then {
            Then::GeluErfMul => activation::gelu_erf::<S>(v),
            Then::GeluTanhMul => activation::gelu_tanh::<S>(v),
            _ => activation::silu::<S>(v),
        };
        S::mul(v, up)
    }
}

/// `act(gate) * up` of rows `[gate | up]` that one part could not do at once. `full`: `[rows, 2 * width]`.
pub(crate) struct Gated<'a> {
    pub(crate) then: Then,
    pub(crate) full: &'a [f32],
    pub(crate) out: &'a mut [f32],
    pub(crate) width: usize,
}

impl Kernel for Gated<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.full.chunks_exact(2 * self.width);
        for (full, out) in rows.zip(self.out.chunks_exact_mut(self.width)) {
            for at in (0..self.width).step_by(16) {
                let n = 16.min(self.width - at);
                // SAFETY: as the caller promises, see `isa`; `at + n <= width`.
                unsafe {
                    let v = S::load_part(full.as_ptr().add(at), n);
                    let up = S::load_part(full.as_ptr().add(self.width + at), n);
                    let v = gate::<S>(self.then, v, up);
                    S::store_part(out.as_mut_ptr().add(at), n, v);
                }
            }
        }
    }
}
