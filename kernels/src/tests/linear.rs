//! Packing, products and what is fused behind them.

use super::*;
use crate::{Epilogue, Error, Then, embed, linear, reference};

pub(super) const FORMATS: [Format; 6] = [
    Format::F32,
    Format::Bf16,
    Format::F16,
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4_1,
];
const THENS: [Then; 9] = [
    Then::Store,
    Then::Add,
    Then::GeluErf,
    Then::GeluTanh,
    Then::Relu,
    Then::Tanh,
    Then::SiluMul,
    Then::GeluErfMul,
    Then::GeluTanhMul,
];

/// Rows of activations, outputs, columns (for block formats in blocks).
const SHAPES: [(usize, usize, usize); 11] = [
    (1, 32, 32),
    (1, 1, 1),
    (2, 17, 3),
    (3, 16, 2),
    (5, 33, 7),
    (12, 64, 64),
    (13, 30, 31),
    (1, 320, 576),
    (49, 96, 96),
    (70, 50, 300),
    (200, 128, 33),
];

fn shapes(format: Format) -> impl Iterator<Item = (usize, usize, usize)> {
    let cols = move |k: usize| {
        if format.block_len() == 1 {
            k
        } else {
            k.div_ceil(16) * 32
        }
    };
    SHAPES.into_iter().map(move |(m, n, k)| (m, n, cols(k)))
}

/// All epilogues of one shape against the naive body.
fn check(isa: Isa, format: Format, (m, n, k): (usize, usize, usize)) {
    let mut random = Random::new((m * 1000 + n * 10 + k) as u64);
    let (x, weight) = (random.rows(m, k), random.weight(n, k, format));
    let bias = random.values(n);
    let cx = cx(isa, 3);
    for then in THENS {
        if then.is_gated() && n % 2 == 1 {
            continue;
        }
        for bias in [None, Some(bias.as_slice())] {
            let width = if then.is_gated() { n / 2 } else { n };
            let mut got = random.rows(m, width);
            let mut expected = got.clone();
            let epilogue = Epilogue::bias(bias, then);
            linear(&cx, &x, &weight, epilogue, &mut got);
            reference::linear(&x, &weight, epilogue, &mut expected);
            let what = format!("{isa:?} {format:?} {m} x {n} x {k} {then:?}");
            // Sums of up to 600 products that reach 100.
            let bound = if then.is_gated() { 1e-4 } else { 2e-5 };
            assert_close(&what, got.as_slice(), expected.as_slice(), bound);
        }
    }
}

