//! Operations on single rows.

use super::*;
use crate::pool;
use crate::tests::pooling::{CASES, MODES, ends};
use crate::{
    HeadLayout, RopeTable, gather_rows, layer_norm, reference, rms_norm, rms_norm_add,
    rms_norm_heads, rope, rope_angles, scale_rows, silu_mul, soft_cap,
};

/// As the world's [`World::in_all_orders`], and no row changes a bit when it is alone.
#[track_caller]
fn same_in_any_company(world: &World, x: &Rows, run: impl Fn(&Cx, &Rows) -> Rows) -> Rows {
    let all = world.in_all_orders(|cx| run(cx, x));
    for r in [0, x.rows() / 2, x.rows() - 1] {
        let one = run(&world.cx, &Rows::from_vec(x.width(), x.row(r).to_vec()));
        assert_bits("a row alone", one.as_slice(), all.row(r));
    }
    world.good();
    all
}

#[test]
fn norms_agree_with_the_naive_body() {
    let world = World::new();
    for (rows, width) in [(1, 1), (3, 15), (7, 64), (2, 100), (130, 576), (5, 2048)] {
        let mut random = Random::new(width as u64);
        let (x, weight) = (random.rows(rows, width), random.values(width));
        let bias = random.values(width);
        let what = format!("{rows} x {width}");
        let mut expected = Rows::new();
        reference::rms_norm(&x, &weight, 1e-5, &mut expected);
        let got = same_in_any_company(&world, &x, |cx, x| {
            let mut out = Rows::new();
            rms_norm(cx, x, &weight, 1e-5, &mut out);
            out
        });
        assert_close(&what, got.as_slice(), expected.as_slice(), 1e-6);
        let mut expected = x.clone();
        reference::rms_norm_add(&x, &weight, 1e-5, &mut expected);
        let got = same_in_any_company(&world, &x, |cx, x| {
            let mut out = x.clone();
            rms_norm_add(cx, x, &weight, 1e-5, &mut out);
            out
        });
        assert_close(&what, got.as_slice(), expected.as_slice(), 1e-6);
        let mut expected = x.clone();
        reference::layer_norm(&mut expected, &weight, &bias, 1e-5);
        let got = same_in_any_company(&world, &x, |cx, x| {
            let mut out = x.clone();
            layer_norm(cx, &mut out, &weight, &bias, 1e-5);
            out
        });
        assert_close(&what, got.as_slice(), expected.as_slice(), 3e-6);
    }
    // One launch for each order of threads and each row alone, and nothing else: the norms did run there.
    assert!(world.device.count("launch:layer_norm") > 0);
}

#[test]
fn norms_of_heads_agree_with_the_naive_body() {
    let world = World::new();
    for (q_heads, kv_heads, k_dim) in [(1, 1, 1), (3, 1, 20), (4, 2, 64), (8, 4, 256)] {
        let layout = HeadLayout {
            q_heads,
            kv_heads,
            k_dim,
            v_dim: 5,
        };
        let mut random = Random::new(k_dim as u64);
        let x = random.rows(5, layout.qkv_width());
        let (query, key) = (random.values(k_dim), random.values(k_dim));
        let mut expected = x.clone();
        reference::rms_norm_heads(&mut expected, &layout, (&query, &key), 1e-5);
        let got = same_in_any_company(&world, &x, |cx, x| {
            let mut out = x.clone();
            rms_norm_heads(cx, &mut out, &layout, (&query, &key), 1e-5);
            out
        });
        assert_close(
            &format!("{layout:?}"),
            got.as_slice(),
            expected.as_slice(),
            1e-6,
        );
    }
}

#[test]
fn rope_agrees_with_the_naive_body() {
    let world = World::new();
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
            let mut expected_angles = Rows::new();
            reference::rope_angles(&positions, &table, &mut expected_angles);
            let what = format!("{k_dim} {half} {interleaved}");
            let mut expected = x.clone();
            reference::rope(&mut expected, &layout, &expected_angles, interleaved);
            let got = world.in_all_orders(|cx| {
                let (mut angles, mut got) = (Rows::new(), x.clone());
                rope_angles(cx, &positions, &table, &mut angles);
                rope(cx, &mut got, &layout, &angles, interleaved);
                assert_close(&what, angles.as_slice(), expected_angles.as_slice(), 1e-6);
                got
            });
            assert_close(&what, got.as_slice(), expected.as_slice(), 3e-6);
        }
    }
}

