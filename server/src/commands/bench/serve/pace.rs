//! When requests are due.

use crate::commands::bench::random::Random;
use crate::config::Pace;
use std::time::Duration;

/// Streams of a seed that make arrivals have this bit; those of prompts do not.
const ARRIVALS: u64 = 1 << 63;

/// When each of `requests` is due, since the start; none: as soon as one may be sent. At a rate the gaps between two are
/// exponential (a Poisson process), a pure function of seed and series.
pub(super) fn arrivals(
    pace: Pace,
    requests: usize,
    seed: u64,
    series: u64,
) -> Vec<Option<Duration>> {
    let Pace::Rate(rate) = pace else {
        return vec![None; requests];
    };
    let mut random = Random::new(seed, ARRIVALS | series);
    let mut at = 0.0;
    let due = (0..requests).map(|_| {
        at += random.exponential() / rate;
        Duration::try_from_secs_f64(at).ok().or(Some(Duration::MAX))
    });
    due.collect()
}

/// What the series of `pace` goes by, after `before` others of the same: its prompts and arrivals depend on that and not on
/// what else is measured, so that no two paces share prompts, in this run or in another.
pub(super) fn series(pace: Pace, before: usize) -> u64 {
    let (kind, value) = match pace {
        Pace::Concurrency(n) => (1, n as u64),
        Pace::Rate(rate) => (2, rate.to_bits()),
    };
    let one = Random::new(kind, value).next();
    Random::new(one, before as u64).next()
}

/// For people.
pub(super) fn name(pace: Pace) -> String {
    match pace {
        Pace::Concurrency(n) => format!("{n} at once"),
        Pace::Rate(rate) => format!("{rate} a second"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_a_function_of_the_seed_and_keeps_the_rate() {
        let take = |rate, seed, series| arrivals(Pace::Rate(rate), 20_000, seed, series);
        let due = take(4.0, 1, 1);
        assert_eq!(due, take(4.0, 1, 1));
        assert_ne!(due, take(4.0, 2, 1));
        assert_ne!(due, take(4.0, 1, 2));
        assert!(due.is_sorted());
        let end = due.last().unwrap().unwrap().as_secs_f64();
        assert!((end - 5000.0).abs() < 150.0, "{end}");
        // Memoryless: the part of seconds without a request is exp(-4).
        let mut seconds: Vec<u64> = due.iter().flatten().map(Duration::as_secs).collect();
        seconds.dedup();
        let empty = 1.0 - seconds.len() as f64 / end;
        assert!((empty - (-4.0_f64).exp()).abs() < 0.01, "{empty}");
        // The same moments, twice as fast.
        let fast = take(8.0, 1, 1)[99].unwrap().as_secs_f64();
        assert!((fast * 2.0 - due[99].unwrap().as_secs_f64()).abs() < 1e-6);
    }

    #[test]
    fn series_differ_by_pace_and_by_how_often_it_was_measured() {
        let (two, four) = (Pace::Rate(2.0), Pace::Rate(4.0));
        assert_eq!(series(two, 0), series(two, 0));
        let all = [
            series(two, 0),
            series(two, 1),
            series(four, 0),
            series(Pace::Concurrency(2), 0),
            series(Pace::Concurrency(4), 0),
        ];
        let distinct: std::collections::BTreeSet<_> = all.into();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn at_fixed_concurrency_nothing_is_due() {
        assert_eq!(arrivals(Pace::Concurrency(2), 3, 0, 0), [None; 3]);
    }
}