#[test]
fn products_agree_with_the_naive_body() {
    for isa in isas() {
        for format in FORMATS {
            shapes(format).for_each(|shape| check(isa, format, shape));
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    let mut random = Random::new(7);
    for format in FORMATS {
        let weight = random.weight(196, 224, format);
        let x = random.rows(150, 224);
        for isa in isas() {
            let run = |threads: usize, x: &Rows| {
                let mut out = Rows::new();
                let epilogue = Epilogue::then(Then::SiluMul);
                linear(&cx(isa, threads), x, &weight, epilogue, &mut out);
                out
            };
            let all = run(1, &x);
            assert_bits("4 threads", run(4, &x).as_slice(), all.as_slice());
            for rows in [0..1, 149..150, 3..20, 60..150] {
                let some: Vec<f32> = rows.clone().flat_map(|r| x.row(r).to_vec()).collect();
                let got = run(2, &Rows::from_vec(224, some));
                for (i, r) in rows.enumerate() {
                    assert_bits(
                        &format!("{isa:?} {format:?} row {r}"),
                        got.row(i),
                        all.row(r),
                    );
                }
            }
        }
    }
}

#[test]
fn integer_paths_agree_closely() {
    // The int32 sums are the same on all paths; only the fused multiply-add differs.
    let mut random = Random::new(11);
    for format in [Format::Q8_0, Format::Q4_0, Format::Q4_1] {
        let (weight, x) = (random.weight(64, 512, format), random.rows(3, 512));
        let run = |isa| {
            let mut out = Rows::new();
            linear(&cx(isa, 1), &x, &weight, Epilogue::default(), &mut out);
            out
        };
        let expected = run(Isa::Portable);
        for isa in isas() {
            assert_close(
                &format!("{isa:?}"),
                run(isa).as_slice(),
                expected.as_slice(),
                3e-6,
            );
        }
    }
}

#[test]
fn extreme_int8_do_not_saturate() {
    // All weights -128 or 127, all activations the largest: where 16-bit sums would overflow.
    for isa in isas() {
        for q in [0x80u8, 0x7f] {
            let mut block = f16::from_f32(1.0).to_le_bytes().to_vec();
            block.extend([q; 32]);
            let weight = PackedWeight::from_bytes(1, 32, Format::Q8_0, &block).expect("a block");
            for v in [127.0, -127.0] {
                let mut out = Rows::new();
                let x = Rows::from_vec(32, vec![v; 32]);
                linear(&cx(isa, 1), &x, &weight, Epilogue::default(), &mut out);
                assert_eq!(out.as_slice(), [f32::from(q as i8) * v * 32.0], "{isa:?}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let mut random = Random::new(3);
    for isa in isas() {
        for format in FORMATS {
            let weight = random.weight(40, 96, format);
            let clean = random.rows(4, 96);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = clean.clone();
                x.row_mut(2)[40] = bad;
                let (mut got, mut expected) = (Rows::new(), Rows::new());
                let cx = cx(isa, 2);
                linear(&cx, &x, &weight, Epilogue::default(), &mut got);
                linear(&cx, &clean, &weight, Epilogue::default(), &mut expected);
                for r in [0, 1, 3] {
                    assert_bits("a clean row", got.row(r), expected.row(r));
                }
                let finite = got.row(2).iter().filter(|v| v.is_finite()).count();
                assert_eq!(finite, 0, "{isa:?} {format:?} {bad}");
            }
        }
    }
}

#[test]
fn nothing_in_is_nothing_out() {
    for isa in isas() {
        let weight = Random::new(1).weight(8, 32, Format::Q4_0);
        let mut x = Rows::new();
        x.reset(0, 32);
        let mut out = Rows::new();
        linear(&cx(isa, 2), &x, &weight, Epilogue::default(), &mut out);
        assert_eq!((out.rows(), out.width()), (0, 8));
        let empty = PackedWeight::from_bytes(0, 32, Format::F32, &[]).expect("no rows");
        linear(
            &cx(isa, 2),
            &Rows::from_vec(32, vec![1.0; 64]),
            &empty,
            Epilogue::default(),
            &mut out,
        );
        assert_eq!((out.rows(), out.width()), (2, 0));
    }
}

#[test]
fn packing_keeps_every_value() {
    let mut random = Random::new(5);
    for format in FORMATS {
        for (_, rows, cols) in shapes(format) {
            let bytes = random.bytes(rows, cols, format);
            let weight = PackedWeight::from_bytes(rows, cols, format, &bytes).expect("a weight");
            let (mut got, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
            let stride = bytes.len() / rows;
            for (row, bytes) in bytes.chunks_exact(stride).enumerate() {
                weight.dequantize_row(row, &mut got);
                reference::dequantize(format, bytes, &mut expected);
                assert_bits(&format!("{format:?} row {row}"), &got, &expected);
            }
            let padded = bytes.len() / rows * rows.next_multiple_of(32);
            assert!(
                weight.bytes() <= padded + padded / cols.min(32),
                "{format:?}"
            );
            let ids: Vec<u32> = (0..50).map(|_| random.below(rows) as u32).collect();
            let mut out = Rows::new();
            embed(&cx(Isa::Portable, 2), &ids, &weight, &mut out);
            for (r, id) in ids.iter().enumerate() {
                weight.dequantize_row(*id as usize, &mut got);
                assert_bits("embedding", out.row(r), &got);
            }
        }
    }
}

#[test]
fn stacking_keeps_every_row() {
    let mut random = Random::new(6);
    for format in FORMATS {
        for sizes in [vec![64, 32, 5], vec![3, 7, 33], vec![20], vec![0, 4]] {
            let parts: Vec<_> = sizes
                .iter()
                .map(|n| random.weight(*n, 64, format))
                .collect();
            let mut expected = Vec::new();
            for part in &parts {
                for row in 0..part.rows() {
                    let mut values = vec![0.0; 64];
                    part.dequantize_row(row, &mut values);
                    expected.push(values);
                }
            }
            let all = PackedWeight::stack(parts).expect("parts that fit");
            assert_eq!(all.rows(), expected.len());
            for (row, expected) in expected.iter().enumerate() {
                let mut values = vec![0.0; 64];
                all.dequantize_row(row, &mut values);
                assert_bits(
                    &format!("{format:?} {sizes:?} row {row}"),
                    &values,
                    expected,
                );
            }
        }
    }
    let odd = vec![
        random.weight(2, 64, Format::F32),
        random.weight(2, 32, Format::F32),
    ];
    assert!(matches!(PackedWeight::stack(odd), Err(Error::Stack(_))));
    assert!(matches!(
        PackedWeight::stack(Vec::new()),
        Err(Error::Stack(_))
    ));
}

#[test]
fn wrong_sizes_are_refused() {
    for format in FORMATS {
        let bytes = Random::new(2).bytes(3, 64, format);
        for bytes in [&bytes[1..], &[]] {
            let refused = PackedWeight::from_bytes(3, 64, format, bytes);
            assert!(
                matches!(refused, Err(Error::WeightBytes { .. })),
                "{format:?}"
            );
        }
        let refused = PackedWeight::from_bytes(3, 0, format, &[]);
        assert!(
            matches!(refused, Err(Error::BlockLength { .. })),
            "{format:?}"
        );
        let refused = PackedWeight::from_bytes(usize::MAX / 2, 1 << 40, format, &bytes);
        assert!(refused.is_err(), "{format:?}");
    }
    let refused = PackedWeight::from_bytes(1, 33, Format::Q4_0, &[0; 18]);
    assert!(matches!(refused, Err(Error::BlockLength { cols: 33, .. })));
    let refused = PackedWeight::from_f32(2, 3, Format::F32, &[0.0; 5]);
    assert!(matches!(refused, Err(Error::WeightBytes { .. })));
    assert!(PackedWeight::from_f32(1, 32, Format::Q8_0, &[0.0; 32]).is_err());
}

#[test]
fn from_f32_rounds_to_bf16_and_f16() {
    let values = Random::new(4).values(5 * 7);
    let exact = PackedWeight::from_f32(5, 7, Format::F32, &values).expect("f32");
    let rounded = PackedWeight::from_f32(5, 7, Format::Bf16, &values).expect("bf16");
    let half = PackedWeight::from_f32(5, 7, Format::F16, &values).expect("f16");
    let mut row = [0.0; 7];
    for (r, values) in values.chunks_exact(7).enumerate() {
        exact.dequantize_row(r, &mut row);
        assert_bits("f32", &row, values);
        rounded.dequantize_row(r, &mut row);
        let expected: Vec<f32> = values
            .iter()
            .map(|v| half::bf16::from_f32(*v).to_f32())
            .collect();
        assert_bits("bf16", &row, &expected);
        half.dequantize_row(r, &mut row);
        let expected: Vec<f32> = values.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
        assert_bits("f16", &row, &expected);
    }
}
