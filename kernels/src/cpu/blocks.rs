//! The product with block formats: shaped at compile time by what a format is made of (`cpu::codes`).
//!
//! While the weights of a block are at hand up to 72 rows pass by (`cpu::integers`); their sums wait in the first-level cache. A block is
//! an integer dot product for each scale, whose result is scaled and added to the sum: in the order of the columns, whatever the
//! rows beside it.

use super::codes::{Codes, Head, Subs, Value};
use super::integers::{self, Block, Pair};
use super::isa::Simd;
use super::pack::{PAIR, TILE};
use super::quantize::block_dwords;
use crate::Format;

/// How far ahead the weights are asked for, bytes.
const AHEAD: usize = 8192;

/// The family of format number `F`.
struct Of<const F: u8>;

impl<const F: u8> Of<F> {
    const CODES: Codes = match Codes::of(Format::ALL[F as usize]) {
        Some(codes) => codes,
        None => panic!("only block formats are multiplied block by block"),
    };
}

/// Rows with a pair. `w`: the pair's units; `a`: the first row's first block, and the dwords from block to block.
#[inline(always)]
pub(crate) unsafe fn blocks<S: Simd, const F: u8>(
    mut w: *const u8,
    blocks: usize,
    (mut a, stride): (*const u32, usize),
    sums: &mut [Pair<S>],
) {
    let codes = const { Of::<F>::CODES };
    let bytes = codes.sub_bytes() * PAIR + 2 * tile_bytes(codes);
    for _ in 0..blocks / codes.blocks {
        // SAFETY: as the caller promises, see `isa`; a unit of the pair is at `w`, its blocks of the activations at `a`.
        unsafe {
            let heads = heads::<S>(codes, w);
            let head_bytes = codes.head.bytes() * codes.heads() * PAIR;
            fetch::<S>(w, head_bytes);
            w = w.add(head_bytes);
            for _ in 0..codes.blocks {
                fetch::<S>(w, bytes);
                let block = Planes::<S, F> {
                    heads: &heads,
                    at: w,
                };
                integers::multiply(&block, a, sums);
                w = w.add(bytes);
                a = a.add(stride);
            }
        }
    }
}

#[inline(always)]
unsafe fn fetch<S: Simd>(w: *const u8, bytes: usize) {
    for line in 0..bytes / 64 {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { S::prefetch(w.wrapping_add(AHEAD + 64 * line)) };
    }
}

/// Bytes of a block's codes of 16 outputs.
const fn tile_bytes(codes: Codes) -> usize {
    4 * codes.bits * TILE
}

/// A block of format number `F`: its unit's heads, and where its subs are.
struct Planes<'a, S: Simd, const F: u8> {
    heads: &'a [Pair<S>; 2],
    at: *const u8,
}

/// Scales and minimums of the halves of a block's columns, or of the whole block twice.
type Scales<S> = ([<S as Simd>::F; 2], [<S as Simd>::F; 2]);

impl<S: Simd, const F: u8> Block<S> for Planes<'_, S, F> {
    type Scales = Scales<S>;

    #[inline(always)]
    fn parts(&self) -> usize {
        const { Of::<F>::CODES.groups() }
    }
    #[inline(always)]
    fn most(&self) -> Option<usize> {
        const { Of::<F>::CODES.most() }
    }
    #[inline(always)]
    fn dwords(&self) -> usize {
        const { block_dwords(Of::<F>::CODES) }
    }
    #[inline(always)]
    unsafe fn quad(&self, tile: usize, quad: usize) -> S::B {
        let codes = const { Of::<F>::CODES };
        let at = codes.sub_bytes() * PAIR + tile * tile_bytes(codes);
        // SAFETY: as the caller promises, see `Block`.
        unsafe { group::<S>(codes, self.at.add(at), quad) }
    }
    #[inline(always)]
    unsafe fn scales(&self, tile: usize) -> Self::Scales {
        let (codes, [scale, minimum]) = (const { Of::<F>::CODES }, self.heads);
        // SAFETY: as the caller promises, see `Block`.
        unsafe {
            scales::<S>(
                codes,
                (scale[tile], minimum[tile]),
                self.at.add(tile * TILE),
            )
        }
    }
    #[inline(always)]
    unsafe fn first(&self, part: usize, a: *const u32) -> i32 {
        match const { Of::<F>::CODES.value } {
            Value::Min => 0,
            // SAFETY: as the caller promises, see `Block`: the corrections come behind the 8 dwords of codes.
            _ => unsafe { *a.add(8 + part) as i32 },
        }
    }
    #[inline(always)]
    unsafe fn add(
        &self,
        (scales, minimums): &Scales<S>,
        part: usize,
        products: S::I,
        a: *const u32,
        sum: S::F,
    ) -> S::F {
        let codes = const { Of::<F>::CODES };
        // SAFETY: as the caller promises, see `Block`: the corrections come behind the codes, then the scale.
        unsafe {
            let a = a.add(8);
            let scale = S::splat(f32::from_bits(*a.add(codes.groups())));
            let sum = S::fma(S::to_f32(products), S::mul(scales[part], scale), sum);
            if matches!(codes.value, Value::Min) {
                S::fma(minimums[part], S::splat(f32::from_bits(*a.add(part))), sum)
            } else {
                sum
            }
        }
    }
}

