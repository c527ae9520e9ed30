//! Layers of experts on a device: what it picks, the products of all experts at once, and that nothing of it comes home.

use super::super::linear::all;
use super::linear::{expected, rounding};
use super::*;
use crate::cuda::Way;
use crate::{Epilogue, Routing, Then, combine, linear_by_expert, route, spread};

/// Tokens, experts, experts of a token.
const PICKS: [(usize, usize, usize); 5] =
    [(1, 1, 1), (3, 4, 2), (7, 8, 8), (40, 17, 3), (70, 130, 8)];

fn routed(cx: &Cx, logits: &Rows, top_k: usize) -> Routing {
    let mut routing = Routing::default();
    route(cx, &mut logits.clone(), top_k, true, &mut routing);
    routing
}

/// As the processor's, in any order of threads.
#[test]
fn picks_are_those_of_the_processor() {
    let host = cx(Isa::Portable, 1);
    for (tokens, experts, top_k) in PICKS {
        let world = World::new();
        let mut logits = Random::new((tokens + experts) as u64).rows(tokens, experts);
        // Of equal experts the lower numbers are picked, and of a token that is no number the first ones.
        logits.row_mut(tokens - 1).fill(0.5);
        if tokens > 3 {
            logits.row_mut(1).fill(f32::NAN);
            logits.row_mut(2).fill(f32::INFINITY);
        }
        for renormalise in [false, true] {
            let run = |cx: &Cx| {
                let (mut routing, mut probabilities) = (Routing::default(), logits.clone());
                route(cx, &mut probabilities, top_k, renormalise, &mut routing);
                let (mut chosen, mut weights) = (Vec::new(), Vec::new());
                for t in 0..routing.tokens() {
                    let (of_chosen, of_weights) = routing.of(t);
                    chosen.extend(of_chosen.iter().map(|e| *e as f32));
                    weights.extend_from_slice(of_weights);
                }
                weights.extend_from_slice(probabilities.as_slice());
                let numbers = chosen.len();
                chosen.extend(weights);
                (numbers, Rows::from_vec(1, chosen))
            };
            let got = world.in_all_orders(|cx| run(cx).1);
            let (numbers, right) = run(&host);
            let what = format!("{tokens} {experts} {top_k} {renormalise}");
            let (chosen, values) = got.as_slice().split_at(numbers);
            assert_bits(&what, chosen, &right.as_slice()[..numbers]);
            for (got, right) in values.iter().zip(&right.as_slice()[numbers..]) {
                let same = if right.is_nan() {
                    got.is_nan()
                } else {
                    (got - right).abs() <= 1e-6
                };
                assert!(same, "{what} {got} {right}");
            }
        }
    }
}

/// Products of all experts at once, each way, against sums in f64 of each row with its own expert.
#[test]
fn products_by_expert_agree_with_the_naive_body() {
    for (i, format) in all().enumerate().step_by(STEP) {
        for (way, (tokens, experts, top_k)) in [
            (None, (3, 4, 2)),
            (Some(Way::Few), (40, 5, 3)),
            (Some(Way::Tiled), (90, 3, 2)),
        ] {
            let world = World::with(&[("library", 0), ("seed", i as i64 % 6 - 1)]);
            world.cx.multiply_by(way);
            let mut random = Random::new((tokens + i) as u64);
            let (n, cols) = (
                34,
                if format.block_len() > 1 {
                    format.block_len()
                } else {
                    40
                },
            );
            let weights: Vec<_> = (0..experts)
                .map(|_| random.weight(n, cols, format))
                .collect();
            let mut logits = random.rows(tokens, experts);
            // One has most rows, and one has none.
            for t in 0..tokens {
                logits.row_mut(t)[0] += if t % 8 > 0 { 90.0 } else { 0.0 };
                logits.row_mut(t)[experts - 1] -= if experts > top_k { 90.0 } else { 0.0 };
            }
            let x = random.rows(tokens, cols);
            for then in [Then::Store, Then::Add, Then::SiluMul] {
                let width = if then.is_gated() { n / 2 } else { n };
                let start = random.rows(tokens * top_k, width);
                let (mut sorted, mut got) = (Rows::new(), start.clone());
                let routing = routed(&world.cx, &logits, top_k);
                let read = world.device.count("cuMemcpyDtoH");
                spread(&world.cx, &x, &routing, &mut sorted);
                linear_by_expert(&world.cx, &sorted, &routing, &weights, then, &mut got);
                assert_eq!(world.device.count("cuMemcpyDtoH"), read, "nothing is read");
                let few = way != Some(Way::Tiled);
                let round = rounding(format, if few { 1 } else { 9 });
                let what = format!("{format:?} {way:?} {then:?}");
                let mut row = 0;
                for (expert, weight) in weights.iter().enumerate() {
                    for t in (0..tokens).filter(|t| routing.of(*t).0.contains(&(expert as u32))) {
                        assert_bits(&what, sorted.row(row), x.row(t));
                        let one = Rows::from_vec(cols, x.row(t).to_vec());
                        let mut right = Rows::from_vec(width, start.row(row).to_vec());
                        let epilogue = Epilogue::then(then);
                        expected(&one, weight, epilogue, round, &mut right);
                        let bound = if then.is_gated() { 1e-4 } else { 2e-5 };
                        assert_close(&what, got.row(row), right.as_slice(), bound);
                        row += 1;
                    }
                }
                assert_eq!(row, tokens * top_k, "{what}");
                world.good();
            }
        }
    }
}

