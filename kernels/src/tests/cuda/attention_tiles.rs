//! Attention in tiles, on tensor cores: who goes there, what it gives, and what must not reach a query.
//!
//! The bound: queries, keys and values are those of the naive body, rounded as in tiles, so what is left is the rounding of
//! exponentials, by up to 1/512 of each to bf16 and 1/2048 to f16. It changes a mean of values of up to 10 by that share of 10.

use super::super::attention::{self as table, WINDOWS, capped, layout, spec};
use super::*;
use crate::cuda::Attend;
use crate::{AttnSpec, HeadLayout, KvDtype, reference, varlen, varlen_one};
use std::ops::Range;

/// Query heads, key heads, values of a key, values of a value: each width of kernel, with heads that share keys, more of them than a
/// block has queries, and widths that are not whole.
const LAYOUTS: [(usize, usize, usize, usize); 6] = [
    (4, 2, 16, 16),
    (9, 3, 64, 64),
    (70, 1, 16, 8),
    (4, 2, 40, 24),
    (3, 3, 80, 104),
    (4, 1, 256, 200),
];

/// Requests that read prompts, beside others that generate, one of them behind a context that blocks share.
const STEP_OF_ALL: [(usize, Range<usize>); 6] = [
    (0, 0..1),
    (1, 60..70),
    (2, 0..64),
    (3, 64..65),
    (4, 299..300),
    (5, 3..15),
];

/// Caches, and the compute capability of the device.
const KINDS: [(KvDtype, i64); 7] = [
    (KvDtype::Bf16, 80),
    (KvDtype::F16, 80),
    (KvDtype::Fp8, 80),
    (KvDtype::Int8, 80),
    (KvDtype::F16, 75),
    (KvDtype::Fp8, 75),
    (KvDtype::Int8, 75),
];

fn in_f16((dtype, capability): (KvDtype, i64)) -> bool {
    dtype == KvDtype::F16 || capability < 80
}

fn round(kind: (KvDtype, i64), v: f32) -> f32 {
    if in_f16(kind) {
        half::f16::from_f32(v).to_f32()
    } else {
        half::bf16::from_f32(v).to_f32()
    }
}

fn bound(kind: (KvDtype, i64)) -> f32 {
    if in_f16(kind) {
        10.0 / 2048.0
    } else {
        10.0 / 512.0
    }
}

/// Whether a request goes through tiles.
fn tiled(layout: &HeadLayout, rows: &Range<usize>) -> bool {
    rows.len() > 4 && rows.len() * layout.q_heads / layout.kv_heads >= 16
}

#[test]
fn requests_of_many_rows_agree_with_the_naive_body() {
    for (number, heads) in LAYOUTS.into_iter().enumerate().step_by(STEP) {
        // Every kind with one width, two with each other.
        let kinds = KINDS.into_iter().enumerate();
        for (i, kind) in kinds.filter(|(i, _)| number == 1 || i % 3 == number % 3) {
            let world = World::with(&[("seed", i as i64), ("capability", kind.1)]);
            let layout = layout(heads);
            let lens = [1, 70, 64, 65, 300, 15];
            let size = if i % 2 == 0 { 16 } else { 48 };
            let mut cache = table::World::on(&world.cx, layout, &lens, (size, kind.0));
            let plain = WINDOWS.map(|window| spec(layout, true, window));
            let specs = [plain[0], plain[2], capped(plain[3])];
            let got = specs.map(|spec| cache.step(Some(&world.cx), &spec, &STEP_OF_ALL));
            let exact = specs.map(|spec| cache.step(None, &spec, &STEP_OF_ALL));
            cache.round_queries(&layout, |v| round(kind, v));
            for ((spec, got), exact) in specs.iter().zip(&got).zip(&exact) {
                let rounded = cache.step(None, spec, &STEP_OF_ALL);
                let mut first = 0;
                for (_, rows) in &STEP_OF_ALL {
                    let (expected, bound) = if tiled(&layout, rows) {
                        (&rounded, bound(kind))
                    } else {
                        (exact, 1e-5)
                    };
                    for r in first..first + rows.len() {
                        let what = format!("{heads:?} {kind:?} {spec:?} row {r}");
                        assert_close(&what, got.row(r), expected.row(r), bound);
                    }
                    first += rows.len();
                }
                let pairs = got.as_slice().iter().zip(exact.as_slice());
                let most = pairs.map(|(g, e)| (g - e).abs()).fold(0.0, f32::max);
                assert!(most > 1e-4, "{heads:?} {kind:?}: nothing was rounded");
            }
            world.good();
        }
    }
}

