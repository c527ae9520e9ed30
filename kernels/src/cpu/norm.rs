//! Row normalisations: a row's sums run over four accumulators of sixteen lanes, in the order of its columns.

use super::isa::{Kernel, Simd};

/// `sum + (v - mean)`, or the square of the distance.
#[inline(always)]
unsafe fn add_up<S: Simd, const SQUARED: bool>(sum: S::F, v: S::F, mean: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let d = S::sub(v, mean);
        if SQUARED {
            S::fma(d, d, sum)
        } else {
            S::add(sum, d)
        }
    }
}

/// The sum over a row of its values' distances from `mean`, or of their squares.
#[inline(always)]
unsafe fn row_sum<S: Simd, const SQUARED: bool>(row: &[f32], mean: f32) -> f32 {
    // SAFETY: as the caller promises, see `isa`; every pointer stays inside `row`.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let shift = S::splat(mean);
        let (p, mut at) = (row.as_ptr(), 0);
        while at + 64 <= row.len() {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = add_up::<S, SQUARED>(*sum, S::load(p.add(at + 16 * i)), shift);
            }
            at += 64;
        }
        while at + 16 <= row.len() {
            sums[0] = add_up::<S, SQUARED>(sums[0], S::load(p.add(at)), shift);
            at += 16;
        }
        let all = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
        // The last few one by one: absent lanes must not count as values.
        let mut tail = 0.0;
        for v in &row[at..] {
            tail += if SQUARED {
                (v - mean) * (v - mean)
            } else {
                v - mean
            };
        }
        S::sum(all) + tail
    }
}

/// `out = x * scale * weight`, or `(x - mean) * scale * weight + bias`, over one row; with `ADD` added to `out`.
#[inline(always)]
unsafe fn apply<S: Simd, const ADD: bool>(x: *const f32, out: *mut f32, norm: &Affine<'_>) {
    // SAFETY: as the caller promises, see `isa`; `x` and `out` have the length of `weight`.
    unsafe {
        let (mean, scale) = (S::splat(norm.mean), S::splat(norm.scale));
        let n = norm.weight.len();
        let (weight, bias) = (norm.weight.as_ptr(), norm.bias.map(<[f32]>::as_ptr));
        let mut at = 0;
        while at < n {
            let lanes = 16.min(n - at);
            let v = S::load_part(x.add(at), lanes);
            let v = S::mul(S::sub(v, mean), scale);
            let w = S::load_part(weight.add(at), lanes);
            let v = match bias {
                Some(bias) => S::fma(v, w, S::load_part(bias.add(at), lanes)),
                None => S::mul(v, w),
            };
            let v = if ADD {
                S::add(S::load_part(out.add(at), lanes), v)
            } else {
                v
            };
            S::store_part(out.add(at), lanes, v);
            at += 16;
        }
    }
}

struct Affine<'a> {
    mean: f32,
    scale: f32,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
}

/// RMS norm of some rows, with `ADD` added to `out`. `x`, `out`: `[rows, weight.len()]`.
pub(crate) struct Rms<'a, const ADD: bool> {
    pub(crate) x: &'a [f32],
    pub(crate) out: &'a mut [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
}

impl<const ADD: bool> Kernel for Rms<'_, ADD> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.weight.len();
        for (x, out) in self.x.chunks_exact(n).zip(self.out.chunks_exact_mut(n)) {
            // SAFETY: as the caller promises, see `isa`; both rows have `n` values.
            unsafe {
                let mean = row_sum::<S, true>(x, 0.0) / n as f32;
                let norm = Affine {
                    mean: 0.0,
                    scale: 1.0 / (mean + self.eps).sqrt(),
                    weight: self.weight,
                    bias: None,
                };
                apply::<S, ADD>(x.as_ptr(), out.as_mut_ptr(), &norm);
            }
        }
    }
}

/// RMS norm of some rows in place. `x`: `[rows, weight.len()]`.
pub(crate) struct RmsInPlace<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
}

impl Kernel for RmsInPlace<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.weight.len();
        for head in self.x.chunks_exact_mut(n) {
            // SAFETY: as the caller promises, see `isa`; the head has `n` values.
            unsafe {
                let mean = row_sum::<S, true>(head, 0.0) / n as f32;
                let norm = Affine {
                    mean: 0.0,
                    scale: 1.0 / (mean + self.eps).sqrt(),
                    weight: self.weight,
                    bias: None,
                };
                let head = head.as_mut_ptr();
                apply::<S, false>(head, head, &norm);
            }
        }
    }
}

/// Layer norm of some rows in place. `x`: `[rows, weight.len()]`.
pub(crate) struct Layer<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) eps: f32,
}

impl Kernel for Layer<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.weight.len();
        for x in self.x.chunks_exact_mut(n) {
            // SAFETY: as the caller promises, see `isa`; the row has `n` values.
            unsafe {
                let mean = row_sum::<S, false>(x, 0.0) / n as f32;
                let var = row_sum::<S, true>(x, mean) / n as f32;
                let norm = Affine {
                    mean,
                    scale: 1.0 / (var + self.eps).sqrt(),
                    weight: self.weight,
                    bias: Some(self.bias),
                };
                apply::<S, false>(x.as_ptr(), x.as_mut_ptr(), &norm);
            }
        }
    }
}
