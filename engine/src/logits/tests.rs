//! Edits by hand, and their order.

use super::*;
use crate::sampler::{Noise, Sampler};
use crate::testing::{greedy, request};

/// The row after the edits that `params` asks for, with this prompt and output; and the logits before, of the tally's tokens.
fn edited(
    row: &[f32],
    params: &SamplingParams,
    (prompt, output): (&[u32], &[u32]),
) -> (Vec<f32>, Vec<f32>) {
    let mut request = request(0, prompt, params.clone());
    for &id in output {
        request.push(id);
    }
    let (mut row, mut before) = (row.to_vec(), vec![9.0]);
    let known = (&request.tally, request.outputs());
    edit(&mut row, (params, &[3]), known, &mut before);
    (row, before)
}

const GONE: f32 = f32::NEG_INFINITY;

#[test]
fn penalties_by_hand() {
    let penalties = |presence, frequency, repetition| SamplingParams {
        penalties: Penalties {
            frequency,
            presence,
            repetition,
        },
        ..greedy(9)
    };
    let row = [4.0, -4.0, 8.0, -8.0, 1.0, 0.0];
    // Token 0 is in the prompt, 1 twice in the output, 2 in both.
    let tokens: (&[u32], &[u32]) = (&[0, 2, 0], &[1, 2, 1]);
    for (params, expected) in [
        (penalties(0.0, 0.0, 1.0), row),
        (penalties(0.5, 0.0, 1.0), [4.0, -4.5, 7.5, -8.0, 1.0, 0.0]),
        (penalties(0.0, 0.25, 1.0), [4.0, -4.5, 7.75, -8.0, 1.0, 0.0]),
        (penalties(0.0, 0.0, 2.0), [2.0, -8.0, 4.0, -8.0, 1.0, 0.0]),
        (penalties(-1.0, 2.0, 0.5), [8.0, -5.0, 15.0, -8.0, 1.0, 0.0]),
    ] {
        assert_eq!(edited(&row, &params, tokens).0, expected);
    }
    // The first penalty alone on a token that is in no output.
    let (row, before) = edited(&row, &penalties(1.0, 1.0, 4.0), (&[5, 0], &[]));
    assert_eq!(row, [1.0, -4.0, 8.0, -8.0, 1.0, 0.0]);
    assert_eq!(before, [4.0, 0.0], "of 0 and 5");
}

/// Bias first, then repetition, then the others: any other order gives other numbers.
#[test]
fn the_order_of_edits() {
    let params = SamplingParams {
        penalties: Penalties {
            frequency: 1.0,
            presence: 0.5,
            repetition: 2.0,
        },
        bias: vec![(1, 3.0), (2, -100.0), (4, 0.25)],
        ..greedy(9)
    };
    let (row, before) = edited(&[0.0, -1.0, 1.0, 3.0, 5.0], &params, (&[2], &[1, 1]));
    // (-1 + 3) / 2 - 2 * 1 - 0.5, (1 - 100) * 2, 5 + 0.25.
    assert_eq!(row, [0.0, -1.5, -198.0, 3.0, 5.25]);
    assert_eq!(before, [-1.0, 1.0, 5.0], "as the model gave them");
}

#[test]
fn a_mask_leaves_what_it_names_and_nothing_brings_the_others_back() {
    let ids = [0, 31, 32, 69];
    let params = SamplingParams {
        allowed: Some(TokenMask::of(&ids, 70)),
        bias: vec![(5, 100.0), (32, 1.0)],
        ..greedy(9)
    };
    // One token more than the mask knows.
    let (row, _) = edited(&[1.0; 71], &params, (&[1], &[]));
    let left: Vec<usize> = (0..71).filter(|&i| row[i] > GONE).collect();
    assert_eq!(left, ids.map(|id| id as usize));
    assert_eq!((row[0], row[32]), (1.0, 2.0));
}

#[test]
fn masks_take_away_what_would_stop_too_early() {
    let params = SamplingParams {
        min_tokens: 2,
        stop_token_ids: vec![1, 99],
        ..greedy(9)
    };
    let gone = |params: &SamplingParams, output: &[u32]| {
        let (row, _) = edited(&[1.0; 4], params, (&[0], output));
        row.iter().map(|x| *x == GONE).collect::<Vec<_>>()
    };
    assert_eq!(gone(&params, &[2]), [false, true, false, true]);
    assert_eq!(gone(&params, &[2, 2]), [false; 4]);
    let ignoring = SamplingParams {
        ignore_eos: true,
        ..params
    };
    assert_eq!(gone(&ignoring, &[2]), [false, true, false, false]);
    // Masked tokens are not drawn, at any temperature.
    let row = [GONE, 0.0, GONE, 0.0];
    for position in 0..200 {
        let noise = Noise {
            seed: 42,
            child: 0,
            position,
        };
        for (top_k, top_p) in [(0, 1.0), (4, 0.9)] {
            let params = SamplingParams {
                temperature: 2.0,
                top_k,
                top_p,
                ..greedy(1)
            };
            assert_eq!(Sampler::default().sample(&row, &params, noise) % 2, 1);
        }
    }
}

/// A factor below 1 on a huge logit stays a number; what is gone stays gone.
#[test]
fn no_edit_makes_infinities_or_tokens() {
    let params = SamplingParams {
        penalties: Penalties {
            repetition: 0.01,
            ..Penalties::NONE
        },
        ..greedy(9)
    };
    let (row, _) = edited(&[f32::MAX, GONE, 1.0], &params, (&[0, 1, 2], &[]));
    assert_eq!(row, [f32::MAX, GONE, 100.0]);
}

/// Counts are kept for penalties alone, and once for each token however it comes.
#[test]
fn tallies_hold_each_token_once() {
    let params = SamplingParams {
        penalties: Penalties {
            repetition: 1.5,
            ..Penalties::NONE
        },
        bias: vec![(3, 1.0), (8, 2.0)],
        ..greedy(9)
    };
    let mut request = request(0, &[8, 2, 2, 5], params.clone());
    for id in [7, 2, 7, 0] {
        request.push(id);
    }
    let seen: Vec<_> = request
        .tally
        .changes()
        .iter()
        .map(|c| (c.id, c.bias, c.seen, c.count))
        .collect();
    let expected = [
        (0, 0.0, true, 1),
        (2, 0.0, true, 1),
        (3, 1.0, false, 0),
        (5, 0.0, true, 0),
        (7, 0.0, true, 2),
        (8, 2.0, true, 0),
    ];
    assert_eq!(seen, expected);
    assert_eq!(request.forked(1).tally, request.tally);
    let plain = SamplingParams {
        penalties: Penalties::NONE,
        ..params
    };
    let mut request = crate::testing::request(0, &[8, 2], plain);
    request.push(7);
    assert_eq!(request.tally.changes().len(), 2, "biases alone");
}
