//! Activation functions on single values. Exact and tanh GELU are two functions on purpose: they differ by up to 5e-4,
//! and a checkpoint means one of them.

/// Exact GELU, `x/2 (1 + erf(x / sqrt 2))` (Hendrycks and Gimpel, arXiv:1606.08415; Hugging Face `gelu`).
pub fn gelu_erf(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

/// The tanh form of GELU (Hugging Face `gelu_new`, `gelu_pytorch_tanh`).
pub fn gelu_tanh(x: f32) -> f32 {
    let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// `SiLU`, `x / (1 + exp(-x))`.
pub fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// The error function to about 1e-7 absolute: Abramowitz and Stegun 7.1.26 refined is too coarse for 1e-4 parity, so
/// this is the series (small |x|) and the continued fraction of erfc (large |x|), both in f64.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        (std::f64::consts::FRAC_2_SQRT_PI * sum).copysign(x)
    } else if a < 6.0 {
        let mut f = 0.0;
        for k in (1..=60).rev() {
            f = f64::from(k) / 2.0 / (a + f);
        }
        let erfc = (-a * a).exp() / (a + f) * std::f64::consts::FRAC_1_PI.sqrt();
        (1.0 - erfc).copysign(x)
    } else {
        1f64.copysign(x)
    }
}
