//! Packing, products and what is fused behind them.

use super::*;
use crate::{Epilogue, Error, Then, embed, linear};

pub(super) const THENS: [Then; 9] = [
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

pub(super) fn shapes(format: Format) -> impl Iterator<Item = (usize, usize, usize)> {
    let cols = move |k: usize| match format.block_len() {
        1 => k,
        32 => k.div_ceil(16) * 32,
        len => k.div_ceil(100) * len,
    };
    SHAPES.into_iter().map(move |(m, n, k)| (m, n, cols(k)))
}

/// Those that files hold row by row, and the others.
pub(super) fn all() -> impl Iterator<Item = Format> {
    let grouped = grouped::GROUPS.map(Format::Grouped);
    Format::ALL.into_iter().chain([Format::Int8]).chain(grouped)
}

/// The block formats.
fn blocks() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|f| f.block_len() > 1)
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
            let rounded = matches!(format, Format::Bf16 | Format::Int8);
            // Sums of up to 600 products that reach 100; behind rounded factors GELU is a polynomial.
            let bound = match then {
                then if then.is_gated() => 1e-4,
                Then::GeluErf if rounded => 7e-5,
                _ => 2e-5,
            };
            assert_close(&what, got.as_slice(), expected.as_slice(), bound);
        }
    }
}

#[test]
fn products_agree_with_the_naive_body() {
    for isa in isas() {
        for format in all() {
            shapes(format).for_each(|shape| check(isa, format, shape));
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    let mut random = Random::new(7);
    for format in all() {
        let cols = if format.block_len() == 256 { 512 } else { 224 };
        let weight = random.weight(196, cols, format);
        let x = random.rows(150, cols);
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
                let got = run(2, &Rows::from_vec(cols, some));
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
    for format in blocks() {
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

/// The largest codes, scales and minimums beside the largest activations, where sums that are too short would overflow.
#[test]
fn extreme_codes_do_not_saturate() {
    for format in blocks() {
        let cols = 2 * format.block_len();
        let mut bytes = vec![0xff; cols / format.block_len() * format.block_bytes()];
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            reference::tame(format, block, 1.0);
        }
        let weight = PackedWeight::from_bytes(1, cols, format, &bytes).expect("a row");
        for v in [127.0, -127.0] {
            let x = Rows::from_vec(cols, vec![v; cols]);
            let (mut got, mut expected) = (Rows::new(), Rows::new());
            reference::linear(&x, &weight, Epilogue::default(), &mut expected);
            for isa in isas() {
                linear(&cx(isa, 1), &x, &weight, Epilogue::default(), &mut got);
                let what = format!("{isa:?} {format:?} {v}");
                assert_close(&what, got.as_slice(), expected.as_slice(), 1e-5);
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let mut random = Random::new(3);
    for isa in isas() {
        for format in all() {
            let cols = format.block_len().max(96);
            let weight = random.weight(40, cols, format);
            let clean = random.rows(4, cols);
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
    for format in Format::ALL {
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
            let whole = rows.next_multiple_of(32) * format.packed_bytes(cols);
            assert_eq!(weight.bytes(), whole, "{format:?}");
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
fn a_table_gives_the_rows_of_its_file() {
    let mut random = Random::new(15);
    for format in [Format::F32, Format::F16, Format::Bf16] {
        for (rows, cols) in [(1, 1), (70, 33), (5, 384)] {
            let bytes = random.bytes(rows, cols, format);
            let stride = bytes.len() / rows;
            let row = |r: usize| &bytes[r * stride..(r + 1) * stride];
            let fetch = |r: usize, to: &mut [u8]| to.copy_from_slice(row(r));
            let table = PackedWeight::table(rows, cols, format, fetch).expect("a table");
            assert_eq!(
                table.bytes(),
                bytes.len().next_multiple_of(64),
                "{format:?}"
            );
            let ids: Vec<u32> = (0..rows as u32).rev().collect();
            let mut out = Rows::new();
            embed(&cx(Isa::Portable, 2), &ids, &table, &mut out);
            let mut expected = vec![0.0; cols];
            for (r, id) in ids.iter().enumerate() {
                reference::dequantize(format, row(*id as usize), &mut expected);
                assert_bits(&format!("{format:?} row {id}"), out.row(r), &expected);
            }
        }
    }
    for format in [Format::Int8, Format::Q4_0] {
        assert!(PackedWeight::table(1, 64, format, |_, _| ()).is_err());
    }
}

#[test]
#[should_panic(expected = "a table is not multiplied")]
fn a_table_is_not_multiplied() {
    let table = PackedWeight::table(2, 4, Format::F32, |_, to| to.fill(0)).expect("a table");
    let mut out = Rows::new();
    let x = Rows::from_vec(4, vec![1.0; 4]);
    linear(
        &cx(Isa::Portable, 1),
        &x,
        &table,
        Epilogue::default(),
        &mut out,
    );
}

/// What a model takes is about its file: of no format are the packed bytes more than 20 % above it.
#[test]
fn packed_weights_are_about_as_large_as_files() {
    for format in Format::ALL {
        let file = 512 / format.block_len() * format.block_bytes();
        let packed = format.packed_bytes(512);
        assert!(5 * packed <= 6 * file, "{format:?}: {packed} for {file}");
    }
    // The control: what unpacking to int8 would take.
    let file = 512 / Format::Q6K.block_len() * Format::Q6K.block_bytes();
    assert!(5 * 512 > 6 * file);
}

#[test]
fn stacking_keeps_every_row() {
    let mut random = Random::new(6);
    for format in all() {
        let cols = format.block_len().max(64);
        for sizes in [vec![64, 32, 5], vec![3, 7, 33], vec![20], vec![0, 4]] {
            let parts: Vec<_> = sizes
                .iter()
                .map(|n| random.weight(*n, cols, format))
                .collect();
            let mut expected = Vec::new();
            for part in &parts {
                for row in 0..part.rows() {
                    let mut values = vec![0.0; cols];
                    part.dequantize_row(row, &mut values);
                    expected.push(values);
                }
            }
            let all = PackedWeight::stack(parts).expect("parts that fit");
            assert_eq!(all.rows(), expected.len());
            for (row, expected) in expected.iter().enumerate() {
                let mut values = vec![0.0; cols];
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
    for format in Format::ALL {
        let cols = format.block_len().max(64);
        let bytes = Random::new(2).bytes(3, cols, format);
        for bytes in [&bytes[1..], &[]] {
            let refused = PackedWeight::from_bytes(3, cols, format, bytes);
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
