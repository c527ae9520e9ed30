//! What is measured beside the steps themselves.

use super::FormatRate;
use crate::sampler::{Noise, Sampler};
use crate::tally::Tally;
use crate::{SamplingOptions, SamplingParams, logits};
use koma_models::kernels::Op;
use std::time::Instant;

/// How often a row is sampled.
const TURNS: usize = 41;

/// The most that products of each format reached among the operations `timed`.
pub(super) fn formats(timed: &[(Op, f64)]) -> Vec<FormatRate> {
    let mut all: Vec<FormatRate> = Vec::new();
    for (op, seconds) in timed {
        let Op::Product { format, .. } = *op else {
            continue;
        };
        let (bytes, operations) = (op.bytes() / seconds, op.operations() / seconds);
        match all.iter_mut().find(|rate| rate.format == format) {
            Some(rate) => {
                rate.bytes = rate.bytes.max(bytes);
                rate.operations = rate.operations.max(operations);
            }
            None => all.push(FormatRate {
                format,
                bytes,
                operations,
            }),
        }
    }
    all
}

/// Seconds that a row of `vocab` logits takes to become a token.
pub(super) fn sampling(vocab: usize) -> f64 {
    let options = SamplingOptions {
        temperature: Some(0.0),
        ignore_eos: true,
        ..SamplingOptions::default()
    };
    let Ok(params) = SamplingParams::new(&options, vocab) else {
        return 0.0;
    };
    let noise = Noise {
        seed: 0,
        child: 0,
        position: 0,
    };
    let mut row: Vec<f32> = (0..vocab).map(|i| (i % 101) as f32).collect();
    let (mut sampler, tally) = (Sampler::default(), Tally::default());
    let mut times = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let begun = Instant::now();
        if logits::is_finite(&row) {
            logits::edit(&mut row, (&params, &[]), (&tally, 0), &mut sampler.before);
            std::hint::black_box(sampler.sample(&row, &params, noise));
        }
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[TURNS / 2]
}
