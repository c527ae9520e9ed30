//! The product with plain values (F32, F16, BF16): the sums of a group of rows stay in registers while the weights pass.

use super::isa::Simd;
use crate::Format;

/// How far ahead the weights are asked for, bytes.
const AHEAD: usize = 8192;
/// Steps over K after which a panel's sums are added to the total: a shorter chain loses less.
const SEGMENT: usize = 256;

const F32: u8 = Format::F32.number();
const F16: u8 = Format::F16.number();
const BF16: u8 = Format::Bf16.number();

/// Rows of the group that begins where `left` rows are left.
#[inline(always)]
pub(crate) fn group_rows<S: Simd>(left: usize) -> usize {
    let fits = |n: &usize| *n <= left && *n <= S::ROWS;
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
        let n = group_rows::<S>(left - row);
        // SAFETY: as the caller promises, see `isa`; the group is at `row * steps`.
        unsafe {
            let a = a.add(row * steps);
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
                for line in (0..stride).step_by(64) {
                    S::prefetch(w.wrapping_add(AHEAD + line));
                }
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
