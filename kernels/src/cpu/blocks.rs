//! The product with block formats: one inner loop, shaped at compile time by what a format is made of (`cpu::codes`).
//!
//! The weights of a block stay in registers while up to 48 rows pass by; their sums wait in the first-level cache. A block
//! is an integer dot product for each scale, whose result is scaled and added to the sum: in the order of the columns,
//! whatever the rows beside it.

use super::codes::{BLOCK, Codes, Head, Subs, Value};
use super::isa::Simd;
use super::pack::{PAIR, TILE};
use super::quantize::block_dwords;
use crate::Format;

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
                block::<S>(codes, weights, (scales, minimums), a, sums);
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

/// One block with the rows whose first is at `a`.
#[inline(always)]
unsafe fn block<S: Simd>(
    codes: Codes,
    weights: [[S::B; 8]; 2],
    (scales, minimums): ([Pair<S>; 2], [Pair<S>; 2]),
    mut a: *const u32,
    sums: &mut [Pair<S>],
) {
    let groups = codes.groups();
    let signed = matches!(codes.value, Value::Signed | Value::Table(_));
    let minimum = matches!(codes.value, Value::Min);
    for sum in sums.iter_mut() {
        // SAFETY: as the caller promises, see `isa`; a row's block is at `a`.
        unsafe {
            let scale = S::splat(f32::from_bits(*a.add(8 + groups)));
            for g in 0..groups {
                let correction = *a.add(8 + g);
                let start = if minimum { 0 } else { correction as i32 };
                let mut i = [S::isplat(start); 2];
                for j in 0..8 / groups {
                    let j = 8 / groups * g + j;
                    let q = *a.add(j) as i32;
                    for t in 0..2 {
                        i[t] = if signed {
                            S::dot4_bytes(i[t], weights[t][j], q)
                        } else {
                            S::dot4_codes(i[t], weights[t][j], q)
                        };
                    }
                }
                for t in 0..2 {
                    sum[t] = S::fma(S::to_f32(i[t]), S::mul(scales[g][t], scale), sum[t]);
                    if minimum {
                        let correction = S::splat(f32::from_bits(correction));
                        sum[t] = S::fma(minimums[g][t], correction, sum[t]);
                    }
                }
            }
            a = a.add(block_dwords(codes));
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
