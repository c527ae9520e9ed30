//! The path of any processor: arrays of sixteen, which the compiler turns into whatever vectors there are.

use super::Simd;
use crate::Isa;
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; 16] {
    std::array::from_fn(f)
}

/// The four signed bytes of an i32.
#[inline(always)]
fn bytes(a: i32) -> [i32; 4] {
    a.to_le_bytes().map(|b| i32::from(b as i8))
}

impl Simd for Portable {
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];
    type Short = Self::I;

    const ISA: Isa = Isa::Portable;
    const BYTE_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        [v; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: the caller's promise: 16 values.
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: the caller's promise: 16 values.
        unsafe { p.cast::<Self::F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F {
        // SAFETY: the caller's promise: `n` values.
        each(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: Self::F) {
        for (i, v) in v.iter().take(n).enumerate() {
            // SAFETY: the caller's promise: `n` values.
            unsafe { *p.add(i) = *v }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: the caller's promise: 16 values.
        let v = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        v.map(|b| f32::from_bits(u32::from(b) << 16))
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u8, part: usize) -> Self::F {
        // SAFETY: the caller's promise: 64 bytes.
        let w = unsafe { p.cast::<[u32; 16]>().read_unaligned() };
        let mask = 0xffff_0000;
        w.map(|w| f32::from_bits(if part == 0 { w << 16 } else { w & mask }))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: the caller's promise: 16 values.
        let v = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        v.map(|b| f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self::F {
        // SAFETY: the caller's promise: 16 values.
        let v = unsafe { p.cast::<[u8; 16]>().read_unaligned() };
        v.map(|b| f16::from_bits(u16::from(b & 0x80) << 8 | u16::from(b & 0x7f) << 7).to_f32())
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::F) {
        // SAFETY: the caller's promise: 16 values.
        unsafe {
            p.cast::<[u16; 16]>()
                .write_unaligned(v.map(|v| bf16::from_f32(v).to_bits()));
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let c: [f32; 4] = std::array::from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        a.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn abs_bits(a: Self::F, b: Self::F) -> u32 {
        let bits = |v: &f32| v.to_bits() & 0x7fff_ffff;
        a.iter().chain(&b).map(bits).fold(0, u32::max)
    }

    #[inline(always)]
    unsafe fn isplat(v: i32) -> Self::I {
        [v; 16]
    }
    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> Self::F {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    unsafe fn less(acc: Self::I, p: *const i32, by: i32) -> Self::I {
        // SAFETY: the caller's promise: 16 values.
        let v = unsafe { p.cast::<[i32; 16]>().read_unaligned() };
        std::array::from_fn(|i| acc[i].wrapping_sub(v[i].wrapping_mul(by)))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { p.cast::<[u8; 16]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self::I {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { p.cast::<[i8; 16]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn halves(v: Self::I) -> [Self::I; 2] {
        [v.map(|v| v & 15), v.map(|v| v >> 4)]
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::F) -> i32 {
        let q = v.map(|v| v.round_ties_even() as i8);
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { p.cast::<[i8; 16]>().write_unaligned(q) };
        q.iter().copied().map(i32::from).sum()
    }
    #[inline(always)]
    unsafe fn store_quads(to: *mut u32, v: Self::F) {
        // SAFETY: the caller's promise: 4 dwords.
        unsafe { Self::store_i8(to.cast(), v) };
    }
    #[inline(always)]
    unsafe fn load_quads(p: *const u8) -> Self::B {
        // SAFETY: the caller's promise: 64 bytes.
        unsafe { Self::load_bytes(p) }
    }
    #[inline(always)]
    unsafe fn dot_quads(acc: Self::I, w: Self::B, a: u32) -> Self::I {
        let a = bytes(a as i32);
        std::array::from_fn(|i| {
            let w: [i32; 4] = std::array::from_fn(|j| i32::from(w[4 * i + j]));
            let sum = w[0] * a[0] + w[1] * a[1] + w[2] * a[2] + w[3] * a[3];
            acc[i].wrapping_add(sum)
        })
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::B {
        // SAFETY: the caller's promise: 64 bytes.
        unsafe { p.cast::<Self::B>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn bits(v: Self::B, from: usize, to: usize, mask: u8) -> Self::B {
        v.map(|b| (b >> from & mask) << to)
    }
    #[inline(always)]
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], places: Self::B) -> Self::B {
        places.map(|b| table[usize::from(b & 15)])
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
        let a = bytes(a);
        std::array::from_fn(|i| {
            let w: [i32; 4] = std::array::from_fn(|j| i32::from(w[4 * i + j]));
            acc[i] + w[0] * a[0] + w[1] * a[1] + w[2] * a[2] + w[3] * a[3]
        })
    }
    #[inline(always)]
    unsafe fn dot4_bytes(acc: Self::I, w: Self::B, a: i32) -> Self::I {
        let a = bytes(a);
        std::array::from_fn(|i| {
            let w: [i32; 4] = std::array::from_fn(|j| i32::from(w[4 * i + j]) - 128);
            acc[i] + w[0] * a[0] + w[1] * a[1] + w[2] * a[2] + w[3] * a[3]
        })
    }
    #[inline(always)]
    unsafe fn dot2_bf16(acc: Self::F, w: *const u8, a: u32) -> Self::F {
        // SAFETY: the caller's promise: 64 bytes.
        let w = unsafe { w.cast::<[u32; 16]>().read_unaligned() };
        let (a0, a1) = (f32::from_bits(a << 16), f32::from_bits(a & 0xffff_0000));
        let low = each(|i| acc[i] + f32::from_bits(w[i] << 16) * a0);
        each(|i| low[i] + f32::from_bits(w[i] & 0xffff_0000) * a1)
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
