//! Operations on single rows: norms, rope, activation functions.

use super::*;
use crate::cpu::activation;
use crate::cpu::isa::{Kernel, Simd, dispatch};
use crate::{
    HeadLayout, RopeTable, add_rows, layer_norm, reference, rms_norm, rms_norm_add, rms_norm_heads,
    rope, rope_angles, silu_mul, soft_cap,
};

/// Runs `run` on all rows, on some of them and on one thread, and asserts that no row changes a bit.
fn same_in_any_company(x: &Rows, isa: Isa, run: impl Fn(&Cx, &Rows) -> Rows) -> Rows {
    let all = run(&cx(isa, 3), x);
    assert_bits("1 thread", run(&cx(isa, 1), x).as_slice(), all.as_slice());
    for r in [0, x.rows() / 2, x.rows() - 1] {
        let one = run(&cx(isa, 3), &Rows::from_vec(x.width(), x.row(r).to_vec()));
        assert_bits("a row alone", one.as_slice(), all.row(r));
    }
    all
}

#[test]
fn norms_agree_with_the_naive_body() {
    for isa in isas() {
        for (rows, width) in [(1, 1), (3, 15), (7, 64), (2, 100), (130, 576), (5, 2048)] {
            let mut random = Random::new(width as u64);
            let (x, weight) = (random.rows(rows, width), random.values(width));
            let bias = random.values(width);
            let what = format!("{isa:?} {rows} x {width}");
            let mut expected = Rows::new();
            reference::rms_norm(&x, &weight, 1e-5, &mut expected);
            let got = same_in_any_company(&x, isa, |cx, x| {
                let mut out = Rows::new();
                rms_norm(cx, x, &weight, 1e-5, &mut out);
                out
            });
            assert_close(&what, got.as_slice(), expected.as_slice(), 1e-6);
            let mut expected = x.clone();
            reference::rms_norm_add(&x, &weight, 1e-5, &mut expected);
            let got = same_in_any_company(&x, isa, |cx, x| {
                let mut out = x.clone();
                rms_norm_add(cx, x, &weight, 1e-5, &mut out);
                out
            });
            assert_close(&what, got.as_slice(), expected.as_slice(), 1e-6);
            let mut expected = x.clone();
            reference::layer_norm(&mut expected, &weight, &bias, 1e-5);
            let got = same_in_any_company(&x, isa, |cx, x| {
                let mut out = x.clone();
                layer_norm(cx, &mut out, &weight, &bias, 1e-5);
                out
            });
            assert_close(&what, got.as_slice(), expected.as_slice(), 2e-6);
        }
    }
}

#[test]
fn a_large_mean_does_not_spoil_the_variance() {
    for isa in isas() {
        let mut x = Rows::from_vec(64, (0..64).map(|i| 1000.0 + (i % 2) as f32).collect());
        layer_norm(&cx(isa, 1), &mut x, &[1.0; 64], &[0.0; 64], 0.0);
        for (i, v) in x.as_slice().iter().enumerate() {
            assert_eq!(*v, if i % 2 == 0 { -1.0 } else { 1.0 });
        }
    }
}

#[test]
fn norms_of_heads_agree_with_the_naive_body() {
    for isa in isas() {
        for (q_heads, kv_heads, k_dim) in [(1, 1, 1), (3, 1, 20), (4, 2, 64), (8, 4, 256)] {
            let layout = HeadLayout {
                q_heads,
                kv_heads,
                k_dim,
                v_dim: 5,
            };
            let mut random = Random::new(k_dim as u64);
            let x = random.rows(40, layout.qkv_width());
            let (query, key) = (random.values(k_dim), random.values(k_dim));
            let mut expected = x.clone();
            reference::rms_norm_heads(&mut expected, &layout, (&query, &key), 1e-5);
            let got = same_in_any_company(&x, isa, |cx, x| {
                let mut out = x.clone();
                rms_norm_heads(cx, &mut out, &layout, (&query, &key), 1e-5);
                out
            });
            let what = format!("{isa:?} {layout:?}");
            assert_close(&what, got.as_slice(), expected.as_slice(), 1e-6);
        }
    }
}

#[test]
fn a_gate_beside_its_values_agrees_with_the_naive_body() {
    for isa in isas() {
        let (x, up) = (Random::new(4).rows(70, 333), Random::new(5).rows(1, 333));
        // The same row beside each, so that a row alone can find it.
        let ups = |rows: usize| Rows::from_vec(333, up.as_slice().repeat(rows));
        let mut expected = x.clone();
        reference::silu_mul(&mut expected, &ups(70));
        let got = same_in_any_company(&x, isa, |cx, x| {
            let mut out = x.clone();
            silu_mul(cx, &mut out, &ups(x.rows()));
            out
        });
        let what = format!("{isa:?}");
        assert_close(&what, got.as_slice(), expected.as_slice(), 1e-6);
    }
}

#[test]
fn the_soft_cap_agrees_with_the_naive_body() {
    for isa in isas() {
        let x = Random::new(4).rows(70, 333);
        let mut expected = x.clone();
        reference::soft_cap(&mut expected, 2.5);
        assert!(expected.as_slice().iter().all(|v| v.abs() <= 2.5));
        let got = same_in_any_company(&x, isa, |cx, x| {
            let mut out = x.clone();
            soft_cap(cx, &mut out, 2.5);
            out
        });
        assert_close(
            &format!("{isa:?}"),
            got.as_slice(),
            expected.as_slice(),
            1e-6,
        );
    }
}

