//! The device's choices are the processor's, whatever the order of its threads.

use super::*;
use crate::testing::greedy;
use koma_models::kernels::cuda::{Gpu, stand_in::Device};
use koma_models::kernels::{Class, Cx, Isa, Rows, Team};
use std::sync::Arc;

/// The order in which threads are numbered, and five others.
const SEEDS: [i64; 6] = [-1, 1, 2, 3, 4, 5];
/// A row of one value, less than one part, whole parts, and more than can be put in order.
const VOCABS: [usize; 5] = [1, 37, 512, 1030, 3001];

struct World {
    device: Device,
    cx: Cx,
}

impl World {
    fn new() -> Self {
        let device = Device::new();
        let gpu = Gpu::open(device.number(), 0.9).expect("a device of the stand-in");
        let cx = Cx::new(Arc::new(Team::new(1)), Class::Throughput, Isa::detect());
        let cx = cx.on(&gpu).expect("a stream");
        Self { device, cx }
    }
}

fn noise(position: usize) -> Noise {
    Noise {
        seed: 42,
        child: 3,
        position: position as u64,
    }
}

/// Logits from -8 to 8, in steps that some share.
fn row(vocab: usize, seed: u64) -> Vec<f32> {
    let value = |i| {
        let noise = Noise {
            seed,
            child: 9,
            position: i as u64,
        };
        (noise.uniform() as f32 * 4096.0).round() / 256.0 - 8.0
    };
    (0..vocab).map(value).collect()
}

fn cases() -> Vec<SamplingParams> {
    let mut cases = Vec::new();
    for (temperature, top_k, top_p, min_p) in [
        (0.0, 0, 1.0, 0.0),
        (0.0, 5, 0.5, 0.0),
        (1.0, 0, 1.0, 0.0),
        (0.7, 0, 1.0, 0.05),
        (1.3, 1, 1.0, 0.0),
        (1.3, 50, 1.0, 0.0),
        (2.0, 50, 0.8, 0.0),
        (0.9, 1024, 0.99, 0.001),
        (0.4, 0, 0.9, 0.0),
        (1.0, 7, 0.9, 0.2),
        // More than a device puts in order.
        (2.0, 0, 0.999, 0.0),
        (2.0, 2000, 0.9, 0.0),
    ] {
        cases.push(SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            ..greedy(1)
        });
    }
    cases
}

#[test]
fn a_device_chooses_what_the_processor_chooses() {
    let world = World::new();
    let mut chooser = Chooser::default();
    let (mut sampler, mut left) = (Sampler::default(), 0);
    for vocab in VOCABS {
        let rows: Vec<f32> = (0..4).flat_map(|seed| row(vocab, seed)).collect();
        for seed in SEEDS {
            world.device.set("seed", seed);
            let mut logits = Rows::from_vec(vocab, rows.clone());
            chooser.clear();
            for r in 0..4 {
                chooser.row((r % 2 == 0).then_some(3 * r));
                for (i, params) in cases().iter().enumerate() {
                    chooser.choose(choice(params, noise(i + r)));
                }
            }
            chooser.ask(&world.cx, &mut logits).expect("it is asked");
            chooser.wait(&world.cx).expect("it chooses");
            for r in 0..4 {
                let row = &rows[r * vocab..(r + 1) * vocab];
                assert!(chooser.is_finite(r));
                if r % 2 == 0 {
                    let (log_sum, top) = chooser.logprobs(r);
                    let (got, expected) =
                        (RawLogprobs::new(log_sum, top), sampler.logprobs(row, 3 * r));
                    assert_eq!(got.of(1.0).to_bits(), expected.of(1.0).to_bits());
                    assert_eq!(got.top, expected.top, "{vocab} {seed}");
                }
                for (i, params) in cases().iter().enumerate() {
                    let expected = sampler.sample(row, params, noise(i + r));
                    match chooser.chosen(r * cases().len() + i) {
                        Some(got) => {
                            let right = (expected, row[expected as usize]);
                            assert_eq!(got, right, "{vocab} {seed} {params:?}");
                        }
                        None => left += 1,
                    }
                }
            }
            assert_eq!(chooser.leaves_some(), vocab > 2000, "{vocab}");
        }
    }
    // Two cases of the longest rows, four rows, six orders.
    assert_eq!(left, 2 * 4 * 6, "the processor's");
}

/// The control: another noise gives other tokens.
#[test]
fn the_noise_decides() {
    let world = World::new();
    let mut chooser = Chooser::default();
    let mut logits = Rows::from_vec(3001, row(3001, 5));
    chooser.row(None);
    let params = &cases()[2];
    for i in 0..20 {
        chooser.choose(choice(params, noise(i)));
    }
    chooser.ask(&world.cx, &mut logits).expect("it is asked");
    chooser.wait(&world.cx).expect("it chooses");
    let ids: std::collections::HashSet<u32> =
        (0..20).filter_map(|i| Some(chooser.chosen(i)?.0)).collect();
    assert!(ids.len() > 15, "{ids:?}");
    assert_eq!(world.device.count("cuMemcpyDtoH"), 1, "only answers");
}

#[test]
fn tokens_are_taken_away_after_their_row_was_looked_at_and_bad_rows_are_told() {
    let world = World::new();
    for seed in SEEDS {
        world.device.set("seed", seed);
        let mut rows = row(100, 1);
        (rows[7], rows[8]) = (20.0, 20.0);
        rows.extend(row(100, 2));
        rows[150] = f32::NAN;
        rows.extend([f32::NEG_INFINITY; 99]);
        rows.push(1.0);
        let mut logits = Rows::from_vec(100, rows);
        let mut chooser = Chooser::default();
        chooser.row(Some(2));
        chooser.take_away(7);
        chooser.choose(choice(&greedy(1), noise(0)));
        chooser.row(None);
        chooser.choose(choice(&cases()[3], noise(0)));
        chooser.row(None);
        chooser.choose(choice(&cases()[3], noise(0)));
        chooser.ask(&world.cx, &mut logits).expect("it is asked");
        chooser.wait(&world.cx).expect("it chooses");
        assert_eq!(chooser.chosen(0), Some((8, 20.0)));
        let top: Vec<_> = chooser.logprobs(0).1.collect();
        assert_eq!(top, [(7, 20.0), (8, 20.0)], "as the model gave it");
        assert!(chooser.is_finite(0) && !chooser.is_finite(1) && !chooser.is_finite(2));
        assert_eq!(chooser.chosen(1), None);
    }
}