/// The controls: another block in the table, and tiles that are read before they are there.
#[test]
fn a_shifted_table_and_a_missing_barrier_are_noticed() {
    let world = World::new();
    let layout = layout((4, 2, 64, 64));
    let kind = (KvDtype::Bf16, 80);
    let mut cache = table::World::on(&world.cx, layout, &[200], (16, kind.0));
    let mut rounded = table::World::on(&world.cx, layout, &[200], (16, kind.0));
    rounded.round_queries(&layout, |v| round(kind, v));
    let (spec, part) = (spec(layout, true, None), [(0, 150..200)]);
    let expected = rounded.step(None, &spec, &part);
    let wrong = |got: &Rows| {
        let apart = |(g, e): &(&f32, &f32)| g.is_nan() || (*g - *e).abs() > bound(kind);
        let pairs = got.as_slice().iter().zip(expected.as_slice());
        pairs.filter(apart).count()
    };
    for &seed in SEEDS {
        world.device.set("seed", seed);
        let good = cache.step(Some(&world.cx), &spec, &part);
        assert_eq!(wrong(&good), 0);
        let stream = world.cx.stream().expect("a stream");
        let bad = cache.step_by(&spec, &part, |qkv, kv, meta, out| {
            crate::cuda::ops::paged_without_barrier(stream, qkv, kv, meta, &spec, out);
        });
        assert!(wrong(&bad) > 100, "seed {seed}: {}", wrong(&bad));
    }
    cache.requests[0].table.rotate_left(1);
    let shifted = cache.step(Some(&world.cx), &spec, &part);
    assert!(wrong(&shifted) > 1000, "{}", wrong(&shifted));
    world.good();
}

#[test]
fn a_query_has_the_same_bits_in_any_company_chunk_and_order() {
    const LEN: usize = 300;
    for (heads, kind, window) in [
        ((8, 2, 64, 64), (KvDtype::Bf16, 80), None),
        ((8, 2, 56, 40), (KvDtype::F16, 75), Some(70)),
        ((20, 1, 128, 128), (KvDtype::Int8, 80), None),
        ((4, 1, 16, 16), (KvDtype::Int8, 75), Some(100)),
        ((4, 1, 144, 8), (KvDtype::Fp8, 80), None),
    ]
    .into_iter()
    .step_by(STEP)
    {
        let world = World::with(&[("capability", kind.1)]);
        let layout = layout(heads);
        let mut cache = table::World::on(&world.cx, layout, &[LEN, 40, 130], (16, kind.0));
        let spec = spec(layout, true, window);
        let mut whole: Option<Rows> = None;
        for &seed in SEEDS {
            world.device.set("seed", seed);
            let got = cache.step(Some(&world.cx), &spec, &[(0, 0..LEN)]);
            let whole = whole.get_or_insert_with(|| got.clone());
            assert_bits("order", got.as_slice(), whole.as_slice());
        }
        let whole = whole.expect("there are seeds");
        for chunk in [64, 7, 100].into_iter().step_by(STEP) {
            for start in (0..LEN).step_by(chunk) {
                let rows = start..LEN.min(start + chunk);
                if !tiled(&layout, &rows) {
                    continue;
                }
                let mut step = vec![(0, rows.clone())];
                let others = start % (2 * chunk) != 0;
                if others {
                    // One that generates, and one that reads its prompt.
                    step.insert(0, (1, 39..40));
                    step.push((2, 100..130));
                }
                let out = cache.step(Some(&world.cx), &spec, &step);
                for (i, r) in rows.enumerate() {
                    let what = format!("{heads:?} {kind:?} chunk {chunk} row {r}");
                    assert_bits(&what, out.row(usize::from(others) + i), whole.row(r));
                }
            }
        }
        world.good();
    }
}

