//! The bodies of [`crate::probe`].
//!
//! Invariant: nothing here can be computed beforehand, or once for several rounds or sums: each sum has an input of its own,
//! which is read anew in every round, and the results go through [`black_box`].

use super::isa::{Kernel, Simd};
use crate::{Isa, Probe};
use std::hint::black_box;

/// Independent sums: enough for every path's latency.
const SUMS: usize = 12;
/// Rounds of [`Compute`]: some hundred microseconds.
const ROUNDS: usize = 100_000;
/// Rounds of four-bit codes whose sums are short, at most.
const QUADS: usize = 8;

/// Reads all of it.
pub(crate) struct Read<'a>(pub(crate) &'a [f32]);

impl Kernel for Read<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let chunks = self.0.chunks_exact(8 * 16);
        let mut rest: f32 = chunks.remainder().iter().sum();
        // SAFETY: as the caller promises, see `isa`; 16 values lie at each place.
        unsafe {
            let mut sums = [S::splat(0.0); 8];
            for chunk in chunks {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::max(*sum, S::load(chunk.as_ptr().add(16 * i)));
                }
            }
            for sum in sums {
                rest += S::sum(sum);
            }
        }
        black_box(rest);
    }
}

/// Copies all of it.
pub(crate) struct Copy<'a> {
    pub(crate) from: &'a [f32],
    pub(crate) to: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut from = self.from.chunks_exact(16);
        let mut to = self.to.chunks_exact_mut(16);
        for (from, to) in from.by_ref().zip(to.by_ref()) {
            // SAFETY: as the caller promises, see `isa`; 16 values lie at each place.
            unsafe { S::store(to.as_mut_ptr(), S::load(from.as_ptr())) }
        }
        to.into_remainder().copy_from_slice(from.remainder());
    }
}

/// Sixty-four bytes that no two lines of the processor's cache share.
#[repr(align(64))]
struct Line([u8; 64]);

/// Multiplies and adds in registers, one side read from the nearest cache as products do.
pub(crate) struct Compute(pub(crate) Probe);

/// Sums that a path keeps in its registers, of those of [`SUMS`].
const fn sums(isa: Isa) -> usize {
    let (rows, tiles) = isa.panel();
    if rows * tiles < SUMS {
        rows * tiles
    } else {
        SUMS
    }
}

impl Compute {
    /// What one run does, in operations.
    pub(crate) fn operations(what: Probe, isa: Isa) -> usize {
        let each = match what {
            Probe::Bf16 => 4,
            Probe::Int8 => 8,
            _ => 2,
        };
        ROUNDS * sums(isa) * 16 * each
    }
}

impl Kernel for Compute {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: as the caller promises, see `isa`; 64 bytes lie at `bytes`.
        unsafe {
            let count = sums(S::ISA);
            let bytes = black_box(Line([0; 64]));
            let (values, words) = ([0.5_f32; SUMS], [0x0101_0101_i32; SUMS]);
            if self.0 == Probe::Int8 {
                let weights = S::load_bytes(bytes.0.as_ptr());
                // Of codes of four bits: as many as fit the shortest sums.
                let mut all = [S::isplat(0); SUMS];
                for _ in 0..ROUNDS / QUADS {
                    let mut short = [S::short(S::isplat(0)); SUMS];
                    for _ in 0..QUADS {
                        let words = black_box(&words);
                        for (sum, word) in short.iter_mut().zip(words).take(count) {
                            *sum = S::dot4_codes(*sum, weights, *word);
                        }
                    }
                    for (sum, short) in all.iter_mut().zip(short) {
                        *sum = S::long(*sum, short);
                    }
                }
                for sum in all {
                    black_box(S::sum(S::to_f32(sum)));
                }
                return;
            }
            let mut all = [S::splat(1.0); SUMS];
            let b = S::splat(black_box(0.5));
            for _ in 0..ROUNDS {
                let (values, words) = (black_box(&values), black_box(&words));
                let inputs = values.iter().zip(words);
                for (sum, (value, word)) in all.iter_mut().zip(inputs).take(count) {
                    *sum = if self.0 == Probe::Bf16 {
                        S::dot2_bf16(*sum, bytes.0.as_ptr(), *word as u32)
                    } else {
                        S::fma(S::splat(*value), b, *sum)
                    };
                }
            }
            for sum in all {
                black_box(S::sum(sum));
            }
        }
    }
}
