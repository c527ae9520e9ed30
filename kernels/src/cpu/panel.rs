//! The product with plain values (F32, F16, BF16): the sums of a group of rows stay in registers while the weights pass.

use super::isa::Simd;
use crate::Format;

/// How far ahead the weights are asked for, bytes.
const AHEAD: usize = 8192;
/// Steps over K after which a panel's sums are added to the total: a shorter chain loses less.
const SEGMENT: usize = 256;

const F16: u8 = Format::F16.number();
const BF16: u8 = Format::Bf16.number();

/// Rows of the group that begins where `left` rows are left; `most` at most.
#[inline(always)]
pub(crate) fn group_rows(left: usize, most: usize) -> usize {
    let fits = |n: &usize| *n <= left && *n <= most;
    [12, 8, 6, 4, 3, 2].into_iter().find(fits).unwrap_or(1)
}

/// Rows with a pair. `w`: the pair's units, `steps` of them; `a`: the rows' groups; `left`: rows from the first to the last of
/// the product, which say how the rows are grouped.
#[inline(always)]
pub(crate) unsafe fn panels<S: Simd, const F: u8>(
    w: *const u8,
    steps: usize,
    (a, left): (*const u32, usize),
    sums: &mut [[S::F; 2]],
) {
    let mut row = 0;
    while row < sums.len() {
        let n = group_rows(left - row, S::ISA.panel().0);
        // SAFETY: as the caller promises, see `isa`; the groups before have `row` rows.
        unsafe {
            let a = a.add(row * steps * parts::<S, F>());
            let sums = &mut sums[row..];
            match n {
                12 => panel::<S, F, 12>(w, steps, a, sums),
                8 => panel::<S, F, 8>(w, steps, a, sums),
                6 => panel::<S, F, 6>(w, steps, a, sums),
                4 => panel::<S, F, 4>(w, steps, a, sums),
                3 => panel::<S, F, 3>(w, steps, a, sums),
                2 => panel::<S, F, 2>(w, steps, a, sums),
                _ => panel::<S, F, 1>(w, steps, a, sums),
            }
        }
        row += n;
    }
}

/// Calls the body for each row of `R`, with its number as a constant: a loop over registers would go through memory.
macro_rules! each_row {
    ($R:ident, $r:ident => $body:expr) => {
        each_row!(@ $R, $r, $body, 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $R:ident, $r:ident, $body:expr, $($n:literal)*) => {
        $(if $n < $R {
            const $r: usize = $n;
            $body
        })*
    };
}
pub(super) use each_row;

/// Dwords of a row's activations for a step.
const fn parts<S: Simd, const F: u8>() -> usize {
    if F == BF16 && !S::ISA.has_bf16() {
        2
    } else {
        1
    }
}

/// `R` rows with a pair, value by value (two by two for bf16), as many tiles at a time as there are registers for. `a`:
/// `[steps, R]` dwords, or `[steps, 2, R]` where bf16 are widened.
#[inline(always)]
unsafe fn panel<S: Simd, const F: u8, const R: usize>(
    w: *const u8,
    steps: usize,
    a: *const u32,
    sums: &mut [[S::F; 2]],
) {
    let (rows, tiles) = S::ISA.panel();
    if R > rows || R > sums.len() {
        return;
    }
    let parts = parts::<S, F>();
    if parts == 2 && R == 1 {
        // SAFETY: as the caller promises.
        return unsafe { one_row::<S>(w, steps, a, &mut sums[0]) };
    }
    let stride = if F == F16 { 64 } else { 128 };
    let sums = sums.as_mut_ptr();
    for tile in (0..2).step_by(tiles) {
        let w = w.wrapping_add(stride / 2 * tile);
        for first in (0..steps).step_by(SEGMENT) {
            // SAFETY: as the caller promises, see `isa`; `step < steps`, and there are `R` sums.
            unsafe {
                let last = steps.min(first + SEGMENT);
                // One after the other: both at once would be more than the registers hold.
                for part in 0..parts {
                    let mut c = [[S::splat(0.0); 2]; R];
                    for step in first..last {
                        let (w, a) = (w.add(step * stride), a.add((step * parts + part) * R));
                        if part == 0 {
                            S::prefetch(w.wrapping_add(AHEAD));
                            S::prefetch(w.wrapping_add(AHEAD + stride / 2));
                        }
                        if F == BF16 && parts == 1 {
                            each_row!(R, I => {
                                c[I][0] = S::dot2_bf16(c[I][0], w, *a.add(I));
                                if tiles == 2 {
                                    c[I][1] = S::dot2_bf16(c[I][1], w.add(64), *a.add(I));
                                }
                            });
                            continue;
                        }
                        let one = values::<S, F>(w, part);
                        // Where there is no room for a second tile nothing is done with it.
                        let two = if tiles == 2 {
                            values::<S, F>(w.add(stride / 2), part)
                        } else {
                            one
                        };
                        each_row!(R, I => {
                            let a = S::splat(f32::from_bits(*a.add(I)));
                            c[I][0] = S::fma(one, a, c[I][0]);
                            if tiles == 2 {
                                c[I][1] = S::fma(two, a, c[I][1]);
                            }
                        });
                    }
                    each_row!(R, I => {
                        let sum = &mut *sums.add(I);
                        sum[tile] = S::add(sum[tile], c[I][0]);
                        if tiles == 2 {
                            sum[1] = S::add(sum[1], c[I][1]);
                        }
                    });
                }
            }
        }
    }
}

/// One row with a pair of bf16 that are widened: as [`panel`], with the same bits, but both tiles and both halves at once. Memory takes the
/// time of a single row, and is asked for in order.
#[inline(always)]
unsafe fn one_row<S: Simd>(w: *const u8, steps: usize, a: *const u32, sum: &mut [S::F; 2]) {
    for first in (0..steps).step_by(SEGMENT) {
        // SAFETY: as the caller promises, see `isa`; `step < steps`.
        unsafe {
            let zero = S::splat(0.0);
            let (mut low, mut high) = ([zero; 2], [zero; 2]);
            for step in first..steps.min(first + SEGMENT) {
                let (w, a) = (w.add(step * 128), a.add(step * 2));
                let [even, odd] = [*a, *a.add(1)].map(|a| S::splat(f32::from_bits(a)));
                for t in 0..2 {
                    let w = w.add(64 * t);
                    S::prefetch(w.wrapping_add(AHEAD));
                    low[t] = S::fma(S::load_half(w, 0), even, low[t]);
                    high[t] = S::fma(S::load_half(w, 1), odd, high[t]);
                }
            }
            for t in 0..2 {
                sum[t] = S::add(S::add(sum[t], low[t]), high[t]);
            }
        }
    }
}

/// Sixteen weights, widened.
#[inline(always)]
unsafe fn values<S: Simd, const F: u8>(w: *const u8, part: usize) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        match F {
            F16 => S::load_f16(w.cast()),
            BF16 => S::load_half(w, part),
            _ => S::load(w.cast()),
        }
    }
}