#[test]
fn rope_agrees_with_the_naive_body() {
    for isa in isas() {
        for (k_dim, half) in [(2, 1), (10, 5), (12, 3), (64, 32), (80, 40)] {
            let layout = HeadLayout {
                q_heads: 3,
                kv_heads: 1,
                k_dim,
                v_dim: 5,
            };
            for interleaved in [false, true] {
                let table = RopeTable {
                    inv_freq: (0..half)
                        .map(|i| 0.1f32.powf(i as f32 / half as f32))
                        .collect(),
                    scale: 1.25,
                    interleaved,
                };
                let positions: Vec<u32> = (0..40).map(|i| i * 50).collect();
                let x = Random::new(9).rows(40, layout.qkv_width());
                let (mut angles, mut expected_angles) = (Rows::new(), Rows::new());
                let cx = cx(isa, 3);
                rope_angles(&cx, &positions, &table, &mut angles);
                reference::rope_angles(&positions, &table, &mut expected_angles);
                let what = format!("{isa:?} {k_dim} {half} {interleaved}");
                assert_close(&what, angles.as_slice(), expected_angles.as_slice(), 1e-6);
                let (mut got, mut expected) = (x.clone(), x.clone());
                rope(&cx, &mut got, &layout, &angles, interleaved);
                reference::rope(&mut expected, &layout, &angles, interleaved);
                assert_close(&what, got.as_slice(), expected.as_slice(), 1e-6);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Exp,
    Tanh,
    Silu,
    GeluTanh,
    GeluErf,
}

struct Apply<'a> {
    function: Function,
    values: &'a mut [f32; 16],
}

impl Kernel for Apply<'_> {
    #[expect(clippy::inline_always, reason = "as `Kernel` asks")]
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let p = self.values.as_mut_ptr();
        // SAFETY: `dispatch` has made sure of the features; there are 16 values.
        unsafe {
            let x = S::load(p);
            let y = match self.function {
                Function::Exp => activation::exp::<S>(x),
                Function::Tanh => activation::tanh::<S>(x),
                Function::Silu => activation::silu::<S>(x),
                Function::GeluTanh => activation::gelu_tanh::<S>(x),
                Function::GeluErf => activation::gelu_erf::<S>(x),
            };
            S::store(p, y);
        }
    }
}

fn apply(isa: Isa, function: Function, x: f32) -> f32 {
    let mut values = [x; 16];
    let kernel = Apply {
        function,
        values: &mut values,
    };
    dispatch(isa, kernel);
    values[7]
}

#[test]
fn functions_are_as_good_as_f32() {
    use Function::{Exp, GeluErf, GeluTanh, Silu, Tanh};
    for isa in isas() {
        for i in -40_000..=40_000 {
            let x = i as f32 * 2e-3 + 1e-4;
            let exact = f64::from(x);
            // Absolute for the GELUs while |x| <= 1, relative above; the tails are tiny.
            let cases = [
                (Exp, exact.exp(), 4e-7 * exact.exp()),
                (Tanh, exact.tanh(), 4e-7 * exact.tanh().abs()),
                (
                    Silu,
                    reference::silu(exact),
                    4e-7 * reference::silu(exact).abs(),
                ),
                (
                    GeluErf,
                    reference::gelu_erf(exact),
                    1e-7 * exact.abs().max(1.0),
                ),
                (
                    GeluTanh,
                    reference::gelu_tanh(exact),
                    3e-7 * exact.abs().max(1.0),
                ),
            ];
            for (function, expected, bound) in cases {
                if function == Exp && exact > 88.0 {
                    continue;
                }
                let got = f64::from(apply(isa, function, x));
                let off = (got - expected).abs();
                assert!(
                    off <= bound + 1e-38,
                    "{isa:?} {function:?}({x}) is {got:e}, not {expected:e}: {off:e} off"
                );
            }
        }
    }
}

#[test]
fn functions_have_their_limits() {
    use Function::{Exp, GeluErf, GeluTanh, Silu, Tanh};
    let inf = f32::INFINITY;
    for isa in isas() {
        for function in [Exp, Tanh, Silu, GeluErf, GeluTanh] {
            assert!(
                apply(isa, function, f32::NAN).is_nan(),
                "{isa:?} {function:?}"
            );
        }
        for (function, x, expected) in [
            (Exp, inf, inf),
            (Exp, -inf, 0.0),
            (Exp, 100.0, inf),
            (Exp, 0.0, 1.0),
            (Tanh, inf, 1.0),
            (Tanh, -inf, -1.0),
            (Silu, 1e4, 1e4),
            (Silu, -1e4, 0.0),
            (GeluErf, 1e4, 1e4),
            (GeluErf, -1e4, 0.0),
            (GeluErf, inf, inf),
            (GeluTanh, 100.0, 100.0),
            (GeluTanh, -100.0, 0.0),
        ] {
            let got = apply(isa, function, x);
            assert!(got == expected, "{isa:?} {function:?}({x}) is {got}");
        }
    }
}

/// Rows of their own, and one for all; on the device the same bits.
#[test]
fn rows_are_added() {
    for (rows, width) in [(1, 1), (7, 33), (40, 768)] {
        let mut random = Random::new(width as u64);
        let before = random.rows(rows, width);
        for from in [random.rows(rows, width), random.rows(1, width)] {
            let mut expected = before.clone();
            reference::add_rows(&from, &mut expected);
            #[allow(unused_mut, reason = "without a stand-in there are no others")]
            let mut all: Vec<Cx> = isas().map(|isa| cx(isa, 3)).collect();
            #[cfg(feature = "cuda-emu")]
            all.push(super::cuda::World::new().cx);
            for cx in all {
                let mut got = before.clone();
                add_rows(&cx, &from, &mut got);
                assert_bits("sum", got.as_slice(), expected.as_slice());
            }
        }
    }
}