/// A token that is no number, in one of its values or in its key, is NaN to those that see it and nothing to the others, though they
/// share a tile.
#[test]
fn what_a_query_does_not_see_does_not_reach_it() {
    const LEN: usize = 90;
    const BAD: usize = 45;
    let layout = layout((4, 1, 16, 16));
    let value_at = 5 * 16 + 3;
    for kind in KINDS.into_iter().step_by(STEP) {
        let world = World::with(&[("capability", kind.1)]);
        for (window, sees) in [(None, BAD..LEN), (Some(20), BAD..BAD + 20)] {
            let spec = spec(layout, true, window);
            let mut cache = table::World::on(&world.cx, layout, &[LEN], (16, kind.0));
            let part = [(0, 0..LEN)];
            let clean = cache.step(Some(&world.cx), &spec, &part);
            for (at, of_value) in [(value_at, true), (4 * 16, false)] {
                let mut cache = table::World::on(&world.cx, layout, &[LEN], (16, kind.0));
                cache.change(&world.cx, (0, BAD), |row| row[at] = f32::NAN);
                let got = cache.step(Some(&world.cx), &spec, &part);
                for r in 0..LEN {
                    for (i, (g, c)) in got.row(r).iter().zip(clean.row(r)).enumerate() {
                        // A scale of int8 is that of all values of a head.
                        let one = of_value && kind.0 != KvDtype::Int8;
                        let hit = sees.contains(&r) && (!one || i % 16 == 3);
                        let same = g.to_bits() == c.to_bits();
                        let what = format!("{kind:?} {window:?} {of_value} row {r} value {i}");
                        assert!(if hit { g.is_nan() } else { same }, "{what}: {g}, not {c}");
                    }
                }
            }
        }
        world.good();
    }
}

/// Scales of int8 far from 1 leave no range of 16 bits.
#[test]
fn values_of_any_size_keep_their_share() {
    let layout = layout((4, 1, 16, 16));
    for (capability, size) in [(75, 1e-7), (75, 1e7), (80, 1e-7)] {
        let world = World::with(&[("capability", capability)]);
        let kind = (KvDtype::Int8, capability);
        let mut cache = table::World::on(&world.cx, layout, &[90], (16, kind.0));
        for t in 0..90 {
            let scale = |row: &mut [f32]| {
                for v in &mut row[5 * 16..] {
                    *v *= size;
                }
            };
            cache.change(&world.cx, (0, t), scale);
        }
        let (spec, part) = (spec(layout, true, None), [(0, 0..90)]);
        let mut got = cache.step(Some(&world.cx), &spec, &part);
        cache.round_queries(&layout, |v| round(kind, v));
        let mut expected = cache.step(None, &spec, &part);
        for rows in [&mut got, &mut expected] {
            for v in rows.as_mut_slice() {
                *v /= size;
            }
        }
        let what = format!("{capability} {size}");
        assert_close(&what, got.as_slice(), expected.as_slice(), bound(kind));
        world.good();
    }
}

