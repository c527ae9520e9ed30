//! INT8 made of f32: what it keeps, and that its sums are exact.

use super::*;
use crate::cpu::int8::Steps;
use crate::{Epilogue, Error, linear};

fn int8(rows: usize, cols: usize, values: &[f32]) -> PackedWeight {
    PackedWeight::from_f32(rows, cols, Format::Int8, values).expect("a weight")
}

fn product(isa: Isa, x: &Rows, weight: &PackedWeight) -> Rows {
    let mut out = Rows::new();
    linear(&cx(isa, 2), x, weight, Epilogue::default(), &mut out);
    out
}

#[test]
fn every_path_has_the_same_bits() {
    let mut random = Random::new(21);
    for (m, n, k) in [(1, 1, 1), (5, 40, 3), (13, 64, 384), (30, 33, 130)] {
        let (x, weight) = (random.rows(m, k), random.weight(n, k, Format::Int8));
        let expected = product(Isa::Portable, &x, &weight);
        for isa in isas() {
            let got = product(isa, &x, &weight);
            assert_bits(
                &format!("{isa:?} {m} x {n} x {k}"),
                got.as_slice(),
                expected.as_slice(),
            );
        }
    }
}

/// Rows of whole numbers that steps of one hit: the product is the integers' own, at any length, even where 16 bits are too short.
#[test]
fn sums_are_exact() {
    for cols in [4, 31, 384, 3072] {
        for (w, x) in [
            (127.0, 127.0),
            (-127.0, 127.0),
            (127.0, -127.0),
            (-127.0, -127.0),
        ] {
            // No neighbours are more together than one of them.
            let each = (0..3 * cols).map(|i| if i % cols % 2 == 0 { w } else { 0.0 });
            let weight = int8(3, cols, &each.collect::<Vec<_>>());
            // Least and largest are 254 apart, in steps of one.
            let mut row = vec![x; cols];
            row[0] = -x;
            let rows = Rows::from_vec(cols, row);
            let expected = w * x * (cols.div_ceil(2) as f32 - 2.0);
            for isa in isas() {
                let got = product(isa, &rows, &weight);
                assert_eq!(got.as_slice(), [expected; 3], "{isa:?} {cols} {w} {x}");
            }
        }
    }
}

/// Neighbours that are as much together as they may be, which is what 16 bits just hold, beside activations that are all as large as
/// they can be.
#[test]
fn neighbours_fit_sixteen_bits() {
    let mut random = Random::new(23);
    for cols in [5, 96, 259, 777] {
        let mut values = vec![0.0; 40 * cols];
        for (row, values) in values.chunks_exact_mut(cols).enumerate() {
            for (i, two) in values.chunks_exact_mut(2).enumerate() {
                // Both halves are rounded up: 128 together. Or one is 127, or something between.
                let large = match i % 3 {
                    0 => 63.5,
                    1 => 127.0,
                    _ => 64.0 + (random.values(1)[0] * 60.0).abs().min(63.0).round(),
                };
                let sign = if row % 2 == 0 { 1.0 } else { -1.0 };
                two.copy_from_slice(&[sign * large, sign * (127.0 - large)]);
            }
        }
        let weight = int8(40, cols, &values);
        let mut codes = vec![0.0; 40 * cols];
        for (row, codes) in codes.chunks_exact_mut(cols).enumerate() {
            weight.dequantize_row(row, codes);
            let most = |two: &[f32]| two.iter().sum::<f32>().abs();
            assert_eq!(codes.chunks(2).map(most).fold(0.0, f32::max), 128.0);
        }
        let top = (0..cols).map(|c| if c == 0 { -127.0 } else { 127.0 });
        let near = |v: &f32| (v * 90.0).round().clamp(-127.0, 127.0);
        let mut some: Vec<f32> = random.values(cols).iter().map(near).collect();
        (some[0], some[1]) = (-127.0, 127.0);
        for row in [some, top.collect()] {
            let rows = Rows::from_vec(cols, row.repeat(7));
            let exact = codes.chunks_exact(cols).map(|w| {
                let products = w.iter().zip(&row).map(|(a, b)| a * b);
                products.map(f64::from).sum::<f64>() as f32
            });
            let exact: Vec<_> = exact.collect();
            for isa in isas() {
                let got = product(isa, &rows, &weight);
                for r in 0..7 {
                    assert_eq!(got.row(r), exact, "{isa:?} {cols} row {r}");
                }
            }
        }
    }
}