#[test]
fn values_by_themselves_agree_with_the_naive_body() {
    let world = World::new();
    let x = Random::new(4).rows(70, 333);
    let mut expected = x.clone();
    reference::soft_cap(&mut expected, 2.5);
    let got = same_in_any_company(&world, &x, |cx, x| {
        let mut out = x.clone();
        soft_cap(cx, &mut out, 2.5);
        out
    });
    assert_close("soft cap", got.as_slice(), expected.as_slice(), 1e-6);
    let got = same_in_any_company(&world, &x, |cx, x| {
        let mut out = x.clone();
        scale_rows(cx, &mut out, 1.5);
        out
    });
    let expected: Vec<f32> = x.as_slice().iter().map(|v| v * 1.5).collect();
    assert_bits("scale", got.as_slice(), &expected);
    let up = Random::new(5).values(333);
    let ups = |rows: usize| Rows::from_vec(333, up.repeat(rows));
    let mut expected = x.clone();
    reference::silu_mul(&mut expected, &ups(70));
    let got = same_in_any_company(&world, &x, |cx, x| {
        let mut out = x.clone();
        silu_mul(cx, &mut out, &ups(x.rows()));
        out
    });
    assert_close("gate", got.as_slice(), expected.as_slice(), 1e-6);
    let picked = [69, 0, 0, 33];
    for cx in [&world.cx, &cx(Isa::Portable, 2)] {
        let mut out = Rows::new();
        gather_rows(cx, &x, &picked, &mut out);
        for (i, r) in picked.iter().enumerate() {
            assert_bits("gather", out.row(i), x.row(*r as usize));
        }
    }
    world.good();
}

/// A norm whose barrier is missing gives other values in another order of threads.
#[test]
fn a_missing_barrier_is_noticed() {
    let world = World::new();
    let x = Random::new(5).rows(3, 600);
    let weight = vec![1.0; 600];
    let mut expected = Rows::new();
    reference::rms_norm(&x, &weight, 1e-5, &mut expected);
    let wrong = SEEDS.iter().filter(|seed| {
        world.device.set("seed", **seed);
        let mut out = Rows::new();
        crate::cuda::ops::rms_norm_without_barrier(
            world.cx.stream().expect("a stream"),
            &x,
            (&weight, 1e-5),
            &mut out,
        );
        far(out.as_slice(), expected.as_slice()) > 0
    });
    assert_eq!(wrong.count(), SEEDS.len());
    world.good();
}

/// The processor's bits, for all modes, with first tokens left out; a text alone gives the same.
#[test]
fn pooling_has_the_bits_of_the_processor() {
    let world = World::new();
    let processor = cx(Isa::Portable, 1);
    for (width, lens, skips) in CASES {
        let ends = ends(lens);
        let tokens = ends[lens.len()] as usize;
        let hidden = Random::new(width as u64).rows(tokens, width);
        let what = format!("{width} {lens:?}");
        let mut expected = Rows::new();
        pool(&processor, &MODES, &hidden, (&ends, skips), &mut expected);
        let got = world.in_all_orders(|cx| {
            let mut out = Rows::new();
            pool(cx, &MODES, &hidden, (&ends, skips), &mut out);
            out
        });
        assert_bits(&what, got.as_slice(), expected.as_slice());
        let last = lens.len() - 1;
        let rows = hidden.as_slice()[ends[last] as usize * width..].to_vec();
        let (alone, mut out) = (Rows::from_vec(width, rows), Rows::new());
        let skip = skips.get(last).map_or(vec![], |skip| vec![*skip]);
        pool(
            &world.cx,
            &MODES,
            &alone,
            (&[0, lens[last]], &skip),
            &mut out,
        );
        assert_bits(&what, out.as_slice(), got.row(last));
        // The control: one token less is another vector.
        if lens[last] > skip.first().unwrap_or(&0) + 1 {
            let mut less = Rows::new();
            pool(
                &world.cx,
                &MODES[2..3],
                &alone,
                (&[0, lens[last] - 1], &skip),
                &mut less,
            );
            assert_ne!(less.row(0), &got.row(last)[2 * width..3 * width], "{what}");
        }
        world.good();
    }
}

/// States on the device, written there and read by a later step; copies of them in all layers.
#[test]
fn states_are_updated_and_copied_on_the_device() {
    use crate::tests::{cache, recurrent};
    let world = World::new();
    let expected = recurrent::expected();
    for &seed in SEEDS {
        world.device.set("seed", seed);
        for cuts in [&[][..], &[7, 8, 30]] {
            assert_eq!(recurrent::run(&world.cx, cuts), expected, "{cuts:?}");
        }
        world.good();
    }
    assert!(world.device.count("launch:mix_states") > 0, "it ran there");
    let kv = crate::KvCache::on(&world.cx, &cache::GROUPS, 5, 4, crate::KvDtype::Bf16);
    cache::check_state_copy(&mut kv.expect("a small cache"));
    world.good();
}
