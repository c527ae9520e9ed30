//! Rotation of head vectors.

use super::isa::{Kernel, Simd};

/// Rotates every head of one row. `heads`: `[heads, dim]`; `cos`, `sin`: `[half]`, `2 * half <= dim`.
pub(crate) struct Rotate<'a> {
    pub(crate) heads: &'a mut [f32],
    pub(crate) dim: usize,
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
    pub(crate) interleaved: bool,
}

impl Kernel for Rotate<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let half = self.cos.len().min(self.sin.len());
        for head in self.heads.chunks_exact_mut(self.dim) {
            if self.interleaved {
                for (pair, (c, s)) in head.chunks_exact_mut(2).zip(self.cos.iter().zip(self.sin)) {
                    let (x, y) = (pair[0], pair[1]);
                    pair[0] = x * c - y * s;
                    pair[1] = y * c + x * s;
                }
                continue;
            }
            let (low, high) = head[..2 * half].split_at_mut(half);
            let (low, high) = (low.as_mut_ptr(), high.as_mut_ptr());
            for at in (0..half).step_by(16) {
                let n = 16.min(half - at);
                // SAFETY: as the caller promises, see `isa`; `at + n <= half`, the length of all four.
                unsafe {
                    let (x, y) = (S::load_part(low.add(at), n), S::load_part(high.add(at), n));
                    let c = S::load_part(self.cos.as_ptr().add(at), n);
                    let s = S::load_part(self.sin.as_ptr().add(at), n);
                    let minus = S::sub(S::splat(0.0), s);
                    S::store_part(low.add(at), n, S::fma(x, c, S::mul(y, minus)));
                    S::store_part(high.add(at), n, S::fma(y, c, S::mul(x, s)));
                }
            }
        }
    }
}
