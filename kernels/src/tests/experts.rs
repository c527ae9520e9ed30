//! Layers of experts: picking, and the products of many experts in one region.

use super::*;
use crate::{Routing, Then, combine, linear_by_expert, reference, route, spread};

/// Tokens, experts, experts of a token.
const PICKS: [(usize, usize, usize); 6] = [
    (1, 1, 1),
    (3, 4, 2),
    (7, 8, 8),
    (40, 17, 3),
    (300, 128, 8),
    (2, 60, 6),
];

fn routed(cx: &Cx, logits: &Rows, top_k: usize, renormalise: bool) -> Routing {
    let mut routing = Routing::default();
    route(cx, &mut logits.clone(), top_k, renormalise, &mut routing);
    routing
}

#[test]
fn picks_agree_with_the_naive_body() {
    for isa in isas() {
        for (tokens, experts, top_k) in PICKS {
            let logits = Random::new((tokens + experts) as u64).rows(tokens, experts);
            for renormalise in [false, true] {
                let routing = routed(&cx(isa, 3), &logits, top_k, renormalise);
                assert_eq!(routing.tokens(), tokens);
                for t in 0..tokens {
                    let what = format!("{isa:?} {tokens} {experts} {top_k} token {t}");
                    let (chosen, weights) = routing.of(t);
                    let naive = reference::route(logits.row(t), top_k, renormalise);
                    let (places, values): (Vec<_>, Vec<_>) =
                        naive.iter().map(|(e, w)| (*e as u32, *w as f32)).unzip();
                    assert_eq!(chosen, places, "{what}");
                    assert_close(&what, weights, &values, 1e-6);
                    let alone = Rows::from_vec(experts, logits.row(t).to_vec());
                    let alone = routed(&cx(isa, 1), &alone, top_k, renormalise);
                    assert_eq!(alone.of(0).0, chosen, "{what} alone");
                    assert_bits(&what, alone.of(0).1, weights);
                }
            }
        }
    }
}

