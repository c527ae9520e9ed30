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

/// Penalties, biases and masks of many kinds, each with the tokens that it has seen.
fn edits(vocab: u32) -> Vec<Request> {
    let mut all = Vec::new();
    for (i, (presence, frequency, repetition)) in [
        (0.0, 0.0, 1.0),
        (1.5, 0.0, 1.0),
        (0.0, -0.7, 1.0),
        (0.0, 0.0, 1.3),
        (0.4, 0.3, 0.8),
    ]
    .into_iter()
    .enumerate()
    {
        for masked in [false, true] {
            let i = i as u32;
            let ids = (0..vocab).filter(|id| id % 3 == i % 3 || *id == 0);
            let params = SamplingParams {
                penalties: logits::Penalties {
                    frequency,
                    presence,
                    repetition,
                },
                bias: (0..vocab.min(40))
                    .map(|id| (id, id as f32 / 7.0 - 3.0))
                    .collect(),
                allowed: masked
                    .then(|| logits::TokenMask::of(&ids.collect::<Vec<_>>(), vocab as usize)),
                min_tokens: 100,
                stop_token_ids: vec![1, 7],
                logprobs: Some(2),
                ..greedy(1)
            };
            let token = |k: u32| (k * k * 31 + i) % vocab;
            let prompt: Vec<u32> = (0..50).map(token).collect();
            let mut request = crate::testing::request(0, &prompt, params);
            (30..70).for_each(|k| request.push(token(k)));
            all.push(request);
        }
    }
    all
}

/// Rows of different edits side by side: the same tokens, and the same log-probabilities, as the processor's of each alone.
#[test]
fn a_device_edits_as_the_processor_does() {
    let world = World::new();
    let (mut chooser, mut sampler) = (Chooser::default(), Sampler::default());
    let mut changed = 0;
    for vocab in [37, 1030, 3001] {
        let requests = edits(vocab as u32);
        let rows: Vec<f32> = (0..requests.len() as u64)
            .flat_map(|seed| row(vocab, seed))
            .collect();
        world.device.set("seed", vocab as i64);
        for case in cases() {
            chooser.clear();
            for request in &requests {
                let Work::Generate(params) = &request.work else {
                    continue;
                };
                let params = SamplingParams {
                    temperature: case.temperature,
                    top_k: case.top_k,
                    top_p: case.top_p,
                    min_p: case.min_p,
                    ..SamplingParams::clone(params)
                };
                ask(&mut chooser, request, (&params, &[3]), 1);
            }
            let mut logits = Rows::from_vec(vocab, rows.clone());
            chooser.ask(&world.cx, &mut logits).expect("it is asked");
            chooser.wait(&world.cx).expect("it chooses");
            for (r, request) in requests.iter().enumerate() {
                let Work::Generate(params) = &request.work else {
                    continue;
                };
                let plain = &rows[r * vocab..(r + 1) * vocab];
                let mut edited = plain.to_vec();
                let known = (&request.tally, request.outputs());
                logits::edit(&mut edited, (params, &[3]), known, &mut sampler.before);
                let noise = super::noise(request, params, 0);
                let id = sampler.sample(&edited, &case, noise);
                changed += usize::from(id != sampler.sample(plain, &case, noise));
                if let Some(got) = chooser.chosen(r) {
                    let right = (id, plain[id as usize]);
                    assert_eq!(got, right, "{vocab} {r} {case:?}");
                } else {
                    let there = logits.row(r).iter().map(|x| x.to_bits());
                    assert!(there.eq(edited.iter().map(|x| x.to_bits())), "{vocab} {r}");
                    let before = chooser.before(r, id).unwrap_or(edited[id as usize]);
                    assert_eq!(before, plain[id as usize], "{vocab} {r} {case:?}");
                }
            }
        }
    }
    // The control: edits decide.
    assert!(changed > 150, "{changed} tokens are others");
}

/// Where edits leave nothing, both say so.
#[test]
fn a_device_finds_no_token_where_none_is_left() {
    let world = World::new();
    for seed in SEEDS {
        world.device.set("seed", seed);
        let params = SamplingParams {
            allowed: Some(logits::TokenMask::of(&[5], 100)),
            min_tokens: 3,
            stop_token_ids: vec![5],
            temperature: 1.0,
            ..greedy(1)
        };
        let request = crate::testing::request(0, &[1, 2], params.clone());
        let mut chooser = Chooser::default();
        ask(&mut chooser, &request, (&params, &[]), 1);
        chooser.row(None);
        chooser.choose(choice(&params, noise(0)));
        let rows = [row(100, 1), row(100, 2)].concat();
        let mut logits = Rows::from_vec(100, rows.clone());
        chooser.ask(&world.cx, &mut logits).expect("it is asked");
        chooser.wait(&world.cx).expect("it chooses");
        let (id, logit) = chooser.chosen(0).expect("an answer");
        let failed = Row::Failed(RequestError::NothingAllowed);
        assert_eq!(token(id, (logit, logit), None), failed);
        assert!(
            chooser
                .chosen(1)
                .is_some_and(|(_, logit)| logit.is_finite())
        );
        let (mut sampler, mut row, mut out) =
            (Sampler::default(), rows[..100].to_vec(), [failed.clone()]);
        out[0] = Row::Failed(RequestError::NotFinite);
        super::super::logits_to_tokens(&mut row, &request, (&params, &[]), &mut sampler, &mut out);
        assert_eq!(out[0], failed);
    }
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
