//! [`Times`]: samples of one time, with mean and percentiles, as JSON and as a line of a table.

use super::summary::quantile;
use serde_json::{Map, Value, json};

/// All samples of one kind of time, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Times {
    /// In the JSON.
    pub(super) key: &'static str,
    /// In the table.
    pub(super) title: &'static str,
    pub(super) seconds: Vec<f64>,
}

/// Mean, median and tail of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tail {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Tail {
    /// Of `samples`; none if there are none. Percentiles as in [`quantile`].
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let max = *sorted.last()?;
        Some(Self {
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            p50: quantile(&sorted, 0.5),
            p95: quantile(&sorted, 0.95),
            p99: quantile(&sorted, 0.99),
            max,
        })
    }
}

/// Each with all its samples, by key. What has no samples is left out.
pub(super) fn json(all: &[Times]) -> Value {
    let one = |times: &Times| {
        let Tail {
            mean,
            p50,
            p95,
            p99,
            max,
        } = Tail::of(&times.seconds)?;
        let value = json!({
            "mean": mean, "p50": p50, "p95": p95, "p99": p99, "max": max, "samples": times.seconds,
        });
        Some((times.key.to_owned(), value))
    };
    Value::Object(all.iter().filter_map(one).collect::<Map<_, _>>())
}

/// A table in ms. What has no samples is left out; without any there is no table.
pub(super) fn table(all: &[Times]) -> String {
    if all.iter().all(|times| times.seconds.is_empty()) {
        return String::new();
    }
    let row = |title: &str, cells: [String; 5]| {
        let cells = cells.map(|cell| format!("{cell:>11}")).concat();
        format!("  {title:<24}{cells}\n")
    };
    let mut text = row(
        "ms",
        ["mean", "p50", "p95", "p99", "max"].map(str::to_owned),
    );
    for times in all {
        if let Some(t) = Tail::of(&times.seconds) {
            let cells = [t.mean, t.p50, t.p95, t.p99, t.max];
            text += &row(times.title, cells.map(|s| format!("{:.2}", s * 1e3)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_known_samples() {
        // 0 to 100: a percentile is its own number.
        let samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let tail = Tail::of(&samples).unwrap();
        let found = [tail.mean, tail.p50, tail.p95, tail.p99, tail.max];
        assert_eq!(found, [50.0, 50.0, 95.0, 99.0, 100.0]);
        let tail = Tail::of(&[1.0, 2.0]).unwrap();
        assert_eq!((tail.mean, tail.p50), (1.5, 1.5));
        assert!((tail.p99 - 1.99).abs() < 1e-12);
        assert_eq!(Tail::of(&[]), None);
    }

    #[test]
    fn what_has_no_samples_is_left_out() {
        let times = |key, seconds| Times {
            key,
            title: key,
            seconds,
        };
        let all = [times("a", vec![0.25, 0.75]), times("b", vec![])];
        let found = json(&all);
        assert_eq!(found["a"]["p50"], 0.5);
        assert_eq!(found["a"]["samples"], json!([0.25, 0.75]));
        assert_eq!(found.get("b"), None);
        let line =
            "  a                            500.00     500.00     725.00     745.00     750.00";
        assert_eq!(table(&all).lines().nth(1), Some(line));
        assert_eq!(table(&all).lines().count(), 2);
        assert_eq!(table(&all[1..]), "");
    }
}
