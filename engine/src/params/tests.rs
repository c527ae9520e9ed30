//! Every field at its edges and far beyond them.

use super::{SamplingOptions, SamplingParams};

const VOCAB: usize = 100;

fn new(
    change: impl FnOnce(&mut SamplingOptions),
) -> Result<SamplingParams, (&'static str, String)> {
    let mut options = SamplingOptions::default();
    change(&mut options);
    SamplingParams::new(&options, VOCAB).map_err(|e| (e.field, e.message))
}

/// `change` with each of `good` is taken, with each of `bad` refused in the name of `field`.
fn check<T: Clone + std::fmt::Debug>(
    field: &str,
    change: impl Fn(&mut SamplingOptions, T),
    good: &[T],
    bad: &[T],
) {
    for value in good {
        let result = new(|o| change(o, value.clone()));
        assert!(result.is_ok(), "{field} = {value:?}: {result:?}");
    }
    for value in bad {
        let error = new(|o| change(o, value.clone())).unwrap_err();
        assert_eq!(error.0, field, "{value:?}: {}", error.1);
        assert!(!error.1.is_empty());
    }
}

const FAR: [i64; 5] = [i64::MIN, -2, 1 << 31, i64::MAX - 1, i64::MAX];
const ODD: [f64; 8] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    1e308,
    -1e308,
    -0.001,
    2.001,
    1e19,
];

#[test]
fn integers_have_their_ranges() {
    let with = |more: &[i64]| [&FAR[..], more].concat();
    check("n", |o, v| o.n = Some(v), &[1, 128], &with(&[0, -1, 129]));
    check(
        "max_tokens",
        |o, v| o.max_tokens = Some(v),
        &[1, 1 << 30],
        &with(&[0, -1]),
    );
    check(
        "min_tokens",
        |o, v| o.min_tokens = Some(v),
        &[0, 1, 1 << 30],
        &with(&[-1]),
    );
    check(
        "top_k",
        |o, v| o.top_k = Some(v),
        &[-1, 0, 1, 1 << 30],
        &FAR,
    );
    check(
        "logprobs",
        |o, v| o.logprobs = Some(v),
        &[0, 20],
        &with(&[-1, 21]),
    );
    check("seed", |o, v| o.seed = Some(v), &FAR, &[]);
    let ids = |o: &mut SamplingOptions, v: i64| o.stop_token_ids = vec![5, v];
    check("stop_token_ids", ids, &[0, 99], &with(&[-1, 100, 1 << 32]));
    check(
        "stop_token_ids",
        |o, n| o.stop_token_ids = vec![1; n],
        &[0, 1024],
        &[1025],
    );
}

#[test]
fn numbers_have_their_ranges() {
    check(
        "temperature",
        |o, v| o.temperature = Some(v),
        &[0.0, -0.0, 1.0, 2.0],
        &ODD,
    );
    let odd = [&ODD[..], &[1.001]].concat();
    check("min_p", |o, v| o.min_p = Some(v), &[0.0, 1.0], &odd);
    let odd = [&odd[..], &[0.0, -0.0, 1e-300]].concat();
    check("top_p", |o, v| o.top_p = Some(v), &[1e-6, 1.0], &odd);
}

#[test]
fn penalties_biases_and_masks_have_their_ranges() {
    let odd = [&ODD[..], &[-2.001]].concat();
    let odd: Vec<f64> = odd.into_iter().filter(|v| *v != -0.001).collect();
    let good = [-2.0, -0.5, 0.0, 2.0];
    check(
        "presence_penalty",
        |o, v| o.presence_penalty = Some(v),
        &good,
        &odd,
    );
    check(
        "frequency_penalty",
        |o, v| o.frequency_penalty = Some(v),
        &good,
        &odd,
    );
    check(
        "repetition_penalty",
        |o, v| o.repetition_penalty = Some(v),
        &[0.01, 1.0, 1.3, 100.0],
        &[0.0, -1.0, 0.0099, 100.1, f64::NAN, f64::INFINITY],
    );
    check(
        "logit_bias",
        |o, v| o.logit_bias = v,
        &[vec![], vec![(0, -100.0), (99, 100.0)], vec![(5, 1.0); 300]],
        &[
            vec![(5, 100.5)],
            vec![(5, f64::NAN)],
            vec![(-1, 1.0)],
            vec![(100, 1.0)],
            vec![(1 << 32, 1.0)],
            vec![(5, 1.0); 301],
        ],
    );
    check(
        "allowed_token_ids",
        |o, v| o.allowed_token_ids = Some(v),
        &[vec![0], vec![99, 5, 99], (0..100).collect()],
        &[vec![], vec![100], vec![5, u32::MAX]],
    );
    // Of equal ids the last counts; ids ascend.
    let params = new(|o| o.logit_bias = vec![(7, 1.0), (3, 2.0), (7, -1.0)]).unwrap();
    assert_eq!(params.bias, [(3, 2.0), (7, -1.0)]);
}

#[test]
fn min_tokens_is_not_above_max_tokens() {
    check(
        "min_tokens",
        |o, (min, max)| (o.min_tokens, o.max_tokens) = (Some(min), Some(max)),
        &[(0, 1), (3, 3)],
        &[(4, 3), (2, 1)],
    );
}

#[test]
fn stop_strings_are_few_and_short() {
    let text = |len: usize| "x".repeat(len);
    check(
        "stop",
        |o, v| o.stop = v,
        &[vec![], vec![text(1); 16], vec![text(1024)]],
        &[
            vec![text(1); 17],
            vec![text(1), String::new()],
            vec![text(1025)],
        ],
    );
}

#[test]
fn defaults_and_kept_values() {
    let params = new(|_| {}).unwrap();
    assert_eq!(
        (params.n, params.max_tokens, params.min_tokens),
        (1, None, 0)
    );
    assert_eq!(
        (params.temperature, params.top_k, params.top_p, params.min_p),
        (1.0, 0, 1.0, 0.0)
    );
    assert_eq!((params.ignore_eos, params.logprobs), (false, None));
    assert_eq!(new(|o| o.top_k = Some(-1)).unwrap().top_k, 0);
    assert_eq!(new(|o| o.seed = Some(-1)).unwrap().seed, u64::MAX);
    assert_eq!(
        new(|o| o.stop_token_ids = vec![7]).unwrap().stop_token_ids,
        [7]
    );
}

#[test]
fn a_seed_is_drawn_where_none_is_given() {
    let mut seeds: Vec<_> = (0..32).map(|_| new(|_| {}).unwrap().seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 32);
}
