//! Products of a block: 32 columns of integer codes, for the 32 outputs of a pair and some rows of activations.
//!
//! A path with registers for all weights of a block takes both tiles of sixteen outputs apart once, and one row after the other passes
//! them. With fewer registers it is a tile at a time: a single row meets each four of codes as they are taken apart; of more rows
//! four pass at a time, and the codes that were taken apart wait in the first-level cache.
//!
//! Invariant: a row's sums are the same whatever passes beside it. Integers are summed exactly, floats block by block.

use super::codes::BLOCK;
use super::isa::Simd;
use std::ops::Range;

/// A value of each of the 32 outputs of a pair.
pub(super) type Pair<S> = [<S as Simd>::F; 2];
/// Fours of columns in a block.
const QUADS: usize = BLOCK / 4;

/// A packed block. Safety, for all of its functions: as of [`super::isa`]; the block's lines are there, and the activations of a row's
/// block are at `a`: a dword for each four of columns first.
pub(super) trait Block<S: Simd> {
    /// What belongs to a tile of sixteen outputs.
    type Scales: Copy;

    /// Parts of the columns that are summed and scaled apart: 1, or 2 halves.
    fn parts(&self) -> usize;
    /// The largest code; none for signed bytes, stored plus [`Simd::BYTE_BIAS`].
    fn most(&self) -> Option<usize>;
    /// Dwords from a row's activations to the next one's.
    fn dwords(&self) -> usize;
    /// The codes of four columns, for each output of a tile.
    unsafe fn quad(&self, tile: usize, quad: usize) -> S::B;
    unsafe fn scales(&self, tile: usize) -> Self::Scales;
    /// What the sum of a part begins with.
    unsafe fn first(&self, part: usize, a: *const u32) -> i32;
    /// `sum` and a part's products, scaled.
    unsafe fn add(
        &self,
        scales: &Self::Scales,
        part: usize,
        products: S::I,
        a: *const u32,
        sum: S::F,
    ) -> S::F;
}

/// Adds the products of a block with the rows whose first is at `a` to their sums.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, B: Block<S>>(
    block: &B,
    a: *const u32,
    sums: &mut [Pair<S>],
) {
    let size = block.dwords();
    let all = sums.as_mut_ptr();
    // SAFETY: as the caller promises, see `isa` and `Block`; each row that is asked for has a sum.
    unsafe {
        if const { S::ISA.holds_block() } {
            let weights = Loaded::<S, 2>([load(block, 0), load(block, 1)]);
            let scales = [block.scales(0), block.scales(1)];
            for row in 0..sums.len() {
                let (a, sum) = (a.add(row * size), all.add(row));
                rows::<S, B, _, 1, 2>(block, &weights, (&scales, 0), a, sum);
            }
            return;
        }
        for tile in 0..2 {
            let own = [block.scales(tile)];
            let scales = (&own, tile);
            if sums.len() == 1 {
                rows::<S, B, _, 1, 1>(block, &Packed(block, tile), scales, a, all);
                continue;
            }
            let weights = Loaded::<S, 1>([load(block, tile)]);
            let mut row = 0;
            while row < sums.len() {
                let (a, these) = (a.add(row * size), all.add(row));
                row += match sums.len() - row {
                    4.. => {
                        rows::<S, B, _, 4, 1>(block, &weights, scales, a, these);
                        4
                    }
                    2 | 3 => {
                        rows::<S, B, _, 2, 1>(block, &weights, scales, a, these);
                        2
                    }
                    _ => {
                        rows::<S, B, _, 1, 1>(block, &weights, scales, a, these);
                        1
                    }
                };
            }
        }
    }
}

/// Where the codes of a tile are while rows pass.
trait Weights<S: Simd> {
    unsafe fn quad(&self, tile: usize, quad: usize) -> S::B;
}

/// Those of `T` tiles, taken apart.
struct Loaded<S: Simd, const T: usize>([[S::B; QUADS]; T]);

impl<S: Simd, const T: usize> Weights<S> for Loaded<S, T> {
    #[inline(always)]
    unsafe fn quad(&self, tile: usize, quad: usize) -> S::B {
        self.0[tile][quad]
    }
}

/// Those of a tile, as they are stored.
struct Packed<'a, B>(&'a B, usize);

impl<S: Simd, B: Block<S>> Weights<S> for Packed<'_, B> {
    #[inline(always)]
    unsafe fn quad(&self, _: usize, quad: usize) -> S::B {
        // SAFETY: as the caller promises, see `Block`.
        unsafe { self.0.quad(self.1, quad) }
    }
}

/// Calls the body for each of the numbers that are below `$most`, as a constant: a loop over registers would go through memory.
macro_rules! each {
    ($($n:literal)* below $most:expr, $i:ident => $body:expr) => {
        $(if $n < $most {
            const $i: usize = $n;
            $body
        })*
    };
}

