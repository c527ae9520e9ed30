//! AVX-512 F, BW, VL, VNNI and BF16: sixteen lanes are one register.

#![cfg_attr(
    not(test),
    expect(
        clippy::wildcard_imports,
        reason = "intrinsics are named after what they do"
    )
)]

use super::{
    Simd,
    avx2::{e4m3_as_f16, sum8},
};
use crate::Isa;
use std::arch::x86_64::*;
use std::mem::transmute;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as u16
}

/// Column `d` of sixteen rows of sixteen dwords, `stride` apart, for each `d`.
#[inline(always)]
unsafe fn transpose(rows: *const u32, stride: usize) -> [__m512i; 16] {
    // SAFETY: AVX-512 is there; the caller's promise: a row has 64 bytes.
    unsafe {
        let row = |i: usize| _mm512_loadu_si512(rows.add(i * stride).cast());
        // Of every four dwords, those of two rows side by side: the first two, the last two.
        macro_rules! twos {
            ($($a:literal $b:literal)*) => {
                [$(_mm512_unpacklo_epi32(row($a), row($b)), _mm512_unpackhi_epi32(row($a), row($b)),)*]
            };
        }
        let two = twos!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        // A quarter of a register is now one dword of four rows.
        macro_rules! fours {
            ($($a:literal $b:literal)*) => {
                [$(_mm512_unpacklo_epi64(two[$a], two[$b]), _mm512_unpackhi_epi64(two[$a], two[$b]),)*]
            };
        }
        let four = fours!(0 2 1 3 4 6 5 7 8 10 9 11 12 14 13 15);
        // The quarters of four registers, which have the same dwords of their rows.
        let mut columns = [_mm512_setzero_si512(); 16];
        macro_rules! sixteen {
            ($($c:literal)*) => {
                $(
                    let a = _mm512_shuffle_i32x4::<0x88>(four[$c], four[$c + 4]);
                    let b = _mm512_shuffle_i32x4::<0x88>(four[$c + 8], four[$c + 12]);
                    columns[$c] = _mm512_shuffle_i32x4::<0x88>(a, b);
                    columns[$c + 8] = _mm512_shuffle_i32x4::<0xdd>(a, b);
                    let a = _mm512_shuffle_i32x4::<0xdd>(four[$c], four[$c + 4]);
                    let b = _mm512_shuffle_i32x4::<0xdd>(four[$c + 8], four[$c + 12]);
                    columns[$c + 4] = _mm512_shuffle_i32x4::<0x88>(a, b);
                    columns[$c + 12] = _mm512_shuffle_i32x4::<0xdd>(a, b);
                )*
            };
        }
        sixteen!(0 1 2 3);
        columns
    }
}