#[test]
fn of_equal_experts_the_lower_numbers_are_picked() {
    for isa in isas() {
        let logits = Rows::from_vec(5, vec![1.0, 2.0, 2.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let routing = routed(&cx(isa, 1), &logits, 4, true);
        assert_eq!(routing.of(0).0, [1, 2, 4, 0]);
        assert_eq!(routing.of(1).0, [0, 1, 2, 3]);
        assert_bits("equal weights", routing.of(1).1, &[0.25; 4]);
    }
}

#[test]
#[should_panic(expected = "3 of 2 experts")]
fn more_experts_than_there_are_cannot_be_picked() {
    let logits = Rows::from_vec(2, vec![0.0; 4]);
    routed(&cx(Isa::Portable, 1), &logits, 3, true);
}

/// A layer of random experts.
struct Layer {
    top_k: usize,
    gate_up: Vec<PackedWeight>,
    down: Vec<PackedWeight>,
}

impl Layer {
    fn new(random: &mut Random, format: Format, (experts, top_k): (usize, usize)) -> Self {
        // An inner width of whole pairs of tiles, or (plain formats) of no whole pair.
        let (hidden, inner) = match format.block_len() {
            1 => (40, 24),
            block => (block, block.max(32)),
        };
        let mut all = |rows, cols| {
            (0..experts)
                .map(|_| random.weight(rows, cols, format))
                .collect()
        };
        Self {
            top_k,
            gate_up: all(2 * inner, hidden),
            down: all(hidden, inner),
        }
    }

    /// Adds the layer of `x` to rows of ones.
    fn run(&self, cx: &Cx, x: &Rows, logits: &Rows) -> Rows {
        let routing = routed(cx, logits, self.top_k, true);
        let [mut spread_x, mut inner, mut answers] = std::array::from_fn(|_| Rows::new());
        spread(cx, x, &routing, &mut spread_x);
        let (gate_up, down) = (&self.gate_up, &self.down);
        linear_by_expert(cx, &spread_x, &routing, gate_up, Then::SiluMul, &mut inner);
        linear_by_expert(cx, &inner, &routing, down, Then::Store, &mut answers);
        let mut out = Rows::from_vec(x.width(), vec![1.0; x.as_slice().len()]);
        combine(cx, &answers, &routing, Then::Add, &mut out);
        out
    }

    /// As [`Layer::run`], naively.
    fn naive(&self, x: &Rows, logits: &Rows) -> Rows {
        let mut out = Rows::from_vec(x.width(), vec![1.0; x.as_slice().len()]);
        let pick = (self.top_k, true);
        reference::experts((x, logits), pick, &self.gate_up, &self.down, &mut out);
        out
    }
}

#[test]
fn layers_agree_with_the_naive_body() {
    for isa in isas() {
        // Wider blocks have larger inner values, and steps that no bound tells from a mistake.
        for format in Format::ALL.into_iter().filter(|f| f.block_len() < 256) {
            for (tokens, experts, top_k) in [(1, 4, 2), (2, 3, 3), (60, 5, 2)] {
                let mut random = Random::new((tokens * experts) as u64);
                let layer = Layer::new(&mut random, format, (experts, top_k));
                let x = random.rows(tokens, layer.down[0].rows());
                let logits = random.rows(tokens, experts);
                let got = layer.run(&cx(isa, 3), &x, &logits);
                let what = format!("{isa:?} {format:?} {tokens} {experts} {top_k}");
                // The inner activations are rounded again: a value at the edge of two steps may fall either way.
                let bound = match format {
                    Format::F32 | Format::F16 => 1e-4,
                    _ => 2e-2,
                };
                let expected = layer.naive(&x, &logits);
                assert_close(&what, got.as_slice(), expected.as_slice(), bound);
                // The control: other picks are far away.
                let other = random.rows(tokens, experts);
                let other = layer.naive(&x, &other);
                let off = other.as_slice().iter().zip(expected.as_slice());
                let off = off.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(top_k == experts || off > 5.0 * bound, "{what}: {off}");
            }
        }
    }
}

#[test]
fn a_token_has_the_same_bits_in_any_company() {
    for isa in isas() {
        for format in super::linear::all() {
            let mut random = Random::new(8);
            let layer = Layer::new(&mut random, format, (6, 2));
            let (x, mut logits) = (random.rows(90, layer.down[0].rows()), random.rows(90, 6));
            // The last tokens are all for one expert, which then has many rows, and another has none.
            for t in 40..90 {
                logits.row_mut(t)[3] += 30.0;
                logits.row_mut(t)[5] -= 60.0;
            }
            let all = layer.run(&cx(isa, 1), &x, &logits);
            let threads = layer.run(&cx(isa, 4), &x, &logits);
            assert_bits("4 threads", threads.as_slice(), all.as_slice());
            for some in [0..1, 89..90, 3..20, 30..90] {
                let take = |from: &Rows| {
                    let rows: Vec<f32> = some.clone().flat_map(|t| from.row(t).to_vec()).collect();
                    Rows::from_vec(from.width(), rows)
                };
                let got = layer.run(&cx(isa, 2), &take(&x), &take(&logits));
                for (i, t) in some.clone().enumerate() {
                    let what = format!("{isa:?} {format:?} token {t}");
                    assert_bits(&what, got.row(i), all.row(t));
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_token() {
    for isa in isas() {
        let mut random = Random::new(2);
        let layer = Layer::new(&mut random, Format::F32, (6, 2));
        let (x, clean) = (random.rows(5, layer.down[0].rows()), random.rows(5, 6));
        let expected = layer.run(&cx(isa, 2), &x, &clean);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut logits = clean.clone();
            logits.row_mut(2).fill(bad);
            assert_eq!(routed(&cx(isa, 1), &logits, 2, true).of(2).0, [0, 1]);
            let got = layer.run(&cx(isa, 2), &x, &logits);
            for t in [0, 1, 3, 4] {
                assert_bits("a clean token", got.row(t), expected.row(t));
            }
            assert!(got.row(2).iter().all(|v| v.is_nan()), "{isa:?} {bad}");
        }
    }
}

#[test]
fn nothing_in_is_nothing_out() {
    let layer = Layer::new(&mut Random::new(1), Format::F32, (3, 2));
    let (mut x, mut logits) = (Rows::new(), Rows::new());
    x.reset(0, 40);
    logits.reset(0, 3);
    let out = {
        let cx = cx(Isa::Portable, 1);
        let routing = routed(&cx, &logits, 2, true);
        let mut spread_x = Rows::new();
        spread(&cx, &x, &routing, &mut spread_x);
        let mut out = Rows::new();
        linear_by_expert(
            &cx,
            &spread_x,
            &routing,
            &layer.gate_up,
            Then::Store,
            &mut out,
        );
        out
    };
    assert_eq!((out.rows(), out.width()), (0, 48));
}
