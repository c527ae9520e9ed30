//! The product of activations with a packed weight, for one row and for many.
//!
//! Invariant: a sum over the columns runs in one order that depends on their number and the format only. A row's
//! accumulators never meet another row's.

use super::activation;
use super::blocks::blocks;
use super::codes::{BLOCK, Codes, Unit};
use super::grouped;
use super::int8;
use super::isa::{Kernel, Simd};
use super::pack::{PAIR, TILE, pair_lines};
use super::panel::panels;
use super::quantize::{self, block_dwords};
use super::shared::Shared;
use crate::{Epilogue, Format, Isa, PackedWeight, Then};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows whose sums are held at a time, at most: the more, the less often codes are unpacked. The sums of two pairs leave half
/// of a first-level cache of 32 KiB to what passes by.
const ROWS: usize = 72;
/// A multiple of every path's group of rows.
const GROUP: usize = 12;

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

/// How a product is cut: chunks of `rows` rows, and of `large` pairs first and `small` ones afterwards. A thread that begins
/// late, or is slower, leaves small ones to the others, so that all end at about the same time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cut {
    rows: usize,
    row_chunks: usize,
    large: usize,
    larges: usize,
    small: usize,
    smalls: usize,
}

impl Cut {
    /// Chunks of at most about 50 us. Where arithmetic takes the time, half of the pairs in chunks of half a thread's share, the
    /// other half in ones an eighth as large, but of 1 us or more; where memory does, about four a thread, of 1.5 us or more.
    /// `width`: as in [`Product`].
    pub(crate) fn new(
        weight: &PackedWeight,
        (all, width): (usize, usize),
        isa: Isa,
        threads: usize,
    ) -> Self {
        // ns of one row with one pair (at modest speed: multiply-adds a ns), and of reading one pair from memory
        let speed = match isa {
            Isa::Portable => 2,
            Isa::Avx2 | Isa::AvxVnni => 15,
            Isa::Avx512 => 60,
        };
        let row_cost = (PAIR * weight.cols()).div_ceil(speed);
        let pairs = width.div_ceil(PAIR);
        let read = weight.bytes() / weight.rows().div_ceil(PAIR).max(1) / 15;
        let rows = even(
            weight.format(),
            all,
            (50_000 / row_cost).clamp(ROWS, 4 * ROWS),
        );
        let (compute, row_chunks) = (row_cost * rows.min(all), all.div_ceil(rows));
        let cost = compute.max(read).max(1);
        let most = (50_000 / cost).max(1);
        let share = (pairs * row_chunks).div_ceil(4 * threads);
        let (large, small) = if read > compute {
            // What the start of a chunk waits for memory makes small ones dear.
            let each = share.max(1_500usize.div_ceil(cost)).min(most);
            (each, each)
        } else {
            let large = (2 * share).clamp(1, most);
            let small = (large / 8).max(1_000usize.div_ceil(cost));
            (large, small.min(large))
        };
        let larges = pairs / 2 / large;
        Self {
            rows,
            row_chunks,
            large,
            larges,
            small,
            smalls: (pairs - larges * large).div_ceil(small),
        }
    }

    pub(crate) fn chunks(&self) -> usize {
        self.row_chunks * (self.larges + self.smalls)
    }

    /// Part number `chunk`: those of the same weights follow each other.
    pub(crate) fn part<'a>(&self, product: &'a Product<'a>, chunk: usize) -> Part<'a> {
        let (number, row) = (chunk / self.row_chunks, chunk % self.row_chunks);
        let pairs = product.width.div_ceil(PAIR);
        let (start, len) = match number.checked_sub(self.larges) {
            None => (number * self.large, self.large),
            Some(number) => (self.larges * self.large + number * self.small, self.small),
        };
        Part {
            product,
            rows: row * self.rows..product.rows.min((row + 1) * self.rows),
            pairs: start..pairs.min(start + len),
        }
    }
}

/// Rows of each of the parts into which `all` are cut so that none has more than `most`, and all about as many: what a part
/// does once costs the same for few rows.
fn even(format: Format, all: usize, most: usize) -> usize {
    let each = all.div_ceil(all.div_ceil(most).max(1));
    match Codes::of(format) {
        Some(_) => each.max(1),
        // A group of rows belongs to one part.
        None => each.next_multiple_of(GROUP).max(GROUP),
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
        let p = self.product;
        // `Product` is made only where the upper half begins with a pair.
        let gated = p.epilogue.then.is_gated();
        let up = if gated { p.width / PAIR } else { 0 };
        let each = even(p.weight.format(), self.rows.len(), ROWS);
        let mut all = [[const { MaybeUninit::<Pair<S>>::uninit() }; ROWS]; 2];
        for pair in self.pairs.clone() {
            for row in self.rows.clone().step_by(each) {
                let rows = row..self.rows.end.min(row + each);
                let mut both: [&[Pair<S>]; 2] = [&[]; 2];
                // One place from where the inner loops are called, as each is made anew for every one.
                for (side, sums) in all.iter_mut().take(1 + usize::from(gated)).enumerate() {
                    // SAFETY: as the caller promises, see `isa`.
                    both[side] = unsafe { multiply::<S>(p, pair + side * up, rows.clone(), sums) };
                }
                for half in 0..2 {
                    let col = pair * PAIR + half * TILE;
                    // SAFETY: as the caller promises, see `isa`.
                    unsafe { finish::<S>(p, col, rows.clone(), both.into()) };
                }
            }
        }
    }
}