#[inline(always)]
unsafe fn load<S: Simd, B: Block<S>>(block: &B, tile: usize) -> [S::B; QUADS] {
    // SAFETY: as the caller promises, see `Block`.
    unsafe {
        [
            block.quad(tile, 0),
            block.quad(tile, 1),
            block.quad(tile, 2),
            block.quad(tile, 3),
            block.quad(tile, 4),
            block.quad(tile, 5),
            block.quad(tile, 6),
            block.quad(tile, 7),
        ]
    }
}

/// A block's tiles, `T` of them from the first one on, with `R` rows.
#[inline(always)]
unsafe fn rows<S: Simd, B: Block<S>, W: Weights<S>, const R: usize, const T: usize>(
    block: &B,
    weights: &W,
    (scales, tile): (&[B::Scales; T], usize),
    a: *const u32,
    sums: *mut Pair<S>,
) {
    let (parts, size) = (block.parts(), block.dwords());
    // SAFETY: as the caller promises, see `isa` and `Block`; there are `R` rows and as many sums.
    unsafe {
        each!(0 1 below parts, G => {
            let mut i = [[S::isplat(0); T]; R];
            each!(0 1 2 3 below R, I => i[I] = [S::isplat(block.first(G, a.add(I * size))); T]);
            let quads = QUADS / parts * G..QUADS / parts * (G + 1);
            match block.most() {
                _ if R > 1 => several(block.most(), weights, quads, (a, size), &mut i),
                None => signed(weights, quads, a, &mut i[0]),
                Some(most) => unsigned(most, weights, quads, a, &mut i[0]),
            }
            each!(0 1 2 3 below R, I => {
                let (a, sum) = (a.add(I * size), &mut *sums.add(I));
                each!(0 1 below T, K => {
                    sum[tile + K] = block.add(&scales[K], G, i[I][K], a, sum[tile + K]);
                });
            });
        });
    }
}

/// Adds the products of these fours of columns with one row: signed bytes.
#[inline(always)]
unsafe fn signed<S: Simd, W: Weights<S>, const T: usize>(
    weights: &W,
    quads: Range<usize>,
    a: *const u32,
    sums: &mut [S::I; T],
) {
    // SAFETY: as the caller promises, see `isa`; a row's dwords are at `a`.
    unsafe {
        each!(0 1 2 3 4 5 6 7 below quads.end, J => if quads.contains(&J) {
            let q = *a.add(J) as i32;
            each!(0 1 below T, K => sums[K] = S::dot4_bytes(sums[K], weights.quad(K, J), q));
        });
    }
}

/// The same of codes up to `most`.
#[inline(always)]
unsafe fn unsigned<S: Simd, W: Weights<S>, const T: usize>(
    most: usize,
    weights: &W,
    quads: Range<usize>,
    a: *const u32,
    sums: &mut [S::I; T],
) {
    // SAFETY: as the caller promises, see `isa`; a row's dwords are at `a`. No more are added than fit.
    unsafe {
        let mut short = [S::short(sums[0]); T];
        each!(0 1 below T, K => short[K] = S::short(sums[K]));
        each!(0 1 2 3 4 5 6 7 below quads.end, J => if quads.contains(&J) {
            let before = J - quads.start;
            if before > 0 && before.is_multiple_of(S::ISA.short_quads(most)) {
                each!(0 1 below T, K => {
                    sums[K] = S::long(sums[K], short[K]);
                    short[K] = S::short(sums[K]);
                });
            }
            let q = *a.add(J) as i32;
            each!(0 1 below T, K => short[K] = S::dot4_codes(short[K], weights.quad(K, J), q));
        });
        each!(0 1 below T, K => sums[K] = S::long(sums[K], short[K]));
    }
}

/// The same with `R` rows, of a tile at a time, whose weights are in memory. The loops must not be unrolled: the compiler then adds in
/// another order, and sums wait in memory.
#[inline(always)]
unsafe fn several<S: Simd, W: Weights<S>, const R: usize, const T: usize>(
    most: Option<usize>,
    weights: &W,
    quads: Range<usize>,
    (a, size): (*const u32, usize),
    sums: &mut [[S::I; T]; R],
) {
    let (mut j, end) = (quads.start, quads.end);
    // SAFETY: as the caller promises, see `isa`; a row's dwords are at `a`.
    unsafe {
        let Some(most) = most else {
            while j < end {
                let w = weights.quad(0, j);
                each!(0 1 2 3 below R, I => {
                    sums[I][0] = S::dot4_bytes(sums[I][0], w, *a.add(I * size + j) as i32);
                });
                j = S::rolled(j + 1);
            }
            return;
        };
        while j < end {
            let part = end.min(j + S::ISA.short_quads(most));
            let mut short = [S::short(sums[0][0]); R];
            each!(0 1 2 3 below R, I => short[I] = S::short(sums[I][0]));
            while j < part {
                let w = weights.quad(0, j);
                each!(0 1 2 3 below R, I => {
                    short[I] = S::dot4_codes(short[I], w, *a.add(I * size + j) as i32);
                });
                j = S::rolled(j + 1);
            }
            each!(0 1 2 3 below R, I => sums[I][0] = S::long(sums[I][0], short[I]));
        }
    }
}
