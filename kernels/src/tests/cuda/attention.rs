//! Attention over a cache on a device and inside packed sequences, by the plain kernel; `attention_tiles` has the other.

use super::super::attention::{self as table, LAYOUTS, WINDOWS, capped, layout, spec};
use super::super::cache::rounded;
use super::*;
use crate::cuda::Attend;
use crate::{
    AttnSpec, CacheGroup, GroupKind, KvCache, KvDtype, reference, varlen, varlen_one, write_kv,
};

/// What a request was and is: its last rows.
const REQUESTS: [(usize, std::ops::Range<usize>); 6] = [
    (0, 0..1),
    (1, 60..70),
    (2, 0..64),
    (3, 64..65),
    (4, 599..600),
    (5, 3..15),
];

#[test]
fn paged_agrees_with_the_naive_body() {
    // In steps, one of each width of values.
    for (number, heads) in LAYOUTS.into_iter().enumerate().step_by(STEP.min(2)) {
        let all = [(16, KvDtype::F32), (48, KvDtype::Bf16), (16, KvDtype::Int8)];
        // What only devices have differs from those in how numbers are read alone.
        let more = [(16, KvDtype::F16), (48, KvDtype::Fp8)];
        let more = more.into_iter().filter(|_| number % 4 == 0);
        for (size, dtype) in all.into_iter().chain(more) {
            let world = World::with(&[("seed", number as i64)]);
            world.cx.attend_by(Some(Attend::Plain));
            let layout = layout(heads);
            let lens = [1, 70, 64, 65, 600, 15];
            let mut cache = table::World::on(&world.cx, layout, &lens, (size, dtype));
            let plain = WINDOWS.map(|window| spec(layout, true, window));
            for spec in [plain[0], plain[2], capped(plain[3])] {
                let expected = cache.step(None, &spec, &REQUESTS);
                let got = cache.step(Some(&world.cx), &spec, &REQUESTS);
                let what = format!("{size} {dtype:?} {spec:?}");
                assert_close(&what, got.as_slice(), expected.as_slice(), 1e-5);
                world.good();
            }
        }
    }
}

#[test]
fn a_query_has_the_same_bits_in_any_company_and_order() {
    const LEN: usize = 600;
    let world = World::new();
    world.cx.attend_by(Some(Attend::Plain));
    for (heads, dtype, window) in [
        ((9, 3, 64, 64), KvDtype::Bf16, None),
        ((3, 1, 5, 7), KvDtype::F32, Some(300)),
        ((4, 2, 20, 20), KvDtype::Int8, None),
        ((4, 2, 20, 20), KvDtype::Fp8, None),
    ] {
        let layout = layout(heads);
        let mut cache = table::World::on(&world.cx, layout, &[LEN, 40, 330], (16, dtype));
        let spec = spec(layout, true, window);
        let mut whole: Option<Rows> = None;
        for &seed in SEEDS {
            world.device.set("seed", seed);
            let got = cache.step(Some(&world.cx), &spec, &[(0, LEN - 40..LEN)]);
            let whole = whole.get_or_insert_with(|| got.clone());
            assert_bits("order", got.as_slice(), whole.as_slice());
        }
        let whole = whole.expect("there are seeds");
        for r in [LEN - 40, LEN - 1] {
            for others in [false, true] {
                let mut step = vec![(0, r..r + 1)];
                if others {
                    step.insert(0, (1, 39..40));
                    step.push((2, 300..330));
                }
                let out = cache.step(Some(&world.cx), &spec, &step);
                let what = format!("{spec:?} row {r} {others}");
                assert_bits(&what, out.row(usize::from(others)), whole.row(r + 40 - LEN));
            }
        }
        world.good();
    }
    assert!(
        world.device.count("launch:merge_splits_c2") > 0,
        "splits were shared"
    );
}

/// Every kind of number: all of E4M3 and what lies halfway between them, a step beside that, and what no E4M3 holds.
#[test]
fn what_is_written_is_rounded_to_nearest_even() {
    let world = World::new();
    let layout = layout((1, 1, 64, 64));
    let mut values: Vec<f32> = Vec::new();
    for code in 0..0x7e_u8 {
        let value = |code| reference::grouped(crate::Code::Fp8, code, 1.0, 0);
        let half = f32::midpoint(value(code), value(code + 1));
        values.extend([value(code), -half, half.next_up(), -half.next_down()]);
    }
    values.extend([
        448.0,
        -448.1,
        1e30,
        0.0,
        -0.0,
        1e-30,
        -f32::MIN_POSITIVE,
        65504.0,
        -65519.9,
    ]);
    values.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    values.extend(Random::new(3).values(500));
    values.resize(values.len().next_multiple_of(64), 1.0);
    for dtype in [KvDtype::F16, KvDtype::Fp8, KvDtype::Bf16, KvDtype::F32] {
        let group = CacheGroup {
            kind: GroupKind::Full(layout),
            layers: 1,
        };
        let blocks = values.len().div_ceil(64 * 16);
        let mut kv = KvCache::on(&world.cx, &[group], blocks, 16, dtype).expect("a cache");
        let rows = values
            .chunks(64)
            .flat_map(|row| [[0.0; 64].as_slice(), row, row].concat());
        let qkv = Rows::from_vec(layout.qkv_width(), rows.collect());
        let slots: Vec<u32> = (0..qkv.rows() as u32).collect();
        write_kv(&world.cx, &qkv, &mut kv.layer(0, 0), &slots);
        world.good();
        let mut wrong = 0;
        for (slot, row) in values.chunks(64).enumerate() {
            let expected: Vec<f32> = row.iter().map(|v| rounded(dtype, row, *v)).collect();
            let (mut key, mut value) = ([0.0; 64], [0.0; 64]);
            kv.layer(0, 0).read_key(slot, 0, &mut key);
            kv.layer(0, 0).read_value(slot, 0, &mut value);
            for got in [key, value] {
                let same =
                    |(g, e): (&f32, &f32)| g.to_bits() == e.to_bits() || (g.is_nan() && e.is_nan());
                let good = got.iter().zip(&expected).all(same);
                assert!(good, "{dtype:?}: {got:?}, not {expected:?}");
                // The control: what was written is not what is stored.
                wrong += got.iter().zip(row).filter(|(g, v)| g != v).count();
            }
        }
        assert_eq!(
            wrong < 10,
            dtype == KvDtype::F32,
            "{dtype:?}: {wrong} changed"
        );
    }
}