/// A whole layer: rows of `x` through the experts `gate_up` and `down`, added to rows of ones or stored.
fn layer(
    cx: &Cx,
    (x, logits): (&Rows, &Rows),
    (gate_up, down): (&[PackedWeight], &[PackedWeight]),
    then: Then,
) -> Rows {
    let [mut sorted, mut inner, mut answers] = std::array::from_fn(|_| Rows::new());
    let routing = routed(cx, logits, 2);
    spread(cx, x, &routing, &mut sorted);
    linear_by_expert(cx, &sorted, &routing, gate_up, Then::SiluMul, &mut inner);
    linear_by_expert(cx, &inner, &routing, down, Then::Store, &mut answers);
    let mut out = Rows::from_vec(x.width(), vec![1.0; x.as_slice().len()]);
    combine(cx, &answers, &routing, then, &mut out);
    out
}

/// The length of the difference, of the length of what is right.
fn apart(got: &Rows, right: &Rows) -> f64 {
    let length = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    let both = got.as_slice().iter().zip(right.as_slice());
    length(&mut both.map(|(a, b)| a - b)) / length(&mut right.as_slice().iter().copied())
}

/// As the processor's, the same bits in any company and order of threads; nothing is read of it, whether experts are alike, differ
/// in format, or have their columns in orders of their own.
#[test]
fn layers_stay_on_the_device() {
    for format in [Format::F32, Format::Bf16, Format::Q4_0] {
        let mut random = Random::new(3);
        let mut all = |format, rows: usize| -> Vec<_> {
            (0..6).map(|_| random.weight(rows, 64, format)).collect()
        };
        let (gate_up, down) = (all(format, 128), all(format, 64));
        let (mut mixed, ordered) = (all(format, 64), all(format, 64));
        mixed[4] = random.weight(64, 64, Format::F16);
        mixed[1] = random.weight(64, 64, Format::Q8_0);
        let order = |by: u32| (0..64).map(|col| (col * by + 1) % 64).collect();
        let in_order = |(i, weight): (usize, PackedWeight)| match i {
            2 => weight,
            _ => weight.with_order(order(2 * i as u32 + 1)),
        };
        let ordered: Vec<_> = ordered.into_iter().enumerate().map(in_order).collect();
        let (x, logits) = (random.rows(60, 64), random.rows(60, 6));
        let others = random.rows(60, 6);
        let host = cx(Isa::Portable, 1);
        let world = World::new();
        for (what, down) in [("alike", &down), ("mixed", &mixed), ("ordered", &ordered)] {
            world.cx.multiply_by(None);
            let weights = (&gate_up[..], &down[..]);
            let before = world.device.count("cuMemcpyDtoH");
            let one = layer(&world.cx, (&x, &logits), weights, Then::Add);
            let reads = world.device.count("cuMemcpyDtoH") - before;
            assert_eq!(reads, 0, "{format:?} {what}");
            // The processor's factors are rounded to other steps.
            let exact = format == Format::F32 && what != "mixed";
            let bound = if exact { 1e-6 } else { 3e-2 };
            let right = layer(&host, (&x, &logits), weights, Then::Add);
            let off = apart(&one, &right);
            assert!(off <= bound, "{format:?} {what}: {off:e}");
            // The control: other picks are far away.
            let other = layer(&host, (&x, &others), weights, Then::Add);
            assert!(apart(&other, &right) > 0.3, "{format:?} {what}");
            let run = |cx: &Cx| layer(cx, (&x, &logits), weights, Then::Store);
            let whole = world.in_all_orders(run);
            for (added, stored) in one.as_slice().iter().zip(whole.as_slice()) {
                assert!((added - 1.0 - stored).abs() <= 1e-5 * (1.0 + added.abs()));
            }
            if what != "mixed" {
                for t in [0, 31, 59] {
                    let row = |from: &Rows| Rows::from_vec(from.width(), from.row(t).to_vec());
                    world.cx.multiply_by(Some(Way::Tiled));
                    let tiled = layer(&world.cx, (&x, &logits), weights, Then::Store);
                    let alone = layer(&world.cx, (&row(&x), &row(&logits)), weights, Then::Store);
                    assert_bits(&format!("{format:?}"), alone.as_slice(), tiled.row(t));
                }
            }
            world.good();
        }
    }
}

/// What was picked by another context is an error, and a step that failed can still be asked what it picked.
#[test]
fn picks_of_another_context_are_refused() {
    let (world, host) = (World::new(), cx(Isa::Portable, 1));
    let x = Random::new(1).rows(4, 8);
    let routing = routed(&host, &x, 2);
    spread(&world.cx, &x, &routing, &mut Rows::new());
    let error = world.cx.check().expect_err("refused").to_string();
    assert!(error.contains("another context"), "{error}");
    world.device.set("fail_launch", 1);
    let routing = routed(&world.cx, &x, 2);
    assert_eq!(routing.of(3).0.len(), 2);
    assert!(world.cx.check().is_err());
}
