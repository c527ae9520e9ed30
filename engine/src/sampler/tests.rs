use super::*;
use crate::logits;
use crate::testing::greedy;

fn params(temperature: f32, top_k: usize, top_p: f32, min_p: f32) -> SamplingParams {
    SamplingParams {
        temperature,
        top_k,
        top_p,
        min_p,
        ..greedy(1)
    }
}

fn noise(position: u64) -> Noise {
    Noise {
        seed: 42,
        child: 0,
        position,
    }
}

/// Pseudo-random logits from -4 to 4.
fn row(len: usize) -> Vec<f32> {
    let value = |i| {
        let noise = Noise {
            seed: 1,
            child: 9,
            position: i as u64,
        };
        noise.uniform() as f32 * 8.0 - 4.0
    };
    (0..len).map(value).collect()
}

/// Probabilities as the definition says, in f64, with a full sort.
fn reference(row: &[f32], params: &SamplingParams) -> Vec<f64> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    let best = f64::from(row[order[0]]);
    let weight = |i: usize| ((f64::from(row[i]) - best) / f64::from(params.temperature)).exp();
    if params.top_k > 0 {
        order.truncate(params.top_k);
    }
    let all: f64 = order.iter().map(|&i| weight(i)).sum();
    let mut sum = 0.0;
    let mut kept = Vec::new();
    for &i in &order {
        if sum >= f64::from(params.top_p) * all || weight(i) < f64::from(params.min_p) {
            break;
        }
        sum += weight(i);
        kept.push(i);
    }
    let mut probabilities = vec![0.0; row.len()];
    for i in kept {
        probabilities[i] = weight(i) / sum;
    }
    probabilities
}

/// Draws often and compares with [`reference`]: never what it excludes, the rest about as often as it says.
fn check(row: &[f32], params: &SamplingParams) {
    const DRAWS: usize = 20_000;
    let wanted = reference(row, params);
    let mut sampler = Sampler::default();
    let mut counts = vec![0usize; row.len()];
    for i in 0..DRAWS {
        counts[sampler.sample(row, params, noise(i as u64)) as usize] += 1;
    }
    for (id, (&count, &p)) in counts.iter().zip(&wanted).enumerate() {
        assert!(
            p > 0.0 || count == 0,
            "{params:?} gave {id}, which it excludes"
        );
        // Six standard deviations; the draws are the same on every run.
        let bound = 6.0 * (DRAWS as f64 * p * (1.0 - p)).sqrt() + 1.0;
        let off = (count as f64 - DRAWS as f64 * p).abs();
        assert!(off <= bound, "{params:?} gave {id} {count} times, p = {p}");
    }
}

#[test]
fn draws_follow_the_distribution() {
    let row = row(40);
    for params in [
        params(1.0, 0, 1.0, 0.0),
        params(0.3, 0, 1.0, 0.0),
        params(2.0, 5, 1.0, 0.0),
        params(1.0, 0, 0.6, 0.0),
        params(1.0, 0, 1.0, 0.2),
        params(1.5, 20, 0.7, 0.05),
        params(1.0, 1, 1.0, 0.0),
        params(1.0, 400, 0.01, 1.0),
    ] {
        check(&row, &params);
    }
    // More than one part of the walk, and more candidates than one round selects.
    check(&vec![0.0; 2000], &params(1.0, 0, 1.0, 0.0));
    check(&vec![0.0; 300], &params(1.0, 0, 0.9, 0.0));
}

#[test]
fn the_best_tokens_are_those_of_a_full_sort() {
    let mut sampler = Sampler::default();
    // Few different values, so that there are many ties.
    let row: Vec<f32> = row(5000).iter().map(|x| x.round()).collect();
    let mut order: Vec<u32> = (0..5000).collect();
    order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
    for count in [0, 1, 2, 63, 64, 65, 1000, 4999, 5000, 9000] {
        sampler.select(&row, count);
        let got: Vec<u32> = sampler.best.iter().map(|best| best.1).collect();
        assert_eq!(got, order[..count.min(5000)], "{count} best");
    }
}