/// Packed sequences whose products round are written down in 16 bits; others are as exact as ever. One query of each has the bits that
/// it has among all, however short its sequence.
#[test]
fn sequences_in_halves_agree_with_the_naive_body_of_rounded_rows() {
    let cu = [0u32, 1, 1, 17, 81, 82, 250];
    for (heads, capability) in [
        ((4, 2, 16, 16), 80),
        ((12, 12, 64, 64), 80),
        ((4, 4, 64, 64), 75),
        ((2, 2, 33, 20), 80),
    ]
    .into_iter()
    .step_by(STEP)
    {
        let world = World::with(&[("capability", capability), ("seed", 2)]);
        let layout = layout(heads);
        let kind = (KvDtype::Bf16, capability);
        let there = heads.2 % 8 == 0;
        let qkv = Random::new(31).rows(250, layout.qkv_width());
        let values = qkv.as_slice().iter();
        let rounded = values.map(|v| if there { round(kind, *v) } else { *v });
        let rounded = Rows::from_vec(layout.qkv_width(), rounded.collect());
        for (causal, window) in [(false, None), (false, Some(7)), (true, None)] {
            let exact = spec(layout, causal, window);
            let halves = AttnSpec {
                halves: true,
                ..exact
            };
            let (mut expected, mut got) = (Rows::new(), Rows::new());
            let what = format!("{heads:?} {capability} {causal} {window:?}");
            varlen(&world.cx, &qkv, &cu, &exact, &mut got);
            reference::varlen(&qkv, &cu, &exact, &mut expected);
            assert_close(&what, got.as_slice(), expected.as_slice(), 1e-5);
            varlen(&world.cx, &qkv, &cu, &halves, &mut got);
            assert_eq!(
                far(got.as_slice(), expected.as_slice()) > 0,
                there,
                "{what}: rounded where there are tiles"
            );
            reference::varlen(&rounded, &cu, &exact, &mut expected);
            let bound = if there { bound(kind) } else { 1e-5 };
            assert_close(&what, got.as_slice(), expected.as_slice(), bound);
            for rows in [[0, 1, 17, 81, 82], [0, 16, 80, 81, 249]] {
                // The sequences that have a row.
                let some = [0, 1, 17, 81, 82, 250];
                let mut one = Rows::new();
                varlen_one(&world.cx, &qkv, (&some, &rows), &halves, &mut one);
                for (i, row) in rows.into_iter().enumerate() {
                    assert_bits(&what, one.row(i), got.row(row as usize));
                }
            }
            world.good();
        }
        let launched = world.device.count("launch:attention_tiles_bf16_d64")
            + world.device.count("launch:attention_tiles_f16_d64");
        assert_eq!(launched > 0, there, "{heads:?}");
    }
}

/// Who measures says which way; what there is not is an error.
#[test]
fn a_way_that_is_wished_for_is_gone() {
    let world = World::new();
    let layout = layout((4, 2, 16, 16));
    let mut cache = table::World::on(&world.cx, layout, &[90], (16, KvDtype::Bf16));
    let mut exact = table::World::on(&world.cx, layout, &[90], (16, KvDtype::F32));
    let spec = spec(layout, true, None);
    let count = |kernel: &str| world.device.count(&format!("launch:{kernel}"));
    for (way, rows, in_tiles) in [
        (None, 80..90, true),
        (None, 83..90, false),
        (Some(Attend::Plain), 80..90, false),
        (Some(Attend::Tiles), 89..90, true),
    ] {
        world.cx.attend_by(way);
        let before = [
            count("attention_tiles_bf16_d64"),
            count("attention_bf16_q4_c1"),
        ];
        cache
            .step(Some(&world.cx), &spec, &[(0, rows.clone())])
            .as_slice();
        world.good();
        let after = [
            count("attention_tiles_bf16_d64"),
            count("attention_bf16_q4_c1"),
        ];
        let went = [after[0] - before[0], after[1] - before[1]];
        let expected = if in_tiles { [1, 0] } else { [0, 1] };
        assert_eq!(went, expected, "{way:?} {rows:?}");
    }
    exact.step(Some(&world.cx), &spec, &[(0, 80..90)]);
    let error = world.cx.check().expect_err("no such way").to_string();
    assert!(error.contains("no tiles for heads of 16 and 16"), "{error}");
}