/// The heads of a unit: scales, minimums (or scales again).
#[inline(always)]
unsafe fn heads<S: Simd>(codes: Codes, w: *const u8) -> [Pair<S>; 2] {
    let (head, size) = (codes.head.bytes() * PAIR, codes.head.bytes() * TILE);
    let second = head * (codes.heads() - 1);
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        [
            [
                load_head::<S>(codes.head, w),
                load_head::<S>(codes.head, w.add(size)),
            ],
            [
                load_head::<S>(codes.head, w.add(second)),
                load_head::<S>(codes.head, w.add(second + size)),
            ],
        ]
    }
}

#[inline(always)]
unsafe fn load_head<S: Simd>(head: Head, p: *const u8) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        match head {
            Head::F16 => S::load_f16(p.cast()),
            Head::Bf16 => S::load_bf16(p.cast()),
            Head::F32 => S::load(p.cast()),
        }
    }
}

/// Scales and minimums of 16 outputs: their heads', and their subs' at `w`, the two bytes of which are 32 bytes apart.
#[inline(always)]
unsafe fn scales<S: Simd>(codes: Codes, (scale, minimum): (S::F, S::F), w: *const u8) -> Scales<S> {
    let (mut scales, mut minimums) = ([scale; 2], [minimum; 2]);
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let minus = S::sub(S::splat(0.0), minimum);
        let at = [w, w.add(PAIR)];
        match codes.subs {
            Subs::None => {}
            Subs::Scales => {
                for g in 0..2 {
                    scales[g] = S::mul(scale, S::to_f32(S::load_i8(at[g])));
                }
            }
            Subs::ScaleMin => {
                scales = [S::mul(scale, S::to_f32(S::load_u8(at[0]))); 2];
                minimums = [S::mul(minus, S::to_f32(S::load_u8(at[1]))); 2];
            }
            Subs::Nibbles => {
                for g in 0..2 {
                    let [low, high] = S::halves(S::load_u8(at[g]));
                    scales[g] = S::mul(scale, S::to_f32(low));
                    minimums[g] = S::mul(minus, S::to_f32(high));
                }
            }
        }
    }
    (scales, minimums)
}

/// Of the planes of a block's 32 codes at `p`, for 16 outputs: group `j` of 4.
#[inline(always)]
unsafe fn group<S: Simd>(codes: Codes, p: *const u8, j: usize) -> S::B {
    let (low, high) = (codes.low_bits(), codes.bits - codes.low_bits());
    // SAFETY: as the caller promises, see `isa`: as many lines as a code has bits.
    unsafe {
        let mut w = S::load_bytes(p.add(64 * (j % low)));
        if low < 8 {
            w = S::bits(w, low * (j / low), 0, (1 << low) - 1);
        }
        if high > 0 {
            let line = S::load_bytes(p.add(64 * (low + j % high)));
            let bits = S::bits(line, high * (j / high), low, (1 << high) - 1);
            w = S::or(w, bits);
        }
        match codes.value {
            Value::Table(table) => S::lookup(table, w),
            Value::Signed | Value::Minus(_) | Value::Min => w,
        }
    }
}