/// The controls: another block, or one block too few in the table, is not the same; one that was freed is refused.
#[test]
fn a_shifted_table_is_noticed() {
    let world = World::new();
    let layout = layout((4, 2, 16, 16));
    let mut cache = table::World::on(&world.cx, layout, &[41], (16, KvDtype::F32));
    let spec = spec(layout, true, None);
    let expected = cache.step(None, &spec, &[(0, 40..41)]);
    cache.requests[0].table.rotate_left(1);
    let got = cache.step(Some(&world.cx), &spec, &[(0, 40..41)]);
    assert!(far(got.as_slice(), expected.as_slice()) > 10);
    cache.requests[0].table[1] = crate::BlockTables::FREED;
    let run = std::panic::AssertUnwindSafe(|| cache.step(Some(&world.cx), &spec, &[(0, 40..41)]));
    assert!(std::panic::catch_unwind(run).is_err());
    world.good();
}

#[test]
fn varlen_agrees_with_the_naive_body() {
    let world = World::new();
    let cu = [0u32, 1, 1, 17, 81, 82, 250];
    for (number, heads) in LAYOUTS.into_iter().enumerate().step_by(STEP.min(2)) {
        world.device.set("seed", number as i64);
        let layout = layout(heads);
        let qkv = Random::new(31).rows(250, layout.qkv_width());
        for (causal, window) in [
            (false, None),
            (false, Some(7)),
            (true, None),
            (true, Some(100)),
        ] {
            let spec = spec(layout, causal, window);
            let (mut expected, mut got) = (Rows::new(), Rows::new());
            reference::varlen(&qkv, &cu, &spec, &mut expected);
            varlen(&world.cx, &qkv, &cu, &spec, &mut got);
            let what = format!("{heads:?} {causal} {window:?}");
            assert_close(&what, got.as_slice(), expected.as_slice(), 1e-5);
            world.good();
        }
    }
}

#[test]
fn one_query_of_each_sequence_has_the_bits_that_it_has_among_all() {
    let world = World::new();
    let cu = [0u32, 40, 41, 700];
    for (heads, window) in [((9, 3, 64, 64), None), ((3, 1, 5, 7), Some(65))] {
        let layout = layout(heads);
        let qkv = Random::new(17).rows(700, layout.qkv_width());
        let spec = spec(layout, false, window);
        let mut whole = Rows::new();
        varlen(&world.cx, &qkv, &cu, &spec, &mut whole);
        for rows in [[0, 40, 41], [39, 40, 699], [7, 40, 350]] {
            let some = world.in_all_orders(|cx| {
                let mut some = Rows::new();
                varlen_one(cx, &qkv, (&cu, &rows), &spec, &mut some);
                some
            });
            assert_eq!((some.rows(), some.width()), (3, layout.out_width()));
            for (i, row) in rows.into_iter().enumerate() {
                let what = format!("{window:?} row {row}");
                assert_bits(&what, some.row(i), whole.row(row as usize));
            }
        }
        // The control: another row is not the same.
        assert!(far(whole.row(350), whole.row(351)) > 0);
    }
}

#[test]
fn a_window_reaches_to_both_sides_across_splits() {
    let world = World::new();
    let layout = layout((2, 1, 8, 8));
    let qkv = Random::new(5).rows(600, layout.qkv_width());
    let spec = spec(layout, false, Some(65));
    let mut expected = Rows::new();
    reference::varlen(&qkv, &[0, 600], &spec, &mut expected);
    let run = |spec: AttnSpec| {
        world.in_all_orders(|cx| {
            let mut got = Rows::new();
            varlen(cx, &qkv, &[0, 600], &spec, &mut got);
            got
        })
    };
    assert_close("both", run(spec).as_slice(), expected.as_slice(), 1e-5);
    let causal = true;
    let back = run(AttnSpec { causal, ..spec });
    let apart = |r: usize| (back.row(r)[0] - expected.row(r)[0]).abs();
    assert!(apart(300) > 1e-3 && apart(599) < 1e-5);
}

#[test]
fn heads_that_are_too_large_are_an_error() {
    let world = World::new();
    let layout = layout((1, 1, 8, 300));
    let qkv = Random::new(5).rows(3, layout.qkv_width());
    let spec = spec(layout, false, None);
    varlen(&world.cx, &qkv, &[0, 3], &spec, &mut Rows::new());
    let error = world.cx.check().expect_err("too large").to_string();
    assert!(error.contains("heads of 8 and 300 values"), "{error}");
    world.good();
}
