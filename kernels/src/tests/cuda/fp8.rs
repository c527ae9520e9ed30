//! Products of FP8: what is rounded and how, against sums in f64; and where there are none.

use super::super::linear::THENS;
use super::linear::expected;
use super::*;
use crate::cpu::grouped::{round, to_e4m3};
use crate::{Code, Epilogue, Error, Groups, Scale, embed, linear};

/// The value of a code.
fn value(code: u8) -> f32 {
    reference::grouped(Code::Fp8, code, 1.0, 0)
}

fn weight(random: &mut Random, rows: usize, cols: usize) -> PackedWeight {
    let values = random.values(rows * cols);
    let weight = PackedWeight::from_f32(rows, cols, Format::FP8, &values).expect("a weight");
    weight.with_fp8_activations().expect("one scale for a row")
}

/// The rows as a device rounds them.
fn rounded(x: &Rows) -> Rows {
    let mut codes = vec![0; x.width()];
    let rows = (0..x.rows()).flat_map(|r| {
        let scale = round(x.row(r), &mut codes);
        codes
            .iter()
            .map(|code| scale * value(*code))
            .collect::<Vec<_>>()
    });
    Rows::from_vec(x.width(), rows.collect())
}

#[test]
fn the_nearest_code_is_taken() {
    let mut last = 0.0;
    for code in 0..0x7f_u8 {
        let here = value(code);
        assert_eq!((to_e4m3(here), to_e4m3(-here)), (code, code | 0x80));
        if code > 0 {
            // Halfway the even one, and a little to either side the nearer one.
            let half = f32::midpoint(last, here);
            assert_eq!(to_e4m3(half), code - code % 2, "{half}");
            assert_eq!(to_e4m3(half.next_down()), code - 1, "{half}");
            assert_eq!(to_e4m3(half.next_up()), code, "{half}");
        }
        last = here;
    }
    assert_eq!([449.0, 1e30, f32::INFINITY].map(to_e4m3), [0x7e; 3]);
    assert_eq!(to_e4m3(f32::NAN) & 0x7f, 0x7f);
}

#[test]
fn products_agree_with_sums_of_rounded_factors() {
    let world = World::with(&[("capability", 89)]);
    for (i, (m, n, k)) in [
        (1, 1, 1),
        (3, 17, 40),
        (9, 16, 16),
        (70, 50, 300),
        (2, 34, 96),
    ]
    .into_iter()
    .enumerate()
    {
        let mut random = Random::new((m + n) as u64);
        let (mut x, weight) = (random.rows(m, k), weight(&mut random, n, k));
        // A row of nothing has no scale.
        x.row_mut(m - 1).fill(if m > 1 { 0.0 } else { 1.5 });
        let (near, bias) = (rounded(&x), random.values(n));
        for (j, then) in THENS.into_iter().enumerate() {
            if then.is_gated() && n % 2 == 1 {
                continue;
            }
            world.device.set("seed", ((i + j) % 6) as i64 - 1);
            let width = if then.is_gated() { n / 2 } else { n };
            let mut got = random.rows(m, width);
            let (mut right, mut exact) = (got.clone(), got.clone());
            let epilogue = Epilogue::bias((j % 2 == 0).then_some(bias.as_slice()), then);
            linear(&world.cx, &x, &weight, epilogue, &mut got);
            expected(&near, &weight, epilogue, |v| v, &mut right);
            let what = format!("{m} x {n} x {k} {then:?}");
            let bound = if then.is_gated() { 1e-4 } else { 2e-5 };
            assert_close(&what, got.as_slice(), right.as_slice(), bound);
            // The control: activations that are not rounded give something else.
            expected(&x, &weight, epilogue, |v| v, &mut exact);
            let same = far(exact.as_slice(), right.as_slice()) == 0;
            assert!(!same || k < 40 || m == 1, "{what}");
            world.good();
        }
    }
    let mut random = Random::new(4);
    let (x, weight) = (random.rows(70, 96), weight(&mut random, 40, 96));
    world.in_all_orders(|cx| {
        let mut out = Rows::new();
        linear(cx, &x, &weight, Epilogue::default(), &mut out);
        out
    });
}

/// What is not finite stays in its row.
#[test]
fn a_row_that_is_not_finite_spoils_no_other() {
    let world = World::with(&[("capability", 90)]);
    let mut random = Random::new(5);
    let (x, weight) = (random.rows(4, 64), weight(&mut random, 20, 64));
    let run = |x: &Rows| {
        let mut out = Rows::new();
        linear(&world.cx, x, &weight, Epilogue::default(), &mut out);
        Rows::from_vec(20, out.as_slice().to_vec())
    };
    let clean = run(&x);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut spoiled = x.clone();
        spoiled.row_mut(2)[7] = bad;
        let got = run(&spoiled);
        for r in [0, 1, 3] {
            assert_bits("a clean row", got.row(r), clean.row(r));
        }
        assert!(got.row(2).iter().all(|v| v.is_nan()), "{bad}");
    }
    world.good();
}

#[test]
fn where_there_is_none_an_error_says_what_is_needed() {
    let mut random = Random::new(6);
    let x = random.rows(2, 32);
    for (settings, found) in [
        (vec![("capability", 86)], "has compute capability 8.6"),
        (vec![("capability", 89), ("library", 0)], "has no cuBLASLt"),
    ] {
        let world = World::with(&settings);
        let said = world.gpu.check_fp8().expect_err("no FP8").to_string();
        assert!(
            said.contains(found) && said.contains("8.9 or higher"),
            "{said}"
        );
        let (x, weight) = (x.clone(), weight(&mut random, 8, 32));
        linear(
            &world.cx,
            &x,
            &weight,
            Epilogue::default(),
            &mut Rows::new(),
        );
        let said = world.cx.check().expect_err("no FP8").to_string();
        assert!(said.contains(found), "{said}");
    }
    let world = World::with(&[("capability", 90)]);
    assert!(world.gpu.check_fp8().is_ok());
    embed(
        &world.cx,
        &[0],
        &weight(&mut random, 8, 32),
        &mut Rows::new(),
    );
    let error = world.cx.check().expect_err("no table").to_string();
    assert!(error.contains("are not looked up"), "{error}");
    // One scale for a row, and nothing else.
    let groups = Groups {
        code: Code::Fp8,
        scale: Scale::F32,
        zeros: false,
        cols: 32,
    };
    let blocks = random
        .weight(8, 64, Format::Grouped(groups))
        .with_fp8_activations();
    assert!(matches!(
        blocks,
        Err(Error::Group {
            cols: 64,
            group: 32
        })
    ));
    assert!(
        random
            .weight(8, 64, Format::Q4_0)
            .with_fp8_activations()
            .is_err()
    );
}

#[test]
#[should_panic(expected = "activations of FP8 are for devices")]
fn a_processor_multiplies_none() {
    let mut random = Random::new(7);
    let (x, weight) = (random.rows(2, 32), weight(&mut random, 8, 32));
    linear(
        &cx(Isa::Portable, 1),
        &x,
        &weight,
        Epilogue::default(),
        &mut Rows::new(),
    );
}
