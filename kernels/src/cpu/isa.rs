//! [`Simd`]: sixteen lanes of f32 on every CPU path, and [`dispatch`] onto one of them.
//!
//! An operation's body is written once, generic over [`Simd`], and compiled for each path. Lanes mean the same
//! everywhere, so the order of sums is the same; paths differ in fused multiply-add (portable has none) and in bf16.
//!
//! Safety, for all of this module's `unsafe fn`s: the processor has the path's features, which [`dispatch`] makes sure of,
//! and pointers are valid for the lanes that are read or written. Nothing needs alignment.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use crate::Isa;
pub(crate) use portable::Portable;

/// Sixteen dwords of sixteen rows.
pub(crate) type Tile = [[u32; 16]; 16];

/// Sixteen lanes of one CPU path. `F` holds f32, `I` i32, `B` sixteen groups of 4 bytes.
pub(crate) trait Simd: Copy {
    type F: Copy;
    type I: Copy;
    type B: Copy;
    /// Sums of products of small codes: i32, or i16 where bytes are multiplied into those.
    type Short: Copy;

    /// Which path this is.
    const ISA: Isa;
    /// What is added to the signed weights that `dot4` multiplies: stored bytes are weight + 128.
    const BYTE_BIAS: i32;
    /// Whether int8's weights are signed where they are multiplied, and its codes are not; the others have it the other way round.
    const SIGNED_WEIGHTS: bool = false;

    unsafe fn splat(v: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    /// The first `n <= 16` lanes; the others are 0.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F;
    unsafe fn store_part(p: *mut f32, n: usize, v: Self::F);
    /// bf16, widened.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// Of sixteen pairs of bf16 the lower halves (`part` 0) or the upper ones, widened.
    unsafe fn load_half(p: *const u8, part: usize) -> Self::F;
    /// f16, widened.
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Sixteen e4m3 that are not NaN, divided by 256.
    unsafe fn load_e4m3(p: *const u8) -> Self::F;
    /// Rounded to bf16, nearest even.
    unsafe fn store_bf16(p: *mut u16, v: Self::F);
    /// Sixteen pairs, rounded to bf16, nearest even: `low` in the lower half of a dword.
    #[inline(always)]
    unsafe fn store_pairs(p: *mut u32, low: Self::F, high: Self::F) {
        let mut halves = [[0u16; 16]; 2];
        // SAFETY: as the caller promises; 16 values each.
        unsafe {
            Self::store_bf16(halves[0].as_mut_ptr(), low);
            Self::store_bf16(halves[1].as_mut_ptr(), high);
            for (i, (low, high)) in halves[0].iter().zip(&halves[1]).enumerate() {
                *p.add(i) = u32::from(*low) | u32::from(*high) << 16;
            }
        }
    }
    /// Rows to columns: dword `d` of each of the first `n` rows to `to[d * step..][..n]`, for the first `depth` dwords. Sixteen rows of
    /// sixteen are there, `stride` apart; `n` and `depth` are 16 at most.
    #[inline(always)]
    unsafe fn columns(
        (rows, stride): (*const u32, usize),
        (n, depth): (usize, usize),
        (to, step): (*mut u32, usize),
    ) {
        for d in 0..depth {
            for i in 0..n {
                // SAFETY: as the caller promises.
                unsafe { *to.add(d * step + i) = *rows.add(i * stride + d) };
            }
        }
    }

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`, so a NaN in `b` stays.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`, so a NaN in `b` stays.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? x : y`
    unsafe fn if_less(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `2^n` for integers `-126 <= n <= 127`.
    unsafe fn pow2(n: Self::F) -> Self::F;
    /// `v * 2^n` for integers `-252 <= n <= 254`, with subnormal results.
    #[inline(always)]
    unsafe fn scale2(v: Self::F, n: Self::F) -> Self::F {
        // SAFETY: as the caller promises.
        unsafe {
            // In two steps, because neither the largest nor the subnormal results have such a factor.
            let half = Self::round(Self::mul(n, Self::splat(0.5)));
            let v = Self::mul(v, Self::pow2(half));
            Self::mul(v, Self::pow2(Self::sub(n, half)))
        }
    }
    /// Lanes added in pairs 8 apart, then 4, 2, 1.
    unsafe fn sum(a: Self::F) -> f32;
    /// The largest lane that is a number.
    unsafe fn largest(a: Self::F) -> f32;
    /// The largest bit pattern of an absolute value in `a` and `b`: that of a NaN or an infinity if there is one.
    unsafe fn abs_bits(a: Self::F, b: Self::F) -> u32;

    unsafe fn isplat(v: i32) -> Self::I;
    unsafe fn to_f32(v: Self::I) -> Self::F;
    /// `acc` less `by` times the sixteen i32 at `p`.
    unsafe fn less(acc: Self::I, p: *const i32, by: i32) -> Self::I;
    /// Sixteen bytes, widened.
    unsafe fn load_u8(p: *const u8) -> Self::I;
    /// Sixteen signed bytes, widened.
    unsafe fn load_i8(p: *const u8) -> Self::I;
    /// The lower and the upper four bits of lanes that are 0 to 255.
    unsafe fn halves(v: Self::I) -> [Self::I; 2];
    /// Rounds to i8 (ties to even) and adds the lanes up. The values are within -127..=127.
    unsafe fn store_i8(p: *mut i8, v: Self::F) -> i32;
    /// Codes of sixteen columns, whole numbers within -127..=127, as int8 multiplies them. `to`: four dwords.
    unsafe fn store_quads(to: *mut u32, v: Self::F);
    /// Four weights of sixteen outputs as int8 multiplies them, from what is stored.
    unsafe fn load_quads(p: *const u8) -> Self::B;
    /// `acc` + the products of the weights with the codes of one dword.
    unsafe fn dot_quads(acc: Self::I, w: Self::B, a: u32) -> Self::I;
    /// 64 bytes as stored.
    unsafe fn load_bytes(p: *const u8) -> Self::B;
    /// Of each byte, the bits under `mask`, which begins at bit `from`, moved to begin at bit `to`.
    unsafe fn bits(v: Self::B, from: usize, to: usize, mask: u8) -> Self::B;
    /// All bits of both.
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B;
    /// For each byte, which is below 16, the byte at that place of the table.
    unsafe fn lookup(table: &[u8; 16], places: Self::B) -> Self::B;
    /// A sum that goes on from `acc`, perhaps somewhere else.
    unsafe fn short(acc: Self::I) -> Self::Short;
    /// `acc` + the products of each lane's 4 weights with the 4 signed bytes of `a`, which are at least -127: of weights from 0 to
    /// `most` up to [`Isa::short_quads`] times.
    unsafe fn dot4_codes(acc: Self::Short, w: Self::B, a: i32) -> Self::Short;
    /// `acc` and what was added since `short(acc)`.
    unsafe fn long(acc: Self::I, short: Self::Short) -> Self::I;
    /// `acc` + the products of each lane's 4 weights plus [`Simd::BYTE_BIAS`] with the 4 signed bytes of `a`.
    unsafe fn dot4_bytes(acc: Self::I, w: Self::B, a: i32) -> Self::I;
    /// `acc` + the products of each lane's 2 bf16 at `w` with the 2 bf16 of `a`.
    unsafe fn dot2_bf16(acc: Self::F, w: *const u8, a: u32) -> Self::F;
    /// `n`; where a loop over it would be unrolled into more than the registers hold the compiler is not told so.
    #[inline(always)]
    fn rolled(n: usize) -> usize {
        n
    }
    /// Asks for the line at `p` in the second-level cache; any address will do.
    unsafe fn prefetch(p: *const u8);
}

/// A piece of work that is compiled for each path.
pub(crate) trait Kernel {
    /// Must be `#[inline(always)]`, as must be everything generic over [`Simd`] that it calls: only then is it compiled
    /// with the path's features.
    unsafe fn run<S: Simd>(self);
}

/// What the kernels of products must know of a path.
impl Isa {
    /// Whether all weights of a block, of both tiles of sixteen outputs, are in registers while rows pass.
    #[inline(always)]
    pub(crate) const fn holds_block(self) -> bool {
        !matches!(self, Self::Avx2 | Self::AvxVnni)
    }

