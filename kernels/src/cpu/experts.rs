//! Picking experts, and adding up what they answer.

use super::activation;
use super::isa::{Kernel, Simd};

/// Softmax and the `top_k` largest of some rows. `rows`: `[tokens, experts]`; `chosen`, `weights`: `[tokens, top_k]`.
pub(crate) struct Route<'a> {
    pub(crate) rows: &'a mut [f32],
    pub(crate) experts: usize,
    pub(crate) chosen: &'a mut [u32],
    pub(crate) weights: &'a mut [f32],
    pub(crate) top_k: usize,
    pub(crate) renormalise: bool,
}

impl Kernel for Route<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.rows.chunks_exact_mut(self.experts);
        let chosen = self.chosen.chunks_exact_mut(self.top_k);
        let weights = self.weights.chunks_exact_mut(self.top_k);
        for (row, (chosen, weights)) in rows.zip(chosen.zip(weights)) {
            // SAFETY: as the caller promises, see `isa`.
            unsafe { softmax::<S>(row) };
            pick(row, chosen, weights);
            if self.renormalise {
                let sum: f32 = weights.iter().sum();
                for weight in weights {
                    *weight /= sum;
                }
            }
        }
    }
}

/// Softmax in place; a row with a NaN or an infinity turns into NaN.
#[inline(always)]
unsafe fn softmax<S: Simd>(row: &mut [f32]) {
    let larger = |m: f32, v: &f32| if *v > m { *v } else { m };
    let max = row.iter().fold(f32::NEG_INFINITY, larger);
    for part in row.chunks_mut(16) {
        let (p, n) = (part.as_mut_ptr(), part.len());
        // SAFETY: as the caller promises, see `isa`; the part has `n <= 16` values.
        unsafe {
            let v = S::sub(S::load_part(p, n), S::splat(max));
            S::store_part(p, n, activation::exp::<S>(v));
        }
    }
    let sum: f32 = row.iter().sum();
    for v in row {
        *v /= sum;
    }
}

/// The largest values of a row and their places, in falling order; of equal values the first ones. A NaN counts as larger
/// than any number, so that as many different places as asked for are found in every row.
#[inline(always)]
fn pick(row: &[f32], chosen: &mut [u32], weights: &mut [f32]) {
    // The bits of values from 0 on are in the order of the values; lower places are larger.
    let key = |(i, v): (usize, &f32)| u64::from(v.to_bits() << 1) << 31 | u64::from(!(i as u32));
    let mut last = u64::MAX;
    for (chosen, weight) in chosen.iter_mut().zip(weights) {
        let left = row.iter().enumerate().map(key).filter(|k| *k < last);
        last = left.max().unwrap_or(0);
        *chosen = !(last as u32);
        *weight = row[*chosen as usize];
    }
}

/// `sum of weights[i] * row places[i] of x`, in that order, stored or added. `x`: `[rows, out.len()]`.
pub(crate) struct Combine<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) places: &'a [usize],
    pub(crate) weights: &'a [f32],
    pub(crate) add: bool,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.out.len();
        for at in (0..width).step_by(16) {
            let n = 16.min(width - at);
            // SAFETY: as the caller promises, see `isa`; `at + n <= width`, and the slices are checked.
            unsafe {
                let mut sum = S::splat(0.0);
                for (place, weight) in self.places.iter().zip(self.weights) {
                    let x = &self.x[place * width + at..place * width + at + n];
                    sum = S::fma(S::load_part(x.as_ptr(), n), S::splat(*weight), sum);
                }
                let out = self.out[at..at + n].as_mut_ptr();
                if self.add {
                    sum = S::add(S::load_part(out, n), sum);
                }
                S::store_part(out, n, sum);
            }
        }
    }
}
