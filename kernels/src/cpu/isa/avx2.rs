//! AVX2, FMA and F16C: sixteen lanes are two registers. With AVX-VNNI beside them bytes are multiplied into 32 bits, without into 16.

#![cfg_attr(
    not(test),
    expect(
        clippy::wildcard_imports,
        reason = "intrinsics are named after what they do"
    )
)]

use super::Simd;
use crate::Isa;
use std::arch::x86_64::*;

/// `VNNI`: whether AVX-VNNI is there.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>;

/// `acc` + the products of each lane's 4 unsigned and 4 signed bytes.
#[inline(always)]
unsafe fn dot4_vnni(acc: [__m256i; 2], w: [__m256i; 2], a: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller's promise: AVX-VNNI is there.
    unsafe {
        [
            _mm256_dpbusd_avx_epi32(acc[0], w[0], a),
            _mm256_dpbusd_avx_epi32(acc[1], w[1], a),
        ]
    }
}

/// Lanes added in pairs 4 apart, then 2, 1.
#[inline(always)]
pub(super) unsafe fn sum8(v: __m256) -> f32 {
    // SAFETY: AVX2 is there.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
    }
}

/// Sixteen e4m3 as f16 of the same bits: a sign, four bits of exponent below a 0, three of mantissa.
#[inline(always)]
pub(super) unsafe fn e4m3_as_f16(p: *const u8) -> __m256i {
    // SAFETY: AVX2 is there; the caller's promise: 16 values.
    unsafe {
        let v = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()));
        let sign = _mm256_and_si256(_mm256_slli_epi16::<8>(v), _mm256_set1_epi16(i16::MIN));
        let rest = _mm256_and_si256(_mm256_slli_epi16::<7>(v), _mm256_set1_epi16(0x3f80));
        _mm256_or_si256(sign, rest)
    }
}

/// Rounded to bf16, nearest even, in the lower half of each dword; a NaN stays one.
#[inline(always)]
unsafe fn bf16_of(v: __m256) -> __m256i {
    // SAFETY: AVX2 is there.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let high = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);
        let near = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, up));
        let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        _mm256_blendv_epi8(near, quiet, nan)
    }
}

#[inline(always)]
unsafe fn dot4_half(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: AVX2 is there. `w <= 128` and `|a| <= 127`, so a sum of two products fits 16 bits.
    unsafe {
        let pairs = _mm256_maddubs_epi16(w, a);
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// The first `n` of eight lanes: all bits of each.
#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    // SAFETY: AVX2 is there.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes)
    }
}

/// Sixteen lanes to the nearest integers that fit 16 bits, in an order of their own: 0 to 3 and 8 to 11, then the others.
#[inline(always)]
unsafe fn shorts(v: [__m256; 2]) -> __m256i {
    // SAFETY: AVX2 is there.
    unsafe { _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1])) }
}