    /// Rows, and tiles of sixteen outputs, whose sums a panel kernel keeps in registers beside one row's activations and the
    /// tiles' weights. One more, and a sum waits for memory at every step.
    #[inline(always)]
    pub(crate) const fn panel(self) -> (usize, usize) {
        match self {
            Self::Portable => (3, 2),
            Self::Avx2 | Self::AvxVnni => (6, 1),
            Self::Avx512 => (12, 2),
        }
    }

    /// How many times [`Simd::dot4_codes`] may add products of codes up to `most`, which is below 128: where two of them are a sum of 16
    /// bits as many as fit those.
    #[inline(always)]
    pub(crate) const fn short_quads(self, most: usize) -> usize {
        match self {
            Self::Avx2 => i16::MAX as usize / (2 * 127 * most),
            Self::Portable | Self::AvxVnni | Self::Avx512 => usize::MAX / 2,
        }
    }

    /// Whether it multiplies pairs of bf16. Others widen them, and take activations in f32.
    pub(crate) const fn has_bf16(self) -> bool {
        matches!(self, Self::Avx512)
    }
}

/// Runs `kernel` on the path `isa`, which the processor has: an [`Isa`] above what was detected cannot reach a context.
#[inline]
pub(crate) fn dispatch(isa: Isa, kernel: impl Kernel) {
    match isa {
        // SAFETY: portable code needs no features.
        Isa::Portable => unsafe { kernel.run::<Portable>() },
        // SAFETY: `Cx::new` refuses a path that the processor does not have.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { on_avx2(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { on_avx_vnni(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { on_avx512(kernel) },
        // SAFETY: portable code needs no features. (No other path is ever detected here.)
        #[cfg(not(target_arch = "x86_64"))]
        _ => unsafe { kernel.run::<Portable>() },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn on_avx2(kernel: impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<avx2::Avx2<false>>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn on_avx_vnni(kernel: impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<avx2::Avx2<true>>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
unsafe fn on_avx512(kernel: impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<avx512::Avx512>() }
}