#[test]
fn neighbours_are_within_128_together() {
    let mut random = Random::new(24);
    let mut beyond = 0;
    for cols in [2, 3, 64, 385] {
        let values = random.values(20 * cols);
        let weight = int8(20, cols, &values);
        let mut got = vec![0.0; cols];
        for (row, values) in values.chunks_exact(cols).enumerate() {
            weight.dequantize_row(row, &mut got);
            let largest = |v: &[f32]| v.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            let both = |two: &[f32]| two.iter().sum::<f32>();
            let sums: Vec<f32> = values.chunks(2).map(both).collect();
            let step = largest(values).max(largest(&sums)) / 127.0;
            for two in got.chunks(2) {
                let codes = two.iter().map(|v| (v / step).round()).sum::<f32>();
                assert!(codes.abs() <= 128.0, "{codes} in a row of {cols}");
            }
            // By the largest value alone there would be more.
            let alone = largest(values) / 127.0;
            beyond += sums.iter().filter(|v| v.abs() > 129.0 * alone).count();
        }
    }
    assert!(beyond > 100, "{beyond}: the values are too tame");
}

#[test]
fn rows_of_the_longest_length_do_not_overflow() {
    let cols = 1 << 16;
    for (w, x) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)] {
        // No neighbours are more together than one of them: codes are as large as they can be.
        let weight = int8(1, cols, &[w, 0.0].repeat(cols / 2));
        let rows = Rows::from_vec(cols, vec![x; cols]);
        for isa in isas() {
            let got = product(isa, &rows, &weight);
            assert_close(
                &format!("{isa:?}"),
                got.as_slice(),
                &[w * x * (cols / 2) as f32],
                1e-5,
            );
        }
    }
    let long = PackedWeight::from_f32(1, cols + 1, Format::Int8, &vec![1.0; cols + 1]);
    assert!(matches!(long, Err(Error::LongRow { most: 65_536, .. })));
    assert!(PackedWeight::hollow(1, cols + 1, Format::Int8).is_err());
}

#[test]
fn a_weight_is_within_half_a_step_of_its_values() {
    let mut random = Random::new(22);
    for (rows, cols) in [(1, 1), (33, 7), (40, 64)] {
        let values = random.values(rows * cols);
        let weight = int8(rows, cols, &values);
        let mut got = vec![0.0; cols];
        for (row, values) in values.chunks_exact(cols).enumerate() {
            weight.dequantize_row(row, &mut got);
            let both = values.chunks(2).map(|two| two.iter().sum::<f32>());
            let all = values.iter().copied().chain(both);
            let step = all.fold(0.0, |m: f32, v| m.max(v.abs())) / 127.0;
            for (got, value) in got.iter().zip(values) {
                assert!((got - value).abs() <= 0.5001 * step, "{got} for {value}");
            }
        }
        let whole = rows.next_multiple_of(32) * Format::Int8.packed_bytes(cols);
        assert_eq!(weight.bytes(), whole);
    }
    let mut row = [1.0; 4];
    int8(1, 4, &[0.0; 4]).dequantize_row(0, &mut row);
    assert_eq!(row, [0.0; 4]);
    int8(1, 4, &[1.0, f32::NAN, 0.0, 0.0]).dequantize_row(0, &mut row);
    assert!(row.iter().all(|v| v.is_nan()), "not ordinary numbers");
    assert!(PackedWeight::from_bytes(1, 4, Format::Int8, &[0; 4]).is_err());
}

#[test]
fn steps_reach_from_the_least_to_the_largest() {
    let check = |least: f32, most: f32| {
        let steps = Steps::of(least, most, true);
        for v in [least, most, 0.0] {
            let code = (v * steps.factor + steps.zero).round_ties_even();
            let code = code.clamp(-127.0, 127.0);
            let off = (steps.scale * (code - steps.zero) - v).abs();
            assert!(
                off <= 0.5001 * steps.scale,
                "{v} of {least}..{most} is {off} off"
            );
        }
    };
    for (least, most) in [
        (-1.0, 1.0),
        (0.0, 3.0),
        (-0.17, 5.0),
        (-7.0, 0.0),
        (-1e30, 2e30),
    ] {
        check(least, most);
    }
    assert_eq!(Steps::of(0.0, 0.0, true).scale, 0.0);
    assert!(Steps::of(-1.0, 1.0, false).scale.is_nan());
    // Wider than a float.
    assert!(Steps::of(-f32::MAX, f32::MAX, true).scale.is_finite());
}