macro_rules! lanewise {
    ($($name:ident = $intrinsic:ident),*) => {$(
        #[inline(always)]
        unsafe fn $name(a: Self::F, b: Self::F) -> Self::F {
            // SAFETY: AVX2 is there.
            unsafe { [$intrinsic(a[0], b[0]), $intrinsic(a[1], b[1])] }
        }
    )*};
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    type Short = [__m256i; 2];

    const ISA: Isa = if VNNI { Isa::AvxVnni } else { Isa::Avx2 };
    const SIGNED_WEIGHTS: bool = !VNNI;
    const BYTE_BIAS: i32 = if VNNI { 128 } else { 0 };

    lanewise!(
        add = _mm256_add_ps,
        sub = _mm256_sub_ps,
        mul = _mm256_mul_ps,
        div = _mm256_div_ps,
        max = _mm256_max_ps,
        min = _mm256_min_ps
    );

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        // SAFETY: AVX2 is there.
        unsafe { [_mm256_set1_ps(v); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: AVX2 is there; the caller's promise: 16 values.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: AVX2 is there; the caller's promise: 16 values.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F {
        // SAFETY: AVX2 is there; the caller's promise: `n <= 16` values; masked lanes are not touched.
        unsafe {
            if n >= 16 {
                return Self::load(p);
            }
            let high = p.wrapping_add(8);
            [
                _mm256_maskload_ps(p, first(n)),
                _mm256_maskload_ps(high, first(n.saturating_sub(8))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: Self::F) {
        // SAFETY: AVX2 is there; the caller's promise: `n <= 16` values; masked lanes are not touched.
        unsafe {
            if n >= 16 {
                return Self::store(p, v);
            }
            let high = p.wrapping_add(8);
            _mm256_maskstore_ps(p, first(n), v[0]);
            _mm256_maskstore_ps(high, first(n.saturating_sub(8)), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: AVX2 is there; the caller's promise: 16 values.
        unsafe {
            let v = [_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast())];
            let wide = [_mm256_cvtepu16_epi32(v[0]), _mm256_cvtepu16_epi32(v[1])];
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u8, part: usize) -> Self::F {
        // SAFETY: AVX2 is there; the caller's promise: 64 bytes.
        unsafe {
            let [a, b] = Self::load_bytes(p);
            let [a, b] = if part == 0 {
                [_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b)]
            } else {
                let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                [_mm256_and_si256(a, high), _mm256_and_si256(b, high)]
            };
            [_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)]
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: AVX2 and F16C are there; the caller's promise: 16 values.
        unsafe {
            let v = [_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast())];
            [_mm256_cvtph_ps(v[0]), _mm256_cvtph_ps(v[1])]
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self::F {
        // SAFETY: AVX2 and F16C are there; the caller's promise: 16 values.
        unsafe {
            let v = e4m3_as_f16(p);
            [
                _mm256_cvtph_ps(_mm256_castsi256_si128(v)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(v)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::F) {
        // SAFETY: AVX2 is there; the caller's promise: 16 values.
        unsafe {
            let halves = [bf16_of(v[0]), bf16_of(v[1])];
            let all = _mm256_packus_epi32(halves[0], halves[1]);
            _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(all));
        }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: FMA is there.
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        // SAFETY: AVX2 is there.
        unsafe {
            let less = [
                _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]),
                _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1]),
            ];
            [
                _mm256_blendv_ps(y[0], x[0], less[0]),
                _mm256_blendv_ps(y[1], x[1], less[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        // SAFETY: AVX2 is there.
        unsafe { [_mm256_round_ps::<8>(a[0]), _mm256_round_ps::<8>(a[1])] }
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        // SAFETY: AVX2 is there.
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let i = [_mm256_cvtps_epi32(n[0]), _mm256_cvtps_epi32(n[1])];
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(i[0], bias))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(i[1], bias))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        // SAFETY: AVX2 is there.
        unsafe { sum8(_mm256_add_ps(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        // SAFETY: AVX2 is there. Of two operands the instruction gives the second if one is no number.
        unsafe {
            let least = _mm256_set1_ps(f32::NEG_INFINITY);
            let v = _mm256_max_ps(a[0], _mm256_max_ps(a[1], least));
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn abs_bits(a: Self::F, b: Self::F) -> u32 {
        // SAFETY: AVX2 is there; 8 values.
        unsafe {
            let mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
            let (a0, a1) = (_mm256_and_ps(a[0], mask), _mm256_and_ps(a[1], mask));
            let (b0, b1) = (_mm256_and_ps(b[0], mask), _mm256_and_ps(b[1], mask));
            let a = _mm256_max_epi32(_mm256_castps_si256(a0), _mm256_castps_si256(a1));
            let b = _mm256_max_epi32(_mm256_castps_si256(b0), _mm256_castps_si256(b1));
            let v = _mm256_max_epi32(a, b);
            let v = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_max_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_max_epi32(v, _mm_shuffle_epi32::<1>(v))) as u32
        }
    }

    #[inline(always)]
    unsafe fn isplat(v: i32) -> Self::I {
        // SAFETY: AVX2 is there.
        unsafe { [_mm256_set1_epi32(v); 2] }
    }
    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> Self::F {
        // SAFETY: AVX2 is there.
        unsafe { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
    }
    #[inline(always)]
    unsafe fn less(acc: Self::I, p: *const i32, by: i32) -> Self::I {
        // SAFETY: AVX2 is there; the caller's promise: 16 values.
        unsafe {
            let by = _mm256_set1_epi32(by);
            let low = _mm256_mullo_epi32(_mm256_loadu_si256(p.cast()), by);
            let high = _mm256_mullo_epi32(_mm256_loadu_si256(p.add(8).cast()), by);
            [
                _mm256_sub_epi32(acc[0], low),
                _mm256_sub_epi32(acc[1], high),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        // SAFETY: AVX2 is there; the caller's promise: 16 bytes.
        unsafe {
            [
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())),
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self::I {
        // SAFETY: AVX2 is there; the caller's promise: 16 bytes.
        unsafe {
            [
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn halves(v: Self::I) -> [Self::I; 2] {
        // SAFETY: AVX2 is there.
        unsafe {
            let low = _mm256_set1_epi32(15);
            [
                [_mm256_and_si256(v[0], low), _mm256_and_si256(v[1], low)],
                [_mm256_srli_epi32::<4>(v[0]), _mm256_srli_epi32::<4>(v[1])],
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::F) -> i32 {
        // SAFETY: AVX2 is there; the caller's promise: 16 bytes.
        unsafe {
            let words = shorts(v);
            let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (
                _mm256_castsi256_si128(ordered),
                _mm256_extracti128_si256::<1>(ordered),
            );
            _mm_storeu_si128(p.cast(), _mm_packs_epi16(low, high));
            let twos = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
            let fours = _mm_add_epi32(
                _mm256_castsi256_si128(twos),
                _mm256_extracti128_si256::<1>(twos),
            );
            let eights = _mm_add_epi32(fours, _mm_shuffle_epi32::<0b01_00_11_10>(fours));
            _mm_cvtsi128_si32(_mm_add_epi32(eights, _mm_shuffle_epi32::<1>(eights)))
        }
    }
    #[inline(always)]
    unsafe fn store_quads(to: *mut u32, v: Self::F) {
        // SAFETY: AVX2 is there; the caller's promise: 4 dwords.
        unsafe {
            let all = _mm256_permute4x64_epi64::<0b11_01_10_00>(shorts(v));
            let (low, high) = (
                _mm256_castsi256_si128(all),
                _mm256_extracti128_si256::<1>(all),
            );
            let codes = _mm_packs_epi16(low, high);
            let bias = if VNNI { 0 } else { -128 };
            _mm_storeu_si128(to.cast(), _mm_xor_si128(codes, _mm_set1_epi8(bias)));
        }
    }
    #[inline(always)]
    unsafe fn load_quads(p: *const u8) -> Self::B {
        // SAFETY: AVX2 is there; the caller's promise: 64 bytes.
        unsafe {
            let sign = _mm256_set1_epi8(if VNNI { 0 } else { -128 });
            Self::load_bytes(p).map(|b| _mm256_xor_si256(b, sign))
        }
    }
    #[inline(always)]
    unsafe fn dot_quads(acc: Self::I, w: Self::B, a: u32) -> Self::I {
        // SAFETY: what `VNNI` says is there. Without it two neighbours are within 128 together, and 255 times that is within 16 bits.
        unsafe {
            if VNNI {
                return dot4_vnni(acc, w, _mm256_set1_epi32(a as i32));
            }
            let (a, ones) = (_mm256_set1_epi32(a as i32), _mm256_set1_epi16(1));
            let dot = |w| _mm256_madd_epi16(_mm256_maddubs_epi16(a, w), ones);
            [
                _mm256_add_epi32(acc[0], dot(w[0])),
                _mm256_add_epi32(acc[1], dot(w[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::B {
        // SAFETY: AVX2 is there; the caller's promise: 64 bytes.
        unsafe {
            [
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(32).cast()),
            ]
        }
    }
    #[inline(always)]
    unsafe fn bits(v: Self::B, from: usize, to: usize, mask: u8) -> Self::B {
        // SAFETY: AVX2 is there. What a shift by less than 8 brings in from the neighbour is outside of the mask.
        unsafe {
            let mask = _mm256_set1_epi8((mask << to) as i8);
            if from >= to {
                let by = _mm_cvtsi32_si128((from - to) as i32);
                [
                    _mm256_and_si256(_mm256_srl_epi16(v[0], by), mask),
                    _mm256_and_si256(_mm256_srl_epi16(v[1], by), mask),
                ]
            } else {
                let by = _mm_cvtsi32_si128((to - from) as i32);
                [
                    _mm256_and_si256(_mm256_sll_epi16(v[0], by), mask),
                    _mm256_and_si256(_mm256_sll_epi16(v[1], by), mask),
                ]
            }
        }
    }
    #[inline(always)]
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: AVX2 is there.
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], places: Self::B) -> Self::B {
        // SAFETY: AVX2 is there; the table has 16 bytes.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [
                _mm256_shuffle_epi8(table, places[0]),
                _mm256_shuffle_epi8(table, places[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn short(acc: Self::I) -> Self::Short {
        if VNNI {
            return acc;
        }
        // SAFETY: AVX2 is there.
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn dot4_codes(acc: Self::Short, w: Self::B, a: i32) -> Self::Short {
        // SAFETY: what `VNNI` says is there.
        unsafe {
            let a = _mm256_set1_epi32(a);
            if VNNI {
                return dot4_vnni(acc, w, a);
            }
            [
                _mm256_add_epi16(acc[0], _mm256_maddubs_epi16(w[0], a)),
                _mm256_add_epi16(acc[1], _mm256_maddubs_epi16(w[1], a)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn long(acc: Self::I, short: Self::Short) -> Self::I {
        if VNNI {
            return short;
        }
        // SAFETY: AVX2 is there.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            [
                _mm256_add_epi32(acc[0], _mm256_madd_epi16(short[0], ones)),
                _mm256_add_epi32(acc[1], _mm256_madd_epi16(short[1], ones)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn dot4_bytes(acc: Self::I, w: Self::B, a: i32) -> Self::I {
        // SAFETY: what `VNNI` says is there. Without it the sign of a weight moves to its activation, so that the unsigned operand is exact.
        unsafe {
            if VNNI {
                return dot4_vnni(acc, w, _mm256_set1_epi32(a));
            }
            let (a, top) = (_mm256_set1_epi32(a), _mm256_set1_epi8(-128));
            let w = [_mm256_xor_si256(w[0], top), _mm256_xor_si256(w[1], top)];
            [
                dot4_half(acc[0], _mm256_abs_epi8(w[0]), _mm256_sign_epi8(a, w[0])),
                dot4_half(acc[1], _mm256_abs_epi8(w[1]), _mm256_sign_epi8(a, w[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn dot2_bf16(acc: Self::F, w: *const u8, a: u32) -> Self::F {
        // SAFETY: AVX2 and FMA are there; the caller's promise: 64 bytes.
        unsafe {
            let w = Self::load_bytes(w);
            let (a0, a1) = (
                _mm256_set1_ps(f32::from_bits(a << 16)),
                _mm256_set1_ps(f32::from_bits(a & 0xffff_0000)),
            );
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let mut out = acc;
            for (o, w) in out.iter_mut().zip(w) {
                let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w));
                let odd = _mm256_castsi256_ps(_mm256_and_si256(w, high));
                *o = _mm256_fmadd_ps(odd, a1, _mm256_fmadd_ps(even, a0, *o));
            }
            out
        }
    }
    #[inline(always)]
    fn rolled(mut n: usize) -> usize {
        // SAFETY: no instruction; a register keeps its value.
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) n, options(pure, nomem, nostack, preserves_flags));
        }
        n
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
