//! The product with block formats: one inner loop, shaped at compile time by what a format is made of (`cpu::codes`).
//!
//! The weights of a block stay in registers, or in the first-level cache, while up to 72 rows pass by; their sums wait in that
//! cache. A block is an integer dot product for each scale, whose result is scaled and added to the sum: in the order of the
//! columns, whatever the rows beside it.

use super::codes::{BLOCK, Codes, Head, Subs, Value};
use super::isa::Simd;
use super::pack::{PAIR, TILE};
use super::panel::each_row;
use super::quantize::block_dwords;
use crate::Format;
use std::ops::Range;

/// How far ahead the weights are asked for, bytes.
const AHEAD: usize = 8192;

/// A value of each of the 32 outputs of a pair.
type Pair<S> = [<S as Simd>::F; 2];

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
    for _ in 0..blocks / codes.blocks {
        // SAFETY: as the caller promises, see `isa`; a unit of the pair is at `w`, its blocks of the activations at `a`.
        unsafe {
            let heads = heads::<S>(codes, w);
            let head_bytes = codes.head.bytes() * codes.heads() * PAIR;
            fetch::<S>(w, head_bytes);
            w = w.add(head_bytes);
            for _ in 0..codes.blocks {
                let (subs, tile) = (codes.sub_bytes() * PAIR, 4 * codes.bits * TILE);
                fetch::<S>(w, subs + 2 * tile);
                let (scales, minimums) = scales::<S>(codes, heads, w);
                w = w.add(subs);
                let weights = [load::<S>(codes, w), load::<S>(codes, w.add(tile))];
                if const { several::<S>() } && sums.len() == 1 {
                    // Apart from the others, so that the weights need not wait in memory for them.
                    rows::<S, 1>(codes, &weights, (scales, minimums), a, sums);
                } else {
                    block::<S>(codes, weights, (scales, minimums), a, sums);
                }
                w = w.add(2 * tile);
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

/// Whether a path takes several rows at a time. Asked where it is known at compile time: what no path calls is not made.
pub(super) const fn several<S: Simd>() -> bool {
    S::ISA.block().0 > 1
}

/// How many rows pass a block at a time where `left` are left: 4, 2 or 1.
#[inline(always)]
pub(super) fn rows_of_block<S: Simd>(left: usize) -> usize {
    match left.min(const { S::ISA.block().0 }) {
        4.. => 4,
        2 | 3 => 2,
        _ => 1,
    }
}

/// One block with the rows whose first is at `a`.
#[inline(always)]
unsafe fn block<S: Simd>(
    codes: Codes,
    weights: [[S::B; 8]; 2],
    scales: ([Pair<S>; 2], [Pair<S>; 2]),
    mut a: *const u32,
    mut sums: &mut [Pair<S>],
) {
    while !sums.is_empty() {
        let n = rows_of_block::<S>(sums.len());
        let (these, rest) = sums.split_at_mut(n);
        // SAFETY: as the caller promises, see `isa`; a row's block is at `a` for each of the sums.
        unsafe {
            match n {
                4 if const { several::<S>() } => rows::<S, 4>(codes, &weights, scales, a, these),
                2 if const { several::<S>() } => rows::<S, 2>(codes, &weights, scales, a, these),
                _ => rows::<S, 1>(codes, &weights, scales, a, these),
            }
            a = a.add(n * block_dwords(codes));
        }
        sums = rest;
    }
}

/// One block with `R` rows, as many tiles at a time as a path has registers for.
#[inline(always)]
unsafe fn rows<S: Simd, const R: usize>(
    codes: Codes,
    weights: &[[S::B; 8]; 2],
    (scales, minimums): ([Pair<S>; 2], [Pair<S>; 2]),
    a: *const u32,
    sums: &mut [Pair<S>],
) {
    let (most_rows, tiles) = const { S::ISA.block() };
    if R > most_rows || R > sums.len() {
        return;
    }
    let (groups, size) = (codes.groups(), block_dwords(codes));
    let minimum = matches!(codes.value, Value::Min);
    let (sums, mut tile) = (sums.as_mut_ptr(), 0);
    while tile < 2 {
        for g in 0..groups {
            // SAFETY: as the caller promises, see `isa`; `R` rows' blocks are at `a`, one behind the other, and there are `R` sums.
            unsafe {
                let mut i = [[S::isplat(0); 2]; R];
                if !minimum {
                    each_row!(R, I => i[I] = [S::isplat(*a.add(I * size + 8 + g) as i32); 2]);
                }
                let quads = 8 / groups * g..8 / groups * (g + 1);
                dots::<S, R>(codes.most(), (weights, tile), quads, (a, size), &mut i);
                each_row!(R, I => {
                    let a = a.add(I * size + 8);
                    let (scale, sum) = (S::splat(f32::from_bits(*a.add(groups))), &mut *sums.add(I));
                    for t in tile..tile + tiles {
                        let mut v = S::fma(S::to_f32(i[I][t - tile]), S::mul(scales[g][t], scale), sum[t]);
                        if minimum {
                            let correction = S::splat(f32::from_bits(*a.add(g)));
                            v = S::fma(minimums[g][t], correction, v);
                        }
                        sum[t] = v;
                    }
                });
            }
        }
        tile += tiles;
    }
}

/// Adds the products of some fours of a block's columns to the sums of `R` rows: of the tiles from `tile` on, as many as a path does
/// at a time. `most`: the largest code, none for signed bytes. `a`: the first row's columns, and the dwords from row to row.
#[inline(always)]
pub(super) unsafe fn dots<S: Simd, const R: usize>(
    most: Option<usize>,
    (weights, tile): (&[[S::B; 8]; 2], usize),
    quads: Range<usize>,
    (a, size): (*const u32, usize),
    sums: &mut [[S::I; 2]; R],
) {
    let two = const { S::ISA.block().1 == 2 };
    let (mut j, end) = (quads.start, quads.end);
    // SAFETY: as the caller promises, see `isa`; a row's 8 dwords are at `a`.
    unsafe {
        let Some(most) = most else {
            while j < end {
                each_row!(R, I => {
                    let q = *a.add(I * size + j) as i32;
                    sums[I][0] = S::dot4_bytes(sums[I][0], weights[tile][j], q);
                    if two {
                        sums[I][1] = S::dot4_bytes(sums[I][1], weights[1][j], q);
                    }
                });
                j = next::<S, R>(j);
            }
            return;
        };
        while j < end {
            let part = end.min(j + S::ISA.short_quads(most));
            let mut short = [[S::short(sums[0][0]); 2]; R];
            each_row!(R, I => short[I] = [S::short(sums[I][0]), S::short(sums[I][1])]);
            while j < part {
                each_row!(R, I => {
                    let q = *a.add(I * size + j) as i32;
                    short[I][0] = S::dot4_codes(short[I][0], weights[tile][j], q);
                    if two {
                        short[I][1] = S::dot4_codes(short[I][1], weights[1][j], q);
                    }
                });
                j = next::<S, R>(j);
            }
            each_row!(R, I => {
                sums[I] = [S::long(sums[I][0], short[I][0]), S::long(sums[I][1], short[I][1])];
            });
        }
    }
}

/// The number after `j`: of a loop that is unrolled for one row, whose weights are in registers then, and not for several.
#[inline(always)]
fn next<S: Simd, const R: usize>(j: usize) -> usize {
    if R == 1 { j + 1 } else { S::rolled(j + 1) }
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

/// Scales and minimums of a block's halves (of the whole block twice if they share them); its subs are at `w`.
#[inline(always)]
unsafe fn scales<S: Simd>(
    codes: Codes,
    [scale, minimum]: [Pair<S>; 2],
    w: *const u8,
) -> ([Pair<S>; 2], [Pair<S>; 2]) {
    let (mut scales, mut minimums) = ([scale; 2], [minimum; 2]);
    // SAFETY: as the caller promises, see `isa`; the two bytes of the subs are 32 bytes apart.
    unsafe {
        for t in 0..2 {
            let minus = S::sub(S::splat(0.0), minimum[t]);
            let at = [w.add(t * TILE), w.add(PAIR + t * TILE)];
            match codes.subs {
                Subs::None => {}
                Subs::Scales => {
                    for g in 0..2 {
                        scales[g][t] = S::mul(scale[t], S::to_f32(S::load_i8(at[g])));
                    }
                }
                Subs::ScaleMin => {
                    let scale = S::mul(scale[t], S::to_f32(S::load_u8(at[0])));
                    let minimum = S::mul(minus, S::to_f32(S::load_u8(at[1])));
                    for g in 0..2 {
                        (scales[g][t], minimums[g][t]) = (scale, minimum);
                    }
                }
                Subs::Nibbles => {
                    for g in 0..2 {
                        let [low, high] = S::halves(S::load_u8(at[g]));
                        scales[g][t] = S::mul(scale[t], S::to_f32(low));
                        minimums[g][t] = S::mul(minus, S::to_f32(high));
                    }
                }
            }
        }
    }
    (scales, minimums)
}

/// The 8 groups of 4 codes of a block, for 16 outputs, out of their planes. Written out: a loop over them was not unrolled, and
/// then shifts by what it does not know and goes through memory.
#[inline(always)]
unsafe fn load<S: Simd>(codes: Codes, p: *const u8) -> [S::B; 8] {
    const { assert!(BLOCK == 32, "8 groups of 4") };
    // SAFETY: as the caller promises, see `isa`: as many lines as a code has bits.
    unsafe {
        [
            group::<S>(codes, p, 0),
            group::<S>(codes, p, 1),
            group::<S>(codes, p, 2),
            group::<S>(codes, p, 3),
            group::<S>(codes, p, 4),
            group::<S>(codes, p, 5),
            group::<S>(codes, p, 6),
            group::<S>(codes, p, 7),
        ]
    }
}

/// Group `j` of the codes at `p`.
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