macro_rules! lanewise {
    ($($name:ident = $intrinsic:ident),*) => {$(
        #[inline(always)]
        unsafe fn $name(a: Self::F, b: Self::F) -> Self::F {
            // SAFETY: AVX-512 is there.
            unsafe { $intrinsic(a, b) }
        }
    )*};
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    type Short = Self::I;

    const ISA: Isa = Isa::Avx512;
    const BYTE_BIAS: i32 = 128;

    lanewise!(
        add = _mm512_add_ps,
        sub = _mm512_sub_ps,
        mul = _mm512_mul_ps,
        div = _mm512_div_ps,
        max = _mm512_max_ps,
        min = _mm512_min_ps
    );

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: AVX-512 is there; the caller's promise: 16 values.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: AVX-512 is there; the caller's promise: 16 values.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F {
        // SAFETY: AVX-512 is there; the caller's promise: `n <= 16` values; masked lanes are not touched.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: Self::F) {
        // SAFETY: AVX-512 is there; the caller's promise: `n <= 16` values; masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: AVX-512 is there; the caller's promise: 16 values.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u8, part: usize) -> Self::F {
        // SAFETY: AVX-512 is there; the caller's promise: 64 bytes.
        unsafe {
            let w = Self::load_bytes(p);
            _mm512_castsi512_ps(if part == 0 {
                _mm512_slli_epi32::<16>(w)
            } else {
                _mm512_and_si512(w, _mm512_set1_epi32(0xffff_0000_u32 as i32))
            })
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: AVX-512 is there; the caller's promise: 16 values.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self::F {
        // SAFETY: AVX-512 is there, so AVX2 is; the caller's promise: 16 values.
        unsafe { _mm512_cvtph_ps(e4m3_as_f16(p)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::F) {
        // SAFETY: AVX-512 BF16 is there; the caller's promise: 16 values; the two types are both 32 bytes.
        unsafe {
            let v = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(p.cast(), v);
        }
    }
    #[inline(always)]
    unsafe fn store_pairs(p: *mut u32, low: Self::F, high: Self::F) {
        // SAFETY: AVX-512 BF16 is there; the caller's promise: 16 dwords; the types are both 32 bytes.
        unsafe {
            let wide = |v| {
                let v = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                _mm512_cvtepu16_epi32(v)
            };
            let both = _mm512_or_si512(wide(low), _mm512_slli_epi32::<16>(wide(high)));
            _mm512_storeu_si512(p.cast(), both);
        }
    }
    #[inline(always)]
    unsafe fn columns(
        (rows, stride): (*const u32, usize),
        (n, depth): (usize, usize),
        (to, step): (*mut u32, usize),
    ) {
        // SAFETY: AVX-512 is there; the caller's promise: `n` dwords in each of `depth` columns; others are not touched.
        unsafe {
            let columns = transpose(rows, stride);
            let n = first(n);
            macro_rules! store {
                ($($d:literal)*) => {
                    $(if $d < depth {
                        _mm512_mask_storeu_epi32(to.add($d * step).cast(), n, columns[$d]);
                    })*
                };
            }
            store!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_roundscale_ps::<8>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        // SAFETY: AVX-512 is there.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }
    #[inline(always)]
    unsafe fn scale2(v: Self::F, n: Self::F) -> Self::F {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_scalef_ps(v, n) }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        // SAFETY: AVX-512 is there.
        unsafe {
            let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a));
            sum8(_mm256_add_ps(
                _mm512_castps512_ps256(a),
                _mm256_castpd_ps(high),
            ))
        }
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        // SAFETY: AVX-512 is there.
        unsafe {
            let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a);
            _mm512_mask_reduce_max_ps(number, a)
        }
    }
    #[inline(always)]
    unsafe fn abs_bits(a: Self::F, b: Self::F) -> u32 {
        // SAFETY: AVX-512 is there.
        unsafe {
            let mask = _mm512_set1_epi32(0x7fff_ffff);
            let a = _mm512_and_si512(_mm512_castps_si512(a), mask);
            let b = _mm512_and_si512(_mm512_castps_si512(b), mask);
            _mm512_reduce_max_epi32(_mm512_max_epi32(a, b)) as u32
        }
    }

    #[inline(always)]
    unsafe fn isplat(v: i32) -> Self::I {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_set1_epi32(v) }
    }
    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> Self::F {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn less(acc: Self::I, p: *const i32, by: i32) -> Self::I {
        // SAFETY: AVX-512 is there; the caller's promise: 16 values.
        unsafe {
            let v = _mm512_loadu_si512(p.cast());
            _mm512_sub_epi32(acc, _mm512_mullo_epi32(v, _mm512_set1_epi32(by)))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        // SAFETY: AVX-512 is there; the caller's promise: 16 bytes.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self::I {
        // SAFETY: AVX-512 is there; the caller's promise: 16 bytes.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn halves(v: Self::I) -> [Self::I; 2] {
        // SAFETY: AVX-512 is there.
        unsafe {
            [
                _mm512_and_si512(v, _mm512_set1_epi32(15)),
                _mm512_srli_epi32::<4>(v),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::F) -> i32 {
        // SAFETY: AVX-512 is there; the caller's promise: 16 bytes.
        unsafe {
            let q = _mm512_cvtps_epi32(v);
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(q));
            _mm512_reduce_add_epi32(q)
        }
    }
    #[inline(always)]
    unsafe fn store_quads(to: *mut u32, v: Self::F) {
        // SAFETY: AVX-512 is there; the caller's promise: 4 dwords.
        unsafe {
            let codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(to.cast(), codes);
        }
    }
    #[inline(always)]
    unsafe fn load_quads(p: *const u8) -> Self::B {
        // SAFETY: AVX-512 is there; the caller's promise: 64 bytes.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot_quads(acc: Self::I, w: Self::B, a: u32) -> Self::I {
        // SAFETY: AVX-512 VNNI is there.
        unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a as i32)) }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::B {
        // SAFETY: AVX-512 is there; the caller's promise: 64 bytes.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn bits(v: Self::B, from: usize, to: usize, mask: u8) -> Self::B {
        // SAFETY: AVX-512 is there. What a shift by less than 8 brings in from the neighbour is outside of the mask.
        unsafe {
            let moved = if from >= to {
                _mm512_srl_epi16(v, _mm_cvtsi32_si128((from - to) as i32))
            } else {
                _mm512_sll_epi16(v, _mm_cvtsi32_si128((to - from) as i32))
            };
            _mm512_and_si512(moved, _mm512_set1_epi8((mask << to) as i8))
        }
    }
    #[inline(always)]
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], places: Self::B) -> Self::B {
        // SAFETY: AVX-512 is there; the table has 16 bytes.
        unsafe {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), places)
        }
    }
    #[inline(always)]
    unsafe fn short(acc: Self::I) -> Self::Short {
        acc
    }
    #[inline(always)]
    unsafe fn long(_: Self::I, short: Self::Short) -> Self::I {
        short
    }
    #[inline(always)]
    unsafe fn dot4_codes(acc: Self::Short, w: Self::B, a: i32) -> Self::Short {
        // SAFETY: AVX-512 VNNI is there.
        unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a)) }
    }
    #[inline(always)]
    unsafe fn dot4_bytes(acc: Self::I, w: Self::B, a: i32) -> Self::I {
        // SAFETY: AVX-512 VNNI is there.
        unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a)) }
    }
    #[inline(always)]
    unsafe fn dot2_bf16(acc: Self::F, w: *const u8, a: u32) -> Self::F {
        // SAFETY: AVX-512 BF16 is there; the caller's promise: 64 bytes; all these types are 64 bytes.
        unsafe {
            let w = transmute::<__m512i, __m512bh>(Self::load_bytes(w));
            let a = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a as i32));
            _mm512_dpbf16_ps(acc, w, a)
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
