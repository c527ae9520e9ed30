//! Exponential, tanh and the activation functions on sixteen lanes, to about f32 precision.
//!
//! A NaN stays a NaN; infinities give the limits.

use super::isa::{Kernel, Simd};

/// e^r on |r| <= ln(2)/2 is its Taylor sum; the first term left out is 5e-9 of it.
const EXP: [f32; 6] = [
    1.0 / 5040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
];
/// ln(2) in two parts, the first short enough for exact products with the integers that occur.
const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);

/// `erfc(z) exp(z^2)` as a polynomial in `t = 1 / (1 + 0.4 z)`, highest power first: Chebyshev interpolation on
/// `0 <= z <= 10`, relative error 8.5e-9.
const ERFCX: [f32; 11] = [
    -0.041_997_86,
    0.269_705_15,
    -0.680_385,
    0.812_313_6,
    -0.530_387_76,
    0.423_818_65,
    0.066_827_31,
    0.232_154_77,
    0.221_960_25,
    0.226_003_56,
    -1.275_889_3e-5,
];

/// x as `n ln 2 + r`: returns `n`, `r` and `e^r - 1`.
#[inline(always)]
unsafe fn reduce<S: Simd>(x: S::F) -> (S::F, S::F) {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-LN2.0), x);
        let r = S::fma(n, S::splat(-LN2.1), r);
        let mut p = S::splat(EXP[0]);
        for c in &EXP[1..] {
            p = S::fma(p, r, S::splat(*c));
        }
        (n, S::fma(S::mul(r, r), p, r))
    }
}

/// e^x.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let x = S::min(S::splat(90.0), S::max(S::splat(-105.0), x));
        let (n, m1) = reduce::<S>(x);
        S::scale2(S::add(m1, S::splat(1.0)), n)
    }
}

/// tanh x = m / (m + 2) with m = e^2x - 1, of |x|: no cancellation near 0.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let minus = S::sub(S::splat(0.0), x);
        let negative = S::if_less(x, S::splat(0.0), S::splat(-1.0), S::splat(1.0));
        let a = S::min(S::splat(10.0), S::max(minus, x));
        let (n, m1) = reduce::<S>(S::add(a, a));
        let scale = S::pow2(n);
        let m = S::fma(m1, scale, S::sub(scale, S::splat(1.0)));
        S::mul(negative, S::div(m, S::add(m, S::splat(2.0))))
    }
}

/// most * tanh(x / most)
#[inline(always)]
pub(crate) unsafe fn cap<S: Simd>(x: S::F, most: f32) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let most = S::splat(most);
        S::mul(tanh::<S>(S::div(x, most)), most)
    }
}

/// Caps values in place, see [`cap`].
pub(crate) struct Cap<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) most: f32,
}

impl Kernel for Cap<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for part in self.values.chunks_mut(16) {
            let (p, n) = (part.as_mut_ptr(), part.len());
            // SAFETY: as the caller promises, see `isa`; `n` values, at most 16.
            unsafe { S::store_part(p, n, cap::<S>(S::load_part(p, n), self.most)) };
        }
    }
}

/// x / (1 + e^-x)
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let e = exp::<S>(S::sub(S::splat(0.0), x));
        S::div(x, S::add(S::splat(1.0), e))
    }
}

/// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let square = S::mul(x, x);
        let inner = S::fma(square, S::splat(0.044_715), S::splat(1.0));
        let inner = S::mul(S::mul(x, S::splat(0.797_884_6)), inner);
        let half = S::mul(x, S::splat(0.5));
        S::fma(half, tanh::<S>(inner), half)
    }
}

/// Phi(z) - 1/2 as a polynomial in z, odd powers only, highest first: within 4e-5 of it, times z, on |z| <= 4.4.
const PHI: [f32; 9] = [
    3.573_106e-11,
    -3.757_053e-9,
    1.741_865_1e-7,
    -4.726_717_6e-6,
    8.431_246_5e-5,
    -1.055_111_5e-3,
    9.643_432e-3,
    -6.607_71e-2,
    0.398_762,
];

/// x Phi(x), to 5e-5: for products whose factors were rounded to bf16 or int8.
#[inline(always)]
pub(crate) unsafe fn gelu_rough<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        // An infinity must not meet what is only nearly 0.
        let x = S::max(S::splat(-15.0), x);
        let z = S::max(S::splat(-4.4), S::min(S::splat(4.4), x));
        let square = S::mul(z, z);
        let mut p = S::splat(PHI[0]);
        for c in &PHI[1..] {
            p = S::fma(p, square, S::splat(*c));
        }
        S::mul(x, S::fma(p, z, S::splat(0.5)))
    }
}

/// x/2 erfc(-x / sqrt 2): with z = |x| / sqrt 2, `x/2 erfc(z)` below 0 and `x - x/2 erfc(z)` above.
#[inline(always)]
pub(crate) unsafe fn gelu_erf<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let zero = S::splat(0.0);
        let a = S::max(S::sub(zero, x), x);
        // Beyond this erfc is 0 in f32; and x * 0 must not meet an infinity.
        let a = S::min(S::splat(15.0), a);
        let z = S::mul(a, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = S::div(S::splat(1.0), S::fma(z, S::splat(0.4), S::splat(1.0)));
        let mut p = S::splat(ERFCX[0]);
        for c in &ERFCX[1..] {
            p = S::fma(p, t, S::splat(*c));
        }
        let e = exp::<S>(S::mul(S::mul(a, a), S::splat(-0.5)));
        // |x|/2 erfc(z), subtracted from max(x, 0)
        let tail = S::mul(S::mul(a, S::splat(0.5)), S::mul(p, e));
        S::sub(S::max(zero, x), tail)
    }
}