/// A row's sums with the 32 outputs of a pair.
type Pair<S> = [<S as Simd>::F; 2];

/// The sums of some rows with one pair of the weight.
#[inline(always)]
unsafe fn multiply<'a, S: Simd>(
    p: &Product<'_>,
    pair: usize,
    rows: Range<usize>,
    sums: &'a mut [MaybeUninit<Pair<S>>; ROWS],
) -> &'a mut [Pair<S>] {
    let (cols, format) = (p.weight.cols(), p.weight.format());
    let lines = pair_lines(format, cols);
    let w = p.weight.lines()[pair * lines..(pair + 1) * lines]
        .as_ptr()
        .cast::<u8>();
    let sums = &mut sums[..rows.len()];
    for sum in sums.iter_mut() {
        // SAFETY: as the caller promises, see `isa`.
        sum.write(unsafe { [S::splat(0.0); 2] });
    }
    // SAFETY: all of them were written.
    let sums = unsafe { &mut *(&raw mut *sums as *mut [Pair<S>]) };
    // SAFETY: as the caller promises, see `isa`. `w` has `lines` lines; the activations of these rows lie inside `acts`,
    // whose length `linear` made for this format.
    unsafe {
        if let Format::Grouped(groups) = format {
            grouped::multiply::<S>(p, groups, (w, rows), sums);
            return sums;
        }
        if format == Format::Int8 {
            let size = int8::dwords(cols);
            let a = p.acts[rows.start * size..p.rows * size].as_ptr();
            int8::multiply::<S>(w, cols, (a, p.rows - rows.start), sums);
            return sums;
        }
        if let Some(codes) = Codes::of(format) {
            let size = block_dwords(codes);
            let a = (p.acts[rows.start * size..].as_ptr(), p.rows * size);
            let n = cols / BLOCK;
            macro_rules! of {
                ($($name:ident)*) => {
                    match format {
                        $(Format::$name => blocks::<S, { Format::$name.number() }>(w, n, a, sums),)*
                        Format::F32 | Format::Bf16 | Format::F16 | Format::Int8 | Format::Grouped(_) => {}
                    }
                };
            }
            of!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2K Q3K Q4K Q5K Q6K Q8K Iq4Nl Mxfp4);
            return sums;
        }
        let steps = cols.div_ceil(Unit::of(format).cols);
        let size = quantize::dwords(format, (1, cols), S::ISA);
        let left = p.rows - rows.start;
        let a = (p.acts[rows.start * size..p.rows * size].as_ptr(), left);
        match format {
            Format::F16 => panels::<S, { Format::F16.number() }>(w, steps, a, sums),
            Format::Bf16 => panels::<S, { Format::Bf16.number() }>(w, steps, a, sums),
            _ => panels::<S, { Format::F32.number() }>(w, steps, a, sums),
        }
    }
    sums
}

/// Bias, activation and store of the outputs from `col` on, at most 16.
#[inline(always)]
unsafe fn finish<S: Simd>(
    p: &Product<'_>,
    col: usize,
    rows: Range<usize>,
    (sums, ups): (&[Pair<S>], &[Pair<S>]),
) {
    if col >= p.width {
        return;
    }
    let (n, half) = (TILE.min(p.width - col), col / TILE % 2);
    // What was rounded before is no better for an exact activation.
    let rough = matches!(p.weight.format(), Format::Bf16 | Format::Int8);
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
        let last = (rows.end - 1) * p.width + col;
        let mut out = p.out.start_of(rows.start * p.width + col..last + n);
        for (i, sum) in sums.iter().enumerate() {
            let v = S::add(sum[half], bias);
            let v = match p.epilogue.then {
                Then::Store => v,
                Then::Add => S::add(S::load_part(out, n), v),
                Then::GeluErf if rough => activation::gelu_rough::<S>(v),
                Then::GeluErf => activation::gelu_erf::<S>(v),
                Then::GeluTanh => activation::gelu_tanh::<S>(v),
                Then::Relu => S::max(zero, v),
                Then::Tanh => activation::tanh::<S>(v),
                gated => gate::<S>(gated, v, S::add(ups[i][half], up_bias)),
            };
            S::store_part(out, n, v);
            out = out.wrapping_add(p.width);
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
