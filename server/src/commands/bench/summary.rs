//! [`Summary`]: median and spread of samples.

/// Order statistics of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) min: f64,
    pub(super) p25: f64,
    pub(super) median: f64,
    pub(super) p75: f64,
    pub(super) max: f64,
}

impl Summary {
    /// Of `samples`; none if there are none.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self {
            min,
            p25: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            p75: quantile(&sorted, 0.75),
            max,
        })
    }
}

/// The value below which the part `q` of the samples lies, interpolated linearly between order statistics. `sorted` is not
/// empty.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_between_samples() {
        let check = |samples: &[f64], expected: [f64; 5]| {
            let [min, p25, median, p75, max] = expected;
            let expected = Summary {
                min,
                p25,
                median,
                p75,
                max,
            };
            assert_eq!(Summary::of(samples), Some(expected), "{samples:?}");
        };
        check(&[3.0], [3.0; 5]);
        check(&[2.0, 1.0], [1.0, 1.25, 1.5, 1.75, 2.0]);
        check(&[5.0, 1.0, 4.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(Summary::of(&[]), None);
    }
}