#[test]
fn greedy_takes_the_lowest_of_equal_ids() {
    let mut sampler = Sampler::default();
    for (row, id) in [
        (vec![1.0, 3.0, 3.0, 2.0], 1),
        (vec![-1.0; 70], 0),
        ([vec![0.0; 33], vec![5.0; 33]].concat(), 33),
        (vec![f32::MIN, f32::MAX, f32::MAX], 1),
    ] {
        assert_eq!(sampler.sample(&row, &greedy(1), noise(0)), id);
    }
}

#[test]
fn noise_depends_on_seed_child_and_position_only() {
    let row = row(1000);
    let params = params(1.0, 0, 1.0, 0.0);
    let draw = |sampler: &mut Sampler, seed, child, position| {
        let noise = Noise {
            seed,
            child,
            position,
        };
        sampler.sample(&row, &params, noise)
    };
    let mut used = Sampler::default();
    let all: Vec<_> = (0..50).map(|i| draw(&mut used, 1, 0, i)).collect();
    // In any order, by any sampler.
    for i in (0..50).rev() {
        assert_eq!(draw(&mut Sampler::default(), 1, 0, i), all[i as usize]);
    }
    let differs = |other: Vec<u32>| other.iter().zip(&all).filter(|(a, b)| a != b).count() > 40;
    assert!(differs((0..50).map(|i| draw(&mut used, 2, 0, i)).collect()));
    assert!(differs((0..50).map(|i| draw(&mut used, 1, 1, i)).collect()));
}

#[test]
fn log_probabilities_are_of_the_raw_row() {
    let row = row(3000);
    let raw = Sampler::default().logprobs(&row, 3);
    let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
    for &(id, logprob) in &raw.top {
        let wanted = f64::from(row[id as usize]) - sum.ln();
        assert!((f64::from(logprob) - wanted).abs() < 1e-5);
        assert_eq!(raw.of(row[id as usize]), logprob);
    }
    assert!(raw.top.len() == 3 && raw.top[0].1 >= raw.top[1].1);
    assert!(Sampler::default().logprobs(&row, 0).top.is_empty());
}

#[test]
fn only_finite_rows_are_finite() {
    let good = [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE];
    assert!(logits::is_finite(&good));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in 0..20 {
            let mut row = [1.0; 20];
            row[at] = bad;
            assert!(!logits::is_finite(&row), "{bad} at {at}");
        }
    }
}

#[test]
fn exp_is_exact_to_two_units() {
    for i in 0..200_000 {
        let x = -(i as f32) * 87.0 / 200_000.0;
        let (got, wanted) = (f64::from(exp(x)), f64::from(x).exp());
        assert!(
            (got - wanted).abs() <= 2.4e-7 * wanted,
            "exp({x}) = {got}, not {wanted}"
        );
    }
    assert_eq!(
        (exp(0.0), exp(-90.0), exp(f32::NEG_INFINITY)),
        (1.0, 0.0, 0.0)
    );
}

/// Lengths that fill no vector, part or look, equal logits, and a row that only has infinities.
#[test]
fn every_path_chooses_the_same() {
    let mut rows: Vec<Vec<f32>> = [1, 15, 64, 513, 5000].map(row).into();
    rows.push(vec![0.5; 700]);
    rows.push(vec![f32::NEG_INFINITY; 40]);
    let cases = [
        params(0.0, 0, 1.0, 0.0),
        params(1.0, 0, 1.0, 0.0),
        params(1.3, 0, 1.0, 0.05),
        params(0.8, 0, 0.9, 0.0),
        params(0.8, 40, 0.95, 0.0),
    ];
    let mut chosen: Vec<Vec<u32>> = Vec::new();
    for isa in Isa::here() {
        let mut sampler = Sampler::on(isa);
        let all = rows
            .iter()
            .flat_map(|row| cases.iter().map(move |case| (row, case)));
        let ids = all.flat_map(|(row, case)| [0, 1, 2].map(|i| (row, case, i)));
        let ids = ids.map(|(row, case, i)| sampler.sample(row, case, noise(i)));
        chosen.push(ids.collect());
    }
    assert!(chosen.iter().all(|ids| *ids == chosen[0]));
    assert_eq!(chosen[0].len(), rows.len() * cases.len() * 3);
}
